"""Which rows of one or several sweeps a table shows: by label, by configuration, by pattern or by step."""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from dyna_eval.errors import InputError
from dyna_eval.reports.cells import configuration_text
from dyna_eval.reports.report import Row


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidate:
    """A row that may be shown. `part` is the place of its sweep among those that are joined."""

    part: int
    sweep: str
    sweep_id: int
    row: Row

    @property
    def configuration(self) -> str:
        return configuration_text(self.row.method, self.row.params)


def select(candidates: Sequence[Candidate], selectors: Sequence[str]) -> list[Candidate]:
    """Return the rows that selectors name, in the order of the selectors; all rows without any.

    A selector is a row's label, its configuration as the table prints it, a pattern of either with `*`, or
    its step; `SWEEP:` before it means that sweep's rows alone. Raises InputError where one names no row, or
    rows of several sweeps without saying so.
    """
    if not selectors:
        return list(candidates)
    chosen = [candidate for text in selectors for candidate in _find(candidates, text)]
    return [
        candidate
        for index, candidate in enumerate(chosen)
        if all(candidate is not earlier for earlier in chosen[:index])
    ]


def _find(candidates: Sequence[Candidate], text: str) -> list[Candidate]:
    found = _matching(candidates, text)
    if found:
        sweeps = {candidate.part: candidate.sweep for candidate in found}
        if len(sweeps) > 1 and "*" not in text:
            each = " or ".join(f"'{name}:{text}'" for name in sweeps.values())
            raise InputError(f"--row {text!r} is in several sweeps; write {each}")
        return found
    for colon in re.finditer(":", text):
        sweep, rest = text[: colon.start()], text[colon.end() :]
        own = [one for one in candidates if sweep in (one.sweep, str(one.sweep_id))]
        if found := _matching(own, rest):
            return found
    raise InputError(f"--row {text!r} names no row; {_hint(candidates, text)}")


def _matching(candidates: Sequence[Candidate], text: str) -> list[Candidate]:
    tests: list[Callable[[Candidate], bool]] = [
        lambda one: one.row.label == text,
        lambda one: one.configuration == text,
    ]
    if "*" in text:
        pattern = re.compile(".*".join(map(re.escape, text.split("*"))))
        tests.append(
            lambda one: bool(pattern.fullmatch(one.row.label) or pattern.fullmatch(one.configuration))
        )
    if text.isdecimal():
        tests.append(lambda one: str(one.row.step) == text)
    for test in tests:
        if found := [one for one in candidates if test(one)]:
            return found
    return []


def _hint(candidates: Iterable[Candidate], text: str) -> str:
    names = [name for one in candidates for name in (one.row.label, one.configuration)]
    near = difflib.get_close_matches(text, dict.fromkeys(names), n=2)
    if near:
        return f"did you mean {' or '.join(repr(name) for name in near)}?"
    return "`dyna-eval report SWEEP` lists labels, configurations and steps"
