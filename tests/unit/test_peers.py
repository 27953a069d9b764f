"""transformers' own loops emit the target's tokens, and are measured like ours."""

from __future__ import annotations

import os
import shutil
from typing import Any

import pytest
import torch
from dyna_eval_workers.decoding import Decoded, Decoder
from dyna_eval_workers.peers import PeerDecoder
from dyna_eval_workers.runner import TorchRunner
from transformers import GenerationConfig
from transformers.utils import logging as transformers_logging

from dyna_eval.errors import DecodingError
from dyna_eval.jobs import Configuration, GenerationSpec, Method
from tests.models import SUPPORTED, VOCABULARY, tiny_gpt_neox, tiny_llama, tiny_model

PROMPT = (17, 5, 250, 31, 8)
SEED = "0:3"


def generate(cache: str = "dynamic") -> Configuration:
    return Configuration(label=cache, method=Method.HF_GENERATE, params={"cache": cache})


def assisted(tokens: int = 4, schedule: str = "constant", threshold: float = 0.0) -> Configuration:
    return Configuration(
        label="assisted",
        method=Method.HF_ASSISTED,
        params={
            "num_assistant_tokens": tokens,
            "schedule": schedule,
            "confidence_threshold": threshold,
        },
    )


PEERS = {
    "generate": generate(),
    "constant": assisted(),
    "heuristic": assisted(schedule="heuristic"),
    "heuristic_transient": assisted(schedule="heuristic_transient"),
    "confidence": assisted(tokens=8, threshold=0.4),
}


def peer(target: Any, draft: Any | None, **changes: Any) -> PeerDecoder:
    settings: dict[str, Any] = {"vocabulary": VOCABULARY, "end_tokens": ()} | changes
    return PeerDecoder(target, draft, **settings)


def target_alone(target: Any, prompt: tuple[int, ...], generation: GenerationSpec) -> tuple[int, ...]:
    decoder = Decoder(TorchRunner(target), None, vocabulary=VOCABULARY, end_tokens=())
    return decoder.decode(prompt, generation, None, seed=SEED).token_ids


def emitted(decoded: Decoded) -> list[int]:
    return [round_.emitted for round_ in decoded.rounds]


@pytest.mark.parametrize("configuration", PEERS.values(), ids=PEERS)
@pytest.mark.parametrize("prompt", [PROMPT, (9,)], ids=["prompt", "one token"])
def test_greedy_tokens_are_the_targets(configuration: Configuration, prompt: tuple[int, ...]) -> None:
    target, draft = tiny_gpt_neox(seed=1), tiny_gpt_neox(seed=2, hidden=16, layers=1)
    generation = GenerationSpec(max_new_tokens=40)
    decoded = peer(target, draft).decode(prompt, generation, configuration, seed=SEED)
    assert decoded.token_ids == target_alone(target, prompt, generation)
    assert sum(emitted(decoded)) == 40
    assert 0 < decoded.ttft_seconds - decoded.prefill_seconds <= decoded.decode_seconds


@pytest.mark.parametrize("kind", SUPPORTED)
def test_every_architecture_goes_on_from_its_filled_cache(kind: str) -> None:
    target, draft = tiny_model(kind, seed=1), tiny_model(kind, seed=2)
    generation = GenerationSpec(max_new_tokens=12)
    expected = target_alone(target, PROMPT, generation)
    peers = peer(target, draft)
    for configuration in (generate(), assisted()):
        assert peers.decode(PROMPT, generation, configuration, seed=SEED).token_ids == expected


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("g++") is None, reason="torch needs a C++ compiler")
def test_the_compiled_static_cache_emits_the_same() -> None:
    """Compiled once, for prompts of every length that the cache has room for."""
    target, generation = tiny_gpt_neox(seed=1, layers=1), GenerationSpec(max_new_tokens=24)
    peers = peer(target, None)
    peers.warm_up(generate("static"), tokens=len(PROMPT) + 24)
    compiled = torch._dynamo.utils.counters["stats"]["unique_graphs"]
    assert compiled >= 1
    for prompt in (PROMPT, (9,), PROMPT[:3]):
        decoded = peers.decode(prompt, generation, generate("static"), seed=SEED)
        assert decoded.token_ids == target_alone(target, prompt, generation)
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] == compiled


def test_a_static_cache_that_cannot_be_compiled_is_one_clear_error(monkeypatch: pytest.MonkeyPatch) -> None:
    def no_compiler(*_arguments: Any, **_settings: Any) -> Any:
        raise RuntimeError("No working C++ compiler found\nmuch more")

    target = tiny_gpt_neox(seed=1)
    monkeypatch.setattr(target, "get_compiled_call", no_compiler)
    with pytest.raises(DecodingError, match="install a C\\+\\+ compiler") as caught:
        peer(target, None).warm_up(generate("static"), tokens=20)
    assert "\n" not in str(caught.value)


LOST_DEVICE = torch.AcceleratorError("CUDA error: an illegal memory access was encountered")


def because_of(cause: Exception) -> Exception:
    error = RuntimeError("the backend raised")
    error.__cause__ = cause
    return error


@pytest.mark.parametrize(
    "error",
    [
        MemoryError("no memory"),
        RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling cublasCreate"),
        RuntimeError("backend='inductor' raised: Triton Error [CUDA]: out of memory"),
        LOST_DEVICE,
        because_of(LOST_DEVICE),
    ],
    ids=["host", "cuBLAS", "compiled code", "lost device", "lost device within"],
)
def test_a_static_cache_that_fails_by_the_machine_is_not_called_a_missing_compiler(
    error: Exception, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Memory gets another try on a fresh actor, and after a lost device the actor ends."""

    def fail(*_arguments: Any, **_settings: Any) -> Any:
        raise error

    target = tiny_gpt_neox(seed=1)
    monkeypatch.setattr(target, "get_compiled_call", fail)
    with pytest.raises(type(error)) as caught:
        peer(target, None).warm_up(generate("static"), tokens=20)
    assert caught.value is error


def test_a_perfect_draft_is_accepted_whole() -> None:
    target, draft = tiny_llama(seed=1), tiny_llama(seed=1)
    decoded = peer(target, draft).decode(
        PROMPT, GenerationSpec(max_new_tokens=20), assisted(tokens=4), seed=SEED
    )
    assert emitted(decoded) == [5, 5, 5, 5]
    assert [round_.accepted for round_ in decoded.rounds] == [4, 4, 4, 4]
    assert [round_.draft_steps for round_ in decoded.rounds] == [4, 4, 4, 4]
    assert [round_.draft_rows for round_ in decoded.rounds] == [4, 5, 5, 5]


def test_a_plain_loop_emits_one_token_per_round_and_drafts_none() -> None:
    decoded = peer(tiny_llama(seed=1), None).decode(
        PROMPT, GenerationSpec(max_new_tokens=6), generate(), seed=SEED
    )
    assert emitted(decoded) == [1] * 6
    assert {(round_.accepted, round_.drafted, round_.draft_rows) for round_ in decoded.rounds} == {(0, 0, 0)}


def test_both_models_read_the_prompt_once() -> None:
    """Prefill, then in the first round its last token, with the draft's tokens behind it in the target."""
    target, draft = tiny_llama(seed=1), tiny_llama(seed=1)
    read: dict[Any, list[int]] = {}
    for model in (target, draft):
        embedding, rows = model.get_input_embeddings(), read.setdefault(model, [])
        embedding.register_forward_hook(lambda _, ids, __, rows=rows: rows.append(ids[0].shape[1]))
    peers = peer(target, draft)
    peers.decode(PROMPT, GenerationSpec(max_new_tokens=8), assisted(tokens=3), seed=SEED)
    assert read == {target: [4, 4, 4], draft: [4, 1, 1, 1, 2, 1, 1]}


def test_only_heuristic_carries_its_number_of_tokens_to_the_next_prompt() -> None:
    target, draft = tiny_llama(seed=1), tiny_llama(seed=1)
    for schedule, first_draft in (("heuristic", 10), ("heuristic_transient", 2), ("constant", 2)):
        peers, generation = peer(target, draft), GenerationSpec(max_new_tokens=24)
        configuration = assisted(tokens=2, schedule=schedule)
        peers.decode(PROMPT, generation, configuration, seed=SEED)
        again = peers.decode(PROMPT, generation, configuration, seed=SEED)
        assert again.rounds[0].drafted == first_draft
        peers.reset()
        anew = peers.decode(PROMPT, generation, configuration, seed=SEED)
        assert anew.rounds[0].drafted == 2


@pytest.mark.parametrize("configuration", [generate(), assisted()], ids=["generate", "assisted"])
def test_the_end_token_stops_only_where_it_is_asked_to(configuration: Configuration) -> None:
    target, draft = tiny_gpt_neox(seed=1), tiny_gpt_neox(seed=1)
    whole = target_alone(target, PROMPT, GenerationSpec(max_new_tokens=30))
    end = whole[12]
    target.generation_config.eos_token_id = draft.generation_config.eos_token_id = end
    peers = peer(target, draft, end_tokens=[whole[-1], end])
    on = peers.decode(PROMPT, GenerationSpec(max_new_tokens=30), configuration, seed=SEED)
    stopped = peers.decode(
        PROMPT, GenerationSpec(max_new_tokens=30, stop_at_eos=True), configuration, seed=SEED
    )
    assert on.token_ids == whole
    assert stopped.token_ids == whole[: min(whole.index(end), whole.index(whole[-1])) + 1]
    assert sum(emitted(stopped)) == len(stopped.token_ids)


@pytest.mark.parametrize("configuration", [generate(), assisted()], ids=["generate", "assisted"])
def test_sampling_repeats_with_its_seed_and_leaves_the_global_one(configuration: Configuration) -> None:
    peers = peer(tiny_llama(seed=1), tiny_llama(seed=2))
    generation = GenerationSpec(max_new_tokens=20, temperature=1.5)
    before = torch.random.get_rng_state()
    first, again, other = (
        peers.decode(PROMPT, generation, configuration, seed=seed).token_ids for seed in "aab"
    )
    assert first == again != other
    assert torch.equal(torch.random.get_rng_state(), before)


@pytest.mark.slow
@pytest.mark.parametrize("configuration", [generate(), assisted()], ids=["generate", "assisted"])
def test_sampled_tokens_follow_the_targets_distribution(configuration: Configuration) -> None:
    """Neither top_k, which transformers sets to 50, nor what a checkpoint asks for cuts the tail off.

    Chi-square over ten groups of tokens of equal probability; 9 degrees of freedom, p < 1e-4 beyond 33.7.
    """
    target, draft = tiny_llama(seed=1), tiny_llama(seed=2)
    target.generation_config = GenerationConfig(do_sample=True, top_p=0.2, repetition_penalty=3.0)
    peers, generation = peer(target, draft), GenerationSpec(max_new_tokens=2, temperature=3.0)
    with torch.inference_mode():
        distribution = torch.softmax(target(torch.tensor([PROMPT])).logits[0, -1].double() / 3.0, dim=-1)
    order = distribution.argsort()
    group = torch.empty_like(order)
    group[order] = ((distribution[order].cumsum(0) - distribution[order] / 2) * 10).long().clamp(max=9)
    seen = torch.zeros(10)
    for number in range(300):
        first = peers.decode(PROMPT, generation, configuration, seed=str(number)).token_ids[0]
        seen[group[first]] += 1
    expected = 300 * torch.zeros(10, dtype=torch.float64).index_add(0, group, distribution)
    assert float(((seen - expected) ** 2 / expected).sum()) < 33.7


@pytest.mark.parametrize(
    ("rows", "vocabulary"),
    [
        (VOCABULARY - 4, VOCABULARY // 2),
        (VOCABULARY + 20, VOCABULARY // 2),
        (VOCABULARY // 3, VOCABULARY // 2),
    ],
)
@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_a_draft_of_another_size_proposes_ids_that_the_tokenizer_and_itself_have(
    rows: int, vocabulary: int, temperature: float
) -> None:
    """The target reads what was drafted behind the first token of every pass, after prefill."""
    target, draft = tiny_gpt_neox(seed=1), tiny_gpt_neox(seed=2, vocabulary=rows)
    generation = GenerationSpec(max_new_tokens=20, temperature=temperature)
    expected = target_alone(target, PROMPT, generation)
    drafted: list[int] = []
    target.get_input_embeddings().register_forward_hook(
        lambda _, ids, __: drafted.extend(ids[0][0, 1:].tolist())
    )
    peers = peer(target, draft, vocabulary=vocabulary)
    decoded = peers.decode(PROMPT, generation, assisted(), seed=SEED)
    assert len(drafted) > 20
    assert max(drafted[len(PROMPT) - 2 :]) < min(rows, vocabulary)
    assert len(decoded.token_ids) == 20
    assert temperature > 0 or decoded.token_ids == expected


@pytest.mark.parametrize("configuration", PEERS.values(), ids=PEERS)
def test_nothing_stays_changed(
    configuration: Configuration, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TOKENIZERS_PARALLELISM", "true")
    target, draft = tiny_llama(seed=1), tiny_llama(seed=2)
    target.generation_config = GenerationConfig(top_k=7, num_assistant_tokens=3)
    own = [(model, model.generation_config, model.generation_config.to_dict()) for model in (target, draft)]
    capfd.readouterr()  # what transformers says of these settings, once in a process
    verbosity = transformers_logging.get_verbosity()
    peers = peer(target, draft)
    for temperature in (0.0, 0.7):
        generation = GenerationSpec(max_new_tokens=12, temperature=temperature)
        peers.decode(PROMPT, generation, configuration, seed=SEED)
    for model, config, content in own:
        assert model.generation_config is config
        assert config.to_dict() == content
        assert not model._forward_pre_hooks
    assert transformers_logging.get_verbosity() == verbosity
    assert os.environ["TOKENIZERS_PARALLELISM"] == "true"
    assert capfd.readouterr() == ("", "")


def test_assisted_generation_without_a_draft_is_refused() -> None:
    with pytest.raises(DecodingError, match="needs a draft model"):
        peer(tiny_llama(seed=1), None).decode(PROMPT, GenerationSpec(max_new_tokens=4), assisted(), seed=SEED)
