"""The texts of a report's cells and footnotes, before any format escapes them."""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from string import ascii_lowercase
from typing import Any

from dyna_eval import wording
from dyna_eval.jobs import PACKAGE, GenerationSpec, Method, Params, Scalar, digest
from dyna_eval.methods import SYMBOLS, DynaTree, TreeShape
from dyna_eval.reports import digits
from dyna_eval.reports.intervals import Interval
from dyna_eval.reports.report import LeftOut, Report, Row
from dyna_eval.wording import count, listed, one_line

UNKNOWN = "--"


class Column(StrEnum):
    """A column that a table has where it is asked for; some kinds of tables have some of them anyway."""

    INTERVAL = "interval"
    GAIN = "gain"
    ACCEPTANCE = "acceptance"
    RATE = "rate"
    NODES = "nodes"
    EXACT = "exact"
    MEMORY = "memory"
    PREDICTED = "predicted"
    DISTINCT = "distinct"
    PREFILL = "prefill"
    TTFT = "ttft"
    END_TO_END = "end_to_end"
    END_TO_END_SPEEDUP = "end_to_end_speedup"
    JOBS = "jobs"


_WORDS = {
    "cache": "{} cache",
    "schedule": "{}",
    "expansion": "{}",
    "branch_phase": "no branch phase",
    "depth_phase": "no depth phase",
    "history_phase": "no history phase",
}
_NAMES = {
    Method.AR: "AR only",
    Method.HF_GENERATE: "transformers generate",
    Method.HF_ASSISTED: "transformers assisted",
    Method.OTHER: "other method",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Setting:
    """A parameter as a cell shows it.

    A symbol of one letter is mathematics, a longer one a name; without one the value speaks for itself.
    """

    symbol: str
    relation: str
    value: str


def configuration_text(method: Method, params: Params) -> str:
    """Return a method and its parameters for people: `AR only`, `tree, D=7, B=2, τ=0.05`."""
    texts = [f"{one_line(s.symbol)}{s.relation}{s.value}" for s in settings(method, params)]
    return ", ".join([method_name(method), *texts])


def method_name(method: Method) -> str:
    """Return a method as a sweep file names it, or what people call it."""
    return _NAMES.get(method, method.value)


def settings(method: Method, params: Params) -> list[Setting]:
    """Return the parameters worth telling: those that decide the method, and others that may change it."""
    shown = []
    for name, value in _told(method, params).items():
        text = f"{value:g}" if isinstance(value, float) else one_line(str(value))
        if name in _WORDS:
            shown.append(Setting(symbol="", relation="", value=_WORDS[name].format(text)))
        elif name in SYMBOLS:
            shown.append(Setting(symbol=SYMBOLS[name], relation="=", value=text))
        elif name == "max_nodes" and _could_bind(params):
            shown.append(Setting(symbol="N", relation="≤", value=text))
        elif name != "max_nodes" and not _is_usual(name, value, params):
            shown.append(Setting(symbol=name, relation="=", value=text))
    return shown


def _told(method: Method, params: Params) -> Params:
    """Leave out what a method's own rule, or a footnote of its row, tells better."""
    if method is Method.DYNATREE:
        return _told_of_dynatree(params)
    if method is Method.STATIC_TREE:
        return _told_of_static_tree(params)
    return {name: value for name, value in params.items() if not (method.is_external and name == PACKAGE)}


def _is_usual(name: str, value: Scalar, params: Params) -> bool:
    """Whether a parameter has the value that a reader assumes."""
    if name == "prune":
        return value == "node" or not params.get("threshold")
    if name == "confidence_threshold":
        return not value
    return name == "root_branch" and value in (None, params.get("branch"))


def _told_of_dynatree(params: Params) -> Params:
    """Write the numbers of branches as one, `1/2/3`; leave out what is unused, and what is as usual.

    An imported row may name a part of the parameters; the others are not made up.
    """
    fields = DynaTree.model_fields
    known: dict[str, Any] = {name: value for name, value in params.items() if name in fields}
    tree = DynaTree.model_construct(**known)
    branches = [
        name
        for name in ("branch_min", "branch_mid", "branch_max")
        if name in params and name not in tree.idle
    ]
    told: dict[str, Scalar] = {name: params[name] for name in ("depth", "max_depth") if name in params}
    if branches:
        told["branch"] = "/".join(str(params[name]) for name in branches)
    if "max_nodes" in params:
        told["max_nodes"] = params["max_nodes"]
    for name, value in params.items():
        if name not in (*told, *branches) and (name not in fields or value != fields[name].default):
            told[name] = value
    return {name: value for name, value in told.items() if name not in tree.idle}


def _told_of_static_tree(params: Params) -> Params:
    """Count the nodes of a tree that is given node by node."""
    nodes = str(params.get("paths") or "").split()
    if not nodes:
        return {"expansion": params.get("expansion")}
    return {"depth": _depth(nodes), "nodes": len(nodes)}


def _depth(nodes: Sequence[str]) -> int:
    return max(node.count(".") for node in nodes) + 1


def tree_text(paths: str) -> str:
    """Return the size of a tree that is given node by node: `D=4, 26 nodes`."""
    nodes = paths.split()
    return f"{SYMBOLS['depth']}={_depth(nodes)}, {count(len(nodes), 'node')}"


def _could_bind(params: Params) -> bool:
    """Whether the whole tree has more draft nodes than `max_nodes` lets it have."""
    cap, shape = params.get("max_nodes"), TreeShape.of(params)
    if not isinstance(cap, int) or shape is None:
        return cap is not None
    return shape.nodes > cap


@dataclass(frozen=True, slots=True)
class Notes:
    """A table's footnotes: distinct texts, lettered as they appear, and remarks on the whole table."""

    texts: tuple[str, ...]
    general: tuple[str, ...]

    @classmethod
    def of(cls, report: Report, pair: str, *, whole: bool = False) -> Notes:
        """Return a pair's footnotes; `whole` names all that is left out, where it is else counted."""
        caveats = [one_line(text) for row in report.rows_of(pair) for text in row.caveat_texts]
        entries = [entry for entry in report.left_out if entry.pair in (None, pair)]
        left_out = left_out_texts(report, entries, whole=whole)
        return cls(tuple(dict.fromkeys(caveats)), (*map(one_line, report.texts_on(pair)), *left_out))

    def marks(self, row: Row) -> list[str]:
        return [
            _letter(place)
            for place in sorted({self.texts.index(one_line(text)) for text in row.caveat_texts})
        ]

    def lettered(self) -> list[tuple[str, str]]:
        return [(_letter(index), text) for index, text in enumerate(self.texts)]


def _letter(index: int) -> str:
    """Return a, b, ..., z, aa, ab, ..."""
    before, last = divmod(index, 26)
    return (_letter(before - 1) if before else "") + ascii_lowercase[last]


@dataclass(frozen=True, slots=True, kw_only=True)
class LeftOutEntries:
    """What a report leaves out."""

    absent: tuple[LeftOut, ...]
    """Configurations that have no figures."""
    partial: tuple[LeftOut, ...]
    """Jobs that the figures of rows lack."""

    @classmethod
    def of(cls, report: Report, entries: Sequence[LeftOut]) -> LeftOutEntries:
        in_table = {job for row in report.rows if row.figures for job in row.job_ids}
        absent = tuple(entry for entry in entries if in_table.isdisjoint(entry.job_ids))
        partial = tuple(entry for entry in entries if not in_table.isdisjoint(entry.job_ids))
        return cls(absent=absent, partial=partial)

    @property
    def counts(self) -> tuple[str, ...]:
        """How many they are, in a text for each kind that there is; jobs only where any is known."""
        texts = []
        if self.absent:
            jobs = f", {_count_jobs(self.absent)}" if any(entry.job_ids for entry in self.absent) else ""
            texts.append(f"Left out: {count(len(self.absent), 'configuration')}{jobs}")
        if self.partial:
            texts.append(f"Left out of rows above: {_count_jobs(self.partial)}")
        return tuple(texts)


_LEFT_OUT_NAMED = 4


def left_out_texts(report: Report, entries: Sequence[LeftOut], *, whole: bool = False) -> list[str]:
    """Say which configurations have no figures, and which jobs the figures of others lack.

    The first few of either kind are named and the others counted; with `whole` all are named.
    """
    found = LeftOutEntries.of(report, entries)
    kinds = filter(None, (found.absent, found.partial))
    return [
        one_line(f"{counted}: {_reasons(kind, len(kind) if whole else _LEFT_OUT_NAMED)}")
        for counted, kind in zip(found.counts, kinds, strict=True)
    ]


def _count_jobs(entries: Sequence[LeftOut]) -> str:
    return count(sum(len(entry.job_ids) for entry in entries), "job")


def _reasons(entries: Sequence[LeftOut], most: int) -> str:
    """Return the labels of configurations with why they are left out, once for neighbours of one reason.

    After `most` of them the others are counted: `'Sweep (depth=2)' (failed: out of memory); and 85 more`.
    """
    alike = itertools.groupby(entries[:most], key=lambda entry: f"{entry.state}: {entry.reason}")
    labelled = [(", ".join(f"'{entry.label}'" for entry in group), why) for why, group in alike]
    more = [f"and {len(entries) - most:,} more"] if len(entries) > most else []
    return "; ".join([*(f"{labels} ({why})" for labels, why in labelled), *more])


def span(counts: Sequence[int | None], noun: str) -> str:
    """Return `3 repeats`, or `2 to 3 repeats` where counts differ; nothing where one is unknown."""
    known = [number for number in counts if number is not None]
    if len(known) < len(counts):
        return ""
    low, high = min(known), max(known)
    return count(high, noun) if low == high else f"{low:,} to {high:,} {noun}s"


def measured_text(rows: Sequence[Row]) -> str:
    """Return over what the figures of a table are: `8 prompts, 3 repeats`; nothing where nothing is known."""
    known = [row.figures for row in rows if row.figures]
    if not known:
        return ""
    counts = (
        span([figures.prompts for figures in known], "prompt"),
        span([figures.repeats for figures in known], "repeat"),
    )
    return ", ".join(filter(None, counts))


def table_title(pair: str, rows: Sequence[Row]) -> str:
    """Return what stands over a pair's table: the pair, and over what its figures are."""
    return ": ".join(filter(None, (f"pair {one_line(pair)}", measured_text(rows))))


def circumstances(report: Report, pair: str) -> str:
    """Return where and how a pair's rows were measured: `measured on AMD EPYC, 2 cores, in bfloat16, ...`.

    What is not known is left out; empty where no row says on which machine it was measured.
    """
    rows = [row for row in report.rows_of(pair) if row.figures]
    facts = [report.environments.get(row.environment or "", {}) for row in rows]
    named = [known for known in facts if known.get("gpu") or known.get("processor")]
    machines = list(dict.fromkeys(one_line(wording.machine(known, "")) for known in named))
    if not machines:
        return ""
    model, generation = report.models.get(pair), report.generations.get(pair)
    texts = [f"measured on {listed(machines)}"]
    if model is not None:
        texts.append(f"in {model.dtype}")
    if generation is not None:
        texts.append(generation_text(generation))
    return ", ".join(texts)


def told_below(report: Report, pair: str) -> str:
    """Return the line below a pair's table: its circumstances, and that its figures of speed are of decoding.

    Empty where no row says on which machine it was measured.
    """
    told = circumstances(report, pair)
    return f"{told}; {PREFILL_APART}" if told and all_of_decoding(report.rows_of(pair)) else told


PREFILL_APART = "prefill apart"


def of_decoding(rows: Sequence[Row]) -> str:
    """Return ` of decoding, prefill apart` for rows of which that is known, else nothing."""
    return f" of decoding, {PREFILL_APART}" if all_of_decoding(rows) else ""


def all_of_decoding(rows: Sequence[Row]) -> bool:
    """Whether all throughputs are known to be without the prefill; those of a file may have it in them."""
    return not any(row.source for row in rows)


def generation_text(generation: GenerationSpec) -> str:
    """Return how texts are generated: `64 tokens a prompt, greedy`."""
    most = "up to " if generation.stop_at_eos else ""
    law = f"temperature {generation.temperature:g}" if generation.temperature else "greedy"
    return f"{most}{count(generation.max_new_tokens, 'token')} a prompt, {law}"


def throughput_cell(row: Row) -> str:
    return digits.throughput(row) or UNKNOWN


def speedup_cell(row: Row) -> str:
    known = digits.speedup(row)
    return f"{known} ×" if known else UNKNOWN


def interval_cell(interval: Interval | None, decimals: int = 2) -> str:
    return digits.bounds(interval, decimals) or UNKNOWN


def acceptance_cell(row: Row) -> str:
    return digits.acceptance_length(row) or UNKNOWN


def exact_cell(row: Row) -> str:
    known = digits.exact_percent(row)
    return f"{known} %" if known else UNKNOWN


def confidence_level(confidence: float) -> str:
    return f"{confidence * 100:g} %"


def sweep_numbers(report: Report) -> str:
    """Return which sweep a report is of, or which it joins: `sweep 1`, `sweeps 1, 4`."""
    if not report.joined:
        return f"sweep {report.sweep_id}"
    return f"sweeps {', '.join(str(sweep.id) for sweep in report.joined)}"


def report_title(report: Report) -> str:
    """Return what stands over a report: its name, its sweeps and their state."""
    return one_line(f"{report.name}: {sweep_numbers(report)}, {report.state}")


def origin_text(report: Report, rows: Sequence[Row]) -> str:
    """Return where the figures of rows come from; no name that a user wrote is in it."""
    jobs = ranges(job for row in rows for job in row.job_ids)
    return f"{sweep_numbers(report)}, {report.state}, digest {report.digest}, jobs {jobs}"


def jobs(row: Row) -> str | None:
    """Return the numbers of a row's jobs, as `dyna-eval show` takes them; None for an imported row."""
    return ranges(row.job_ids) if row.job_ids else None


READERS: dict[Column, Callable[[Row], str | None]] = {
    Column.INTERVAL: digits.speedup_interval,
    Column.GAIN: digits.gain_over_previous,
    Column.ACCEPTANCE: digits.acceptance_length,
    Column.RATE: digits.acceptance_rate,
    Column.NODES: digits.nodes,
    Column.EXACT: digits.exact_percent,
    Column.MEMORY: digits.memory,
    Column.PREDICTED: digits.predicted_speedup,
    Column.DISTINCT: digits.distinct_2,
    Column.PREFILL: digits.prefill,
    Column.TTFT: digits.ttft,
    Column.END_TO_END: digits.end_to_end,
    Column.END_TO_END_SPEEDUP: digits.end_to_end_speedup,
    Column.JOBS: jobs,
}
"""What a row has in each column, without a unit; None where it is not known."""


def ranges(numbers: Iterable[int]) -> str:
    """Return numbers as ranges: 1, 2, 3, 7 is `1-3, 7`."""
    runs = itertools.groupby(enumerate(sorted(numbers)), key=lambda pair: pair[1] - pair[0])
    spans = [[number for _, number in run] for _, run in runs]
    return ", ".join(f"{span[0]}-{span[-1]}" if len(span) > 1 else str(span[0]) for span in spans) or "none"


def slug(text: str) -> str:
    """Return text as part of a label or file name: lower-case letters and digits with hyphens between."""
    return re.sub("[^a-z0-9]+", "-", text.lower()).strip("-")


def terms_slug(report: Report) -> str:
    """Return what tells a report from one of the same sweep on other terms; empty on those of its file.

    `chosen`, `99` for a confidence, `over-draft-model` for a baseline, in this order.
    """
    terms, words = report.terms, []
    if terms.chosen:
        words.append("chosen")
    if terms.confidence is not None:
        words.append(slug(f"{terms.confidence * 100:g}"))
    if terms.baseline is not None:
        own = slug(terms.baseline)
        alike = {row.label for row in report.rows if slug(row.label) == own} - {terms.baseline}
        words += ["over", own, digest(terms.baseline)[:6] if alike or not own else ""]
    return "-".join(filter(None, words))


def pair_slugs(report: Report) -> dict[str, str]:
    """Return a distinct slug for each pair; empty where there is only one pair."""
    if len(report.pairs) == 1:
        return dict.fromkeys(report.pairs, "")
    slugs = [slug(pair) for pair in report.pairs]
    alone = {own for own in slugs if own and slugs.count(own) == 1}
    found: dict[str, str] = {}
    for number, (pair, own) in enumerate(zip(report.pairs, slugs, strict=True), start=1):
        numbered = (f"{own}-{n}".lstrip("-") for n in itertools.count(number))
        taken = {*alone, *found.values()}
        found[pair] = own if own in alone else next(name for name in numbered if name not in taken)
    return found
