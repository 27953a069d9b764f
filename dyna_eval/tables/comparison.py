"""A comparison of two sweeps in the terminal, in Markdown, in CSV and in JSON.

Each pair has a table of its own. Labels and names are the user's text and are escaped for every format; what
differs beside the speed, and what makes a row doubtful, stands in footnotes, which no format leaves out.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import TextIO

from dyna_eval.reports.cells import (
    UNKNOWN,
    Notes,
    acceptance_cell,
    confidence_level,
    configuration_text,
    interval_cell,
    report_title,
    speedup_cell,
    throughput_cell,
)
from dyna_eval.reports.digits import factor, percent
from dyna_eval.reports.gate import Failed
from dyna_eval.reports.intervals import Interval
from dyna_eval.reports.report import Row
from dyna_eval.reports.speedup_change import SpeedupChange
from dyna_eval.reports.sweep_comparison import (
    NOISE_UNKNOWN,
    Baselines,
    Match,
    Side,
    SpeedVerdict,
    SweepComparison,
)
from dyna_eval.reports.workloads import what_baselines_show
from dyna_eval.tables.formats import (
    csv_text,
    escape_csv,
    escape_markdown,
    markdown_label,
    markdown_notes,
    marked,
    new_table,
    print_fitting,
    print_notes,
    terminal,
)
from dyna_eval.tables.report_json import interval_json
from dyna_eval.wording import count, one_line, rate_text

# ------------------------------------------------------------------------------ cells


@dataclass(frozen=True, slots=True, kw_only=True)
class ComparedRow:
    """A row as every table shows it."""

    match: Match
    label: str
    configuration: str
    cells: tuple[str, ...]
    """Under `headers`."""
    marks: tuple[str, ...]
    """Letters of its footnotes."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ComparedPair:
    """One pair's table, or a part of it, with the footnotes that its rows need."""

    name: str
    rows: tuple[ComparedRow, ...]
    notes: Notes
    total: int
    """How many rows the pair has."""


def compared_pairs(
    comparison: SweepComparison, *, first: int = 0, size: int | None = None
) -> tuple[ComparedPair, ...]:
    """Return each pair's table: all of its rows, or `size` of them from `first` on."""
    return tuple(_compared_pair(comparison, both, first, size) for both in comparison.baselines)


def _compared_pair(
    comparison: SweepComparison, both: Baselines, first: int, size: int | None
) -> ComparedPair:
    own = [match for match in comparison.matches if match.a.pair == both.pair_a]
    shown = own[first:] if size is None else own[first : first + size]
    texts = {id(match): _match_notes(match) for match in shown}
    notes = Notes(tuple(dict.fromkeys(text for one in texts.values() for text in one)), ())
    letters = {text: letter for letter, text in notes.lettered()}
    rows = tuple(
        ComparedRow(
            match=match,
            label=_label(match),
            configuration=_configuration(match),
            cells=_cells(match),
            marks=tuple(letters[text] for text in texts[id(match)]),
        )
        for match in shown
    )
    return ComparedPair(name=_pair_text(both), rows=rows, notes=notes, total=len(own))


def _pair_text(both: Baselines) -> str:
    same = both.pair_a == both.pair_b
    return one_line(both.pair_a if same else f"{both.pair_a} (A), {both.pair_b} (B)")


def _label(match: Match) -> str:
    same = match.a.label == match.b.label
    return one_line(match.a.label if same else f"{match.a.label} (A), {match.b.label} (B)")


def _configuration(match: Match) -> str:
    here, there = (configuration_text(row.method, row.params) for row in (match.a, match.b))
    return here if here == there else f"{here} (A), {there} (B)"


def _ratio_cell(match: Match) -> str:
    return factor(match.ratio.ratio, 3) if match.ratio else UNKNOWN


def _ratio_interval(match: Match) -> Interval | None:
    return match.ratio.interval if match.ratio else None


def _speedup_interval(match: Match) -> Interval | None:
    known = match.speedup.ratio
    return known.interval if known else None


def _cells(match: Match) -> tuple[str, ...]:
    """Return the figures of one row, under `headers`."""
    return (
        throughput_cell(match.a),
        throughput_cell(match.b),
        _ratio_cell(match),
        interval_cell(_ratio_interval(match), 3),
        str(match.verdict),
        speedup_cell(match.a),
        speedup_cell(match.b),
        acceptance_cell(match.a),
        acceptance_cell(match.b),
    )


def headers(comparison: SweepComparison) -> tuple[str, ...]:
    """Return the titles of the columns of figures."""
    interval = f"{confidence_level(comparison.confidence)} interval"
    return (
        *("A tokens/s", "B tokens/s", "B / A", interval, "B is", "A speedup", "B speedup"),
        *("A tokens/round", "B tokens/round"),
    )


def _side_text(letter: str, side: Side) -> str:
    """Return which sweep a letter stands for."""
    text = f"{letter}: {report_title(side.report)}"
    return one_line(f"{text}, {side.origin}" if side.origin else text)


def _match_notes(match: Match) -> tuple[str, ...]:
    """Return what must be said beside a row of the comparison."""
    texts = []
    if match.by_label:
        texts.append("matched by its label: the method or its parameters differ")
    texts += [f"B differs from A in {difference}" for difference in match.differences]
    if match.unproven:
        texts.append(f"not shown to be the same in A and B: {', '.join(match.unproven)}")
    if match.noise_unknown:
        texts.append(NOISE_UNKNOWN)
    for letter, row in (("A", match.a), ("B", match.b)):
        texts += [f"{letter}: {text}" for text in row.caveat_texts]
        if row.figures is None:
            texts.append(f"{letter} has no result ({row.state})")
    return tuple(map(one_line, [*texts, *_count_notes(match)]))


def _count_notes(match: Match) -> list[str]:
    """Say whether the counts of a row are the same, and what else they may be where they are not."""
    counts = match.counts
    if counts.same:
        return ["same counts: tokens per round, and all else that both know of acceptance, to nine digits"]
    if counts.same is None or counts.ratio is None:
        return []
    text = f"other counts: B has {counts.percent} tokens per round"
    return [f"{text}; they may depend on the machine: {counts.machine}" if counts.machine else text]


def remarks(comparison: SweepComparison, *, most: int | None = None) -> list[str]:
    """Return what concerns the comparison as a whole: baselines, rows without a partner, of which `most`
    are named, and what each report says of all its rows."""
    several = len(comparison.baselines) > 1
    texts = [
        f"{_pair_text(both)}: {_baselines_text(both)}" if several else _baselines_text(both)
        for both in comparison.baselines
    ]
    for letter, rows in (("A", comparison.only_a), ("B", comparison.only_b)):
        if rows:
            named = list(map(_row_text, rows[:most]))
            if len(named) < len(rows):
                named.append(f"and {count(len(rows) - len(named), 'more row')}")
            texts.append(f"only in {letter}: {'; '.join(named)}")
    for letter, side in _sides(comparison):
        texts += [f"{letter}: {pair}: {own.text}" for pair, own in side.report.pair_caveats]
    return list(map(one_line, texts))


def _row_text(row: Row) -> str:
    return f"'{row.label}' ({configuration_text(row.method, row.params)}, pair {row.pair})"


def _baselines_text(both: Baselines) -> str:
    if both.a is None or both.b is None or both.percent is None:
        return "the baselines cannot be compared: one of them has no result"
    return (
        f"the baselines are {rate_text(both.a)} (A) and {rate_text(both.b)} (B) tokens/s,"
        f" B's {percent(both.percent / 100.0, sign='+')} %; {what_baselines_show(both.a, both.b)}"
    )


# --------------------------------------------------------------------------- terminal


def print_comparison(comparison: SweepComparison, file: TextIO) -> None:
    """Print one table per pair with its footnotes; colour only where `file` is a terminal."""
    from rich.text import Text  # noqa: PLC0415 (other formats need not load it)

    console = terminal(file)
    for letter, side in _sides(comparison):
        console.print(Text(_side_text(letter, side), style="bold"))
    for pair in compared_pairs(comparison):
        console.print(Text(f"\npair {pair.name}"))
        table = new_table()
        table.add_column("Components", overflow="fold")
        table.add_column("Configuration", overflow="fold", min_width=len("Configuration"))
        for header in headers(comparison):
            title = _of_two_lines(header) if file.isatty() else header
            table.add_column(title, justify="right", no_wrap=True)
        for row in pair.rows:
            label = marked(row.label, row.marks)
            style = {SpeedVerdict.FASTER: "green", SpeedVerdict.SLOWER: "red"}.get(row.match.verdict)
            table.add_row(label, Text(row.configuration), *map(Text, row.cells), style=style)
        print_fitting(table, console)
        print_notes(pair.notes, console)
    for text in remarks(comparison):
        console.print(Text(text, style="yellow"))


def _of_two_lines(header: str) -> str:
    """Break a title before its last word, unless that makes its column no narrower."""
    return header if len(header) <= len("B / A") else "\n".join(header.rsplit(" ", 1))


# --------------------------------------------------------------------------- Markdown


def comparison_markdown(comparison: SweepComparison) -> str:
    """Return one table per pair with its footnotes."""
    sides = [f"**{escape_markdown(_side_text(*one))}**  " for one in _sides(comparison)]
    tables = [_markdown_table(pair, headers(comparison)) for pair in compared_pairs(comparison)]
    general = [f"{escape_markdown(text)}  " for text in remarks(comparison)]
    return "\n".join([*sides, "", *tables, *general]).rstrip() + "\n"


def _sides(comparison: SweepComparison) -> list[tuple[str, Side]]:
    return [("A", comparison.a), ("B", comparison.b)]


def _markdown_table(pair: ComparedPair, figures: Sequence[str]) -> str:
    lines = [
        f"Pair {escape_markdown(pair.name)}",
        "",
        f"| {' | '.join(['Components', 'Configuration', *figures])} |",
        f"| --- | --- |{' ---: |' * len(figures)}",
    ]
    for row in pair.rows:
        cells = map(escape_markdown, (row.configuration, *row.cells))
        lines.append(f"| {' | '.join([markdown_label(row.label, row.marks), *cells])} |")
    return "\n".join([*lines, *markdown_notes(pair.notes)]).rstrip() + "\n"


# -------------------------------------------------------------------------------- CSV

_CSV_COLUMNS: dict[str, Callable[[Match], object]] = {
    "pair_a": lambda match: escape_csv(match.a.pair),
    "pair_b": lambda match: escape_csv(match.b.pair),
    "components_a": lambda match: escape_csv(match.a.label),
    "components_b": lambda match: escape_csv(match.b.label),
    "configuration_a": lambda match: escape_csv(configuration_text(match.a.method, match.a.params)),
    "configuration_b": lambda match: escape_csv(configuration_text(match.b.method, match.b.params)),
    "throughput_a": lambda match: match.a.figures and match.a.figures.throughput.mean,
    "throughput_b": lambda match: match.b.figures and match.b.figures.throughput.mean,
    "speedup_a": lambda match: match.a.versus_baseline and match.a.versus_baseline.ratio,
    "speedup_b": lambda match: match.b.versus_baseline and match.b.versus_baseline.ratio,
    "mean_acceptance_length_a": lambda match: match.counts.a,
    "mean_acceptance_length_b": lambda match: match.counts.b,
    "same_counts": lambda match: _word(match.counts.same),
    "ratio": lambda match: match.ratio and match.ratio.ratio,
    "ratio_low": lambda match: (known := _ratio_interval(match)) and known.low,
    "ratio_high": lambda match: (known := _ratio_interval(match)) and known.high,
    "prompts": lambda match: match.prompts or None,
    "verdict": lambda match: str(match.verdict),
    "notes": lambda match: escape_csv("; ".join(_match_notes(match))),
    "speedup_ratio": lambda match: (known := match.speedup.ratio) and known.ratio,
    "speedup_ratio_low": lambda match: (known := _speedup_interval(match)) and known.low,
    "speedup_ratio_high": lambda match: (known := _speedup_interval(match)) and known.high,
}


def _word(known: bool | None) -> str | None:
    return None if known is None else "yes" if known else "no"


def comparison_csv(comparison: SweepComparison) -> str:
    """Return a line per row that both have, and then per row that only one has; figures unrounded."""
    lines = [[read(match) for read in _CSV_COLUMNS.values()] for match in comparison.matches]
    for letter, rows in (("a", comparison.only_a), ("b", comparison.only_b)):
        lines += [_lonely(letter, row) for row in rows]
    return csv_text(_CSV_COLUMNS, lines)


def _lonely(letter: str, row: Row) -> list[object]:
    known: dict[str, object] = {
        f"pair_{letter}": escape_csv(row.pair),
        f"components_{letter}": escape_csv(row.label),
        f"configuration_{letter}": escape_csv(configuration_text(row.method, row.params)),
        f"throughput_{letter}": row.figures and row.figures.throughput.mean,
        f"speedup_{letter}": row.versus_baseline and row.versus_baseline.ratio,
        f"mean_acceptance_length_{letter}": row.figures and row.figures.acceptance.mean_length,
        "verdict": f"only in {letter.upper()}",
        "notes": escape_csv("; ".join(row.caveat_texts)),
    }
    return [known.get(column) for column in _CSV_COLUMNS]


# ------------------------------------------------------------------------------- JSON


def comparison_json(
    comparison: SweepComparison,
    regressed: Sequence[Failed] | None,
    *,
    lower: Sequence[Failed] | None = None,
    other: Sequence[Failed] | None = None,
) -> dict[str, object]:
    """Return the comparison as plain JSON values; `regressed`, `lower` and `other`, which are rows that got
    slower, rows of lower speedups and rows of other counts, are None where nobody asked."""
    return {
        "a": _side_json(comparison.a),
        "b": _side_json(comparison.b),
        "confidence": comparison.confidence,
        "rows": [_match_json(match) for match in comparison.matches],
        "only_a": [_row_json(row) for row in comparison.only_a],
        "only_b": [_row_json(row) for row in comparison.only_b],
        "remarks": remarks(comparison),
        "baselines": [asdict(both) | {"percent": both.percent} for both in comparison.baselines],
        "regressions": _failed_json(regressed),
        "other_counts": _failed_json(other),
        "lower_speedups": _failed_json(lower),
    }


def _failed_json(failed: Sequence[Failed] | None) -> list[dict[str, object]] | None:
    if failed is None:
        return None
    return [{"pair": one.row.pair, "label": one.row.label, "reason": one.reason} for one in failed]


def _side_json(side: Side) -> dict[str, object]:
    report = side.report
    return {
        "id": report.sweep_id,
        "name": report.name,
        "state": report.state,
        "digest": report.digest,
        "database": side.origin or None,
    }


def _match_json(match: Match) -> dict[str, object]:
    ratio = match.ratio
    return {
        "a": _row_json(match.a),
        "b": _row_json(match.b),
        "matched_by": "label" if match.by_label else "configuration",
        "ratio": ratio and ratio.ratio,
        "ratio_interval": ratio and interval_json(ratio.interval),
        "ratio_paired": ratio and ratio.paired,
        "ratio_paired_interval": ratio and interval_json(ratio.paired_interval),
        "prompts": match.prompts or None,
        "verdict": str(match.verdict),
        "noise_unknown": match.noise_unknown,
        "differences": list(match.differences),
        "unproven": list(match.unproven),
        "obstacles": list(match.obstacles),
        "same_counts": match.counts.same,
        "counts_depend_on_machine": match.counts.machine,
        **_speedup_json(match.speedup),
    }


def _speedup_json(change: SpeedupChange) -> dict[str, object]:
    ratio = change.ratio
    return {
        "speedup_ratio": ratio and ratio.ratio,
        "speedup_ratio_interval": ratio and interval_json(ratio.interval),
        "speedup_ratio_paired": ratio and ratio.paired,
        "speedup_ratio_paired_interval": ratio and interval_json(ratio.paired_interval),
        "speedup_noise_unknown": change.noise_unknown,
        "speedup_obstacles": list(change.obstacles),
    }


def _row_json(row: Row) -> dict[str, object]:
    return {
        "pair": row.pair,
        "label": row.label,
        "method": row.method.value,
        "params": dict(row.params),
        "state": str(row.state),
        "throughput_tokens_per_s": row.figures and row.figures.throughput.mean,
        "speedup": row.versus_baseline and row.versus_baseline.ratio,
        "mean_acceptance_length": row.figures and row.figures.acceptance.mean_length,
        "prompt_set": row.prompt_set,
        "generation": row.generation_digest,
        "env": row.environment,
        "job_ids": list(row.job_ids),
        "caveats": list(row.caveat_texts),
    }
