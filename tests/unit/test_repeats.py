"""`repeats: auto`: blocks are added until every speedup is known well enough, and no longer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import pytest
from report_records import change_jobs, record

from dyna_eval.jobs import JobState, MeasureSpec, ResolvedSweep
from dyna_eval.measurements import SampleTotals
from dyna_eval.records import SweepRecord
from dyna_eval.reports.intervals import half_width_over_repeats
from dyna_eval.running.repeats import jobs_to_add
from tests.integration.measurements import CONFIGURATIONS, make_sweep

AUTO = MeasureSpec(repeats=3, max_repeats=5, precision=0.05)


def stored(*, noise: float, repeats: int = 3, measure: MeasureSpec = AUTO) -> SweepRecord:
    """A sweep of the two rows of `make_sweep`, whose repeats differ by some noise."""
    steps = tuple(zip(CONFIGURATIONS, (100.0, 150.0), strict=True))
    return replace(record(steps, prompts=2, repeats=repeats, noise=noise), measure=measure)


def resolved(*, measure: MeasureSpec = AUTO, pairs: tuple[str, ...] = ("demo",)) -> ResolvedSweep:
    sweep = make_sweep(pairs=pairs, repeats=3)
    return replace(sweep, spec=replace(sweep.spec, measure=measure))


def test_a_noisy_sweep_gets_one_more_repeat_of_all_rows_behind_all_jobs() -> None:
    added = jobs_to_add(stored(noise=0.3), resolved())

    assert {job.configuration.label for job in added} == {row.label for row in CONFIGURATIONS}
    assert {job.repeat for job in added} == {3}
    assert sorted(job.position for job in added) == [6, 7]
    known = {job.configuration.label: job.key for job in make_sweep().jobs}
    assert {job.configuration.label: job.key for job in added} == known


def test_a_quiet_sweep_has_enough() -> None:
    assert jobs_to_add(stored(noise=0.001), resolved()) == ()


def test_the_limit_ends_it() -> None:
    assert jobs_to_add(stored(noise=0.3, repeats=4), resolved())
    assert jobs_to_add(stored(noise=0.3, repeats=5), resolved()) == ()


def test_a_number_of_repeats_is_never_exceeded() -> None:
    assert jobs_to_add(stored(noise=0.3, measure=MeasureSpec(repeats=3)), resolved()) == ()


@pytest.mark.parametrize("state", [JobState.QUEUED, JobState.RUNNING, JobState.CANCELLED])
def test_nothing_is_added_while_jobs_are_to_come_or_after_a_cancel(state: JobState) -> None:
    one = change_jobs(stored(noise=0.3), CONFIGURATIONS[1].label, repeats=[2], state=state, samples=())

    assert jobs_to_add(one, resolved()) == ()


def test_a_row_that_failed_is_not_measured_on() -> None:
    failed = change_jobs(
        stored(noise=0.3), CONFIGURATIONS[1].label, repeats=[2], state=JobState.FAILED, samples=()
    )

    assert [job.configuration for job in jobs_to_add(failed, resolved())] == [CONFIGURATIONS[0]]


def test_drift_that_slows_all_rows_alike_asks_for_no_repeat_of_the_others() -> None:
    """The speedup within each repeat stands still, while every speed falls; the baseline's own speed does not
    count as long as it is known to within the precision."""
    quiet = stored(noise=0.0)
    slower = replace(
        quiet,
        jobs=tuple(
            replace(
                job,
                samples=tuple(
                    replace(one, decode_seconds=one.decode_seconds * (1 + 0.02 * job.repeat))
                    for one in job.samples
                ),
            )
            for job in quiet.jobs
        ),
    )
    tight = replace(slower, measure=replace(AUTO, precision=0.001))

    assert {job.configuration.label for job in jobs_to_add(tight, resolved())} == {
        row.label for row in CONFIGURATIONS
    }
    assert jobs_to_add(slower, resolved()) == ()


def on_two_actors(quiet: SweepRecord) -> SweepRecord:
    """Let one row's second repeat run on an actor of half the speed, and so does that actor's own AR run."""
    slow = {(CONFIGURATIONS[1].label, 1)}

    def doubled(samples: Sequence[SampleTotals]) -> tuple[SampleTotals, ...]:
        return tuple(replace(one, decode_seconds=2.0 * one.decode_seconds) for one in samples)

    [own] = quiet.sentinels
    return replace(
        quiet,
        jobs=tuple(
            replace(job, actor="actor-2", samples=doubled(job.samples))
            if (job.label, job.repeat) in slow
            else job
            for job in quiet.jobs
        ),
        sentinels=(own, replace(own, actor="actor-2", samples=doubled(own.samples))),
    )


def test_actors_of_unequal_speed_ask_for_no_repeat() -> None:
    quiet = stored(noise=0.001)

    assert jobs_to_add(on_two_actors(quiet), resolved()) == ()
    assert jobs_to_add(replace(on_two_actors(quiet), sentinels=quiet.sentinels * 2), resolved())


def test_a_repeat_that_the_baseline_lacks_tells_nothing_of_a_speedup() -> None:
    fewer = stored(noise=0.001, repeats=4)
    jobs = [job for job in fewer.jobs if (job.label, job.repeat) != (CONFIGURATIONS[0].label, 3)]

    assert jobs_to_add(replace(fewer, jobs=tuple(jobs)), resolved()) == ()


def test_only_the_pairs_that_need_it_get_more() -> None:
    both = replace(
        stored(noise=0.3),
        pairs=("demo", "other"),
        jobs=(
            *stored(noise=0.3).jobs,
            *(replace(job, pair="other", id=job.id + 100) for job in stored(noise=0.0).jobs),
        ),
    )
    added = jobs_to_add(both, resolved(pairs=("demo", "other")))

    assert {job.pair.spec.name for job in added} == {"demo"}
    assert min(job.position for job in added) == len(both.jobs)


def test_the_half_width_over_repeats_is_students() -> None:
    """Of 9, 10 and 11: 4.303 * 1 / sqrt(3) / 10."""
    assert half_width_over_repeats([9.0, 10.0, 11.0], 0.95) == pytest.approx(0.2484, abs=1e-4)
    assert half_width_over_repeats([10.0], 0.95) is None
