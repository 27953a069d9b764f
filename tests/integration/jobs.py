"""Jobs for pairs of tiny models, with their prompts and configurations."""

from __future__ import annotations

from pathlib import Path

from dyna_eval_workers.pairs import inspect_pair

from dyna_eval.jobs import (
    Backend,
    Configuration,
    GenerationSpec,
    Job,
    MeasureSpec,
    Method,
    Pair,
    PairSpec,
    Prompt,
    PromptSet,
    Scalar,
    digest,
    job_key,
    prompt_digest,
)
from dyna_eval.methods import METHODS

GREEDY = GenerationSpec(max_new_tokens=12)
MEASURE = MeasureSpec(repeats=1, warmup=1, sentinel_every=2)


def configuration(method: Method, **given: Scalar) -> Configuration:
    """Return a configuration as a sweep file's row would give it: what is not given is the default."""
    params = METHODS[method].model_validate(given).resolved()
    return Configuration(label=method.value, method=method, params=params)


AR = configuration(Method.AR)
LINEAR = configuration(Method.LINEAR, k=3)
TREE = configuration(Method.TREE, depth=3, branch=2, threshold=0.01)


def prompt_set(*prompts: tuple[int, ...]) -> PromptSet:
    made = tuple(
        Prompt(index=index, text="", token_ids=ids, digest=prompt_digest("", ids))
        for index, ids in enumerate(prompts)
    )
    return PromptSet(digest=digest([prompt.digest for prompt in made]), prompts=made)


PROMPTS = prompt_set((17, 5, 250, 31, 8), (40, 41, 42), (9,))


def inspected(target: Path, draft: Path | None, backend: Backend = Backend.EAGER) -> Pair:
    """Return the pair of two saved models, as a sweep would run it on a CPU."""
    spec = PairSpec(name=target.name, target=str(target), draft=None if draft is None else str(draft))
    return inspect_pair(spec, device="cpu", backend=backend).pair


def job_for(
    pair: Pair,
    configuration: Configuration,
    *,
    prompts: PromptSet = PROMPTS,
    generation: GenerationSpec = GREEDY,
    measure: MeasureSpec = MEASURE,
    repeat: int = 0,
) -> Job:
    return Job(
        key=job_key(
            pair=pair,
            prompt_set=prompts.digest,
            generation=generation,
            measure=measure,
            configuration=configuration,
        ),
        pair=pair,
        prompt_set=prompts.digest,
        generation=generation,
        measure=measure,
        configuration=configuration,
        repeat=repeat,
        position=0,
    )
