"""Sweeps of many rows: tables that break over pages, and texts that count what is too much to name."""

from __future__ import annotations

import io
import re
from dataclasses import replace

import pytest
from report_records import BASELINE, TREE, change_jobs, record

from dyna_eval.jobs import JobState
from dyna_eval.latex.categories import categories_latex
from dyna_eval.latex.check import Findings, check_paper
from dyna_eval.latex.prose import to_prose
from dyna_eval.latex.style import Origin, Part, Style
from dyna_eval.latex.table import to_latex
from dyna_eval.records import SweepRecord
from dyna_eval.reports.categories import CategorizedReport, categorized_report
from dyna_eval.reports.cells import Column
from dyna_eval.reports.measured_report import build_report
from dyna_eval.tables.report import print_table, to_markdown
from dyna_eval.tables.report_json import to_json

KINDS = {0: "code", 1: "prose", 2: "maths", 3: "chat"}


def many(rows: int, pairs: tuple[str, ...] = ("demo",), label: str = "Tree {}") -> SweepRecord:
    """A sweep of so many rows whose speeds go up and down: every other one is slower than the one before."""
    steps = [
        (
            replace(TREE, label=label.format(i), params={"depth": i, "branch": 1}),
            150.0 - 90 * (i % 2) + i / 10,
        )
        for i in range(1, rows)
    ]
    return record([(BASELINE, 100.0), *steps], prompts=4, repeats=1, pairs=pairs)


def lacking(rows: int, gone: int) -> SweepRecord:
    stored = many(rows)
    for i in range(1, gone + 1):
        stored = change_jobs(stored, f"Tree {i}", state=JobState.FAILED, samples=(), error=f"code {100 + i}")
    return stored


def check(paper: str, stored: SweepRecord) -> Findings:
    def recompute(origin: Origin) -> CategorizedReport | None:
        if origin.categories:
            return categorized_report(stored)
        return CategorizedReport(overall=build_report(stored), categories=())

    return check_paper(paper, recompute)


def caption(latex: str) -> str:
    found = re.search(r"\\caption\{(.*)\}\n", latex)
    assert found is not None
    return found[1]


def test_a_table_higher_than_a_page_breaks_over_pages_with_its_titles_on_each() -> None:
    latex = to_latex(build_report(many(40)))
    assert r"\begin{table}" not in latex
    assert latex.count(r"Step & Components & Configuration & Throughput & Speedup \\") == 2
    before, after = latex.split(r"\begin{longtable}")
    assert r"\usepackage{booktabs, longtable}" in before
    assert after.index(r"\caption{") < after.index(r"\label{tab:four-step}") < after.index(r"\endfirsthead")
    assert r"\begin{longtable}" not in to_latex(build_report(many(20)))


def test_labels_that_need_two_lines_count_twice() -> None:
    report = build_report(many(20, label="A tree as deep as it takes to be that long {}"))
    assert r"\begin{longtable}" in to_latex(report)


@pytest.mark.parametrize(
    "style",
    [Style(), Style(columns=tuple(Column), std=True, siunitx=True), Style(side_by_side=True, siunitx=True)],
)
def test_the_check_reads_a_long_table(style: Style) -> None:
    stored = many(34, pairs=("small", "large_1"))
    latex = to_latex(build_report(stored), style)
    findings = check(latex, stored)
    assert findings.agrees, findings
    assert set(findings.parts) == {Part.TABLE}
    row = re.search(r"^    20 & .*? (\d+\.\d) ", latex, re.MULTILINE)
    assert row is not None
    wrong = latex.replace(row[0], row[0].replace(row[1], "77.7"))
    assert [(one.row, one.in_paper) for one in check(wrong, stored).differences] == [
        ("step 20 (Tree 19)", "77.7")
    ]


def test_each_lot_of_a_long_table_by_category_is_checked_with_its_footnotes() -> None:
    stored = replace(lacking(34, 1), categories={"p1": KINDS})
    latex = categories_latex(categorized_report(stored))
    assert latex.count(r"\begin{longtable}") == 2
    findings = check(latex, stored)
    assert findings.agrees, findings
    assert findings.parts == (Part.TABLE, Part.TABLE)
    (wrong,) = check(latex.replace("code 101", "code 777"), stored).differences
    assert (wrong.row, wrong.in_paper) == ("footnotes", "777")


def test_a_caption_counts_many_slower_steps_and_names_the_worst() -> None:
    stored = many(40)
    latex = to_latex(build_report(stored))
    told = caption(latex)
    slower = re.search(
        r"(\d+) steps are measurably slower than the one before; at worst, step (\d+) \(Tree \d+\) is slower"
        r" than the step before it \(\$(0\.\d+)\\times\$\)\. (\d+) steps are measurably below the baseline;"
        r" at worst, step (\d+) \(Tree \d+\) falls below the baseline \(\$(0\.\d+)\\times\$\)\.",
        told,
    )
    assert slower is not None, told
    report = build_report(stored)
    ratios = {row.step: row.versus_previous.ratio for row in report.rows if row.versus_previous}
    below = {row.step: row.versus_baseline.ratio for row in report.rows if row.versus_baseline}
    assert int(slower[1]) == sum(ratio < 1 for ratio in ratios.values())
    assert int(slower[2]) == min(ratios, key=ratios.__getitem__)
    assert int(slower[4]) == sum(ratio < 1 for ratio in below.values())
    assert int(slower[5]) == min(below, key=below.__getitem__)
    assert len(told) < 1000
    for old, new in ((f"{slower[1]} steps are", "39 steps are"), (f"step {slower[2]} (", "step 39 (")):
        assert old in told
        assert {one.row for one in check(latex.replace(old, new), stored).differences} == {"caption"}


def test_six_slower_steps_are_named_and_seven_counted() -> None:
    def sentences(rows: int) -> int:
        return len(re.findall(r"Step \d+ \(Tree", caption(to_latex(build_report(many(rows))))))

    assert (sentences(13), sentences(14)) == (6, 0)


def test_a_paper_that_names_each_slower_step_passes_and_a_wrong_factor_does_not() -> None:
    stored = many(20)
    latex = to_latex(build_report(stored))
    row = build_report(stored).rows[3]
    assert row.versus_previous is not None
    factor = rf"{row.versus_previous.ratio:.2f}\times"
    named = f"Step 4 (Tree 3) is slower than the step before it (${factor}$)."
    paper = latex.replace(r"The highest throughput is bold", f"{named} The highest throughput is bold")
    assert named in paper
    assert check(paper, stored).agrees
    (wrong,) = check(paper.replace(named, named.replace(factor, r"0.77\times")), stored).differences
    assert (wrong.row, wrong.in_paper) == ("caption", "0.77")


def test_of_many_rows_without_figures_four_are_named_and_the_others_counted() -> None:
    report = build_report(lacking(12, 9))
    file = io.StringIO()
    print_table(report, file)
    for text in (file.getvalue(), to_markdown(report), to_latex(report), to_prose(report)):
        (told,) = re.findall(r"Left out: 9 configurations, 9 jobs: .*?and 5 more", " ".join(text.split()))
        assert re.findall(r"code (\d+)", told) == ["101", "102", "103", "104"]
    assert str(to_json(report)["left_out"]).count("code ") == 9
    assert "more" not in to_latex(build_report(lacking(12, 4))).split("Left out")[1]


def test_a_paper_that_names_all_that_is_left_out_passes_and_one_that_makes_up_more_does_not() -> None:
    stored = lacking(12, 9)
    for part in (to_latex, to_prose):
        paper = part(build_report(stored))
        assert "and 5 more" in paper
        for codes, agrees in (((105, 109), True), ((105, 110), False)):
            named = "; ".join(
                f"'Tree {code - 100}' (failed: 1 of 1 jobs failed: code {code})" for code in codes
            )
            assert check(paper.replace("and 5 more", named), stored).agrees is agrees
