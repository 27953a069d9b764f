"""Each prompt's own speedup over the baseline."""

from __future__ import annotations

from dataclasses import dataclass

from dyna_eval.errors import NothingToDrawError
from dyna_eval.reports.report import Row, baseline_of, rates_together
from dyna_eval.series.measured import Entry, Estimate, Measured


@dataclass(frozen=True, slots=True, kw_only=True)
class PairedSpeedups:
    entry: Entry
    ratios: tuple[tuple[int, float], ...]
    """(prompt, speedup), by the prompt's place in its set."""
    geometric_mean: Estimate


def paired_speedups(measured: Measured, pair: str) -> tuple[PairedSpeedups, ...]:
    """Return the per-prompt speedups of every row but the baseline whose prompts can be paired with it."""
    rows = measured.finished(pair)
    base = baseline_of(rows)
    if base is None or base.rates is None:
        raise NothingToDrawError("there is no measured baseline whose prompts could be paired")
    found = []
    for row in rows:
        known = row.versus_baseline
        if row.is_baseline or known is None or known.paired is None:
            continue
        own, theirs = rates_together(row, base)
        ratios = tuple(
            (prompt, own[prompt] / theirs[prompt]) for prompt in own if theirs.get(prompt, 0.0) > 0.0
        )
        mean = Estimate(value=known.paired, interval=known.paired_interval)
        found.append(PairedSpeedups(entry=Entry.of(row), ratios=ratios, geometric_mean=mean))
    if not found:
        raise NothingToDrawError("no row's prompts can be paired with the baseline's")
    return tuple(found)


def why_unpaired(row: Row) -> str:
    """Say what a row lacks that has figures and is not paired; nothing of the baseline, which others are."""
    if row.is_baseline:
        return ""
    return "speedup unknown" if row.versus_baseline is None else "paired speedup unknown"
