"""A report by category in the terminal, in Markdown, in CSV and in JSON.

Each pair has a table of its own: per category a column group of throughput and speedup, and the overall one
at the end. Footnotes are those of the overall report; intervals of each category are in CSV and JSON.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, TextIO

from dyna_eval.reports.categories import OVERALL, CategorizedReport, CategoryGroup
from dyna_eval.reports.cells import (
    Notes,
    configuration_text,
    origin_text,
    report_title,
    speedup_cell,
    throughput_cell,
    told_below,
)
from dyna_eval.reports.report import Row
from dyna_eval.tables.formats import (
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
from dyna_eval.tables.report import CSV_COLUMNS
from dyna_eval.tables.report_json import to_json
from dyna_eval.wording import count, one_line


def _title(group: CategoryGroup) -> str:
    """Return a group's name, with its prompts where it is a category."""
    if group.category is None:
        return group.name
    return f"{group.name} ({count(group.prompts, 'prompt')})"


# --------------------------------------------------------------------------- terminal


def print_categories(report: CategorizedReport, file: TextIO) -> None:
    """Print one table per pair; where `file` is a terminal the best cells are bold."""
    from rich.text import Text  # noqa: PLC0415 (other formats need not load it)

    overall = report.overall
    console = terminal(file)
    console.print(Text(report_title(overall), style="bold"))
    for pair in overall.pairs:
        console.print(Text(f"\npair {one_line(pair)}"))
        groups, notes = report.groups(pair), Notes.of(overall, pair)
        best = [group.best for group in groups]
        table = new_table()
        table.add_column("Step", justify="right")
        table.add_column("Components", overflow="fold")
        for group in groups:
            table.add_column(Text(f"{_title(group)}\ntokens/s"), justify="right")
            table.add_column("\nspeedup", justify="right", no_wrap=True)
        for place, row in enumerate(overall.rows_of(pair)):
            cells = [
                Text(cell, style="bold" if group.rows[place] is fastest else "")
                for group, fastest in zip(groups, best, strict=True)
                for cell in (throughput_cell(group.rows[place]), speedup_cell(group.rows[place]))
            ]
            table.add_row(Text(str(row.step)), marked(row.label, notes.marks(row)), *cells)
        print_fitting(table, console)
        if told := told_below(overall, pair):
            console.print(Text(told, style="dim"))
        print_notes(notes, console)


# --------------------------------------------------------------------------- Markdown


def categories_markdown(report: CategorizedReport) -> str:
    """Return one table per pair with its footnotes; the best cells of each group are bold."""
    return "\n".join(_markdown_table(report, pair) for pair in report.overall.pairs)


def _markdown_table(report: CategorizedReport, pair: str) -> str:
    overall, groups = report.overall, report.groups(pair)
    rows, notes = overall.rows_of(pair), Notes.of(overall, pair)
    best = [group.best for group in groups]
    titles = [
        f"{escape_markdown(_title(group))}: {what}" for group in groups for what in ("tokens/s", "speedup")
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
        for group, fastest in zip(groups, best, strict=True):
            own = group.rows[place]
            bold = "**" if own is fastest else ""
            cells += [f"{bold}{cell}{bold}" for cell in (throughput_cell(own), speedup_cell(own))]
        lines.append(f"| {' | '.join(cells)} |")
    below = ["", f"{escape_markdown(told)}  "] if (told := told_below(overall, pair)) else []
    return "\n".join([*lines, *below, *markdown_notes(notes)]).rstrip() + "\n"


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
        (_csv_line(OVERALL if category is None else category, row) for category, row in _rows(report)),
    )


def _csv_line(category: str, row: Row) -> list[object]:
    prompts = row.figures and row.figures.prompts
    own: dict[str, object] = {"category": escape_csv(category), "prompts": prompts}
    return [own[name] if name in own else CSV_COLUMNS[name](row) for name in _IN_CSV]


def _rows(report: CategorizedReport) -> Iterator[tuple[str | None, Row]]:
    """Return each row in every category that its pair has, and overall, under None."""
    for pair in report.overall.pairs:
        groups = report.groups(pair)
        for rows in zip(*(group.rows for group in groups), strict=True):
            yield from zip((group.category for group in groups), rows, strict=True)


def categories_json(report: CategorizedReport) -> dict[str, object]:
    """Return the overall report as `to_json` does, and under `categories` the same for each category."""
    each: list[dict[str, Any]] = [
        {"category": one.category, "prompts": one.prompts, "rows": to_json(one.report)["rows"]}
        for one in report.categories
    ]
    return {**to_json(report.overall), "categories": each}
