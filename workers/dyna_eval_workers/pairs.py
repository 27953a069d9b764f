"""Model pairs before anything runs: whether two may run together, in which dtype, what identifies them."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any

import torch

from dyna_eval.errors import PairError
from dyna_eval.jobs import Backend, Pair, PairSpec
from dyna_eval_workers.architecture import check_architecture
from dyna_eval_workers.model_files import ModelFiles, draft_files, target_files, tokenizer_digest
from dyna_eval_workers.runner import position_limit, vocabulary_size


@dataclass(frozen=True, slots=True, kw_only=True)
class InspectedPair:
    """A pair that may run, and its tokenizer.

    `vocabulary` counts the target's tokens, `position_limit` what both models have (None: no limit).
    """

    pair: Pair
    tokenizer: Any
    vocabulary: int
    position_limit: int | None


def available_device() -> str:
    return "cuda" if torch.cuda.is_available() else "cpu"


def multiplies_bfloat16() -> bool:
    """Whether this machine's processor has instructions for products of bfloat16 numbers."""
    capabilities: dict[str, Any] = getattr(torch.cpu, "get_capabilities", dict)()  # not in older torch
    return bool(capabilities.get("avx512_bf16"))


def inspect_pair(spec: PairSpec, *, device: str, backend: Backend = Backend.AUTO) -> InspectedPair:
    """Read a pair's configurations, tokenizers and digests; no weights are loaded.

    The revision of a model on the hub becomes the commit that it is now, so that every job loads that one.
    Raises PairError where a model is missing or unsupported, where the two do not share a tokenizer, or where
    the backend is not one for the device.
    """
    _check_backend(backend, device)
    target, draft_source = _inspect_model(target_files(spec)), draft_files(spec)
    models, draft = [target], None
    if draft_source is not None:
        draft = _inspect_model(draft_source)
        _check_same_tokenizer(target, draft)
        models.append(draft)
    pair = Pair(
        spec=replace(
            spec,
            target_revision=target.files.revision,
            draft_revision=draft.files.revision if draft else None,
        ),
        dtype=_resolve_dtype(spec.dtype, target.config, device),
        backend=backend,
        target_digest=target.files.digest(),
        draft_digest=draft.files.digest() if draft else None,
        tokenizer_digest=tokenizer_digest(target.tokenizer),
        end_tokens=target.end_tokens(),
    )
    limit = common_position_limit(position_limit(model.config) for model in models)
    vocabulary = vocabulary_size(target.config)
    return InspectedPair(pair=pair, tokenizer=target.tokenizer, vocabulary=vocabulary, position_limit=limit)


def common_position_limit(limits: Iterable[int | None]) -> int | None:
    """Return how many positions all models have; None where none states a limit."""
    return min((limit for limit in limits if limit is not None), default=None)


@dataclass(frozen=True, slots=True, kw_only=True)
class _InspectedModel:
    files: ModelFiles
    config: Any
    tokenizer: Any

    def end_tokens(self) -> tuple[int, ...]:
        """Return the tokenizer's end token, and those at which `generate` stops by itself, ascending."""
        with self.files.reading():
            named = self.files.generation_config(self.config).eos_token_id
        named = named if isinstance(named, list) else [named]
        return tuple(sorted({*named, self.tokenizer.eos_token_id} - {None}))


def _inspect_model(files: ModelFiles) -> _InspectedModel:
    files.check_complete()
    files = files.at_commit()
    with files.reading():
        config = files.config()
        check_architecture(config, files.name)
        return _InspectedModel(files=files, config=config, tokenizer=files.tokenizer())


def _check_same_tokenizer(target: _InspectedModel, draft: _InspectedModel) -> None:
    ours, theirs = target.tokenizer.get_vocab(), draft.tokenizer.get_vocab()
    if ours == theirs:
        return
    different = sum(ours.get(token) != index for token, index in theirs.items())
    raise PairError(
        f"{target.files.name} and {draft.files.name} have different tokenizers "
        f"({len(ours)} and {len(theirs)} tokens, {different} of the draft's differ); "
        "choose a draft of the same family"
    )


def _check_backend(backend: Backend, device: str) -> None:
    if backend is Backend.COMPILE and device != "cpu":
        raise PairError("engine.backend: compile is for CPUs; leave it at auto, or choose eager")
    if backend is Backend.CUDAGRAPH and device != "cuda":
        raise PairError(
            "engine.backend: cudagraph needs a CUDA device, and there is none; "
            "leave it at auto, or choose eager"
        )


def _resolve_dtype(dtype: str, config: Any, device: str) -> str:
    """Return what `auto` is: on a GPU the checkpoint's own dtype (float16 where it names none).

    On a CPU it is bfloat16 for a checkpoint that is stored so, where the processor multiplies bfloat16
    natively, else float32: a checkpoint in float16 would lose bits in bfloat16.
    """
    if dtype != "auto":
        return dtype
    stored = str(getattr(config.get_text_config(), "dtype", None) or "float16").removeprefix("torch.")
    if device == "cpu":
        return "bfloat16" if stored == "bfloat16" and multiplies_bfloat16() else "float32"
    return stored
