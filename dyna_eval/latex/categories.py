"""A report by category as booktabs tables: each pair has one, with a group of columns per category.

Footnotes are those of the overall report. More groups than a page is wide enough for stand below each other,
each lot under a mark of its own; of more rows than a page is high enough for, each lot is a `longtable`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from dyna_eval.errors import InputError
from dyna_eval.latex.grid import category_grid
from dyna_eval.latex.style import Part, end_mark, mark, origin_of
from dyna_eval.latex.table import (
    LONG_NEEDS,
    is_long,
    longtable,
    table_label,
    tabular,
    what_is_bold,
    where_measured,
)
from dyna_eval.latex.text import escape_latex, footnotes
from dyna_eval.reports.categories import CategorizedReport, CategoryGroup
from dyna_eval.reports.cells import Notes, of_decoding, origin_text

_GROUPS_ABREAST = 3
"""Column groups that a page is wide enough for."""

_SIZE = r"\footnotesize\setlength{\tabcolsep}{3pt}"


def categories_latex(report: CategorizedReport) -> str:
    """Return one table per pair, under comments that say where the figures come from."""
    tables = []
    for pair in report.overall.pairs:
        groups = report.groups(pair)
        lots = [groups[start : start + _GROUPS_ABREAST] for start in range(0, len(groups), _GROUPS_ABREAST)]
        tables.append(category_table(report, pair, lots))
    return "\n".join(tables)


def category_table(report: CategorizedReport, pair: str, lots: Sequence[Sequence[CategoryGroup]]) -> str:
    """Return a pair's table with some groups of columns; each lot of them stands below the one before."""
    overall = report.overall
    notes = Notes.of(overall, pair)
    marked = origin_of(overall, Part.TABLE, (pair,))
    marks = [mark(replace(marked, categories=tuple(group.category for group in lot))) for lot in lots]
    grids = [category_grid(report, pair, lot) for lot in lots]
    origin = f"% {origin_text(overall, overall.rows_of(pair))}"
    if is_long(grids[0]):
        told, label = _caption(report, pair), category_label(report, pair)
        lines = [origin, LONG_NEEDS, r"\begingroup", marks[0], *longtable(grids[0], _SIZE, told, label)]
        for own, cells in zip(marks[1:], grids[1:], strict=True):
            lines += [end_mark(Part.TABLE), own, *longtable(cells, _SIZE)]
        lines += [*footnotes(notes, may_break=True), r"\endgroup", end_mark(Part.TABLE)]
        return "\n".join(lines) + "\n"
    bodies = [tabular(cells, _SIZE) for cells in grids]
    lines = [
        origin,
        marks[0],
        r"\begin{table}[tp]",
        r"  \centering",
        rf"  \caption{{{_caption(report, pair)}}}",
        rf"  \label{{{category_label(report, pair)}}}",
        r"  \smallskip",
        *bodies[0],
    ]
    for own, body in zip(marks[1:], bodies[1:], strict=True):
        lines += [own, r"  \par\medskip", *body]
    return "\n".join([*lines, *footnotes(notes), r"\end{table}", end_mark(Part.TABLE)]) + "\n"


def category_label(report: CategorizedReport, pair: str) -> str:
    """Return the name by which a paper refers to a pair's table by category."""
    return f"{table_label(report.overall, (pair,))}-categories"


def groups_of(report: CategorizedReport, pair: str, categories: Sequence[str | None]) -> list[CategoryGroup]:
    """Return a pair's groups of columns of some categories, None for all prompts.

    Raises InputError where the pair has no prompts of one of them.
    """
    known = {group.category: group for group in report.groups(pair)}
    for category in categories:
        if category not in known:
            raise InputError(f"no prompt of pair {pair!r} has the category {category!r} now")
    return [known[category] for category in categories]


def _caption(report: CategorizedReport, pair: str) -> str:
    groups = report.groups(pair)
    prompts = ", ".join(f"{escape_latex(group.name)} {group.prompts}" for group in groups)
    of_what = of_decoding(report.overall.rows_of(pair))
    of_what += "," if of_what else ""
    sentences = [
        f"Throughput in tokens/s{of_what} and speedup against the baseline by category of prompt,"
        f" {escape_latex(report.overall.name)} (pair {escape_latex(pair)}).",
        f"Prompts: {prompts}.",
        *where_measured(report.overall, (pair,)),
        what_is_bold([(group.name, group.rows) for group in groups], " of each group"),
    ]
    return " ".join(filter(None, sentences))
