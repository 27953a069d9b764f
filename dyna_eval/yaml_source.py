"""Safe YAML: plain values, and the place in the file where each of them was written.

Stricter than YAML 1.1, to close its traps: only `true` and `false` are booleans, `1e-3` is a number,
`010`, `1_000`, `1:30` and dates are text, a duplicate key is a mistake, and no tag builds an object. Size,
depth and the number of values are bounded before anything is built, aliases counted as if written out.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

import yaml

from dyna_eval.errors import SweepFileError

MAX_BYTES = 1_000_000
MAX_DEPTH = 64
MAX_VALUES = 100_000

_TOO_DEEP = f"values are nested more than {MAX_DEPTH} deep; write the sweep flatter"

Location = tuple[str | int, ...]
"""The keys and list indices that lead from the document to a value."""

_LOADER = getattr(
    yaml, "CSafeLoader", yaml.SafeLoader
)  # ten times faster where PyYAML was built with libyaml
_TEXT_TAGS = ("!", "tag:yaml.org,2002:str")
_WHOLE = "(0|[1-9][0-9]{0,98})"
_INTEGER = re.compile(f"[-+]?{_WHOLE}")
_FLOAT = re.compile(rf"[-+]?(\.[0-9]{{1,99}}|{_WHOLE}(\.[0-9]{{0,99}})?)([eE][-+]?[0-9]{{1,9}})?")
_NOT_FINITE = re.compile(r"[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)")
_WORDS: Mapping[str, bool | None] = (
    dict.fromkeys(("", "~", "null", "Null", "NULL"))
    | dict.fromkeys(("true", "True", "TRUE"), True)
    | dict.fromkeys(("false", "False", "FALSE"), False)
)
_UNPRINTABLE = re.compile("[^\t\n\r\x20-\x7e\x85\xa0-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """Where a value was written: a line of a file, or an option of the command line (no line)."""

    source: str
    line: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Document:
    """A YAML document as plain values. A mapping's entry is placed at its key, a list's at the item."""

    value: object
    places: Mapping[Location, Place]

    def place(self, location: Location) -> Place:
        """Return where a value was written; for one that was not, where the nearest around it was."""
        while location not in self.places:
            location = location[:-1]
        return self.places[location]

    def replace(self, location: Location, value: object, *, option: str) -> Document:
        """Return the document with one value set by an option; mappings on the way are made as needed.

        Raises SweepFileError, naming the option, where the location leads through something else.
        """
        outside = {at: place for at, place in self.places.items() if at[: len(location)] != location}
        around = (location[:depth] for depth in range(1, len(location) + 1))
        made = {at: Place(source=option) for at in around if at not in outside}
        return Document(value=_assign(self.value, location, value, option), places=outside | made)


def read_file(path: Path) -> str:
    """Read a file of at most 1 MB of UTF-8 text; SweepFileError says what is wrong with it otherwise."""
    file = printable(str(path))
    try:
        if path.exists() and not path.is_file():
            raise SweepFileError("is not a file; name a sweep file in YAML", file=file)
        with path.open("rb") as stream:
            data = stream.read(MAX_BYTES + 1)
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise SweepFileError(f"cannot be read: {reason}", file=file) from error
    if len(data) > MAX_BYTES:
        line = data.count(b"\n", 0, MAX_BYTES) + 1
        what = f"is larger than {MAX_BYTES:,} bytes, which end here; a sweep file is much smaller"
        raise SweepFileError(what, file=file, line=line)
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise SweepFileError("is not UTF-8 text; save it as UTF-8", file=file, line=line) from error


def read_yaml(text: str, *, file: str) -> Document:
    """Read one YAML document. Raises SweepFileError with the line of the first mistake."""
    if len(text) > MAX_BYTES:
        raise SweepFileError(f"is longer than {MAX_BYTES:,} characters", file=file)
    if found := _UNPRINTABLE.search(text):
        line = text.count("\n", 0, found.start()) + 1
        what = f"holds the control character U+{ord(found[0]):04X}; a sweep file is plain text"
        raise SweepFileError(what, file=file, line=line)
    try:
        root = _Composer(text, file).document()
    except yaml.MarkedYAMLError as error:
        line = _error_line(error, text)
        raise SweepFileError(_syntax(error, text.splitlines()[line - 1]), file=file, line=line) from error
    places: dict[Location, Place] = {}
    value = _Expansion(file, places).values(root, (), root.line)
    return Document(value=value, places=places)


@dataclass(frozen=True, slots=True, kw_only=True)
class WrittenText:
    """A scalar of a YAML text as it is written: `text[start:end]`, with quotes, in characters."""

    key: str
    value: str
    start: int
    end: int


def written_texts(text: str, key: str = "") -> Iterator[WrittenText]:
    """Yield the scalars of a text by the nearest key above them, up to where `read_yaml` would refuse it.

    Aliases are not followed, so nothing is built. `key` is that of a text that is itself one value.
    """
    above = [key]  # the key of each container around
    awaits_key = [False]
    in_mapping = [False]
    try:
        for event in yaml.parse(text, Loader=_LOADER):
            if awaits_key[-1] and not isinstance(event, yaml.CollectionEndEvent):
                if not isinstance(event, yaml.ScalarEvent):
                    return
                above[-1], awaits_key[-1] = event.value, False
                continue
            match event:
                case yaml.ScalarEvent(value=value, start_mark=start, end_mark=end) if start and end:
                    yield WrittenText(key=above[-1], value=value, start=start.index, end=end.index)
                case yaml.CollectionStartEvent():
                    is_mapping = isinstance(event, yaml.MappingStartEvent)
                    above.append(above[-1])
                    in_mapping.append(is_mapping)
                    awaits_key.append(is_mapping)
                    continue
                case yaml.CollectionEndEvent():
                    for levels in (above, in_mapping, awaits_key):
                        levels.pop()
            awaits_key[-1] = in_mapping[-1]
    except yaml.YAMLError:
        return


def printable(text: str, *, most: int = 1000) -> str:
    """Return a text as it may stand in a line: what does not print is replaced, beyond `most` it is cut."""
    shown = "".join(character if character.isprintable() else "?" for character in text[:most])
    return shown if len(text) <= most else f"{shown}..."


@dataclass(frozen=True, slots=True)
class _Node:
    """A composed value and its line."""

    line: int
    content: _Content


@dataclass(frozen=True, slots=True)
class _Entry:
    """A mapping's value and the line of its key."""

    line: int
    node: _Node


_Content = str | float | bool | list[_Node] | dict[str, _Entry] | None


class _Composer:
    """Builds nodes from parser events, so that depth, size, keys and tags are checked as they come."""

    def __init__(self, text: str, file: str) -> None:
        self._events: Iterator[yaml.Event] = iter(yaml.parse(text, Loader=_LOADER))
        self._file = file
        self._anchors: dict[str, _Node] = {}
        self._values = 0

    def document(self) -> _Node:
        next(self._events)  # the start of the stream
        if isinstance(next(self._events), yaml.StreamEndEvent):
            _refuse(self._file, 1, "the file is empty; examples/four-step.yaml shows what belongs in it")
        root = self._node(next(self._events), depth=1)
        next(self._events)  # the end of the document
        after = next(self._events)
        if not isinstance(after, yaml.StreamEndEvent):
            _refuse(self._file, _line(after), "a second document begins here; write one sweep per file")
        return root

    def _node(self, event: yaml.Event, depth: int) -> _Node:
        line = _line(event)
        _check_depth(depth, self._file, line)
        self._count(1, line)
        match event:
            case yaml.AliasEvent():
                name = str(event.anchor)
                if name not in self._anchors:
                    _refuse(self._file, line, f"alias *{_shorten(name)} has no anchor of that name before it")
                return self._anchors[name]
            case yaml.ScalarEvent():
                node = _Node(line, self._scalar(event))
            case yaml.SequenceStartEvent():
                self._check_tag(event)
                node = _Node(line, self._items(depth))
            case _:
                self._check_tag(event)
                node = _Node(line, self._entries(depth))
        anchor = getattr(event, "anchor", None)
        if anchor is not None:
            self._anchors[anchor] = node  # only now, so that no value can contain itself
        return node

    def _items(self, depth: int) -> list[_Node]:
        items = []
        while not isinstance(event := next(self._events), yaml.SequenceEndEvent):
            items.append(self._node(event, depth + 1))
        return items

    def _entries(self, depth: int) -> dict[str, _Entry]:
        written: dict[str, _Entry] = {}
        inherited: dict[str, _Entry] = {}
        while not isinstance(event := next(self._events), yaml.MappingEndEvent):
            key, line = self._key(event), _line(event)
            node = self._node(next(self._events), depth + 1)
            if key == "<<":
                inherited = self._inherited(node, line)
            elif key in written:
                what = f"duplicate key {_shorten(key)!r}, first on line {written[key].line}; keep one of them"
                _refuse(self._file, line, what)
            else:
                written[key] = _Entry(line, node)
        return inherited | written

    def _key(self, event: yaml.Event) -> str:
        if not isinstance(event, yaml.ScalarEvent):
            _refuse(self._file, _line(event), "a key must be a single word")
        self._check_tag(event)
        self._count(1, _line(event))
        return event.value

    def _inherited(self, node: _Node, line: int) -> dict[str, _Entry]:
        """Return what a merge key `<<` brings in: of several mappings, the first that has a key counts."""
        merged: dict[str, _Entry] = {}
        for source in node.content if isinstance(node.content, list) else [node]:
            if not isinstance(source.content, dict):
                _refuse(self._file, line, "'<<' takes a mapping, or a list of mappings")
            self._count(len(source.content), line)
            merged = source.content | merged
        return merged

    def _scalar(self, event: yaml.ScalarEvent) -> str | float | bool | None:
        self._check_tag(event)
        if not event.implicit[0]:  # quoted, or tagged as text
            return event.value
        if _NOT_FINITE.fullmatch(event.value):
            _refuse(
                self._file, _line(event), f"{event.value} is not a number to compute with; give a finite one"
            )
        value = _plain(event.value)
        if isinstance(value, float) and math.isinf(value):
            _refuse(self._file, _line(event), f"{_shorten(event.value)} is too large a number")
        return value

    def _check_tag(self, event: yaml.Event) -> None:
        tag = getattr(event, "tag", None)
        if tag is not None and not (isinstance(event, yaml.ScalarEvent) and tag in _TEXT_TAGS):
            shown = tag.replace("tag:yaml.org,2002:", "!!")
            _refuse(self._file, _line(event), f"unsupported tag {_shorten(shown)!r}; leave it out")

    def _count(self, values: int, line: int) -> None:
        self._values += values
        _check_size(self._values, self._file, line)


class _Expansion:
    """Turns nodes into plain values and places. What an alias stands for is built again at each use."""

    def __init__(self, file: str, places: dict[Location, Place]) -> None:
        self._file, self._places = file, places

    def values(self, node: _Node, location: Location, line: int) -> object:
        _check_depth(len(location) + 1, self._file, line)
        self._places[location] = Place(source=self._file, line=line)
        _check_size(len(self._places), self._file, line)
        if isinstance(node.content, list):
            return [self.values(item, (*location, i), item.line) for i, item in enumerate(node.content)]
        if isinstance(node.content, dict):
            return {
                key: self.values(entry.node, (*location, key), entry.line)
                for key, entry in node.content.items()
            }
        return node.content


def _plain(text: str) -> str | float | bool | None:
    if text in _WORDS:
        return _WORDS[text]
    if _INTEGER.fullmatch(text):
        return int(text)
    return float(text) if _FLOAT.fullmatch(text) else text


def _assign(container: object, location: Sequence[str | int], value: object, option: str) -> object:
    """Return a copy of a container with one value replaced."""
    if not location:
        return value
    key, rest = location[0], location[1:]
    if isinstance(container, list) and isinstance(key, int) and key < len(container):
        return [*container[:key], _assign(container[key], rest, value, option), *container[key + 1 :]]
    if isinstance(container, dict | None) and isinstance(key, str):
        entries = container or {}
        return {**entries, key: _assign(entries.get(key), rest, value, option)}
    raise SweepFileError(
        f"the sweep file has no place for {key!r} there; set the value around it", file=option
    )


def _error_line(error: yaml.MarkedYAMLError, text: str) -> int:
    mark = error.problem_mark or error.context_mark
    last = len(text.splitlines())  # the end of the file counts as its last line
    return min(mark.line + 1, last) if mark is not None else 1


def _syntax(error: yaml.MarkedYAMLError, line: str) -> str:
    if "nesting depth" in (
        error.problem or ""
    ):  # a limit of PyYAML itself, which it meets while it looks ahead
        return _TOO_DEEP
    mark = error.problem_mark
    if mark is not None and "\t" in line[: mark.column + 1]:
        return "a tab stands where YAML wants spaces; indent with spaces"
    context = f" {error.context}" if error.context else ""
    return f"not valid YAML: {error.problem}{context}; check quotes, brackets and indentation"


def _check_depth(depth: int, file: str, line: int) -> None:
    if depth > MAX_DEPTH:
        _refuse(file, line, _TOO_DEEP)


def _check_size(values: int, file: str, line: int) -> None:
    if values > MAX_VALUES:
        _refuse(file, line, f"the file stands for more than {MAX_VALUES:,} values; write it shorter")


def _line(event: yaml.Event) -> int:
    return event.start_mark.line + 1 if event.start_mark is not None else 1


def _shorten(text: str) -> str:
    return text if len(text) <= 60 else f"{text[:60]}..."


def _refuse(file: str, line: int, what: str) -> NoReturn:
    raise SweepFileError(what, file=file, line=line)
