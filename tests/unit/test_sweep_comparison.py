"""Two sweeps row by row: partners, ratios, verdicts, differences, regressions, and every form of print."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import click
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from report_records import (
    BASELINE,
    ENVIRONMENTS,
    FOUR_STEPS,
    LINEAR,
    PRUNED,
    TREE,
    change_jobs,
    change_samples,
    record,
)

from dyna_eval.commands.comparing import read_percentage, split_side
from dyna_eval.errors import InputError
from dyna_eval.importers import import_file
from dyna_eval.jobs import Configuration, GenerationSpec, JobState, Method, generation_digest
from dyna_eval.measurements import Exactness
from dyna_eval.records import SweepRecord
from dyna_eval.reports.gate import other_counts, regressions
from dyna_eval.reports.imported import ImportedSweep
from dyna_eval.reports.imported_report import imported_report
from dyna_eval.reports.intervals import Bootstrap
from dyna_eval.reports.measured_report import build_report
from dyna_eval.reports.sweep_comparison import (
    NOISE_UNKNOWN,
    Match,
    Side,
    SpeedVerdict,
    SweepComparison,
    compare_reports,
)
from dyna_eval.tables.comparison import (
    comparison_csv,
    comparison_json,
    comparison_markdown,
    print_comparison,
    remarks,
)
from dyna_eval.tables.report_json import to_json
from tests.result_files import answer, write_answers

HOSTILE = "=1+1|[red]x</script>`*_\\\n\x1b[31m"


def side(stored: SweepRecord, origin: str = "") -> Side:
    report = build_report(stored, allow_mixed=True)
    return Side(report=report, origin=origin)


def compared(a: SweepRecord, b: SweepRecord) -> SweepComparison:
    return compare_reports(side(a), side(b))


def match(comparison: SweepComparison, label: str) -> Match:
    return next(match for match in comparison.matches if match.a.label == label)


def sped(factor: float, *labels: str) -> SweepRecord:
    """The four steps, with these rows so many times as fast."""
    return record([(step, speed * (factor if step.label in labels else 1.0)) for step, speed in FOUR_STEPS])


# -------------------------------------------------------------------------- partners


def test_rows_are_partners_by_method_and_parameters_whatever_their_label() -> None:
    renamed = replace(LINEAR, label="Chain")
    found = compared(
        record(((BASELINE, 128.0), (LINEAR, 174.0))), record(((renamed, 174.0), (BASELINE, 128.0)))
    )
    assert [(one.a.label, one.b.label, one.by_label) for one in found.matches] == [
        ("Baseline", "Baseline", False),
        ("+ Draft model", "Chain", False),
    ]


def test_what_is_left_is_matched_by_its_label_and_says_so() -> None:
    longer = replace(LINEAR, params={"k": 8})
    found = compared(
        record(((BASELINE, 128.0), (LINEAR, 174.0))), record(((BASELINE, 128.0), (longer, 180.0)))
    )
    assert match(found, LINEAR.label).by_label
    assert "matched by its label" in printed(found)


def test_a_label_gives_way_to_equal_parameters() -> None:
    """B calls its unpruned tree as A calls the pruned one."""
    swapped = [(replace(TREE, label=PRUNED.label), 63.0), (replace(PRUNED, label="Pruned"), 182.0)]
    found = compared(record(), record([(BASELINE, 128.0), *swapped]))
    assert match(found, TREE.label).b.label == PRUNED.label
    assert match(found, PRUNED.label).b.label == "Pruned"


def test_rows_without_a_partner_are_named_on_their_side() -> None:
    a = record(((BASELINE, 128.0), (LINEAR, 174.0)))
    b = record(((BASELINE, 128.0), (TREE, 63.0)))
    found = compared(a, b)
    assert ([row.label for row in found.only_a], [row.label for row in found.only_b]) == (
        ["+ Draft model"],
        ["+ Tree structure"],
    )
    said = remarks(found)
    assert "only in A: '+ Draft model' (linear, K=6, pair demo)" in said
    assert "only in B: '+ Tree structure' (tree, D=7, B=2, τ=0, pair demo)" in said


def test_pairs_are_matched_by_name_and_single_ones_whatever_their_name() -> None:
    single = compared(record(pairs=("one",)), record(pairs=("two",)))
    assert len(single.matches) == 4
    several = compared(record(pairs=("one", "two")), record(pairs=("two", "three")))
    assert {one.a.pair for one in several.matches} == {"two"}
    assert {row.pair for row in several.only_a} == {"one"}
    assert {row.pair for row in several.only_b} == {"three"}


def test_sweeps_without_a_common_row_are_refused() -> None:
    other = Configuration(label="Mine", method=Method.LINEAR, params={"k": 2})
    with pytest.raises(
        InputError, match=r"have no row in common: .* \(the one has pair demo, the other pair "
    ):
        compared(record(((BASELINE, 128.0),)), record(((other, 100.0),)))


# ------------------------------------------------------------------ ratios and verdicts


def test_the_ratio_is_that_of_the_two_throughput_cells() -> None:
    found = match(compared(record(), sped(1.1, LINEAR.label)), LINEAR.label)
    assert found.a.figures is not None
    assert found.b.figures is not None
    assert found.ratio is not None
    assert found.ratio.ratio == found.b.figures.throughput.mean / found.a.figures.throughput.mean
    assert found.prompts == 8


def test_the_interval_pairs_prompts_by_their_index() -> None:
    """Prompts differ by 20 %, runs by 2 %: paired, a tenth more is far outside of the noise."""
    found = compared(record(), sped(1.1, LINEAR.label))
    assert match(found, LINEAR.label).verdict is SpeedVerdict.FASTER
    assert match(found, TREE.label).verdict is SpeedVerdict.NOT_SEPARABLE
    interval = match(found, LINEAR.label).ratio
    assert interval is not None
    assert interval.interval is not None
    assert interval.interval.high - interval.interval.low < 0.05


def test_a_sweep_is_not_separable_from_itself() -> None:
    found = compared(record(), record())
    assert {one.verdict for one in found.matches} == {SpeedVerdict.NOT_SEPARABLE}
    assert [one.ratio and one.ratio.ratio for one in found.matches] == [1.0] * 4


def test_other_prompts_are_compared_by_their_means_alone_and_nothing_is_called_faster() -> None:
    b = sped(1.5, LINEAR.label)
    for label in (step.label for step, _ in FOUR_STEPS):
        b = change_jobs(b, label, prompt_set="p2")
    found = match(compared(record(), b), LINEAR.label)
    assert found.ratio is not None
    assert (found.ratio.interval, found.prompts, found.verdict) == (None, 0, SpeedVerdict.NOT_COMPARABLE)
    assert found.differences == ("prompt set (p2 instead of p1)",)


@pytest.mark.parametrize("changes", [{"generation_digest": "g2"}, {"key": "other models"}])
def test_a_row_of_other_work_is_called_neither_faster_nor_slower_and_fails_the_check(
    changes: dict[str, str],
) -> None:
    b = sped(1.5, LINEAR.label)
    for label in (step.label for step, _ in FOUR_STEPS):
        b = change_jobs(b, label, **changes)
    found = compared(record(), b)
    assert match(found, LINEAR.label).verdict is SpeedVerdict.NOT_COMPARABLE
    assert "faster" not in printed(found)
    reasons = {one.row.label: one.reason for one in regressions(found, 0.03)}
    assert len(reasons) == len(FOUR_STEPS)
    assert reasons[LINEAR.label] == f"not comparable: {match(found, LINEAR.label).differences[0]}"


@pytest.mark.parametrize(
    ("outcome", "says"),
    [
        (Exactness.VIOLATION, "B's output is not the target's"),
        (None, "B's output was not compared with the target's"),
    ],
)
def test_output_that_is_not_known_to_be_the_targets_is_not_called_faster(
    outcome: Exactness | None, says: str
) -> None:
    found = compared(record(), change_samples(sped(1.5, LINEAR.label), LINEAR.label, exactness=outcome))
    assert match(found, LINEAR.label).verdict is SpeedVerdict.NOT_COMPARABLE
    assert [one.reason for one in regressions(found, 0.03)] == [f"not comparable: {says}"]


def test_a_mixed_row_is_not_called_faster_and_another_machine_alone_keeps_the_verdict() -> None:
    mixed = change_jobs(sped(1.5, LINEAR.label), LINEAR.label, environment="e2")
    found = compared(mixed, sped(3.0, LINEAR.label))
    assert match(found, LINEAR.label).verdict is SpeedVerdict.NOT_COMPARABLE
    assert [one.reason for one in regressions(found, 0.03)] == [
        "not comparable: A differs from the rows it stands with in environment (cpu: B instead of A)"
    ]
    elsewhere = sped(1.5, LINEAR.label)
    for label in (step.label for step, _ in FOUR_STEPS):
        elsewhere = change_jobs(elsewhere, label, environment="e2")
    assert match(compared(record(), elsewhere), LINEAR.label).verdict is SpeedVerdict.FASTER


def test_a_row_without_a_result_has_no_ratio() -> None:
    failed = record(states={TREE.label: JobState.FAILED})
    found = match(compared(record(), failed), TREE.label)
    assert (found.ratio, found.verdict) == (None, SpeedVerdict.NO_RESULT)


def test_only_common_prompts_count_and_that_is_said() -> None:
    fewer = record(prompts=5)
    found = match(compared(record(), fewer), LINEAR.label)
    assert found.prompts == 5
    assert found.differences == (
        "prompts that were measured (5 instead of 8; the ratio is over the 5 that both have)",
    )


speeds = st.lists(st.floats(10.0, 500.0), min_size=4, max_size=4)


def figures_of(one: Match) -> tuple[float, float, float, float, float]:
    ratio = one.ratio
    assert ratio is not None
    assert ratio.interval is not None
    assert ratio.paired_interval is not None
    low, high = ratio.interval.low, ratio.interval.high
    return ratio.ratio, low, high, ratio.paired_interval.low, ratio.paired_interval.high


@settings(max_examples=25, deadline=None)
@given(here=speeds, there=speeds, noise=st.floats(0.0, 0.3), prompts=st.integers(2, 12))
def test_the_other_way_round_every_ratio_is_the_inverse(
    here: list[float], there: list[float], noise: float, prompts: int
) -> None:
    steps = [step for step, _ in FOUR_STEPS]
    a = record(list(zip(steps, here, strict=True)), noise=noise, prompts=prompts)
    b = record(list(zip(steps, there, strict=True)), noise=noise, prompts=prompts)
    opposite = {SpeedVerdict.FASTER: SpeedVerdict.SLOWER, SpeedVerdict.SLOWER: SpeedVerdict.FASTER}
    for one, back in zip(compared(a, b).matches, compared(b, a).matches, strict=True):
        assert (one.a.label, one.b.label) == (back.b.label, back.a.label)
        ratio, low, high, paired_low, paired_high = figures_of(one)
        inverse = (1 / ratio, 1 / high, 1 / low, 1 / paired_high, 1 / paired_low)
        assert figures_of(back) == pytest.approx(inverse, rel=1e-4)
        edge = any(abs(bound - 1.0) < 1e-3 for bound in (low, high, paired_low, paired_high))
        assert edge or back.verdict is opposite.get(one.verdict, one.verdict)
        assert one.ratio is not None
        if one.verdict is SpeedVerdict.FASTER:
            assert one.ratio.separable
            assert ratio > 1.0


def test_the_higher_confidence_of_the_two_counts() -> None:
    sure = replace(record(), confidence=0.99)
    assert compared(record(), sure).confidence == compared(sure, record()).confidence == 0.99
    assert "99 % interval" in printed(compared(record(), sure))


# ------------------------------------------------------------------------ differences


def test_what_differs_beside_the_speed_is_named() -> None:
    b = change_jobs(record(), LINEAR.label, generation_digest="g2", environment="e2")
    assert match(compared(record(), b), LINEAR.label).differences == (
        "generation settings (g2 instead of g1)",
        "environment (cpu: B instead of A)",
    )


def test_of_settings_that_differ_only_those_are_told_that_do() -> None:
    short, long = GenerationSpec(max_new_tokens=64), GenerationSpec(max_new_tokens=96, seed=3)
    a, b = (
        replace(
            change_jobs(record(), LINEAR.label, generation_digest=generation_digest(spec)),
            generations={"demo": spec},
        )
        for spec in (short, long)
    )
    assert match(compared(a, b), LINEAR.label).differences == (
        "generation settings (max_new_tokens 96 instead of 64, seed 3 instead of 0)",
    )


def test_of_several_settings_in_a_sweep_each_pair_is_compared_by_its_own() -> None:
    names = ("demo at T=0", "demo at T=1")
    short, long = (
        {name: GenerationSpec(max_new_tokens=n, temperature=float(i)) for i, name in enumerate(names)}
        for n in (64, 96)
    )

    def of(generations: Mapping[str, GenerationSpec]) -> SweepRecord:
        stored = record(pairs=names)
        jobs = (
            replace(job, generation_digest=generation_digest(generations[job.pair])) for job in stored.jobs
        )
        return replace(stored, jobs=tuple(jobs), generations=generations)

    changed = compared(of(short), of(long))
    assert {found.a.pair for found in changed.matches} == set(names)
    assert {found.differences for found in changed.matches} == {
        ("generation settings (max_new_tokens 96 instead of 64)",)
    }
    assert {found.differences for found in compared(of(short), of(short)).matches} == {()}


def test_rows_of_equal_settings_but_other_models_say_so() -> None:
    b = change_jobs(record(), LINEAR.label, key="other")
    assert match(compared(record(), b), LINEAR.label).differences == ("models, dtype, backend or warm-up",)


def test_other_models_are_told_on_another_machine_too_and_unknown_ones_are_not_called_others() -> None:
    elsewhere = change_jobs(record(), LINEAR.label, environment="e2", key="other")
    assert match(compared(record(), elsewhere), LINEAR.label).differences == (
        "models, dtype, backend or warm-up",
        "environment (cpu: B instead of A)",
    )
    unknown = side(record())
    rows = tuple(replace(row, key=None) for row in unknown.report.rows)
    found = compare_reports(side(record()), replace(unknown, report=replace(unknown.report, rows=rows)))
    assert match(found, LINEAR.label).differences == ()


def test_other_models_keep_a_row_that_only_its_label_matches_from_being_called_faster() -> None:
    """A row of other parameters has another identity anyway: the rows of the same work tell of the models."""
    longer, much_faster = replace(LINEAR, params={"k": 8}), 300.0
    a, b = record(((BASELINE, 128.0), (LINEAR, 174.0))), record(((BASELINE, 128.0), (longer, much_faster)))
    b = change_jobs(b, LINEAR.label, key="of k=8")
    same = match(compared(a, b), LINEAR.label)
    assert (same.by_label, same.verdict, same.differences) == (True, SpeedVerdict.FASTER, ())
    other = match(compared(a, change_jobs(b, BASELINE.label, key="other")), LINEAR.label)
    assert other.verdict is SpeedVerdict.NOT_COMPARABLE
    assert other.differences == ("models, dtype, backend or warm-up",)


def test_a_row_of_the_same_identity_is_of_the_same_models_whatever_others_are() -> None:
    found = compared(record(), change_jobs(record(), LINEAR.label, key="other"))
    assert match(found, TREE.label).differences == ()


def test_several_environments_in_one_row_are_not_taken_for_one() -> None:
    b = change_jobs(record(), LINEAR.label, repeats=[1], environment="e2")
    found = match(compared(record(), b), LINEAR.label)
    assert (found.differences, found.unproven) == ((), ("environment",))
    assert "not shown to be the same in A and B: environment" in printed(compared(record(), b))


def test_the_baselines_difference_is_told_in_percent() -> None:
    found = compared(record(noise=0.0), record([(s, v * 1.005) for s, v in FOUR_STEPS], noise=0.0))
    assert found.baselines[0].percent == pytest.approx(0.5)
    assert "B's +0.5 %; that baselines agree does not show" in remarks(found)[0]


def test_baselines_that_are_far_apart_are_not_said_to_agree() -> None:
    apart = compared(record(noise=0.0), record([(s, v / 3000.0) for s, v in FOUR_STEPS], noise=0.0))
    assert "B's -99.97 %; that far apart, the machine, its load or the work was another" in remarks(apart)[0]
    assert "agree" not in remarks(apart)[0]
    assert "0.0003" in printed(apart)


# ------------------------------------------------------------------------ regressions


def names(found: SweepComparison, allowed: float) -> list[str]:
    return [one.row.label for one in regressions(found, allowed)]


def test_a_row_that_is_slower_by_more_than_is_allowed_regressed() -> None:
    found = compared(record(), sped(0.8, LINEAR.label, TREE.label))
    assert names(found, 0.03) == [LINEAR.label, TREE.label]
    assert names(found, 0.5) == []
    ratio = match(found, LINEAR.label).ratio
    assert ratio is not None
    assert regressions(found, 0.03)[0].reason.startswith(f"{(1 - ratio.ratio) * 100:.1f} % slower, ratio 0.")


def test_a_row_that_others_slowed_down_is_not_called_slower_but_regressed_all_the_same() -> None:
    """Nothing shows that it is as fast as before. Load that slowed both explains nothing."""
    load = {"others_share": 0.5}
    a, b = record(), change_jobs(sped(0.8, LINEAR.label), LINEAR.label, conditions=load)
    one = match(compared(a, b), LINEAR.label)
    assert one.verdict is SpeedVerdict.IN_DOUBT
    assert match(compared(b, a), LINEAR.label).verdict is SpeedVerdict.IN_DOUBT
    (found,) = regressions(compared(a, b), 0.03)
    assert found.reason.endswith(
        "; in doubt: other processes used up to 50 % of the cores while it was measured"
    )
    both = change_jobs(a, LINEAR.label, conditions=load)
    assert match(compared(both, b), LINEAR.label).verdict is SpeedVerdict.SLOWER
    assert "in doubt" not in regressions(compared(both, b), 0.03)[0].reason
    faster = change_jobs(sped(1.2, LINEAR.label), LINEAR.label, conditions=load)
    assert match(compared(a, faster), LINEAR.label).verdict is SpeedVerdict.FASTER


def test_where_no_sweep_tells_what_runs_differ_by_a_row_is_in_doubt_and_regressed_all_the_same() -> None:
    """Of one with repeats the other's runs are taken to differ as much."""
    steps = [(step, speed * 0.8) for step, speed in FOUR_STEPS]
    once = compared(record(repeats=1), record(steps, repeats=1))
    assert {one.verdict for one in once.matches} == {SpeedVerdict.IN_DOUBT}
    assert f"] {NOISE_UNKNOWN}" in printed(once)
    value: Any = comparison_json(once, None)
    assert [one["noise_unknown"] for one in value["rows"]] == [True] * 4
    failed = regressions(once, 0.03)
    assert len(failed) == 4
    assert all(one.reason.endswith(f"; in doubt: {NOISE_UNKNOWN}") for one in failed)
    assert names(once, 0.5) == []
    for a, b in ((1, 3), (3, 1)):
        found = compared(record(repeats=a), record(steps, repeats=b))
        assert {one.verdict for one in found.matches} == {SpeedVerdict.SLOWER}
        assert NOISE_UNKNOWN not in printed(found)
    unsure = compared(record(repeats=1, noise=0.3), record(repeats=1, noise=0.3))
    assert SpeedVerdict.NOT_SEPARABLE in {one.verdict for one in unsure.matches}


def test_what_imported_samples_differ_by_from_run_to_run_is_not_known_and_that_is_said(
    tmp_path: Path,
) -> None:
    def side(name: str, seconds: float) -> Side:
        answers = [answer(number, seconds=[seconds + number / 1000]) for number in range(1, 9)]
        file = import_file(write_answers(tmp_path, name, answers))
        sweep = ImportedSweep(id=1, name=name, created_at="", files=(file,))
        return Side(report=imported_report(sweep, allow_mixed=True))

    a, b = side("model-vanilla.jsonl", 1.0), side("model-vanilla-again.jsonl", 1.2)
    assert any("no file tells what runs differ by" in caveat.text for _, caveat in a.report.pair_caveats)
    [one] = compare_reports(a, b).matches
    assert one.ratio is not None
    assert one.ratio.interval is not None
    assert one.ratio.interval.high < 1.0
    assert one.verdict is SpeedVerdict.IN_DOUBT


def test_an_interval_that_reaches_the_bound_is_no_regression() -> None:
    found = match(
        compared(record(noise=0.3), record([(s, v * 0.95) for s, v in FOUR_STEPS], noise=0.3)), "Baseline"
    )
    assert found.ratio is not None
    assert found.ratio.interval is not None
    upper = found.ratio.interval.high
    assert found.ratio.paired_interval is not None
    upper = max(upper, found.ratio.paired_interval.high)
    assert found.ratio.ratio < upper
    allowed = 1.0 - upper
    pair = compared(record(noise=0.3), record([(s, v * 0.95) for s, v in FOUR_STEPS], noise=0.3))
    assert "Baseline" not in names(pair, max(allowed, 0.0) + 1e-9)


def test_without_an_interval_the_ratio_itself_decides() -> None:
    found = compared(record(prompts=1), record([(s, v * 0.9) for s, v in FOUR_STEPS], prompts=1))
    assert {one.verdict for one in found.matches} == {SpeedVerdict.NO_INTERVAL}
    assert len(names(found, 0.03)) == 4
    assert names(found, 0.2) == []


def test_a_row_that_has_no_result_any_more_regressed() -> None:
    found = compared(record(), record(states={TREE.label: JobState.FAILED}))
    assert [(one.row.label, one.reason) for one in regressions(found, 0.03)] == [
        (TREE.label, "no result (failed)")
    ]


def test_a_row_that_is_gone_regressed_if_it_had_a_result() -> None:
    rest = record([(step, speed) for step, speed in FOUR_STEPS if step.label != TREE.label])
    found = compared(record(), rest)
    assert [(one.row.label, one.reason) for one in regressions(found, 0.03)] == [(TREE.label, "only in A")]
    assert names(compared(rest, record()), 0.03) == []
    assert names(compared(record(states={TREE.label: JobState.FAILED}), rest), 0.03) == []
    back = compared(record(states={TREE.label: JobState.FAILED}), record())
    assert names(back, 0.03) == []


# ----------------------------------------------------------------------------- counts

COST_AWARE = Configuration(label="Cost-aware", method=Method.COST_AWARE, params={"max_nodes": 64})
THEIRS = Configuration(label="Theirs", method=Method("min_p"), params={"depth": 4})


def fewer_accepted(stored: SweepRecord, label: str, rounds: int = 41) -> SweepRecord:
    """Let every sample of a row have taken so many rounds for its 120 tokens, instead of 40."""
    return change_samples(stored, label, rounds=rounds)


def other(found: SweepComparison, allowed: float) -> dict[str, str]:
    return {one.row.label: one.reason for one in other_counts(found, allowed)}


def test_a_machine_twice_as_fast_has_the_same_counts() -> None:
    found = compared(record(), sped(2.0, *(step.label for step, _ in FOUR_STEPS)))
    assert {one.verdict for one in found.matches} == {SpeedVerdict.FASTER}
    assert [one.counts.same for one in found.matches] == [None, True, True, True]  # AR's say nothing
    assert printed(found).count("[a]") == 1 + 3
    assert "[a] same counts: tokens per round, and all else that both know" in printed(found)
    assert other(found, 0.0) == {}


def test_other_counts_are_told_and_fail_their_check_up_and_down_whatever_the_speed() -> None:
    fewer = compared(record(), fewer_accepted(record(), LINEAR.label))
    assert [match(fewer, label).counts.same for label in (LINEAR.label, TREE.label)] == [False, True]
    assert "other counts: B has -2.4 % tokens per round" in printed(fewer)
    assert other(fewer, 0.01) == {LINEAR.label: "2.92683 tokens per round instead of 3, -2.4 %"}
    assert other(fewer, 0.03) == {}
    assert names(fewer, 0.0) == []
    more = compared(fewer_accepted(record(), LINEAR.label), record())
    assert other(more, 0.02) == {LINEAR.label: "3 tokens per round instead of 2.92683, +2.5 %"}


def test_counts_are_the_same_only_where_nothing_known_of_acceptance_differs() -> None:
    """Here as many tokens per round come from trees of another size."""
    found = compared(record(), change_samples(record(), TREE.label, verified_nodes=161))
    counts = match(found, TREE.label).counts
    assert (counts.a, counts.b, counts.same) == (3.0, 3.0, False)
    assert other(found, 0.0) == {}


@pytest.mark.parametrize(
    ("configuration", "why"),
    [
        (COST_AWARE, "cost_aware grows its trees by what passes were found to cost there"),
        (THEIRS, "'min_p' is the policy of another package, which may decide by what passes cost there"),
    ],
)
def test_counts_that_may_depend_on_the_machine_are_named_and_fail_nothing(
    configuration: Configuration, why: str
) -> None:
    steps = ((BASELINE, 128.0), (LINEAR, 174.0), (configuration, 190.0))
    b = fewer_accepted(record(steps), configuration.label, rounds=60)
    found = compared(record(steps), b)
    assert f"other counts: B has -33 % tokens per round; they may depend on the machine: {why}" in printed(
        found
    )
    assert other(found, 0.01) == {}
    [row] = [one for one in rows_json(found) if one["a"]["label"] == configuration.label]
    assert (row["same_counts"], row["counts_depend_on_machine"]) == (False, why)
    lost = compared(record(steps), record(steps, states={configuration.label: JobState.FAILED}))
    assert other(lost, 0.01) == {configuration.label: "no result (failed)"}
    alone = (steps[0], steps[2])
    with pytest.raises(InputError, match="has no tokens per round to check"):
        other_counts(compared(record(alone), record(alone)), 0.01)


def rows_json(found: SweepComparison) -> list[Any]:
    value: Any = comparison_json(found, None)
    rows: list[Any] = value["rows"]
    return rows


def test_rows_of_several_machines_do_not_fail_the_check_of_counts_and_rows_of_other_work_do() -> None:
    mixed = change_jobs(record(), LINEAR.label, environment="e2")
    assert names(compared(record(), mixed), 0.5) == [LINEAR.label]
    assert other(compared(record(), mixed), 0.0) == {}
    settings_differ = change_jobs(record(), LINEAR.label, generation_digest="g2")
    assert other(compared(record(), settings_differ), 0.5) == {
        LINEAR.label: "not comparable: generation settings (g2 instead of g1)"
    }
    wrong = change_samples(record(), LINEAR.label, exactness=Exactness.VIOLATION)
    assert other(compared(record(), wrong), 0.5) == {
        LINEAR.label: "not comparable: B's output is not the target's"
    }
    rest = record([step for step in FOUR_STEPS if step[0] is not TREE])
    assert other(compared(record(), rest), 0.5) == {TREE.label: "only in A"}
    assert other(compared(rest, record()), 0.0) == {}


def test_counts_over_fewer_prompts_say_so() -> None:
    b = fewer_accepted(record(prompts=5), LINEAR.label)
    reason = other(compared(record(), b), 0.01)[LINEAR.label]
    assert reason.endswith("-2.4 %; over 5 prompts instead of 8")


def test_counts_that_are_not_known_any_more_fail_the_check() -> None:
    found = compared(record(), change_samples(record(), LINEAR.label, rounds=0))
    assert match(found, LINEAR.label).counts.same is None
    assert other(found, 0.5) == {LINEAR.label: "its tokens per round are not known"}


def test_counts_stand_in_every_form() -> None:
    found = compared(record(), fewer_accepted(record(), LINEAR.label))
    line = next(line for line in comparison_markdown(found).splitlines() if line.startswith("| + Draft"))
    assert line.endswith("| 3.00 | 2.93 |")
    assert "A tokens/round" in printed(found)
    by_label = {line["components_a"]: line for line in csv.DictReader(io.StringIO(comparison_csv(found)))}
    row = by_label["'+ Draft model"]
    assert [float(row[f"mean_acceptance_length_{side}"]) for side in "ab"] == [3.0, 120 / 41]
    assert [row["same_counts"] for row in by_label.values()] == ["", "no", "yes", "yes"]
    value: Any = comparison_json(found, None, other=other_counts(found, 0.01))
    assert [one["label"] for one in value["other_counts"]] == [LINEAR.label]
    assert value["rows"][1]["b"]["mean_acceptance_length"] == 120 / 41
    assert comparison_json(found, None)["other_counts"] is None


# ------------------------------------------------------------------------------ forms


def printed(found: SweepComparison) -> str:
    file = io.StringIO()
    print_comparison(found, file)
    return file.getvalue()


def test_the_terminal_names_both_sides_and_every_verdict() -> None:
    text = printed(compare_reports(side(record(), "sqlite:///a.db"), side(sped(1.2, LINEAR.label))))
    assert text.startswith("A: four-step: sweep 1, done, sqlite:///a.db\nB: four-step: sweep 1, done\n")
    assert "faster" in text
    assert text.count("not separable") >= 3


def test_csv_has_a_line_per_row_and_figures_unrounded() -> None:
    found = compared(record(noise=0.0), record([*FOUR_STEPS[:3]], noise=0.0))
    lines = list(csv.DictReader(io.StringIO(comparison_csv(found))))
    assert [line["verdict"] for line in lines] == ["not separable"] * 3 + ["only in A"]
    assert lines[3]["components_a"] == "'+ Adaptive pruning"
    assert [float(line["ratio"]) for line in lines[:3]] == [
        one.ratio and one.ratio.ratio for one in found.matches
    ]


def test_json_is_plain_and_says_what_regressed() -> None:
    found = compared(record(), sped(0.8, LINEAR.label))
    value: Any = json.loads(json.dumps(comparison_json(found, regressions(found, 0.03)), allow_nan=False))
    assert [one["label"] for one in value["regressions"]] == [LINEAR.label]
    assert [one["verdict"] for one in value["rows"]].count("slower") == 1
    assert comparison_json(found, None)["regressions"] is None


def test_what_a_user_wrote_stays_text_in_every_form() -> None:
    hostile = replace(LINEAR, label=HOSTILE)
    found = compared(record(((BASELINE, 128.0), (hostile, 174.0))), record(((BASELINE, 128.0), (TREE, 63.0))))
    both = compared(record(((BASELINE, 1.0), (hostile, 2.0))), record(((BASELINE, 1.0), (hostile, 2.0))))
    for one in (found, both):
        assert "\x1b" not in printed(one) + comparison_csv(one) + comparison_markdown(one)
        assert "</script>" not in comparison_markdown(one)
        assert all(len(row) == 22 for row in csv.reader(io.StringIO(comparison_csv(one))))
        assert "'=1+1|" in comparison_csv(one)
    rows = [line for line in comparison_markdown(both).splitlines() if line.startswith("| =1")]
    assert len(rows) == 1
    assert rows[0].replace("\\|", "").count("|") == 12


# ---------------------------------------------------------------------- the command line


@pytest.mark.parametrize(("text", "share"), [("3%", 0.03), ("2.5 %", 0.025), ("0%", 0.0), ("99.9%", 0.999)])
def test_a_percentage_is_a_share(text: str, share: float) -> None:
    assert read_percentage(None, None, text) == pytest.approx(share)


@pytest.mark.parametrize("text", ["3", "0.03", "-3%", "100%", "nan%", "inf%", "3%%", "", "%", "1e1%", "٣%"])
def test_what_is_no_percentage_is_refused(text: str) -> None:
    with pytest.raises(click.BadParameter, match="write it as 3%"):
        read_percentage(None, None, text)


def test_a_side_is_a_sweep_a_database_or_both(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("results").touch()
    here = "sqlite:///here.db"
    assert split_side("four-step", here) == (here, "four-step")
    assert split_side("run #2", here) == (here, "run #2")
    assert split_side("old.db", here) == (f"sqlite:///{tmp_path}/old.db", None)
    assert split_side("old.db#7", here) == (f"sqlite:///{tmp_path}/old.db", "7")
    assert split_side("results#7", here) == (f"sqlite:///{tmp_path}/results", "7")
    assert split_side("postgresql://a@b/c#run #2", here) == ("postgresql://a@b/c", "run #2")
    assert split_side("x" * 5000, here) == (here, "x" * 5000)


def test_bootstrap_resamples_are_shared_by_both_directions() -> None:
    """What makes a comparison antisymmetric: both directions draw the same prompts."""
    values, base = [1.0, 2.0, 4.0], [2.0, 1.0, 3.0]
    there = Bootstrap().geometric_mean_of_ratios(values, base)
    back = Bootstrap().geometric_mean_of_ratios(base, values)
    assert there is not None
    assert back is not None
    assert (1 / back.high, 1 / back.low) == pytest.approx((there.low, there.high))


def test_environments_of_both_sides_are_known_to_the_differences() -> None:
    b = change_jobs(record(), TREE.label, environment="e2")
    only_b = replace(b, environments={"e2": ENVIRONMENTS["e2"], "e1": ENVIRONMENTS["e1"]})
    a = replace(record(), environments={"e1": ENVIRONMENTS["e1"]})
    assert match(compared(a, only_b), TREE.label).differences == ("environment (cpu: B instead of A)",)


def test_environments_of_an_imported_side_are_known_to_the_differences(tmp_path: Path) -> None:
    file = tmp_path / "own.json"
    file.write_text(json.dumps(to_json(build_report(record()))))
    sweep = ImportedSweep(id=2, name="own", created_at="2026-01-02T03:04:05Z", files=(import_file(file),))
    b = Side(report=imported_report(sweep, [sweep], allow_mixed=True))
    a = replace(change_jobs(record(), TREE.label, environment="e2"), environments={"e2": ENVIRONMENTS["e2"]})
    found = match(compare_reports(side(a), b), TREE.label).differences
    assert "environment (cpu: A instead of B)" in found
