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
from dyna_eval_workers.session import DecodingSession
from safetensors.torch import load_file, save_file

from dyna_eval.errors import DecodingError, PairError
from dyna_eval.jobs import Backend, GenerationSpec, Job, MeasureSpec, Method, Pair
from tests.integration.jobs import configuration, inspected, job_for, prompt_set
from tests.models import save_model, tiny_gpt_neox

TREE = configuration(Method.TREE, depth=3, branch=2)
PROMPTS = prompt_set((17, 5, 250, 31, 8), (40, 41, 42))


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
def pair(tmp_path_factory: pytest.TempPathFactory) -> Pair:
    folder = tmp_path_factory.mktemp("pair")
    save_model(tiny_gpt_neox(seed=1), folder / "target")
    save_model(tiny_gpt_neox(seed=2, hidden=16, layers=1), folder / "draft")
    return inspected(folder / "target", folder / "draft", Backend.AUTO)


def tree_job(pair: Pair, *, temperature: float = 1.0) -> Job:
    generation = GenerationSpec(max_new_tokens=10, temperature=temperature)
    return job_for(pair, TREE, prompts=PROMPTS, generation=generation, measure=MeasureSpec())


def failure(call: Any) -> BaseException:
    """Return the cause of a call's failure, as the controller looks at it."""
    with pytest.raises(ray.exceptions.RayTaskError) as caught:
        ray.get(call)
    cause: BaseException = caught.value.cause
    return cause


def test_an_actor_emits_what_a_session_in_this_process_emits(actor: Any, pair: Pair) -> None:
    job = tree_job(pair)
    there = ray.get(actor.run.remote(job, ray.put(PROMPTS)))
    here = DecodingSession(actor="here", node="here", device=torch.device("cpu")).run(job, PROMPTS)
    assert [sample.token_ids for sample in there.samples] == [sample.token_ids for sample in here.samples]
    assert [sample.exactness for sample in there.samples] == [sample.exactness for sample in here.samples]
    assert there.job_key == job.key


def test_an_actor_says_who_and_where_it_is(actor: Any, pair: Pair) -> None:
    result = ray.get(actor.run.remote(tree_job(pair, temperature=0.0), PROMPTS))
    assert result.actor == "actor-0"
    assert {sentinel.actor for sentinel in result.sentinels} == {"actor-0"}
    assert result.node in {node["NodeID"] for node in ray.nodes()}
    assert result.environment.facts["threads"] == 1
    assert result.calibration is not None


def test_a_pair_that_does_not_load_says_so_through_ray(actor: Any, pair: Pair, tmp_path: Path) -> None:
    damaged = shutil.copytree(pair.spec.target, tmp_path / "damaged")
    weights = load_file(damaged / "model.safetensors")
    next(iter(weights.values())).fill_(float("nan"))
    save_file(weights, damaged / "model.safetensors", metadata={"format": "pt"})
    assert pair.spec.draft is not None
    broken = inspected(damaged, Path(pair.spec.draft))
    cause = failure(actor.run.remote(tree_job(broken), PROMPTS))
    assert type(cause) is PairError
    assert str(cause).startswith(f"{damaged}: the weights hold NaN")


def test_an_actor_goes_on_after_a_job_s_own_fault(actor: Any, pair: Pair) -> None:
    alone = replace(pair, spec=replace(pair.spec, draft=None), draft_digest=None)
    cause = failure(actor.run.remote(tree_job(alone), PROMPTS))
    assert type(cause) is DecodingError
    assert ray.get(actor.run.remote(tree_job(pair), PROMPTS)).samples
