"""How long a sweep will still take, and what that rests on."""

from __future__ import annotations

import pytest

from dyna_eval.measurements import Calibration
from dyna_eval.records import StoredCalibration
from dyna_eval.time_left import Basis, Remaining, TimeLeft, target_alone_seconds, time_left

SELDOM = 1_000_000
"""Jobs between an actor's own runs: so many that one run is left at most."""


def row(
    label: str, *, queued: int = 0, running: tuple[float, ...] = (), took: float | None = None
) -> Remaining:
    return Remaining(pair="demo", label=label, queued=queued, running=running, done_seconds=took)


def left(*rows: Remaining, alone: float | None = None, sentinel_every: int = SELDOM) -> TimeLeft | None:
    known = {} if alone is None else {"demo": alone}
    return time_left(rows, target_alone=known, sentinel_every=sentinel_every)


def test_each_row_takes_what_its_done_jobs_took() -> None:
    found = left(row("slow", queued=2, took=30.0), row("fast", queued=1, took=10.0), alone=0.0)
    assert found == TimeLeft(seconds=70.0, basis=Basis.DONE_JOBS)


def test_a_row_without_a_done_job_takes_what_the_others_take() -> None:
    found = left(row("done", took=30.0), row("other", took=10.0), row("new", queued=1), alone=0.0)
    assert found == TimeLeft(seconds=20.0, basis=Basis.DONE_JOBS)


def test_before_anything_is_done_calibration_tells_and_says_so() -> None:
    assert left(row("new", queued=3), alone=10.0) == TimeLeft(seconds=40.0, basis=Basis.CALIBRATION)


def test_without_a_done_job_and_without_calibration_nothing_is_claimed() -> None:
    assert left(row("new", queued=1)) is None


def test_a_pair_of_which_nothing_is_known_is_named_and_the_others_are_estimated() -> None:
    other_pair = Remaining(pair="other", label="x", queued=1, running=(), done_seconds=None)
    found = left(row("done", queued=1, took=5.0), other_pair, alone=5.0)
    assert found == TimeLeft(seconds=10.0, basis=Basis.DONE_JOBS, unknown=("other",))


def test_what_runs_counts_by_what_is_left_of_it_and_is_shared_by_as_many_actors() -> None:
    at_work = row("a", queued=4, running=(4.0, 15.0), took=20.0)
    assert left(at_work, alone=0.0) == TimeLeft(seconds=(4 * 20.0 + 16.0 + 5.0) / 2, basis=Basis.DONE_JOBS)


def test_a_job_that_runs_for_longer_than_it_was_to_take_makes_the_estimate_overdue() -> None:
    late = row("late", queued=1, running=(25.0,), took=20.0)
    assert left(late, alone=0.0) == TimeLeft(seconds=20.0, basis=Basis.DONE_JOBS, overdue=True)
    last = row("last", running=(25.0,), took=20.0)
    assert left(last, alone=0.0) == TimeLeft(seconds=0.0, basis=Basis.DONE_JOBS, overdue=True)


def test_nothing_is_left_without_an_open_job() -> None:
    assert left(row("done", took=20.0), alone=5.0) is None


def test_it_never_ends_before_its_longest_job() -> None:
    last = row("long", running=(10.0,), took=100.0), row("short", running=(1.0, 1.0, 1.0), took=1.0)
    assert left(*last, alone=0.0) == TimeLeft(seconds=90.0, basis=Basis.DONE_JOBS)


def test_the_actors_own_runs_are_counted() -> None:
    found = left(row("a", queued=5, took=10.0), alone=7.0, sentinel_every=2)
    assert found == TimeLeft(seconds=5 * 10.0 + 3 * 7.0, basis=Basis.DONE_JOBS)


def test_the_target_alone_takes_a_pass_for_every_token() -> None:
    calibration = Calibration(draft_seconds=(), verify_seconds=((1, 0.25), (8, 1.0)))
    assert target_alone_seconds(prompts=2, max_new_tokens=16, calibration=calibration) == pytest.approx(8.0)


@pytest.mark.parametrize(
    ("facts", "origin"),
    [
        ({"processor": "AMD EPYC", "cores": 2}, "of 2026-11-26 on AMD EPYC, 2 cores"),
        ({"processor": "AMD EPYC", "cores": 2, "gpu": "NVIDIA H100"}, "of 2026-11-26 on NVIDIA H100"),
        ({}, "of 2026-11-26 on an unknown processor"),
    ],
)
def test_a_calibration_names_its_day_and_its_machine(facts: dict[str, str | int], origin: str) -> None:
    measured = Calibration(draft_seconds=(), verify_seconds=((1, 1.0),))
    stored = StoredCalibration(calibration=measured, facts=facts, measured_at="2026-11-26T22:40:00+00:00")
    assert stored.origin == origin
