"""What a table's caption says of the steps that are measurably slower than others: each one, or how many."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from dyna_eval.latex.text import escape_latex, number
from dyna_eval.reports.claims import Claim, claim_between, doubt_of_load, why_unlike_printed
from dyna_eval.reports.report import Row, baseline_of
from dyna_eval.reports.statistics import Comparison
from dyna_eval.wording import count

_SLOWER_STEPS_NAMED = 6
"""Steps of a table that its caption names as slower; of more it gives the number, and the slowest."""


def what_degrades(rows: Sequence[Row], pairs: int) -> list[str]:
    """Name the steps that are measurably slower than the one before, or than the baseline; count many."""
    where, slower = _where(rows, pairs), [*_slower_steps(rows).values()]
    if slower:
        return [*_counted(slower, where)] if _are_many(slower, pairs) else _sentences(slower, where)
    compared = zip(rows, _previous(rows), strict=True)
    claims = [claim_between(row, other, row.versus_previous) for row, other in compared if other is not None]
    known = len(claims) == len(rows) - 1 and Claim.UNKNOWN not in claims
    if len(claims) > 1 and known:
        return [f"No step is measurably slower than the step before it{where}."]
    return []


def what_is_counted(rows: Sequence[Row], pairs: int) -> list[str]:
    """Return the sentences on the steps that a caption counts; none where it names each."""
    slower = [*_slower_steps(rows).values()]
    return _sentences(slower, _where(rows, pairs)) if _are_many(slower, pairs) else []


def _where(rows: Sequence[Row], pairs: int) -> str:
    return f" on {escape_latex(rows[0].pair)}" if pairs > 1 else ""


def _are_many(slower: Sequence[Sequence[_Slower]], pairs: int) -> bool:
    return len(slower) > max(1, _SLOWER_STEPS_NAMED // pairs)


def _sentences(steps: Sequence[Sequence[_Slower]], where: str) -> list[str]:
    return [f"{_named(facts[0].row)} {' and '.join(fact.text for fact in facts)}{where}." for facts in steps]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Slower:
    """A step that is measurably slower than another one: `is slower than the step before it`."""

    row: Row
    other: Row
    what: str
    comparison: Comparison

    @property
    def text(self) -> str:
        evidence = [
            rf"${number(self.comparison.ratio, 2)}\times$",
            why_unlike_printed(self.row, self.other, self.comparison),
            doubt_of_load(self.row, self.other, Claim.DEGRADES),
        ]
        return f"{self.what} ({', '.join(filter(None, evidence))})"


_BEFORE, _BELOW = "is slower than the step before it", "falls below the baseline"


def _slower_steps(rows: Sequence[Row]) -> dict[int, list[_Slower]]:
    """Return what each slower step is slower than, by step."""
    base, found = baseline_of(rows), dict[int, list[_Slower]]()
    for row, previous in zip(rows, _previous(rows), strict=True):
        for what, other, comparison in (
            (_BEFORE, previous, row.versus_previous),
            (_BELOW, base, row.versus_baseline),
        ):
            if other is None or comparison is None:
                continue
            if claim_between(row, other, comparison) is Claim.DEGRADES:
                slower = _Slower(row=row, other=other, what=what, comparison=comparison)
                found.setdefault(row.step, []).append(slower)
    return found


def _previous(rows: Sequence[Row]) -> list[Row | None]:
    """Return for each row the nearest one before it that has figures."""
    found, previous = list[Row | None](), None
    for row in rows:
        found.append(previous)
        previous = row if row.figures else previous
    return found


def _counted(slower: Sequence[Sequence[_Slower]], where: str) -> Iterator[str]:
    """Say how many steps are slower than the one before, and than the baseline; name the worst of each."""
    for what, one, several in (
        (_BEFORE, "is measurably slower than the one before", "are measurably slower than the one before"),
        (_BELOW, "is measurably below the baseline", "are measurably below the baseline"),
    ):
        facts = [fact for step in slower for fact in step if fact.what == what]
        if facts:
            worst = min(facts, key=lambda fact: fact.comparison.ratio)
            number_of = f"{count(len(facts), 'step')} {several if len(facts) > 1 else one}"
            yield f"{number_of}; at worst, {_named(worst.row, 's')} {worst.text}{where}."


def _named(row: Row, initial: str = "S") -> str:
    return f"{initial}tep {row.step} ({escape_latex(row.label)})"
