"""Choosing tokens: greedy, or sampling by Gumbel noise that is the same for every method.

argmax(logits / T + G) with standard Gumbel noise G is a draw from softmax(logits / T). With the noise
keyed by the seed and the absolute position alone, every method that asks the target at the same
position draws the same token: sampled speculative output equals sampled AR output, token for token.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray

Noise = NDArray[np.float32]


class Chooser:
    """The law by which tokens are chosen for one sequence. Greedy where temperature is 0."""

    def __init__(self, *, temperature: float, seed: str, vocabulary: int) -> None:
        self.temperature = temperature
        self._seed = seed
        self._vocabulary = vocabulary
        self._drawn: dict[int, Noise] = {}
        self._generator = torch.Generator()

    def noise(self, positions: Sequence[int]) -> Noise | None:
        """Return the noise for tokens at absolute positions, (positions, vocabulary); None where greedy."""
        if self.temperature == 0:
            return None
        return np.stack([self._row(position) for position in positions])

    def _row(self, position: int) -> Noise:
        """Return the Gumbel noise of one position, (V,); drawn on the CPU so that no device changes it."""
        if position not in self._drawn:
            key = hashlib.sha256(f"{self._seed}:{position}".encode()).digest()
            self._generator.manual_seed(int.from_bytes(key[:8], "big", signed=True))
            exponential = torch.empty(self._vocabulary, dtype=torch.float64).exponential_(
                generator=self._generator
            )
            self._drawn[position] = (-exponential.log()).to(torch.float32).numpy()
        return self._drawn[position]

    def forget_before(self, position: int) -> None:
        """Drop the noise of positions that were decided."""
        for decided in [known for known in self._drawn if known < position]:
            del self._drawn[decided]
