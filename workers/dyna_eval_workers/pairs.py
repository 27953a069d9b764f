"""Model pairs: finding and checking them before anything runs, and loading them on an actor."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from enum import StrEnum
from importlib import resources
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer
from transformers.utils import logging as transformers_logging
from transformers.utils import resolve_revision

from dyna_eval.errors import PairError, first_line
from dyna_eval.jobs import DEMO_LARGE, PACKAGED_PAIRS, Backend, Configuration, Method, Pair, PairSpec, digest
from dyna_eval.sources import HUB_ID
from dyna_eval_workers.architecture import check_architecture, plain_logits, self_test
from dyna_eval_workers.cudagraph import CaptureError, GraphRunner
from dyna_eval_workers.decoding import Decoder
from dyna_eval_workers.enlarged import enlarge
from dyna_eval_workers.families import UnsupportedModelError
from dyna_eval_workers.fused.runner import FusedRunner
from dyna_eval_workers.memory import ran_out
from dyna_eval_workers.native import NoKernelsError
from dyna_eval_workers.native.runner import NativeRunner
from dyna_eval_workers.placement import check_spread, is_spread, spreading
from dyna_eval_workers.runner import Runner, TorchRunner, position_limit, vocabulary_size


@dataclass(frozen=True, slots=True, kw_only=True)
class InspectedPair:
    """A pair that may run, and its tokenizer.

    `vocabulary` counts the target's tokens, `positions` what both models have (None: no limit).
    """

    pair: Pair
    tokenizer: Any
    vocabulary: int
    positions: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadedPair:
    """A pair in memory that passed the self-test, its tokenizer, and the positions that both models have."""

    pair: Pair
    decoder: Decoder
    tokenizer: Any
    positions: int | None
    gpus: int = 1

    @property
    def backend(self) -> str:
        """What really runs the forward passes, and why nothing faster does where something could."""
        target, draft = self.decoder.target.backend, self.decoder.draft and self.decoder.draft.backend
        return target if draft in (None, target) else f"{target}, draft {draft}"

    def peer_models(self, configuration: Configuration) -> tuple[Any, Any | None]:
        """Load the transformers models that a peer needs, beside our own copy of the weights."""
        spec, device = self.pair.spec, self.decoder.target.device
        target = _load_model(
            spec.target, _Role.TARGET, spec.target_revision, self.pair.dtype, device, gpus=self.gpus
        )
        if spec.draft is None or configuration.method is not Method.HF_ASSISTED:
            return target, None
        return target, _load_model(spec.draft, _Role.DRAFT, spec.draft_revision, self.pair.dtype, device)


def demo_folder() -> Path:
    """Return the folder of the packaged pair: target/, draft/ and prompts.jsonl."""
    return Path(str(resources.files("dyna_eval_workers") / "demo_pair"))


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
    target = _inspect_model(spec.target, _Role.TARGET, spec.target_revision)
    models, draft = [target], None
    if spec.draft is not None:
        draft = _inspect_model(spec.draft, _Role.DRAFT, spec.draft_revision)
        _check_same_tokenizer(target, draft)
        models.append(draft)
    pair = Pair(
        spec=replace(spec, target_revision=target.revision, draft_revision=draft.revision if draft else None),
        dtype=_resolve_dtype(spec.dtype, target.config, device),
        backend=backend,
        target_digest=target.digest,
        draft_digest=draft.digest if draft else None,
        tokenizer_digest=_tokenizer_digest(target.tokenizer),
    )
    positions = _common_positions(position_limit(model.config) for model in models)
    vocabulary = vocabulary_size(target.config)
    return InspectedPair(pair=pair, tokenizer=target.tokenizer, vocabulary=vocabulary, positions=positions)


def load_pair(pair: Pair, device: torch.device, *, gpus: int = 1) -> LoadedPair:
    """Load both models onto the device and let them pass the tree self-test.

    With several GPUs the target is spread over them, and the draft is on the first one. Raises PairError with
    the reason where that fails.
    """
    spec = pair.spec
    _check_unchanged(spec.target, _Role.TARGET, pair.target_digest)
    if spec.draft is not None:
        _check_unchanged(spec.draft, _Role.DRAFT, pair.draft_digest)
    target = _load_runner(spec.target, _Role.TARGET, spec.target_revision, pair, device, gpus=gpus)
    draft = None
    if spec.draft is not None:
        draft = _load_runner(spec.draft, _Role.DRAFT, spec.draft_revision, pair, device)
    with _loading(spec.target):
        tokenizer = _load_tokenizer(spec.target, _Role.TARGET, spec.target_revision)
    if _tokenizer_digest(tokenizer) != pair.tokenizer_digest:  # transformers makes one up where none is
        raise PairError(
            f"{spec.target}: the tokenizer is missing, or changed since the sweep was submitted; "
            "put the same files there, or submit the sweep again"
        )
    decoder = Decoder(target, draft, vocabulary=len(tokenizer), end_of_text=tokenizer.eos_token_id)
    positions = _common_positions(runner.positions for runner in (target, draft) if runner is not None)
    return LoadedPair(pair=pair, decoder=decoder, tokenizer=tokenizer, positions=positions, gpus=gpus)


def _common_positions(limits: Iterable[int | None]) -> int | None:
    """Return how many positions all models have; None where none states a limit."""
    return min((limit for limit in limits if limit is not None), default=None)


@dataclass(frozen=True, slots=True, kw_only=True)
class _InspectedModel:
    name: str
    revision: str | None
    config: Any
    tokenizer: Any
    digest: str


class _Role(StrEnum):
    TARGET = "target"
    DRAFT = "draft"


_ENLARGED = {_Role.TARGET: (2, 24), _Role.DRAFT: (1, 8)}
"""Width and layers of the large demo models: 99 M and 2.1 M parameters, the ratio of Pythia-2.8B and 70M."""


def _location(model: str, role: _Role) -> str:
    """Return the folder of the packaged model, or the user's folder or hub id as it is."""
    return str(demo_folder() / role) if model in PACKAGED_PAIRS else model


def _inspect_model(model: str, role: _Role, revision: str | None) -> _InspectedModel:
    location = _location(model, role)
    folder = Path(location)
    if folder.is_dir():
        _check_folder(folder, model)
    elif folder.is_absolute():
        raise PairError(f"{model}: there is no such folder; every node needs the model at the same path")
    elif not HUB_ID.fullmatch(model):
        raise PairError(f"{model}: there is no such folder, and it is no hub id such as org/name either")
    revision = _commit(model, revision)
    with _loading(model, failure=_UNREADABLE if folder.is_dir() else _UNREADABLE_ON_HUB):
        config = AutoConfig.from_pretrained(location, revision=revision, trust_remote_code=False)
        check_architecture(config, model)
        tokenizer = _load_tokenizer(model, role, revision)
    content = _content_digest(model, folder, role) if folder.is_dir() else digest(["hub", model, revision])
    return _InspectedModel(name=model, revision=revision, config=config, tokenizer=tokenizer, digest=content)


def _commit(model: str, revision: str | None) -> str | None:
    """Return the commit that a revision on the hub is now; the revision where it is none, or unknown."""
    if model in PACKAGED_PAIRS:
        return revision
    known: str | None = resolve_revision(model, revision)
    commit: str | None = getattr(known, "resolved", known)
    return commit


def _load_tokenizer(model: str, role: _Role, revision: str | None) -> Any:
    return AutoTokenizer.from_pretrained(_location(model, role), revision=revision, trust_remote_code=False)


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


def _content_digest(model: str, folder: Path, role: _Role) -> str:
    content = _folder_digest(folder)
    return digest(["enlarged", content, *_ENLARGED[role]]) if model == DEMO_LARGE else content


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
    if folder.is_dir() and _content_digest(model, folder, role) != expected:
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


def _load_runner(
    model: str, role: _Role, revision: str | None, pair: Pair, device: torch.device, *, gpus: int = 1
) -> Runner:
    """Load a model and let its runner pass the tree self-test.

    Where our kernels cannot run a model, or do not compute what transformers computes, transformers' passes
    are captured as graphs, or run as they are.
    """
    loaded = _load_model(model, role, revision, pair.dtype, device, gpus=gpus)
    with _loading(model, failure="cannot run a tree"):
        expected, plain = plain_logits(loaded), TorchRunner(loaded)
        self_test(plain, expected, model)
        faster = _faster_runners(pair.backend, device)
        if faster and is_spread(loaded):
            plain.backend = f"eager (it is spread over {gpus} GPUs)"
            return plain
        reasons: list[str] = []
        for kind in faster:
            try:
                runner = kind(loaded)
                self_test(runner, expected, model)
            except (NoKernelsError, UnsupportedModelError, CaptureError) as reason:
                reasons.append(first_line(reason))
            except PairError:  # its text names the model, which is no fact of the environment
                reasons.append(f"{kind.passes} fail the self-test")
            else:
                runner.backend += f" ({reasons[0]})" if reasons else ""
                return runner
        plain.backend += f" ({'; '.join(reasons)})" if reasons else ""
        return plain


def _faster_runners(backend: Backend, device: torch.device) -> list[type[NativeRunner | GraphRunner]]:
    """Return what shall run the passes instead of transformers, the fastest first."""
    if backend is Backend.EAGER:
        return []
    return [NativeRunner] if device.type == "cpu" else [FusedRunner, GraphRunner]


def _load_model(
    model: str, role: _Role, revision: str | None, dtype: str, device: torch.device, *, gpus: int = 1
) -> Any:
    """Load a transformers model, whole and finite, onto the device, or spread over several GPUs."""
    spread = gpus > 1 and device.type == "cuda" and model != DEMO_LARGE  # which fits any GPU
    with _loading(model):
        placed = spreading(model) if spread else {}
        loaded, report = AutoModelForCausalLM.from_pretrained(
            _location(model, role),
            revision=revision,
            dtype=getattr(torch, dtype),
            use_safetensors=True,
            trust_remote_code=False,
            attn_implementation="sdpa",
            output_loading_info=True,
            **placed,
        )
    if model == DEMO_LARGE:
        width, layers = _ENLARGED[role]
        loaded = enlarge(loaded, width=width, layers=layers)
    loaded.eval()
    if spread:
        check_spread(loaded, model, gpus=gpus)
    else:
        loaded.to(device)
    _check_weights(model, loaded, missing=sorted(report["missing_keys"]))
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


_UNREADABLE = "cannot be loaded"
_UNREADABLE_ON_HUB = "is no folder here, and cannot be loaded from the Hugging Face hub"


@contextmanager
def _loading(model: str, *, failure: str = _UNREADABLE) -> Iterator[None]:
    """Turn what a library says while it reads or runs a model into one line, and keep its chatter away."""
    level, bars = transformers_logging.get_verbosity(), transformers_logging.is_progress_bar_enabled()
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    logging.getLogger("huggingface_hub").setLevel(logging.ERROR)
    try:
        yield
    except PairError:
        raise
    except Exception as error:  # the libraries raise OSError, ValueError, KeyError, SafetensorError, ...
        if ran_out(error):  # the machine's fault: another try, on a fresh actor, may succeed
            raise
        raise PairError(f"{model}: {failure}: {first_line(error)}") from error
    finally:
        transformers_logging.set_verbosity(level)
        if bars:
            transformers_logging.enable_progress_bar()
