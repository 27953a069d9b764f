"""Where time goes, and what the calibrated cost of both models' passes says about it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean

from dyna_eval.errors import NothingToDrawError
from dyna_eval.measurements import Calibration
from dyna_eval.reports.intervals import Bootstrap
from dyna_eval.reports.report import Row
from dyna_eval.series.measured import Entry, Estimate, Measured
from dyna_eval.series.swept import acceptance_length

PHASES = ("draft", "grow", "verify", "walk", "host")
"""The phases of a round, in their order; `host` is the rest."""
PHASE_NAMES = {
    "draft": "draft passes",
    "grow": "growing the tree",
    "verify": "verification",
    "walk": "acceptance and caches",
    "host": "host, the rest",
}
"""What people call the phases."""

_LENGTHS_PER_TOKEN = 4
_LONGEST = 64  # acceptance lengths that the model's line is drawn over, at most


@dataclass(frozen=True, slots=True, kw_only=True)
class CostPoint:
    """`predicted` is the speedup that the row's own acceptance and tree sizes promise at calibrated costs."""

    entry: Entry
    length: Estimate
    speedup: Estimate
    predicted: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class CostChart:
    points: tuple[CostPoint, ...]
    line: tuple[tuple[float, float], ...]
    """(acceptance length, speedup) if every drafted token of a chain were accepted; empty where unknown."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PhaseBar:
    """Seconds per emitted token. Phases of which nothing is known, or that a method lacks, are not there;
    `unknown` is what no phase accounts for."""

    entry: Entry
    total: Estimate
    phases: tuple[tuple[str, float], ...]
    unknown: float


def cost_chart(measured: Measured, pair: str) -> CostChart:
    """Return measured speedup against acceptance length, with the cost model's line and predictions."""
    points = []
    for row in measured.finished(pair):
        length, known = acceptance_length(measured, row), row.versus_baseline
        if length is None or known is None or row.figures is None:
            continue
        points.append(
            CostPoint(
                entry=Entry.of(row),
                length=length,
                speedup=Estimate(value=known.ratio, interval=row.speedup_interval),
                predicted=row.figures.predicted_speedup,
            )
        )
    if len(points) < 2:
        raise NothingToDrawError("fewer than two rows have both a speedup and an acceptance length")
    longest = max(point.length.value for point in points)
    return CostChart(points=tuple(points), line=_line(_calibrations(measured, pair), longest))


def why_no_point(row: Row) -> str:
    """Say what a row lacks that has figures and no point on the chart."""
    return "speedup unknown" if row.versus_baseline is None else "acceptance length unknown"


def full_acceptance_speedup(calibrations: Sequence[Calibration], length: float) -> float:
    """Return the speedup at an acceptance length L if a chain of L - 1 draft tokens were always accepted.

    L * verify(1) / ((L - 1) * draft(1) + verify(L)): what a rejected token costs comes on top. A pass costs
    what it does on average over the calibrations.
    """
    draft = fmean(one.draft(1) if one.draft_seconds else 0.0 for one in calibrations)
    alone, verify = (fmean(one.verify(nodes) for one in calibrations) for nodes in (1, length))
    return length * alone / ((length - 1) * draft + verify)


def phase_bars(measured: Measured, pair: str) -> tuple[PhaseBar, ...]:
    """Return where each row's decode time goes, per emitted token."""
    bars = tuple(bar for row in measured.finished(pair) if (bar := _bar(measured, row)) is not None)
    if not any(bar.phases for bar in bars):
        raise NothingToDrawError("no row's phases were timed")
    return bars


def why_no_bar(_row: Row) -> str:
    """Say what a row lacks that has figures and no bar."""
    return "phases unknown"


def _bar(measured: Measured, row: Row) -> PhaseBar | None:
    if row.figures is None or row.figures.throughput.pooled is None:
        return None  # an imported row may tell its mean throughput alone
    per_token = 1.0 / row.figures.throughput.pooled
    shares = row.figures.shares
    known = {phase: getattr(shares, phase) for phase in PHASES}
    phases = tuple((phase, share * per_token) for phase, share in known.items() if share is not None)
    unknown = per_token - sum(seconds for _, seconds in phases) if known["host"] is None else 0.0
    interval = measured.interval_of_ratio(
        row, lambda s: s.column("decode_seconds"), lambda s: s.column("tokens")
    )
    bootstrap = Bootstrap(confidence=measured.report.confidence)
    return PhaseBar(
        entry=Entry.of(row),
        total=Estimate(value=per_token, interval=bootstrap.widened(interval, per_token, row.own_noise)),
        phases=phases,
        unknown=max(0.0, unknown),
    )


def _calibrations(measured: Measured, pair: str) -> list[Calibration]:
    """Return the calibrations that a pair's rows ran with, each once; none if in several environments."""
    if measured.record is None:
        return []
    rows = measured.finished(pair)
    environments = {row.environment for row in rows}
    if len(environments) != 1 or None in environments:
        return []
    ran = {job_id for row in rows for job_id in row.job_ids}
    found = dict.fromkeys(job.calibration for job in measured.record.jobs if job.id in ran)
    return [calibration for calibration in found if calibration is not None]


def _line(calibrations: Sequence[Calibration], longest: float) -> tuple[tuple[float, float], ...]:
    if not calibrations:
        return ()
    end = min(longest * 1.1 + 0.5, _LONGEST)
    steps = max(2, round((end - 1.0) * _LENGTHS_PER_TOKEN))
    lengths = [1.0 + (end - 1.0) * step / steps for step in range(steps + 1)]
    return tuple((length, full_acceptance_speedup(calibrations, length)) for length in lengths)
