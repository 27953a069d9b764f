"""The report in the terminal, in Markdown and in CSV."""

from __future__ import annotations

import csv
import io
import re
from dataclasses import replace
from pathlib import Path

import pytest
from report_records import (
    BASELINE,
    FOUR_STEPS,
    LINEAR,
    PRUNED,
    TREE,
    calibrated,
    change_jobs,
    change_samples,
    on_machines,
    record,
    sample,
)

from dyna_eval.jobs import Configuration, GenerationSpec, JobState, MergedConfiguration, Method, Params
from dyna_eval.latex.macros import to_macros
from dyna_eval.latex.prose import to_prose
from dyna_eval.latex.style import Style, read_columns
from dyna_eval.latex.table import to_latex
from dyna_eval.measurements import Exactness
from dyna_eval.methods import BestFirst, CostAware, DynaTree, HfAssisted, HfGenerate, PromptLookup, StaticTree
from dyna_eval.plots import ablation_bars
from dyna_eval.records import SweepRecord
from dyna_eval.reports.cells import (
    READERS,
    Column,
    Notes,
    confidence_level,
    configuration_text,
    exact_cell,
    pair_slugs,
    ranges,
    sweep_numbers,
)
from dyna_eval.reports.digits import (
    bounds,
    end_to_end,
    gain,
    gain_over_previous,
    speedup,
    throughput,
    throughput_std,
)
from dyna_eval.reports.imported import Source
from dyna_eval.reports.integrity import Caveat
from dyna_eval.reports.intervals import Interval
from dyna_eval.reports.joined_report import joined_report
from dyna_eval.reports.measured_report import build_report
from dyna_eval.reports.report import JoinedSweep
from dyna_eval.reports.samples import SampleTable
from dyna_eval.reports.statistics import Comparison, agreement
from dyna_eval.reports.sweep_comparison import Side, compare_reports
from dyna_eval.tables.comparison import comparison_json, print_comparison
from dyna_eval.tables.formats import markdown_label
from dyna_eval.tables.report import print_table, to_csv, to_markdown
from dyna_eval.tables.report_json import to_json
from dyna_eval.wording import count

HOSTILE = "=1+1|[red]x</script>`*_\\\n\x1b[31m"


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def printed(stored: SweepRecord, file: io.StringIO) -> str:
    print_table(build_report(stored), file)
    return file.getvalue()


def labelled(label: str) -> SweepRecord:
    return record(((BASELINE, 128.0), (replace(LINEAR, label=label), 174.0)))


def unfinished() -> SweepRecord:
    return record(states={PRUNED.label: JobState.QUEUED})


def test_a_table_says_over_how_many_prompts_and_repeats_its_figures_are() -> None:
    assert "\npair demo: 15 prompts, 3 repeats\n" in printed(record(prompts=15), io.StringIO())
    assert "pair demo: 1 prompt, 3 repeats\n" in to_markdown(build_report(record(prompts=1)))
    fewer = change_jobs(record(prompts=15), LINEAR.label, repeats=[2], state=JobState.FAILED, samples=())
    assert "\npair demo: 15 prompts, 2 to 3 repeats\n" in printed(fewer, io.StringIO())
    nothing = record(states=dict.fromkeys((one.label for one in record().configurations), JobState.QUEUED))
    assert "\npair demo\n" in printed(nothing, io.StringIO())


# ----------------------------------------------------------------------- cells


@pytest.mark.parametrize(
    ("method", "params", "text"),
    [
        (Method.AR, {}, "AR only"),
        (Method.LINEAR, {"k": 6}, "linear, K=6"),
        (Method.TREE, TREE.params, "tree, D=7, B=2, τ=0"),
        (Method.TREE, {**PRUNED.params, "max_nodes": 64}, "tree, D=7, B=2, τ=0.05, N≤64"),
        (Method.TREE, {**PRUNED.params, "prune": "node", "root_branch": 2}, "tree, D=7, B=2, τ=0.05"),
        (
            Method.TREE,
            {**PRUNED.params, "prune": "expansion", "root_branch": 1},
            "tree, D=7, B=2, τ=0.05, prune=expansion, root_branch=1",
        ),
        (Method.TREE, {**TREE.params, "prune": "expansion"}, "tree, D=7, B=2, τ=0"),
        (Method.STATIC_TREE, StaticTree(expansion="3-2-1").resolved(), "static_tree, 3-2-1"),
        (Method.STATIC_TREE, StaticTree(paths="0 1 0.0 0.0.2").resolved(), "static_tree, D=3, nodes=4"),
        (Method.BEST_FIRST, BestFirst().resolved(), "best_first, N≤32, D=8, width=8"),
        (Method.DYNATREE, DynaTree().resolved(), "dynatree, D=5, max_depth=8, B=1/2/3, N≤64"),
        (
            Method.DYNATREE,
            DynaTree(branch_phase=False, branch_max=9, history_target=0.7).resolved(),
            "dynatree, D=5, max_depth=8, B=2, N≤64, no branch phase",
        ),
        (
            Method.DYNATREE,
            DynaTree(depth_phase=False, history_phase=False, stop_probability=0.2).resolved(),
            "dynatree, D=5, B=1/2/3, N≤64, no depth phase, no history phase",
        ),
        (
            Method.DYNATREE,
            DynaTree(confidence_low=0.25).resolved(),
            "dynatree, D=5, max_depth=8, B=1/2/3, N≤64, confidence_low=0.25",
        ),
        (Method.COST_AWARE, CostAware().resolved(), "cost_aware, N≤64, D=12, width=8"),
        (Method.PROMPT_LOOKUP, PromptLookup(k=10).resolved(), "prompt_lookup, K=10, ngram=3"),
        (Method.HF_GENERATE, HfGenerate().resolved(), "transformers generate, dynamic cache"),
        (
            Method.HF_ASSISTED,
            HfAssisted(num_assistant_tokens=5, confidence_threshold=0.0).resolved(),
            "transformers assisted, K=5, constant",
        ),
        (
            Method.HF_ASSISTED,
            HfAssisted(schedule="heuristic", confidence_threshold=0.4).resolved(),
            "transformers assisted, K=20, heuristic, confidence_threshold=0.4",
        ),
    ],
)
def test_a_configuration_reads_as_a_person_would_write_it(method: Method, params: Params, text: str) -> None:
    """A cap shows only where the whole tree, 254 nodes here, is larger; usual values do not show."""
    assert configuration_text(method, params) == text


def test_of_an_imported_row_only_the_parameters_that_its_file_names_are_told() -> None:
    assert configuration_text(Method.DYNATREE, {"depth": 5}) == "dynatree, D=5"
    assert configuration_text(Method.DYNATREE, {"branch_mid": 2}) == "dynatree, B=2"
    strange = configuration_text(Method.DYNATREE, {"depth": 5, "cls": 1})
    assert strange == "dynatree, D=5, cls=1"


def test_a_tree_of_absurd_size_in_the_file_of_another_tool_is_told_at_once() -> None:
    size = 2**62
    params = {"depth": size, "branch": 1, "max_nodes": size}
    assert configuration_text(Method.TREE, params) == f"tree, D={size}, B=1, N≤{size}"


def test_footnotes_are_lettered_beyond_the_alphabet() -> None:
    letters = [letter for letter, _ in Notes(tuple(map(str, range(703))), ()).lettered()]
    assert len(set(letters)) == 703
    assert (letters[0], letters[25], letters[26], letters[27]) == ("a", "z", "aa", "ab")
    assert (letters[52], letters[701], letters[702]) == ("ba", "zz", "aaa")


def test_a_table_has_the_remarks_on_its_own_pair() -> None:
    remarks = (("small", Caveat("unequal actors")), ("large", Caveat("drift")))
    report = replace(build_report(record(pairs=("small", "large"))), pair_caveats=remarks)
    assert Notes.of(report, "small").general == ("unequal actors",)


def test_numbers_are_written_as_people_write_them() -> None:
    assert [count(number, "job") for number in (0, 1, 2, 1234)] == ["0 jobs", "1 job", "2 jobs", "1,234 jobs"]
    report = build_report(record())
    levels = [confidence_level(level) for level in (0.9, 0.95, 0.999)]
    assert levels == ["90 %", "95 %", "99.9 %"]
    assert sweep_numbers(report) == "sweep 1"
    joined = tuple(JoinedSweep(id=number, name="", digest="") for number in (1, 4))
    assert sweep_numbers(replace(report, joined=joined)) == "sweeps 1, 4"


@pytest.mark.parametrize(
    ("ratio", "text", "signed"),
    [
        (1.0, "1.00", "+0.0"),
        (1.0 - 1e-12, "1.00", "+0.0"),
        (0.9996, "0.9996", "-0.04"),
        (1.0004, "1.0004", "+0.04"),
        (0.996, "0.996", "-0.4"),
        (1.006, "1.01", "+0.6"),
        (0.5, "0.50", "-50.0"),
        (0.0151, "0.02", "-98.5"),
        (0.0049, "0.005", "-99.5"),
        (0.0004, "0.0004", "-99.96"),
        (0.0, "0.00", "-100.0"),
    ],
)
def test_a_ratio_that_is_neither_0_nor_1_is_not_rounded_to_it(ratio: float, text: str, signed: str) -> None:
    known = Comparison(ratio=ratio)
    row = replace(build_report(record()).rows[1], versus_baseline=known, versus_previous=known)
    assert (speedup(row), gain_over_previous(row)) == (text, signed)
    assert gain(known) == signed.removeprefix("+")
    assert bounds(Interval(low=ratio, high=ratio)) == f"[{text}, {text}]"


@pytest.mark.parametrize(
    ("rate", "text"),
    [
        (1234.56, "1234.6"),
        (63.44, "63.4"),
        (10.0, "10.0"),
        (9.97, "10.0"),
        (9.94, "9.94"),
        (1.0, "1.00"),
        (0.301, "0.301"),
        (0.21, "0.210"),
        (0.04, "0.0400"),
        (0.0000012, "0.000001"),
    ],
)
def test_a_slow_target_keeps_its_throughput(rate: float, text: str) -> None:
    row = build_report(record()).rows[0]
    assert row.figures is not None
    known = replace(row.figures.throughput, mean=rate, end_to_end=rate, std=rate)
    slow = replace(row, figures=replace(row.figures, throughput=known))
    assert (throughput(slow), end_to_end(slow), throughput_std(slow)) == (text, text, text)
    report = build_report(record())
    shown = replace(report, rows=(slow, *report.rows[1:]))
    assert f"decoding reaches {text} tokens/s; this is the baseline." in to_prose(shown)
    assert f" {text} |" in to_markdown(shown).replace("**", "")


@pytest.mark.parametrize(
    ("outcomes", "text"),
    [
        ([Exactness.EXACT, Exactness.TIE], "50.0 %"),
        ([Exactness.EXACT] * 9_999 + [Exactness.TIE], "99.9 %"),
        ([Exactness.TIE], "0.0 %"),
        ([Exactness.EXACT], "100 %"),
        ([None], "--"),
    ],
)
def test_what_is_not_wholly_exact_is_not_rounded_to_it(outcomes: list[Exactness | None], text: str) -> None:
    row = build_report(record()).rows[1]
    assert row.figures is not None
    found = agreement([sample(exactness=outcome) for outcome in outcomes])
    assert exact_cell(replace(row, figures=replace(row.figures, agreement=found))) == text


def test_job_ids_are_written_as_ranges() -> None:
    assert ranges([3, 1, 2, 7, 9, 10]) == "1-3, 7, 9-10"
    assert ranges([]) == "none"


def test_pairs_of_similar_names_keep_distinct_slugs() -> None:
    slugs = pair_slugs(build_report(record(pairs=("a/b", "a b", "模型", "c"))))
    assert list(slugs.values()) == ["a-b-1", "a-b-2", "3", "c"]
    slugs = pair_slugs(build_report(record(pairs=("a b", "a/b", "a-b-2", "模"))))
    assert list(slugs.values()) == ["a-b-1", "a-b-3", "a-b-2", "4"]
    assert pair_slugs(build_report(record())) == {"demo": ""}


# -------------------------------------------------------------------- terminal


def test_the_terminal_table_shows_speed_interval_acceptance_and_exactness() -> None:
    line = next(line for line in printed(record(), io.StringIO()).splitlines() if LINEAR.label in line)
    assert re.search(r"2 .*linear, K=6 +\d+\.\d +1\.\d\d × +\[1\.\d\d, 1\.\d\d\] +3\.00 +100 %", line)


def test_output_that_is_not_a_terminal_is_plain_and_each_row_is_one_line() -> None:
    long = "+ " + "very long label " * 20
    text = printed(labelled(long), io.StringIO())
    assert "\x1b" not in text
    assert any(long.strip() in line and "linear, K=6" in line for line in text.splitlines())


def test_a_table_fits_its_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "dumb")
    monkeypatch.setenv("COLUMNS", "100")
    text = printed(labelled("+ " + "very long label " * 20), Terminal())
    assert max(map(len, text.splitlines())) <= 100


def test_warnings_are_yellow_in_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.delenv("NO_COLOR", raising=False)
    text = printed(change_samples(record(), TREE.label, exactness=Exactness.TIE), Terminal())
    assert re.search(r"\x1b\[33m\[a\] output leaves the target's at a numeric tie", text)


def test_footnotes_are_marked_at_their_rows_and_written_once() -> None:
    stored = change_samples(record(), TREE.label, distinct_2=0.1)
    text = printed(change_samples(stored, PRUNED.label, distinct_2=0.1), io.StringIO())
    assert "+ Tree structure [a]" in text
    assert "+ Adaptive pruning [a]" in text
    assert text.count("output repeats itself") == 1


def test_unfinished_cells_are_dashes_and_the_report_says_what_is_left_out() -> None:
    text = printed(unfinished(), io.StringIO())
    assert re.search(r"\+ Adaptive pruning +tree, D=7, B=2, τ=0.05 +-- +-- +-- +-- +--", text)
    assert "Left out: 1 configuration, 3 jobs: '+ Adaptive pruning' (queued: 3 of 3 jobs queued)" in text


def test_a_row_that_lacks_a_repeat_is_not_called_left_out() -> None:
    stored = change_jobs(unfinished(), LINEAR.label, repeats=[2], state=JobState.FAILED, samples=())
    text = " ".join(printed(stored, io.StringIO()).split())
    assert "Left out: 1 configuration, 3 jobs: '+ Adaptive pruning'" in text
    assert "Left out of rows above: 1 job: '+ Draft model' (partial: 1 of 3 jobs failed)" in text


def test_a_row_that_lacks_a_repeat_of_which_nothing_runs_is_not_called_running() -> None:
    stored = change_jobs(unfinished(), LINEAR.label, repeats=[2], state=JobState.QUEUED, samples=())
    text = " ".join(printed(stored, io.StringIO()).split())
    assert "Left out of rows above: 1 job: '+ Draft model' (unfinished: 1 of 3 jobs queued)" in text


def test_a_label_is_shown_as_it_is_and_cannot_drive_the_terminal() -> None:
    text = printed(labelled(HOSTILE), io.StringIO())
    assert "=1+1|[red]x</script>`*_\\ [31m" in text
    assert "\x1b" not in text


def test_a_finished_sweep_leaves_nothing_out_and_a_pair_only_what_is_its_own() -> None:
    assert "Left out" not in printed(record(), io.StringIO())
    stored = record(pairs=("small", "large"))
    jobs = tuple(
        replace(job, state=JobState.FAILED, samples=(), error="gone")
        if (job.pair, job.label) == ("large", PRUNED.label)
        else job
        for job in stored.jobs
    )
    small, large = printed(replace(stored, jobs=jobs), io.StringIO()).split("pair large")
    assert "Left out" not in small
    assert "Left out: 1 configuration, 3 jobs" in large


def test_a_table_says_on_which_machine_in_which_dtype_and_over_how_many_tokens() -> None:
    stored = on_machines("Chip A", "Chip A", "Chip A", "Chip A")
    told = "measured on Chip A, 2 cores, in bfloat16, 64 tokens a prompt, greedy; prefill apart"
    assert told in printed(stored, io.StringIO()).splitlines()
    assert told in to_markdown(build_report(stored)).splitlines()
    sampled = GenerationSpec(max_new_tokens=9, temperature=0.7, stop_at_eos=True)
    text = printed(replace(stored, generations={"demo": sampled}), io.StringIO())
    assert "in bfloat16, up to 9 tokens a prompt, temperature 0.7; prefill apart\n" in text


def test_each_table_of_a_sweep_says_how_its_own_texts_are_generated() -> None:
    names = ("demo at T=0", "demo at T=1")
    texts = [GenerationSpec(max_new_tokens=64, temperature=float(i)) for i in range(2)]
    stored = replace(
        record(pairs=names),
        generations=dict(zip(names, texts, strict=True)),
        environments={"e1": {"processor": "Chip A", "cores": 2}},
    )
    told = [f"measured on Chip A, 2 cores, 64 tokens a prompt, {law}" for law in ("greedy", "temperature 1")]
    report = build_report(stored)
    greedy, sampled = printed(stored, io.StringIO()).split("pair demo at T=1")
    assert (told[0] in greedy, told[1] in greedy) == (True, False)
    assert (told[0] in sampled, told[1] in sampled) == (False, True)
    beside = to_latex(report, Style(side_by_side=True))
    for name, text in zip(names, told, strict=True):
        assert f"M{text[1:]} (on {name})." in beside
    apart = [line for line in to_latex(report).splitlines() if "Measured on" in line]
    assert [f"M{text[1:]}." in line for text, line in zip(told, apart, strict=True)] == [True, True]
    assert report.generation is None
    assert build_report(replace(stored, generations=dict.fromkeys(names, texts[0]))).generation == texts[0]


def test_a_table_of_several_machines_names_them_and_one_of_none_says_nothing() -> None:
    file = io.StringIO()
    print_table(build_report(on_machines("Chip A", "B", "Chip A", "B"), allow_mixed=True), file)
    assert "measured on Chip A, 2 cores and B, 2 cores, in" in file.getvalue()
    assert "measured on" not in printed(replace(record(), environments={}), io.StringIO())


def test_a_table_with_imported_rows_does_not_say_that_their_prefill_is_apart() -> None:
    report = build_report(on_machines("Chip A", "Chip A", "Chip A", "Chip A"))
    source = Source(file="answers.jsonl", format="Spec-Bench", sha256="0" * 64)
    mixed = replace(report, rows=(*report.rows[:-1], replace(report.rows[-1], source=source)))
    for made, apart in ((report, 1), (mixed, 0)):
        file = io.StringIO()
        print_table(made, file)
        for text in (file.getvalue(), to_markdown(made)):
            assert (text.count("measured on Chip A"), text.count("; prefill apart")) == (1, apart)


def test_each_pair_has_its_own_table() -> None:
    text = printed(record(pairs=("small", "large")), io.StringIO())
    assert text.index("pair small") < text.index("pair large")
    assert text.count("Configuration") == 2


def test_columns_that_are_asked_for_stand_at_the_end_of_the_terminals_table() -> None:
    columns = (Column.MEMORY, Column.NODES, Column.INTERVAL)  # the last of them is there anyway
    text = io.StringIO()
    print_table(build_report(unfinished()), text, columns)
    lines = text.getvalue().splitlines()
    [head] = [line for line in lines if line.startswith("Step")]
    assert head.split()[-2:] == ["(GiB)", "/round"]
    found = {
        label: next(line for line in lines if label in line).split()[-2:]
        for label in ("Baseline", "linear", "Adaptive")
    }
    assert found == {"Baseline": ["1.50", "--"], "linear": ["1.50", "4.0"], "Adaptive": ["--", "--"]}


def test_predicted_speedup_and_variety_are_columns_where_they_are_asked_for() -> None:
    stored = calibrated(unfinished())
    report, columns = build_report(stored), (Column.PREDICTED, Column.DISTINCT)
    text = io.StringIO()
    print_table(report, text, columns)
    [head] = [line for line in text.getvalue().splitlines() if line.startswith("Step")]
    assert head.split()[-2:] == ["speedup", "Distinct-2"]
    markdown = to_markdown(report, columns)
    assert "| Exact match | Predicted speedup | Distinct-2 |" in markdown
    assert [cells[8:] for cells in markdown_rows(markdown)] == [
        ["1.00", "0.80"],
        ["1.36", "0.80"],
        ["1.36", "0.80"],
        ["--", "--"],
    ]


def test_every_column_that_is_asked_for_is_in_the_terminal_and_in_markdown() -> None:
    report = build_report(calibrated(record()))
    texts = (io.StringIO(), io.StringIO())
    for text, columns in zip(texts, ((), tuple(Column)), strict=True):
        print_table(report, text, columns)
    usual, all_of_them = (
        next(line for line in text.getvalue().splitlines() if "linear, K=6" in line) for text in texts
    )
    [linear] = [row for row in report.rows if row.label == LINEAR.label]
    added = [column for column in Column if column not in (Column.INTERVAL, Column.ACCEPTANCE, Column.EXACT)]
    cells = [READERS[column](linear) for column in added]
    assert None not in cells
    assert all_of_them.split() == [*usual.split(), *" ".join(map(str, cells)).split()]
    for row in markdown_rows(to_markdown(report, tuple(Column))):
        assert len(row) == 8 + len(added)
    assert markdown_rows(to_markdown(report, tuple(Column)))[linear.step - 1][8:] == cells


def test_every_column_has_a_reader() -> None:
    assert list(READERS) == list(Column)


def test_gain_rate_times_and_jobs_are_columns_where_they_are_asked_for() -> None:
    """Of 4 drafted levels 2 are accepted; prefill takes 20 ms, the first token comes after 30."""
    report = build_report(unfinished())
    columns = read_columns("gain,rate,prefill,ttft,end_to_end,end_to_end_speedup,jobs")
    text = io.StringIO()
    print_table(report, text, columns)
    [head] = [line for line in text.getvalue().splitlines() if line.startswith("Step")]
    assert head.split()[-7:] == ["(%)", "(%)", "(ms)", "(ms)", "(tokens/s)", "speedup", "Jobs"]
    rows = markdown_rows(to_markdown(report, columns))
    [linear] = [row for row in report.rows if row.label == LINEAR.label]
    assert linear.versus_previous
    assert linear.figures
    assert linear.end_to_end
    assert rows[linear.step - 1][8:] == [
        f"{(linear.versus_previous.ratio - 1.0) * 100:+.1f}",
        "50.0",
        "20.0",
        "30.0",
        f"{linear.figures.throughput.end_to_end:.1f}",
        f"{linear.end_to_end.ratio:.2f}",
        ranges(linear.job_ids),
    ]
    assert rows[0][8:10] == ["--", "--"]
    assert rows[-1][8:14] == ["--"] * 6


# -------------------------------------------------------------------- Markdown


def markdown_rows(text: str) -> list[list[str]]:
    """Cells of the table's body; a pipe after a backslash is text."""
    lines = [line for line in text.splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]] for line in lines[2:]]


def test_markdown_has_the_columns_of_the_table_and_the_best_row_bold() -> None:
    text = to_markdown(build_report(record()))
    rows = markdown_rows(text)
    assert "| Step | Components | Configuration | Throughput (tokens/s) | Speedup |" in text
    assert [len(cells) for cells in rows] == [8] * 4
    assert [cells[3].startswith("**") for cells in rows] == [False, False, False, True]
    assert rows[0][:3] == ["1", "Baseline", "AR only"]


def test_markdown_labels_cannot_end_a_cell_or_become_markup() -> None:
    report = build_report(labelled(HOSTILE))
    text = to_markdown(report)
    assert [len(cells) for cells in markdown_rows(text)] == [8, 8]
    assert "</script>" not in text
    assert r"\|\[red\]x&lt;/script&gt;\`\*\_\\" in text


def test_markdown_keeps_footnotes_and_dashes() -> None:
    text = to_markdown(build_report(change_samples(unfinished(), TREE.label, exactness=Exactness.VIOLATION)))
    assert "| + Tree structure <sup>a</sup> |" in text
    assert "<sup>a</sup> output is not the target's in 24 of 24 samples" in text
    assert markdown_rows(text)[3][3:] == ["--"] * 5


def test_columns_that_are_asked_for_stand_at_the_end_of_a_markdown_table() -> None:
    text = to_markdown(build_report(unfinished()), [Column.NODES, Column.MEMORY])
    assert "| Exact match | Nodes per round | Peak memory (GiB) |" in text
    assert [cells[8:] for cells in markdown_rows(text)] == [
        ["--", "1.50"],
        ["4.0", "1.50"],
        ["4.0", "1.50"],
        ["--", "--"],
    ]


# ------------------------------------------------------------------------- CSV


def csv_rows(stored: SweepRecord) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(to_csv(build_report(stored, allow_mixed=True)))))


def test_what_is_unknown_is_not_bold_in_the_best_row_either() -> None:
    table = to_markdown(build_report(record(((BASELINE, 200.0), (LINEAR, 174.0)))))
    [best] = [line for line in table.splitlines() if "**Baseline**" in line]
    assert [cell.strip() for cell in best.split("|")][5:7] == ["**1.00 ×**", "--"]


def test_a_row_with_two_footnotes_has_their_letters_apart() -> None:
    assert markdown_label("+ Draft", ["a", "b"]) == "+ Draft <sup>a,b</sup>"
    assert markdown_label("+ Draft", []) == "+ Draft"


def test_csv_figures_are_those_of_the_report_unrounded() -> None:
    stored = calibrated(record())
    report = build_report(stored)
    for cells, row in zip(csv_rows(stored), report.rows, strict=True):
        assert row.figures is not None
        assert row.versus_baseline is not None
        assert float(cells["throughput_tokens_per_s"]) == row.figures.throughput.mean
        assert float(cells["end_to_end_tokens_per_s"]) == row.figures.throughput.end_to_end
        assert row.end_to_end
        assert float(cells["end_to_end_speedup"]) == row.end_to_end.ratio
        assert cells["end_to_end_speedup_low"] == str(
            row.end_to_end_interval.low if row.end_to_end_interval else ""
        )
        assert (cells["prefill_p50_s"], cells["ttft_p50_s"]) == ("0.02", "0.03")
        assert cells["draft_acceptance_rate"] == ("" if row.method is Method.AR else "0.5")
        assert cells["gain_over_previous"] == (
            str(row.versus_previous.ratio - 1.0) if row.versus_previous else ""
        )
        assert [int(job) for job in cells["jobs"].split()] == list(row.job_ids)
        assert float(cells["speedup"]) == row.versus_baseline.ratio
        assert float(cells["predicted_speedup"]) == row.figures.predicted_speedup
        assert int(cells["peak_memory_bytes"]) == row.peak_memory_bytes
        assert float(cells["distinct_2"]) == row.figures.distinct_2


def test_csv_cells_that_a_spreadsheet_would_take_for_formulas_get_an_apostrophe() -> None:
    stored = record(
        tuple((replace(c, label=s + c.label), v) for s, (c, v) in zip("=+-@", FOUR_STEPS, strict=True))
    )
    assert [cells["components"][:2] for cells in csv_rows(stored)] == ["'=", "'+", "'-", "'@"]


def test_csv_text_survives_commas_quotes_and_line_breaks() -> None:
    assert csv_rows(labelled('a,"b"\nc'))[1]["components"] == 'a,"b" c'


def test_csv_leaves_unknown_cells_empty_and_carries_the_caveats() -> None:
    rows = csv_rows(change_jobs(unfinished(), LINEAR.label, environment="e2"))
    assert rows[3]["throughput_tokens_per_s"] == rows[3]["speedup"] == rows[1]["predicted_speedup"] == ""
    assert rows[3]["state"] == "queued"
    assert "environment (cpu: B instead of A)" in rows[1]["notes"]


def test_the_speedup_with_the_prefill_is_computed_once_and_only_for_a_form_that_shows_it(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    read: list[SampleTable] = []
    from_prefill = SampleTable.from_prefill

    def counted(table: SampleTable) -> SampleTable:
        read.append(table)
        return from_prefill(table)

    monkeypatch.setattr(SampleTable, "from_prefill", counted)
    stored, other = record(), replace(record(), id=2, name="other", digest="e" * 64)
    joined = joined_report([stored, other])
    for report in (build_report(stored), joined):
        print_table(report, io.StringIO())
        for form in (to_markdown, to_latex, to_prose):
            assert form(report)
        assert ablation_bars(report, tmp_path)
    side = Side(report=build_report(stored))
    assert comparison_json(compare_reports(side, side), None)
    assert not read
    report = build_report(stored)
    assert to_markdown(report, [Column.END_TO_END_SPEEDUP])
    assert len(read) == len(stored.jobs) + len(stored.sentinels)
    for again in (to_json, to_csv, to_macros):
        assert again(report)
    assert len(read) == len(stored.jobs) + len(stored.sentinels)


def test_no_format_hides_a_merged_configuration() -> None:
    merged = MergedConfiguration(label="Chain", into=LINEAR.label, reason="branch 1 is linear")
    stored = replace(record(), merged=(merged,))
    assert "'Chain' (merged: same as '+ Draft model'" in printed(stored, io.StringIO())
    assert "'Chain' (merged: same as '+ Draft model'" in to_markdown(build_report(stored))


def test_a_parameter_that_the_tables_do_not_know_is_shown_by_its_name() -> None:
    configuration = Configuration(label="x", method=Method.TREE, params={"width": 3, "greedy": True})
    assert configuration_text(configuration.method, configuration.params) == "tree, width=3, greedy=True"


def test_a_terminal_of_80_columns_gets_every_cell_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setenv("NO_COLOR", "1")
    plain = re.sub(r"\x1b\[[0-9;]*m", "", printed(record(), Terminal()))
    lines = [line for line in plain.splitlines() if "×" in line]
    assert len(lines) == 4
    assert all(line.rstrip().endswith("100 %") for line in lines)
    assert all(len(line) <= 80 for line in plain.splitlines())


@pytest.mark.parametrize("columns", ["40", "80", "200"])
def test_a_comparison_in_a_narrow_terminal_loses_no_cell(
    monkeypatch: pytest.MonkeyPatch, columns: str
) -> None:
    monkeypatch.setenv("COLUMNS", columns)
    file = Terminal()
    side = Side(report=build_report(record()))
    print_comparison(compare_reports(side, side), file)
    plain = re.sub(r"\x1b\[[0-9;]*m", "", file.getvalue())
    assert plain.count("not separable ") == 4
    assert len(re.findall(r"not separable +\d\.\d\d × +\d\.\d\d ×", plain)) == 4
    assert "Components" in plain
