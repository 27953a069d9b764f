"""A report as a table in the terminal, in Markdown and in CSV.

Each pair has a table of its own. Labels and names are the user's text and are escaped for every format; what
makes a row doubtful stands in footnotes, which no format leaves out. Cells that are not known yet are `--`,
empty in CSV.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, TextIO

from dyna_eval.reports.cells import (
    READERS,
    UNKNOWN,
    Column,
    Notes,
    acceptance_cell,
    confidence_level,
    configuration_text,
    exact_cell,
    interval_cell,
    origin_text,
    report_title,
    speedup_cell,
    table_title,
    throughput_cell,
    told_below,
)
from dyna_eval.reports.report import Report, Row, best_row
from dyna_eval.reports.statistics import Percentiles
from dyna_eval.tables.formats import (
    csv_text,
    escape_csv,
    escape_markdown,
    markdown_notes,
    marked,
    new_table,
    print_fitting,
    print_notes,
    superscript,
    terminal,
)

if TYPE_CHECKING:
    from rich.console import Console

_USUAL = (Column.INTERVAL, Column.ACCEPTANCE, Column.EXACT)
"""Columns that the tables of this module have anyway."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Title:
    whole: str
    short: str
    """In a terminal, of one line or two."""


_TITLES = {
    Column.GAIN: _Title(whole="Gain over previous (%)", short="Gain\n(%)"),
    Column.RATE: _Title(whole="Acceptance rate (%)", short="Accepted\n(%)"),
    Column.NODES: _Title(whole="Nodes per round", short="Nodes\n/round"),
    Column.MEMORY: _Title(whole="Peak memory (GiB)", short="Memory\n(GiB)"),
    Column.PREDICTED: _Title(whole="Predicted speedup", short="Predicted\nspeedup"),
    Column.DISTINCT: _Title(whole="Distinct-2", short="Distinct-2"),
    Column.PREFILL: _Title(whole="Prefill (ms)", short="Prefill\n(ms)"),
    Column.TTFT: _Title(whole="Time to first token (ms)", short="TTFT\n(ms)"),
    Column.END_TO_END: _Title(whole="End-to-end (tokens/s)", short="End-to-end\n(tokens/s)"),
    Column.END_TO_END_SPEEDUP: _Title(whole="End-to-end speedup", short="End-to-end\nspeedup"),
    Column.JOBS: _Title(whole="Jobs", short="Jobs"),
}


def _added(columns: Collection[Column]) -> list[Column]:
    """Return the columns of those wanted that are not there anyway."""
    return [column for column in columns if column not in _USUAL]


# --------------------------------------------------------------------- terminal


def print_table(report: Report, file: TextIO, columns: Collection[Column] = ()) -> None:
    """Print the tables with their footnotes; colour and column fitting only where `file` is a terminal.

    `columns` are wanted beside the usual ones.
    """
    from rich.text import Text  # noqa: PLC0415

    console = terminal(file)
    console.print(Text(report_title(report), style="bold"))
    for pair in report.pairs:
        console.print(Text(f"\n{table_title(pair, report.rows_of(pair))}"))
        _print_pair(report, pair, console, _added(columns))


def _print_pair(report: Report, pair: str, console: Console, added: Sequence[Column]) -> None:
    from rich.text import Text  # noqa: PLC0415

    rows, notes = report.rows_of(pair), Notes.of(report, pair)
    best = best_row(rows)
    table = new_table()
    table.add_column("Step", justify="right")
    table.add_column("Components", overflow="fold")
    table.add_column("Configuration", overflow="fold", min_width=len("Configuration"))
    interval = f"{confidence_level(report.confidence)}\ninterval"
    headers = ("Tokens/s", "Speedup", interval, "Tokens\n/round", "Exact")
    for header in (*headers, *(_TITLES[column].short for column in added)):
        table.add_column(header, justify="right", no_wrap=True)
    for row in rows:
        cells = (
            throughput_cell(row),
            speedup_cell(row),
            interval_cell(row.speedup_interval),
            acceptance_cell(row),
            exact_cell(row),
            *(READERS[column](row) or UNKNOWN for column in added),
        )
        table.add_row(
            Text(str(row.step)),
            marked(row.label, notes.marks(row)),
            Text(configuration_text(row.method, row.params)),
            *map(Text, cells),
            style="bold" if row is best else None,
        )
    print_fitting(table, console)
    if told := told_below(report, pair):
        console.print(Text(told, style="dim"))
    print_notes(notes, console)


# --------------------------------------------------------------------- Markdown


def to_markdown(report: Report, columns: Collection[Column] = ()) -> str:
    """Return one table per pair with its footnotes; the best row is bold.

    `columns` are wanted beside the usual ones.
    """
    return "\n".join(_markdown_table(report, pair, _added(columns)) for pair in report.pairs)


def _markdown_table(report: Report, pair: str, added: Sequence[Column]) -> str:
    rows, notes = report.rows_of(pair), Notes.of(report, pair)
    best = best_row(rows)
    headers = ["Step", "Components", "Configuration", "Throughput (tokens/s)", "Speedup"]
    headers += [f"{confidence_level(report.confidence)} interval", "Tokens per round", "Exact match"]
    headers += [_TITLES[column].whole for column in added]
    lines = [
        f"<!-- {origin_text(report, rows)} -->",
        f"**{escape_markdown(report.name)}**, {escape_markdown(table_title(pair, rows))}",
        "",
        f"| {' | '.join(headers)} |",
        f"| ---: | --- | --- |{' ---: |' * (len(headers) - 3)}",
        *(_markdown_row(row, notes, added, bold=row is best) for row in rows),
        *(["", f"{escape_markdown(told)}  "] if (told := told_below(report, pair)) else []),
        *markdown_notes(notes),
    ]
    return "\n".join(lines).rstrip() + "\n"


def _markdown_row(row: Row, notes: Notes, added: Sequence[Column], *, bold: bool) -> str:
    cells = [
        str(row.step),
        escape_markdown(row.label),
        escape_markdown(configuration_text(row.method, row.params)),
        throughput_cell(row),
        speedup_cell(row),
        escape_markdown(interval_cell(row.speedup_interval)),
        acceptance_cell(row),
        exact_cell(row),
        *(READERS[column](row) or UNKNOWN for column in added),
    ]
    if bold:
        cells = [cell if cell == UNKNOWN else f"**{cell}**" for cell in cells]
    cells[1] += superscript(notes.marks(row))
    return f"| {' | '.join(cells)} |"


# -------------------------------------------------------------------------- CSV


def _median(latency: Percentiles | None) -> float | None:
    return None if latency is None else latency.p50


CSV_COLUMNS: dict[str, Callable[[Row], object]] = {
    "pair": lambda row: escape_csv(row.pair),
    "step": lambda row: row.step,
    "components": lambda row: escape_csv(row.label),
    "configuration": lambda row: escape_csv(configuration_text(row.method, row.params)),
    "state": lambda row: str(row.state),
    "throughput_tokens_per_s": lambda row: row.figures and row.figures.throughput.mean,
    "end_to_end_tokens_per_s": lambda row: row.figures and row.figures.throughput.end_to_end,
    "speedup": lambda row: row.versus_baseline and row.versus_baseline.ratio,
    "speedup_low": lambda row: (known := row.speedup_interval) and known.low,
    "speedup_high": lambda row: (known := row.speedup_interval) and known.high,
    "end_to_end_speedup": lambda row: row.end_to_end and row.end_to_end.ratio,
    "end_to_end_speedup_low": lambda row: (known := row.end_to_end_interval) and known.low,
    "end_to_end_speedup_high": lambda row: (known := row.end_to_end_interval) and known.high,
    "gain_over_previous": lambda row: row.versus_previous and row.versus_previous.ratio - 1.0,
    "predicted_speedup": lambda row: row.figures and row.figures.predicted_speedup,
    "mean_acceptance_length": lambda row: row.figures and row.figures.acceptance.mean_length,
    "draft_acceptance_rate": lambda row: row.figures and row.figures.acceptance.draft_rate,
    "prefill_p50_s": lambda row: row.figures and _median(row.figures.latency.prefill),
    "ttft_p50_s": lambda row: row.figures and _median(row.figures.latency.ttft),
    "exact_match_rate": lambda row: row.figures and row.figures.agreement.exact_match_rate,
    "peak_memory_bytes": lambda row: row.peak_memory_bytes,
    "distinct_2": lambda row: row.figures and row.figures.distinct_2,
    "jobs": lambda row: " ".join(map(str, row.job_ids)),
    "notes": lambda row: escape_csv("; ".join(row.caveat_texts)),
}


def to_csv(report: Report) -> str:
    """Return all rows of all pairs, figures unrounded, unknown ones empty."""
    return csv_text(CSV_COLUMNS, ([read(row) for read in CSV_COLUMNS.values()] for row in report.rows))
