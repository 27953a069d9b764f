"""A table of numbers that were published elsewhere, typed from a paper: comma-separated values.

    label,method,tokens_per_s,speedup,tokens_per_round,source
    Vanilla,autoregressive,38.2,1.00,1,"Somebody et al. 2024, table 1"

All columns but `label` may be missing, and cells be empty. Such rows are marked as published elsewhere and
never called the fastest: nobody can look at their samples. A row without tokens/s stands among what is left
out, with what was published of it.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass

from dyna_eval.importers.reading import Content, plain
from dyna_eval.jobs import Method
from dyna_eval.mistakes import shown
from dyna_eval.reports.imported import (
    PAIR_NOT_RECORDED,
    PUBLISHED,
    Claims,
    ImportedFile,
    ImportedRow,
    LeftOutRow,
    Source,
)
from dyna_eval.reports.labels import numbered_labels
from dyna_eval.reports.statistics import (
    Acceptance,
    Agreement,
    Comparison,
    Figures,
    Latency,
    Shares,
    Throughput,
)
from dyna_eval.wording import listed

NAME = PUBLISHED
SUMMARY = "published numbers as CSV: label, method, tokens_per_s, speedup, tokens_per_round, source"

_NUMBERS = ("tokens_per_s", "speedup", "tokens_per_round")
_COLUMNS = ("label", "method", *_NUMBERS, "source")
_NUMBER = re.compile(r"[0-9]{1,12}(\.[0-9]{1,20})?")
_CALLED = {
    "autoregressive": Method.AR,
    "baseline": Method.AR,
    "target_alone": Method.AR,
    "vanilla": Method.AR,
    "chain": Method.LINEAR,
    "speculative_decoding": Method.LINEAR,
    "speculative_sampling": Method.LINEAR,
    "sps": Method.LINEAR,
    "pld": Method.PROMPT_LOOKUP,
    "prompt_lookup_decoding": Method.PROMPT_LOOKUP,
}
"""What papers call methods that are the same as ours; others, such as EAGLE, are not."""
_KNOWN = {method.value: method for method in Method.__members__.values()} | _CALLED
_SPEEDUP_TOLERANCE = 0.01
"""Published numbers are rounded."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Line:
    label: str
    called: str
    """The method, as the table calls it."""
    numbers: Mapping[str, float]
    source: str

    @property
    def method(self) -> Method:
        return _KNOWN.get(re.sub("[^a-z0-9]+", "_", self.called.lower()).strip("_"), Method.OTHER)

    @property
    def origin(self) -> str:
        return self.source or "its source is not given"


def recognises(content: Content) -> bool:
    return bool(content.columns)


def read(content: Content) -> ImportedFile:
    """Raises ImportFileError where a column is unknown, a cell is no number, or no row has tokens/s."""
    unknown = [name for name in content.columns if name not in _COLUMNS]
    if unknown:
        content.refuse(f"has the unknown column {shown(plain(unknown[0]))}; known: {', '.join(_COLUMNS)}", 1)
    lines = [_line(content, number, value) for number, value in content.values]
    measured = [line for line in lines if "tokens_per_s" in line.numbers]
    if not measured:
        content.refuse("holds no row with tokens_per_s, which a table of rows is made of")
    base = next((line for line in measured if line.method is Method.AR), None)
    labels = numbered_labels([line.label for line in measured])
    return ImportedFile(
        source=Source(file=content.file, format=NAME, sha256=content.sha256),
        claims=Claims(),
        rows=tuple(_imported(line, label, base) for line, label in zip(measured, labels, strict=True)),
        left_out=tuple(_left_out(line) for line in lines if line not in measured),
        notes=(
            "published numbers are copies of what others printed: which models, prompts and machine they are"
            " of, and what they count, is their sources' word",
        ),
    )


def _line(content: Content, number: int, value: object) -> _Line:
    cells: Mapping[str, str] = value if isinstance(value, dict) else {}
    label = plain(cells.get("label", ""))
    if not label:
        content.refuse("has no label", number)
    numbers = {name: _number(content, number, name, cells[name]) for name in _NUMBERS if cells.get(name)}
    if not numbers:
        content.refuse(f"has no number: fill in one of {listed(_NUMBERS)}", number)
    return _Line(
        label=label,
        called=plain(cells.get("method", "")),
        numbers=numbers,
        source=plain(cells.get("source", "")),
    )


def _number(content: Content, line: int, name: str, text: str) -> float:
    value = float(text) if _NUMBER.fullmatch(text) else math.nan
    if not 1e-6 <= value <= 1e12:
        what = f"{name} is {shown(plain(text))}: should be a number above 0, as 1.25, or empty where unknown"
        content.refuse(what, line)
    return value


def _imported(line: _Line, label: str, base: _Line | None) -> ImportedRow:
    method, length = line.method, line.numbers.get("tokens_per_round")
    speedup = line.numbers.get("speedup")
    return ImportedRow(
        pair=PAIR_NOT_RECORDED,
        label=label,
        method=method,
        params={},
        is_baseline=line is base,
        figures=Figures(
            prompts=None,
            repeats=None,
            tokens=None,
            throughput=Throughput(
                mean=line.numbers["tokens_per_s"], interval=None, std=None, pooled=None, end_to_end=None
            ),
            acceptance=Acceptance(mean_length=length),
            shares=Shares(),
            latency=Latency(),
            agreement=Agreement(),
            distinct_2=None,
            predicted_speedup=None,
        ),
        versus_baseline=None if speedup is None else Comparison(ratio=speedup),
        notes=tuple(_notes(line, base)),
    )


def _notes(line: _Line, base: _Line | None) -> list[str]:
    notes = [f"published elsewhere: {line.origin}"]
    if line.method is Method.OTHER and line.called:
        notes.append(f"its source calls the method {line.called!r}")
    speedup = line.numbers.get("speedup")
    if speedup is not None and base is not None:
        ratio = line.numbers["tokens_per_s"] / base.numbers["tokens_per_s"]
        if abs(ratio / speedup - 1.0) > _SPEEDUP_TOLERANCE:
            notes.append(f"its speedup is {speedup:g}, but its tokens/s are {ratio:.2f} times the baseline's")
    return notes


def _left_out(line: _Line) -> LeftOutRow:
    numbers = [f"{name} {value:g}" for name, value in line.numbers.items()]
    reason = f"without tokens_per_s; {listed(numbers)}: {line.origin}"
    return LeftOutRow(label=line.label, pair=None, state="published elsewhere", reason=reason)
