"""A runner whose forward passes are the kernels of `transformer.cpp`."""

from __future__ import annotations

import ctypes
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from dyna_eval_workers.native import kernels
from dyna_eval_workers.native.weights import Weights
from dyna_eval_workers.rounding import ROUNDING_EPS
from dyna_eval_workers.runner import COMMITTED, position_limit
from dyna_eval_workers.sampling import Sampler
from dyna_eval_workers.stack import rotary_tables

_PREFILL_TOKENS = 128  # tokens of a prompt in one pass: bounds the memory for activations


class NativeRunner:
    """Runs a model of a known family on a CPU; raises NoKernelsError or UnsupportedModelError if it cannot.

    The weights are copied: the transformers model may be dropped. With `takes_model` it must be, for its own
    are freed, one layer after the other, so that no more than one is in memory twice.
    """

    backend = "compile"
    fallback = ""
    bit_exact = True
    passes = "the kernels"
    """Their name in messages, as in "the kernels fail the self-test"."""

    def __init__(self, model: Any, *, threads: int | None = None, takes_model: bool = False) -> None:
        self._kernels = kernels()
        self._panel = self._kernels.dyna_panel()
        self._weights = Weights(
            model, threads=threads or torch.get_num_threads(), panel=self._panel, takes_model=takes_model
        )
        self.vocabulary = self._weights.vocabulary
        self.position_limit = position_limit(model.config)
        self.dtype, self.device = next(model.parameters()).dtype, torch.device("cpu")
        self.rounding_eps = ROUNDING_EPS[self.dtype]
        self._state = self._kernels.dyna_open(
            ctypes.addressof(self._weights.model), ctypes.addressof(self._weights.layers)
        )
        self._capacity = 0
        self._tables: tuple[Tensor, Tensor] | None = None
        self._length = 0
        self._rows = 0  # logits of the latest pass
        self._ensure_room(1)

    def __del__(self) -> None:
        if state := getattr(self, "_state", None):
            self._kernels.dyna_close(state)

    @property
    def length(self) -> int:
        return self._length

    def reserve(self, capacity: int) -> None:
        if capacity > self._capacity:
            self._tables = rotary_tables(self._weights.rotary, capacity, self.device)
            self._capacity = capacity
        cosine, sine = (table.data_ptr() for table in self._tables) if self._tables else (None, None)
        if not self._kernels.dyna_reserve(self._state, capacity, cosine, sine):
            raise MemoryError(f"no memory for a cache of {capacity} tokens")
        self._length = 0

    def warm_up(
        self,
        nodes: Iterable[int],
        *,
        shortest: int,
        longest: int,
        greedy: bool = True,
        proposable: int | None = None,
        branch: int = 1,
    ) -> None:
        """Do nothing: the kernels have no shapes to prepare."""

    def prefill(self, tokens: Sequence[int]) -> None:
        for start in range(0, len(tokens), _PREFILL_TOKENS):
            part = tokens[start : start + _PREFILL_TOKENS]
            self._pass(part, range(COMMITTED, len(part) - 1), logits_from=len(part))
            self.keep(range(len(part)))

    def extend(self, tokens: Sequence[int], parents: Sequence[int], *, last_only: bool = False) -> None:
        self._pass(tokens, parents, logits_from=len(tokens) - 1 if last_only else 0)

    def keep(self, rows: Sequence[int]) -> None:
        count = len(rows)
        self._ensure_room(count)
        self._tokens[:count] = rows
        self._kernels.dyna_keep(self._state, self._tokens_at, count)
        self._length += count

    def choose(self, sampler: Sampler) -> list[int]:
        if not self._kernels.dyna_choose(self._state, sampler.temperature, sampler.key, self._tokens_at):
            raise MemoryError(f"no memory for the scores of {self.vocabulary} tokens")
        chosen: list[int] = self._tokens[: self._rows].tolist()
        return chosen

    def top_k(
        self, branch: int, sampler: Sampler, proposable: int
    ) -> tuple[list[list[int]], list[list[float]]]:
        self._ensure_room(self._rows * branch)
        if not self._kernels.dyna_top_k(
            self._state,
            branch,
            proposable,
            sampler.temperature,
            sampler.key,
            self._tokens_at,
            self._scores_at,
        ):
            raise MemoryError(f"no memory for the scores of {self.vocabulary} tokens")
        size = self._rows * branch
        tokens = self._tokens[:size].reshape(self._rows, branch)
        return tokens.tolist(), self._scores[:size].reshape(self._rows, branch).tolist()

    def logits(self) -> Tensor:
        stride = -(-self.vocabulary // self._panel) * self._panel
        address = self._kernels.dyna_logits(self._state)
        rows = np.ctypeslib.as_array(
            ctypes.cast(address, ctypes.POINTER(ctypes.c_float)), shape=(self._rows, stride)
        )
        return torch.from_numpy(rows[:, : self.vocabulary])

    def _pass(self, tokens: Sequence[int], parents: Sequence[int], *, logits_from: int) -> None:
        count = len(tokens)
        self._ensure_room(count)
        self._tokens[:count] = tokens
        self._parents[:count] = parents
        if not self._kernels.dyna_extend(self._state, self._tokens_at, self._parents_at, count, logits_from):
            raise MemoryError(f"no memory for a pass of {count} tokens")
        self._rows = count - logits_from

    def _ensure_room(self, size: int) -> None:
        """Make room for `size` entries in the arrays that the kernels read and write."""
        if size <= len(getattr(self, "_tokens", ())):
            return
        size = max(256, 2 * size)
        self._tokens = np.zeros(size, dtype=np.int32)
        self._parents = np.zeros(size, dtype=np.int32)
        self._scores = np.zeros(size, dtype=np.float32)
        self._tokens_at, self._parents_at, self._scores_at = (
            array.ctypes.data for array in (self._tokens, self._parents, self._scores)
        )
