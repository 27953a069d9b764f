"""A sweep's report broken down by the category of its prompts, with the overall report beside.

The report of a category is that of the same sweep as if it had been measured on the category's prompts alone:
every figure keeps its definition, and speedups are against the baseline on the same prompts.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from dyna_eval.errors import InputError
from dyna_eval.records import SweepRecord
from dyna_eval.reports.measured_report import build_report
from dyna_eval.reports.report import Report, Row, best_row
from dyna_eval.reports.tuning import measured_prompts, on_prompts, reported_record
from dyna_eval.wording import one_line

UNCATEGORIZED = "(no category)"
"""Stands for the prompts without a category, where others have one."""

OVERALL = "(overall)"
"""Stands for all prompts together."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CategoryReport:
    """One category's report."""

    category: str
    report: Report

    @property
    def prompts(self) -> int:
        return most_prompts(self.report.rows)

    def row_for(self, overall: Row) -> Row:
        """Return the category's row of a row of the overall report."""
        return next(row for row in self.report.rows_of(overall.pair) if row.label == overall.label)


@dataclass(frozen=True, slots=True, kw_only=True)
class CategoryGroup:
    """A column group of one pair's table: the rows of the overall report, on the prompts of a category."""

    category: str | None
    """None for all prompts together."""
    rows: tuple[Row, ...]

    @property
    def name(self) -> str:
        return OVERALL if self.category is None else one_line(self.category)

    @property
    def prompts(self) -> int:
        return most_prompts(self.rows)

    @property
    def best(self) -> Row | None:
        return best_row(self.rows)


@dataclass(frozen=True, slots=True, kw_only=True)
class CategorizedReport:
    overall: Report
    categories: tuple[CategoryReport, ...]
    """In the order in which the categories come among the prompts, prompts without one at the end."""

    def groups(self, pair: str) -> list[CategoryGroup]:
        """Return the categories that a pair's prompts have, and all of them together at the end."""
        overall = self.overall.rows_of(pair)
        each = [
            CategoryGroup(category=one.category, rows=tuple(map(one.row_for, overall)))
            for one in self.categories
        ]
        measured = [group for group in each if any(row.figures for row in group.rows)]
        return [*measured, CategoryGroup(category=None, rows=overall)]


def most_prompts(rows: Iterable[Row]) -> int:
    """Return the most prompts of any row, 0 where none has figures."""
    return max((row.figures.prompts or 0 for row in rows if row.figures), default=0)


def categorized_report(record: SweepRecord, *, allow_mixed: bool = False) -> CategorizedReport:
    """Break a sweep's report down by category.

    With a tuning split the categories hold the reported prompts, as all figures do. Raises InputError where
    no prompt has a category, MixedRowsError as `build_report` does.
    """
    overall = build_report(record, allow_mixed=allow_mixed)
    if not any(record.categories.values()):
        raise InputError(
            f"sweep {record.id} ({record.name!r}) has no categories; name the column that holds them with"
            " prompts.category in its file, and submit that again: finished jobs do not run again"
        )
    reported = reported_record(record)
    found = []
    for category, prompts in _prompts_by_category(reported).items():
        report = build_report(on_prompts(reported, prompts), allow_mixed=allow_mixed)
        found.append(CategoryReport(category=category, report=report))
    return CategorizedReport(overall=overall, categories=tuple(found))


def _prompts_by_category(record: SweepRecord) -> dict[str, dict[str, set[int]]]:
    """Return the measured prompts of each category by prompt set, in the order of the prompts."""
    by_category: dict[str, dict[str, set[int]]] = {}
    for prompt_set, measured in measured_prompts(record).items():
        known = record.categories.get(prompt_set, {})
        for index in sorted(measured):
            by_category.setdefault(known.get(index, UNCATEGORIZED), {}).setdefault(prompt_set, set()).add(
                index
            )
    without = by_category.pop(UNCATEGORIZED, None)
    return by_category if without is None else {**by_category, UNCATEGORIZED: without}
