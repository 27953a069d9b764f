"""The real Ray actor: the same tokens as in this process, and errors that say what they are."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import ray
import torch
from dyna_eval_workers.actor import DecodingActor
from dyna_eval_workers.pairs import inspect_pair
from dyna_eval_workers.session import DecodingSession
from safetensors.torch import load_file, save_file

from dyna_eval.errors import DecodingError, PairError
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
    digest,
    job_key,
    prompt_digest,
)
from tests.models import save_model, tiny_gpt_neox

TREE = Configuration(
    label="Tree",
    method=Method.TREE,
    params={"depth": 3, "branch": 2, "root_branch": 2, "threshold": 0.0, "max_nodes": 14, "prune": "node"},
)


@pytest.fixture(scope="module")
def actor() -> Iterator[Any]:
    """One actor on a Ray of our own, for all tests here; the folder's name is short because of sockets."""
    folder = tempfile.mkdtemp(prefix="de-", dir="/tmp")
    ray.init(
        address="local",
        num_cpus=1,
        include_dashboard=False,
        log_to_driver=False,
        logging_level="ERROR",
        _temp_dir=folder,
    )
    try:
        yield DecodingActor.options(num_cpus=1).remote(name="actor-0", threads=1)  # type: ignore[attr-defined]
    finally:
        ray.shutdown()
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="module")
def prompts() -> PromptSet:
    ids = ((17, 5, 250, 31, 8), (40, 41, 42))
    made = tuple(
        Prompt(index=index, text="", token_ids=tokens, digest=prompt_digest("", tokens))
        for index, tokens in enumerate(ids)
    )
    return PromptSet(digest=digest([prompt.digest for prompt in made]), prompts=made)


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Pair:
    folder = tmp_path_factory.mktemp("pair")
    save_model(tiny_gpt_neox(seed=1), folder / "target")
    save_model(tiny_gpt_neox(seed=2, hidden=16, layers=1), folder / "draft")
    spec = PairSpec(name="tiny", target=str(folder / "target"), draft=str(folder / "draft"))
    return inspect_pair(spec, device="cpu").pair


def job_for(pair: Pair, prompts: PromptSet, *, temperature: float = 1.0) -> Job:
    generation = GenerationSpec(max_new_tokens=10, temperature=temperature)
    measure = MeasureSpec()
    return Job(
        key=job_key(
            pair=pair,
            prompt_set=prompts.digest,
            generation=generation,
            measure=measure,
            configuration=TREE,
        ),
        pair=pair,
        prompt_set=prompts.digest,
        generation=generation,
        measure=measure,
        configuration=TREE,
        repeat=0,
        position=0,
    )


def failure(call: Any) -> BaseException:
    """Return the cause of a call's failure, as the controller looks at it."""
    with pytest.raises(ray.exceptions.RayTaskError) as caught:
        ray.get(call)
    cause: BaseException = caught.value.cause
    return cause


def test_an_actor_emits_what_a_session_in_this_process_emits(
    actor: Any, pair: Pair, prompts: PromptSet
) -> None:
    job = job_for(pair, prompts)
    there = ray.get(actor.run.remote(job, ray.put(prompts)))
    here = DecodingSession(actor="here", node="here", device=torch.device("cpu")).run(job, prompts)
    assert [sample.token_ids for sample in there.samples] == [sample.token_ids for sample in here.samples]
    assert [sample.exactness for sample in there.samples] == [sample.exactness for sample in here.samples]
    assert there.job_key == job.key


def test_an_actor_says_who_and_where_it_is(actor: Any, pair: Pair, prompts: PromptSet) -> None:
    result = ray.get(actor.run.remote(job_for(pair, prompts, temperature=0.0), prompts))
    assert result.actor == "actor-0"
    assert {sentinel.actor for sentinel in result.sentinels} == {"actor-0"}
    assert result.node in {node["NodeID"] for node in ray.nodes()}
    assert result.environment.facts["threads"] == 1


def test_a_pair_that_does_not_load_says_so_through_ray(
    actor: Any, pair: Pair, prompts: PromptSet, tmp_path: Path
) -> None:
    damaged = shutil.copytree(pair.spec.target, tmp_path / "damaged")
    weights = load_file(damaged / "model.safetensors")
    next(iter(weights.values())).fill_(float("nan"))
    save_file(weights, damaged / "model.safetensors", metadata={"format": "pt"})
    broken = replace(pair, spec=replace(pair.spec, target=str(damaged)))
    cause = failure(actor.run.remote(job_for(broken, prompts), prompts))
    assert type(cause) is PairError
    assert str(cause).startswith(f"{damaged}: the weights hold NaN")


def test_an_actor_goes_on_after_a_job_s_own_fault(actor: Any, pair: Pair, prompts: PromptSet) -> None:
    alone = replace(pair, spec=replace(pair.spec, draft=None), draft_digest=None)
    cause = failure(actor.run.remote(job_for(alone, prompts), prompts))
    assert type(cause) is DecodingError
    assert ray.get(actor.run.remote(job_for(pair, prompts), prompts)).samples
