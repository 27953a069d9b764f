"""Result files of other tools: what is read from them, and what is refused."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from report_records import BASELINE, ENVIRONMENTS, FOUR_STEPS, LINEAR, change_samples, record

from dyna_eval.errors import ImportFileError
from dyna_eval.importers import FORMATS, import_file
from dyna_eval.importers.reading import MAX_BYTES
from dyna_eval.jobs import Method
from dyna_eval.measurements import Exactness
from dyna_eval.reports.imported import ImportedSweep
from dyna_eval.reports.imported_report import imported_report
from dyna_eval.reports.labels import labels_with_origin, numbered_labels
from dyna_eval.reports.measured_report import build_report
from dyna_eval.reports.report import best_row
from dyna_eval.tables.report_json import to_json
from tests import result_files
from tests.result_files import (
    answer,
    baseline,
    dynatree,
    faster,
    linear,
    real_file,
    second_layout,
    third_layout,
    tree,
    vanilla,
    write,
    write_answers,
)


def refusal(file: Path, format_name: str | None = None) -> str:
    with pytest.raises(ImportFileError) as refused:
        import_file(file, format_name)
    message = str(refused.value)
    assert "\n" not in message
    assert message.startswith(str(file.parent / file.name)) or message.startswith(file.name)
    return message


# --------------------------------------------------------------------- DynaTree


@pytest.mark.parametrize("name", ["results.json", "x.txt", "spec-bench.jsonl", "data"])
def test_a_format_is_known_by_keys_whatever_the_file_is_called(tmp_path: Path, name: str) -> None:
    assert import_file(write(tmp_path, name, dynatree([baseline()]))).source.format == "dynatree"


def test_methods_are_told_by_the_keys_of_their_settings(tmp_path: Path) -> None:
    rows = [
        baseline(),
        linear(6, 120.0),
        tree(7, 0.05, 130.0, path=5.0),
        {"method": "HF Assisted", "config": {"num_assistant_tokens": 5}, "throughput_tps": 140.0},
        {"method": "Streaming", "config": {"K": 5, "max_cache_len": 512}, "throughput_tps": 90.0},
        {"method": "Phase 2", "config": {"phase": 2, "base_depth": 5}, "throughput_tps": 150.0},
    ]
    imported = import_file(write(tmp_path, "a.json", dynatree(rows))).rows
    assert [(row.method, dict(row.params)) for row in imported] == [
        (Method.AR, {}),
        (Method.LINEAR, {"k": 6}),
        (Method.TREE, {"depth": 7, "branch": 2, "threshold": 0.05}),
        (Method.HF_ASSISTED, {"num_assistant_tokens": 5}),
        (Method.OTHER, {"k": 5, "max_cache_len": 512}),
        (Method.DYNATREE, {"depth": 5, "branch_phase": True, "depth_phase": True, "history_phase": False}),
    ]
    assert [row.is_baseline for row in imported] == [True, False, False, False, False, False]


def test_absent_is_absent_and_a_count_of_zero_was_not_recorded(tmp_path: Path) -> None:
    rows = [baseline(), tree(7, 0.0, 50.0, total_rounds=0, avg_path_length=0.0, acceptance_rate=0.0)]
    base, other = import_file(write(tmp_path, "a.json", dynatree(rows))).rows
    for row in (base, other):
        assert row.figures is not None
        rate, figures = row.figures.throughput, row.figures
        assert (rate.interval, rate.std, rate.pooled, rate.end_to_end) == (None, None, None, None)
        assert (figures.repeats, figures.tokens, figures.latency.ttft) == (None, None, None)
        assert figures.agreement.exact_match_rate is None
    assert other.figures is not None
    assert other.figures.acceptance.mean_length is None
    assert (other.counts.rounds, other.counts.path_length, other.foreign) == (None, None, {})


def test_the_acceptance_rate_stays_foreign_even_above_one(tmp_path: Path) -> None:
    _, _, phase = import_file(write(tmp_path, "a.json", second_layout())).rows
    assert phase.foreign == {"acceptance_rate": 1.02}
    assert phase.figures is not None
    assert phase.figures.acceptance.draft_rate is None


def test_counts_beyond_what_a_round_can_emit_are_no_acceptance_length(tmp_path: Path) -> None:
    rows = [baseline(), tree(3, 0.0, 50.0, total_rounds=100), tree(3, 0.1, 50.0, total_rounds=125)]
    _, impossible, possible = import_file(write(tmp_path, "a.json", dynatree(rows))).rows
    assert impossible.figures is not None
    assert possible.figures is not None
    assert impossible.figures.acceptance.mean_length is None
    assert any("5.00 tokens per round, more than the 4" in note for note in impossible.notes)
    assert possible.figures.acceptance.mean_length == 4.0


def test_the_second_layout_keeps_standard_deviations(tmp_path: Path) -> None:
    file = import_file(write(tmp_path, "a.json", second_layout()))
    stds = [row.figures.throughput.std for row in file.rows if row.figures]
    assert stds == [1.5, 20.0, 22.0]
    assert file.claims.max_new_tokens == 1500


def test_the_third_layout_names_rows_by_their_configuration(tmp_path: Path) -> None:
    base, depth = import_file(write(tmp_path, "a.json", third_layout())).rows
    assert (base.label, base.method, base.is_baseline) == ("Baseline (AR)", Method.AR, True)
    assert (depth.label, depth.method, depth.params["max_depth"]) == ("depth_5_8", Method.DYNATREE, 8)
    assert depth.figures is not None
    assert depth.figures.acceptance.mean_length == 7.2115


def test_a_speedup_that_its_own_throughputs_contradict_is_noted(tmp_path: Path) -> None:
    rows = [baseline(100.0), linear(6, 150.0, speedup=1.5), linear(8, 150.0, speedup=1.6)]
    _, right, wrong = import_file(write(tmp_path, "a.json", dynatree(rows))).rows
    assert right.notes == ()
    assert any("states a speedup of 1.60, but its throughputs give 1.50" in note for note in wrong.notes)


@pytest.mark.parametrize(
    ("speedups", "said"),
    [
        pytest.param((0.49, 1.25), [], id="two decimals"),
        pytest.param((0.5, 1.2), [], id="one decimal"),
        pytest.param((0.5, 1.25), ["0.50, but its throughputs give 0.49"], id="a zero at the end"),
        pytest.param((0.49, 1.247), ["0.490, but its throughputs give 0.493"], id="three decimals"),
    ],
)
def test_a_speedup_that_its_file_rounded_is_not_called_a_contradiction(
    tmp_path: Path, speedups: tuple[float, float], said: list[str]
) -> None:
    rows = [
        baseline(100.0),
        linear(6, 49.3, speedup=speedups[0]),
        linear(8, 124.7, speedup=speedups[1]),
    ]
    _, slow, fast = import_file(write(tmp_path, "a.json", dynatree(rows))).rows
    assert [note.removeprefix("its file states a speedup of ") for note in slow.notes] == said
    assert fast.notes == ()


def test_rows_of_one_label_stay_two_rows(tmp_path: Path) -> None:
    rows = [baseline(), tree(4, 0.0, 50.0), tree(4, 0.0, 51.0)]
    labels = [row.label for row in import_file(write(tmp_path, "a.json", dynatree(rows))).rows]
    assert labels == ["Baseline (AR)", "Tree (D=4, t=0.0)", "Tree (D=4, t=0.0) (2)"]


def test_labels_are_told_apart_however_many_are_equal() -> None:
    assert numbered_labels(["A", "A (2)", "A", "A"]) == ["A", "A (2)", "A (3)", "A (4)"]
    assert numbered_labels(["A"] * 50_000)[-1] == "A (50000)"
    alike = [("A", "x"), ("A", "y"), ("A", "y"), ("A (y)", "z"), ("A", "x")]
    assert labels_with_origin(alike) == ["A", "A (y)", "A (y, 2)", "A (y) (z)", "A (x)"]


@pytest.mark.parametrize(
    ("file", "rows"),
    [
        ("pruning_ablation.json", 11),
        ("pruning_512nodes.json", 11),
        ("wikitext_benchmark_500tokens.json", 13),
        ("fallback_benchmark_500tokens.json", 13),
        ("main_D8B3_1500.json", 6),
        ("sensitivity_1500.json", 35),
    ],
)
def test_every_published_layout_is_read(file: str, rows: int) -> None:
    imported = import_file(real_file(file))
    assert (imported.source.format, len(imported.rows)) == ("dynatree", rows)
    assert {row.pair for row in imported.rows} == {"pythia-2.8b/pythia-70m"}
    assert sum(row.is_baseline for row in imported.rows) == 1


def test_the_published_main_experiment_has_its_throughputs_and_a_foreign_rate_above_one() -> None:
    rows = {row.label: row for row in import_file(real_file("main_D8B3_1500.json")).rows}
    rates = {label: row.figures.throughput.mean for label, row in rows.items() if row.figures}
    assert [round(rate, 1) for rate in rates.values()] == [133.2, 205.3, 202.3, 187.4, 215.8, 220.1]
    last = rows["Phase 3: + History Adjust"]
    assert round(last.foreign["acceptance_rate"], 3) == 1.022
    assert last.figures is not None
    assert last.figures.acceptance.draft_rate is None


# ------------------------------------------------------------------- Spec-Bench


def test_an_answer_file_is_one_row_with_a_sample_per_question(tmp_path: Path) -> None:
    answers = [answer(1, tokens=[30, 20], seconds=[1.0, 1.5], lengths=[5] * 10), answer(2, lengths=[4] * 25)]
    file = import_file(write_answers(tmp_path, "eagle.jsonl", answers))
    (row,) = file.rows
    assert (row.label, row.method, row.is_baseline, file.in_parts) == ("eagle", Method.OTHER, False, True)
    first, second = row.samples
    assert (first.tokens, first.seconds, first.rounds, first.emitted) == (50, 2.5, 10, 50)
    assert (second.prompt, second.category, second.rounds) == (2, "qa", 25)


def test_a_file_whose_rounds_all_emit_one_token_is_the_baseline(tmp_path: Path) -> None:
    (row,) = import_file(write_answers(tmp_path, "a.jsonl", vanilla())).rows
    assert (row.method, row.is_baseline) == (Method.AR, True)


def test_a_failed_turn_is_left_out_and_counted(tmp_path: Path) -> None:
    """Beside the text ERROR stand numbers of the turn before; which lengths are whose nobody knows."""
    answers = [
        answer(1, tokens=[30, 30], seconds=[1.0, 1.0], turns=["text", "ERROR"], lengths=[3] * 20),
        answer(2, tokens=[40], seconds=[1.0], turns=["ERROR"]),
        answer(3, tokens=[60], seconds=[2.0], lengths=[6] * 10),
    ]
    (row,) = import_file(write_answers(tmp_path, "a.jsonl", answers)).rows
    assert [(one.prompt, one.tokens, one.seconds, one.rounds) for one in row.samples] == [
        (1, 30, 1.0, None),
        (3, 60, 2.0, 10),
    ]
    assert row.notes == ("2 of 4 turns failed (ERROR) and are left out, among them all of 1 questions",)


def test_questions_are_the_same_in_every_file_that_has_them_all(tmp_path: Path) -> None:
    def prompt_set(name: str, answers: list[Any]) -> str | None:
        return import_file(write_answers(tmp_path, name, answers)).rows[0].prompt_set

    whole = prompt_set("a.jsonl", vanilla(8))
    assert prompt_set("b.jsonl", list(reversed(faster(8)))) == whole
    assert prompt_set("c.jsonl", faster(7)) != whole


@pytest.mark.parametrize(
    ("answers", "said"),
    [
        ([answer(1), answer(1)], "a.jsonl:2: answers question 1 again, after line 1"),
        ([answer(1), answer(2, model="other")], "holds answers of 2 models ('eagle', 'other')"),
        ([answer(1, seconds=[0.0]), answer(2)], "a.jsonl:1: wall_time should be seconds above 0"),
        ([answer(1, tokens=[1, 2], seconds=[1.0]), answer(2)], "an entry for each turn"),
        ([answer(1, turns=["ERROR"])], "holds no answer with tokens"),
        ([answer(1), {"question_id": 2, "model_id": "eagle"}], "a.jsonl:2: choices is missing"),
    ],
)
def test_a_wrong_answer_file_is_refused_by_line(tmp_path: Path, answers: list[Any], said: str) -> None:
    assert said in refusal(write_answers(tmp_path, "a.jsonl", answers))


def with_prefill(one: dict[str, Any], *seconds: float) -> dict[str, Any]:
    (choice,) = one["choices"]
    return {**one, "choices": [{**choice, "prefill_time": list(seconds)}]}


def test_prefill_that_stands_apart_is_no_part_of_the_throughput(tmp_path: Path) -> None:
    answers = [with_prefill(answer(1, tokens=[30, 20], seconds=[1.0, 1.5]), 0.5, 1.0)]
    answers.append(with_prefill(answer(2, tokens=[60], seconds=[2.0]), 1.0))
    file = import_file(write_answers(tmp_path, "ours.jsonl", answers))
    assert file.rows[0].end_to_end == pytest.approx((50 / 4.0 + 60 / 3.0) / 2)
    assert file.notes[0].endswith("tokens / wall seconds, prefill apart, as in our own")
    sweep = ImportedSweep(id=1, name="ours", created_at="", files=(file,))
    [row] = imported_report(sweep).rows
    assert row.figures is not None
    assert row.figures.throughput.mean == pytest.approx((50 / 2.5 + 60 / 2.0) / 2)
    assert row.figures.throughput.end_to_end == file.rows[0].end_to_end
    theirs = import_file(write_answers(tmp_path, "theirs.jsonl", [answer(1)]))
    assert theirs.rows[0].end_to_end is None
    assert theirs.notes[0].endswith("prefill included")


@pytest.mark.parametrize(
    ("answers", "said"),
    [
        ([with_prefill(answer(1), 0.1), answer(2)], "a.jsonl:2: prefill_time is missing, which other"),
        ([answer(1), with_prefill(answer(2), 0.1)], "a.jsonl:1: prefill_time is missing, which other"),
        ([with_prefill(answer(1)), answer(2)], "a.jsonl:1: prefill_time should have an entry for each turn"),
        ([with_prefill(answer(1), -0.1), answer(2)], "a.jsonl:1: prefill_time should be seconds"),
    ],
)
def test_wrong_prefill_is_refused_by_line(tmp_path: Path, answers: list[Any], said: str) -> None:
    assert said in refusal(write_answers(tmp_path, "a.jsonl", answers))


def test_a_pair_is_named_only_for_a_file_that_records_none(tmp_path: Path) -> None:
    file = import_file(write_answers(tmp_path, "a.jsonl", vanilla())).of_pair("demo")
    assert file is not None
    assert ({row.pair for row in file.rows}, file.pair_named) == ({"demo"}, True)
    assert file.notes[-1] == ("its file does not record the pair: 'demo' was named by whoever imported it")
    assert file.of_pair("other") is None
    assert import_file(write(tmp_path, "b.json", dynatree([baseline()]))).of_pair("demo") is None


# -------------------------------------------------------------------- published numbers

PAPER = """\
label,method,tokens_per_s,speedup,tokens_per_round,source
Vanilla,Target alone,40,1.00,1,"Somebody et al. 2024, table 1"
SpS,speculative sampling,60,1.5,2.75,"Somebody et al. 2024, table 1"
"EAGLE-2, tuned",EAGLE-2,120.5,3.5,,
Tree,tree,80,,,

Fast,,,4.25,5.5,blog
"""


def csv_file(folder: Path, text: str | bytes) -> Path:
    file = folder / "a.csv"
    file.write_bytes(text.encode() if isinstance(text, str) else text)
    return file


def test_published_numbers_are_rows_that_say_where_they_are_from(tmp_path: Path) -> None:
    file = import_file(csv_file(tmp_path, PAPER))
    assert [(row.label, row.method, row.is_baseline) for row in file.rows] == [
        ("Vanilla", Method.AR, True),
        ("SpS", Method.LINEAR, False),
        ("EAGLE-2, tuned", Method.OTHER, False),
        ("Tree", Method.TREE, False),
    ]
    assert file.rows[1].notes == ("published elsewhere: Somebody et al. 2024, table 1",)
    assert file.rows[2].notes == (
        "published elsewhere: its source is not given",
        "its source calls the method 'EAGLE-2'",
        "its speedup is 3.5, but its tokens/s are 3.01 times the baseline's",
    )
    [absent] = file.left_out
    assert (absent.label, absent.state) == ("Fast", "published elsewhere")
    assert absent.reason == "without tokens_per_s; speedup 4.25 and tokens_per_round 5.5: blog"
    sweep = ImportedSweep(id=1, name="paper", created_at="", files=(file,))
    report = imported_report(sweep)
    shown = [(row.figures, row.versus_baseline) for row in report.rows]
    assert [one.throughput.mean for one, _ in shown if one] == [40.0, 60.0, 120.5, 80.0]
    assert [one.acceptance.mean_length for one, _ in shown if one] == [1.0, 2.75, None, None]
    assert [one.ratio for _, one in shown if one] == [1.0, 1.5, 3.5, 2.0]
    assert best_row(report.rows[:1]) is None


@pytest.mark.parametrize("change", [("\n", "\r\n"), ("label,", " label , "), ("\nVan", "\n,,,,,\nVan")])
def test_a_table_is_read_as_spreadsheets_write_it(tmp_path: Path, change: tuple[str, str]) -> None:
    plain = import_file(csv_file(tmp_path, PAPER))
    written = import_file(csv_file(tmp_path, b"\xef\xbb\xbf" + PAPER.replace(*change).encode()))
    assert (written.rows, written.left_out) == (plain.rows, plain.left_out)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (
            "label,speed\na,1\n",
            "a.csv:1: has the unknown column 'speed'; known: label, method, tokens_per_s,",
        ),
        ("label,source,source\na,b,c\n", "a.csv:1: has the column 'source' twice"),
        ("label,tokens_per_s\n", "holds no rows"),
        ("label,tokens_per_s\na,1\nb\n", "a.csv:3: has 1 cells under 2 columns"),
        ("label,tokens_per_s\na,1,5\n", "a.csv:2: has 3 cells under 2 columns"),
        ('label,tokens_per_s\na,1\n"b,2\n', "a.csv:3: is a damaged table"),
        ("label,tokens_per_s\n,1\n", "a.csv:2: has no label"),
        ("label,tokens_per_s\na,\n", "a.csv:2: has no number"),
        ("label,tokens_per_s\na,120", "a.csv:2: its last line has no end, so it may be cut off"),
        ("label,speedup\na,2\n", "holds no row with tokens_per_s"),
        ("name,tokens_per_s\na,120\n", "a.csv:1: has no column 'label', only 'name, tokens_per_s'; a table"),
        ("label;tokens_per_s\na;120\n", "only 'label;tokens_per_s'; a table needs one, and commas"),
        *(
            (f"label,tokens_per_s\na,{number}\n", "a.csv:2: tokens_per_s is ")
            for number in ("0", "-1", "nan", "inf", "1e3", "2x", "'1", "٣", "1" * 13, '"1,5"')
        ),
    ],
)
def test_a_damaged_table_is_refused_by_line(tmp_path: Path, text: str, said: str) -> None:
    assert said in refusal(csv_file(tmp_path, text))


# ------------------------------------------------------------- this tool's own JSON


def own_json(tmp_path: Path) -> tuple[dict[str, Any], Path]:
    stored = change_samples(record(), FOUR_STEPS[2][0].label, capped_rounds=3, exactness=Exactness.TIE)
    document = to_json(build_report(stored))
    return json.loads(json.dumps(document)), write(tmp_path, "own.json", document)


def test_our_own_report_keeps_figures_digests_and_comparisons(tmp_path: Path) -> None:
    _, file = own_json(tmp_path)
    original = build_report(
        change_samples(record(), FOUR_STEPS[2][0].label, capped_rounds=3, exactness=Exactness.TIE)
    )
    imported = import_file(file)
    assert imported.source.format == "dyna-eval"
    assert imported.confidence == original.confidence
    assert imported.environments == ENVIRONMENTS
    for row, before in zip(imported.rows, original.rows, strict=True):
        assert row.figures == before.figures
        assert row.versus_baseline == before.versus_baseline
        assert row.peak_memory_bytes == before.peak_memory_bytes
        if before.versus_previous is not None:
            assert row.versus_previous is not None
            assert row.versus_previous.ratio == pytest.approx(before.versus_previous.ratio)
            assert row.versus_previous.paired == before.versus_previous.paired
            assert row.versus_previous.paired_interval == before.versus_previous.paired_interval
        assert (row.prompt_set, row.generation, row.environment) == ("p1", "g1", "e1")
        assert row.notes == before.caveat_texts


def test_our_own_report_of_an_earlier_version_names_no_machine(tmp_path: Path) -> None:
    document, _ = own_json(tmp_path)
    for key in ("environments", "pairs"):
        del document[key]
    assert import_file(write(tmp_path, "b.json", document)).environments == {}


def test_what_our_own_report_left_out_stays_known(tmp_path: Path) -> None:
    document, _ = own_json(tmp_path)
    document["left_out"] = [
        {"label": "Gone", "pair": "demo", "state": "failed", "reason": "3 of 3 jobs failed"}
    ]
    document["rows"][1]["throughput_tokens_per_s"] = None
    imported = import_file(write(tmp_path, "b.json", document))
    assert [entry.label for entry in imported.left_out] == ["Gone"]
    assert [row.label for row in imported.rows] == ["Baseline", "+ Tree structure", "+ Adaptive pruning"]


def test_a_row_that_is_called_like_its_pair_keeps_its_own_warnings(tmp_path: Path) -> None:
    steps = ((BASELINE, 128.0), (replace(LINEAR, label="demo"), 174.0))
    report = build_report(change_samples(record(steps, pairs=("demo", "other")), "demo", capped_rounds=3))
    imported = import_file(write(tmp_path, "own.json", to_json(report)))
    assert [row.notes for row in imported.rows] == [row.caveat_texts for row in report.rows]


@pytest.mark.parametrize("has_caveats", [True, False], ids=["now", "older"])
def test_a_note_of_a_row_whose_label_goes_on_another_one_is_that_rows(
    tmp_path: Path, has_caveats: bool
) -> None:
    chain, longer = replace(LINEAR, label="chain"), replace(LINEAR, label="chain: wide", params={"k": 8})
    stored = change_samples(record(((chain, 174.0), (longer, 128.0))), longer.label, capped_rounds=3)
    report = build_report(replace(stored, baseline=chain.label))
    assert report.rows[1].caveat_texts
    document = json.loads(json.dumps(to_json(report)))
    if not has_caveats:
        for row in document["rows"]:
            del row["caveats"]
    imported = import_file(write(tmp_path, "own.json", document))
    assert [row.notes for row in imported.rows] == [row.caveat_texts for row in report.rows]
    assert imported.notes == report.texts_on("demo")


def test_an_impossible_speed_of_our_own_report_is_refused(tmp_path: Path) -> None:
    document, _ = own_json(tmp_path)
    document["rows"][1]["throughput_pooled"] = 0.0
    assert "rows[1].throughput_pooled is 0.0" in refusal(write(tmp_path, "b.json", document))


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        pytest.param(
            {"speedup_interval": [1.4, 1.2]},
            "rows[1].speedup_interval is from 1.4 to 1.2: its lower end is above its upper one",
            id="reversed interval",
        ),
        pytest.param(
            {"throughput_interval": [2.0, 1.0]}, "rows[1].throughput_interval is from 2 to 1", id="of rates"
        ),
        pytest.param(
            {"compared": 8, "exact_match_rate": 0.5, "ties": 0, "violations": 0},
            "rows[1].compared is 8, but exact_match_rate, ties and violations tell of 4 + 0 + 0 samples",
            id="samples that are neither",
        ),
        pytest.param(
            {"compared": 8, "exact_match_rate": 1.0, "ties": None, "violations": 3},
            "tell of 8 + 0 + 3 samples",
            id="more than were compared",
        ),
        pytest.param(
            {"ttft_s": {"p50": 0.3, "p95": 0.1}}, "rows[1].ttft_s.p95 is 0.1, below its p50 of 0.3", id="p95"
        ),
        pytest.param(
            {"baseline": True},
            "rows[1].baseline is true, as is rows[0].baseline of the same pair",
            id="two baselines",
        ),
    ],
)
def test_our_own_report_that_contradicts_itself_is_refused_by_its_place(
    tmp_path: Path, changes: dict[str, Any], said: str
) -> None:
    document, _ = own_json(tmp_path)
    document["rows"][1] |= changes
    assert said in refusal(write(tmp_path, "b.json", document))


def test_two_pairs_of_our_own_report_have_a_baseline_each(tmp_path: Path) -> None:
    document = to_json(build_report(record(pairs=("small", "large"))))
    rows = import_file(write(tmp_path, "own.json", document)).rows
    assert [row.pair for row in rows if row.is_baseline] == ["small", "large"]


def test_a_report_without_a_finished_row_is_refused(tmp_path: Path) -> None:
    document, _ = own_json(tmp_path)
    for row in document["rows"]:
        row["throughput_tokens_per_s"] = None
    assert "holds no finished row" in refusal(write(tmp_path, "b.json", document))


# ---------------------------------------------------------------- what is no result file


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "is empty"),
        (b" \n\t\n", "is empty"),
        (b"\x1c\xef\xbb\xbf", "is not JSON"),
        (b"\xef\xbb\xbf\x1c", "is empty"),
        (b"\x89PNG\r\n\x1a\n\0\0", "is a binary file"),
        ("{}".encode("utf-16"), "is UTF-16 text; save it as UTF-8"),
        (b'{"a": 1}\n{"a": "caf\xe9"}\n', ":2: is not UTF-8 text"),
        (b'{"benchmark_info": {}, "results": [', ":1: is not JSON, or cut off"),
        (b'{\n"a": 1,\n"b": }', ":3: is not JSON, or cut off"),
        (b'{"question_id": 1}\n{"question_id": ', ":2: is not JSON, or cut off"),
        (b"[" * 100_000, "is nested too deeply"),
        (b'{"a": NaN}', "holds NaN"),
        (b'{"a": 1e999}', "holds 1e999, which is too large"),
        (b'{"a": ' + b"9" * 5000 + b"}", "which is too large"),
        (b'{"a": 1, "a": 2}', "has the key 'a' twice in one object"),
        (b"{}", "is of no known format; `dyna-eval import --formats` lists what is known"),
        (b"[1, 2]", "is of no known format"),
        (b"null", "is of no known format"),
        (b'"text"', "is of no known format"),
        (b'{"model": "x", "accuracy": 0.5}', "is of no known format"),
    ],
)
def test_a_file_of_another_kind_is_refused_in_one_line(tmp_path: Path, content: bytes, said: str) -> None:
    file = tmp_path / "file.json"
    file.write_bytes(content)
    assert said in refusal(file)


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ({"method": "x", "config": {}}, "results[1].throughput_tps is missing"),
        (baseline("fast"), "results[1].throughput_tps is 'fast'"),  # type: ignore[arg-type]
        (baseline(0.0), "results[1].throughput_tps is 0"),
        (baseline(-5.0), "results[1].throughput_tps is -5"),
        (baseline(True), "results[1].throughput_tps is true"),
        (baseline(total_rounds=-1), "results[1].total_rounds is -1"),
        (baseline(config={"K": [6]}), "results[1].config.K is a list"),
        (baseline(config=None), "results[1].config is nothing"),
        ("row", "results[1] is 'row'"),
    ],
)
def test_a_damaged_row_is_refused_by_its_place(tmp_path: Path, row: object, said: str) -> None:
    file = write(tmp_path, "a.json", dynatree([baseline(), row]))  # type: ignore[list-item]
    assert said in refusal(file)


def test_a_file_without_rows_is_refused(tmp_path: Path) -> None:
    assert "results holds no rows" in refusal(write(tmp_path, "a.json", dynatree([])))


def test_a_missing_file_a_folder_and_a_pipe_are_refused(tmp_path: Path) -> None:
    assert "No such file" in refusal(tmp_path / "missing.json")
    assert "is not a file" in refusal(tmp_path)
    os.mkfifo(tmp_path / "pipe")
    assert "is not a file" in refusal(tmp_path / "pipe")


def test_a_huge_file_is_refused_without_reading_it_all(tmp_path: Path) -> None:
    file = tmp_path / "huge.json"
    with file.open("wb") as stream:
        stream.truncate(50 * MAX_BYTES)  # sparse: takes no room
    assert f"is larger than {MAX_BYTES:,} bytes" in refusal(file)


def test_a_format_that_was_asked_for_is_the_only_one(tmp_path: Path) -> None:
    file = write(tmp_path, "a.json", dynatree([baseline()]))
    assert import_file(file, "dynatree").rows
    assert "has not the keys of spec-bench" in refusal(file, "spec-bench")


def test_every_format_says_what_it_is() -> None:
    assert set(FORMATS) == {"dynatree", "spec-bench", "dyna-eval", "table"}
    assert all(module.SUMMARY for module in FORMATS.values())


def test_hostile_labels_become_one_line_of_plain_text(tmp_path: Path) -> None:
    label = "a\x1b[31m\n\u202eb\ud800" + "x" * 5000
    file = tmp_path / "a.json"
    file.write_text(json.dumps(dynatree([baseline(method=label)])))
    (row,) = import_file(file).rows
    assert row.label.startswith("a [31m b")
    assert row.label.isprintable()
    assert len(row.label) <= 200


def test_a_byte_order_mark_is_no_damage(tmp_path: Path) -> None:
    file = tmp_path / "a.json"
    file.write_text(json.dumps(dynatree([baseline()])), encoding="utf-8-sig")
    assert len(import_file(file).rows) == 1


def test_the_digest_is_that_of_the_bytes(tmp_path: Path) -> None:
    import hashlib  # noqa: PLC0415 - here only

    file = write(tmp_path, "a.json", dynatree(result_files.FOUR_STEPS))
    assert import_file(file).source.sha256 == hashlib.sha256(file.read_bytes()).hexdigest()
