"""All figures: which are drawn, that they can be read, and what their files contain."""

from __future__ import annotations

import os
import subprocess
import sys
import xml.etree.ElementTree as ET
from dataclasses import replace
from functools import cache
from itertools import pairwise, product
from pathlib import Path
from threading import Event, Thread

import matplotlib
import pytest
from matplotlib.colors import to_rgba
from matplotlib.container import ErrorbarContainer
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.text import Text
from matplotlib.transforms import Bbox
from PIL import Image
from report_records import (
    BASELINE,
    FOUR_STEPS,
    LINEAR,
    PRUNED,
    TREE,
    calibrated,
    change_jobs,
    change_samples,
    record,
    slow_prompt,
)

from dyna_eval.commands.plotting import FIGURE_NAMES, MEASURES
from dyna_eval.errors import InputError, NothingToDrawError
from dyna_eval.importers import import_file
from dyna_eval.jobs import Configuration, JobState, MeasureSpec, Method
from dyna_eval.measurements import Exactness
from dyna_eval.plots import FIGURES, Plan, Wish, ablation_bars, plan, write
from dyna_eval.plots.costs import PHASE_STYLES
from dyna_eval.plots.curves import TITLES, draw_heat
from dyna_eval.plots.look import (
    ALARM,
    DASHES,
    MARKERS,
    SERIES,
    fitting_ticks,
    lightness,
    save,
    series_colors,
    settle,
    spread,
)
from dyna_eval.records import SweepRecord
from dyna_eval.reports.imported import ImportedSweep
from dyna_eval.reports.joined_report import joined_report
from dyna_eval.reports.measured_report import build_report
from dyna_eval.series.costs import PHASES, PhaseBar, cost_chart, phase_bars
from dyna_eval.series.measured import CUT_OFF, Measured
from dyna_eval.series.paired import paired_speedups
from dyna_eval.series.swept import Measure, heat_map
from tests.disks import room_for
from tests.result_files import baseline, dynatree, tree
from tests.result_files import write as write_file

TREES = [
    Configuration(
        label=f"Tree (depth={depth}, branch={branch}, threshold={threshold})",
        method=Method.TREE,
        params={"depth": depth, "branch": branch, "threshold": threshold, "max_nodes": 96},
    )
    for depth, branch, threshold in product((2, 4, 6), (2, 3), (0.0, 0.02, 0.05, 0.1, 0.2))
]
CHAINS = [replace(LINEAR, label=f"Chain (k={k})", params={"k": k}) for k in (2, 4, 6, 8)]
FORTY = [
    BASELINE,
    *CHAINS,
    *TREES,
    *(Configuration(label=f"Other {i}", method=Method.COST_AWARE, params={"width": i}) for i in range(5)),
]


def forty_rows() -> SweepRecord:
    return with_costs(record([(row, 100.0 + 7 * (i % 9)) for i, row in enumerate(FORTY)], repeats=1))


def some_trees() -> SweepRecord:
    """Enough for a figure of each kind."""
    return with_costs(record([(BASELINE, 50.0), *((row, 90.0) for row in TREES[:10])], repeats=1))


def with_costs(stored: SweepRecord) -> SweepRecord:
    return calibrated(stored)


def rounds_of(stored: SweepRecord) -> dict[int, dict[int, int]]:
    """Rounds by job and by nodes, as a store would count them."""
    return {
        job.id: {nodes: 1 + (job.id + nodes) % 5 for nodes in range(0, 2 + job.id % 90, 3)}
        for job in stored.jobs
        if job.method is not Method.AR and job.samples
    }


def planned(stored: SweepRecord, wish: Wish | None = None) -> Plan:
    own = Measured.of(build_report(stored), stored)
    return plan(own, wish or Wish(), rounds_of(stored))


@cache
def forty_figures() -> dict[str, Figure]:
    """All figures of forty rows, to be looked at and not changed."""
    return figures(forty_rows())


def figures(stored: SweepRecord, wish: Wish | None = None) -> dict[str, Figure]:
    return {drawing.stem: drawing.draw() for drawing in planned(stored, wish).drawings}


def files(stored: SweepRecord, folder: Path, wish: Wish | None = None) -> list[Path]:
    prepared = planned(stored, wish)
    return [path for paths in write(prepared.drawings, build_report(stored), folder) for path in paths]


def planned_phases(stored: SweepRecord) -> tuple[PhaseBar, ...]:
    return phase_bars(Measured.of(build_report(stored), stored), "demo")


def intervals(figure: Figure) -> int:
    """How many error bars a figure has."""
    return sum(
        isinstance(container, ErrorbarContainer) for axes in figure.axes for container in axes.containers
    )


def texts(figure: Figure) -> str:
    found = [text.get_text() for text in figure.findobj(Text)]
    return " | ".join(found).replace("\n", " ")


# ------------------------------------------------------------------ which figures


def test_all_figures_that_the_data_supports_are_drawn_and_the_others_told() -> None:
    found = planned(with_costs(record()))
    assert [drawing.stem for drawing in found.drawings] == [
        "ablation", "curves-speedup-threshold", "cost-model", "phases", "depth", "tree-size", "prompts",
    ]  # fmt: skip
    assert found.left_out == ("left out heat: no method has two parameters that take several values",)
    assert planned(forty_rows()).left_out == ()


def test_only_what_is_named_is_drawn_and_it_must_be_drawable() -> None:
    assert [d.stem for d in planned(record(), Wish(names=("depth",))).drawings] == ["depth"]
    with pytest.raises(NothingToDrawError, match="cannot draw heat: no method has two"):
        planned(record(), Wish(names=("heat", "depth")))


def test_the_command_offers_the_figures_and_measures_that_there_are() -> None:
    assert tuple(FIGURES) == FIGURE_NAMES
    assert tuple(measure.value for measure in TITLES) == MEASURES


def test_each_pair_has_files_of_its_own_with_stable_names() -> None:
    stored = with_costs(record(pairs=("small", "a/b")))
    stems = [drawing.stem for drawing in planned(stored).drawings]
    assert stems[:4] == [
        "ablation-small", "ablation-a-b", "curves-speedup-threshold-small", "curves-speedup-threshold-a-b",
    ]  # fmt: skip
    assert len(set(stems)) == len(stems) == 14


def test_pairs_can_span_a_figure_too() -> None:
    stored = record(pairs=("small", "large"))
    wish = Wish(names=("curves",), x="threshold", curves=("pair",), measure=Measure.THROUGHPUT)
    (found,) = planned(stored, wish).drawings
    assert found.stem == "curves-throughput-threshold-by-pair"
    assert {"small", "large"} <= {text.get_text() for text in found.draw().findobj(Text)}


def test_nothing_to_draw_is_the_users_error(tmp_path: Path) -> None:
    states = dict.fromkeys((c.label for c, _ in FOUR_STEPS), JobState.QUEUED)
    with pytest.raises(InputError, match="'four-step' has no finished row"):
        ablation_bars(build_report(record(states=states)), tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_pair_without_results_is_left_out_with_the_reason() -> None:
    stored = record(pairs=("small", "large"))
    jobs = tuple(
        replace(job, state=JobState.QUEUED, samples=(), environment=None, actor=None)
        if job.pair == "large"
        else job
        for job in stored.jobs
    )
    found = planned(replace(stored, jobs=jobs))
    assert "left out ablation of pair large: there is no finished row" in found.left_out
    assert all(drawing.stem.endswith("-small") for drawing in found.drawings)


@pytest.mark.parametrize(
    "wish", [Wish(names=("curves",), x="threshold"), Wish(names=("heat",), heat=("threshold", "branch"))]
)
def test_a_pair_whose_finished_rows_lack_the_parameter_ends_no_other_pairs_figure(wish: Wish) -> None:
    rows = [(BASELINE, 50.0), (LINEAR, 60.0), *((row, 90.0) for row in TREES[:10])]
    stored = record(rows, repeats=1, pairs=("small", "large"))
    jobs = tuple(
        replace(job, state=JobState.QUEUED, samples=(), environment=None, actor=None)
        if job.pair == "large" and job.method is Method.TREE
        else job
        for job in stored.jobs
    )
    found = planned(replace(stored, jobs=jobs), wish)
    (name,) = wish.names
    assert [drawing.stem.rsplit("-", 1)[1] for drawing in found.drawings] == ["small"]
    assert found.left_out == (f"left out {name} of pair large: no finished rows sweep threshold",)
    with pytest.raises(InputError, match=r"unknown parameter 'treshold' .* swept are branch, threshold"):
        planned(replace(stored, jobs=jobs), replace(wish, x="treshold", heat=("treshold", "branch")))


# ------------------------------------------------------------------- what is drawn


def test_intervals_are_drawn_in_every_figure_of_estimates() -> None:
    drawn = figures(with_costs(record()))
    assert {stem: intervals(figure) for stem, figure in drawn.items()} == {
        "ablation": 4,
        "curves-speedup-threshold": 2,
        "cost-model": 3 + 3,  # of the speedups and of the lengths of all but the baseline
        "phases": 4,
        "depth": 3 * (2 + 2),
        "tree-size": 0,
        "prompts": 3,
    }


@pytest.mark.slow
def test_axes_have_units() -> None:
    drawn = {stem: texts(figure) for stem, figure in forty_figures().items()}
    for stem, expected in {
        "ablation": ["Throughput (tokens/s)"],
        "curves-speedup-k": ["Draft length K (tokens)", "Speedup (×)"],
        "curves-speedup-threshold-by-depth-branch": ["Pruning threshold τ (probability)", "Speedup (×)"],
        "heat-speedup-threshold-depth": ["Pruning threshold τ (probability)", "Tree depth D (levels)"],
        "cost-model": ["Acceptance length (tokens/round)", "Speedup (×)"],
        "phases": ["Decode time per token (ms)"],
        "depth": ["Depth (tokens)", "Share of rounds"],
        "tree-size": ["Draft nodes verified per round"],
        "prompts": ["Speedup per prompt (×)"],
    }.items():
        for text in expected:
            assert text in drawn[stem], stem


def test_forty_configurations_can_all_be_told_apart() -> None:
    """Every label is there in full, inside the figure, and none touches another one."""
    for stem, figure in forty_figures().items():
        if stem.startswith(("curves", "heat", "cost-model", "depth")):
            continue
        figure.draw_without_rendering()
        labels = figure.axes[0].get_yticklabels()
        drawn = {label.get_text().replace("\n", " ") for label in labels}
        assert {row.label for row in FORTY} - {BASELINE.label} <= drawn, stem
        boxes = [label.get_window_extent() for label in labels]
        assert not any(one.overlaps(other) for one, other in pairwise(boxes)), stem
        assert all(box.x0 >= 0 for box in boxes), stem


@pytest.mark.parametrize("label", ["A rather long label of a row, number", "Row"])
def test_nothing_leaves_a_figure(label: str) -> None:
    peer = Configuration(label="transformers", method=Method.HF_ASSISTED, params={"num_assistant_tokens": 20})
    rows = [BASELINE, *(replace(tree, label=f"{label} {i}") for i, tree in enumerate(TREES[:10])), peer]
    stored = with_costs(record([(row, 90.0 + 9 * i) for i, row in enumerate(rows)], repeats=1))
    for stem, figure in figures(stored).items():
        settle(figure)
        drawn = figure.get_tightbbox()
        assert drawn.x0 >= -0.01 and drawn.x1 <= figure.get_figwidth() + 0.01, stem
        assert drawn.y0 >= -0.01 and drawn.y1 <= figure.get_figheight() + 0.01, stem


def row_names(figure: Figure, stem: str) -> list[str]:
    """What stands at the rows of a figure: at lines of a list, points, or over panels."""
    (first, *_) = figure.axes
    if stem == "cost-model":
        return [text.get_text() for text in first.texts if text.get_text()]
    if stem == "depth":
        return [axes.get_title() for axes in figure.axes if axes.get_visible()]
    return [label.get_text() for label in first.get_yticklabels()]


@pytest.mark.parametrize(
    ("label", "whole"),
    [
        pytest.param("Sweep (depth=4, branch=2, threshold={})", True, id="in one more line"),
        pytest.param(
            "Sweep (depth=4, branch=2, root_branch=4, max_nodes=96, threshold={})", False, id="by step"
        ),
    ],
)
def test_a_label_that_is_cut_keeps_its_star_and_is_told_from_others(label: str, whole: bool) -> None:
    rows = [replace(tree, label=label.format(tree.params["threshold"])) for tree in TREES[:4]]
    stored = with_costs(record([(BASELINE, 50.0), *((row, 90.0 + i) for i, row in enumerate(rows))]))
    stored = change_samples(stored, rows[1].label, exactness=Exactness.VIOLATION)
    drawn = figures(stored)
    for stem in ("cost-model", "phases", "depth", "tree-size", "prompts"):
        settle(drawn[stem])
        names = [name for name in row_names(drawn[stem], stem) if name != BASELINE.label]
        assert len(names) == 4 and len({name.removesuffix("*") for name in names}) == 4, stem
        assert [name.endswith("*") for name in names] == [False, True, False, False], stem
        if whole:
            assert [name.removesuffix("*").replace("\n", " ") for name in names] == [r.label for r in rows]
        elif stem != "depth":
            assert [name.split(":")[0] for name in names] == ["2", "3", "4", "5"], stem
        if stem in ("phases", "tree-size", "prompts"):
            labels = drawn[stem].axes[0].get_yticklabels()
            boxes = [one.get_window_extent() for one in labels]
            assert not any(one.overlaps(other) for one, other in pairwise(boxes)), stem


def test_numbers_in_the_key_of_the_cost_chart_keep_the_stars_of_long_labels() -> None:
    rows = [replace(tree, label=f"{tree.label} and more that no key has room for") for tree in TREES[:10]]
    stored = with_costs(record([(BASELINE, 50.0), *((row, 90.0) for row in rows)], repeats=1))
    stored = change_samples(stored, rows[1].label, exactness=Exactness.VIOLATION)
    figure = figures(stored, Wish(names=("cost-model",)))["cost-model"]
    starred = [text.get_text() for text in figure.axes[1].texts if text.get_text().endswith("*")]
    assert len(starred) == 1
    assert starred[0].startswith("Tree (depth=2") and starred[0].endswith(" …*")


def test_curves_whose_names_begin_alike_are_told_apart() -> None:
    stored = record(pairs=("pythia-2.8b/pythia-70m on wikitext-2", "pythia-2.8b/pythia-70m on gsm8k"))
    wish = Wish(names=("curves",), x="threshold", curves=("pair",))
    (figure,) = figures(stored, wish).values()
    settle(figure)
    labels = [text for text in figure.axes[0].texts if text.get_text().startswith("pythia")]
    assert {text.get_text().replace("\n", " ") for text in labels} == set(stored.pairs)
    one, other = (text.get_window_extent() for text in labels)
    assert not one.overlaps(other)
    wide = replace(wish, x="pair", curves=("threshold",))
    (figure,) = figures(stored, wide).values()
    figure.draw_without_rendering()
    ticks = [label.get_text() for label in figure.axes[0].get_xticklabels()]
    assert len(set(ticks)) == 2


def cut_notes(stored: SweepRecord, stem: str) -> tuple[Figure, bool]:
    (figure,) = figures(stored, Wish(names=(stem,))).values()
    return figure, CUT_OFF in figure.get_supxlabel().replace("\n", " ").replace("\xa0", " ")


@pytest.mark.parametrize("stem", ["phases", "prompts", "cost-model"])
def test_an_axis_of_few_prompts_shows_bars_and_dots_and_says_that_intervals_go_on(stem: str) -> None:
    """Student's interval of two prompts reaches twelve times as far as they differ."""
    steps = FOUR_STEPS[:2]
    few = with_costs(record(steps, prompts=2, repeats=1, noise=0.0))
    apart = slow_prompt(slow_prompt(few, 1.5), 1.5, but=BASELINE.label)
    figure, is_cut = cut_notes(apart, stem)
    assert is_cut
    low, high = figure.axes[0].get_xlim() if stem != "cost-model" else figure.axes[0].get_ylim()
    if stem == "phases":
        longest = max(bar.total.value for bar in planned_phases(apart))
        assert high < 3.0 * 1000.0 * longest
    else:
        assert high < 6.0
    if stem == "prompts":
        assert low > 0.2
    _, is_cut = cut_notes(with_costs(record(steps, repeats=1)), stem)
    assert not is_cut


def test_acceptance_of_few_prompts_can_be_read_beside_intervals_that_go_on() -> None:
    """One prompt takes three times the rounds of the other: the interval's end is far from both."""
    for prompts, is_cut in ((2, True), (8, False)):
        stored = with_costs(record(prompts=prompts, repeats=1, noise=0.0))
        jobs = tuple(
            job
            if job.label == BASELINE.label
            else replace(job, samples=(replace(job.samples[0], rounds=120), *job.samples[1:]))
            for job in stored.jobs
        )
        stored = replace(stored, jobs=jobs)
        lengths = [
            point.length for point in cost_chart(Measured.of(build_report(stored), stored), "demo").points
        ]
        farthest = max(length.high for length in lengths)
        figure, is_told = cut_notes(stored, "cost-model")
        low, high = figure.axes[0].get_xlim()
        assert 0.0 <= low <= 0.9
        assert (farthest > high, is_told) == (is_cut, is_cut)
        assert high < 3.0 * max(length.value for length in lengths)


def test_an_axis_of_prompts_reaches_as_far_as_their_means_intervals() -> None:
    """Where these reach beyond the dots, but not by far."""
    apart = slow_prompt(record(FOUR_STEPS[:2], prompts=2, repeats=1, noise=0.0), 1.1, but=BASELINE.label)
    figure, is_cut = cut_notes(apart, "prompts")
    ((row,),) = [paired_speedups(Measured.of(build_report(apart), apart), "demo")]
    low, high = figure.axes[0].get_xlim()
    known = row.geometric_mean.interval
    assert known is not None and known.low < min(ratio for _, ratio in row.ratios)
    assert low < known.low and known.high < high
    assert not is_cut


def test_points_of_the_cost_chart_are_numbered_with_a_key_where_they_are_many() -> None:
    figure = forty_figures()["cost-model"]
    found = [text.get_text() for text in figure.findobj(Text)]
    for step, row in enumerate(FORTY, start=1):
        assert found.count(str(step)) >= 2
        assert row.label in found


def test_labels_of_the_cost_chart_cover_no_whisker_where_there_is_room() -> None:
    steps = ((BASELINE, 100.0), (LINEAR, 150.0), (TREE, 50.0), (PRUNED, 350.0))
    (figure,) = figures(with_costs(record(steps, noise=0.5)), Wish(names=("cost-model",))).values()
    (axes,) = figure.axes
    settle(figure)
    labels = [text.get_window_extent() for text in axes.texts if text.get_text()]
    whiskers = [
        Bbox(axes.transData.transform(segment)).padded(0.1)
        for container in axes.containers
        if isinstance(container, ErrorbarContainer)
        for lines in container[2]
        for segment in lines.get_segments()
    ]
    assert (len(labels), len(whiskers)) == (4, 6)
    assert not any(label.overlaps(whisker) for label in labels for whisker in whiskers)


def test_a_bar_that_dwarfs_the_others_is_cut_and_keeps_its_sum() -> None:
    for slowest, is_cut in ((63.0, False), (6.0, True)):
        stored = record(((BASELINE, 128.0), (LINEAR, 174.0), (TREE, slowest)))
        figure = figures(stored, Wish(names=("phases",)))["phases"]
        (axes,) = figure.axes
        (bar,) = [bar for bar in planned_phases(stored) if bar.entry.label == TREE.label]
        sums = [text.get_text() for text in axes.texts]
        assert f"{1000 * bar.total.value:.1f}" in sums
        assert bool(axes.get_xlim()[1] < 1000 * bar.total.value) is is_cut
        assert ("Arrow: the bar goes on to its sum." in texts(figure)) is is_cut
        assert intervals(figure) == (2 if is_cut else 3)


def test_a_phase_that_cannot_be_seen_is_told_in_the_note_and_not_in_the_legend() -> None:
    stored = record()
    for row, _ in FOUR_STEPS:
        stored = change_samples(stored, row.label, grow_seconds=0.0001)
    figure = figures(stored, Wish(names=("phases",)))["phases"]
    (legend,) = figure.legends
    named = [text.get_text() for text in legend.get_texts()]
    assert named == ["draft passes", "verification", "acceptance and caches", "host, the rest"]
    assert "Too thin to see: growing the tree (at most 0.0 % of a row)." in texts(figure).replace("\xa0", " ")


def test_curves_beside_each_other_have_a_title_below_each_column() -> None:
    figure = forty_figures()["curves-speedup-threshold-by-depth-branch"]
    shown = [axes for axes in figure.axes if axes.get_visible()]
    titles = [axes.get_xlabel() for axes in shown]
    assert titles.count("Pruning threshold τ (probability)") == len(shown)


def test_panels_are_titled_by_rows_that_can_be_told_apart() -> None:
    figure = forty_figures()["depth"]
    titles = [axes.get_title().replace("\n", " ") for axes in figure.axes if axes.get_visible()]
    assert titles == [row.label for row in FORTY[1:]]


def ever_faster_trees() -> SweepRecord:
    """Trees of 90, 100, ... 180 tokens per second over two branches and five thresholds."""
    return record([(BASELINE, 50.0), *((row, 90.0 + 10 * i) for i, row in enumerate(TREES[:10]))], noise=0.0)


def framed(stored: SweepRecord) -> tuple[list[str], str]:
    """Return what stands in the framed cells of a heat map, and its note."""
    (figure,) = figures(stored, Wish(names=("heat",), heat=("threshold", "branch"))).values()
    found = [text.get_text() for text in figure.findobj(Text) if text.get_fontweight() == "bold"]
    frames = [patch for patch in figure.findobj(Rectangle) if patch.get_edgecolor() == to_rgba(ALARM)]
    assert len(frames) == len(found)
    return found, figure.get_supxlabel().replace("\n", " ")


def test_the_framed_cell_is_the_highest_that_is_not_in_doubt() -> None:
    stored = ever_faster_trees()
    highest, note = framed(stored)
    assert (highest, "Framed: the highest." in note) == (["3.60"], True)
    doubted = change_samples(stored, TREES[9].label, exactness=Exactness.VIOLATION)
    next_one, note = framed(doubted)
    assert (next_one, "Framed: the highest of those without a star." in note) == (["3.40"], True)
    for row in TREES[:10]:
        stored = change_samples(stored, row.label, exactness=Exactness.VIOLATION)
    none, note = framed(stored)
    assert (none, "Framed" in note) == ([], False)


def test_nothing_is_framed_while_a_cell_is_to_come() -> None:
    for state, said in ((JobState.RUNNING, True), (JobState.FAILED, False)):
        best, note = framed(change_jobs(ever_faster_trees(), TREES[3].label, state=state, samples=()))
        assert ("Nothing is framed while rows are to come." in note) is said
        assert ("Framed" in note, best) == ((False, []) if said else (True, ["3.60"]))
        assert f"Not drawn: {TREES[3].label} ({state})." in note


def test_rows_without_a_result_are_named_in_every_figure() -> None:
    for missing in (1, 5):
        stored = some_trees()
        for row in TREES[2 : 2 + missing]:
            stored = change_jobs(stored, row.label, state=JobState.FAILED, samples=())
        few, many = f"Not drawn: {TREES[2].label} (failed).", "Not drawn: 5 rows (failed)."
        drawn = figures(stored)
        assert len(drawn) == 8
        for stem, figure in drawn.items():
            assert (few in texts(figure), many in texts(figure)) == (missing == 1, missing == 5), stem


@pytest.mark.parametrize("count", [1, 6])
def test_rows_with_figures_that_a_figure_does_not_show_are_named_with_the_reason(
    tmp_path: Path, count: int
) -> None:
    """Of a row from another tool's file little more than its throughput is known."""
    theirs = [tree(depth, 0.0, 50.0, path=depth + 2.0) for depth in range(4, 4 + count)]
    file = import_file(write_file(tmp_path, "theirs.json", dynatree([baseline(), *theirs])))
    imported = ImportedSweep(id=2, name="theirs", created_at="2026-01-02T03:04:05Z", files=(file,))
    ours = with_costs(record(pairs=("big/small",)))
    labels = [f"theirs:{row['method']}" for row in theirs]
    rows = [row.label for row, _ in FOUR_STEPS] + labels
    report = joined_report([ours, imported], rows=rows, allow_mixed=True)
    found = plan(Measured(report=report), Wish(), rounds_of(ours))
    drawn = {drawing.stem: texts(drawing.draw()).replace("\xa0", " ") for drawing in found.drawings}
    reasons = {
        "ablation": "",
        "cost-model": "acceptance length unknown",
        "phases": "phases unknown",
        "depth": "acceptance by depth unknown",
        "tree-size": "tree sizes unknown",
        "prompts": "paired speedup unknown",
    }
    assert reasons.keys() <= drawn.keys()
    for stem, reason in reasons.items():
        named = f"{report.rows[-1].label} ({reason})" if count == 1 else f"{count} rows ({reason})"
        assert (f"Not drawn: {named}." in drawn[stem]) is bool(reason), (stem, drawn[stem])
        assert ("Not drawn" in drawn[stem]) is bool(reason)


def test_a_line_is_not_drawn_across_a_row_without_a_result() -> None:
    stored = change_jobs(ever_faster_trees(), TREES[2].label, state=JobState.FAILED, samples=())
    wish = Wish(names=("curves",), x="threshold", curves=("branch",))
    (figure,) = figures(stored, wish).values()
    lines = [line.get_xdata() for line in figure.axes[0].lines if line.get_marker() in MARKERS]
    assert [len(xs) for xs in lines] == [2, 2, 5]


def test_of_joined_sweeps_equal_configurations_are_drawn_once_and_the_others_told() -> None:
    one = ever_faster_trees()
    jobs = tuple(replace(job, id=job.id + 1000) for job in one.jobs)
    report = joined_report([one, replace(one, id=2, name="again", digest="e" * 64, jobs=jobs)])
    for wish in (
        Wish(names=("curves",), x="threshold", curves=("branch",)),
        Wish(names=("heat",), heat=("threshold", "branch")),
    ):
        (drawing,) = plan(Measured(report=report), wish, {}).drawings
        said = texts(drawing.draw())
        assert "Not drawn: 10 rows with the configuration of one that is drawn." in said
        assert "rows that do not span it" not in said


def test_a_cell_that_load_slowed_is_starred_and_another_one_framed() -> None:
    stored = change_jobs(ever_faster_trees(), TREES[9].label, conditions={"others_share": 0.5})
    best, note = framed(stored)
    assert (best, "Framed: the highest of those without a star." in note) == (["3.40"], True)
    (figure,) = figures(stored, Wish(names=("heat",), heat=("threshold", "branch"))).values()
    starred = [text.get_text() for text in figure.findobj(Text) if text.get_text().endswith("*")]
    assert starred == ["3.60*"]


def test_where_a_row_was_chosen_on_tuning_prompts_that_one_is_framed() -> None:
    stored = ever_faster_trees()
    split = replace(stored, measure=MeasureSpec(tune_fraction=0.5))
    report = build_report(split)
    heat = heat_map(Measured.of(report, split), report.rows, ("threshold", "branch"), Measure.SPEEDUP)
    (choice,) = report.chosen
    other = replace(report, chosen=(replace(choice, label=TREES[4].label),))
    chain = replace(report, chosen=(replace(choice, label=LINEAR.label),))
    for given, expected in ((report, ["3.60"]), (other, ["2.60"]), (chain, [])):
        figure = draw_heat(heat, given)
        bold = [text.get_text() for text in figure.findobj(Text) if text.get_fontweight() == "bold"]
        assert bold == expected
        assert ("chosen on the tuning prompts" in texts(figure)) is bool(expected)


def test_curves_carry_their_names_at_their_ends() -> None:
    wish = Wish(names=("curves",), x="threshold", curves=("depth", "branch"))
    (figure,) = figures(forty_rows(), wish).values()
    figure.draw_without_rendering()
    labels = [text for text in figure.axes[0].texts if text.get_text().startswith("D = ")]
    assert len(labels) == 6
    boxes = sorted((label.get_window_extent() for label in labels), key=lambda box: box.y0)
    assert not any(one.overlaps(other) for one, other in pairwise(boxes))
    assert all(box.x1 <= figure.bbox.x1 for box in boxes)


def test_doubtful_rows_are_starred_and_explained_in_every_figure() -> None:
    stored = change_samples(with_costs(record()), PRUNED.label, exactness=Exactness.VIOLATION)
    for stem, figure in figures(stored).items():
        assert "* + Adaptive pruning: output is not the target's" in texts(figure), stem


def test_rows_that_load_slowed_are_starred_and_explained_in_figures_of_times_alone() -> None:
    stored = change_jobs(with_costs(record()), PRUNED.label, conditions={"others_share": 0.5})
    said = f"* {PRUNED.label}: other processes used up to 50 % of the cores while it was measured."
    for stem, figure in figures(stored).items():
        assert (said in texts(figure).replace("\xa0", " ")) is (stem not in ("depth", "tree-size")), stem


def test_a_figure_says_where_load_slowed_what_its_speedups_are_over() -> None:
    stored = change_jobs(some_trees(), BASELINE.label, conditions={"stolen_share": 0.4})
    reason = "other machines were given up to 40 % of the cores while it was measured."
    told = {
        stem.split("-")[0]: texts(figure).replace("\xa0", " ") for stem, figure in figures(stored).items()
    }
    over = {name for name, text in told.items() if f"* Baseline (all speedups are over it): {reason}" in text}
    assert over == {"ablation", "curves", "heat", "cost", "prompts"}
    wish = Wish(names=("curves", "heat"), measure=Measure.THROUGHPUT)
    of_rates = [texts(figure).replace("\xa0", " ") for figure in figures(stored, wish).values()]
    assert [f"* Baseline (the dashed line): {reason}" in text for text in of_rates] == [True, False]
    assert not any("speedups" in text for text in of_rates)
    assert f"* Baseline: {reason}" in told["phases"]
    assert {name for name, text in told.items() if reason in text} == {*over, "phases"}
    for figure in figures(stored, Wish(names=("curves", "heat"), measure=Measure.ACCEPTANCE)).values():
        assert "*" not in texts(figure)


@pytest.mark.slow
def test_a_label_is_text_in_every_figure_and_format(tmp_path: Path) -> None:
    formula, markup, emoji = "$\\frac{1}{$ 100% _x_", "<b>&amp;</b> -->", "猫 \N{GRINNING FACE}"
    rows = [
        (BASELINE, 128.0),
        (replace(LINEAR, label=formula), 150.0),
        (replace(TREE, label=markup), 90.0),
        (replace(LINEAR, label=emoji, params={"k": 6}), 140.0),
    ]
    written = files(with_costs(record(rows, name=f"{formula} {markup} {emoji}")), tmp_path)
    assert len(written) == 3 * 6
    for path in written:
        if path.suffix == ".svg":
            ET.parse(path)  # noqa: S314 (our own file)


def test_the_names_of_pairs_are_text_on_every_axis(tmp_path: Path) -> None:
    stored = record(pairs=("small", "$\\frac{1}{$ 5"))
    for wish in (
        Wish(names=("curves",), x="pair"),
        Wish(names=("heat",), heat=("pair", "threshold")),
        Wish(names=("heat",), heat=("threshold", "pair")),
    ):
        assert files(stored, tmp_path, wish)


# --------------------------------------------------------------------------- look


def test_neighbouring_colours_differ_in_grey() -> None:
    assert min(abs(lightness(a) - lightness(b)) for a, b in pairwise(SERIES)) >= 20
    for count in range(2, 7):
        ramp = [lightness(color) for color in series_colors(count, ordered=True)]
        assert min(a - b for a, b in pairwise(ramp)) >= 10
    phases = [PHASE_STYLES[phase] for phase in PHASES]
    assert min(abs(lightness(a) - lightness(b)) for (a, _), (b, _) in pairwise(phases)) >= 15
    assert all(one != other for (_, one), (_, other) in pairwise(phases))


def test_series_have_a_second_channel_beside_colour() -> None:
    channels = [(MARKERS[i % len(MARKERS)], str(DASHES[i % len(DASHES)])) for i in range(28)]
    assert len(set(channels)) == 28


def test_lightness_is_that_of_cielab() -> None:
    assert [round(lightness(c), 1) for c in ("#000000", "#FFFFFF", "#777777", "#FF0000")] == [
        0.0, 100.0, 50.0, 53.2,
    ]  # fmt: skip


def test_labels_are_moved_apart_but_not_out_of_order() -> None:
    assert spread([1.0, 1.1, 5.0], 1.0, 0.0, 10.0) == pytest.approx([1.0, 2.0, 5.0])
    assert spread([9.9, 9.8], 1.0, 0.0, 10.0) == pytest.approx([10.0, 9.0])
    assert spread([5.0] * 3, 100.0, 0.0, 10.0) == pytest.approx([0.0, 5.0, 10.0])


def test_ticks_that_would_touch_are_left_empty() -> None:
    assert fitting_ticks([0.0, 0.1, 0.5, 1.0], ["0", "0.02", "0.1", "0.2"], 1.5) == ["0", "", "0.1", "0.2"]


# -------------------------------------------------------------------------- files


def test_every_figure_is_a_pdf_an_svg_and_a_png_that_name_sweep_and_digest(tmp_path: Path) -> None:
    written = files(some_trees(), tmp_path / "new" / "folder")
    assert len(written) == 3 * 8
    origin = f"sweep 1 'four-step', digest {'d' * 64}"
    for path in written:
        content = path.read_bytes()
        if path.suffix == ".pdf":
            assert content.startswith(b"%PDF") and content.rstrip().endswith(b"%%EOF")
            assert b"/FontFile2" in content and b"/Type3" not in content
            assert origin.encode() in content and b"/CreationDate" not in content
        elif path.suffix == ".svg":
            assert origin in "".join(ET.parse(path).getroot().itertext())  # noqa: S314 (our own file)
        else:
            with Image.open(path) as image:
                assert image.info["Description"] == origin  # type: ignore[attr-defined]
                assert image.width >= 3.4 * 200


def test_the_text_of_a_figure_is_in_its_svg(tmp_path: Path) -> None:
    written = files(with_costs(record()), tmp_path, Wish(names=("prompts",)))
    svg = next(path for path in written if path.suffix == ".svg").read_text()
    for text in ("Speedup per prompt (×)", "+ Draft model", "+ Tree structure"):
        assert f"<!-- {text} -->" in svg


@pytest.mark.slow
def test_the_same_data_gives_the_same_files(tmp_path: Path) -> None:
    stored = with_costs(record())
    first, second = (files(stored, tmp_path / name) for name in ("one", "two"))
    assert [path.name for path in first] == [path.name for path in second]
    assert [path.read_bytes() for path in first] == [path.read_bytes() for path in second]


def test_matplotlibs_global_state_is_left_alone(tmp_path: Path) -> None:
    before = dict(matplotlib.rcParams)
    files(some_trees(), tmp_path, Wish(names=("ablation", "heat")))
    assert dict(matplotlib.rcParams) == before


def test_figures_that_two_threads_draw_have_their_own_settings(tmp_path: Path) -> None:
    """The second one is drawn while the first one is, and ends after it, unless it has to wait."""
    (drawing,) = planned(record(), Wish(names=("ablation",))).drawings
    second_began, first_ended = Event(), Event()

    def second() -> Figure:
        second_began.set()
        first_ended.wait()
        return drawing.draw()

    def first() -> Figure:
        other.start()
        second_began.wait(timeout=0.5)
        return drawing.draw()

    other = Thread(target=lambda: save(second, tmp_path / "second", title="", origin=""))
    save(first, tmp_path / "first", title="", origin="")
    first_ended.set()
    other.join()
    for name in ("first.pdf", "second.pdf"):
        assert b"/Type3" not in (tmp_path / name).read_bytes()


def test_labels_end_within_the_paper_in_the_file_too(tmp_path: Path) -> None:
    """A file has more pixels than the layout; text that is fitted to them is not as wide in both."""
    stored = record([(BASELINE, 50.0), *((row, 90.0) for row in TREES[:8])], repeats=1)
    [png] = [path for path in files(stored, tmp_path, Wish(names=("phases",))) if path.suffix == ".png"]
    with Image.open(png) as image:
        assert image.convert("L").crop((0, 0, 3, image.height)).getextrema() == (255, 255)


def test_a_backend_that_matplotlib_does_not_know_is_the_users_error(tmp_path: Path) -> None:
    code = f"""
from pathlib import Path
from report_records import record
from dyna_eval.errors import InputError
from dyna_eval.plots import ablation_bars
from dyna_eval.reports.measured_report import build_report
try:
    ablation_bars(build_report(record()), Path({str(tmp_path / "figures")!r}))
except InputError as error:
    print(error)
"""
    command, variables = [sys.executable, "-c", code], os.environ | {"MPLBACKEND": "nonsense"}
    here = Path(__file__).parent
    ran = subprocess.run(command, capture_output=True, text=True, check=True, cwd=here, env=variables)
    assert ran.stdout.startswith("MPLBACKEND is 'nonsense', which matplotlib does not know; unset it")
    assert list(tmp_path.iterdir()) == []


def test_pyplot_which_keeps_global_figures_is_not_loaded() -> None:
    code = """
import sys
from test_gallery import figures, some_trees
assert len(figures(some_trees())) == 8
print("matplotlib.pyplot" in sys.modules)
"""
    command = [sys.executable, "-c", code]
    ran = subprocess.run(command, capture_output=True, text=True, check=True, cwd=Path(__file__).parent)
    assert ran.stdout == "False\n"


def test_a_folder_that_cannot_be_written_is_the_users_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="cannot write figures there"):
        ablation_bars(build_report(record()), tmp_path / "file")


def test_no_part_of_a_figure_lies_on_a_full_disk(tmp_path: Path) -> None:
    with room_for(2000), pytest.raises(InputError, match="cannot write figures there: File too large"):
        ablation_bars(build_report(record()), tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_the_bars_alone_need_no_record(tmp_path: Path) -> None:
    written = ablation_bars(build_report(record()), tmp_path)
    assert [path.name for path in written] == ["ablation.pdf", "ablation.svg", "ablation.png"]
