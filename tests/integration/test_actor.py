"""The real Ray actor: the same tokens as in this process, and errors that say what they are."""

from __future__ import annotations

import os
import re
import resource
import shutil
import signal
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, NoReturn

import pytest
import ray
import torch
from dyna_eval_db.store import Claim
from dyna_eval_workers.actor import DecodingActor
from dyna_eval_workers.session import DecodingSession
from safetensors.torch import load_file, save_file

from dyna_eval.errors import DecodingError, PairError
from dyna_eval.jobs import Backend, GenerationSpec, Job, MeasureSpec, Method, Pair
from dyna_eval.measurements import Calibration
from dyna_eval.running.cluster import find_slots
from dyna_eval.running.supervision import HEARTBEAT_SECONDS, SILENT_SECONDS, Call, limit_seconds
from dyna_eval.running.verdicts import judge_error, judge_loss
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
    told = ray.get(actor.heartbeat.remote())
    result = ray.get(actor.run.remote(tree_job(pair), PROMPTS))
    assert result.samples
    assert told == result.environment


# ------------------------------------------------- workers that are stopped, lost or starved


@contextmanager
def new_actor(name: str) -> Iterator[tuple[Any, int]]:
    """One more actor, which shares the core, and the number of its process."""
    actor = DecodingActor.options(num_cpus=0).remote(name=name, threads=1)  # type: ignore[attr-defined]
    try:
        yield actor, ray.get(actor.__ray_call__.remote(lambda _: os.getpid()))
    finally:
        ray.kill(actor)


def leave_memory(process: int, *, mebibytes: int) -> None:
    """Bound the address space of a process to what it uses and so much more."""
    pages = int(Path(f"/proc/{process}/statm").read_text().split()[0])
    bound = pages * os.sysconf("SC_PAGE_SIZE") + mebibytes * 2**20
    resource.prlimit(process, resource.RLIMIT_AS, (bound, bound))


def call_of(actor: Any, job: Job) -> Call:
    """The call as the controller holds it."""
    [slot, *_] = find_slots(1)
    slot.actor = actor
    claim = Claim(sweep_id=1, job_id=1, epoch=1, attempt_id=1, tries=0, job=job)
    return Call(
        slot=slot,
        actor=slot.actor_name,
        claim=claim,
        answer=actor.run.remote(job, PROMPTS),
        started=0.0,
        limit_seconds=1000.0,
        asked=-HEARTBEAT_SECONDS,
    )


@pytest.mark.slow
def test_an_actor_answers_while_it_decodes_and_complaints_come_only_when_it_is_stopped(
    pair: Pair,
) -> None:
    """The clock is ours: half a minute passes at once."""
    long = job_for(pair, TREE, prompts=PROMPTS, generation=GenerationSpec(max_new_tokens=100))
    with new_actor("stopped") as (actor, process):
        call = call_of(actor, long)
        now, deadline = 0.0, time.monotonic() + 500
        assert call.silent_seconds(now) is None
        while not call.slot.answered:
            assert time.monotonic() < deadline
            call.listen(now)
            time.sleep(0.05)
        assert call.silent_seconds(now + 3.0) == 3.0
        os.kill(process, signal.SIGSTOP)
        try:
            now = HEARTBEAT_SECONDS
            call.listen(now)
            while (now := now + 1.0) < 2 * HEARTBEAT_SECONDS + SILENT_SECONDS:
                call.listen(now)
            assert call.complaint(now) == f"its worker has not answered for {SILENT_SECONDS:.0f} s"
        finally:
            os.kill(process, signal.SIGCONT)
        while call.question is not None and call.complaint(now):
            assert time.monotonic() < deadline
            call.listen(now)
            time.sleep(0.05)
        assert call.complaint(now) is None
        assert "measure.job_timeout_s" in str(call.complaint(1001.0))
        assert ray.get(call.answer).samples


@pytest.mark.slow
def test_a_controller_that_was_itself_away_blames_no_worker(pair: Pair) -> None:
    with new_actor("waiting") as (actor, process):
        call = call_of(actor, tree_job(pair))
        call.slot.answered = True
        os.kill(process, signal.SIGSTOP)
        try:
            call.listen(0.0)
            call.listen(500.0)
            assert call.complaint(500.0) is None
        finally:
            os.kill(process, signal.SIGCONT)
        ray.get(call.answer)


def test_a_killed_worker_is_a_lost_one(pair: Pair) -> None:
    with new_actor("killed") as (actor, process):
        call = actor.run.remote(tree_job(pair), PROMPTS)
        os.kill(process, signal.SIGKILL)
        with pytest.raises(ray.exceptions.RayError) as lost:
            ray.get(call)
    assert not isinstance(lost.value, ray.exceptions.RayTaskError)
    verdict = judge_loss(lost.value, node_lives=True)
    assert (verdict.blamed, verdict.final) == (True, False)


@pytest.mark.slow
def test_host_memory_that_runs_out_is_told_as_such(pair: Pair) -> None:
    """A process with little address space left cannot hold the cache that a long text needs."""
    vast = GenerationSpec(max_new_tokens=100_000_000)
    with new_actor("starved") as (actor, process):
        ray.get(actor.run.remote(tree_job(pair), PROMPTS))
        leave_memory(process, mebibytes=256)
        cause = failure(actor.run.remote(replace(tree_job(pair), generation=vast), PROMPTS))
    verdict = judge_error(cause)
    assert (verdict.final, verdict.actor_ends, verdict.error_class) == (False, True, "MemoryError"), cause


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
def test_gpu_memory_that_runs_out_is_told_as_such(pair: Pair) -> None:
    with new_actor("crowded") as (actor, _):
        ray.get(actor.__ray_call__.remote(lambda _: torch.cuda.set_per_process_memory_fraction(1e-6)))
        cause = failure(actor.run.remote(tree_job(pair), PROMPTS))
    assert (judge_error(cause).error_class, judge_error(cause).final) == ("MemoryError", False)


def test_an_error_that_only_its_own_process_can_build_arrives_with_its_class_and_text(
    actor: Any, pair: Pair
) -> None:
    """Such as one of a package that the controller's machine lacks."""

    def fails(_: Job, __: object) -> NoReturn:
        class StrangeError(Exception):
            def __init__(self, one: int, other: int) -> None:
                super().__init__(f"{one} is not {other}\nmore")

        raise StrangeError(1, 2)

    ray.get(actor.__ray_call__.remote(lambda self: setattr(self._session, "run", fails)))
    cause = failure(actor.run.remote(tree_job(pair), PROMPTS))
    ray.get(actor.__ray_call__.remote(lambda self: delattr(self._session, "run")))
    verdict = judge_error(cause)
    assert verdict.error_class == "StrangeError"
    assert re.fullmatch(r"1 is not 2 \(test_actor\.py:\d+\)", verdict.message)
    assert (verdict.final, verdict.actor_ends) == (True, True)


def test_truncated_weights_and_a_missing_tokenizer_are_the_pair_s_fault(
    actor: Any, pair: Pair, tmp_path: Path
) -> None:
    assert pair.spec.draft is not None
    cut = shutil.copytree(pair.spec.target, tmp_path / "cut")
    weights = (cut / "model.safetensors").read_bytes()
    (cut / "model.safetensors").write_bytes(weights[: len(weights) // 2])
    mute = shutil.copytree(pair.spec.target, tmp_path / "mute")
    pairs = [inspected(cut, Path(pair.spec.draft)), inspected(mute, Path(pair.spec.draft))]
    for file in mute.glob("tokenizer*"):
        file.unlink()
    for broken in pairs:
        cause = failure(actor.run.remote(tree_job(broken), PROMPTS))
        assert str(cause).startswith(f"{broken.spec.target}: ")
        assert "cannot be loaded" in str(cause) or "the tokenizer is missing" in str(cause)
        assert type(cause) is PairError


def test_a_job_may_take_what_its_sweep_says_or_many_times_what_its_passes_cost(pair: Pair) -> None:
    job = job_for(pair, TREE, prompts=PROMPTS, generation=GenerationSpec(max_new_tokens=100))
    limited = replace(job, measure=replace(job.measure, job_timeout_s=7.5))
    quick, slow = (Calibration(draft_seconds=(), verify_seconds=((1, seconds),)) for seconds in (0.001, 1.0))
    assert limit_seconds(limited, prompts=2, calibrations=[slow]) == 7.5
    assert limit_seconds(job, prompts=2, calibrations=[quick]) == 1800.0
    assert limit_seconds(job, prompts=2, calibrations=[quick, slow]) == 50 * 2 * 2 * 100 * 1.0


def test_a_job_of_a_pair_that_is_not_calibrated_yet_has_a_limit_too(pair: Pair) -> None:
    """Two hours for what may have to be fetched, and 5 s for each token of the job and the sentinel."""
    job = job_for(pair, TREE, prompts=PROMPTS, generation=GenerationSpec(max_new_tokens=100))
    limited = replace(job, measure=replace(job.measure, job_timeout_s=7.5))
    assert limit_seconds(limited, prompts=2, calibrations=[]) == 7.5
    assert limit_seconds(job, prompts=2, calibrations=[]) == 7200.0
    assert limit_seconds(job, prompts=100, calibrations=[]) == 5 * 2 * 100 * 100
