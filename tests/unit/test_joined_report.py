"""Reports of imported sweeps and of joined ones: what may stand in one table, and what is said about it."""

from __future__ import annotations

import io
import json
import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from report_records import FOUR_STEPS, LINEAR, MODELS, PRUNED, change_jobs, record

from dyna_eval.errors import InputError, MixedRowsError
from dyna_eval.importers import import_file
from dyna_eval.jobs import Configuration, GenerationSpec, JobState, Method
from dyna_eval.latex import to_latex
from dyna_eval.latex.prose import to_prose
from dyna_eval.latex.style import Style
from dyna_eval.plots import ablation_bars
from dyna_eval.records import SweepRecord
from dyna_eval.reports.cells import circumstances
from dyna_eval.reports.imported import ImportedFile, ImportedSweep
from dyna_eval.reports.imported_report import findings, imported_report
from dyna_eval.reports.intervals import Bootstrap
from dyna_eval.reports.joined_report import joined_report
from dyna_eval.reports.measured_report import build_report
from dyna_eval.reports.report import Report, Row, best_row
from dyna_eval.reports.statistics import compare
from dyna_eval.series.measured import Entry
from dyna_eval.tables.report import print_table, to_csv, to_markdown
from dyna_eval.tables.report_json import to_json
from tests import result_files
from tests.result_files import (
    baseline,
    dynatree,
    faster,
    linear,
    real_file,
    tree,
    vanilla,
    write,
    write_answers,
)


def sweep(number: int, *files: ImportedFile, name: str | None = None) -> ImportedSweep:
    return ImportedSweep(
        id=number,
        name=name or Path(files[0].source.file).stem,
        created_at="2026-01-02T03:04:05Z",
        files=files,
    )


def imported(folder: Path, number: int, rows: Sequence[Any], name: str, **info: Any) -> ImportedSweep:
    return sweep(number, import_file(write(folder, f"{name}.json", dynatree(rows, **info))))


def published(*names: str) -> list[ImportedSweep]:
    files = [import_file(real_file(f"{name}.json")) for name in names]
    return [sweep(number, file) for number, file in enumerate(files, start=1)]


def row_of(report: Report, label: str) -> Row:
    (row,) = [row for row in report.rows if row.label == label]
    return row


def throughput(row: Row) -> float:
    assert row.figures is not None
    return row.figures.throughput.mean


def speedup(row: Row) -> float:
    assert row.versus_baseline is not None
    return row.versus_baseline.ratio


def printed(report: Report) -> str:
    file = io.StringIO()
    print_table(report, file)
    return file.getvalue()


def second(stored: SweepRecord, *, name: str = "again") -> SweepRecord:
    """The same sweep as another submission stored it: other numbers, another actor."""
    return replace(
        stored,
        id=2,
        name=name,
        digest="e" * 64,
        jobs=tuple(replace(job, id=job.id + 100, actor="actor-2") for job in stored.jobs),
        sentinels=tuple(replace(one, actor="actor-2") for one in stored.sentinels),
    )


# ------------------------------------------------------------------ an imported sweep


@pytest.mark.parametrize(
    ("left_out", "said"),
    [
        ((), r"$\pm$ the standard deviation between prompts;"),
        ((0,), "between repeats (of rows from DynaTree's files, between prompts);"),
    ],
)
def test_a_caption_says_what_a_files_deviations_are_between(
    tmp_path: Path, left_out: tuple[int, ...], said: str
) -> None:
    file = import_file(write(tmp_path, "b.json", result_files.second_layout()))
    report = imported_report(sweep(1, file))
    own = replace(report.rows[0], source=None)
    rows = tuple(own if index in left_out else row for index, row in enumerate(report.rows))
    assert said in to_latex(replace(report, rows=rows), Style(std=True))


def test_every_renderer_prints_an_imported_sweep(tmp_path: Path) -> None:
    report = imported_report(imported(tmp_path, 1, result_files.FOUR_STEPS, "a"))
    for text in (printed(report), to_markdown(report), to_csv(report), to_latex(report)):
        assert "1.60" in text or "1.6," in text
        assert "imported from a.json" in text
        assert "None" not in text
        assert "nan" not in text
    assert [path.name for path in ablation_bars(report, tmp_path)] == [
        "ablation.pdf",
        "ablation.svg",
        "ablation.png",
    ]
    json.dumps(to_json(report), allow_nan=False)


def test_a_figure_of_joined_sweeps_names_all_of_them(tmp_path: Path) -> None:
    other = second(record([FOUR_STEPS[0], FOUR_STEPS[3]]))
    report = joined_report([record(FOUR_STEPS[:2]), other], allow_mixed=True)
    [png] = [path for path in ablation_bars(report, tmp_path) if path.suffix == ".png"]
    with Image.open(png) as image:
        assert image.info["Description"].startswith("sweeps 1, 2 '")  # type: ignore[attr-defined]


def test_the_prose_claims_of_an_imported_throughput_no_more_than_its_file_does(tmp_path: Path) -> None:
    file = import_file(write_answers(tmp_path, "a.jsonl", vanilla(8)))
    said = to_prose(imported_report(sweep(1, file)))
    assert "tokens per second (1 repeat)" in said
    assert "prefill apart" not in said
    assert "prefill included" in said
    assert "prefill apart" in to_prose(build_report(record()))


def test_a_speedup_without_prompts_is_a_ratio_without_interval(tmp_path: Path) -> None:
    report = imported_report(imported(tmp_path, 1, result_files.FOUR_STEPS, "a"))
    for row in report.rows:
        assert row.versus_baseline is not None
        assert speedup(row) == throughput(row) / 100.0
        assert (row.versus_baseline.interval, row.versus_baseline.separable) == (None, None)


def test_unknown_exactness_is_said_and_such_a_row_is_never_called_the_best(tmp_path: Path) -> None:
    report = imported_report(imported(tmp_path, 1, result_files.FOUR_STEPS, "a"))
    assert all("output was not compared with the target's" in row.caveat_texts for row in report.rows[1:])
    assert best_row(report.rows) is None
    assert "bold" not in to_latex(report)
    assert [row.fastest_before for row in report.rows] == [None, 1, 1, 1]


def test_rows_carry_the_file_and_its_digest(tmp_path: Path) -> None:
    own = imported(tmp_path, 1, result_files.FOUR_STEPS, "a")
    rows: Any = to_json(imported_report(own))["rows"]
    assert {(row["imported"]["file"], row["imported"]["sha256"]) for row in rows} == {
        ("a.json", own.files[0].source.sha256)
    }
    assert {row["state"] for row in rows} == {"imported"}


def test_without_a_baseline_there_is_no_speedup_and_that_is_said(tmp_path: Path) -> None:
    report = imported_report(imported(tmp_path, 1, [linear(6, 150.0)], "a"))
    assert report.rows[0].versus_baseline is None
    assert "no row is known to be the baseline, so there is no speedup" in report.warnings


def test_our_own_report_reads_the_same_after_import(tmp_path: Path) -> None:
    facts = {"e1": {"processor": "Chip A", "cores": 2}}
    before = build_report(replace(record(), environments=facts))
    file = import_file(write(tmp_path, "own.json", to_json(before)))
    after = imported_report(sweep(9, file))
    assert circumstances(before, "demo") == circumstances(after, "demo") == "measured on Chip A, 2 cores"
    for old, new in zip(before.rows, after.rows, strict=True):
        assert (old.label, old.figures, old.versus_baseline) == (new.label, new.figures, new.versus_baseline)
        assert old.end_to_end is not None
        assert new.end_to_end is not None
        assert (old.end_to_end.ratio, old.end_to_end_interval) == (
            new.end_to_end.ratio,
            new.end_to_end_interval,
        )
        assert old.prompt_set == new.prompt_set
        assert old.versus_previous is None or new.versus_previous is not None
        assert old.is_exact == new.is_exact
    best_before, best_after = best_row(before.rows), best_row(after.rows)
    assert best_before is not None
    assert best_after is not None
    assert best_after.label == best_before.label


def test_rows_that_our_own_report_marked_as_mixed_stay_refused(tmp_path: Path) -> None:
    stored = change_jobs(record(), LINEAR.label, environment="e2")
    file = import_file(write(tmp_path, "own.json", to_json(build_report(stored, allow_mixed=True))))
    with pytest.raises(MixedRowsError, match=r"Draft model' of own.json .*cpu: B instead of A"):
        imported_report(sweep(1, file))
    assert row_of(imported_report(sweep(1, file), allow_mixed=True), LINEAR.label).mixed


def test_a_row_that_load_slowed_stays_in_doubt_after_import_and_in_a_joined_table(tmp_path: Path) -> None:
    stored = change_jobs(record(), LINEAR.label, conditions={"others_share": 0.5, "stolen_share": 0.2})
    report = build_report(stored)
    file = import_file(write(tmp_path, "own.json", to_json(report)))
    joined = joined_report([record(FOUR_STEPS[:1]), second(stored)])
    reason = "other processes used up to 50 % of the cores while it was measured"
    for one in (report, imported_report(sweep(1, file)), joined):
        assert [(row.label, row.slowed) for row in one.rows if row.slowed] == [(LINEAR.label, (reason,))]
        assert Entry.of(row_of(one, LINEAR.label)).doubt == reason


# ----------------------------------------------------------------- per-question data


def test_answer_files_of_one_name_give_paired_ratios_with_intervals(tmp_path: Path) -> None:
    files = [
        import_file(write_answers(tmp_path, "base.jsonl", vanilla())),
        import_file(write_answers(tmp_path, "eagle.jsonl", faster())),
    ]
    report = imported_report(sweep(1, *files, name="bench"))
    base, eagle = report.rows
    assert (base.is_baseline, speedup(base)) == (True, 1.0)
    assert eagle.versus_baseline is not None
    assert eagle.versus_baseline.paired == pytest.approx(2.0)
    assert eagle.versus_baseline.separable is True
    rates = {n: 100 / (1.0 + n / 100) for n in range(8)}
    expected = compare({n: 2 * rate for n, rate in rates.items()}, rates, Bootstrap())
    assert expected is not None
    assert eagle.versus_baseline.ratio == pytest.approx(expected.ratio)
    assert eagle.figures is not None
    assert eagle.figures.acceptance.mean_length == 4.0


def test_answer_files_of_other_questions_do_not_share_a_table(tmp_path: Path) -> None:
    files = [
        import_file(write_answers(tmp_path, "base.jsonl", vanilla(8))),
        import_file(write_answers(tmp_path, "eagle.jsonl", faster(7))),
    ]
    with pytest.raises(MixedRowsError, match=r"'eagle' of eagle.jsonl .* prompt set \(other questions\)"):
        imported_report(sweep(1, *files, name="bench"))


def test_files_of_two_methods_with_one_label_stay_apart(tmp_path: Path) -> None:
    files = [
        import_file(write_answers(tmp_path, "a.jsonl", faster(8, "eagle"))),
        import_file(write_answers(tmp_path, "b.jsonl", vanilla(8))),
        import_file(
            write_answers(tmp_path, "c.jsonl", [one | {"tstamp": 2.0} for one in faster(8, "eagle")])
        ),
    ]
    labels = [row.label for row in imported_report(sweep(1, *files, name="bench")).rows]
    assert labels == ["eagle", "vanilla", "eagle (c.jsonl)"]


# ------------------------------------------------------------- counts give caps away


def test_unpruned_trees_of_several_depths_with_equal_counts_mean_that_a_cap_bound(tmp_path: Path) -> None:
    rows = [baseline(), *(tree(depth, 0.0, 50.0 + depth, path=4.829789) for depth in (5, 6, 7))]
    report = imported_report(imported(tmp_path, 1, [*rows, tree(4, 0.0, 70.0, path=4.7)], "a"))
    said = [
        any("a cap on the tree's nodes must have bound" in text for text in row.caveat_texts)
        for row in report.rows
    ]
    assert said == [False, True, True, True, False]
    assert any("rows with D = 5, 6 and 7 without pruning" in text for text in report.rows[1].caveat_texts)


def test_counts_that_differ_in_the_ninth_digit_are_different(tmp_path: Path) -> None:
    rows = [baseline(), tree(5, 0.0, 50.0, path=4.82978910), tree(6, 0.0, 50.0, path=4.82978914)]
    assert findings(imported(tmp_path, 1, rows, "a"), []) == []


def test_equal_whole_counts_alone_say_nothing(tmp_path: Path) -> None:
    known = {"avg_path_length": 0.0, "acceptance_rate": 0.0}
    rows = [baseline(), tree(5, 0.0, 50.0, **known), tree(6, 0.0, 50.0, **known)]
    assert findings(imported(tmp_path, 1, rows, "a"), []) == []


def test_runs_of_one_configuration_may_have_equal_counts(tmp_path: Path) -> None:
    rows = [baseline(), tree(5, 0.0, 50.0, path=4.7), tree(5, 0.0, 51.0, path=4.7)]
    assert findings(imported(tmp_path, 1, rows, "a"), []) == []


def test_a_threshold_that_changes_no_count_is_named(tmp_path: Path) -> None:
    rows = [baseline(), tree(5, 0.01, 50.0, path=4.7), tree(5, 0.02, 51.0, path=4.7)]
    (text,) = findings(imported(tmp_path, 1, rows, "a"), [])
    assert text.startswith(
        "rows with τ = 0.01 and 0.02 are identical in every count, so this setting changed nothing"
    )


# ----------------------------------------------- counts give the real prompts away


def two_data_sets(folder: Path) -> tuple[ImportedSweep, ImportedSweep]:
    """Two files that claim other prompts, and have the same counts at other speeds."""
    slower = [row | {"throughput_tps": row["throughput_tps"] * 0.96} for row in result_files.FOUR_STEPS]
    return (
        imported(folder, 1, result_files.FOUR_STEPS, "wiki", dataset="WikiText"),
        imported(folder, 2, slower, "built-in", dataset="built-in prompts"),
    )


def test_equal_counts_under_other_claims_are_reported_for_both_files(tmp_path: Path) -> None:
    wiki, built_in = two_data_sets(tmp_path)
    for own, other in ((wiki, built_in), (built_in, wiki)):
        (text,) = [text for text in findings(own, [wiki, built_in]) if "did not run on what it says" in text]
        assert text.startswith(f"{own.files[0].source.file} says that it ran on")
        assert other.files[0].source.file in text
        assert "in all 3 rows" in text


def test_one_other_count_is_enough_to_show_other_prompts(tmp_path: Path) -> None:
    wiki, _ = two_data_sets(tmp_path)
    rows = [*result_files.FOUR_STEPS[:-1], tree(7, 0.05, 150.0, path=4.875001)]
    other = imported(tmp_path, 3, rows, "other", dataset="built-in prompts")
    assert findings(wiki, [wiki, other]) == []


def test_rows_whose_file_did_not_run_on_what_it_says_are_not_joined(tmp_path: Path) -> None:
    wiki, built_in = two_data_sets(tmp_path)
    target = imported(tmp_path, 3, [baseline(101.0), tree(7, 0.03, 170.0)], "target", dataset="WikiText")
    with pytest.raises(MixedRowsError) as refused:
        joined_report([target, wiki], rows=["Linear K=6"], others=[wiki, built_in, target])
    message = str(refused.value)
    said = "prompt set ('built-in prompts' by the counts of wiki.json and built-in.json, not 'WikiText')"
    assert said in message
    assert "--allow-mixed prints it with a mark" in message
    assert "\n" not in message


# ------------------------------------------------------------------------- joining


def test_imported_files_without_digests_are_not_joined_silently(tmp_path: Path) -> None:
    a = imported(tmp_path, 1, [baseline(100.0), tree(7, 0.0, 50.0)], "a")
    b = imported(tmp_path, 2, [baseline(101.0), linear(6, 150.0)], "b")
    with pytest.raises(MixedRowsError, match=r"generation settings, environment \(not recorded\)"):
        joined_report([a, b])


def test_equal_counts_show_the_same_work_but_not_the_same_machine(tmp_path: Path) -> None:
    a = imported(tmp_path, 1, [baseline(100.0), tree(7, 0.0, 50.0)], "a")
    b = imported(tmp_path, 2, [baseline(101.0), tree(7, 0.0, 51.0), linear(6, 150.0)], "b")
    row = row_of(joined_report([a, b], rows=["Linear K=6"], allow_mixed=True), "Linear K=6")
    assert row.mixed == ("environment (not recorded)",)


def test_other_counts_of_one_configuration_show_other_work(tmp_path: Path) -> None:
    a = imported(tmp_path, 1, [baseline(100.0), tree(7, 0.0, 50.0, path=4.0)], "a")
    b = imported(tmp_path, 2, [baseline(100.0), tree(7, 0.0, 50.0, path=5.0), linear(6, 150.0)], "b")
    row = row_of(joined_report([a, b], rows=["Linear K=6"], allow_mixed=True), "Linear K=6")
    assert "of 1 configurations that both files have, 1 have other counts" in row.mixed[0]


def test_a_mixed_row_is_marked_in_every_format(tmp_path: Path) -> None:
    a = imported(tmp_path, 1, [baseline(100.0), tree(7, 0.0, 50.0)], "a", dataset="A")
    b = imported(tmp_path, 2, [baseline(125.0), linear(6, 150.0)], "b", dataset="B", max_new_tokens=100)
    report = joined_report([a, b], rows=["Linear K=6"], allow_mixed=True)
    row = row_of(report, "Linear K=6")
    assert row.mixed == (
        "prompt set ('B', 10 prompts instead of 'A', 10 prompts)",
        "generation settings (100 instead of 500 new tokens)",
        "environment (not recorded)",
    )
    for text in (printed(report), to_markdown(report), to_csv(report), to_latex(report)):
        assert "differs from the rows it stands with in generation settings (100 instead of 500" in text
    assert "against its own sweep's baseline its speedup is 1.20" in row.caveat_texts
    assert speedup(row) == 1.5


def test_baselines_of_joined_sweeps_are_compared_in_percent(tmp_path: Path) -> None:
    a = imported(tmp_path, 1, [baseline(100.0), tree(7, 0.0, 50.0)], "a")
    b = imported(tmp_path, 2, [baseline(102.0), linear(6, 150.0)], "b")
    (text,) = [text for text in joined_report([a, b], allow_mixed=True).warnings if "the baselines" in text]
    assert text == (
        "the baselines of a and b are 100.0 and 102.0 tokens/s, 2.0 % apart;"
        " that baselines agree does not show that the work was the same"
    )


def test_baselines_that_are_far_apart_are_not_said_to_agree(tmp_path: Path) -> None:
    """Nor is a row of the slower sweep shown as one without any speed."""
    a = imported(tmp_path, 1, [baseline(1000.0), tree(7, 0.0, 500.0)], "a")
    b = imported(tmp_path, 2, [baseline(2.0), linear(6, 3.0)], "b")
    report = joined_report([a, b], allow_mixed=True)
    (text,) = [text for text in report.warnings if "the baselines" in text]
    assert text == (
        "the baselines of a and b are 1000.0 and 2.00 tokens/s, 49900.0 % apart;"
        " that far apart, the machine, its load or the work was another"
    )
    for shown in (printed(report), to_markdown(report), to_latex(report)):
        assert "0.003" in shown
        assert "0.00 " not in shown


def test_an_actors_own_run_under_heavy_load_is_told_where_another_sweep_is_compared_through_it() -> None:
    """Each sweep has one actor, whose own runs drop out of its own speedups."""
    loaded = change_jobs(second(record()), LINEAR.label, conditions={"sentinel_others_share": 0.45})
    told = [
        warning
        for warning in joined_report([record(), loaded]).warnings
        if "in the calmest try of an AR run that actor actor-2 made" in warning
    ]
    assert len(told) == 1
    assert not any("calmest try" in warning for warning in build_report(loaded).warnings)


def test_there_is_one_baseline_in_a_joined_table(tmp_path: Path) -> None:
    a = imported(tmp_path, 1, [baseline(100.0)], "a")
    b = imported(tmp_path, 2, [baseline(102.0), linear(6, 150.0)], "b")
    report = joined_report([a, b], allow_mixed=True)
    assert [(row.label, row.is_baseline, row.step) for row in report.rows] == [
        ("Baseline (AR)", True, 1),
        ("Baseline (AR) (b)", False, 2),
        ("Linear K=6", False, 3),
    ]
    assert [speedup(row) for row in report.rows] == [1.0, 1.02, 1.5]


def test_what_is_not_shown_is_listed(tmp_path: Path) -> None:
    a = imported(tmp_path, 1, result_files.FOUR_STEPS, "a")
    report = joined_report([a], rows=["Linear K=6"])
    assert [row.label for row in report.rows] == ["Baseline (AR)", "Linear K=6"]
    assert [(entry.label, entry.state) for entry in report.left_out] == [
        ("Tree (D=7, t=0.0)", "not shown"),
        ("Tree (D=7, t=0.05)", "not shown"),
    ]
    assert "Left out: 2 configurations: 'Tree" in printed(report)


def test_a_row_that_is_not_shown_and_lacks_a_repeat_is_left_out_once() -> None:
    stored = change_jobs(record(), LINEAR.label, repeats=[2], state=JobState.FAILED, samples=())
    others = [one.label for one, _ in FOUR_STEPS if one is not LINEAR]
    report = joined_report([stored], rows=others)
    (entry,) = report.left_out
    assert (entry.label, entry.state, len(entry.job_ids)) == (LINEAR.label, "not shown", 3)
    assert "Left out: 1 configuration, 3 jobs: '+ Draft model'" in printed(report)
    shown = joined_report([stored], rows=[LINEAR.label])
    assert "Left out of rows above: 1 job: '+ Draft model'" in printed(shown)


def test_a_row_that_lacks_a_repeat_is_not_called_left_out_after_import_either(tmp_path: Path) -> None:
    stored = change_jobs(record(), LINEAR.label, repeats=[2], state=JobState.FAILED, samples=(), error="boom")
    stored = change_jobs(stored, PRUNED.label, state=JobState.FAILED, samples=(), environment=None)
    file = import_file(write(tmp_path, "own.json", to_json(build_report(stored))))
    report = imported_report(sweep(9, file))
    assert row_of(report, LINEAR.label).caveat_texts[-2:] == (
        "figures are over the 2 of 3 repeats that are done",
        "1 of 3 jobs failed: boom",
    )
    assert [entry.label for entry in report.left_out] == [PRUNED.label]
    assert "Left out: 1 configuration: '+ Adaptive pruning' (failed: 3 of 3 jobs failed)" in printed(report)


def test_sweeps_without_a_common_pair_are_not_joined(tmp_path: Path) -> None:
    a = imported(tmp_path, 1, [baseline(100.0)], "a")
    b = imported(tmp_path, 2, [baseline(100.0)], "b", target_model="/models/other")
    with pytest.raises(InputError, match=r"no pair of models in common.*a: big/small; b: other/small"):
        joined_report([a, b])


def test_a_joined_report_names_its_sweeps(tmp_path: Path) -> None:
    a = imported(tmp_path, 1, [baseline(100.0)], "a")
    b = imported(tmp_path, 2, [baseline(102.0)], "b")
    report = joined_report([a, b], allow_mixed=True)
    assert printed(report).startswith("a + b: sweeps 1, 2, imported")
    joined: Any = to_json(report)["sweep"]
    assert [(one["id"], one["digest"]) for one in joined["joined"]] == [(1, a.digest), (2, b.digest)]
    assert report.digest not in (a.digest, b.digest)


# ------------------------------------------------------------------- sweeps of our own


def test_own_sweeps_of_the_same_work_are_joined_with_paired_intervals() -> None:
    first = record(FOUR_STEPS[:2])
    other = second(record([FOUR_STEPS[0], FOUR_STEPS[3]]))
    report = joined_report([first, other])
    label = FOUR_STEPS[3][0].label
    assert [row.label for row in report.rows] == ["Baseline", LINEAR.label, "Baseline (again)", label]
    joined, alone = row_of(report, label), row_of(build_report(other), label)
    assert joined.mixed == ()
    assert joined.versus_baseline is not None
    assert joined.versus_baseline.paired_interval is not None
    assert joined.versus_baseline.separable is True
    assert speedup(joined) == pytest.approx(speedup(alone), rel=0.05)
    assert joined.figures == alone.figures


def test_an_own_sweep_with_all_its_rows_chosen_reads_as_it_does_alone() -> None:
    stored = record()
    alone, chosen = build_report(stored), joined_report([stored], rows=["*"])
    assert chosen.rows == alone.rows
    assert (chosen.left_out, chosen.pair_caveats) == (alone.left_out, alone.pair_caveats)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"prompt_set": "p2"}, "prompt set (p2 instead of p1)"),
        ({"generation_digest": "g2"}, "generation settings (g2 instead of g1)"),
        ({"environment": "e2"}, "environment (cpu: B instead of A)"),
    ],
)
def test_own_sweeps_that_differ_are_refused_with_what_differs(changes: dict[str, str], said: str) -> None:
    other = second(record([FOUR_STEPS[0], FOUR_STEPS[3]]))
    for configuration in other.configurations:
        other = change_jobs(other, configuration.label, **changes)
    with pytest.raises(MixedRowsError) as refused:
        joined_report([record(FOUR_STEPS[:2]), other])
    assert said in str(refused.value)
    report = joined_report([record(FOUR_STEPS[:2]), other], allow_mixed=True)
    assert [bool(row.mixed) for row in report.rows] == [False, False, True, True]


def test_own_sweeps_of_other_weights_under_one_name_are_refused() -> None:
    """Their prompts, settings and machine agree; only the identity of the same baseline tells."""
    other = second(record([FOUR_STEPS[0], FOUR_STEPS[3]]))
    for configuration in other.configurations:
        other = change_jobs(other, configuration.label, key=f"other-{configuration.label}")
    with pytest.raises(MixedRowsError, match="models, dtype, backend or warm-up"):
        joined_report([record(FOUR_STEPS[:2]), other])


@pytest.mark.parametrize(
    ("key", "said"),
    [("key-+ Draft model", None), ("other", "models, dtype, backend or warm-up")],
)
def test_under_other_baselines_any_row_of_equal_work_tells_of_other_models(
    key: str, said: str | None
) -> None:
    generate = Configuration(label="generate", method=Method.HF_GENERATE, params={})
    other = second(record([(generate, 100.0), FOUR_STEPS[1]]))
    other = change_jobs(other, LINEAR.label, key=key)
    report = joined_report([record(FOUR_STEPS[:2]), other], allow_mixed=True)
    assert [row.mixed for row in report.rows] == [(), (), *[(said,) if said else ()] * 2]


def test_models_that_no_common_row_shows_to_be_the_same_are_marked() -> None:
    generate = Configuration(label="generate", method=Method.HF_GENERATE, params={})
    other = second(record([(generate, 100.0), FOUR_STEPS[2]]))
    with pytest.raises(MixedRowsError, match="not shown to be the same: the sweeps have no row in common"):
        joined_report([record(FOUR_STEPS[:2]), other])


def test_what_ran_on_an_actor_of_unknown_pace_has_no_speedup_in_a_joined_table_either() -> None:
    stored = change_jobs(record(FOUR_STEPS[:2]), LINEAR.label, actor="stranger")
    report = joined_report([stored], rows=["*"])
    assert report.rows == build_report(stored).rows
    assert row_of(report, LINEAR.label).versus_baseline is None


def test_only_pairs_that_all_sweeps_have_are_joined_and_the_others_listed() -> None:
    first = record(FOUR_STEPS[:2], pairs=("one", "two"))
    strange = (
        replace(job, actor="stranger") if (job.pair, job.label) == ("one", LINEAR.label) else job
        for job in first.jobs
    )
    first = replace(first, jobs=tuple(strange))
    other = second(record([FOUR_STEPS[0], FOUR_STEPS[3]], pairs=("two", "three")))
    report = joined_report([first, other])
    assert report.pairs == ("two",)
    assert {row.pair for row in report.rows} == {"two"}
    assert {pair for pair, _ in report.pair_caveats} == {"two"}
    assert "stranger" in str(build_report(first).pair_caveats)
    assert "stranger" not in str(report.pair_caveats)
    left_out = {(entry.label, entry.reason.partition(":")[0]) for entry in report.left_out}
    assert left_out == {
        ("Baseline", "four-step"),
        (LINEAR.label, "four-step"),
        ("Baseline", "again"),
        (FOUR_STEPS[3][0].label, "again"),
    }


def test_words_about_another_baseline_do_not_follow_a_row(tmp_path: Path) -> None:
    """Not separable from its own baseline; of the one in the joined table it has no interval at all."""
    stored = record([FOUR_STEPS[0], (LINEAR, 128.1)], pairs=("big/small",), noise=0.2)
    assert any("not separable" in text for text in row_of(build_report(stored), LINEAR.label).caveat_texts)
    theirs = imported(tmp_path, 2, [baseline(100.0)], "theirs")
    joined = row_of(joined_report([theirs, stored], allow_mixed=True), LINEAR.label)
    assert not any("not separable" in text for text in joined.caveat_texts)
    other = replace(second(stored), confidence=0.9)
    for row in joined_report([theirs, stored, other], allow_mixed=True).rows:
        assert not any("not separable" in text for text in row.caveat_texts)


def tuned(stored: SweepRecord, fraction: float) -> SweepRecord:
    return replace(stored, measure=replace(stored.measure, tune_fraction=fraction))


def test_own_sweeps_of_other_tuning_splits_are_all_reported_on_the_prompts_of_the_first() -> None:
    old, more = record(FOUR_STEPS[:2]), second(record([FOUR_STEPS[0], FOUR_STEPS[3]]))
    plain, split = joined_report([old, more]), joined_report([old, tuned(more, 0.25)])
    assert [row.figures.prompts for row in split.rows if row.figures] == [8, 8, 8, 8]
    assert split.rows == plain.rows
    told = (
        "again: its rows are over the prompts that four-step reports, not over those that its own tuning"
        " split leaves: a row that was chosen by that split may look faster than it is"
    )
    assert told in split.texts_on("demo")
    assert told not in plain.texts_on("demo")
    assert "all figures are over the other prompts" not in str(split.pair_caveats)


def test_one_more_row_without_a_tuning_split_joins_a_sweep_that_has_one() -> None:
    old, more = record(FOUR_STEPS[:2]), second(record([FOUR_STEPS[0], FOUR_STEPS[3]]))
    report = joined_report([tuned(old, 0.25), more])
    assert [row.figures.prompts for row in report.rows if row.figures] == [6, 6, 6, 6]
    assert len({frozenset(row.rates or {}) for row in report.rows}) == 1
    assert not any(row.mixed for row in report.rows)
    [choice] = [text for text in report.texts_on("demo") if "was chosen on" in text]
    assert choice.startswith(f"four-step: '{LINEAR.label}' was chosen on 2 tuning prompts")
    assert "tuning split" not in str(report.pair_caveats)
    lucky = [row.label for row in report.rows if "so its figures hold the luck" in str(row.caveat_texts)]
    assert lucky == [LINEAR.label]


def test_an_imported_row_beside_our_own_is_refused_and_marked(tmp_path: Path) -> None:
    stored = record(pairs=("big/small",))
    b = imported(tmp_path, 2, [baseline(100.0), linear(4, 150.0)], "b")
    with pytest.raises(
        MixedRowsError, match=r"prompt set, generation settings, environment \(not recorded\)"
    ):
        joined_report([stored, b])
    row = row_of(joined_report([stored, b], rows=["Linear K=4"], allow_mixed=True), "Linear K=4")
    base = build_report(stored).rows[0]
    assert speedup(row) == pytest.approx(150.0 / throughput(base))
    assert row.versus_baseline is not None
    assert row.versus_baseline.interval is None


def test_our_own_report_from_elsewhere_is_compared_by_its_digests(tmp_path: Path) -> None:
    stored = record(FOUR_STEPS[:2])
    there = second(record([FOUR_STEPS[0], FOUR_STEPS[3]]))
    file = import_file(write(tmp_path, "own.json", to_json(build_report(there))))
    report = joined_report([stored, sweep(3, file)], rows=["+ Adaptive pruning"])
    assert row_of(report, "+ Adaptive pruning").mixed == ()
    elsewhere = to_json(build_report(change_all(there, environment="e2")))
    other = import_file(write(tmp_path, "e2.json", elsewhere))
    with pytest.raises(MixedRowsError, match=r"environment \(e2 instead of e1\)"):
        joined_report([stored, sweep(3, other)], rows=["+ Adaptive pruning"])


def test_rows_chosen_of_our_own_imported_report_keep_its_intervals(tmp_path: Path) -> None:
    """The step before is another one where a row between was not chosen; then only the means tell."""
    before = build_report(record())
    file = import_file(write(tmp_path, "own.json", to_json(before)))
    report = joined_report([sweep(3, file)], rows=[LINEAR.label, PRUNED.label])
    for row in report.rows[1:]:
        assert row.versus_baseline == row_of(before, row.label).versus_baseline
        assert row.speedup_interval is not None
    assert (known := row_of(report, LINEAR.label).versus_previous) is not None
    assert known.paired_interval is not None
    ratio = row_of(report, PRUNED.label).versus_previous
    assert ratio is not None
    assert (ratio.paired_interval, ratio.ratio) == (
        None,
        pytest.approx(throughput(report.rows[2]) / throughput(report.rows[1])),
    )
    lost = (
        "its speedup is a ratio of mean throughputs: the interval in its file is against the baseline there"
    )
    assert lost not in str(report.warnings)
    beside = joined_report([second(record()), sweep(3, file)], rows=["3:+ Draft model"])
    assert lost in beside.rows[1].caveat_texts
    assert beside.rows[1].speedup_interval is None


def test_a_joined_table_has_one_confidence(tmp_path: Path) -> None:
    """Intervals of measured rows are computed at the first sweep's; those of a file at another go."""
    sure = replace(second(record()), confidence=0.99)
    assert joined_report([record(), sure]).rows == joined_report([record(), second(record())]).rows
    file = import_file(write(tmp_path, "own.json", to_json(build_report(sure))))
    joined = joined_report([record(), sweep(3, file)]).rows[-1].figures
    assert joined is not None
    assert joined.throughput.interval is None
    same = joined_report([sweep(3, file), record()])
    assert [bool(row.figures and row.figures.throughput.interval) for row in same.rows] == [True] * 8
    assert same.rows[-1].figures == build_report(replace(record(), confidence=0.99)).rows[-1].figures


def test_a_joined_table_names_a_dtype_only_where_all_its_sweeps_have_it(tmp_path: Path) -> None:
    one, other = (
        replace(own, models=MODELS, environments={"e1": {"processor": "Chip A", "cores": 2}})
        for own in (record(), second(record()))
    )
    assert "in bfloat16" in circumstances(joined_report([one, other]), "demo")
    exact = replace(other, models={"demo": replace(MODELS["demo"], dtype="float32")})
    file = import_file(write(tmp_path, "own.json", to_json(build_report(one))))
    for joined in (joined_report([one, exact]), joined_report([one, sweep(3, file)])):
        assert circumstances(joined, "demo") == "measured on Chip A, 2 cores"
        assert to_json(joined)["pairs"] == []


def test_a_joined_table_tells_how_its_own_pair_was_generated_where_all_its_sweeps_agree() -> None:
    names = ("demo at T=0", "demo at T=1")
    one, other = (
        replace(
            own,
            generations={"demo at T=0": GenerationSpec(), "demo at T=1": GenerationSpec(temperature=warm)},
            environments={"e1": {"processor": "Chip A", "cores": 2}},
        )
        for own, warm in ((record(pairs=names), 1.0), (second(record(pairs=names)), 0.5))
    )
    joined = joined_report([one, other])
    assert circumstances(joined, "demo at T=0") == "measured on Chip A, 2 cores, 128 tokens a prompt, greedy"
    assert circumstances(joined, "demo at T=1") == "measured on Chip A, 2 cores"
    assert circumstances(joined_report([one, second(one)]), "demo at T=1").endswith("temperature 1")


def change_all(stored: SweepRecord, **changes: Any) -> SweepRecord:
    for configuration in stored.configurations:
        stored = change_jobs(stored, configuration.label, **changes)
    return stored


# ---------------------------------------------------------------------- selecting rows


@pytest.mark.parametrize(
    ("selectors", "labels"),
    [
        (["Linear K=6"], ["Baseline (AR)", "Linear K=6"]),
        (["tree, D=7, B=2, τ=0"], ["Baseline (AR)", "Tree (D=7, t=0.0)"]),
        (["Tree*"], ["Baseline (AR)", "Tree (D=7, t=0.0)", "Tree (D=7, t=0.05)"]),
        (["4", "3"], ["Baseline (AR)", "Tree (D=7, t=0.05)", "Tree (D=7, t=0.0)"]),
        (["a:Linear K=6"], ["Baseline (AR)", "Linear K=6"]),
        (["1:2", "1:1"], ["Linear K=6", "Baseline (AR)"]),
        (["Linear*", "*"], ["Linear K=6", "Baseline (AR)", "Tree (D=7, t=0.0)", "Tree (D=7, t=0.05)"]),
    ],
)
def test_rows_are_chosen_in_the_order_asked_for(
    tmp_path: Path, selectors: list[str], labels: list[str]
) -> None:
    report = joined_report([imported(tmp_path, 1, result_files.FOUR_STEPS, "a")], rows=selectors)
    assert [row.label for row in report.rows] == labels


def test_a_row_that_several_sweeps_have_must_say_which(tmp_path: Path) -> None:
    a, b = (
        imported(tmp_path, n, [baseline(100.0 + n), linear(6, 150.0)], name)
        for n, name in ((1, "a"), (2, "b"))
    )
    with pytest.raises(InputError, match="is in several sweeps; write 'a:Linear K=6' or 'b:Linear K=6'"):
        joined_report([a, b], rows=["Linear K=6"], allow_mixed=True)
    labels = [row.label for row in joined_report([a, b], rows=["b:Linear K=6"], allow_mixed=True).rows]
    assert labels == ["Baseline (AR)", "Linear K=6"]


def test_a_row_that_is_not_there_is_answered_with_the_nearest(tmp_path: Path) -> None:
    a = imported(tmp_path, 1, result_files.FOUR_STEPS, "a")
    with pytest.raises(InputError, match=r"--row 'Linear K=7' names no row; did you mean 'Linear K=6'"):
        joined_report([a], rows=["Linear K=7"])


# ------------------------------------------------------------------------ what was published


def test_the_published_pruning_ablation() -> None:
    (pruning,) = published("pruning_ablation")
    report = imported_report(pruning, [pruning])
    by_configuration = {
        (row.method, row.params.get("depth"), row.params.get("threshold")): row for row in report.rows
    }
    base = report.rows[0]
    unpruned, pruned = (by_configuration["tree", 7, threshold] for threshold in (0.0, 0.05))
    assert [f"{throughput(row):.1f} {speedup(row):.2f}" for row in (base, unpruned, pruned)] == [
        "128.6 1.00",
        "63.4 0.49",
        "182.7 1.42",
    ]
    assert any(text.startswith("rows with D = 5, 6 and 7 without pruning") for text in unpruned.caveat_texts)
    assert any("a cap on the tree's nodes must have bound" in text for text in findings(pruning, []))
    steps = joined_report([pruning], rows=["tree, D=7, B=2, τ=0", "tree, D=7, B=2, τ=0.05"])
    last = steps.rows[-1].versus_previous
    assert last is not None
    assert f"{last.ratio:.2f}" == "2.88"
    assert "pruned over unpruned trees: D=7, B=2, τ=0.05: 2.88" in steps.warnings


def test_with_the_cap_lifted_no_cap_is_reported() -> None:
    (lifted,) = published("pruning_512nodes")
    assert findings(lifted, [lifted]) == []


def test_the_published_four_step_table_is_refused_and_then_marked() -> None:
    pruning, wikitext, fallback = published(
        "pruning_ablation", "wikitext_benchmark_500tokens", "fallback_benchmark_500tokens"
    )
    parts, others = [pruning, wikitext], [pruning, wikitext, fallback]
    with pytest.raises(
        MixedRowsError,
        match=r"'Fallback Prompts .* by the counts of wikitext_benchmark.* and fallback_benchmark",
    ):
        joined_report(parts, rows=["Linear K=6"], others=others)
    report = joined_report(parts, rows=["Linear K=6"], others=others, allow_mixed=True)
    row = row_of(report, "Linear K=6")
    assert f"{throughput(row):.1f} {speedup(row):.2f}" == "174.2 1.35"
    text = printed(report)
    assert "Linear K=6 [b]" in text
    assert "[b] differs from the rows it stands with in prompt set ('Fallback Prompts" in text
    assert "are 128.6 and 127.9 tokens/s, 0.5 % apart" in text


# ------------------------------------------------------------------------- properties


RATES = st.floats(min_value=1.0, max_value=1000.0)
PATHS = st.floats(min_value=1.0, max_value=8.0)


@given(
    base=RATES,
    steps=st.lists(st.tuples(st.integers(2, 9), st.sampled_from([0.0, 0.05]), RATES, PATHS), max_size=5),
)
def test_no_imported_table_contradicts_its_numbers(
    tmp_path_factory: pytest.TempPathFactory, base: float, steps: list[tuple[int, float, float, float]]
) -> None:
    rows = [baseline(base), *(tree(depth, tau, rate, path=path) for depth, tau, rate, path in steps)]
    report = imported_report(imported(tmp_path_factory.getbasetemp(), 1, rows, "random"))
    for row, given_row in zip(report.rows, rows, strict=True):
        assert math.isclose(speedup(row), given_row["throughput_tps"] / base)
        assert row.versus_baseline is not None
        assert row.versus_baseline.separable is None
    best = best_row(report.rows)
    assert best is None or throughput(best) == max(map(throughput, report.rows))
    capped = [row for row in report.rows if any("must have bound" in text for text in row.caveat_texts)]
    for row in capped:
        assert any(
            one.params["depth"] != row.params["depth"]
            for one in report.rows
            if one in capped and one is not row
        )
