"""Answer files of Spec-Bench: its definitions, computed here from the files, give our figures."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from statistics import fmean
from typing import Any

import pytest
from report_records import BASELINE, FOUR_STEPS, LINEAR, TREE, change_jobs, record

from dyna_eval.jobs import Configuration, JobState, MeasureSpec, Method
from dyna_eval.measurements import Exactness, Round, Sample, sum_rounds
from dyna_eval.records import SweepRecord
from dyna_eval.reports.measured_report import build_report
from dyna_eval.reports.report import Report
from dyna_eval.reports.spec_bench import AnswerFile, answer_files, choice

KINDS = {0: "qa", 1: "qa", 2: "rag"}


def decoded(tokens: int, emitted: list[int], seconds: float, prompt: int = 0) -> Sample:
    """A sample whose text has one character for each token."""
    rounds = tuple(
        Round(
            drafted=4,
            verified=4,
            depth=4,
            accepted=count - 1,
            emitted=count,
            capped=False,
            draft_steps=4,
            draft_rows=4,
            draft_seconds=None,
            grow_seconds=None,
            verify_seconds=None,
            walk_seconds=None,
        )
        for count in emitted
    )
    return Sample(
        prompt_index=prompt,
        prompt_digest="d",
        prompt_tokens=3,
        token_ids=tuple(range(tokens)),
        text="x" * tokens,
        prefill_seconds=0.5,
        decode_seconds=seconds,
        ttft_seconds=0.6,
        exactness=Exactness.EXACT,
        rounds=rounds,
    )


def sweep(
    steps: list[tuple[Configuration, float]] | None = None, **changes: Any
) -> tuple[SweepRecord, Callable[[int], list[Sample]]]:
    """A sweep with prompts of unequal lengths and rounds, and what reads its samples."""
    stored = record(steps or list(FOUR_STEPS), prompts=3, repeats=2, noise=0.3, **changes)
    samples: dict[int, list[Sample]] = {}
    for job in stored.jobs:
        alone = job.method is Method.AR
        samples[job.id] = [
            decoded(
                tokens := 20 * (old.prompt_index + 1),
                [1] * tokens if alone else [5] * (tokens // 5 - 1) + [2, 3],
                old.decode_seconds,
                old.prompt_index,
            )
            for old in job.samples
        ]
    jobs = tuple(replace(job, samples=tuple(map(sum_rounds, samples[job.id]))) for job in stored.jobs)
    return replace(stored, jobs=jobs, categories={"p1": KINDS}), lambda job: samples[job]


def written(stored: SweepRecord, read: Callable[[int], list[Sample]]) -> dict[str, list[dict[str, Any]]]:
    """Return the lines of every file by label."""
    return {file.label: [json.loads(line) for line in file.lines] for file in files(stored, read)}


def files(stored: SweepRecord, read: Callable[[int], list[Sample]]) -> list[AnswerFile]:
    return list(answer_files(stored, build_report(stored, allow_mixed=True), read))


# Spec-Bench's definitions -------------------------------------------------------------


def tokens_per_second(lines: list[dict[str, Any]]) -> float:
    """Of a method: the mean over questions of tokens / seconds, each summed over its turns."""
    return fmean(sum(c["new_tokens"]) / sum(c["wall_time"]) for c in map(first_choice, lines))


def baseline_tokens_per_second(lines: list[dict[str, Any]], recount: Callable[[str], int]) -> float:
    """Of the baseline: its tokens are counted again in the text, less one for a beginning-of-text token."""
    return fmean(
        sum(recount(turn) - 1 for turn in c["turns"]) / sum(c["wall_time"]) for c in map(first_choice, lines)
    )


def mean_accepted_tokens(lines: list[dict[str, Any]]) -> float:
    return fmean(length for line in lines for length in first_choice(line)["accept_lengths"])


def first_choice(line: dict[str, Any]) -> Any:
    return line["choices"][0]


def with_beginning_token(text: str) -> int:
    return len(text) + 1


def without_beginning_token(text: str) -> int:
    return len(text)


def throughput_of(report: Report, label: str) -> float:
    row = next(row for row in report.rows if row.label == label)
    assert row.figures is not None
    return row.figures.throughput.mean


# ---------------------------------------------------------------------------------------


def test_by_spec_benchs_definitions_the_files_have_our_figures() -> None:
    """All three of its figures, over repeats of unequal speed and prompts of unequal length."""
    stored, read = sweep()
    report, lines = build_report(stored), written(stored, read)
    base = baseline_tokens_per_second(lines[BASELINE.label], with_beginning_token)
    for row in report.rows:
        assert row.figures is not None
        assert row.versus_baseline is not None
        own = lines[row.label]
        assert tokens_per_second(own) == pytest.approx(row.figures.throughput.mean, rel=1e-12)
        assert tokens_per_second(own) / base == pytest.approx(row.versus_baseline.ratio, rel=1e-12)
        assert mean_accepted_tokens(own) == pytest.approx(row.figures.acceptance.mean_length, rel=1e-12)


def test_a_tokenizer_that_adds_no_token_makes_spec_benchs_baseline_slower_than_ours() -> None:
    """The docs say by how much; its first figure of the baseline's own file is ours in any case."""
    stored, read = sweep()
    own = written(stored, read)[BASELINE.label]
    ours = throughput_of(build_report(stored), BASELINE.label)
    assert tokens_per_second(own) == pytest.approx(ours)
    one_less = [1 - 1 / tokens for tokens in (20, 40, 60)]
    theirs = baseline_tokens_per_second(own, without_beginning_token)
    assert min(one_less) * ours < theirs < max(one_less) * ours


def test_a_categorys_lines_have_the_categorys_figures() -> None:
    stored, read = sweep()
    lines = [line for line in written(stored, read)[LINEAR.label] if line["category"] == "qa"]
    only = replace(stored, jobs=tuple(replace(job, samples=tuple(job.samples)[:2]) for job in stored.jobs))
    assert tokens_per_second(lines) == pytest.approx(throughput_of(build_report(only), LINEAR.label))


def test_a_line_has_what_spec_bench_reads_with_the_repeats_as_turns() -> None:
    stored, read = sweep()
    line = written(stored, read)[LINEAR.label][1]
    assert (line["question_id"], line["category"], line["model_id"]) == (2, "qa", LINEAR.label)
    answer = first_choice(line)
    assert answer["index"] == 0
    assert [len(turn) for turn in answer["turns"]] == answer["new_tokens"] == [40, 40]
    assert answer["decoding_steps"] == [9, 9]
    assert len(answer["accept_lengths"]) == sum(answer["decoding_steps"])
    assert sum(answer["accept_lengths"]) == sum(answer["new_tokens"])
    assert len(answer["wall_time"]) == 2


def test_the_target_alone_emits_one_token_a_step_also_in_transformers_own_loop() -> None:
    answer = choice(Method.HF_GENERATE, [decoded(4, [], 1.0)])
    assert (answer["decoding_steps"], answer["accept_lengths"]) == ([4], [1, 1, 1, 1])


def test_a_prompt_without_a_category_or_without_time_is_marked_or_left_out() -> None:
    stored, read = sweep()
    bare = replace(stored, categories={})
    assert {line["category"] for line in written(bare, read)[LINEAR.label]} == {"none"}

    def timeless(job: int) -> list[Sample]:
        return [replace(s, decode_seconds=s.decode_seconds * (s.prompt_index > 0)) for s in read(job)]

    assert [line["question_id"] for line in written(stored, timeless)[LINEAR.label]] == [2, 3]


def test_only_reported_prompts_are_written() -> None:
    stored, read = sweep()
    tuned = replace(stored, measure=MeasureSpec(tune_fraction=0.3))
    lines = written(tuned, read)[LINEAR.label]
    assert len(lines) == 2
    assert tokens_per_second(lines) == pytest.approx(throughput_of(build_report(tuned), LINEAR.label))


def test_a_row_without_a_result_has_no_line_and_its_name_stays() -> None:
    stored, read = sweep()
    failed = change_jobs(stored, TREE.label, state=JobState.FAILED, samples=())
    found = {file.name: len(list(file.lines)) for file in files(failed, read)}
    assert found == {
        "01-baseline.jsonl": 3,
        "02-draft-model.jsonl": 3,
        "03-tree-structure.jsonl": 0,
        "04-adaptive-pruning.jsonl": 3,
    }


@pytest.mark.parametrize("label", ["../../etc/passwd", "a/b\x00c", "∑", "x" * 5000, "\u202e."])
def test_no_label_leaves_the_folder_or_breaks_a_line(label: str) -> None:
    stored, read = sweep([(BASELINE, 100.0), (replace(LINEAR, label=label), 200.0)])
    _, file = files(stored, read)
    assert all(character.isalnum() or character in "-." for character in file.name)
    assert len(file.name) < 100
    assert all("\n" not in line for line in file.lines)


def test_rows_of_several_pairs_have_files_and_models_of_their_own() -> None:
    stored, read = sweep(pairs=("one", "two"))
    found = files(stored, read)
    assert len({file.name for file in found}) == len({file.label for file in found}) == 8
    assert found[0].label == "Baseline (one)"
    assert found[7].name == "two-04-adaptive-pruning.jsonl"
