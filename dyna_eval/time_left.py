"""How long a sweep will still take: from what its done jobs took, else from its pairs' calibration.

Seconds of a job are those of its decoding. An actor's own AR runs are added, at their rate; loading,
compiling and warming up are not known before they happen and are not in it.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum

from dyna_eval.jobs import ResolvedSweep
from dyna_eval.measurements import Calibration


class Basis(StrEnum):
    """What an estimate rests on."""

    DONE_JOBS = "done jobs"
    CALIBRATION = "calibration"


@dataclass(frozen=True, slots=True, kw_only=True)
class TimeLeft:
    seconds: float
    basis: Basis
    """CALIBRATION where some of the seconds are as if a row were as fast as the target alone."""
    calibrations: tuple[str, ...] = ()
    """When and where those were measured that it rests on, which need not be where it runs."""
    unknown: tuple[str, ...] = ()
    """The pairs of which nothing is known, and whose jobs are not in the seconds."""
    overdue: bool = False
    """Whether a job has been running for longer than it was to take, so that nobody knows when it ends."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Remaining:
    """The jobs of one row on one pair."""

    pair: str
    label: str
    queued: int
    running: tuple[float, ...]
    """Seconds for which each has been running."""
    done_seconds: float | None
    """What a done job took on average; None without any."""

    @property
    def open(self) -> int:
        return self.queued + len(self.running)


def target_alone_seconds(*, prompts: int, max_new_tokens: int, calibration: Calibration) -> float:
    """Return how long the target alone decodes a prompt set of which every prompt runs to its limit."""
    return prompts * max_new_tokens * calibration.verify(1)


def time_left(
    rows: Sequence[Remaining], *, target_alone: Mapping[str, float], sentinel_every: int
) -> TimeLeft | None:
    """Return the time until all open jobs are done by as many actors as have one now.

    A pair of which nothing is known is left out and named; None where that is so of all that have open jobs,
    and where no job is open.

    `target_alone` is by the name of the pair, of calibrated pairs alone. A row without a done job takes what
    the other rows of its pair take on average, and without any of these as long as the target alone.
    """
    basis, work, longest, unknown, overdue = Basis.DONE_JOBS, 0.0, 0.0, list[str](), False
    actors = max(1, sum(len(row.running) for row in rows))
    pairs = list(dict.fromkeys(row.pair for row in rows if row.open))
    for pair in pairs:
        own = [row for row in rows if row.pair == pair]
        alone, others = target_alone.get(pair), _mean_seconds(own)
        if alone is None and others is None:
            unknown.append(pair)
            continue
        for row in own:
            seconds = next(known for known in (row.done_seconds, others, alone) if known is not None)
            under_way = [max(0.0, seconds - elapsed) for elapsed in row.running]
            work += row.queued * seconds + sum(under_way)
            longest = max([longest, *under_way])
            overdue = overdue or any(elapsed > seconds for elapsed in row.running)
        if others is None:
            basis = Basis.CALIBRATION
        runs = math.ceil(sum(row.queued for row in own) / sentinel_every)
        work += runs * (alone if alone is not None else others or 0.0)
    if len(unknown) == len(pairs):
        return None
    return TimeLeft(seconds=max(work / actors, longest), basis=basis, unknown=tuple(unknown), overdue=overdue)


def planned_time(resolved: ResolvedSweep, calibrations: Mapping[str, Calibration]) -> TimeLeft | None:
    """Return the `time_left` of a sweep before any job has begun: on one actor, by its pairs' calibration.

    `calibrations` are by the name of the pair.
    """
    waiting = Counter((job.pair.spec.name, job.configuration.label) for job in resolved.jobs)
    rows = [
        Remaining(pair=pair, label=label, queued=queued, running=(), done_seconds=None)
        for (pair, label), queued in waiting.items()
    ]
    alone = {
        name: target_alone_seconds(
            prompts=len(resolved.prompt_sets[name].prompts),
            max_new_tokens=resolved.spec.generation_of(pair.spec).max_new_tokens,
            calibration=calibrations[name],
        )
        for pair in resolved.pairs
        if (name := pair.spec.name) in calibrations
    }
    return time_left(rows, target_alone=alone, sentinel_every=resolved.spec.measure.sentinel_every)


def _mean_seconds(rows: Sequence[Remaining]) -> float | None:
    """Return what a row's done job takes, on average over the rows that have one."""
    known = [row.done_seconds for row in rows if row.done_seconds is not None]
    return sum(known) / len(known) if known else None
