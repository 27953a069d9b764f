"""A report by category: what its figures are, and every form of print."""

from __future__ import annotations

import csv
import io
import json
import re
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path
from statistics import fmean
from typing import Any

import pytest
from report_records import BASELINE, FOUR_STEPS, LINEAR, TREE, on_machines, record

from dyna_eval.errors import InputError
from dyna_eval.jobs import JobState, MeasureSpec
from dyna_eval.latex.categories import categories_latex
from dyna_eval.records import SweepRecord
from dyna_eval.reports.categories import UNCATEGORIZED, CategorizedReport, categorized_report
from dyna_eval.reports.measured_report import build_report
from dyna_eval.reports.statistics import Run, prompt_throughputs
from dyna_eval.tables.categories import (
    categories_csv,
    categories_json,
    categories_markdown,
    print_categories,
)

HOSTILE = "=1+1|[red]x</script>`*_\\&%$#{}~^\n\x1b[31m"
KINDS = {0: "code", 1: "prose", 2: "code", 3: "code", 4: "prose", 5: "prose", 6: "code", 7: "prose"}


def named(stored: SweepRecord | None = None, categories: dict[int, str] | None = None) -> SweepRecord:
    return replace(stored or record(), categories={"p1": KINDS if categories is None else categories})


def throughputs(built: CategorizedReport, label: str) -> dict[str, float]:
    found = {}
    for one in built.categories:
        row = next(row for row in one.report.rows if row.label == label)
        assert row.figures is not None
        found[one.category] = row.figures.throughput.mean
    return found


def printed(built: CategorizedReport) -> str:
    file = io.StringIO()
    print_categories(built, file)
    return file.getvalue()


# ------------------------------------------------------------------------------ figures


def test_a_categorys_throughput_is_the_mean_over_its_prompts() -> None:
    stored = named()
    runs = [Run(repeat=j.repeat, samples=j.samples) for j in stored.jobs if j.label == LINEAR.label]
    rates = prompt_throughputs(runs)
    assert throughputs(categorized_report(stored), LINEAR.label) == pytest.approx(
        {
            kind: fmean(rate for index, rate in rates.items() if KINDS[index] == kind)
            for kind in ("code", "prose")
        }
    )


def test_the_mean_of_categories_weighted_by_their_prompts_is_the_overall_one() -> None:
    built = categorized_report(named(categories={**KINDS, 0: "other", 1: "other"}))
    for place, row in enumerate(built.overall.rows):
        assert row.figures is not None
        weighted = sum(
            one.prompts * figures.throughput.mean
            for one in built.categories
            if (figures := one.report.rows[place].figures)
        )
        assert weighted / 8 == pytest.approx(row.figures.throughput.mean)


def test_a_categorys_speedup_is_against_the_baseline_on_its_own_prompts() -> None:
    built = categorized_report(named())
    base, linear = throughputs(built, BASELINE.label), throughputs(built, LINEAR.label)
    for one in built.categories:
        row = one.report.rows[1]
        assert row.versus_baseline is not None
        assert row.versus_baseline.ratio == pytest.approx(linear[one.category] / base[one.category])


def test_the_overall_column_is_the_report_itself() -> None:
    assert categorized_report(named()).overall == build_report(named())


def test_categories_come_as_among_the_prompts_and_those_without_one_at_the_end() -> None:
    built = categorized_report(named(categories={3: "b", 5: "a", 7: "b"}))
    assert [(one.category, one.prompts) for one in built.categories] == [
        ("b", 2),
        ("a", 1),
        (UNCATEGORIZED, 5),
    ]


def test_a_category_that_is_called_no_category_loses_no_prompt() -> None:
    built = categorized_report(named(categories={0: UNCATEGORIZED, 1: "a"}))
    assert [(one.category, one.prompts) for one in built.categories] == [("a", 1), (UNCATEGORIZED, 7)]


def test_a_sweep_without_categories_is_told_how_to_get_them() -> None:
    with pytest.raises(InputError, match=r"has no categories; name .* with prompts\.category"):
        categorized_report(record())


def test_with_a_tuning_split_no_category_holds_a_tuning_prompt() -> None:
    stored = named(replace(record(), measure=MeasureSpec(tune_fraction=0.25)))
    built = categorized_report(stored)
    assert sum(one.prompts for one in built.categories) == 6
    assert built.overall.chosen


def test_every_pair_has_the_categories_of_its_own_prompts() -> None:
    stored = record(pairs=("one", "two"))
    jobs = tuple(replace(job, prompt_set="p2") if job.pair == "two" else job for job in stored.jobs)
    split = replace(stored, jobs=jobs, categories={"p1": KINDS, "p2": dict.fromkeys(range(8), "maths")})
    built = categorized_report(split)
    assert [one.category for one in built.categories] == ["code", "prose", "maths"]
    one, two = printed(built).split("pair two")
    assert "maths" not in one
    assert "code" not in two
    assert "maths (8 prompts)" in two


# -------------------------------------------------------------------------------- forms


def test_the_terminal_has_a_column_group_per_category_and_an_overall_one() -> None:
    text = printed(categorized_report(named()))
    assert re.search(r"code \(4 prompts\) +prose \(4 prompts\) +\(overall\)", text)
    assert len(re.findall(r"\d\.\d\d ×", text)) == 4 * 3


def test_terminal_and_markdown_say_where_and_how_and_that_the_prefill_is_apart() -> None:
    built = categorized_report(named(on_machines("Chip A", "Chip A", "Chip A", "Chip A")))
    told = "measured on Chip A, 2 cores, in bfloat16, 64 tokens a prompt, greedy; prefill apart"
    for text in (printed(built), categories_markdown(built)):
        assert [line.rstrip() for line in text.splitlines()].count(told) == 1


@pytest.mark.parametrize("name", ["overall", "(overall)"])
def test_a_category_is_not_taken_for_the_total_whatever_its_name(name: str) -> None:
    text = printed(categorized_report(named(categories=dict.fromkeys(range(4), name))))
    assert re.search(rf"{re.escape(name)} \(4 prompts\)", text)


def test_a_row_that_failed_has_no_figures_in_any_category() -> None:
    built = categorized_report(named(record(states={TREE.label: JobState.FAILED})))
    [line] = [line for line in printed(built).splitlines() if "Tree structure " in line]
    assert line.count("--") == 6


def test_the_best_cell_of_each_group_is_bold_by_computation() -> None:
    """The tree is the fastest on prose, where the others are slowed down."""
    stored = named(record(noise=0.0))
    jobs = tuple(
        job
        if job.label == TREE.label
        else replace(
            job,
            samples=tuple(
                replace(s, decode_seconds=s.decode_seconds * (9 if KINDS[s.prompt_index] == "prose" else 1))
                for s in job.samples
            ),
        )
        for job in stored.jobs
    )
    lines = categories_markdown(categorized_report(replace(stored, jobs=jobs))).splitlines()
    cells = {
        step.label: [cell.strip() for cell in line.split("|")][4:10]
        for line in lines
        for step, _ in FOUR_STEPS
        if f"| {step.label} " in line
    }
    bold = {label: [cell.startswith("**") for cell in own] for label, own in cells.items()}
    assert bold["+ Tree structure"] == [False, False, True, True, False, False]
    assert bold["+ Adaptive pruning"] == [True, True, False, False, True, True]
    assert not any(bold["Baseline"])


def test_csv_has_a_line_per_row_and_category_with_intervals() -> None:
    lines = list(csv.DictReader(io.StringIO(categories_csv(categorized_report(named())))))
    assert [line["category"] for line in lines] == ["code", "prose", "(overall)"] * 4
    assert [line["prompts"] for line in lines[:3]] == ["4", "4", "8"]
    linear = [line for line in lines if line["components"] == "'+ Draft model"]
    assert all(float(line["speedup_low"]) < float(line["speedup"]) for line in linear)


def test_json_has_the_report_and_the_same_rows_per_category() -> None:
    value: Any = json.loads(json.dumps(categories_json(categorized_report(named())), allow_nan=False))
    assert [one["category"] for one in value["categories"]] == ["code", "prose"]
    assert {tuple(row) for one in value["categories"] for row in one["rows"]} == {tuple(value["rows"][0])}


def test_latex_has_a_column_group_per_category() -> None:
    text = categories_latex(categorized_report(named()))
    assert r"\multicolumn{2}{c}{code} & \multicolumn{2}{c}{prose}" in text
    assert "Prompts: code 4, prose 4, (overall) 8." in text
    assert r"\cmidrule(lr){3-4} \cmidrule(lr){5-6} \cmidrule(lr){7-8}" in text
    rows = [line for line in text.splitlines() if re.match(r"    \d & ", line)]
    assert [row.count(" & ") for row in rows] == [7] * 4
    assert text.count(r"\textbf") == 2 * 3


def test_latex_puts_more_groups_than_a_page_is_wide_below_each_other() -> None:
    text = categories_latex(categorized_report(named(categories={index: f"c{index}" for index in range(8)})))
    assert [block.count("multicolumn") for block in text.split(r"\begin{tabular}")[1:]] == [3, 3, 3]
    assert text.count(r"\midrule") == text.count(r"\bottomrule") == 3


def hostile() -> CategorizedReport:
    label = replace(LINEAR, label=HOSTILE)
    return categorized_report(
        named(record(((BASELINE, 128.0), (label, 174.0)), name=HOSTILE), dict.fromkeys(range(4), HOSTILE))
    )


def test_what_a_user_wrote_stays_text_in_every_form() -> None:
    built = hostile()
    for text in (printed(built), categories_csv(built), categories_markdown(built), categories_latex(built)):
        assert "\x1b" not in text
    assert "</script>" not in categories_markdown(built)
    assert all(len(row) == 12 for row in csv.reader(io.StringIO(categories_csv(built))))
    assert "\n=1+1" not in categories_csv(built)
    table = [line for line in categories_markdown(built).splitlines() if line.startswith("|")]
    assert {line.replace("\\|", "").count("|") for line in table} == {10}


@pytest.mark.skipif(shutil.which("pdflatex") is None, reason="pdflatex is not installed")
@pytest.mark.parametrize("built", [categorized_report(named()), hostile()], ids=["usual", "hostile"])
def test_latex_compiles(built: CategorizedReport, tmp_path: Path) -> None:
    table = categories_latex(built)
    head = "\\documentclass{article}\n\\usepackage{booktabs}\n\\begin{document}\n"
    (tmp_path / "table.tex").write_text(f"{head}{table}\\end{{document}}\n")
    command = ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", "table.tex"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout
    assert "Overfull" not in done.stdout or built.overall.name == HOSTILE
