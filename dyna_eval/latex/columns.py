"""Which column of a paper's table is which of ours, and the cells of its rows by our columns.

Columns may have been reordered, retitled, or given cells that span several; a paper may have some of its own.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from dyna_eval.latex.definitions import Macros, expand
from dyna_eval.latex.grid import Head
from dyna_eval.latex.paper import PaperCell, PaperTable, plain


@dataclass(frozen=True, slots=True, kw_only=True)
class PaperColumn:
    """A column of the paper's: which of ours it is, None for one of its own, and how many cells it takes."""

    ours: int | None
    width: int
    title: str | None = None
    """What the paper calls it where its title is not ours, and it was found by its place."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PlacedCells:
    """A row of the paper's: LaTeX by our columns, and what belongs to none."""

    by_column: Mapping[int, str]
    others: tuple[str, ...]


def match_columns(
    paper: PaperTable, now: PaperTable, heads: Sequence[Head], macros: Macros
) -> list[PaperColumn]:
    """Find which of our columns each of the paper's is: by its title, or else by its place.

    `now` is our table read as a paper's, `heads` are its columns, `macros` what the paper defines.
    """
    if not paper.heads:
        return [PaperColumn(ours=index, width=head.width) for index, head in enumerate(heads)]
    titles = [plain(head.latex).casefold() for head in now.heads]
    free = dict(enumerate(titles))
    found: list[int | None] = []
    for head in paper.heads:
        title = plain(expand(head.latex, macros)).casefold()
        found.append(next((index for index, ours in free.items() if ours == title), None))
        free.pop(-1 if found[-1] is None else found[-1], None)
    others = iter(free)  # retitled ones, in their order
    return [
        PaperColumn(
            ours=next(others, None) if index is None else index,
            width=head.span,
            title=plain(expand(head.latex, macros)) if index is None else None,
        )
        for index, head in zip(found, paper.heads, strict=True)
    ]


def placed(cells: Sequence[PaperCell], columns: Sequence[PaperColumn], heads: Sequence[Head]) -> PlacedCells:
    """Return a paper's row by our columns."""
    widths = [column.width if column.ours is None else heads[column.ours].width for column in columns]
    texts = _joined(cells, widths)
    places = [column.ours for column in columns] + [None] * (len(texts) - len(columns))
    by_column = {place: text for place, text in zip(places, texts, strict=False) if place is not None}
    others = [text for place, text in zip(places, texts, strict=False) if place is None]
    return PlacedCells(by_column=by_column, others=tuple(others))


def grouped(cells: Sequence[PaperCell], heads: Sequence[Head]) -> list[str]:
    """Return a row of our own by its columns."""
    return _joined(cells, [head.width for head in heads])


def _joined(cells: Sequence[PaperCell], widths: Sequence[int]) -> list[str]:
    """Join cells to columns by their widths; what is left over stays by itself."""
    columns, at = list[str](), 0
    for wide in widths:
        if at >= len(cells):
            break
        texts, width = list[str](), 0
        while width < wide and at < len(cells):
            texts.append(cells[at].latex)
            width += cells[at].span
            at += 1
        columns.append(" ± ".join(texts))
    return columns + [cell.latex for cell in cells[at:] if cell.latex]
