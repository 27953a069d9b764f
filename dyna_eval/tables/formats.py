"""How tables are written in a terminal, in Markdown and in CSV: what all of them share.

Labels and names are the user's text; each format has its own way to escape it.
"""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, TextIO

from dyna_eval.reports.cells import Notes
from dyna_eval.wording import one_line

if TYPE_CHECKING:
    from _typeshed import SupportsWrite
    from rich.console import Console, RenderableType
    from rich.table import Table
    from rich.text import Text

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


# --------------------------------------------------------------------- Markdown


def escape_markdown(text: str) -> str:
    """Return text that neither ends a table cell nor becomes Markdown or HTML."""
    safe = one_line(text).replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return re.sub(r"([\\`*_\[\]|~$])", r"\\\1", safe)


def markdown_notes(notes: Notes) -> list[str]:
    """Return a table's footnotes as lines under it."""
    return [
        "",
        *(f"<sup>{mark}</sup> {escape_markdown(text)}  " for mark, text in notes.lettered()),
        *(f"{escape_markdown(text)}  " for text in notes.general),
    ]


def markdown_label(label: str, marks: Sequence[str]) -> str:
    """Return a row's label with the letters of its footnotes."""
    return escape_markdown(label) + superscript(marks)


def superscript(marks: Sequence[str]) -> str:
    """Return the letters of a row's footnotes as they stand after its label."""
    return f" <sup>{','.join(marks)}</sup>" if marks else ""


# -------------------------------------------------------------------------- CSV


def escape_csv(text: str) -> str:
    """Return text that no spreadsheet takes for a formula: an apostrophe stands before `= + - @`."""
    line = one_line(text)
    return f"'{line}" if line.startswith(("=", "+", "-", "@")) else line


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
