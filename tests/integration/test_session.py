"""A loaded pair at work: sentinels, warm-up, the comparison with AR, and what a job returns."""

from __future__ import annotations

import gc
import io
import os
import pickle
import subprocess
import sys
import weakref
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from dyna_eval_workers import calibration, conditions
from dyna_eval_workers import session as session_module
from dyna_eval_workers.decoding import Decoded, Decoder
from dyna_eval_workers.environment import capture_environment
from dyna_eval_workers.loading import LoadedPair, load_pair
from dyna_eval_workers.native import kernels
from dyna_eval_workers.peers import PeerDecoder
from dyna_eval_workers.session import DecodingSession

from dyna_eval.errors import DecodingError, NoKernelsError, PairError
from dyna_eval.jobs import Backend, Configuration, GenerationSpec, Method, Pair, PromptSpec
from dyna_eval.measurements import HEAVY_LOAD, Calibration, Exactness, JobResult
from tests.integration.jobs import (
    AR,
    GREEDY,
    LINEAR,
    MEASURE,
    PROMPTS,
    TREE,
    configuration,
    inspected,
    job_for,
    prompt_set,
)
from tests.models import near, save_model, tiny_gpt_neox, tiny_llama

METHODS = (
    AR,
    LINEAR,
    TREE,
    configuration(Method.STATIC_TREE, expansion="2-1-1"),
    configuration(Method.BEST_FIRST, depth=3, width=2, max_nodes=6),
    configuration(Method.DYNATREE, depth=2, max_depth=4, stop_probability=0.01),
    configuration(Method.COST_AWARE, depth=3, max_nodes=8),
    configuration(Method.PROMPT_LOOKUP, k=3),
    configuration(Method.HF_GENERATE),
    configuration(Method.HF_ASSISTED, num_assistant_tokens=3),
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models")
    save_model(tiny_gpt_neox(seed=1), folder / "target")
    save_model(tiny_gpt_neox(seed=2, hidden=16, layers=1), folder / "draft")
    save_model(tiny_llama(seed=3), folder / "llama")
    save_model(near(tiny_gpt_neox(seed=1), noise=0.1), folder / "near")
    return folder


@pytest.fixture(scope="module")
def pair(folder: Path) -> Pair:
    return inspected(folder / "target", folder / "draft")


@pytest.fixture(scope="module")
def near_pair(folder: Path) -> Pair:
    """A pair whose draft is right now and then, as the other's is by chance alone."""
    return inspected(folder / "target", folder / "near")


@pytest.fixture
def session() -> DecodingSession:
    return DecodingSession(actor="actor-0", node="node-0", device=torch.device("cpu"))


@pytest.fixture(autouse=True)
def short_calibration(monkeypatch: pytest.MonkeyPatch) -> None:
    """Time every size once: no test here asks what a pass costs, and hundreds of passes are its own time."""
    monkeypatch.setattr(calibration, "_REPEATS", 1)
    monkeypatch.setattr(calibration, "_SETTLING_SECONDS", 0.0)
    monkeypatch.setattr(calibration, "_LARGE_WORTH_SECONDS", 0.0)


@pytest.fixture(autouse=True)
def alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """Take no load of the machine that runs the tests for a heavy one: sentinels are run once."""
    monkeypatch.setattr(session_module, "HEAVY_LOAD", 1.0)


@pytest.fixture
def cheap_draft(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let drafting seem cheap, whatever tiny models take: what costs decide is then the same in every run."""
    made_up = Calibration(draft_seconds=((1, 1e-4), (16, 2e-4)), verify_seconds=((1, 1e-3), (64, 2e-3)))
    monkeypatch.setattr(session_module, "calibrate", lambda *_, **__: made_up)


@pytest.fixture(scope="module")
def by_kernels() -> Backend:
    """The backend of our kernels, where they can be built."""
    try:
        kernels()
    except NoKernelsError as reason:
        pytest.skip(str(reason))
    return Backend.COMPILE


@pytest.fixture
def compiled(folder: Path, by_kernels: Backend) -> Pair:
    """The same pair, run by the kernels."""
    return inspected(folder / "target", folder / "draft", by_kernels)


def test_a_pair_with_other_prompts_is_not_loaded_again(session: DecodingSession, pair: Pair) -> None:
    """Its calibration, of which no two are alike, is the first one's; its reference is its own."""
    others = prompt_set((3, 4, 5), (6, 7))
    elsewhere = replace(pair, spec=replace(pair.spec, name="elsewhere", prompts=PromptSpec(dataset="x")))
    first = session.run(job_for(pair, LINEAR), PROMPTS)
    second = session.run(job_for(elsewhere, LINEAR, prompts=others), others)
    third = session.run(job_for(pair, TREE), PROMPTS)

    assert first.calibration == second.calibration == third.calibration
    assert [len(result.sentinels) for result in (first, second, third)] == [1, 1, 0]
    assert [sample.exactness for sample in second.samples] == [Exactness.EXACT] * 2


def test_a_pair_at_another_temperature_is_not_loaded_again_and_has_its_own_reference(
    session: DecodingSession, pair: Pair
) -> None:
    sampled = replace(GREEDY, temperature=1.0)
    warm = replace(pair, spec=replace(pair.spec, name="at T=1", generation=sampled))
    first = session.run(job_for(pair, LINEAR), PROMPTS)
    second = session.run(job_for(warm, LINEAR, generation=sampled), PROMPTS)
    third = session.run(job_for(pair, TREE), PROMPTS)

    assert first.calibration == second.calibration == third.calibration
    assert [len(result.sentinels) for result in (first, second, third)] == [1, 1, 0]
    for result in (first, second, third):
        assert [sample.exactness for sample in result.samples] == [Exactness.EXACT] * len(PROMPTS.prompts)
    greedy, drawn = ([sample.token_ids for sample in result.samples] for result in (first, second))
    assert greedy != drawn


def test_the_text_of_a_model_is_kept_up_to_a_limit(
    session: DecodingSession, pair: Pair, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The tokens are kept whole; the real limit would take thousands of them."""
    whole = session.run(job_for(pair, LINEAR), PROMPTS).samples
    monkeypatch.setattr("dyna_eval_workers.session._TEXT_LIMIT", 4)
    cut = session.run(job_for(pair, LINEAR), PROMPTS).samples
    assert max(len(sample.text) for sample in whole) > 4
    assert [sample.text for sample in cut] == [sample.text[:4] for sample in whole]
    assert [sample.token_ids for sample in cut] == [sample.token_ids for sample in whole]


@dataclass
class Call:
    """One call of `Decoder.decode` that a test watched."""

    seed: str
    speculative: bool
    prompt: tuple[int, ...]
    tokens: int
    seconds: float
    """Of its decoding, as the decoder tells."""
    collecting: bool
    """Whether Python's garbage collector may run meanwhile."""


@dataclass
class Watched:
    calls: list[Call] = field(default_factory=list)

    def take(self) -> list[Call]:
        taken, self.calls = self.calls, []
        return taken


@pytest.fixture
def watched(monkeypatch: pytest.MonkeyPatch) -> Watched:
    """Every decoding that the session asks for, in order."""
    watched = Watched()
    real = Decoder.decode

    def decode(
        self: Decoder, prompt: Any, generation: GenerationSpec, drafting: Any, **options: Any
    ) -> Decoded:
        decoded = real(self, prompt, generation, drafting, **options)
        watched.calls.append(
            Call(
                seed=options["seed"],
                speculative=drafting is not None,
                prompt=tuple(prompt),
                tokens=len(decoded.token_ids),
                seconds=decoded.decode_seconds,
                collecting=gc.isenabled(),
            )
        )
        return decoded

    monkeypatch.setattr(Decoder, "decode", decode)
    return watched


# -------------------------------------------------------------------- what returns


@pytest.mark.parametrize("temperature", [0.0, 1.0])
@pytest.mark.parametrize("configuration", METHODS, ids=lambda c: c.method)
def test_a_job_returns_one_sample_per_prompt_with_the_target_s_tokens(
    configuration: Configuration, temperature: float, pair: Pair, session: DecodingSession
) -> None:
    """All but the peers' own draws, which follow the target's distribution but not our noise."""
    generation = replace(GREEDY, temperature=temperature)
    job = job_for(pair, configuration, generation=generation, repeat=2)
    result = session.run(job, PROMPTS)
    assert (result.job_key, result.repeat) == (job.key, 2)
    assert (result.actor, result.node) == ("actor-0", "node-0")
    assert [sample.prompt_index for sample in result.samples] == [0, 1, 2]
    references = {sample.prompt_index: sample.token_ids for sample in result.sentinels[0].samples}
    for sample, prompt in zip(result.samples, PROMPTS.prompts, strict=True):
        if configuration.method.is_peer and temperature > 0:
            assert sample.exactness is None
        else:
            assert sample.token_ids == references[prompt.index]
            assert sample.exactness is Exactness.EXACT
        assert (sample.prompt_digest, sample.prompt_tokens) == (prompt.digest, len(prompt.token_ids))
        assert len(sample.token_ids) == sum(r.emitted for r in sample.rounds) == 12
        assert sample.distinct_2 is not None
        assert 0 < sample.distinct_2 <= 1
        assert 0 < sample.ttft_seconds <= sample.prefill_seconds + sample.decode_seconds
        assert sample.text


def accepted(result: JobResult) -> int:
    return sum(round_.accepted for sample in result.samples for round_ in sample.rounds)


@pytest.mark.usefixtures("cheap_draft")
@pytest.mark.parametrize("configuration", METHODS, ids=lambda c: c.method)
def test_the_kernels_emit_what_the_eager_code_emits(
    configuration: Configuration, near_pair: Pair, by_kernels: Backend, session: DecodingSession
) -> None:
    compiled = replace(near_pair, backend=by_kernels)
    results = [session.run(job_for(chosen, configuration), PROMPTS) for chosen in (near_pair, compiled)]
    assert [result.environment.facts["backend"] for result in results] == ["eager", "compile"]
    eager, ours = ([sample.token_ids for sample in result.samples] for result in results)
    assert ours == eager
    assert all(sample.exactness is Exactness.EXACT for result in results for sample in result.samples)
    drafts = configuration.method not in (Method.AR, Method.HF_GENERATE)
    assert all((accepted(result) > 0) is drafts for result in results)


def test_what_a_self_test_measured_is_told_and_makes_no_environment_of_its_own() -> None:
    """It may differ from run to run; rows of two runs would be refused in one table."""
    cpu, told = torch.device("cpu"), "eager (the kernels fail the self-test: off by {}, more than (7.6e-06))"
    first, second = (capture_environment(cpu, told.format(found)) for found in ("0.25", "1e-03"))
    assert first.facts["backend"] == told.format("0.25")
    assert first.digest == second.digest
    assert first.digest != capture_environment(cpu, "eager (no C++ compiler)").digest


def test_a_result_says_where_it_ran_and_what_a_step_costs_there(
    folder: Path, pair: Pair, compiled: Pair, session: DecodingSession
) -> None:
    """Measured once, when a pair is loaded; a backend is an environment of its own."""
    first, second, other = (
        session.run(job_for(chosen, configuration), PROMPTS)
        for chosen, configuration in ((pair, AR), (pair, TREE), (compiled, TREE))
    )
    assert first.environment == second.environment
    assert first.environment.digest != other.environment.digest
    assert first.environment.facts["device"] == "cpu"
    assert first.environment.facts["threads"] == torch.get_num_threads()
    assert first.calibration is not None
    assert first.calibration == second.calibration != other.calibration
    assert first.calibration.draft_seconds
    assert first.calibration.verify_seconds
    alone = session.run(job_for(inspected(folder / "target", None), AR), PROMPTS)
    assert alone.calibration is not None
    assert alone.calibration.draft_seconds == ()


def test_times_and_memory_are_those_of_the_measured_samples(pair: Pair, session: DecodingSession) -> None:
    result = session.run(job_for(pair, TREE), PROMPTS)
    decoding = sum(sample.prefill_seconds + sample.decode_seconds for sample in result.samples)
    assert decoding <= result.wall_seconds
    assert result.peak_memory_bytes is not None
    assert result.peak_memory_bytes > 1e6


def test_no_garbage_is_collected_in_measured_time(
    pair: Pair, session: DecodingSession, watched: Watched
) -> None:
    """A collection that goes through all of torch's objects takes as long as hundreds of rounds."""
    session.run(job_for(pair, TREE), PROMPTS)
    measured = [call for call in watched.take() if not call.seed.startswith("warm-up")]
    assert len(measured) == 2 * len(PROMPTS.prompts)
    assert not any(call.collecting for call in measured)
    assert gc.isenabled()


def test_a_job_that_fails_leaves_the_collector_at_work(
    pair: Pair, session: DecodingSession, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Decoder, "decode", _no_more)
    with pytest.raises(DecodingError, match="no more"):
        session.run(job_for(pair, TREE, measure=replace(MEASURE, warmup=0)), PROMPTS)
    assert gc.isenabled()


def test_sampled_prompts_have_noise_of_their_own(pair: Pair, session: DecodingSession) -> None:
    """Two equal prompts are two draws, and a repeat draws the same again."""
    twice = prompt_set((17, 5, 250), (17, 5, 250))
    job = job_for(pair, TREE, prompts=twice, generation=replace(GREEDY, temperature=1.0))
    first, second = (sample.token_ids for sample in session.run(job, twice).samples)
    assert first != second
    assert [sample.token_ids for sample in session.run(job, twice).samples] == [first, second]


def test_a_result_survives_pickling_and_is_small(pair: Pair, session: DecodingSession) -> None:
    result = session.run(job_for(pair, TREE), PROMPTS)
    sent = pickle.dumps(result)
    assert pickle.loads(sent) == result  # noqa: S301  # our own bytes
    emitted = sum(len(sample.token_ids) for sample in result.samples)
    assert len(sent) < 500 * emitted


def test_a_result_is_read_without_torch(pair: Pair, session: DecodingSession) -> None:
    """A controller that unpickled anything of torch's would import it, which takes seconds and 400 MB."""
    modules = set()

    class Watched(pickle.Unpickler):
        def find_class(self, module_name: str, global_name: str, /) -> Any:
            modules.add(module_name)
            return super().find_class(module_name, global_name)

    Watched(io.BytesIO(pickle.dumps(session.run(job_for(pair, TREE), PROMPTS)))).load()
    assert modules == {"dyna_eval.measurements"}


# ---------------------------------------------------------------------- sentinels


def test_a_sentinel_comes_before_the_first_job_and_after_every_few(
    pair: Pair, session: DecodingSession
) -> None:
    results = [session.run(job_for(pair, LINEAR, repeat=n), PROMPTS) for n in range(5)]
    assert [[s.sequence for s in result.sentinels] for result in results] == [[0], [], [1], [], [2]]
    assert {s.actor for result in results for s in result.sentinels} == {"actor-0"}


def test_a_sentinel_is_the_target_alone_and_later_ones_are_compared_with_the_first(
    pair: Pair, session: DecodingSession
) -> None:
    measure = replace(MEASURE, sentinel_every=1)
    first, second = (
        session.run(job_for(pair, TREE, measure=measure), PROMPTS).sentinels[0] for _ in range(2)
    )
    assert all(round_.drafted == 0 for sample in first.samples for round_ in sample.rounds)
    assert [sample.exactness for sample in first.samples] == [None] * 3
    assert [sample.exactness for sample in second.samples] == [Exactness.EXACT] * 3
    assert [s.token_ids for s in first.samples] == [s.token_ids for s in second.samples]
    assert all(sample.distinct_2 is not None for sample in (*first.samples, *second.samples))


def test_a_sentinel_in_a_sampling_peers_job_is_compared_all_the_same(
    pair: Pair, session: DecodingSession
) -> None:
    """The peer draws numbers of its own; the sentinel is our AR, and repeats the reference."""
    sampled, often = replace(GREEDY, temperature=1.0), replace(MEASURE, sentinel_every=1)
    session.run(job_for(pair, LINEAR, generation=sampled, measure=often), PROMPTS)
    peer = configuration(Method.HF_GENERATE)
    result = session.run(job_for(pair, peer, generation=sampled, measure=often), PROMPTS)
    assert {sample.exactness for sample in result.samples} == {None}
    [sentinel] = result.sentinels
    assert {sample.exactness for sample in sentinel.samples} == {Exactness.EXACT}


def test_a_target_that_does_not_repeat_its_own_output_fails_the_job(
    pair: Pair, session: DecodingSession, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of two different outputs of the target alone, none says what a method has to emit."""
    job = job_for(pair, TREE, measure=replace(MEASURE, sentinel_every=1))
    session.run(job, PROMPTS)
    with monkeypatch.context() as broken:
        broken.setattr(Decoder, "decode", wrong_from(4, alone=True))
        with pytest.raises(DecodingError, match="not what the target alone emitted at first") as caught:
            session.run(job, PROMPTS)
    assert "3 of 3 samples" in str(caught.value)
    [sentinel] = session.run(job, PROMPTS).sentinels
    assert sentinel.sequence == 1, "the one that differed is not among the actor's runs"


def test_other_prompts_and_other_generation_have_sentinels_of_their_own(
    pair: Pair, session: DecodingSession
) -> None:
    others = prompt_set((60, 61))
    sampled = replace(GREEDY, temperature=1.0)
    assert session.run(job_for(pair, LINEAR), PROMPTS).sentinels
    assert session.run(job_for(pair, LINEAR, prompts=others), others).sentinels
    assert session.run(job_for(pair, LINEAR, generation=sampled), PROMPTS).sentinels
    assert not session.run(job_for(pair, LINEAR), PROMPTS).sentinels


# --------------------------------------------------------- sentinels on a busy machine


@dataclass
class Load:
    """What others have of the cores in one measured run after the other, as the system's times tell it."""

    shares: list[float]
    times: list[conditions._Times] = field(default_factory=list)

    def told(self) -> conditions._Times:
        """Return the next times: those at the start of a run, then those at its end, a second later."""
        if len(self.times) % 2 == 0:
            now = conditions._Times(clock=len(self.times), busy=0.0, stolen=0.0, own=0.0)
        else:
            share = self.shares[len(self.times) // 2]
            busy = share * len(os.sched_getaffinity(0))
            now = conditions._Times(clock=len(self.times), busy=busy, stolen=0.0, own=0.0)
        self.times.append(now)
        return now


@pytest.fixture
def load(monkeypatch: pytest.MonkeyPatch) -> Load:
    load = Load([])
    monkeypatch.setattr(conditions, "_times", load.told)
    monkeypatch.setattr(session_module, "HEAVY_LOAD", HEAVY_LOAD)
    monkeypatch.setattr(session_module, "_TOLD_SECONDS", 0.0)
    return load


@pytest.mark.parametrize(
    ("shares", "kept"),
    [([0.3], 0), ([0.9, 0.2], 1), ([0.9, 0.5, 0.7], 1), ([0.6, 0.6], 0), ([0.9, 0.8, 0.7], 2)],
    ids=["quiet", "quiet at last", "second of three", "no calmer", "last of three"],
)
def test_a_sentinel_is_run_again_under_heavy_load_and_the_least_disturbed_run_is_kept(
    shares: list[float], kept: int, pair: Pair, watched: Watched, load: Load
) -> None:
    """Whole, under one number, and without a comparison, as the only one would be."""
    load.shares = [*shares, 0.1]
    session = DecodingSession(actor="actor-0", node="node-0", device=torch.device("cpu"))
    job = job_for(pair, TREE, measure=replace(MEASURE, sentinel_every=8))
    result = session.run(job, PROMPTS)
    alone = [call for call in watched.take() if not call.speculative and not call.seed.startswith("warm")]
    assert len(alone) == len(shares) * 3
    [sentinel] = result.sentinels
    assert sentinel.sequence == 0
    assert [sample.decode_seconds for sample in sentinel.samples] == [
        call.seconds for call in alone[kept * 3 : kept * 3 + 3]
    ]
    assert [sample.exactness for sample in sentinel.samples] == [None] * 3
    assert result.conditions["sentinel_others_share"] == shares[kept]
    assert result.conditions["others_share"] == 0.1


def test_what_disturbed_a_sentinel_is_told_once_also_after_a_job_that_failed(
    pair: Pair, session: DecodingSession, monkeypatch: pytest.MonkeyPatch, load: Load
) -> None:
    load.shares = [0.5, 0.5, 0.0, 0.0, 0.0]
    job = job_for(pair, TREE, measure=replace(MEASURE, sentinel_every=8))
    with monkeypatch.context() as broken:
        broken.setattr(Decoder, "decode", wrong_from(0))
        with pytest.raises(DecodingError):
            session.run(job, PROMPTS)
    first, second = (session.run(job, PROMPTS).conditions for _ in range(2))
    assert first["sentinel_others_share"] == 0.5
    assert "sentinel_others_share" not in second


def test_a_sentinel_is_not_repeated_into_the_limit_of_its_job(
    pair: Pair, session: DecodingSession, watched: Watched, load: Load
) -> None:
    load.shares = [0.9, 0.1]
    session.run(job_for(pair, TREE, measure=replace(MEASURE, job_timeout_s=1e-6)), PROMPTS)
    assert len([call for call in watched.take() if call.seed == "0:0"]) == 2, "a sentinel and the job"


def test_the_work_of_another_process_during_a_sentinel_is_seen(
    pair: Pair, session: DecodingSession, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It takes one of our cores, or half of that where something else is at work too."""
    monkeypatch.setattr(session_module, "_TOLD_SECONDS", 0.0)
    code = "import time\nend = time.monotonic() + 60\nwhile time.monotonic() < end: pass"
    other = subprocess.Popen([sys.executable, "-c", code])
    try:
        long = replace(GREEDY, max_new_tokens=200)
        found = session.run(job_for(pair, AR, generation=long), PROMPTS).conditions
    finally:
        other.kill()
        other.wait()
    share = found["sentinel_others_share"]
    assert isinstance(share, float)
    assert share >= 0.2 / len(os.sched_getaffinity(0))


# ------------------------------------------------------------------------- warm-up


@pytest.mark.parametrize("warmup", [0, 1, 2])
def test_warming_up_uses_no_measured_prompt_and_comes_before_the_samples(
    warmup: int, pair: Pair, session: DecodingSession, watched: Watched
) -> None:
    measure = replace(MEASURE, warmup=warmup)
    session.run(job_for(pair, TREE, measure=measure), PROMPTS)
    warm = [f"warm-up:{number}" for number in range(warmup)]
    measured = ["0:0", "0:1", "0:2"]
    calls = watched.take()
    assert [call.seed for call in calls] == [*warm, *measured, *warm, *measured]
    assert [call.speculative for call in calls] == [False] * (warmup + 3) + [True] * (warmup + 3)
    measured_prompts = {prompt.token_ids for prompt in PROMPTS.prompts}
    assert all((call.prompt in measured_prompts) == (call.seed in measured) for call in calls)


def test_warming_up_is_short(pair: Pair, session: DecodingSession, watched: Watched) -> None:
    session.run(job_for(pair, LINEAR, generation=replace(GREEDY, max_new_tokens=100)), PROMPTS)
    assert {call.tokens for call in watched.take() if call.seed.startswith("warm-up")} == {32}


def test_what_a_peer_learns_while_it_warms_up_is_no_start_for_the_measured_prompts(
    folder: Path, session: DecodingSession
) -> None:
    """With a draft that is always right, `heuristic` drafts two more after every round of every prompt."""
    right = inspected(folder / "target", folder / "target")
    peer = configuration(
        Method.HF_ASSISTED, num_assistant_tokens=2, schedule="heuristic", confidence_threshold=0.0
    )
    first, second, _ = session.run(job_for(right, peer), PROMPTS).samples
    assert [round_.drafted for round_ in first.rounds][:2] == [2, 4]
    assert second.rounds[0].drafted > 2


# ----------------------------------------------------------------------- exactness


def wrong_from(index: int, *, alone: bool = False) -> Callable[..., Decoded]:
    """Return a decoder whose speculative output, or with `alone` the target's own, is wrong at `index`."""
    real = Decoder.decode

    def decode(
        self: Decoder, prompt: Any, generation: GenerationSpec, drafting: Any, **options: Any
    ) -> Decoded:
        decoded = real(self, prompt, generation, drafting, **options)
        if (drafting is None) is not alone:
            return decoded
        tokens = list(decoded.token_ids)
        tokens[index] = (tokens[index] + 1) % 256
        return replace(decoded, token_ids=tuple(tokens))

    return decode


def test_output_that_is_not_the_target_s_fails_the_job(
    pair: Pair, session: DecodingSession, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Decoder, "decode", wrong_from(4))
    with pytest.raises(DecodingError, match="3 of 3 samples are not what the target alone emits") as caught:
        session.run(job_for(pair, TREE), PROMPTS)
    assert "prompt 0, from new token 4 on" in str(caught.value)
    assert "ulp from a tie" in str(caught.value)


def test_a_text_that_ends_early_fails_the_job(
    pair: Pair, session: DecodingSession, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = Decoder.decode

    def decode(
        self: Decoder, prompt: Any, generation: GenerationSpec, drafting: Any, **options: Any
    ) -> Decoded:
        decoded = real(self, prompt, generation, drafting, **options)
        return decoded if drafting is None else replace(decoded, token_ids=decoded.token_ids[:5])

    monkeypatch.setattr(Decoder, "decode", decode)
    with pytest.raises(DecodingError, match=r"from new token 5 on$"):
        session.run(job_for(pair, LINEAR), PROMPTS)


def test_a_near_tie_is_no_violation_where_a_peer_emits_it(
    folder: Path, by_kernels: Backend, session: DecodingSession, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A peer's passes round otherwise than our kernels, whose own loops differ by hardly any.

    The model scores every second token a little below the one before it: 7 eps of bfloat16.
    """
    model = tiny_gpt_neox(seed=1).to(torch.bfloat16)
    with torch.no_grad():
        head = model.lm_head.weight
        head[1::2] = head[::2] * (1 - 7 * torch.finfo(torch.bfloat16).eps)
    twins = save_model(model, folder / "twins")
    pair = inspected(twins, folder / "draft", by_kernels)
    assert pair.dtype == "bfloat16"
    first = session.run(job_for(pair, AR), PROMPTS).samples[0].token_ids
    assert first[0] % 2 == 0
    emitted = (first[0] + 1, *first[1:])

    def emits_the_other(real: Callable[..., Decoded]) -> Callable[..., Decoded]:
        def decode(*given: Any, **options: Any) -> Decoded:
            decoded = real(*given, **options)
            alone = options.get("drafting", options.get("configuration")) is None
            return decoded if alone else replace(decoded, token_ids=emitted)

        return decode

    for loops in (PeerDecoder, Decoder):
        monkeypatch.setattr(loops, "decode", emits_the_other(loops.decode))
    one = prompt_set(PROMPTS.prompts[0].token_ids)
    peer = job_for(pair, configuration(Method.HF_GENERATE), prompts=one)
    [sample] = session.run(peer, one).samples
    assert (sample.exactness, sample.divergence_index) == (Exactness.TIE, 0)
    with pytest.raises(DecodingError, match="prompt 0, from new token 0 on"):
        session.run(job_for(pair, LINEAR, prompts=one), one)


def test_a_session_goes_on_after_a_job_that_failed(
    pair: Pair, session: DecodingSession, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as broken:
        broken.setattr(Decoder, "decode", wrong_from(0))
        with pytest.raises(DecodingError):
            session.run(job_for(pair, TREE), PROMPTS)
    result = session.run(job_for(pair, TREE), PROMPTS)
    assert [sample.exactness for sample in result.samples] == [Exactness.EXACT] * 3


def test_the_sentinels_of_a_failed_job_come_with_the_next_result(
    pair: Pair, session: DecodingSession, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Later jobs are measured against them, so they must not be lost with the failure."""
    job = job_for(pair, TREE, measure=replace(MEASURE, sentinel_every=8))
    with monkeypatch.context() as broken:
        broken.setattr(Decoder, "decode", wrong_from(0))
        with pytest.raises(DecodingError):
            session.run(job, PROMPTS)
    assert [sentinel.sequence for sentinel in session.run(job, PROMPTS).sentinels] == [0]
    assert not session.run(job, PROMPTS).sentinels


# ------------------------------------------------------------------- a peer's models


@pytest.mark.parametrize("fails", [False, True])
def test_a_peers_models_leave_the_memory_although_they_refer_to_themselves(
    fails: bool, pair: Pair, session: DecodingSession, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As compiled ones do. A failed job's traceback holds its models; they go before the next ones come."""
    real, loaded, alive = LoadedPair.peer_models, [], []

    def peer_models(self: LoadedPair, configuration: Configuration) -> tuple[Any, Any]:
        alive.append([model() is not None for model in loaded])
        target, draft = real(self, configuration)
        target._compiled_call = target._call_impl
        loaded.append(weakref.ref(target))
        return target, draft

    monkeypatch.setattr(LoadedPair, "peer_models", peer_models)
    peer = job_for(pair, configuration(Method.HF_GENERATE))
    if fails:
        monkeypatch.setattr(PeerDecoder, "decode", _no_more)
        for _ in range(2):
            with pytest.raises(DecodingError, match="no more"):
                session.run(peer, PROMPTS)
        assert alive == [[], [False]]
    else:
        session.run(peer, PROMPTS)
        assert [model() for model in loaded] == [None]


def _no_more(*_: Any, **__: Any) -> Decoded:
    raise DecodingError("no more")


# --------------------------------------------------------------------------- pairs


def test_a_pair_without_a_draft_runs_ar_and_nothing_else(folder: Path, session: DecodingSession) -> None:
    alone = inspected(folder / "target", None)
    result = session.run(job_for(alone, AR), PROMPTS)
    assert [sample.exactness for sample in result.samples] == [Exactness.EXACT] * 3
    with pytest.raises(DecodingError, match="needs a draft model"):
        session.run(job_for(alone, LINEAR), PROMPTS)


def test_a_pair_stays_loaded_until_another_takes_its_place(
    folder: Path, pair: Pair, session: DecodingSession, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One pair in memory at a time; the references go with the pair they belong to."""
    loads: list[str] = []

    def load(pair: Pair, device: torch.device, *, gpus: int) -> LoadedPair:
        assert session._active is None, "the pair before must be free by now"
        loads.append(pair.spec.name)
        return load_pair(pair, device, gpus=gpus)

    monkeypatch.setattr(session_module, "load_pair", load)
    other = inspected(folder / "llama", None)
    results: list[JobResult] = [
        session.run(job_for(chosen, AR), PROMPTS) for chosen in (pair, pair, other, pair)
    ]
    assert loads == ["target", "llama", "target"]
    assert [[s.sequence for s in result.sentinels] for result in results] == [[0], [], [1], [2]]
    tokens = [result.samples[0].token_ids for result in results]
    assert tokens[0] == tokens[1] == tokens[3] != tokens[2]


def test_a_pair_that_does_not_load_leaves_the_session_usable(
    folder: Path, pair: Pair, session: DecodingSession
) -> None:
    session.run(job_for(pair, AR), PROMPTS)
    missing = replace(pair, spec=replace(pair.spec, target=str(folder / "gone")))
    with pytest.raises(PairError, match="gone"):
        session.run(job_for(missing, AR), PROMPTS)
    assert session.run(job_for(pair, AR), PROMPTS).samples


def test_a_session_knows_what_it_runs_in_also_after_a_pair_that_did_not_load(
    folder: Path, pair: Pair, session: DecodingSession
) -> None:
    assert session.environment is None
    missing = replace(pair, spec=replace(pair.spec, target=str(folder / "gone")))
    with pytest.raises(PairError, match="gone"):
        session.run(job_for(missing, AR), PROMPTS)
    without_a_pair = session.environment
    assert without_a_pair is not None
    result = session.run(job_for(pair, AR), PROMPTS)
    assert session.environment == result.environment
    assert {**result.environment.facts, "backend": None} == without_a_pair.facts
    with pytest.raises(PairError, match="gone"):
        session.run(job_for(missing, AR), PROMPTS)
    assert session.environment == without_a_pair


# -------------------------------------------------------------------------- draft trees


@pytest.mark.usefixtures("cheap_draft")
@pytest.mark.parametrize("configuration", METHODS, ids=lambda c: c.method)
def test_kept_trees_spell_what_their_rounds_emitted(
    near_pair: Pair, session: DecodingSession, configuration: Configuration
) -> None:
    """The accepted path and the bonus token of each round, one after the other, are the sample's tokens."""
    measure = replace(MEASURE, store_trees=100)
    result = session.run(job_for(near_pair, configuration, measure=measure), PROMPTS)
    has_trees = configuration.method is not Method.AR and not configuration.method.is_peer
    assert accepted(result) > 0 or not has_trees
    for sample in result.samples:
        if not has_trees:
            assert sample.trees == ()
            continue
        spelt: list[int] = []
        for tree, round_ in zip(sample.trees, sample.rounds, strict=True):
            path = [node.token for node in tree.nodes[1:] if node.accepted]
            spelt += [*path, *([] if tree.bonus is None else [tree.bonus])]
            assert len(path) == round_.accepted
            assert sum(node.verified for node in tree.nodes) - 1 == round_.verified
            assert len(tree.nodes) - 1 == round_.drafted
            assert all(node.parent < index for index, node in enumerate(tree.nodes))
            assert all(node.joint <= tree.nodes[node.parent].joint + 1e-9 for node in tree.nodes[1:])
        assert tuple(spelt) == sample.token_ids


def test_as_many_trees_are_kept_as_were_asked_for(pair: Pair, session: DecodingSession) -> None:
    result = session.run(job_for(pair, TREE, measure=replace(MEASURE, store_trees=2)), PROMPTS)
    assert [len(sample.trees) for sample in result.samples] == [2, 2, 2]
    assert all(sample.trees == () for sentinel in result.sentinels for sample in sentinel.samples)
    assert session.run(job_for(pair, TREE), PROMPTS).samples[0].trees == ()
