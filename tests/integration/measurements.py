"""Made-up sweeps and results, small but with every field filled, for tests of the store."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from dyna_eval.jobs import (
    Backend,
    Configuration,
    EngineSpec,
    GenerationSpec,
    Job,
    MeasureSpec,
    MergedConfiguration,
    Method,
    Pair,
    PairSpec,
    Prompt,
    PromptSet,
    PromptSpec,
    ResolvedSweep,
    SweepSpec,
    digest,
    job_key,
    prompt_digest,
)
from dyna_eval.measurements import (
    Calibration,
    DraftTree,
    Environment,
    Exactness,
    JobResult,
    Round,
    Sample,
    Sentinel,
    TreeNode,
)

TREE = DraftTree(
    nodes=tuple(
        TreeNode(
            token=token,
            text=text,
            parent=parent,
            probability=probability,
            joint=joint,
            verified=state != "pruned",
            accepted=state == "accepted",
        )
        for token, text, parent, probability, joint, state in (
            (9, "if", -1, 1.0, 1.0, "accepted"),
            (5, " a", 0, 0.7, 0.7, "accepted"),
            (6, " <b>", 0, 0.2, 0.2, "verified"),
            (7, "\n", 1, 1 / 3, 0.7 / 3, "pruned"),
        )
    ),
    bonus=8,
    bonus_text="</svg>",
)

CONFIGURATIONS = (
    Configuration(label="Baseline", method=Method.AR, params={}),
    Configuration(label="+ Tree", method=Method.TREE, params={"depth": 7, "branch": 2, "threshold": 0.0}),
)


def make_sweep(
    name: str = "four-step", *, pairs: Sequence[str] = ("demo",), repeats: int = 2, source: str = ""
) -> ResolvedSweep:
    """Make a sweep of two configurations; its jobs are listed out of the order in which they are to run."""
    generation, measure = GenerationSpec(max_new_tokens=4), MeasureSpec(repeats=repeats)
    spec = SweepSpec(
        name=name,
        pairs=tuple(PairSpec(name=pair, target="target", draft="draft") for pair in pairs),
        prompts=PromptSpec(dataset="demo", data_files=("a.parquet",)),
        generation=generation,
        measure=measure,
        engine=EngineSpec(backend=Backend.COMPILE, dtype="float32"),
        baseline="Baseline",
        configurations=CONFIGURATIONS,
        merged=(MergedConfiguration(label="Same", into="+ Tree", reason="a threshold of 0 prunes nothing"),),
        source=source,
    )
    found = tuple(_pair(pair) for pair in spec.pairs)
    prompts = PromptSet(digest=digest("prompts"), prompts=tuple(_prompt(index) for index in range(2)))
    jobs = tuple(
        _job(pair, prompts.digest, spec, configuration, repeat)
        for pair in found
        for repeat in range(repeats)
        for configuration in reversed(CONFIGURATIONS)
    )
    return ResolvedSweep(
        spec=spec,
        digest=digest([name, source]),
        pairs=found,
        prompt_sets=dict.fromkeys(pairs, prompts),
        jobs=tuple(replace(job, position=len(jobs) - index) for index, job in enumerate(jobs)),
    )


def _pair(spec: PairSpec) -> Pair:
    return Pair(
        spec=spec,
        dtype="float32",
        backend=Backend.COMPILE,
        target_digest=digest("target"),
        draft_digest=digest("draft"),
        tokenizer_digest=digest("tokenizer"),
    )


def _prompt(index: int) -> Prompt:
    text, token_ids = f"Prompt {index} – „ü“", (index, 1, 2)
    return Prompt(
        index=index,
        text=text,
        token_ids=token_ids,
        digest=prompt_digest(text, token_ids),
        category="prose" if index else None,
    )


def _job(pair: Pair, prompt_set: str, spec: SweepSpec, configuration: Configuration, repeat: int) -> Job:
    return Job(
        key=job_key(
            pair=pair,
            prompt_set=prompt_set,
            generation=spec.generation,
            measure=spec.measure,
            configuration=configuration,
        ),
        pair=pair,
        prompt_set=prompt_set,
        generation=spec.generation,
        measure=spec.measure,
        configuration=configuration,
        repeat=repeat,
        position=0,
    )


def make_sample(index: int = 0, *, rounds: int = 3, exactness: Exactness | None = Exactness.TIE) -> Sample:
    """Make a sample whose times are not short decimals and whose every second round lacks them."""
    return Sample(
        prompt_index=index,
        prompt_digest=digest(["prompt", index]),
        prompt_tokens=3,
        token_ids=(5, 6, 7, index),
        text="a\tb \N{SNOWMAN}\n",
        prefill_seconds=0.1 + 0.2,
        decode_seconds=1 / 3,
        ttft_seconds=1e-9,
        exactness=exactness,
        divergence_index=2,
        divergence_margin_ulp=0.5,
        distinct_2=2 / 3,
        rounds=tuple(
            Round(
                drafted=14,
                verified=6,
                depth=3,
                accepted=number % 3,
                emitted=number % 3 + 1,
                capped=number % 2 == 1,
                draft_steps=3,
                draft_rows=4 + number,
                draft_seconds=None if number % 2 else 0.1 * number,
                grow_seconds=1e-6 * number,
                verify_seconds=0.7 / (number + 1),
                walk_seconds=0.01 / (number + 1),
            )
            for number in range(rounds)
        ),
        trees=(TREE, replace(TREE, bonus=None, bonus_text="")),
    )


def make_sentinel(actor: str = "actor-1", sequence: int = 0) -> Sentinel:
    return Sentinel(
        actor=actor,
        sequence=sequence,
        samples=tuple(make_sample(index, exactness=None) for index in range(2)),
    )


CALIBRATION = Calibration(draft_seconds=((1, 1 / 3), (4, 0.5)), verify_seconds=((1, 1.0), (8, 2e-9)))


def make_result(
    job: Job,
    *,
    actor: str = "actor-1",
    sentinels: Sequence[Sentinel] = (),
    rounds: int = 3,
    calibration: Calibration | None = CALIBRATION,
) -> JobResult:
    return JobResult(
        job_key=job.key,
        repeat=job.repeat,
        actor=actor,
        node="node-1",
        environment=Environment(
            digest=digest("environment"), facts={"gpu": None, "cores": 2, "clock": 2.5, "turbo": True}
        ),
        sentinels=tuple(sentinels),
        samples=tuple(make_sample(index, rounds=rounds) for index in range(2)),
        wall_seconds=12.3456789,
        peak_memory_bytes=8 * 2**30,
        calibration=calibration,
    )
