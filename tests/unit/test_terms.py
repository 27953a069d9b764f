"""One report by another baseline or confidence than the sweep file's, or of the chosen rows alone."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from report_records import BASELINE, LINEAR, PRUNED, TREE, change_jobs, record

from dyna_eval.errors import InputError
from dyna_eval.jobs import Configuration, JobState, MeasureSpec, Method
from dyna_eval.latex.check import Findings, check_paper
from dyna_eval.latex.document import to_document
from dyna_eval.latex.macros import to_macros
from dyna_eval.latex.style import PLAIN, Origin, Part, find_marks, mark, origin_of
from dyna_eval.latex.table import table_label, to_latex
from dyna_eval.measurements import Exactness
from dyna_eval.records import AS_IN_THE_FILE, SweepRecord, Terms
from dyna_eval.reports.categories import CategorizedReport
from dyna_eval.reports.chosen import entries_of, entry_of
from dyna_eval.reports.joined_report import joined_report
from dyna_eval.reports.measured_report import build_report
from dyna_eval.reports.report import Report, RowState
from dyna_eval.reports.terms import with_terms
from dyna_eval.reports.tuning import split_prompts
from dyna_eval.sweeps.expansion import axes_of, expand
from dyna_eval.tables.report_json import to_json

STORED = record()
OTHER = Terms(baseline=LINEAR.label, confidence=0.8)


def on(terms: Terms, stored: SweepRecord = STORED) -> Report:
    return build_report(with_terms(stored, terms))


def check(paper: str, stored: SweepRecord = STORED) -> Findings:
    def recompute(origin: Origin) -> CategorizedReport:
        report = build_report(with_terms(stored, origin.terms), allow_mixed=True)
        return CategorizedReport(overall=report, categories=())

    return check_paper(paper, recompute)


# ---------------------------------------------------------- baseline and confidence


def test_a_report_is_as_if_the_sweep_file_had_said_so() -> None:
    asked = on(OTHER)
    written = build_report(replace(STORED, baseline=LINEAR.label, confidence=0.8))
    assert (asked.rows, asked.confidence) == (written.rows, 0.8)
    assert [row.label for row in asked.rows if row.is_baseline] == [LINEAR.label]
    assert asked.rows != build_report(STORED).rows


def test_another_baseline_is_told_and_the_files_own_is_not() -> None:
    told = f"speedups are over '{LINEAR.label}', not the sweep file's baseline"
    assert on(OTHER).warnings == (told,)
    assert on(Terms(confidence=0.8)).warnings == ()
    same = on(Terms(baseline=STORED.baseline, confidence=STORED.confidence))
    assert (same.terms, same) == (AS_IN_THE_FILE, build_report(STORED))


@pytest.mark.parametrize("text", [PRUNED.label, "tree, D=7, B=2, τ=0.05", "4"])
def test_a_baseline_is_named_by_label_configuration_or_step(text: str) -> None:
    assert on(Terms(baseline=text)).terms.baseline == PRUNED.label


def test_a_baseline_that_names_no_row_or_several_is_refused_in_one_line() -> None:
    with pytest.raises(
        InputError, match=r"--baseline '\+ Draft modell' names no row; did you mean '\+ Draft"
    ):
        on(Terms(baseline="+ Draft modell"))
    with pytest.raises(InputError, match="--baseline '5' names no row; `dyna-eval report SWEEP` lists"):
        on(Terms(baseline="5"))
    twice = record(((BASELINE, 100.0), (LINEAR, 120.0), (replace(LINEAR, label="Again"), 120.0)))
    with pytest.raises(InputError, match="of several rows; name one of '\\+ Draft model', 'Again'"):
        on(Terms(baseline="linear, K=6"), twice)


def test_terms_are_in_json() -> None:
    assert to_json(on(OTHER))["terms"] == {"baseline": LINEAR.label, "confidence": 0.8, "chosen": False}
    plain = to_json(build_report(STORED))
    assert plain["terms"] == {"baseline": None, "confidence": None, "chosen": False}


def test_a_joined_report_has_the_terms_of_its_first_sweep() -> None:
    second = replace(record(), id=2, name="second", digest="e" * 64)
    asked = joined_report([with_terms(STORED, OTHER), second])
    written = joined_report([replace(STORED, baseline=LINEAR.label, confidence=0.8), second])
    assert (asked.rows, asked.confidence, asked.terms) == (written.rows, 0.8, OTHER)
    assert asked.rows != joined_report([STORED, second]).rows


def test_a_paper_is_checked_on_the_terms_that_made_it() -> None:
    paper = to_document(on(OTHER), PLAIN, {})
    findings = check(paper)
    assert findings.agrees, findings
    assert set(findings.parts) == set(Part)
    for name, value in (("baseline", f'"{LINEAR.label}"'), ("confidence", "0.8")):
        told = f'"{name}":{value},'
        assert paper.count(told) == 3
        found = check(paper.replace(told, "")).differences
        assert {each.where.split()[0] for each in found} == {"table", "prose", "macro"}


def test_one_paper_holds_tables_and_macros_of_a_sweep_on_several_terms() -> None:
    several = [AS_IN_THE_FILE, OTHER, Terms(baseline=LINEAR.label), Terms(confidence=0.995)]
    parts = [to_latex(on(terms)) + to_macros(on(terms)) for terms in several]
    paper = "\n".join(parts)
    assert re.findall(r"\\label\{(.*)\}", paper) == [
        "tab:four-step",
        "tab:four-step-80-over-draft-model",
        "tab:four-step-over-draft-model",
        "tab:four-step-99-5",
    ]
    assert re.findall(r"\{\\(\w+)Digest\}", paper) == [
        "fourStep",
        "fourStepEightZeroOverDraftModel",
        "fourStepOverDraftModel",
        "fourStepNineNineFive",
    ]
    names = re.findall(r"newcommand\{(.*?)\}", paper)
    assert len(set(names)) == len(names)
    findings = check(paper)
    assert findings.agrees, findings
    assert findings.parts.count(Part.MACROS) == len(several)
    for part in parts:
        low = re.search(r"\{(\\\w+TreeStructureSpeedupLow)\}\{(.*)\}", part)
        assert low is not None
        [found] = check(paper.replace(low[0], f"{{{low[1]}}}{{7.77}}")).differences
        assert (found.where, found.in_paper, found.now) == (f"macro {low[1]}", "7.77", low[2])


def test_baselines_whose_names_in_references_would_be_alike_are_told_apart() -> None:
    stored = record([(replace(row, label=label), 10.0) for row, label in ((BASELINE, "A"), (TREE, "+ a"))])
    again = replace(stored, baseline="none of them")
    labels = [table_label(on(Terms(baseline=name), again), ("demo",)) for name in ("A", "+ a")]
    assert len(set(labels)) == 2
    assert all(re.fullmatch(r"tab:four-step-over-a-[0-9a-f]{6}", label) for label in labels)


def test_the_caption_says_to_what_steps_are_added_not_to_what_they_are_compared() -> None:
    assert "Draft model, Tree structure and Adaptive pruning are added to Baseline" in to_latex(on(OTHER))


def test_a_mark_without_other_terms_is_as_it_was() -> None:
    told = mark(origin_of(build_report(STORED), Part.TABLE, ("demo",)))
    assert told == (
        f'% dyna-eval table {{"columns":[],"digest":"{STORED.digest}","pairs":["demo"],"preset":null,'
        '"side_by_side":false,"siunitx":false,"std":false,"sweep":"four-step"}'
    )


@pytest.mark.parametrize("confidence", ["1.5", "0", "NaN", '"much"', "[]", "true"])
def test_a_mark_of_no_confidence_cannot_be_read(confidence: str) -> None:
    latex = to_latex(on(OTHER)).replace('"confidence":0.8', f'"confidence":{confidence}')
    [found] = find_marks(latex)
    assert found.origin is None
    assert not check(latex).agrees


# --------------------------------------------------------------------------- chosen

SPEEDS = {2: 150.0, 4: 180.0, 6: 165.0}
SWEPT = {k: Configuration(label=f"Sweep (k={k})", method=Method.LINEAR, params={"k": k}) for k in SPEEDS}
CHOSEN = Terms(chosen=True)


def swept(
    speeds: Mapping[int, float] = SPEEDS, *, fraction: float = 0.5, pairs: tuple[str, ...] = ("demo",)
) -> SweepRecord:
    """A baseline, an entry that is swept, and a row of its own."""
    steps = ((BASELINE, 128.0), *((SWEPT[k], speed) for k, speed in speeds.items()), (TREE, 63.0))
    return replace(record(steps, pairs=pairs), measure=MeasureSpec(tune_fraction=fraction))


def faster_on_tuning(stored: SweepRecord, label: str, *, pair: str = "demo") -> SweepRecord:
    """Let a row win by far on the tuning prompts, and there alone."""
    tuning = split_prompts(stored)["p1"]
    return replace(
        stored,
        jobs=tuple(
            replace(
                job,
                samples=tuple(
                    replace(one, decode_seconds=one.decode_seconds / 3) if one.prompt_index in tuning else one
                    for one in job.samples
                ),
            )
            if (job.label, job.pair) == (label, pair)
            else job
            for job in stored.jobs
        ),
    )


def test_of_each_entry_the_fastest_on_the_tuning_prompts_is_shown_with_its_figures_on_the_others() -> None:
    stored = faster_on_tuning(swept(), SWEPT[6].label)
    report, whole = on(CHOSEN, stored), build_report(stored)
    assert [(row.step, row.label) for row in report.rows] == [
        (1, BASELINE.label),
        (2, SWEPT[6].label),
        (3, TREE.label),
    ]
    of_whole = {row.label: row for row in whole.rows}
    for row in report.rows:
        assert row.figures == of_whole[row.label].figures
        assert row.versus_baseline == of_whole[row.label].versus_baseline
    note, luck = report.rows[1].caveat_texts
    assert note == "best of 3 on 4 tuning prompts"
    assert luck.startswith("chosen and reported in the same 3 runs")
    assert luck.endswith("too fast for the best of 5 equal rows")  # of the whole pair, as without --chosen
    assert luck in of_whole[SWEPT[6].label].caveat_texts
    assert report.rows[0].caveat_texts == report.rows[2].caveat_texts == ()
    assert report.chosen == whole.chosen


def test_a_row_that_is_the_fastest_of_its_entry_alone_shares_its_luck_with_the_rows_of_that() -> None:
    stored = faster_on_tuning(swept(), TREE.label)
    chosen = next(row for row in on(CHOSEN, stored).rows if row.label == SWEPT[4].label)
    note, luck = chosen.caveat_texts
    assert note == "best of 3 on 4 tuning prompts"
    assert luck.endswith("too fast for the best of 3 equal rows")


def test_a_row_that_no_other_could_have_beaten_has_no_luck_to_tell_of() -> None:
    """Only one row is the target's output; an entry of several has a row with figures and no rival."""
    stored = swept()
    wrong = tuple(
        replace(job, samples=tuple(replace(one, exactness=Exactness.VIOLATION) for one in job.samples))
        if job.label != SWEPT[4].label
        else job
        for job in stored.jobs
    )
    report = on(CHOSEN, replace(stored, jobs=wrong))
    assert [choice.label for choice in report.chosen] == [SWEPT[4].label]
    chosen = next(row for row in report.rows if row.label == SWEPT[4].label)
    assert chosen.caveat_texts == ("best of 3 on 4 tuning prompts",)


def test_gains_are_over_the_row_above_in_the_table() -> None:
    report = on(CHOSEN, swept())
    chosen, tree = report.rows[1:]
    assert chosen.figures
    assert tree.figures
    assert tree.versus_previous is not None
    assert tree.versus_previous.ratio == pytest.approx(
        tree.figures.throughput.mean / chosen.figures.throughput.mean
    )


def test_the_rows_that_were_passed_over_are_listed_with_their_jobs() -> None:
    report = on(CHOSEN, swept())
    assert [(entry.label, entry.state) for entry in report.left_out] == [
        (SWEPT[2].label, RowState.NOT_SHOWN),
        (SWEPT[6].label, RowState.NOT_SHOWN),
    ]
    assert report.left_out[0].reason == "not the fastest of 'Sweep' on the tuning prompts"
    assert [len(entry.job_ids) for entry in report.left_out] == [3, 3]
    partly = change_jobs(swept(), SWEPT[2].label, repeats=[2], state=JobState.FAILED, samples=())
    assert [entry.label for entry in on(CHOSEN, partly).left_out] == [SWEPT[2].label, SWEPT[6].label]


def test_each_pair_has_its_own_choice() -> None:
    stored = faster_on_tuning(swept(pairs=("demo", "large")), SWEPT[2].label, pair="large")
    report = on(CHOSEN, stored)
    assert [row.label for row in report.rows_of("demo")] == [BASELINE.label, SWEPT[4].label, TREE.label]
    assert [row.label for row in report.rows_of("large")] == [BASELINE.label, SWEPT[2].label, TREE.label]


def test_while_a_row_is_to_come_its_entry_is_shown_whole() -> None:
    stored = change_jobs(swept(), SWEPT[6].label, state=JobState.QUEUED, samples=())
    report = on(CHOSEN, stored)
    assert [row.label for row in report.rows] == [row.label for row in stored.configurations]
    assert any(
        text.startswith("no row of 'Sweep' is chosen: rows are still to come") for text in report.warnings
    )


def test_a_baseline_among_swept_rows_stays() -> None:
    report = on(Terms(chosen=True, baseline=SWEPT[2].label), swept())
    assert [row.label for row in report.rows] == [BASELINE.label, SWEPT[2].label, SWEPT[4].label, TREE.label]
    assert all(row.versus_baseline for row in report.rows)


def test_without_prompts_to_choose_on_it_is_refused_with_what_to_set() -> None:
    with pytest.raises(InputError) as caught:
        on(CHOSEN, STORED)
    assert "submit it with measure.tune_fraction, such as 0.3" in str(caught.value)
    assert "looks faster than it is" in str(caught.value)


def test_a_paper_of_chosen_rows_is_checked_as_such() -> None:
    stored = swept()
    paper = to_document(on(CHOSEN, stored), PLAIN, {})
    assert check(paper, stored).agrees
    assert not check(paper.replace('"chosen":true,', ""), stored).agrees


VALUES = st.one_of(
    st.integers(-5, 99), st.floats(0, 1), st.booleans(), st.none(), st.sampled_from(["a", "b c"])
)


@given(
    st.text(min_size=1),
    st.dictionaries(
        st.sampled_from(["k", "depth", "max_nodes"]),
        st.one_of(VALUES, st.lists(VALUES, min_size=1)),
        min_size=1,
    ),
)
def test_an_expanded_row_is_known_by_its_label_as_one_of_its_entry(
    label: str, parameters: dict[str, object]
) -> None:
    known = Configuration(label=label, method=Method.TREE, params=dict.fromkeys(parameters))
    for point in expand(label, parameters, axes_of(parameters)):
        row = replace(known, label=point.label)
        if point.items:
            assert entry_of(row) == label
        else:
            assert entry_of(row) == entry_of(known)


@pytest.mark.parametrize("label", ["Tree (ours)", "Tree (D=4)", "(depth=4)", "Tree (depth=4) again", "Tree"])
def test_a_label_that_names_no_parameters_of_its_row_is_an_entry_of_its_own(label: str) -> None:
    assert entry_of(replace(TREE, label=label)) == label


BY_HAND = """\
configs:
  - {label: Baseline, method: ar}
  - {label: Tree (depth=4), method: tree, depth: 4}
  - {label: ' Tree (depth=6)', method: tree, depth: 6}
  - {label: Sweep, method: tree, depth: [2, 3]}"""
OF_HAND = [
    BASELINE,
    *(
        replace(TREE, label=f"Tree (depth={depth})", params={**TREE.params, "depth": depth})
        for depth in (4, 6)
    ),
    *(
        replace(TREE, label=f"Sweep (depth={depth})", params={**TREE.params, "depth": depth})
        for depth in (2, 3)
    ),
]


@pytest.mark.parametrize(
    ("source", "wanted"),
    [
        (BY_HAND, ["Baseline", "Tree (depth=4)", "Tree (depth=6)", "Sweep", "Sweep"]),
        (f"{BY_HAND}\n# --set configs.3.label=Other", ["Baseline", *(row.label for row in OF_HAND[1:])]),
        (f"{BY_HAND}\n# --set configs.9=1", ["Baseline", "Tree", "Tree", "Sweep", "Sweep"]),
        ("configs: [", ["Baseline", "Tree", "Tree", "Sweep", "Sweep"]),
    ],
    ids=["as written", "with another label", "with an override that cannot be read", "unreadable"],
)
def test_rows_are_of_one_entry_only_where_the_sweep_file_has_it(source: str, wanted: list[str]) -> None:
    stored = replace(record([(row, 10.0) for row in OF_HAND]), source=source)
    assert list(entries_of(stored).values()) == wanted


def test_rows_that_are_labelled_by_hand_as_expanded_ones_are_all_shown() -> None:
    stored = replace(record([(row, 10.0) for row in OF_HAND]), source=BY_HAND)
    stored = replace(stored, measure=MeasureSpec(tune_fraction=0.5))
    labels = [row.label for row in on(CHOSEN, stored).rows]
    assert labels[:3] == [row.label for row in OF_HAND[:3]]
    assert len(labels) == 4
