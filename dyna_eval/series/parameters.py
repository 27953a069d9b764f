"""Which parameters a sweep sweeps, and which of them spans which dimension of a figure."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import TypeGuard

from dyna_eval.errors import InputError, NothingToDrawError
from dyna_eval.jobs import Method, Scalar
from dyna_eval.methods import METHODS, SYMBOLS
from dyna_eval.mistakes import nearest, shown
from dyna_eval.reports.cells import tree_text
from dyna_eval.reports.report import Row

_OF_ROWS = ("method", "pair")
"""What a row has beside the parameters of its method, and what a figure can be spanned by as well."""

_PATHS = "paths"
"""The parameter of `static_tree` that lists every node."""

_SYMBOLS = {**SYMBOLS, "max_nodes": "N", "width": "W"}
_TITLES = {
    "k": "Draft length K (tokens)",
    "num_assistant_tokens": "Draft length K (tokens)",
    "depth": "Tree depth D (levels)",
    "branch": "Branching factor B (children per node)",
    "threshold": "Pruning threshold τ (probability)",
    "max_nodes": "Node cap N (nodes per round)",
    "width": "Width W (nodes per level)",
    _PATHS: "Tree, node by node",
    "ngram": "Longest n-gram (tokens)",
}


class Scale(StrEnum):
    LINEAR = "linear"
    LOG = "log"
    CATEGORY = "category"


@dataclass(frozen=True, slots=True, kw_only=True)
class Parameter:
    """A swept parameter with its values, ascending where they are numbers."""

    name: str
    title: str
    values: tuple[Scalar, ...]
    scale: Scale

    @classmethod
    def of(cls, name: str, rows: Sequence[Row]) -> Parameter:
        found = {value_of(row, name) for row in rows} - {None}
        numbers = sorted(value for value in found if _is_number(value))
        others = list(dict.fromkeys(value_of(row, name) for row in rows))
        is_numeric = len(numbers) == len(found)
        values = tuple(numbers) if is_numeric else tuple(value for value in others if value is not None)
        return cls(
            name=name,
            title=_TITLES.get(name, name.replace("_", " ").capitalize()),
            values=values,
            scale=_scale([float(value) for value in numbers]) if is_numeric else Scale.CATEGORY,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Span:
    """What spans a figure: the horizontal axis, the curves, and the rows and columns of its panels."""

    x: str
    curves: tuple[str, ...] = ()
    row: str | None = None
    column: str | None = None

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(name for name in (self.x, *self.curves, self.row, self.column) if name)


def value_of(row: Row, name: str) -> Scalar:
    """Return a row's value of a parameter; None where its method has no such parameter."""
    if name == "method":
        return row.method.value
    return row.pair if name == "pair" else row.params.get(name)


def value_text(name: str, value: Scalar) -> str:
    """Return a value with its parameter, for people: `D = 4`, `threshold = 0.05` as `τ = 0.05`."""
    if name in _OF_ROWS or (name == _PATHS and value is not None):
        return str(value)
    if value is None:
        return f"no {name}"
    return f"{_SYMBOLS.get(name, name)} = {bare_text(value)}"


def bare_text(value: Scalar) -> str:
    return f"{value:g}" if _is_number(value) else str(value)


def with_short_trees(rows: Sequence[Row], among: Sequence[Row] = ()) -> list[Row]:
    """Return rows with the sizes of trees that are given node by node in the place of their nodes.

    `among` are all rows of the sweep; those of their trees that are of one size are numbered in their order:
    `D=4, 26 nodes (2)`.
    """
    listed = (row.params.get(_PATHS) for row in (*among, *rows) if row.method is Method.STATIC_TREE)
    nodes = list(dict.fromkeys(str(paths) for paths in listed if paths))
    alike: dict[str, list[str]] = {}
    for paths in nodes:
        alike.setdefault(tree_text(paths), []).append(paths)
    short = {
        paths: f"{size} ({number})" if len(own) > 1 else size
        for size, own in alike.items()
        for number, paths in enumerate(own, start=1)
    }
    return [
        replace(row, params={**row.params, _PATHS: short[str(row.params[_PATHS])]})
        if row.method is Method.STATIC_TREE and row.params.get(_PATHS)
        else row
        for row in rows
    ]


def swept(rows: Iterable[Row]) -> tuple[str, ...]:
    """Return the names that take several values: within one method of a pair, or over methods and pairs."""
    rows = list(rows)
    names = dict.fromkeys(name for method in METHODS.values() for name in method.model_fields)
    names |= dict.fromkeys(name for row in rows if row.method.is_external for name in row.params)
    groups: dict[tuple[str, Method], list[Row]] = {}
    for row in rows:
        groups.setdefault((row.pair, row.method), []).append(row)
    own = [name for name in names if any(_varies(group, name) for group in groups.values())]
    return (*own, *(name for name in _OF_ROWS if _varies(rows, name)))


def independent(rows: Sequence[Row]) -> tuple[str, ...]:
    """Return the swept names without those that follow from others, as a cap may follow from the depth."""
    kept: list[str] = []
    names = swept(rows)
    for name in ("method", *(name for name in names if name != "method")):
        if name in names and not _follows(rows, name, kept):
            kept.append(name)
    return tuple(kept)


def spans_by_default(rows: Sequence[Row]) -> tuple[str, ...]:
    """Return the horizontal axes worth a figure each: of every method the parameter of most values."""
    chosen: dict[str, None] = {}
    for method in dict.fromkeys(row.method for row in rows):
        own = [row for row in rows if row.method is method]
        names = [name for name in independent(own) if name not in _OF_ROWS]
        if names:
            chosen[max(names, key=lambda name: _worth(own, name))] = None
    return tuple(chosen)


def taking_part(rows: Sequence[Row], name: str) -> tuple[Row, ...]:
    """Return the rows of the methods in which a parameter is swept."""
    if name in _OF_ROWS:
        return tuple(rows)
    methods = {row.method for row in rows}
    vary = {m for m in methods if name in swept([row for row in rows if row.method is m])}
    return tuple(row for row in rows if row.method in vary and value_of(row, name) is not None)


def span(
    rows: Sequence[Row],
    *,
    x: str | None = None,
    curves: Sequence[str] = (),
    row: str | None = None,
    column: str | None = None,
    among: Sequence[Row] = (),
) -> Span:
    """Choose what spans a figure of some rows; what is not chosen is filled with what else is swept.

    `among` are all rows of the sweep, where the figure is of some of them. Raises InputError for a name that
    is not swept, which tells the nearest one and all that are; NothingToDrawError where nothing is swept, or
    the name by other rows alone.
    """
    known = swept(rows)
    given = [name for name in (x, *curves, row, column) if name is not None]
    for name in given:
        require_swept(name, rows, among)
    twice = next((name for name in given if given.count(name) > 1), None)
    if twice is not None:
        raise InputError(f"{twice!r} spans two dimensions of the figure; use it once")
    if x is None:
        default = [name for name in spans_by_default(rows) if name not in given]
        x = next(iter([*default, *(name for name in known if name not in given)]), None)
    if x is None:
        raise NothingToDrawError("no parameter takes several values")
    if x == "method":  # which have few parameters in common
        if not curves and "pair" in known and "pair" not in given:
            curves = ["pair"]
        return Span(x=x, curves=tuple(curves), row=row, column=column)
    rows = taking_part(rows, x)
    free = [name for name in independent(rows) if name not in (*given, x) and not _follows(rows, name, [x])]
    free.sort(key=lambda name: _worth(rows, name), reverse=True)
    if not curves and free:
        curves = [free.pop(0)]
    if column is None and free:
        column = free.pop(0)
    if row is None and free:
        row = free.pop(0)
    return Span(x=x, curves=tuple(curves), row=row, column=column)


def require_swept(name: str, rows: Sequence[Row], among: Sequence[Row] = ()) -> None:
    """Raise InputError unless a parameter is swept, NothingToDrawError where it is by other rows alone."""
    if name in swept(rows):
        return
    known = swept([*rows, *among])
    if name in known:
        raise NothingToDrawError(f"no finished rows sweep {name}")
    if not known:
        raise NothingToDrawError("no parameter takes several values")
    every = [*_OF_ROWS, *(field for method in METHODS.values() for field in method.model_fields)]
    if name in every:
        raise InputError(f"{name!r} has one value in this sweep; swept are {', '.join(known)}")
    near = nearest(name, [*known, *(field for field in every if field not in known)])
    hint = f" (did you mean {shown(near)}?)" if near else ""
    raise InputError(f"unknown parameter {shown(name)}{hint}; swept are {', '.join(known)}")


def separate(rows: Sequence[Row], names: Sequence[str]) -> tuple[str, ...]:
    """Return the names and as many further ones as it takes to tell all rows apart that can be told apart."""
    kept, every = list(names), [*swept(rows), "method"]
    while (name := _first_difference(rows, kept, every)) is not None:
        kept.append(name)
    return tuple(kept)


def _first_difference(rows: Sequence[Row], names: Sequence[str], every: Sequence[str]) -> str | None:
    """Return a name of which two rows have different values that agree in all of some names."""
    seen: dict[tuple[Scalar, ...], Row] = {}
    for row in rows:
        other = seen.setdefault(tuple(value_of(row, name) for name in names), row)
        for name in every:
            if value_of(other, name) != value_of(row, name):
                return name
    return None


def _varies(rows: Iterable[Row], name: str) -> bool:
    return len({value_of(row, name) for row in rows} - {None}) > 1


def _follows(rows: Sequence[Row], name: str, others: Sequence[str]) -> bool:
    """Whether a value is determined by those of other parameters in all rows."""
    seen: dict[tuple[Scalar, ...], Scalar] = {}
    return all(
        seen.setdefault(tuple(value_of(row, other) for other in others), value_of(row, name))
        == value_of(row, name)
        for row in rows
    )


def _worth(rows: Sequence[Row], name: str) -> tuple[bool, int]:
    """Numbers before names, and many values before few."""
    values = {value_of(row, name) for row in rows} - {None}
    return all(map(_is_number, values)), len(values)


def _is_number(value: Scalar) -> TypeGuard[int | float]:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _scale(numbers: Sequence[float]) -> Scale:
    """Logarithmic where values multiply: positive, three or more, and over a factor of eight."""
    wide = len(numbers) > 2 and numbers[0] > 0 and numbers[-1] / numbers[0] >= 8
    return Scale.LOG if wide else Scale.LINEAR
