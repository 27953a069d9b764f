"""Intervals: of means and ratios over prompts by bootstrap, of a mean over repeats by Student.

A resampled prompt carries all its repeats, for both rows of a ratio alike, so repeats stay clustered and rows
stay paired. The bootstrap's are percentile intervals, widened for few prompts (Hesterberg 2015, "What
Teachers Should Know About the Bootstrap", section 4.2): over eight prompts a plain percentile or BCa interval
of 95 % holds the truth in about 88 % of cases, the widened one in 94 %.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from statistics import NormalDist, fmean, stdev

import numpy as np
from numpy.typing import NDArray

from dyna_eval.samples import Floats

_RESAMPLES = 10_000
_CHUNK_CELLS = 4_000_000  # resampling counts handled at once: bounds memory, not results


@dataclass(frozen=True, slots=True, kw_only=True)
class Interval:
    low: float
    high: float

    def excludes(self, value: float) -> bool:
        return not self.low <= value <= self.high


@dataclass(frozen=True, slots=True, kw_only=True)
class Bootstrap:
    """Resamples prompts; equal fields give equal intervals, and all intervals share their resamples."""

    confidence: float = 0.95
    resamples: int = _RESAMPLES
    seed: int = 0

    def mean(self, values: Sequence[float]) -> Interval | None:
        """Return the interval of the mean; None for fewer than two prompts."""
        if len(values) < 2:
            return None
        return self._interval(self._resampled(values).means, len(values))

    def ratio_of_means(self, values: Sequence[float], base: Sequence[float]) -> Interval | None:
        """Return the interval of mean(values) / mean(base), which are paired by position."""
        if len(values) < 2:
            return None
        return self._interval(self._resampled(values).means / self._resampled(base).means, len(values))

    def geometric_mean_of_ratios(self, values: Sequence[float], base: Sequence[float]) -> Interval | None:
        """Return the interval of the geometric mean of values / base, all positive and paired by position."""
        if len(values) < 2:
            return None
        logs = self._resampled(values).log_means - self._resampled(base).log_means
        return self._interval(np.exp(logs), len(values))

    def _resampled(self, values: Sequence[float]) -> _Resampled:
        return _resample(tuple(values), self.resamples, self.seed)

    def _interval(self, estimates: Floats, prompts: int) -> Interval:
        tail = widened_tail(self.confidence, prompts)
        low, high = np.quantile(estimates, [tail, 1.0 - tail])
        return Interval(low=float(low), high=float(high))


def widened_tail(confidence: float, prompts: int) -> float:
    """Return the share of resamples to cut at each end: (1 - confidence) / 2, less where prompts are few."""
    return NormalDist().cdf(-_student(confidence, prompts) * math.sqrt(prompts / (prompts - 1)))


@dataclass(frozen=True, slots=True, kw_only=True)
class _Resampled:
    """A row over resampled prompts, shape (resamples,) each: the mean, and the mean of the logarithms."""

    means: Floats
    log_means: Floats
    """NaN and infinite where a value is not positive."""


@lru_cache(maxsize=256)
def _resample(values: tuple[float, ...], resamples: int, seed: int) -> _Resampled:
    """Resample one row; rows of a table meet the same baseline again and again, so results are kept."""
    row = np.asarray(values, dtype=np.float64)
    with np.errstate(divide="ignore", invalid="ignore"):
        columns = np.column_stack([row, np.log(row)])
        counts = _resampling_counts(len(row), resamples, seed)
        chunk = max(1, _CHUNK_CELLS // len(row))
        parts = [counts[i : i + chunk].astype(np.float64) @ columns for i in range(0, len(counts), chunk)]
    means = np.concatenate(parts) / len(row)
    return _Resampled(means=means[:, 0], log_means=means[:, 1])


@lru_cache(maxsize=4)
def _resampling_counts(prompts: int, resamples: int, seed: int) -> NDArray[np.uint16]:
    """Return how often each resample drew each prompt, shape (resamples, prompts)."""
    generator = np.random.default_rng(seed)
    counts = np.empty((resamples, prompts), dtype=np.uint16)
    chunk = max(1, _CHUNK_CELLS // prompts)
    for start in range(0, resamples, chunk):
        rows = min(chunk, resamples - start)
        draws = generator.integers(prompts, size=(rows, prompts)) + prompts * np.arange(rows)[:, None]
        counts[start : start + rows] = np.bincount(draws.ravel(), minlength=rows * prompts).reshape(rows, -1)
    counts.flags.writeable = False
    return counts


def half_width_over_repeats(values: Sequence[float], confidence: float) -> float | None:
    """Return the half-width of the mean's interval over repeats, as a share of the mean; None for one repeat.

    Student's interval: what varies between repeats is the machine, not the prompts, and is near to normal.
    """
    if len(values) < 2:
        return None
    return _student(confidence, len(values)) * stdev(values) / math.sqrt(len(values)) / fmean(values)


def _student(confidence: float, values: int) -> float:
    """Return Student's two-sided quantile for a mean of so many values."""
    from scipy.special import stdtrit  # noqa: PLC0415 (0.2 s that commands without intervals need not pay)

    return float(stdtrit(values - 1, (1.0 + confidence) / 2.0))
