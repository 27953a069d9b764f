"""One model of a pair: where its files are, what identifies them, and how they are read."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from enum import StrEnum
from importlib import resources
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from transformers import AutoConfig, AutoTokenizer, GenerationConfig
from transformers.utils import logging as transformers_logging
from transformers.utils import resolve_revision

from dyna_eval.errors import PairError, first_line
from dyna_eval.jobs import DEMO_LARGE, PACKAGED_PAIRS, PairSpec, digest
from dyna_eval.sweeps.sources import HUB_ID
from dyna_eval_workers.memory import ran_out

_UNREADABLE = "cannot be loaded"
_UNREADABLE_ON_HUB = "is no folder here, and cannot be loaded from the Hugging Face hub"


class Role(StrEnum):
    TARGET = "target"
    DRAFT = "draft"


ENLARGED = {Role.TARGET: (2, 24), Role.DRAFT: (1, 8)}
"""Width and layers of the large demo models: 116 M and 2.6 M parameters, 44 to 1 (Pythia-2.8B: 39)."""


def demo_folder() -> Path:
    """Return the folder of the packaged pair: target/, draft/ and prompts.jsonl."""
    return Path(str(resources.files("dyna_eval_workers") / "demo_pair"))


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelFiles:
    """The files of a model: those of the package, of a folder, or of a commit on the hub."""

    name: str
    """The folder, hub id or packaged pair, as the user wrote it."""
    role: Role
    revision: str | None = None

    @property
    def location(self) -> str:
        """The folder of the packaged model, or the user's folder or hub id as it is."""
        return str(demo_folder() / self.role) if self.name in PACKAGED_PAIRS else self.name

    @property
    def is_folder(self) -> bool:
        return Path(self.location).is_dir()

    def check_complete(self) -> None:
        """Raise PairError where a folder lacks what transformers needs, or where there is none."""
        folder = Path(self.location)
        if not folder.is_dir():
            if folder.is_absolute():
                raise PairError(
                    f"{self.name}: there is no such folder; every node needs the model at the same path"
                )
            if not HUB_ID.fullmatch(self.name):
                raise PairError(
                    f"{self.name}: there is no such folder, and it is no hub id such as org/name either"
                )
            return
        if not (folder / "config.json").is_file():
            raise PairError(
                f"{self.name}: the folder holds no config.json; point to a folder saved by save_pretrained"
            )
        if not any(folder.glob("*.safetensors")):
            raise PairError(
                f"{self.name}: the folder holds no *.safetensors; convert the weights with save_pretrained"
            )
        if not (any(folder.glob("tokenizer*")) or any(folder.glob("vocab*"))):
            raise PairError(
                f"{self.name}: the folder holds no tokenizer; save it there with tokenizer.save_pretrained"
            )

    def at_commit(self) -> ModelFiles:
        """Return the files of the commit that the revision on the hub is now; themselves where it is none."""
        if self.name in PACKAGED_PAIRS:
            return self
        known: Any = resolve_revision(self.name, self.revision)
        return replace(self, revision=getattr(known, "resolved", known))

    def config(self) -> Any:
        return AutoConfig.from_pretrained(self.location, revision=self.revision, trust_remote_code=False)

    def tokenizer(self) -> Any:
        return AutoTokenizer.from_pretrained(self.location, revision=self.revision, trust_remote_code=False)

    def generation_config(self, config: Any) -> Any:
        """Return how the model is meant to generate: by a file of its own, else by its configuration."""
        try:
            return GenerationConfig.from_pretrained(self.location, revision=self.revision)
        except OSError:  # there is no such file, and transformers does the same
            return GenerationConfig.from_model_config(config)

    def digest(self) -> str:
        """Return what identifies the model: the content of its folder, or its name and commit on the hub."""
        if not self.is_folder:
            return digest(["hub", self.name, self.revision])
        content = _folder_digest(Path(self.location))
        return digest(["enlarged", content, *ENLARGED[self.role]]) if self.name == DEMO_LARGE else content

    def check_unchanged(self, expected: str | None) -> None:
        """Refuse a folder whose content is not what the job's identity was made from."""
        if self.is_folder and self.digest() != expected:
            raise PairError(
                f"{self.name}: the folder changed since the sweep was submitted, or differs on this node; "
                "put the same files there, or submit the sweep again"
            )

    @contextmanager
    def reading(self, *, failure: str = "") -> Iterator[None]:
        """Turn what a library says while it reads or runs the model into one line, and keep its chatter away.

        `failure` is what a PairError says of the model, unless given that it cannot be loaded.
        """
        failure = failure or (_UNREADABLE if self.is_folder else _UNREADABLE_ON_HUB)
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
            damaged = isinstance(error, SafetensorError)
            advice = "; save or download the model again" if damaged else ""
            raise PairError(f"{self.name}: {failure}: {first_line(error)}{advice}") from error
        finally:
            transformers_logging.set_verbosity(level)
            if bars:
                transformers_logging.enable_progress_bar()


def target_files(spec: PairSpec) -> ModelFiles:
    return ModelFiles(name=spec.target, role=Role.TARGET, revision=spec.target_revision)


def draft_files(spec: PairSpec) -> ModelFiles | None:
    """Return the draft's files; None where the pair has no draft."""
    if spec.draft is None:
        return None
    return ModelFiles(name=spec.draft, role=Role.DRAFT, revision=spec.draft_revision)


def tokenizer_digest(tokenizer: Any) -> str:
    backend = getattr(tokenizer, "backend_tokenizer", None)
    return digest(
        [sorted(tokenizer.get_vocab().items()), backend.model.__class__.__name__ if backend else None]
    )


def _folder_digest(folder: Path) -> str:
    """Return the SHA-256 over configuration and weights, so that a moved folder is the same model."""
    total = hashlib.sha256()
    for path in [folder / "config.json", *sorted(folder.glob("*.safetensors"))]:
        with path.open("rb") as file:
            total.update(hashlib.file_digest(file, "sha256").digest())
    return total.hexdigest()
