"""How mistakes in a sweep file are worded, and which of several is reported: the first in the file."""

from __future__ import annotations

import difflib
import math
from collections.abc import Iterable, Mapping, Sequence
from types import MappingProxyType
from typing import TypeVar

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from dyna_eval.errors import SweepFileError
from dyna_eval.yaml_source import Document, Location

Model = TypeVar("Model", bound=BaseModel)

_SHOWN_CHARACTERS = 100
_COMPARED_NAMES = 1000  # difflib is slow, and a suggestion is only a courtesy
_KINDS = {
    "int_type": "a whole number",
    "float_type": "a number",
    "bool_type": "true or false",
    "string_type": "text",
    "list_type": "a list",
    "dict_type": "a mapping of keys to values",
    "model_type": "a mapping of keys to values",
}
_BOUNDS = {
    "greater_than_equal": ("ge", "at least"),
    "greater_than": ("gt", "more than"),
    "less_than_equal": ("le", "at most"),
    "less_than": ("lt", "less than"),
}


class Mistakes:
    """Collects what is wrong with a document while the checks go on."""

    def __init__(self, document: Document) -> None:
        self._document = document
        self._found: list[SweepFileError] = []

    def line(self, location: Location) -> int | None:
        return self._document.place(location).line

    def add(self, location: Location, what: str) -> None:
        place = self._document.place(location)
        self._found.append(SweepFileError(what, file=place.source, line=place.line))

    def check(
        self,
        model: type[Model],
        value: object,
        location: Location,
        items: Mapping[str | int, int] = MappingProxyType({}),
    ) -> Model | None:
        """Validate a value with a pydantic model; None, and its first mistake noted, where it does not fit.

        `items` are the indices of those keys of the value that the file gives as lists.
        """
        try:
            return model.model_validate(value)
        except ValidationError as error:
            found = []
            for details in _most_telling(error.errors(include_url=False)):
                item = [items[key] for key in details["loc"][:1] if key in items]
                found.append(((*location, *details["loc"], *item), details))
            where, first = min(found, key=lambda mistake: self.line(mistake[0]) or math.inf)
            self.add(where, explain(first, model, location))
            return None

    def raise_first(self) -> None:
        """Raise the mistake that stands first in the file; those of command-line options come last."""
        if self._found:
            raise min(self._found, key=lambda mistake: mistake.line or math.inf)


def explain(details: ErrorDetails, model: type[BaseModel], location: Location) -> str:
    """Word one of pydantic's errors about the value at a location for the author of a sweep file."""
    name, given, context = _name(details["loc"] or location), shown(details["input"]), details.get("ctx", {})
    match details["type"]:
        case "missing":
            what = f"{name} is missing; add it"
        case "extra_forbidden":
            what = unknown("key", str(details["loc"][-1]), model.model_fields)
        case "literal_error":
            what = f"{name} should be {context['expected']}, not {given}"
        case "string_too_short" | "too_short":
            what = f"{name} should not be empty"
        case "string_too_long" | "too_long":
            unit = "characters" if isinstance(details["input"], str) else "items"
            what = f"{name} should have at most {context['max_length']} {unit}; shorten it"
        case "value_error":
            what = f"{name} {context['error']}"
        case kind if kind in _BOUNDS:
            key, words = _BOUNDS[kind]
            bound = context[key]
            what = f"{name} should be {words} {int(bound) if bound == int(bound) else bound}, not {given}"
        case kind if kind in _KINDS:
            what = f"{name} should be {_KINDS[kind]}, not {given}"
            if kind == "string_type" and isinstance(details["input"], int | float):
                what += "; put it in quotes"
        case _:
            what = f"{name}: {details['msg']}, not {given}"
    return what


_MOST_LISTED = 20


def unknown(
    noun: str,
    name: str,
    known: Iterable[str],
    other_names: Mapping[str, Sequence[str]] = MappingProxyType({}),
) -> str:
    """Say that a name is unknown, and which one is meant, or all of them where they are few.

    `other_names` are those that known ones have elsewhere, in lower case; a name that none has is taken for a
    misspelt one.
    """
    choices = list(known)
    if meant := _called(name, choices, other_names):
        remedy = f"did you mean {' or '.join(map(shown, meant))}?"
    else:
        remedy = f"known: {', '.join(choices)}" if 0 < len(choices) <= _MOST_LISTED else "leave it out"
    return f"unknown {noun} {shown(name)}; {remedy}"


def _called(name: str, known: Sequence[str], other_names: Mapping[str, Sequence[str]]) -> list[str]:
    """Return the known names that another tool's name stands for, else the nearest one, if any is near."""
    plain = name[:_SHOWN_CHARACTERS].lower().replace("-", "_")
    meant = [choice for choice in known if plain in other_names.get(choice, ())]
    if meant:
        return meant
    near = nearest(name, known)
    return [near] if near else []


def nearest(name: str, known: Sequence[str]) -> str | None:
    """Return the known name that is so near to an unknown one that it may be meant, or None."""
    by_lower_case = {choice.lower(): choice for choice in known[:_COMPARED_NAMES]}
    near = difflib.get_close_matches(name[:100].lower(), by_lower_case, n=1)
    return by_lower_case[near[0]] if near else None


def shown(value: object) -> str:
    """Return a value as it may stand in a one-line message."""
    match value:
        case str():
            return repr(_cut(str(value)))
        case bool():
            return str(value).lower()
        case None:
            return "nothing"
        case dict():
            return "a mapping"
        case list():
            return "a list"
        case _:
            return _cut(str(value))


def _cut(text: str) -> str:
    return text if len(text) <= _SHOWN_CHARACTERS else f"{text[:_SHOWN_CHARACTERS]}..."


def _name(location: Location) -> str:
    names = [part for part in location if isinstance(part, str)]
    return repr(names[-1]) if location[-1] == names[-1] else f"an item of {names[-1]!r}"


def _most_telling(found: list[ErrorDetails]) -> list[ErrorDetails]:
    """Leave out missing keys where there are unknown ones: one is probably the other, misspelt."""
    misspelt = any(details["type"] == "extra_forbidden" for details in found)
    return [details for details in found if not (misspelt and details["type"] == "missing")]
