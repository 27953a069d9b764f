"""A paper's tables by category against the store: checked cell by cell, as any other table."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from report_records import LINEAR, PRUNED, TREE, change_jobs, change_samples, on_machines, record

from dyna_eval.jobs import JobState
from dyna_eval.latex.categories import categories_latex
from dyna_eval.latex.check import Findings, check_paper
from dyna_eval.latex.style import Origin, Part
from dyna_eval.latex.table import to_latex
from dyna_eval.measurements import Exactness
from dyna_eval.records import SweepRecord
from dyna_eval.reports.categories import CategorizedReport, categorized_report

FIVE = {0: "code", 1: "prose", 2: "maths", 3: "code", 4: "prose", 5: "chat", 6: "maths", 7: "code"}
"""With all prompts together five groups of columns, of which three stand abreast and two below them."""


def by_category(stored: SweepRecord, kinds: Mapping[int, str] = FIVE) -> SweepRecord:
    return replace(stored, categories={"p1": kinds})


STORED = by_category(record())
BUILT = categorized_report(STORED)
LATEX = categories_latex(BUILT)


def check(paper: str, now: CategorizedReport = BUILT) -> Findings:
    """Check a paper against a store that has one sweep."""

    def recompute(origin: Origin) -> CategorizedReport | None:
        if origin.digest != now.overall.digest:
            return None
        return now if origin.categories else CategorizedReport(overall=now.overall, categories=())

    return check_paper(paper, recompute)


def differences(findings: Findings) -> list[tuple[str, str, str, str]]:
    return [(each.row, each.column, each.in_paper, each.now) for each in findings.differences]


def rows_of(latex: str) -> list[int]:
    """Return the places of the lines that are rows of figures."""
    return [place for place, line in enumerate(latex.splitlines()) if re.match(r"    \d+ & ", line)]


def columns(latex: str, order: list[int]) -> str:
    """Put the columns of every row and of the last line of titles into another order."""
    lines = latex.splitlines()
    for place, line in enumerate(lines):
        if re.match(r"    (\d+|Step) & ", line):
            cells = line.strip().removesuffix(r" \\").split(" & ")
            if len(cells) == len(order):
                lines[place] = "    " + " & ".join(cells[column] for column in order) + r" \\"
    return "\n".join(lines)


# ------------------------------------------------------------------------ what agrees

HOSTILE = st.lists(
    st.sampled_from([*"ab1 %&$#_{}\\~^<>|`'\",-\n\x00é中", "\\end{tabular}", "\\\\", "% dyna-eval table {}"]),
    min_size=1,
    max_size=30,
).map("".join)


@settings(max_examples=15, deadline=None)
@given(st.dictionaries(st.integers(0, 2), HOSTILE, min_size=1), HOSTILE)
def test_tables_with_any_categories_agree_with_the_store_they_came_from(
    kinds: dict[int, str], name: str
) -> None:
    built = categorized_report(by_category(record(name=name, pairs=(name, f"{name}2"), prompts=3), kinds))
    findings = check(categories_latex(built), built)
    assert findings.agrees, findings
    assert findings.notes == ()
    tables = sum(-(-len(built.groups(pair)) // 3) for pair in built.overall.pairs)
    assert findings.parts == (Part.TABLE,) * tables


def test_tables_by_category_and_others_stand_in_one_paper() -> None:
    findings = check(to_latex(BUILT.overall) + LATEX)
    assert findings.agrees
    assert findings.parts == (Part.TABLE,) * 3
    assert findings.notes == ()


@pytest.mark.parametrize(
    "edit",
    [
        lambda text: text.replace(r"\textbf", ""),
        lambda text: text.replace(" & ", "  &\n  "),
        lambda text: text.replace(r"\midrule", r"\hline").replace(r"\toprule", ""),
        lambda text: re.sub(r"\\cmidrule\(lr\)\{\d-\d\}", "", text),
        lambda text: re.sub(r"\\caption\{.*\}", r"\\caption{By kind of prompt.}", text),
        lambda text: text.replace('"digest":', '\n%   "digest":'),
        lambda text: text.replace("tokens/s", "tok/s"),
        lambda text: re.sub(r"(?s)(  \\caption\{[^\n]*\n)(.*)(\\end\{table\})", r"\2\1\3", text),
        lambda text: text.replace("{prose}", "{essays (ours)}"),
        lambda text: text.split("% dyna-eval end")[0].rsplit("% dyna-eval table", 1)[0],
        lambda text: columns(text, [0, 1, 7, 6, 4, 5, 2, 3]).replace(
            r"{code} & \multicolumn{2}{c}{prose} & \multicolumn{2}{c}{maths}",
            r"{maths} & \multicolumn{2}{c}{prose} & \multicolumn{2}{c}{code}",
        ),
    ],
)
def test_a_change_of_form_alone_passes(edit: Callable[[str], str]) -> None:
    changed = edit(LATEX)
    assert changed != LATEX
    findings = check(changed)
    assert findings.agrees, findings
    assert Part.TABLE in findings.parts


# -------------------------------------------------------------------- what was edited


@settings(max_examples=40, deadline=None)
@given(st.data())
def test_a_changed_digit_of_any_figure_is_found_in_its_cell(data: st.DataObject) -> None:
    lines = LATEX.splitlines()
    place = data.draw(st.sampled_from(rows_of(LATEX)))
    step = lines[place].split()[0]
    figures = [found for found in re.finditer(r"\d", lines[place]) if found.start() > 8]
    digit = data.draw(st.sampled_from(figures))
    other = str((int(digit[0]) + 1) % 10)
    lines[place] = lines[place][: digit.start()] + other + lines[place][digit.end() :]
    (found,) = check("\n".join(lines)).differences
    assert found.row.split(" (")[0] == f"step {step}"
    assert found.line == place + 1


def test_a_difference_names_table_row_category_and_both_values() -> None:
    value = re.search(r"Tree structure & \d+\.\d & \$\d\.\d+\\times\$ & (\d+\.\d)", LATEX)
    assert value is not None
    (found,) = check(LATEX.replace(value[1], "99.9", 1)).differences
    assert (found.where, found.row, found.column) == (
        "table tab:four-step-categories",
        "step 3 (+ Tree structure)",
        "tokens/s on prose",
    )
    assert (found.in_paper, found.now) == ("99.9", value[1])


@pytest.mark.parametrize(
    ("title", "instead"),
    [("prose", "maths"), ("prose", "chat"), ("(overall)", "code"), ("code", "(overall)")],
)
def test_a_category_under_the_name_of_another_one_is_a_difference(title: str, instead: str) -> None:
    """Of the same table or of the one below it: whichever figures stand there are not that category's."""
    found = check(LATEX.replace(f"{{2}}{{c}}{{{title}}}", f"{{2}}{{c}}{{{instead}}}")).differences
    assert found
    assert all(title in each.column or instead in each.column for each in found)


def test_categories_whose_titles_were_swapped_are_differences() -> None:
    swapped = LATEX.replace("{code}", "{@}").replace("{prose}", "{code}").replace("{@}", "{prose}")
    columns_found = {each.column for each in check(swapped).differences}
    assert columns_found == {"tokens/s on code", "speedup on code", "tokens/s on prose", "speedup on prose"}


def test_a_reworded_category_is_noted_with_both_names() -> None:
    notes = [note.what for note in check(LATEX.replace("{prose}", "{essays}")).notes]
    assert notes == [
        "table tab:four-step-categories: column 'prose tokens/s' is called 'essays tokens/s' here",
        "table tab:four-step-categories: column 'prose speedup' is called 'essays speedup' here",
    ]


def test_a_label_of_another_row_is_a_difference() -> None:
    found = differences(check(LATEX.replace("& + Draft model &", "& + Tree structure &", 1)))
    assert found == [("step 2 (+ Draft model)", "Components", "+ Tree structure", "+ Draft model")]


def test_bold_on_what_is_not_the_best_of_its_category_is_a_difference() -> None:
    bold = re.sub(r"(Baseline & )(\d+\.\d)", r"\1\\textbf{\2}", LATEX, count=1)
    (found,) = check(bold).differences
    assert (found.row, found.column, found.now) == (
        "step 1 (Baseline)",
        "tokens/s on code",
        "not the best",
    )


def test_rows_and_columns_that_were_taken_away_or_added_are_named() -> None:
    lines = LATEX.splitlines()
    place = rows_of(LATEX)[2]
    gone = "\n".join(line for i, line in enumerate(lines) if i != place)
    assert [found[0::2] for found in differences(check(gone))] == [("step 3 (+ Tree structure)", "missing")]
    added = [
        *lines[: place + 2],
        r"    5 & + Magic & 1.0 & 2.0 & 1.0 & 2.0 & 1.0 & 2.0 \\",
        *lines[place + 2 :],
    ]
    assert [found[0::3] for found in differences(check("\n".join(added)))] == [("step 5", "no such row")]
    first = rows_of(LATEX)[:4]
    short = [line.rsplit(" & ", 1)[0] + r" \\" if i in first else line for i, line in enumerate(lines)]
    assert {found[1:3] for found in differences(check("\n".join(short)))} == {("speedup on maths", "missing")}


@pytest.mark.parametrize("number", ["code 3", "(overall) 8"])
def test_a_number_of_the_caption_is_checked(number: str) -> None:
    assert number in LATEX
    (found,) = check(LATEX.replace(number, number[:-1] + "77")).differences
    assert (found.row, found.in_paper) == ("caption", "77")


def test_the_caption_says_where_and_how_and_is_checked() -> None:
    built = categorized_report(by_category(on_machines("Chip 7", "Chip 7", "Chip 7", "Chip 7")))
    latex = categories_latex(built)
    assert " Measured on Chip 7, 2 cores, in bfloat16, 64 tokens a prompt, greedy. " in latex
    assert "Throughput in tokens/s of decoding, prefill apart, and speedup against the baseline" in latex
    assert check(latex, built).agrees
    assert [row for row, *_ in differences(check(latex.replace("bfloat16", "float16"), built))] == ["caption"]


def test_a_footnote_is_checked_by_its_numbers_and_its_mark() -> None:
    tied = change_samples(STORED, LINEAR.label, exactness=Exactness.TIE)
    now = categorized_report(tied)
    latex = categories_latex(now)
    assert check(latex, now).agrees
    note = re.search(r"\\,(\D*)(\d+)(?=[^\n]*\\par)", latex)
    assert note is not None
    (found,) = check(latex.replace(note[0], rf"\,{note[1]}7777"), now).differences
    assert (found.row, found.in_paper) == ("footnotes", "7777")
    unmarked = check(latex.replace(r"$^{\mathrm{a}}$ &", "&"), now)
    assert {found[1:3] for found in differences(unmarked)} == {("Components", "no footnote mark")}


def test_a_footnote_that_a_row_has_earned_since_is_missed() -> None:
    now = change_samples(STORED, LINEAR.label, exactness=Exactness.TIE)
    found = differences(check(LATEX, categorized_report(now)))
    assert ("step 2 (+ Draft model)", "Components", "no footnote mark", "marked a") in found


def test_results_that_changed_since_are_found_in_every_category() -> None:
    now = change_jobs(STORED, PRUNED.label, repeats=[2], samples=STORED.jobs[0].samples)
    found = {each.column for each in check(LATEX, categorized_report(now)).differences}
    assert {f"tokens/s on {name}" for name in ("code", "prose", "maths", "chat", "(overall)")} <= found


def test_a_row_that_has_no_result_any_more_is_found() -> None:
    now = change_jobs(STORED, TREE.label, state=JobState.FAILED, samples=())
    rows = {each.row for each in check(LATEX, categorized_report(now)).differences}
    assert "step 3 (+ Tree structure)" in rows


# ------------------------------------------------------------------ what cannot be compared


def test_a_sweep_that_the_database_does_not_have_fails() -> None:
    findings = check(LATEX, replace(BUILT, overall=replace(BUILT.overall, digest="e" * 64)))
    assert not findings.agrees
    assert findings.parts == ()
    assert ["not in this database" in each.what for each in findings.unchecked] == [True, True]


@pytest.mark.parametrize(
    ("edit", "complaint"),
    [
        (lambda text: text.replace('"digest"', "digest"), "cannot be read"),
        (lambda text: text.replace('["code"', '[7, ["x"]', 1), "has the category '7' now"),
        (lambda text: text.replace('["code","prose","maths"]', "3"), "cannot be read"),
        (lambda text: text.replace('"prose"', '"poems"'), "has the category 'poems' now"),
        (lambda text: text.replace('["demo"]', '["gone"]'), "does not have the pairs"),
        (lambda text: text.split(r"\begin{table}")[0], "no table follows"),
    ],
)
def test_a_damaged_mark_or_table_is_named_not_passed_over(edit: Callable[[str], str], complaint: str) -> None:
    changed = edit(LATEX)
    assert changed != LATEX
    findings = check(changed)
    assert not findings.agrees
    assert complaint in findings.unchecked[0].what


def test_a_mark_that_names_other_categories_finds_differences() -> None:
    findings = check(LATEX.replace('["code","prose","maths"]', '["chat","prose","maths"]'))
    assert {each.column for each in findings.differences} >= {"tokens/s on chat"}


def test_categories_that_were_named_anew_are_told() -> None:
    renamed = by_category(STORED, {index: kind.replace("prose", "text") for index, kind in FIVE.items()})
    (first,) = check(LATEX, categorized_report(renamed)).unchecked
    assert "no prompt of pair 'demo' has the category 'prose' now" in first.what


def test_a_table_whose_mark_is_gone_is_pointed_out() -> None:
    lines = LATEX.splitlines()
    bare = [line for line in lines if '"chat"' not in line]
    findings = check("\n".join(bare))
    begin = max(number for number, line in enumerate(bare, start=1) if "begin{tabular}" in line)
    assert f"not checked; they begin on lines {begin}" in findings.notes[-1].what


@settings(max_examples=80, deadline=None)
@given(st.data())
def test_no_damage_to_a_paper_breaks_the_check(data: st.DataObject) -> None:
    start = data.draw(st.integers(0, len(LATEX)))
    length = data.draw(st.integers(0, 400))
    inserted = data.draw(st.text(st.sampled_from('{}[]\\%&$\n1x,"'), max_size=8))
    check(LATEX[:start] + inserted + LATEX[start + length :])
