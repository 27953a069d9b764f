"""Choosing tokens: greedy, or sampling by Gumbel noise that is the same for every method.

argmax(logits / T + G) with standard Gumbel noise G is a draw from softmax(logits / T). With the noise
keyed by the seed and the absolute position alone, every method that asks the target at the same
position draws the same token: sampled speculative output equals sampled AR output, token for token.
"""

from __future__ import annotations

import hashlib

import torch
from torch import Tensor


class Chooser:
    """Turns logits into scores whose argmax is the chosen token. Greedy where temperature is 0."""

    def __init__(self, *, temperature: float, seed: str, vocabulary: int, device: torch.device) -> None:
        self.temperature = temperature
        self._seed = seed
        self._vocabulary = vocabulary
        self._device = device
        self._noise: dict[int, Tensor] = {}
        self._generator = torch.Generator()

    def scores(self, logits: Tensor, position: int, depth: Tensor | None = None) -> Tensor:
        """Return scores for tokens at absolute position `position + depth`.

        Shapes: logits is (N, V) with V at most the vocabulary, depth is (N,) or None for all zero; the
        result is (N, V), float32 when sampling and as given when greedy.
        """
        if self.temperature == 0:
            return logits
        levels = 1 if depth is None else int(depth.max()) + 1
        noise = torch.stack([self._row(position + level) for level in range(levels)])[:, : logits.shape[-1]]
        return logits.float() / self.temperature + (noise if depth is None else noise[depth])

    def _row(self, position: int) -> Tensor:
        """Return the Gumbel noise of one position, (V,); drawn on the CPU so that no device changes it."""
        if position not in self._noise:
            key = hashlib.sha256(f"{self._seed}:{position}".encode()).digest()
            self._generator.manual_seed(int.from_bytes(key[:8], "big", signed=True))
            exponential = torch.empty(self._vocabulary, dtype=torch.float64).exponential_(
                generator=self._generator
            )
            self._noise[position] = (-exponential.log()).to(self._device, torch.float32)
        return self._noise[position]

    def forget_before(self, position: int) -> None:
        """Drop the noise of positions that were decided."""
        for decided in [known for known in self._noise if known < position]:
            del self._noise[decided]
