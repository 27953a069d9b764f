"""A key/value cache written and compacted in place.

`DynamicCache` concatenates the whole cache at every step. This one is a single preallocated tensor per
model: a forward pass writes its rows after those there are, and `move` puts the accepted rows together
in all layers at once. A model that is spread over several devices has one such tensor on each.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

import torch
from torch import Tensor
from transformers.cache_utils import Cache, CacheLayerMixin


@dataclass(slots=True)
class _Written:
    """How many rows were written: one count, which all layers share."""

    rows: int = 0


class PreallocatedLayer(CacheLayerMixin):  # type: ignore[misc]  # transformers is not typed
    """One layer's view of the shared buffer; `rows` is (2, 1, H, capacity, D), keys then values."""

    is_sliding = False

    def __init__(self, rows: Tensor, written: _Written) -> None:
        super().__init__()
        self.keys, self.values = rows[0], rows[1]
        self.is_initialized = True
        self._written = written

    def lazy_initialization(self, key_states: Tensor, value_states: Tensor) -> None:
        """Nothing to do: the buffer exists before the first forward pass."""

    def update(self, key_states: Tensor, value_states: Tensor, *_: Any, **__: Any) -> tuple[Tensor, Tensor]:
        """Write the new rows after the others and return all of them, as views, (1, H, rows, D)."""
        start = self._written.rows
        end = start + key_states.shape[-2]
        self.keys[:, :, start:end] = key_states
        self.values[:, :, start:end] = value_states
        return self.keys[:, :, :end], self.values[:, :, :end]

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        return self._written.rows + query_length, 0

    def get_seq_length(self) -> int:
        return self._written.rows

    def get_max_length(self) -> int:
        return int(self.keys.shape[-2])


class PreallocatedCache(Cache):  # type: ignore[misc]  # transformers is not typed
    """The cache of one model for one sequence; `devices` says where each layer lies.

    `length` counts the committed rows, `written` all rows: the uncommitted ones come after those.
    Nothing is committed until `move` has put the accepted rows together and `commit` says how many stay.
    """

    def __init__(
        self,
        *,
        heads: int,
        head_size: int,
        capacity: int,
        dtype: torch.dtype,
        devices: Sequence[torch.device],
    ) -> None:
        # (layers, keys or values, batch 1, heads, rows, head size)
        self.blocks = [
            torch.zeros(len(list(alike)), 2, 1, heads, capacity, head_size, dtype=dtype, device=device)
            for device, alike in groupby(devices)
        ]
        self._written = _Written()
        layers = [PreallocatedLayer(rows, self._written) for block in self.blocks for rows in block]
        super().__init__(layers=layers)
        self.capacity, self.length = capacity, 0

    @property
    def written(self) -> int:
        return self._written.rows

    def advance(self, count: int) -> None:
        """Count the rows that a forward pass just wrote."""
        self._written.rows += count

    def commit(self, count: int) -> None:
        """Commit the first `count` uncommitted rows and forget the rest."""
        self.length += count
        self._written.rows = self.length

    def move(self, sources: Tensor, targets: Tensor) -> None:
        """Copy rows onto others, both (K,), in all layers; all are read before any is written."""
        for rows in self.blocks:
            moved = rows.index_select(-2, sources.to(rows.device))
            rows.index_copy_(-2, targets.to(rows.device), moved)

    def clear(self) -> None:
        """Forget every row."""
        self.length = self._written.rows = 0
