"""Choosing tokens: greedy, or sampling by Gumbel noise that is the same for every method.

argmax(logits / T + G) with standard Gumbel noise G is a draw from softmax(logits / T). With the noise a
function of the seed, the absolute position and the token alone, every method that asks the target at the
same position draws the same token: sampled speculative output equals sampled AR output, token for token.
Acceptance by a ratio of probabilities (Leviathan et al. 2023) has the same distribution, but other tokens.
Source: drafter-invariant speculative decoding (Daliri et al. 2024).

The random numbers come from a counter, so kernels compute the noise where the logits are, equal to this one
up to rounding in float32. Small exponentials come from a series: 1 - u loses a small u, and a GPU's logarithm
is inexact near 1.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

Noise = NDArray[np.float32]

_COUNTERS = 16  # for a block of tokens: token 16 j + i of it gets word j of counter i
_BLOCK = 4 * _COUNTERS
_MASK, _BITS = np.uint64(0xFFFFFFFF), np.uint64(32)  # of a word
# Philox's multipliers, the steps of its key, and its rounds.
_FACTORS = np.uint64(0xD2511F53), np.uint64(0xCD9E8D57)
_STEPS = 0x9E3779B9, 0xBB67AE85
_ROUNDS = 10
_SERIES_BELOW = np.float32(1 / 64)
_BELOW_1 = np.float32(1 - 2**-24)


class Sampler:
    """How the tokens of one sequence are chosen from logits; greedily where `temperature` is 0.

    `key` is that of the Gumbel noise, from the seed.
    """

    def __init__(self, *, temperature: float, seed: str, vocabulary: int) -> None:
        self.temperature = temperature
        self.key = int.from_bytes(hashlib.sha256(seed.encode()).digest()[:8], "little")
        self._vocabulary = vocabulary
        self._noise_at: dict[int, Noise] = {}

    def noise(self, positions: Sequence[int]) -> Noise | None:
        """Return the noise for tokens at absolute positions, (positions, vocabulary); None where greedy."""
        if self.temperature == 0:
            return None
        return np.stack([self._row(position) for position in positions])

    def _row(self, position: int) -> Noise:
        if position not in self._noise_at:
            self._noise_at[position] = gumbel_noise(self.key, position, self._vocabulary)
        return self._noise_at[position]

    def forget_before(self, position: int) -> None:
        """Drop the noise of positions before this one, whose tokens are committed."""
        for earlier in [known for known in self._noise_at if known < position]:
            del self._noise_at[earlier]


def gumbel_noise(key: int, position: int, vocabulary: int) -> Noise:
    """Return standard Gumbel noise, (vocabulary,), by a key of 64 bits and a position of 32."""
    counters = -(-vocabulary // _BLOCK) * _COUNTERS
    counter = [np.arange(counters, dtype=np.uint64), np.full(counters, position, dtype=np.uint64)]
    words = np.stack(random_words([*counter, *np.zeros((2, counters), dtype=np.uint64)], key))
    return noise_from_words(words.reshape(4, -1, _COUNTERS).swapaxes(0, 1).reshape(-1)[:vocabulary])


def noise_from_words(words: NDArray[np.uint64]) -> Noise:
    """Return standard Gumbel noise, -log E, from random words of 32 bits; E is an exponential variate."""
    uniform = words.astype(np.float32) * np.float32(2**-32) + np.float32(
        2**-33
    )  # in (0, 1]: words near 2^32 round to 1
    uniform = np.minimum(uniform, _BELOW_1)
    series = uniform * (1 + uniform * (np.float32(1 / 2) + uniform * (np.float32(1 / 3) + uniform / 4)))
    exponential = np.where(uniform < _SERIES_BELOW, series, -np.log(1 - uniform))
    result: Noise = -np.log(exponential)
    return result


def random_words(counter: Sequence[NDArray[np.uint64]], key: int) -> list[NDArray[np.uint64]]:
    """Return four random words of 32 bits for every counter of four; both are four arrays of shape (N,).

    Philox-4x32-10. Source: Salmon et al. 2011, "Parallel random numbers: as easy as 1, 2, 3".
    """
    a, b, c, d = counter
    low, high = key & int(_MASK), key >> 32
    for _ in range(_ROUNDS):
        left, right = a * _FACTORS[0], c * _FACTORS[1]
        a, c = right >> _BITS ^ b ^ np.uint64(low), left >> _BITS ^ d ^ np.uint64(high)
        b, d = right & _MASK, left & _MASK
        low, high = low + _STEPS[0] & int(_MASK), high + _STEPS[1] & int(_MASK)
    return [a, b, c, d]
