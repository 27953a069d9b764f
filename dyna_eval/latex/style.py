"""How a table looks. It carries its style in a comment, so that a paper can be checked against the store."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from enum import StrEnum
from typing import Any

from dyna_eval.errors import InputError
from dyna_eval.jobs import canonical_json
from dyna_eval.mistakes import unknown
from dyna_eval.records import AS_IN_THE_FILE, Terms
from dyna_eval.reports.cells import Column
from dyna_eval.reports.presets import Preset
from dyna_eval.reports.report import Report


@dataclass(frozen=True, slots=True, kw_only=True)
class Style:
    columns: tuple[Column, ...] = ()
    std: bool = False
    """Throughput as mean and standard deviation between repeats."""
    siunitx: bool = False
    """Figures aligned at the decimal point, by the package siunitx; otherwise centred, by none."""
    side_by_side: bool = False
    """One table with a group of columns per pair, rather than a table per pair."""


PLAIN = Style()
"""Five columns that need booktabs alone."""


def read_columns(text: str) -> tuple[Column, ...]:
    """Read `interval,acceptance`; the order is that of the table's columns. Raises InputError."""
    names = [name.strip() for name in text.split(",") if name.strip()]
    for name in names:
        if name not in list(Column):
            raise InputError(f"--columns: {unknown('column', name, list(Column))}")
    if len(set(names)) < len(names):
        raise InputError("--columns names a column twice; name each once")
    return tuple(Column(name) for name in names)


class Part(StrEnum):
    """What of a paper this tool wrote."""

    TABLE = "table"
    PROSE = "prose"
    MACROS = "macros"


@dataclass(frozen=True, slots=True, kw_only=True)
class Origin:
    """Where a part of a paper comes from: all that is needed to compute it again."""

    part: Part
    sweep: str
    digest: str
    pairs: tuple[str, ...]
    preset: Preset | None = None
    made_of: tuple[str, ...] = ()
    """Digests of the sweeps that are computed again: the one, or those that were joined."""
    rows: tuple[str, ...] = ()
    """What selected rows, where not all of them are shown."""
    style: Style = PLAIN
    categories: tuple[str | None, ...] = ()
    """The groups of columns of a table by category, None for all prompts; none of another table."""
    terms: Terms = AS_IN_THE_FILE


def origin_of(report: Report, part: Part, pairs: Sequence[str], style: Style = PLAIN) -> Origin:
    return Origin(
        part=part,
        sweep=report.name,
        digest=report.digest,
        pairs=tuple(pairs),
        preset=report.preset,
        made_of=report.made_of or (report.digest,),
        rows=report.selectors,
        style=style,
        terms=report.terms,
    )


def mark(origin: Origin) -> str:
    """Return the comment line that stands above a part; ASCII, whatever names are in it."""
    told: dict[str, object] = {
        "sweep": origin.sweep,
        "digest": origin.digest,
        "pairs": list(origin.pairs),
        "preset": origin.preset,
    }
    if origin.made_of != (origin.digest,):
        told |= {"made_of": list(origin.made_of), "rows": list(origin.rows)}
    told |= {name: value for name, value in asdict(origin.terms).items() if value}
    if origin.categories:
        told["categories"] = list(origin.categories)
    elif origin.part is Part.TABLE:
        style = origin.style
        told |= {"columns": list(style.columns), "std": style.std, "siunitx": style.siunitx}
        told |= {"side_by_side": style.side_by_side}
    return f"% dyna-eval {origin.part} {canonical_json(told)}"


def end_mark(part: Part) -> str:
    return f"% dyna-eval end of {part}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Marked:
    """A mark found in a paper; `origin` is None where it cannot be read. Offsets are in characters."""

    part: Part
    start: int
    end: int
    origin: Origin | None


_MARK = re.compile(r"^[ \t]*%+[ \t]*dyna-eval (table|prose|macros)\b(.*(?:\n[ \t]*%.*){0,9})", re.MULTILINE)
_BROKEN_LINE = re.compile(r"\s*\n[ \t]*%+[ \t]*")


def find_marks(text: str) -> list[Marked]:
    """Find the marks in a paper, also those that an editor broke over several comment lines."""
    marks = []
    for found in _MARK.finditer(text):
        part = Part(found[1])
        origin = _read_origin(part, _BROKEN_LINE.sub(" ", found[2]).strip())
        end = text.find("\n", found.start())
        marks.append(Marked(part=part, start=found.start(), end=len(text) if end < 0 else end, origin=origin))
    return marks


def _read_terms(values: Mapping[str, Any]) -> Terms:
    """Read the terms that a mark names; raises ValueError or TypeError where they are none."""
    baseline, confidence = values.get("baseline"), values.get("confidence")
    share = None if confidence is None else float(confidence)
    if share is not None and not 0.0 < share < 1.0:
        raise ValueError(f"{share:g} is no confidence")
    return Terms(
        baseline=None if baseline is None else str(baseline),
        confidence=share,
        chosen=values.get("chosen") is True,
    )


def _read_origin(part: Part, told: str) -> Origin | None:
    try:
        values, _ = json.JSONDecoder().raw_decode(told)
        return Origin(
            part=part,
            sweep=str(values["sweep"]),
            digest=str(values["digest"]),
            pairs=tuple(map(str, values["pairs"])),
            preset=Preset(values["preset"]) if values["preset"] else None,
            made_of=tuple(map(str, values.get("made_of") or [values["digest"]])),
            rows=tuple(map(str, values.get("rows", ()))),
            style=Style(
                columns=tuple(map(Column, values.get("columns", ()))),
                std=values.get("std") is True,
                siunitx=values.get("siunitx") is True,
                side_by_side=values.get("side_by_side") is True,
            ),
            categories=tuple(
                None if category is None else str(category) for category in values.get("categories", ())
            ),
            terms=_read_terms(values),
        )
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return None
