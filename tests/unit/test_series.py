"""What figures show, before anything is drawn: series by hand-computed numbers."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from itertools import product

import pytest
from report_records import (
    BASELINE,
    CALIBRATION,
    FOUR_STEPS,
    LINEAR,
    PRUNED,
    TREE,
    calibrated,
    change_jobs,
    change_samples,
    record,
    sample,
)

from dyna_eval.errors import InputError, NothingToDrawError
from dyna_eval.jobs import Configuration, JobState, MeasureSpec, Method, Params
from dyna_eval.measurements import Calibration, Exactness
from dyna_eval.records import SweepRecord
from dyna_eval.reports.measured_report import build_report
from dyna_eval.reports.report import Row
from dyna_eval.reports.tuning import measured_prompts
from dyna_eval.series.costs import cost_chart, full_acceptance_speedup, phase_bars, why_no_point
from dyna_eval.series.drafts import depth_rates, tree_sizes
from dyna_eval.series.front import memory_fronts
from dyna_eval.series.measured import Entry, Measured, doubts, undrawn
from dyna_eval.series.paired import paired_speedups
from dyna_eval.series.parameters import Parameter, Scale, independent, span, spans_by_default, swept
from dyna_eval.series.swept import (
    CurveChart,
    Measure,
    acceptance_length,
    curve_chart,
    doubts_about,
    heat_map,
)


def measured(stored: SweepRecord) -> Measured:
    return Measured.of(build_report(stored), stored)


def trees(*params: Params, method: Method = Method.TREE) -> list[tuple[Configuration, float]]:
    """Rows whose speed is 100, 101, 102, ... tokens per second."""
    return [
        (Configuration(label=f"{method} {i}", method=method, params=given), 100.0 + i)
        for i, given in enumerate(params)
    ]


def grid() -> list[Params]:
    """Every tree of two depths, two branches and three thresholds; the cap follows from the others."""
    return [
        {
            "depth": depth,
            "branch": branch,
            "threshold": threshold,
            "root_branch": branch,
            "max_nodes": depth * 10,
        }
        for depth, branch, threshold in product((4, 6), (2, 3), (0.0, 0.05, 0.1))
    ]


def swept_record(*params: Params) -> SweepRecord:
    return record([(BASELINE, 50.0), *trees(*params)], prompts=3, repeats=1)


def rows_of(stored: SweepRecord) -> tuple[Row, ...]:
    return build_report(stored).rows


def charted(stored: SweepRecord, x: str | None = None, curves: Sequence[str] = ()) -> CurveChart:
    own = measured(stored)
    return curve_chart(own, own.report.rows, span(own.report.rows, x=x, curves=curves), Measure.THROUGHPUT)


# ------------------------------------------------------------------- parameters


def test_swept_is_what_varies_within_a_method() -> None:
    other = Configuration(label="Wide", method=Method.BEST_FIRST, params={"depth": 9, "width": 8})
    rows = rows_of(record([(BASELINE, 50.0), *trees({"depth": 4}, {"depth": 6}), (other, 70.0)]))
    assert swept(rows) == ("depth", "method")
    assert swept(rows_of(record(pairs=("small", "large")))) == ("threshold", "method", "pair")


def test_a_parameter_that_follows_from_others_is_not_independent() -> None:
    rows = rows_of(swept_record(*grid()))
    assert swept(rows) == ("depth", "branch", "threshold", "root_branch", "max_nodes", "method")
    assert independent(rows[1:]) == ("depth", "branch", "threshold")


def test_the_parameter_of_most_values_is_the_axis_and_the_others_fill_curves_and_panels() -> None:
    chosen = span(rows_of(swept_record(*grid())))
    assert (chosen.x, chosen.curves, chosen.column, chosen.row) == ("threshold", ("depth",), "branch", None)
    assert spans_by_default(rows_of(swept_record(*grid()))) == ("threshold",)


def test_what_the_user_chose_stays_and_the_rest_is_filled() -> None:
    chosen = span(rows_of(swept_record(*grid())), x="depth", row="threshold")
    assert (chosen.x, chosen.curves, chosen.row) == ("depth", ("branch",), "threshold")


def test_an_unknown_parameter_is_told_with_the_nearest_one_and_all_that_are_swept() -> None:
    rows = rows_of(swept_record(*grid()))
    with pytest.raises(
        InputError, match=r"'dpeth' \(did you mean 'depth'\?\); swept are depth, branch, thre"
    ):
        span(rows, x="dpeth")
    with pytest.raises(InputError, match="'prune' has one value in this sweep; swept are depth"):
        span(rows, x="prune")
    with pytest.raises(InputError, match="'branch' spans two dimensions"):
        span(rows, x="branch", column="branch")


def test_numbers_are_ascending_and_names_stay_in_order() -> None:
    rows = rows_of(
        swept_record({"depth": 8, "prune": "node"}, {"depth": 1, "prune": "expansion"}, {"depth": 2})
    )
    depth, prune = Parameter.of("depth", rows), Parameter.of("prune", rows)
    assert (depth.values, depth.scale) == ((1, 2, 8), Scale.LOG)
    assert (prune.values, prune.scale) == (("node", "expansion"), Scale.CATEGORY)


# ------------------------------------------------------------------------ curves


def test_every_configuration_is_one_point_of_one_curve() -> None:
    stored = swept_record(*grid())
    chart = charted(stored)
    points = [p for panel in chart.panels for curve in panel.curves for p in curve.points]
    assert len(points) == 12
    assert {p.entry.step: p.y.value for p in points} == {
        row.step: row.figures.throughput.mean for row in rows_of(stored)[1:] if row.figures
    }
    assert [panel.column for panel in chart.panels] == ["B = 2", "B = 3"]
    assert chart.names == ("D = 4", "D = 6")
    assert [p.x for p in chart.panels[0].curves[0].points] == [0.0, 0.05, 0.1]
    assert all(panel.baseline and panel.baseline.value == rows_of(stored)[0].figures.throughput.mean  # type: ignore[union-attr]
               for panel in chart.panels)  # fmt: skip


def test_curves_that_would_hide_a_difference_are_split_by_it() -> None:
    chart = charted(swept_record(*grid()), x="threshold", curves=["depth", "branch"])
    assert chart.names == ("D = 4, B = 2", "D = 4, B = 3", "D = 6, B = 2", "D = 6, B = 3")
    differing = [{"depth": d, "branch": b} for d, b in ((2, 2), (4, 2), (6, 2), (4, 3))]
    assert charted(swept_record(*differing), x="depth").names == ("B = 2", "B = 3")


def test_two_rows_that_are_alike_in_all_do_not_hide_other_differences() -> None:
    alike = {"depth": 4, "branch": 2}
    stored = swept_record(alike, alike, {"depth": 6, "branch": 2}, {"depth": 6, "branch": 3})
    assert charted(stored, x="depth").names == ("B = 2", "B = 3")
    own = measured(stored)
    heat = heat_map(own, own.report.rows, ("depth", "branch"), Measure.SPEEDUP)
    assert [(cell.x, cell.y) for panel in heat.panels for cell in panel.cells] == [(4, 2), (6, 2), (6, 3)]
    assert (heat.left_out, heat.repeated) == ((), ("tree 1",))


def test_no_curve_has_two_points_at_one_place() -> None:
    alike = {"depth": 4, "branch": 2}
    chart = charted(swept_record(alike, {"depth": 6, "branch": 2}, alike), x="depth")
    assert [[p.entry.label for p in curve.points] for panel in chart.panels for curve in panel.curves] == [
        ["tree 0", "tree 1"]
    ]
    assert (chart.left_out, chart.repeated) == ((), ("tree 2",))


def partly(**states: JobState) -> SweepRecord:
    """Trees 0 to 4 of growing depth, and 5 to 9 of another branch; some of them have no result."""
    params: list[Params] = [{"depth": depth, "branch": branch} for branch in (2, 3) for depth in range(2, 7)]
    named = {label.replace("_", " "): state for label, state in states.items()}
    return record([(BASELINE, 50.0), *trees(*params)], prompts=3, repeats=1, states=named)


def test_a_curve_has_no_line_across_a_row_without_a_result() -> None:
    chart = charted(partly(tree_1=JobState.FAILED, tree_9=JobState.QUEUED), x="depth", curves=["branch"])
    pieces = {
        curve.name: [[p.x for p in piece] for piece in curve.pieces]
        for panel in chart.panels
        for curve in panel.curves
    }
    assert pieces == {"B = 2": [[2], [4, 5, 6]], "B = 3": [[2, 3, 4, 5]]}
    assert [str(row) for row in chart.undrawn] == ["tree 1 (failed)", "tree 9 (queued)"]


def test_a_row_whose_speedup_is_unknown_is_told_with_those_without_a_result() -> None:
    stored = partly(tree_1=JobState.FAILED)
    report = build_report(stored)
    rows = tuple(replace(row, versus_baseline=None) if row.label == "tree 3" else row for row in report.rows)
    own = Measured(report=replace(report, rows=rows))
    chart = curve_chart(own, rows, span(rows, x="depth"), Measure.SPEEDUP)
    heat = heat_map(own, rows, ("depth", "branch"), Measure.SPEEDUP)
    entries = [point.entry for point in cost_chart(own, "demo").points]
    expected = ["tree 1 (failed)", "tree 3 (speedup unknown)"]
    for found in (chart.undrawn, heat.undrawn, undrawn(own.report, entries, why_no_point)):
        assert [str(row) for row in found] == expected
    assert [str(row) for row in undrawn(own.report, entries)] == expected[:1]


def test_a_heat_map_is_final_once_none_of_its_rows_is_to_come() -> None:
    def final(stored: SweepRecord) -> bool:
        own = measured(stored)
        return heat_map(own, own.report.rows, ("depth", "branch"), Measure.THROUGHPUT).is_final

    assert final(partly())
    assert final(partly(tree_1=JobState.FAILED))
    assert final(partly(Baseline=JobState.QUEUED))
    for state in (JobState.QUEUED, JobState.RUNNING):
        assert not final(partly(tree_1=state))
    assert not final(change_jobs(record([(BASELINE, 50.0), *trees(*grid())]), "tree 1", repeats=[2],
                                 state=JobState.QUEUED, samples=()))  # fmt: skip


def test_a_front_is_of_one_pair_and_of_rows_not_in_doubt() -> None:
    stored = change_samples(record(pairs=("small", "large")), PRUNED.label, exactness=Exactness.VIOLATION)
    report = build_report(stored)
    sizes = {"small": 1, "large": 8}
    rows = tuple(replace(row, peak_memory_bytes=sizes[row.pair] + row.step) for row in report.rows)
    fronts = memory_fronts(Measured(report=replace(report, rows=rows)), Measure.THROUGHPUT)
    assert [front.pair for front in fronts] == ["small", "large"]
    for front in fronts:
        assert len(front.points) == 4
        assert [point.entry.label for point in front.front] == [BASELINE.label, LINEAR.label]


def test_the_baseline_is_named_as_what_it_is_to_the_figure() -> None:
    report = build_report(change_jobs(record(), BASELINE.label, conditions={"others_share": 0.5}))
    entries = [Entry.of(row) for row in report.rows[1:]]

    def named(measure: Measure, *, with_line: bool = False) -> list[str]:
        return [text.split(":")[0] for text in doubts_about(measure, report, entries, with_line=with_line)]

    assert named(Measure.SPEEDUP, with_line=True) == ["* Baseline (all speedups are over it)"]
    assert named(Measure.THROUGHPUT, with_line=True) == ["* Baseline (the dashed line)"]
    assert named(Measure.THROUGHPUT) == []
    assert named(Measure.ACCEPTANCE, with_line=True) == []


def test_linked_lists_stay_one_curve() -> None:
    linked = [{"depth": 5, "branch": 3}, {"depth": 7, "branch": 2}]
    chart = charted(swept_record(*linked), x="depth")
    assert [[p.x for p in curve.points] for panel in chart.panels for curve in panel.curves] == [[5, 7]]


def test_a_tree_that_is_given_node_by_node_is_called_by_its_size() -> None:
    nodes = ("0 1 0.0 0.0.0", "0 1", "0 0.0", "0 1 0.0 0.1.0")
    stored = record([(BASELINE, 50.0), *trees(*({"paths": one} for one in nodes), method=Method.STATIC_TREE)])
    chart = charted(stored)
    assert chart.x.values == ("D=3, 4 nodes (1)", "D=1, 2 nodes", "D=2, 2 nodes", "D=3, 4 nodes (2)")
    placed = {point.entry.label: point.x for curve in chart.panels[0].curves for point in curve.points}
    assert placed == {f"static_tree {i}": size for i, size in enumerate(chart.x.values)}

    own = measured(stored)
    part = own.report.rows[-1:] + own.report.rows[2:3]  # which keep the numbers that they have in the sweep
    chart = curve_chart(own, part, span(part), Measure.THROUGHPUT)
    assert chart.x.values == ("D=3, 4 nodes (2)", "D=1, 2 nodes")
    assert charted(stored, x="method", curves=["paths"]).names == (
        "D=1, 2 nodes",
        "D=2, 2 nodes",
        "D=3, 4 nodes (1)",
        "D=3, 4 nodes (2)",
        "no paths",
    )


def test_rows_that_do_not_sweep_the_axis_are_named() -> None:
    chart = charted(record([*FOUR_STEPS, (replace(LINEAR, label="Other", params={"k": 8}), 170.0)]), x="k")
    assert chart.left_out == ("+ Tree structure", "+ Adaptive pruning")


def test_over_methods_each_row_is_a_point() -> None:
    chart = charted(record(), x="method")
    assert [len(panel.curves) for panel in chart.panels] == [1]
    assert sorted(str(p.x) for p in chart.panels[0].curves[0].points) == ["ar", "linear", "tree", "tree"]


def test_a_sweep_of_one_configuration_has_no_curves() -> None:
    with pytest.raises(NothingToDrawError, match="no parameter takes several values"):
        span(rows_of(record([(BASELINE, 50.0)])))


def test_a_heat_map_has_a_cell_per_configuration_and_a_panel_per_further_value() -> None:
    own = measured(swept_record(*grid()))
    heat = heat_map(own, own.report.rows, ("threshold", "depth"), Measure.SPEEDUP)
    assert [panel.name for panel in heat.panels] == ["B = 2", "B = 3"]
    speedups = {row.step: row.versus_baseline for row in own.report.rows}
    for panel in heat.panels:
        assert [(cell.x, cell.y) for cell in panel.cells] == [
            (x, y) for y, x in product((4, 6), (0.0, 0.05, 0.1))
        ]
        for cell in panel.cells:
            known = speedups[cell.entry.step]
            assert known is not None
            assert (cell.value.value, cell.value.interval) == (known.ratio, known.interval)


def test_a_cell_is_slower_where_the_report_may_say_so() -> None:
    (first, _), *others = trees(*grid())
    slow = record([(BASELINE, 50.0), (first, 20.0), *others])

    def slower(stored: SweepRecord) -> list[int]:
        own = Measured.of(build_report(stored, allow_mixed=True), stored)
        heat = heat_map(own, own.report.rows, ("threshold", "depth"), Measure.SPEEDUP)
        return [cell.entry.step for panel in heat.panels for cell in panel.cells if cell.is_slower]

    assert slower(slow) == [2]
    assert slower(change_jobs(slow, first.label, environment="e2")) == []
    assert slower(change_samples(slow, first.label, exactness=Exactness.VIOLATION)) == []


def test_without_an_interval_no_cell_is_slower() -> None:
    stored = record([(BASELINE, 500.0), *trees(*grid())], prompts=1)
    own = measured(stored)
    heat = heat_map(own, own.report.rows, ("threshold", "depth"), Measure.SPEEDUP)
    assert all(cell.value.value < 1.0 and not cell.is_slower for panel in heat.panels for cell in panel.cells)


def test_a_heat_map_needs_two_parameters_of_one_method() -> None:
    own = measured(record())
    with pytest.raises(NothingToDrawError, match="no method has two parameters"):
        heat_map(own, own.report.rows, None, Measure.SPEEDUP)


# ---------------------------------------------------------- acceptance and costs


def test_the_interval_of_an_acceptance_length_is_over_prompts() -> None:
    own = measured(record())
    same = acceptance_length(own, own.report.rows[1])
    assert same is not None and same.interval is not None
    assert (same.value, same.interval.low, same.interval.high) == pytest.approx((3.0, 3.0, 3.0))
    base = acceptance_length(own, own.report.rows[0])
    assert base is not None and (base.value, base.interval) == (1.0, None)


def test_an_interval_holds_the_value_and_narrows_to_it_where_prompts_agree() -> None:
    stored = record()
    jobs = tuple(
        replace(job, samples=tuple(replace(s, rounds=20 + 5 * s.prompt_index) for s in job.samples))
        for job in stored.jobs
    )
    own = measured(replace(stored, jobs=jobs))
    length = acceptance_length(own, own.report.rows[1])
    assert length is not None and length.interval is not None
    assert length.value == pytest.approx(120 * 8 / sum(20 + 5 * i for i in range(8)))
    assert length.interval.low < length.value < length.interval.high


def test_the_cost_models_line_starts_at_one_and_follows_the_calibration() -> None:
    assert full_acceptance_speedup([CALIBRATION], 1.0) == 1.0
    assert full_acceptance_speedup([CALIBRATION], 4.0) == pytest.approx(4 * 0.010 / (3 * 0.001 + 0.012))
    without_draft = replace(CALIBRATION, draft_seconds=())
    assert full_acceptance_speedup([without_draft], 4.0) == pytest.approx(4 * 0.010 / 0.012)
    slower = Calibration(draft_seconds=((1, 0.003),), verify_seconds=((1, 0.030), (4, 0.040)))
    both = full_acceptance_speedup([CALIBRATION, slower], 4.0)
    assert both == pytest.approx(4 * 0.020 / (3 * 0.002 + 0.026))


def test_the_cost_chart_has_measured_and_predicted_speedups() -> None:
    stored = calibrated(record())
    chart = cost_chart(measured(stored), "demo")
    report = build_report(stored)
    assert [p.speedup.value for p in chart.points] == [
        row.versus_baseline.ratio for row in report.rows if row.versus_baseline
    ]
    assert [p.length.value for p in chart.points] == [1.0, 3.0, 3.0, 3.0]
    assert chart.points[1].predicted == pytest.approx(3 * 0.010 / (4 * 0.002 + 0.014))
    assert chart.line[0] == (1.0, 1.0)
    assert chart.line[-1][0] == pytest.approx(3.0 * 1.1 + 0.5)
    assert cost_chart(measured(record()), "demo").line == ()


def test_the_cost_model_has_no_line_over_several_environments() -> None:
    stored = calibrated(record())
    one_row = change_jobs(stored, LINEAR.label, environment="e2")
    jobs = tuple(replace(job, environment="e2") if job.repeat == 0 else job for job in stored.jobs)
    for torn in (one_row, replace(stored, jobs=jobs)):
        report = build_report(torn, allow_mixed=True)
        assert cost_chart(Measured.of(report, torn), "demo").line == ()


def test_the_cost_models_line_is_of_the_calibrations_that_a_pairs_own_rows_ran_with() -> None:
    """Whatever the jobs of another pair ran with."""
    slower = replace(CALIBRATION, verify_seconds=((1, 0.010), (4, 0.040)))
    stored = calibrated(record(pairs=("demo", "large")))
    changed = change_jobs(stored, LINEAR.label, calibration=slower, repeats=[0])
    own = tuple(
        old if new.pair == "large" else new for old, new in zip(stored.jobs, changed.jobs, strict=True)
    )
    stored = replace(stored, jobs=own)
    length, speedup = cost_chart(measured(stored), "demo").line[-1]
    assert speedup == full_acceptance_speedup([CALIBRATION, slower], length)
    length, speedup = cost_chart(measured(stored), "large").line[-1]
    assert speedup == full_acceptance_speedup([CALIBRATION], length)


def test_phases_are_seconds_per_token_and_add_up() -> None:
    bars = phase_bars(measured(record([(BASELINE, 128.0), (LINEAR, 174.0)], noise=0.0)), "demo")
    chain = bars[1]
    assert {phase: seconds / chain.total.value for phase, seconds in chain.phases} == pytest.approx(
        {"draft": 0.25, "grow": 0.0625, "verify": 0.5, "walk": 0.0625, "host": 0.125}
    )
    assert sum(seconds for _, seconds in chain.phases) == pytest.approx(chain.total.value)
    assert chain.total.interval is not None
    assert chain.total.interval.low < chain.total.value < chain.total.interval.high
    assert [phase for phase, _ in bars[0].phases] == ["verify", "walk", "host"]


def test_time_that_no_phase_accounts_for_is_unknown() -> None:
    stored = change_samples(record(), LINEAR.label, draft_seconds=None)
    chain = phase_bars(measured(stored), "demo")[1]
    assert "host" not in dict(chain.phases)
    assert chain.unknown == pytest.approx(chain.total.value * (1 - 0.0625 - 0.5 - 0.0625))


# ------------------------------------------------------------------------ drafts


def test_acceptance_by_depth_marginal_and_conditional() -> None:
    stored = change_samples(record(), LINEAR.label, accepted_by_depth=(30, 10))
    rates = depth_rates(measured(stored), "demo")
    assert [one.entry.label for one in rates] == [LINEAR.label, TREE.label, PRUNED.label]
    assert [rate.value for rate in rates[0].marginal] == pytest.approx([30 / 40, 10 / 40])
    assert [rate.value for rate in rates[0].conditional] == pytest.approx([30 / 40, 10 / 30])
    assert all(rate.interval for rate in (*rates[0].marginal, *rates[0].conditional))


def test_a_depth_that_some_prompt_never_reached_has_no_conditional_interval() -> None:
    stored = record()
    jobs = tuple(
        replace(
            job,
            samples=tuple(
                replace(s, accepted_by_depth=(30, 10) if s.prompt_index else (0,)) for s in job.samples
            ),
        )
        for job in stored.jobs
    )
    chain = depth_rates(measured(replace(stored, jobs=jobs)), "demo")[0]
    assert [rate.interval is None for rate in chain.conditional] == [False, True]
    assert [rate.interval is None for rate in chain.marginal] == [False, False]


def test_tree_sizes_are_summed_over_repeats() -> None:
    stored = record()
    chain = [job.id for job in stored.jobs if job.label == LINEAR.label]
    by_job = {chain[0]: {2: 3, 6: 5}, chain[1]: {6: 4}, chain[2]: {0: 1}}
    (sizes,) = tree_sizes(measured(stored), "demo", by_job)
    assert sizes.rounds == ((0, 1), (2, 3), (6, 9))
    assert sizes.total == 13
    assert sizes.mean == pytest.approx((3 * 2 + 9 * 6) / 13)
    assert [sizes.quantile(share) for share in (0.05, 0.3, 0.5, 1.0)] == [0, 2, 6, 6]


# ----------------------------------------------------------------------- prompts


def test_paired_speedups_are_the_ones_that_the_report_compares() -> None:
    own = measured(record())
    found = paired_speedups(own, "demo")
    assert [one.entry.label for one in found] == [LINEAR.label, TREE.label, PRUNED.label]
    for one, row in zip(found, own.report.rows[1:], strict=True):
        assert row.versus_baseline is not None
        assert len(one.ratios) == 8
        mean = math.exp(sum(math.log(ratio) for _, ratio in one.ratios) / 8)
        assert mean == pytest.approx(one.geometric_mean.value)
        assert one.geometric_mean.interval == row.versus_baseline.paired_interval


def test_one_prompts_ratio_is_that_of_its_own_throughputs() -> None:
    stored = record([(BASELINE, 100.0), (LINEAR, 100.0)], prompts=2, repeats=1)
    times = {BASELINE.label: (1.0, 2.0), LINEAR.label: (0.5, 4.0)}
    jobs = tuple(
        replace(job, samples=tuple(sample(i, seconds=t) for i, t in enumerate(times[job.label])))
        for job in stored.jobs
    )
    (chain,) = paired_speedups(measured(replace(stored, jobs=jobs)), "demo")
    assert chain.ratios == ((0, 2.0), (1, 0.5))
    assert chain.geometric_mean.value == pytest.approx(1.0)


# ---------------------------------------------------------------- what is known


def test_without_the_record_there_is_what_the_report_alone_says() -> None:
    alone = Measured(report=build_report(record()))
    assert paired_speedups(alone, "demo") == paired_speedups(measured(record()), "demo")
    assert all(rate.interval is None for one in depth_rates(alone, "demo") for rate in one.marginal)
    assert cost_chart(alone, "demo").line == ()
    assert [bar.total.value for bar in phase_bars(alone, "demo")] == [
        bar.total.value for bar in phase_bars(measured(record()), "demo")
    ]


def test_prompts_that_a_row_was_chosen_on_are_in_no_series() -> None:
    stored = replace(record(), measure=MeasureSpec(tune_fraction=0.5))
    own = measured(stored)
    assert own.record is not None
    (prompts,) = measured_prompts(own.record).values()
    assert len(prompts) == 4
    for one in paired_speedups(own, "demo"):
        assert {prompt for prompt, _ in one.ratios} == prompts


def test_a_row_whose_output_is_not_the_targets_is_doubted_in_every_series() -> None:
    own = measured(change_samples(record(), LINEAR.label, exactness=Exactness.VIOLATION))
    for entry in (
        paired_speedups(own, "demo")[0].entry,
        depth_rates(own, "demo")[0].entry,
        phase_bars(own, "demo")[1].entry,
        cost_chart(own, "demo").points[1].entry,
    ):
        assert entry.label == LINEAR.label
        assert entry.doubt is not None and "output is not the target's" in entry.doubt


def test_heavy_load_puts_a_rows_times_in_doubt_and_no_counts() -> None:
    """The reason is the load alone, and not what else is noted of the row."""
    stored = change_samples(calibrated(record()), TREE.label, capped_rounds=3)
    shares = {"others_share": 0.5, "stolen_share": 0.2}
    own = measured(change_jobs(stored, TREE.label, conditions=shares))
    reason = "other processes used up to 50 % of the cores while it was measured"
    timed = (
        paired_speedups(own, "demo")[1].entry,
        phase_bars(own, "demo")[2].entry,
        cost_chart(own, "demo").points[2].entry,
    )
    counted = (
        depth_rates(own, "demo")[1].entry,
        tree_sizes(own, "demo", {job: {4: 10} for job in own.report.rows[2].job_ids})[0].entry,
    )
    assert {entry.label for entry in (*timed, *counted)} == {TREE.label}
    assert {entry.doubt for entry in timed} == {reason}
    assert {entry.doubt for entry in counted} == {None}


def test_a_curve_or_a_heat_map_doubts_a_slowed_row_where_it_measures_time() -> None:
    stored = change_jobs(swept_record(*grid()), "tree 0", conditions={"others_share": 0.5})
    own = measured(stored)
    for measure in (Measure.SPEEDUP, Measure.THROUGHPUT, Measure.TTFT, Measure.ACCEPTANCE, Measure.EXACT):
        chart = curve_chart(own, own.report.rows, span(own.report.rows), measure)
        heat = heat_map(own, own.report.rows, ("threshold", "depth"), measure)
        points = [point.entry for panel in chart.panels for curve in panel.curves for point in curve.points]
        cells = [cell.entry for panel in heat.panels for cell in panel.cells]
        for entries in (points, cells):
            doubted = [entry.label for entry in entries if entry.doubt]
            assert doubted == (["tree 0"] if measure.is_timed else []), measure


def test_a_cell_that_load_slowed_is_not_called_slower_than_the_baseline() -> None:
    rows = [(BASELINE, 200.0), *trees(*grid())]
    stored = change_jobs(record(rows), "tree 0", conditions={"others_share": 0.5})
    own = measured(stored)
    heat = heat_map(own, own.report.rows, ("threshold", "depth"), Measure.SPEEDUP)
    slower = {cell.entry.label: cell.is_slower for panel in heat.panels for cell in panel.cells}
    assert slower == {f"tree {i}": i != 0 for i in range(12)}


def test_reasons_for_doubt_are_told_once_and_left_to_the_table_where_they_are_many() -> None:
    def doubted(step: int, reason: str) -> Entry:
        return Entry(pair="demo", step=step, label=f"Row {step}", method=Method.TREE, doubt=reason)

    assert doubts([doubted(1, "a"), doubted(2, "b"), doubted(3, "a")]) == [
        "* Row 1, Row 3: a.",
        "* Row 2: b.",
    ]
    base, other = doubted(1, "a"), doubted(2, "a")
    assert doubts([other], over=[base]) == ["* Row 1 (all speedups are over it), Row 2: a."]
    assert doubts([base, other], over=[base]) == doubts([other], over=[base])
    many = [doubted(step, f"reason {step} " + "why " * 10) for step in range(20)]
    told = "* Why 20 rows{} are in doubt stands in the notes of the report's table."
    assert doubts(many) == [told.format("")]
    assert doubts(many, over=many[:1]) == [told.format(", the baseline among them,")]
