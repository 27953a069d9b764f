"""A key/value cache written and compacted in place.

`DynamicCache` concatenates the whole cache at every step. This one is a single preallocated tensor per
model: a forward pass writes its rows behind the committed ones, and `keep` moves the accepted rows
together for all layers at once. A model that is spread over several devices has one such tensor on each.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby
from typing import Any

import torch
from torch import Tensor
from transformers.cache_utils import Cache, CacheLayerMixin


class PreallocatedLayer(CacheLayerMixin):  # type: ignore[misc]  # transformers is not typed
    """One layer's view of the shared buffer; `rows` is (2, 1, H, capacity, D), keys then values."""

    is_sliding = False

    def __init__(self, rows: Tensor) -> None:
        super().__init__()
        self.keys, self.values = rows[0], rows[1]
        self.is_initialized = True
        self.length = 0  # rows written, kept equal over all layers by the cache

    def lazy_initialization(self, key_states: Tensor, value_states: Tensor) -> None:
        """Nothing to do: the buffer exists before the first forward pass."""

    def update(self, key_states: Tensor, value_states: Tensor, *_: Any, **__: Any) -> tuple[Tensor, Tensor]:
        """Write the new rows behind the others and return all of them, as views."""
        end = self.length + key_states.shape[-2]
        self.keys[:, :, self.length : end] = key_states
        self.values[:, :, self.length : end] = value_states
        return self.keys[:, :, :end], self.values[:, :, :end]

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        return self.length + query_length, 0

    def get_seq_length(self) -> int:
        return self.length

    def get_max_length(self) -> int:
        return int(self.keys.shape[-2])


class PreallocatedCache(Cache):  # type: ignore[misc]  # transformers is not typed
    """The cache of one model for one sequence; `devices` says where each layer lies.

    `length` counts the committed rows, `written` those plus the ones that forward passes wrote behind
    them. Nothing is committed until `keep` or `commit` says which of the written rows stay.
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
        super().__init__(layers=[PreallocatedLayer(rows) for block in self.blocks for rows in block])
        self.length = 0
        self.written = 0

    @property
    def capacity(self) -> int:
        return int(self.blocks[0].shape[-2])

    def advance(self, count: int) -> None:
        """Count the rows that a forward pass just wrote."""
        self._set_written(self.written + count)

    def commit(self, count: int) -> None:
        """Commit the first `count` rows behind the committed ones and forget the rest."""
        self.length += count
        self._set_written(self.length)

    def keep(self, offsets: Tensor) -> None:
        """Commit the rows at `offsets` behind the committed ones, in that order; shape (K,), ascending."""
        count = offsets.shape[0]
        for rows in self.blocks:
            kept = rows.index_select(-2, offsets.to(rows.device) + self.length)
            rows[..., self.length : self.length + count, :] = kept
        self.commit(count)

    def clear(self) -> None:
        """Forget every row."""
        self.length = 0
        self._set_written(0)

    def _set_written(self, written: int) -> None:
        self.written = written
        for layer in self.layers:
            layer.length = written
