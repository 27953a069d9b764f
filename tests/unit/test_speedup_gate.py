"""Speedups of two sweeps: how their ratio and its interval follow, and what fails `--fail-on-speedup`."""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from report_records import (
    BASELINE,
    FOUR_STEPS,
    LINEAR,
    PRUNED,
    TREE,
    change_jobs,
    change_samples,
    record,
)

from dyna_eval.errors import InputError
from dyna_eval.importers import import_file
from dyna_eval.jobs import JobState
from dyna_eval.measurements import Exactness, SampleTotals
from dyna_eval.records import StoredJob, SweepRecord
from dyna_eval.reports.gate import lower_speedups, regressions
from dyna_eval.reports.imported import ImportedSweep
from dyna_eval.reports.imported_report import imported_report
from dyna_eval.reports.intervals import Bootstrap, Interval
from dyna_eval.reports.measured_report import build_report
from dyna_eval.reports.speedup_change import SpeedupChange
from dyna_eval.reports.statistics import Comparison
from dyna_eval.reports.sweep_comparison import NOISE_UNKNOWN, Side, SweepComparison, compare_reports
from dyna_eval.tables.comparison import comparison_csv, comparison_json
from dyna_eval.tables.report_json import to_json

LABELS = [step.label for step, _ in FOUR_STEPS]
DRAFTING = LABELS[1:]


def side(stored: SweepRecord) -> Side:
    return Side(report=build_report(stored, allow_mixed=True))


def compared(a: SweepRecord, b: SweepRecord) -> SweepComparison:
    return compare_reports(side(a), side(b))


def sped(factor: float, *labels: str, **terms: Any) -> SweepRecord:
    """The four steps, with these rows so many times as fast."""
    steps = [(step, speed * (factor if step.label in labels else 1.0)) for step, speed in FOUR_STEPS]
    return record(steps, **terms)


def change(found: SweepComparison, label: str) -> SpeedupChange:
    return next(match.speedup for match in found.matches if match.a.label == label)


def ratio(found: SweepComparison, label: str) -> Comparison:
    known = change(found, label).ratio
    assert known is not None
    return known


def interval(found: SweepComparison, label: str) -> Interval:
    known = ratio(found, label).interval
    assert known is not None
    return known


def lower(found: SweepComparison, allowed: float) -> dict[str, str]:
    return {one.row.label: one.reason for one in lower_speedups(found, allowed)}


def timed(stored: SweepRecord, factor: Callable[[StoredJob, SampleTotals], float]) -> SweepRecord:
    """Let every sample have taken so many times as long."""

    def samples(job: StoredJob) -> Sequence[SampleTotals]:
        return tuple(
            replace(one, decode_seconds=one.decode_seconds * factor(job, one)) for one in job.samples
        )

    return replace(stored, jobs=tuple(replace(job, samples=samples(job)) for job in stored.jobs))


# ---------------------------------------------------------------------------- the ratio


def test_it_is_the_ratio_of_the_two_speedups_that_reports_have() -> None:
    found = compared(record(), sped(0.9, LINEAR.label))
    one = change(found, LINEAR.label)
    assert one.a.speedup is not None
    assert one.b.speedup is not None
    assert ratio(found, LINEAR.label).ratio == pytest.approx(one.b.speedup / one.a.speedup)
    assert ratio(found, LINEAR.label).paired == pytest.approx(0.9)
    assert ratio(found, LINEAR.label).prompts == 8
    assert change(found, BASELINE.label).ratio is None


def test_a_sweep_has_the_speedups_of_itself_and_the_other_way_round_ratios_are_inverse() -> None:
    assert [ratio(compared(record(), record()), label).ratio for label in DRAFTING] == [1.0] * 3
    there, back = compared(record(), sped(0.9, TREE.label)), compared(sped(0.9, TREE.label), record())
    low, high = interval(there, TREE.label).low, interval(there, TREE.label).high
    assert interval(back, TREE.label).low == pytest.approx(1 / high, rel=1e-4)
    assert interval(back, TREE.label).high == pytest.approx(1 / low, rel=1e-4)


def test_what_the_prompts_speedups_differ_by_widens_nothing_as_both_sweeps_have_it() -> None:
    """Each sweep's own interval is wide: one prompt in two profits twice as much from the draft."""

    def uneven(job: StoredJob, one: SampleTotals) -> float:
        return 0.5 if job.label == LINEAR.label and one.prompt_index % 2 else 1.0

    found = compared(timed(record(), uneven), timed(sped(0.9, LINEAR.label), uneven))
    own = change(found, LINEAR.label).a.row.speedup_interval
    assert own is not None
    assert own.high / own.low > 1.5
    assert interval(found, LINEAR.label).high / interval(found, LINEAR.label).low < 1.05
    assert list(lower(found, 0.03)) == [LINEAR.label]


@pytest.mark.parametrize("prompts", [4, 12])
def test_over_a_speedup_that_is_1_everywhere_the_interval_is_that_of_one_ratio(prompts: int) -> None:
    """Student's of few prompts, the bootstrap's of more."""
    generator = np.random.default_rng(prompts)
    values, base = (generator.uniform(50.0, 150.0, prompts).tolist() for _ in range(2))
    other = generator.uniform(50.0, 150.0, prompts).tolist()
    found = Bootstrap().ratio_of_ratios(values, base, other, other)
    plain = Bootstrap().ratio_of_means(values, base)
    assert found is not None
    assert plain is not None
    assert (found.low, found.high) == pytest.approx((plain.low, plain.high))
    below = Bootstrap().ratio_of_ratios(other, other, values, base)
    assert below is not None
    assert (1 / below.high, 1 / below.low) == pytest.approx((plain.low, plain.high), rel=1e-3)
    assert Bootstrap().ratio_of_ratios([1.0], [1.0], [1.0], [1.0]) is None


def noisy(seed: int, factor: float = 1.0) -> SweepRecord:
    """Rows whose jobs differ by 2 %, and repeats by 5 %, on a machine that takes `factor` times as long."""
    generator = np.random.default_rng(seed)
    blocks = generator.normal(0.0, 0.05, 3)
    stored = record(noise=0.005)
    jobs = {job.id: math.exp(blocks[job.repeat] + generator.normal(0.0, 0.02)) for job in stored.jobs}
    return timed(stored, lambda job, _: factor * jobs[job.id])


def test_equal_sweeps_on_unequal_machines_do_not_fail_it_more_often_than_is_promised() -> None:
    """Of intervals of 95 % one in forty lies below 1 by chance."""
    pairs = [compared(noisy(seed), noisy(1000 + seed, factor=1.3)) for seed in range(40)]
    assert sum(len(lower(found, 0.0)) for found in pairs) <= 0.08 * 3 * len(pairs)
    held = [not interval(found, label).excludes(1.0) for found in pairs for label in DRAFTING]
    assert sum(held) / len(held) > 0.88
    assert sum(len(regressions(found, 0.0)) for found in pairs) > 0.8 * 4 * len(pairs)


# ----------------------------------------------------------------------------- the gate


def test_a_machine_twice_as_slow_fails_on_its_times_and_not_on_its_speedups() -> None:
    found = compared(record(), sped(0.5, *LABELS))
    assert [one.row.label for one in regressions(found, 0.3)] == LABELS
    assert lower(found, 0.0) == {}


def test_a_baseline_that_got_faster_lowers_speedups_and_slows_no_row_down() -> None:
    found = compared(record(), sped(1.25, BASELINE.label))
    assert regressions(found, 0.0) == ()
    reasons = lower(found, 0.1)
    assert list(reasons) == DRAFTING
    known = ratio(found, LINEAR.label)
    assert known.ratio == pytest.approx(0.8)
    assert known.interval is not None
    low, high = known.interval.low, known.interval.high
    assert reasons[LINEAR.label] == f"speedup 20.0 % lower, ratio 0.800 [{low:.3f}, {high:.3f}]"
    assert lower(compared(sped(1.25, BASELINE.label), record()), 0.0) == {}


def test_a_row_fails_where_all_its_intervals_end_below_the_bound_and_not_where_one_reaches_it() -> None:
    found = compared(record(), sped(0.8, LINEAR.label))
    ends = [one.high for one in ratio(found, LINEAR.label).intervals]
    assert len(ends) == 2
    assert ratio(found, LINEAR.label).ratio < max(ends) < 0.9
    assert list(lower(found, 1.0 - max(ends) - 1e-9)) == [LINEAR.label]
    assert lower(found, 1.0 - max(ends) + 1e-9) == {}


def test_without_an_interval_the_ratio_itself_decides() -> None:
    found = compared(record(prompts=1), sped(0.8, TREE.label, prompts=1))
    assert lower(found, 0.1) == {TREE.label: "speedup 20.0 % lower, no interval"}
    assert lower(found, 0.3) == {}


def test_runs_that_differ_widen_the_interval_by_what_both_sweeps_tell() -> None:
    calm, rough = record(noise=0.001), noisy(3)
    widths = [
        math.log(interval(compared(a, b), LINEAR.label).high / interval(compared(a, b), LINEAR.label).low)
        for a, b in ((calm, calm), (rough, calm), (calm, rough))
    ]
    assert widths[0] < 0.01
    assert min(widths[1:]) > 0.05


def test_where_no_sweep_tells_what_runs_differ_by_a_lower_speedup_is_in_doubt_and_fails_all_the_same() -> (
    None
):
    """Of one with repeats the other's runs are taken to differ as much."""
    once = compared(record(repeats=1), sped(0.8, LINEAR.label, repeats=1))
    assert change(once, LINEAR.label).noise_unknown
    assert lower(once, 0.03)[LINEAR.label].endswith(f"]; in doubt: {NOISE_UNKNOWN}")
    assert lower(once, 0.5) == {}
    for a, b in ((1, 3), (3, 1)):
        found = compared(record(repeats=a), sped(0.8, LINEAR.label, repeats=b))
        assert not change(found, LINEAR.label).noise_unknown
        assert list(lower(found, 0.03)) == [LINEAR.label]
        assert "in doubt" not in lower(found, 0.03)[LINEAR.label]
        bare = interval(once, LINEAR.label)
        assert interval(found, LINEAR.label).high / interval(found, LINEAR.label).low > bare.high / bare.low


LOAD = {"others_share": 0.5}
BUSY = "other processes used up to 50 % of the cores while it was measured"


@pytest.mark.parametrize(
    ("here", "there", "doubt"),
    [
        ([], [LINEAR.label], f"; in doubt: {BUSY}"),
        ([BASELINE.label], [], f"; in doubt: of A's baseline: {BUSY}"),
        ([], [LINEAR.label, BASELINE.label], ""),
        ([LINEAR.label], [LINEAR.label], ""),
        ([BASELINE.label], [BASELINE.label], ""),
        ([LINEAR.label], [], ""),
        ([], [BASELINE.label], ""),
    ],
)
def test_load_that_may_have_lowered_a_speedup_puts_it_in_doubt_and_fails_all_the_same(
    here: Sequence[str], there: Sequence[str], doubt: str
) -> None:
    a, b = record(), sped(0.8, LINEAR.label)
    for label in here:
        a = change_jobs(a, label, conditions=LOAD)
    for label in there:
        b = change_jobs(b, label, conditions=LOAD)
    reason = lower(compared(a, b), 0.03)[LINEAR.label]
    assert reason.partition("]")[2] == doubt


def test_rows_that_are_gone_or_without_a_result_fail_it_and_rows_that_had_none_do_not() -> None:
    failed = record(states={TREE.label: JobState.FAILED})
    assert lower(compared(record(), failed), 0.5) == {TREE.label: "no result (failed)"}
    assert lower(compared(failed, record()), 0.0) == {}
    rest = record([step for step in FOUR_STEPS if step[0] is not TREE])
    assert lower(compared(record(), rest), 0.5) == {TREE.label: "only in A"}
    assert lower(compared(rest, record()), 0.0) == {}


def test_a_baseline_without_a_result_leaves_no_speedup_to_pass() -> None:
    gone = record(states={BASELINE.label: JobState.FAILED})
    unknown = "its speedup is not known: its baseline has no result"
    assert lower(compared(record(), gone), 0.5) == {
        BASELINE.label: "no result (failed)",
        **dict.fromkeys(DRAFTING, unknown),
    }
    with pytest.raises(InputError, match=r"^sweep 1 \('four-step'\) has no speedup to check: "):
        lower_speedups(compared(gone, record()), 0.5)


def test_a_row_on_an_actor_of_unknown_pace_has_no_speedup_to_pass() -> None:
    unpaced = change_jobs(record(), TREE.label, actor="actor-2")
    assert lower(compared(record(), unpaced), 0.5) == {TREE.label: "its speedup is not known"}


def test_sweeps_of_a_baseline_alone_have_no_speedup_to_check() -> None:
    alone = record(((BASELINE, 128.0),))
    with pytest.raises(InputError, match="has no speedup to check: none of its rows has a result"):
        lower_speedups(compared(alone, alone), 0.5)


def changed(stored: SweepRecord, changes: Mapping[str, object], *labels: str) -> SweepRecord:
    for label in labels:
        stored = change_jobs(stored, label, **changes)
    return stored


@pytest.mark.parametrize(
    ("b", "failed", "says"),
    [
        (
            changed(record(), {"prompt_set": "p2"}, *LABELS),
            DRAFTING,
            "prompt set (p2 instead of p1)",
        ),
        (
            changed(record(), {"key": "other models"}, *LABELS),
            DRAFTING,
            "models, dtype, backend or warm-up",
        ),
        (
            changed(record(), {"environment": "e2"}, LINEAR.label),
            [LINEAR.label],
            "B differs from the rows it stands with in environment (cpu: B instead of A)",
        ),
        (
            change_samples(record(), LINEAR.label, exactness=Exactness.VIOLATION),
            [LINEAR.label],
            "B's output is not the target's",
        ),
        (
            change_samples(record(), BASELINE.label, exactness=Exactness.VIOLATION),
            DRAFTING,
            "B's baseline's output is not the target's",
        ),
        (
            replace(record(), baseline=LINEAR.label),
            DRAFTING,
            "baseline (linear, K=6 instead of AR only)",
        ),
    ],
)
def test_speedups_that_are_not_of_the_same_work_fail_it_whatever_they_are(
    b: SweepRecord, failed: Sequence[str], says: str
) -> None:
    assert lower(compared(record(), b), 0.9) == dict.fromkeys(failed, f"not comparable: {says}")


def test_a_baseline_that_was_measured_in_part_elsewhere_fails_its_rows() -> None:
    b = change_jobs(record(), BASELINE.label, repeats=[2], environment="e2")
    reasons = lower(compared(record(), b), 0.9)
    assert list(reasons) == DRAFTING
    assert "B's baseline differs from the rows it stands with in environment" in reasons[LINEAR.label]


def test_another_machine_alone_is_no_obstacle() -> None:
    elsewhere = changed(sped(0.5, *LABELS), {"environment": "e2"}, *LABELS)
    assert lower(compared(record(), elsewhere), 0.0) == {}


def test_speedups_of_imported_reports_are_compared_as_their_files_have_them(tmp_path: Path) -> None:
    def imported(name: str, stored: SweepRecord) -> Side:
        (tmp_path / name).write_text(json.dumps(to_json(build_report(stored))))
        sweep = ImportedSweep(id=1, name=name, created_at="", files=(import_file(tmp_path / name),))
        return Side(report=imported_report(sweep, allow_mixed=True))

    found = compare_reports(imported("a.json", record()), imported("b.json", sped(0.5, *LABELS[:-1])))
    known = ratio(found, PRUNED.label)
    assert (known.ratio, known.interval) == (pytest.approx(2.0), None)
    assert lower(found, 0.0) == {}
    back = compare_reports(found.b, found.a)
    assert lower(back, 0.1) == {PRUNED.label: "speedup 50.0 % lower, no interval"}


# ------------------------------------------------------------------------------- forms


def test_json_and_csv_have_the_change_of_each_speedup() -> None:
    found = compared(record(), sped(0.8, LINEAR.label))
    failed = lower_speedups(found, 0.03)
    value: Any = json.loads(json.dumps(comparison_json(found, None, lower=failed), allow_nan=False))
    assert value["lower_speedups"] == [
        {"pair": "demo", "label": LINEAR.label, "reason": lower(found, 0.03)[LINEAR.label]}
    ]
    assert comparison_json(found, None)["lower_speedups"] is None
    base, row = value["rows"][:2]
    known = ratio(found, LINEAR.label)
    assert known.paired_interval is not None
    assert (row["speedup_ratio"], row["speedup_ratio_paired"]) == (known.ratio, known.paired)
    assert row["speedup_ratio_interval"] == [
        interval(found, LINEAR.label).low,
        interval(found, LINEAR.label).high,
    ]
    assert row["speedup_ratio_paired_interval"] == [known.paired_interval.low, known.paired_interval.high]
    assert (row["speedup_noise_unknown"], row["speedup_obstacles"]) == (False, [])
    assert [base[key] for key in base if key.startswith("speedup_ratio")] == [None] * 4
    lines = list(csv.DictReader(io.StringIO(comparison_csv(found))))
    assert lines[0]["speedup_ratio"] == lines[0]["speedup_ratio_high"] == ""
    assert [float(lines[1][f"speedup_ratio{end}"]) for end in ("", "_low", "_high")] == [
        known.ratio,
        interval(found, LINEAR.label).low,
        interval(found, LINEAR.label).high,
    ]
