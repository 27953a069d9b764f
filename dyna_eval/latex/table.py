"""A report as booktabs tables, with captions computed from its figures.

Needs `booktabs`, `siunitx` where the style asks for it, and `longtable` for a table higher than a page.
Everything that a user wrote is escaped.
"""

from __future__ import annotations

from collections.abc import Sequence

from dyna_eval.importers import dynatree
from dyna_eval.latex.grid import Cell, Grid, GridRow, Head, best_speedup, grid, level, notes_of
from dyna_eval.latex.slower import what_degrades
from dyna_eval.latex.style import PLAIN, Part, Style, end_mark, mark, origin_of
from dyna_eval.latex.text import escape_latex, footnotes
from dyna_eval.reports.cells import (
    Column,
    Notes,
    circumstances,
    interval_cell,
    of_decoding,
    pair_slugs,
    ranges,
    slug,
    span,
    sweep_numbers,
    terms_slug,
)
from dyna_eval.reports.claims import THOSE_THAT_MAY_WIN, is_surpassed
from dyna_eval.reports.report import Report, Row, baseline_of, best_row
from dyna_eval.wording import listed, one_line

_SIZES = (
    (6, ""),
    (8, r"\small\setlength{\tabcolsep}{4pt}"),
    (9, r"\footnotesize\setlength{\tabcolsep}{3pt}"),
)
_SMALLEST = r"\scriptsize\setlength{\tabcolsep}{3pt}"
"""Type and gaps by the number of columns: so many at most."""

_MOST_LINES = 32
"""So many lines of rows are a table on one page; more are a `longtable`, which breaks over pages."""

LONG_NEEDS = r"% needs \usepackage{booktabs, longtable}; a longtable stands in one column"

_GROUP_CHARACTERS = 12  # of a group's name per column below it; a longer name is set in lines


def to_latex(report: Report, style: Style = PLAIN) -> str:
    """Return one table per pair, or one over all, under comments that say where the figures come from."""
    if style.side_by_side:
        return table(report, report.pairs, style)
    return "\n".join(table(report, (pair,), style) for pair in report.pairs)


def table(report: Report, pairs: Sequence[str], style: Style) -> str:
    """Return one table over one pair, or over several side by side."""
    cells, notes = grid(report, pairs, style), notes_of(report, pairs)
    jobs = ranges(job for pair in pairs for row in report.rows_of(pair) for job in row.job_ids)
    names = ", ".join(map(one_line, pairs))
    told = caption(report, pairs, style)
    figures = [r"  \sisetup{detect-weight, mode=text}"] if style.siunitx else []
    if is_long(cells):
        body = [
            r"\begingroup",
            *figures,
            *longtable(cells, size_of(cells), told, table_label(report, pairs)),
            *_notes(report, pairs, notes, style, may_break=True),
            r"\endgroup",
        ]
    else:
        body = [
            r"\begin{table}[tp]",
            r"  \centering",
            *figures,
            rf"  \caption{{{told}}}",
            rf"  \label{{{table_label(report, pairs)}}}",
            r"  \smallskip",
            *tabular(cells, size_of(cells)),
            *_notes(report, pairs, notes, style),
            r"\end{table}",
        ]
    lines = [
        f"% sweep {one_line(report.name)} ({sweep_numbers(report)}, {report.state}), pair {names}",
        f"% digest {report.digest}, jobs {jobs}",
        *([LONG_NEEDS] if is_long(cells) else []),
        mark(origin_of(report, Part.TABLE, pairs, style)),
        *body,
        end_mark(Part.TABLE),
    ]
    return "\n".join(lines) + "\n"


def table_label(report: Report, pairs: Sequence[str]) -> str:
    """Return the name by which a paper refers to a table; on other terms than the file's it is another."""
    own = pair_slugs(report)[pairs[0]] if len(pairs) == 1 else ""
    name = slug(report.name) or f"sweep-{report.sweep_id}"
    return "tab:" + "-".join(filter(None, (name, own, terms_slug(report))))


# ------------------------------------------------------------------------- cells


def size_of(cells: Grid) -> str:
    """Return commands for type that is as small as a grid's columns are many."""
    physical = sum(head.width for head in cells.heads)
    return next((size for most, size in _SIZES if physical <= most), _SMALLEST)


def is_long(cells: Grid) -> bool:
    """Whether a grid has more rows than a page is high enough for."""
    return cells.lines > _MOST_LINES


def tabular(cells: Grid, size: str) -> list[str]:
    """Return the lines of a grid, after commands for the size of its type."""
    return [
        *([f"  {size}"] if size else []),
        rf"  \begin{{tabular}}{{{_preamble(cells)}}}",
        *_ruled_heads(cells),
        *(f"    {_row(row, cells.heads)}" for row in cells.rows),
        r"    \bottomrule",
        r"  \end{tabular}",
    ]


def longtable(cells: Grid, size: str, told: str = "", label: str = "") -> list[str]:
    """Return the lines of a grid that breaks over pages, with its titles on each; some have a caption."""
    heads = _ruled_heads(cells)
    return [
        r"  \setlength{\LTcapwidth}{\linewidth}",
        *([f"  {size}"] if size else []),
        rf"  \begin{{longtable}}{{{_preamble(cells)}}}",
        *([rf"    \caption{{{told}}}", rf"    \label{{{label}}} \\"] if told else []),
        *heads,
        r"    \endfirsthead",
        *heads,
        r"    \endhead",
        r"    \midrule",
        r"    \endfoot",
        r"    \bottomrule",
        r"    \endlastfoot",
        *(f"    {_row(row, cells.heads)}" for row in cells.rows),
        r"  \end{longtable}",
    ]


def _preamble(cells: Grid) -> str:
    return "".join(head.preamble for head in cells.heads)


def _ruled_heads(cells: Grid) -> list[str]:
    return [r"    \toprule", *(f"    {line}" for line in _heads(cells)), r"    \midrule"]


def _heads(cells: Grid) -> list[str]:
    titles = [" & ".join(_title(head, line) for head in cells.heads).strip() + r" \\" for line in (0, 1)]
    if not any("\n" in head.title for head in cells.heads):
        del titles[0]
    if not cells.groups:
        return titles
    groups = [cells.heads[cells.texts + i * cells.figures_per_group :] for i in range(len(cells.groups))]
    widths = [sum(head.width for head in group[: cells.figures_per_group]) for group in groups]
    names = [
        rf"\multicolumn{{{width}}}{{c}}{{{_group(group, width)}}}"
        for group, width in zip(cells.groups, widths, strict=True)
    ]
    rules, column = [], cells.texts + 1
    for width in widths:
        rules.append(rf"\cmidrule(lr){{{column}-{column + width - 1}}}")
        column += width
    return [" & ".join([""] * cells.texts + names).strip() + r" \\", " ".join(rules), *titles]


def _group(group: str, width: int) -> str:
    name = escape_latex(group)
    if len(group) <= _GROUP_CHARACTERS * width:
        return name
    return rf"\parbox[b]{{{0.1 * width:.1f}\linewidth}}{{\centering {name}}}"


def _title(head: Head, line: int) -> str:
    """Return one of two lines of a title; a title of one line stands in the second."""
    first, _, second = head.title.rpartition("\n")
    text = (first, second)[line]
    if head.width > 1:
        return rf"\multicolumn{{{head.width}}}{{c}}{{{text}}}"
    return f"{{{text}}}" if head.preamble.startswith("S") else text


def _row(row: GridRow, heads: Sequence[Head]) -> str:
    return " & ".join(_typeset(cell, head) for cell, head in zip(row.cells, heads, strict=True)) + r" \\"


def _typeset(cell: Cell, head: Head) -> str:
    """Return a cell as it stands in a table."""
    aligned = "S[" in head.preamble
    parts = [_embolden(part, aligned=aligned) if cell.bold else part for part in cell.parts]
    if head.is_wrapped:
        return rf"\raggedright {parts[0]}"
    if len(parts) < head.width:
        return rf"\multicolumn{{{head.width}}}{{c}}{{{parts[0]}}}"
    return " & ".join(parts)


def _embolden(text: str, *, aligned: bool) -> str:
    if aligned:
        return rf"\bfseries {text}"
    return rf"\textbf{{\boldmath {text}}}" if "$" in text else rf"\textbf{{{text}}}"


# ------------------------------------------------------------------------- notes


def _notes(
    report: Report, pairs: Sequence[str], notes: Notes, style: Style, *, may_break: bool = False
) -> list[str]:
    if Column.INTERVAL in style.columns:
        return footnotes(notes, may_break=may_break)
    intervals = (_intervals(report, pair, several=len(pairs) > 1) for pair in pairs)
    return footnotes(notes, list(filter(None, intervals)), may_break=may_break)


def _intervals(report: Report, pair: str, *, several: bool) -> str:
    known = [
        f"step {row.step} {interval_cell(row.speedup_interval)}"
        for row in report.rows_of(pair)
        if row.speedup_interval
    ]
    if not known:
        return ""
    whose = f" ({escape_latex(pair)})" if several else ""
    return f"{level(report)} intervals of the speedup{whose}: {', '.join(known)}."


# ----------------------------------------------------------------------- caption


def caption(report: Report, pairs: Sequence[str], style: Style) -> str:
    """Say what the steps add, over which data, and, from the figures, which steps degrade."""
    rows = {pair: report.rows_of(pair) for pair in pairs}
    everything = [row for pair in pairs for row in rows[pair]]
    named = escape_latex(", ".join(pairs))
    noun = "pairs" if len(pairs) > 1 else "pair"
    sentences = [
        f"{_what_is_added(rows[pairs[0]])} ({noun} {named}).",
        _what_was_measured(report, everything, style),
        *where_measured(report, pairs),
        *(sentence for pair in pairs for sentence in what_degrades(rows[pair], len(pairs))),
        what_is_bold(list(rows.items()), " of each pair" if len(pairs) > 1 else ""),
    ]
    return " ".join(filter(None, sentences))


def _what_is_added(rows: Sequence[Row]) -> str:
    added = [escape_latex(row.label.lstrip("+ ")) for row in rows if row.label.startswith("+")]
    if not added or len(added) > 6:
        return "Ablation of speculative decoding, step by step"
    first = next((row for row in (baseline_of(rows), *rows) if row and not row.label.startswith("+")), None)
    start = escape_latex(first.label) if first else "the baseline"
    verb = "are" if len(added) > 1 else "is"
    return f"Ablation of speculative decoding: step by step, {listed(added)} {verb} added to {start}"


def _what_was_measured(report: Report, rows: Sequence[Row], style: Style) -> str:
    known = [row.figures for row in rows if row.figures]
    if not known:
        return "Nothing has been measured yet."
    prompts = span([figures.prompts for figures in known], "prompt") or "prompts"
    counts = [
        span([figures.repeats for figures in known], "repeat"),
        span([figures.tokens for figures in known], "token"),
    ]
    each = f" ({', '.join(filter(None, counts))} per row)" if any(counts) else ""
    deviation = _deviation(rows) if style.std else ""
    where = "" if Column.INTERVAL in style.columns else " below"
    known_intervals = any(row.speedup_interval for row in rows)
    intervals = f", with {level(report)} intervals{where}" if known_intervals else ""
    return (
        f"Throughput is in tokens/s{of_decoding(rows)}, the mean over {prompts}{each}{deviation};"
        f" speedup is against the baseline{intervals}."
    )


def where_measured(report: Report, pairs: Sequence[str]) -> list[str]:
    """Say on which machine, in which dtype and over how many tokens: once for pairs of which it is true."""
    told: dict[str, list[str]] = {}
    for pair in pairs:
        if text := circumstances(report, pair):
            told.setdefault(text, []).append(pair)
    return [
        escape_latex(text[0].upper() + text[1:])
        + (f" (on {escape_latex(listed(own))})." if len(own) < len(pairs) else ".")
        for text, own in told.items()
    ]


def _deviation(rows: Sequence[Row]) -> str:
    """Say between what the deviations are: DynaTree's files have those between prompts."""
    known = [row for row in rows if row.figures and row.figures.throughput.std is not None]
    of_files = [row for row in known if row.source and row.source.format == dynatree.NAME]
    what = r", $\pm$ the standard deviation between "
    if not of_files:
        return f"{what}repeats"
    if len(of_files) == len(known):
        return f"{what}prompts"
    return f"{what}repeats (of rows from DynaTree's files, between prompts)"


def what_is_bold(tables: Sequence[tuple[str, Sequence[Row]]], each: str) -> str:
    """Say which cells are bold; the highest speedup is another row's where actors were not equally fast.

    `tables` are the name and the rows of each group of columns, and `each` says of what they are.
    """
    best = [(best_row(rows), best_speedup(rows), rows) for _, rows in tables]
    without = [name for (name, _), (fastest, _, _) in zip(tables, best, strict=True) if fastest is None]
    if len(without) == len(tables):
        return ""
    if without:
        each += f" except {escape_latex(listed(without))}"
    if any(fastest and is_surpassed(fastest, rows) for fastest, _, rows in best):
        each += f" among {THOSE_THAT_MAY_WIN}"
    if all(fastest is steepest for fastest, steepest, _ in best):
        return f"The highest throughput{each} is bold."
    return f"The highest throughput and the highest speedup{each} are bold."
