"""Intervals: of means and ratios over prompts, of a mean over repeats, and of both together.

A resampled prompt carries all its repeats, for both rows of a ratio alike, so repeats stay clustered and rows
stay paired. Intervals over prompts are percentile intervals of a bootstrap, widened for few prompts
(Hesterberg 2015, "What Teachers Should Know About the Bootstrap", section 4.2): over eight prompts a plain
percentile or BCa interval of 95 % holds the truth in about 88 % of cases, the widened one in 94 %. No
resample's mean lies beyond the smallest and the largest prompt, so where there are fewer than eight, or too
few for the confidence (15 for 99 %), the interval is Student's, on the scale of logarithms.

What differs from run to run (load, clocks) moves all prompts of a job together, so that no interval over
prompts sees it. `RunNoise` is estimated from repeats, for all rows of a table in `TableNoise`, and
`Bootstrap.widened` adds it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from statistics import NormalDist, fmean, stdev

import numpy as np
from numpy.typing import NDArray

from dyna_eval.reports.samples import Floats

_RESAMPLES = 10_000
_CHUNK_CELLS = 4_000_000  # resampling counts handled at once: bounds memory, not results
_FEWEST_PROMPTS = 8  # that a bootstrap is made over
_RAREST_TAIL = 0.001  # of 10,000 resamples 10 lie beyond: fewer do not tell where an interval ends
_LOUD = 0.01  # level of the test that finds rows of more noise than the others
_FARTHEST = 300.0  # in logarithms: an interval whose ends are still numbers, and which says nothing


@dataclass(frozen=True, slots=True, kw_only=True)
class Interval:
    low: float
    high: float

    def excludes(self, value: float) -> bool:
        return not self.low <= value <= self.high


@dataclass(frozen=True, slots=True, kw_only=True)
class Bootstrap:
    """Makes intervals over prompts. Equal fields give equal intervals, and all share their resamples."""

    confidence: float = 0.95
    resamples: int = _RESAMPLES
    seed: int = 0

    def mean(self, values: Sequence[float]) -> Interval | None:
        """Return the interval of the mean of values, none negative; None for fewer than two prompts."""
        return self.ratio_of_means(values, [1.0] * len(values))

    def ratio_of_means(self, values: Sequence[float], base: Sequence[float]) -> Interval | None:
        """Return the interval of mean(values) / mean(base), which are paired by position."""
        if len(values) < 2:
            return None
        if self._too_few(len(values)):
            mean, base_mean = fmean(values), fmean(base)
            scale = mean or 1.0  # where all values are 0, so is the ratio
            logs = [x / scale - y / base_mean for x, y in zip(values, base, strict=True)]  # to first order
            return self._students(mean / base_mean, logs)
        return self._percentiles(self._resampled(values).means / self._resampled(base).means, len(values))

    def ratio_of_ratios(
        self,
        values: Sequence[float],
        base: Sequence[float],
        other: Sequence[float],
        other_base: Sequence[float],
    ) -> Interval | None:
        """Return the interval of (mean(values) / mean(base)) / (mean(other) / mean(other_base)).

        All are positive and paired by position.
        """
        if len(values) < 2:
            return None
        rows = (values, base, other, other_base)
        if self._too_few(len(values)):
            mean, base_mean, other_mean, other_base_mean = map(fmean, rows)
            logs = [  # to first order
                x / mean - y / base_mean - (u / other_mean - v / other_base_mean)
                for x, y, u, v in zip(*rows, strict=True)
            ]
            return self._students(mean / base_mean / (other_mean / other_base_mean), logs)
        means, base_means, other_means, other_base_means = (self._resampled(row).means for row in rows)
        return self._percentiles(means / base_means / (other_means / other_base_means), len(values))

    def geometric_mean_of_ratios(self, values: Sequence[float], base: Sequence[float]) -> Interval | None:
        """Return the interval of the geometric mean of values / base, all positive and paired by position."""
        if len(values) < 2:
            return None
        if self._too_few(len(values)):
            logs = [math.log(x / y) for x, y in zip(values, base, strict=True)]
            return self._students(math.exp(fmean(logs)), logs)
        means = self._resampled(values).log_means - self._resampled(base).log_means
        return self._percentiles(np.exp(means), len(values))

    def widened(self, interval: Interval | None, estimate: float, noise: Variance | None) -> Interval | None:
        """Return an interval that also holds the noise of the estimate's logarithm, added in quadrature."""
        if interval is None or noise is None or interval.low <= 0.0:
            return interval
        own = _half_width(self.confidence, math.sqrt(noise.value), noise.degrees)
        below, above = math.log(estimate / interval.low), math.log(interval.high / estimate)
        return Interval(
            low=estimate * math.exp(-min(math.hypot(below, own), _FARTHEST)),
            high=estimate * math.exp(min(math.hypot(above, own), _FARTHEST)),
        )

    def _resampled(self, values: Sequence[float]) -> _Resampled:
        return _resample(tuple(values), self.resamples, self.seed)

    def _too_few(self, prompts: int) -> bool:
        return prompts < _FEWEST_PROMPTS or widened_tail(self.confidence, prompts) < _RAREST_TAIL

    def _percentiles(self, estimates: Floats, prompts: int) -> Interval:
        tail = widened_tail(self.confidence, prompts)
        low, high = np.quantile(estimates, [tail, 1.0 - tail])
        return Interval(low=float(low), high=float(high))

    def _students(self, estimate: float, logs: Sequence[float]) -> Interval:
        """Return Student's interval of an estimate; its logarithm is the mean of `logs` and a constant."""
        error = stdev(logs) / math.sqrt(len(logs))
        reach = math.exp(_half_width(self.confidence, error, len(logs) - 1))
        return Interval(low=estimate / reach, high=estimate * reach)


def widened_tail(confidence: float, prompts: int) -> float:
    """Return the share of resamples to cut at each end: (1 - confidence) / 2, less where prompts are few."""
    return NormalDist().cdf(-_student(confidence, prompts - 1) * math.sqrt(prompts / (prompts - 1)))


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


@dataclass(frozen=True, slots=True, kw_only=True)
class Variance:
    """An estimated variance and its degrees of freedom; those of a sum are Welch's and Satterthwaite's."""

    value: float
    degrees: float

    @classmethod
    def of(cls, squares: float, degrees: int) -> Variance | None:
        """Return the mean of a sum of squares; None without a degree of freedom."""
        return cls(value=squares / degrees, degrees=degrees) if degrees else None

    def __mul__(self, factor: float) -> Variance:
        return Variance(value=self.value * factor, degrees=self.degrees)

    def __add__(self, other: Variance) -> Variance:
        value = self.value + other.value
        spread = self.value**2 / self.degrees + other.value**2 / other.degrees
        return Variance(value=value, degrees=value**2 / spread if spread else self.degrees + other.degrees)


@dataclass(frozen=True, slots=True, kw_only=True)
class RunNoise:
    """How far one run's throughput lies from the mean of all such runs, in logarithms; None where unknown.

    A block is one run of every row, in random order, so what drifts from block to block cancels out where
    rows are compared over the same blocks.
    """

    in_block: Variance | None
    """Of what differs within a block."""
    alone: Variance | None
    """Of a run by itself: of that and of what differs from block to block."""
    as_measured: Variance | None = None
    """As `alone`, of throughput that is not freed of how fast the actor is that ran it: a table's alone."""

    @classmethod
    def of(cls, rows: Sequence[Mapping[int, float]]) -> RunNoise:
        """Estimate it from the throughput of rows, each by block, by analysis of variance (rows x blocks).

        Taken are the blocks that leave most degrees of freedom, and the rows that have all of them.
        """
        blocks, places = _layout(rows)
        if not places:
            return cls(in_block=None, alone=None)
        logs = np.log([[rows[place][block] for block in blocks] for place in places])
        drift = logs.mean(axis=0) - logs.mean()
        rest = logs - logs.mean(axis=1, keepdims=True) - drift
        repeats = len(blocks) - 1
        in_block = Variance.of(float((rest**2).sum()), (len(logs) - 1) * repeats)
        alone = Variance.of(float((drift**2).sum()), repeats)  # of the mean of a block's runs
        if alone is not None and in_block is not None:
            alone += in_block * (1.0 - 1.0 / len(logs))
        return cls(in_block=in_block, alone=alone)


def _layout(rows: Sequence[Mapping[int, float]]) -> tuple[list[int], list[int]]:
    """Return the blocks that leave most degrees of freedom, and the places of rows that have all of them."""
    layouts = [
        (sorted(blocks), [place for place, row in enumerate(rows) if blocks <= row.keys()])
        for blocks in dict.fromkeys(map(frozenset, rows))
        if blocks
    ]
    return max(
        layouts,
        key=lambda one: ((len(one[0]) - 1) * (len(one[1]) - 1), len(one[0])),
        default=([], []),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class TableNoise:
    """How far runs of the rows of a table differ by chance: pooled over rows, but for those of more noise."""

    pooled: RunNoise
    loud: Mapping[str, RunNoise]
    """By label, of rows whose runs differ significantly more than those of the others, from its own alone."""

    @classmethod
    def of(
        cls, paced: Mapping[str, Mapping[int, float]], as_measured: Mapping[str, Mapping[int, float]]
    ) -> TableNoise:
        """Estimate it from the throughput of rows, by label and block, freed of the actors' paces and not.

        A row is loud by what is freed of them: which actors ran it is chance, that could be any row's. So the
        noise of its throughput as measured is never below that of the others.
        """
        own = _loud_rows(paced)

        def quiet(rows: Mapping[str, Mapping[int, float]]) -> RunNoise:
            return RunNoise.of([row for label, row in rows.items() if label not in own])

        pooled = replace(quiet(paced), as_measured=quiet(as_measured).alone)
        loud = {}
        for label, in_block in own.items():
            raw = (pooled.as_measured, RunNoise.of([as_measured[label]]).alone)
            loud[label] = RunNoise(
                in_block=in_block,
                alone=RunNoise.of([paced[label]]).alone,
                as_measured=max((one for one in raw if one), key=lambda one: one.value, default=None),
            )
        return cls(pooled=pooled, loud=loud)

    def of_row(self, label: str) -> RunNoise:
        return self.loud.get(label, self.pooled)


def _loud_rows(rows: Mapping[str, Mapping[int, float]]) -> dict[str, Variance]:
    """Return the rows whose runs differ more than those of the others, with the variance of each in a block.

    That is of how far a run lies from the mean of the others' runs in its block. Were the row like the
    others, it would be R / (R - 1) times the V that these have among themselves, of which it is independent:
    an F test. The loudest row is taken off first, and the rest tested again.
    """
    labels = list(rows)
    blocks, places = _layout(list(rows.values()))
    logs = {labels[at]: np.log([rows[labels[at]][block] for block in blocks]) for at in places}
    found: dict[str, Variance] = {}
    while len(blocks) > 1 and len(logs) > 2:
        total = sum(logs.values())
        beside = {label: float(np.var(row - (total - row) / (len(logs) - 1))) for label, row in logs.items()}
        loudest = max(beside, key=lambda label: beside[label])
        others = [dict(enumerate(np.exp(row))) for label, row in logs.items() if label != loudest]
        own = Variance.of(beside[loudest] * len(blocks), len(blocks) - 1)
        rest = RunNoise.of(others).in_block
        if own is None or rest is None or not _exceeds(own, rest * (len(logs) / (len(logs) - 1))):
            break
        found[loudest] = own
        del logs[loudest]
    return found


def _exceeds(own: Variance, other: Variance) -> bool:
    """Whether a variance is higher than an independent one, by a one-sided F test."""
    from scipy.special import fdtri  # noqa: PLC0415 (as in `_student`)

    return own.value > other.value * float(fdtri(own.degrees, other.degrees, 1.0 - _LOUD))


def half_width_over_repeats(values: Sequence[float], confidence: float) -> float | None:
    """Return the half-width of the mean's interval over repeats, as a share of the mean; None for one repeat.

    Student's interval: what varies between repeats is the machine, not the prompts, and is near to normal.
    """
    if len(values) < 2:
        return None
    return _student(confidence, len(values) - 1) * stdev(values) / math.sqrt(len(values)) / fmean(values)


def _half_width(confidence: float, error: float, degrees: float) -> float:
    """Return how far Student's interval reaches in logarithms, by the standard error of one."""
    return min(_student(confidence, degrees) * error, _FARTHEST) if error else 0.0


def _student(confidence: float, degrees: float) -> float:
    """Return Student's two-sided quantile."""
    from scipy.special import stdtrit  # noqa: PLC0415 (0.2 s that commands without intervals need not pay)

    return float(stdtrit(degrees, (1.0 + confidence) / 2.0))
