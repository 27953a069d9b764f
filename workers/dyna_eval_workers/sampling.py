"""Choosing tokens: greedy, or sampling by Gumbel noise that is the same for every method.

argmax(logits / T + G) with standard Gumbel noise G is a draw from softmax(logits / T). With the noise a
function of the seed, the absolute position and the token alone, every method that asks the target at the
same position draws the same token: sampled speculative output equals sampled AR output, token for token.

The random numbers are those of a counter, so that kernels compute them where the logits are. What they
compute is the same up to rounding, in float32; small exponentials come from a series, since 1 - u rounds a
small u away, and a GPU's logarithm is wrong near 1 besides.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

Noise = NDArray[np.float32]

BLOCK = 64
"""Tokens that get their noise from 16 counters: token 16 j + i of them from word j of counter i."""
_COUNTERS = BLOCK // 4
_WORD, _HALF = np.uint64(0xFFFFFFFF), np.uint64(32)
_FACTORS = np.uint64(0xD2511F53), np.uint64(0xCD9E8D57)
_STEPS = 0x9E3779B9, 0xBB67AE85
_ROUNDS = 10
_SERIES_BELOW = np.float32(1 / 64)
_MOST = np.float32(1 - 2**-24)


class Chooser:
    """The law by which tokens are chosen for one sequence. Greedy where temperature is 0."""

    def __init__(self, *, temperature: float, seed: str, vocabulary: int) -> None:
        self.temperature = temperature
        self.key = int.from_bytes(hashlib.sha256(seed.encode()).digest()[:8], "little")
        self._vocabulary = vocabulary
        self._known: dict[int, Noise] = {}

    def noise(self, positions: Sequence[int]) -> Noise | None:
        """Return the noise for tokens at absolute positions, (positions, vocabulary); None where greedy."""
        if self.temperature == 0:
            return None
        return np.stack([self._row(position) for position in positions])

    def _row(self, position: int) -> Noise:
        if position not in self._known:
            self._known[position] = gumbel(self.key, position, self._vocabulary)
        return self._known[position]

    def forget_before(self, position: int) -> None:
        """Drop the noise of positions that were decided."""
        for decided in [known for known in self._known if known < position]:
            del self._known[decided]


def gumbel(key: int, position: int, vocabulary: int) -> Noise:
    """Return standard Gumbel noise, (vocabulary,), by a key of 64 bits and a position of 32."""
    counters = -(-vocabulary // BLOCK) * _COUNTERS
    counter = [np.arange(counters, dtype=np.uint64), np.full(counters, position, dtype=np.uint64)]
    words = np.stack(philox([*counter, *np.zeros((2, counters), dtype=np.uint64)], key))
    return from_words(words.reshape(4, -1, _COUNTERS).swapaxes(0, 1).reshape(-1)[:vocabulary])


def from_words(words: NDArray[np.uint64]) -> Noise:
    """Return standard Gumbel noise from random words of 32 bits: minus the logarithm of an exponential."""
    uniform = words.astype(np.float32) * np.float32(2**-32) + np.float32(2**-33)  # of the open interval
    uniform = np.minimum(uniform, _MOST)
    series = uniform * (1 + uniform * (np.float32(1 / 2) + uniform * (np.float32(1 / 3) + uniform / 4)))
    exponential = np.where(uniform < _SERIES_BELOW, series, -np.log(1 - uniform))
    result: Noise = -np.log(exponential)
    return result


def philox(counter: Sequence[NDArray[np.uint64]], key: int) -> list[NDArray[np.uint64]]:
    """Return four random words of 32 bits for each counter of four, all in arrays of one shape.

    Philox-4x32-10. Source: Salmon et al. 2011, "Parallel random numbers: as easy as 1, 2, 3".
    """
    a, b, c, d = counter
    low, high = key & int(_WORD), key >> 32
    for _ in range(_ROUNDS):
        left, right = a * _FACTORS[0], c * _FACTORS[1]
        a, c = right >> _HALF ^ b ^ np.uint64(low), left >> _HALF ^ d ^ np.uint64(high)
        b, d = right & _WORD, left & _WORD
        low, high = low + _STEPS[0] & int(_WORD), high + _STEPS[1] & int(_WORD)
    return [a, b, c, d]
