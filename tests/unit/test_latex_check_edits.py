"""What authors do to a paper: right edits pass the check, in whatever form, and wrong ones do not."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from report_records import BASELINE, LINEAR, PRUNED, TREE, change_jobs, change_samples, record

from dyna_eval.jobs import Configuration, JobState, Method
from dyna_eval.latex.check import Findings, check_paper
from dyna_eval.latex.macros import to_macros
from dyna_eval.latex.prose import to_prose
from dyna_eval.latex.style import Origin, Part, Style
from dyna_eval.latex.table import to_latex
from dyna_eval.measurements import Exactness
from dyna_eval.records import SweepRecord
from dyna_eval.reports.categories import CategorizedReport
from dyna_eval.reports.cells import Column
from dyna_eval.reports.measured_report import build_report

STORED = record()
REPORT = build_report(STORED)
LATEX = to_latex(REPORT)
MACROS = to_macros(REPORT)
PROSE = to_prose(REPORT)
MONOTONE_STEPS = tuple(zip((BASELINE, LINEAR, TREE, PRUNED), (60.0, 90.0, 130.0, 190.0), strict=True))
"""Every step is faster than the one before."""
MONOTONE = record(MONOTONE_STEPS)


def check(paper: str, *stored: SweepRecord, others: tuple[str, ...] = ()) -> Findings:
    known = {one.digest: one for one in stored or (STORED,)}

    def recompute(origin: Origin) -> CategorizedReport | None:
        found = known.get(origin.digest)
        if found is None:
            return None
        report = build_report(found, allow_mixed=True, preset=origin.preset)
        return CategorizedReport(overall=report, categories=())

    return check_paper(paper, recompute, others)


def differences(findings: Findings) -> list[tuple[str, str, str, str]]:
    return [(each.row, each.column, each.in_paper, each.now) for each in findings.differences]


def edited(text: str, *edits: tuple[str, str]) -> str:
    """Replace parts of a text that are in it."""
    for old, new in edits:
        assert old in text, old
        text = text.replace(old, new)
    return text


def only(findings: Findings) -> tuple[str, str]:
    """Return row and column of the only difference."""
    assert findings.unchecked == ()
    (found,) = findings.differences
    return found.row.split(" (")[0], found.column


# ----------------------------------------------------------------- form around a table

STYLES = st.builds(
    Style,
    columns=st.lists(st.sampled_from(Column), unique=True).map(tuple),
    std=st.booleans(),
    siunitx=st.booleans(),
    side_by_side=st.booleans(),
)


def caption_below(latex: str) -> str:
    """Move caption and label to where the table's environment ends."""
    caption = re.findall(r"^  \\(?:caption|label)\{.*\}\n", latex, re.MULTILINE)
    assert len(caption) == 2
    for line in caption:
        latex = latex.replace(line, "")
    return latex.replace(r"\end{table}", "".join(caption) + r"\end{table}")


def as_longtable(latex: str) -> str:
    """Set a table as one that breaks over pages: the caption in its head, which stands on every page."""
    found = re.search(r"  (\\caption\{.*\})\n  (\\label\{.*\})\n", latex)
    heads = re.search(r"    \\toprule\n(.*?)    \\midrule\n", latex, re.DOTALL)
    assert found is not None
    assert heads is not None
    first = rf"    {found[1]}{found[2]}\\" + f"\n{heads[0]}"
    again = f"    \\endfirsthead\n{heads[0]}    \\endhead\n    \\midrule\n    \\endfoot\n"
    return edited(
        latex,
        (found[0], ""),
        (heads[0], first + again),
        (r"\begin{tabular}", r"\begin{longtable}"),
        (r"\end{tabular}", r"\end{longtable}"),
        ("\\begin{table}[tp]\n", ""),
        ("\\end{table}\n", ""),
        ("  \\centering\n", ""),
    )


def in_environment(name: str) -> Callable[[str], str]:
    return lambda latex: edited(
        latex, (r"\begin{table}[tp]", rf"\begin{{{name}}}"), (r"\end{table}", rf"\end{{{name}}}")
    )


def mark_inside(latex: str) -> str:
    lines = latex.splitlines(keepends=True)
    mark = next(line for line in lines if line.startswith("% dyna-eval table"))
    end = next(line for line in lines if line.startswith("% dyna-eval end"))
    tabular = next(line for line in lines if r"\begin{tabular}" in line)
    return edited(latex, (mark, ""), (end, ""), (tabular, mark + tabular))


FOREIGN = r"""
The processor has 77 cores.
\begin{table}
  \caption{Of others: 55.5 tokens/s.}
  \begin{tabular}{cc} a & 66.6 \\ \end{tabular}
\end{table}
"""
"""What may stand below a table of ours."""

FORMS: dict[str, Callable[[str], str]] = {
    "caption below": caption_below,
    "longtable": as_longtable,
    "figure": in_environment("figure"),
    "figure*": in_environment("figure*"),
    "center": in_environment("center"),
    "sidewaystable": in_environment("sidewaystable"),
    "quote": in_environment("quote"),
    "mark inside": mark_inside,
    "caption below in a figure": lambda latex: in_environment("figure")(caption_below(latex)),
    "captionof": lambda latex: in_environment("center")(
        caption_below(latex).replace(r"\caption{", r"\captionof{table}{")
    ),
    "a foreign one beside it": lambda latex: edited(
        latex,
        (r"\end{table}", r"\begin{tabular}{c} 88.8 \\ \end{tabular}\caption{Of 99.}" + "\n\\end{table}"),
    ),
    "strut and phantom": lambda latex: re.sub(
        r" & (\d+\.\d) & ", r" & \\rule{0pt}{2.6ex}\\phantom{1}\1 & ", latex
    ),
}


@pytest.mark.parametrize("form", FORMS)
@settings(max_examples=8, deadline=None)
@given(STYLES, st.booleans(), st.booleans())
def test_a_table_passes_in_every_environment_with_text_below(
    form: str, style: Style, side_by_side: bool, tied: bool
) -> None:
    stored = record(pairs=("small", "large") if side_by_side else ("demo",), prompts=4)
    stored = change_samples(stored, LINEAR.label, exactness=Exactness.TIE) if tied else stored
    latex = to_latex(build_report(stored), replace(style, side_by_side=side_by_side))
    findings = check(FORMS[form](latex) + FOREIGN, stored)
    assert findings.agrees, findings
    assert findings.parts == (Part.TABLE,)


@pytest.mark.parametrize("form", [form for form in FORMS if form != "longtable"])
def test_a_table_passes_in_every_environment_without_the_line_that_ends_it(form: str) -> None:
    changed = re.sub(r"% dyna-eval end of table\n", "", FORMS[form](LATEX))
    findings = check(changed + FOREIGN)
    assert findings.agrees, findings


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("with_end", [True, False])
def test_a_changed_footnote_is_found_in_every_environment(form: str, with_end: bool) -> None:
    interval = re.search(r"step 3 \[(\d\.\d\d),", LATEX)
    assert interval is not None
    changed = FORMS[form](edited(LATEX, (interval[0], "step 3 [7.77,")))
    if with_end:
        (found,) = check(changed + FOREIGN).differences
        assert (found.row, found.in_paper) == ("footnotes", "7.77")
    else:
        assert not check(re.sub("% dyna-eval end.*", "", changed) + FOREIGN).agrees


def test_where_nothing_tells_where_the_footnotes_end_that_is_said() -> None:
    bare = re.sub(r"% dyna-eval end of table\n", "", as_longtable(LATEX))
    (remark,) = check(bare + FOREIGN).unchecked
    assert "put the line '% dyna-eval end of table' between them" in remark.what
    without = record(prompts=1)
    no_numbers = to_latex(build_report(without))
    findings = check(re.sub(r"% dyna-eval end of table\n", "", as_longtable(no_numbers)) + FOREIGN, without)
    assert findings.agrees, findings


@pytest.mark.parametrize("form", ["caption below", "longtable", "captionof"])
def test_a_changed_number_of_a_caption_is_found_wherever_the_caption_stands(form: str) -> None:
    changed = FORMS[form](edited(LATEX, ("3 repeats", "78 repeats")))
    assert [(found[0], found[2]) for found in differences(check(changed))] == [("caption", "78")]


def test_a_changed_figure_of_a_longtable_is_found_in_its_cell() -> None:
    changed = re.sub(r"(AR only & )(\d+\.\d)", r"\g<1>99.9", as_longtable(LATEX))
    findings = check(changed)
    assert only(findings) == ("step 1", "Throughput")
    assert changed.splitlines()[findings.differences[0].line - 1].startswith("    1 & Baseline")


# ------------------------------------------------------------------------ configurations

STATIC = replace(LINEAR, label="static", params={"k": 6, "cache": "static"})
DYNAMIC = replace(LINEAR, label="dynamic", params={"k": 6, "cache": "dynamic"})
BEST_FIRST = Configuration(
    label="best first", method=Method.BEST_FIRST, params={"depth": 7, "branch": 3, "max_nodes": 64}
)
PATH = replace(PRUNED, label="by path", params={**PRUNED.params, "threshold": 2.5e-5, "prune": "path"})
MANY = record(
    tuple(
        (one, 100.0 + i) for i, one in enumerate((BASELINE, LINEAR, TREE, STATIC, DYNAMIC, BEST_FIRST, PATH))
    )
)
MANY_LATEX = to_latex(build_report(MANY))


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("tree, $D=7$, $B=2$, $\\tau=0$", "tree, $B=7$, $D=2$, $\\tau=0$"),
        ("tree, $D=7$, $B=2$, $\\tau=0$", "tree, $D=2$, $B=7$, $\\tau=0$"),
        ("tree, $D=7$, $B=2$, $\\tau=0$", "tree, depth 2, width 7, $\\tau=0$"),
        ("tree, $D=7$, $B=2$, $\\tau=0$", "tree, $D=7$, $B=2$"),
        ("tree, $D=7$, $B=2$, $\\tau=0$", "tree, $D=7$, $B=2$, $\\tau=0$, $K=6$"),
        ("linear, $K=6$ &", "best\\_first, $K=6$ &"),
        ("linear, $K=6$ &", "best-first, $K=6$ &"),
        ("linear, $K=6$ &", "tree, $K=6$ &"),
        ("linear, $K=6$ &", "linear, $K=6$, static cache &"),
        ("linear, $K=6$ &", "linear, $K=6.0001$ &"),
        ("linear, $K=6$, static cache", "linear, $K=6$, dynamic cache"),
        ("linear, $K=6$, dynamic cache", "linear, $K=6$, static cache"),
        ("AR only", "linear"),
        (r"prune=path", "prune=branch"),
        (r"10^{-5}", "10^{-6}"),
    ],
)
def test_other_settings_or_words_of_another_row_are_differences(old: str, new: str) -> None:
    findings = check(edited(MANY_LATEX, (old, new)), MANY)
    assert only(findings)[1] == "Configuration"


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("tree, $D=7$, $B=2$, $\\tau=0$", "tree, $B=2$, $D=7$, $\\tau=0$"),
        ("tree, $D=7$, $B=2$, $\\tau=0$", "Tree; $D = 7$; $B{=}2$; $\\tau\\,{=}\\,0.0$."),
        ("tree, $D=7$, $B=2$, $\\tau=0$", "tree, depth 7, width 2, $\\tau=0$"),
        ("tree, $D=7$, $B=2$, $\\tau=0$", "tree, $(D,B,\\tau)=(7,2,0)$"),
        ("tree, $D=7$, $B=2$, $\\tau=0$", "unpruned tree: $D=\\num{7}$, \\textbf{$B=2$}, $\\tau=0$"),
        ("tree, $D=7$, $B=2$, $\\tau=0$", "a tree of depth 7, $B=2$, $\\theta=0$"),
        ("linear, $K=6$ &", "chain (ours), $K=6$ &"),
        ("linear, $K=6$ &", "Linear, $k=6$ &"),
        ("linear, $K=6$, static cache", "$K=6$, linear, Static Cache"),
        (", prune=path", ""),
        ("AR only", "autoregressive"),
        (r"best\_first", "best-first"),
        (r"2.5\cdot 10^{-5}", r"2.5\times10^{-5}"),
        (r"$N\leq 64$", r"$N\le64$"),
    ],
)
def test_a_configuration_in_other_words_passes(old: str, new: str) -> None:
    findings = check(edited(MANY_LATEX, (old, new)), MANY)
    assert findings.agrees, findings


def test_a_reworded_configuration_is_noted() -> None:
    notes = check(edited(LATEX, ("linear, $K=6$", "chain, $K=6$"))).notes
    assert [note.what for note in notes] == [
        "table tab:four-step, step 2 (+ Draft model): its configuration is written 'chain, K=6' here"
    ]
    assert check(edited(LATEX, ("$D=7$, $B=2$", "$D=7$,$B=2$"))).notes == ()


# ------------------------------------------------------------------------ signs and bold

GAINS = to_latex(REPORT, Style(columns=(Column.GAIN,)))


@pytest.mark.parametrize(
    "form", [r"\num{%s}", r"\textcolor{red}{%s}", r"\emph{%s}", r"\num[round-precision=1]{%s}"]
)
def test_the_sign_of_a_number_counts_within_a_command(form: str) -> None:
    gains = re.findall(r"& \$([+-]\d+\.\d)\$", GAINS)
    assert {gain[0] for gain in gains} == {"+", "-"}
    right, wrong = GAINS, GAINS
    for gain in gains:
        other = {"+": "-", "-": "+"}[gain[0]] + gain[1:]
        right = right.replace(f"${gain}$", form.replace("%s", gain.lstrip("+")))
        wrong = wrong.replace(f"${gain}$", form.replace("%s", other.lstrip("+")))
    assert check(right).agrees, check(right)
    assert len(check(wrong).differences) == len(gains)


def test_the_gains_of_macros_agree_within_num() -> None:
    names = iter(["DraftModel", "TreeStructure", "AdaptivePruning"])
    cells = re.sub(
        r"& \$[+-]\d+\.\d\$", lambda _: rf"& \num{{\fourStep{next(names)}GainOverPrevious}}", GAINS
    )
    assert cells != GAINS
    assert check(MACROS + cells).agrees
    gain = re.search(r"(TreeStructureGainOverPrevious\}\{)-", MACROS)
    assert gain is not None
    turned = check(MACROS.replace(gain[0], gain[1]) + cells)
    assert [each.where for each in turned.differences] == [
        "table tab:four-step",
        r"macro \fourStepTreeStructureGainOverPrevious",
    ]


@pytest.mark.parametrize(("jobs", "same"), [("1--3", True), ("1\u20133", True), ("1--4", False)])
def test_a_range_may_have_a_dash_of_its_length(jobs: str, same: bool) -> None:
    written = to_latex(build_report(record(((BASELINE, 100.0),))), Style(columns=(Column.JOBS,)))
    assert check(edited(written, ("& 1-3 ", f"& {jobs} ")), record(((BASELINE, 100.0),))).agrees is same


BOLD = [
    ("", r"{\bf %s}"),
    ("", r"{\bf%s}"),
    ("", r"\pmb{%s}"),
    (r"\newcommand{\best}[1]{\textbf{#1}}", r"\best{%s}"),
    (r"\newcommand\best[1]{{\bfseries #1}}", r"\best {%s}"),
    (r"\newcommand{\best}[2]{\textcolor{#1}{\textbf{#2}}}", r"\best{red}{%s}"),
    (r"\newcommand{\first}[1]{\best{#1}} \newcommand{\best}[1]{\textbf{#1}}", r"\first{%s}"),
    (r"\def\best#1{\textbf{#1}}", r"\best{%s}"),
    (r"\NewDocumentCommand{\best}{m}{\textbf{#1}}", r"\best{%s}"),
    (r"\let\best=\textbf", r"\best{%s}"),
    (r"\newcommand{\best}{\bfseries}", r"{\best %s}"),
]


@pytest.mark.parametrize(("definition", "form"), BOLD)
def test_bold_of_every_kind_is_seen_on_what_is_not_the_best(definition: str, form: str) -> None:
    wrong = re.sub(r"(AR only & )(\d+\.\d)", lambda found: found[1] + form.replace("%s", found[2]), LATEX)
    (found,) = check(f"{definition}\n{wrong}").differences
    assert (found.row, found.column, found.now) == ("step 1 (Baseline)", "Throughput", "not the best")
    right = re.sub(r"\\textbf\{(\d+\.\d)\}", lambda found: form.replace("%s", found[1]), LATEX)
    assert right != LATEX
    assert check(f"{definition}\n{right}").agrees


@pytest.mark.parametrize(
    "definition",
    [r"\newcommand{\best}[1]{\underline{#1}}", r"\newcommand{\best}[1]{\colorbox[gray]{0.9}{#1}}", ""],
)
def test_marking_that_is_not_bold_may_stand_on_any_figure(definition: str) -> None:
    marked = re.sub(r"(AR only & )(\d+\.\d)", r"\1\\best{\2}", LATEX)
    assert check(f"{definition}\n{marked}").agrees
    wrong = re.sub(r"\\best\{\d+\.\d\}", r"\\best{1.5}", marked)
    assert only(check(f"{definition}\n{wrong}")) == ("step 1", "Throughput")


# ------------------------------------------------------------------------ macros

NO_DIGEST = re.sub(r"\\newcommand\{\\fourStepDigest\}.*\n", "", MACROS)


def test_macros_without_their_digest_are_checked_by_their_mark() -> None:
    assert NO_DIGEST != MACROS
    findings = check(NO_DIGEST)
    assert findings.agrees
    assert findings.parts == (Part.MACROS,)
    changed = re.sub(r"(fourStepBaselineSpeedup)\}\{1\.00\}", r"\1}{2.00}", NO_DIGEST)
    assert differences(check(LATEX + changed)) == [("step 1 (Baseline)", "Speedup", "2.00", "1.00")]
    foreign = NO_DIGEST + "\n\\newcommand{\\fourStepMagicThroughput}{999.9}\n\\newcommand{\\fourStepNote}{7}"
    assert [found[3] for found in differences(check(foreign))] == ["no such cell"]


def test_macros_without_digest_of_a_sweep_that_is_not_there_are_named() -> None:
    (remark,) = check(NO_DIGEST, replace(STORED, digest="e" * 64)).unchecked
    assert "the macros is of sweep 'four-step'" in remark.what


def test_a_digest_that_was_damaged_does_not_end_the_check_of_its_macros() -> None:
    damaged = edited(
        MACROS, (f"Digest}}{{{'d' * 64}}}", "Digest}{dddd}"), (r"Speedup}{1.00}", r"Speedup}{2.00}")
    )
    assert only(check(damaged)) == ("step 1", "Speedup")


def test_a_mark_whose_macros_are_gone_is_named() -> None:
    mark = next(line for line in MACROS.splitlines() if line.startswith("% dyna-eval macros"))
    (remark,) = check(f"{mark}\n{LATEX}").unchecked
    assert r"no macro \fourStep... of sweep 'four-step' is defined" in remark.what


def test_sweeps_whose_names_begin_alike_are_told_apart_without_digests() -> None:
    other = replace(record(name="four-step B", noise=0.3), digest="e" * 64, id=2)
    theirs = re.sub(r"\\newcommand\{\\\w+Digest\}.*\n", "", to_macros(build_report(other)))
    findings = check(NO_DIGEST + theirs, STORED, other)
    assert findings.agrees, findings
    assert findings.parts == (Part.MACROS,) * 2


def of_macros(latex: str, report_macros: str) -> str:
    """Write the throughputs and speedups of a table as macros."""
    labels = {"Baseline": "Baseline", "+ Draft model": "DraftModel", "+ Tree structure": "TreeStructure"}
    for label, name in labels.items():
        assert rf"\fourStep{name}Throughput}}" in report_macros
        latex, changed = re.subn(
            rf"(& {re.escape(label)} & .*?) & \S+ & \S+ \\\\",
            rf"\1 & \\fourStep{name}Throughput{{}} & $\\fourStep{name}Speedup\\times$ \\\\",
            latex,
        )
        assert changed == 1
    return latex


def test_a_table_of_macros_agrees_where_another_file_defines_them() -> None:
    cells = "\\input{macros}\n" + of_macros(LATEX, MACROS)
    findings = check(cells, others=(MACROS,))
    assert findings.agrees, findings
    stale = edited(MACROS, (r"\fourStepBaselineSpeedup}{1.00}", r"\fourStepBaselineSpeedup}{2.00}"))
    assert only(check(cells, others=(stale,))) == ("step 1", "Speedup")


def test_cells_of_macros_that_no_named_file_defines_are_not_compared_and_that_is_said_once() -> None:
    findings = check("\\input{macros}\n" + of_macros(LATEX, MACROS))
    assert findings.differences == ()
    (remark,) = findings.unchecked
    assert "6 cells not compared" in remark.what
    assert r"\fourStepBaselineThroughput" in remark.what
    assert "name the right one with --check" in remark.what


def test_own_definitions_come_first_and_those_that_disagree_elsewhere_count_for_nothing() -> None:
    cells = of_macros(LATEX, MACROS)
    stale = re.sub(r"(Speedup|Throughput)\}\{[\d.]+\}", r"\1}{9.9}", MACROS)
    assert check(MACROS + cells, others=(stale,)).agrees
    assert check(cells, others=(MACROS, MACROS)).agrees
    torn = check(cells, others=(MACROS, stale))
    assert torn.differences == ()
    assert "several do differently" in torn.unchecked[0].what


def test_a_bold_command_of_another_file_is_seen() -> None:
    wrong = re.sub(r"(AR only & )(\d+\.\d)", r"\1\\best{\2}", LATEX)
    assert check(wrong).agrees
    assert only(check(wrong, others=(r"\newcommand{\best}[1]{\textbf{#1}}",))) == ("step 1", "Throughput")


# ------------------------------------------------------------------------ claims


def captioned(latex: str, caption: str) -> str:
    return re.sub(r"\\caption\{.*\}", lambda _: rf"\caption{{{caption}}}", latex)


NO_SLOWER = "No step is measurably slower than the step before it."


def test_a_sentence_of_the_caption_that_is_true_no_more_is_found() -> None:
    written = to_latex(build_report(MONOTONE))
    assert NO_SLOWER in written
    stale = captioned(LATEX, f"Our ablation. {NO_SLOWER}")
    assert differences(check(stale)) == [
        (
            "caption",
            "claim",
            "no step is slower than the step before it",
            "highest, step 3 is below the baseline, step 3 is slower than the step before it",
        )
    ]
    slower = re.search(r"Step 3 \([^.]*?\) is slower than the step before it", LATEX)
    assert slower is not None
    claimed = captioned(written, f"Our ablation. {slower[0]}.")
    assert only(check(claimed, MONOTONE)) == ("caption", "claim")
    of_another = captioned(LATEX, "Our ablation. Step 8 is slower than the step before it.")
    assert only(check(of_another)) == ("caption", "claim")


@pytest.mark.parametrize(
    ("sentence", "ours", "monotone"),
    [
        ("Every step is faster than the one before.", False, True),
        ("All steps improve throughput.", False, True),
        ("Pruning improves throughput on all steps.", False, True),
        ("Each step is measurably slower than the previous one.", False, False),
        ("No step is slower than the step before it.", False, True),
        ("Not every step is faster than the one before.", True, True),
        ("Every step but the third is faster.", True, True),
        ("Pruning improves throughput over the unpruned tree.", True, True),
        ("Pruning is faster than all other steps.", True, True),
        ("The tree degrades throughput.", True, False),
        ("The tree is slower than what is pruned.", True, True),
        ("One step is not separable from another.", False, False),
        ("Our ablation on an idle machine.", True, True),
    ],
)
def test_captions_and_text_may_claim_what_the_rows_support(sentence: str, ours: bool, monotone: bool) -> None:
    for stored, supported in ((STORED, ours), (MONOTONE, monotone)):
        report = build_report(stored)
        table = captioned(to_latex(report), sentence)
        prose = edited(
            to_prose(report), (r"\paragraph{Taken together.}", "\\paragraph{Taken together.}\n" + sentence)
        )
        for paper, row in ((table, "caption"), (prose, "text")):
            findings = check(paper, stored)
            if supported:
                assert findings.agrees, findings
            else:
                assert [found[1] for found in differences(findings)] == ["claim"]
                assert findings.differences[0].row == row


def test_of_several_pairs_a_sentence_is_about_the_pair_that_it_names() -> None:
    """The tree is slower on one of two pairs alone."""
    slow, fast = record(pairs=("small", "large")), record(MONOTONE_STEPS, pairs=("small", "large"))
    jobs = [
        replace(job, samples=other.samples) if job.pair == "large" else job
        for job, other in zip(slow.jobs, fast.jobs, strict=True)
    ]
    stored = replace(slow, jobs=tuple(jobs))
    latex = to_latex(build_report(stored), Style(side_by_side=True))
    assert f"{NO_SLOWER.removesuffix('.')} on large." in latex
    assert check(latex, stored).agrees
    assert only(check(edited(latex, ("before it on large.", "before it on small.")), stored)) == (
        "caption",
        "claim",
    )
    assert only(check(edited(latex, ("before it on large.", "before it.")), stored)) == ("caption", "claim")
    assert check(captioned(latex, "Ours. Step 3 is slower than the step before it on small."), stored).agrees
    of_both = captioned(latex, "Ours. Step 3 is slower than the step before it.")
    assert only(check(of_both, stored)) == ("caption", "claim")


def test_the_summary_is_checked_apart_from_the_opening() -> None:
    assert "improve or to degrade" in PROSE
    equal = record(((BASELINE, 100.0), (LINEAR, 100.0)), noise=0.3)
    told = to_prose(build_report(equal))
    added = told.replace("% dyna-eval end", "Drafting improves throughput.\n% dyna-eval end")
    assert [found[:3] for found in differences(check(added, equal))] == [("text", "claim", "improve")]
    assert check(told.replace(r"\paragraph{Taken together.}", r"\paragraph{Summary.}"), equal).agrees
    assert check(told, equal).agrees


def test_a_step_that_is_not_the_fastest_is_not_called_so() -> None:
    wrong = edited(PROSE, ("Step 4 has the highest", "Step 2 has the highest"))
    assert ("text", "claim") in [found[:2] for found in differences(check(wrong))]


def test_the_opening_may_define_its_words_and_not_say_them_of_every_step() -> None:
    assert "improve or to degrade" in PROSE
    opening = (" compares 4", " compares much. Every step improves throughput. It compares 4")
    assert differences(check(edited(PROSE, opening)))[0][:3] == ("text", "claim", "every step is faster")
    monotone = to_prose(build_report(MONOTONE))
    assert check(edited(monotone, opening), MONOTONE).agrees
    defined = ("is said to improve or to degrade throughput", "improves or degrades throughput, as we say,")
    assert check(edited(monotone, defined), MONOTONE).agrees


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.floats(20.0, 400.0), min_size=4, max_size=4),
    st.integers(1, 5),
    st.sampled_from([0.01, 0.3, 0.7]),
    st.sampled_from([None, "tie", "violation", "mixed", "failed", "queued"]),
    STYLES,
)
def test_what_is_written_of_any_rows_passes_in_every_form(
    speeds: list[float], prompts: int, noise: float, trouble: str | None, style: Style
) -> None:
    steps = tuple(zip((BASELINE, LINEAR, TREE, PRUNED), speeds, strict=True))
    stored = record(steps, prompts=prompts, noise=noise, pairs=("a", "ab"))
    if trouble in ("tie", "violation"):
        stored = change_samples(stored, TREE.label, exactness=Exactness(trouble))
    elif trouble == "mixed":
        stored = change_jobs(stored, TREE.label, environment="e2")
    elif trouble:
        stored = change_jobs(stored, TREE.label, state=JobState(trouble), samples=())
    report = build_report(stored, allow_mixed=True)
    latex, macros = to_latex(report, style), to_macros(report)
    without_digest = re.sub(r"\\newcommand\{\\\w+Digest\}.*\n", "", macros)
    for paper in (latex, to_prose(report), macros, without_digest):
        findings = check(paper, stored)
        assert findings.agrees, findings
        assert findings.notes == ()
    if not style.side_by_side:
        first = to_latex(replace(report, pairs=report.pairs[:1]), style)
        for form in (caption_below, as_longtable):
            assert check(form(first) + FOREIGN, stored).agrees
