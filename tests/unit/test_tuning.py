"""The tuning split: what is chosen on some prompts is reported on the others."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import replace
from io import StringIO
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from report_records import LINEAR, PRUNED, change_jobs, record

from dyna_eval.commands.plotting import _tree_sizes
from dyna_eval.commands.reading import StoredReport
from dyna_eval.jobs import JobState, MeasureSpec
from dyna_eval.latex.table import to_latex
from dyna_eval.records import SweepRecord
from dyna_eval.reports.chosen import shared_luck
from dyna_eval.reports.integrity import CaveatKind
from dyna_eval.reports.intervals import RunNoise, Variance
from dyna_eval.reports.joined_report import joined_report
from dyna_eval.reports.measured_report import build_report
from dyna_eval.reports.report import Report
from dyna_eval.reports.tuning import tuning_prompts
from dyna_eval.tables.report import print_table, to_csv, to_markdown
from dyna_eval.tables.report_json import to_json

PROMPTS = 8


def split(fraction: float = 0.5, *, prompts: int = PROMPTS, seed: int = 0) -> SweepRecord:
    return replace(record(prompts=prompts), measure=MeasureSpec(tune_fraction=fraction), seed=seed)


def with_linear_faster_on(stored: SweepRecord, prompts: frozenset[int]) -> SweepRecord:
    """Let the linear row win on some prompts by far."""
    return replace(
        stored,
        jobs=tuple(
            replace(
                job,
                samples=tuple(
                    replace(one, decode_seconds=one.decode_seconds / 3)
                    if one.prompt_index in prompts
                    else one
                    for one in job.samples
                ),
            )
            if job.label == LINEAR.label
            else job
            for job in stored.jobs
        ),
    )


@given(st.integers(2, 300), st.floats(0.001, 0.999), st.integers(0, 2**63 - 1))
def test_a_split_is_a_share_of_the_prompts_and_leaves_some_on_both_sides(
    prompts: int, fraction: float, seed: int
) -> None:
    chosen = tuning_prompts(range(prompts), fraction, seed)

    assert 1 <= len(chosen) < prompts
    assert abs(len(chosen) - fraction * prompts) <= 1
    assert chosen == tuning_prompts(list(reversed(range(prompts))), fraction, seed)


def test_another_seed_splits_otherwise() -> None:
    assert len({tuning_prompts(range(20), 0.5, seed) for seed in range(5)}) > 1


def test_figures_are_over_the_other_prompts_alone() -> None:
    whole, halves = record(prompts=PROMPTS), split()
    tuning = tuning_prompts(range(PROMPTS), 0.5, 0)
    others = replace(
        whole,
        jobs=tuple(
            replace(job, samples=tuple(one for one in job.samples if one.prompt_index not in tuning))
            for job in whole.jobs
        ),
        sentinels=tuple(
            replace(own, samples=tuple(one for one in own.samples if one.prompt_index not in tuning))
            for own in whole.sentinels
        ),
    )

    report = build_report(halves)
    told = [tuple(one for one in row.caveats if one.kind is not CaveatKind.CHOSEN) for row in report.rows]
    rows = tuple(replace(row, caveats=caveats) for row, caveats in zip(report.rows, told, strict=True))
    assert rows == build_report(others).rows
    assert all(row.figures and row.figures.prompts == PROMPTS - len(tuning) for row in report.rows)


def test_the_choice_is_made_on_the_tuning_prompts_and_told() -> None:
    tuning = tuning_prompts(range(PROMPTS), 0.5, 0)
    report = build_report(with_linear_faster_on(split(), tuning))

    [choice] = report.chosen
    assert (choice.label, choice.tuning_prompts) == (LINEAR.label, len(tuning))
    [text] = report.texts_on("demo")
    assert text.startswith(f"'{LINEAR.label}' was chosen on 4 tuning prompts, the fastest there")
    assert text.endswith(f"on which '{PRUNED.label}' is the fastest")
    assert to_json(report)["chosen"] == [
        {
            "pair": "demo",
            "label": LINEAR.label,
            "tuning_prompts": len(tuning),
            "throughput": choice.throughput,
        }
    ]


def test_a_choice_that_holds_on_the_other_prompts_needs_no_second_name() -> None:
    report = build_report(split())

    assert [choice.label for choice in report.chosen] == [PRUNED.label]
    assert report.texts_on("demo")[0].endswith("all figures are over the other prompts")


SAME_RUNS = re.compile(
    r"chosen and reported in the same 3 runs, so its figures hold the luck that made it win:"
    r" on average \d\.\d % too fast for the best of 4 equal rows"
)


def printed(report: Report) -> str:
    text = StringIO()
    print_table(report, text)
    return text.getvalue()


@pytest.mark.parametrize(
    "written",
    [printed, to_markdown, to_latex, to_csv, lambda report: json.dumps(to_json(report))],
    ids=["text", "Markdown", "LaTeX", "CSV", "JSON"],
)
def test_a_chosen_row_is_said_to_be_reported_in_the_runs_that_it_was_chosen_in(
    written: Callable[[Report], str],
) -> None:
    report = build_report(split())
    found = SAME_RUNS.findall(" ".join(written(report).replace("\\", "").split()))
    assert found
    assert {row.label for row in report.rows if SAME_RUNS.search(" ".join(row.caveat_texts))} == {
        PRUNED.label
    }


def test_one_repeat_does_not_tell_how_lucky_the_chosen_row_was() -> None:
    once = replace(record(prompts=PROMPTS, repeats=1), measure=MeasureSpec(repeats=1, tune_fraction=0.5))
    [row] = [row for row in build_report(once).rows if row.label == PRUNED.label]
    assert row.caveat_texts[-1] == (
        "chosen and reported in the same run, so its figures hold the luck that made it win;"
        " so few repeats do not tell how much"
    )


@pytest.mark.parametrize(("rows", "repeats"), [(2, 3), (11, 2), (31, 3), (91, 1)])
def test_the_luck_of_the_best_of_equal_rows_is_as_large_as_is_said(rows: int, repeats: int) -> None:
    """Rows whose runs differ by 1 % by chance: the highest mean of so many is that much too high."""
    row = build_report(record(prompts=PROMPTS, repeats=repeats)).rows[0]
    noise = Variance(value=0.01**2, degrees=1e6)
    text = shared_luck(replace(row, noise=RunNoise(in_block=noise, alone=noise)), rows).text
    found = re.search(r"on average (\S+) % too fast for the best of (\d+) equal rows", text)
    assert found is not None
    runs = np.random.default_rng(0).normal(0.0, 0.01, (4000, rows, repeats))
    assert int(found[2]) == rows
    assert float(found[1]) == pytest.approx(100 * float(runs.mean(axis=2).max(axis=1).mean()), abs=0.07)


def test_without_a_split_nothing_is_chosen() -> None:
    report = build_report(record())

    assert (report.chosen, report.warnings) == ((), ())


def test_the_choice_allows_for_how_fast_each_actor_is() -> None:
    """The pruned tree ran on an actor of half the speed, whose own AR run says so."""
    stored = split()
    slow = tuple(replace(one, decode_seconds=2 * one.decode_seconds) for one in stored.sentinels[0].samples)
    stored = replace(
        stored,
        jobs=tuple(
            replace(
                job,
                actor="slow",
                samples=tuple(replace(one, decode_seconds=2 * one.decode_seconds) for one in job.samples),
            )
            if job.label == PRUNED.label
            else job
            for job in stored.jobs
        ),
        sentinels=(*stored.sentinels, replace(stored.sentinels[0], actor="slow", samples=slow)),
    )
    report = build_report(stored)

    assert [choice.label for choice in report.chosen] == [PRUNED.label]
    assert any("tokens/s, on a slower actor than others)" in text for text in report.warnings)


@pytest.mark.parametrize("state", [JobState.FAILED, JobState.CANCELLED])
def test_a_row_that_stays_unfinished_holds_up_no_choice(state: JobState) -> None:
    for repeats in ([2], [0, 1, 2]):
        rest = change_jobs(split(), LINEAR.label, repeats=repeats, state=state, samples=())
        assert [choice.label for choice in build_report(rest).chosen] == [PRUNED.label]


def test_while_a_row_is_to_come_nothing_is_chosen_and_the_split_is_still_told() -> None:
    report = build_report(change_jobs(split(), LINEAR.label, state=JobState.QUEUED, samples=()))

    assert report.chosen == ()
    assert any(text.endswith("all figures are over the other prompts") for text in report.warnings)


class CountedSizes:
    """Stands for a store, and notes over which prompts tree sizes are asked for."""

    def __init__(self) -> None:
        self.asked: list[tuple[int, dict[str, set[int]] | None]] = []

    def tree_sizes(
        self, sweep_id: int, prompts: dict[str, set[int]] | None = None
    ) -> dict[int, dict[int, int]]:
        self.asked.append((sweep_id, prompts))
        return {}


def test_tree_sizes_are_over_the_reported_prompts_whether_a_row_is_chosen_or_not() -> None:
    reported = set(range(PROMPTS)) - tuning_prompts(range(PROMPTS), 0.5, 0)
    stored = change_jobs(split(), LINEAR.label, state=JobState.QUEUED, samples=())
    both = (stored, replace(stored, id=2, name="again"))
    store: Any = CountedSizes()
    _tree_sizes(StoredReport(report=build_report(stored), records=(stored,)), store)
    _tree_sizes(StoredReport(report=joined_report(both), records=both), store)

    assert store.asked == [(sweep, {"p1": reported}) for sweep in (1, 1, 2)]


@pytest.mark.parametrize("fraction", [0.1, 0.9])
def test_before_anything_is_measured_there_is_no_choice(fraction: float) -> None:
    empty = replace(split(fraction), jobs=(), sentinels=())

    assert build_report(empty).chosen == ()


def test_every_prompt_set_is_split_so_that_a_small_one_keeps_prompts_on_both_sides() -> None:
    """Two prompts beside eight: a split of all indices alike could take both of them."""
    large, small = split(0.9), record(prompts=2)
    both = replace(
        large,
        pairs=("demo", "small"),
        jobs=(
            *large.jobs,
            *(replace(job, id=job.id + 100, pair="small", prompt_set="p2") for job in small.jobs),
        ),
        sentinels=(*large.sentinels, *(replace(own, pair="small") for own in small.sentinels)),
    )
    report = build_report(both)

    for pair, chosen, reported in (("demo", 7, 1), ("small", 1, 1)):
        assert {row.figures.prompts for row in report.rows_of(pair) if row.figures} == {reported}
        assert [choice.tuning_prompts for choice in report.chosen if choice.pair == pair] == [chosen]
