"""What the tables of sweeps and of comparisons show, cut out of reports: a page of rows in their order."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from dyna_eval.reports.cells import LeftOutEntries, Notes, configuration_text
from dyna_eval.reports.report import LeftOut, Report, Row, best_row
from dyna_eval.reports.sweep_comparison import SpeedVerdict, SweepComparison
from dyna_eval.tables.comparison import compared_pairs, headers, remarks
from dyna_eval.wording import one_line

ROWS_PER_PAGE = 200
LEFT_OUT_SHOWN = 100

SORTS: dict[str, Callable[[Row], Any]] = {
    "step": lambda row: row.step,
    "label": lambda row: row.label.lower(),
    "configuration": lambda row: configuration_text(row.method, row.params),
    "throughput": lambda row: row.figures and row.figures.throughput.mean,
    "speedup": lambda row: row.versus_baseline and row.versus_baseline.ratio,
    "acceptance": lambda row: row.figures and row.figures.acceptance.mean_length,
    "exact": lambda row: row.figures and row.figures.agreement.exact_match_rate,
}
"""What a table can be sorted by; addresses name nothing else. Unknown is None."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """What an address asks a sweep's table for."""

    search: str = ""
    sort: str = "step"
    descending: bool = False
    page: int = 1

    @classmethod
    def of(cls, query: Mapping[str, str], *, page: int) -> Wanted:
        sort = query.get("sort", "step")
        return cls(
            search=searched(query),
            sort=sort if sort in SORTS else "step",
            descending=query.get("order") == "desc",
            page=page,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class PairTable:
    """A page of one pair's rows with the footnotes that they need."""

    pair: str
    place: int
    rows: tuple[Row, ...]
    marks: Mapping[int, list[str]]
    """By step."""
    footnotes: tuple[tuple[str, str], ...]
    caveats: tuple[str, ...]
    best: Row | None
    found: int
    has_figures: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Cut:
    """The part of a report that a page shows."""

    tables: tuple[PairTable, ...]
    pages: int
    left_out: tuple[LeftOut, ...]
    left_out_entries: int
    """How many there are, of which `left_out` are shown."""
    left_out_counts: tuple[str, ...]

    @property
    def job_ids(self) -> list[int]:
        return [job for table in self.tables for row in table.rows for job in row.job_ids]


def searched(query: Mapping[str, str]) -> str:
    """Return the text that an address searches for."""
    return query.get("q", "").strip()[:200]


def whole(report: Report) -> Cut:
    """Return all of a report, for a page that stands alone."""
    return cut(report, Wanted(), size=max(1, len(report.rows)))


def cut(report: Report, wanted: Wanted, *, size: int = ROWS_PER_PAGE) -> Cut:
    """Return the rows that an address asks for, a page of each pair."""
    tables = [_table(report, place, wanted, size) for place in range(len(report.pairs))]
    return Cut(
        tables=tuple(tables),
        pages=max(1, *(-(-table.found // size) for table in tables)) if tables else 1,
        left_out=report.left_out[:LEFT_OUT_SHOWN],
        left_out_entries=len(report.left_out),
        left_out_counts=LeftOutEntries.of(report, report.left_out).counts,
    )


def _table(report: Report, place: int, wanted: Wanted, size: int) -> PairTable:
    pair = report.pairs[place]
    rows = report.rows_of(pair)
    found = _sorted([row for row in rows if _matches(row, wanted.search)], wanted)
    shown = tuple(found[(wanted.page - 1) * size : wanted.page * size])
    notes = Notes.of(report, pair)
    marks = {row.step: notes.marks(row) for row in shown}
    used = {mark for of_row in marks.values() for mark in of_row}
    return PairTable(
        pair=pair,
        place=place,
        rows=shown,
        marks=marks,
        footnotes=tuple(note for note in notes.lettered() if note[0] in used),
        caveats=tuple(map(one_line, report.texts_on(pair))),
        best=best_row(rows),
        found=len(found),
        has_figures=any(row.figures for row in rows),
    )


def _matches(row: Row, search: str) -> bool:
    if not search:
        return True
    text = f"{row.label} {configuration_text(row.method, row.params)} {row.state}"
    return all(word in text.lower() for word in search.lower().split())


def _sorted(rows: list[Row], wanted: Wanted) -> list[Row]:
    """Sort rows; those that lack the figure come last either way."""
    read = SORTS[wanted.sort]
    known = [(value, row) for row in rows if (value := read(row)) is not None]
    unknown = [row for row in rows if read(row) is None]
    known.sort(key=lambda pair: pair[0], reverse=wanted.descending)
    return [*(row for _, row in known), *unknown]


# ---------------------------------------------------------------- two sweeps

_LONELY_NAMED = 20
"""Rows without a partner that a page names; the downloads have all."""


def compared(comparison: SweepComparison, page: int) -> dict[str, Any]:
    """Return what a page of a comparison shows: some rows of each pair, and what is said of all."""
    first = (page - 1) * ROWS_PER_PAGE
    pairs = compared_pairs(comparison, first=first, size=ROWS_PER_PAGE)
    counted = Counter(match.verdict for match in comparison.matches)
    return {
        "pairs": pairs,
        "headers": headers(comparison),
        "remarks": remarks(comparison, most=_LONELY_NAMED),
        "verdicts": {str(verdict): counted[verdict] for verdict in SpeedVerdict if counted[verdict]},
        "page": page,
        "pages": max(-(-pair.total // ROWS_PER_PAGE) for pair in pairs),
    }
