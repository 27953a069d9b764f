"""One contract for the store on every kind of database, and what SQLite must do in addition."""

from __future__ import annotations

import itertools
import json
import math
import os
import re
import shlex
import signal
import sqlite3
import subprocess
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
from claims import claim_one, land_one
from click.testing import CliRunner
from dyna_eval_db import engine
from dyna_eval_db.address import parse_address
from dyna_eval_db.claims import release
from dyna_eval_db.engine import bare_engine, wal_is_safe
from dyna_eval_db.events import log
from dyna_eval_db.models import LeaseRow
from dyna_eval_db.sqlite_file import network_file_system
from dyna_eval_db.store import Claim, Claimant, Landing, Outcome, Store, SweepState, Whereabouts
from dyna_eval_db.values import EventKind
from dyna_eval_db.watching import WatchedStore
from measurements import (
    CALIBRATION,
    CONFIGURATIONS,
    TREE,
    make_result,
    make_sample,
    make_sentinel,
    make_sweep,
)
from sqlalchemy import Engine, event, text, update
from sqlalchemy.exc import DataError

from dyna_eval.cli import cli
from dyna_eval.commands import running, stored
from dyna_eval.errors import DatabaseAwayError, DatabaseError, LeaseLostError, UnknownSweepError
from dyna_eval.holder import own_name
from dyna_eval.importers import import_file
from dyna_eval.jobs import Backend, JobState, Method, PromptSet, ResolvedSweep, digest
from dyna_eval.measurements import Calibration, Environment, JobResult, sum_rounds
from tests.new_databases import open_new
from tests.result_files import FOUR_STEPS, dynatree, write

MINUTE = 60.0


@pytest.fixture
def sweep_id(store: Store) -> int:
    """A sweep of four jobs on one pair."""
    return store.add_sweep(make_sweep())


def take(store: Store, sweep_id: int, *, actor: str = "actor-1", seconds: float = MINUTE) -> Claim:
    claim = claim_one(store, sweep_id, pair="demo", actor=actor, lease_seconds=seconds)
    assert claim is not None
    return claim


def take_back_all(store: Store, sweep_id: int) -> None:
    """Become the sweep's next controller, to which all claims of before are lost."""
    assert store.acquire_lease(sweep_id, "next", MINUTE)
    store.recover(sweep_id, "next")


def fail_pair(store: Store, sweep_id: int, pair: str) -> int:
    """Fail the queued jobs of a pair, as the sweep's controller for that moment."""
    assert store.acquire_lease(sweep_id, "me", MINUTE)
    count = store.fail_pair(sweep_id, pair, "no such folder", holder="me")
    store.release_lease(sweep_id, "me")
    return count


def on(result: JobResult, processor: str) -> JobResult:
    """Return a result as it were from a machine with this processor."""
    facts = {"processor": processor, "cores": 8}
    return replace(result, environment=Environment(digest=digest(facts), facts=facts))


@contextmanager
def statements_of(store: Store, part: str) -> Iterator[list[str]]:
    """Collect the statements that hold a text and that a store executes in a block."""
    seen: list[str] = []

    def note(_connection: Any, _cursor: Any, statement: str, *_: Any) -> None:
        if part in statement:
            seen.append(statement)

    event.listen(store._engine, "before_cursor_execute", note)
    yield seen
    event.remove(store._engine, "before_cursor_execute", note)


def kinds(store: Store, sweep_id: int) -> list[str]:
    return [happened.kind for happened in store.events(sweep_id)]


def outcomes(store: Store, job_id: int) -> list[Outcome | None]:
    return [attempt.outcome for attempt in store.attempts(job_id)]


def state(store: Store, claim: Claim) -> JobState:
    return store.job(claim.job_id).state


# ---------------------------------------------------------------------- sweeps


def test_a_sweep_comes_back_as_it_was_added(store: Store) -> None:
    resolved = make_sweep(pairs=("demo", "other"), source="name: four-step\n")
    assert store.resolved(store.add_sweep(resolved)) == resolved


def test_the_same_sweep_again_is_found_and_adds_no_job(store: Store) -> None:
    first = store.add_sweep(make_sweep())
    assert store.add_sweep(make_sweep()) == first
    assert sum(store.progress(first).values()) == 4
    assert kinds(store, first) == ["submitted", "submitted again"]


def test_a_record_has_the_categories_of_its_prompts(store: Store) -> None:
    resolved = make_sweep()
    digest_ = resolved.prompt_sets["demo"].digest
    assert store.record(store.add_sweep(resolved)).categories == {digest_: {1: "prose"}}


def test_a_record_knows_which_of_its_prompts_equal_earlier_ones(store: Store) -> None:
    """Of each set by itself: prompts of two sets may be the same."""
    resolved = make_sweep(pairs=("demo", "other"))
    one, other = resolved.prompt_sets["demo"].prompts
    prompts = tuple(replace(own, index=index) for index, own in enumerate((other, one, other, one, other)))
    repeated = PromptSet(digest=digest("repeated"), prompts=prompts)
    assert store.record(store.add_sweep(resolved)).equal_prompts == {}
    again = replace(resolved, digest=digest("again"), prompt_sets={**resolved.prompt_sets, "other": repeated})
    assert store.record(store.add_sweep(again)).equal_prompts == {repeated.digest: {2: 0, 3: 1, 4: 0}}


@pytest.mark.parametrize("stops", [False, True])
def test_a_record_knows_which_pairs_went_on_behind_their_answers(store: Store, *, stops: bool) -> None:
    resolved = make_sweep(pairs=("demo", "other"))
    first, second = resolved.spec.pairs
    chats = replace(resolved.spec.prompts, chat_template={})
    generation = replace(resolved.spec.generation, stop_at_eos=stops)
    spec = replace(resolved.spec, pairs=(first, replace(second, prompts=chats)), generation=generation)
    sweep_id = store.add_sweep(replace(resolved, spec=spec))
    assert store.record(sweep_id).past_answers == (() if stops else ("other",))


def test_categories_that_a_file_names_only_later_are_added_to_the_stored_prompts(store: Store) -> None:
    """Submitting the file again runs nothing, and a file that names none takes none away."""
    resolved = make_sweep()
    prompts = resolved.prompt_sets["demo"]

    def named(*categories: str | None) -> ResolvedSweep:
        pairs = zip(prompts.prompts, categories, strict=True)
        renamed = replace(prompts, prompts=tuple(replace(p, category=category) for p, category in pairs))
        return replace(resolved, prompt_sets={"demo": renamed})

    sweep_id = store.add_sweep(named(None, None))
    assert store.record(sweep_id).categories == {}
    assert store.add_sweep(named("code", "prose")) == sweep_id
    assert store.record(sweep_id).categories == {prompts.digest: {0: "code", 1: "prose"}}
    assert store.add_sweep(named(None, None)) == sweep_id
    assert store.record(sweep_id).categories == {prompts.digest: {0: "code", 1: "prose"}}


def test_a_file_submitted_again_sets_the_limit_of_the_jobs_that_are_not_done(store: Store) -> None:
    """Those that failed by the old limit, and those that are added later, run under the new one."""
    resolved = make_sweep()
    spec = resolved.spec
    limited = replace(resolved, spec=replace(spec, measure=replace(spec.measure, job_timeout_s=600.0)))
    sweep_id = store.add_sweep(resolved)
    done, failed = take(store, sweep_id), take(store, sweep_id)
    land_one(store, done, make_result(done.job))
    store.fail(failed, error_class="StuckWorkerError", message="it ran for too long", final=True)

    assert store.add_sweep(limited) == sweep_id
    store.retry(sweep_id)
    found = store.resolved(sweep_id)
    limits = {job.position: job.measure.job_timeout_s for job in found.jobs}
    assert limits == {1: None, 2: 600.0, 3: 600.0, 4: 600.0}
    assert found.spec == limited.spec

    assert store.add_sweep(resolved) == sweep_id
    assert store.resolved(sweep_id).spec == resolved.spec


def test_sweeps_that_use_the_same_prompts_share_them(store: Store) -> None:
    first, second = make_sweep("one"), make_sweep("two")
    store.add_sweep(first)
    store.add_sweep(second)
    prompts = first.prompt_sets["demo"]
    assert store.prompt_set(prompts.digest) == prompts


def test_a_sweep_is_found_by_name_by_number_or_as_the_latest(store: Store) -> None:
    older = store.add_sweep(make_sweep("four-step", source="old"))
    newer = store.add_sweep(make_sweep("four-step", source="new"))
    latest = store.add_sweep(make_sweep("2025"))
    assert store.find_sweep("four-step") == newer
    assert store.find_sweep(str(older)) == older
    assert store.find_sweep("2025") == latest
    assert store.find_sweep(None) == latest


def test_an_unknown_sweep_is_answered_with_the_nearest_names(store: Store) -> None:
    with pytest.raises(UnknownSweepError, match="holds no sweep yet"):
        store.find_sweep(None)
    store.add_sweep(make_sweep("four-step"))
    with pytest.raises(UnknownSweepError, match="did you mean 'four-step'"):
        store.find_sweep("fuor-step")
    with pytest.raises(UnknownSweepError, match="no sweep '9'"):
        store.find_sweep("9")
    with pytest.raises(UnknownSweepError, match="no sweep '99999999999999999999'"):
        store.find_sweep("9" * 20)


@pytest.mark.parametrize(
    "ask",
    [
        lambda store: store.progress(7),
        lambda store: store.sweep_state(7),
        lambda store: store.record(7),
        lambda store: store.resolved(7),
        lambda store: store.acquire_lease(7, "me", MINUTE),
        lambda store: store.cancel(7),
        lambda store: store.retry(7),
        lambda store: store.job(7),
        lambda store: store.samples(7),
        lambda store: store.attempts(7),
    ],
)
def test_a_number_that_stands_for_nothing_is_refused(store: Store, ask: Callable[[Store], object]) -> None:
    with pytest.raises(UnknownSweepError, match="7"):
        ask(store)


def test_the_list_of_sweeps_counts_jobs_by_state_and_shows_the_latest_first(store: Store) -> None:
    first, second = store.add_sweep(make_sweep("one")), store.add_sweep(make_sweep("two", repeats=1))
    claim = take(store, first)
    land_one(store, claim, make_result(claim.job))
    newest, oldest = store.list_sweeps()
    assert (newest.id, newest.name, newest.state) == (second, "two", SweepState.QUEUED)
    assert (oldest.id, oldest.digest) == (first, make_sweep("one").digest)
    assert oldest.jobs[JobState.DONE] == 1
    assert oldest.jobs[JobState.QUEUED] == 3
    assert oldest.created_at.endswith("+00:00")


def test_sweeps_are_found_by_digest_and_by_pair_without_a_look_at_their_jobs(store: Store) -> None:
    assert (store.sweeps_by_digest(), store.sweeps_of_pairs()) == ({}, {})
    first = store.add_sweep(make_sweep("one", pairs=("demo", "other")))
    second = store.add_sweep(make_sweep("two", repeats=1))
    assert store.sweeps_by_digest() == {make_sweep("one").digest: first, make_sweep("two").digest: second}
    assert list(store.sweeps_of_pairs().items()) == [("demo", (second, "two")), ("other", (first, "one"))]


def test_a_watcher_reads_the_names_of_the_latest_sweeps_or_of_all(store: Store, database_url: str) -> None:
    ids = [store.add_sweep(make_sweep(name, repeats=1)) for name in ("one", "two", "three")]
    latest_first = list(zip(reversed(ids), ("three", "two", "one"), strict=True))
    with closing(WatchedStore.open(database_url)) as watched:
        assert watched.names(most=2) == latest_first[:2]
        assert watched.names(most=None) == latest_first


def test_the_pairs_with_queued_jobs_are_named_in_the_order_of_their_next_jobs(store: Store) -> None:
    sweep_id = store.add_sweep(make_sweep(pairs=("demo", "other"), repeats=1))
    assert store.queued_pairs(sweep_id) == ["other", "demo"]
    fail_pair(store, sweep_id, "other")
    assert store.queued_pairs(sweep_id) == ["demo"]


def test_the_state_of_a_sweep_follows_its_jobs_and_its_lease(store: Store) -> None:
    sweep_id = store.add_sweep(make_sweep(repeats=1))
    assert store.sweep_state(sweep_id) == SweepState.QUEUED
    store.acquire_lease(sweep_id, "me", MINUTE)
    assert store.sweep_state(sweep_id) == SweepState.RUNNING
    claim = take(store, sweep_id)
    store.release_lease(sweep_id, "me")
    assert store.sweep_state(sweep_id) == SweepState.INTERRUPTED
    land_one(store, claim, make_result(claim.job))
    second = take(store, sweep_id)
    store.fail(second, error_class="DecodingError", message="wrong token", final=True)
    assert store.sweep_state(sweep_id) == SweepState.FAILED
    store.retry(sweep_id)
    third = take(store, sweep_id)
    land_one(store, third, make_result(third.job))
    assert store.sweep_state(sweep_id) == SweepState.DONE


def test_a_sweep_without_open_or_failed_jobs_is_cancelled_if_any_job_was(store: Store, sweep_id: int) -> None:
    claim = take(store, sweep_id)
    land_one(store, claim, make_result(claim.job))
    store.cancel(sweep_id)
    assert store.sweep_state(sweep_id) == SweepState.CANCELLED


# ---------------------------------------------------------------------- leases


def test_a_sweep_has_one_controller_until_it_lets_go(store: Store, sweep_id: int) -> None:
    assert store.acquire_lease(sweep_id, "first", MINUTE)
    assert store.acquire_lease(sweep_id, "first", MINUTE)
    assert not store.acquire_lease(sweep_id, "second", MINUTE)
    store.release_lease(sweep_id, "second")
    assert not store.acquire_lease(sweep_id, "second", MINUTE)
    store.release_lease(sweep_id, "first")
    assert store.acquire_lease(sweep_id, "second", MINUTE)


def test_the_holder_of_a_lease_is_known_until_it_is_released(store: Store, sweep_id: int) -> None:
    assert store.lease_holder(sweep_id) is None
    store.acquire_lease(sweep_id, "me", -1.0)
    assert store.lease_holder(sweep_id) == "me"
    store.release_lease(sweep_id, "me")
    assert store.lease_holder(sweep_id) is None


def test_an_expired_lease_is_taken_over_and_its_holder_hears_of_it(store: Store, sweep_id: int) -> None:
    assert store.acquire_lease(sweep_id, "first", -1.0)
    assert store.acquire_lease(sweep_id, "second", MINUTE)
    with pytest.raises(LeaseLostError):
        store.renew_lease(sweep_id, "first", MINUTE)
    store.renew_lease(sweep_id, "second", MINUTE)


def test_a_renewed_lease_lives_longer(store: Store, sweep_id: int) -> None:
    store.acquire_lease(sweep_id, "first", -1.0)
    store.renew_lease(sweep_id, "first", MINUTE)
    assert not store.acquire_lease(sweep_id, "second", MINUTE)


def test_leases_are_kept_to_fractions_of_a_second(store: Store, sweep_id: int) -> None:
    store.acquire_lease(sweep_id, "first", 0.25)
    assert not store.acquire_lease(sweep_id, "second", MINUTE)
    time.sleep(0.3)
    assert store.acquire_lease(sweep_id, "second", MINUTE)


def test_only_the_holder_of_a_live_lease_recovers(store: Store, sweep_id: int) -> None:
    with pytest.raises(LeaseLostError):
        store.recover(sweep_id, "me")
    store.acquire_lease(sweep_id, "me", -1.0)
    with pytest.raises(LeaseLostError):
        store.recover(sweep_id, "me")


def test_recovery_queues_what_an_earlier_controller_left_running_without_blame(
    store: Store, sweep_id: int
) -> None:
    claim = take(store, sweep_id)
    store.acquire_lease(sweep_id, "me", MINUTE)
    assert store.recover(sweep_id, "me") == 1
    assert state(store, claim) == JobState.QUEUED
    assert store.job(claim.job_id).tries == 0
    assert outcomes(store, claim.job_id) == [Outcome.LOST]
    assert "lost" in kinds(store, sweep_id)
    assert land_one(store, claim, make_result(claim.job)) == Landing.FENCED
    assert store.recover(sweep_id, "me") == 0
    again = take(store, sweep_id)
    assert (again.job_id, again.epoch) == (claim.job_id, 2)


def test_recovery_leaves_the_claims_that_are_to_be_kept(store: Store, sweep_id: int) -> None:
    unknown, kept = take(store, sweep_id), take(store, sweep_id)
    store.acquire_lease(sweep_id, "me", MINUTE)
    assert store.recover(sweep_id, "me", keep=[kept]) == 1
    assert (state(store, unknown), state(store, kept)) == (JobState.QUEUED, JobState.RUNNING)


# ---------------------------------------------------------------------- claims


def test_a_controller_claims_until_another_one_has_its_lease(store: Store, sweep_id: int) -> None:
    """One that ran out is still its own: nobody else is at work."""
    claimants = [Claimant(actor="actor-1")]

    def claimed(holder: str) -> list[Claim]:
        return store.claim_jobs(
            sweep_id, pair="demo", claimants=claimants, lease_seconds=MINUTE, holder=holder
        )

    with pytest.raises(LeaseLostError):
        claimed("me")
    assert store.acquire_lease(sweep_id, "me", -1.0)
    assert len(claimed("me")) == 1
    assert store.acquire_lease(sweep_id, "next", MINUTE)
    with pytest.raises(LeaseLostError):
        claimed("me")
    assert len(claimed("next")) == 1
    assert store.progress(sweep_id)[JobState.QUEUED] == 2


def test_jobs_are_claimed_in_their_order_once_each_and_pair_by_pair(store: Store) -> None:
    resolved = make_sweep(pairs=("demo", "other"), repeats=1)
    sweep_id = store.add_sweep(resolved)
    claims = [take(store, sweep_id) for _ in range(2)]
    expected = sorted(
        (job for job in resolved.jobs if job.pair.spec.name == "demo"), key=lambda job: job.position
    )
    assert [claim.job for claim in claims] == expected
    assert claim_one(store, sweep_id, pair="demo", actor="actor-1", lease_seconds=MINUTE) is None
    assert claim_one(store, sweep_id, pair="other", actor="actor-1", lease_seconds=MINUTE) is not None


def test_several_claims_at_once_are_those_of_one_after_the_other(store: Store) -> None:
    resolved = make_sweep(pairs=("demo", "other"), repeats=2)
    one, several = store.add_sweep(resolved), store.add_sweep(replace(resolved, digest=digest("several")))
    actors = [Claimant(actor=f"actor-{place}", node=f"node-{place}") for place in range(6)]

    def claimed(sweep_id: int, claimants: list[Claimant]) -> list[Claim]:
        return store.claim_jobs(sweep_id, pair="demo", claimants=claimants, lease_seconds=MINUTE)

    def told(claims: list[Claim], sweep_id: int) -> list[tuple[object, ...]]:
        logged = [happened.detail for happened in store.events(sweep_id) if happened.kind == "claimed"]
        attempts = [store.attempts(claim.job_id) for claim in claims]
        return [
            (
                claim.job,
                claim.epoch,
                claim.tries,
                attempt.id == claim.attempt_id,
                attempt.actor,
                attempt.node,
                log,
            )
            for claim, (attempt,), log in zip(claims, attempts, logged, strict=True)
        ]

    claims = claimed(several, actors)
    assert len(claims) == 4, "as many as the pair has"
    assert told(claims, several) == told([claim for own in actors for claim in claimed(one, [own])], one)
    assert {claim.sweep_id for claim in claims} == {several}
    assert claimed(several, actors) == []


def test_jobs_that_are_added_come_last_and_only_once(store: Store) -> None:
    resolved = make_sweep(repeats=1)
    sweep_id = store.add_sweep(resolved)
    more = [replace(job, repeat=1, position=job.position + 100) for job in resolved.jobs]

    assert store.add_jobs(sweep_id, [*resolved.jobs, *more]) == len(more)
    assert store.add_jobs(sweep_id, more) == 0
    assert kinds(store, sweep_id).count("jobs added") == 1
    claims = [take(store, sweep_id) for _ in range(4)]
    assert [claim.job.repeat for claim in claims] == [0, 0, 1, 1]
    assert claim_one(store, sweep_id, pair="demo", actor="actor-1", lease_seconds=MINUTE) is None


def test_the_conditions_of_a_result_are_kept(store: Store, sweep_id: int) -> None:
    claim = take(store, sweep_id)
    land_one(
        store, claim, replace(make_result(claim.job), conditions={"others_share": 0.25, "commit": "abc+"})
    )

    assert store.job(claim.job_id).conditions == {"others_share": 0.25, "commit": "abc+"}
    waiting = take(store, sweep_id)
    assert store.job(waiting.job_id).conditions is None


def test_a_claim_is_a_running_job_with_an_open_attempt(store: Store, sweep_id: int) -> None:
    claim = take(store, sweep_id, actor="actor-9")
    assert (claim.epoch, claim.tries, state(store, claim)) == (1, 0, JobState.RUNNING)
    (attempt,) = store.attempts(claim.job_id)
    assert (attempt.id, attempt.epoch, attempt.actor) == (claim.attempt_id, 1, "actor-9")
    assert attempt.ended_at is None
    assert attempt.outcome is None


def test_two_connections_never_claim_the_same_job(store: Store, database_url: str) -> None:
    sweep_id = store.add_sweep(make_sweep(repeats=20))
    claimed: list[int] = []

    def claim_all() -> None:
        with Store.open(database_url, create=False) as own:
            while claim := claim_one(own, sweep_id, pair="demo", actor="actor", lease_seconds=MINUTE):
                claimed.append(claim.job_id)

    threads = [threading.Thread(target=claim_all) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(claimed) == 40
    assert len(set(claimed)) == 40


def test_one_of_many_that_submit_at_once_stores_the_sweep(store: Store, database_url: str) -> None:
    found: list[int] = []

    def submit() -> None:
        with Store.open(database_url, create=False) as own:
            found.append(own.add_sweep(make_sweep()))

    threads = [threading.Thread(target=submit) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 4
    assert len(set(found)) == 1
    assert len(store.list_sweeps()) == 1
    assert sum(store.progress(found[0]).values()) == 4


def test_a_claim_that_is_renewed_late_is_valid_while_nobody_took_it_back(store: Store, sweep_id: int) -> None:
    claim = take(store, sweep_id, seconds=-1.0)
    assert store.renew_claim(claim, MINUTE)
    assert land_one(store, claim, make_result(claim.job)) == Landing.LANDED


def test_a_job_given_up_is_queued_again_without_blame(store: Store, sweep_id: int) -> None:
    claim = take(store, sweep_id)
    assert store.put_back(claim, "the controller stopped")
    again = take(store, sweep_id)
    assert (again.job_id, again.tries) == (claim.job_id, 0)
    assert outcomes(store, claim.job_id) == [Outcome.PUT_BACK, None]
    assert store.attempts(claim.job_id)[0].error == "the controller stopped"


# --------------------------------------------------------------------- landing


def test_a_landed_result_comes_back_exactly(store: Store, sweep_id: int) -> None:
    claim = take(store, sweep_id)
    result = make_result(claim.job, sentinels=[make_sentinel()])
    assert land_one(store, claim, result) == Landing.LANDED
    assert store.samples(claim.job_id) == result.samples
    stored = store.job(claim.job_id)
    assert stored.state == JobState.DONE
    assert stored.samples == tuple(sum_rounds(sample) for sample in result.samples)
    assert (stored.actor, stored.environment) == ("actor-1", result.environment.digest)
    assert stored.peak_memory_bytes == result.peak_memory_bytes
    assert outcomes(store, claim.job_id) == [Outcome.LANDED]


def test_a_sample_without_rounds_and_without_optional_facts_comes_back_exactly(
    store: Store, sweep_id: int
) -> None:
    claim = take(store, sweep_id)
    bare = replace(
        make_sample(rounds=0, exactness=None),
        divergence_index=None,
        divergence_margin_ulp=None,
        distinct_2=None,
        text="",
        token_ids=(),
    )
    land_one(store, claim, replace(make_result(claim.job), samples=(bare,), peak_memory_bytes=None))
    assert store.samples(claim.job_id) == (bare,)
    assert store.job(claim.job_id).samples == (sum_rounds(bare),)
    assert store.job(claim.job_id).peak_memory_bytes is None


@pytest.mark.parametrize("margin", [math.nan, math.inf, -math.inf])
def test_a_number_that_is_not_finite_is_kept_apart_from_unknown(
    store: Store, sweep_id: int, margin: float
) -> None:
    claim = take(store, sweep_id)
    odd = replace(make_sample(), divergence_margin_ulp=margin)
    land_one(store, claim, replace(make_result(claim.job), samples=(odd,)))
    (read,) = store.samples(claim.job_id)
    assert repr(read.divergence_margin_ulp) == repr(margin)


def test_text_that_a_database_cannot_hold_does_not_stop_a_landing(store: Store, sweep_id: int) -> None:
    claim = take(store, sweep_id)
    text, stored = (
        "a\0b\ud800\N{GRINNING FACE}\\u0000",
        "a\N{SYMBOL FOR NULL}b\\ud800\N{GRINNING FACE}\\u0000",
    )
    odd = replace(make_sample(), text=text, trees=(replace(TREE, bonus_text=text),))
    environment = Environment(digest=digest("odd"), facts={text: text})
    land_one(store, claim, replace(make_result(claim.job), samples=(odd,), environment=environment))
    (read,) = store.samples(claim.job_id)
    assert (read.text, read.trees[0].bonus_text) == (stored, stored)
    assert {stored: stored} in store.record(sweep_id).environments.values()
    other = take(store, sweep_id)
    store.fail(other, error_class="ValueError", message=text, final=True)
    assert store.events(sweep_id)[-1].detail["error"] == stored


def test_landing_twice_is_noticed_and_changes_nothing(store: Store, sweep_id: int) -> None:
    claim = take(store, sweep_id)
    result = make_result(claim.job)
    land_one(store, claim, result)
    record = store.record(sweep_id)
    assert land_one(store, claim, result) == Landing.ALREADY_LANDED
    assert store.record(sweep_id) == record
    assert "fenced" not in kinds(store, sweep_id)


def test_of_several_results_at_once_each_lands_or_is_fenced_by_itself(store: Store, sweep_id: int) -> None:
    late = take(store, sweep_id, actor="late")
    take_back_all(store, sweep_id)
    claims = [take(store, sweep_id, actor="actor-1") for _ in range(3)]
    again = claims[0]
    land_one(store, again, make_result(again.job))

    finished = [(claim, make_result(claim.job)) for claim in (late, *claims)]
    assert store.land_results(finished) == [
        Landing.FENCED,
        Landing.ALREADY_LANDED,
        Landing.LANDED,
        Landing.LANDED,
    ]
    for claim, result in finished[1:]:
        assert store.samples(claim.job_id) == result.samples
        assert outcomes(store, claim.job_id)[-1] == Outcome.LANDED
    landed = [happened.job_id for happened in store.events(sweep_id) if happened.kind == Outcome.LANDED]
    assert landed == [claim.job_id for claim in claims]
    assert kinds(store, sweep_id).count("fenced") == 1
    assert store.audit() == []


def test_of_two_results_of_one_job_at_once_only_that_of_the_newest_claim_lands(
    store: Store, sweep_id: int
) -> None:
    late = take(store, sweep_id, actor="late")
    take_back_all(store, sweep_id)
    newer = take(store, sweep_id, actor="newer")
    finished = [
        (claim, make_result(claim.job, actor=claim_actor))
        for claim, claim_actor in ((late, "late"), (newer, "newer"))
    ]
    assert store.land_results(finished) == [Landing.FENCED, Landing.LANDED]
    assert store.job(newer.job_id).actor == "newer"
    assert store.audit() == []


def test_a_result_that_lands_after_its_claim_was_taken_back_leaves_no_row(
    store: Store, sweep_id: int
) -> None:
    late = take(store, sweep_id, actor="late")
    take_back_all(store, sweep_id)
    before = store.record(sweep_id)
    assert land_one(store, late, make_result(late.job, sentinels=[make_sentinel("late")])) == Landing.FENCED
    assert store.record(sweep_id) == before
    assert store.samples(late.job_id) == ()
    assert "fenced" in kinds(store, sweep_id)


def test_the_result_of_the_newest_claim_stands_against_a_late_one(store: Store, sweep_id: int) -> None:
    late = take(store, sweep_id, actor="late")
    take_back_all(store, sweep_id)
    newer = take(store, sweep_id, actor="newer")
    assert land_one(store, late, make_result(late.job, actor="late")) == Landing.FENCED
    assert land_one(store, newer, make_result(newer.job, actor="newer")) == Landing.LANDED
    assert land_one(store, late, make_result(late.job, actor="late")) == Landing.FENCED
    assert store.job(newer.job_id).actor == "newer"
    assert outcomes(store, newer.job_id) == [Outcome.LOST, Outcome.LANDED]


def test_a_result_of_another_job_is_refused(store: Store, sweep_id: int) -> None:
    claim, other = take(store, sweep_id), take(store, sweep_id)
    with pytest.raises(ValueError, match="is not that of"):
        land_one(store, claim, make_result(other.job))
    assert state(store, claim) == JobState.RUNNING


def test_a_sentinel_that_comes_twice_is_stored_once(store: Store, sweep_id: int) -> None:
    for sequences in ([0], [0, 1]):
        claim = take(store, sweep_id)
        sentinels = [make_sentinel(sequence=sequence) for sequence in sequences]
        land_one(store, claim, make_result(claim.job, sentinels=sentinels))
    stored = store.record(sweep_id).sentinels
    assert [(sentinel.actor, sentinel.sequence, sentinel.pair) for sentinel in stored] == [
        ("actor-1", 0, "demo"),
        ("actor-1", 1, "demo"),
    ]
    assert stored[0].samples == tuple(sum_rounds(sample) for sample in make_sentinel().samples)


SLOWER = Calibration(draft_seconds=((1, 0.75), (4, 1.5)), verify_seconds=((1, 2.0), (8, 4.0)))


def test_a_calibration_comes_back_for_its_pair_and_environment(store: Store, sweep_id: int) -> None:
    claim = take(store, sweep_id)
    result = make_result(claim.job)
    land_one(store, claim, result)
    pair, environment = claim.job.pair, result.environment.digest
    assert store.calibrations(pair) == {environment: CALIBRATION}
    renamed = replace(pair, spec=replace(pair.spec, name="other"))
    assert store.calibrations(renamed) == {environment: CALIBRATION}
    for other in (
        replace(pair, backend=Backend.EAGER),
        replace(pair, dtype="float16"),
        replace(pair, draft_digest=None),
        replace(pair, target_digest=digest("another")),
    ):
        assert store.calibrations(other) == {}


def test_a_result_keeps_the_calibration_that_its_actor_brought(
    store: Store, sweep_id: int, database_url: str
) -> None:
    """Two actors of one machine in turns, each of which brings its own with every result, then none."""
    brought: dict[int, Calibration | None] = {}
    for calibration in (CALIBRATION, SLOWER, CALIBRATION, None):
        claim = take(store, sweep_id)
        land_one(store, claim, make_result(claim.job, calibration=calibration))
        brought[claim.job_id] = calibration
    assert {job.id: job.calibration for job in store.record(sweep_id).jobs} == brought
    for job_id, calibration in brought.items():
        assert store.job(job_id).calibration == calibration
        done = CliRunner().invoke(cli, ["show", str(job_id), "--json", "--db", database_url])
        shown = json.loads(done.stdout)["calibration"]
        assert shown == (calibration and json.loads(json.dumps(asdict(calibration))))


def test_a_calibration_that_comes_with_many_results_is_stored_once(
    store: Store, sweep_id: int, database_url: str
) -> None:
    """Also where they land together; the same costs on another machine are another one."""
    claims = [take(store, sweep_id) for _ in range(4)]
    results = [make_result(claim.job) for claim in claims]
    elsewhere = replace(results[3], environment=Environment(digest="e2", facts={}))
    store.land_results([(claims[0], results[0]), (claims[1], results[1])])
    store.land_results([(claims[2], results[2]), (claims[3], elsewhere)])
    with bare_engine(parse_address(database_url)).connect() as connection:
        assert connection.scalar(text("SELECT count(*) FROM calibration")) == 2
    assert [job.calibration for job in store.record(sweep_id).jobs] == [CALIBRATION] * 4


def test_results_that_land_together_with_one_calibration_ask_for_it_once(store: Store, sweep_id: int) -> None:
    claims = [take(store, sweep_id) for _ in range(4)]
    land_one(store, claims[0], make_result(claims[0].job))
    with statements_of(store, "calibration ") as statements:
        store.land_results([(claim, make_result(claim.job)) for claim in claims[1:]])
    assert [statement.split()[0] for statement in statements] == ["SELECT"]


def test_a_pairs_calibration_is_the_latest_of_each_environment(store: Store, sweep_id: int) -> None:
    here, elsewhere = make_result(take(store, sweep_id).job).environment, Environment(digest="e2", facts={})
    other = store.add_sweep(make_sweep("other"))
    landings = [(here, CALIBRATION), (elsewhere, CALIBRATION), (here, SLOWER), (here, None)]
    for environment, calibration in landings:
        claim = take(store, other)
        result = make_result(claim.job, calibration=calibration)
        land_one(store, claim, replace(result, environment=environment))
    found = store.calibrations(claim.job.pair)
    assert list(found.items()) == [(here.digest, SLOWER), (elsewhere.digest, CALIBRATION)]


def report_of(database_url: str, *words: str) -> str:
    done = CliRunner().invoke(cli, ["report", "--db", database_url, *words], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return done.stdout


def run_all(store: Store, name: str, calibration: Calibration) -> None:
    """Add a sweep and land all its jobs, measured by an actor of the one machine."""
    sweep_id = store.add_sweep(make_sweep(name))
    for number in range(4):
        claim = take(store, sweep_id)
        sentinels = [] if number else [make_sentinel()]
        land_one(store, claim, make_result(claim.job, sentinels=sentinels, calibration=calibration))


def test_a_report_stays_the_same_when_the_machine_is_calibrated_anew(
    store: Store, database_url: str, tmp_path: Path
) -> None:
    for name in ("old", "older"):
        run_all(store, name, CALIBRATION)
    wanted = (
        ["old", "--json"],
        ["old", "--columns", "predicted"],
        ["old", "--latex", "--columns", "predicted"],
        ["--from", "old", "--from", "older", "--json"],
    )
    before = [report_of(database_url, *words) for words in wanted]
    paper = tmp_path / "paper.tex"
    paper.write_text(before[2])
    run_all(store, "new", SLOWER)
    assert [report_of(database_url, *words) for words in wanted] == before
    report_of(database_url, "--check", str(paper))  # would exit with 1
    old, new = (
        json.loads(report_of(database_url, name, "--json"))["rows"][1]["predicted_speedup"]
        for name in ("old", "new")
    )
    assert None not in (old, new)
    assert old != new
    joined = json.loads(report_of(database_url, "--from", "old", "--from", "new", "--json"))
    assert [row["predicted_speedup"] for row in joined["rows"] if row["method"] == "tree"] == [old, new]


class CrashError(Exception):
    """What the tests below throw into the middle of a transaction."""


@contextmanager
def crash_at_statement(number: int) -> Iterator[None]:
    """Raise at the n-th statement that this thread sends from now on."""
    statements = itertools.count(1)

    def count(*_: Any) -> None:
        if next(statements) == number:
            raise CrashError

    event.listen(Engine, "before_cursor_execute", count)
    try:
        yield
    finally:
        event.remove(Engine, "before_cursor_execute", count)


def test_a_crash_before_any_statement_of_a_landing_leaves_nothing_of_it(store: Store, sweep_id: int) -> None:
    claim = take(store, sweep_id)
    result = make_result(claim.job, sentinels=[make_sentinel()])
    before, events = store.record(sweep_id), store.events(sweep_id)
    for crashes in itertools.count():
        try:
            with crash_at_statement(crashes + 1):
                landing = land_one(store, claim, result)
            break
        except CrashError:
            assert store.record(sweep_id) == before
            assert store.events(sweep_id) == events
            assert store.samples(claim.job_id) == ()
    assert crashes >= 8, "a landing has at least a statement for each of its tables"
    assert landing == Landing.LANDED
    assert store.samples(claim.job_id) == result.samples


# ------------------------------------------------------------- where results are from


def test_the_origins_of_results_are_told_by_pair_and_environment_the_latest_last(store: Store) -> None:
    sweep_id = store.add_sweep(make_sweep(pairs=("demo", "other")))
    other = store.add_sweep(make_sweep("another"))
    assert store.result_origins(sweep_id) == ()
    for sweep, pair, processor in (
        (sweep_id, "demo", "There"),
        (sweep_id, "demo", "Here"),
        (sweep_id, "demo", "There"),
        (sweep_id, "other", "Here"),
        (other, "demo", "Elsewhere"),
    ):
        claim = claim_one(store, sweep, pair=pair, actor="actor-1", lease_seconds=MINUTE)
        assert claim is not None
        land_one(store, claim, on(make_result(claim.job), processor))
        time.sleep(0.002)  # SQLite's clock counts milliseconds
    origins = store.result_origins(sweep_id)
    assert [(own.pair, own.facts["processor"]) for own in origins] == [
        ("demo", "Here"),
        ("demo", "There"),
        ("other", "Here"),
    ]
    assert [own.environment for own in origins] == [digest(own.facts) for own in origins]


def test_where_nothing_is_left_to_run_it_is_said_where_the_results_are_from(
    store: Store, sweep_id: int, database_url: str
) -> None:
    """They may be of another machine, or of months ago."""
    for processor in ("There", "Here", "There", "Here"):
        claim = take(store, sweep_id)
        land_one(store, claim, on(make_result(claim.job), processor))
        time.sleep(0.002)  # SQLite's clock counts milliseconds
    done = CliRunner().invoke(cli, ["resume", "--db", database_url], catch_exceptions=False)
    day = r"20\d\d-\d\d-\d\d"
    assert re.fullmatch(
        rf"sweep {sweep_id}: nothing left to run; its results are of {day} on There, 8 cores and of {day} on"
        r" Here, 8 cores; submit the file with another --name to measure anew",
        done.stderr.splitlines()[0],
    )


def test_where_nothing_ran_no_origin_is_told(store: Store, sweep_id: int, database_url: str) -> None:
    store.cancel(sweep_id)
    done = CliRunner().invoke(cli, ["resume", "--db", database_url], catch_exceptions=False)
    assert done.stderr.splitlines()[0] == f"sweep {sweep_id}: nothing left to run"


def test_hints_name_the_cluster_of_the_command_and_its_database_where_it_names_one(
    store: Store, sweep_id: int, database_url: str
) -> None:
    named = f" {shlex.join(['--db', database_url])}"

    def told(*words: str, db: str) -> str:
        given = ["--db", database_url] if db else []
        variables = {} if db else {"DYNA_EVAL_DB": database_url}
        return CliRunner().invoke(cli, [*words, *given], env=variables, catch_exceptions=False).stderr

    assert store.acquire_lease(sweep_id, "me", 0.0)
    take(store, sweep_id)
    for db in ("", named):
        assert f"`dyna-eval resume {sweep_id}{db}` goes on" in told("status", db=db)
    fail_pair(store, sweep_id, "demo")
    store.cancel(sweep_id)
    for db in ("", named):
        hint = told("resume", "--address", "auto", db=db).splitlines()[1]
        assert f"`dyna-eval status {sweep_id}{db}` says why" in hint
        assert f"`dyna-eval retry {sweep_id} --address auto{db}` runs them again" in hint


def test_status_tells_one_failure_of_many_jobs_once(store: Store, database_url: str) -> None:
    """Each failure of each pair, with its first job in the order in which they run."""
    sweep_id = store.add_sweep(make_sweep(pairs=["one", "other"]))
    messages = {"one": ["no folder", "no memory", "no folder", "no folder"], "other": ["no folder"] * 3}
    for pair, of_jobs in messages.items():
        for message in of_jobs:
            [claim] = store.claim_jobs(
                sweep_id, pair=pair, claimants=[Claimant(actor="actor-1")], lease_seconds=MINUTE
            )
            store.fail(claim, error_class="PairError", message=message, final=True)

    def first(pair: str, error: str) -> str:
        job = next(job for job in store.errors(sweep_id) if (job.pair, job.error) == (pair, error))
        return f"job {job.job_id} {job.label} (repeat {job.repeat + 1})"

    one, other = first("one", "PairError: no folder"), first("other", "PairError: no folder")
    alone = first("one", "PairError: no memory")
    words = ["status", "--db", database_url]
    lines = CliRunner().invoke(cli, words, catch_exceptions=False).stdout.splitlines()
    assert sorted(lines[1:]) == [
        f"  3 jobs of 2 rows of pair one failed, the first of them {one}: PairError: no folder",
        f"  3 jobs of 2 rows of pair other failed, the first of them {other}: PairError: no folder",
        f"  {alone} of pair one failed: PairError: no memory",
    ]
    told = json.loads(CliRunner().invoke(cli, [*words, "--json"], catch_exceptions=False).stdout)["errors"]
    assert [(job["job"], job["pair"], job["label"], job["repeat"], job["error"]) for job in told] == [
        (job.job_id, job.pair, job.label, job.repeat, job.error) for job in store.errors(sweep_id)
    ]
    assert {job["state"] for job in told} == {"failed"}
    assert len(told) == 7


def test_jobs_that_an_earlier_run_still_holds_are_told_with_what_to_do(
    store: Store, sweep_id: int, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    take(store, sweep_id)
    monkeypatch.setattr(running, "_work", lambda store, sweep_id, *_: store.progress(sweep_id))
    words = ["resume", "--db", database_url, "--address", "auto"]
    done = CliRunner().invoke(cli, words, catch_exceptions=False)
    [hint] = [line for line in done.stderr.splitlines() if "earlier run" in line]
    assert hint.startswith("1 job could not be taken back from an earlier run")
    assert f"in a minute `dyna-eval resume {sweep_id} --address auto --db " in hint


# ------------------------------------------------------------------- a dry run


@pytest.fixture
def dry_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., str]:
    """Submit a sweep of the store's own pair with --dry-run; only looking at its models is left out."""
    monkeypatch.setattr(running, "_resolve", lambda _spec, _address, **_: make_sweep())
    file = tmp_path / "sweep.yaml"
    file.write_text("pair: demo\nprompts: {dataset: demo}\nconfigs:\n  - {label: Baseline, method: ar}\n")

    def run(database: str, *options: str) -> str:
        words = ["submit", str(file), "--dry-run", "--db", database, *options]
        done = CliRunner().invoke(cli, words, catch_exceptions=False)
        assert done.exit_code == 0, done.output
        return done.stdout

    return run


def test_a_dry_run_estimates_its_time_by_an_earlier_calibration(
    store: Store, sweep_id: int, database_url: str, dry_run: Callable[..., str]
) -> None:
    """Of 4 jobs those that are left, and one run of the actor's own; 2 prompts of 4 tokens each, a token a
    second."""
    assert json.loads(dry_run(database_url, "--json"))["estimated_seconds"] is None
    assert "no estimate of the time: no calibration of these models is known" in dry_run(database_url)
    claim = take(store, sweep_id)
    land_one(store, claim, make_result(claim.job))
    before = store.record(sweep_id)
    assert json.loads(dry_run(database_url, "--json"))["estimated_seconds"] == (3 + 1) * 2 * 4 * 1.0
    told = dry_run(database_url)
    assert "under a minute on one actor if every row were as fast as the target alone" in told
    assert "no estimate" not in told
    slower = Calibration(draft_seconds=(), verify_seconds=((1, 10.0),))
    claim = take(store, sweep_id)
    land_one(store, claim, make_result(claim.job, calibration=slower))
    assert "about 4 min on one actor" in dry_run(database_url)
    assert len(store.record(sweep_id).jobs) == len(before.jobs)


def test_a_dry_run_says_which_machine_its_estimate_is_of_and_prefers_the_sweeps_own(
    store: Store, sweep_id: int, database_url: str, dry_run: Callable[..., str]
) -> None:
    """Where machines share a database, another one may have calibrated the pair last."""
    claim = take(store, sweep_id)
    land_one(store, claim, on(make_result(claim.job), "Here"))
    time.sleep(0.002)  # SQLite's clock counts milliseconds
    other = store.add_sweep(make_sweep("another"))
    slower = Calibration(draft_seconds=(), verify_seconds=((1, 6.0),))
    claim = take(store, other)
    land_one(store, claim, on(make_result(claim.job, calibration=slower), "There"))
    told = json.loads(dry_run(database_url, "--json"))
    assert told["estimated_seconds"] == (3 + 1) * 2 * 4 * 1.0
    assert [(own["pair"], own["machine"]) for own in told["calibrations"]] == [("demo", "Here, 8 cores")]
    assert told["not_estimated"] == []
    [line] = [line for line in dry_run(database_url).splitlines() if "on one actor" in line]
    assert re.search(r", by the calibration of 20\d\d-\d\d-\d\d on Here, 8 cores$", line)
    unseen = store.likely_calibrations(replace(make_sweep("new"), digest="unseen"))
    assert {name: own.machine for name, own in unseen.items()} == {"demo": "There, 8 cores"}


def test_a_dry_run_names_the_pairs_that_it_cannot_estimate(
    store: Store,
    sweep_id: int,
    database_url: str,
    dry_run: Callable[..., str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    claim = take(store, sweep_id)
    land_one(store, claim, make_result(claim.job))
    both = make_sweep(pairs=("demo", "large"))
    strange = replace(both.pairs[1], target_digest=digest("never seen"))
    both = replace(both, pairs=(both.pairs[0], strange), digest=digest("both"))
    monkeypatch.setattr(running, "_resolve", lambda *_, **__: both)
    told = json.loads(dry_run(database_url, "--json"))
    assert (told["estimated_seconds"], told["not_estimated"]) == (5 * 2 * 4 * 1.0, ["large"])
    assert dry_run(database_url).count("; without pair large, of which no calibration is known") == 1


def test_a_dry_run_makes_no_database_and_fills_no_empty_one(
    database_url: str, tmp_path: Path, dry_run: Callable[..., str]
) -> None:
    told = json.loads(dry_run(database_url, "--json"))
    assert (told["estimated_seconds"], told["sweep"], told["differs_from"]) == (None, None, None)
    assert "on one actor" not in dry_run(database_url)
    assert {path.name for path in tmp_path.iterdir()} == {"sweep.yaml"}
    if database_url.startswith("sqlite"):
        (tmp_path / "store.db").touch()
    dry_run(database_url)
    with pytest.raises(DatabaseError, match="is empty"):
        Store.open(database_url, create=False)


def test_a_dry_run_of_a_stored_sweep_lists_and_times_only_what_would_run(
    store: Store, sweep_id: int, database_url: str, dry_run: Callable[..., str]
) -> None:
    assert f"\nsweep {sweep_id} again: 0 of 4 jobs are done, 4 to run\n" in dry_run(database_url)
    done = take(store, sweep_id)
    land_one(store, done, make_result(done.job))
    failed = take(store, sweep_id)
    store.fail(failed, error_class="OSError", message="no", final=True)
    said = f"sweep {sweep_id} again: 1 of 4 jobs are done, 1 failed, 2 to run"
    assert f"\n{said}\n" in dry_run(database_url)
    assert "\n2 jobs; nothing was stored or run\n" in dry_run(database_url)
    told = json.loads(dry_run(database_url, "--json"))
    assert (told["sweep"], told["done"], told["differs_from"]) == (sweep_id, 1, None)
    left = {(job.key, job.repeat) for job in store.jobs_to_run(sweep_id)}
    assert {(job["key"], job["repeat"]) for job in told["jobs"]} == left
    assert len(left) == 2
    assert not left & {(claim.job.key, claim.job.repeat) for claim in (done, failed)}

    store.cancel(sweep_id)
    told = json.loads(dry_run(database_url, "--json"))
    assert (told["jobs"], told["estimated_seconds"]) == ([], 0.0)
    assert "0 jobs; nothing was stored or run" in dry_run(database_url)


def test_a_dry_run_counts_the_repeat_that_an_automatic_sweep_would_add(
    store: Store, database_url: str, dry_run: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = make_sweep()
    measure = replace(plain.spec.measure, max_repeats=3, precision=1e-9)
    automatic = replace(plain, spec=replace(plain.spec, measure=measure))
    sweep_id = store.add_sweep(automatic)
    monkeypatch.setattr(running, "_resolve", lambda *_, **__: automatic)
    while claim := claim_one(store, sweep_id, pair="demo", actor="actor-1", lease_seconds=MINUTE):
        result = make_result(claim.job)
        slower = [replace(own, decode_seconds=1.0 + claim.job_id / 10) for own in result.samples]
        land_one(store, claim, replace(result, samples=tuple(slower)))
    told = json.loads(dry_run(database_url, "--json"))
    assert (told["done"], [job["repeat"] for job in told["jobs"]]) == (4, [2, 2])
    assert store.progress(sweep_id)[JobState.QUEUED] == 0


def test_a_new_sweep_of_a_known_name_says_what_differs_before_anything_runs(
    store: Store,
    database_url: str,
    dry_run: Callable[..., str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Also where a sweep of that name was imported since, which has nothing to reuse."""
    edited = make_sweep()
    sweep_id = store.add_sweep(edited)
    measure = replace(edited.spec.measure, confidence=0.9)
    edited = replace(edited, spec=replace(edited.spec, measure=measure), digest=digest("edited"))
    store.add_import(import_file(write(tmp_path, "a.json", dynatree(FOUR_STEPS))), "four-step")
    monkeypatch.setattr(running, "_resolve", lambda *_, **__: edited)
    said = (
        f"a new sweep: it differs from sweep {sweep_id} in measure.confidence;"
        f" nothing of sweep {sweep_id} is reused\n"
    )
    assert f"\n{said}" in dry_run(database_url)
    told = json.loads(dry_run(database_url, "--json"))
    assert (told["sweep"], told["differs_from"]) == (None, {"sweep": sweep_id, "in": ["measure.confidence"]})
    assert len(told["jobs"]) == 4

    monkeypatch.setattr(running, "_work", lambda store, sweep_id, *_: store.progress(sweep_id))
    submit = ["submit", str(tmp_path / "sweep.yaml"), "--json", "--db", database_url]
    first = CliRunner().invoke(cli, submit, catch_exceptions=False)
    assert first.stderr == said
    assert json.loads(first.stdout)["sweep"]["id"] == sweep_id + 2
    second = CliRunner().invoke(cli, submit, catch_exceptions=False)
    assert second.stderr == f"sweep {sweep_id + 2} again: 0 of 4 jobs are done, 4 to run\n"

    renamed = replace(edited, spec=replace(edited.spec, name="unheard of"), digest=digest("renamed"))
    monkeypatch.setattr(running, "_resolve", lambda *_, **__: renamed)
    assert CliRunner().invoke(cli, submit, catch_exceptions=False).stderr == ""


# ---------------------------------------------------- failing, cancelling, retrying


def test_a_job_that_failed_may_be_tried_again_and_counts_its_tries(store: Store, sweep_id: int) -> None:
    claim = take(store, sweep_id)
    failed = store.fail(claim, error_class="MemoryError", message="out of memory", final=False)
    assert failed == JobState.QUEUED
    assert store.job(claim.job_id).error == "MemoryError: out of memory"
    again = take(store, sweep_id)
    assert (again.job_id, again.tries) == (claim.job_id, 1)
    assert store.fail(again, error_class="MemoryError", message="again", final=True) == JobState.FAILED
    job = store.job(claim.job_id)
    assert (job.state, job.tries, job.error) == (JobState.FAILED, 2, "MemoryError: again")
    assert outcomes(store, claim.job_id) == [Outcome.FAILED, Outcome.FAILED]


def test_a_failed_attempt_says_where_it_ran_as_far_as_that_is_known(
    store: Store, sweep_id: int, database_url: str
) -> None:
    """Also where nothing of the sweep ever landed."""
    facts = {"processor": "EPYC", "gpu": "NVIDIA H100", "backend": None}
    where = Whereabouts(host="rack-7", environment=Environment(digest=digest(facts), facts=facts))
    store.put_back(take(store, sweep_id), "the pair does not load", where=where)
    store.fail(take(store, sweep_id), error_class="ValueError", message="no", final=False)
    half_known = Whereabouts(host="rack-8")
    claim = take(store, sweep_id)
    store.fail(claim, error_class="ValueError", message="no", final=True, where=half_known)
    attempts = store.attempts(claim.job_id)
    assert [(attempt.host, attempt.environment) for attempt in attempts] == [
        ("rack-7", facts),
        (None, {}),
        ("rack-8", {}),
    ]
    with closing(WatchedStore.open(database_url)) as watched:
        assert watched.job(claim.job_id).attempts == attempts
    assert store.failures(claim.job_id) == ["ValueError", "ValueError"]
    words = [str(claim.job_id), "--db", database_url]
    shown = CliRunner().invoke(cli, ["show", *words]).output.splitlines()
    at = next(number for number, line in enumerate(shown) if "attempt 1" in line)
    assert shown[at].endswith("node unknown (rack-7): put back the pair does not load")
    environment = shown[at + 1].removeprefix("    in ").split(", ")
    assert sorted(environment) == ["gpu=NVIDIA H100", "processor=EPYC"]
    told = json.loads(CliRunner().invoke(cli, ["show", *words, "--json"]).output)
    assert told["attempts"][0]["environment"] == facts
    logged = CliRunner().invoke(cli, ["logs", str(sweep_id), "--db", database_url]).output
    [put_back] = [line for line in logged.splitlines() if "put back" in line]
    assert {"host=rack-7", f"environment={digest(facts)[:16]}"} <= set(re.split(", | ", put_back))


def test_environments_are_read_only_for_attempts_that_name_one(store: Store, sweep_id: int) -> None:
    claim = take(store, sweep_id)
    land_one(store, claim, make_result(claim.job))
    with statements_of(store, "FROM env") as statements:
        store.attempts(claim.job_id)
    assert statements == []


def test_a_job_that_lands_after_a_failure_keeps_no_error(store: Store, sweep_id: int) -> None:
    claim = take(store, sweep_id)
    store.fail(claim, error_class="ActorDiedError", message="killed", final=False)
    again = take(store, sweep_id)
    land_one(store, again, make_result(again.job))
    assert store.job(again.job_id).error is None
    assert store.attempts(again.job_id)[0].error == "killed"


def test_retrying_queues_failed_jobs_alone_and_forgets_their_tries(store: Store, sweep_id: int) -> None:
    failed, landed, running = (take(store, sweep_id) for _ in range(3))
    store.fail(failed, error_class="DecodingError", message="wrong token", final=True)
    land_one(store, landed, make_result(landed.job))
    assert store.retry(sweep_id) == 1
    job = store.job(failed.job_id)
    assert (job.state, job.tries, job.error) == (JobState.QUEUED, 0, None)
    assert state(store, landed) == JobState.DONE
    assert state(store, running) == JobState.RUNNING


def test_what_was_cancelled_is_queued_again_by_a_retry(store: Store, sweep_id: int) -> None:
    landed, running = (take(store, sweep_id) for _ in range(2))
    land_one(store, landed, make_result(landed.job))
    assert store.cancel(sweep_id) == store.retry(sweep_id) == 3
    assert store.sweep_state(sweep_id) == SweepState.INTERRUPTED
    assert land_one(store, running, make_result(running.job)) == Landing.FENCED
    again = take(store, sweep_id)
    assert again.job_id == running.job_id
    assert land_one(store, running, make_result(running.job)) == Landing.FENCED
    assert land_one(store, again, make_result(again.job)) == Landing.LANDED
    assert outcomes(store, again.job_id) == [Outcome.CANCELLED, Outcome.LANDED]


def test_cancelling_ends_what_is_queued_or_running_and_nothing_else(store: Store, sweep_id: int) -> None:
    landed, failed, running = (take(store, sweep_id) for _ in range(3))
    land_one(store, landed, make_result(landed.job))
    store.fail(failed, error_class="DecodingError", message="wrong token", final=True)
    assert store.cancel(sweep_id) == 2
    counts = store.progress(sweep_id)
    assert [counts[state] for state in JobState] == [0, 0, 1, 1, 2]
    assert outcomes(store, running.job_id) == [Outcome.CANCELLED]
    assert claim_one(store, sweep_id, pair="demo", actor="actor-1", lease_seconds=MINUTE) is None
    assert store.cancel(sweep_id) == 0


def test_of_one_job_commands_speak_as_of_one(store: Store, sweep_id: int, database_url: str) -> None:
    for _ in range(3):
        claim = take(store, sweep_id)
        land_one(store, claim, make_result(claim.job))
    claim = take(store, sweep_id)
    store.fail(claim, error_class="DecodingError", message="wrong token", final=True)
    resumed = CliRunner().invoke(cli, ["resume", "--db", database_url], catch_exceptions=False)
    assert "1 job failed: " in resumed.stderr
    store.retry(sweep_id)
    cancelled = CliRunner().invoke(cli, ["cancel", "--db", database_url], catch_exceptions=False)
    assert cancelled.stdout == f"sweep {sweep_id}: 1 job cancelled\n"
    resumed = CliRunner().invoke(cli, ["resume", "--db", database_url], catch_exceptions=False)
    assert f"1 job was cancelled: `dyna-eval retry {sweep_id}" in resumed.stderr
    assert store.retry(sweep_id) == 1


def test_a_pair_that_does_not_load_fails_its_queued_jobs_and_no_other(store: Store) -> None:
    sweep_id = store.add_sweep(make_sweep(pairs=("demo", "other")))
    running = take(store, sweep_id)
    assert fail_pair(store, sweep_id, "demo") == 3
    assert state(store, running) == JobState.RUNNING
    jobs = store.record(sweep_id).jobs
    failed = [job for job in jobs if job.state == JobState.FAILED]
    assert {(job.pair, job.error) for job in failed} == {("demo", "PairError: no such folder")}
    assert sum(job.state == JobState.QUEUED for job in jobs) == 4


def test_only_the_holder_of_a_lease_fails_a_pair(store: Store, sweep_id: int) -> None:
    store.acquire_lease(sweep_id, "next", MINUTE)
    with pytest.raises(LeaseLostError):
        store.fail_pair(sweep_id, "demo", "no such folder", holder="me")
    assert store.progress(sweep_id)[JobState.QUEUED] == 4


def lost(store: Store, sweep_id: int, claim: Claim) -> None:  # noqa: ARG001
    take_back_all(store, sweep_id)


def claimed_anew(store: Store, sweep_id: int, claim: Claim) -> None:
    lost(store, sweep_id, claim)
    take(store, sweep_id)


def cancelled(store: Store, sweep_id: int, claim: Claim) -> None:  # noqa: ARG001
    store.cancel(sweep_id)


def failed_for_good(store: Store, sweep_id: int, claim: Claim) -> None:  # noqa: ARG001
    store.fail(claim, error_class="DecodingError", message="wrong token", final=True)


def landed_already(store: Store, sweep_id: int, claim: Claim) -> None:  # noqa: ARG001
    land_one(store, claim, make_result(claim.job))


@pytest.mark.parametrize("overtake", [lost, claimed_anew, cancelled, failed_for_good, landed_already])
@pytest.mark.parametrize(
    ("act", "refused"),
    [
        (lambda store, claim: store.renew_claim(claim, MINUTE), False),
        (lambda store, claim: store.put_back(claim, "stopped"), False),
        (lambda store, claim: store.fail(claim, error_class="E", message="late", final=True), None),
        (lambda store, claim: store.fail(claim, error_class="E", message="late", final=False), None),
    ],
    ids=["renew", "put back", "fail", "fail and queue"],
)
def test_a_claim_that_was_overtaken_changes_nothing(
    store: Store,
    sweep_id: int,
    overtake: Callable[[Store, int, Claim], None],
    act: Callable[[Store, Claim], object],
    refused: object,
) -> None:
    claim = take(store, sweep_id)
    overtake(store, sweep_id, claim)
    before, attempts = store.record(sweep_id), store.attempts(claim.job_id)
    assert act(store, claim) is refused
    assert store.record(sweep_id) == before
    assert store.attempts(claim.job_id) == attempts


@pytest.mark.parametrize("overtake", [lost, claimed_anew, cancelled, failed_for_good])
def test_a_result_that_was_overtaken_is_fenced(
    store: Store, sweep_id: int, overtake: Callable[[Store, int, Claim], None]
) -> None:
    claim = take(store, sweep_id)
    overtake(store, sweep_id, claim)
    before = store.record(sweep_id)
    assert land_one(store, claim, make_result(claim.job)) == Landing.FENCED
    assert store.record(sweep_id) == before


# --------------------------------------------------------------- records, events


def test_a_record_holds_the_whole_sweep(store: Store, sweep_id: int) -> None:
    claim = take(store, sweep_id)
    result = make_result(claim.job, sentinels=[make_sentinel()])
    land_one(store, claim, result)
    record = store.record(sweep_id)
    assert (record.id, record.name, record.baseline, record.confidence) == (
        sweep_id,
        "four-step",
        "Baseline",
        0.95,
    )
    assert record.configurations == CONFIGURATIONS
    assert record.merged == make_sweep().spec.merged
    assert record.pairs == ("demo",)
    assert record.state == "interrupted"
    assert record.environments == {result.environment.digest: result.environment.facts}
    assert [job.id for job in record.jobs if job.samples] == [claim.job_id]
    assert next(job for job in record.jobs if job.id == claim.job_id) == store.job(claim.job_id)
    assert {job.params["depth"] for job in record.jobs if job.method == "tree"} == {7}


def test_a_record_takes_no_more_queries_for_more_jobs(store: Store) -> None:
    counts = []
    for repeats in (1, 6):
        sweep_id = store.add_sweep(make_sweep(str(repeats), repeats=repeats))
        while claim := claim_one(store, sweep_id, pair="demo", actor="actor-1", lease_seconds=MINUTE):
            land_one(store, claim, make_result(claim.job))
        statements: list[str] = []

        def note(
            _connection: Any, _cursor: Any, statement: str, *_: Any, seen: list[str] = statements
        ) -> None:
            seen.append(statement)

        event.listen(Engine, "before_cursor_execute", note)
        store.record(sweep_id)
        event.remove(Engine, "before_cursor_execute", note)
        counts.append(len(statements))
        assert not any("round." in statement for statement in statements)
    assert counts[0] == counts[1]


def test_environments_of_other_sweeps_are_not_in_a_record(store: Store, sweep_id: int) -> None:
    other = store.add_sweep(make_sweep("other"))
    elsewhere = Environment(digest=digest("elsewhere"), facts={"cores": 64})
    for sweep, environment in ((sweep_id, None), (other, elsewhere)):
        claim = take(store, sweep)
        result = make_result(claim.job)
        land_one(store, claim, replace(result, environment=environment or result.environment))
    assert set(store.record(other).environments) == {elsewhere.digest}


def test_events_are_read_in_order_and_from_where_one_left_off(store: Store, sweep_id: int) -> None:
    claim = take(store, sweep_id)
    (_, seen) = store.events(sweep_id)
    store.put_back(claim, "the controller stopped")
    again = take(store, sweep_id)
    land_one(store, again, make_result(again.job))
    later = store.events(sweep_id, after=seen.id)
    assert [(happened.kind, happened.job_id) for happened in later] == [
        ("put back", claim.job_id),
        ("claimed", claim.job_id),
        ("landed", claim.job_id),
    ]
    assert later[0].detail == {"epoch": 1, "reason": "the controller stopped"}
    assert later[0].at <= later[1].at


def test_following_the_log_prints_each_event_once(
    store: Store, sweep_id: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    to_come: list[Callable[[int], int]] = [store.retry, store.cancel]

    def pass_time(_seconds: float) -> None:
        to_come.pop(0)(sweep_id)

    @contextmanager
    def opened(_database: str) -> Iterator[Store]:
        yield store

    store.retry(sweep_id)
    monkeypatch.setattr(stored, "open_store", opened)
    monkeypatch.setattr(stored.time, "sleep", pass_time)
    printed = CliRunner().invoke(cli, ["logs", str(sweep_id), "--follow"]).output.splitlines()
    assert [line.split()[1] for line in printed] == ["submitted", "retried", "retried", "cancelled"]


# ---------------------------------------------------------------- Postgres alone


on_postgres = pytest.mark.parametrize("database_url", ["postgresql"], indirect=True)


def waits_for_a_lock(store: Store) -> bool:
    waiting = text("SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock'")
    with store._read() as session:
        return bool(session.scalar(waiting))


def test_a_controller_that_works_no_more_is_news_to_who_watches_all_sweeps(
    store: Store, sweep_id: int, database_url: str
) -> None:
    """Neither a lease that runs out nor a holder that was killed is an event."""
    killed = subprocess.Popen([sys.executable, "-c", ""])
    killed.wait()
    gone = own_name().replace(f":{os.getpid()}:", f":{killed.pid}:")
    with closing(WatchedStore.open(database_url)) as watched:
        before = watched.pulse_of_all()
        assert (before.working, before.held) == (False, False)
        assert store.acquire_lease(sweep_id, "elsewhere", 60)
        at_work = watched.pulse_of_all()
        assert (at_work.working, at_work.held) == (True, True)
        store.renew_lease(sweep_id, "elsewhere", 60)
        assert watched.pulse_of_all() == at_work
        store.renew_lease(sweep_id, "elsewhere", 0)
        run_out = watched.pulse_of_all()
        assert (run_out.working, run_out.held) == (False, True)
        assert run_out.text != at_work.text
        assert store.acquire_lease(sweep_id, own := own_name(), 60)
        taken_over = watched.pulse_of_all()
        with store._write() as session:
            session.execute(update(LeaseRow).values(holder=gone))
        assert own != gone
        assert watched.pulse_of_all().text != taken_over.text
        store.release_lease(sweep_id, gone)
        assert not watched.pulse_of_all().held
        assert store.claim_jobs(sweep_id, pair="demo", claimants=[Claimant(actor="a")], lease_seconds=60)
        assert watched.pulse_of_all().held


@on_postgres
@pytest.mark.parametrize("same_sweep", [True, False])
def test_an_event_whose_transaction_ends_late_is_missed_by_nobody_who_watches(
    store: Store, sweep_id: int, database_url: str, *, same_sweep: bool
) -> None:
    """Postgres gives an event its number long before anybody else sees it."""
    other = sweep_id if same_sweep else store.add_sweep(make_sweep("other"))
    read = store.events(sweep_id)
    with closing(WatchedStore.open(database_url)) as watched:
        with store._write() as session:
            log(session, sweep_id, EventKind.RETRIED, jobs=0)
            later = threading.Thread(target=store.retry, args=(other,))
            later.start()
            while later.is_alive() and not waits_for_a_lock(store):
                time.sleep(0.01)
            read += store.events(sweep_id, after=read[-1].id)
            pulses = watched.pulse(sweep_id), watched.pulse_of_all()
        later.join()
        read += store.events(sweep_id, after=read[-1].id)
        assert read == store.events(sweep_id)
        assert watched.pulse(sweep_id) != pulses[0]
        assert watched.pulse_of_all() != pulses[1]


@on_postgres
def test_a_job_that_is_claimed_while_its_sweep_is_cancelled_leaves_no_open_attempt(
    store: Store, sweep_id: int, database_url: str
) -> None:
    """A job that was failed when the cancel began is queued and claimed before it ends."""
    failed = take(store, sweep_id)
    store.fail(failed, error_class="ValueError", message="no", final=True)
    with Store.open(database_url, create=False) as other:
        meanwhile: list[Claim] = []

        def meet(_connection: object, _cursor: object, statement: str, *_: object) -> None:
            if statement.startswith("UPDATE job") and not meanwhile:
                other.retry(sweep_id)
                meanwhile.append(take(other, sweep_id))

        event.listen(store._engine, "before_cursor_execute", meet)
        assert store.cancel(sweep_id) == 4
    assert [claim.job_id for claim in meanwhile] == [failed.job_id]
    assert outcomes(store, failed.job_id) == [Outcome.FAILED, Outcome.CANCELLED]
    assert store.audit() == []


@on_postgres
def test_transactions_that_meet_on_a_strict_server_are_run_again(database_url: str) -> None:
    """Where the server's default is SERIALIZABLE, it ends transactions that it cannot put in an order."""
    strict = f"{database_url}&options=-c%20default_transaction_isolation%3Dserializable"
    conflicts: list[str] = []

    def note(context: Any) -> None:
        conflicts.append(getattr(context.original_exception, "sqlstate", ""))

    event.listen(Engine, "handle_error", note)
    try:
        with Store.open(strict, create=True) as store:
            sweep_id = store.add_sweep(make_sweep(repeats=20))

            def land_all() -> None:
                while claim := claim_one(store, sweep_id, pair="demo", actor="a", lease_seconds=MINUTE):
                    land_one(store, claim, make_result(claim.job))

            threads = [threading.Thread(target=land_all) for _ in range(4)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
            assert store.progress(sweep_id)[JobState.DONE] == 40
            assert "fenced" not in kinds(store, sweep_id)
    finally:
        event.remove(Engine, "handle_error", note)
    assert "40001" in conflicts, "no two transactions met, so nothing was tested"


@on_postgres
def test_rounds_are_copied_in_one_statement_and_a_refused_one_is_reported(database_url: str) -> None:
    with Store.open(database_url, create=True) as store:
        sweep_id = store.add_sweep(make_sweep())
        claim = take(store, sweep_id)
        result = make_result(claim.job, rounds=1000)
        too_large = replace(result.samples[0].rounds[0], drafted=2**40)
        broken = replace(result.samples[0], rounds=(too_large,))
        with pytest.raises(DataError):
            land_one(store, claim, replace(result, samples=(broken,)))
        assert state(store, claim) == JobState.RUNNING
        statements: list[str] = []

        def note(_connection: Any, _cursor: Any, statement: str, *_: Any) -> None:
            statements.append(statement)

        event.listen(Engine, "before_cursor_execute", note)
        land_one(store, claim, result)
        event.remove(Engine, "before_cursor_execute", note)
        assert not any("INSERT INTO round" in statement for statement in statements)
        assert store.samples(claim.job_id) == result.samples


@pytest.mark.parametrize(
    "statement",
    [
        pytest.param("SELECT pg_terminate_backend(pg_backend_pid())", id="closed the connection"),
        pytest.param("SET TRANSACTION READ ONLY", id="takes no writes, as a standby or with a full disk"),
    ],
)
@on_postgres
def test_a_server_that_refuses_for_a_while_is_away_and_then_back(database_url: str, statement: str) -> None:
    with Store.open(database_url, create=True) as store:
        sweep_id = store.add_sweep(make_sweep())
        claim = take(store, sweep_id)

        def refuse(connection: Any) -> None:
            connection.exec_driver_sql(statement)

        event.listen(Engine, "begin", refuse)
        with pytest.raises(DatabaseAwayError):
            land_one(store, claim, make_result(claim.job))
        event.remove(Engine, "begin", refuse)
        assert land_one(store, claim, make_result(claim.job)) == Landing.LANDED


def of_connection(url: str) -> tuple[dict[str, str], dict[str, str]]:
    """Return the parameters of a store's connection, and what it set on the server by itself."""
    with Store.open(url, create=True) as store, store._engine.connect() as connection:
        own = "SELECT name, reset_val FROM pg_settings WHERE source = 'session'"
        on_server = {str(name): str(value) for name, value in connection.execute(text(own))}
        driver: Any = connection.connection.driver_connection
        return driver.info.get_parameters(), on_server


@on_postgres
def test_both_ends_of_a_connection_ask_whether_the_other_is_there(database_url: str) -> None:
    """What the server is told to is read as 0 on the socket of these tests, where neither can go unseen."""
    parameters, on_server = of_connection(database_url)
    assert {"keepalives_idle", "keepalives_interval", "keepalives_count"} <= parameters.keys()
    assert on_server.keys() >= {
        "tcp_keepalives_idle",
        "tcp_keepalives_interval",
        "tcp_keepalives_count",
        "tcp_user_timeout",
        "idle_in_transaction_session_timeout",
    }


@on_postgres
def test_what_an_address_says_of_timeouts_is_kept(database_url: str) -> None:
    options = "-c%20tcp_keepalives_idle%3D99%20-c%20idle_in_transaction_session_timeout%3D98000"
    parameters, on_server = of_connection(f"{database_url}&keepalives_idle=97&options={options}")
    assert parameters["keepalives_idle"] == "97"
    assert not on_server.keys() & {"tcp_keepalives_idle", "idle_in_transaction_session_timeout"}


@on_postgres
def test_a_job_whose_landing_was_stopped_midway_is_taken_back_in_the_end(
    database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The stopped process keeps its connection, and with it the job's lock, until the server ends that."""
    monkeypatch.setattr(engine, "IDLE_IN_TRANSACTION_SECONDS", 0.5)
    with Store.open(database_url, create=True) as stopped, Store.open(database_url, create=False) as store:
        sweep_id = store.add_sweep(make_sweep())
        claim = take(store, sweep_id)
        assert store.acquire_lease(sweep_id, "next", MINUTE)
        with pytest.raises(DatabaseAwayError), stopped._write() as session:
            assert release(session, claim, JobState.DONE)
            deadline = time.monotonic() + 100
            while not store.recover(sweep_id, "next") and time.monotonic() < deadline:
                time.sleep(0.05)
        assert state(store, claim) == JobState.QUEUED
        assert land_one(stopped, claim, make_result(claim.job)) == Landing.FENCED


@on_postgres
def test_no_error_of_a_server_shows_a_password_even_in_its_traceback(database_url: str) -> None:
    url = database_url.replace("postgres@/postgres", "nobody:s3cret@/postgres")
    with pytest.raises(DatabaseError) as refused:
        Store.open(url, create=True)
    assert 'role "nobody" does not exist' in str(refused.value)
    assert "s3cret" not in "".join(traceback.format_exception(refused.value))


@on_postgres
def test_two_commands_that_add_the_same_repeats_add_them_once(database_url: str) -> None:
    with Store.open(database_url, create=True) as store, Store.open(database_url, create=False) as other:
        sweep = make_sweep(repeats=2)
        sweep_id = store.add_sweep(sweep)
        more = [replace(job, repeat=2, position=job.position + 100) for job in sweep.jobs[:2]]
        together = threading.Barrier(2)

        def meet(_connection: Any, _cursor: Any, statement: str, *_: Any) -> None:
            if statement.startswith("COPY job"):
                with suppress(threading.BrokenBarrierError):
                    together.wait(1)

        added: list[int] = []
        event.listen(Engine, "before_cursor_execute", meet)
        try:
            threads = [
                threading.Thread(target=lambda own=own: added.append(own.add_jobs(sweep_id, more)))
                for own in (store, other)
            ]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
        finally:
            event.remove(Engine, "before_cursor_execute", meet)
        assert sorted(added) == [0, 2]


# ------------------------------------------------------------------ SQLite alone


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "store.db"


def test_a_process_killed_while_a_result_lands_leaves_the_file_whole(file: Path) -> None:
    with open_new(f"sqlite:///{file}") as store:
        sweep_id = store.add_sweep(make_sweep())
    child = subprocess.run(
        [sys.executable, "-c", KILLED_CHILD, f"sqlite:///{file}"], cwd=Path(__file__).parent, check=False
    )
    assert child.returncode == -signal.SIGKILL
    unfinished = [*file.parent.glob("store.db-journal"), *file.parent.glob("store.db-wal")]
    assert any(journal.stat().st_size for journal in unfinished), "it died in the middle of writing"
    with Store.open(f"sqlite:///{file}", create=False) as store:
        (running,) = [job for job in store.record(sweep_id).jobs if job.state == JobState.RUNNING]
        assert store.samples(running.id) == ()
        assert store.record(sweep_id).sentinels == ()
        store.acquire_lease(sweep_id, "next", MINUTE)
        assert store.recover(sweep_id, "next") == 1
        claim = take(store, sweep_id)
        assert claim.job_id == running.id
        assert land_one(store, claim, make_result(claim.job)) == Landing.LANDED
    with sqlite3.connect(file) as connection:
        assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)
        assert connection.execute("PRAGMA foreign_key_check").fetchone() is None
    connection.close()


KILLED_CHILD = """
import os, signal, sys
from sqlalchemy import Engine, event, text, update
from sqlalchemy.exc import DataError
from claims import claim_one, land_one
from dyna_eval_db.store import Store
from measurements import make_result, make_sentinel

store = Store.open(sys.argv[1], create=False)
claim = claim_one(store, 1, pair="demo", actor="actor-1", lease_seconds=60.0)

@event.listens_for(Engine, "connect")
@event.listens_for(Engine, "checkout")
def keep_little_in_memory(connection, *_):
    connection.execute("PRAGMA cache_size = 10")  # so that the file is written to before the commit

@event.listens_for(Engine, "commit")
def die(_connection):
    os.kill(os.getpid(), signal.SIGKILL)

land_one(store, claim, make_result(claim.job, sentinels=[make_sentinel()], rounds=2000))
"""


def test_a_reader_sees_one_moment_while_results_land(file: Path) -> None:
    """Every record is consistent: a job is done exactly if it has its samples."""
    url = f"sqlite:///{file}"
    with open_new(url) as store:
        sweep_id = store.add_sweep(make_sweep(repeats=10))

        def land_all() -> None:
            with Store.open(url, create=False) as own:
                while claim := claim_one(own, sweep_id, pair="demo", actor="a", lease_seconds=MINUTE):
                    land_one(own, claim, make_result(claim.job))

        writer = threading.Thread(target=land_all)
        writer.start()
        while writer.is_alive():
            for job in store.record(sweep_id).jobs:
                assert bool(job.samples) == (job.state == JobState.DONE)
        writer.join()
        assert store.progress(sweep_id)[JobState.DONE] == 20


def test_a_store_may_be_used_from_several_threads(file: Path) -> None:
    with open_new(f"sqlite:///{file}") as store:
        sweep_id = store.add_sweep(make_sweep(repeats=10))
        store.acquire_lease(sweep_id, "me", MINUTE)
        renewals = threading.Thread(
            target=lambda: [store.renew_lease(sweep_id, "me", MINUTE) for _ in range(20)]
        )
        renewals.start()
        while claim := claim_one(store, sweep_id, pair="demo", actor="actor-1", lease_seconds=MINUTE):
            land_one(store, claim, make_result(claim.job))
        renewals.join()
        assert store.progress(sweep_id)[JobState.DONE] == 20


def test_a_write_that_the_database_refuses_is_reported_in_one_line(file: Path) -> None:
    with open_new(f"sqlite:///{file}") as store:

        @event.listens_for(Engine, "begin")
        def leave_no_room(connection: Any) -> None:
            connection.exec_driver_sql("PRAGMA max_page_count = 1")

        try:
            with pytest.raises(DatabaseError) as refused:
                store.add_sweep(make_sweep(source="a long file " * 10_000))
        finally:
            event.remove(Engine, "begin", leave_no_room)
        assert str(refused.value) == f"sqlite:///{file}: database or disk is full; make room on its disk"
        assert store.list_sweeps() == []


@pytest.mark.parametrize("replaced", [False, True], ids=["gone", "replaced"])
def test_nothing_lands_in_a_sqlite_file_that_has_gone_from_its_place(file: Path, replaced: bool) -> None:
    """Put back, it goes on from where it was."""
    with open_new(f"sqlite:///{file}") as store:
        sweep_id = store.add_sweep(make_sweep())
        claim = take(store, sweep_id)
        elsewhere = file.rename(file.with_name("moved.db"))
        if replaced:
            file.write_bytes(elsewhere.read_bytes())
        with pytest.raises(DatabaseAwayError) as refused:
            land_one(store, claim, make_result(claim.job))
        assert str(refused.value) == (
            f"sqlite:///{file}: the file was deleted, moved or replaced; put it back"
        )
        elsewhere.rename(file)
        assert land_one(store, claim, make_result(claim.job)) is Landing.LANDED


def test_sqlite_keeps_foreign_keys_and_syncs_every_commit(file: Path) -> None:
    with Store.open(f"sqlite:///{file}", create=True) as store:
        pragmas: dict[str, Any] = {}

        @event.listens_for(Engine, "begin")
        def look(connection: Any) -> None:
            for name in ("foreign_keys", "synchronous", "journal_mode", "busy_timeout"):
                pragmas[name] = connection.exec_driver_sql(f"PRAGMA {name}").scalar()

        store.list_sweeps()
        event.remove(Engine, "begin", look)
    journal = "wal" if wal_is_safe(sqlite3.sqlite_version_info) else "truncate"
    assert pragmas == {
        "foreign_keys": 1,
        "synchronous": 2,
        "journal_mode": journal,
        "busy_timeout": 30_000,
    }


def test_a_file_that_another_program_keeps_in_an_unsafe_journal_mode_is_refused_in_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engine, "wal_is_safe", lambda _: False)
    monkeypatch.setattr(engine, "BUSY_SECONDS", 0.1)
    file = tmp_path / "store.db"
    Store.open(f"sqlite:///{file}", create=True).close()
    with closing(sqlite3.connect(file)) as other:
        other.execute("PRAGMA journal_mode = WAL")
        other.execute("SELECT count(*) FROM job").fetchall()
        with pytest.raises(DatabaseAwayError, match="open in WAL mode, which is not safe with SQLite 3"):
            Store.open(f"sqlite:///{file}", create=False)
    Store.open(f"sqlite:///{file}", create=False).close()


@pytest.mark.parametrize(
    ("version", "safe"),
    [
        ((3, 40, 1), False),
        ((3, 44, 5), False),
        ((3, 44, 6), True),
        ((3, 45, 6), False),
        ((3, 50, 6), False),
        ((3, 50, 7), True),
        ((3, 51, 2), False),
        ((3, 51, 3), True),
        ((3, 52, 0), True),
        ((4, 0, 0), True),
    ],
)
def test_wal_is_used_only_where_sqlite_has_the_reset_fix(version: tuple[int, int, int], safe: bool) -> None:
    assert wal_is_safe(version) is safe


MOUNTS = """\
/dev/vda / ext4 rw 0 0
server:/home /home nfs4 rw 0 0
/dev/vdb /home/me/scratch ext4 rw 0 0
share /mnt/my\\040share cifs rw 0 0
9p / 9p rw 0 0
/dev/vda / ext4 rw 0 0
"""


@pytest.mark.parametrize(
    ("path", "kind"),
    [
        ("/var/store.db", None),
        ("/home/me/store.db", "nfs4"),
        ("/home/me/scratch/store.db", None),
        ("/mnt/my share/store.db", "cifs"),
        ("/homely/store.db", None),
    ],
)
def test_a_network_file_system_is_known_by_the_nearest_mount(path: str, kind: str | None) -> None:
    assert network_file_system(Path(path), MOUNTS) == kind


@pytest.mark.parametrize(
    ("kind", "networked"),
    [
        ("wekafs", True),
        ("fuse.juicefs", True),
        ("fuse.sshfs", True),
        ("fuse.never-heard-of", True),
        ("fuse", True),
        ("fuse.fuse-overlayfs", False),
        ("fuse.gocryptfs", False),
        ("fuseblk", False),
        ("fakeowner", False),
        ("virtiofs", False),
    ],
)
def test_a_file_system_that_a_program_serves_is_a_networks_unless_it_is_known_to_be_local(
    kind: str, networked: bool
) -> None:
    mounts = f"/dev/vda / ext4 rw 0 0\nserver /mnt {kind} rw 0 0\n"
    assert network_file_system(Path("/mnt/store.db"), mounts) == (kind if networked else None)


def test_nothing_is_left_open_after_closing(file: Path) -> None:
    with Store.open(f"sqlite:///{file}", create=True) as store:
        store.add_sweep(make_sweep())
        store.list_sweeps()
    links = Path("/proc/self/fd").iterdir()
    assert not any(str(file) in str(link.readlink()) for link in links if link.is_symlink())


def test_rounds_are_counted_by_job_and_by_verified_nodes(store: Store, sweep_id: int) -> None:
    trees = {}
    while (claim := claim_one(store, sweep_id, pair="demo", actor="a", lease_seconds=MINUTE)) is not None:
        result = make_result(claim.job, sentinels=[make_sentinel()])
        sizes = [(6, 6, 2), (0,)]
        samples = tuple(
            replace(
                make_sample(index),
                rounds=tuple(replace(make_sample().rounds[0], verified=nodes) for nodes in sizes[index]),
            )
            for index in range(2)
        )
        land_one(store, claim, replace(result, samples=samples))
        if claim.job.configuration.method is not Method.AR:
            trees[claim.job_id] = {0: 1, 2: 1, 6: 2}
    assert trees
    assert store.tree_sizes(sweep_id) == trees
    (prompt_set,) = {job.prompt_set for job in store.record(sweep_id).jobs}
    assert store.tree_sizes(sweep_id, {prompt_set: [1]}) == {job_id: {0: 1} for job_id in trees}
    assert store.tree_sizes(sweep_id, {"another": [1]}) == {}
    assert store.tree_sizes(sweep_id, {}) == {}
    with pytest.raises(UnknownSweepError):
        store.tree_sizes(99)
