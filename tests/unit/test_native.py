"""The kernels: a tree's logits are, bit for bit, those of plain decoding, and they are the model's own."""

from __future__ import annotations

import gc
import os
import platform
import re
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from dyna_eval_workers import native
from dyna_eval_workers.memory import free_unreachable
from dyna_eval_workers.native import kernels, weights
from dyna_eval_workers.native.runner import NativeRunner
from dyna_eval_workers.runner import COMMITTED, Runner, TorchRunner
from dyna_eval_workers.sampling import Sampler
from hypothesis import given, settings
from hypothesis import strategies as st

from dyna_eval.errors import NoKernelsError, UnsupportedModelError
from tests.models import FURTHER, SUPPORTED, VOCABULARY, tiny_llama, tiny_model
from tests.runners import native_runner

PROMPT = [17, 5, 250, 31, 8]
DTYPES = [torch.float32, torch.bfloat16]


def lively(kind: str, dtype: torch.dtype = torch.float32, **changes: Any) -> Any:
    """Return a model whose biases and norms are random too: fresh ones are 0 and 1, and hide mistakes."""
    model = tiny_model(kind, seed=1, **changes)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() == 1:
                parameter.add_(0.3 * torch.randn(parameter.shape))
    return model.to(dtype)


def token_by_token(runner: Runner, tokens: Sequence[int]) -> torch.Tensor:
    """Return the logits after the last token, (V,), by plain decoding: every token in a pass of its own."""
    runner.reserve(len(tokens))
    for token in tokens:
        runner.extend([token], [COMMITTED])
        logits = runner.logits()[0].clone()
        runner.keep([0])
    return logits


def path_to(node: int, tokens: Sequence[int], parents: Sequence[int]) -> list[int]:
    path: list[int] = []
    while node != COMMITTED:
        path.insert(0, tokens[node])
        node = parents[node]
    return path


@st.composite
def trees(draw: st.DrawFn) -> tuple[list[int], list[int]]:
    """Tokens and parents of 1 to 20 rows; any of them may continue the committed rows."""
    size = draw(st.integers(1, 20))
    parents = [COMMITTED, *(draw(st.integers(COMMITTED, row - 1)) for row in range(1, size))]
    tokens = draw(st.lists(st.integers(0, VOCABULARY - 1), min_size=size, max_size=size))
    return tokens, parents


def assert_same_bits(
    runner: Runner, before: Sequence[int], tokens: Sequence[int], parents: Sequence[int]
) -> None:
    """Check the logits of the latest pass, a tree behind the tokens `before`, against plain decoding."""
    in_one_pass = runner.logits().clone()
    assert in_one_pass.shape == (len(tokens), runner.vocabulary)
    for node in range(len(tokens)):
        alone = token_by_token(runner, [*before, *path_to(node, tokens, parents)])
        assert torch.equal(in_one_pass[node], alone), f"node {node} of {parents}"


# ----------------------------------------------------------------- the same bits


@pytest.fixture(scope="module", params=[(kind, dtype) for kind in SUPPORTED for dtype in DTYPES], ids=str)
def runner(request: pytest.FixtureRequest) -> Runner:
    kind, dtype = request.param
    return native_runner(lively(kind, dtype))


@settings(deadline=None, max_examples=40)
@given(tree=trees())
def test_the_nodes_of_any_tree_have_the_logits_of_plain_decoding(
    runner: Runner, tree: tuple[list[int], list[int]]
) -> None:
    runner.reserve(len(PROMPT) + 20)
    runner.prefill(PROMPT)
    runner.extend(*tree)
    assert_same_bits(runner, PROMPT, *tree)


def test_so_do_passes_of_any_length(runner: Runner) -> None:
    """A chain of 1 to 20 tokens in one pass, as a draft reads what it lacks, and a prefill reads a prompt."""
    chain = [(37 * place + 11) % VOCABULARY for place in range(20)]
    expected = [token_by_token(runner, [*PROMPT, *chain[: place + 1]]) for place in range(20)]
    for size in range(1, 21):
        runner.reserve(64)
        runner.prefill(PROMPT)
        runner.extend(chain[:size], range(COMMITTED, size - 1))
        assert torch.equal(runner.logits(), torch.stack(expected[:size])), size
        runner.keep([])
        runner.extend(chain[:size], range(COMMITTED, size - 1), last_only=True)
        assert torch.equal(runner.logits(), expected[size - 1][None]), size


@settings(deadline=None, max_examples=20)
@given(tree=trees())
def test_so_do_trees_over_rows_that_were_moved_together(
    runner: Runner, tree: tuple[list[int], list[int]]
) -> None:
    """Round after round, some rows are refused and the accepted ones behind them move up."""
    runner.reserve(64)
    runner.prefill(PROMPT)
    before = [*PROMPT]
    for first in (20, 40):
        rows = [first + row for row in range(7)]
        runner.extend(rows, [COMMITTED, 0, 0, 1, 1, 2, 5])
        runner.keep([0, 2, 5])
        before += [rows[0], rows[2], rows[5]]
    assert runner.length == len(before)
    runner.extend(*tree)
    assert_same_bits(runner, before, *tree)


def test_so_do_trees_that_grew_over_several_passes(runner: Runner) -> None:
    """A draft's tree: level by level, some nodes of a level left out, nothing committed in between."""
    tokens = [3, 4, 5, 60, 61, 62, 63, 90]
    parents = [COMMITTED, COMMITTED, 0, 0, 1, 2, 2, 6]
    runner.reserve(64)
    runner.prefill(PROMPT)
    found: list[torch.Tensor] = []
    for start, end in ((0, 2), (2, 5), (5, 7), (7, 8)):
        runner.extend(tokens[start:end], parents[start:end])
        found.append(runner.logits().clone())
    runner.keep([0, 2, 6])
    assert runner.length == len(PROMPT) + 3
    in_passes = torch.cat(found)
    for node in range(len(tokens)):
        alone = token_by_token(runner, [*PROMPT, *path_to(node, tokens, parents)])
        assert torch.equal(in_passes[node], alone), node


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("kind", SUPPORTED)
@pytest.mark.parametrize("length", [127, 128, 129, 300])
def test_a_prompt_of_several_chunks_is_read_as_token_by_token(
    kind: str, dtype: torch.dtype, length: int
) -> None:
    """Behind it stands a tree, so that every row of the prompt is read as a tree reads it."""
    runner = native_runner(lively(kind, dtype, max_position_embeddings=320))
    prompt = [(53 * place + 7) % VOCABULARY for place in range(length)]
    tokens, parents = [9, 8, 7, 6], [COMMITTED, 0, 0, 2]
    runner.reserve(length + 4)
    runner.prefill(prompt)
    assert runner.length == length
    runner.extend(tokens, parents)
    in_one_pass = runner.logits().clone()
    assert torch.equal(in_one_pass[3], token_by_token(runner, [*prompt, 9, 7, 6]))


ODD: dict[str, tuple[str, dict[str, Any]]] = {
    "gpt_neox, heads of 9": (
        "gpt_neox",
        {"vocab_size": 301, "hidden_size": 36, "intermediate_size": 50},
    ),
    "gpt2, heads of 11, odd width": (
        "gpt2",
        {"vocab_size": 301, "hidden_size": 33, "n_head": 3, "n_inner": 45},
    ),
    "opt, heads of 9": (
        "opt",
        {"vocab_size": 301, "hidden_size": 36, "ffn_dim": 50, "word_embed_proj_dim": 36},
    ),
    "phi, heads of 9": ("phi", {"vocab_size": 301, "hidden_size": 36, "intermediate_size": 50}),
    "llama, gated, heads of 10": (
        "llama",
        {"vocab_size": 301, "hidden_size": 36, "head_dim": 10, "intermediate_size": 45, "mlp_bias": True},
    ),
    "qwen3, gated, heads of 10": (
        "qwen3",
        {"vocab_size": 301, "hidden_size": 36, "head_dim": 10, "intermediate_size": 50},
    ),
    "gpt_neox, heads of 80": ("gpt_neox", {"hidden_size": 160, "num_attention_heads": 2}),
    "qwen2, one head of keys": ("qwen2", {"num_key_value_heads": 1}),
    "phi3, three quarters of 12 rotated": (
        "phi3",
        {
            "vocab_size": 301,
            "hidden_size": 48,
            "intermediate_size": 45,
            "rope_parameters": {"rope_theta": 1e4, "rope_type": "default", "partial_rotary_factor": 0.75},
        },
    ),
    "smollm3, heads of 10, rotary in the second layer": (
        "smollm3",
        {"vocab_size": 301, "hidden_size": 40, "intermediate_size": 45, "no_rope_layers": [0, 1]},
    ),
    "gemma, heads of 10, not tied": (
        "gemma",
        {
            "vocab_size": 301,
            "hidden_size": 36,
            "intermediate_size": 45,
            "head_dim": 10,
            "tie_word_embeddings": False,
        },
    ),
    "gemma2, heads of 10, odd width": (
        "gemma2",
        {"vocab_size": 301, "hidden_size": 36, "intermediate_size": 45, "head_dim": 10},
    ),
    "gemma3, heads of 10, odd width": (
        "gemma3_text",
        {"vocab_size": 301, "hidden_size": 36, "intermediate_size": 45, "head_dim": 10},
    ),
    "olmo2, heads of 10": (
        "olmo2",
        {"vocab_size": 301, "hidden_size": 40, "intermediate_size": 45},
    ),
    "olmo2, heads of 80": ("olmo2", {"hidden_size": 320}),
    "ernie4_5, heads of 10, with biases": (
        "ernie4_5",
        {
            "vocab_size": 301,
            "hidden_size": 40,
            "intermediate_size": 45,
            "head_dim": 10,
            "use_bias": True,
        },
    ),
    "glm4, half of 12 rotated": (
        "glm4",
        {
            "vocab_size": 301,
            "hidden_size": 36,
            "intermediate_size": 45,
            "head_dim": 12,
            "attention_bias": True,
        },
    ),
    "granite, odd sizes": (
        "granite",
        {"vocab_size": 301, "hidden_size": 40, "intermediate_size": 45},
    ),
    "starcoder2, heads of 10": (
        "starcoder2",
        {"vocab_size": 301, "hidden_size": 40, "intermediate_size": 50},
    ),
    "stablelm, parallel, heads of 12": (
        "stablelm",
        {
            "vocab_size": 301,
            "hidden_size": 48,
            "intermediate_size": 45,
            "use_parallel_residual": True,
            "use_qkv_bias": True,
            "rope_parameters": {"rope_theta": 1e4, "rope_type": "default", "partial_rotary_factor": 0.5},
        },
    ),
}
"""Sizes that fill no vector, no panel, or more than a chunk of a head."""


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("name", ODD)
def test_odd_sizes_have_the_same_bits_too(name: str, dtype: torch.dtype) -> None:
    kind, sizes = ODD[name]
    runner = native_runner(lively(kind, dtype, **sizes))
    tokens, parents = [260, 11, 12, 13, 14, 15, 16, 17, 18], [COMMITTED, 0, 0, 1, 2, 2, 5, 6, 6]
    runner.reserve(32)
    runner.prefill(PROMPT)
    runner.extend(tokens, parents)
    assert_same_bits(runner, PROMPT, tokens, parents)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("kind", ["llama", "gemma3_text", "olmo2"])
def test_the_number_of_threads_changes_no_bit(kind: str, dtype: torch.dtype) -> None:
    model = lively(kind, dtype)
    native_runner(model)  # or skips
    found = []
    for threads in (1, 2, 3):
        runner = NativeRunner(model, threads=threads)
        runner.reserve(64)
        runner.prefill(PROMPT)
        runner.extend(list(range(20)), [COMMITTED, *(row // 2 for row in range(19))])
        found.append(runner.logits().clone())
    assert torch.equal(found[0], found[1])
    assert torch.equal(found[0], found[2])


def test_threads_of_a_pass_go_first_once_they_wake() -> None:
    model = lively("gpt2")
    native_runner(model)  # or skips
    runner = NativeRunner(model, threads=2)
    runner.reserve(32)
    runner.prefill(PROMPT)
    if not Path("/proc/self/sched").exists():
        pytest.skip("the system does not tell how it schedules threads")
    if [int(part) for part in platform.release().split(".")[:2]] < [6, 12]:
        pytest.skip("before Linux 6.12 no thread chooses its slices")
    told = [(task / "sched").read_text() for task in Path("/proc/self/task").iterdir()]
    short = [text for text in told if re.search(r"slice\s*:\s*100000\b", text)]
    assert len(short) >= 2


def test_room_made_later_changes_no_bit(runner: Runner) -> None:
    before = token_by_token(runner, PROMPT)
    runner.reserve(100)
    runner.prefill(PROMPT)
    assert runner.length == 5
    runner.reserve(6)
    assert runner.length == 0
    assert torch.equal(token_by_token(runner, PROMPT), before)


# ------------------------------------------------------------------ other processors

PROCESSORS: dict[str, tuple[str, tuple[str, ...]]] = {
    "without AVX-512": ("avx512f", ("-march=native", "-mno-avx512f")),
    "without products of bfloat16": ("avx512_bf16", ("-march=native", "-mno-avx512bf16")),
    "with AVX2 at most": ("avx2", ("-march=x86-64-v3",)),
    "with SSE at most": ("sse4_2", ("-march=x86-64-v2",)),
}
"""What this machine must have to run as another one, and the compiler's options for it."""


@pytest.fixture(params=PROCESSORS)
def other_processor(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    needed, options = PROCESSORS[request.param]
    if needed not in native._processor().split():
        pytest.skip(f"the processor has no {needed}, or is no x86 processor")
    native_runner(tiny_model("llama", seed=1))  # or skips
    general = [flag for flag in native._FLAGS if flag != "-march=native"]
    monkeypatch.setattr(native, "_FLAGS", (*general, *options))
    kernels.cache_clear()
    yield
    kernels.cache_clear()


def assert_sampled_alike(model: Any) -> None:
    """Compare what is drawn and proposed after a tree with what the eager runner makes of the same logits."""
    ours, theirs = twins(model)
    sampler = Sampler(temperature=3.0, seed="s", vocabulary=ours.vocabulary)
    assert ours.choose(sampler) == theirs.choose(sampler)
    assert ours.top_k(4, sampler, 257)[0] == theirs.top_k(4, sampler, 257)[0]


@pytest.mark.usefixtures("other_processor")
def test_other_processors_compute_the_model_too_with_the_same_bits_in_a_tree() -> None:
    tokens, parents = [260, 11, 12, 13, 14, 15, 16, 17, 18], [COMMITTED, 0, 0, 1, 2, 2, 5, 6, 6]
    odd = [
        ODD[name]
        for name in (
            "gpt2, heads of 11, odd width",
            "llama, gated, heads of 10",
            "gpt_neox, heads of 80",
            "gemma2, heads of 10, odd width",
            "gemma3, heads of 10, odd width",
            "olmo2, heads of 10",
        )
    ]
    for kind, sizes in [*((kind, {}) for kind in SUPPORTED), *odd]:
        for dtype in (torch.float32, torch.bfloat16, torch.float16):
            for widened in (False, True):  # a checkpoint stored so, as it is and run in float32
                model = lively(kind, dtype, **sizes)
                model = model.float() if widened else model
                runner = NativeRunner(model, threads=2)
                runner.reserve(32)
                runner.prefill(PROMPT)
                runner.extend(tokens, parents)
                assert_same_bits(runner, PROMPT, tokens, parents)
            assert_sampled_alike(model)
            alone = token_by_token(runner, [*PROMPT, tokens[0]])
            with torch.inference_mode():
                expected = model(input_ids=torch.tensor([[*PROMPT, tokens[0]]])).logits[0, -1]
            torch.testing.assert_close(alone, expected, rtol=1e-4, atol=1e-5)


def test_a_cache_that_does_not_fit_into_memory_is_an_error_and_leaves_the_runner_usable() -> None:
    runner = native_runner(lively("gpt2"))
    before = token_by_token(runner, PROMPT)
    with pytest.raises(MemoryError, match="no memory for a cache"):
        runner.reserve(1 << 50)
    assert torch.equal(token_by_token(runner, PROMPT), before)


# --------------------------------------------------------------- the model's own logits

LONG_ROTARY: dict[str, dict[str, Any]] = {
    "linear": {"rope_type": "linear", "factor": 4.0, "rope_theta": 1e4},
    "llama3": {
        "rope_type": "llama3",
        "factor": 4.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 32,
        "rope_theta": 1e4,
    },
    "yarn": {
        "rope_type": "yarn",
        "factor": 4.0,
        "original_max_position_embeddings": 32,
        "rope_theta": 1e4,
    },
}


def longrope(original: int) -> dict[str, Any]:
    """Return rotary positions of heads of 8 whose frequencies change at so many of 128 positions."""
    return {
        "rope_type": "longrope",
        "rope_theta": 1e4,
        "short_factor": [1.0, 1.1, 1.3, 1.5],
        "long_factor": [1.0, 4.0, 7.0, 10.0],
        "original_max_position_embeddings": original,
    }


VARIANTS: dict[str, tuple[str, dict[str, Any]]] = {
    **{kind: (kind, {}) for kind in SUPPORTED | FURTHER},
    **ODD,
    **{f"llama, {name}": ("llama", {"rope_parameters": given}) for name, given in LONG_ROTARY.items()},
    "gpt_neox, one part behind the other": ("gpt_neox", {"use_parallel_residual": False}),
    "gpt_neox without biases": ("gpt_neox", {"attention_bias": False}),
    "gpt_neox, relu": ("gpt_neox", {"hidden_act": "relu"}),
    "gpt_neox, gelu by tanh": ("gpt_neox", {"hidden_act": "gelu_new"}),
    "llama with biases": ("llama", {"attention_bias": True, "mlp_bias": True}),
    "phi3, longrope": (
        "phi3",
        {"original_max_position_embeddings": 96, "rope_parameters": longrope(96)},
    ),
    "gemma2 without caps": (
        "gemma2",
        {"attn_logit_softcapping": None, "final_logit_softcapping": None},
    ),
    "gemma3 with capped logits": ("gemma3_text", {"final_logit_softcapping": 3.0}),
    "llama, tied": ("llama", {"tie_word_embeddings": True}),
    "gpt2, not tied": ("gpt2", {"tie_word_embeddings": False}),
    "opt without biases": ("opt", {"enable_bias": False}),
    "opt, norms without weights": ("opt", {"layer_norm_elementwise_affine": False}),
}


@pytest.mark.parametrize("name", VARIANTS)
def test_logits_are_those_of_transformers(name: str) -> None:
    """Positions beyond the first table of rotary angles, and more rows than a tile of keys holds."""
    kind, changes = VARIANTS[name]
    model = lively(kind, **changes)
    runner = native_runner(model)
    tokens = [(29 * place + 3) % VOCABULARY for place in range(90)]
    runner.reserve(len(tokens))
    runner.prefill(tokens[:40])
    runner.extend(tokens[40:], range(COMMITTED, 49))
    with torch.inference_mode():
        expected = model(input_ids=torch.tensor([tokens]), use_cache=False).logits[0, 40:]
    torch.testing.assert_close(runner.logits(), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("kind", SUPPORTED | FURTHER)
def test_in_16_bits_logits_are_as_near_as_transformers_own(kind: str, dtype: torch.dtype) -> None:
    """Both round what float32 would not; the kernels round less often, so they are no further from it."""
    model = lively(kind, dtype)
    runner = native_runner(model)
    tokens = [(29 * place + 3) % VOCABULARY for place in range(40)]
    runner.reserve(len(tokens))
    runner.extend(tokens, range(COMMITTED, 39))
    ours = runner.logits().clone()
    with torch.inference_mode():
        theirs = model(input_ids=torch.tensor([tokens]), use_cache=False).logits[0].float()
        exact = model.float()(input_ids=torch.tensor([tokens]), use_cache=False).logits[0]
    assert (ours - exact).square().mean() <= 1.2 * (theirs - exact).square().mean()


def test_rows_behind_the_positions_of_longrope_change_nothing_before_them() -> None:
    """A tree needs more rows than positions, and one table of angles serves both; transformers would make
    all of a longer one with the long factors."""
    model = lively("phi3", original_max_position_embeddings=32, rope_parameters=longrope(32))
    runner = native_runner(model)
    assert runner.position_limit == 32
    tokens = [(29 * place + 3) % VOCABULARY for place in range(32)]
    runner.reserve(100)
    runner.prefill(tokens[:20])
    runner.extend(tokens[20:], range(COMMITTED, 11))
    with torch.inference_mode():
        expected = model(input_ids=torch.tensor([tokens]), use_cache=False).logits[0, 20:]
    torch.testing.assert_close(runner.logits(), expected, rtol=1e-4, atol=1e-5)


def test_the_runner_outlives_the_model_it_was_made_from() -> None:
    model = lively("gpt_neox")
    runner = native_runner(model)
    before = token_by_token(runner, PROMPT)
    del model
    gc.collect()
    torch.zeros(1_000_000).add_(1.0)  # takes the memory that was freed
    assert torch.equal(token_by_token(runner, PROMPT), before)


# -------------------------------------------------------------------- narrow weights


@pytest.mark.parametrize(
    ("stored", "kind_of_matrix"), [(torch.bfloat16, 1), (torch.float16, 2), (torch.float32, 0)], ids=str
)
@pytest.mark.parametrize("kind", ["gpt_neox", "llama", "gpt2"])
def test_a_checkpoint_that_fits_16_bits_is_read_in_16_and_computed_in_32(
    kind: str, stored: torch.dtype, kind_of_matrix: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = lively(kind).to(stored).float()
    narrow = native_runner(model)
    assert isinstance(narrow, NativeRunner)
    assert {layer.qkv.kind for layer in narrow._weights.layers} == {kind_of_matrix}
    assert narrow.dtype == torch.float32
    logits = token_by_token(narrow, PROMPT)
    monkeypatch.setattr(weights, "_narrowest", lambda weight: weight)
    wide = native_runner(model)
    assert isinstance(wide, NativeRunner)
    assert {layer.qkv.kind for layer in wide._weights.layers} == {0}
    torch.testing.assert_close(logits, token_by_token(wide, PROMPT), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("stored", [torch.bfloat16, torch.float16], ids=str)
def test_narrow_weights_have_the_same_bits_in_a_tree(stored: torch.dtype) -> None:
    for kind in ("llama", "gpt2"):
        runner = native_runner(lively(kind).to(stored).float())
        tokens, parents = [9, 11, 12, 13, 14, 15], [COMMITTED, 0, 0, 1, 2, 2]
        runner.reserve(32)
        runner.prefill(PROMPT)
        runner.extend(tokens, parents)
        assert_same_bits(runner, PROMPT, tokens, parents)


# ----------------------------------------------------------------- choosing and ranking


def twins(model: Any) -> tuple[NativeRunner, TorchRunner]:
    """Return both runners after the same tree, and with the same logits: those of the kernels."""
    ours, theirs = native_runner(model), TorchRunner(model)
    assert isinstance(ours, NativeRunner)
    for runner in (ours, theirs):
        runner.reserve(64)
        runner.prefill(PROMPT)
        runner.extend([3, 4, 5, 6, 7, 8, 9], [COMMITTED, COMMITTED, 0, 0, 1, 1, 2])
    theirs._logits = ours.logits().clone()
    return ours, theirs


@pytest.mark.parametrize("temperature", [0.0, 0.3, 1.0, 1.5])
@pytest.mark.parametrize("vocabulary", [300, 301])
def test_choices_and_ranks_are_those_of_the_eager_runner(vocabulary: int, temperature: float) -> None:
    ours, theirs = twins(lively("llama", vocab_size=vocabulary))

    def sampler() -> Sampler:
        return Sampler(temperature=temperature, seed="s", vocabulary=vocabulary)

    assert ours.choose(sampler()) == theirs.choose(sampler())
    for branch, proposable in ((1, vocabulary), (4, vocabulary), (40, 257), (17, 17), (3, 100)):
        tokens, scores = ours.top_k(branch, sampler(), proposable)
        expected_tokens, expected_scores = theirs.top_k(branch, sampler(), proposable)
        assert tokens == expected_tokens
        torch.testing.assert_close(torch.tensor(scores), torch.tensor(expected_scores), rtol=1e-5, atol=1e-5)


def test_the_noise_of_likely_tokens_is_exact_however_many_there_are() -> None:
    """It is that of the smallest uniform numbers, which are lost where they are subtracted from 1."""
    vocabulary = 1 << 18
    model = tiny_model("llama", seed=1, vocab_size=vocabulary)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()
    ours, _ = twins(model)
    noise = Sampler(temperature=1.0, seed="t", vocabulary=vocabulary).noise([len(PROMPT) + 3])
    assert noise is not None
    best = torch.from_numpy(noise[0]).log_softmax(dim=-1).topk(8)
    tokens, scores = ours.top_k(8, Sampler(temperature=1.0, seed="t", vocabulary=vocabulary), vocabulary)
    assert tokens[-1] == best.indices.tolist()
    torch.testing.assert_close(torch.tensor(scores[-1]), best.values, rtol=0, atol=2e-5)


def test_noise_is_that_of_its_position_and_key_whatever_was_asked_before() -> None:
    """Models of a pair share it, with unequal vocabularies; other positions take its place in turn."""
    small, large = (lively("llama", vocab_size=size) for size in (VOCABULARY, 5 * VOCABULARY))
    for seed in ("s", "t", "s"):
        for before, depth in ((0, 3), (16, 3), (0, 40), (40, 7)):
            for model in (small, large, small):
                ours, theirs = native_runner(model), TorchRunner(model)
                for runner in (ours, theirs):
                    runner.reserve(64)
                    runner.prefill([4] * before)
                    runner.extend([4] * depth, range(COMMITTED, depth - 1))
                theirs._logits = ours.logits().clone()
                sampler = Sampler(temperature=9.0, seed=seed, vocabulary=5 * VOCABULARY)
                assert ours.choose(sampler) == theirs.choose(sampler)
                assert ours.top_k(3, sampler, 280)[0] == theirs.top_k(3, sampler, 280)[0]


def test_what_was_asked_about_can_be_asked_again_after_its_rows_were_kept() -> None:
    sampler = Sampler(temperature=5.0, seed="s", vocabulary=VOCABULARY)
    ours, _ = twins(lively("llama"))
    chosen = ours.choose(sampler)
    ours.keep([0, 2])
    assert ours.choose(sampler) == chosen


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_all_of_a_vocabulary_can_be_ranked(temperature: float) -> None:
    """Best first, every token once, and their probabilities sum to 1."""
    ours, _ = twins(lively("gpt2"))
    tokens, scores = ours.top_k(
        VOCABULARY, Sampler(temperature=temperature, seed="s", vocabulary=VOCABULARY), VOCABULARY
    )
    for its_tokens, values in zip(tokens, scores, strict=True):
        assert sorted(its_tokens) == list(range(VOCABULARY))
        assert values == sorted(values, reverse=True)
        assert float(torch.tensor(values).exp().sum()) == pytest.approx(1.0, abs=1e-5)


def test_of_equal_scores_the_first_is_chosen() -> None:
    model = tiny_model("llama", seed=1)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()
    ours, _ = twins(model)
    greedy = Sampler(temperature=0.0, seed="", vocabulary=VOCABULARY)
    assert ours.choose(greedy) == [0] * 7
    tokens, _ = ours.top_k(3, greedy, VOCABULARY)
    assert tokens == [[0, 1, 2]] * 7


def test_only_the_last_token_is_spoken_of_where_only_it_was_asked_for() -> None:
    greedy = Sampler(temperature=1.0, seed="s", vocabulary=VOCABULARY)
    for make in (native_runner, TorchRunner):
        runner = make(lively("llama"))
        runner.reserve(64)
        runner.prefill(PROMPT)
        runner.extend([3, 4, 5], [COMMITTED, 0, 1])
        whole = runner.choose(greedy)
        runner.keep([])
        runner.extend([3, 4, 5], [COMMITTED, 0, 1], last_only=True)
        assert runner.choose(greedy) == whole[-1:]
        tokens, _ = runner.top_k(1, greedy, VOCABULARY)
        assert tokens == [whole[-1:]]


# ------------------------------------------------------------------------ what is not known

UNKNOWN: dict[str, tuple[str, dict[str, Any], str]] = {
    "a family": (
        "gpt_neo",
        {"num_layers": 2, "num_heads": 4, "attention_types": [[["global"], 2]]},
        "no kernels for gpt_neo",
    ),
    "an activation": ("gpt2", {"activation_function": "tanh"}, "no kernel for the activation tanh"),
    "rotary positions that change with the length": (
        "llama",
        {"rope_parameters": {"rope_type": "dynamic", "factor": 4.0, "rope_theta": 1e4}},
        "no kernel for rotary positions of type dynamic",
    ),
    "gemma that sees later tokens": (
        "gemma",
        {"use_bidirectional_attention": True},
        "gemma that sees later tokens",
    ),
    "phi with normalised queries": ("phi", {"qk_layernorm": True}, "phi with normalised queries"),
    "stablelm with normalised queries": (
        "stablelm",
        {"qk_layernorm": True},
        "stablelm with normalised queries",
    ),
    "opt with projected embeddings": ("opt", {"word_embed_proj_dim": 16}, "projected embeddings"),
    "opt with late normalisation": ("opt", {"do_layer_norm_before": False}, "late normalisation"),
    "gpt2 with attention scaled by layer": (
        "gpt2",
        {"scale_attn_by_inverse_layer_idx": True},
        "attention scaled by layer",
    ),
    "gpt2 with attention that is not scaled": (
        "gpt2",
        {"scale_attn_weights": False},
        "attention scaled by layer",
    ),
}


@pytest.mark.parametrize("name", UNKNOWN)
def test_what_the_kernels_do_not_know_is_refused_by_name(name: str) -> None:
    kind, changes, why = UNKNOWN[name]
    native_runner(tiny_model("llama", seed=1))  # or skips
    with pytest.raises(UnsupportedModelError, match=why):
        NativeRunner(tiny_model(kind, seed=1, **changes))


# -------------------------------------------------------------------- memory


def test_tensors_of_all_sizes_are_copied_side_by_side_at_cache_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(weights._Memory, "_PIECE", 4 << 20)
    memory = weights._Memory()
    generator = torch.Generator().manual_seed(0)
    sizes = [(3,), (5, 7), (1 << 20,), (2 << 20,), (9, 11, 13), (1 << 19,), (0,)]
    kept = {}
    for index, dtype in enumerate((torch.float32, torch.bfloat16, torch.float16)):
        for size in sizes:
            tensor = torch.randn(size, generator=generator).to(dtype)
            kept[index, size] = tensor, memory.copy_of(tensor)
    for tensor, copy in kept.values():
        assert copy.dtype is tensor.dtype
        assert torch.equal(copy, tensor)
        assert copy.data_ptr() % 64 == 0


@pytest.mark.parametrize("takes_model", [True, False])
def test_a_model_whose_weights_are_taken_is_never_in_memory_twice(
    takes_model: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also while it is copied, and what the process then held is the system's again."""
    native_runner(tiny_model("llama", seed=1))  # or skips
    model = tiny_llama(seed=1, hidden=512, layers=12)
    size = sum(weight.numel() * weight.element_size() for weight in model.parameters())
    free_unreachable()
    before, held = anonymous_bytes(), []
    copy_of = weights._Memory.copy_of

    def watched(memory: weights._Memory, tensor: torch.Tensor) -> torch.Tensor:
        copy = copy_of(memory, tensor)
        held.append(anonymous_bytes() - before)
        return copy

    monkeypatch.setattr(weights._Memory, "copy_of", watched)
    NativeRunner(model, takes_model=takes_model)
    if takes_model:
        assert max(held) < 0.7 * size  # a layer, what its panels are made from, and what is not given back
    else:
        assert max(held) > 0.9 * size


def anonymous_bytes() -> int:
    """Return how much memory this process holds that is no file's."""
    status = Path("/proc/self/status")
    if not status.exists():
        pytest.skip("the system does not say how much memory a process holds")
    found = re.search(r"RssAnon:\s+(\d+) kB", status.read_text())
    assert found
    return 1024 * int(found[1])


def test_weights_that_memory_has_no_room_for_are_a_lack_of_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuses(*_: Any, **__: Any) -> None:
        raise OSError(12, "Cannot allocate memory")

    monkeypatch.setattr(weights.mmap, "mmap", refuses)
    with pytest.raises(MemoryError, match="no memory for 12 bytes of weights"):
        weights._Memory().copy_of(torch.zeros(3))


# ---------------------------------------------------------------------------- building


@pytest.fixture
def fresh(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """No kernels are loaded, and the folder for them, which is returned, is empty."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    kernels.cache_clear()
    yield tmp_path / "cache" / "dyna-eval"
    kernels.cache_clear()


def script(path: Path, lines: str) -> str:
    """Write a compiler of our own, which knows its version, and return its path."""
    path.write_text(f'#!/bin/sh\nif [ "$1" = --version ]; then echo ours 1.0; exit; fi\n{lines}\n')
    path.chmod(0o755)
    return str(path)


def reason() -> str:
    with pytest.raises(NoKernelsError) as caught:
        kernels()
    text = str(caught.value)
    assert "\n" not in text
    return text


def test_without_a_compiler_the_reason_says_what_was_looked_for(
    fresh: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("CXX", raising=False)
    monkeypatch.setattr(shutil, "which", lambda _: None)
    assert reason() == "no C++ compiler: c++, g++, clang++ not found"
    assert not list(fresh.glob("*"))


@pytest.mark.usefixtures("fresh")
def test_a_compiler_that_was_named_is_the_only_one_tried(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CXX", "never-heard-of++")
    assert reason() == "no C++ compiler: never-heard-of++ not found"


def test_a_compiler_that_fails_says_why_in_one_line(
    fresh: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """That of the first error, whatever it says around it."""
    said = "in file included from here\nx.cpp:1: error: no such thing\nx.cpp:2: error: another"
    compiler = script(tmp_path / "failing", f"printf '{said}' >&2; exit 1")
    monkeypatch.setenv("CXX", compiler)
    assert reason() == f"{compiler} failed: x.cpp:1: error: no such thing"
    assert not list(fresh.glob("*")), "nothing half-made is left"


@pytest.mark.usefixtures("fresh")
def test_a_compiler_that_fails_without_a_word_says_at_least_that(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    compiler = script(tmp_path / "silent", "exit 3")
    monkeypatch.setenv("CXX", compiler)
    assert reason() == f"{compiler} failed: exit status 3"


@pytest.mark.usefixtures("fresh")
def test_a_compiler_that_cannot_be_run_says_why(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    compiler = tmp_path / "broken"
    compiler.write_bytes(b"\x7fELF")
    compiler.chmod(0o755)
    monkeypatch.setenv("CXX", str(compiler))
    assert reason().startswith(f"{compiler} failed: ")


@pytest.mark.usefixtures("fresh")
def test_a_library_that_cannot_be_loaded_says_why(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As one that another machine's compiler left in a shared folder."""
    monkeypatch.setenv("CXX", script(tmp_path / "careless", 'for last; do :; done; echo nothing > "$last"'))
    assert reason().startswith("the compiled kernels cannot be loaded: ")


def test_a_folder_that_cannot_be_made_says_why(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    monkeypatch.setenv("CXX", script(tmp_path / "idle", ""))
    kernels.cache_clear()
    try:
        assert reason().startswith(f"no folder for the kernels at {tmp_path}/file/dyna-eval: ")
    finally:
        kernels.cache_clear()


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_that_may_not_be_written_to_says_so(
    fresh: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CXX", script(tmp_path / "idle", ""))
    fresh.mkdir(parents=True, mode=0o500)
    assert reason().startswith(f"no folder for the kernels at {fresh}: [Errno 13] Permission denied")


def test_a_folder_in_which_nothing_can_be_made_says_why(
    fresh: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CXX", script(tmp_path / "removing", f'rm -r "{fresh}"'))
    assert reason().startswith(f"no folder for the kernels at {fresh}: ")


def test_a_user_without_a_home_is_told_so(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setattr(Path, "home", homeless)
    monkeypatch.setenv("CXX", script(tmp_path / "idle", ""))
    kernels.cache_clear()
    try:
        assert reason() == "no folder for the kernels: Could not determine home directory."
    finally:
        kernels.cache_clear()


def homeless() -> Path:
    raise RuntimeError("Could not determine home directory.")


def test_kernels_are_built_once_and_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The compiler here copies the library that is there already, and notes that it was asked."""
    try:
        library = kernels()._name
    except NoKernelsError as missing:
        pytest.skip(str(missing))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    copy = f'echo asked >> {tmp_path}/log; for last; do :; done; cp {library} "$last"'
    monkeypatch.setenv("CXX", script(tmp_path / "copying", copy))
    try:
        for _ in range(2):
            kernels.cache_clear()
            assert Path(kernels()._name).parent == tmp_path / "cache" / "dyna-eval"
        assert (tmp_path / "log").read_text() == "asked\n"
        assert len(list((tmp_path / "cache" / "dyna-eval").iterdir())) == 1
        source = tmp_path / "changed.cpp"
        source.write_text(native.SOURCE.read_text() + "\n// changed\n")
        monkeypatch.setattr(native, "SOURCE", source)
        kernels.cache_clear()
        kernels()
        assert (tmp_path / "log").read_text() == "asked\nasked\n", "another source is another library"
    finally:
        kernels.cache_clear()


@pytest.mark.parametrize("left", [b"", b"\x7fELF"], ids=["empty", "a part"])
def test_a_kept_library_that_cannot_be_loaded_is_built_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, left: bytes
) -> None:
    """As a power cut may leave it. The compiler here leaves that the first time, then copies the library that
    is there already."""
    try:
        library = Path(kernels()._name)
    except NoKernelsError as missing:
        pytest.skip(str(missing))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    (tmp_path / "left").write_bytes(left)
    copy = 'for last; do :; done; cp {} "$last"'
    try:
        kernels.cache_clear()
        monkeypatch.setenv("CXX", script(tmp_path / "compiler", copy.format(tmp_path / "left")))
        reason()
        [kept] = (tmp_path / "cache" / "dyna-eval").iterdir()
        script(tmp_path / "compiler", copy.format(library))
        assert kernels()._name == str(kept)
        assert kept.read_bytes() == library.read_bytes()
    finally:
        kernels.cache_clear()


@pytest.mark.usefixtures("fresh")
def test_a_library_is_on_the_disk_before_it_has_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    steps: list[str] = []
    fsync, replace = os.fsync, Path.replace

    def sync(file: int) -> None:
        steps.append(f"sync {Path(f'/proc/self/fd/{file}').readlink().name}")
        fsync(file)

    def move(path: Path, target: Path) -> Path:
        steps.append(f"move {path.name}")
        return replace(path, target)

    monkeypatch.setattr(os, "fsync", sync)
    monkeypatch.setattr(Path, "replace", move)
    monkeypatch.setenv("CXX", script(tmp_path / "careless", 'for last; do :; done; echo nothing > "$last"'))
    reason()
    [first, second] = steps
    assert first.removeprefix("sync ") == second.removeprefix("move ")
