"""A result that contradicts itself does not land."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest

from dyna_eval.jobs import Configuration, Job, Method, PromptSet
from dyna_eval.measurements import JobResult, Round, Sample, Sentinel
from dyna_eval.running.invariants import broken_invariants
from tests.integration.measurements import make_result, make_sweep

RESOLVED = make_sweep()
[PROMPTS] = {prompts.digest: prompts for prompts in RESOLVED.prompt_sets.values()}.values()
JOB = next(job for job in RESOLVED.jobs if job.configuration.method is not Method.AR)


ROUND = Round(
    drafted=6,
    verified=4,
    depth=2,
    accepted=1,
    emitted=2,
    capped=False,
    draft_steps=2,
    draft_rows=3,
    draft_seconds=0.01,
    grow_seconds=0.001,
    verify_seconds=0.02,
    walk_seconds=None,
)
"""Two of them make the four tokens that are asked for."""


def result() -> JobResult:
    samples = tuple(
        Sample(
            prompt_index=prompt.index,
            prompt_digest=prompt.digest,
            prompt_tokens=len(prompt.token_ids),
            token_ids=(1, 2, 3, 4),
            text="",
            prefill_seconds=0.1,
            decode_seconds=0.1,
            ttft_seconds=0.15,
            exactness=None,
            rounds=(ROUND, ROUND),
        )
        for prompt in PROMPTS.prompts
    )
    return replace(make_result(JOB), samples=samples)


def with_sample(**changes: Any) -> JobResult:
    """A result whose first sample was changed."""
    first, *others = result().samples
    return replace(result(), samples=(replace(first, **changes), *others))


def with_round(number: int = 0, **changes: Any) -> JobResult:
    rounds = list(result().samples[0].rounds)
    rounds[number] = replace(rounds[number], **changes)
    return with_sample(rounds=tuple(rounds))


def broken(found: JobResult, job: Job = JOB, prompts: PromptSet = PROMPTS) -> list[str]:
    return broken_invariants(job, prompts, found)


def test_a_sound_result_breaks_nothing() -> None:
    assert broken(result()) == []


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        (with_sample(token_ids=()), "0 tokens where 1 to 4"),
        (with_sample(token_ids=(1, 2, 3)), "3 tokens where 4 were asked for"),
        (with_sample(token_ids=(1, 2, 3, 4, 5)), "5 tokens where 1 to 4"),
        (with_sample(decode_seconds=math.nan), "no times"),
        (with_sample(prefill_seconds=-1.0), "no times"),
        (with_sample(ttft_seconds=1e9), "first token came after its last"),
        (with_sample(prompt_digest="other"), "not those of the 2 prompts"),
        (with_sample(rounds=()), "no rounds"),
        (with_round(emitted=9), "rounds emitted"),
        (with_round(accepted=9), "contradicts itself"),
        (with_round(verified=9), "contradicts itself"),
        (with_round(draft_rows=0, draft_steps=3), "contradicts itself"),
        (with_round(verify_seconds=math.inf), "no possible time"),
        (with_round(verify_seconds=1e6), "its phases took"),
        (replace(result(), samples=result().samples[:1]), "its 1 samples"),
        (replace(result(), wall_seconds=math.nan), "wall time"),
    ],
)
def test_what_cannot_be_is_named(wrong: JobResult, says: str) -> None:
    texts = broken(wrong)

    assert any(says in text for text in texts), texts


FIRST, LAST = 0, 1


@pytest.mark.parametrize(
    ("number", "changes"),
    [
        pytest.param(FIRST, {"accepted": 3, "emitted": 4}, id="accepted more than it drafted in depth"),
        pytest.param(FIRST, {"verified": 1}, id="deeper than it verified"),
        pytest.param(FIRST, {"drafted": 3}, id="verified more than it drafted"),
        pytest.param(LAST, {"accepted": 2, "emitted": 1}, id="emitted less than it accepted"),
        pytest.param(LAST, {"accepted": 0, "emitted": 2}, id="emitted more than it accepted and one"),
        pytest.param(
            FIRST, {"accepted": 2, "emitted": 2}, id="lacks the target's token, and is not the last"
        ),
        pytest.param(LAST, {"accepted": 0, "emitted": 0}, id="emitted nothing"),
        pytest.param(FIRST, {"draft_steps": -1}, id="a negative number of steps"),
        pytest.param(FIRST, {"draft_rows": 1}, id="more steps of the draft than rows"),
    ],
)
def test_a_round_whose_counts_do_not_fit_together_is_named(number: int, changes: dict[str, int]) -> None:
    """Each breaks one relation and no other."""
    texts = broken(with_round(number, **changes))

    assert any(f"round {number} contradicts itself" in text for text in texts), texts


def test_the_last_round_may_end_in_a_drafted_token() -> None:
    assert broken(with_round(LAST, accepted=2, emitted=2)) == []


def test_text_may_end_early_where_an_end_token_may_stop_it() -> None:
    first = result().samples[0]
    short = with_sample(
        token_ids=first.token_ids[:1], rounds=(replace(first.rounds[0], accepted=0, emitted=1),)
    )
    stops = replace(JOB, generation=replace(JOB.generation, stop_at_eos=True))

    assert broken(short, stops) == []
    assert broken(short)


def test_into_a_peers_rounds_nobody_sees() -> None:
    peer = replace(JOB, configuration=Configuration(label="Peer", method=Method.HF_ASSISTED, params={}))

    assert broken(with_sample(rounds=()), peer) == []
    assert broken(with_round(verified=0, depth=0), peer) == []
    assert broken(with_round(emitted=9), peer)


def test_an_actors_own_runs_are_held_to_the_same() -> None:
    samples = with_sample(token_ids=(1,)).samples
    own = replace(result(), sentinels=(Sentinel(actor="a", sequence=3, samples=samples),))

    assert any(text.startswith("AR run 3, prompt 0: ") for text in broken(own))
