"""A report as a table in the terminal, in Markdown and in CSV.

Each pair has a table of its own. Labels and names are the user's text and are escaped for every format; what
makes a row doubtful stands in footnotes, which no format leaves out. Cells that are not known yet are `--`,
empty in CSV.
"""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, TextIO

from dyna_eval.reports.cells import (
    READERS,
    UNKNOWN,
    Column,
    Notes,
    acceptance_cell,
    circumstances,
    confidence_level,
    configuration_text,
    exact_cell,
    interval_cell,
    origin_text,
    report_title,
    speedup_cell,
    table_title,
    throughput_cell,
)
from dyna_eval.reports.report import Report, Row, best_row
from dyna_eval.reports.statistics import Percentiles
from dyna_eval.wording import one_line

if TYPE_CHECKING:
    from _typeshed import SupportsWrite
    from rich.console import Console, RenderableType
    from rich.table import Table
    from rich.text import Text


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
    Column.JOBS: _Title(whole="Jobs", short="Jobs"),
}


def _added(columns: Collection[Column]) -> list[Column]:
    """Return the columns of those wanted that are not there anyway."""
    return [column for column in columns if column not in _USUAL]


# --------------------------------------------------------------------- terminal

_UNLIMITED = 10_000
_BETWEEN_COLUMNS = 2


def terminal(file: TextIO) -> Console:
    """Return a console that prints text as it stands; colour and fitting only where `file` is a terminal."""
    from rich.console import Console  # noqa: PLC0415 (other formats need not load it)

    width = None if file.isatty() else _UNLIMITED
    return Console(file=file, width=width, highlight=False, markup=False, emoji=False)


def new_table() -> Table:
    """Return an empty table of the common look."""
    from rich import box  # noqa: PLC0415
    from rich.table import Table  # noqa: PLC0415

    return Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False, show_edge=False)


def print_fitting(table: Table, console: Console) -> None:
    """Print a table whose folding columns give up width, the widest first, until it fits the terminal.

    They get no narrower than their titles: a table that is too wide even so is printed whole, and the
    terminal breaks its lines.
    """
    from rich.measure import Measurement  # noqa: PLC0415

    def width_of(*parts: RenderableType) -> int:
        return max(Measurement.get(console, unlimited, part).maximum for part in parts)

    unlimited, given = console.options.update(width=_UNLIMITED), console.width
    columns = table.columns
    least = [width_of(column.header) for column in columns]
    widths = [width_of(column.header, *column.cells) for column in columns]
    excess = sum(widths) + _BETWEEN_COLUMNS * (len(columns) - 1) - given
    folding = [place for place, column in enumerate(columns) if column.overflow == "fold"]
    while excess > 0 and (wide := [place for place in folding if widths[place] > least[place]]):
        widths[max(wide, key=widths.__getitem__)] -= 1
        excess -= 1
    for column, width in zip(columns, widths, strict=True):
        column.width = width
    console.width = given + max(excess, 0)
    console.print(table)
    console.width = given


def marked(label: str, marks: Sequence[str]) -> Text:
    """Return a row's label with the letters of its footnotes."""
    from rich.text import Text  # noqa: PLC0415

    text = Text(one_line(label))
    text.append("".join(f" [{mark}]" for mark in marks), style="yellow")
    return text


def print_notes(notes: Notes, console: Console) -> None:
    """Print a table's footnotes under it."""
    from rich.text import Text  # noqa: PLC0415

    for mark, text in notes.lettered():
        console.print(Text(f"[{mark}] {text}", style="yellow"))
    for text in notes.general:
        console.print(Text(text, style="yellow"))


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
    if told := circumstances(report, pair):
        console.print(Text(told, style="dim"))
    print_notes(notes, console)


# --------------------------------------------------------------------- Markdown


def escape_markdown(text: str) -> str:
    """Return text that neither ends a table cell nor becomes Markdown or HTML."""
    safe = one_line(text).replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return re.sub(r"([\\`*_\[\]|~$])", r"\\\1", safe)


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
        *(["", f"{escape_markdown(told)}  "] if (told := circumstances(report, pair)) else []),
        *markdown_notes(notes),
    ]
    return "\n".join(lines).rstrip() + "\n"


def markdown_notes(notes: Notes) -> list[str]:
    """Return a table's footnotes as lines under it."""
    return [
        "",
        *(f"<sup>{mark}</sup> {escape_markdown(text)}  " for mark, text in notes.lettered()),
        *(f"{escape_markdown(text)}  " for text in notes.general),
    ]


def markdown_label(label: str, marks: Sequence[str]) -> str:
    """Return a row's label with the letters of its footnotes."""
    return escape_markdown(label) + _superscript(marks)


def _superscript(marks: Sequence[str]) -> str:
    return f" <sup>{','.join(marks)}</sup>" if marks else ""


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
    cells[1] += _superscript(notes.marks(row))
    return f"| {' | '.join(cells)} |"


# -------------------------------------------------------------------------- CSV


def escape_csv(text: str) -> str:
    """Return text that no spreadsheet takes for a formula: an apostrophe stands before `= + - @`."""
    line = one_line(text)
    return f"'{line}" if line.startswith(("=", "+", "-", "@")) else line


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


def csv_text(header: Iterable[str], lines: Iterable[Iterable[object]]) -> str:
    """Return comma-separated values; None is an empty cell."""
    text = io.StringIO()
    write_csv(text, header, lines)
    return text.getvalue()


def write_csv(file: SupportsWrite[str], header: Iterable[str], lines: Iterable[Iterable[object]]) -> None:
    """Write comma-separated values, each line as it comes; None is an empty cell."""
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(header)
    writer.writerows(lines)
