"""A result file as plain values, of JSON or of a table's cells, and the checks that all formats share.

Whatever bytes a file holds, it is read whole and right, or refused with one line that says where and what.
"""

from __future__ import annotations

import csv
import hashlib
import io
import json
import stat
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any, NoReturn, TypeVar

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from dyna_eval.errors import ImportFileError
from dyna_eval.mistakes import shown
from dyna_eval.wording import one_line

MAX_BYTES = 50_000_000
MAX_LABEL = 200
_LARGEST = 2**63 - 1
_LABEL = "label"
"""The column by which a table is known."""

Model = TypeVar("Model", bound=BaseModel)


@dataclass(frozen=True, slots=True, kw_only=True)
class Content:
    """A file's values: one of a JSON document, or one per line of JSON lines or of a table, each with its
    line."""

    file: str
    sha256: str
    values: tuple[tuple[int, object], ...]
    columns: tuple[str, ...] = ()
    """Of a table of comma-separated values, whose values are texts by column; empty for JSON."""

    @property
    def first(self) -> object:
        return self.values[0][1]

    @property
    def document(self) -> dict[str, Any]:
        """The one JSON object of the file; empty where it is something else."""
        return self.first if len(self.values) == 1 and isinstance(self.first, dict) else {}

    def refuse(self, what: str, line: int | None = None) -> NoReturn:
        raise ImportFileError(f"{self.file}:{line}: {what}" if line else f"{self.file}: {what}")

    def check(self, model: type[Model], value: object, where: str = "", line: int | None = None) -> Model:
        """Validate a value with a pydantic model; `where` leads to it, as `results[3]`."""
        try:
            return model.model_validate(value)
        except ValidationError as error:
            first = error.errors(include_url=False)[0]
            self.refuse(f"{_location(where, first['loc'])} {_wrong(first)}", line)


def read(path: Path) -> Content:
    """Read a file of JSON, of JSON lines, or of comma-separated values with a column `label`.

    Raises ImportFileError where it is anything else, or damaged.
    """
    name = plain(path.name) or "file"
    data = _bytes(path, plain(str(path)))
    content = Content(file=name, sha256=hashlib.sha256(data).hexdigest(), values=())
    if data.startswith((b"\xff\xfe", b"\xfe\xff")):
        content.refuse("is UTF-16 text; save it as UTF-8")
    if b"\0" in data:
        content.refuse("is a binary file, not JSON")
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        content.refuse("is not UTF-8 text; save it as UTF-8", data.count(b"\n", 0, error.start) + 1)
    if not text.strip():
        content.refuse("is empty")
    columns = _cells(text.lstrip().partition("\n")[0])
    if _LABEL in columns:
        return _table(content, text)
    if path.suffix.lower() == ".csv" and not text.lstrip().startswith(("{", "[")):
        known = shown(plain(", ".join(columns)))
        what = f"has no column {_LABEL!r}, only {known}; a table needs one, and commas between its columns"
        content.refuse(what, 1)
    return Content(file=name, sha256=content.sha256, values=_values(content, text))


def _bytes(path: Path, name: str) -> bytes:
    try:
        if not stat.S_ISREG(path.stat().st_mode):  # a pipe or a device may never end
            raise ImportFileError(f"{name}: is not a file; name a result file")
        with path.open("rb") as stream:
            data = stream.read(MAX_BYTES + 1)
    except (OSError, ValueError) as error:
        raise ImportFileError(
            f"{name}: cannot be read: {getattr(error, 'strerror', None) or error}"
        ) from error
    if len(data) > MAX_BYTES:
        raise ImportFileError(f"{name}: is larger than {MAX_BYTES:,} bytes, the limit of an import")
    return data


def _cells(line: str) -> list[str]:
    """Return the cells of a line by itself; none where it is no line of a table."""
    try:
        return [cell.strip() for cell in next(csv.reader([line], strict=True), [])]
    except csv.Error:
        return []


def _table(content: Content, text: str) -> Content:
    lines = csv.reader(io.StringIO(text, newline=""), strict=True, skipinitialspace=True)
    columns: tuple[str, ...] = ()
    values: list[tuple[int, object]] = []
    try:
        for line in lines:
            cells = tuple(cell.strip() for cell in line)
            if not any(cells):
                continue
            if not columns:
                columns = cells
            elif len(cells) != len(columns):
                content.refuse(f"has {len(cells)} cells under {len(columns)} columns", lines.line_num)
            else:
                values.append((lines.line_num, dict(zip(columns, cells, strict=True))))
    except csv.Error as error:
        content.refuse(f"is a damaged table: {error}", lines.line_num)
    if len(set(columns)) < len(columns):
        twice = next(name for name in columns if columns.count(name) > 1)
        content.refuse(f"has the column {shown(plain(twice))} twice", 1)
    if not values:
        content.refuse("holds no rows")
    if not text.endswith(("\n", "\r")):
        content.refuse(
            "its last line has no end, so it may be cut off; end it by a line break", lines.line_num
        )
    return replace(content, values=tuple(values), columns=columns)


def _values(content: Content, text: str) -> tuple[tuple[int, object], ...]:
    lines = text.split("\n")
    first = next(number for number, line in enumerate(lines) if line.strip())
    rest = any(line.strip() for line in lines[first + 1 :])
    if rest and _is_object(lines[first]):
        return tuple(
            (number, _value(content, line, number))
            for number, line in enumerate(lines, start=1)
            if line.strip()
        )
    return ((1, _value(content, text, None)),)


def _is_object(line: str) -> bool:
    try:
        return isinstance(_LOADER.decode(line.strip()), dict)
    except (ValueError, RecursionError):
        return False


def _value(content: Content, text: str, line: int | None) -> object:
    try:
        return _LOADER.decode(text.strip())
    except json.JSONDecodeError as error:
        skipped = len(text) - len(text.lstrip())
        place = line or text.count("\n", 0, skipped + error.pos) + 1
        content.refuse(f"is not JSON, or cut off: {error.msg}", place)
    except RecursionError:
        content.refuse("is nested too deeply", line)
    except ValueError as error:
        content.refuse(str(error), line)


def _constant(name: str) -> NoReturn:
    raise ValueError(f"holds {name}, which is no number; leave out what is unknown")


def _float(text: str) -> float:
    value = float(text)
    if value in (float("inf"), float("-inf")):
        raise ValueError(f"holds {text[:40]}, which is too large")
    return value


def _int(text: str) -> int:
    if len(text) > 20 or abs(int(text)) > _LARGEST:
        raise ValueError(f"holds {text[:40]}, which is too large")
    return int(text)


def _distinct(pairs: list[tuple[str, object]]) -> dict[str, object]:
    found = dict(pairs)
    if len(found) < len(pairs):
        seen: set[str] = set()
        twice = next(key for key, _ in pairs if key in seen or seen.add(key))  # type: ignore[func-returns-value]
        raise ValueError(f"has the key {shown(plain(twice))} twice in one object")
    return found


_LOADER = json.JSONDecoder(
    parse_constant=_constant, parse_float=_float, parse_int=_int, object_pairs_hook=_distinct
)


# ----------------------------------------------------------------------- values


def plain(text: str, limit: int = MAX_LABEL) -> str:
    """Return text on one line, cut to a length."""
    line = one_line(text)
    return line if len(line) <= limit else f"{line[: limit - 1]}…"


def _plain(value: object) -> object:
    return plain(value) if isinstance(value, str) else value


def _given(value: object) -> object:
    """0 stands for what was not recorded in files whose every row has every key."""
    return None if isinstance(value, int | float) and not isinstance(value, bool) and value == 0 else value


Text = Annotated[str, BeforeValidator(_plain)]
Rate = Annotated[float, Field(ge=1e-6, le=1e12, allow_inf_nan=False)]
"""Tokens per second: more than nothing."""
Recorded = Annotated[float | None, Field(ge=0, le=1e18, allow_inf_nan=False), BeforeValidator(_given)]
"""A count or a time, of which 0 means that it was not recorded."""
Count = Annotated[int, Field(ge=0, le=2**53)]
Setting = bool | int | float | Text | None


class FileSection(BaseModel):
    """A part of a file: what this project reads of it. Strict in kinds; further keys are left alone."""

    model_config = ConfigDict(extra="ignore", strict=True, frozen=True)


def _location(where: str, path: Sequence[str | int]) -> str:
    for part in path:
        if isinstance(part, int):
            where += f"[{part}]"
        elif part not in ("bool", "int", "float", "str", "function-before[_plain(), str]"):  # of a union
            where += f".{plain(part)}" if where else plain(part)
    return where or "the file"


def _wrong(error: Any) -> str:
    if error["type"] == "missing":
        return "is missing"
    return f"is {shown(_plain(error['input']))}: {error['msg'][0].lower()}{error['msg'][1:]}"
