"""What the figures of a report are, checked by hand, against scipy, and by simulation."""

from __future__ import annotations

import math
from statistics import fmean

import numpy as np
import pytest
import scipy.stats
from report_records import CALIBRATION, sample

from dyna_eval.jobs import Method
from dyna_eval.measurements import Calibration, Exactness, SampleTotals
from dyna_eval.reports import intervals
from dyna_eval.reports.intervals import Bootstrap, Interval, half_width_over_repeats, widened_tail
from dyna_eval.reports.statistics import (
    Agreement,
    PacedRun,
    Run,
    acceptance,
    actor_paces,
    agreement,
    compare,
    figures,
    latency,
    paced_throughputs,
    predicted_speedup,
    prompt_throughputs,
    ratio_of_means,
    shares,
    throughput,
)


def runs(*repeats: list[float], tokens: int = 120) -> list[Run]:
    """One run per list of decode seconds, one prompt per entry."""
    return [
        Run(repeat=number, samples=tuple(sample(i, tokens, seconds) for i, seconds in enumerate(repeat)))
        for number, repeat in enumerate(repeats)
    ]


# ------------------------------------------------------------------- throughput


def run(*samples: SampleTotals, calibration: Calibration | None = CALIBRATION) -> Run:
    return Run(repeat=0, samples=samples, calibration=calibration)


def test_a_prompts_throughput_is_its_total_tokens_over_its_total_seconds() -> None:
    assert prompt_throughputs(runs([1.0, 2.0], [3.0, 2.0])) == {0: 240 / 4.0, 1: 240 / 4.0}


def test_throughput_is_the_mean_over_prompts_and_pooled_is_not() -> None:
    rate = throughput(runs([1.0, 3.0]), Bootstrap())
    assert rate is not None
    assert rate.mean == fmean([120.0, 40.0])
    assert rate.pooled == 240 / 4.0
    assert rate.end_to_end == pytest.approx(fmean([120 / 1.02, 120 / 3.02]))


def test_the_deviation_is_between_means_of_repeats_and_unknown_with_one() -> None:
    two, one = (
        throughput(runs([1.0, 2.0], [2.0, 2.0]), Bootstrap()),
        throughput(runs([1.0, 2.0]), Bootstrap()),
    )
    assert two is not None
    assert one is not None
    assert two.std == pytest.approx(np.std([90.0, 60.0], ddof=1))
    assert one.std is None


def test_a_repeat_without_decode_time_has_no_mean_that_could_deviate() -> None:
    rate = throughput(runs([1.0], [2.0], [4.0], [0.0]), Bootstrap())
    assert rate is not None
    assert rate.std == pytest.approx(np.std([120.0, 60.0, 30.0], ddof=1))


def test_the_shortest_decode_time_counts() -> None:
    assert prompt_throughputs(runs([0.001, 0.0])) == {0: pytest.approx(120_000.0)}


def test_without_decode_time_there_is_no_throughput() -> None:
    assert throughput(runs([0.0, 0.0]), Bootstrap()) is None
    assert figures(Method.AR, [], Bootstrap()) is None


def test_seconds_on_a_faster_actor_count_by_its_pace() -> None:
    fast = PacedRun.of(0, (sample(seconds=1.0),), pace=2.0)
    assert paced_throughputs([fast]) == prompt_throughputs(runs([2.0]))


def test_paces_are_relative_to_the_first_actor() -> None:
    assert actor_paces(["a", "b", "a"], {"a": 100.0, "b": 50.0}) == {"a": 1.0, "b": 0.5}


def test_an_actor_without_a_measured_speed_has_a_pace_only_when_alone() -> None:
    assert actor_paces(["a", "a"], {}) == {"a": 1.0}
    assert actor_paces(["a", "b"], {"a": 100.0}) == {"a": 1.0}
    assert actor_paces(["a", "b"], {}) == {}


# -------------------------------------------------------------------- intervals

PROMPTS = 12
GENERATOR = np.random.default_rng(3)
BASE = GENERATOR.lognormal(4.5, 0.3, PROMPTS)
ROW = BASE * GENERATOR.lognormal(0.3, 0.15, PROMPTS)


def scipy_interval(columns: tuple[np.ndarray, ...], statistic: object) -> tuple[float, float]:
    """Scipy's percentile interval, at the level that widening for few prompts comes to."""
    found = scipy.stats.bootstrap(
        columns,
        statistic,
        paired=True,
        vectorized=True,
        method="percentile",
        n_resamples=20_000,
        confidence_level=1.0 - 2.0 * widened_tail(0.95, PROMPTS),
        rng=np.random.default_rng(11),
    ).confidence_interval
    return float(found.low), float(found.high)


@pytest.mark.parametrize(
    ("name", "columns", "statistic"),
    [
        ("mean", (ROW,), lambda x, axis: x.mean(axis)),
        ("ratio_of_means", (ROW, BASE), lambda x, y, axis: x.mean(axis) / y.mean(axis)),
        (
            "geometric_mean_of_ratios",
            (ROW, BASE),
            lambda x, y, axis: np.exp((np.log(x) - np.log(y)).mean(axis)),
        ),
    ],
)
def test_intervals_are_those_of_scipys_bootstrap(
    name: str, columns: tuple[np.ndarray, ...], statistic: object
) -> None:
    interval = getattr(Bootstrap(), name)(*columns)
    low, high = scipy_interval(columns, statistic)
    assert (interval.low, interval.high) == pytest.approx((low, high), abs=0.06 * (high - low))


def coverage(prompts: int, confidence: float = 0.95, trials: int = 2_000) -> float:
    """Return how often the interval of a paired ratio holds the true one, 1.4."""
    generator = np.random.default_rng(5)
    bootstrap = Bootstrap(confidence=confidence, resamples=4_000)
    samples = [generator.lognormal(math.log(1.4), 0.2, prompts).tolist() for _ in range(trials)]
    intervals = [bootstrap.geometric_mean_of_ratios(ratios, [1.0] * prompts) for ratios in samples]
    return sum(interval is not None and not interval.excludes(1.4) for interval in intervals) / trials


def test_intervals_over_eight_prompts_hold_the_truth_about_as_often_as_they_say() -> None:
    assert 0.915 <= coverage(8) <= 0.97


@pytest.mark.parametrize(
    ("prompts", "confidence"), [(2, 0.95), (3, 0.95), (4, 0.95), (5, 0.95), (7, 0.95), (12, 0.99)]
)
def test_intervals_over_fewer_prompts_hold_the_truth_as_often_as_they_say(
    prompts: int, confidence: float
) -> None:
    """No resample lies beyond the smallest and the largest prompt: of two, these hold it in half of cases."""
    assert coverage(prompts, confidence) == pytest.approx(confidence, abs=0.012)


def test_over_few_prompts_intervals_are_students_on_the_scale_of_logarithms() -> None:
    """Of the ratios 2 and 3: t = 12.706; their logarithms deviate by 0.28671, and over the root of 2."""
    bootstrap = Bootstrap()
    paired = bootstrap.geometric_mean_of_ratios([2.0, 3.0], [1.0, 1.0])
    assert paired is not None
    assert math.log(paired.high / math.sqrt(6.0)) == pytest.approx(12.7062 * 0.28671 / math.sqrt(2), rel=1e-4)
    assert paired.low * paired.high == pytest.approx(6.0)
    of_means = bootstrap.ratio_of_means([2.0, 6.0], [1.0, 2.0])
    assert of_means is not None
    spread = (2 / 4 - 1 / 1.5) - (6 / 4 - 2 / 1.5)  # what each prompt adds to the logarithm, to first order
    assert math.log(of_means.high * 1.5 / 4) == pytest.approx(12.7062 * abs(spread) / 2, rel=1e-4)
    assert of_means.low * of_means.high == pytest.approx((4 / 1.5) ** 2)


def test_intervals_of_nothing_and_of_any_confidence_are_numbers() -> None:
    assert Bootstrap().ratio_of_means([0.0, 0.0, 0.0], [1.0, 2.0, 3.0]) == Interval(low=0.0, high=0.0)
    for values in ([1.0, 1000.0], [2.0, 2.0]):
        for confidence in (0.999999, 1.0 - 2**-53):
            interval = Bootstrap(confidence=confidence).mean(values)
            assert interval is not None
            assert 0.0 < interval.low <= interval.high < math.inf


def test_widening_vanishes_with_many_prompts() -> None:
    tails = [widened_tail(0.95, prompts) for prompts in (2, 4, 8, 32, 100_000)]
    assert tails == sorted(tails)
    assert tails[-1] == pytest.approx(0.025, rel=1e-3)


def test_widening_is_by_students_quantile_and_by_what_a_bootstrap_over_few_prompts_lacks() -> None:
    """Over 8 prompts: t = 2.3646, times sqrt(8 / 7) is 2.5279 standard deviations."""
    assert widened_tail(0.95, 8) == pytest.approx(0.005737, abs=2e-6)
    assert widened_tail(0.95, 2) == pytest.approx(scipy.stats.norm.cdf(-12.7062 * math.sqrt(2.0)), rel=1e-3)


def test_the_interval_of_a_mean_is_as_wide_as_students() -> None:
    values = scipy.stats.norm.ppf((np.arange(20) + 0.5) / 20) + 100.0
    interval = Bootstrap().mean(values)
    assert interval is not None
    width = 2 * scipy.stats.t.ppf(0.975, 19) * values.std(ddof=1) / math.sqrt(20)
    assert interval.high - interval.low == pytest.approx(width, rel=0.04)


def test_intervals_take_two_prompts_and_no_fewer() -> None:
    bootstrap = Bootstrap(resamples=100)
    one, two = [3.0], [3.0, 4.0]
    assert (bootstrap.mean(one), bootstrap.ratio_of_means(one, one)) == (None, None)
    assert bootstrap.geometric_mean_of_ratios(one, one) is None
    assert bootstrap.mean(two) is not None
    assert bootstrap.mean(two) == bootstrap.ratio_of_means(two, [1.0, 1.0])
    assert bootstrap.geometric_mean_of_ratios(two, two) == Interval(low=1.0, high=1.0)


def test_every_resample_counts_and_is_the_same_however_many_are_drawn_at_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    single = Bootstrap(resamples=1).mean(ROW)
    assert single is not None
    assert single.low == single.high
    whole = Bootstrap(resamples=100).mean(ROW)
    monkeypatch.setattr(intervals, "_CHUNK_CELLS", 3 * PROMPTS)
    intervals._resample.cache_clear()
    intervals._resampling_counts.cache_clear()
    assert Bootstrap(resamples=100).mean(ROW) == whole


def test_an_interval_holds_its_ends() -> None:
    interval = Interval(low=1.0, high=2.0)
    assert not (interval.excludes(1.0) or interval.excludes(2.0))
    assert interval.excludes(0.999)
    assert interval.excludes(2.001)


def test_repeats_vary_by_students_interval_as_a_share_of_their_mean() -> None:
    """Of 100 and 110: t = 12.706, standard deviation 7.071, over the root of 2 and over 105."""
    assert half_width_over_repeats([100.0, 110.0], 0.95) == pytest.approx(0.6050, abs=1e-4)
    assert half_width_over_repeats([100.0], 0.95) is None


def test_equal_seeds_give_equal_intervals_and_other_seeds_others() -> None:
    assert Bootstrap().mean(ROW) == Bootstrap().mean(ROW)
    assert Bootstrap().mean(ROW) != Bootstrap(seed=1).mean(ROW)


def test_prompts_by_the_thousand_are_resampled_without_overflow() -> None:
    interval = Bootstrap(resamples=2_000).mean(np.arange(5_000.0))
    assert interval is not None
    assert interval.low < 2499.5 < interval.high
    assert interval.high - interval.low == pytest.approx(2 * 1.96 * 1443.4 / math.sqrt(5_000), rel=0.1)


def test_repeats_of_a_prompt_are_clustered_so_more_of_them_do_not_narrow_the_interval() -> None:
    once, often = runs([1.0, 2.0, 3.0]), runs(*[[1.0, 2.0, 3.0]] * 9)
    few, many = throughput(once, Bootstrap()), throughput(often, Bootstrap())
    assert few is not None
    assert many is not None
    assert few.interval == many.interval


def test_rows_are_paired_by_prompt_so_a_constant_ratio_has_no_spread() -> None:
    base = dict(enumerate(BASE.tolist()))
    found = compare({i: 1.5 * rate for i, rate in base.items()}, base, Bootstrap())
    assert found is not None
    assert found.interval is not None
    assert found.paired_interval is not None
    assert (found.interval.low, found.interval.high) == pytest.approx((1.5, 1.5))
    assert (found.paired, found.paired_interval.low) == pytest.approx((1.5, 1.5))
    assert found.separable is True


def test_a_ratio_about_one_is_not_separable() -> None:
    found = compare({0: 99.0, 1: 103.0, 2: 100.0}, {0: 100.0, 1: 100.0, 2: 100.0}, Bootstrap())
    assert found is not None
    assert found.separable is False


def test_only_prompts_that_both_rows_have_are_compared() -> None:
    found = compare({0: 10.0, 1: 30.0, 2: 500.0}, {0: 10.0, 1: 10.0, 3: 1.0}, Bootstrap())
    assert found is not None
    assert found.ratio == 2.0
    assert found.paired == pytest.approx(math.sqrt(3.0))
    assert found.prompts == 2


def test_rows_over_different_prompts_are_compared_by_their_means_alone() -> None:
    found = ratio_of_means(20.0, 5.0)
    assert found is not None
    assert (found.ratio, found.interval, found.paired, found.separable) == (4.0, None, None, None)
    assert found.prompts == 0


def test_one_prompt_has_no_interval() -> None:
    found = compare({0: 20.0}, {0: 10.0}, Bootstrap())
    assert found is not None
    assert (found.ratio, found.paired) == pytest.approx((2.0, 2.0))
    assert (found.interval, found.paired_interval, found.separable) == (None, None, None)


def test_a_prompt_without_any_output_has_a_ratio_but_no_logarithm() -> None:
    found = compare({0: 0.0, 1: 5.0}, {0: 1.0, 1: 1.0}, Bootstrap())
    assert found is not None
    assert (found.ratio, found.paired, found.paired_interval) == (2.5, None, None)
    assert found.interval is not None


def test_slow_rows_are_compared_as_well() -> None:
    found = compare({0: 0.001, 1: 0.004}, {0: 0.1, 1: 0.1}, Bootstrap())
    assert found is not None
    assert found.paired == pytest.approx(0.02)


def test_without_a_common_prompt_nothing_is_compared() -> None:
    assert compare({}, {1: 1.0}, Bootstrap()) is None
    assert compare({1: 1.0}, {}, Bootstrap()) is None
    assert ratio_of_means(1.0, 0.0) is None
    assert compare({0: 1.0}, {1: 1.0}, Bootstrap()) is None
    assert compare({0: 1.0}, {0: 0.0}, Bootstrap()) is None


# ------------------------------------------------------------------- acceptance


def test_acceptance_is_pooled_over_rounds() -> None:
    short = sample(
        tokens=10, rounds=5, accepted_tokens=5, drafted_levels=20, verified_nodes=50, accepted_by_depth=(4, 1)
    )
    long = sample(
        1, tokens=40, rounds=10, accepted_tokens=30, drafted_levels=40, verified_nodes=100, capped_rounds=3,
        accepted_by_depth=(10, 10, 10),
    )  # fmt: skip
    found = acceptance(Method.TREE, [short, long])
    assert found.mean_length == 50 / 15
    assert found.mean_length_per_request == fmean([2.0, 4.0])
    assert found.draft_rate == 35 / 60
    assert found.node_rate == 35 / 150
    assert found.mean_tree_nodes == 10.0
    assert found.node_cap_bound_rate == 3 / 15
    assert found.marginal_rates == (14 / 15, 11 / 15, 10 / 15)
    assert found.conditional_rates == (14 / 15, 11 / 14, 10 / 11)


def test_a_depth_that_no_round_accepted_is_not_listed() -> None:
    found = acceptance(Method.LINEAR, [sample(rounds=40, accepted_by_depth=(10, 0))])
    assert (found.marginal_rates, found.conditional_rates) == ((0.25,), (0.25,))


def test_a_tree_without_a_node_is_known_of_our_loop_and_unknown_of_a_peers() -> None:
    nothing = sample(verified_nodes=0)
    assert acceptance(Method.LINEAR, [nothing]).mean_tree_nodes == 0.0
    assert acceptance(Method.HF_ASSISTED, [nothing]).mean_tree_nodes is None
    assert acceptance(Method.HF_ASSISTED, [sample(verified_nodes=80)]).mean_tree_nodes == 2.0


def test_one_and_the_marginal_rates_add_up_to_the_mean_length() -> None:
    found = acceptance(Method.LINEAR, [sample(0), sample(1, tokens=60)])
    assert found.marginal_rates is not None
    assert found.mean_length == pytest.approx(1.0 + sum(found.marginal_rates))


def test_ar_has_acceptance_length_one_and_no_acceptance_rate() -> None:
    found = acceptance(Method.AR, [sample(rounds=120, accepted_tokens=0, drafted_levels=0, verified_nodes=0)])
    assert found.mean_length == 1.0
    assert (found.draft_rate, found.node_rate, found.mean_tree_nodes) == (None, None, None)
    assert (found.node_cap_bound_rate, found.marginal_rates) == (None, None)


def test_transformers_own_loop_over_the_target_alone_has_length_one_with_or_without_rounds() -> None:
    nothing = {"accepted_tokens": 0, "drafted_levels": 0, "verified_nodes": 0, "accepted_by_depth": ()}
    for rounds in (0, 40):
        found = acceptance(Method.HF_GENERATE, [sample(rounds=rounds, **nothing)])
        assert (found.mean_length, found.mean_length_per_request) == (1.0, 1.0)
        assert (found.draft_rate, found.node_rate, found.mean_tree_nodes) == (None, None, None)
        assert (found.marginal_rates, found.node_cap_bound_rate) == (None, None)


def test_what_assisted_generation_does_not_tell_of_its_rounds_is_unknown() -> None:
    found = acceptance(Method.HF_ASSISTED, [sample(drafted_levels=0, verified_nodes=0)])
    assert (found.mean_length, found.marginal_rates) == (3.0, (1.0, 1.0))
    assert (found.draft_rate, found.node_rate, found.mean_tree_nodes) == (None, None, None)
    assert found.node_cap_bound_rate is None
    assert acceptance(Method.HF_ASSISTED, [sample(rounds=0)]).mean_length is None


def test_a_draft_that_never_drafted_has_no_rate_rather_than_zero() -> None:
    found = acceptance(
        Method.LINEAR,
        [sample(drafted_levels=0, verified_nodes=0, accepted_tokens=0, accepted_by_depth=())],
    )
    assert (found.draft_rate, found.node_rate, found.marginal_rates) == (None, None, ())


# --------------------------------------------------- shares, latency, exactness


def test_shares_of_decode_time_add_up_to_one() -> None:
    found = shares(Method.LINEAR, [sample(seconds=1.0), sample(seconds=3.0)])
    assert (found.draft, found.grow, found.verify, found.walk) == (0.25, 0.0625, 0.5, 0.0625)
    assert found.host == 0.125


def test_a_share_is_unknown_where_a_sample_lacks_the_phases_time() -> None:
    found = shares(Method.LINEAR, [sample(), sample(draft_seconds=None)])
    assert (found.draft, found.verify, found.host) == (None, 0.5, None)
    assert shares(Method.LINEAR, [sample(), sample(rounds=0)]).host is None


def test_the_host_has_what_no_known_phase_accounts_for() -> None:
    older = shares(Method.LINEAR, [sample(grow_seconds=None, walk_seconds=None)])
    assert (older.grow, older.walk, older.host) == (None, None, 0.25)
    alone = shares(Method.AR, [sample(draft_seconds=None, grow_seconds=None)])
    assert (alone.draft, alone.grow, alone.host) == (None, None, 1.0 - 0.5 - 0.0625)
    lookup = shares(Method.PROMPT_LOOKUP, [sample(draft_seconds=None)])
    assert (lookup.draft, lookup.grow, lookup.host) == (None, 0.0625, 1.0 - 0.0625 - 0.5 - 0.0625)


def test_a_method_has_no_share_of_a_phase_that_is_not_its_own() -> None:
    alone, lookup = shares(Method.AR, [sample()]), shares(Method.PROMPT_LOOKUP, [sample()])
    assert (alone.draft, alone.grow, alone.host) == (None, None, 0.4375)
    assert (lookup.draft, lookup.grow, lookup.host) == (None, 0.0625, 0.375)


def test_no_time_has_no_shares_and_little_time_has() -> None:
    assert shares(Method.LINEAR, [sample(seconds=0.0)]).draft is None
    assert shares(Method.LINEAR, [sample(seconds=2.0**-10)]).draft == 0.25


@pytest.mark.parametrize("method", [Method.HF_GENERATE, Method.HF_ASSISTED])
def test_nobody_sees_into_the_rounds_of_a_peer(method: Method) -> None:
    found = shares(method, [sample()])
    assert {found.draft, found.grow, found.verify, found.walk, found.host} == {None}


# ------------------------------------------------------------ predicted speedup


def test_the_predicted_speedup_weighs_acceptance_against_the_cost_of_the_models_steps() -> None:
    """3 tokens per round, from 4 draft steps over 1.5 tokens each and one target step over 4 + 1 nodes."""
    expected = 3 * 0.010 / (4 * 0.002 + 0.014)
    samples = [sample(0), sample(1, tokens=60)]
    assert predicted_speedup(Method.LINEAR, [run(*samples)]) == pytest.approx(expected)


def test_runs_of_several_calibrations_are_averaged_over_their_rounds() -> None:
    """40 rounds of 22 ms, where the target's pass takes 10, and 20 of 50, where it takes 30."""
    slower = Calibration(draft_seconds=((1, 0.004),), verify_seconds=((1, 0.030), (8, 0.037)))
    each = [run(sample()), run(sample(tokens=60), calibration=slower)]
    alone, speculative = (40 * 0.010 + 20 * 0.030) / 60, (40 * 0.022 + 20 * (4 * 0.004 + 0.034)) / 60
    expected = pytest.approx(3 * alone / speculative)
    assert predicted_speedup(Method.LINEAR, each) == expected
    assert predicted_speedup(Method.LINEAR, [*each, *each]) == expected
    assert predicted_speedup(Method.LINEAR, [*each, run(sample(), calibration=None)]) is None


def test_without_a_draft_model_only_the_target_costs() -> None:
    lookup = sample(draft_steps=0, draft_rows=0)
    no_draft = Calibration(draft_seconds=(), verify_seconds=CALIBRATION.verify_seconds)
    assert predicted_speedup(Method.PROMPT_LOOKUP, [run(lookup, calibration=no_draft)]) == pytest.approx(
        3 * 0.010 / 0.014
    )
    assert predicted_speedup(Method.LINEAR, [run(sample(), calibration=no_draft)]) is None


def test_ar_is_predicted_to_be_as_fast_as_itself() -> None:
    assert predicted_speedup(Method.AR, [run(sample())]) == 1.0


@pytest.mark.parametrize(
    ("method", "changes", "calibration"),
    [
        (Method.LINEAR, {}, None),
        (Method.LINEAR, {"rounds": 0}, CALIBRATION),
        (Method.LINEAR, {"draft_steps": 0, "draft_rows": 0}, CALIBRATION),
        (Method.HF_GENERATE, {}, CALIBRATION),
        (Method.HF_ASSISTED, {}, CALIBRATION),
    ],
)
def test_what_cannot_be_predicted_is_unknown(
    method: Method, changes: dict[str, int], calibration: Calibration | None
) -> None:
    """Steps of 0 beside drafted nodes are those of a database from before they were counted."""
    assert predicted_speedup(method, [run(sample(**changes), calibration=calibration)]) is None


def test_a_row_with_no_room_to_draft_in_is_predicted_to_be_as_fast_as_the_target() -> None:
    """One new token: the round's own. Not so where a draft was read and its steps were not counted."""
    nothing = {"draft_steps": 0, "draft_rows": 0, "verified_nodes": 0, "rounds": 1}
    short = sample(tokens=1, drafted_nodes=0, **nothing)
    assert predicted_speedup(Method.LINEAR, [run(short)]) == pytest.approx(1.0)
    assert predicted_speedup(Method.LINEAR, [run(sample(drafted_nodes=1, **nothing))]) is None


def test_percentiles_are_over_samples() -> None:
    found = latency(
        [sample(tokens=2, seconds=0.0, ttft_seconds=i / 100, prefill_seconds=1.0) for i in range(101)]
    )
    assert (found.ttft.p50, found.ttft.p95) == pytest.approx((0.5, 0.95))
    assert found.tpot is not None
    assert (found.tpot.p50, found.tpot.p95) == pytest.approx((0.5, 0.95))


def test_time_per_token_counts_only_what_comes_after_the_first_token() -> None:
    found = latency([sample(tokens=11, seconds=1.0, prefill_seconds=0.5, ttft_seconds=0.6)])
    assert found.tpot is not None
    assert found.tpot.p50 == pytest.approx(0.9 / 10)
    assert found.ttft.p95 == 0.6
    assert latency([sample(tokens=1)]).tpot is None


def test_exactness_is_a_share_of_what_was_compared() -> None:
    outcomes = [Exactness.EXACT, Exactness.EXACT, Exactness.TIE, Exactness.VIOLATION, None]
    found = agreement([sample(exactness=outcome) for outcome in outcomes])
    assert (found.compared, found.ties, found.violations) == (4, 1, 1)
    assert found.exact_match_rate == 0.5
    assert agreement([sample(exactness=None)]) == Agreement()
    assert Agreement().exact_match_rate is None


def test_variety_is_the_mean_over_the_samples_whose_variety_is_known() -> None:
    def variety(*known: float | None) -> float | None:
        samples = tuple(sample(i, distinct_2=value) for i, value in enumerate(known))
        found = figures(Method.LINEAR, [Run(repeat=0, samples=samples)], Bootstrap(resamples=10))
        assert found is not None
        return found.distinct_2

    assert variety(0.5, None, 0.75) == 0.625
    assert variety(None, None) is None
