"""What a report writes as LaTeX, compiled by the real `pdflatex` and read back from the page."""

from __future__ import annotations

import itertools
import re
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path, PurePosixPath

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from report_records import BASELINE, LINEAR, PRUNED, TREE, change_jobs, record

from dyna_eval.jobs import JobState
from dyna_eval.latex.categories import categories_latex
from dyna_eval.latex.document import figure_paths, to_document
from dyna_eval.latex.macros import macros, to_macros
from dyna_eval.latex.style import PLAIN, Column, Style
from dyna_eval.plots import ablation_bars
from dyna_eval.records import SweepRecord
from dyna_eval.reports.categories import categorized_report
from dyna_eval.reports.digits import gain_over_previous
from dyna_eval.reports.measured_report import build_report
from dyna_eval.reports.report import Report

pytestmark = pytest.mark.skipif(
    shutil.which("pdflatex") is None or shutil.which("pdftotext") is None,
    reason="pdflatex or pdftotext is not installed (Debian: texlive-latex-recommended, poppler-utils)",
)


def has_package(name: str) -> bool:
    found = subprocess.run(["kpsewhich", f"{name}.sty"], capture_output=True, text=True, check=False)
    return bool(found.stdout.strip())


def compile_latex(folder: Path, text: str) -> str:
    """Compile a document twice, for its references; return what the pages say."""
    (folder / "paper.tex").write_text(text, encoding="utf-8")
    for _ in range(2):
        done = subprocess.run(
            ["pdflatex", "-halt-on-error", "-no-shell-escape", "-interaction=nonstopmode", "paper.tex"],
            cwd=folder,
            capture_output=True,
            text=True,
            errors="replace",
            check=False,
            timeout=240,
        )
        assert done.returncode == 0, done.stdout[-3000:]
    read = subprocess.run(
        ["pdftotext", "-layout", "paper.pdf", "-"], cwd=folder, capture_output=True, text=True, check=True
    )
    return read.stdout


def log(folder: Path) -> str:
    return (folder / "paper.log").read_text(encoding="utf-8", errors="replace")


def document(stored: SweepRecord, style: Style = PLAIN) -> tuple[Report, str]:
    report = build_report(stored, allow_mixed=True)
    return report, to_document(report, style, figure_paths(report, PurePosixPath(".")))


@pytest.mark.parametrize(
    ("style", "pairs"),
    [
        (PLAIN, ("demo",)),
        (Style(columns=tuple(Column), std=True), ("demo",)),
        (Style(columns=(Column.INTERVAL,), siunitx=True), ("demo",)),
        (Style(columns=(Column.NODES,), siunitx=True, std=True, side_by_side=True), ("small", "large_1")),
    ],
)
def test_every_style_compiles_with_its_figures_on_the_page(
    tmp_path: Path, style: Style, pairs: tuple[str, ...]
) -> None:
    if style.siunitx and not has_package("siunitx"):
        pytest.skip("siunitx is not installed (Debian: texlive-science)")
    report, text = document(record(pairs=pairs), style)
    page = compile_latex(tmp_path, text)
    for row in report.rows:
        assert row.figures is not None
        assert f"{row.figures.throughput.mean:.1f}" in page
        assert row.label in page
    assert "??" not in page
    assert "undefined" not in log(tmp_path)


def test_aligned_gains_are_on_the_page_with_their_signs(tmp_path: Path) -> None:
    if not has_package("siunitx"):
        pytest.skip("siunitx is not installed (Debian: texlive-science)")
    report, text = document(record(), Style(columns=(Column.GAIN,), siunitx=True))
    page = compile_latex(tmp_path, text).replace("−", "-")
    for row in report.rows[1:]:
        assert f" {gain_over_previous(row)}\n" in page
    assert "Overfull" not in log(tmp_path)


def test_the_plain_table_fits_the_page(tmp_path: Path) -> None:
    compile_latex(tmp_path, document(record())[1])
    assert "Overfull" not in log(tmp_path)


@pytest.mark.parametrize("style", [PLAIN, Style(columns=(Column.NODES, Column.GAIN), siunitx=True)])
def test_every_one_of_many_rows_is_on_a_page_and_so_is_the_whole_chart(tmp_path: Path, style: Style) -> None:
    if style.siunitx and not has_package("siunitx"):
        pytest.skip("siunitx is not installed (Debian: texlive-science)")
    steps = [
        (replace(TREE, label=f"Tree {i}", params={"depth": i}), 150.0 - 90 * (i % 2) + i)
        for i in range(1, 91)
    ]
    report, text = document(record([(BASELINE, 100.0), *steps], prompts=3, repeats=1), style)
    ablation_bars(report, tmp_path)
    pages = compile_latex(tmp_path, text)
    table, _, _ = pages.partition("intervals of the speedup")
    for row in report.rows:
        assert row.figures is not None
        assert re.search(
            rf"^ *{row.step} +{row.label}[a-z]?\b.* {row.figures.throughput.mean:.1f} ", table, re.MULTILINE
        )
    assert table.count("Components") > 1  # titles
    assert "Figure 1" in pages
    assert "too large" not in log(tmp_path)
    assert "Overfull \\vbox" not in log(tmp_path)


def test_a_table_that_nearly_fills_a_page_stands_before_the_prose_ends(tmp_path: Path) -> None:
    steps = [(replace(TREE, label=f"Tree {i}", params={"depth": i}), 150.0 + i) for i in range(1, 32)]
    _, text = document(record([(BASELINE, 100.0), *steps], prompts=3, repeats=1))
    pages = compile_latex(tmp_path, text)
    assert pages.index("Table 1: Ablation") < pages.index("Taken together")
    assert "too large" not in log(tmp_path)


def test_many_rows_by_category_are_on_the_pages(tmp_path: Path) -> None:
    steps = [(replace(TREE, label=f"Tree {i}", params={"depth": i}), 150.0 + i) for i in range(1, 60)]
    stored = record([(BASELINE, 100.0), *steps], prompts=4, repeats=1)
    kinds = {0: "code", 1: "prose", 2: "maths", 3: "chat"}
    built = categorized_report(replace(stored, categories={"p1": kinds}))
    packages = r"\documentclass{article}\usepackage{booktabs, longtable}"
    pages = compile_latex(
        tmp_path, f"{packages}\\begin{{document}}{categories_latex(built)}\\end{{document}}"
    )
    for row in built.overall.rows:
        assert len(re.findall(rf"^ *{row.step} +{row.label} ", pages, re.MULTILINE)) == 2
    assert "Overfull \\vbox" not in log(tmp_path)


def test_a_chart_beside_the_document_is_shown_and_a_missing_one_left_out(tmp_path: Path) -> None:
    report, text = document(record())
    assert "Figure 1" not in compile_latex(tmp_path, text)
    ablation_bars(report, tmp_path)
    assert "Figure 1" in compile_latex(tmp_path, text)


def test_macros_can_stand_in_text_and_mathematics(tmp_path: Path) -> None:
    report = build_report(record())
    named = {macro.name: macro.value for macro in macros(report)}
    page = compile_latex(
        tmp_path,
        "\\documentclass{article}\n"
        + to_macros(report)
        + "\\begin{document}\nBase \\fourStepBaselineThroughput{} and"
        " tree $\\fourStepTreeStructureGainOverPrevious$\n\\end{document}\n",
    )
    assert f"Base {named['fourStepBaselineThroughput']} and" in page
    assert named["fourStepTreeStructureGainOverPrevious"].lstrip("-") in page


HOSTILE = st.lists(
    st.sampled_from(
        [
            *"aZ0 %&$#_{}\\~^<>|`'\",-+[]*?!@=\n\r\x00éőŋЖ中😀τ→\u0301\u200b",
            "\\end{table}",
            "\\input{secret}",
            "\\\\",
            "^^M",
            "--",
            "% dyna-eval table {}",
            "\\iffalse",
            "$$",
        ]
    ),
    min_size=3,
    max_size=24,
).map("".join)

FOLDERS: Iterator[int] = itertools.count()


@settings(max_examples=6, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(HOSTILE, min_size=6, max_size=6, unique=True), st.booleans())
def test_no_name_keeps_a_document_from_compiling(tmp_path: Path, names: list[str], together: bool) -> None:
    folder = tmp_path / str(next(FOLDERS))
    folder.mkdir()
    steps = tuple(
        (replace(row, label=f"{i}{name}"), 100.0 + i)
        for i, (row, name) in enumerate(zip((BASELINE, LINEAR, TREE, PRUNED), names, strict=False))
    )
    stored = record(steps, name=names[4], pairs=(names[5], f"+{names[5]}"), prompts=3)
    _, text = document(stored, Style(side_by_side=together))
    page = compile_latex(folder, text)
    assert page.count("Taken together") == 2


def test_printable_signs_are_on_the_page_as_they_were_written(tmp_path: Path) -> None:
    signs = r"a_b & 50% #1 {x} $y$ \n ~z ^w <v> |u| [t] (s) c--d e---f @ = * + ; : ! ?"
    stored = record(((replace(BASELINE, label="x"), 100.0), (replace(LINEAR, label=signs), 120.0)), name="n")
    page = " ".join(compile_latex(tmp_path, document(stored)[1]).split())
    assert signs.replace(" ", "") in page.replace(" ", "")


def test_letters_that_pdflatex_does_not_know_are_named_by_their_code_points(tmp_path: Path) -> None:
    stored = record(((replace(BASELINE, label="基线"), 100.0), (replace(LINEAR, label="é ő ß"), 120.0)))
    page = compile_latex(tmp_path, document(stored)[1])
    assert "[U+57FA][U+7EBF]" in page
    assert "é ő ß" in page


def test_rows_without_a_result_or_a_second_repeat_compile_in_aligned_columns(tmp_path: Path) -> None:
    if not has_package("siunitx"):
        pytest.skip("siunitx is not installed (Debian: texlive-science)")
    failed = change_jobs(
        record(), TREE.label, state=JobState.FAILED, samples=(), error="out of \\memory & {time"
    )
    stored = change_jobs(failed, LINEAR.label, repeats=[1, 2], state=JobState.FAILED, samples=())
    style = Style(columns=tuple(Column), std=True, siunitx=True)
    page = compile_latex(tmp_path, document(stored, style)[1])
    assert "over the 1 of 3 repeats that are done" in " ".join(page.split())
    assert "\\memory & {time" in page
