"""The ablation bar chart: what is drawn, that nothing overlaps, and what the files contain."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import matplotlib
import pytest
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from report_records import (
    BASELINE,
    FOUR_STEPS,
    LINEAR,
    PRUNED,
    TREE,
    change_samples,
    record,
)

from dyna_eval.errors import InputError
from dyna_eval.jobs import Configuration, Exactness, JobState, SweepRecord
from dyna_eval.plots import ALARM, CALM, ablation_bars, draw
from dyna_eval.report import build_report


def drawn(stored: SweepRecord) -> Figure:
    return draw(build_report(stored).rows)


def bars(figure: Figure) -> list[Rectangle]:
    return [
        patch
        for container in figure.axes[0].containers
        for patch in container
        if isinstance(patch, Rectangle)
    ]


def texts(figure: Figure) -> list[str]:
    return [text.get_text() for text in figure.axes[0].texts]


def joined(figure: Figure) -> str:
    return " | ".join(texts(figure)).replace("\n", " ")


def twelve_rows(label: str) -> SweepRecord:
    speeds = [128, 170, 180, 160, 190, 175, 60, 185, 178, 130, 188, 120]
    rows = [BASELINE] + [
        Configuration(label=f"{label} {i}", method=TREE.method, params=TREE.params) for i in range(11)
    ]
    return record(tuple(zip(rows, map(float, speeds), strict=True)), repeats=1)


def test_each_step_has_a_bar_as_high_as_its_throughput() -> None:
    report = build_report(record())
    heights = [bar.get_height() for bar in bars(draw(report.rows))]
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


def test_a_difference_within_the_interval_is_not_drawn_as_slower() -> None:
    figure = drawn(record(((BASELINE, 100.0), (LINEAR, 95.0)), noise=0.1))
    heights = [bar.get_height() for bar in bars(figure)]
    assert heights[1] < heights[0]
    assert [bool(bar.get_hatch()) for bar in bars(figure)] == [False, False]


def test_the_speedup_stands_on_every_bar() -> None:
    report = build_report(record())
    for row in report.rows:
        assert row.versus_baseline is not None
        assert f"{row.versus_baseline.ratio:.2f}×" in texts(draw(report.rows))


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
    note = figure.axes[0].get_xlabel().replace("\n", " ")
    assert note == "Not shown, no result yet: + Adaptive pruning (running)."


def test_a_bar_whose_output_is_not_the_targets_is_starred_and_explained() -> None:
    figure = drawn(change_samples(record(), LINEAR.label, exactness=Exactness.VIOLATION))
    labels = [label.get_text().replace("\n", " ") for label in figure.axes[0].get_xticklabels()]
    assert labels == ["Baseline", "+ Draft model*", "+ Tree structure", "+ Adaptive pruning"]
    assert "* + Draft model: output is not the target's" in figure.axes[0].get_xlabel().replace("\n", " ")


def test_a_label_is_text_and_not_mathematics(tmp_path: Path) -> None:
    odd = replace(LINEAR, label="$\\frac{1}{$ 100% _x_")
    assert ablation_bars(build_report(record(((BASELINE, 128.0), (odd, 150.0)))), tmp_path)


# ----------------------------------------------------------------------- files


def test_a_pdf_with_embedded_truetype_fonts_and_a_png_are_written(tmp_path: Path) -> None:
    pdf, png = ablation_bars(build_report(record()), tmp_path / "new" / "folder")
    assert (pdf.name, png.name) == ("ablation.pdf", "ablation.png")
    assert pdf.read_bytes().startswith(b"%PDF")
    assert b"/FontFile2" in pdf.read_bytes()
    assert b"/Type3" not in pdf.read_bytes()
    assert png.read_bytes().startswith(b"\x89PNG")


def test_each_pair_has_files_of_its_own(tmp_path: Path) -> None:
    files = ablation_bars(build_report(record(pairs=("small", "a/b"))), tmp_path)
    assert [file.name for file in files] == [
        "ablation-small.pdf", "ablation-small.png", "ablation-a-b.pdf", "ablation-a-b.png",
    ]  # fmt: skip


def test_the_same_report_gives_the_same_files(tmp_path: Path) -> None:
    first, second = (ablation_bars(build_report(record()), tmp_path / name) for name in ("one", "two"))
    assert [file.read_bytes() for file in first] == [file.read_bytes() for file in second]


def test_matplotlibs_global_state_is_left_alone(tmp_path: Path) -> None:
    before = dict(matplotlib.rcParams)
    ablation_bars(build_report(record()), tmp_path)
    assert dict(matplotlib.rcParams) == before


def test_pyplot_which_keeps_global_figures_is_not_loaded() -> None:
    code = """
import sys
from report_records import record
from dyna_eval.plots import draw
from dyna_eval.report import build_report
draw(build_report(record()).rows)
print("matplotlib.pyplot" in sys.modules)
"""
    command = [sys.executable, "-c", code]
    ran = subprocess.run(command, capture_output=True, text=True, check=True, cwd=Path(__file__).parent)
    assert ran.stdout == "False\n"


def test_nothing_to_draw_is_the_users_error(tmp_path: Path) -> None:
    states = dict.fromkeys((c.label for c, _ in FOUR_STEPS), JobState.QUEUED)
    with pytest.raises(InputError, match="'four-step' has no finished row"):
        ablation_bars(build_report(record(states=states)), tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_cannot_be_written_is_the_users_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="cannot write figures there"):
        ablation_bars(build_report(record()), tmp_path / "file")
