"""How a row's speedup changed from one sweep to another, each over its own sweep's baseline.

What makes a machine faster or slower as a whole is in both times that a speedup is the ratio of, and cancels
out. The change is S_B / S_A of the two speedups as reports have them: of rates freed of the actors' paces,
over the repeats that row and baseline both have. Its interval is over the prompts that all four rows have,
drawn alike for all of them, and what runs differ by within each sweep. To combine the two speedups' own
intervals (MOVER, Zou and Donner 2008) would count twice what differs from prompt to prompt, which two sweeps
over the same prompts have in common.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import fmean

from dyna_eval.reports.claims import is_explained_by_load
from dyna_eval.reports.intervals import Bootstrap, Variance
from dyna_eval.reports.report import Row, noise_together, rates_together
from dyna_eval.reports.statistics import Comparison


@dataclass(frozen=True, slots=True, kw_only=True)
class WithBaseline:
    """A row with the baseline that its speedup is over; None where its pair has none."""

    row: Row
    base: Row | None

    @property
    def speedup(self) -> float | None:
        """None of the baseline itself, which is 1 by definition, and where it is not known."""
        known = None if self.row.is_baseline else self.row.versus_baseline
        return known.ratio if known else None

    @property
    def is_lowered_by_load(self) -> bool:
        return self.base is not None and is_explained_by_load(self.row, self.base)

    @property
    def is_raised_by_load(self) -> bool:
        return self.base is not None and is_explained_by_load(self.base, self.row)


@dataclass(frozen=True, slots=True, kw_only=True)
class SpeedupChange:
    """The speedup of a row of A beside that of its partner in B."""

    a: WithBaseline
    b: WithBaseline
    ratio: Comparison | None
    """B / A; None where one has no speedup."""
    obstacles: tuple[str, ...]
    """Why it says nothing of the rows: those of the rows themselves, and those of their baselines."""
    noise_unknown: bool
    """Whether its intervals are over prompts alone: neither sweep tells what runs differ by."""

    @property
    def load(self) -> tuple[str, ...]:
        """What else may have made B's speedup the lower one: load that slowed B's row and not its baseline,
        or A's baseline and not its row. Where the other sweep had that too, it explains nothing."""
        texts: list[str] = []
        if self.b.is_lowered_by_load and not self.a.is_lowered_by_load:
            texts += self.b.row.slowed
        if self.a.base is not None and self.a.is_raised_by_load and not self.b.is_raised_by_load:
            texts += (f"of A's baseline: {text}" for text in self.a.base.slowed)
        return tuple(texts)


def speedup_change(
    a: WithBaseline, b: WithBaseline, bootstrap: Bootstrap, obstacles: Sequence[str]
) -> SpeedupChange:
    """Compare the speedups of two rows, prompt by prompt where all four rows have the prompts."""
    noise = _noise(a, b)
    ratio = _ratio(a, b, bootstrap, noise)
    return SpeedupChange(
        a=a,
        b=b,
        ratio=ratio,
        obstacles=tuple(obstacles),
        noise_unknown=noise is None and bool(ratio and ratio.interval),
    )


def _ratio(
    a: WithBaseline, b: WithBaseline, bootstrap: Bootstrap, noise: Variance | None
) -> Comparison | None:
    if not a.speedup or b.speedup is None:
        return None
    if not _are_paired(a, b):
        return Comparison(ratio=b.speedup / a.speedup)
    return _paired(_rates(a), _rates(b), bootstrap, noise) or Comparison(ratio=b.speedup / a.speedup)


def _are_paired(a: WithBaseline, b: WithBaseline) -> bool:
    """Whether equal indices are the same prompt in all four rows."""
    rows = (b.row, b.base, a.base)
    return all(row is not None and bool(row.rates) and row.has_prompts_of(a.row) for row in rows)


def _rates(one: WithBaseline) -> tuple[Mapping[int, float], Mapping[int, float]]:
    return rates_together(one.row, one.base or one.row)


def _paired(
    a: tuple[Mapping[int, float], Mapping[int, float]],
    b: tuple[Mapping[int, float], Mapping[int, float]],
    bootstrap: Bootstrap,
    noise: Variance | None,
) -> Comparison | None:
    """Compare two sweeps' rates of a row and of its baseline, over the prompts that all of them have."""
    rates = (*b, *a)
    common = [index for index in rates[0] if all(own.get(index, 0.0) > 0.0 for own in rates)]
    if not common:
        return None
    row_b, base_b, row_a, base_a = ([own[index] for index in common] for own in rates)
    speedups_b, speedups_a = _ratios(row_b, base_b), _ratios(row_a, base_a)
    ratio = (fmean(row_b) / fmean(base_b)) / (fmean(row_a) / fmean(base_a))
    interval = bootstrap.ratio_of_ratios(row_b, base_b, row_a, base_a)
    paired = math.exp(fmean(map(math.log, _ratios(speedups_b, speedups_a))))
    paired_interval = bootstrap.geometric_mean_of_ratios(speedups_b, speedups_a)
    return Comparison(
        ratio=ratio,
        interval=bootstrap.widened(interval, ratio, noise),
        paired=paired,
        paired_interval=bootstrap.widened(paired_interval, paired, noise),
        prompts=len(common),
    )


def _ratios(values: Sequence[float], base: Sequence[float]) -> list[float]:
    return [value / other for value, other in zip(values, base, strict=True)]


def _noise(a: WithBaseline, b: WithBaseline) -> Variance | None:
    """Return the noise, from run to run, of the logarithm of the ratio of two speedups.

    The sweeps share no run. What one has too few repeats to tell is taken from the other; None where neither
    tells.
    """
    ours, theirs = _noise_of(b, like=b), _noise_of(a, like=a)
    if ours and theirs:
        return ours + theirs
    ours, theirs = ours or _noise_of(b, like=a), theirs or _noise_of(a, like=b)
    if ours is None or theirs is None:
        return None
    # Both are estimated from the same runs, so their degrees of freedom do not add up.
    return Variance(value=ours.value + theirs.value, degrees=min(ours.degrees, theirs.degrees))


def _noise_of(one: WithBaseline, *, like: WithBaseline) -> Variance | None:
    """Return the noise of one speedup whose runs differ by chance as those of another sweep do."""
    if one.base is None or like.base is None:
        return None
    return noise_together(replace(one.row, noise=like.row.noise), replace(one.base, noise=like.base.noise))
