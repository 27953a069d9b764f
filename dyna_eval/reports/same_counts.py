"""Whether two rows did the same work, by their counts, which no clock is in.

Tokens per round follow from models, prompts and settings, whatever the machine: so rows that were measured
again agree in them, on another machine too, except where rounding decides a numeric tie otherwise. Methods
that decide by what passes cost are named (`dyna_eval.methods.machine_in_counts`).
"""

from __future__ import annotations

from dataclasses import dataclass

from dyna_eval.methods import machine_in_counts
from dyna_eval.reports.counts import same_to_nine_digits
from dyna_eval.reports.report import Row
from dyna_eval.reports.statistics import Acceptance

_FEWEST_DIGITS = 5
"""Imported figures of fewer digits are rounded ones, which agree by chance."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CountsCompared:
    """The counts of a row of A and of its partner in B."""

    a: float | None
    """Tokens per round, the bonus token included; None where unknown."""
    b: float | None
    same: bool | None
    """Whether these, and all else that both know of acceptance, agree to nine digits; None where that says
    nothing: one is unknown, nothing is drafted, or an imported figure was rounded."""
    machine: str | None
    """Why they may differ from machine to machine; None where they should not."""

    @property
    def ratio(self) -> float | None:
        """B / A of the tokens per round."""
        return self.b / self.a if self.a and self.b is not None else None

    @property
    def percent(self) -> str:
        """How much more B's tokens per round are than A's, to two digits: `+1.4 %`; empty where unknown."""
        return "" if self.ratio is None else f"{(self.ratio - 1.0) * 100.0:+.2g} %"


def compare_counts(a: Row, b: Row) -> CountsCompared:
    """Compare what two rows know of acceptance."""
    ours, theirs = _acceptance(a), _acceptance(b)
    return CountsCompared(
        a=ours.mean_length,
        b=theirs.mean_length,
        same=None if _says_nothing(a, ours) or _says_nothing(b, theirs) else _agree(ours, theirs),
        machine=next(filter(None, map(machine_in_counts, (a.method, b.method))), None),
    )


def _acceptance(row: Row) -> Acceptance:
    return row.figures.acceptance if row.figures else Acceptance()


def _says_nothing(row: Row, known: Acceptance) -> bool:
    if row.method.is_target_alone or known.mean_length is None:
        return True
    return (
        row.source is not None and float(f"{known.mean_length:.{_FEWEST_DIGITS - 1}g}") == known.mean_length
    )


def _agree(a: Acceptance, b: Acceptance) -> bool:
    pairs = zip(_numbers(a), _numbers(b), strict=True)
    return all(
        same_to_nine_digits(here, there) for here, there in pairs if here is not None and there is not None
    )


def _numbers(known: Acceptance) -> tuple[float | None, ...]:
    """Return what follows from the rounds alone, whichever of their samples are of one prompt."""
    return known.mean_length, known.draft_rate, known.node_rate, known.mean_tree_nodes
