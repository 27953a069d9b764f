"""Which pairs may run: what is refused, with its reason, and that what is accepted decodes exactly."""

from __future__ import annotations

import copy
import json
import math
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import huggingface_hub
import numpy as np
import pytest
import torch
import transformers
from dyna_eval_workers import architecture, loading, model_files, pairs
from dyna_eval_workers.architecture import attention_of, check_architecture, plain_logits, self_test
from dyna_eval_workers.cudagraph import GraphRunner
from dyna_eval_workers.decoding import Decoder
from dyna_eval_workers.exactness import TokenComparison, compare_tokens
from dyna_eval_workers.families import FAMILIES
from dyna_eval_workers.fused.runner import FusedRunner
from dyna_eval_workers.growth.trees import TopBranches
from dyna_eval_workers.loading import load_pair
from dyna_eval_workers.model_files import demo_folder
from dyna_eval_workers.native import kernels
from dyna_eval_workers.native.runner import NativeRunner
from dyna_eval_workers.pairs import inspect_pair
from dyna_eval_workers.prompts import load_prompts
from dyna_eval_workers.rounding import ROUNDING_EPS
from dyna_eval_workers.runner import TorchRunner, position_limit
from dyna_eval_workers.sampling import Sampler
from dyna_eval_workers.selfcheck import check
from safetensors.torch import load_file, save_file
from tokenizers import AddedToken

from dyna_eval.errors import CaptureError, NoKernelsError, PairError, UnsupportedModelError
from dyna_eval.jobs import Backend, Configuration, GenerationSpec, Method, PairSpec, PromptSpec
from dyna_eval.measurements import Exactness
from tests.interpreter import quick_interpreter
from tests.models import (
    FURTHER,
    POSITIONS,
    SUPPORTED,
    VOCABULARY,
    byte_tokenizer,
    save_model,
    tiny_config,
    tiny_gpt_neox,
    tiny_llama,
    tiny_model,
)
from tests.runners import RUNNERS

CPU = torch.device("cpu")
TREE = TopBranches(depth=4, branches=3, root_branches=3, threshold=0.0, max_nodes=60)
DEMO = PairSpec(name="demo", target="demo", draft="demo")
AR = Configuration(label="AR", method=Method.AR, params={})


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a GPT-NeoX target and draft. Tests that change a model copy it first."""
    folder = tmp_path_factory.mktemp("pair")
    save_model(tiny_gpt_neox(seed=1), folder / "target")
    save_model(tiny_gpt_neox(seed=2, hidden=16, layers=1), folder / "draft")
    return folder


@pytest.fixture
def model(saved: Path, tmp_path: Path) -> Path:
    """A model's folder that the test may spoil."""
    return shutil.copytree(saved / "target", tmp_path / "model")


def spec_of(target: Path | str, draft: Path | str | None = None, *, dtype: str = "auto") -> PairSpec:
    return PairSpec(name="tiny", target=str(target), draft=None if draft is None else str(draft), dtype=dtype)


def refusal(action: Callable[[], object]) -> str:
    """Return the reason that an action is refused with; it must be one line."""
    with pytest.raises(PairError) as caught:
        action()
    reason = str(caught.value)
    assert "\n" not in reason
    return reason


def inspected(spec: PairSpec, backend: Backend = Backend.EAGER) -> pairs.InspectedPair:
    return inspect_pair(spec, device="cpu", backend=backend)


def loaded(spec: PairSpec, backend: Backend = Backend.EAGER) -> pairs.LoadedPair:
    return load_pair(inspected(spec, backend).pair, CPU)


@pytest.fixture
def compiler() -> None:
    """Skips a test where the kernels cannot be built."""
    try:
        kernels()
    except NoKernelsError as reason:
        pytest.skip(str(reason))


# ------------------------------------------------------------------- what works


@pytest.mark.parametrize("make", [tiny_gpt_neox, tiny_llama])
def test_a_saved_pair_is_inspected_and_loaded(make: Callable[..., Any], tmp_path: Path) -> None:
    target = save_model(make(seed=1), tmp_path / "target")
    draft = save_model(make(seed=2, hidden=16, layers=1), tmp_path / "draft")
    found = inspected(spec_of(target, draft))
    assert found.position_limit == POSITIONS
    assert found.pair.dtype == "float32"
    assert found.pair.target_digest != found.pair.draft_digest
    pair = load_pair(found.pair, CPU)
    assert pair.decoder.target.dtype == torch.float32
    assert pair.decoder.draft is not None
    assert pair.tokenizer.decode(pair.tokenizer("as it was")["input_ids"]) == "as it was"


def test_a_pair_without_a_draft_is_the_target_alone(saved: Path) -> None:
    found = inspected(spec_of(saved / "target"))
    assert found.pair.draft_digest is None
    assert load_pair(found.pair, CPU).decoder.draft is None


@pytest.mark.parametrize("backend", [Backend.EAGER, Backend.AUTO])
@pytest.mark.parametrize(("own", "drafts"), [(VOCABULARY, VOCABULARY - 20), (VOCABULARY, VOCABULARY + 20)])
def test_models_of_one_tokenizer_and_unequal_embeddings_are_a_pair(
    own: int, drafts: int, backend: Backend, tmp_path: Path
) -> None:
    """As Qwen2.5's of 0.5 B and of 7 B parameters: both are padded beyond the 257 tokens, by unequal rows."""
    target = save_model(tiny_gpt_neox(seed=1, vocabulary=own), tmp_path / "target")
    draft = save_model(tiny_gpt_neox(seed=2, vocabulary=drafts), tmp_path / "draft")
    assert inspected(spec_of(target, draft)).vocabulary == own
    decoder = loaded(spec_of(target, draft), backend).decoder
    assert decoder.draft is not None
    assert (decoder.target.vocabulary, decoder.draft.vocabulary) == (own, drafts)
    for temperature in (0.0, 1.0):
        generation = GenerationSpec(max_new_tokens=24, temperature=temperature)
        comparison = compared(decoder, (17, 5, 250, 31, 8), generation, TREE)
        assert comparison.exactness is Exactness.EXACT


@pytest.mark.parametrize("kind", FAMILIES)
def test_a_family_that_is_known_has_what_its_class_is_not_asked_for(kind: str) -> None:
    model = tiny_model(kind, seed=1)
    assert model._supports_sdpa or kind == "gemma2"  # which is loaded with its own attention
    assert not model._is_stateful


def test_looking_at_a_known_pair_imports_no_model(saved: Path) -> None:
    """That takes seconds, before anything runs."""
    looked = """if True:
        import sys
        from dyna_eval_workers.pairs import inspect_pair
        from dyna_eval.jobs import PairSpec
        inspect_pair(PairSpec(name="", target=sys.argv[1], draft=sys.argv[2]), device="cpu")
        import dyna_eval.running.cluster, dyna_eval.running.controller
        sys.exit("transformers.modeling_utils" in sys.modules)
    """
    arguments = [str(saved / "target"), str(saved / "draft")]
    subprocess.run([sys.executable, "-c", looked, *arguments], check=True)


@pytest.mark.parametrize("backend", RUNNERS)
@pytest.mark.parametrize("kind", SUPPORTED | FURTHER)
def test_every_supported_architecture_decodes_exactly(kind: str, backend: str) -> None:
    model, stranger = tiny_model(kind, seed=1), tiny_model(kind, seed=2)
    check_architecture(model.config, kind)
    target, draft = RUNNERS[backend](model), RUNNERS[backend](stranger)
    self_test(target, plain_logits(model), kind)
    decoder = Decoder(target, draft, vocabulary=VOCABULARY, end_tokens=[0])
    for temperature in (0.0, 1.0):
        generation = GenerationSpec(max_new_tokens=24, temperature=temperature)
        reference = decoder.decode((17, 5, 250, 31, 8), generation, None, seed="7")
        decoded = decoder.decode((17, 5, 250, 31, 8), generation, TREE, seed="7")
        assert decoded.token_ids == reference.token_ids
    accepted = sum(r.accepted for r in decoded.rounds)
    assert accepted > 0, "a tree of which nothing is accepted proves little"


def test_checking_a_pair_by_hand_says_what_was_checked(saved: Path) -> None:
    lines = check(spec_of(saved / "target", saved / "draft"))
    assert "float32 on cpu" in lines[0]
    assert lines[2].startswith(("backend: compile", "backend: eager (no C++ compiler"))
    assert re.fullmatch(
        r"rounding: other right passes may differ by [\d.e-]+ of the largest logit \(\d+ eps\)", lines[3]
    )
    assert [line.split(",")[0] for line in lines[4:]] == ["linear", "tree", "linear", "tree"]
    assert all(": exact," in line for line in lines[4:])


def longrope(factor: list[float]) -> dict[str, Any]:
    """A configuration whose rotary frequencies change at 32 of its 128 positions."""
    return {
        "rope_type": "longrope",
        "rope_theta": 10000.0,
        "short_factor": [1.0] * len(factor),
        "long_factor": factor,
        "original_max_position_embeddings": 32,
    }


@pytest.mark.parametrize(
    "config",
    [
        tiny_config("llama", rope_parameters=longrope([1.0, 4.0, 7.0, 10.0])),
        tiny_config(
            "phi3",
            num_attention_heads=4,
            max_position_embeddings=POSITIONS,
            original_max_position_embeddings=32,
            rope_parameters=longrope([1.0, 4.0, 7.0, 10.0]) | {"original_max_position_embeddings": 64},
        ),
        SimpleNamespace(
            get_text_config=lambda: SimpleNamespace(
                max_position_embeddings=POSITIONS, rope_parameters={"full_attention": longrope([4.0])}
            )
        ),
    ],
    ids=["llama", "phi3", "by kind of layer"],
)
def test_a_model_is_verified_only_where_its_rotary_frequencies_stay_the_same(config: Any) -> None:
    """A pass that reached past position 32 would turn all its tokens otherwise than the passes before it."""
    assert position_limit(config) == 32


@pytest.mark.parametrize("kind", ["default", "linear", "dynamic", "yarn", "llama3"])
def test_other_rotary_frequencies_take_no_positions_away(kind: str) -> None:
    more = {"low_freq_factor": 1.0, "high_freq_factor": 4.0} if kind == "llama3" else {}
    parameters = {"rope_type": kind, "rope_theta": 10000.0, "factor": 4.0} | more
    if kind in ("yarn", "llama3"):
        parameters["original_max_position_embeddings"] = POSITIONS // 4
    assert position_limit(tiny_config("llama", rope_parameters=parameters)) == POSITIONS


def test_a_tree_up_to_the_last_of_these_positions_is_exact() -> None:
    model = tiny_model("llama", seed=1, rope_parameters=longrope([1.0, 4.0, 7.0, 10.0]))
    limit = position_limit(model.config)
    assert limit is not None
    decoder = Decoder(TorchRunner(model), TorchRunner(model), vocabulary=VOCABULARY, end_tokens=[0])
    generation = GenerationSpec(max_new_tokens=limit - 5)
    prompt = (17, 5, 250, 31, 8)
    reference = decoder.decode(prompt, generation, None, seed="7")
    assert decoder.decode(prompt, generation, TREE, seed="7").token_ids == reference.token_ids


# --------------------------------------------------------------- what runs the passes


@pytest.fixture
def no_kernels(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A machine on which the kernels cannot be built."""
    monkeypatch.setenv("CXX", "never-heard-of++")
    kernels.cache_clear()
    yield
    kernels.cache_clear()


@pytest.mark.usefixtures("compiler")
@pytest.mark.parametrize("backend", [Backend.AUTO, Backend.COMPILE])
def test_on_a_cpu_our_kernels_run_the_passes(backend: Backend, saved: Path) -> None:
    pair = loaded(spec_of(saved / "target", saved / "draft"), backend)
    assert pair.backend == "compile"
    assert pair.pair.backend is backend, "a job's identity is what was asked for"
    assert isinstance(pair.decoder.target, NativeRunner)
    assert isinstance(pair.decoder.draft, NativeRunner)
    assert pair.position_limit == POSITIONS


def test_eager_is_transformers_as_it_is(saved: Path) -> None:
    pair = loaded(spec_of(saved / "target", saved / "draft"), Backend.EAGER)
    assert pair.backend == "eager"
    assert isinstance(pair.decoder.target, TorchRunner)


@pytest.mark.usefixtures("no_kernels")
@pytest.mark.parametrize("backend", [Backend.AUTO, Backend.COMPILE])
def test_without_a_compiler_transformers_runs_the_passes(backend: Backend, saved: Path) -> None:
    pair = loaded(spec_of(saved / "target", saved / "draft"), backend)
    assert pair.backend == "eager (no C++ compiler: never-heard-of++ not found)"
    assert isinstance(pair.decoder.target, TorchRunner)


@pytest.mark.usefixtures("no_kernels")
def test_where_a_compiler_fails_its_reason_is_told_in_a_line(
    saved: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    failing = tmp_path / "failing++"
    failing.write_text("#!/bin/sh\nprintf 'x.cpp:1: error: no such thing\\nmore' >&2; exit 1\n")
    failing.chmod(0o755)
    monkeypatch.setenv("CXX", str(failing))
    pair = loaded(spec_of(saved / "target"), Backend.AUTO)
    assert pair.backend == f"eager ({failing} failed: x.cpp:1: error: no such thing)"


@pytest.mark.usefixtures("compiler")
def test_a_family_without_kernels_is_run_by_transformers(saved: Path, tmp_path: Path) -> None:
    other = save_model(tiny_model("falcon", seed=1, alibi=False, num_attention_heads=4), tmp_path / "other")
    assert loaded(spec_of(other), Backend.AUTO).backend == "eager (no kernels for falcon)"
    mixed = loaded(spec_of(saved / "target", other), Backend.AUTO)
    assert mixed.backend == "compile, draft eager (no kernels for falcon)"


FAILED = (
    r"\(the kernels fail the self-test: a tree's logits differ from those of plain passes by [\d.e-]+ of"
    r" their size, more than rounding allows \([\d.e-]+\)\)"
)
"""Why kernels that compute something else are not used: what was measured, and neither model nor advice."""


@pytest.mark.usefixtures("compiler")
def test_kernels_that_compute_something_else_are_not_used(
    saved: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The self-test compares them with the model itself, whose paths it runs one by one."""
    whole = NativeRunner.logits
    monkeypatch.setattr(NativeRunner, "logits", lambda self: 1.001 * whole(self))
    pair = loaded(spec_of(saved / "target", saved / "draft"), Backend.AUTO)
    assert re.fullmatch(f"eager {FAILED}(, draft eager {FAILED})?", pair.backend)
    assert isinstance(pair.decoder.target, TorchRunner)


@pytest.mark.slow
def test_on_a_gpu_the_kernels_are_tried_first_and_transformers_passes_as_graphs_next(
    saved: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without one both runners just call what they would capture, and Triton interprets the kernels.

    It takes minutes for a long prompt or wide passes, with which test_fused tests them.
    """
    pytest.importorskip("triton", reason="there is no Triton for this system")
    gpu = torch.device("cuda")
    assert loading._faster_runners(Backend.EAGER, gpu) == []
    for backend in (Backend.AUTO, Backend.CUDAGRAPH):
        assert loading._faster_runners(backend, gpu) == [FusedRunner, GraphRunner]
    monkeypatch.setattr(loading, "_faster_runners", lambda *_: [FusedRunner, GraphRunner])
    for name, least in {"_PROMPTS": (5, 12), "_WIDTHS": (7,), "_WIDE": 24}.items():
        monkeypatch.setattr(architecture, name, least)
    spec = spec_of(saved / "target", saved / "draft", dtype="float32")
    with quick_interpreter():
        assert loaded(spec).backend == "cudagraph, fused kernels"

    whole = FusedRunner.logits
    monkeypatch.setattr(FusedRunner, "logits", lambda self: 1.001 * whole(self))
    assert re.fullmatch(f"cudagraph {FAILED}(, draft cudagraph {FAILED})?", loaded(spec).backend)
    monkeypatch.setattr(FusedRunner, "__init__", raising(UnsupportedModelError("no kernels for it")))
    assert loaded(spec).backend == "cudagraph (no kernels for it)"
    monkeypatch.setattr(GraphRunner, "__init__", raising(CaptureError("cannot be captured")))
    assert loaded(spec).backend == "eager (no kernels for it; cannot be captured)"


def test_whatever_fails_in_passes_of_ours_lets_others_take_over(
    saved: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What Triton, torch or transformers may raise there is not known beforehand."""
    spec = spec_of(saved / "target", saved / "draft")
    for error in (TypeError("unexpected keyword"), RuntimeError("CUDA error: invalid argument")):
        monkeypatch.setattr(NativeRunner, "reserve", raising(error))
        assert loaded(spec, Backend.AUTO).backend == f"eager ({error})"


@pytest.mark.parametrize(
    "error",
    [
        MemoryError("no memory for a cache"),
        RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory"),
        RuntimeError("CUDA error: out of memory"),
        RuntimeError("Triton Error [CUDA]: out of memory"),
        RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling cublasCreate"),
    ],
    ids=str,
)
def test_memory_that_runs_out_while_a_pair_is_loaded_is_no_reason_for_slower_passes(
    error: Exception, saved: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another try, on a fresh actor, may have more of it."""
    monkeypatch.setattr(NativeRunner, "reserve", raising(error))
    with pytest.raises(type(error), match=re.escape(str(error))):
        loaded(spec_of(saved / "target", saved / "draft"), Backend.AUTO)


def raising(error: Exception) -> Callable[..., None]:
    def fail(*_: Any) -> None:
        raise error

    return fail


@pytest.mark.parametrize(
    ("backend", "device", "why"),
    [
        (Backend.COMPILE, "cuda", "compile is for CPUs"),
        (Backend.CUDAGRAPH, "cpu", "cudagraph needs a CUDA device"),
    ],
)
def test_a_backend_of_another_device_is_refused(backend: Backend, device: str, why: str, saved: Path) -> None:
    spec = spec_of(saved / "target")
    assert why in refusal(lambda: inspect_pair(spec, device=device, backend=backend))


def test_a_peer_s_models_are_transformers_own_beside_ours(saved: Path) -> None:
    pair = loaded(spec_of(saved / "target", saved / "draft", dtype="bfloat16"))
    for method, wants_draft in ((Method.HF_GENERATE, False), (Method.HF_ASSISTED, True)):
        target, draft = pair.peer_models(Configuration(label="", method=method, params={}))
        assert isinstance(target, transformers.GPTNeoXForCausalLM)
        assert target.dtype is torch.bfloat16
        assert (draft is not None) == wants_draft


# ----------------------------------------------------------------- whole folders


@pytest.mark.parametrize("model", ["./missing", "../missing", "~/missing", "a/b/c", "my model"])
def test_a_name_that_is_neither_a_folder_nor_a_hub_id_is_said_to_be_so(model: str) -> None:
    with pytest.raises(PairError) as caught:
        inspect_pair(PairSpec(name="x", target=model, draft=None), device="cpu")
    said = f"{model}: there is no such folder, and it is no hub id such as org/name either"
    assert str(caught.value) == said


def test_a_folder_that_is_not_there_is_named() -> None:
    assert refusal(lambda: inspected(spec_of("/nowhere/model"))) == (
        "/nowhere/model: there is no such folder; every node needs the model at the same path"
    )


@pytest.mark.parametrize(
    ("pattern", "reason"),
    [
        ("config.json", "holds no config.json"),
        ("*.safetensors", r"holds no *.safetensors; convert the weights"),
        ("tokenizer*", "holds no tokenizer"),
    ],
)
def test_a_folder_that_lacks_a_part_is_refused(pattern: str, reason: str, model: Path) -> None:
    for path in model.glob(pattern):
        path.unlink()
    assert reason in refusal(lambda: inspected(spec_of(model)))


def test_weights_that_are_only_a_pickle_are_refused(model: Path) -> None:
    """Unpickling runs code; a folder with *.bin alone is never opened."""
    torch.save(load_file(model / "model.safetensors"), model / "pytorch_model.bin")
    (model / "model.safetensors").unlink()
    assert "convert the weights with save_pretrained" in refusal(lambda: inspected(spec_of(model)))


def test_a_configuration_that_is_not_json_is_refused(model: Path) -> None:
    (model / "config.json").write_text("{")
    assert "cannot be loaded" in refusal(lambda: inspected(spec_of(model)))


def test_truncated_weights_are_refused(model: Path) -> None:
    weights = model / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1000])
    reason = refusal(lambda: loaded(spec_of(model)))
    assert "cannot be loaded" in reason
    assert reason.endswith("; save or download the model again")


def test_weights_that_lack_a_tensor_are_refused(model: Path) -> None:
    """transformers fills the gap with random numbers and goes on."""
    weights = load_file(model / "model.safetensors")
    lacking = next(name for name in weights if "layers.1" in name and name.endswith("weight"))
    del weights[lacking]
    save_file(weights, model / "model.safetensors", metadata={"format": "pt"})
    reason = refusal(lambda: loaded(spec_of(model)))
    assert "lack 1 of the model's tensors" in reason
    assert lacking in reason


@pytest.mark.parametrize("part", ["embed_in", "layers.1.mlp.dense_h_to_4h.weight", "embed_out"])
def test_weights_with_nan_are_refused(part: str, model: Path) -> None:
    """One number anywhere: in the row of a token that no test would use, in a layer, in the head."""
    weights = load_file(model / "model.safetensors")
    name = next((name for name in weights if part in name), None)
    assert name is not None, sorted(weights)
    weights[name][-1, -1] = float("nan")
    save_file(weights, model / "model.safetensors", metadata={"format": "pt"})
    assert "hold NaN or infinity in float32" in refusal(lambda: loaded(spec_of(model)))


def test_weights_too_large_for_the_dtype_are_refused(model: Path) -> None:
    weights = load_file(model / "model.safetensors")
    next(iter(weights.values())).fill_(1e6)
    save_file(weights, model / "model.safetensors", metadata={"format": "pt"})
    reason = refusal(lambda: loaded(spec_of(model, dtype="float16")))
    assert "NaN or infinity in float16" in reason
    assert "try another dtype" in reason


def test_weights_of_another_shape_are_refused(saved: Path, model: Path) -> None:
    shutil.copy(saved / "draft" / "model.safetensors", model)
    assert str(model) in refusal(lambda: loaded(spec_of(model)))


def test_different_tokenizers_are_refused(saved: Path, model: Path) -> None:
    tokenizer = byte_tokenizer()
    tokenizer.add_tokens([AddedToken("another")])
    tokenizer.save_pretrained(model)
    reason = refusal(lambda: inspected(spec_of(saved / "target", model)))
    assert "different tokenizers (257 and 258 tokens, 1 of the draft's differ)" in reason


# ----------------------------------------------------------------- architectures

WINDOW = 16
TINY_WINDOW = {"sliding_window": WINDOW}
TINY_HEADS = {
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "intermediate_size": 64,
    "max_position_embeddings": POSITIONS,
}
UNSUPPORTED: dict[str, tuple[str, dict[str, Any], str]] = {
    "bloom": ("bloom", {}, "ALiBi"),
    "mpt": ("mpt", {}, "ALiBi"),
    "falcon with ALiBi": ("falcon", {"alibi": True}, "ALiBi"),
    "gpt_neo with local layers": (
        "gpt_neo",
        {"num_layers": 2, "num_heads": 4, "attention_types": [[["global", "local"], 1]], "window_size": 16},
        "gpt_neo has local layers",
    ),
    "gpt_neo without local layers": (
        "gpt_neo",
        {"num_layers": 2, "num_heads": 4, "attention_types": [[["global"], 2]], "window_size": 16},
        "no scaled-dot-product attention (sdpa) for gpt_neo",
    ),
    "codegen": ("codegen", {}, "no scaled-dot-product attention (sdpa) for codegen"),
    "deepseek_v3": ("deepseek_v3", {"num_attention_heads": 4}, "caches keys and values of different sizes"),
    "gemma4": ("gemma4_text", {"num_hidden_layers": 6}, "the layers of gemma4_text differ in"),
    "mamba": ("mamba", {}, "recurrent or hybrid"),
    "rwkv": ("rwkv", {}, "recurrent or hybrid"),
    "jamba": ("jamba", {}, "recurrent or hybrid"),
    "qwen3_next": ("qwen3_next", {"num_hidden_layers": 4}, "recurrent or hybrid layers (linear_attention)"),
    "t5": ("t5", {}, "not a causal language model"),
    "bart": ("bart", {}, "not a causal language model"),
}


@pytest.mark.parametrize("name", UNSUPPORTED)
def test_an_unsupported_architecture_is_refused_from_its_configuration(name: str, tmp_path: Path) -> None:
    """The weights are no weights at all: nobody looks at them."""
    kind, changes, why = UNSUPPORTED[name]
    tiny_config(kind, **changes).save_pretrained(tmp_path)
    byte_tokenizer().save_pretrained(tmp_path)
    (tmp_path / "model.safetensors").write_bytes(b"")
    reason = refusal(lambda: inspected(spec_of(tmp_path)))
    assert why in reason
    assert reason.startswith(str(tmp_path))


@pytest.mark.parametrize("method", ["gptq", "awq", "bitsandbytes", "fp8", None])
def test_a_quantised_checkpoint_is_refused_from_its_configuration(method: str | None, model: Path) -> None:
    change_config(model, quantization_config={"bits": 4} | ({"quant_method": method} if method else {}))
    reason = refusal(lambda: inspected(spec_of(model)))
    how = method or "by a method that is not named"
    assert reason == (
        f"{model}: the checkpoint is quantised ({how}), and only models in 16 or 32 bits are measured; "
        "choose such a checkpoint"
    )


def test_weights_that_changed_since_they_were_inspected_are_not_loaded(saved: Path, model: Path) -> None:
    """The job's identity was made from the old content: results must not be stored under it."""
    pair = inspected(spec_of(model)).pair
    save_model(tiny_gpt_neox(seed=9), model)
    assert "changed since the sweep was submitted" in refusal(lambda: load_pair(pair, CPU))
    both = inspected(spec_of(saved / "target", model)).pair
    save_model(tiny_gpt_neox(seed=10), model)
    assert refusal(lambda: load_pair(both, CPU)).startswith(str(model))


WINDOWED: dict[str, tuple[str, dict[str, Any]]] = {
    "mistral": ("mistral", TINY_WINDOW),
    "mistral with kinds of layers that it does not know": (
        "mistral",
        TINY_WINDOW | {"layer_types": ["full_attention"] * 2},
    ),
    "mistral with a flag that it does not know": ("mistral", TINY_WINDOW | {"use_sliding_window": False}),
    "qwen2 that uses its window": (
        "qwen2",
        TINY_WINDOW | {"use_sliding_window": True, "max_window_layers": 1},
    ),
    "phi3": ("phi3", TINY_WINDOW | TINY_HEADS),
    "gemma2": ("gemma2", TINY_WINDOW | TINY_HEADS),
    "gemma3": ("gemma3_text", TINY_WINDOW | TINY_HEADS | {"num_hidden_layers": 6}),
    "olmo3": ("olmo3", TINY_WINDOW | TINY_HEADS | {"num_hidden_layers": 4}),
}
"""Models in which the attention of all layers, or of some, slides over 16 tokens."""


@pytest.mark.parametrize(
    ("name", "backend"),
    [(name, run) for name in WINDOWED for run in RUNNERS if run == "eager" or WINDOWED[name][0] in FAMILIES],
)
def test_up_to_the_length_of_its_window_a_model_decodes_exactly(name: str, backend: str) -> None:
    """Trees write more rows than the window has; what plain decoding in transformers writes is the truth."""
    kind, changes = WINDOWED[name]
    model, draft = (tiny_model(kind, seed=seed, **changes) for seed in (1, 2))
    model.set_attn_implementation(attention_of(model.config))
    check_architecture(model.config, name)
    assert position_limit(model.config) == WINDOW
    prompt = (17, 5, 250, 31)
    new = WINDOW - len(prompt)
    plain = model.generate(torch.tensor([prompt]), max_new_tokens=new, do_sample=False)[0, len(prompt) :]
    target = RUNNERS[backend](model)
    self_test(target, plain_logits(model), name)
    decoder = Decoder(target, TorchRunner(draft), vocabulary=VOCABULARY, end_tokens=[0])
    for configuration in (None, TREE):
        decoded = decoder.decode(prompt, GenerationSpec(max_new_tokens=new), configuration, seed="7")
        assert list(decoded.token_ids) == plain.tolist()
    assert max(r.verified for r in decoded.rounds) > WINDOW


def test_the_window_of_either_model_bounds_the_positions_of_both(tmp_path: Path) -> None:
    target = save_model(tiny_model("mistral", seed=1, **TINY_WINDOW), tmp_path / "target")
    draft = save_model(tiny_model("mistral", seed=2), tmp_path / "draft")
    for pair in (spec_of(target, draft), spec_of(draft, target)):
        assert inspected(pair).position_limit == WINDOW
        assert loaded(pair).position_limit == WINDOW


def test_a_pair_is_checked_within_its_window(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is checked past it would be no plain decoding of the model."""
    ends: list[int] = []
    whole = Decoder.decode

    def decode(self: Decoder, prompt: tuple[int, ...], *arguments: Any, **more: Any) -> Any:
        decoded = whole(self, prompt, *arguments, **more)
        ends.append(len(prompt) + len(decoded.token_ids))
        return decoded

    monkeypatch.setattr(Decoder, "decode", decode)
    folder = save_model(tiny_model("mistral", seed=1, sliding_window=40), tmp_path)
    lines = check(spec_of(folder, folder))
    assert lines[0].endswith("up to 40 tokens with the prompt")
    assert max(ends) == 40


def test_a_family_without_sdpa_is_loaded_with_its_own_attention(tmp_path: Path) -> None:
    folder = save_model(tiny_model("gptj", seed=1, n_head=4, rotary_dim=8, n_positions=POSITIONS), tmp_path)
    lines = check(spec_of(folder, folder))
    assert all(": exact," in line for line in lines[4:])


ACCEPTED: dict[str, tuple[str, dict[str, Any]]] = {
    "mistral without a window": ("mistral", {"sliding_window": None}),
    "mistral with a window as long as its context": ("mistral", {"sliding_window": POSITIONS}),
    "qwen2 that does not use its window": ("qwen2", TINY_WINDOW | {"use_sliding_window": False}),
    "qwen3 that does not use its window": ("qwen3", TINY_WINDOW | {"use_sliding_window": False}),
    "qwen3_moe that does not use its window": ("qwen3_moe", TINY_WINDOW | {"use_sliding_window": False}),
    "smollm3 that does not use its window": ("smollm3", TINY_WINDOW | {"use_sliding_window": False}),
    "falcon without ALiBi": ("falcon", {"alibi": False}),
    "deepseek_v3 with heads of one size": (
        "deepseek_v3",
        {"num_attention_heads": 4, "qk_nope_head_dim": 8, "qk_rope_head_dim": 8, "v_head_dim": 16},
    ),
}


@pytest.mark.parametrize("name", ACCEPTED)
def test_a_window_or_a_bias_that_does_not_bind_takes_no_positions_away(name: str) -> None:
    kind, changes = ACCEPTED[name]
    config = tiny_config(kind, **({"max_position_embeddings": POSITIONS} | changes))
    check_architecture(config, name)
    assert position_limit(config) == POSITIONS


def test_an_architecture_that_nobody_knows_is_refused(model: Path) -> None:
    change_config(model, model_type="never_heard_of", architectures=["NeverHeardOf"])
    assert "never_heard_of" in refusal(lambda: inspected(spec_of(model)))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize("kind", ["gpt_neox", "llama", "gpt2"])
@pytest.mark.parametrize("ignored", ["position_ids", "attention_mask"])
def test_the_self_test_catches_a_model_that_ignores_its_positions_or_its_mask(
    kind: str, ignored: str, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = tiny_model(kind, seed=1).to(dtype)
    self_test(TorchRunner(model), plain_logits(model), kind)
    whole = model.forward
    monkeypatch.setattr(model, "forward", lambda **given: whole(**(given | {ignored: None})))
    assert "more than rounding allows" in refusal(
        lambda: self_test(TorchRunner(model), plain_logits(model), kind)
    )


@pytest.mark.usefixtures("compiler")
def test_a_wide_model_whose_sums_are_rounded_more_runs_on_the_kernels(tmp_path: Path) -> None:
    """And its peers' ties may be as wide as its own reaction to rounding says."""
    files = save_model(tiny_model("llama", seed=1, hidden_size=1024, num_hidden_layers=2), tmp_path / "wide")
    pair = loaded(spec_of(files), Backend.AUTO)
    assert pair.backend == "compile"
    assert pair.decoder.target.rounding_eps > 2 * ROUNDING_EPS[torch.float32]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize("kind", SUPPORTED | FURTHER)
def test_the_self_test_passes_kernels_that_are_right_and_no_others(kind: str, dtype: torch.dtype) -> None:
    """Others: with some weights of a layer's last matrix larger than the model's."""
    model = tiny_model(kind, seed=1).to(dtype)
    self_test(RUNNERS["compile"](model), plain_logits(model), kind)
    other = copy.deepcopy(model)
    with torch.no_grad():
        *_, last = (weight for name, weight in other.named_parameters() if weight.dim() > 1 and ".1." in name)
        last[::2].mul_(2.0)
    assert "more than rounding allows" in refusal(
        lambda: self_test(RUNNERS["compile"](other), plain_logits(model), kind)
    )


def test_the_self_test_catches_accepted_rows_that_stay_where_they_are(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(TorchRunner, "_move", lambda *_: None)
    model = tiny_model("llama", seed=1)
    assert "more than rounding allows" in refusal(
        lambda: self_test(TorchRunner(model), plain_logits(model), "llama")
    )


FAR_BEHIND: dict[str, tuple[str, Callable[..., Any]]] = {
    "a prompt's second part": (
        "prefill",
        lambda whole, runner, tokens: whole(runner, [*tokens[:64], *[1] * len(tokens[64:])]),
    ),
    "rows behind the first 64": (
        "_mask",
        lambda whole, runner, seen: None if runner.length + len(seen) > 64 else whole(runner, seen),
    ),
    "nodes behind the first 64": (
        "_mask",
        lambda whole, runner, seen: whole(runner, np.concatenate([seen[:64], seen[64:] | True])),
    ),
}
"""What is done wrongly: a runner's method, and what it does instead."""


@pytest.mark.parametrize("part", FAR_BEHIND)
def test_the_self_test_catches_what_is_wrong_only_far_behind(
    part: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    name, wrong = FAR_BEHIND[part]
    whole = getattr(TorchRunner, name)
    monkeypatch.setattr(TorchRunner, name, lambda *asked: wrong(whole, *asked))
    model = tiny_model("llama", seed=1)
    assert "more than rounding allows" in refusal(
        lambda: self_test(TorchRunner(model), plain_logits(model), "llama")
    )


@pytest.mark.parametrize("positions", [7, 8, 64, 300])
@pytest.mark.parametrize("backend", RUNNERS)
def test_the_self_test_keeps_to_the_positions_that_a_model_has(positions: int, backend: str) -> None:
    """A position that GPT-2 has no row for is an error of torch."""
    model = tiny_model("gpt2", seed=1, n_positions=positions)
    self_test(RUNNERS[backend](model), plain_logits(model), "gpt2")


ANSWERS: dict[str, tuple[str, Callable[..., Any], str]] = {
    "the least likely token": (
        "choose",
        lambda _whole, runner, _chooser: runner.logits().argmin(dim=-1).tolist(),
        "greedily",
    ),
    "another seed's token": (
        "choose",
        lambda whole, runner, sampler: whole(runner, other_seed(sampler)),
        "by sampling",
    ),
    "without noise": ("choose", lambda whole, runner, sampler: whole(runner, greedy(sampler)), "by sampling"),
    "worst first": (
        "top_k",
        lambda whole, *asked: tuple([row[::-1] for row in rows] for rows in whole(*asked)),
        "greedily",
    ),
    "log-probabilities that are too high": (
        "top_k",
        lambda whole, *asked: (whole(*asked)[0], [[v + 0.01 for v in row] for row in whole(*asked)[1]]),
        "greedily",
    ),
    "ranked without noise": (
        "top_k",
        lambda whole, runner, branch, sampler, proposable: whole(runner, branch, greedy(sampler), proposable),
        "by sampling",
    ),
    "no number": (
        "top_k",
        lambda whole, *asked: (whole(*asked)[0], [[math.nan] * len(row) for row in whole(*asked)[1]]),
        "greedily",
    ),
}


def other_seed(sampler: Sampler) -> Sampler:
    return Sampler(temperature=sampler.temperature, seed="another", vocabulary=VOCABULARY)


def greedy(sampler: Sampler) -> Sampler:
    del sampler
    return Sampler(temperature=0.0, seed="", vocabulary=VOCABULARY)


@pytest.mark.parametrize("answer", ANSWERS)
def test_the_self_test_catches_answers_that_are_not_those_of_the_logits(
    answer: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    name, wrong, how = ANSWERS[answer]
    whole = getattr(TorchRunner, name)
    monkeypatch.setattr(TorchRunner, name, lambda *asked: wrong(whole, *asked))
    model = tiny_model("llama", seed=1)
    assert f"chosen {how} are not those that its logits say" in refusal(
        lambda: self_test(TorchRunner(model), plain_logits(model), "llama")
    )


def test_a_model_that_fails_on_a_tree_is_refused_with_its_reason(
    saved: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise RuntimeError("the size of tensor a must match\nthe size of tensor b")

    monkeypatch.setattr(transformers.GPTNeoXForCausalLM, "forward", fail)
    reason = refusal(lambda: loaded(spec_of(saved / "target")))
    assert reason.endswith("cannot run a tree: the size of tensor a must match")


def test_running_out_of_memory_is_not_the_pair_s_fault(saved: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The controller tries such a job again on a fresh actor, and tells the two apart by class."""

    def fail(*_: object, **__: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(transformers.GPTNeoXForCausalLM, "forward", fail)
    with pytest.raises(torch.OutOfMemoryError):
        loaded(spec_of(saved / "target"))


def change_config(model: Path, **changes: object) -> None:
    path = model / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


# ---------------------------------------------------------------------- identity


def test_a_moved_model_is_the_same_model(saved: Path, tmp_path: Path) -> None:
    moved = shutil.copytree(saved / "target", tmp_path / "elsewhere" / "renamed")
    (moved / "README.md").write_text("Notes are not part of a model.")
    before, after = inspected(spec_of(saved / "target")).pair, inspected(spec_of(moved)).pair
    assert after.target_digest == before.target_digest
    assert after.tokenizer_digest == before.tokenizer_digest


def test_one_changed_weight_makes_another_model(saved: Path, model: Path) -> None:
    weights = load_file(model / "model.safetensors")
    next(iter(weights.values())).view(-1)[0] += 0.25
    save_file(weights, model / "model.safetensors", metadata={"format": "pt"})
    before, after = inspected(spec_of(saved / "target")).pair, inspected(spec_of(model)).pair
    assert after.target_digest != before.target_digest
    assert after.tokenizer_digest == before.tokenizer_digest


def test_a_changed_configuration_makes_another_model(saved: Path, model: Path) -> None:
    change_config(model, layer_norm_eps=1e-3)
    before, after = inspected(spec_of(saved / "target")).pair, inspected(spec_of(model)).pair
    assert after.target_digest != before.target_digest


def test_another_end_token_is_known_although_vocabulary_and_model_are_the_same(model: Path) -> None:
    """And a pair stops at the one that its jobs' keys are made of, not at what its files say by now."""
    before = inspected(spec_of(model)).pair
    path = model / "tokenizer_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"eos_token": "a"}))
    after = inspected(spec_of(model)).pair
    token = byte_tokenizer().get_vocab()["a"]
    assert (before.end_tokens, after.end_tokens) == ((0,), (0, token))
    assert replace(after, end_tokens=(0,)) == before
    assert load_pair(before, CPU).decoder.end_tokens == {0}


@pytest.mark.parametrize(
    ("written", "expected"),
    [
        ({"eos_token_id": [250, 7]}, (0, 7, 250)),
        ({"eos_token_id": 7}, (0, 7)),
        ({}, (0,)),
        (None, (0, 9)),
    ],
    ids=["several", "one", "none", "no file"],
)
def test_a_text_ends_where_transformers_would_end_it_or_the_tokenizer(
    written: dict[str, Any] | None, expected: tuple[int, ...], model: Path
) -> None:
    """A model that has no generation configuration ends at what its configuration says."""
    change_config(model, eos_token_id=9)
    path = model / "generation_config.json"
    path.unlink()
    if written is not None:
        path.write_text(json.dumps(written))
    pair = inspected(spec_of(model)).pair
    assert pair.end_tokens == expected
    assert load_pair(pair, CPU).decoder.end_tokens == set(expected)


def hub_commit(hub: Path, model: Any, commit: str) -> None:
    """Let a commit be the newest one of the model that lies in a cache of the hub."""
    repository = hub / "models--org--model"
    (repository / "refs").mkdir(parents=True, exist_ok=True)
    (repository / "refs" / "main").write_text(commit)
    save_model(model, repository / "snapshots" / commit)


def test_a_model_of_the_hub_is_the_commit_that_it_was_when_it_was_inspected(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is pushed later is another model, and neither loaded for the jobs that are there nor confused."""
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    old, new = "a" * 40, "b" * 40
    hub_commit(tmp_path, tiny_gpt_neox(seed=1), old)
    before = inspected(spec_of("org/model", "org/model")).pair
    hub_commit(tmp_path, tiny_gpt_neox(seed=2), new)
    after = inspected(spec_of("org/model")).pair

    assert (before.spec.target_revision, before.spec.draft_revision) == (old, old)
    assert (after.spec.target_revision, after.spec.draft_revision) == (new, None)
    assert before.target_digest == before.draft_digest != after.target_digest
    first, second = (load_pair(pair, CPU).peer_models(AR)[0] for pair in (before, after))
    for loaded_model, seed in ((first, 1), (second, 2)):
        own = tiny_gpt_neox(seed=seed).state_dict()
        assert all(torch.equal(weight, own[name]) for name, weight in loaded_model.state_dict().items())


@pytest.mark.parametrize(
    ("asked", "stored", "machine", "dtype"),
    [
        ("auto", "float16", "cpu", "float32"),
        ("auto", "float16", "cpu with bfloat16", "float32"),
        ("auto", "bfloat16", "cpu", "float32"),
        ("auto", "bfloat16", "cpu with bfloat16", "bfloat16"),
        ("auto", "float32", "cpu with bfloat16", "float32"),
        ("auto", None, "cpu with bfloat16", "float32"),
        ("auto", "bfloat16", "cuda", "bfloat16"),
        ("auto", None, "cuda", "float16"),
        ("bfloat16", "float16", "cpu", "bfloat16"),
        ("float32", "bfloat16", "cpu with bfloat16", "float32"),
        ("float32", "float16", "cuda", "float32"),
    ],
)
def test_the_dtype_is_the_one_asked_for_or_fits_the_machine(
    asked: str, stored: str | None, machine: str, dtype: str, model: Path
) -> None:
    device, *with_bfloat16 = machine.split(" with ")
    change_config(model, dtype=stored)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pairs, "multiplies_bfloat16", lambda: bool(with_bfloat16))
        assert inspect_pair(spec_of(model, dtype=asked), device=device).pair.dtype == dtype


@pytest.mark.parametrize(
    ("capabilities", "native"),
    [({"avx512_bf16": True}, True), ({"avx512_bf16": False}, False), ({"sve": True}, False), (None, False)],
)
def test_a_processor_s_bfloat16_is_asked_of_torch(
    capabilities: dict[str, bool] | None, native: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Which cannot tell where it is old."""
    monkeypatch.delattr(torch.cpu, "get_capabilities", raising=False)
    if capabilities is not None:
        monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: capabilities, raising=False)
    assert pairs.multiplies_bfloat16() is native


@pytest.mark.parametrize("backend", [Backend.EAGER, Backend.AUTO])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_a_pair_is_loaded_in_its_dtype(dtype: str, backend: Backend, saved: Path) -> None:
    pair = loaded(spec_of(saved / "target", saved / "draft", dtype=dtype), backend)
    assert pair.decoder.draft is not None
    assert str(pair.decoder.target.dtype) == str(pair.decoder.draft.dtype) == f"torch.{dtype}"


def test_code_that_a_model_brings_is_never_run(model: Path, tmp_path: Path) -> None:
    witness = tmp_path / "witness"
    (model / "custom.py").write_text(f"open({str(witness)!r}, 'w')\n")
    change_config(model, model_type="custom", auto_map={"AutoConfig": "custom.Config"})
    path = model / "tokenizer_config.json"
    remote = {"auto_map": {"AutoTokenizer": ["custom.Tokenizer", None]}, "tokenizer_class": "Tokenizer"}
    path.write_text(json.dumps(json.loads(path.read_text()) | remote))
    refusal(lambda: inspected(spec_of(model)))
    assert not witness.exists()


def test_code_is_not_trusted_where_the_architecture_is_known(
    saved: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trusted: list[object] = []
    for module, name in (
        (model_files, "AutoConfig"),
        (model_files, "AutoTokenizer"),
        (loading, "AutoModelForCausalLM"),
    ):
        monkeypatch.setattr(module, name, _Watched(getattr(module, name), trusted))
    loaded(spec_of(saved / "target", saved / "draft"))
    assert trusted
    assert all(value is False for value in trusted)


class _Watched:
    """A class of transformers' that notes with which trust it is asked to load."""

    def __init__(self, original: Any, trusted: list[object]) -> None:
        self._original, self._trusted = original, trusted

    def from_pretrained(self, *arguments: Any, **options: Any) -> Any:
        self._trusted.append(options.get("trust_remote_code"))
        return self._original.from_pretrained(*arguments, **options)


# -------------------------------------------------------------- the packaged pair


@pytest.fixture(scope="module")
def demo() -> pairs.LoadedPair:
    return loaded(DEMO)


def test_the_packaged_pair_loads_and_is_of_the_size_it_says(demo: pairs.LoadedPair) -> None:
    target, draft = demo.peer_models(Configuration(label="", method=Method.HF_ASSISTED, params={}))
    assert draft is not None
    assert 8e6 <= target.num_parameters() <= 11e6
    assert 0.5e6 <= draft.num_parameters() <= 1.5e6
    assert {target.config.model_type, draft.config.model_type} == {"gpt_neox"}


def test_the_packaged_files_are_at_most_24_megabytes() -> None:
    assert sum(path.stat().st_size for path in demo_folder().rglob("*") if path.is_file()) <= 24e6


def test_the_packaged_pair_has_room_for_the_four_step_example() -> None:
    positions = inspected(DEMO).position_limit
    assert positions is not None
    assert positions >= 128 + 64


@pytest.mark.parametrize("backend", [pytest.param(Backend.EAGER, marks=pytest.mark.slow), Backend.COMPILE])
def test_the_packaged_pair_is_exact_in_bfloat16(backend: Backend, request: pytest.FixtureRequest) -> None:
    """16-bit logits may tie, and then another kernel may choose the other; anything more is a violation.

    Our own kernels are the same for a tree and for one token: with them nothing ties.
    """
    allowed = {Exactness.EXACT, Exactness.TIE}
    if backend is Backend.COMPILE:
        request.getfixturevalue("compiler")
        allowed = {Exactness.EXACT}
    pair = loaded(PairSpec(name="demo", target="demo", draft="demo", dtype="bfloat16"), backend)
    chain = TopBranches(depth=6, branches=1, root_branches=1, threshold=0.0, max_nodes=6)
    tree = TopBranches(depth=7, branches=2, root_branches=2, threshold=0.05, max_nodes=255)
    prompts = load_prompts(PromptSpec(dataset="demo", limit=4, max_prompt_tokens=64), pair.tokenizer).prompts
    for temperature in (0.0, 1.0):
        generation = GenerationSpec(max_new_tokens=32, temperature=temperature)
        for prompt in prompts:
            for policy in (chain, tree):
                comparison = compared(pair.decoder, prompt.token_ids, generation, policy)
                assert comparison.exactness in allowed, comparison


def compared(
    decoder: Decoder, prompt: tuple[int, ...], generation: GenerationSpec, policy: TopBranches
) -> TokenComparison:
    reference = decoder.decode(prompt, generation, None, seed="0")
    emitted = decoder.decode(prompt, generation, policy, seed="0")
    return compare_tokens(
        decoder.target,
        prompt=prompt,
        reference=reference.token_ids,
        emitted=emitted.token_ids,
        generation=generation,
        seed="0",
    )
