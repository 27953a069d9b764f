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


FREED_OF_PACE = "freed of the unequal speeds of the actors"


def ran_on_several_actors(row: Row, base: Row) -> bool:
    """Whether two measured rows did not run on one actor, so that comparisons are freed of their paces."""
    return bool(row.runs and base.runs) and len({run.actor for run in (*row.runs, *base.runs)}) > 1


def why_unlike_printed(row: Row, base: Row, comparison: Comparison) -> str:
    """Say why a ratio points the other way than the two printed throughputs; nothing where it does not.

    Comparisons are freed of the pace of actors, and over the repeats that both rows have; printed throughputs
    are neither. A file's own ratios may be so as well.
    """
    if row.figures is None or base.figures is None:
        return ""
    printed = row.figures.throughput.mean / base.figures.throughput.mean
    if (printed - 1.0) * (comparison.ratio - 1.0) >= 0.0:
        return ""
    if not row.runs or not base.runs:
        return "by the ratio that its file has"
    over = "over the repeats that both have"
    if not ran_on_several_actors(row, base):
        return over
    same_repeats = {run.repeat for run in row.runs} == {run.repeat for run in base.runs}
    return FREED_OF_PACE if same_repeats else f"{over}, {FREED_OF_PACE}"


def claim_between(row: Row, base: Row, comparison: Comparison | None) -> Claim:
    """Return what may be said of a row against another one; nothing where either is not to be trusted."""
    trusted = all(one.is_exact and not one.mixed for one in (row, base))
    return claim(comparison) if trusted else Claim.UNKNOWN


def is_explained_by_load(slower: Row, faster: Row) -> bool:
    """Whether heavy load slowed the slower one of two rows and not the other one.

    Where it slowed both, as on a machine that is busy all the time, it explains nothing.
    """
    return bool(slower.slowed) and not faster.slowed


def is_drawn_slower(row: Row, base: Row, comparison: Comparison | None) -> bool:
    """Whether a figure may call a row slower than another one.

    Not where heavy load explains it: a sentence can say so, a colour cannot.
    """
    return not is_explained_by_load(row, base) and claim_between(row, base, comparison) is Claim.DEGRADES


def doubt_of_load(row: Row, base: Row, claimed: Claim) -> str:
    """Say that heavy load may be why one of two rows is called slower than the other one; mostly nothing."""
    if claimed is Claim.DEGRADES and is_explained_by_load(row, base):
        return f"though something else slowed step {row.step} down meanwhile"
    if claimed is Claim.IMPROVES and is_explained_by_load(base, row):
        return f"though something else slowed step {base.step} down meanwhile"
    return ""


def slower_steps(rows: Sequence[Row]) -> frozenset[int]:
    """Return the steps of a pair that figures call slower than the nearest one above that has figures."""
    known = [row for row in rows if row.figures]
    return frozenset(
        row.step for before, row in pairwise(known) if is_drawn_slower(row, before, row.versus_previous)
    )
