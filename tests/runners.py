"""Decoders over tiny models, with every kind of runner."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from dyna_eval_workers.cache import PreallocatedCache
from dyna_eval_workers.decoding import Decoder
from dyna_eval_workers.native import kernels
from dyna_eval_workers.native.runner import NativeRunner
from dyna_eval_workers.runner import Runner, TorchRunner
from torch import Tensor

from dyna_eval.errors import NoKernelsError
from tests.models import VOCABULARY


def native_runner(model: Any) -> Runner:
    try:
        kernels()
    except NoKernelsError as reason:
        pytest.skip(str(reason))
    return NativeRunner(model, threads=1)


RUNNERS: dict[str, Callable[[Any], Runner]] = {"eager": TorchRunner, "compile": native_runner}


def decoder(target: Any, draft: Any | None, *, backend: str = "eager", **changes: Any) -> Decoder:
    """Return a decoder for models; `changes` are arguments of `Decoder`."""
    settings: dict[str, Any] = {"vocabulary": VOCABULARY, "end_tokens": [0]} | changes
    make = RUNNERS[backend]
    return Decoder(make(target), None if draft is None else make(draft), **settings)


def rows_of(cache: PreallocatedCache) -> Tensor:
    """Return the rows of all layers of a cache, which lie on one device."""
    [rows] = cache.blocks
    return rows
