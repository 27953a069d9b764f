"""Result files of other tools. A format is known by the keys, or the columns,
that a file has, never by its name.

A new format is one more module with NAME, SUMMARY, `recognises` and `read`, named in `_MODULES`.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Protocol

from dyna_eval.importers import dynatree, own, reading, spec_bench, table
from dyna_eval.importers.reading import Content
from dyna_eval.reports.imported import ImportedFile


class Format(Protocol):
    """What a format's module has."""

    NAME: str
    SUMMARY: str

    def recognises(self, content: Content) -> bool:
        """Say whether a file has this format's keys."""

    def read(self, content: Content) -> ImportedFile:
        """Return what a file holds, or raise ImportFileError."""


_MODULES: tuple[Format, ...] = (dynatree, spec_bench, own, table)

FORMATS: Mapping[str, Format] = {module.NAME: module for module in _MODULES}


def import_file(path: Path, format_name: str | None = None) -> ImportedFile:
    """Read a result file. Raises ImportFileError where its format is unknown, or it is damaged.

    `format_name` asks for one of FORMATS instead of whichever knows the file.
    """
    content = reading.read(path)
    candidates = FORMATS.values() if format_name is None else (FORMATS[format_name],)
    known = next((module for module in candidates if module.recognises(content)), None)
    if known is None:
        what = "is of no known format" if format_name is None else f"has not the keys of {format_name}"
        content.refuse(f"{what}; `dyna-eval import --formats` lists what is known")
    return known.read(content)
