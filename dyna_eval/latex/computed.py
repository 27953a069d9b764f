"""A table of a paper's as it would be written now, and what its caption may claim."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from dyna_eval.latex.categories import category_label, category_table, groups_of
from dyna_eval.latex.grid import Grid, category_grid, grid, notes_of
from dyna_eval.latex.paper import PaperTable, read_table, without_comments
from dyna_eval.latex.sentences import supported
from dyna_eval.latex.slower import what_is_counted
from dyna_eval.latex.style import Origin
from dyna_eval.latex.table import table, table_label
from dyna_eval.latex.text import escape_latex
from dyna_eval.reports.categories import CategorizedReport
from dyna_eval.reports.report import Report


@dataclass(frozen=True, slots=True, kw_only=True)
class ComputedTable:
    label: str
    cells: Grid
    printed: PaperTable
    claims: frozenset[str]
    """What its rows support, whatever its caption says."""
    counted_steps: str
    """What its caption would say of slower steps if it named each; empty where it does not count them."""
    counted_notes: str
    """Its footnotes on what is left out with all names; empty where they count none."""
    other_groups: tuple[str, ...] = ()
    """Names of groups of columns that stand elsewhere."""


def compute_table(report: CategorizedReport, origin: Origin) -> ComputedTable:
    """Compute a table anew; raises InputError where it cannot be written any more."""
    overall, pairs = report.overall, origin.pairs
    support = supported({pair: overall.rows_of(pair) for pair in pairs})
    steps = (" ".join(what_is_counted(overall.rows_of(pair), len(pairs))) for pair in pairs)
    notes = counted_notes(overall, pairs)
    if not origin.categories:
        return ComputedTable(
            label=table_label(overall, pairs),
            cells=grid(overall, pairs, origin.style),
            printed=_read_own(table(overall, pairs, origin.style)),
            claims=frozenset(support),
            counted_steps=" ".join(steps),
            counted_notes=notes,
        )
    pair = pairs[0]
    groups = groups_of(report, pair, origin.categories)
    return ComputedTable(
        label=category_label(report, pair),
        cells=category_grid(report, pair, groups),
        printed=_read_own(category_table(report, pair, [groups])),
        claims=frozenset(support.union(*(supported({pair: group.rows}) for group in groups))),
        counted_steps="",
        counted_notes=notes,
        other_groups=tuple(
            group.name for group in report.groups(pair) if group.category not in origin.categories
        ),
    )


def counted_notes(report: Report, pairs: Sequence[str]) -> str:
    """Return the remarks on what is left out with all names, as LaTeX; nothing where none is counted."""
    short = notes_of(report, pairs).general
    return escape_latex(
        " ".join(text for text in notes_of(report, pairs, whole=True).general if text not in short)
    )


def _read_own(latex: str) -> PaperTable:
    printed = read_table(without_comments(latex), is_whole=True)
    assert printed is not None  # noqa: S101 - this tool wrote it
    return printed
