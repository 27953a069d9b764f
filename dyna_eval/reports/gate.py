"""What makes a comparison of two sweeps fail a check: rows that got slower, also as compared with their
baselines, and rows whose counts are others."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from dyna_eval.errors import InputError
from dyna_eval.methods import machine_in_counts
from dyna_eval.reports.claims import is_explained_by_load
from dyna_eval.reports.counts import same_to_nine_digits
from dyna_eval.reports.digits import bounds, factor, percent
from dyna_eval.reports.report import Row
from dyna_eval.reports.same_counts import CountsCompared
from dyna_eval.reports.speedup_change import SpeedupChange
from dyna_eval.reports.statistics import Comparison, Figures
from dyna_eval.reports.sweep_comparison import NOISE_UNKNOWN, Match, SpeedVerdict, SweepComparison


@dataclass(frozen=True, slots=True, kw_only=True)
class Failed:
    """`row` is B's; where B has none, A's."""

    row: Row
    reason: str


def regressions(comparison: SweepComparison, allowed: float) -> tuple[Failed, ...]:
    """Return the rows of B that are more than a share `allowed` (0.03 is 3 %) slower than A, and why.

    A row regressed where its ratio and every interval of it end below 1 - allowed; without an interval, where
    the ratio alone is below. A row that has a result in A and none in B, or no partner there, regressed as
    well. So did one that cannot be compared: nothing shows that it is as fast as before.
    """
    return _failed(comparison, lambda match: _slower_reason(match, 1.0 - allowed))


def _failed(comparison: SweepComparison, reason_of: Callable[[Match], str | None]) -> tuple[Failed, ...]:
    """Return the rows of B that fail, and those that A has a result of and B no partner."""
    reasons = [(match.b, reason_of(match)) for match in comparison.matches]
    found = [Failed(row=row, reason=reason) for row, reason in reasons if reason is not None]
    lost = [Failed(row=row, reason="only in A") for row in comparison.only_a if row.figures is not None]
    return (*found, *lost)


def _slower_reason(match: Match, bound: float) -> str | None:
    if match.a.figures is not None and match.b.figures is None:
        return f"no result ({match.b.state})"
    if match.verdict is SpeedVerdict.NOT_COMPARABLE:
        return f"not comparable: {'; '.join(match.obstacles)}"
    if match.ratio is None or not _is_below(match.ratio, bound):
        return None
    return _slower_text(match, match.ratio)


def _is_below(ratio: Comparison, bound: float) -> bool:
    return ratio.ratio < bound and all(interval.high < bound for interval in ratio.intervals)


def _slower_text(match: Match, ratio: Comparison) -> str:
    text = f"{_loss_text(ratio)} % slower{_interval_text(ratio)}"
    if match.noise_unknown:
        text += f"; in doubt: {NOISE_UNKNOWN}"
    if is_explained_by_load(match.b, match.a):
        text += f"; in doubt: {'; '.join(match.b.slowed)}"
    return text


def _loss_text(ratio: Comparison) -> str:
    return percent(ratio.ratio - 1.0).removeprefix("-")


def _interval_text(ratio: Comparison) -> str:
    if ratio.interval is None:
        return ", no interval"
    return f", ratio {factor(ratio.ratio, 3)} {bounds(ratio.interval, 3)}"


def lower_speedups(comparison: SweepComparison, allowed: float) -> tuple[Failed, ...]:
    """Return the rows of B whose speedup is more than a share `allowed` below that in A, and why.

    It is where the ratio of the two and every interval of it end below 1 - allowed; without an interval,
    where the ratio alone is below. A row that has a result in A and none in B, or no partner there, is among
    them; so is one that cannot be compared, since its baseline cannot for instance, or whose speedup is known
    in A and not in B. A baseline has no speedup of its own. Raises InputError where A has none to check.
    """
    if not any(_has_speedup(row) for row in (*(one.a for one in comparison.matches), *comparison.only_a)):
        raise InputError(
            f"sweep {comparison.a.report.sweep_id} ({comparison.a.report.name!r}) has no speedup to check:"
            " none of its rows has a result beside that of a baseline"
        )
    return _failed(comparison, lambda match: _speedup_reason(match, 1.0 - allowed))


def _has_speedup(row: Row) -> bool:
    return row.versus_baseline is not None and not row.is_baseline


def _speedup_reason(match: Match, bound: float) -> str | None:
    if match.a.figures is None:
        return None
    if match.b.figures is None:
        return f"no result ({match.b.state})"
    if not _has_speedup(match.a):
        return None
    change = match.speedup
    if change.obstacles:
        return f"not comparable: {'; '.join(change.obstacles)}"
    if change.ratio is None:
        return f"its speedup is not known{_why_unknown(change.b.base)}"
    return _lower_text(change, change.ratio) if _is_below(change.ratio, bound) else None


def _why_unknown(base: Row | None) -> str:
    if base is None:
        return ": there is no baseline"
    return ": its baseline has no result" if base.figures is None else ""


def _lower_text(change: SpeedupChange, ratio: Comparison) -> str:
    text = f"speedup {_loss_text(ratio)} % lower{_interval_text(ratio)}"
    if change.noise_unknown:
        text += f"; in doubt: {NOISE_UNKNOWN}"
    if change.load:
        text += f"; in doubt: {'; '.join(change.load)}"
    return text


def other_counts(comparison: SweepComparison, allowed: float) -> tuple[Failed, ...]:
    """Return the rows of B whose tokens per round are not A's to within a share `allowed`, and why.

    Up or down: more tokens per round are other work as well. A row that has a result in A and none in B, or
    no partner there, is among them; so is one of other prompts, settings or models, or whose output is not
    the target's. Counts that may depend on the machine are not compared. Raises InputError where there are no
    counts to check.
    """
    if not any(_has_counts(row) for row in (*(one.a for one in comparison.matches), *comparison.only_a)):
        raise InputError(
            f"sweep {comparison.a.report.sweep_id} ({comparison.a.report.name!r}) has no tokens per round to"
            " check: no row that drafts has any that are known and do not depend on the machine"
        )
    return _failed(comparison, lambda match: _counts_reason(match, allowed))


def _has_counts(row: Row) -> bool:
    """Whether a row's tokens per round tell that another run of it did the same work."""
    known = row.figures is not None and row.figures.acceptance.mean_length is not None
    return known and not row.method.is_target_alone and machine_in_counts(row.method) is None


def _counts_reason(match: Match, allowed: float) -> str | None:
    if match.a.figures is None:
        return None
    if match.b.figures is None:
        return f"no result ({match.b.state})"
    if match.other_work:
        return f"not comparable: {'; '.join(match.other_work)}"
    return (
        None if match.counts.machine else _other_text(match.a.figures, match.b.figures, match.counts, allowed)
    )


def _other_text(a: Figures, b: Figures, counts: CountsCompared, allowed: float) -> str | None:
    if counts.a is None:
        return None
    if counts.b is None or counts.ratio is None:
        return "its tokens per round are not known"
    if abs(counts.ratio - 1.0) <= allowed or same_to_nine_digits(counts.a, counts.b):
        return None
    text = f"{counts.b:.6g} tokens per round instead of {counts.a:.6g}, {counts.percent}"
    return text if a.prompts == b.prompts else f"{text}; over {b.prompts} prompts instead of {a.prompts}"
