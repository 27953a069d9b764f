"""A paper against the store: what differs is found cell by cell, what changed in form alone is not."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import PurePosixPath

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from report_records import BASELINE, LINEAR, PRUNED, TREE, change_jobs, change_samples, on_machines, record

from dyna_eval.errors import InputError
from dyna_eval.jobs import GenerationSpec, JobState
from dyna_eval.latex.check import Findings, check_paper
from dyna_eval.latex.document import to_document
from dyna_eval.latex.macros import to_macros
from dyna_eval.latex.paper import without_comments
from dyna_eval.latex.prose import to_prose
from dyna_eval.latex.style import PLAIN, Column, Origin, Part, Style, find_marks
from dyna_eval.latex.table import to_latex
from dyna_eval.measurements import Exactness
from dyna_eval.records import SweepRecord
from dyna_eval.reports.categories import CategorizedReport, categorized_report
from dyna_eval.reports.measured_report import build_report
from dyna_eval.reports.presets import Preset

STORED = record()


def check(paper: str, *stored: SweepRecord) -> Findings:
    known = {one.digest: one for one in stored or (STORED,)}

    def recompute(origin: Origin) -> CategorizedReport | None:
        found = known.get(origin.digest)
        if found is None:
            return None
        if origin.categories:
            return categorized_report(found, allow_mixed=True)
        report = build_report(found, allow_mixed=True, preset=origin.preset)
        return CategorizedReport(overall=report, categories=())

    return check_paper(paper, recompute)


def paper(stored: SweepRecord = STORED, style: Style = PLAIN, preset: Preset | None = None) -> str:
    """A paper with text of its own around what was generated."""
    report = build_report(stored, allow_mixed=True, preset=preset)
    return to_document(report, style, {}).replace(
        r"\begin{document}", "\\begin{document}\nWe ran 17 models at 3.5\\,GHz.\n"
    )


def differences(findings: Findings) -> list[tuple[str, str, str, str]]:
    return [(each.row, each.column, each.in_paper, each.now) for each in findings.differences]


STYLES = st.builds(
    Style,
    columns=st.lists(st.sampled_from(Column), unique=True).map(tuple),
    std=st.booleans(),
    siunitx=st.booleans(),
    side_by_side=st.booleans(),
)


@settings(max_examples=40, deadline=None)
@given(STYLES, st.sampled_from([None, *Preset]), st.sampled_from([("demo",), ("small", "large")]))
def test_every_style_and_preset_agrees_with_the_store_it_came_from(
    style: Style, preset: Preset | None, pairs: tuple[str, ...]
) -> None:
    stored = record(pairs=pairs)
    style = replace(style, side_by_side=style.side_by_side and len(pairs) > 1)
    findings = check(paper(stored, style, preset), stored)
    assert findings.agrees
    assert findings.notes == ()
    assert set(findings.parts) == set(Part)


@settings(max_examples=40, deadline=None)
@given(STYLES, st.integers(0, 3), st.data())
def test_a_changed_digit_of_any_figure_is_found_in_its_cell(
    style: Style, row: int, data: st.DataObject
) -> None:
    style = replace(style, side_by_side=False)
    lines = to_latex(build_report(STORED), style).splitlines()
    start = lines.index(r"    \midrule") + 1
    before, after = lines[start + row].rsplit(r" \\", 1)[0], r" \\"
    figures = [match for match in re.finditer(r"\d", before) if match.start() > before.rfind("$B") + 10]
    digit = data.draw(st.sampled_from(figures))
    other = str((int(digit[0]) + 1) % 10)
    lines[start + row] = f"{before[: digit.start()]}{other}{before[digit.end() :]}{after}"
    findings = check("\n".join(lines))
    assert [each.row.split(" (")[0] for each in findings.differences] == [f"step {row + 1}"]
    assert findings.differences[0].line == start + row + 1


def test_a_difference_names_table_row_column_and_both_values() -> None:
    latex = to_latex(build_report(STORED))
    value = re.search(r"tree, \$D=7\$, \$B=2\$, \$\\tau=0\$ & (\d+\.\d)", latex)
    assert value is not None
    (found,) = check(latex.replace(value[1], "99.9", 1)).differences
    assert (found.where, found.row, found.column) == (
        "table tab:four-step",
        "step 3 (+ Tree structure)",
        "Throughput",
    )
    assert (found.in_paper, found.now) == ("99.9", value[1])


@pytest.mark.parametrize(
    "edit",
    [
        lambda text: text.replace(r"\textbf", ""),
        lambda text: text.replace(r"\boldmath ", ""),
        lambda text: text.replace(" & ", "&"),
        lambda text: text.replace(" & ", "  &\n  "),
        lambda text: text.replace(r"\midrule", r"\hline").replace(r"\toprule", ""),
        lambda text: text.replace(r"\begin{table}[tp]", r"\begin{table*}[b]").replace(
            r"\end{table}", r"\end{table*}"
        ),
        lambda text: text.replace(
            r" \\" + "\n    \\textbf{4}", " \\\\[2pt] \\addlinespace % before the last\n    \\textbf{4}"
        ),
        lambda text: text.replace(r"$1.00\times$", r"1.00$\,\times$"),
        lambda text: re.sub(r"\\caption\{.*\}", r"\\caption{Our ablation.}", text),
        lambda text: re.sub(r" & (\d+\.\d) & ", r" & \\num{\1} & ", text),
        lambda text: re.sub(r" & (\d+\.\d) & ", r" & \\textcolor{red}{\1} & ", text),
        lambda text: text.replace(r"\begin{tabular}{cllcc}", "\\begin{tabular}{@{}cllcc@{}}"),
        lambda text: text.replace('"preset":', '\n%   "preset":'),
        lambda text: text.replace("\n", "\r\n"),
        lambda text: text + "\nAs said, $D=9$ is 3.7 times worse.",
    ],
)
def test_a_change_of_form_alone_passes(edit: Callable[[str], str]) -> None:
    latex = to_latex(build_report(STORED))
    changed = edit(latex)
    assert changed != latex
    findings = check(changed)
    assert findings.agrees, findings
    assert findings.parts == (Part.TABLE,)


def test_a_table_of_macros_is_checked_by_what_they_stand_for() -> None:
    report = build_report(STORED)
    latex = to_macros(report) + to_latex(report)
    value = re.search(r"AR only & (\d+\.\d)", latex)
    assert value is not None
    changed = latex.replace(f"AR only & {value[1]}", r"AR only & \fourStepBaselineThroughput{}")
    assert check(changed).agrees
    wrong = changed.replace(
        rf"\fourStepBaselineThroughput}}{{{value[1]}}}", r"\fourStepBaselineThroughput}{1.0}"
    )
    assert [each.where for each in check(wrong).differences] == [
        "table tab:four-step",
        r"macro \fourStepBaselineThroughput",
    ]


def test_bold_on_what_is_not_the_best_is_a_difference() -> None:
    latex = re.sub(r"(AR only & )(\d+\.\d)", r"\1\\textbf{\2}", to_latex(build_report(STORED)))
    (found,) = check(latex).differences
    assert (found.row, found.column, found.now) == ("step 1 (Baseline)", "Throughput", "not the best")


def test_a_reworded_label_is_noted_and_a_swapped_one_fails() -> None:
    latex = to_latex(build_report(STORED))
    reworded = check(latex.replace("& + Draft model &", "& Draft (ours) &"))
    assert reworded.agrees
    assert "'Draft (ours)'" in reworded.notes[0].what
    swapped = check(latex.replace("& + Draft model &", "& + Tree structure &"))
    assert differences(swapped) == [
        ("step 2 (+ Draft model)", "Components", "+ Tree structure", "+ Draft model")
    ]


def test_a_changed_setting_is_a_difference() -> None:
    found = differences(check(to_latex(build_report(STORED)).replace("$K=6$", "$K=8$")))
    assert found == [("step 2 (+ Draft model)", "Configuration", "linear, K=8", "linear, K=6")]


def test_rows_and_columns_that_were_taken_away_or_added_are_named() -> None:
    lines = to_latex(build_report(STORED)).splitlines()
    start = lines.index(r"    \midrule") + 1
    gone = [line for i, line in enumerate(lines) if i != start + 2]
    ((row, _, in_paper, now),) = differences(check("\n".join(gone)))
    assert (row, in_paper) == ("step 3 (+ Tree structure)", "missing")
    assert now.startswith("3; + Tree structure; tree")
    added = [*lines[: start + 4], r"    5 & + Magic & magic & 999.9 & 9.99 \\", *lines[start + 4 :]]
    assert differences(check("\n".join(added)))[0][0::3] == ("step 5", "no such row")
    narrow = "\n".join(
        line.rsplit(" & ", 1)[0] + r" \\" if start <= i < start + 4 else line for i, line in enumerate(lines)
    )
    assert {found[1:3] for found in differences(check(narrow))} == {("Speedup", "missing")}
    wide = "\n".join(
        line.replace(r" \\", r" & 7.7 \\") if start <= i < start + 4 else line for i, line in enumerate(lines)
    )
    assert {found[1] for found in differences(check(wide))} == {"columns of its own"}


def reordered(latex: str, order: Sequence[int]) -> str:
    """Return a table whose columns stand in another order, titles and all."""
    lines = latex.splitlines()
    start, stop = lines.index(r"    \toprule") + 1, lines.index(r"    \bottomrule")
    for i in range(start, stop):
        if lines[i].endswith(r"\\"):
            cells = lines[i].removesuffix(r"\\").split(" & ")
            cells = [""] * (len(order) - len(cells)) + cells  # a line of titles may begin with empty ones
            lines[i] = " & ".join(cells[column] for column in order) + r" \\"
    return "\n".join(lines)


INTERVAL = 5
"""The column of intervals; a row cannot begin with one, for LaTeX reads `\\\\ [` as a command's argument."""


@settings(max_examples=40, deadline=None)
@given(st.permutations(range(5 + len(Column))).filter(lambda order: order[0] != INTERVAL), st.booleans())
def test_columns_in_another_order_are_found_by_their_titles(order: list[int], siunitx: bool) -> None:
    style = Style(columns=tuple(Column), siunitx=siunitx)
    latex = reordered(to_latex(build_report(STORED), style), order)
    assert check(latex).agrees, check(latex)
    head, rule, rows = latex.partition(r"\midrule")
    wrong = check(head + rule + re.sub(r"\d+\.\d", "99999.5", rows, count=1))
    assert {row for row, *_ in differences(wrong)} == {"step 1 (Baseline)"}


def test_a_column_of_deviations_may_be_moved_though_it_is_two_wide() -> None:
    written = to_latex(build_report(STORED), Style(std=True, siunitx=True))
    moved = written.replace(r"\multicolumn{2}{c}{Throughput} & {Speedup", "{Speedup").replace(
        r"($\times$)} \\", r"($\times$)} & \multicolumn{2}{c}{Throughput} \\"
    )
    assert moved != written
    start = written.index(r"\midrule")
    body = re.sub(r" & ([^&\n]*) & ([^&\n]*) & ([^&\n]*) \\\\\n", r" & \3 & \1 & \2 \\\\\n", written[start:])
    assert check(moved[: moved.index(r"\midrule")] + body).agrees
    assert not check(written[:start] + body).agrees


def test_titles_over_the_wrong_figures_are_differences() -> None:
    latex = to_latex(build_report(STORED))
    swapped = latex.replace("Throughput & Speedup", "Speedup & Throughput")
    assert swapped != latex
    assert {column for _, column, *_ in differences(check(swapped))} == {"Throughput", "Speedup"}


def test_a_column_taken_out_with_its_title_is_the_only_one_missed() -> None:
    latex = to_latex(build_report(STORED))
    narrow = reordered(latex, [0, 1, 2, 4])
    assert {found[1:3] for found in differences(check(narrow))} == {("Throughput", "missing")}


def test_a_reworded_title_passes() -> None:
    latex = to_latex(build_report(STORED)).replace("& Throughput &", "& Tokens per second &")
    assert "Tokens per second" in latex
    findings = check(latex)
    assert findings.agrees
    assert findings.notes[0].what.endswith("column 'Throughput' is called 'Tokens per second' here")


def test_a_column_under_the_title_of_another_one_is_a_difference() -> None:
    latex = to_latex(build_report(STORED)).replace("Throughput & Speedup", "Throughput & Throughput")
    assert differences(check(latex)) == [("titles", "Speedup", "Throughput", "Speedup")]


def test_a_mark_that_names_no_sweep_to_join_is_of_its_own_sweep() -> None:
    latex = to_latex(build_report(STORED)).replace('"preset":', '"made_of":[],"preset":')
    (found,) = find_marks(latex)
    assert found.origin is not None
    assert found.origin.made_of == (STORED.digest,)


def test_results_that_changed_since_are_found_in_every_part() -> None:
    written = paper()
    now = change_jobs(STORED, PRUNED.label, repeats=[2], samples=STORED.jobs[0].samples)
    findings = check(written, now)
    parts = {each.where.split()[0] for each in findings.differences}
    assert parts == {"table", "prose", "macro"}
    assert all(
        "step" in each.row or each.row in ("caption", "footnotes", "text") for each in findings.differences
    )


def test_a_footnote_that_a_row_has_earned_since_is_missed() -> None:
    now = change_samples(STORED, LINEAR.label, exactness=Exactness.TIE)
    found = differences(check(to_latex(build_report(STORED)), now))
    assert ("step 2 (+ Draft model)", "Components", "no footnote mark", "marked a") in found


@pytest.mark.parametrize("number", ["0.36", "95", "2,880"])
def test_a_number_in_the_caption_or_the_footnotes_is_checked(number: str) -> None:
    latex = to_latex(build_report(STORED))
    if number not in latex:
        number = re.search(r"slower than the step before it \(\$(\d\.\d+)", latex)[1]  # type: ignore[index]
    found = check(latex.replace(number, "77.7"))
    assert {each.in_paper for each in found.differences} == {"77.7"}


MEASURED = on_machines("Chip 7", "Chip 7", "Chip 7", "Chip 7")
TOLD = "Measured on Chip 7, 2 cores, in bfloat16, 64 tokens a prompt, greedy."


@pytest.mark.parametrize(
    ("edited", "in_paper"),
    [
        (TOLD.replace("64", "128"), "128"),
        (TOLD.replace("Chip 7", "Chip 8"), "8"),
        (TOLD.replace("bfloat16", "float32"), "float32"),
        (TOLD.replace("bfloat16", "float16"), "float16"),
        (TOLD.replace("greedy", "temperature 0.7"), "0.7"),
    ],
)
def test_circumstances_that_were_not_those_are_found_in_caption_and_prose(edited: str, in_paper: str) -> None:
    written = paper(MEASURED)
    assert written.count(TOLD) == 2
    assert check(written, MEASURED).agrees
    found = check(written.replace(TOLD, edited), MEASURED).differences
    assert {(each.where, each.row) for each in found} == {
        ("table tab:four-step", "caption"),
        ("prose on demo", "text"),
    }
    assert in_paper in {each.in_paper for each in found}


def test_greedy_decoding_is_not_to_be_said_of_samples() -> None:
    sampled = replace(MEASURED, generations={"demo": GenerationSpec(max_new_tokens=64, temperature=0.7)})
    written = paper(sampled)
    assert check(written, sampled).agrees
    found = check(written.replace("temperature 0.7", "greedy"), sampled).differences
    assert [(each.in_paper, each.now) for each in found] == [("greedy", "bfloat16")] * 2


def test_a_paper_of_before_that_does_not_tell_its_circumstances_passes() -> None:
    before = paper(MEASURED).replace(f" {TOLD}", "").replace(f"{TOLD}\n", "")
    assert "Chip 7" not in before
    assert check(before, MEASURED).agrees


def test_a_claim_that_the_data_do_not_support_is_found() -> None:
    prose = to_prose(build_report(STORED))
    changed = prose.replace("This degrades throughput", "This improves throughput")
    assert ("step 3", "claim", "improve", "degrade") in differences(check(changed))
    moved = re.sub(r"reaches (\d+)\.\d tokens/s, \$0\.", r"reaches \g<1>.99 tokens/s, $0.", prose)
    assert [found[0] for found in differences(check(moved))] == ["step 3"]


def test_several_sweeps_in_one_paper_are_each_checked() -> None:
    other = replace(record(name="other", noise=0.3), digest="e" * 64, id=2)
    both = paper() + paper(other, Style(siunitx=True))
    assert check(both, STORED, other).agrees
    assert len(check(both, STORED, other).parts) == 6
    alone = check(both, STORED)
    assert not alone.agrees
    assert len(alone.parts) == 3
    assert [("sweep 'other'" in each.what or "otherDigest" in each.what) for each in alone.unchecked] == [
        True
    ] * 3
    assert "not in this database" in alone.unchecked[0].what


def test_macros_are_found_by_their_digest_alone() -> None:
    bare = "\n".join(
        line for line in to_macros(build_report(STORED)).splitlines() if not line.startswith("%")
    )
    assert check(bare).parts == (Part.MACROS,)
    changed = re.sub(r"(fourStepBaselineSpeedup)\}\{1\.00\}", r"\1}{2.00}", bare)
    assert differences(check(changed)) == [("step 1 (Baseline)", "Speedup", "2.00", "1.00")]
    foreign = bare + "\n\\newcommand{\\fourStepMagicThroughput}{999.9}\n\\newcommand{\\fourStepNote}{7}"
    assert [found[3] for found in differences(check(foreign))] == ["no such cell"]


def test_a_paper_without_anything_of_ours_has_no_findings() -> None:
    findings = check("\\begin{tabular}{c}1\\end{tabular} % dyna-eval is a tool")
    assert findings.is_empty


def test_other_files_are_not_followed_and_that_is_said() -> None:
    findings = check(paper() + "\n\\input{tables/more}\n% \\input{old}\n")
    (note,) = findings.notes
    assert r"\input{tables/more} is not followed" in note.what


def test_tables_without_a_mark_are_pointed_out() -> None:
    bare = [line for line in paper().splitlines() if "dyna-eval table" not in line]
    findings = check("\n".join(bare))
    begin = next(i for i, line in enumerate(bare, start=1) if "begin{tabular}" in line)
    assert Part.TABLE not in findings.parts
    assert f"not checked; they begin on lines {begin}" in findings.notes[0].what


@pytest.mark.parametrize(
    ("edit", "complaint"),
    [
        (lambda text: text.replace('"digest"', "digest"), "cannot be read"),
        (lambda text: text.replace('"preset":null', '"preset":"two-step"'), "cannot be read"),
        (lambda text: text.replace('["demo"]', '["gone"]'), "does not have the pairs"),
        (lambda text: text.replace('["demo"]', "[]"), "does not have the pairs"),
        (lambda text: text.split(r"\begin{table}")[0], "no table follows"),
        (lambda text: text.replace(r"\end{tabular}", ""), "no table follows"),
    ],
)
def test_a_damaged_mark_or_table_is_named_not_passed_over(edit: Callable[[str], str], complaint: str) -> None:
    findings = check(edit(to_latex(build_report(STORED))))
    assert not findings.agrees
    assert complaint in findings.unchecked[0].what


@pytest.mark.slow
@settings(max_examples=150, deadline=None)
@given(st.data())
def test_no_damage_to_a_paper_breaks_the_check(data: st.DataObject) -> None:
    written = paper()
    start = data.draw(st.integers(0, len(written)))
    length = data.draw(st.integers(0, 400))
    inserted = data.draw(st.text(st.sampled_from("{}\\%&$\n1x"), max_size=8))
    check(written[:start] + inserted + written[start + length :])


HOSTILE = st.lists(
    st.sampled_from(
        [*"ab1 %&$#_{}\\~^<>|`'\",-\n\r\x00é中", "\\end{tabular}", "\\\\", "% dyna-eval table {}"]
    ),
    min_size=1,
    max_size=12,
).map("".join)


@settings(max_examples=40, deadline=None)
@given(HOSTILE, HOSTILE, STYLES)
def test_a_paper_with_hostile_names_agrees_with_its_store(name: str, label: str, style: Style) -> None:
    steps = ((replace(TREE, label="+" + label), 60.0), (LINEAR, 100.0))
    stored = record(steps, name=name, pairs=(label, label + "2"), prompts=3)
    report = build_report(stored)
    written = to_document(report, style, {})
    assert check(written, stored).agrees
    assert without_comments(written).count(r"\end{tabular}") == (1 if style.side_by_side else 2)


def test_figures_in_a_folder_that_latex_cannot_name_are_refused() -> None:
    with pytest.raises(InputError, match="cannot be named in a LaTeX document"):
        to_document(build_report(STORED), PLAIN, {"demo": PurePosixPath("my figures/100%.pdf")})


def test_the_charts_caption_says_how_sure_its_intervals_are() -> None:
    report = replace(build_report(STORED), confidence=0.9)
    written = to_document(report, PLAIN, {"demo": PurePosixPath("figures/ablation.pdf")})
    assert r"with its 90\,\% interval; the speedup" in written


def test_the_charts_caption_promises_what_its_bars_have() -> None:
    def said(stored: SweepRecord) -> str:
        figures = {"demo": PurePosixPath("figures/ablation.pdf")}
        written = to_document(build_report(stored), PLAIN, figures)
        (found,) = re.findall(r"\\caption\{Throughput of each step of four-step \(pair demo\)(.*)\}", written)
        return str(found)

    many = record([(BASELINE, 50.0), *((replace(TREE, label=f"Tree {i}"), 60.0 + i) for i in range(12))])
    assert said(many) == r" with its 95\,\% interval; the speedup is written at the right."
    assert said(record(prompts=1)) == "; the speedup is written on its bar."
    assert said(change_jobs(STORED, BASELINE.label, state=JobState.FAILED, samples=())) == (
        r" with its 95\,\% interval."
    )
    report = build_report(STORED)
    no_speedup = replace(report.rows[1], versus_baseline=None)
    figures = no_speedup.figures
    assert figures is not None
    no_interval = replace(figures, throughput=replace(figures.throughput, interval=None))
    rows = (report.rows[0], replace(no_speedup, figures=no_interval), *report.rows[2:])
    written = to_document(replace(report, rows=rows), PLAIN, {"demo": PurePosixPath("ablation.pdf")})
    assert (
        r"with its 95\,\% interval where it is known; the speedup, where it is known, is written on its bar."
        in written
    )


@settings(max_examples=20, deadline=None)
@given(STYLES)
def test_an_unfinished_sweep_agrees_with_itself_and_not_with_its_finished_state(style: Style) -> None:
    unfinished = change_jobs(STORED, TREE.label, state=JobState.QUEUED, samples=())
    partly = change_jobs(unfinished, LINEAR.label, repeats=[1, 2], state=JobState.FAILED, samples=())
    style = replace(style, side_by_side=False)
    written = to_latex(build_report(partly), style)
    assert check(written, partly).agrees
    rows = {each.row for each in check(written, STORED).differences}
    assert "step 3 (+ Tree structure)" in rows
