"""Presets: which rows are unpruned trees, and what a sweep must have for a preset to make sense."""

from __future__ import annotations

import pytest
from report_records import BASELINE, FOUR_STEPS, LINEAR, PRUNED, TREE, record

from dyna_eval.errors import InputError
from dyna_eval.jobs import Configuration, Method
from dyna_eval.methods import BestFirst, DynaTree, Linear, MethodParameters, Tree
from dyna_eval.reports.measured_report import build_report
from dyna_eval.reports.presets import Preset, is_unpruned_tree


def configuration(model: MethodParameters, label: str = "Row") -> Configuration:
    return Configuration(label=label, method=model.method, params=model.resolved())


@pytest.mark.parametrize(
    "model",
    [
        Tree(depth=7, branch=2),
        Tree(depth=7, branch=2, max_nodes=64),
        Tree(depth=3, branch=1, root_branch=3),
        Tree(depth=1, branch=1, root_branch=4, threshold=0.2, prune="expansion"),
        DynaTree(branch_phase=False, depth_phase=False),
    ],
)
def test_a_tree_that_branches_and_drops_nothing_is_unpruned_however_it_is_written(
    model: MethodParameters,
) -> None:
    assert is_unpruned_tree(configuration(model))


@pytest.mark.parametrize(
    "model",
    [
        Linear(k=6),
        Tree(depth=7, branch=1),
        Tree(depth=7, branch=2, threshold=0.01),
        DynaTree(),
        BestFirst(),
    ],
)
def test_chains_and_pruned_trees_are_not_unpruned_trees(model: MethodParameters) -> None:
    assert not is_unpruned_tree(configuration(model))


def test_what_another_tool_wrote_is_judged_as_it_stands() -> None:
    foreign = Configuration(label="Foreign", method=Method.TREE, params={"depth": 7, "threshold": 0.0})
    assert is_unpruned_tree(foreign)


def test_three_steps_leave_out_the_unpruned_tree_and_the_report_says_so() -> None:
    report = build_report(record(), preset=Preset.THREE_STEP)
    assert [(row.step, row.label) for row in report.rows] == [
        (1, "Baseline"),
        (2, "+ Draft model"),
        (3, "+ Adaptive pruning"),
    ]
    (entry,) = report.left_out
    assert (entry.label, entry.pair, entry.job_ids) == ("+ Tree structure", "demo", (3, 7, 11))
    assert "preset three-step leaves out" in entry.reason


def test_three_steps_compare_the_last_one_with_the_draft_model() -> None:
    whole, three = build_report(record()), build_report(record(), preset=Preset.THREE_STEP)
    assert three.rows[2].versus_previous == whole.rows[3].versus_fastest_before
    assert three.rows[2].figures == whole.rows[3].figures


def test_four_steps_are_all_rows() -> None:
    assert build_report(record(), preset=Preset.FOUR_STEP).rows == build_report(record()).rows


def test_the_baseline_is_never_left_out() -> None:
    report = build_report(record(((TREE, 60.0), (LINEAR, 100.0))), preset=Preset.THREE_STEP)
    assert [row.label for row in report.rows] == [TREE.label, LINEAR.label]


@pytest.mark.parametrize(
    ("steps", "preset", "missing"),
    [
        (((BASELINE, 1.0), (LINEAR, 2.0), (PRUNED, 3.0)), Preset.THREE_STEP, "an unpruned tree to leave out"),
        (((BASELINE, 1.0), (LINEAR, 2.0), (PRUNED, 3.0)), Preset.FOUR_STEP, "an unpruned tree"),
        (((BASELINE, 1.0), (TREE, 2.0)), Preset.FOUR_STEP, "a chain (linear) and a pruned tree"),
    ],
)
def test_a_sweep_without_the_steps_of_a_preset_is_refused_in_one_line(
    steps: tuple[tuple[Configuration, float], ...], preset: Preset, missing: str
) -> None:
    with pytest.raises(InputError) as caught:
        build_report(record(steps), preset=preset)
    assert f"preset {preset} needs {missing}, which sweep 'four-step' does not have" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_the_fastest_row_before_is_one_whose_output_is_the_targets() -> None:
    rows = build_report(record(FOUR_STEPS)).rows
    assert [row.fastest_before for row in rows] == [None, 1, 2, 2]
