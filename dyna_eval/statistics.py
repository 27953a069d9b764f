"""The figures of a report: throughput, speedup with its interval, acceptance, latency, exactness.

Pure functions over the stored totals of `dyna_eval.jobs`; times are seconds, throughputs tokens per second.
A figure that cannot be known is `None`, never 0 and never NaN.

Intervals are bootstrap intervals over prompts. A resampled prompt carries all its repeats, for both rows of
a ratio alike, so repeats stay clustered and rows stay paired. They are percentile intervals, widened for few
prompts (Hesterberg 2015, "What Teachers Should Know About the Bootstrap", section 4.2): over eight prompts a
plain percentile or BCa interval of 95 % holds the truth in about 88 % of cases, the widened one in 94 %.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import zip_longest
from statistics import NormalDist, fmean, stdev

import numpy as np
from numpy.typing import NDArray

from dyna_eval.jobs import Calibration, Exactness, Method, SampleTotals
from dyna_eval.methods import METHODS

RESAMPLES = 10_000
_CHUNK_CELLS = 4_000_000  # resampling counts handled at once: bounds memory, not results

_TARGET_ALONE = (Method.AR, Method.HF_GENERATE)

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True, kw_only=True)
class Interval:
    low: float
    high: float

    def excludes(self, value: float) -> bool:
        return not self.low <= value <= self.high


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """One job's samples. `pace` is how fast its actor is, as a multiple of another actor of the table."""

    repeat: int
    samples: tuple[SampleTotals, ...]
    pace: float = 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Throughput:
    """Tokens per second. `mean` is over prompts; `pooled` is all tokens over all decode seconds."""

    mean: float
    interval: Interval | None
    std: float | None
    """Between the means of single repeats; None with one repeat."""
    pooled: float
    end_to_end: float
    """As `mean`, prefill included."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """How many times faster one row is than another. `ratio` is of means, `paired` the geometric mean of
    the prompts' own ratios. Intervals are None with one prompt, or where prompts cannot be paired."""

    ratio: float
    interval: Interval | None = None
    paired: float | None = None
    paired_interval: Interval | None = None

    @property
    def separable(self) -> bool | None:
        """Whether the interval of the paired ratio excludes 1; None where there is no interval."""
        return None if self.paired_interval is None else self.paired_interval.excludes(1.0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Acceptance:
    """How much of the draft the target took, pooled over all rounds unless the name says otherwise.

    `draft_rate` is accepted tokens / drafted levels, the longest path that could have been accepted;
    `marginal_rates[i]` is the share of rounds that accepted depth i + 1, `conditional_rates[i]` the share of
    those that had accepted depth i.
    """

    mean_length: float | None
    mean_length_per_request: float | None
    draft_rate: float | None
    node_rate: float | None
    mean_tree_nodes: float | None
    node_cap_bound_rate: float | None
    marginal_rates: tuple[float, ...] | None
    conditional_rates: tuple[float, ...] | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Shares:
    """Shares of decode seconds spent in each phase of a round, as `dyna_eval.jobs.Round` has them.

    `host` is the rest: what no phase accounts for, the phases that were not timed included.
    """

    draft: float | None
    grow: float | None
    verify: float | None
    walk: float | None
    host: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Percentiles:
    p50: float
    p95: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Latency:
    """Seconds over samples: to the first token, per token after it, and in the prefill."""

    ttft: Percentiles
    tpot: Percentiles | None
    """None where no sample has a second token."""
    prefill: Percentiles


@dataclass(frozen=True, slots=True, kw_only=True)
class Agreement:
    """How the samples that were compared with the target's own output came out."""

    compared: int
    exact: int
    ties: int
    violations: int

    @property
    def exact_match_rate(self) -> float | None:
        return self.exact / self.compared if self.compared else None


@dataclass(frozen=True, slots=True, kw_only=True)
class Figures:
    """All that is known about one row by itself."""

    prompts: int
    repeats: int
    tokens: int
    throughput: Throughput
    acceptance: Acceptance
    shares: Shares
    latency: Latency
    agreement: Agreement
    distinct_2: float | None
    predicted_speedup: float | None


# -------------------------------------------------------------------- bootstrap


@dataclass(frozen=True, slots=True, kw_only=True)
class Bootstrap:
    """Resamples prompts; equal fields give equal intervals, and all intervals share their resamples."""

    confidence: float = 0.95
    resamples: int = RESAMPLES
    seed: int = 0

    def mean(self, values: Sequence[float]) -> Interval | None:
        """Return the interval of the mean; None for fewer than two prompts."""
        if len(values) < 2:
            return None
        return self._interval(self._means([values])[:, 0], len(values))

    def ratio_of_means(self, values: Sequence[float], base: Sequence[float]) -> Interval | None:
        """Return the interval of mean(values) / mean(base), which are paired by position."""
        if len(values) < 2:
            return None
        means = self._means([values, base])
        return self._interval(means[:, 0] / means[:, 1], len(values))

    def geometric_mean(self, ratios: Sequence[float]) -> Interval | None:
        if len(ratios) < 2:
            return None
        return self._interval(np.exp(self._means([np.log(ratios)])[:, 0]), len(ratios))

    def _means(self, columns: Sequence[Sequence[float] | Floats]) -> Floats:
        """Return the resampled means, shape (resamples, columns)."""
        values = np.column_stack([np.asarray(column, dtype=np.float64) for column in columns])
        counts = _resampling_counts(len(values), self.resamples, self.seed)
        chunk = max(1, _CHUNK_CELLS // len(values))
        parts = [counts[i : i + chunk].astype(np.float64) @ values for i in range(0, len(counts), chunk)]
        return np.concatenate(parts) / len(values)

    def _interval(self, estimates: Floats, prompts: int) -> Interval:
        tail = widened_tail(self.confidence, prompts)
        low, high = np.quantile(estimates, [tail, 1.0 - tail])
        return Interval(low=float(low), high=float(high))


def widened_tail(confidence: float, prompts: int) -> float:
    """Return the share of resamples to cut at each end: (1 - confidence) / 2, less where prompts are few."""
    from scipy.special import stdtrit  # noqa: PLC0415 (0.2 s that commands without intervals need not pay)

    student = float(stdtrit(prompts - 1, (1.0 + confidence) / 2.0))
    return NormalDist().cdf(-student * math.sqrt(prompts / (prompts - 1)))


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


# ------------------------------------------------------------------- throughput


def prompt_throughputs(runs: Iterable[Run]) -> dict[int, float]:
    """Return tokens per second by prompt index: all tokens of its repeats over all their decode seconds.

    Seconds count times the run's pace, which makes runs of unequal actors comparable. A prompt without any
    decode time has no throughput and is left out.
    """
    return _rates((s, s.decode_seconds * run.pace) for run in runs for s in run.samples)


def throughput(runs: Sequence[Run], bootstrap: Bootstrap) -> Throughput | None:
    """Return a row's throughput over the prompts; None if no decode time was measured."""
    samples = [sample for run in runs for sample in run.samples]
    rates = list(prompt_throughputs(runs).values())
    if not rates:
        return None
    return Throughput(
        mean=fmean(rates),
        interval=bootstrap.mean(rates),
        std=_std_between_repeats(runs),
        pooled=sum(s.tokens for s in samples) / sum(s.decode_seconds for s in samples),
        end_to_end=fmean(_rates((s, s.prefill_seconds + s.decode_seconds) for s in samples).values()),
    )


def compare(
    values: Mapping[int, float], base: Mapping[int, float], bootstrap: Bootstrap, *, same_prompts: bool = True
) -> Comparison | None:
    """Compare two rows by their prompts' throughputs.

    Only prompts that both rows have are used; rows over different prompt sets have none in common, and of
    them only the means are compared. None where there is nothing to compare with.
    """
    if not same_prompts:
        return Comparison(ratio=fmean(values.values()) / fmean(base.values())) if values and base else None
    common = [index for index in values if base.get(index, 0.0) > 0.0]
    if not common:
        return None
    left, right = [values[index] for index in common], [base[index] for index in common]
    ratios = [x / y for x, y in zip(left, right, strict=True)]
    positive = min(ratios) > 0.0
    return Comparison(
        ratio=fmean(left) / fmean(right),
        interval=bootstrap.ratio_of_means(left, right),
        paired=math.exp(fmean(map(math.log, ratios))) if positive else None,
        paired_interval=bootstrap.geometric_mean(ratios) if positive else None,
    )


def actor_paces(actors: Iterable[str], speeds: Mapping[str, float]) -> dict[str, float]:
    """Return how fast each actor is as a multiple of the first one, from the AR speed each measured.

    An actor without a measured speed is left out, unless it is the only one: alone it has nothing to be
    made comparable with.
    """
    names = list(dict.fromkeys(actors))
    known = [name for name in names if name in speeds]
    if not known and len(names) == 1:
        return {names[0]: 1.0}
    return {name: speeds[name] / speeds[known[0]] for name in known}


def half_width_over_repeats(values: Sequence[float], confidence: float) -> float | None:
    """Return the half-width of the mean's interval over repeats, as a share of the mean; None for one repeat.

    Student's interval: what varies between repeats is the machine, not the prompts, and is near to normal.
    """
    from scipy.special import stdtrit  # noqa: PLC0415 (as in widened_tail)

    if len(values) < 2:
        return None
    quantile = float(stdtrit(len(values) - 1, (1.0 + confidence) / 2.0))
    return quantile * stdev(values) / math.sqrt(len(values)) / fmean(values)


def _rates(timed: Iterable[tuple[SampleTotals, float]]) -> dict[int, float]:
    tokens: Counter[int] = Counter()
    seconds: dict[int, float] = {}
    for sample, spent in timed:
        tokens[sample.prompt_index] += sample.tokens
        seconds[sample.prompt_index] = seconds.get(sample.prompt_index, 0.0) + spent
    return {index: tokens[index] / total for index, total in sorted(seconds.items()) if total > 0.0}


def _std_between_repeats(runs: Sequence[Run]) -> float | None:
    repeats = sorted({run.repeat for run in runs})
    rates = [prompt_throughputs(run for run in runs if run.repeat == repeat) for repeat in repeats]
    means = [fmean(rate.values()) for rate in rates if rate]
    return stdev(means) if len(means) > 1 else None


# ------------------------------------------------------------------ all figures


def figures(
    method: Method, runs: Sequence[Run], bootstrap: Bootstrap, calibration: Calibration | None = None
) -> Figures | None:
    """Return a row's figures; None if its runs hold no measured sample.

    `calibration` is that of the row's pair where it ran; without it no speedup is predicted.
    """
    rates = throughput(runs, bootstrap)
    if rates is None:
        return None
    samples = [sample for run in runs for sample in run.samples]
    distinct = [s.distinct_2 for s in samples if s.distinct_2 is not None]
    return Figures(
        prompts=len({s.prompt_index for s in samples}),
        repeats=len({run.repeat for run in runs}),
        tokens=sum(s.tokens for s in samples),
        throughput=rates,
        acceptance=acceptance(method, samples),
        shares=shares(method, samples),
        latency=latency(samples),
        agreement=agreement(samples),
        distinct_2=fmean(distinct) if distinct else None,
        predicted_speedup=predicted_speedup(method, samples, calibration),
    )


def acceptance(method: Method, samples: Sequence[SampleTotals]) -> Acceptance:
    """Return how much of the draft was accepted.

    The target alone, in our loop or in transformers', has no draft: its length is 1, the rest unknown. What a
    peer does not tell of its rounds is unknown too.
    """
    tokens, rounds = sum(s.tokens for s in samples), sum(s.rounds for s in samples)
    alone = method in _TARGET_ALONE
    if alone or not rounds:
        length = 1.0 if alone else None
        return Acceptance(
            mean_length=length,
            mean_length_per_request=length,
            draft_rate=None,
            node_rate=None,
            mean_tree_nodes=None,
            node_cap_bound_rate=None,
            marginal_rates=None,
            conditional_rates=None,
        )
    accepted, verified = sum(s.accepted_tokens for s in samples), sum(s.verified_nodes for s in samples)
    reached = [sum(depth) for depth in zip_longest(*(s.accepted_by_depth for s in samples), fillvalue=0)]
    return Acceptance(
        mean_length=tokens / rounds,
        mean_length_per_request=fmean(_tokens_per_round(samples)),
        draft_rate=_share(accepted, sum(s.drafted_levels for s in samples)),
        node_rate=_share(accepted, verified),
        mean_tree_nodes=None if method.is_peer and not verified else verified / rounds,
        node_cap_bound_rate=None if method.is_peer else sum(s.capped_rounds for s in samples) / rounds,
        marginal_rates=tuple(count / rounds for count in reached),
        conditional_rates=tuple(
            count / before for count, before in zip(reached, [rounds, *reached], strict=False) if before
        ),
    )


def shares(method: Method, samples: Sequence[SampleTotals]) -> Shares:
    """Return where decode time went; a share is unknown as soon as one sample lacks its phase's seconds.

    AR neither drafts nor grows, prompt lookup has no draft to wait for, and into a peer's rounds nobody sees.
    The host's share is unknown where a model's is.
    """
    if method.is_peer:
        return Shares(draft=None, grow=None, verify=None, walk=None, host=None)
    total = sum(s.decode_seconds for s in samples)

    def share(phase: Callable[[SampleTotals], float | None]) -> float | None:
        return _phase_share([phase(s) if s.rounds else None for s in samples], total)

    draft = share(lambda s: s.draft_seconds) if METHODS[method].needs_draft else None
    grow = share(lambda s: s.grow_seconds) if method is not Method.AR else None
    verify, walk = share(lambda s: s.verify_seconds), share(lambda s: s.walk_seconds)
    models_known = verify is not None and (draft is not None or not METHODS[method].needs_draft)
    known = sum(value for value in (draft, grow, verify, walk) if value is not None)
    return Shares(
        draft=draft, grow=grow, verify=verify, walk=walk, host=1.0 - known if models_known else None
    )


def predicted_speedup(
    method: Method, samples: Sequence[SampleTotals], calibration: Calibration | None
) -> float | None:
    """Return the speedup over AR that acceptance and the calibrated cost of the models' steps promise.

    With L emitted tokens, s draft steps, r draft rows and N verified nodes, each a mean per round:

        L * verify(1) / (s * draft(r / s) + verify(N + 1))

    What the host does beside the models' steps is left out: the measured speedup falls short by its share.
    The figure is 1 for AR; None for a peer, without a calibration, or where draft steps were not counted.
    """
    if method is Method.AR:
        return 1.0
    rounds, steps = sum(s.rounds for s in samples), sum(s.draft_steps for s in samples)
    if method.is_peer or calibration is None or not rounds:
        return None
    drafted = METHODS[method].needs_draft and any(s.drafted_nodes for s in samples)
    if (drafted and not steps) or (steps and not calibration.draft_seconds):
        return None
    rows, nodes = sum(s.draft_rows for s in samples), sum(s.verified_nodes for s in samples)
    draft = steps / rounds * calibration.draft(rows / steps) if steps else 0.0
    length = sum(s.tokens for s in samples) / rounds
    return length * calibration.verify(1) / (draft + calibration.verify(nodes / rounds + 1))


def latency(samples: Sequence[SampleTotals]) -> Latency:
    """Return percentiles over samples; a later token's time is all time after the first token, averaged."""
    later = [
        (s.prefill_seconds + s.decode_seconds - s.ttft_seconds) / (s.tokens - 1)
        for s in samples
        if s.tokens > 1
    ]
    return Latency(
        ttft=_percentiles([s.ttft_seconds for s in samples]),
        tpot=_percentiles(later) if later else None,
        prefill=_percentiles([s.prefill_seconds for s in samples]),
    )


def agreement(samples: Sequence[SampleTotals]) -> Agreement:
    counts = Counter(s.exactness for s in samples if s.exactness is not None)
    return Agreement(
        compared=counts.total(),
        exact=counts[Exactness.EXACT],
        ties=counts[Exactness.TIE],
        violations=counts[Exactness.VIOLATION],
    )


def _tokens_per_round(samples: Sequence[SampleTotals]) -> list[float]:
    tokens: Counter[int] = Counter()
    rounds: Counter[int] = Counter()
    for sample in samples:
        tokens[sample.prompt_index] += sample.tokens
        rounds[sample.prompt_index] += sample.rounds
    return [tokens[index] / count for index, count in rounds.items() if count]


def _phase_share(seconds: Sequence[float | None], total: float) -> float | None:
    known = [value for value in seconds if value is not None]
    return sum(known) / total if len(known) == len(seconds) and total > 0.0 else None


def _share(part: int, whole: int) -> float | None:
    return part / whole if whole else None


def _percentiles(values: Sequence[float]) -> Percentiles:
    p50, p95 = np.quantile(values, [0.5, 0.95])
    return Percentiles(p50=float(p50), p95=float(p95))
