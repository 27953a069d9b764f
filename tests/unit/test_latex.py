"""The booktabs table: its shape, what it says by computation, and that no text can break it."""

from __future__ import annotations

import re
import unicodedata
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from report_records import (
    BASELINE,
    LINEAR,
    PRUNED,
    TREE,
    calibrated,
    change_jobs,
    change_samples,
    on_machines,
    record,
)

from dyna_eval.errors import InputError
from dyna_eval.jobs import Configuration, JobState, MergedConfiguration, Method, Params
from dyna_eval.latex.check import check_paper
from dyna_eval.latex.grid import require
from dyna_eval.latex.prose import to_prose
from dyna_eval.latex.style import Style, read_columns
from dyna_eval.latex.table import to_latex
from dyna_eval.latex.text import escape_latex, read_text
from dyna_eval.measurements import Exactness
from dyna_eval.methods import BestFirst, DynaTree, HfAssisted, HfGenerate, MethodParameters
from dyna_eval.records import SweepRecord
from dyna_eval.reports.categories import CategorizedReport
from dyna_eval.reports.cells import Column
from dyna_eval.reports.imported import Source
from dyna_eval.reports.measured_report import build_report
from dyna_eval.wording import one_line


def table(stored: SweepRecord) -> str:
    return to_latex(build_report(stored, allow_mixed=True))


def body(latex: str) -> list[list[str]]:
    """Cells of the rows between the rules; an ampersand after a backslash is text."""
    rows = re.search(r"\\midrule\n(.*)\n    \\bottomrule", latex, re.DOTALL)
    assert rows is not None
    lines = rows[1].replace(r"\raggedright ", "").splitlines()
    return [re.split(r"(?<!\\) & ", line.strip().removesuffix(r" \\")) for line in lines]


def caption(latex: str) -> str:
    found = re.search(r"\\caption\{(.*)\}\n", latex)
    assert found is not None
    return found[1]


def test_the_table_has_booktabs_rules_five_columns_and_centred_figures() -> None:
    latex = table(record())
    assert r"\begin{tabular}{cllcc}" in latex
    assert r"Step & Components & Configuration & Throughput & Speedup \\" in latex
    assert [latex.count(rule) for rule in (r"\toprule", r"\midrule", r"\bottomrule")] == [1, 1, 1]
    rows = body(latex)
    assert rows[0] == ["1", "Baseline", "AR only", rows[0][3], r"$1.00\times$"]
    assert rows[1][1:3] == ["+ Draft model", "linear, $K=6$"]
    assert rows[2][2] == r"tree, $D=7$, $B=2$, $\tau=0$"
    assert re.fullmatch(r"\d+\.\d", rows[1][3])
    assert re.fullmatch(r"\$1\.\d\d\\times\$", rows[1][4])


@pytest.mark.parametrize(
    ("method", "cell"),
    [
        (BestFirst(), r"best\_first, $N\leq 32$, $D=8$, width=8"),
        (
            DynaTree(history_phase=False),
            "dynatree, $D=5$, max\\_depth=8, $B=1/2/3$, $N\\leq 64$, no history phase",
        ),
        (HfGenerate(cache="static"), "transformers generate, static cache"),
        (
            HfAssisted(num_assistant_tokens=5, schedule="heuristic_transient"),
            r"transformers assisted, $K=5$, heuristic\_transient, confidence\_threshold=0.4",
        ),
    ],
)
def test_every_method_has_a_cell_that_latex_can_print(method: MethodParameters, cell: str) -> None:
    row = Configuration(label="Row", method=method.method, params=method.resolved())
    assert body(table(record(((BASELINE, 100.0), (row, 90.0)))))[1][2] == cell


@pytest.mark.parametrize(
    ("params", "cell"),
    [
        ({"k": r"\input{x}$"}, r"other method, $K=$\textbackslash{}input\{x\}\$"),
        ({"%": 5}, r"other method, \%=5"),
        ({"x": 5}, "other method, $x=5$"),
        ({"threshold": None}, r"other method, $\tau=$None"),
        ({"threshold": 1e-5}, r"other method, $\tau=10^{-5}$"),
        ({"threshold": 2.5e-7}, r"other method, $\tau=2.5\cdot 10^{-7}$"),
    ],
)
def test_the_settings_of_another_tool_are_text_too(params: Params, cell: str) -> None:
    row = Configuration(label="Row", method=Method.OTHER, params=params)
    assert body(table(record(((BASELINE, 100.0), (row, 90.0)))))[1][2] == cell


def test_only_the_fastest_exact_row_is_bold() -> None:
    def bold(stored: SweepRecord) -> list[bool]:
        return [all(r"\textbf{" in cell for cell in cells) for cells in body(table(stored))]

    assert bold(record()) == [False, False, False, True]
    wrong = change_samples(record(), PRUNED.label, exactness=Exactness.VIOLATION)
    assert bold(wrong) == [False, True, False, False]


def test_the_caption_says_what_is_added_over_what_and_which_step_degrades() -> None:
    text = caption(table(record()))
    assert "step by step, Draft model, Tree structure and Adaptive pruning are added to Baseline" in text
    assert "(pair demo)" in text
    assert "8 prompts (3 repeats, 2,880 tokens per row)" in text
    assert r"95\,\% intervals" in text
    assert re.search(
        r"Step 3 \(\+ Tree structure\) is slower than the step before it \(\$0\.3\d\\times\$\)"
        r" and falls below the baseline \(\$0\.4\d\\times\$\)",
        text,
    )
    assert "Step 4" not in text


def test_the_caption_says_that_throughput_leaves_the_prefill_out_where_that_is_known() -> None:
    report = build_report(record())
    of_what = " in tokens/s of decoding, prefill apart, the mean over 8 prompts ("
    assert of_what in caption(to_latex(report))
    source = Source(file="answers.jsonl", format="Spec-Bench", sha256="0" * 64)
    mixed = replace(report, rows=(*report.rows[:-1], replace(report.rows[-1], source=source)))
    assert "prefill" not in caption(to_latex(mixed))
    assert " in tokens/s, the mean over 8 prompts (" in caption(to_latex(mixed))


def test_the_caption_claims_no_degradation_that_the_intervals_do_not_show() -> None:
    rising = table(record(((BASELINE, 100.0), (LINEAR, 150.0), (PRUNED, 200.0))))
    assert "No step is measurably slower than the step before it" in caption(rising)
    single = caption(table(record(prompts=1)))
    assert "slower" not in single
    assert "intervals" not in single


def test_caption_and_prose_say_on_which_machine_in_which_dtype_and_over_how_many_tokens() -> None:
    report = build_report(on_machines("Chip_A", "Chip_A", "Chip_A", "Chip_A"))
    told = r" Measured on Chip\_A, 2 cores, in bfloat16, 64 tokens a prompt, greedy. "
    for style in (Style(), Style(columns=(Column.INTERVAL,), std=True, siunitx=True)):
        assert caption(to_latex(report, style)).count(told) == 1
    assert " ".join(to_prose(report).split()).count(told) == 1
    assert "Measured on" not in caption(table(record()))
    assert "Measured on" not in to_prose(build_report(record()))


def test_circumstances_of_pairs_side_by_side_are_told_once_or_with_the_pairs_that_have_them() -> None:
    stored = on_machines("A", "A", "A", "A", pairs=("small", "large", "demo"))
    same = styled(replace(stored, models={}), side_by_side=True)
    assert caption(same).count("Measured on A, 2 cores, 64 tokens a prompt, greedy. ") == 1
    other = styled(stored, side_by_side=True)
    assert (
        " Measured on A, 2 cores, 64 tokens a prompt, greedy (on small and large)."
        " Measured on A, 2 cores, in bfloat16, 64 tokens a prompt, greedy (on demo). "
    ) in caption(other)


def test_intervals_stand_below_the_table() -> None:
    assert re.search(
        r"95\\,\\% intervals of the speedup: step 2 \[1\.\d\d, 1\.\d\d\], step 3", table(record())
    )


def test_a_comment_before_the_table_says_where_its_figures_come_from() -> None:
    first, second, third, fourth = table(record()).splitlines()[:4]
    assert first == "% sweep four-step (sweep 1, done), pair demo"
    assert second == f"% digest {'d' * 64}, jobs 1-12"
    assert third.startswith('% dyna-eval table {"columns":[],"digest":"ddd')
    assert fourth == r"\begin{table}[tp]"


@pytest.mark.parametrize(
    ("name", "label"),
    [("four-step", "tab:four-step"), ("Größe & x_1%", "tab:gr-e-x-1"), ("实验", "tab:sweep-1")],
)
def test_the_label_is_a_slug_of_the_sweeps_name(name: str, label: str) -> None:
    assert rf"\label{{{label}}}" in table(record(name=name))


def test_each_pair_has_a_table_and_a_label_of_its_own() -> None:
    latex = table(record(pairs=("small", "large")))
    assert re.findall(r"\\label\{(.*)\}", latex) == ["tab:four-step-small", "tab:four-step-large"]


def test_unfinished_cells_are_dashes() -> None:
    rows = body(table(record(states={TREE.label: JobState.FAILED})))
    assert rows[2][3:] == ["--", "--"]


def test_a_sweep_without_any_result_is_a_table_of_dashes() -> None:
    states = dict.fromkeys((c.label for c in (BASELINE, LINEAR, TREE, PRUNED)), JobState.QUEUED)
    latex = table(record(states=states))
    assert all(cells[3:] == ["--", "--"] for cells in body(latex))
    assert "Nothing has been measured yet." in caption(latex)


def test_a_mixed_row_is_marked_and_the_footnote_says_what_differs() -> None:
    latex = table(change_jobs(record(), LINEAR.label, environment="e2"))
    assert body(latex)[1][1] == r"+ Draft model$^{\mathrm{a}}$"
    assert (
        r"$^{\mathrm{a}}$\,differs from the rows it stands with in environment (cpu: B instead of A)."
        in latex
    )


# -------------------------------------------------------------------- escaping


@pytest.mark.parametrize(
    ("text", "latex"),
    [
        ("a_b & 5% #1 {x} $y$", r"a\_b \& 5\% \#1 \{x\} \$y\$"),
        ("\\input{/etc/passwd}", r"\textbackslash{}input\{/etc/passwd\}"),
        (
            "~^<>|`",
            r"\textasciitilde{}\textasciicircum{}\textless{}\textgreater{}\textbar{}\textasciigrave{}",
        ),
        ("τ×2", r"$\tau$$\times$2"),
        ("a--b---c", "a-{}-b-{}-{}-c"),
        ("line\nbreak\r\x00\tend", "line break end"),
    ],
)
def test_text_is_printed_as_it_stands(text: str, latex: str) -> None:
    assert escape_latex(text) == latex


HOSTILE = "}\\end{table}\n\\input{x} % & $\n_^~#{"


def test_no_name_or_label_or_error_can_break_the_table() -> None:
    """With what is escaped and what we write taken away, no LaTeX of the user's is left."""
    base = replace(BASELINE, label=HOSTILE + "0")
    draft = replace(LINEAR, label="+" + HOSTILE + "1")
    stored = record(((base, 128.0), (draft, 100.0), (TREE, 63.0)), name=HOSTILE, pairs=(HOSTILE,))
    failed = change_jobs(stored, TREE.label, state=JobState.FAILED, samples=(), error=HOSTILE)
    latex = table(failed)
    lines = [line for line in latex.splitlines() if not line.startswith("%")]
    ours = re.sub(r"\\textbackslash\{\}|\\[&%$#_{}]", "", "\n".join(lines))
    assert r"\input" not in ours
    assert "%" not in ours
    assert ours.count(r"\end{table}") == 1
    assert ours.count("{") == ours.count("}")
    assert ours.count("$") % 2 == 0
    assert [len(cells) for cells in body(latex)] == [5, 5, 5]


# ----------------------------------------------------------------------- styles


def styled(stored: SweepRecord, **style: Any) -> str:
    report = build_report(stored, allow_mixed=True)
    require(report, Style(**style))
    return to_latex(report, Style(**style))


def test_optional_columns_stand_in_the_order_in_which_they_are_asked_for() -> None:
    latex = styled(record(), columns=read_columns("nodes, interval,exact,acceptance"))
    assert r"\begin{tabular}{cllcccccc}" in latex
    assert (
        r"    &  &  &  &  & Nodes & 95\,\% &  & Tokens \\"
        "\n"
        r"    Step & Components & Configuration & Throughput & Speedup"
        r" & per round & interval & Exact & per round \\"
    ) in latex
    baseline, linear = body(latex)[:2]
    assert baseline[5:] == ["--", "--", r"100\,\%", "1.00"]
    assert linear[5] == "4.0"
    assert re.fullmatch(r"\[1\.\d\d, 1\.\d\d\]", linear[6])
    assert linear[7:] == [r"100\,\%", "3.00"]


def test_peak_memory_is_a_column_in_gibibytes() -> None:
    for siunitx in (False, True):
        latex = styled(record(), columns=(Column.MEMORY,), siunitx=siunitx)
        assert "Memory" in latex
        assert "(GiB)" in latex
        assert [cells[-1] for cells in body(latex)] == ["1.50"] * 4


def test_predicted_speedup_and_variety_are_columns() -> None:
    """120 tokens in 40 rounds, each a draft step over 1.5 tokens 4 times and a target step over 5."""
    stored = calibrated(record())
    for siunitx in (False, True):
        latex = styled(stored, columns=(Column.PREDICTED, Column.DISTINCT), siunitx=siunitx)
        assert "Predicted" in latex
        assert "Distinct-2" in latex
        cells = [row[-2:] for row in body(latex)]
        assert cells == [["1.00", "0.80"], *[[f"{3 * 10 / (4 * 2 + 14):.2f}", "0.80"]] * 3]


def test_gain_acceptance_rate_and_times_are_columns() -> None:
    """Of 4 drafted levels 2 are accepted; prefill takes 20 ms, the first token comes after 30."""
    columns = read_columns("gain,rate,prefill,ttft,end_to_end,end_to_end_speedup,jobs")
    report = build_report(record())
    gains = [None, *(row.versus_previous.ratio - 1.0 for row in report.rows if row.versus_previous)]
    for siunitx in (False, True):
        latex = styled(record(), columns=columns, siunitx=siunitx)
        maths, unknown = ("", "{--}") if siunitx else ("$", "--")
        for row, gain, cells in zip(report.rows, gains, body(latex), strict=True):
            assert row.figures is not None
            assert row.end_to_end is not None
            assert cells[5:] == [
                unknown if gain is None else f"{maths}{gain * 100:+.1f}{maths}",
                unknown if gain is None else "50.0",
                "20.0",
                "30.0",
                f"{row.figures.throughput.end_to_end:.1f}",
                f"{row.end_to_end.ratio:.2f}",
                f"{row.step}, {row.step + 4}, {row.step + 8}",
            ]
    assert "S[table-format=+3.1, retain-explicit-plus]" in latex


def test_intervals_in_a_column_are_not_repeated_below_the_table() -> None:
    assert "intervals of the speedup" not in styled(record(), columns=(Column.INTERVAL,))


def test_only_figures_that_are_the_best_are_bold() -> None:
    cells = body(styled(record(), columns=tuple(Column)))[3]
    assert [r"\textbf{" in cell for cell in cells] == [True] * 6 + [False] * (len(Column) - 1)


def test_deviations_between_repeats_follow_the_means() -> None:
    rows = body(styled(record(), std=True))
    assert all(re.search(r"\d+\.\d \$\\pm\$ \d+\.\d", row[3]) for row in rows)
    assert r"$\pm$ the standard deviation between repeats" in styled(record(), std=True)


def test_siunitx_columns_are_as_wide_as_their_numbers() -> None:
    latex = styled(record(), std=True, siunitx=True)
    assert r"{cllS[table-format=3.1]@{${}\pm{}$}S[table-format=1.1]S[table-format=1.2]}" in latex
    assert r"\multicolumn{2}{c}{Throughput} & {Speedup ($\times$)} \\" in latex
    assert re.search(
        r"4 .* & \\bfseries \d+\.\d & \\bfseries \d\.\d & \\bfseries 1\.\d\d \\\\",
        latex.replace(r"\textbf{4}", "4"),
    )


def test_pairs_stand_side_by_side_each_with_a_best_cell() -> None:
    latex = styled(record(pairs=("small", "large")), side_by_side=True)
    assert latex.count(r"\begin{table}") == 1
    assert r"&  &  & \multicolumn{2}{c}{small} & \multicolumn{2}{c}{large} \\" in latex
    assert r"\cmidrule(lr){4-5} \cmidrule(lr){6-7}" in latex
    bold = [[r"\textbf{" in cell for cell in cells] for cells in body(latex)]
    assert bold == [[False] * 7] * 3 + [[False] * 3 + [True] * 4]


def test_the_caption_names_the_pair_that_has_nothing_bold() -> None:
    """A row of which a repeat is to come has figures, and may still turn out to be the fastest."""
    stored = record(pairs=("small_1", "large"), repeats=2)
    waiting = tuple(
        replace(job, state=JobState.QUEUED, samples=(), environment=None, actor=None)
        if (job.pair, job.label, job.repeat) == ("small_1", LINEAR.label, 1)
        else job
        for job in stored.jobs
    )
    for jobs, said in ((waiting, r" except small\_1"), (stored.jobs, "")):
        latex = styled(replace(stored, jobs=jobs), side_by_side=True)
        assert f"The highest throughput of each pair{said} is bold." in caption(latex)
        bold = [any(r"\textbf{" in cells[at] for cells in body(latex)) for at in (3, 5)]
        assert bold == [not said, True]


def test_footnotes_of_pairs_side_by_side_name_their_pair() -> None:
    stored = record(pairs=("small", "large"))
    jobs = tuple(
        replace(job, environment="e2") if (job.pair, job.label) == ("large", LINEAR.label) else job
        for job in stored.jobs
    )
    latex = styled(replace(stored, jobs=jobs), side_by_side=True)
    assert body(latex)[1][1] == r"+ Draft model$^{\mathrm{a}}$"
    assert r"$^{\mathrm{a}}$\,large: differs from the rows" in latex


def test_what_is_left_out_of_pairs_side_by_side_names_its_pair_and_what_every_pair_lacks_none() -> None:
    """Both pairs lack a job, for the same reason: two jobs in all."""
    lacking = change_jobs(
        record(pairs=("small", "large")), LINEAR.label, repeats=[2], state=JobState.FAILED, samples=()
    )
    merged = MergedConfiguration(label="Same", into=BASELINE.label, reason="equal")
    latex = styled(replace(lacking, merged=(merged,)), side_by_side=True)
    for pair in ("small", "large"):
        assert f"{pair}: Left out of rows above: 1 job: '+ Draft model'" in latex
    assert latex.count("Left out: 1 configuration: 'Same'") == 1
    assert ": Left out: 1 configuration" not in latex


@pytest.mark.parametrize(
    ("stored", "style", "complaint"),
    [
        (record(), {"side_by_side": True}, "has one pair, so nothing can stand side by side"),
        (record(repeats=1), {"std": True}, "no deviation between them; leave out --std"),
        (
            record(pairs=("a", "b"), states={TREE.label: JobState.FAILED}),
            {"side_by_side": True},
            "no result for '+ Tree structure' on 'a' and 1 more: run what is missing",
        ),
        (record(((BASELINE, 1.0),)), {"columns": (Column.NODES,)}, "no row has a figure for column 'nodes'"),
        (record(prompts=1), {"columns": (Column.INTERVAL,)}, "no row has a figure for column 'interval'"),
    ],
)
def test_what_a_sweep_cannot_show_is_refused_in_one_line(
    stored: SweepRecord, style: dict[str, Any], complaint: str
) -> None:
    with pytest.raises(InputError) as caught:
        styled(stored, **style)
    assert complaint in str(caught.value)
    assert "\n" not in str(caught.value)


def test_pairs_with_different_rows_do_not_stand_side_by_side() -> None:
    """As in a file of another place, in which each pair lacks a row of its own."""
    report = build_report(record(pairs=("small", "large")))
    lacking = {("small", LINEAR.label), ("large", TREE.label)}
    uneven = replace(report, rows=tuple(row for row in report.rows if (row.pair, row.label) not in lacking))
    style = Style(side_by_side=True)
    for refuses in (require, to_latex):
        with pytest.raises(InputError, match="have different rows"):
            refuses(uneven, style)
    now = CategorizedReport(overall=uneven, categories=())
    (unchecked,) = check_paper(to_latex(report, style), lambda _: now).unchecked
    assert "have different rows" in unchecked.what


@pytest.mark.parametrize(
    ("names", "complaint"),
    [("nodes,intervall", "did you mean 'interval'?"), ("nodes,nodes", "names a column twice")],
)
def test_columns_are_read_or_refused(names: str, complaint: str) -> None:
    with pytest.raises(InputError, match=re.escape(complaint)):
        read_columns(names)


@given(st.text())
def test_escaped_text_can_be_read_back(text: str) -> None:
    assert read_text(escape_latex(text)) == unicodedata.normalize("NFC", one_line(text))
