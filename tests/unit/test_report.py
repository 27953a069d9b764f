"""From a stored sweep to a report: what a row says, what it warns of, and what it refuses."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import asdict, replace
from typing import Any

import pytest
from report_records import (
    BASELINE,
    CALIBRATION,
    ENVIRONMENTS,
    FOUR_STEPS,
    LINEAR,
    MODELS,
    PRUNED,
    TREE,
    calibrated,
    change_jobs,
    change_samples,
    record,
)

from dyna_eval.errors import MixedRowsError
from dyna_eval.jobs import Configuration, GenerationSpec, JobState, MergedConfiguration, Method
from dyna_eval.measurements import Exactness
from dyna_eval.records import StoredSentinel, SweepRecord
from dyna_eval.reports.integrity import Caveat
from dyna_eval.reports.measured_report import build_report
from dyna_eval.reports.report import Report, Row, best_row
from dyna_eval.reports.tuning import split_prompts
from dyna_eval.tables.report_json import to_json


def row(report: Report, label: str) -> Row:
    return next(row for row in report.rows if row.label == label)


def speedups(report: Report) -> list[float | None]:
    return [row.versus_baseline and row.versus_baseline.ratio for row in report.rows]


def scaled(stored: SweepRecord, actor: str, factor: float, repeats: set[int]) -> SweepRecord:
    """Let these repeats run on another actor that takes `factor` times as long, for its sentinel as well."""
    jobs = tuple(
        replace(
            job,
            actor=actor,
            samples=tuple(replace(s, decode_seconds=s.decode_seconds * factor) for s in job.samples),
        )
        if job.repeat in repeats
        else job
        for job in stored.jobs
    )
    own = replace(
        stored.sentinels[0],
        actor=actor,
        samples=tuple(
            replace(s, decode_seconds=s.decode_seconds * factor) for s in stored.sentinels[0].samples
        ),
    )
    return replace(stored, jobs=jobs, sentinels=(*stored.sentinels, own))


def with_sentinels(stored: SweepRecord, *factors: float) -> SweepRecord:
    """Let the actor run AR several times, each so many times as slow as the first stored run."""
    first = stored.sentinels[0]
    return replace(
        stored,
        sentinels=tuple(
            StoredSentinel(
                actor=first.actor,
                sequence=number,
                pair=first.pair,
                samples=tuple(replace(s, decode_seconds=s.decode_seconds * factor) for s in first.samples),
            )
            for number, factor in enumerate(factors)
        ),
    )


# -------------------------------------------------------------------- speedups


def test_with_one_actor_the_speedup_is_exactly_the_ratio_of_the_two_throughput_cells() -> None:
    report = build_report(record())
    means = [row.figures.throughput.mean for row in report.rows if row.figures]
    assert speedups(report) == [mean / means[0] for mean in means]
    assert speedups(report)[0] == 1.0


def test_an_actor_twice_as_slow_changes_no_speedup() -> None:
    plain, uneven = record(), scaled(record(), "actor-2", 2.0, {1})
    assert speedups(build_report(uneven)) == pytest.approx(speedups(build_report(plain)))
    assert speedups(build_report(uneven))[0] == 1.0


def test_rows_on_different_actors_are_compared_through_each_actors_own_ar_runs() -> None:
    """The tree ran only on a node of half the speed, and still has its speedup."""
    plain = record()
    slow = scaled(plain, "actor-2", 2.0, {0, 1, 2})
    moved = replace(
        slow,
        jobs=tuple(s if s.label == TREE.label else p for p, s in zip(plain.jobs, slow.jobs, strict=True)),
    )
    assert speedups(build_report(moved)) == pytest.approx(speedups(build_report(plain)))


def test_without_sentinels_one_actor_is_comparable_with_itself() -> None:
    bare = replace(record(), sentinels=())
    assert speedups(build_report(bare)) == speedups(build_report(record()))


def test_without_sentinels_two_actors_have_no_speedup_and_the_report_says_why() -> None:
    bare = replace(scaled(record(), "actor-2", 2.0, {1}), sentinels=())
    report = build_report(bare)
    assert speedups(report) == [None] * 4
    assert any("no speedup for what ran on actor-1, actor-2" in warning for warning in report.warnings)


def test_a_rows_peak_memory_is_the_highest_of_its_done_jobs() -> None:
    stored = change_jobs(record(), LINEAR.label, repeats=[2], state=JobState.FAILED, samples=())
    unseen = change_jobs(stored, TREE.label, peak_memory_bytes=None)
    rows = to_json(build_report(unseen))["rows"]
    assert isinstance(rows, list)
    assert [row["peak_memory_bytes"] for row in rows] == [1.5 * 2**30, 1.25 * 2**30, None, 1.5 * 2**30]


def test_gain_is_over_the_nearest_row_above_that_has_figures() -> None:
    report = build_report(record(states={TREE.label: JobState.FAILED}))
    rows = to_json(report)["rows"]
    assert isinstance(rows, list)
    rates = [row["throughput_tokens_per_s"] for row in rows]
    assert rows[0]["gain_over_previous"] is None
    assert rows[2]["gain_over_previous"] is None
    assert rows[3]["gain_over_previous"] == pytest.approx(rates[3] / rates[1] - 1.0)
    assert rows[3]["gain_over_baseline"] == pytest.approx(rates[3] / rates[0] - 1.0)


def test_pairs_are_compared_only_within_themselves() -> None:
    report = build_report(record(pairs=("small", "large")))
    assert [row.step for row in report.rows] == [1, 2, 3, 4] * 2
    assert [row.versus_baseline.ratio for row in report.rows if row.is_baseline and row.versus_baseline] == [
        1,
        1,
    ]
    assert [row.versus_previous for row in report.rows if row.step == 1] == [None, None]


def test_a_speed_like_the_baselines_is_called_not_separable() -> None:
    report = build_report(record(((BASELINE, 100.0), (LINEAR, 97.0), (PRUNED, 180.0)), noise=0.1))
    same, faster = row(report, LINEAR.label), row(report, PRUNED.label)
    assert same.versus_baseline is not None
    assert same.versus_baseline.separable is False
    assert any("not separable" in text for text in same.caveat_texts)
    assert faster.caveat_texts == ()


def test_the_best_row_is_the_fastest_whose_output_is_right() -> None:
    assert best_row(build_report(record()).rows) == row(build_report(record()), PRUNED.label)
    wrong = change_samples(record(), PRUNED.label, exactness=Exactness.VIOLATION)
    assert best_row(build_report(wrong).rows) == row(build_report(wrong), LINEAR.label)
    assert best_row(()) is None


@pytest.mark.parametrize("state", [JobState.QUEUED, JobState.RUNNING], ids=lambda state: state.value)
@pytest.mark.parametrize("repeats", [[0, 1, 2], [2]], ids=["the row", "a repeat of it"])
def test_no_row_is_the_best_while_another_one_may_become_it(state: JobState, repeats: list[int]) -> None:
    stored = change_jobs(record(), LINEAR.label, repeats=repeats, state=state, samples=())
    assert best_row(build_report(stored).rows) is None


@pytest.mark.parametrize("state", [JobState.FAILED, JobState.CANCELLED], ids=lambda state: state.value)
@pytest.mark.parametrize("repeats", [[0, 1, 2], [2]], ids=["the row", "a repeat of it"])
def test_a_row_of_which_nothing_is_to_come_keeps_no_other_from_being_the_best(
    state: JobState, repeats: list[int]
) -> None:
    stored = change_jobs(record(), TREE.label, repeats=repeats, state=state, samples=())
    assert best_row(build_report(stored).rows) == row(build_report(stored), PRUNED.label)


# ---------------------------------------------------------- unfinished sweeps


@pytest.mark.parametrize(
    ("states", "expected"),
    [
        (["done", "done", "done"], "done"),
        (["done", "queued", "queued"], "unfinished"),
        (["done", "failed", "queued"], "unfinished"),
        (["done", "running", "queued"], "running"),
        (["queued", "running", "queued"], "running"),
        (["queued", "queued", "failed"], "queued"),
        (["failed", "failed", "cancelled"], "failed"),
        (["cancelled", "cancelled", "cancelled"], "cancelled"),
        (["done", "failed", "done"], "partial"),
    ],
)
def test_a_rows_state_follows_from_its_jobs(states: list[str], expected: str) -> None:
    stored = record()
    for repeat, state in enumerate(states):
        done = {} if state == "done" else {"samples": ()}
        stored = change_jobs(stored, LINEAR.label, repeats=[repeat], state=JobState(state), **done)
    assert row(build_report(stored), LINEAR.label).state == expected


def test_a_row_without_results_stands_in_the_report_with_null_figures() -> None:
    rows = to_json(build_report(record(states={PRUNED.label: JobState.QUEUED})))["rows"]
    assert isinstance(rows, list)
    pending, done = rows[3], rows[1]
    assert (pending["label"], pending["state"]) == (PRUNED.label, "queued")
    assert pending.keys() == done.keys()
    for key in (
        "throughput_tokens_per_s",
        "speedup",
        "speedup_interval",
        "prompts",
        "exact_match_rate",
        "env",
    ):
        assert pending[key] is None
    assert pending["job_ids"] == [4, 8, 12]


def test_a_partly_done_row_has_figures_over_what_is_done_and_says_so() -> None:
    stored = change_jobs(record(), LINEAR.label, repeats=[2], state=JobState.QUEUED, samples=())
    report = build_report(stored)
    partly = row(report, LINEAR.label)
    assert partly.figures is not None
    assert partly.figures.repeats == 2
    assert "figures are over the 2 of 3 repeats that are done" in partly.caveat_texts
    assert [(entry.label, entry.job_ids) for entry in report.left_out] == [(LINEAR.label, (10,))]


def test_what_is_left_out_is_listed_with_its_reason() -> None:
    stored = record(states={TREE.label: JobState.FAILED, PRUNED.label: JobState.CANCELLED})
    stored = change_jobs(stored, TREE.label, tries=3, error="out of\nmemory")
    merged = MergedConfiguration(label="Chain", into=LINEAR.label, reason="branch 1 is linear")
    left_out = to_json(build_report(replace(stored, merged=(merged,))))["left_out"]
    assert left_out == [
        {
            "label": "Chain",
            "pair": None,
            "state": "merged",
            "reason": "same as '+ Draft model': branch 1 is linear",
            "job_ids": [],
        },
        {
            "label": TREE.label,
            "pair": "demo",
            "state": "failed",
            "reason": "3 of 3 jobs failed after 3 tries: out of memory",
            "job_ids": [3, 7, 11],
        },
        {
            "label": PRUNED.label,
            "pair": "demo",
            "state": "cancelled",
            "reason": "3 of 3 jobs cancelled",
            "job_ids": [4, 8, 12],
        },
    ]


def test_without_a_baseline_result_there_is_no_speedup_and_a_warning() -> None:
    report = build_report(record(states={BASELINE.label: JobState.RUNNING}))
    assert speedups(report) == [None] * 4
    assert any("baseline 'Baseline' has no result yet" in warning for warning in report.warnings)


def test_a_sweep_that_has_not_begun_is_a_report_of_empty_rows() -> None:
    states = dict.fromkeys((c.label for c, _ in FOUR_STEPS), JobState.QUEUED)
    report = build_report(replace(record(states=states), sentinels=()))
    assert [row.figures for row in report.rows] == [None] * 4
    assert report.warnings == ()
    assert len(report.left_out) == 4


# ------------------------------------------------------------------ mixed rows


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"environment": "e2"}, "environment (cpu: B instead of A)"),
        ({"environment": None}, "environment (unknown instead of e1)"),
        ({"prompt_set": "p2"}, "prompt set (p2 instead of p1)"),
        ({"generation_digest": "g2"}, "generation settings (g2 instead of g1)"),
    ],
)
def test_rows_that_do_not_belong_together_are_refused_unless_allowed_and_then_marked(
    change: dict[str, str | None], says: str
) -> None:
    stored = change_jobs(record(), LINEAR.label, **change)
    with pytest.raises(MixedRowsError, match=r"\+ Draft model") as refused:
        build_report(stored)
    assert says in str(refused.value)
    report = build_report(stored, allow_mixed=True)
    assert row(report, LINEAR.label).mixed == (says,)
    assert [bool(row.mixed) for row in report.rows] == [False, True, False, False]
    assert any(says in warning for warning in report.warnings)


def test_a_row_that_ran_in_two_environments_is_mixed_by_itself() -> None:
    stored = change_jobs(record(), BASELINE.label, repeats=[2], environment="e2")
    with pytest.raises(MixedRowsError):
        build_report(stored)
    assert row(build_report(stored, allow_mixed=True), BASELINE.label).environment is None


def test_rows_over_other_prompts_are_compared_without_an_interval() -> None:
    report = build_report(change_jobs(record(), LINEAR.label, prompt_set="p2"), allow_mixed=True)
    comparison = row(report, LINEAR.label).versus_baseline
    assert comparison is not None
    assert comparison.interval is None
    assert comparison.separable is None


def test_jobs_that_are_not_done_cannot_make_a_table_mixed() -> None:
    stored = change_jobs(record(states={PRUNED.label: JobState.FAILED}), PRUNED.label, environment="e2")
    assert build_report(stored).rows[3].mixed == ()


def test_two_pairs_may_have_run_in_different_environments() -> None:
    stored = record(pairs=("small", "large"))
    jobs = tuple(replace(job, environment="e2") if job.pair == "large" else job for job in stored.jobs)
    assert not any(row.mixed for row in build_report(replace(stored, jobs=jobs)).rows)


# -------------------------------------------------------------------- warnings


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"exactness": Exactness.VIOLATION}, "output is not the target's in 24 of 24 samples"),
        ({"exactness": Exactness.TIE}, "numeric tie in 24 of 24 samples"),
        ({"exactness": None}, "output was not compared with the target's"),
        ({"distinct_2": 0.1}, "output repeats itself (distinct-2 0.10)"),
        (
            {"capped_rounds": 10},
            "the node cap (max_nodes=254) stopped the tree's growth in 25 % of its rounds",
        ),
    ],
)
def test_a_doubtful_row_says_why(change: dict[str, object], says: str) -> None:
    report = build_report(change_samples(record(), TREE.label, **change))
    assert any(says in text for text in row(report, TREE.label).caveat_texts)
    assert any(warning.startswith(f"{TREE.label}: ") and says in warning for warning in report.warnings)


def change_prompt(stored: SweepRecord, prompt: int, **changes: Any) -> SweepRecord:
    """Change fields of the samples of one prompt, in every row."""
    jobs = (
        replace(
            job,
            samples=tuple(
                replace(one, **changes) if one.prompt_index == prompt else one for one in job.samples
            ),
        )
        for job in stored.jobs
    )
    return replace(stored, jobs=tuple(jobs))


def test_one_prompt_that_loops_is_told_though_the_mean_hides_it() -> None:
    """All rows emit the same text, so it is one footnote of all of them."""
    report = build_report(change_prompt(record(), 5, distinct_2=0.02))
    said = "output repeats itself in 3 of 24 samples (distinct-2 under 0.3), which flatters acceptance"
    assert [row.caveat_texts for row in report.rows] == [(said,)] * 4


@pytest.mark.parametrize("changes", [{"tokens": 31}, {"distinct_2": 0.3}, {"distinct_2": None}])
def test_a_text_that_is_short_or_of_unknown_variety_is_not_called_repetitive(
    changes: dict[str, object],
) -> None:
    stored = change_prompt(record(), 5, distinct_2=0.02)
    assert build_report(change_prompt(stored, 5, **changes)).warnings == ()


def test_where_the_mean_tells_of_repetition_samples_are_not_counted_beside_it() -> None:
    report = build_report(change_samples(record(), TREE.label, distinct_2=0.1))
    [told] = row(report, TREE.label).caveat_texts
    assert told.startswith("output repeats itself (distinct-2 0.10)")


def test_a_sound_sweep_has_no_warnings() -> None:
    assert build_report(record()).warnings == ()


def test_one_prompt_has_no_interval_and_a_warning() -> None:
    report = build_report(record(prompts=1))
    assert report.warnings == tuple(
        f"{configuration.label}: one prompt only, so there is no interval" for configuration, _ in FOUR_STEPS
    )
    assert [row.versus_baseline.interval for row in report.rows if row.versus_baseline] == [None] * 4


def test_rows_that_were_disturbed_alike_share_one_note() -> None:
    """Shares are raised to full tenths: `up to` stays true, and a busy machine's table is not all notes."""
    disturbed = change_jobs(record(), LINEAR.label, conditions={"others_share": 0.83})
    disturbed = change_jobs(disturbed, TREE.label, conditions={"others_share": 0.861})
    report = build_report(change_jobs(disturbed, PRUNED.label, conditions={"others_share": 0.7}))
    told = [[text for text in line.caveat_texts if "cores" in text] for line in report.rows]
    said = "other processes used up to {} % of the cores while it was measured"
    assert told == [[], [said.format(90)], [said.format(90)], [said.format(70)]]


def test_a_row_whose_gpu_was_hot_or_at_its_power_limit_says_so() -> None:
    throttled = change_jobs(record(), LINEAR.label, repeats=[1], conditions={"gpu_heat_share": 0.25})
    throttled = change_jobs(throttled, TREE.label, conditions={"gpu_power_share": 0.5, "gpu_heat_share": 0.1})
    told = [[text for text in row.caveat_texts if "clocks" in text] for row in build_report(throttled).rows]
    said = "{} held the GPU's clocks down for up to {} % of the time it was measured"
    assert told == [[], [said.format("heat", 30)], [said.format("a power limit", 50)], []]


@pytest.mark.parametrize(
    ("conditions", "notes"),
    [
        (
            {"gpu_others": 2, "gpu_others_mib": 2500},
            ["2 other processes had the GPU open, with up to 3 GiB of its memory, while it was measured"],
        ),
        (
            {"gpu_others": 1, "gpu_others_mib": 0},
            ["another process had the GPU open while it was measured"],
        ),
        ({"gpu_others": 0, "gpu_others_mib": 0}, []),
        ({}, []),
    ],
)
def test_a_row_says_that_others_had_its_gpu_open_and_is_not_in_doubt_for_it(
    conditions: dict[str, int], notes: list[str]
) -> None:
    row = build_report(change_jobs(record(), LINEAR.label, repeats=[1], conditions=conditions)).rows[1]
    told = [text.removesuffix(", which may have slowed it") for text in row.caveat_texts if "GPU" in text]
    assert (told, row.slowed) == (notes, ())


def test_load_on_more_than_three_tenths_of_the_cores_is_heavy_and_less_is_only_told() -> None:
    stored = change_jobs(record(), LINEAR.label, conditions={"others_share": 0.3})
    stored = change_jobs(stored, TREE.label, repeats=[1], conditions={"stolen_share": 0.301})
    stored = change_jobs(stored, PRUNED.label, repeats=[1], conditions={"quota_share": 0.6})
    report = build_report(stored)
    told = ["other machines were given up to 40 % of the cores while it was measured"]
    held = ["a CPU quota, as of a container, held it back for up to 60 % of the time it was measured"]
    assert [list(line.slowed) for line in report.rows] == [[], [], told, held]
    assert [len(line.caveat_texts) for line in report.rows] == [0, 1, 1, 1]
    slowed = [line["slowed"] for line in json.loads(json.dumps(to_json(report)))["rows"]]
    assert slowed == [[], [], told, held]


@pytest.mark.parametrize(
    ("actor", "share", "told"),
    [("actor-2", 0.45, True), ("actor-2", 0.3, False), ("actor-1", 0.45, False)],
    ids=["heavy load", "some load", "one actor alone"],
)
def test_an_actors_own_run_under_heavy_load_is_told_where_rows_of_others_are_compared_through_it(
    actor: str, share: float, told: bool
) -> None:
    stored = scaled(record(), actor, 1.0, {1})
    stored = change_jobs(stored, LINEAR.label, repeats=[1], conditions={"sentinel_others_share": share})
    report = build_report(stored)
    note = (
        "other processes used up to 50 % of the cores in the calmest try of an AR run that actor actor-2 made"
        " for itself: speedups between its rows and those of other actors may be wrong"
    )
    assert (note in report.warnings) is told
    assert ("AR run that" in " ".join(report.warnings)) is told
    assert not any(line.slowed for line in report.rows)


@pytest.mark.parametrize(("factors", "drifts"), [((1.0, 1.3), True), ((1.0, 1.02), False), ((1.0,), False)])
def test_an_actor_whose_own_runs_slow_down_is_said_to_drift(factors: tuple[float, ...], drifts: bool) -> None:
    report = build_report(with_sentinels(record(), *factors))
    assert any("actor actor-1 drifted" in warning for warning in report.warnings) is drifts


def test_unequal_actors_are_named_with_their_speeds() -> None:
    report = build_report(scaled(record(), "actor-2", 2.0, {1}))
    assert [warning for warning in report.warnings if "not equally fast" in warning]


@pytest.mark.parametrize(
    ("equal", "told"),
    [
        ({"p1": dict.fromkeys(range(1, 8), 0)}, "only 1 of 8 prompts is distinct"),
        ({"p1": {2: 0, 5: 1}}, "only 6 of 8 prompts are distinct"),
        ({"p2": {2: 0}}, ""),
        ({}, ""),
    ],
    ids=["all equal", "some equal", "of another set", "all distinct"],
)
def test_prompts_that_are_the_same_are_told_with_the_number_of_distinct_ones(
    equal: dict[str, dict[int, int]], told: str
) -> None:
    warnings = build_report(replace(record(), equal_prompts=equal)).warnings
    found = [warning.split(":")[0] for warning in warnings if "distinct" in warning]
    assert found == ([told] if told else [])


def test_with_a_tuning_split_the_distinct_prompts_are_those_that_figures_are_over() -> None:
    """A prompt that equals one of the tuning prompts is counted where it is reported."""
    stored = record()
    stored = replace(stored, measure=replace(stored.measure, tune_fraction=0.5))
    others = sorted(set(range(8)) - split_prompts(stored)["p1"])
    equal = dict.fromkeys(others[1:], others[0])
    [told] = [
        warning
        for warning in build_report(replace(stored, equal_prompts={"p1": equal})).warnings
        if "distinct" in warning
    ]
    assert told.startswith("only 1 of 4 prompts is distinct")


def test_warnings_name_the_pair_where_there_are_several() -> None:
    stored = change_samples(record(pairs=("small", "large")), TREE.label, distinct_2=0.1)
    assert [warning.split(": ")[0] for warning in build_report(stored).warnings] == ["small", "large"]


@pytest.mark.parametrize(
    ("backend", "warnings"),
    [
        ("compile", ()),
        ("eager", ()),
        ("cudagraph, fused kernels", ()),
        ("cudagraph (no kernels for bloom)", ("ran on the slower cudagraph backend: no kernels for bloom",)),
        ("cudagraph, fused kernels, draft cudagraph (the kernels fail the self-test: 2 is off (1))",
         ("the draft ran on the slower cudagraph backend: the kernels fail the self-test: 2 is off (1)",)),
        ("eager (no C++ compiler)", ("ran on the slower eager backend: no C++ compiler",)),
        ("compile, draft eager (no kernel for mpt)",
         ("the draft ran on the slower eager backend: no kernel for mpt",)),
        ("eager (a (b)), draft eager (c)",
         ("ran on the slower eager backend: a (b)", "the draft ran on the slower eager backend: c")),
    ],
)  # fmt: skip
def test_an_actor_that_fell_back_says_why(backend: str, warnings: tuple[str, ...]) -> None:
    environments = {name: {**facts, "backend": backend} for name, facts in ENVIRONMENTS.items()}
    assert build_report(replace(record(), environments=environments)).warnings == warnings


def test_the_fall_back_of_one_pair_is_no_caveat_of_another() -> None:
    stored = record(pairs=("small", "large"))
    jobs = tuple(replace(job, environment="e2") if job.pair == "large" else job for job in stored.jobs)
    environments = {"e1": ENVIRONMENTS["e1"], "e2": {**ENVIRONMENTS["e2"], "backend": "eager (why)"}}
    report = build_report(replace(stored, jobs=jobs, environments=environments))
    assert report.pair_caveats == (("large", Caveat("ran on the slower eager backend: why")),)


def test_the_pair_whose_samples_go_on_behind_their_answers_is_told() -> None:
    stored = replace(record(pairs=("small", "large")), past_answers=("large",))
    [(pair, caveat)] = build_report(stored).pair_caveats
    assert pair == "large"
    assert caveat.text.startswith("prompts in a chat template, without stop_at_eos: text behind the end of")


# ------------------------------------------------------------------ predictions


def predictions(stored: SweepRecord) -> list[float | None]:
    report = build_report(stored, allow_mixed=True)
    return [row.figures and row.figures.predicted_speedup for row in report.rows]


def test_a_rows_speedup_is_predicted_by_the_calibrations_of_its_own_jobs() -> None:
    """Of two environments none is: it would be of no machine."""
    expected = pytest.approx(3 * 0.010 / (4 * 0.002 + 0.014))
    stored = calibrated(record())
    assert predictions(stored) == [1.0, expected, expected, expected]
    slower = replace(CALIBRATION, verify_seconds=((1, 0.010), (4, 0.012), (8, 0.040)))
    other = change_jobs(stored, LINEAR.label, calibration=slower)
    assert predictions(other) == [1.0, pytest.approx(3 * 0.010 / (4 * 0.002 + 0.019)), expected, expected]
    unknown = change_jobs(stored, LINEAR.label, calibration=None, repeats=[0])
    assert predictions(unknown) == [1.0, None, expected, expected]
    torn = change_jobs(stored, LINEAR.label, environment="e2", repeats=[0])
    assert predictions(torn) == [1.0, None, expected, expected]


# ------------------------------------------------------------------------ JSON


def test_json_has_the_documented_keys_and_no_nan() -> None:
    stored = record(states={TREE.label: JobState.FAILED})
    report = to_json(build_report(change_samples(stored, LINEAR.label, draft_seconds=None)))
    assert json.loads(json.dumps(report, allow_nan=False)) == report
    keys = {"sweep", "terms", "pairs", "environments", "rows", "left_out", "chosen", "warnings"}
    assert report.keys() == keys
    rows = report["rows"]
    assert isinstance(rows, list)
    documented = {
        "label", "method", "params", "state", "prompts", "repeats", "tokens", "throughput_tokens_per_s",
        "throughput_std", "speedup", "speedup_interval", "gain_over_previous", "gain_over_baseline",
        "mean_acceptance_length", "draft_acceptance_rate", "mean_tree_nodes", "node_cap_bound_rate",
        "exact_match_rate", "prompt_set", "env", "job_ids", "draft_share", "grow_share", "verify_share",
        "walk_share", "host_share", "predicted_speedup", "end_to_end_speedup", "end_to_end_speedup_interval",
    }  # fmt: skip
    assert all(documented <= row.keys() for row in rows)
    draft = rows[1]
    assert (draft["label"], draft["method"], draft["params"]) == ("+ Draft model", "linear", {"k": 6})
    assert (draft["prompts"], draft["repeats"], draft["tokens"]) == (8, 3, 8 * 3 * 120)
    assert (draft["prompt_set"], draft["env"], draft["job_ids"]) == ("p1", "e1", [2, 6, 10])
    assert draft["speedup_interval"][0] < draft["speedup"] < draft["speedup_interval"][1]
    low, high = draft["end_to_end_speedup_interval"]
    assert low < draft["end_to_end_speedup"] < high
    assert draft["end_to_end_speedup"] < draft["speedup"]
    assert (rows[0]["end_to_end_speedup"], rows[0]["end_to_end_speedup_interval"]) == (1.0, None)
    assert rows[2]["end_to_end_speedup"] is rows[2]["end_to_end_speedup_interval"] is None
    assert draft["draft_share"] is None
    assert (rows[0]["speedup"], rows[0]["speedup_interval"]) == (1.0, None)
    assert rows[0]["draft_acceptance_rate"] is None


def test_json_holds_all_settings_the_models_and_the_facts_behind_the_digests() -> None:
    generation = GenerationSpec(max_new_tokens=64, seed=5)
    stored = replace(record(), generations={"demo": generation}, models=MODELS, source="name: x\n")
    report: Any = to_json(build_report(stored))
    assert report["sweep"]["generation"] == report["pairs"][0]["generation"] == asdict(generation)
    assert report["sweep"]["measure"] == asdict(stored.measure)
    assert report["sweep"]["file"] == "name: x\n"
    [pair] = report["pairs"]
    assert (pair["name"], pair["dtype"], pair["target_digest"]) == ("demo", "bfloat16", "t" * 64)
    assert (pair["target_revision"], pair["draft_revision"]) == ("c" * 40, None)
    assert {row["env"] for row in report["rows"]} <= report["environments"].keys()
    assert report["environments"]["e1"] == ENVIRONMENTS["e1"]
    assert json.loads(json.dumps(report, allow_nan=False)) == report


def test_json_tells_of_each_pair_how_it_was_generated_and_of_the_sweep_only_what_all_share() -> None:
    names = ("demo at T=0", "demo at T=1")
    generations = {name: GenerationSpec(temperature=float(i)) for i, name in enumerate(names)}
    models = {
        name: replace(MODELS["demo"], spec=replace(MODELS["demo"].spec, name=name, generation=own))
        for name, own in generations.items()
    }
    report: Any = to_json(build_report(replace(record(pairs=names), generations=generations, models=models)))
    assert report["sweep"]["generation"] is None
    assert [pair["generation"] for pair in report["pairs"]] == [asdict(own) for own in generations.values()]


def test_json_of_a_tuned_sweep_names_its_tuning_split() -> None:
    stored = record()
    tuned = replace(stored, measure=replace(stored.measure, tune_fraction=0.5))
    report: Any = to_json(build_report(tuned))
    assert report["sweep"]["measure"]["tune_fraction"] == 0.5


def test_the_same_sweep_gives_the_same_report() -> None:
    assert to_json(build_report(record())) == to_json(build_report(record()))


def test_building_a_report_loads_no_heavy_library() -> None:
    """`dyna-eval report` answers in under a second only if drawing and models stay unloaded."""
    heavy = "{'matplotlib', 'rich', 'torch', 'ray', 'transformers', 'datasets', 'scipy'}"
    code = (
        "import sys, dyna_eval.tables.report, dyna_eval.latex, dyna_eval.plots; "
        f"print({heavy} & set(sys.modules))"
    )
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert loaded.stdout.strip() == "set()"


def test_environments_are_named_by_what_differs() -> None:
    same = {"e1": ENVIRONMENTS["e1"], "e2": ENVIRONMENTS["e1"]}
    stored = replace(change_jobs(record(), LINEAR.label, environment="e2"), environments=same)
    assert row(build_report(stored, allow_mixed=True), LINEAR.label).mixed == (
        "environment (e2 instead of e1)",
    )


def test_a_baseline_need_not_be_ar_nor_come_first() -> None:
    wide = Configuration(label="Wide", method=Method.TREE, params={"depth": 4, "branch": 4, "threshold": 0.1})
    stored = replace(record(((LINEAR, 150.0), (wide, 170.0))), baseline="Wide")
    assert [row.is_baseline for row in build_report(stored).rows] == [False, True]
    assert speedups(build_report(stored))[1] == 1.0
