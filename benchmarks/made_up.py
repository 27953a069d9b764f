"""Results that nothing measured, for benchmarks of everything but decoding."""

from __future__ import annotations

import random

from dyna_eval.jobs import (
    Environment,
    Exactness,
    Job,
    JobResult,
    Prompt,
    PromptSet,
    Round,
    Sample,
    digest,
)

ROUNDS = 2
TOKENS = 3 * ROUNDS
ENVIRONMENT = Environment(digest=digest("made up"), facts={"processor": "made up"})


def made_up_samples(
    prompts: PromptSet, speed: float, generator: random.Random, *, rounds: int = ROUNDS
) -> tuple[Sample, ...]:
    """Return a sample of each prompt, `rounds` times 3 tokens at about `speed` tokens/s."""
    return tuple(
        _made_up_sample(prompt, 3 * rounds / speed * generator.uniform(0.8, 1.2), rounds)
        for prompt in prompts.prompts
    )


def _made_up_sample(prompt: Prompt, decode_seconds: float, rounds: int) -> Sample:
    """Return a sample of equal rounds, whose phases fill nine tenths of its time."""
    of_round = decode_seconds / rounds
    round_ = Round(
        drafted=4,
        verified=4,
        depth=4,
        accepted=2,
        emitted=3,
        capped=False,
        draft_steps=4,
        draft_rows=4,
        draft_seconds=0.4 * of_round,
        grow_seconds=0.05 * of_round,
        verify_seconds=0.4 * of_round,
        walk_seconds=0.05 * of_round,
    )
    return Sample(
        prompt_index=prompt.index,
        prompt_digest=prompt.digest,
        prompt_tokens=1,
        token_ids=tuple(range(3 * rounds)),
        text="some text of the length that a sample may have " * 4,
        prefill_seconds=0.01,
        decode_seconds=decode_seconds,
        ttft_seconds=0.01 + of_round,
        exactness=Exactness.EXACT,
        distinct_2=0.9,
        rounds=(round_,) * rounds,
    )


def made_up_result(
    job: Job, prompts: PromptSet, generator: random.Random, *, rounds: int = ROUNDS
) -> JobResult:
    """Return a result that keeps the invariants of a real one."""
    k = job.configuration.params.get("k", 0)
    return JobResult(
        job_key=job.key,
        repeat=job.repeat,
        actor="actor",
        node="node",
        environment=ENVIRONMENT,
        sentinels=(),
        samples=made_up_samples(prompts, 100.0 + 2.0 * float(k or 0), generator, rounds=rounds),
        wall_seconds=1.0,
        peak_memory_bytes=None,
    )
