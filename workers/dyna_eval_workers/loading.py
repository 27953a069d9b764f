"""Loading a pair on an actor: weights that are whole, and the fastest runner that computes what they say."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from transformers import AutoModelForCausalLM

from dyna_eval.errors import PairError, first_line
from dyna_eval.jobs import DEMO_LARGE, Backend, Configuration, Method, Pair
from dyna_eval_workers.architecture import attention_of, plain_logits, self_test
from dyna_eval_workers.cudagraph import GraphRunner
from dyna_eval_workers.decoding import Decoder
from dyna_eval_workers.enlarged import enlarge
from dyna_eval_workers.fused.runner import FusedRunner
from dyna_eval_workers.memory import give_back_freed, ran_out
from dyna_eval_workers.model_files import (
    ENLARGED,
    ModelFiles,
    draft_files,
    target_files,
    tokenizer_digest,
)
from dyna_eval_workers.native.runner import NativeRunner
from dyna_eval_workers.pairs import common_position_limit
from dyna_eval_workers.placement import check_spread, is_spread, spreading
from dyna_eval_workers.runner import Runner, TorchRunner


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadedPair:
    """A pair in memory that passed the self-test, its tokenizer, and the positions that both models have."""

    pair: Pair
    decoder: Decoder
    tokenizer: Any
    position_limit: int | None
    gpus: int = 1

    @property
    def backend(self) -> str:
        """What really runs the forward passes, and why nothing faster does where something could."""
        target, draft = self.decoder.target, self.decoder.draft
        texts = [_backend_text(runner) for runner in (target, draft) if runner is not None]
        return texts[0] if len(set(texts)) == 1 else f"{texts[0]}, draft {texts[1]}"

    def peer_models(self, configuration: Configuration) -> tuple[Any, Any | None]:
        """Load the transformers models that a peer needs, beside our own copy of the weights."""
        device = self.decoder.target.device
        target = _load_model(target_files(self.pair.spec), self.pair.dtype, device, gpus=self.gpus)
        draft = draft_files(self.pair.spec)
        if draft is None or configuration.method is not Method.HF_ASSISTED:
            return target, None
        return target, _load_model(draft, self.pair.dtype, device)


def _backend_text(runner: Runner) -> str:
    return f"{runner.backend} ({runner.fallback})" if runner.fallback else runner.backend


def load_pair(pair: Pair, device: torch.device, *, gpus: int = 1) -> LoadedPair:
    """Load both models onto the device and let them pass the tree self-test.

    With several GPUs the target is spread over them, and the draft is on the first one. Raises PairError with
    the reason where that fails.
    """
    target_source, draft_source = target_files(pair.spec), draft_files(pair.spec)
    target_source.check_unchanged(pair.target_digest)
    if draft_source is not None:
        draft_source.check_unchanged(pair.draft_digest)
    target = _load_runner(target_source, pair, device, gpus=gpus)
    draft = None if draft_source is None else _load_runner(draft_source, pair, device)
    with target_source.reading():
        tokenizer = target_source.tokenizer()
    if tokenizer_digest(tokenizer) != pair.tokenizer_digest:  # transformers makes one up where none is
        raise PairError(
            f"{target_source.name}: the tokenizer is missing, or changed since the sweep was submitted; "
            "put the same files there, or submit the sweep again"
        )
    give_back_freed()  # before any job's peak is counted
    decoder = Decoder(target, draft, vocabulary=len(tokenizer), end_tokens=pair.end_tokens)
    limit = common_position_limit(runner.position_limit for runner in (target, draft) if runner is not None)
    return LoadedPair(pair=pair, decoder=decoder, tokenizer=tokenizer, position_limit=limit, gpus=gpus)


def _load_runner(files: ModelFiles, pair: Pair, device: torch.device, *, gpus: int = 1) -> Runner:
    """Load a model and let its runner pass the tree self-test.

    Where our kernels cannot run a model, or do not compute what transformers computes, transformers' passes
    are captured as graphs, or run as they are.
    """
    loaded = _load_model(files, pair.dtype, device, gpus=gpus)
    with files.reading(failure="cannot run a tree"):
        expected, plain = plain_logits(loaded), TorchRunner(loaded)
        self_test(plain, expected, files.name)
        faster = _faster_runners(pair.backend, device)
        if faster and is_spread(loaded):
            plain.fallback = f"it is spread over {gpus} GPUs"
            return plain
        reasons: list[str] = []
        for kind in faster:
            try:
                runner = _runner_of(kind, loaded)
                self_test(runner, expected, files.name)
            except PairError as error:
                reasons.append(f"{kind.passes} fail the self-test: {_reason_of(error, files.name)}")
            except Exception as reason:  # BackendUnavailableError, or whatever Triton and torch raise here
                if ran_out(reason):
                    raise
                reasons.append(first_line(reason))
            else:
                runner.fallback = reasons[0] if reasons else ""
                return runner
        if not all(weight.numel() for weight in loaded.parameters()):  # the CPU's kernels have taken them
            plain = TorchRunner(_load_model(files, pair.dtype, device))
            plain.rounding_eps = expected.rounding_eps
        plain.fallback = "; ".join(reasons)
        return plain


def _runner_of(kind: type[NativeRunner | GraphRunner], model: Any) -> NativeRunner | GraphRunner:
    """Return a runner for a loaded model; the CPU's kernels take its weights, lest they be there twice."""
    return NativeRunner(model, takes_model=True) if kind is NativeRunner else kind(model)


def _reason_of(error: PairError, model: str) -> str:
    """Return what a self-test found, without the model's name, which is no fact of the environment, and
    without advice about the model: it has passed the test in transformers' code."""
    return first_line(error).removeprefix(f"{model}: ").partition(";")[0]


def _faster_runners(backend: Backend, device: torch.device) -> list[type[NativeRunner | GraphRunner]]:
    """Return what shall run the passes instead of transformers, the fastest first."""
    if backend is Backend.EAGER:
        return []
    return [NativeRunner] if device.type == "cpu" else [FusedRunner, GraphRunner]


def _load_model(files: ModelFiles, dtype: str, device: torch.device, *, gpus: int = 1) -> Any:
    """Load a transformers model, whole and finite, onto the device, or spread over several GPUs."""
    spread = gpus > 1 and device.type == "cuda" and files.name != DEMO_LARGE  # which fits any GPU
    with files.reading():
        placed = spreading(files.name) if spread else {}
        loaded, report = AutoModelForCausalLM.from_pretrained(
            files.location,
            revision=files.revision,
            dtype=getattr(torch, dtype),
            use_safetensors=True,
            trust_remote_code=False,
            attn_implementation=attention_of(files.config()),
            output_loading_info=True,
            **placed,
        )
    if files.name == DEMO_LARGE:
        width, layers = ENLARGED[files.role]
        loaded = enlarge(loaded, width=width, layers=layers)
    loaded.eval()
    if spread:
        check_spread(loaded, files.name, gpus=gpus)
    else:
        loaded.to(device)
    _check_weights(files.name, loaded, missing=sorted(report["missing_keys"]))
    return loaded


def _check_weights(model: str, loaded: Any, *, missing: list[str]) -> None:
    """Refuse weights that are not all there: transformers would fill the gaps with random numbers."""
    if missing:
        raise PairError(
            f"{model}: the weights lack {len(missing)} of the model's tensors, such as {missing[0]}; "
            "save or download the model again"
        )
    for name, weight in loaded.named_parameters():
        if not torch.isfinite(weight).all():
            dtype = str(weight.dtype).removeprefix("torch.")
            raise PairError(
                f"{model}: the weights hold NaN or infinity in {dtype} (in {name}); "
                "try another dtype, or save or download the model again"
            )
