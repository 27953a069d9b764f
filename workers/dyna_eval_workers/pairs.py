"""Model pairs: finding and checking them before anything runs, and loading them on an actor."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from enum import StrEnum
from importlib import resources
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer
from transformers.utils import logging as transformers_logging

from dyna_eval.errors import PairError, first_line
from dyna_eval.jobs import Pair, PairSpec, digest
from dyna_eval_workers.architecture import check_architecture, position_limit, self_test
from dyna_eval_workers.decoding import Decoder
from dyna_eval_workers.runner import Runner

DEMO = "demo"
"""Name of the packaged pair, of its models, and of its prompts."""


@dataclass(frozen=True, slots=True, kw_only=True)
class InspectedPair:
    """A pair that may run, its tokenizer, and the positions that both models have (None: no limit)."""

    pair: Pair
    tokenizer: Any
    positions: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadedPair:
    pair: Pair
    decoder: Decoder
    tokenizer: Any


def demo_folder() -> Path:
    """Return the folder of the packaged pair: target/, draft/ and prompts.jsonl."""
    return Path(str(resources.files("dyna_eval_workers") / "demo_pair"))


def available_device() -> str:
    return "cuda" if torch.cuda.is_available() else "cpu"


def inspect_pair(spec: PairSpec, *, device: str) -> InspectedPair:
    """Read a pair's configurations, tokenizers and digests; no weights are loaded.

    Raises PairError where a model is missing or unsupported, or where the two do not share a tokenizer.
    """
    target = _inspect_model(spec.target, _Role.TARGET, spec.target_revision)
    models = [target]
    if spec.draft is not None:
        draft = _inspect_model(spec.draft, _Role.DRAFT, spec.draft_revision)
        _check_same_tokenizer(target, draft)
        models.append(draft)
    limits = [limit for model in models if (limit := position_limit(model.config)) is not None]
    pair = Pair(
        spec=spec,
        dtype=_resolve_dtype(spec.dtype, target.config, device),
        target_digest=target.digest,
        draft_digest=models[1].digest if spec.draft is not None else None,
        tokenizer_digest=_tokenizer_digest(target.tokenizer),
    )
    return InspectedPair(pair=pair, tokenizer=target.tokenizer, positions=min(limits, default=None))


def load_pair(pair: Pair, device: torch.device) -> LoadedPair:
    """Load both models onto the device and let them pass the tree self-test.

    Raises PairError with the reason where that fails.
    """
    spec = pair.spec
    _check_unchanged(spec.target, _Role.TARGET, pair.target_digest)
    if spec.draft is not None:
        _check_unchanged(spec.draft, _Role.DRAFT, pair.draft_digest)
    target = _load_model(spec.target, _Role.TARGET, spec.target_revision, pair.dtype, device)
    draft = None
    if spec.draft is not None:
        draft = _load_model(spec.draft, _Role.DRAFT, spec.draft_revision, pair.dtype, device)
    with _loading(spec.target):
        tokenizer = AutoTokenizer.from_pretrained(
            _location(spec.target, _Role.TARGET), revision=spec.target_revision, trust_remote_code=False
        )
    decoder = Decoder(target, draft, vocabulary=len(tokenizer), end_of_text=tokenizer.eos_token_id)
    return LoadedPair(pair=pair, decoder=decoder, tokenizer=tokenizer)


@dataclass(frozen=True, slots=True, kw_only=True)
class _InspectedModel:
    name: str
    config: Any
    tokenizer: Any
    digest: str


class _Role(StrEnum):
    TARGET = "target"
    DRAFT = "draft"


def _location(model: str, role: _Role) -> str:
    """Return the folder of the packaged model, or the user's folder or hub id as it is."""
    return str(demo_folder() / role) if model == DEMO else model


def _inspect_model(model: str, role: _Role, revision: str | None) -> _InspectedModel:
    location = _location(model, role)
    folder = Path(location)
    if folder.is_dir():
        _check_folder(folder, model)
    elif folder.is_absolute():
        raise PairError(f"{model}: there is no such folder; every node needs the model at the same path")
    with _loading(model):
        config = AutoConfig.from_pretrained(location, revision=revision, trust_remote_code=False)
        check_architecture(config, model)
        tokenizer = AutoTokenizer.from_pretrained(location, revision=revision, trust_remote_code=False)
    if folder.is_dir():
        content = _folder_digest(folder)
    else:
        content = digest(["hub", model, getattr(config, "_commit_hash", None) or revision])
    return _InspectedModel(name=model, config=config, tokenizer=tokenizer, digest=content)


def _check_folder(folder: Path, model: str) -> None:
    if not (folder / "config.json").is_file():
        raise PairError(
            f"{model}: the folder holds no config.json; point to a folder saved by save_pretrained"
        )
    if not any(folder.glob("*.safetensors")):
        raise PairError(
            f"{model}: the folder holds no *.safetensors; convert the weights with save_pretrained"
        )
    if not (any(folder.glob("tokenizer*")) or any(folder.glob("vocab*"))):
        raise PairError(
            f"{model}: the folder holds no tokenizer; save it there with tokenizer.save_pretrained"
        )


def _folder_digest(folder: Path) -> str:
    """Return the SHA-256 over configuration and weights, so that a moved folder is the same model."""
    total = hashlib.sha256()
    for path in [folder / "config.json", *sorted(folder.glob("*.safetensors"))]:
        with path.open("rb") as file:
            total.update(hashlib.file_digest(file, "sha256").digest())
    return total.hexdigest()


def _check_unchanged(model: str, role: _Role, expected: str | None) -> None:
    """Refuse a folder whose content is not what the job's identity was made from."""
    folder = Path(_location(model, role))
    if folder.is_dir() and _folder_digest(folder) != expected:
        raise PairError(
            f"{model}: the folder changed since the sweep was submitted, or differs on this node; "
            "put the same files there, or submit the sweep again"
        )


def _check_same_tokenizer(target: _InspectedModel, draft: _InspectedModel) -> None:
    ours, theirs = target.tokenizer.get_vocab(), draft.tokenizer.get_vocab()
    if ours == theirs:
        return
    different = sum(ours.get(token) != index for token, index in theirs.items())
    raise PairError(
        f"{target.name} and {draft.name} have different tokenizers ({len(ours)} and {len(theirs)} tokens, "
        f"{different} of the draft's differ); choose a draft of the same family"
    )


def _tokenizer_digest(tokenizer: Any) -> str:
    backend = getattr(tokenizer, "backend_tokenizer", None)
    return digest(
        [sorted(tokenizer.get_vocab().items()), backend.model.__class__.__name__ if backend else None]
    )


def _resolve_dtype(dtype: str, config: Any, device: str) -> str:
    """`auto` is float32 on a CPU and the checkpoint's own dtype on a GPU (float16 where it names none)."""
    if dtype != "auto":
        return dtype
    if device == "cpu":
        return "float32"
    stored = getattr(config.get_text_config(), "dtype", None)
    return str(stored or torch.float16).removeprefix("torch.")


def _load_model(model: str, role: _Role, revision: str | None, dtype: str, device: torch.device) -> Runner:
    with _loading(model):
        loaded, report = AutoModelForCausalLM.from_pretrained(
            _location(model, role),
            revision=revision,
            dtype=getattr(torch, dtype),
            use_safetensors=True,
            trust_remote_code=False,
            attn_implementation="sdpa",
            output_loading_info=True,
        )
    loaded.eval().to(device)
    _check_weights(model, loaded, missing=sorted(report["missing_keys"]))
    with _loading(model, failure="cannot run a tree"):
        runner = Runner(loaded)
        self_test(runner, model)
    return runner


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


@contextmanager
def _loading(model: str, *, failure: str = "cannot be loaded") -> Iterator[None]:
    """Turn what a library says while it reads or runs a model into one line, and keep its chatter away."""
    level, bars = transformers_logging.get_verbosity(), transformers_logging.is_progress_bar_enabled()
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    logging.getLogger("huggingface_hub").setLevel(logging.ERROR)
    try:
        yield
    except (PairError, MemoryError, torch.OutOfMemoryError):
        raise  # memory is the machine's fault: another try, on a fresh actor, may succeed
    except Exception as error:  # the libraries raise OSError, ValueError, KeyError, SafetensorError, ...
        raise PairError(f"{model}: {failure}: {first_line(error)}") from error
    finally:
        transformers_logging.set_verbosity(level)
        if bars:
            transformers_logging.enable_progress_bar()
