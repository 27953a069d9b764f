"""What `--set` changes in a sweep file: applied to it, and kept as comments below its text in the record.

Such a comment is what the command line had, `# --set generation.seed=1`, one a line.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Sequence
from dataclasses import replace

from dyna_eval.errors import SweepFileError
from dyna_eval.yaml_source import MAX_DEPTH, Document, WrittenText, printable, read_yaml, written_texts

_MARK = "# --set "
_COMMENT = re.compile(f"^{_MARK}(.*)$", re.MULTILINE)
_INDEX = re.compile("[0-9]{1,9}")


def apply_overrides(document: Document, overrides: Sequence[str]) -> Document:
    """Apply assignments such as `generation.seed=1`, whose values are YAML; mistakes name the option."""
    for assignment in overrides:
        document = _applied(document, assignment)
    return document


def _applied(document: Document, assignment: str) -> Document:
    option = printable(f"--set {assignment}")
    keys, text = _parts(assignment)
    if text is None or not all(keys) or len(keys) > MAX_DEPTH:
        raise SweepFileError("is not KEY=VALUE; write it as generation.max_new_tokens=64", file=option)
    try:
        value = read_yaml(text, file=option).value if text.strip() else None
    except SweepFileError as error:
        raise SweepFileError(error.what, file=option) from error
    location = tuple(int(key) if _INDEX.fullmatch(key) else key for key in keys)
    return document.replace(location, value, option=option)


def _parts(assignment: str) -> tuple[list[str], str | None]:
    """Return the keys that lead to what is set, and the text of its value; None where there is no value."""
    dotted, equals, text = assignment.partition("=")
    return dotted.strip().split("."), text if equals else None


# -------------------------------------------------------------------- in the record


def recorded(text: str, overrides: Sequence[str]) -> str:
    """Return a sweep file's text as the record keeps it."""
    comments = [f"{_MARK}{printable(assignment, most=len(assignment))}" for assignment in overrides]
    return "\n".join([text, *comments]) if comments else text


def read_recorded(source: str, *, file: str) -> Document:
    """Read a recorded text with what was set; raises SweepFileError as reading the sweep file does."""
    lines = itertools.takewhile(lambda line: line.startswith(_MARK), reversed(source.split("\n")))
    overrides = [line.removeprefix(_MARK) for line in lines]
    return apply_overrides(read_yaml(source, file=file), overrides[::-1])


def recorded_texts(source: str) -> list[WrittenText]:
    """Return the scalars of a recorded text by their keys, also those that were set, in their order there.

    Comments of this kind count wherever they stand: whoever looks for what a text tells misses none.
    """
    found = list(written_texts(source))
    for comment in _COMMENT.finditer(source):
        keys, text = _parts(comment[1])
        if text is None:
            continue
        key = next((key for key in reversed(keys) if not _INDEX.fullmatch(key)), "")
        start = comment.end() - len(text)
        found += (
            replace(written, start=start + written.start, end=start + written.end)
            for written in written_texts(text, key)
        )
    return sorted(found, key=lambda written: written.start)
