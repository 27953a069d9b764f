"""The ablation bar chart: what is drawn, and that nothing overlaps."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import pytest
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.text import Text
from report_records import (
    BASELINE,
    LINEAR,
    PRUNED,
    TREE,
    change_jobs,
    change_samples,
    record,
    slow_prompt,
)

from dyna_eval.jobs import Configuration, JobState, Method, Params
from dyna_eval.latex import to_latex
from dyna_eval.latex.prose import to_prose
from dyna_eval.measurements import Exactness
from dyna_eval.plots.ablation import draw
from dyna_eval.plots.look import ALARM, CALM, TINY
from dyna_eval.records import SweepRecord
from dyna_eval.reports.claims import slower_steps
from dyna_eval.reports.digits import speedup
from dyna_eval.reports.intervals import Interval
from dyna_eval.reports.measured_report import build_report
from dyna_eval.reports.statistics import Comparison
from dyna_eval.series.measured import CUT_OFF


def drawn(stored: SweepRecord) -> Figure:
    report = build_report(stored, allow_mixed=True)
    return draw(report.rows, report)


def bars(figure: Figure) -> list[Rectangle]:
    return [
        patch
        for container in figure.axes[0].containers
        for patch in container
        if isinstance(patch, Rectangle)
    ]


def texts(figure: Figure) -> list[str]:
    return [text.get_text() for text in figure.axes[0].texts]


def note(figure: Figure) -> str:
    return figure.get_supxlabel().replace("\n", " ").replace("\xa0", " ")


def joined(figure: Figure) -> str:
    return " | ".join(texts(figure)).replace("\n", " ")


def twelve_rows(label: str) -> SweepRecord:
    speeds = [128, 170, 180, 160, 190, 175, 60, 185, 178, 130, 188, 120]
    rows = [BASELINE] + [
        Configuration(label=f"{label} {i}", method=TREE.method, params=TREE.params) for i in range(11)
    ]
    return record(tuple(zip(rows, map(float, speeds), strict=True)), repeats=1)


def many_rows(count: int) -> SweepRecord:
    rows = [BASELINE] + [replace(TREE, label=f"Tree, number {i}") for i in range(1, count)]
    return record([(row, 100.0 + 40.0 * (i % 3)) for i, row in enumerate(rows)], repeats=1)


def test_each_step_has_a_bar_as_high_as_its_throughput() -> None:
    report = build_report(record())
    heights = [bar.get_height() for bar in bars(draw(report.rows, report))]
    assert heights == [row.figures.throughput.mean for row in report.rows if row.figures]


def test_a_step_slower_than_the_one_before_it_is_red_and_hatched_and_says_why() -> None:
    figure = drawn(record())
    assert [to_hex(bar.get_facecolor()) == ALARM.lower() for bar in bars(figure)] == [
        False,
        False,
        True,
        False,
    ]
    assert [to_hex(bar.get_facecolor()) == CALM.lower() for bar in bars(figure)] == [True, True, False, True]
    assert [bool(bar.get_hatch()) for bar in bars(figure)] == [False, False, True, False]
    assert "slower than the step before it (0.3" in joined(figure)
    assert "pruning is essential" in joined(figure)


def test_pruning_is_called_essential_only_where_it_mends_an_unpruned_tree() -> None:
    slower_chain = drawn(record(((BASELINE, 128.0), (LINEAR, 100.0), (PRUNED, 180.0))))
    unmended = drawn(record(((BASELINE, 128.0), (TREE, 63.0), (PRUNED, 50.0))))
    for figure in (slower_chain, unmended):
        assert "slower than the step before it" in joined(figure)
        assert "essential" not in joined(figure)


@pytest.mark.parametrize(
    "params",
    [
        pytest.param((Method.DYNATREE, {"depth": 5, "max_depth": 8, "max_nodes": 96}), id="dynatree"),
        pytest.param((Method.BEST_FIRST, {"depth": 8, "branch": 3, "max_nodes": 32}), id="best_first"),
    ],
)
def test_pruning_is_called_essential_whatever_rule_prunes(params: tuple[Method, Params]) -> None:
    method, own = params
    adaptive = Configuration(label="+ Adaptive", method=method, params=own)
    figure = drawn(record(((BASELINE, 128.0), (TREE, 63.0), (adaptive, 180.0))))
    assert "pruning is essential" in joined(figure)


@pytest.mark.parametrize(
    "stored",
    [
        pytest.param(change_jobs(record(), TREE.label, environment="e2"), id="other-machine"),
        pytest.param(change_samples(record(), TREE.label, exactness=Exactness.VIOLATION), id="not-exact"),
        pytest.param(change_samples(record(), LINEAR.label, exactness=Exactness.VIOLATION), id="step-before"),
        pytest.param(record(prompts=1), id="no-interval"),
    ],
)
def test_nothing_is_drawn_as_slower_where_nothing_may_be_claimed(stored: SweepRecord) -> None:
    figure = drawn(stored)
    assert [bool(bar.get_hatch()) for bar in bars(figure)] == [False] * 4
    assert "slower" not in joined(figure)


def test_a_step_that_most_prompts_call_faster_is_not_drawn_as_slower() -> None:
    """One long prompt decides the mean, and the paired interval lies above 1."""
    report = build_report(record())
    rows = report.rows
    faster = Comparison(ratio=0.97, paired=1.2, paired_interval=Interval(low=1.1, high=1.3))
    slower = replace(faster, paired=0.9, paired_interval=Interval(low=0.8, high=0.95))
    for comparison, expected in ((faster, False), (slower, True)):
        figure = draw([rows[0], replace(rows[1], versus_previous=comparison)], report)
        assert bool(bars(figure)[1].get_hatch()) is expected
        assert ("slower" in joined(figure)) is expected


def test_a_difference_within_the_interval_is_not_drawn_as_slower() -> None:
    figure = drawn(record(((BASELINE, 100.0), (LINEAR, 95.0)), noise=0.1))
    heights = [bar.get_height() for bar in bars(figure)]
    assert heights[1] < heights[0]
    assert [bool(bar.get_hatch()) for bar in bars(figure)] == [False, False]


def test_the_speedup_stands_on_every_bar() -> None:
    report = build_report(record())
    for row in report.rows:
        assert row.versus_baseline is not None
        assert f"{speedup(row)}×" in texts(draw(report.rows, report))


def test_a_step_that_is_slower_by_less_than_a_figure_shows_has_the_same_factor_in_figure_and_text() -> None:
    report = build_report(record())
    base, row = report.rows[:2]
    slower = Comparison(ratio=0.9961, paired=0.996, paired_interval=Interval(low=0.994, high=0.998))
    rows = (base, replace(row, versus_previous=slower, versus_baseline=slower))
    shown = replace(report, rows=rows)
    figure = draw(rows, shown)
    assert "slower than the step before it (0.996×)" in joined(figure)
    assert "0.996×" in texts(figure)
    for latex in (to_latex(shown), to_prose(shown)):
        assert r"0.996\times" in latex
    assert r"& $0.996\times$" in to_latex(shown)
    shown = replace(shown, rows=(*rows, *(replace(base, step=i, label=f"Row {i}") for i in range(3, 15))))
    assert "0.996×  ▼0.996×" in texts(draw(shown.rows, shown))


@pytest.mark.parametrize("count", [4, 14])
def test_bars_can_be_read_beside_intervals_of_two_prompts(count: int) -> None:
    """Student's quantile of one degree of freedom is 12.7: where one prompt takes 1.5 times as long as the
    other, the interval's end is 12 times the mean."""
    steps = [(replace(TREE, label=f"Tree {i}"), 100.0 + i) for i in range(count)]
    for prompts, is_cut in ((2, True), (8, False)):
        figure = drawn(slow_prompt(record(steps, repeats=1, prompts=prompts), 1.5))
        axes = figure.axes[0]
        highest = max(max(bar.get_height(), bar.get_width()) for bar in bars(figure))
        end = (axes.get_ylim() if count == 4 else axes.get_xlim())[1]
        assert highest / end > 0.3
        assert (CUT_OFF in note(figure)) is is_cut
        arrows = [line for line in axes.lines if line.get_marker() == "^"]
        assert len(arrows) == (4 if is_cut and count == 4 else 0)
        figure.draw_without_rendering()
        boxes = [text.get_window_extent() for text in axes.texts]
        assert all(box.y1 <= figure.bbox.y1 + 1 for box in boxes)
        tips = [axes.transData.transform(line.get_xydata()[0]) for line in arrows]
        assert not any(box.contains(*tip) for box in boxes for tip in tips)


def test_an_interval_that_goes_on_ends_in_an_arrow_instead_of_a_cap() -> None:
    figure = drawn(slow_prompt(record(repeats=1, prompts=2), 1.5))
    ends = [line.get_marker() for line in figure.axes[0].lines if line.get_marker() in ("^", "_")]
    assert ends == ["_", "^"] * 4


@pytest.mark.parametrize(
    "stored",
    [record(), twelve_rows("Sweep"), twelve_rows("A rather long label, number"), record(prompts=1)],
    ids=["four", "twelve", "twelve-long", "one-prompt"],
)
def test_no_text_covers_a_bar_or_another_text_or_leaves_the_figure(stored: SweepRecord) -> None:
    figure = drawn(stored)
    figure.draw_without_rendering()
    boxes = [text.get_window_extent() for text in figure.axes[0].texts]
    for index, box in enumerate(boxes):
        assert not any(box.overlaps(other) for other in boxes[index + 1 :])
        assert not any(box.overlaps(bar.get_window_extent()) for bar in bars(figure))
        assert box.y1 <= figure.bbox.y1 + 1
        assert box.x1 <= figure.bbox.x1 + 1


def test_rows_without_a_result_are_left_out_and_named() -> None:
    figure = drawn(record(states={PRUNED.label: JobState.RUNNING}))
    assert len(bars(figure)) == 3
    assert note(figure) == "Intervals: 95 %. Not drawn: + Adaptive pruning (running)."


@pytest.mark.parametrize("rows", [4, 25], ids=["bars", "list"])
def test_whiskers_say_their_confidence_where_there_are_any(rows: int) -> None:
    for confidence, prompts, said in ((0.9, 8, True), (0.9, 1, False)):
        steps = [(replace(TREE, label=f"Tree {i}"), 100.0 + i) for i in range(rows)]
        stored = replace(record(steps, repeats=1, prompts=prompts), confidence=confidence)
        assert ("Intervals: 90 %." in note(drawn(stored))) is said


def test_a_bar_whose_output_is_not_the_targets_is_starred_and_explained() -> None:
    figure = drawn(change_samples(record(), LINEAR.label, exactness=Exactness.VIOLATION))
    labels = [label.get_text().replace("\n", " ") for label in figure.axes[0].get_xticklabels()]
    assert labels == ["Baseline", "+ Draft model*", "+ Tree structure", "+ Adaptive pruning"]
    assert "* + Draft model: output is not the target's" in figure.get_supxlabel().replace("\n", " ")


def labels_of(figure: Figure) -> list[Text]:
    figure.draw_without_rendering()
    return list(figure.axes[0].get_xticklabels())


@pytest.mark.parametrize("count", [2, 4, 6, 8, 11])
@pytest.mark.parametrize("threshold", ["0.05", "0.025", "0.0"])
def test_no_label_is_broken_inside_a_word_and_no_star_stands_alone(count: int, threshold: str) -> None:
    rows = [
        replace(PRUNED, label=f"Tree (depth={depth}, threshold={threshold})") for depth in range(2, 2 + count)
    ]
    stored = record([(BASELINE, 50.0), *((row, 90.0) for row in rows)], repeats=1)
    for row in rows[::2]:
        stored = change_samples(stored, row.label, exactness=Exactness.VIOLATION)
    labels = labels_of(drawn(stored))
    stars = ["", *("" if i % 2 else "*" for i in range(count))]
    whole = [f"{row.label}{star}" for row, star in zip([BASELINE, *rows], stars, strict=True)]
    assert [label.get_text().replace("\n", " ") for label in labels] == whole
    assert all(label.get_fontsize() >= TINY for label in labels)
    if not labels[0].get_rotation():
        boxes = [label.get_window_extent() for label in labels]
        assert not any(one.overlaps(other) for one, other in pairwise(boxes))


def test_a_label_of_one_word_too_long_for_its_bar_is_turned_and_keeps_its_star() -> None:
    row = replace(PRUNED, label="Tree a_policy_whose_name_is_twenty-six_characters_long_")
    stored = change_samples(record([(BASELINE, 50.0), (row, 90.0)]), row.label, exactness=Exactness.VIOLATION)
    _, label = labels_of(drawn(stored))
    assert label.get_rotation() == 35
    assert label.get_text().replace("\n", "").replace(" ", "") == f"{row.label}*".replace(" ", "")
    assert not label.get_text().endswith("\n*")


@pytest.mark.parametrize(("share", "is_heavy"), [(0.3, False), (0.31, True)])
def test_a_bar_that_load_slowed_by_far_is_starred_and_not_called_slower(share: float, is_heavy: bool) -> None:
    figure = drawn(change_jobs(record(), TREE.label, conditions={"others_share": share}))
    labels = [label.get_text().replace("\n", " ") for label in figure.axes[0].get_xticklabels()]
    assert [label.endswith("*") for label in labels] == [False, False, is_heavy, False]
    assert [bool(bar.get_hatch()) for bar in bars(figure)] == [False, False, not is_heavy, False]
    assert ("slower" in joined(figure)) is not is_heavy
    assert ("cores" in figure.get_supxlabel()) is is_heavy


@pytest.mark.parametrize("slowed", [(LINEAR,), (LINEAR, TREE)], ids=["the one before", "both"])
def test_a_bar_is_slower_than_one_before_it_that_load_slowed(slowed: tuple[Configuration, ...]) -> None:
    stored = record()
    for configuration in slowed:
        stored = change_jobs(stored, configuration.label, conditions={"others_share": 0.5})
    figure = drawn(stored)
    assert [bool(bar.get_hatch()) for bar in bars(figure)] == [False, False, True, False]


def test_more_rows_lie_under_each_other_with_their_speedups_beside_them() -> None:
    stored = many_rows(25)
    figure = drawn(stored)
    report = build_report(stored)
    assert [bar.get_width() for bar in bars(figure)] == [
        row.figures.throughput.mean for row in report.rows if row.figures
    ]
    assert [text.split()[0] for text in texts(figure)] == [f"{speedup(row)}×" for row in report.rows]
    slower = [bool(bar.get_hatch()) for bar in bars(figure)]
    assert slower == [row.step in slower_steps(report.rows) for row in report.rows]
    assert any(slower)
    assert slower == ["▼" in text for text in texts(figure)]
