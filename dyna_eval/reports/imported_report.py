"""The report of an imported sweep: the same rows as of a measured one, with figures that may be unknown."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from statistics import fmean

from dyna_eval.jobs import Method, SweepState
from dyna_eval.reports.counts import Identical, all_files, doubted_prompts, identical_rows
from dyna_eval.reports.deferred import Deferred
from dyna_eval.reports.digits import factor
from dyna_eval.reports.imported import ImportedFile, ImportedRow, ImportedSample, ImportedSweep
from dyna_eval.reports.integrity import Caveat, CaveatKind, mixed_caveats, row_caveats
from dyna_eval.reports.intervals import Bootstrap
from dyna_eval.reports.labels import labels_with_origin
from dyna_eval.reports.report import (
    LeftOut,
    Report,
    Row,
    RowState,
    compare_rows,
    refuse_mixed,
    with_comparisons,
)
from dyna_eval.reports.statistics import Acceptance, Agreement, Figures, Latency, Shares, Throughput

_DEFAULT_CONFIDENCE = 0.95
_NO_RUN_NOISE = (
    "intervals are over prompts alone: no file tells what runs differ by, and a small difference may be the"
    " machine's"
)


def imported_report(
    sweep: ImportedSweep, others: Sequence[ImportedSweep] = (), *, allow_mixed: bool = False
) -> Report:
    """Return the report of an imported sweep.

    `others` are the imported sweeps to compare its counts with. Raises MixedRowsError where its rows must not
    stand in one table, unless `allow_mixed`.
    """
    confidence = confidence_of(sweep)
    bootstrap = Bootstrap(confidence=confidence)
    pairs = tuple(dict.fromkeys(row.pair for row in sweep.rows))
    rows = tuple(row for pair in pairs for row in _rows_of_pair(sweep, pair, bootstrap))
    if not allow_mixed:
        refuse_mixed(rows)
    return Report(
        sweep_id=sweep.id,
        name=sweep.name,
        digest=sweep.digest,
        state=SweepState.IMPORTED,
        created_at=sweep.created_at,
        confidence=confidence,
        environments={name: facts for file in sweep.files for name, facts in file.environments.items()},
        pairs=pairs,
        rows=rows,
        left_out=tuple(
            LeftOut(label=entry.label, pair=entry.pair, state=entry.state, reason=entry.reason)
            for file in sweep.files
            for entry in file.left_out
        ),
        pair_caveats=tuple(
            (pair, caveat)
            for pair in pairs
            for caveat in (*pruning_caveats(rows, pair), *_file_caveats(sweep, pair, others, rows))
        ),
    )


def confidence_of(sweep: ImportedSweep) -> float:
    """Return the confidence of an imported sweep's intervals: its files', or the usual one."""
    return next((file.confidence for file in sweep.files if file.confidence), _DEFAULT_CONFIDENCE)


def findings(sweep: ImportedSweep, others: Sequence[ImportedSweep]) -> list[str]:
    """Return what the counts of an imported sweep say against its files."""
    texts = [group.text for file in sweep.files for group in identical_rows(file)]
    return [*texts, *_doubts(sweep, others)]


def _rows_of_pair(sweep: ImportedSweep, pair: str, bootstrap: Bootstrap) -> list[Row]:
    entries = [(file, row) for file in sweep.files for row in file.rows if row.pair == pair]
    base = next((row for _, row in entries if row.is_baseline), None)
    reference = base or entries[0][1]
    labels = labels_with_origin([(row.label, file.source.file) for file, row in entries])
    rows = [
        _row(file, row, label, step, bootstrap, is_baseline=row is base, mixed=_mixed_within(row, reference))
        for step, ((file, row), label) in enumerate(zip(entries, labels, strict=True), start=1)
    ]
    compared = with_comparisons(rows, bootstrap)
    given = [
        replace(
            row,
            versus_baseline=own.versus_baseline or row.versus_baseline,
            versus_previous=own.versus_previous or row.versus_previous,
            deferred_end_to_end=Deferred.known(own.end_to_end_speedup),
        )
        for row, (_, own) in zip(compared, entries, strict=True)
    ]
    identical = [group for file in sweep.files for group in identical_rows(file)]
    return [
        replace(row, caveats=_caveats(row, own, file, identical, bootstrap.confidence))
        for row, (file, own) in zip(given, entries, strict=True)
    ]


def _row(
    file: ImportedFile,
    row: ImportedRow,
    label: str,
    step: int,
    bootstrap: Bootstrap,
    *,
    is_baseline: bool,
    mixed: tuple[str, ...],
) -> Row:
    return Row(
        pair=row.pair,
        step=step,
        label=label,
        method=row.method,
        params=row.params,
        state=RowState.IMPORTED,
        is_baseline=is_baseline,
        job_ids=(),
        prompt_set=row.prompt_set,
        environment=row.environment,
        mixed=mixed,
        figures=row.figures or _sample_figures(row, bootstrap),
        versus_baseline=None,
        versus_previous=None,
        caveats=(),
        generation_digest=row.generation,
        key=row.key,
        rates=_sample_rates(row.samples) if row.samples else None,
        source=file.source,
        foreign=row.foreign,
        peak_memory_bytes=row.peak_memory_bytes,
    )


def _mixed_within(row: ImportedRow, reference: ImportedRow) -> tuple[str, ...]:
    """Return what keeps a row from standing beside another one of its sweep."""
    if row.samples and reference.samples and row.prompt_set != reference.prompt_set:
        return (*row.mixed, "prompt set (other questions)")
    return row.mixed


def _caveats(
    row: Row, own: ImportedRow, file: ImportedFile, identical: Sequence[Identical], confidence: float
) -> tuple[Caveat, ...]:
    assert row.figures is not None  # noqa: S101 - an imported row has figures
    caveats = row_caveats(
        method=row.method,
        params=row.params,
        figures=row.figures,
        versus_baseline=row.versus_baseline,
        confidence=confidence,
        mixed=(),
    )
    rate = own.counts.acceptance_rate
    if rate is not None and rate > 1.0:
        text = f"its file's acceptance rate is above 1 ({rate * 100:.1f} %): foreign, not comparable"
        caveats.append(Caveat(text))
    caveats += [Caveat(group.text) for group in identical if group.has(own)]
    source = Caveat(f"imported from {file.source}")
    notes = [
        Caveat(text, CaveatKind.HEAVY_LOAD if text in own.slowed else CaveatKind.OTHER) for text in own.notes
    ]
    return tuple(dict.fromkeys([*mixed_caveats(row.mixed), source, *caveats, *notes]))


def _file_caveats(
    sweep: ImportedSweep, pair: str, others: Sequence[ImportedSweep], rows: Sequence[Row]
) -> list[Caveat]:
    notes = [text for file in sweep.files for text in file.notes]
    if not any(row.is_baseline for row in rows if row.pair == pair):
        notes.append("no row is known to be the baseline, so there is no speedup")
    of_samples = [row.figures for row in rows if row.pair == pair and row.rates]
    if any(figures and figures.throughput.interval for figures in of_samples):
        notes.append(_NO_RUN_NOISE)
    return [Caveat(text) for text in dict.fromkeys([*_doubts(sweep, others), *notes])]


def _doubts(sweep: ImportedSweep, others: Sequence[ImportedSweep]) -> list[str]:
    files = all_files(others)
    return [doubt.text for file in sweep.files if (doubt := doubted_prompts(file, files))]


def pruning_caveats(rows: Sequence[Row], pair: str) -> list[Caveat]:
    """Say how imported pruned trees compare with unpruned ones of their shape, each with the nearest row."""
    texts = []
    own = [row for row in rows if row.pair == pair and row.source]
    for row in own:
        shape = (row.params.get("depth"), row.params.get("branch"))
        plain = [one for one in own if _is_tree(one, shape) and one.params.get("threshold") == 0]
        if _is_tree(row, shape) and row.params.get("threshold") and plain:
            nearest = min(plain, key=lambda one: (abs(one.step - row.step), -one.step))
            if (ratio := compare_rows(row, nearest, None)) is not None:
                shown = factor(ratio.ratio)
                texts.append(f"D={shape[0]}, B={shape[1]}, τ={row.params['threshold']}: {shown}")
    if not texts:
        return []
    return [Caveat(f"pruned over unpruned trees: {'; '.join(texts)}", CaveatKind.PRUNING)]


def _is_tree(row: Row, shape: tuple[object, object]) -> bool:
    own = (row.params.get("depth"), row.params.get("branch"))
    return row.method is Method.TREE and None not in own and own == shape


# ---------------------------------------------------------------------- figures of samples


def _sample_rates(samples: Sequence[ImportedSample]) -> dict[int, float]:
    """Return tokens per second by question: all its tokens over all its seconds, as its file counts them."""
    tokens: dict[int, int] = {}
    seconds: dict[int, float] = {}
    for sample in samples:
        tokens[sample.prompt] = tokens.get(sample.prompt, 0) + sample.tokens
        seconds[sample.prompt] = seconds.get(sample.prompt, 0.0) + sample.seconds
    return {prompt: tokens[prompt] / spent for prompt, spent in sorted(seconds.items())}


def _sample_figures(row: ImportedRow, bootstrap: Bootstrap) -> Figures:
    """Return the figures of a row of samples, of which there is at least one."""
    samples = row.samples
    by_prompt = _sample_rates(samples)
    rates = list(by_prompt.values())
    tokens, seconds = sum(s.tokens for s in samples), sum(s.seconds for s in samples)
    counted = [(s.emitted, s.rounds) for s in samples if s.rounds and s.emitted is not None]
    lengths = [emitted / rounds for emitted, rounds in counted]
    pooled = sum(e for e, _ in counted) / sum(r for _, r in counted) if counted else None
    alone = row.method is Method.AR
    return Figures(
        prompts=len(rates),
        repeats=1,
        tokens=tokens,
        throughput=Throughput(
            mean=fmean(rates),
            interval=bootstrap.mean(rates),
            std=None,
            pooled=tokens / seconds,
            end_to_end=fmean(rates) if row.end_to_end is None else row.end_to_end,
            by_prompt=by_prompt,
        ),
        acceptance=Acceptance(
            mean_length=1.0 if alone else pooled,
            mean_length_per_request=1.0 if alone else fmean(lengths) if lengths else None,
        ),
        shares=Shares(),
        latency=Latency(),
        agreement=Agreement(),
        distinct_2=None,
        predicted_speedup=None,
    )
