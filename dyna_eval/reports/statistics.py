"""The figures of a report: throughput, speedup with its interval, acceptance, latency, exactness.

Pure functions over the stored totals of `dyna_eval.measurements`; times are seconds, throughputs tokens per
second. A figure that cannot be known is `None`, never 0 and never NaN.

Intervals are those of `dyna_eval.reports.intervals`: over prompts, and with what differs from run to run
where that is known.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from statistics import fmean, stdev

import numpy as np

from dyna_eval.jobs import Method
from dyna_eval.measurements import Calibration, Exactness, SampleTotals
from dyna_eval.methods import needs_draft
from dyna_eval.reports.intervals import Bootstrap, Interval, Variance
from dyna_eval.reports.samples import Floats, SampleTable


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """One job's samples."""

    repeat: int
    samples: Sequence[SampleTotals]
    calibration: Calibration | None = None
    """What its actor had found passes to cost; without it no speedup is predicted."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class PacedRun:
    """What a job's throughput follows from, by sample, shape (samples,) each.

    Seconds are multiplied by the pace of the job's actor, which was found from so many `sentinels`: how fast
    it is, as a multiple of another actor of the table. So runs of unequal actors are comparable.
    """

    repeat: int
    prompts: Floats
    """Indices of the prompts."""
    tokens: Floats
    seconds: Floats
    actor: str = ""
    sentinels: int = 0

    @classmethod
    def of(
        cls,
        repeat: int,
        samples: Sequence[SampleTotals],
        *,
        pace: float = 1.0,
        actor: str = "",
        sentinels: int = 0,
    ) -> PacedRun:
        table = SampleTable.of(samples)
        return cls(
            repeat=repeat,
            prompts=table.column("prompt_index"),
            tokens=table.column("tokens"),
            seconds=table.column("decode_seconds") * pace,
            actor=actor,
            sentinels=sentinels,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Throughput:
    """Tokens per second. `mean` is over prompts; `pooled` is all tokens over all decode seconds."""

    mean: float
    interval: Interval | None
    std: float | None
    """Between the means of single repeats; None with one repeat. Of an imported row, as its file has it."""
    pooled: float | None
    end_to_end: float | None
    """As `mean`, prefill included."""
    by_prompt: Mapping[int, float] = field(default_factory=dict, repr=False, compare=False)
    """What `mean` is the mean of, by prompt index; empty where it is not known."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """How many times faster one row is than another. `ratio` is of means, `paired` the geometric mean of
    the prompts' own ratios. Intervals are None with one prompt, or where prompts cannot be paired."""

    ratio: float
    interval: Interval | None = None
    paired: float | None = None
    paired_interval: Interval | None = None
    prompts: int = field(default=0, compare=False)
    """The prompts of both rows, over which all this is; 0 where rows' means are compared, or unknown."""

    @property
    def intervals(self) -> list[Interval]:
        """Those that there are: of the ratio of means, and of the paired ratio."""
        return [one for one in (self.interval, self.paired_interval) if one is not None]

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

    mean_length: float | None = None
    mean_length_per_request: float | None = None
    draft_rate: float | None = None
    node_rate: float | None = None
    mean_tree_nodes: float | None = None
    node_cap_bound_rate: float | None = None
    marginal_rates: tuple[float, ...] | None = None
    conditional_rates: tuple[float, ...] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Shares:
    """Shares of decode seconds spent in each phase of a round, as `dyna_eval.measurements.Round` has them.

    `host` is the rest: what no phase accounts for, the phases that were not timed included.
    """

    draft: float | None = None
    grow: float | None = None
    verify: float | None = None
    walk: float | None = None
    host: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Percentiles:
    p50: float
    p95: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Latency:
    """Seconds over samples: to the first token, per token after it, and in the prefill."""

    ttft: Percentiles | None = None
    tpot: Percentiles | None = None
    """None where no sample has a second token."""
    prefill: Percentiles | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Agreement:
    """How the samples that were compared with the target's own output came out."""

    compared: int = 0
    exact: int = 0
    ties: int = 0
    violations: int = 0

    @property
    def exact_match_rate(self) -> float | None:
        return self.exact / self.compared if self.compared else None


@dataclass(frozen=True, slots=True, kw_only=True)
class Figures:
    """All that is known about one row by itself; in an imported row that may be its throughput alone."""

    prompts: int | None
    repeats: int | None
    tokens: int | None
    throughput: Throughput
    acceptance: Acceptance
    shares: Shares
    latency: Latency
    agreement: Agreement
    distinct_2: float | None
    predicted_speedup: float | None


# ------------------------------------------------------------------- throughput


def prompt_throughputs(runs: Iterable[Run]) -> dict[int, float]:
    """Return tokens per second by prompt index: all tokens of its repeats over all their decode seconds.

    A prompt without any decode time has no throughput and is left out.
    """
    return paced_throughputs([PacedRun.of(run.repeat, run.samples) for run in runs])


def paced_throughputs(runs: Sequence[PacedRun]) -> dict[int, float]:
    """Return tokens per second by prompt index, as `prompt_throughputs` does, of paced seconds."""
    if not runs:
        return {}
    return _rates(
        np.concatenate([run.prompts for run in runs]),
        np.concatenate([run.tokens for run in runs]),
        np.concatenate([run.seconds for run in runs]),
    )


def pooled_throughput(runs: Sequence[PacedRun]) -> float | None:
    """Return all tokens per second of all runs; None if no decode time was measured."""
    seconds = sum(float(run.seconds.sum()) for run in runs)
    return sum(float(run.tokens.sum()) for run in runs) / seconds if seconds > 0.0 else None


def mean_throughputs(runs: Iterable[PacedRun]) -> dict[int, float]:
    """Return the mean over prompts of the tokens per second of each run, by its repeat; none that is 0."""
    rates = {run.repeat: paced_throughputs([run]) for run in runs}
    return {repeat: fmean(rate.values()) for repeat, rate in rates.items() if any(rate.values())}


def throughput(runs: Sequence[Run], bootstrap: Bootstrap, noise: Variance | None = None) -> Throughput | None:
    """Return a row's throughput over the prompts; None if no decode time was measured.

    `noise` is that of the mean throughput's logarithm, from run to run.
    """
    samples = _all_samples(runs)
    by_prompt = prompt_throughputs(runs)
    if not by_prompt:
        return None
    rates = list(by_prompt.values())
    prompts, tokens, decode = map(samples.column, ("prompt_index", "tokens", "decode_seconds"))
    mean = fmean(rates)
    return Throughput(
        mean=mean,
        interval=bootstrap.widened(bootstrap.mean(rates), mean, noise),
        std=_std_between_repeats(runs),
        pooled=samples.total("tokens") / float(decode.sum()),
        end_to_end=fmean(_rates(prompts, tokens, samples.column("prefill_seconds") + decode).values()),
        by_prompt=by_prompt,
    )


def compare(
    values: Mapping[int, float],
    base: Mapping[int, float],
    bootstrap: Bootstrap,
    noise: Variance | None = None,
) -> Comparison | None:
    """Compare two rows over one prompt set by the throughputs of the prompts that both have.

    `noise` is that of the ratio's logarithm, from run to run. None where there is nothing to compare with.
    """
    common = [index for index in values if base.get(index, 0.0) > 0.0]
    if not common:
        return None
    left, right = [values[index] for index in common], [base[index] for index in common]
    ratios = [x / y for x, y in zip(left, right, strict=True)]
    ratio = fmean(left) / fmean(right)
    interval = bootstrap.widened(bootstrap.ratio_of_means(left, right), ratio, noise)
    if min(ratios) <= 0.0:
        return Comparison(ratio=ratio, interval=interval, prompts=len(common))
    paired = math.exp(fmean(map(math.log, ratios)))
    return Comparison(
        ratio=ratio,
        interval=interval,
        paired=paired,
        paired_interval=bootstrap.widened(bootstrap.geometric_mean_of_ratios(left, right), paired, noise),
        prompts=len(common),
    )


def ratio_of_means(value: float, base: float) -> Comparison | None:
    """Compare two rows' mean throughputs, all that can be compared where their prompts cannot be paired.

    None where there is nothing to compare with.
    """
    return Comparison(ratio=value / base) if base > 0.0 else None


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


def _all_samples(runs: Iterable[Run]) -> SampleTable:
    return SampleTable.join([SampleTable.of(run.samples) for run in runs])


def _rates(prompts: Floats, tokens: Floats, seconds: Floats) -> dict[int, float]:
    """Return the sum of tokens over the sum of seconds by prompt index; shapes (samples,)."""
    indices, places = np.unique(prompts, return_inverse=True)
    emitted = np.bincount(places, tokens, minlength=len(indices))
    spent = np.bincount(places, seconds, minlength=len(indices))
    timed = spent > 0.0
    rates = emitted[timed] / spent[timed]
    return dict(zip(indices[timed].astype(int).tolist(), rates.tolist(), strict=True))


def _std_between_repeats(runs: Sequence[Run]) -> float | None:
    repeats = sorted({run.repeat for run in runs})
    rates = [prompt_throughputs(run for run in runs if run.repeat == repeat) for repeat in repeats]
    means = [fmean(rate.values()) for rate in rates if rate]
    return stdev(means) if len(means) > 1 else None


# ------------------------------------------------------------------ all figures


def figures(
    method: Method,
    runs: Sequence[Run],
    bootstrap: Bootstrap,
    noise: Variance | None = None,
) -> Figures | None:
    """Return a row's figures; None if its runs hold no measured sample.

    `noise` is that of the mean throughput's logarithm, from run to run.
    """
    rates = throughput(runs, bootstrap, noise)
    if rates is None:
        return None
    samples = _all_samples(runs)
    distinct = samples.column("distinct_2")
    return Figures(
        prompts=len(samples.prompts()),
        repeats=len({run.repeat for run in runs}),
        tokens=samples.total("tokens"),
        throughput=rates,
        acceptance=acceptance(method, samples),
        shares=shares(method, samples),
        latency=latency(samples),
        agreement=agreement(samples),
        distinct_2=None if np.isnan(distinct).all() else float(np.nanmean(distinct)),
        predicted_speedup=predicted_speedup(method, runs),
    )


def acceptance(method: Method, samples: Sequence[SampleTotals]) -> Acceptance:
    """Return how much of the draft was accepted.

    The target alone, in our loop or in transformers', has no draft: its length is 1, the rest unknown. What a
    peer does not tell of its rounds is unknown too.
    """
    table = SampleTable.of(samples)
    tokens, rounds = table.total("tokens"), table.total("rounds")
    if method.is_target_alone or not rounds:
        length = 1.0 if method.is_target_alone else None
        return Acceptance(mean_length=length, mean_length_per_request=length)
    accepted, verified = table.total("accepted_tokens"), table.total("verified_nodes")
    reached = [int(count) for count in table.accepted_by_depth.sum(axis=1) if count]
    return Acceptance(
        mean_length=tokens / rounds,
        mean_length_per_request=fmean(
            _rates(table.column("prompt_index"), table.column("tokens"), table.column("rounds")).values()
        ),
        draft_rate=_share(accepted, table.total("drafted_levels")),
        node_rate=_share(accepted, verified),
        mean_tree_nodes=None if method.is_peer and not verified else verified / rounds,
        node_cap_bound_rate=None if method.is_peer else table.total("capped_rounds") / rounds,
        marginal_rates=tuple(count / rounds for count in reached),
        conditional_rates=tuple(
            count / before for count, before in zip(reached, [rounds, *reached], strict=False)
        ),
    )


def shares(method: Method, samples: Sequence[SampleTotals]) -> Shares:
    """Return where decode time went; a share is unknown as soon as one sample lacks its phase's seconds.

    AR neither drafts nor grows, prompt lookup has no draft to wait for, and into a peer's rounds nobody sees.
    The host's share is unknown where a model's is.
    """
    if method.is_peer:
        return Shares()
    table = SampleTable.of(samples)
    total, seen = float(table.column("decode_seconds").sum()), bool(table.column("rounds").all())

    def share(phase: str) -> float | None:
        seconds = float(table.column(phase).sum())  # NaN where one sample lacks it
        return seconds / total if seen and total > 0.0 and not math.isnan(seconds) else None

    draft = share("draft_seconds") if needs_draft(method) else None
    grow = share("grow_seconds") if method is not Method.AR else None
    verify, walk = share("verify_seconds"), share("walk_seconds")
    models_known = verify is not None and (draft is not None or not needs_draft(method))
    known = sum(value for value in (draft, grow, verify, walk) if value is not None)
    return Shares(
        draft=draft, grow=grow, verify=verify, walk=walk, host=1.0 - known if models_known else None
    )


def predicted_speedup(method: Method, runs: Sequence[Run]) -> float | None:
    """Return the speedup over AR that acceptance and the calibrated cost of the models' steps promise.

    With L emitted tokens, s draft steps, r draft rows and N verified nodes, each a mean per round:

        L * verify(1) / (s * draft(r / s) + verify(N + 1))

    Runs of several actors have a calibration each: both sides of the fraction are then computed for the runs
    of each calibration, and averaged over all rounds.

    What the host does beside the models' steps is left out: the measured speedup falls short by its share.
    The figure is 1 for AR; None for a peer, where a run lacks its calibration, or where draft steps were not
    counted.
    """
    if method is Method.AR:
        return 1.0
    by_calibration: defaultdict[Calibration | None, list[Run]] = defaultdict(list)
    for run in runs:
        by_calibration[run.calibration].append(run)
    tables = {calibration: _all_samples(alike) for calibration, alike in by_calibration.items()}
    all_rounds = sum(table.total("rounds") for table in tables.values())
    alone = speculative = 0.0
    for calibration, table in tables.items():
        seconds = _round_seconds(method, table, calibration)
        if seconds is None or calibration is None:
            return None
        rounds = table.total("rounds")
        alone += rounds / all_rounds * (table.total("tokens") / rounds * calibration.verify(1))
        speculative += rounds / all_rounds * seconds
    return alone / speculative


def _round_seconds(method: Method, table: SampleTable, calibration: Calibration | None) -> float | None:
    """Return what the passes of a mean round cost as calibrated; None where that is not known."""
    rounds, steps = table.total("rounds"), table.total("draft_steps")
    if method.is_peer or calibration is None or not rounds:
        return None
    drafted = needs_draft(method) and table.total("drafted_nodes") > 0
    if (drafted and not steps) or (steps and not calibration.draft_seconds):
        return None
    rows, nodes = table.total("draft_rows"), table.total("verified_nodes")
    draft = steps / rounds * calibration.draft(rows / steps) if steps else 0.0
    return draft + calibration.verify(nodes / rounds + 1)


def latency(samples: Sequence[SampleTotals]) -> Latency:
    """Return percentiles over samples; a later token's time is all time after the first token, averaged."""
    table = SampleTable.of(samples)
    tokens, ttft = table.column("tokens"), table.column("ttft_seconds")
    prefill, several = table.column("prefill_seconds"), tokens > 1
    later = (prefill + table.column("decode_seconds") - ttft)[several] / (tokens[several] - 1)
    return Latency(
        ttft=_percentiles(ttft),
        tpot=_percentiles(later) if len(later) else None,
        prefill=_percentiles(prefill),
    )


def agreement(samples: Sequence[SampleTotals]) -> Agreement:
    table = SampleTable.of(samples)
    exact, ties, violations = (
        table.number_of(how) for how in (Exactness.EXACT, Exactness.TIE, Exactness.VIOLATION)
    )
    return Agreement(compared=exact + ties + violations, exact=exact, ties=ties, violations=violations)


def _share(part: int, whole: int) -> float | None:
    return part / whole if whole else None


def _percentiles(values: Floats) -> Percentiles:
    p50, p95 = np.quantile(values, [0.5, 0.95])
    return Percentiles(p50=float(p50), p95=float(p95))
