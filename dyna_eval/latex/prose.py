"""A subsection that walks through the steps of an ablation. Numbers and words alike follow from the rows.

A step `improves` or `degrades` throughput only where `claims` allows it; elsewhere it is `not separable`, and
where no interval is known nothing is claimed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from dyna_eval.jobs import Method
from dyna_eval.latex.grid import configuration, level
from dyna_eval.latex.style import Part, end_mark, mark, origin_of
from dyna_eval.latex.table import table_label, where_measured
from dyna_eval.latex.text import escape_latex, number, percent
from dyna_eval.methods import TreeShape
from dyna_eval.reports.cells import Notes, of_decoding, span
from dyna_eval.reports.claims import (
    FREED_OF_PACE,
    THOSE_THAT_MAY_WIN,
    Claim,
    claim_between,
    doubt_of_load,
    is_drawn_slower,
    is_surpassed,
    ran_on_several_actors,
    why_unlike_printed,
)
from dyna_eval.reports.integrity import CaveatKind
from dyna_eval.reports.intervals import Bootstrap
from dyna_eval.reports.report import Report, Row, baseline_of, best_row, compare_rows, runs_together
from dyna_eval.reports.statistics import Comparison, pooled_throughput
from dyna_eval.wording import count, listed, rate_text

_SAID_IN_SENTENCES = (CaveatKind.SEPARABILITY, CaveatKind.NODE_CAP)
"""Caveats that the sentences about speed and about the tree say already."""

_COUNTABLE = 10**9  # nodes; of a tree with more only the order of magnitude is told


def to_prose(report: Report, *, one_table: bool = False) -> str:
    """Return a subsection per pair; they refer to the pairs' own tables, or to one table over all."""
    return "\n".join(
        _subsection(report, pair, table_label(report, report.pairs if one_table else (pair,)))
        for pair in report.pairs
    )


def _subsection(report: Report, pair: str, label: str) -> str:
    rows, notes = report.rows_of(pair), Notes.of(report, pair)
    ending = [*_summary(report, rows), *(f"{_sentence(text)}" for text in notes.general)]
    lines = [
        mark(origin_of(report, Part.PROSE, (pair,))),
        rf"\subsection{{Ablation study ({escape_latex(pair)})}}",
        *_opening(report, rows, label),
        *(line for row in rows for line in _paragraph(report, rows, row)),
        *(["", r"\paragraph{Taken together.}", *ending] if ending else []),
        end_mark(Part.PROSE),
    ]
    return "\n".join(lines) + "\n"


def _opening(report: Report, rows: Sequence[Row], label: str) -> list[str]:
    known = [row.figures for row in rows if row.figures]
    text = rf"Table~\ref{{{label}}} compares {count(len(rows), 'configuration')} step by step."
    if not known:
        return [text, "Nothing has been measured yet."]
    base = baseline_of(rows)
    against = f" is a ratio to step {base.step} on the same prompts" if base else " is unknown"
    prompts = span([figures.prompts for figures in known], "prompt") or "prompts"
    repeats = span([figures.repeats for figures in known], "repeat")
    each = f" ({repeats})" if repeats else ""
    of_what = of_decoding(rows)
    return [
        text,
        f"Throughput is the mean over {prompts} of tokens per second{of_what}{each}; a speedup{against}.",
        *where_measured(report, (rows[0].pair,)),
        f"A step is said to improve or to degrade throughput only where the {level(report)} interval"
        r" of the paired ratio excludes $1$.",
    ]


def _paragraph(report: Report, rows: Sequence[Row], row: Row) -> list[str]:
    title = rf"\paragraph{{Step {row.step}: {escape_latex(row.label)}.}}"
    if row.figures is None:
        return ["", title, f"This step ({configuration(row)}) has no result: it is {row.state}."]
    reached = f"With {configuration(row)}, decoding reaches {rate_text(row.figures.throughput.mean)} tokens/s"
    speedup = row.versus_baseline
    if row.is_baseline:
        sentences = [f"{reached}; this is the baseline."]
    elif speedup is None:
        sentences = [f"{reached}."]
    else:
        sentences = [rf"{reached}, ${number(speedup.ratio, 2)}\times$ the baseline."]
    sentences += _comparisons(report, rows, row)
    sentences += _tree(row)
    sentences += _rounds(rows, row)
    sentences += [_sentence(one.text) for one in row.caveats if one.kind not in _SAID_IN_SENTENCES]
    return ["", title, *sentences]


# ------------------------------------------------------------------- comparisons


def _comparisons(report: Report, rows: Sequence[Row], row: Row) -> list[str]:
    """Compare a row with the step before it, the baseline, and the fastest step so far, each once."""
    by_step = {other.step: other for other in rows}
    base = baseline_of(rows)
    against = [
        (_previous(rows, row), row.versus_previous),
        (base, row.versus_baseline),
        (by_step.get(row.fastest_before or 0), row.versus_fastest_before),
    ]
    found: dict[Claim, list[str]] = {}
    said = {row.step}
    for other, comparison in against:
        if other is not None and comparison is not None and other.step not in said:
            said.add(other.step)
            claim = claim_between(row, other, comparison)
            clause = [
                _clause(report, other, comparison, claim),
                why_unlike_printed(row, other, comparison),
                doubt_of_load(row, other, claim),
            ]
            found.setdefault(claim, []).append(", ".join(filter(None, clause)))
    return [_CLAIMS[claim].format(listed(clauses)) for claim, clauses in found.items()]


_CLAIMS = {
    Claim.IMPROVES: "This improves throughput {}.",
    Claim.DEGRADES: "This degrades throughput {}.",
    Claim.NOT_SEPARABLE: "Its speed is not separable {}.",
    Claim.UNKNOWN: "Its throughput is {}; nothing is claimed about the difference.",
}


def _clause(report: Report, other: Row, comparison: Comparison, claim: Claim) -> str:
    change, factor = percent(comparison.ratio - 1.0), number(comparison.ratio, 2)
    match claim:
        case Claim.IMPROVES:
            return f"over step {other.step} by {change} ({_evidence(report, comparison)})"
        case Claim.DEGRADES:
            return f"against step {other.step} by {change} ({_evidence(report, comparison)})"
        case Claim.NOT_SEPARABLE:
            return rf"from that of step {other.step} (${factor}\times$; {_evidence(report, comparison)})"
        case Claim.UNKNOWN:
            return rf"${factor}\times$ that of step {other.step}"


def _previous(rows: Sequence[Row], row: Row) -> Row | None:
    """Return the row that `versus_previous` is against: the nearest one above that has figures."""
    return next((other for other in reversed(rows) if other.step < row.step and other.figures), None)


def _evidence(report: Report, comparison: Comparison) -> str:
    if comparison.paired is None or comparison.paired_interval is None:
        return "no interval"
    low, high = (
        number(bound, 2) for bound in (comparison.paired_interval.low, comparison.paired_interval.high)
    )
    return rf"paired ratio {number(comparison.paired, 2)}, {level(report)} interval [{low}, {high}]"


# ------------------------------------------------------------------------- trees


def theoretical_nodes(row: Row) -> int | None:
    """Return the draft nodes of a tree that grows whole; None for other methods."""
    shape = _shape(row)
    return shape.nodes if shape else None


def _shape(row: Row) -> TreeShape | None:
    return TreeShape.of(row.params) if row.method is Method.TREE else None


def _tree(row: Row) -> list[str]:
    if row.figures is None:
        return []
    nodes, bound = row.figures.acceptance.mean_tree_nodes, row.figures.acceptance.node_cap_bound_rate
    shape, sentences = _shape(row), []
    if shape is not None:
        left = _left(nodes, shape.nodes)
        sentences.append(f"Grown whole, its tree has {_formula(shape)} draft nodes besides the root{left}.")
    elif nodes is not None:
        sentences.append(f"A round verifies {nodes:.1f} draft nodes on average.")
    if bound:
        cap = row.params.get("max_nodes")
        named = f"of {cap} nodes " if isinstance(cap, int) else ""
        sentences.append(f"The cap {named}stopped its growth in {percent(bound)} of the rounds.")
    return sentences


def _left(nodes: float | None, theory: int) -> str:
    if nodes is None:
        return ""
    known = theory <= _COUNTABLE and nodes / theory <= 0.999
    share = f", {percent(nodes / theory)} of them" if known else ""
    return f"; a round verifies {nodes:.1f} on average{share}"


def _formula(shape: TreeShape) -> str:
    depth, branch, root = shape.depth, shape.branch, shape.root_branch
    if branch == 1:
        left = rf"{root}\cdot {depth}"
    elif root == branch:
        left = f"({branch}^{{{depth + 1}}}-1)/({branch}-1)-1"
    else:
        left = rf"{root}\,({branch}^{{{depth}}}-1)/({branch}-1)"
    return f"${left}{_whole(shape.nodes)}$"


def _whole(nodes: int) -> str:
    digits = str(nodes)
    if nodes <= _COUNTABLE:
        return f"={digits}"
    return rf"\approx {digits[0]}.{digits[1]}\cdot 10^{{{len(digits) - 1}}}"


# ------------------------------------------------------------------------ rounds


def _rounds(rows: Sequence[Row], row: Row) -> list[str]:
    """Split a speed ratio into what it is made of, tokens per round and seconds per round; tell how much of
    the draft the target took."""
    previous = _previous(rows, row)
    here, there = _mean_rounds(row, previous)
    if here is None or row.method is Method.AR:
        return []
    emitted = f"emits {here.tokens:.2f} tokens in {here.seconds * 1000:.1f}\\,ms"
    taken = row.figures.acceptance.draft_rate if row.figures else None
    accepted = (
        []
        if taken is None
        else [f"Its acceptance rate, accepted tokens over drafted levels, is {percent(taken)}."]
    )
    if there is None or previous is None:
        return [f"A round {emitted}.", *accepted]
    slower = is_drawn_slower(row, previous, row.versus_previous)
    freed = f", {FREED_OF_PACE}" if ran_on_several_actors(row, previous) else ""
    more, longer = here.tokens / there.tokens, here.seconds / there.seconds
    opening = "The cause is in its rounds: one" if slower and longer > more else "A round"
    sentences = [
        f"{opening} {emitted}, where one of step {previous.step} emits {there.tokens:.2f} in"
        f" {there.seconds * 1000:.1f}\\,ms: ${number(more, 2)}\\times$ the tokens in"
        f" ${number(longer, 2)}\\times$ the time{freed}."
    ]
    shares = row.figures.shares if row.figures else None
    if slower and shares and shares.verify is not None and shares.draft is not None:
        sentences.append(
            f"Verification has {percent(shares.verify)} of its decoding time, drafting"
            f" {percent(shares.draft)}."
        )
    return [*sentences, *accepted]


@dataclass(frozen=True, slots=True, kw_only=True)
class _MeanRound:
    """A row's mean round; tokens / seconds is its pooled throughput, or what it would be on another actor."""

    tokens: float
    seconds: float


def _mean_rounds(row: Row, previous: Row | None) -> tuple[_MeanRound | None, _MeanRound | None]:
    """Return the mean rounds of a row and of the one before it, as if one actor had run both, over the
    repeats that both have; of the row alone where they cannot be compared."""
    if previous is None or any(one.source is None and not one.runs for one in (row, previous)):
        return _mean_round(row, _pooled(row)), None
    if not row.runs or not previous.runs:
        return _mean_round(row, _pooled(row)), _mean_round(previous, _pooled(previous))
    ours, theirs = runs_together(row, previous)
    return _mean_round(row, pooled_throughput(ours)), _mean_round(previous, pooled_throughput(theirs))


def _mean_round(row: Row, pooled: float | None) -> _MeanRound | None:
    length = row.figures.acceptance.mean_length if row.figures else None
    return _MeanRound(tokens=length, seconds=length / pooled) if length and pooled else None


def _pooled(row: Row) -> float | None:
    return row.figures.throughput.pooled if row.figures else None


# ----------------------------------------------------------------------- summary


def _summary(report: Report, rows: Sequence[Row]) -> list[str]:
    best = best_row(rows)
    if best is None or best.figures is None:
        return []
    speedup = best.versus_baseline
    factor = rf", ${number(speedup.ratio, 2)}\times$ the baseline" if speedup and not best.is_baseline else ""
    subject = f"Step {best.step}"
    if is_surpassed(best, rows):
        subject = f"Among {THOSE_THAT_MAY_WIN}, step {best.step}"
    sentences = [
        f"{subject} has the highest throughput, {rate_text(best.figures.throughput.mean)} tokens/s{factor}."
    ]
    if alike := _not_separable_from(report, best, rows):
        noun = "steps" if len(alike) > 1 else "step"
        sentences.append(f"Not separable from it: {noun} {', '.join(map(str, alike))}.")
    return sentences


def _not_separable_from(report: Report, best: Row, rows: Sequence[Row]) -> list[int]:
    """Return the steps that are known to be not separable from the best."""
    bootstrap = Bootstrap(confidence=report.confidence)

    def compared(row: Row) -> Claim:
        if row.step > best.step:  # the best is the fastest before it
            return claim_between(row, best, row.versus_fastest_before)
        return claim_between(best, row, compare_rows(best, row, bootstrap))

    return [row.step for row in rows if row is not best and compared(row) is Claim.NOT_SEPARABLE]


def _sentence(text: str) -> str:
    return f"{escape_latex(text[:1].upper() + text[1:])}."
