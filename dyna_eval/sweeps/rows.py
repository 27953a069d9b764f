"""The rows of a sweep file: each is checked, and its lists are expanded into configurations."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from dyna_eval.errors import PolicyError
from dyna_eval.jobs import Configuration
from dyna_eval.methods import METHODS, OTHER_NAMES, MethodParameters
from dyna_eval.mistakes import Mistakes, shown, unknown
from dyna_eval.policies import parameters_of
from dyna_eval.sweeps.expansion import Axis, axes_of, count_points, expand
from dyna_eval.sweeps.sections import ROW_KEYS, RowSection
from dyna_eval.yaml_source import Location

_ALL_PARAMETERS = tuple(dict.fromkeys(name for method in METHODS.values() for name in method.model_fields))


@dataclass(frozen=True, slots=True, kw_only=True)
class WrittenRow:
    """An entry of `configs` before expansion; the label is empty where it is itself a mistake."""

    location: Location
    label: str
    method: type[MethodParameters]
    parameters: Mapping[str, object]
    axes: tuple[Axis, ...]


def read_rows(value: object, mistakes: Mistakes) -> list[WrittenRow]:
    """Read the entries of `configs` up to the first mistake: those after it come later in the file anyway."""
    rows: list[WrittenRow] = []
    for i, entry in enumerate(value if isinstance(value, list) else []):
        row = _read_row(entry, ("configs", i), mistakes) if isinstance(entry, dict) else None
        if row is None:
            break
        rows.append(row)
    return rows


def _read_row(entry: Mapping[str, object], location: Location, mistakes: Mistakes) -> WrittenRow | None:
    method = _read_method(entry.get("method"), (*location, "method"), mistakes)
    known = [*(method.model_fields if method else _ALL_PARAMETERS), *ROW_KEYS]
    strange = next((key for key in entry if key not in known), None)
    if strange is not None:
        mistakes.add((*location, strange), unknown("key", strange, known, OTHER_NAMES))
        return None
    header = mistakes.check(RowSection, entry, location)
    if method is None:
        return None
    parameters = {key: value for key, value in entry.items() if key not in ROW_KEYS}
    empty = next((key for key, value in parameters.items() if value == []), None)
    if empty is not None:
        mistakes.add((*location, empty), f"{empty!r} lists no value; give it at least one")
        return None
    linked = _read_zip(entry.get("zip", []), parameters, (*location, "zip"), mistakes)
    if linked is None:
        return None
    axes = axes_of(parameters, linked)
    _check_axes(axes, location, mistakes)
    label = header.label if header else ""
    return WrittenRow(location=location, label=label, method=method, parameters=parameters, axes=axes)


def _read_method(value: object, location: Location, mistakes: Mistakes) -> type[MethodParameters] | None:
    if not isinstance(value, str):
        return None  # missing, or not text: the check of the row's own keys says so
    try:
        return parameters_of(value)
    except PolicyError as error:
        mistakes.add(location, str(error))
        return None


def _read_zip(
    value: object, parameters: Mapping[str, object], location: Location, mistakes: Mistakes
) -> list[list[str]] | None:
    """Return the groups of linked lists; one group may be written without a list around it."""
    nested = isinstance(value, list) and all(isinstance(item, list) for item in value)
    linked: list[list[str]] = []
    for written in value if isinstance(value, list) and nested else [value]:
        try:
            group = _read_group(written, parameters)
            if any(name in other for name in group for other in linked):
                raise ValueError("'zip' names a parameter twice; name each once")
        except ValueError as error:
            mistakes.add(location, str(error))
            return None
        linked.append(group)
    return linked


def _read_group(value: object, parameters: Mapping[str, object]) -> list[str]:
    names = [name for name in value if isinstance(name, str)] if isinstance(value, list) else []
    if not isinstance(value, list) or len(set(names)) < max(2, len(value)):
        raise ValueError("'zip' takes the names of two or more lists, such as [depth, branch]")
    lengths = {}
    for name in names:
        if name not in parameters:
            raise ValueError(f"'zip' links lists of this row: {unknown('key', name, parameters)}")
        values = parameters[name]
        if not isinstance(values, list):
            raise ValueError(f"'zip' links lists, but {name!r} is {shown(values)}; make it a list")
        lengths[name] = len(values)
    if len(set(lengths.values())) > 1:
        counts = " and ".join(f"{name!r} has {length}" for name, length in lengths.items())
        raise ValueError(f"'zip' links lists of equal length, but {counts}; make them equal")
    return names


def _check_axes(axes: Sequence[Axis], location: Location, mistakes: Mistakes) -> None:
    for axis in axes:
        seen: set[str] = set()
        for i, row in enumerate(axis.rows):
            values = repr(row)
            if values in seen:
                names = " and ".join(repr(name) for name in axis.names)
                mistakes.add(
                    (*location, axis.names[0], i), f"{names} should not repeat a value; keep one of each"
                )
                break
            seen.add(values)


def expand_rows(rows: Sequence[WrittenRow], limit: int, mistakes: Mistakes) -> list[Configuration]:
    """Expand and resolve all rows, up to the first mistake; nothing if they would exceed the limit."""
    counts = [count_points(row.axes) for row in rows]
    if sum(counts) > limit:
        largest = rows[counts.index(max(counts))]
        mistakes.add(largest.location, too_many(sum(counts), "configurations", limit))
        return []
    owners: dict[str, WrittenRow] = {}
    configurations = []
    for row in rows:
        for point in expand(row.label, row.parameters, row.axes):
            parameters = mistakes.check(row.method, point.parameters, row.location, point.items)
            if parameters is None:
                return []
            if row.label and (owner := owners.setdefault(point.label, row)) is not row:
                line = mistakes.line((*owner.location, "label"))
                what = f"duplicate label {shown(point.label)}, first on line {line}; give every row its own"
                mistakes.add((*row.location, "label"), what)
                return []
            configurations.append(
                Configuration(label=point.label, method=row.method.method, params=parameters.resolved())
            )
    return configurations


def too_many(count: int, noun: str, limit: int) -> str:
    return (
        f"the sweep would make {count:,} {noun}; the limit is {limit:,} (raise it with --max-configurations)"
    )
