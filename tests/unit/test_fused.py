"""Fused kernels compute what transformers computes, and the same numbers however many nodes a pass has.

Without a GPU Triton's interpreter runs the kernels, which knows no arithmetic in bfloat16. What it accepts
the compiler may refuse, so they are compiled too.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from dyna_eval_workers import architecture
from dyna_eval_workers.architecture import plain_logits, self_test
from dyna_eval_workers.cudagraph import GraphRunner
from dyna_eval_workers.fused import runner as runner_module
from dyna_eval_workers.fused.runner import FusedRunner, _matrix
from dyna_eval_workers.runner import COMMITTED, TorchRunner
from dyna_eval_workers.sampling import Sampler
from dyna_eval_workers.stack import Activation

from dyna_eval.errors import NoKernelsError, UnsupportedModelError
from dyna_eval.jobs import GenerationSpec
from tests.interpreter import quick_interpreter
from tests.models import FURTHER, SUPPORTED, VOCABULARY, near, tiny_llama, tiny_model
from tests.runners import rows_of
from tests.unit.test_cudagraph import GREEDY, LONG_PROMPT, POLICIES, TREE, decoder, started

pytest.importorskip("triton", reason="there is no Triton for this system")
from triton.runtime.errors import OutOfResources  # where there is Triton

ROOT = Path(__file__).parents[2]
ON_GPU = torch.cuda.is_available()
DEVICE = torch.device("cuda" if ON_GPU else "cpu")
DTYPES = [torch.float32, torch.float16, *([torch.bfloat16] if ON_GPU else [])]
FIRST = ("gpt_neox", "llama", "opt")
"""Families that differ most from one another."""
REFUSED = {
    **dict.fromkeys(("ernie4_5", "helium", "glm"), "rotary positions that turn neighbours"),
    "glm4": "norms behind attention and MLP, rotary positions that turn neighbours",
    "olmo2": "heads that are normalised together, norms behind attention and MLP",
    "olmo3": "heads that are normalised together, norms .*, several tables of rotary positions",
    "exaone4": "norms behind attention and MLP",
    "gemma": "scaled embeddings",
    "gemma2": "scaled embeddings, caps on scores or logits, norms behind attention and MLP",
    "gemma3_text": "scaled embeddings, norms behind attention and MLP, several tables of rotary positions",
    "granite": "scaled embeddings, scaled residuals, scaled logits",
}
"""Families that only the kernels for CPUs know, and why."""
VARIANTS: dict[str, tuple[str, dict[str, Any]]] = {
    "odd head size": ("gpt_neox", {"hidden_size": 40, "num_attention_heads": 2}),
    "whole heads rotated": (
        "gpt_neox",
        {"rope_parameters": {"rope_theta": 1e4, "partial_rotary_factor": 1.0}},
    ),
    "one behind the other": ("gpt_neox", {"use_parallel_residual": False}),
    "three queries a key": ("llama", {"hidden_size": 96, "num_attention_heads": 6, "num_key_value_heads": 2}),
    "one key for all": ("llama", {"num_key_value_heads": 1}),
    "biases": ("llama", {"attention_bias": True, "mlp_bias": True}),
    "relu": ("gpt_neox", {"hidden_act": "relu"}),
    "tied": ("llama", {"tie_word_embeddings": True}),
    "split inputs": ("gpt_neox", {"intermediate_size": 1024}),
    "split inputs of a gate": ("llama", {"hidden_size": 1024, "num_hidden_layers": 1}),
}


def slow(*values: object) -> list[Any]:
    """Return parameters that only `scripts/test --all` takes: the interpreter needs seconds for each."""
    return [pytest.param(value, marks=pytest.mark.slow) for value in values]


@pytest.fixture
def narrow(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leave out wider passes of the self-test, and shorten its prompt, where the interpreter runs them."""
    if not ON_GPU:
        monkeypatch.setattr(architecture, "_WIDTHS", (7,))
        monkeypatch.setattr(architecture, "_WIDE", 7)
        monkeypatch.setattr(architecture, "_PROMPTS", (5, 70))


@pytest.fixture(scope="module", autouse=True)
def quickly_interpreted() -> Iterator[None]:
    with quick_interpreter():
        yield


@pytest.fixture(autouse=True)
def two_programs_for_a_cache(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let two programs share the rows of the cache, where the interpreter would run eight one by one.

    Their results are added up by the same code; eight run in the tests of a tree of seven.
    """
    if not ON_GPU and "tree_of_seven" not in request.node.name:
        monkeypatch.setattr(runner_module, "_MAX_ATTEND_SPLITS", 2)


@pytest.fixture(autouse=True)
def prompts_by_transformers(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let transformers read prompts where the interpreter would, but in the tests of prompts."""
    if not ON_GPU and "prompt" not in request.node.name:
        monkeypatch.setattr(FusedRunner, "prefill", TorchRunner.prefill)


def model_of(kind: str, *, seed: int = 1, dtype: torch.dtype = torch.float32, **changes: Any) -> Any:
    return tiny_model(kind, seed=seed, **changes).to(DEVICE, dtype)


# ------------------------------------------------------------------------------------------ whole models


@pytest.mark.parametrize("temperature", [1.0, *slow(0.0)])
@pytest.mark.parametrize("kind", SUPPORTED if ON_GPU else ["phi", *slow("qwen3")])
def test_every_method_emits_the_tokens_of_eager_ar(kind: str, temperature: float) -> None:
    """Without a GPU two methods and two families stand for all: the interpreter is slow.

    The draft is near its target, so that rows of accepted nodes are moved.
    """
    target = model_of(kind, seed=1)
    generation = GenerationSpec(max_new_tokens=16 if ON_GPU else 3, temperature=temperature)
    eager, ours = decoder(TorchRunner, target), decoder(FusedRunner, target, near(target, noise=0.1))
    taken = 0
    for prompt in (LONG_PROMPT, (9,)) if ON_GPU else (LONG_PROMPT,):
        expected = eager.decode(prompt, generation, None, seed="3").token_ids
        for policy in (None, *POLICIES.values()) if ON_GPU else (POLICIES["linear"], POLICIES["pruned tree"]):
            decoded = ours.decode(prompt, generation, policy, seed="3")
            assert decoded.token_ids == expected
            taken += sum(played.accepted for played in decoded.rounds)
    assert taken > 0


@pytest.mark.usefixtures("narrow")
@pytest.mark.parametrize("dtype", [DTYPES[0], *slow(*DTYPES[1:])])
@pytest.mark.parametrize(
    "kind", [*FIRST, *slow(*(kind for kind in SUPPORTED | FURTHER if kind not in (*FIRST, *REFUSED)))]
)
def test_every_family_passes_the_tree_self_test(kind: str, dtype: torch.dtype) -> None:
    model = model_of(kind, dtype=dtype)
    self_test(FusedRunner(model), plain_logits(model), kind)


@pytest.mark.slow
def test_wider_passes_pass_the_self_test_too() -> None:
    model = model_of("llama", dtype=torch.float16)
    self_test(FusedRunner(model), plain_logits(model), "llama")


@pytest.mark.slow
@pytest.mark.usefixtures("narrow")
@pytest.mark.parametrize("variant", VARIANTS)
def test_what_models_of_a_family_differ_in_is_known(variant: str) -> None:
    kind, changes = VARIANTS[variant]
    model = model_of(kind, **changes)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith("bias"):
                parameter.normal_()
    self_test(FusedRunner(model), plain_logits(model), variant)


def test_a_family_that_nobody_described_is_refused() -> None:
    with pytest.raises(UnsupportedModelError, match="no kernels for bloom"):
        FusedRunner(tiny_model("bloom", seed=1))


@pytest.mark.parametrize("kind", REFUSED)
def test_a_family_with_parts_that_only_other_kernels_know_is_refused_by_them(kind: str) -> None:
    """Before any pass: transformers' own is captured instead."""
    with pytest.raises(UnsupportedModelError, match=f"^no kernels for GPUs with {REFUSED[kind]}$"):
        FusedRunner(tiny_model(kind, seed=1))


def test_without_triton_the_reason_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "dyna_eval_workers.fused.kernels", None)
    monkeypatch.delattr("dyna_eval_workers.fused.kernels", raising=False)
    with pytest.raises(NoKernelsError, match="there is no Triton that works"):
        FusedRunner(tiny_llama(seed=1))


def test_kernels_that_do_not_fit_a_device_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise OutOfResources(200_000, 100_000, "shared memory")

    runner = FusedRunner(model_of("llama"))
    monkeypatch.setattr(FusedRunner, "_forward", fail)
    monkeypatch.setattr(GraphRunner, "_capture", lambda _, function: function())
    with pytest.raises(NoKernelsError, match="the kernels cannot run on this device: out of resource"):
        started(runner, 5).warm_up([1], shortest=1, longest=9)


def test_more_programs_than_counters_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dyna_eval_workers.fused.runner._COUNTERS", 1)
    runner = started(FusedRunner(model_of("llama")), 0)
    runner.extend(*TREE)
    with pytest.raises(NoKernelsError, match="more than there are counters"):
        runner.logits()


def test_the_weights_are_the_models_own() -> None:
    """Joined matrices take the place of their parts, so that no weight is there twice."""
    model = model_of("llama")
    runner = FusedRunner(model)
    attention, joined = model.model.layers[0].self_attn, runner._layers[0].qkv.weight
    parts = attention.q_proj, attention.k_proj, attention.v_proj
    assert [part.weight.data_ptr() for part in parts] == [
        joined[start].data_ptr() for start in (0, len(parts[0].weight), len(joined) - len(parts[2].weight))
    ]
    assert runner._head.weight.data_ptr() == model.lm_head.weight.data_ptr()


# ------------------------------------------------------------------------------------ passes and the cache


@pytest.mark.parametrize("committed", [*slow(0, 57), 58, *slow(64)])
@pytest.mark.parametrize("kind", ["gpt_neox", "qwen3"])
def test_a_tree_of_seven_has_the_logits_of_an_eager_pass(kind: str, committed: int) -> None:
    """On both sides of the borders: of a word of bits, and of the rows that a program takes at once."""
    model = model_of(kind)
    eager, ours = started(TorchRunner(model), committed), started(FusedRunner(model), committed)
    for runner in (eager, ours):
        runner.extend(*TREE)
    torch.testing.assert_close(ours.logits(), eager.logits(), rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(
        rows_of(ours.cache)[..., : committed + 7, :], rows_of(eager.cache)[..., : committed + 7, :]
    )
    for runner in (eager, ours):
        runner.keep([0, 2, 5])
        runner.extend([40, 41], [COMMITTED, COMMITTED])
        runner.extend([42, 43, 44], [0, 1, 1])
    torch.testing.assert_close(ours.logits(), eager.logits(), rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("kind", ["gpt_neox", *slow("llama")])
def test_a_prompt_of_two_passes_fills_the_cache_as_transformers_does(kind: str) -> None:
    model = model_of(kind)
    eager, ours = started(TorchRunner(model), 70), started(FusedRunner(model), 70)
    assert ours.length == 70
    torch.testing.assert_close(rows_of(ours.cache)[..., :70, :], rows_of(eager.cache)[..., :70, :])
    for runner in (eager, ours):
        runner.extend(*TREE)
    torch.testing.assert_close(ours.logits(), eager.logits(), rtol=1e-3, atol=1e-3)


def test_a_prompt_uses_the_graphs_that_are_there() -> None:
    runner = started(FusedRunner(model_of("llama")), 0)
    runner.warm_up([1, 8], shortest=1, longest=30)
    kept = set(runner._graphs)
    runner.prefill([3, 4, 5, 6, 7])
    assert set(runner._graphs) == kept


@pytest.mark.parametrize("count", [5, 8, 17, 33])
def test_a_pass_writes_its_own_rows_alone(count: int) -> None:
    model = model_of("llama")
    runner = started(FusedRunner(model), 30)
    runner.reserve(120)
    rows_of(runner.cache).fill_(0.5)
    runner.prefill(LONG_PROMPT[:30])
    before = rows_of(runner.cache).clone()
    runner.extend([7] * count, [COMMITTED] * count)
    runner.logits()
    changed = (rows_of(runner.cache) != before).any(dim=-1).any(dim=(0, 1, 2, 3)).nonzero()[:, 0].tolist()
    assert changed == [*range(30, 30 + count)]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("count", [2, *slow(20), *([40, 70] if ON_GPU else [])])
def test_a_chain_has_the_numbers_of_one_token_after_another(count: int, dtype: torch.dtype) -> None:
    """On a GPU to the last bit: each number is a sum in one order. The interpreter's order varies."""
    model = model_of(
        "gpt_neox", dtype=dtype, **({"hidden_size": 640, "num_hidden_layers": 4} if ON_GPU else {})
    )
    whole, single = started(FusedRunner(model), 30), started(FusedRunner(model), 30)
    tokens = [(11 * index + 7) % VOCABULARY for index in range(count)]
    whole.extend(tokens, range(COMMITTED, count - 1))
    logits = whole.logits()
    for index, token in enumerate(tokens if ON_GPU else tokens[:5]):
        single.extend([token], [COMMITTED])
        if ON_GPU:
            assert torch.equal(single.logits()[0], logits[index])
        else:
            tolerance = 1e-4 if dtype is torch.float32 else 2e-2
            torch.testing.assert_close(single.logits()[0], logits[index], rtol=tolerance, atol=tolerance)
        single.keep([0])


# -------------------------------------------------------------------------------------------- the kernels


@pytest.mark.slow
def test_the_kernels_compile_in_bfloat16_for_a_gpu_that_need_not_be_there(tmp_path: Path) -> None:
    """In a process of its own, whose Triton does not interpret; a warning of it is an error."""
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    ran = subprocess.run(
        [sys.executable, "-W", "error::UserWarning", "-m", "tests.compiled_kernels"],
        cwd=ROOT,
        env=environment | {"TRITON_CACHE_DIR": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert ran.returncode == 0, ran.stderr
    compiled = [line.split() for line in ran.stdout.splitlines()]
    names = {"embed", "normalise", "multiply", "attend", "top_k_of_parts", "top_k_of_all"}
    assert {name for name, _ in compiled} == names
    assert max(int(shared) for _, shared in compiled) <= 227 * 1024  # which an H100 has for a program


@pytest.mark.parametrize("last_only", [*slow(False), True])
def test_choose_and_top_k_answer_as_the_eager_runner_does(last_only: bool) -> None:
    model = model_of("gpt_neox")
    eager, ours = started(TorchRunner(model), 5), started(FusedRunner(model), 5)
    for runner in (eager, ours):
        runner.extend(*TREE, last_only=last_only)
    for sampler in (GREEDY, Sampler(temperature=0.7, seed="1", vocabulary=VOCABULARY)):
        assert ours.choose(sampler) == eager.choose(sampler)
        for branch, proposable in ((1, VOCABULARY), (3, 100), (8, 100), (12, 100), (2, 2)):
            tokens, values = ours.top_k(branch, sampler, proposable)
            expected_tokens, expected_values = eager.top_k(branch, sampler, proposable)
            assert tokens == expected_tokens
            np.testing.assert_allclose(values, expected_values, rtol=1e-3, atol=1e-4)


def inputs_for(runner: FusedRunner, nodes: int, sampler: Sampler = GREEDY) -> torch.Tensor:
    """Return the inputs of a pass of nodes one behind the other, from position 10 on, over 256 rows."""
    seen = [1 << node for node in range(nodes)]
    packed = runner._pack(nodes, 256, [5] * nodes, range(10, 10 + nodes), seen)
    return torch.tensor(np.frombuffer(runner._with_sampler(packed, sampler), dtype=np.int64), device=DEVICE)


@pytest.mark.parametrize("vocabulary", [40, 2049, 5000])
def test_the_noise_beside_the_logits_is_that_of_the_host(vocabulary: int) -> None:
    runner = FusedRunner(tiny_llama(seed=1).to(DEVICE))
    sampler = Sampler(temperature=0.5, seed="s", vocabulary=vocabulary)
    logits = torch.randn(3, vocabulary, generator=torch.Generator().manual_seed(1))
    found = torch.zeros(3, 2, 8, dtype=torch.int32, device=DEVICE)
    runner._top_k_into(found, logits.to(DEVICE), inputs_for(runner, 3, sampler))
    noise = sampler.noise([11, 12, 13])
    assert noise is not None
    best = (logits / 0.5 + torch.from_numpy(noise)).log_softmax(dim=-1).topk(8, dim=-1)
    assert torch.equal(found[:, 0].cpu().long(), best.indices)
    torch.testing.assert_close(found[:, 1].cpu().view(torch.float32), best.values, rtol=1e-4, atol=1e-4)
    chosen = torch.zeros(3, dtype=torch.int64, device=DEVICE)
    runner._choose_into(chosen, logits.to(DEVICE), inputs_for(runner, 3, sampler))
    assert torch.equal(chosen.cpu(), best.indices[:, 0])


def test_the_noise_of_likely_tokens_is_exact_however_many_there_are() -> None:
    """It is that of the smallest uniform numbers, which are lost where they are subtracted from 1."""
    vocabulary = 1 << 18
    runner = FusedRunner(tiny_llama(seed=1).to(DEVICE))
    sampler = Sampler(temperature=1.0, seed="t", vocabulary=vocabulary)
    found = torch.zeros(1, 2, 8, dtype=torch.int32, device=DEVICE)
    runner._top_k_into(found, torch.zeros(1, vocabulary, device=DEVICE), inputs_for(runner, 1, sampler))
    noise = sampler.noise([11])
    assert noise is not None
    best = torch.from_numpy(noise[0]).log_softmax(dim=-1).topk(8)
    assert torch.equal(found[0, 0].cpu().long(), best.indices)
    torch.testing.assert_close(found[0, 1].cpu().view(torch.float32), best.values, rtol=0, atol=1e-4)


def test_one_graph_serves_greedy_and_sampled_passes() -> None:
    """A pass keeps nothing of the sampler that an earlier one was given."""
    runner = started(FusedRunner(model_of("llama")), 5)
    runner.warm_up([1], shortest=1, longest=20, greedy=False)
    runner.warm_up([1], shortest=1, longest=20, greedy=False, proposable=100)
    kept = list(runner._graphs)
    tokens = []
    for temperature in (0.0, 5.0, 0.0):
        sampler = Sampler(temperature=temperature, seed="9", vocabulary=VOCABULARY)
        runner.extend([7], [COMMITTED])
        tokens += runner.choose(sampler)
        assert runner.choose(sampler) == tokens[-1:]
        runner.keep([])
        runner.extend([7], [COMMITTED])
        runner.top_k(2, sampler, 100)
        runner.keep([])
    assert tokens[0] == tokens[2] != tokens[1]
    assert list(runner._graphs) == kept


def test_logits_that_are_no_numbers_give_tokens_that_there_are() -> None:
    """Wherever a place behind the vocabulary won, the next pass would read behind the embedding."""
    runner = FusedRunner(tiny_llama(seed=1).to(DEVICE))
    logits = torch.full((3, 5000), float("nan"), device=DEVICE)
    logits[1, 4999] = logits[2, 17] = 1.0
    found = torch.zeros(3, 2, 2, dtype=torch.int32, device=DEVICE)
    runner._top_k_into(found, logits, inputs_for(runner, 3))
    assert ((found[:, 0] >= 0) & (found[:, 0] < 5000)).all()
    assert found[1:, 0, 0].tolist() == [4999, 17]


@pytest.mark.parametrize("branch", [1, 3, 8, 16, *slow(32)])
def test_of_equal_logits_the_first_token_is_the_better_one(branch: int) -> None:
    """Also where they stand in parts of the vocabulary that different programs rank."""
    runner = FusedRunner(tiny_llama(seed=1).to(DEVICE))
    logits = torch.randint(0, 4, (3, 5000), generator=torch.Generator().manual_seed(1)).float().to(DEVICE)
    found = torch.zeros(3, 2, branch, dtype=torch.int32, device=DEVICE)
    for proposable in (5000, 4321, max(10, branch)):
        runner._top_k_into(found, logits[:, :proposable], inputs_for(runner, 3))
        order = logits[:, :proposable].sort(dim=-1, descending=True, stable=True)
        assert torch.equal(found[:, 0].long(), order.indices[:, :branch])
        expected = logits[:, :proposable].log_softmax(dim=-1).gather(1, order.indices[:, :branch])
        torch.testing.assert_close(found[:, 1].view(torch.float32), expected)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("nodes", [1, 3, 16, 17, 64, 70] if ON_GPU else [3, 17, *slow(70)])
@pytest.mark.parametrize(("outputs", "inputs"), [(64, 256), (33, 130), (70, 1100)])
def test_a_product_is_what_torch_computes(nodes: int, outputs: int, inputs: int, dtype: torch.dtype) -> None:
    """With and without bias, by rows and by columns, activated, added, and gated."""
    runner = FusedRunner(tiny_llama(seed=1).to(DEVICE, dtype))
    generator = torch.Generator().manual_seed(outputs)

    def drawn(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator).to(DEVICE, dtype)

    def close(actual: torch.Tensor, expected: torch.Tensor) -> None:
        tolerance = 1e-4 if dtype is torch.float32 else 2e-2
        torch.testing.assert_close(actual.float(), expected, rtol=tolerance, atol=tolerance)

    x, weight, bias = drawn(nodes, inputs), drawn(outputs, inputs) / inputs**0.5, drawn(outputs)
    plain = x.float() @ weight.float().T
    assert _matrix(weight, None).splits == max(1, inputs // 512)
    close(runner._linear("product", x, _matrix(weight, None)), plain)
    close(runner._linear("product", x, _matrix(weight.T.contiguous().T, bias)), plain + bias.float())
    old = drawn(nodes, outputs)
    close(
        runner._linear("product", x, _matrix(weight, bias), onto=old.clone()),
        old.float() + plain + bias.float(),
    )
    functions: dict[Activation, Callable[[torch.Tensor], torch.Tensor]] = {
        Activation.GELU: torch.nn.functional.gelu,
        Activation.GELU_TANH: lambda values: torch.nn.functional.gelu(values, approximate="tanh"),
        Activation.RELU: torch.relu,
        Activation.SILU: torch.nn.functional.silu,
    }
    for activation, function in functions.items():
        close(
            runner._linear("product", x, _matrix(weight, None), activation=activation),
            function(plain),
        )
    both = torch.cat([drawn(outputs, inputs) / inputs**0.5, weight])
    gate = x.float() @ both[:outputs].float().T
    close(
        runner._linear("product", x, _matrix(both, None, halves=2), activation=Activation.SILU, gated=True),
        torch.nn.functional.silu(gate) * plain,
    )
