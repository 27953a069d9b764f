"""When a call is given up; the clock is ours, and no actor is asked anything."""

from __future__ import annotations

from dataclasses import replace

import pytest
from dyna_eval_db.store import Claim

from dyna_eval.running.cluster import Slot
from dyna_eval.running.supervision import PENDING_SECONDS, START_SECONDS, Call
from tests.integration.measurements import make_sweep


@pytest.fixture
def call() -> Call:
    """A call of an actor that was started with it, at 0 s."""
    claim = Claim(sweep_id=1, job_id=1, epoch=1, attempt_id=1, tries=0, job=make_sweep().jobs[0])
    slot = Slot(name="slot", node_id="node", host="host", place=0, cpus=1, gpus=0)
    return Call(slot=slot, actor="slot.1", claim=claim, answer=None, started=0.0, limit_seconds=100.0)


def test_waiting_for_room_takes_nothing_from_a_job_s_time(call: Call) -> None:
    assert call.complaint(101.0) is None
    call.slot.answered, call.started = True, 1000.0
    assert call.complaint(1100.0) is None
    assert "measure.job_timeout_s" in str(call.complaint(1101.0))


def test_an_actor_that_never_answers_is_given_up_in_the_end(call: Call) -> None:
    assert call.complaint(START_SECONDS) is None
    assert "has not answered within 1800 s of its start" in str(call.complaint(START_SECONDS + 1))


def test_a_job_goes_to_an_idle_place_where_actors_start_in_half_the_time(call: Call) -> None:
    """And only to one where actors start at all."""
    idle, late = replace(call.slot, name="idle"), PENDING_SECONDS + 1
    assert not call.starts_sooner_in(idle, late)
    idle.has_answered(PENDING_SECONDS / 2)
    assert not call.starts_sooner_in(idle, PENDING_SECONDS)
    assert call.starts_sooner_in(idle, late)
    slow = replace(idle, start_seconds=late)
    assert [call.starts_sooner_in(slow, now) for now in (2 * late, 2 * late + 1)] == [False, True]
    assert not call.starts_sooner_in(replace(idle, unanswered=1), late), "it would come back in a minute"
    refuses = replace(idle, unstarted=["no torch", "no torch"])
    assert not call.starts_sooner_in(refuses, late)
    call.slot.has_answered(1.0)
    assert not call.starts_sooner_in(idle, late)


def test_an_actor_that_answers_makes_up_for_those_that_did_not(call: Call) -> None:
    call.slot.unanswered = 3
    call.slot.has_answered(1.0)
    assert call.slot.unanswered == 0


def test_an_actor_is_pending_until_it_answers(call: Call) -> None:
    assert [call.is_pending(now) for now in (PENDING_SECONDS, PENDING_SECONDS + 1)] == [False, True]
    call.slot.answered = True
    assert not call.is_pending(PENDING_SECONDS + 1)
