"""A report by category in the terminal, in Markdown, in CSV, in JSON and in LaTeX.

Each pair has a table of its own: per category a column group of throughput and speedup, and the overall one
at the end. Footnotes are those of the overall report; intervals of each category are in CSV and JSON.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, TextIO

from dyna_eval.latex.text import escape_latex, footnotes, marked_latex
from dyna_eval.reports.categories import CategorizedReport, CategoryReport
from dyna_eval.reports.cells import (
    UNKNOWN,
    Notes,
    configuration_text,
    origin_text,
    pair_slugs,
    report_title,
    slug,
    speedup_cell,
    throughput_cell,
)
from dyna_eval.reports.report import Report, Row, best_row
from dyna_eval.tables.report import (
    CSV_COLUMNS,
    csv_text,
    escape_csv,
    escape_markdown,
    markdown_label,
    markdown_notes,
    marked,
    new_table,
    print_fitting,
    print_notes,
    terminal,
)
from dyna_eval.tables.report_json import to_json
from dyna_eval.wording import count, one_line

_OVERALL = "(overall)"

_GROUPS_ABREAST = 3
"""Column groups that a page is wide enough for; more of them stand below each other in LaTeX."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Group:
    """A column group of one pair's table: its rows are in the order of the table, `best` is bold."""

    name: str
    prompts: int
    rows: tuple[Row, ...]
    best: Row | None
    is_category: bool
    """Or all categories together."""

    @property
    def title(self) -> str:
        return f"{self.name} ({count(self.prompts, 'prompt')})" if self.is_category else self.name


def _groups(report: CategorizedReport, pair: str) -> list[_Group]:
    """Return the categories that a pair's prompts have, and all of them together."""
    overall = report.overall.rows_of(pair)
    groups = [_group_of(one, overall) for one in report.categories]
    measured = [group for group in groups if any(row.figures for row in group.rows)]
    return [*measured, _group(report.overall, _OVERALL, overall, is_category=False)]


def _group_of(one: CategoryReport, overall: tuple[Row, ...]) -> _Group:
    rows = tuple(one.row_for(row) for row in overall)
    return _group(one.report, one_line(one.category), rows, is_category=True)


def _group(report: Report, name: str, rows: tuple[Row, ...], *, is_category: bool) -> _Group:
    prompts = max((row.figures.prompts or 0 for row in rows if row.figures), default=0)
    best = best_row(report.rows_of(rows[0].pair)) if rows else None
    return _Group(name=name, prompts=prompts, rows=rows, best=best, is_category=is_category)


# --------------------------------------------------------------------------- terminal


def print_categories(report: CategorizedReport, file: TextIO) -> None:
    """Print one table per pair; where `file` is a terminal the best cells are bold."""
    from rich.text import Text  # noqa: PLC0415 (other formats need not load it)

    overall = report.overall
    console = terminal(file)
    console.print(Text(report_title(overall), style="bold"))
    for pair in overall.pairs:
        console.print(Text(f"\npair {one_line(pair)}"))
        groups, notes = _groups(report, pair), Notes.of(overall, pair)
        table = new_table()
        table.add_column("Step", justify="right")
        table.add_column("Components", overflow="fold")
        for group in groups:
            table.add_column(Text(f"{group.title}\ntokens/s"), justify="right")
            table.add_column("\nspeedup", justify="right", no_wrap=True)
        for place, row in enumerate(overall.rows_of(pair)):
            cells = [
                Text(cell, style="bold" if group.rows[place] is group.best else "")
                for group in groups
                for cell in (throughput_cell(group.rows[place]), speedup_cell(group.rows[place]))
            ]
            table.add_row(Text(str(row.step)), marked(row.label, notes.marks(row)), *cells)
        print_fitting(table, console)
        print_notes(notes, console)


# --------------------------------------------------------------------------- Markdown


def categories_markdown(report: CategorizedReport) -> str:
    """Return one table per pair with its footnotes; the best cells of each group are bold."""
    return "\n".join(_markdown_table(report, pair) for pair in report.overall.pairs)


def _markdown_table(report: CategorizedReport, pair: str) -> str:
    overall, groups = report.overall, _groups(report, pair)
    rows, notes = overall.rows_of(pair), Notes.of(overall, pair)
    titles = [
        f"{escape_markdown(group.title)}: {what}" for group in groups for what in ("tokens/s", "speedup")
    ]
    lines = [
        f"<!-- {origin_text(overall, rows)} -->",
        f"**{escape_markdown(overall.name)}**, pair {escape_markdown(pair)}",
        "",
        f"| Step | Components | Configuration | {' | '.join(titles)} |",
        f"| ---: | --- | --- |{' ---: |' * len(titles)}",
    ]
    for place, row in enumerate(rows):
        cells = [
            str(row.step),
            markdown_label(row.label, notes.marks(row)),
            escape_markdown(configuration_text(row.method, row.params)),
        ]
        for group in groups:
            own = group.rows[place]
            bold = "**" if own is group.best else ""
            cells += [f"{bold}{cell}{bold}" for cell in (throughput_cell(own), speedup_cell(own))]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join([*lines, *markdown_notes(notes)]).rstrip() + "\n"


# ------------------------------------------------------------------------- CSV, JSON

_IN_CSV = (
    "pair",
    "step",
    "components",
    "configuration",
    "category",
    "prompts",
    "throughput_tokens_per_s",
    "speedup",
    "speedup_low",
    "speedup_high",
    "mean_acceptance_length",
    "notes",
)


def categories_csv(report: CategorizedReport) -> str:
    """Return a line per row and category, and one per row overall; figures unrounded, unknown ones empty."""
    return csv_text(
        _IN_CSV,
        (
            _csv_line(category, row)
            for overall in report.overall.rows
            for category, row in _rows_of(report, overall)
        ),
    )


def _csv_line(category: str, row: Row) -> list[object]:
    prompts = row.figures and row.figures.prompts
    own: dict[str, object] = {"category": escape_csv(category), "prompts": prompts}
    return [own[name] if name in own else CSV_COLUMNS[name](row) for name in _IN_CSV]


def _rows_of(report: CategorizedReport, overall: Row) -> Iterator[tuple[str, Row]]:
    """Return a row in every category that its pair has, and overall."""
    for one in report.categories:
        if any(row.figures for row in one.report.rows_of(overall.pair)):
            yield one.category, one.row_for(overall)
    yield _OVERALL, overall


def categories_json(report: CategorizedReport) -> dict[str, object]:
    """Return the overall report as `to_json` does, and under `categories` the same for each category."""
    each: list[dict[str, Any]] = [
        {"category": one.category, "prompts": one.prompts, "rows": to_json(one.report)["rows"]}
        for one in report.categories
    ]
    return {**to_json(report.overall), "categories": each}


# ------------------------------------------------------------------------------ LaTeX


def categories_latex(report: CategorizedReport) -> str:
    """Return one booktabs table per pair, with a column group per category; needs `booktabs` alone."""
    return "\n".join(_latex_table(report, pair) for pair in report.overall.pairs)


def _latex_table(report: CategorizedReport, pair: str) -> str:
    overall, groups = report.overall, _groups(report, pair)
    rows, notes = overall.rows_of(pair), Notes.of(overall, pair)
    parts = (slug(overall.name) or f"sweep-{overall.sweep_id}", pair_slugs(overall)[pair], "categories")
    prompts = ", ".join(f"{escape_latex(group.name)} {group.prompts}" for group in groups)
    caption = (
        f"Throughput in tokens/s and speedup by category of prompt, {escape_latex(overall.name)}"
        f" (pair {escape_latex(pair)}). Prompts: {prompts}. The highest throughput of each group is bold."
    )
    blocks = [groups[start : start + _GROUPS_ABREAST] for start in range(0, len(groups), _GROUPS_ABREAST)]
    lines = [
        f"% {origin_text(overall, rows)}",
        r"\begin{table}[t]",
        r"  \centering\footnotesize\setlength{\tabcolsep}{3pt}",
        rf"  \caption{{{caption}}}",
        rf"  \label{{tab:{'-'.join(filter(None, parts))}}}",
    ]
    for number, block in enumerate(blocks):
        lines += [r"  \par\medskip"] if number else []
        lines += _latex_block(rows, block, notes)
    return "\n".join([*lines, *footnotes(notes), r"\end{table}"]) + "\n"


def _latex_block(rows: tuple[Row, ...], groups: list[_Group], notes: Notes) -> list[str]:
    heads = " &".join(rf" \multicolumn{{2}}{{c}}{{{escape_latex(group.name)}}}" for group in groups)
    rules = " ".join(rf"\cmidrule(lr){{{3 + 2 * i}-{4 + 2 * i}}}" for i in range(len(groups)))
    return [
        rf"  \begin{{tabular}}{{cl{'rr' * len(groups)}}}",
        r"    \toprule",
        rf"    & &{heads} \\",
        f"    {rules}",
        rf"    Step & Components{' & tokens/s & speedup' * len(groups)} \\",
        r"    \midrule",
        *(f"    {_latex_row(row, place, groups, notes)}" for place, row in enumerate(rows)),
        r"    \bottomrule",
        r"  \end{tabular}",
    ]


def _latex_row(row: Row, place: int, groups: list[_Group], notes: Notes) -> str:
    cells = [str(row.step), marked_latex(row.label, notes.marks(row))]
    for group in groups:
        own = group.rows[place]
        base = own.versus_baseline
        figures = (throughput_cell(own), rf"${base.ratio:.2f}\times$" if base else UNKNOWN)
        bold = own is group.best
        cells += [rf"\textbf{{\boldmath {cell}}}" if bold else cell for cell in figures]
    return " & ".join(cells) + r" \\"
