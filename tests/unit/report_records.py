"""Stored sweeps made by hand, for tests of what is computed from them."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from dyna_eval.jobs import Configuration, GenerationSpec, JobState, Method, Pair, PairSpec, SweepState
from dyna_eval.measurements import Calibration, Exactness, SampleTotals
from dyna_eval.records import StoredJob, StoredSentinel, SweepRecord

BASELINE = Configuration(label="Baseline", method=Method.AR, params={})
LINEAR = Configuration(label="+ Draft model", method=Method.LINEAR, params={"k": 6})
TREE = Configuration(
    label="+ Tree structure",
    method=Method.TREE,
    params={"depth": 7, "branch": 2, "threshold": 0.0, "max_nodes": 254},
)
PRUNED = Configuration(
    label="+ Adaptive pruning",
    method=Method.TREE,
    params={"depth": 7, "branch": 2, "threshold": 0.05, "max_nodes": 254},
)
FOUR_STEPS = ((BASELINE, 128.0), (LINEAR, 174.0), (TREE, 63.0), (PRUNED, 182.0))
"""Configurations with their speed in tokens per second."""

CALIBRATION = Calibration(
    draft_seconds=((1, 0.001), (2, 0.003)), verify_seconds=((1, 0.010), (4, 0.012), (8, 0.020))
)
"""A draft step over 1.5 tokens takes 2 ms, a target step over 5 takes 14 ms."""

MODELS = {
    "demo": Pair(
        spec=PairSpec(name="demo", target="org/target", draft="./draft", target_revision="c" * 40),
        dtype="bfloat16",
        target_digest="t" * 64,
        draft_digest="f" * 64,
        tokenizer_digest="k" * 64,
    )
}

ENVIRONMENTS = {"e1": {"cpu": "A", "torch": "2.7"}, "e2": {"cpu": "B", "torch": "2.7"}}


def sample(prompt: int = 0, tokens: int = 120, seconds: float = 1.0, **other: Any) -> SampleTotals:
    """One sample of a method that takes 2 of 4 drafted tokens in each of its rounds."""
    rounds = tokens // 3
    values: dict[str, Any] = {
        "prompt_index": prompt,
        "prompt_tokens": 64,
        "tokens": tokens,
        "prefill_seconds": 0.02,
        "decode_seconds": seconds,
        "ttft_seconds": 0.03,
        "exactness": Exactness.EXACT,
        "distinct_2": 0.8,
        "rounds": rounds,
        "drafted_nodes": 4 * rounds,
        "verified_nodes": 4 * rounds,
        "drafted_levels": 4 * rounds,
        "accepted_tokens": 2 * rounds,
        "capped_rounds": 0,
        "draft_steps": 4 * rounds,
        "draft_rows": 6 * rounds,
        "draft_seconds": 0.25 * seconds,
        "grow_seconds": 0.0625 * seconds,
        "verify_seconds": 0.5 * seconds,
        "walk_seconds": 0.0625 * seconds,
        "accepted_by_depth": (rounds, rounds),
    }
    return SampleTotals(**values | other)


def record(
    steps: Sequence[tuple[Configuration, float]] = FOUR_STEPS,
    *,
    prompts: int = 8,
    repeats: int = 3,
    pairs: Sequence[str] = ("demo",),
    states: Mapping[str, JobState] | None = None,
    noise: float = 0.02,
    name: str = "four-step",
) -> SweepRecord:
    """A sweep on one actor. Prompts differ in difficulty by 20 %, runs of one prompt by `noise`."""
    generator = random.Random(7)
    ease = [generator.uniform(0.8, 1.2) for _ in range(prompts)]

    def samples(speed: float) -> tuple[SampleTotals, ...]:
        spread = [generator.uniform(1.0 - noise, 1.0 + noise) for _ in range(prompts)]
        return tuple(
            sample(index, seconds=120 / (speed * ease[index] * spread[index])) for index in range(prompts)
        )

    jobs: list[StoredJob] = []
    for pair in pairs:
        for repeat in range(repeats):
            for configuration, speed in steps:
                state = (states or {}).get(configuration.label, JobState.DONE)
                done = state is JobState.DONE
                jobs.append(
                    StoredJob(
                        id=len(jobs) + 1,
                        key=f"key-{configuration.label}",
                        pair=pair,
                        label=configuration.label,
                        method=configuration.method,
                        params=configuration.params,
                        repeat=repeat,
                        state=state,
                        tries=1,
                        error=None,
                        prompt_set="p1",
                        generation_digest="g1",
                        environment="e1" if done else None,
                        actor="actor-1" if done else None,
                        peak_memory_bytes=2**30 + repeat * 2**28 if done else None,
                        samples=samples(speed) if done else (),
                    )
                )
    return SweepRecord(
        id=1,
        name=name,
        digest="d" * 64,
        state=SweepState.DONE,
        baseline=steps[0][0].label,
        confidence=0.95,
        created_at="2026-01-02T03:04:05Z",
        configurations=tuple(configuration for configuration, _ in steps),
        merged=(),
        pairs=tuple(pairs),
        jobs=tuple(jobs),
        sentinels=tuple(
            StoredSentinel(actor="actor-1", sequence=0, pair=pair, samples=samples(steps[0][1]))
            for pair in pairs
        ),
        environments=ENVIRONMENTS,
    )


def change_jobs(
    stored: SweepRecord, label: str, *, repeats: Sequence[int] | None = None, **changes: Any
) -> SweepRecord:
    """Change fields of a row's jobs; of all its repeats unless told which."""
    return replace(
        stored,
        jobs=tuple(
            replace(job, **changes)
            if job.label == label and (repeats is None or job.repeat in repeats)
            else job
            for job in stored.jobs
        ),
    )


def on_machines(*processors: str, pairs: Sequence[str] = ("demo",)) -> SweepRecord:
    """A sweep of four steps that were measured on these processors in turn, over 64 tokens a prompt."""
    stored = replace(
        record(pairs=pairs),
        generations=dict.fromkeys(pairs, GenerationSpec(max_new_tokens=64)),
        models=MODELS,
    )
    for configuration, processor in zip(stored.configurations, processors, strict=True):
        stored = change_jobs(stored, configuration.label, environment=processor)
    return replace(stored, environments={name: {"processor": name, "cores": 2} for name in processors})


def calibrated(stored: SweepRecord) -> SweepRecord:
    """Give every done job the calibration above."""
    return replace(
        stored,
        jobs=tuple(
            replace(job, calibration=CALIBRATION) if job.state is JobState.DONE else job
            for job in stored.jobs
        ),
    )


def change_samples(stored: SweepRecord, label: str, **changes: Any) -> SweepRecord:
    """Change fields of all samples of a row."""
    return replace(
        stored,
        jobs=tuple(
            replace(job, samples=tuple(replace(one, **changes) for one in job.samples))
            if job.label == label
            else job
            for job in stored.jobs
        ),
    )


def slow_prompt(stored: SweepRecord, times: float, *, but: str | None = None) -> SweepRecord:
    """Let the first prompt take so many times as long as it does; not in the row of one label."""
    return replace(
        stored,
        jobs=tuple(
            job
            if job.label == but
            else replace(
                job,
                samples=tuple(
                    one if one.prompt_index else replace(one, decode_seconds=one.decode_seconds * times)
                    for one in job.samples
                ),
            )
            for job in stored.jobs
        ),
    )
