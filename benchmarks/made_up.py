"""Sweeps and results that nothing measured, for benchmarks of everything but decoding."""

from __future__ import annotations

import random
from dataclasses import replace

from dyna_eval_db.store import Claim, Claimant, Store

from dyna_eval.jobs import (
    Configuration,
    GenerationSpec,
    Job,
    MeasureSpec,
    Method,
    Pair,
    PairSpec,
    Prompt,
    PromptSet,
    PromptSpec,
    ResolvedSweep,
    SweepSpec,
    digest,
    prompt_digest,
)
from dyna_eval.measurements import Environment, Exactness, JobResult, Round, Sample, Sentinel
from dyna_eval.sweeps.expansion import jobs_for, sweep_digest

ROUNDS = 2
TOKENS = 3 * ROUNDS
ENVIRONMENT = Environment(digest=digest("made up"), facts={"processor": "made up"})


def made_up_sweep(configurations: int, repeats: int, prompts: int) -> ResolvedSweep:
    """Return a sweep of linear speculation with every k from 1 on, behind the baseline."""
    rows = [Configuration(label="Baseline", method=Method.AR, params={})]
    rows += [
        Configuration(label=f"K={k}", method=Method.LINEAR, params={"k": k}) for k in range(1, configurations)
    ]
    spec = SweepSpec(
        name="large",
        pairs=(PairSpec(name="made-up", target="target", draft="draft"),),
        prompts=PromptSpec(dataset="made-up"),
        generation=GenerationSpec(max_new_tokens=TOKENS),
        measure=MeasureSpec(repeats=repeats),
        baseline="Baseline",
        configurations=tuple(rows),
    )
    pair = Pair(
        spec=spec.pairs[0],
        dtype="float32",
        target_digest=digest("target"),
        draft_digest=digest("draft"),
        tokenizer_digest=digest("tokenizer"),
    )
    found = tuple(
        Prompt(index=i, text=f"{i}", token_ids=(i,), digest=prompt_digest(f"{i}", (i,)))
        for i in range(prompts)
    )
    prompt_set = PromptSet(digest=digest([prompt.digest for prompt in found]), prompts=found)
    jobs = jobs_for(spec, (pair,), {pair.spec.name: prompt_set.digest})
    return ResolvedSweep(
        spec=spec,
        digest=sweep_digest(spec, jobs),
        pairs=(pair,),
        prompt_sets={pair.spec.name: prompt_set},
        jobs=jobs,
    )


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


def claim_one(store: Store, sweep_id: int) -> Claim | None:
    """Claim the next queued job of a made-up sweep; None where there is none."""
    claimants = [Claimant(actor="actor")]
    claims = store.claim_jobs(sweep_id, pair="made-up", claimants=claimants, lease_seconds=600)
    return claims[0] if claims else None


def fill(store: Store, sweep: ResolvedSweep) -> int:
    """Land a result of every job, and return the number of samples."""
    generator, samples = random.Random(1), 0
    [prompts] = sweep.prompt_sets.values()
    sweep_id = store.add_sweep(sweep)
    own = Sentinel(actor="actor", sequence=0, samples=made_up_samples(prompts, 100.0, generator))
    while claim := claim_one(store, sweep_id):
        result = made_up_result(claim.job, prompts, generator)
        store.land_results([(claim, replace(result, sentinels=() if samples else (own,)))])
        samples += len(result.samples)
    return samples
