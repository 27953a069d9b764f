"""A table before it is typeset: its columns, and the cells of its rows with what is bold among them."""

from __future__ import annotations

import math
import re
import unicodedata
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from dyna_eval.errors import InputError
from dyna_eval.latex.style import PLAIN, Style
from dyna_eval.latex.text import escape_latex, marked_latex
from dyna_eval.reports.categories import CategorizedReport, CategoryGroup
from dyna_eval.reports.cells import (
    READERS,
    UNKNOWN,
    Column,
    Notes,
    Setting,
    configuration_text,
    interval_cell,
    left_out_texts,
    method_name,
    settings,
)
from dyna_eval.reports.digits import speedup, throughput, throughput_std
from dyna_eval.reports.report import Report, Row, best_row
from dyna_eval.wording import one_line

_MATHS = {"τ": r"\tau", "≤": r"\leq "}
_THIN = r"\,"
_IN_GROUPS = ("tokens/s", "speedup")
"""Titles of a category's columns, which are narrow."""

_WIDEST = 40  # characters of a text cell that stays on one line
_WRAPPED = 24  # characters in each line of one that does not
_DIGITS = re.compile(r"[0-9.e+/-]+")
_POWER = re.compile(r"(-?[0-9.]+)e([+-]?[0-9]+)")


@dataclass(frozen=True, slots=True, kw_only=True)
class Head:
    """A column: its title, of one line or two, and its letter in the preamble.

    One that is `width` 2 has its ± between two numbers.
    """

    title: str
    preamble: str
    width: int = 1
    is_text: bool = False
    is_wrapped: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Cell:
    """LaTeX without its bold face; `parts` are as many as the column is wide, or one that spans them."""

    parts: tuple[str, ...]
    bold: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class GridRow:
    step: int
    cells: tuple[Cell, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Filled:
    """A column with the cells of all rows."""

    head: Head
    cells: tuple[Cell, ...]


def _filled(head: Head, texts: Sequence[str], bold: Sequence[bool]) -> _Filled:
    cells = tuple(Cell(parts=(text,), bold=one) for text, one in zip(texts, bold, strict=True))
    return _Filled(head=head, cells=cells)


@dataclass(frozen=True, slots=True, kw_only=True)
class Grid:
    """A table. Its figures may stand in groups, of one pair or category of prompts each, under its name."""

    groups: tuple[str, ...]
    """Names of the groups, which have equally many columns; empty where figures of one pair have none."""
    heads: tuple[Head, ...]
    rows: tuple[GridRow, ...]

    @property
    def texts(self) -> int:
        """The number of columns of text, which come first."""
        return sum(head.is_text for head in self.heads)

    @property
    def lines(self) -> int:
        """About how many lines its rows fill on a page."""
        wrapped = [column for column, head in enumerate(self.heads) if head.is_wrapped]
        return sum(
            max((math.ceil(_width(row.cells[column].parts[0]) / _WRAPPED) for column in wrapped), default=1)
            for row in self.rows
        )

    @property
    def figures_per_group(self) -> int:
        return (len(self.heads) - self.texts) // len(self.groups)

    def group_of(self, column: int) -> str | None:
        """Return the group that a column belongs to, None for text and where there are no groups."""
        if column < self.texts or not self.groups:
            return None
        return self.groups[(column - self.texts) // self.figures_per_group]


def grid(report: Report, pairs: Sequence[str], style: Style) -> Grid:
    """Compute a table over one pair, or over several; raises InputError where these have other rows."""
    _require_same_rows(report, pairs)
    each = [report.rows_of(pair) for pair in pairs]
    texts = _texts(report, pairs, each[0], best_row(each[0]) if len(pairs) == 1 else None)
    figures = [filled for rows in each for filled in _figures(report, rows, style)]
    return _assembled(each[0], [*texts, *figures], pairs if len(pairs) > 1 else ())


def category_grid(report: CategorizedReport, pair: str, groups: Sequence[CategoryGroup]) -> Grid:
    """Compute a pair's table with a group of columns per category; configurations would make it too wide."""
    rows = report.overall.rows_of(pair)
    step, components, _ = _texts(report.overall, (pair,), rows, None)
    figures = [
        replace(filled, head=replace(filled.head, title=title))
        for group in groups
        for filled, title in zip(_figures(report.overall, group.rows, PLAIN), _IN_GROUPS, strict=True)
    ]
    return _assembled(rows, [step, components, *figures], [group.name for group in groups])


def _assembled(rows: Sequence[Row], columns: Sequence[_Filled], groups: Sequence[str]) -> Grid:
    return Grid(
        groups=tuple(groups),
        heads=tuple(column.head for column in columns),
        rows=tuple(
            GridRow(step=row.step, cells=tuple(column.cells[place] for column in columns))
            for place, row in enumerate(rows)
        ),
    )


def require(report: Report, style: Style) -> None:
    """Raise InputError, in one line, where the report lacks what a style is to show."""
    measured = [row for row in report.rows if row.figures]
    if style.side_by_side and len(report.pairs) < 2:
        raise InputError(f"sweep {report.name!r} has one pair, so nothing can stand side by side")
    if style.side_by_side:
        _require_same_rows(report, report.pairs)
    if style.side_by_side and measured and len(measured) < len(report.rows):
        lacking = [f"{row.label!r} on {row.pair!r}" for row in report.rows if not row.figures]
        more = f" and {len(lacking) - 1} more" if len(lacking) > 1 else ""
        raise InputError(
            f"no result for {lacking[0]}{more}: run what is missing, or print a table per pair"
            " (without --side-by-side)"
        )
    if style.std and measured and not any(row.figures and row.figures.throughput.std for row in measured):
        raise InputError(
            "no configuration has two repeats that differ, so there is no deviation between them;"
            " leave out --std"
        )
    for column in style.columns:
        if measured and all(READERS[column](row) is None for row in measured):
            raise InputError(f"no row has a figure for column {column.value!r}; leave it out of --columns")


def _require_same_rows(report: Report, pairs: Sequence[str]) -> None:
    if len({tuple(row.label for row in report.rows_of(pair)) for pair in pairs}) > 1:
        raise InputError(
            f"the pairs of {report.name!r} have different rows; print a table per pair"
            " (without --side-by-side)"
        )


# -------------------------------------------------------------------------- text


def notes_of(report: Report, pairs: Sequence[str], *, whole: bool = False) -> Notes:
    """Return the footnotes of a table, as `Notes.of` does; over several pairs each names its own."""
    if len(pairs) == 1:
        return Notes.of(report, pairs[0], whole=whole)
    texts: list[str] = []
    general: list[str] = []
    for pair in pairs:
        own = [entry for entry in report.left_out if entry.pair == pair]
        texts += [f"{one_line(pair)}: {text}" for text in Notes.of(report, pair).texts]
        remarks = [*map(one_line, report.texts_on(pair)), *left_out_texts(report, own, whole=whole)]
        general += [f"{one_line(pair)}: {text}" for text in remarks]
    of_every_pair = [entry for entry in report.left_out if entry.pair is None]
    general += left_out_texts(report, of_every_pair, whole=whole)
    return Notes(tuple(texts), tuple(dict.fromkeys(general)))


def _marks(report: Report, pairs: Sequence[str], notes: Notes, step: int) -> list[str]:
    letters = {text: letter for letter, text in notes.lettered()}
    prefixed = len(pairs) > 1
    return [
        letters[f"{one_line(pair)}: {one_line(text)}" if prefixed else one_line(text)]
        for pair in pairs
        for row in report.rows_of(pair)
        if row.step == step
        for text in row.caveat_texts
    ]


def _texts(report: Report, pairs: Sequence[str], rows: Sequence[Row], best: Row | None) -> list[_Filled]:
    """Compute the three columns of text; those of the best row are bold."""
    notes = notes_of(report, pairs)
    heads = (
        Head(title="Step", preamble="c", is_text=True),
        _text_head("Components", [one_line(row.label) for row in rows]),
        _text_head("Configuration", [configuration_text(row.method, row.params) for row in rows]),
    )
    texts = (
        [str(row.step) for row in rows],
        [marked_latex(row.label, _marks(report, pairs, notes, row.step)) for row in rows],
        [configuration(row) for row in rows],
    )
    bold = [row is best for row in rows]
    return [_filled(head, column, bold) for head, column in zip(heads, texts, strict=True)]


def _text_head(title: str, texts: Sequence[str]) -> Head:
    wrapped = max(map(_width, texts), default=0) > _WIDEST
    return Head(
        title=title, preamble=r"p{0.24\linewidth}" if wrapped else "l", is_text=True, is_wrapped=wrapped
    )


def _width(text: str) -> int:
    """Return the width of a text in Latin characters; a Chinese one is two of them wide."""
    return sum(2 if unicodedata.east_asian_width(character) in "WF" else 1 for character in text)


def configuration(row: Row) -> str:
    """Return a row's method and parameters as LaTeX."""
    name = escape_latex(method_name(row.method))
    return ", ".join([name, *map(_setting, settings(row.method, row.params))])


def _setting(setting: Setting) -> str:
    symbol, relation, value = setting.symbol, setting.relation, setting.value
    if symbol not in _MATHS and not re.fullmatch("[A-Za-z]", symbol):
        return escape_latex(f"{symbol}{relation}{value}")
    symbol, relation = (_MATHS.get(part, part) for part in (symbol, relation))
    if not _DIGITS.fullmatch(value):  # what another tool, or the policy of another package, wrote there
        return f"${symbol}{relation}${escape_latex(value)}"
    return f"${symbol}{relation}{_power_of_ten(value)}$"


def _power_of_ten(value: str) -> str:
    """Return `2.5e-05` as LaTeX; a number without an exponent stays as it is."""
    found = _POWER.fullmatch(value)
    if not found:
        return value
    power = f"10^{{{int(found[2])}}}"
    return power if found[1] == "1" else rf"{found[1]}\cdot {power}"


# ----------------------------------------------------------------------- figures


def _figures(report: Report, rows: Sequence[Row], style: Style) -> list[_Filled]:
    """Compute a pair's columns. Bold is the best of a column, its interval with it; no other figure is."""
    fastest, steepest = best_row(rows), best_speedup(rows)
    columns = [
        _throughput(rows, style, fastest),
        _column("Speedup", rows, speedup, style, unit=r"$\times$", bold=steepest),
    ]
    for column in style.columns:
        if column is Column.INTERVAL:
            texts = [interval_cell(row.speedup_interval) for row in rows]
            bold = [row is steepest and text != UNKNOWN for row, text in zip(rows, texts, strict=True)]
            columns.append(_plain(f"{level(report)}\ninterval", texts, bold))
        else:
            columns.append(_optional(column, rows, style))
    return columns


def _optional(column: Column, rows: Sequence[Row], style: Style) -> _Filled:
    """Compute a column that is there where it is asked for; a list of jobs, or a sign, is no plain number."""
    title, read = _TITLES[column], READERS[column]
    if column is Column.JOBS or (column is Column.GAIN and not style.siunitx):
        maths = "$" if column is Column.GAIN else ""
        texts = [UNKNOWN if (value := read(row)) is None else f"{maths}{value}{maths}" for row in rows]
        return _plain(title, texts, [False] * len(rows))
    return _column(title, rows, read, style, unit=r"\,\%" if column is Column.EXACT else "")


def best_speedup(rows: Sequence[Row]) -> Row | None:
    """Return the row of the highest speedup among those that may win; None where none may be called fastest.

    It is the fastest row, unless rows ran on actors of unequal speed.
    """
    ratios = [
        (row.versus_baseline.ratio, row)
        for row in rows
        if row.versus_baseline and row.figures and row.is_exact and not row.mixed
    ]
    if best_row(rows) is None or not ratios:
        return None
    return max(ratios, key=lambda found: found[0])[1]


def level(report: Report) -> str:
    return rf"{report.confidence * 100:g}\,\%"


def _throughput(rows: Sequence[Row], style: Style, best: Row | None) -> _Filled:
    if not style.std:
        return _column("Throughput", rows, throughput, style, bold=best)
    means, deviations = [throughput(row) for row in rows], [throughput_std(row) for row in rows]
    pairs = list(zip(means, deviations, strict=True))
    bold = [row is best for row in rows]
    if not style.siunitx:
        texts = [
            UNKNOWN if mean is None else mean if std is None else rf"{mean} $\pm$ {std}"
            for mean, std in pairs
        ]
        return _plain("Throughput", texts, bold)
    parts = [(UNKNOWN,) if mean is None else (mean,) if std is None else (mean, std) for mean, std in pairs]
    preamble = rf"{_aligned(means)}@{{${{}}\pm{{}}$}}{_aligned(deviations)}"
    head = Head(title="Throughput", preamble=preamble, width=2)
    cells = tuple(Cell(parts=part, bold=one) for part, one in zip(parts, bold, strict=True))
    return _Filled(head=head, cells=cells)


def _column(
    title: str,
    rows: Sequence[Row],
    read: Callable[[Row], str | None],
    style: Style,
    *,
    unit: str = "",
    bold: Row | None = None,
) -> _Filled:
    """Write numbers with their unit, or aligned under a title that has the unit."""
    values = [read(row) for row in rows]
    marked = [row is bold for row in rows]
    if not style.siunitx:
        return _plain(title, [UNKNOWN if value is None else _with(value, unit) for value in values], marked)
    between = "\n" if style.columns else " "
    titled = f"{title}{between}({unit.removeprefix(_THIN)})" if unit else title
    head = Head(title=titled, preamble=_aligned(values))
    texts = [f"{{{UNKNOWN}}}" if value is None else value for value in values]
    return _filled(head, texts, marked)


def _with(value: str, unit: str) -> str:
    return f"${value}{unit.strip('$')}$" if "$" in unit else f"{value}{unit}"


def _plain(title: str, texts: Sequence[str], bold: Sequence[bool]) -> _Filled:
    return _filled(Head(title=title, preamble="c"), texts, bold)


def _aligned(values: Sequence[str | None]) -> str:
    """Return siunitx's column for numbers with equally many decimals."""
    known = [value for value in values if value is not None]
    split = [value.lstrip("+").split(".") for value in known] or [["1"]]
    before, after = max(len(parts[0]) for parts in split), max(len("".join(parts[1:])) for parts in split)
    if any(value.startswith("+") for value in known):
        return f"S[table-format=+{before}.{after}, retain-explicit-plus]"
    return f"S[table-format={before}.{after}]"


_TITLES = {
    Column.GAIN: "Gain\n(\\%)",
    Column.ACCEPTANCE: "Tokens\nper round",
    Column.RATE: "Accepted\n(\\%)",
    Column.NODES: "Nodes\nper round",
    Column.EXACT: "Exact",
    Column.MEMORY: "Memory\n(GiB)",
    Column.PREDICTED: "Predicted\nspeedup",
    Column.DISTINCT: "Distinct-2",
    Column.PREFILL: "Prefill\n(ms)",
    Column.TTFT: "TTFT\n(ms)",
    Column.END_TO_END: "End-to-end\n(tokens/s)",
    Column.END_TO_END_SPEEDUP: "End-to-end\nspeedup",
    Column.JOBS: "Jobs",
}
"""Titles, of one line or two, of the columns whose title does not depend on the report."""
