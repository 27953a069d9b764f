"""Forward passes of one model over one preallocated cache."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from dyna_eval_workers.cache import PreallocatedCache


class Runner:
    """A causal language model and its cache, for one sequence at a time.

    Every `forward` passes explicit positions and, where the tokens are not a single continuation of the
    cache, an additive mask in the model's dtype: a boolean mask is silently wrong under eager attention.
    """

    def __init__(self, model: Any) -> None:
        self.model = model
        parameter = next(model.parameters())
        self.dtype, self.device = parameter.dtype, parameter.device
        self.vocabulary = int(model.config.get_text_config().vocab_size)
        self.cache = self._allocate(0)
        self._blocked = torch.finfo(self.dtype).min

    def reserve(self, capacity: int) -> None:
        """Empty the cache and make room for `capacity` rows."""
        if self.cache.capacity < capacity:
            self.cache = self._allocate(capacity)
        self.cache.clear()

    def prefill(self, tokens: list[int]) -> None:
        """Commit the cache rows of the first tokens of a sequence."""
        if not tokens:
            return
        self._call(
            torch.tensor(tokens, device=self.device),
            torch.arange(len(tokens), device=self.device),
            None,
            last=1,
        )
        self.cache.commit(len(tokens))

    def forward(self, tokens: Tensor, positions: Tensor, visible: Tensor | None) -> Tensor:
        """Run tokens behind the rows written so far, and return their logits.

        Shapes: tokens and positions are (Q,); visible is (Q, R) bool, which of the last R rows, the new ones
        included, each token sees (it sees all rows before those); None if one token sees everything; the
        result is (Q, V).
        """
        mask = None
        if visible is not None:
            queries, rows = visible.shape
            end = self.cache.written + queries
            mask = torch.zeros(1, 1, queries, end, dtype=self.dtype, device=self.device)
            mask[0, 0, :, end - rows :].masked_fill_(~visible, self._blocked)
        return self._call(tokens, positions, mask, last=0)

    def _call(self, tokens: Tensor, positions: Tensor, mask: Tensor | None, *, last: int) -> Tensor:
        output = self.model(
            input_ids=tokens[None],
            position_ids=positions[None],
            attention_mask=mask,
            past_key_values=self.cache,
            use_cache=True,
            logits_to_keep=last,
        )
        self.cache.advance(tokens.shape[0])
        result: Tensor = output.logits[0]
        return result

    def _allocate(self, capacity: int) -> PreallocatedCache:
        config = self.model.config.get_text_config()
        heads = getattr(config, "num_key_value_heads", None) or config.num_attention_heads
        head_size = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
        return PreallocatedCache(
            layers=config.num_hidden_layers,
            heads=heads,
            head_size=head_size,
            capacity=capacity,
            dtype=self.dtype,
            device=self.device,
        )
