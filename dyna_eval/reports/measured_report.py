"""From a stored sweep to its report: a row per configuration and pair, what to doubt, and what is missing.

Pure. Definitions of the figures are in `dyna_eval.reports.statistics`, what rows are doubted for in
`dyna_eval.reports.integrity`.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace

from dyna_eval.jobs import Configuration, JobState
from dyna_eval.records import StoredJob, StoredSentinel, SweepRecord
from dyna_eval.reports.chosen import ChosenRows, with_choice
from dyna_eval.reports.deferred import Deferred
from dyna_eval.reports.integrity import (
    UNKNOWN_NOISE,
    Caveat,
    actor_caveats,
    actor_speeds,
    backend_caveats,
    differences,
    equal_prompt_caveats,
    load_caveats,
    repetition_caveats,
    row_caveats,
    sentinel_load_caveats,
    shared_gpu_caveats,
)
from dyna_eval.reports.intervals import Bootstrap, RunNoise, TableNoise
from dyna_eval.reports.presets import Preset, apply_preset
from dyna_eval.reports.report import (
    LeftOut,
    Report,
    Row,
    RowState,
    refuse_mixed,
    with_comparisons,
)
from dyna_eval.reports.samples import SampleTable
from dyna_eval.reports.statistics import (
    PacedRun,
    Run,
    actor_paces,
    figures,
    mean_throughputs,
    paced_throughputs,
)
from dyna_eval.reports.tuning import split_record

PAST_ANSWERS = (
    "prompts in a chat template, without stop_at_eos: text behind the end of an answer repeats itself, which"
    " inflates acceptance"
)


def build_report(record: SweepRecord, *, allow_mixed: bool = False, preset: Preset | None = None) -> Report:
    """Compute every row of a sweep, or of the rows of it that a preset shows.

    Raises InputError if the sweep lacks what the preset is about. Raises MixedRowsError if rows of one pair
    differ in prompts, generation settings or environment, unless `allow_mixed`: such rows are then marked by
    a caveat that names the difference.
    """
    if record.measure.tune_fraction:
        report = _tuned(*split_record(record), allow_mixed=allow_mixed, preset=preset)
        return replace(report, measure=record.measure)
    return _of_rows(record, allow_mixed=allow_mixed, preset=preset)


def _of_rows(
    record: SweepRecord,
    *,
    allow_mixed: bool,
    preset: Preset | None,
    shown: Mapping[str, Collection[str]] | None = None,
) -> Report:
    """Return the report over all prompts; `shown` are the labels of rows by pair, where not all are."""
    whole, (record, unshown) = record, apply_preset(record, preset)
    bootstrap = Bootstrap(confidence=record.confidence)
    tables = _tables(record, whole if unshown else None, bootstrap)
    from_prefill = Deferred(
        lambda: _tables(_from_prefill(record), _from_prefill(whole) if unshown else None, bootstrap)
    )
    if shown is not None:
        tables = {pair: table.only(shown.get(pair, ())) for pair, table in tables.items()}
    by_table = [(table, table.rows(from_prefill)) for table in tables.values()]
    rows = tuple(row for _, own in by_table for row in own)
    if not allow_mixed:
        refuse_mixed(rows)
    return Report(
        sweep_id=record.id,
        name=record.name,
        digest=record.digest,
        state=record.state,
        created_at=record.created_at,
        confidence=record.confidence,
        pairs=record.pairs,
        rows=rows,
        left_out=(
            *_merged(record),
            *_unshown(whole, unshown, preset),
            *(entry for table in tables.values() for entry in table.left_out()),
        ),
        pair_caveats=tuple((table.pair, caveat) for table, own in by_table for caveat in table.caveats(own)),
        terms=record.terms,
        preset=preset,
        generations=record.generations,
        measure=record.measure,
        models=record.models,
        environments=record.environments,
        sweep_file=record.source or None,
    )


def _tables(record: SweepRecord, whole: SweepRecord | None, bootstrap: Bootstrap) -> dict[str, _PairTable]:
    """Return the table of each pair; `whole` is the record with rows that a preset hides, where it does."""
    tables = {pair: _PairTable.of(record, pair, bootstrap) for pair in record.pairs}
    if whole is None:
        return tables
    return {  # rows that are not shown tell all the same what runs differ by
        pair: replace(table, noise=_PairTable.of(whole, pair, bootstrap).noise)
        for pair, table in tables.items()
    }


def _from_prefill(record: SweepRecord) -> SweepRecord:
    """Return a sweep as if all decoding, that of the actors' own AR runs too, had begun with the prefill."""
    return replace(
        record,
        jobs=tuple(replace(job, samples=SampleTable.of(job.samples).from_prefill()) for job in record.jobs),
        sentinels=tuple(
            replace(sentinel, samples=SampleTable.of(sentinel.samples).from_prefill())
            for sentinel in record.sentinels
        ),
    )


def _tuned(tuning: SweepRecord, others: SweepRecord, *, allow_mixed: bool, preset: Preset | None) -> Report:
    """Return the report over the other prompts, which says what is chosen on the tuning ones.

    Where the terms ask for the chosen rows alone, each entry of the sweep file is left with that one.
    """
    there = _of_rows(tuning, allow_mixed=allow_mixed, preset=preset)
    if not others.terms.chosen:
        return with_choice(_of_rows(others, allow_mixed=allow_mixed, preset=preset), there)
    chosen = ChosenRows.of(there, others)
    report = _of_rows(others, allow_mixed=allow_mixed, preset=preset, shown=chosen.shown)
    return chosen.told_in(with_choice(report, there))


@dataclass(frozen=True, slots=True, kw_only=True)
class _PairTable:
    """A pair's jobs on their way to rows; all comparisons stay within it."""

    record: SweepRecord
    pair: str
    jobs: dict[str, tuple[StoredJob, ...]]
    """By label, each by repeat."""
    done: dict[str, tuple[StoredJob, ...]]
    """Those of them that are done."""
    paces: dict[str, float]
    runs: dict[str, tuple[PacedRun, ...]]
    """By label, those that are done, by repeat; empty where an actor has no known pace."""
    noise: TableNoise
    reference: StoredJob | None
    """The done job whose circumstances all rows must share: the baseline's, or else the first row's."""
    bootstrap: Bootstrap

    @classmethod
    def of(cls, record: SweepRecord, pair: str, bootstrap: Bootstrap) -> _PairTable:
        by_label: defaultdict[str, list[StoredJob]] = defaultdict(list)
        for job in sorted((job for job in record.jobs if job.pair == pair), key=lambda job: job.repeat):
            by_label[job.label].append(job)
        jobs = {own.label: tuple(by_label[own.label]) for own in record.configurations}
        done = {
            label: tuple(job for job in alike if job.state is JobState.DONE) for label, alike in jobs.items()
        }
        every = [job for alike in done.values() for job in alike]
        sentinels = [sentinel for sentinel in record.sentinels if sentinel.pair == pair]
        paces = actor_paces((job.actor or "" for job in every), actor_speeds(sentinels))
        runs = {label: _paced_runs(alike, paces, sentinels) for label, alike in done.items()}
        reference = next(iter([*done.get(record.baseline, ()), *every]), None)
        alike = {
            label: own
            for label, own in done.items()
            if reference is not None and not differences(own, reference, record.environments)
        }
        return cls(
            record=record,
            pair=pair,
            jobs=jobs,
            done=done,
            paces=paces,
            runs=runs,
            noise=_noise(alike, runs),
            reference=reference,
            bootstrap=bootstrap,
        )

    def only(self, labels: Collection[str]) -> _PairTable:
        """Return the table of some rows alone; the others tell all the same what runs differ by."""
        kept = tuple(row for row in self.record.configurations if row.label in labels)
        return replace(self, record=replace(self.record, configurations=kept))

    def rows(self, from_prefill: Deferred[dict[str, _PairTable]]) -> list[Row]:
        """Return all rows; `from_prefill` are the pairs' tables as if decoding had begun with the prefill."""

        def twin(row: Row) -> Deferred[Row]:
            return Deferred(lambda: from_prefill.value[self.pair].timed(row))

        rows = [self._row(step, own) for step, own in enumerate(self.record.configurations, start=1)]
        rows = [replace(row, from_prefill=twin(row)) for row in rows]
        return [replace(row, caveats=self._caveats(row)) for row in with_comparisons(rows, self.bootstrap)]

    def timed(self, row: Row) -> Row:
        """Return a row with what comparisons go by, as this table has it."""
        runs = self.runs[row.label]
        return replace(
            row, rates=paced_throughputs(runs) or None, runs=runs, noise=self.noise.of_row(row.label)
        )

    def left_out(self) -> list[LeftOut]:
        entries = []
        for label, jobs in self.jobs.items():
            missing = [job for job in jobs if job.state is not JobState.DONE]
            if missing or not jobs:
                entries.append(
                    LeftOut(
                        label=label,
                        pair=self.pair,
                        state=_row_state(jobs),
                        reason=_missing_reason(missing, len(jobs)),
                        job_ids=tuple(job.id for job in missing),
                    )
                )
        return entries

    def caveats(self, rows: Sequence[Row]) -> list[Caveat]:
        own = [sentinel for sentinel in self.record.sentinels if sentinel.pair == self.pair]
        found = actor_caveats(own, self.bootstrap)
        done = [job for alike in self.done.values() for job in alike]
        found += equal_prompt_caveats(done, self.record.equal_prompts)
        found += sentinel_load_caveats(done)
        used = {job.environment or "" for job in done}
        found += shared_gpu_caveats(used, self.record.environments)
        found += backend_caveats(used, self.record.environments)
        if self.record.terms.baseline is not None:
            found.append(Caveat(f"speedups are over '{self.record.baseline}', not the sweep file's baseline"))
        if self.reference is not None and not self.done.get(self.record.baseline):
            text = f"the baseline '{self.record.baseline}' has no result yet, so there is no speedup"
            found.append(Caveat(text))
        unmeasured = sorted({job.actor or "unknown" for job in done if (job.actor or "") not in self.paces})
        if unmeasured:
            text = (
                f"no speedup for what ran on {', '.join(unmeasured)}: without an AR run of its own an actor"
                " cannot be compared with others"
            )
            found.append(Caveat(text))
        if self.pair in self.record.past_answers:
            found.append(Caveat(PAST_ANSWERS))
        if _lacks_noise(self.noise.pooled, rows):
            found.append(Caveat(UNKNOWN_NOISE))
        return found

    def _row(self, step: int, configuration: Configuration) -> Row:
        """Return a row as it is by itself, without comparisons and caveats."""
        label = configuration.label
        jobs, done = self.jobs[label], self.done[label]
        environment = _only({job.environment for job in done})
        runs = [
            Run(
                repeat=job.repeat,
                samples=job.samples,
                calibration=job.calibration if environment else None,  # nothing is predicted of two machines
            )
            for job in done
        ]
        noise = self.noise.of_row(label)
        widening = noise.as_measured * (1.0 / len(done)) if noise.as_measured and done else None
        own = figures(configuration.method, runs, self.bootstrap, widening)
        peaks = [job.peak_memory_bytes for job in done if job.peak_memory_bytes is not None]
        mixed: tuple[str, ...] = ()
        if own is not None and self.reference is not None:
            mixed = differences(done, self.reference, self.record.environments)
        row = Row(
            pair=self.pair,
            step=step,
            label=label,
            method=configuration.method,
            params=configuration.params,
            state=_row_state(jobs),
            is_baseline=label == self.record.baseline,
            job_ids=tuple(job.id for job in jobs),
            prompt_set=_only({job.prompt_set for job in jobs}),
            environment=environment,
            mixed=mixed,
            figures=own,
            versus_baseline=None,
            versus_previous=None,
            caveats=(),
            generation_digest=_only({job.generation_digest for job in jobs}),
            key=_only({job.key for job in jobs}),
            peak_memory_bytes=max(peaks, default=None),
        )
        return self.timed(row)

    def _caveats(self, row: Row) -> tuple[Caveat, ...]:
        if row.figures is None:
            return ()
        found = row_caveats(
            method=row.method,
            params=row.params,
            figures=row.figures,
            versus_baseline=row.versus_baseline,
            confidence=self.record.confidence,
            mixed=row.mixed,
        )
        jobs, done = self.jobs[row.label], self.done[row.label]
        found += repetition_caveats(done, row.figures.distinct_2)
        found += load_caveats(done)
        if len(done) < len(jobs):
            found.append(Caveat(f"figures are over the {len(done)} of {len(jobs)} repeats that are done"))
        return tuple(found)


def _paced_runs(
    jobs: Sequence[StoredJob], paces: Mapping[str, float], sentinels: Sequence[StoredSentinel]
) -> tuple[PacedRun, ...]:
    """Return jobs freed of how fast each actor is; nothing if one has no known pace."""
    if any((job.actor or "") not in paces for job in jobs):
        return ()
    known = Counter(sentinel.actor for sentinel in sentinels)
    return tuple(
        PacedRun.of(
            job.repeat,
            job.samples,
            pace=paces[job.actor or ""],
            actor=job.actor or "",
            sentinels=known[job.actor or ""],
        )
        for job in jobs
    )


def _noise(jobs: Mapping[str, Sequence[StoredJob]], runs: Mapping[str, Sequence[PacedRun]]) -> TableNoise:
    """Return what runs of rows differ by, from their done jobs and from those freed of the actors' paces."""
    paced = {label: mean_throughputs(runs[label]) for label in jobs}
    if len({job.actor for alike in jobs.values() for job in alike}) == 1:  # whose pace is 1
        return TableNoise.of(paced, paced)
    as_measured = {
        label: mean_throughputs(PacedRun.of(job.repeat, job.samples) for job in alike)
        for label, alike in jobs.items()
    }
    return TableNoise.of(paced, as_measured)


def _lacks_noise(noise: RunNoise, rows: Sequence[Row]) -> bool:
    """Whether an interval of any row does not hold what runs differ by."""
    of_throughput = noise.as_measured is None and any(
        row.figures is not None and row.figures.throughput.interval is not None for row in rows
    )
    return of_throughput or (noise.in_block is None and any(row.speedup_interval for row in rows))


def _merged(record: SweepRecord) -> list[LeftOut]:
    return [
        LeftOut(
            label=merged.label,
            pair=None,
            state=RowState.MERGED,
            reason=f"same as '{merged.into}': {merged.reason}",
        )
        for merged in record.merged
    ]


def _unshown(record: SweepRecord, out: Sequence[Configuration], preset: Preset | None) -> list[LeftOut]:
    return [
        LeftOut(
            label=configuration.label,
            pair=pair,
            state=RowState.NOT_SHOWN,
            reason=f"an unpruned tree, which preset {preset} leaves out",
            job_ids=tuple(
                job.id for job in record.jobs if (job.pair, job.label) == (pair, configuration.label)
            ),
        )
        for pair in record.pairs
        for configuration in out
    ]


def _row_state(jobs: Sequence[StoredJob]) -> RowState:
    states = {job.state for job in jobs}
    if states == {JobState.DONE}:
        return RowState.DONE
    if JobState.RUNNING in states:
        return RowState.RUNNING
    if JobState.QUEUED in states or not states:
        return RowState.UNFINISHED if JobState.DONE in states else RowState.QUEUED
    if JobState.DONE in states:
        return RowState.PARTIAL
    return RowState.FAILED if JobState.FAILED in states else RowState.CANCELLED


def _missing_reason(missing: Sequence[StoredJob], planned: int) -> str:
    if not planned:
        return "no job is stored for it"
    texts = []
    for state in dict.fromkeys(job.state for job in missing):
        alike = [job for job in missing if job.state is state]
        error = next((job.error for job in alike if job.error), None)
        tries = f" after {alike[0].tries} tries" if state is JobState.FAILED and alike[0].tries > 1 else ""
        cause = f": {' '.join(error.split())}" if error and state is JobState.FAILED else ""
        texts.append(f"{len(alike)} of {planned} jobs {state}{tries}{cause}")
    return "; ".join(texts)


def _only(values: set[str] | set[str | None]) -> str | None:
    return next(iter(values)) if len(values) == 1 else None
