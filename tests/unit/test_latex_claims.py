"""No table and no sentence contradicts its own numbers, whatever rows a sweep has."""

from __future__ import annotations

import re
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from report_records import BASELINE, LINEAR, PRUNED, TREE, change_jobs, change_samples, record

from dyna_eval.jobs import Configuration, JobState, Method
from dyna_eval.latex.paper import is_bold, numbers, read_table
from dyna_eval.latex.prose import theoretical_nodes, to_prose
from dyna_eval.latex.style import Column, Style
from dyna_eval.latex.table import caption, to_latex
from dyna_eval.measurements import Exactness
from dyna_eval.records import SweepRecord
from dyna_eval.reports.claims import Claim, claim
from dyna_eval.reports.intervals import Interval
from dyna_eval.reports.measured_report import build_report
from dyna_eval.reports.report import Report, Row, best_row
from dyna_eval.reports.statistics import Comparison

STEPS = (BASELINE, LINEAR, TREE, PRUNED)


@st.composite
def sweeps(draw: st.DrawFn) -> SweepRecord:
    """Sweeps of random speed, noise and size; some rows wrong, mixed, failed, or from a faster actor."""
    speeds = draw(st.lists(st.floats(20.0, 400.0), min_size=4, max_size=4))
    stored = record(
        tuple(zip(STEPS, speeds, strict=True)),
        prompts=draw(st.integers(1, 6)),
        repeats=draw(st.integers(1, 3)),
        noise=draw(st.sampled_from([0.01, 0.2, 0.7])),
    )
    troubled = draw(st.sampled_from([None, *STEPS[1:]]))
    if troubled is None:
        return stored
    match draw(st.sampled_from(["violation", "tie", "mixed", "failed", "fast actor"])):
        case "violation":
            return change_samples(stored, troubled.label, exactness=Exactness.VIOLATION)
        case "tie":
            return change_samples(stored, troubled.label, exactness=Exactness.TIE)
        case "mixed":
            return change_jobs(stored, troubled.label, environment="e2")
        case "failed":
            return change_jobs(stored, troubled.label, state=JobState.FAILED, samples=(), error="no memory")
        case _:
            return _on_a_faster_actor(stored, troubled.label)


def _on_a_faster_actor(stored: SweepRecord, label: str) -> SweepRecord:
    (own,) = stored.sentinels
    faster = tuple(replace(one, decode_seconds=one.decode_seconds / 3.0) for one in own.samples)
    moved = change_jobs(stored, label, actor="actor-2")
    return replace(moved, sentinels=(own, replace(own, actor="actor-2", samples=faster)))


@settings(max_examples=60, deadline=None)
@given(sweeps())
def test_bold_cells_are_the_highest_of_the_rows_that_may_win(stored: SweepRecord) -> None:
    report = build_report(stored, allow_mixed=True)
    found = read_table(to_latex(report, Style(columns=tuple(Column))))
    assert found is not None
    fit = [row.is_exact and not row.mixed for row in report.rows]
    for column in (3, 4):
        cells = [row.cells[column].latex for _, row in found.rows]
        printed = [numbers(cell) for cell in cells]
        bold = [values[0] for cell, values in zip(cells, printed, strict=True) if is_bold(cell)]
        assert len(bold) == 1
        assert bold[0] == max(
            values[0] for values, may_win in zip(printed, fit, strict=True) if may_win and values
        )
    assert not any(is_bold(row.cells[column].latex) for _, row in found.rows for column in (6, 7, 8))


@settings(max_examples=80, deadline=None)
@given(sweeps())
def test_highest_means_of_all_rows_unless_the_sentence_says_of_which(stored: SweepRecord) -> None:
    report = build_report(stored, allow_mixed=True)
    highest = max(throughput(row) for row in report.rows if row.figures)
    told = f"{caption(report, report.pairs, Style())} {to_prose(report)}"
    claims = re.findall(
        r"(?:(among|Among) the rows|The highest throughput (?:and|is)|Step (\d) has the highest)", told
    )
    assert claims
    for _, step in claims:
        if step:
            assert throughput(report.rows[int(step) - 1]) == highest
    best = best_row(report.rows)
    assert best is not None
    assert any(among for among, _ in claims) == (throughput(best) < highest)


@settings(max_examples=60, deadline=None)
@given(sweeps())
def test_printed_speedups_are_ratios_of_printed_throughputs_on_one_actor(stored: SweepRecord) -> None:
    found = read_table(to_latex(build_report(stored, allow_mixed=True)))
    assert found is not None
    if len(stored.sentinels) > 1:
        return
    rows = [[numbers(cell.latex) for cell in row.cells[3:5]] for _, row in found.rows]
    (base,), _ = rows[0]
    for throughput, speedup in rows:
        if throughput:
            ratio = float(throughput[0] / base)
            rounding = 0.006 + 0.05 * (1.0 + ratio) / float(base)
            assert float(speedup[0]) == pytest.approx(ratio, abs=rounding)


CLAUSE = re.compile(
    r"(over|against|from that of) step (\d) (?:by ([\d.]+)\\,\\% \(|\(\$[\d.]+\\times\$; )"
    r"paired ratio ([\d.]+), 95\\,\\% interval \[([\d.]+), ([\d.]+)\]\)(, freed of)?"
)


@settings(max_examples=100, deadline=None)
@given(sweeps())
def test_every_comparative_word_of_the_prose_follows_from_the_numbers_beside_it(stored: SweepRecord) -> None:
    report = build_report(stored, allow_mixed=True)
    by_step = {row.step: row for row in report.rows}
    for step, paragraph in paragraphs(report).items():
        for sentence in re.findall(
            r"^(?:This (?:improves|degrades)|Its speed is not separable).*$", paragraph, re.M
        ):
            clauses = CLAUSE.findall(sentence)
            assert clauses
            for _, other, change, paired, low, high, freed in clauses:
                ours, theirs = throughput(by_step[step]), throughput(by_step[int(other)])
                if sentence.startswith("This improves"):
                    assert float(low) > 1.0
                    assert float(paired) > 1.0
                    assert freed or ours > theirs
                elif sentence.startswith("This degrades"):
                    assert float(high) < 1.0
                    assert float(paired) < 1.0
                    assert freed or ours < theirs
                else:
                    disagree = (ours - theirs) * (float(paired) - 1.0) < 0.0
                    assert disagree or freed or float(low) <= 1.0 <= float(high)
                if change and not freed and len(stored.sentinels) == 1:
                    gain = abs(ours / theirs - 1.0) * 100.0
                    assert float(change) == pytest.approx(gain, rel=1e-3, abs=0.05)


@settings(max_examples=60, deadline=None)
@given(sweeps())
def test_the_caption_calls_a_step_slower_only_where_the_prose_says_that_it_degrades(
    stored: SweepRecord,
) -> None:
    report = build_report(stored, allow_mixed=True)
    told = caption(report, report.pairs, Style())
    for step, paragraph in paragraphs(report).items():
        slower = re.search(rf"Step {step} \([^()]*\) (?:is slower|falls below)", told) is not None
        previous = [row.step for row in report.rows if row.step < step and row.figures][-1:]
        against = [f"step {other} by" for other in [*previous, 1]]
        degrades = [line for line in paragraph.splitlines() if line.startswith("This degrades")]
        assert slower == any(other in line for line in degrades for other in against)


@settings(max_examples=40, deadline=None)
@given(sweeps())
def test_rows_that_are_not_to_be_trusted_are_not_claimed_anything_about(stored: SweepRecord) -> None:
    report = build_report(stored, allow_mixed=True)
    for step, paragraph in paragraphs(report).items():
        row = report.rows[step - 1]
        if row.mixed or not row.is_exact:
            assert not re.search("improves|degrades|not separable", paragraph)
        assert f"step {step} " not in paragraph.split("\n", 1)[1]


def paragraphs(report: Report) -> dict[int, str]:
    parts = re.split(r"\\paragraph\{(?:Step (\d)|Taken)", to_prose(report))
    return {int(step): text for step, text in zip(parts[1::2], parts[2::2], strict=True) if step}


def throughput(row: Row) -> float:
    assert row.figures is not None
    return row.figures.throughput.mean


# ---------------------------------------------------------------------- claims


def compared(ratio: float, paired: float, low: float, high: float) -> Comparison:
    return Comparison(ratio=ratio, paired=paired, paired_interval=Interval(low=low, high=high))


@pytest.mark.parametrize(
    ("comparison", "expected"),
    [
        (compared(1.2, 1.2, 1.1, 1.3), Claim.IMPROVES),
        (compared(0.8, 0.8, 0.7, 0.9), Claim.DEGRADES),
        (compared(1.2, 1.2, 0.9, 1.5), Claim.NOT_SEPARABLE),
        (compared(1.2, 0.9, 0.8, 0.95), Claim.NOT_SEPARABLE),
        (compared(0.9, 1.2, 1.1, 1.3), Claim.NOT_SEPARABLE),
        (Comparison(ratio=1.5), Claim.UNKNOWN),
        (None, Claim.UNKNOWN),
    ],
)
def test_a_claim_needs_an_interval_and_two_ratios_that_agree(
    comparison: Comparison | None, expected: Claim
) -> None:
    assert claim(comparison) is expected


# ------------------------------------------------------------------------- prose


def test_the_prose_walks_through_the_steps_with_every_figure() -> None:
    report = build_report(record())
    told = paragraphs(report)
    rows = report.rows
    assert f"decoding reaches {throughput(rows[0]):.1f} tokens/s; this is the baseline." in told[1]
    for row in rows[1:]:
        assert row.versus_baseline is not None
        assert f"reaches {throughput(row):.1f} tokens/s, ${row.versus_baseline.ratio:.2f}" in told[row.step]
    assert "This improves throughput over step 1 by" in told[2]
    assert "This degrades throughput against step 2 by" in told[3]
    assert re.search(r"The cause is in its rounds: one emits 3\.00 tokens in \d+\.\d\\,ms", told[3])
    accepted = r"Its acceptance rate, accepted tokens over drafted levels, is 50.0\,\%."
    assert [accepted in told[step] for step in (1, 2, 3)] == [False, True, True]
    assert re.search(r"over step 3 by .*, over step 1 by .* and over step 2 by", told[4])
    assert "The cause" not in told[4]
    assert f"Step 4 has the highest throughput, {throughput(rows[3]):.1f} tokens/s" in to_prose(report)


def test_a_ratio_that_contradicts_the_printed_numbers_says_over_what_it_is() -> None:
    """On one actor the baseline alone has a slow repeat; on two, the row's own actor is the slower one."""
    stored = record(((BASELINE, 100.0), (LINEAR, 80.0)))
    slow = next(job for job in stored.jobs if job.label == BASELINE.label and job.repeat == 2)
    slower = tuple(replace(one, decode_seconds=9 * one.decode_seconds) for one in slow.samples)
    lacking = change_jobs(
        stored, LINEAR.label, repeats=[2], state=JobState.FAILED, samples=(), environment=None
    )
    one_actor = change_jobs(lacking, BASELINE.label, repeats=[2], samples=slower)
    report = build_report(one_actor)
    assert throughput(report.rows[1]) > throughput(report.rows[0])
    for told in (paragraphs(report)[2], caption(report, report.pairs, Style())):
        assert ", over the repeats that both have" in told
        assert "freed of" not in told
    two_actors = _on_a_faster_actor(record(((BASELINE, 100.0), (LINEAR, 120.0))), LINEAR.label)
    report = build_report(two_actors)
    for told in (paragraphs(report)[2], caption(report, report.pairs, Style())):
        assert ", freed of the unequal speeds of the actors" in told
        assert "over the repeats" not in told


def test_rounds_on_unequal_actors_are_compared_as_if_one_had_run_both() -> None:
    """On an actor three times as fast the same seconds are three times the time of a round."""
    stored = record(((BASELINE, 100.0), (LINEAR, 120.0)), noise=0.0)
    moved = _on_a_faster_actor(stored, LINEAR.label)
    tokens_and_time = r"\$([\d.]+)\\times\$ the tokens in \$([\d.]+)\\times\$ the time(, freed of [a-z ]+)?\."
    (alone,), (fast,) = (
        re.findall(tokens_and_time, paragraphs(build_report(one))[2]) for one in (stored, moved)
    )
    assert (alone, float(fast[1])) == (("3.00", "2.50", ""), pytest.approx(7.5))
    assert fast[2] == ", freed of the unequal speeds of the actors"


def under_load(stored: SweepRecord, label: str) -> SweepRecord:
    return change_jobs(stored, label, conditions={"others_share": 0.5})


def test_a_step_that_others_slowed_down_is_not_called_slower_without_saying_so() -> None:
    doubt = ", though something else slowed step 3 down meanwhile"
    report = build_report(under_load(record(), TREE.label))
    told = paragraphs(report)
    assert re.search(rf"This degrades throughput against step 2 by [^)]*\){doubt}", told[3])
    assert "The cause" not in told[3]
    assert re.search(rf"over step 3 by [^)]*\){doubt}", told[4])
    assert told[4].count(doubt) == 1
    assert rf"\times${doubt})" in caption(report, report.pairs, Style())
    everywhere = build_report(
        under_load(under_load(under_load(record(), TREE.label), LINEAR.label), PRUNED.label)
    )
    assert "down meanwhile, over step 2" not in paragraphs(everywhere)[4]
    assert not re.search(rf"against step 2 by [^)]*\){doubt}", paragraphs(everywhere)[3])
    assert "The cause" in paragraphs(everywhere)[3]


def test_the_best_is_compared_with_every_step_before_it() -> None:
    alike = [
        (replace(LINEAR, label=f"k={k}", params={"k": k}), speed)
        for k, speed in ((6, 150.0), (7, 148.0), (8, 153.0))
    ]
    report = build_report(record(((BASELINE, 100.0), *alike), noise=0.1))
    best = best_row(report.rows)
    assert best is not None
    others = ", ".join(str(step) for step in (2, 3, 4) if step != best.step)
    assert best.step == 4
    assert f"Not separable from it: steps {others}." in to_prose(report)


def test_without_intervals_nothing_is_claimed() -> None:
    told = to_prose(build_report(record(prompts=1)))
    assert "nothing is claimed about the difference" in told
    assert not re.search("improves throughput|degrades throughput|not separable|The cause", told)


def test_equal_rows_are_called_not_separable_in_both_places() -> None:
    same = replace(LINEAR, label="Other", params={"k": 8})
    told = to_prose(build_report(record(((BASELINE, 100.0), (LINEAR, 150.0), (same, 150.0)), noise=0.1)))
    assert "Its speed is not separable from that of step 2" in told
    assert re.search(r"Not separable from it: step [23]\.", told)


def test_what_is_not_separable_from_the_baseline_is_said_once() -> None:
    told = paragraphs(build_report(record(((BASELINE, 100.0), (LINEAR, 101.0)), noise=0.3)))[2]
    assert told.count("not separable") == 1
    assert "Its speed is not separable from that of step 1" in told


def test_a_failed_step_is_named_with_its_state() -> None:
    told = to_prose(build_report(record(states={TREE.label: JobState.FAILED})))
    assert "has no result: it is failed." in told
    assert "Left out: 1 configuration, 3 jobs" in told


@pytest.mark.parametrize(
    ("params", "nodes", "formula"),
    [
        ({"depth": 7, "branch": 2}, 254, "$(2^{8}-1)/(2-1)-1=254$"),
        ({"depth": 3, "branch": 2, "root_branch": 5}, 35, r"$5\,(2^{3}-1)/(2-1)=35$"),
        ({"depth": 4, "branch": 1, "root_branch": 3}, 12, r"$3\cdot 4=12$"),
        ({"depth": 1024, "branch": 1024}, None, r"\approx 3.5\cdot 10^{3082}$"),
    ],
)
def test_the_theoretical_nodes_follow_from_depth_and_branches(
    params: dict[str, int], nodes: int | None, formula: str
) -> None:
    tree = Configuration(label="Tree", method=Method.TREE, params=params | {"threshold": 0.0})
    report = build_report(record(((BASELINE, 100.0), (tree, 50.0))))
    counted = theoretical_nodes(report.rows[1])
    assert counted == (nodes or sum(1024**level for level in range(1, 1025)))
    assert formula in to_prose(report)


def test_of_a_tree_of_absurd_size_no_theory_is_told() -> None:
    tree = Configuration(label="Tree", method=Method.TREE, params={"depth": 10**9, "branch": 10**9})
    report = build_report(record(((BASELINE, 100.0), (tree, 50.0))))
    assert theoretical_nodes(report.rows[1]) is None
    assert "Grown whole" not in to_prose(report)


def test_a_cap_that_bound_is_told_with_its_share_of_rounds() -> None:
    capped = change_samples(record(), TREE.label, capped_rounds=20, verified_nodes=40 * 254)
    told = paragraphs(build_report(capped))[3]
    assert "a round verifies 254.0 on average." in told
    assert r"The cap of 254 nodes stopped its growth in 50.0\,\% of the rounds." in told
    assert told.count("cap") == 1
