"""What differs from run to run: how it is estimated, and that intervals hold it."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import replace
from statistics import fmean

import numpy as np
import pytest
import scipy.stats
from report_records import BASELINE, LINEAR, PRUNED, TREE, change_jobs, record

from dyna_eval.jobs import JobState
from dyna_eval.records import StoredJob, StoredSentinel, SweepRecord
from dyna_eval.reports.integrity import UNKNOWN_NOISE
from dyna_eval.reports.intervals import Bootstrap, Interval, RunNoise, TableNoise, Variance
from dyna_eval.reports.joined_report import joined_report
from dyna_eval.reports.measured_report import build_report
from dyna_eval.reports.report import Report, Row, noise_as_measured, rates_together
from dyna_eval.reports.statistics import Comparison, compare
from dyna_eval.reports.sweep_comparison import Side, SpeedVerdict, compare_reports
from dyna_eval.series.costs import phase_bars
from dyna_eval.series.measured import Measured

LOGS = np.random.default_rng(2).normal(4.6, 0.02, (4, 3))  # rows x blocks


def layout(logs: np.ndarray) -> list[dict[int, float]]:
    return [dict(enumerate(np.exp(row).tolist())) for row in logs]


def known(noise: Variance | None) -> Variance:
    assert noise is not None
    return noise


def half_width(noise: Variance) -> float:
    return float(scipy.stats.t.ppf(0.975, noise.degrees)) * math.sqrt(noise.value)


# ------------------------------------------------------------------- the estimate


def test_between_two_rows_it_is_the_paired_students_interval() -> None:
    noise = known(RunNoise.of(layout(LOGS[:2])).in_block)
    paired = scipy.stats.ttest_rel(LOGS[0], LOGS[1]).confidence_interval(0.95)
    assert half_width(noise * (2 / 3)) == pytest.approx((paired.high - paired.low) / 2)


def test_it_is_the_residual_of_rows_and_blocks_so_neither_speed_nor_drift_counts() -> None:
    noise = RunNoise.of(layout(LOGS))
    shifted = LOGS + np.array([[0.0], [1.0], [0.3], [-2.0]]) + np.array([0.0, 0.1, 0.5])
    moved = RunNoise.of(layout(shifted))
    assert known(moved.in_block).value == pytest.approx(known(noise.in_block).value)
    assert known(moved.in_block).degrees == known(noise.in_block).degrees == 6
    assert known(moved.alone).value > 10 * known(noise.alone).value


def test_alone_a_run_deviates_as_the_runs_of_its_row_do() -> None:
    pooled = known(RunNoise.of(layout(LOGS)).alone)
    assert pooled.value == pytest.approx(LOGS.var(axis=1, ddof=1).mean())
    assert 2.0 < pooled.degrees <= 8.0
    one = known(RunNoise.of(layout(LOGS[:1])).alone)
    assert (one.value, one.degrees) == (pytest.approx(LOGS[0].var(ddof=1)), 2)


def test_two_estimates_add_up_as_welchs_do() -> None:
    other = np.random.default_rng(3).normal(4.0, 0.1, 5)
    welch = scipy.stats.ttest_ind(LOGS[0], other, equal_var=False)
    ours, theirs = (known(RunNoise.of(layout(row[None])).alone) for row in (LOGS[0], other))
    both = ours * (1 / 3) + theirs * (1 / 5)
    assert both.degrees == pytest.approx(welch.df)
    interval = welch.confidence_interval(0.95)
    assert half_width(both) == pytest.approx((interval.high - interval.low) / 2)


def test_rows_that_lack_a_block_are_left_out_or_the_block_is_whichever_tells_more() -> None:
    rows = layout(LOGS)
    late = [*rows, {0: 100.0}, {}]
    assert RunNoise.of(late) == RunNoise.of(rows)
    running = [rows[0], *({0: row[0], 1: row[1]} for row in rows[1:])]
    assert RunNoise.of(running) == RunNoise.of([{0: row[0], 1: row[1]} for row in rows])


@pytest.mark.parametrize("rows", [[], [{}], [{0: 1.0}], [{0: 1.0}, {0: 2.0}]])
def test_without_a_repeat_it_is_unknown(rows: list[dict[int, float]]) -> None:
    assert RunNoise.of(rows) == RunNoise(in_block=None, alone=None)


def test_runs_without_any_noise_add_none() -> None:
    noise = RunNoise.of([{0: 2.0, 1: 2.0}, {0: 4.0, 1: 4.0}])
    assert known(noise.in_block).value == known(noise.alone).value == 0.0
    assert known(noise.in_block) + known(noise.alone) == Variance(value=0.0, degrees=3)
    interval = Interval(low=1.0, high=2.0)
    assert Bootstrap().widened(interval, 1.5, noise.in_block) == Interval(
        low=pytest.approx(1.0), high=pytest.approx(2.0)
    )


def test_an_interval_is_widened_in_quadrature_on_each_side() -> None:
    """1.96 standard deviations of 0.03 and a distance of 0.08: together 0.0992."""
    interval = Interval(low=math.exp(-0.08), high=math.exp(0.04))
    wide = Bootstrap().widened(interval, 1.0, Variance(value=0.03**2, degrees=1e9))
    assert wide is not None
    assert math.log(wide.low) == pytest.approx(-math.hypot(0.08, 0.05880), abs=1e-5)
    assert math.log(wide.high) == pytest.approx(math.hypot(0.04, 0.05880), abs=1e-5)
    assert Bootstrap().widened(interval, 1.0, None) is interval
    assert Bootstrap().widened(None, 1.0, Variance(value=1.0, degrees=1)) is None


# ------------------------------------------------------------------- simulation


def equal_rows(seed: int, *, rows: int, job: float, block: float) -> np.ndarray:
    """Return log throughputs, shape (rows, 3 blocks, 8 prompts), of prompts that are the same in all."""
    generator = np.random.default_rng(seed)
    noise = generator.normal(0.0, job, (rows, 3, 1)) + generator.normal(0.0, block, (1, 3, 1))
    return np.linspace(4.5, 5.0, 8) + noise + generator.normal(0.0, 0.005, (rows, 3, 8))


def compared(ours: np.ndarray, theirs: np.ndarray, noise: Variance | None) -> Comparison:
    values, base = (dict(enumerate(np.exp(row.mean(axis=0)).tolist())) for row in (ours, theirs))
    found = compare(values, base, Bootstrap(resamples=2_000), noise)
    assert found is not None
    return found


@pytest.mark.parametrize("rows", [2, 4])
def test_equal_rows_whose_jobs_differ_by_chance_are_separable_about_as_rarely_as_promised(rows: int) -> None:
    """Over prompts alone they are in two cases of three."""
    trials, separable, over_prompts_alone = 400, 0, 0
    for seed in range(trials):
        logs = equal_rows(seed, rows=rows, job=0.01, block=0.03)
        noise = known(RunNoise.of(layout(logs.mean(axis=2))).in_block) * (2 / 3)
        separable += compared(logs[0], logs[1], noise).separable is True
        over_prompts_alone += compared(logs[0], logs[1], None).separable is True
    assert over_prompts_alone / trials > 0.6
    assert 0.02 <= separable / trials <= 0.08


def test_equal_sweeps_measured_one_after_the_other_are_as_rarely_separable() -> None:
    trials, separable = 400, 0
    for seed in range(trials):
        sweeps = [equal_rows(2 * seed + side, rows=4, job=0.01, block=0.02) for side in (0, 1)]
        first, second = (known(RunNoise.of(layout(logs.mean(axis=2))).alone) * (1 / 3) for logs in sweeps)
        separable += compared(sweeps[0][0], sweeps[1][0], first + second).separable is True
    assert 0.02 <= separable / trials <= 0.08


# ------------------------------------------------------------- rows of unequal noise


def rows_by_label(logs: np.ndarray) -> dict[str, dict[int, float]]:
    return {f"row {place}": row for place, row in enumerate(layout(logs))}


def table_noise(logs: np.ndarray) -> TableNoise:
    rows = rows_by_label(logs)
    return TableNoise.of(rows, rows)


def unequal(seed: int, deviations: list[float], blocks: int = 3) -> np.ndarray:
    generator = np.random.default_rng(seed)
    return generator.normal(0.0, 1.0, (len(deviations), blocks)) * np.array(deviations)[:, None]


def test_rows_that_are_equally_noisy_have_the_pooled_noise_all_of_them() -> None:
    noise, pooled = table_noise(LOGS), RunNoise.of(layout(LOGS))
    assert noise.loud == {}
    assert noise.of_row("row 0") == noise.of_row("of another machine")
    assert (noise.pooled.in_block, noise.pooled.alone) == (pooled.in_block, pooled.alone)
    assert noise.pooled.as_measured == pooled.alone


def test_a_row_of_more_noise_has_its_own_and_the_others_are_pooled_without_it() -> None:
    logs = np.vstack([LOGS, [[4.0, 5.0, 4.2]]])
    noise = table_noise(logs)
    assert list(noise.loud) == ["row 4"]
    assert noise.pooled.in_block == RunNoise.of(layout(LOGS)).in_block
    own = noise.of_row("row 4")
    assert known(own.in_block).value == pytest.approx((logs[4] - LOGS.mean(axis=0)).var(ddof=1))
    assert known(own.alone).value == pytest.approx(logs[4].var(ddof=1))
    assert known(own.in_block).degrees == known(own.alone).degrees == 2


def test_two_rows_of_more_noise_are_found_one_after_the_other() -> None:
    logs = np.vstack([LOGS, [[4.0, 4.6, 4.1], [4.0, 9.0, 3.0]]])
    assert list(table_noise(logs).loud) == ["row 5", "row 4"]


@pytest.mark.parametrize("rows", [1, 2])
def test_of_two_rows_nothing_tells_which_is_the_louder_one(rows: int) -> None:
    assert table_noise(unequal(1, [0.001, 1.0][:rows], blocks=5)).loud == {}


def test_an_equally_noisy_row_is_taken_for_a_loud_one_in_one_of_a_hundred_cases() -> None:
    trials = 1500
    found = sum(len(table_noise(unequal(seed, [0.01] * 4)).loud) for seed in range(trials))
    assert 0.005 <= found / trials / 4 <= 0.015


@pytest.mark.parametrize("base", [0, 1])
def test_an_equal_row_of_ten_times_the_noise_is_rarely_separable(base: int) -> None:
    """Whether it is the baseline or not. With the noise of all pooled it is in a third of all cases."""
    trials, separable, pooled = 300, 0, 0
    for seed in range(trials):
        generator = np.random.default_rng(seed + 10_000)
        means = unequal(seed, [0.03, *[0.003] * 5])
        logs = means[:, :, None] + np.linspace(4.5, 5.0, 8) + generator.normal(0.0, 0.002, (6, 3, 8))
        noise = table_noise(logs.mean(axis=2))
        ours, theirs = (known(noise.of_row(f"row {place}").in_block) for place in (1 - base, base))
        separable += compared(logs[1 - base], logs[base], (ours + theirs) * (1 / 3)).separable is True
        all_alike = known(RunNoise.of(layout(logs.mean(axis=2))).in_block) * (2 / 3)
        pooled += compared(logs[1 - base], logs[base], all_alike).separable is True
    assert pooled / trials > 0.25
    assert separable / trials < 0.15


# ----------------------------------------------------------------------- reports


def slowed(stored: SweepRecord, factor: Callable[[StoredJob], float]) -> SweepRecord:
    """Let each job take so many times as long."""
    jobs = []
    for job in stored.jobs:
        times = factor(job)
        own = tuple(replace(one, decode_seconds=one.decode_seconds * times) for one in job.samples)
        jobs.append(replace(job, samples=own))
    return replace(stored, jobs=tuple(jobs))


def noisy(stored: SweepRecord, seed: int, *, job: float = 0.0, block: float = 0.0) -> SweepRecord:
    """Let jobs, and whole blocks, be slower or faster by chance, all prompts alike."""
    generator = np.random.default_rng(seed)
    blocks = np.exp(generator.normal(0.0, block, 10))
    return slowed(stored, lambda own: float(blocks[own.repeat] * np.exp(generator.normal(0.0, job))))


def row(report: Report, label: str) -> Row:
    return next(row for row in report.rows if row.label == label)


def versus_baseline(report: Report, label: str) -> Comparison:
    found = row(report, label).versus_baseline
    assert found is not None
    return found


EQUAL = record(((BASELINE, 100.0), (LINEAR, 100.0), (PRUNED, 100.0)), noise=0.005)


def test_the_interval_of_a_throughput_holds_what_differs_from_block_to_block() -> None:
    still, moving = build_report(EQUAL), build_report(drifting(EQUAL))
    for label in (BASELINE.label, LINEAR.label):
        here, there = (row(report, label).figures for report in (still, moving))
        assert here is not None
        assert there is not None
        assert here.throughput.interval is not None
        assert there.throughput.interval is not None
        wide = there.throughput.interval.high - there.throughput.interval.low
        assert wide > 1.1 * (here.throughput.interval.high - here.throughput.interval.low)


def test_a_row_of_another_machine_tells_nothing_of_how_runs_differ_on_this_one() -> None:
    """Nor does one of which a repeat ran elsewhere; both may be shown beside the others all the same."""
    stored = noisy(EQUAL, 2, job=0.02)
    jobs = zip(stored.jobs, noisy(stored, 3, job=0.3).jobs, strict=True)
    stored = replace(stored, jobs=tuple(rough if job.label == PRUNED.label else job for job, rough in jobs))
    alone = build_report(
        replace(
            stored,
            jobs=tuple(job for job in stored.jobs if job.label != PRUNED.label),
            configurations=tuple(own for own in stored.configurations if own.label != PRUNED.label),
        )
    )
    for repeats in ([0, 1, 2], [1]):
        mixed = change_jobs(stored, PRUNED.label, repeats=repeats, environment="e2")
        report = build_report(mixed, allow_mixed=True)
        assert row(report, PRUNED.label).mixed
        assert row(report, LINEAR.label).noise == row(alone, LINEAR.label).noise
        assert versus_baseline(report, LINEAR.label) == versus_baseline(alone, LINEAR.label)
    assert row(build_report(stored), LINEAR.label).noise != row(alone, LINEAR.label).noise


def test_a_tokens_time_has_the_noise_of_the_throughput_that_it_is_the_inverse_of() -> None:
    def width(stored: SweepRecord) -> float:
        [_, bar, _] = phase_bars(Measured.of(build_report(stored), stored), "demo")
        assert bar.total.interval is not None
        return math.log(bar.total.interval.high / bar.total.interval.low)

    assert width(drifting(EQUAL)) > 1.5 * width(EQUAL)


def test_a_rows_intervals_hold_the_noise_of_its_own_runs_and_the_baselines() -> None:
    report = build_report(noisy(EQUAL, 2, job=0.02))
    ours, base = row(report, LINEAR.label), row(report, BASELINE.label)
    noise = known(ours.noise and ours.noise.in_block)
    assert noise.degrees == 4
    assert ours.rates is not None
    assert base.rates is not None
    assert ours.versus_baseline == compare(ours.rates, base.rates, Bootstrap(), noise * (2 / 3))


def test_the_baselines_own_speedup_is_1_whatever_runs_differ_by() -> None:
    found = versus_baseline(build_report(noisy(EQUAL, 1, job=0.1)), BASELINE.label)
    assert (found.ratio, found.interval, found.paired_interval) == (1.0, None, None)


def with_prefills(stored: SweepRecord, seconds: Callable[[StoredJob], float]) -> SweepRecord:
    """Let each prefill of a job take so long."""
    return replace(
        stored,
        jobs=tuple(
            replace(job, samples=tuple(replace(one, prefill_seconds=seconds(job)) for one in job.samples))
            for job in stored.jobs
        ),
    )


def test_the_speedup_with_the_prefill_is_that_of_decoding_which_takes_as_much_longer() -> None:
    """So it has the same prompts, repeats, resamples and noise from run to run, and another speed."""
    generator = np.random.default_rng(5)
    extra = [float(0.3 * np.exp(generator.normal(0.0, 0.2))) for _ in range(20)]
    stored = with_prefills(noisy(EQUAL, 2, job=0.02), lambda job: extra[job.id])
    longer = replace(
        stored,
        jobs=tuple(
            replace(
                job,
                samples=tuple(
                    replace(one, decode_seconds=one.decode_seconds + one.prefill_seconds)
                    for one in job.samples
                ),
            )
            for job in stored.jobs
        ),
    )
    stored, longer = (
        change_jobs(one, LINEAR.label, repeats=[2], state=JobState.FAILED, samples=())
        for one in (stored, longer)
    )
    report, decoding = build_report(stored), build_report(longer)
    for label in (LINEAR.label, PRUNED.label):
        found, expected = row(report, label).end_to_end, versus_baseline(decoding, label)
        assert found is not None
        assert found.ratio == pytest.approx(expected.ratio)
        assert found.interval is not None
        assert expected.interval is not None
        assert (found.interval.low, found.interval.high) == (
            pytest.approx(expected.interval.low),
            pytest.approx(expected.interval.high),
        )
        assert found.ratio != pytest.approx(versus_baseline(report, label).ratio, rel=1e-3)
    base = row(report, BASELINE.label)
    assert (known_ratio(base), base.end_to_end_interval) == (1.0, None)


def known_ratio(found: Row) -> float:
    assert found.end_to_end is not None
    return found.end_to_end.ratio


def test_a_slow_prefill_lowers_the_speedup_that_has_it_in_it_and_no_other() -> None:
    stored = record(((BASELINE, 100.0), (LINEAR, 200.0)), noise=0.0)
    slow = with_prefills(stored, lambda _: 1.2)
    for report in (build_report(stored), build_report(slow)):
        assert versus_baseline(report, LINEAR.label).ratio == pytest.approx(2.0)
    times = [sample.decode_seconds for sample in stored.jobs[0].samples]
    expected = sum(1 / (1.2 + time / 2) for time in times) / sum(1 / (1.2 + time) for time in times)
    assert known_ratio(row(build_report(slow), LINEAR.label)) == pytest.approx(expected)
    assert expected < 1.5


def test_the_speedup_with_the_prefill_takes_each_row_against_its_own_actors_ar_runs_prefill_included() -> (
    None
):
    """The second actor decodes at the same speed, but its prefill takes ten times as long, for all alike."""
    stored = record(((BASELINE, 100.0), (LINEAR, 100.0)), noise=0.0, prompts=1)
    decode = stored.jobs[0].samples[0].decode_seconds
    actors = {BASELINE.label: "actor-1", LINEAR.label: "actor-2"}
    prefill = {"actor-1": 0.1 * decode, "actor-2": 1.0 * decode}
    stored = on_actors(stored, actors, 2)
    stored = with_prefills(stored, lambda job: prefill[actors[job.label]])
    stored = replace(
        stored,
        sentinels=tuple(
            replace(
                one,
                samples=tuple(
                    replace(each, decode_seconds=decode, prefill_seconds=prefill[one.actor])
                    for each in one.samples
                ),
            )
            for one in stored.sentinels
        ),
    )
    found = row(build_report(stored), LINEAR.label)
    assert found.figures is not None
    assert found.figures.throughput.end_to_end == pytest.approx(120 / (2.0 * decode))
    assert known_ratio(found) == pytest.approx(1.0)


def test_the_rows_of_a_joined_table_have_the_speedup_with_the_prefill_over_its_baseline() -> None:
    first = with_prefills(record(((BASELINE, 100.0), (LINEAR, 150.0)), noise=0.0), lambda _: 0.5)
    second = replace(
        with_prefills(record(((BASELINE, 100.0), (PRUNED, 200.0)), noise=0.0), lambda _: 0.5),
        id=2,
        name="second",
        digest="e" * 64,
    )
    joined = joined_report([first, second])
    times = [sample.decode_seconds for sample in first.jobs[0].samples]
    for label, speedup in ((LINEAR.label, 1.5), (PRUNED.label, 2.0)):
        [found] = [row for row in joined.rows if row.label == label]
        expected = sum(1 / (0.5 + time / speedup) for time in times) / sum(1 / (0.5 + time) for time in times)
        assert known_ratio(found) == pytest.approx(expected)
        assert found.end_to_end_interval is not None


def drifting(stored: SweepRecord) -> SweepRecord:
    return slowed(stored, lambda job: (1.0, 1.1, 1.5)[job.repeat])


@pytest.mark.parametrize("state", [JobState.QUEUED, JobState.FAILED])
def test_rows_are_compared_over_the_repeats_that_both_have_so_that_no_drift_comes_between_them(
    state: JobState,
) -> None:
    """A row without the slow last block would seem a sixth faster than its equals."""
    exact = record(((BASELINE, 100.0), (LINEAR, 100.0), (PRUNED, 100.0)), noise=0.0)
    partly = change_jobs(drifting(exact), LINEAR.label, repeats=[2], state=state, samples=())
    found = versus_baseline(build_report(partly), LINEAR.label)
    assert (found.ratio, found.paired) == (pytest.approx(1.0), pytest.approx(1.0))
    gained = row(build_report(partly), PRUNED.label).versus_previous
    assert gained is not None
    assert gained.ratio == pytest.approx(1.0)


def test_rows_that_share_no_repeat_are_compared_with_the_noise_of_runs_by_themselves() -> None:
    stored = drifting(record(((BASELINE, 100.0), (LINEAR, 100.0), (PRUNED, 80.0), (TREE, 60.0)), noise=0.0))
    for label, repeats in ((BASELINE.label, [0, 1]), (LINEAR.label, [2])):
        stored = change_jobs(stored, label, repeats=repeats, state=JobState.FAILED, samples=())
    found = versus_baseline(build_report(stored), LINEAR.label)
    assert found.ratio == pytest.approx(1.5 / 1.0476, rel=0.01)
    assert found.separable is False


def test_two_sweeps_are_compared_with_the_noise_of_both() -> None:
    """Each row is the same within every sweep, but all of B ran while the machine was slower by 4 %."""
    a, b = (
        drifting(replace(stored, id=number))
        for number, stored in ((1, EQUAL), (2, slowed(EQUAL, lambda _: 1.04)))
    )
    match = compare_reports(Side(report=build_report(a)), Side(report=build_report(b))).matches[1]
    assert match.ratio is not None
    assert match.ratio.ratio == pytest.approx(1 / 1.04)
    assert match.verdict is SpeedVerdict.NOT_SEPARABLE
    still = compare_reports(
        Side(report=build_report(EQUAL)), Side(report=build_report(slowed(EQUAL, lambda _: 1.04)))
    )
    assert still.matches[1].verdict is SpeedVerdict.SLOWER


def test_only_a_loud_rows_own_intervals_are_as_wide_as_its_noise() -> None:
    """Not those of the other rows, whose noise is pooled without it."""
    jumpy = slowed(
        record(((BASELINE, 100.0), (LINEAR, 100.0), (PRUNED, 100.0), (TREE, 100.0)), noise=0.005),
        lambda job: (1.0, 1.4, 0.8)[job.repeat] if job.label == PRUNED.label else 1.0,
    )
    report = build_report(jumpy)

    def width(label: str) -> float:
        found = versus_baseline(report, label)
        assert found.paired_interval is not None
        return math.log(found.paired_interval.high / found.paired_interval.low)

    assert row(report, LINEAR.label).noise == row(report, TREE.label).noise
    assert width(PRUNED.label) > 20 * max(width(LINEAR.label), width(TREE.label))
    ours, base = row(report, PRUNED.label), row(report, BASELINE.label)
    assert ours.rates is not None
    assert base.rates is not None
    both = known(ours.noise and ours.noise.in_block) + known(base.noise and base.noise.in_block)
    found = compare(ours.rates, base.rates, Bootstrap(), both * (1 / 3))
    assert found is not None
    assert versus_baseline(report, PRUNED.label).paired_interval == Interval(
        low=pytest.approx(found.paired_interval and found.paired_interval.low),
        high=pytest.approx(found.paired_interval and found.paired_interval.high),
    )


# -------------------------------------------------------------------- one repeat


def test_with_one_repeat_a_table_says_once_that_its_intervals_are_over_prompts_alone() -> None:
    report = build_report(record(repeats=1))
    assert report.warnings == (UNKNOWN_NOISE,)
    over_prompts = versus_baseline(report, LINEAR.label).interval
    assert over_prompts is not None
    assert over_prompts.excludes(1.0)


def test_a_row_by_itself_says_it_too_for_its_throughput_has_an_interval() -> None:
    assert build_report(record(((BASELINE, 100.0),), repeats=1)).warnings == (UNKNOWN_NOISE,)


@pytest.mark.parametrize(
    "stored",
    [record(), record(((BASELINE, 100.0),), repeats=2), record(((BASELINE, 100.0),), repeats=1, prompts=1)],
)
def test_where_runs_are_known_or_there_is_no_interval_nothing_is_said(stored: SweepRecord) -> None:
    assert UNKNOWN_NOISE not in build_report(stored).warnings


# ------------------------------------------------------------------- many actors


def on_actors(stored: SweepRecord, actors: Mapping[str, str], sentinels: int) -> SweepRecord:
    """Let rows run on actors of their own, each with so many AR runs."""
    own = stored.sentinels[0].samples
    return replace(
        stored,
        jobs=tuple(replace(job, actor=actors[job.label]) for job in stored.jobs),
        sentinels=tuple(
            StoredSentinel(actor=actor, sequence=number, pair="demo", samples=own)
            for actor in sorted(set(actors.values()))
            for number in range(sentinels)
        ),
    )


def test_rows_of_other_actors_have_the_noise_of_both_actors_paces_too() -> None:
    stored = noisy(EQUAL, 4, job=0.02)

    def width(actors: Mapping[str, str], sentinels: int) -> float:
        found = versus_baseline(build_report(on_actors(stored, actors, sentinels)), LINEAR.label)
        assert found.paired_interval is not None
        return math.log(found.paired_interval.high / found.paired_interval.low)

    one = dict.fromkeys((BASELINE.label, LINEAR.label, PRUNED.label), "actor-1")
    two = one | {LINEAR.label: "actor-2"}
    assert width(one, 1) == pytest.approx(width(one, 9))
    assert width(two, 1) > 1.2 * width(one, 1)
    assert width(one, 9) < width(two, 9) < 0.9 * width(two, 1)


def at_random_on_two_actors(seed: int) -> SweepRecord:
    """Four equal rows, whose jobs two actors shared by chance, of which one is slower by 15 %."""
    steps = ((BASELINE, 100.0), (LINEAR, 100.0), (PRUNED, 100.0), (TREE, 100.0))
    stored = noisy(record(steps, noise=0.005), seed, job=0.005)
    generator = np.random.default_rng(seed)
    jobs = tuple(replace(job, actor=f"actor-{generator.integers(2)}") for job in stored.jobs)
    runs = replace(stored, jobs=jobs)
    runs = slowed(runs, lambda job: 1.15 if job.actor == "actor-1" else 1.0)
    own = stored.sentinels[0].samples
    late = tuple(replace(one, decode_seconds=one.decode_seconds * 1.15) for one in own)
    return replace(
        runs,
        sentinels=tuple(
            StoredSentinel(actor=actor, sequence=0, pair="demo", samples=samples)
            for actor, samples in (("actor-0", own), ("actor-1", late))
        ),
    )


def test_equal_sweeps_whose_jobs_had_unequal_actors_are_not_called_faster_or_slower() -> None:
    """Their ratio is of throughput as measured, and so is the noise that widens its interval."""
    reports = [build_report(at_random_on_two_actors(seed)) for seed in range(40)]
    verdicts = [
        match.verdict
        for a, b in zip(reports[::2], reports[1::2], strict=True)
        for match in compare_reports(Side(report=a), Side(report=b)).matches
    ]
    wrong = [one for one in verdicts if one in (SpeedVerdict.FASTER, SpeedVerdict.SLOWER)]
    assert len(wrong) / len(verdicts) < 0.15


def test_the_interval_of_a_throughput_holds_which_of_unequal_actors_ran_the_row() -> None:
    rows = [row for seed in range(20) for row in build_report(at_random_on_two_actors(seed)).rows]
    throughputs = [row.figures.throughput for row in rows if row.figures is not None]
    middle = fmean(one.mean for one in throughputs)
    held = [one.interval is not None and not one.interval.excludes(middle) for one in throughputs]
    assert sum(held) / len(held) > 0.85
    assert all(row.noise and row.noise.as_measured != row.noise.alone for row in rows)
    assert all(
        row.own_noise == known(row.noise and row.noise.as_measured) * (1 / 3) for row in rows
    )  # also that of a token's time


# ------------------------------------------------------------------ many sweeps


def test_joined_rows_of_two_sweeps_share_no_block_and_each_sweep_tells_how_its_runs_differ() -> None:
    calm, rough = noisy(EQUAL, 5, job=0.001), replace(noisy(EQUAL, 6, job=0.05), id=2, name="second")
    actors = dict.fromkeys((BASELINE.label, LINEAR.label, PRUNED.label), "actor-1")
    rough = on_actors(rough, actors, 1)
    report = joined_report([calm, rough])
    first, second = (
        report.rows[0],
        next(row for row in report.rows[1:] if row.job_ids and "second" in row.label),
    )
    assert second.noise == row(build_report(rough), LINEAR.label).noise
    assert {run.repeat for run in first.runs}.isdisjoint(run.repeat for run in second.runs)
    expected = known(noise_as_measured(second, first))  # as freed of paces: each sweep had one actor
    assert expected.value == pytest.approx(
        (known(first.noise and first.noise.alone).value + known(second.noise and second.noise.alone).value)
        / 3
    )
    assert second.figures is not None
    assert second.figures.throughput.mean == pytest.approx(
        fmean(second.figures.throughput.by_prompt.values())
    )
    assert second.versus_baseline is not None
    assert second.versus_baseline.paired_interval is not None
    width = math.log(second.versus_baseline.paired_interval.high / second.versus_baseline.paired_interval.low)
    assert width >= 2 * half_width(expected)


def test_a_sweep_of_one_repeat_is_compared_with_the_noise_of_the_other() -> None:
    once, often = build_report(record(repeats=1)), build_report(noisy(record(), 1, job=0.05))
    found = noise_as_measured(once.rows[1], often.rows[1])
    assert found == known(often.rows[1].noise and often.rows[1].noise.alone) * (1 + 1 / 3)
    assert noise_as_measured(once.rows[1], once.rows[2]) is None


@pytest.mark.parametrize("repeats", [(3, 3), (3, 1), (1, 3)])
def test_a_joined_rows_interval_has_the_noise_of_both_actors_paces_each_of_its_sweep(
    repeats: tuple[int, int],
) -> None:
    """Of a sweep of one repeat, as runs of the other sweep differ."""

    def of_actor(number: int, sentinels: int) -> SweepRecord:
        once = repeats[number - 1] == 1
        stored = record(repeats=1) if once else noisy(record(), number, job=0.05 / number**2)
        actors = {configuration.label: f"actor-{number}" for configuration in stored.configurations}
        return replace(on_actors(stored, actors, sentinels), id=number, name=f"sweep {number}")

    sweeps = [of_actor(1, 2), of_actor(2, 4)]
    report = joined_report(sweeps)
    base, joined = report.rows[0], next(row for row in report.rows if row.label == "Baseline (sweep 2)")
    first, second = (
        own.noise and own.noise.alone for own in (row(build_report(one), BASELINE.label) for one in sweeps)
    )
    shares = 1 / repeats[0] + 1 / 2, 1 / repeats[1] + 1 / 4
    if first is None or second is None:
        expected = known(first or second) * sum(shares)
    else:
        expected = first * shares[0] + second * shares[1]
    assert joined.versus_baseline == compare(*rates_together(joined, base), Bootstrap(), expected)
