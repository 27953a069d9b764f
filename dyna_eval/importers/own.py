"""What `dyna-eval report --json` wrote, here or elsewhere: figures with their intervals and digests."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated

from pydantic import Field

from dyna_eval.importers.reading import Content, Count, FileSection, Rate, Setting, Text
from dyna_eval.jobs import Method
from dyna_eval.reports.imported import Claims, Counts, ImportedFile, ImportedRow, LeftOutRow, Source
from dyna_eval.reports.intervals import Interval
from dyna_eval.reports.labels import numbered_labels
from dyna_eval.reports.statistics import (
    Acceptance,
    Agreement,
    Comparison,
    Figures,
    Latency,
    Percentiles,
    Shares,
    Throughput,
)

NAME = "dyna-eval"
SUMMARY = "this tool's own `report --json`"

_Number = Annotated[float, Field(ge=-1e18, le=1e18, allow_inf_nan=False)]
_Positive = Annotated[float, Field(ge=0, le=1e18, allow_inf_nan=False)]
_Share = Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)]
_Two = Annotated[list[_Positive], Field(min_length=2, max_length=2)]


class _Sweep(FileSection):
    name: Text
    state: Text
    confidence: Annotated[float, Field(gt=0, lt=1)]


class _Percentiles(FileSection):
    p50: _Positive
    p95: _Positive


class _Row(FileSection):
    pair: Text
    label: Text
    method: Text
    params: dict[Text, Setting]
    state: Text
    baseline: bool
    prompt_set: Text | None = None
    generation: Text | None = None
    env: Text | None = None
    key: Text | None = None
    mixed: list[Text] = Field(default_factory=list)
    caveats: list[str] | None = None
    """None in older files, which have them among the warnings alone."""
    slowed: list[str] = Field(default_factory=list)
    job_ids: list[Count] = Field(default_factory=list)
    """Of the database that the report is from."""
    peak_memory_bytes: Count | None = None
    prompts: Count | None = None
    repeats: Count | None = None
    tokens: Count | None = None
    throughput_tokens_per_s: Rate | None
    throughput_interval: _Two | None = None
    throughput_std: _Positive | None = None
    throughput_pooled: Rate | None = None
    end_to_end_tokens_per_s: Rate | None = None
    mean_acceptance_length: _Positive | None = None
    mean_acceptance_length_per_request: _Positive | None = None
    draft_acceptance_rate: _Share | None = None
    node_acceptance: _Share | None = None
    mean_tree_nodes: _Positive | None = None
    node_cap_bound_rate: _Share | None = None
    marginal_accept_rates: list[_Share] | None = None
    conditional_accept_rates: list[_Share] | None = None
    draft_share: _Number | None = None
    grow_share: _Number | None = None
    verify_share: _Number | None = None
    walk_share: _Number | None = None
    host_share: _Number | None = None
    predicted_speedup: _Positive | None = None
    ttft_s: _Percentiles | None = None
    tpot_s: _Percentiles | None = None
    prefill_s: _Percentiles | None = None
    compared: Count | None = None
    exact_match_rate: _Share | None = None
    ties: Count | None = None
    violations: Count | None = None
    distinct_2: _Share | None = None
    speedup: Rate | None = None
    speedup_interval: _Two | None = None
    speedup_paired: Rate | None = None
    speedup_paired_interval: _Two | None = None
    end_to_end_speedup: Rate | None = None
    end_to_end_speedup_interval: _Two | None = None
    gain_over_previous: _Number | None = None
    paired_over_previous: Rate | None = None
    paired_over_previous_interval: _Two | None = None


class _LeftOut(FileSection):
    label: Text
    pair: Text | None = None
    state: Text
    reason: Annotated[str, Field(max_length=10_000)]
    job_ids: list[Count] = Field(default_factory=list)


class _Document(FileSection):
    sweep: _Sweep
    environments: dict[Text, dict[Text, Setting]] = Field(default_factory=dict)
    left_out: list[_LeftOut] = Field(default_factory=list)
    warnings: list[str] = Field(default_factory=list)


def recognises(content: Content) -> bool:
    document = content.document
    sweep = document.get("sweep")
    return isinstance(sweep, dict) and "confidence" in sweep and "rows" in document


def read(content: Content) -> ImportedFile:
    """Raises ImportFileError where a row is not as this tool writes it."""
    document = content.check(_Document, content.document)
    listed = content.document["rows"]
    if not isinstance(listed, list) or not listed:
        content.refuse("rows holds no rows")
    rows = [content.check(_Row, row, f"rows[{index}]") for index, row in enumerate(listed)]
    _refuse_contradictions(content, rows)
    measured = [row for row in rows if row.throughput_tokens_per_s is not None]
    if not measured:
        content.refuse(f"holds no finished row (its sweep is {document.sweep.state})")
    keys = numbered_labels([f"{row.pair}\n{row.label}" for row in measured])
    several = len({row.pair for row in rows}) > 1
    openings = [f"{row.pair}: {row.label}: " if several else f"{row.label}: " for row in measured]
    found = list(zip(measured, openings, strict=True))
    notes = [_notes_of(row, opening, openings, document.warnings) for row, opening in found]
    of_rows = {opening + text for opening, own in zip(openings, notes, strict=True) for text in own}
    row_of_job = {job: place for place, row in enumerate(measured) for job in row.job_ids}
    absent: list[_LeftOut] = []
    lacking: list[list[str]] = [[] for _ in measured]  # why rows that have figures lack some of their jobs
    for entry in document.left_out:
        places = {row_of_job[job] for job in entry.job_ids if job in row_of_job}
        for place in places:
            lacking[place].append(entry.reason)
        if not places:
            absent.append(entry)
    return ImportedFile(
        source=Source(file=content.file, format=NAME, sha256=content.sha256),
        claims=Claims(),
        rows=tuple(
            _imported(row, key.split("\n")[1], (*own, *reasons))
            for row, key, own, reasons in zip(measured, keys, notes, lacking, strict=True)
        ),
        left_out=tuple(
            LeftOutRow(label=entry.label, pair=entry.pair, state=entry.state, reason=entry.reason)
            for entry in absent
        ),
        notes=tuple(text for text in document.warnings if text not in of_rows),
        confidence=document.sweep.confidence,
        environments=document.environments,
    )


def _refuse_contradictions(content: Content, rows: list[_Row]) -> None:
    """Raise ImportFileError for the first row that holds what this tool never writes."""
    baselines: dict[str, int] = {}
    for index, row in enumerate(rows):
        first = baselines.setdefault(row.pair, index) if row.baseline else index
        if first != index:
            content.refuse(f"rows[{index}].baseline is true, as is rows[{first}].baseline of the same pair")
        for text in _contradictions(row):
            content.refuse(f"rows[{index}].{text}")


def _contradictions(row: _Row) -> Iterator[str]:
    for name in _INTERVALS:
        bounds = getattr(row, name)
        if bounds and bounds[0] > bounds[1]:
            yield f"{name} is from {bounds[0]:g} to {bounds[1]:g}: its lower end is above its upper one"
    for name in _PERCENTILES:
        known = getattr(row, name)
        if known and known.p95 < known.p50:
            yield f"{name}.p95 is {known.p95:g}, below its p50 of {known.p50:g}"
    if row.compared is not None and row.exact_match_rate is not None:
        exact, ties, violations = round(row.exact_match_rate * row.compared), row.ties, row.violations
        told = exact + (ties or 0) + (violations or 0)
        if told > row.compared or (told < row.compared and None not in (ties, violations)):
            yield (
                f"compared is {row.compared}, but exact_match_rate, ties and violations"
                f" tell of {exact} + {ties or 0} + {violations or 0} samples"
            )


_INTERVALS = (
    "throughput_interval",
    "speedup_interval",
    "speedup_paired_interval",
    "end_to_end_speedup_interval",
    "paired_over_previous_interval",
)
_PERCENTILES = ("ttft_s", "tpot_s", "prefill_s")


def _imported(row: _Row, label: str, notes: tuple[str, ...]) -> ImportedRow:
    method = _method(row.method)
    return ImportedRow(
        pair=row.pair,
        label=label,
        method=method,
        params=row.params,
        is_baseline=row.baseline,
        figures=_figures(row),
        counts=Counts(tokens=row.tokens, tokens_per_round=row.mean_acceptance_length)
        if method is not Method.AR
        else Counts(tokens=row.tokens),
        prompt_set=row.prompt_set,
        generation=row.generation,
        environment=row.env,
        key=row.key,
        versus_baseline=_versus_baseline(row),
        versus_previous=_versus_previous(row),
        end_to_end_speedup=_end_to_end(row),
        mixed=tuple(row.mixed),
        notes=notes,
        slowed=tuple(row.slowed),
        peak_memory_bytes=row.peak_memory_bytes,
    )


def _method(name: str) -> Method:
    """Return a method by its name, also where it is of a package that is not installed here."""
    try:
        return Method(name)
    except ValueError:
        return Method.OTHER


def _notes_of(row: _Row, opening: str, openings: list[str], warnings: list[str]) -> tuple[str, ...]:
    """Return what is said of a row: in older files, the warnings of which its opening is the longest."""
    if row.caveats is not None:
        return tuple(row.caveats)
    longer = tuple(other for other in openings if len(other) > len(opening))
    return tuple(
        text.removeprefix(opening)
        for text in warnings
        if text.startswith(opening) and not text.startswith(longer)
    )


def _figures(row: _Row) -> Figures:
    assert row.throughput_tokens_per_s is not None  # noqa: S101 - rows without are left out
    return Figures(
        prompts=row.prompts,
        repeats=row.repeats,
        tokens=row.tokens,
        throughput=Throughput(
            mean=row.throughput_tokens_per_s,
            interval=_interval(row.throughput_interval),
            std=row.throughput_std,
            pooled=row.throughput_pooled,
            end_to_end=row.end_to_end_tokens_per_s,
        ),
        acceptance=Acceptance(
            mean_length=row.mean_acceptance_length,
            mean_length_per_request=row.mean_acceptance_length_per_request,
            draft_rate=row.draft_acceptance_rate,
            node_rate=row.node_acceptance,
            mean_tree_nodes=row.mean_tree_nodes,
            node_cap_bound_rate=row.node_cap_bound_rate,
            marginal_rates=_rates(row.marginal_accept_rates),
            conditional_rates=_rates(row.conditional_accept_rates),
        ),
        shares=Shares(
            draft=row.draft_share,
            grow=row.grow_share,
            verify=row.verify_share,
            walk=row.walk_share,
            host=row.host_share,
        ),
        latency=Latency(
            ttft=_percentiles(row.ttft_s),
            tpot=_percentiles(row.tpot_s),
            prefill=_percentiles(row.prefill_s),
        ),
        agreement=_agreement(row),
        distinct_2=row.distinct_2,
        predicted_speedup=row.predicted_speedup,
    )


def _agreement(row: _Row) -> Agreement:
    """Return the counts; without that of compared samples, which older files lack, nothing was compared."""
    compared, rate = row.compared or 0, row.exact_match_rate
    if not compared or rate is None:
        return Agreement()
    return Agreement(
        compared=compared,
        exact=round(rate * compared),
        ties=row.ties or 0,
        violations=row.violations or 0,
    )


def _versus_baseline(row: _Row) -> Comparison | None:
    if row.speedup is None:
        return None
    return Comparison(
        ratio=row.speedup,
        interval=_interval(row.speedup_interval),
        paired=row.speedup_paired,
        paired_interval=_interval(row.speedup_paired_interval),
    )


def _end_to_end(row: _Row) -> Comparison | None:
    if row.end_to_end_speedup is None:
        return None
    return Comparison(ratio=row.end_to_end_speedup, interval=_interval(row.end_to_end_speedup_interval))


def _versus_previous(row: _Row) -> Comparison | None:
    if row.gain_over_previous is None or row.gain_over_previous <= -1.0:
        return None
    return Comparison(
        ratio=row.gain_over_previous + 1.0,
        paired=row.paired_over_previous,
        paired_interval=_interval(row.paired_over_previous_interval),
    )


def _interval(bounds: list[float] | None) -> Interval | None:
    return None if bounds is None else Interval(low=bounds[0], high=bounds[1])


def _percentiles(given: _Percentiles | None) -> Percentiles | None:
    return None if given is None else Percentiles(p50=given.p50, p95=given.p95)


def _rates(rates: list[float] | None) -> tuple[float, ...] | None:
    return None if rates is None else tuple(rates)
