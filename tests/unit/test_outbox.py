"""Outcomes of jobs that wait for the database."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NoReturn

import pytest
from dyna_eval_db.store import Claim, Claimant, Landing, Store

from dyna_eval.errors import DatabaseAwayError
from dyna_eval.jobs import JobState
from dyna_eval.running.lease import LEASE_SECONDS
from dyna_eval.running.outbox import Failed, Finished, Outbox
from dyna_eval.running.verdicts import Verdict
from tests.integration.measurements import make_result, make_sweep
from tests.new_databases import open_new

SILENT = Verdict(error_class="StuckWorkerError", message="it is silent", final=False, actor_ends=True)
NO_PAIR = Verdict(
    error_class="PairError", message="it does not load", final=True, pair_fails=True, actor_ends=True
)


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with open_new(f"sqlite:///{tmp_path}/store.db") as store:
        yield store


def claimed(store: Store, jobs: int) -> list[Claim]:
    """Claims of the first of the four jobs of a new sweep, whose lease "me" holds."""
    sweep_id = store.add_sweep(make_sweep())
    store.acquire_lease(sweep_id, "me", LEASE_SECONDS)
    actors = [Claimant(actor=f"actor-{number}") for number in range(jobs)]
    return store.claim_jobs(sweep_id, pair="demo", claimants=actors, lease_seconds=LEASE_SECONDS)


def outbox_of(store: Store, told: list[tuple[int, object]]) -> Outbox:
    """An outbox that tells the jobs of what was taken, with the landing, the verdict or its toll."""
    return Outbox(
        store=store,
        holder="me",
        landed=lambda finished, landing: told.append((finished.claim.job_id, landing)),
        failed=lambda failed, further: told.append((failed.claim.job_id, further or failed.verdict)),
    )


def finished(claim: Claim) -> Finished:
    return Finished(actor="actor", claim=claim, result=make_result(claim.job))


def failed(claim: Claim, verdict: Verdict, *, late: bool = False) -> Failed:
    return Failed(actor="actor", claim=claim, verdict=verdict, late=late)


def away(*_: Any, **__: Any) -> NoReturn:
    raise DatabaseAwayError("the server is gone")


def states(store: Store, claims: Sequence[Claim]) -> list[JobState]:
    return [store.job(claim.job_id).state for claim in claims]


def test_outcomes_are_kept_in_order_until_each_was_taken_and_told_once(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Results that came one after another are written together."""
    claims = claimed(store, 4)
    first, second, third, last = (claim.job_id for claim in claims)
    told: list[tuple[int, object]] = []
    landings: list[int] = []
    outbox = outbox_of(store, told)
    for outcome in (finished(claims[0]), finished(claims[1]), failed(claims[2], SILENT), finished(claims[3])):
        outbox.put(outcome)
    land_results = store.land_results

    def counted(results: Any) -> list[Landing]:
        landings.append(len(results))
        return land_results(results)

    monkeypatch.setattr(store, "land_results", counted)
    with monkeypatch.context() as patch:
        patch.setattr(store, "fail", away)
        for _ in range(2):
            with pytest.raises(DatabaseAwayError):
                outbox.flush()
            assert len(outbox) == 2
    outbox.flush()
    assert len(outbox) == 0
    assert landings == [2, 1]
    landed = Landing.LANDED
    assert told == [(first, landed), (second, landed), (third, SILENT), (last, landed)]
    assert states(store, claims) == [JobState.DONE, JobState.DONE, JobState.QUEUED, JobState.DONE]


def test_a_result_whose_answer_was_lost_is_written_again_and_counts_once(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    [claim] = claimed(store, 1)
    told: list[tuple[int, object]] = []
    outbox = outbox_of(store, told)
    outbox.put(finished(claim))
    land_results = store.land_results
    with monkeypatch.context() as patch:
        patch.setattr(store, "land_results", lambda results: away(land_results(results)))
        with pytest.raises(DatabaseAwayError):
            outbox.flush()
    outbox.flush()
    assert told == [(claim.job_id, Landing.ALREADY_LANDED)]
    assert store.audit() == []


def test_a_failure_whose_answer_was_lost_is_written_again_and_is_not_called_late(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    [claim] = claimed(store, 1)
    told: list[tuple[int, object]] = []
    outbox = outbox_of(store, told)
    outbox.put(failed(claim, SILENT))
    fail = store.fail
    with monkeypatch.context() as patch:
        patch.setattr(store, "fail", lambda *args, **kwargs: away(fail(*args, **kwargs)))
        with pytest.raises(DatabaseAwayError):
            outbox.flush()
    outbox.flush()
    assert told == [(claim.job_id, SILENT)]
    assert store.job(claim.job_id).tries == 1
    kinds = [event.kind for event in store.events(claim.sweep_id)]
    assert kinds == ["submitted", "lease acquired", "claimed", "failed"]
    late = Verdict(error_class="ValueError", message="too late", final=True, actor_ends=True)
    outbox.put(failed(claim, late, late=True))
    outbox.flush()
    assert store.events(claim.sweep_id)[-1].kind == "fenced"


def test_a_late_answer_is_discarded_also_where_the_failure_waited_with_it(store: Store) -> None:
    """The worker was given up and came back, all while the database was away."""
    [claim] = claimed(store, 1)
    told: list[tuple[int, object]] = []
    outbox = outbox_of(store, told)
    outbox.put(failed(claim, SILENT))
    outbox.put(finished(claim))
    outbox.flush()
    assert told == [(claim.job_id, SILENT), (claim.job_id, Landing.FENCED)]
    assert states(store, [claim]) == [JobState.QUEUED]
    assert store.audit() == []


@pytest.mark.parametrize(("late", "others"), [(False, JobState.FAILED), (True, JobState.QUEUED)])
def test_a_pair_fails_with_its_job_unless_the_failure_came_late(
    store: Store, *, late: bool, others: JobState
) -> None:
    [claim] = claimed(store, 1)
    told: list[tuple[int, object]] = []
    outbox = outbox_of(store, told)
    if late:
        outbox.put(failed(claim, SILENT))
    outbox.put(failed(claim, NO_PAIR, late=late))
    outbox.flush()
    assert told[-1] == (claim.job_id, NO_PAIR if late else 3)
    counts = store.progress(claim.sweep_id)
    assert counts[others] == sum(counts.values())
    assert store.audit() == []


def test_a_pair_that_another_controller_has_taken_over_meanwhile_does_not_fail(store: Store) -> None:
    """Its network was away, or it was stopped, until its lease had run out; the other one loads the pair."""
    [claim] = claimed(store, 1)
    told: list[tuple[int, object]] = []
    outbox = outbox_of(store, told)
    outbox.put(failed(claim, NO_PAIR))
    store.renew_lease(claim.sweep_id, "me", 0)
    assert store.acquire_lease(claim.sweep_id, "next", LEASE_SECONDS)
    store.recover(claim.sweep_id, "next")
    outbox.flush()
    assert told == [(claim.job_id, NO_PAIR)]
    assert store.progress(claim.sweep_id)[JobState.QUEUED] == 4
    assert store.events(claim.sweep_id)[-1].kind == "fenced"
    assert store.audit() == []


def test_a_result_that_cannot_be_stored_fails_its_job_and_holds_up_no_other(store: Store) -> None:
    claims = claimed(store, 3)
    told: list[tuple[int, object]] = []
    outbox = outbox_of(store, told)
    result = make_result(claims[1].job)
    unstorable = replace(result, conditions={"load": float("nan")})
    outbox.put(finished(claims[0]))
    outbox.put(Finished(actor="actor", claim=claims[1], result=unstorable))
    outbox.put(finished(claims[2]))
    outbox.flush()
    assert len(outbox) == 0
    assert states(store, claims) == [JobState.DONE, JobState.FAILED, JobState.DONE]
    assert [job for job, _ in told] == [claim.job_id for claim in claims]
    assert "cannot be stored" in str(store.job(claims[1].job_id).error)
    assert store.audit() == []


def test_of_results_that_came_together_each_is_written_once_more_where_one_cannot_be_stored(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    claims = claimed(store, 4)
    outbox, written = outbox_of(store, []), list[int]()
    for claim in claims[:3]:
        outbox.put(finished(claim))
    unstorable = replace(make_result(claims[3].job), conditions={"load": float("nan")})
    outbox.put(Finished(actor="actor", claim=claims[3], result=unstorable))
    land_results = store.land_results

    def counted(results: Any) -> list[Landing]:
        written.append(len(results))
        return land_results(results)

    monkeypatch.setattr(store, "land_results", counted)
    outbox.flush()
    assert written == [4, 1, 1, 1, 1]
    assert states(store, claims) == [JobState.DONE] * 3 + [JobState.FAILED]


def test_what_could_not_be_stored_is_told_once_where_the_database_goes_away_meanwhile(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    claims = claimed(store, 2)
    told: list[tuple[int, object]] = []
    outbox = outbox_of(store, told)
    unstorable = replace(make_result(claims[0].job), conditions={"load": float("nan")})
    outbox.put(Finished(actor="actor", claim=claims[0], result=unstorable))
    outbox.put(finished(claims[1]))
    with monkeypatch.context() as patch:
        patch.setattr(store, "fail", away)
        with pytest.raises(DatabaseAwayError):
            outbox.flush()
    assert told == []
    outbox.flush()
    assert [job for job, _ in told] == [claim.job_id for claim in claims]
    assert states(store, claims) == [JobState.FAILED, JobState.DONE]
    assert store.audit() == []
