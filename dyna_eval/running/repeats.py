"""`repeats: auto`: how many repeats a sweep needs, found while it runs.

A repeat more narrows only what differs from run to run, which is the machine's doing. What differs from
prompt to prompt, the larger part of a reported interval, stays, however often the prompts are decoded. So a
sweep has enough repeats once each row's speedup *over repeats* is known to within `measure.precision`.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence

from dyna_eval.jobs import Job, JobState, ResolvedSweep
from dyna_eval.records import StoredJob, StoredSentinel, SweepRecord
from dyna_eval.reports.integrity import actor_speeds
from dyna_eval.reports.intervals import half_width_over_repeats
from dyna_eval.reports.statistics import PacedRun, actor_paces, mean_throughputs
from dyna_eval.sweeps.expansion import block_of_jobs


def jobs_to_add(record: SweepRecord, resolved: ResolvedSweep) -> tuple[Job, ...]:
    """Return one more repeat for every pair that needs it; none while jobs are to come, or after a cancel.

    Rows with a failed job get no more: the sweep is not held up by what cannot be measured.
    """
    limit = record.measure.max_repeats
    if limit is None or any(job.state not in (JobState.DONE, JobState.FAILED) for job in record.jobs):
        return ()
    added: list[Job] = []
    for pair in resolved.pairs:
        own = [job for job in record.jobs if job.pair == pair.spec.name]
        repeats = 1 + max((job.repeat for job in own), default=-1)
        rows = _complete_rows(own)
        sentinels = [sentinel for sentinel in record.sentinels if sentinel.pair == pair.spec.name]
        if repeats >= limit or _precise(rows, sentinels, record):
            continue
        block = block_of_jobs(
            resolved.spec,
            pair,
            resolved.prompt_sets[pair.spec.name].digest,
            repeat=repeats,
            first_position=len(record.jobs) + len(added),
        )
        added += [job for job in block if job.configuration.label in rows]
    return tuple(added)


def _complete_rows(jobs: Iterable[StoredJob]) -> dict[str, list[StoredJob]]:
    """Return the jobs of every row whose jobs are all done, by label."""
    rows: defaultdict[str, list[StoredJob]] = defaultdict(list)
    for job in jobs:
        rows[job.label].append(job)
    return {label: own for label, own in rows.items() if all(job.state is JobState.DONE for job in own)}


def _precise(
    rows: Mapping[str, Sequence[StoredJob]], sentinels: Sequence[StoredSentinel], record: SweepRecord
) -> bool:
    """Say whether every row is known well enough: its speedup within each repeat, the baseline's speed.

    Where the baseline failed there are no speedups, and every row's own speed counts.
    """
    jobs = [job for own in rows.values() for job in own]
    paces = actor_paces((job.actor or "" for job in jobs), actor_speeds(sentinels))
    speeds = {label: _speed_by_repeat(own, paces) for label, own in rows.items()}
    base = speeds.get(record.baseline)
    for label, speed in speeds.items():
        if base is None or label == record.baseline:
            values = list(speed.values())
        else:
            values = [speed[repeat] / base[repeat] for repeat in speed if repeat in base]
        width = half_width_over_repeats(values, record.confidence)
        if width is None or width > (record.measure.precision or 0.0):
            return False
    return True


def _speed_by_repeat(jobs: Iterable[StoredJob], paces: Mapping[str, float]) -> dict[int, float]:
    """Return the mean tokens per second over prompts by repeat, freed of how fast each actor is."""
    return mean_throughputs(
        PacedRun.of(job.repeat, job.samples, pace=paces.get(job.actor or "", 1.0)) for job in jobs
    )
