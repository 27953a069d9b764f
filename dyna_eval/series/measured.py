"""A report with the samples behind it, and the values that all series are made of."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field

import numpy as np

from dyna_eval.jobs import JobState, Method
from dyna_eval.records import SweepRecord
from dyna_eval.reports.integrity import CaveatKind
from dyna_eval.reports.intervals import Bootstrap, Interval
from dyna_eval.reports.report import Report, Row, baseline_of
from dyna_eval.reports.samples import Floats, SampleTable
from dyna_eval.reports.tuning import reported_record
from dyna_eval.wording import one_line

MOST_BARS_ABREAST = 12
"""Bars of the ablation chart; more lie one under another, with their speedups at the right."""
_MOST_DOUBTS = 700
"""Characters of the reasons for doubt under a figure."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Estimate:
    """A measured number; `interval` is None where it is not known."""

    value: float
    interval: Interval | None = None

    @property
    def low(self) -> float:
        return min(self.value, self.interval.low) if self.interval else self.value

    @property
    def high(self) -> float:
        return max(self.value, self.interval.high) if self.interval else self.value


CUT_OFF = "Some intervals reach beyond the axis."
"""What the note of a figure says whose axis ends before intervals do."""


def top_of(known: Iterable[Estimate]) -> tuple[float, bool]:
    """Return where an axis from 0 should end for all intervals to be seen, and whether some are cut off.

    An interval that reaches far beyond all values would leave nothing of the rest to see.
    """
    known = list(known)
    highest, limit = max(one.high for one in known), 2.5 * max(one.value for one in known)
    return 1.06 * min(highest, limit), highest > limit


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """A row as a figure names it."""

    pair: str
    step: int
    label: str
    method: Method
    doubt: str | None
    """Why its numbers in the figure are not to be trusted, or not to be compared with the others'."""

    @classmethod
    def of(cls, row: Row, *, timed: bool = True) -> Entry:
        """Name a row in a figure of times and speeds, or in one of counts, which no load changes."""
        kinds = (CaveatKind.DOUBT, CaveatKind.HEAVY_LOAD) if timed else (CaveatKind.DOUBT,)
        reasons = [caveat.text for caveat in row.caveats if caveat.kind in kinds]
        return cls(
            pair=row.pair,
            step=row.step,
            label=one_line(row.label),
            method=row.method,
            doubt=one_line("; ".join(reasons)) or None,
        )

    @property
    def star(self) -> str:
        """What stands after its label or number: a star where it is in doubt."""
        return "*" if self.doubt else ""

    @property
    def starred(self) -> str:
        return f"{self.label}{self.star}"


def baselines(report: Report, entries: Iterable[Entry], *, timed: bool = True) -> list[Entry]:
    """Return the baselines of the rows' pairs, as `Entry.of` names them."""
    pairs = dict.fromkeys(entry.pair for entry in entries)
    found = (baseline_of(report.rows_of(pair)) for pair in pairs)
    return [Entry.of(row, timed=timed) for row in found if row is not None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Undrawn:
    """A row that a figure is about and does not show; as text `A (failed)`."""

    label: str
    why: str

    @classmethod
    def of(cls, row: Row, why: str) -> Undrawn:
        """Name a row with its state where it has no result, else with what a figure lacks of it."""
        return cls(label=one_line(row.label), why=why if row.figures else str(row.state))

    def __str__(self) -> str:
        return f"{self.label} ({self.why})"


def undrawn(
    report: Report, entries: Iterable[Entry], why: Callable[[Row], str] = lambda _: ""
) -> tuple[Undrawn, ...]:
    """Name the rows of a figure's pairs that are not among its entries.

    `why` says what is not known of a row that has figures; nothing where the figure is not about it.
    """
    entries = list(entries)
    pairs, shown = {entry.pair for entry in entries}, {(entry.pair, entry.step) for entry in entries}
    return tuple(
        Undrawn.of(row, why(row))
        for row in report.rows
        if row.pair in pairs and (row.pair, row.step) not in shown and (row.figures is None or why(row))
    )


def doubts(
    entries: Iterable[Entry], over: Iterable[Entry] = (), role: str = "all speedups are over it"
) -> list[str]:
    """Say which rows of a figure are in doubt, and why; rows of one reason together.

    `over` are the baselines that it is about, which may be no rows of its own, and `role` says in what way.
    """
    over = list(over)
    reasons: dict[str, list[str]] = {}
    for entry in dict.fromkeys([*over, *entries]):
        if entry.doubt:
            name = f"{entry.label} ({role})" if entry in over else entry.label
            reasons.setdefault(entry.doubt, []).append(name)
    texts = [f"* {', '.join(dict.fromkeys(names))}: {reason}." for reason, names in reasons.items()]
    if sum(map(len, texts)) <= _MOST_DOUBTS:
        return texts
    rows = sum(map(len, reasons.values()))
    among = ", the baseline among them," if any(entry.doubt for entry in over) else ""
    return [f"* Why {rows} rows{among} are in doubt stands in the notes of the report's table."]


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """A report and, where one sweep is behind it, that sweep's record.

    Without the record there are no intervals but the report's own, and no figure of single prompts.
    """

    report: Report
    record: SweepRecord | None = field(default=None, repr=False)
    """Of the prompts that the report is over: without those that a row was chosen on."""
    samples: Mapping[tuple[str, str], SampleTable] = field(default_factory=dict, repr=False)
    """Those of the done jobs, by pair and label."""

    @classmethod
    def of(cls, report: Report, record: SweepRecord) -> Measured:
        record = reported_record(record)
        tables: dict[tuple[str, str], list[SampleTable]] = {}
        for job in record.jobs:
            if job.state is JobState.DONE:
                tables.setdefault((job.pair, job.label), []).append(SampleTable.of(job.samples))
        samples = {key: SampleTable.join(own) for key, own in tables.items()}
        return cls(report=report, record=record, samples=samples)

    def finished(self, pair: str) -> tuple[Row, ...]:
        """Return the rows of a pair that have figures, in the order of the sweep file."""
        return tuple(row for row in self.report.rows_of(pair) if row.figures is not None)

    def interval_of_ratio(
        self, row: Row, over: Callable[[SampleTable], Floats], under: Callable[[SampleTable], Floats]
    ) -> Interval | None:
        """Return the interval over prompts of sum(over) / sum(under) of a row's samples.

        Both return a number for every sample, shape (samples,). None without a record, with one prompt, or
        where a prompt has nothing under the line.
        """
        samples = self.samples.get((row.pair, row.label))
        if samples is None or not len(samples):
            return None
        _, places = np.unique(samples.column("prompt_index"), return_inverse=True)
        above, below = np.bincount(places, over(samples)), np.bincount(places, under(samples))
        if below.min() <= 0.0:
            return None
        return Bootstrap(confidence=self.report.confidence).ratio_of_means(above.tolist(), below.tolist())
