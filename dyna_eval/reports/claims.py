"""What may be said of two rows: a comparative word stands only where the paired interval excludes 1."""

from __future__ import annotations

from collections.abc import Sequence
from enum import StrEnum
from itertools import pairwise

from dyna_eval.reports.report import Row
from dyna_eval.reports.statistics import Comparison


class Claim(StrEnum):
    IMPROVES = "improves"
    DEGRADES = "degrades"
    NOT_SEPARABLE = "not separable"
    UNKNOWN = "unknown"
    """There is no interval, or one of the rows was not measured as the other was."""


def claim(comparison: Comparison | None) -> Claim:
    """Return what the intervals allow to say.

    The ratio of the means, which tables print, can point the other way than the mean of the prompts' own
    ratios, which the interval is about; then neither row is called faster.
    """
    if comparison is None or comparison.separable is None or comparison.paired is None:
        return Claim.UNKNOWN
    if comparison.separable and comparison.ratio > 1.0 and comparison.paired > 1.0:
        return Claim.IMPROVES
    if comparison.separable and comparison.ratio < 1.0 and comparison.paired < 1.0:
        return Claim.DEGRADES
    return Claim.NOT_SEPARABLE


def is_surpassed(best: Row, rows: Sequence[Row]) -> bool:
    """Whether a row that may not win, such as a mixed one, has a higher throughput than the best that may."""
    return any(
        row.figures is not None
        and best.figures is not None
        and row.figures.throughput.mean > best.figures.throughput.mean
        for row in rows
    )


THOSE_THAT_MAY_WIN = "the rows that were measured alike and are known to be the target's own output"


def is_freed_of_pace(row: Row, base: Row, comparison: Comparison) -> bool:
    """Whether a ratio points the other way than the two printed throughputs.

    That happens where the rows ran on actors of unequal speed, which comparisons are freed of.
    """
    if row.figures is None or base.figures is None:
        return False
    printed = row.figures.throughput.mean / base.figures.throughput.mean
    return (printed - 1.0) * (comparison.ratio - 1.0) < 0.0


FREED_OF_PACE = "freed of the unequal speeds of the actors"


def claim_between(row: Row, base: Row, comparison: Comparison | None) -> Claim:
    """Return what may be said of a row against another one; nothing where either is not to be trusted."""
    trusted = all(one.is_exact and not one.mixed for one in (row, base))
    return claim(comparison) if trusted else Claim.UNKNOWN


def is_drawn_slower(row: Row, base: Row, comparison: Comparison | None) -> bool:
    """Whether a figure may call a row slower than another one.

    Not where heavy load slowed the row and not the other one: a sentence stands beside the note that says so,
    a colour does not. Where it slowed both, as on a machine that is busy all the time, it explains nothing.
    """
    explained = bool(row.slowed) and not base.slowed
    return not explained and claim_between(row, base, comparison) is Claim.DEGRADES


def slower_steps(rows: Sequence[Row]) -> frozenset[int]:
    """Return the steps of a pair that figures call slower than the nearest one above that has figures."""
    known = [row for row in rows if row.figures]
    return frozenset(
        row.step for before, row in pairwise(known) if is_drawn_slower(row, before, row.versus_previous)
    )
