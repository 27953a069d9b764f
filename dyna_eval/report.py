"""From a stored sweep to a report: a row per configuration and pair, what to doubt, and what is missing.

`build_report` is pure; the renderers (`dyna_eval.tables`, `dyna_eval.plots`) read its `Report`, and `to_json`
gives the same to programs. Definitions of the figures are in `dyna_eval.statistics`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace

from dyna_eval.errors import MixedRowsError
from dyna_eval.imported import Source
from dyna_eval.integrity import (
    actor_caveats,
    actor_speeds,
    backend_caveats,
    differences,
    load_caveats,
    row_caveats,
    shared_gpu_caveats,
)
from dyna_eval.jobs import Configuration, JobState, Method, Params, StoredJob, SweepRecord
from dyna_eval.presets import Preset, select
from dyna_eval.statistics import (
    Bootstrap,
    Comparison,
    Figures,
    Interval,
    Run,
    actor_paces,
    compare,
    figures,
    prompt_throughputs,
)
from dyna_eval.tuning import split_record
from dyna_eval.wording import count


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One configuration on one pair. `state` is a job state, or `partial`: some jobs done, none to come."""

    pair: str
    step: int
    """Place among the pair's rows, from 1, in the order of the sweep file."""
    label: str
    method: Method
    params: Params
    state: str
    is_baseline: bool
    job_ids: tuple[int, ...]
    prompt_set: str | None
    environment: str | None
    """None where no job is done, where it is unknown, or where jobs ran in several."""
    mixed: tuple[str, ...]
    """What keeps this row from being compared with the baseline's row."""
    figures: Figures | None
    versus_baseline: Comparison | None
    versus_previous: Comparison | None
    """Against the nearest row above that has figures."""
    caveats: tuple[str, ...]
    fastest_before: int | None = None
    """The step of the fastest row above whose output and circumstances are right."""
    versus_fastest_before: Comparison | None = None
    generation: str | None = None
    """Digest of the generation settings."""
    key: str | None = None
    """Identity of its jobs; rows of equal keys did the same work."""
    rates: Mapping[int, float] | None = field(default=None, repr=False)
    """Tokens per second by prompt, freed of how fast each actor is."""
    source: Source | None = None
    """The file that an imported row comes from."""
    foreign: Mapping[str, float] = field(default_factory=dict)
    """Figures that the file defines otherwise than this project does."""

    @property
    def is_exact(self) -> bool:
        """Whether the output is known to be the target's own, numeric ties allowed."""
        if self.figures is None or self.figures.agreement.violations:
            return False
        return self.method is Method.AR or self.figures.agreement.compared > 0

    @property
    def speedup_interval(self) -> Interval | None:
        """Of the speedup; the baseline's own is 1 by definition and has none."""
        return self.versus_baseline.interval if self.versus_baseline and not self.is_baseline else None


@dataclass(frozen=True, slots=True, kw_only=True)
class LeftOut:
    """A configuration, or some of its jobs, that the figures do not contain."""

    label: str
    pair: str | None
    """None for a merged configuration, which is left out for every pair."""
    state: str
    reason: str
    job_ids: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class JoinedSweep:
    """A sweep that gave rows to a report of several."""

    id: int
    name: str
    digest: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Choice:
    """The fastest row of a pair on the tuning prompts, which no figure of the report contains."""

    pair: str
    label: str
    tuning_prompts: int
    throughput: float
    """On the tuning prompts, in tokens per second."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    sweep_id: int
    name: str
    digest: str
    state: str
    created_at: str
    confidence: float
    pairs: tuple[str, ...]
    rows: tuple[Row, ...]
    left_out: tuple[LeftOut, ...]
    pair_caveats: tuple[tuple[str, str], ...]
    """(pair, text): what concerns all rows of a pair."""
    joined: tuple[JoinedSweep, ...] = ()
    """The sweeps whose rows are joined here; empty for the report of one sweep."""
    made_of: tuple[str, ...] = ()
    """Digests of the sweeps whose rows were joined or chosen; empty for the whole of one sweep."""
    chosen_rows: tuple[str, ...] = ()
    """What chose them, as `dyna_eval.selection` reads it."""
    chosen: tuple[Choice, ...] = ()
    """What was chosen on the tuning prompts, per pair; empty without a tuning split."""
    preset: Preset | None = None

    def rows_of(self, pair: str) -> tuple[Row, ...]:
        return tuple(row for row in self.rows if row.pair == pair)

    @property
    def warnings(self) -> tuple[str, ...]:
        """All caveats as sentences that name their row."""
        several = len(self.pairs) > 1
        texts = [
            f"{row.pair}: {row.label}: {text}" if several else f"{row.label}: {text}"
            for row in self.rows
            for text in row.caveats
        ]
        return (*texts, *(f"{pair}: {text}" if several else text for pair, text in self.pair_caveats))


def baseline_of(rows: Sequence[Row]) -> Row | None:
    """Return the row that the others of its pair are compared with; None where there is none."""
    return next((row for row in rows if row.is_baseline), None)


def best_row(rows: Sequence[Row]) -> Row | None:
    """Return the row that is called the fastest; None while another one may still turn out to be.

    None is also where an imported row, whose output nobody compared with the target's, is faster.
    """
    at_rest = all(row.source or row.state in (JobState.DONE, JobState.FAILED) for row in rows)
    best = _fastest(rows) if at_rest else None
    doubted = [row for row in rows if row.source and not row.mixed and not row.is_exact]
    return None if best is None or any(_rate(row) > _rate(best) for row in doubted) else best


def _fastest(rows: Sequence[Row]) -> Row | None:
    """Return the row with the highest throughput among those whose output and circumstances are right."""
    return max((row for row in rows if row.is_exact and not row.mixed), key=_rate, default=None)


def _rate(row: Row) -> float:
    return row.figures.throughput.mean if row.figures else 0.0


# ------------------------------------------------------------------- comparing


def with_comparisons(rows: Sequence[Row], bootstrap: Bootstrap) -> list[Row]:
    """Compare each row with the baseline, and with the nearest and the fastest row above with figures."""
    base = baseline_of(rows)
    compared: list[Row] = []
    previous = fastest = None
    for row in rows:
        compared.append(
            replace(
                row,
                versus_baseline=None if base is None else compare_rows(row, base, bootstrap),
                versus_previous=None if previous is None else compare_rows(row, previous, bootstrap),
                fastest_before=None if fastest is None else fastest.step,
                versus_fastest_before=None if fastest is None else compare_rows(row, fastest, bootstrap),
            )
        )
        previous = row if row.figures is not None else previous
        fastest = _fastest([fastest, row] if fastest else [row])
    return compared


def compare_rows(row: Row, base: Row, bootstrap: Bootstrap | None) -> Comparison | None:
    """Compare prompt by prompt where both rows have the prompts; by their means alone where not."""
    if row.figures is None or base.figures is None:
        return None
    if any(one.source is None and not one.rates for one in (row, base)):
        return None  # an actor of unknown pace
    if bootstrap is not None and row.rates and base.rates and (row.source is None) == (base.source is None):
        same = row.prompt_set is not None and row.prompt_set == base.prompt_set
        found = compare(row.rates, base.rates, bootstrap, same_prompts=same)
        if found is not None and row is base:
            return Comparison(ratio=found.ratio, interval=found.interval, paired=found.paired)
        return found
    if base.figures.throughput.mean <= 0.0:
        return None
    return Comparison(ratio=row.figures.throughput.mean / base.figures.throughput.mean)


# --------------------------------------------------------------------- building


def build_report(record: SweepRecord, *, allow_mixed: bool = False, preset: Preset | None = None) -> Report:
    """Compute every row of a sweep, or of the rows of it that a preset shows.

    Raises InputError if the sweep lacks what the preset is about. Raises MixedRowsError if rows of one pair
    differ in prompts, generation settings or environment, unless `allow_mixed`: such rows are then marked by
    a caveat that names the difference.
    """
    if record.measure.tune_fraction:
        return _tuned(*split_record(record), allow_mixed=allow_mixed, preset=preset)
    whole, (record, unshown) = record, select(record, preset)
    bootstrap = Bootstrap(confidence=record.confidence)
    tables = [_PairTable.of(record, pair, bootstrap) for pair in record.pairs]
    rows = tuple(row for table in tables for row in table.rows())
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
            *(entry for table in tables for entry in table.left_out()),
        ),
        pair_caveats=tuple((table.pair, text) for table in tables for text in table.caveats()),
        preset=preset,
    )


def _tuned(tuning: SweepRecord, others: SweepRecord, *, allow_mixed: bool, preset: Preset | None) -> Report:
    """Return the report over the other prompts, which says what would have been chosen on the tuning ones."""
    there = build_report(tuning, allow_mixed=allow_mixed, preset=preset)
    report = build_report(others, allow_mixed=allow_mixed, preset=preset)
    chosen, texts = [], []
    for pair in report.pairs:
        best = best_row(there.rows_of(pair))
        if best is None or best.figures is None:
            continue
        choice = Choice(
            pair=pair,
            label=best.label,
            tuning_prompts=best.figures.prompts or 0,
            throughput=best.figures.throughput.mean,
        )
        chosen.append(choice)
        texts.append((pair, _choice_text(choice, best_row(report.rows_of(pair)))))
    return replace(report, chosen=tuple(chosen), pair_caveats=(*report.pair_caveats, *texts))


def _choice_text(choice: Choice, fastest: Row | None) -> str:
    text = (
        f"'{choice.label}' was chosen on {count(choice.tuning_prompts, 'tuning prompt')}, the fastest there ({choice.throughput:.1f} tokens/s);"
        " all figures are over the other prompts"
    )
    if fastest is not None and fastest.label != choice.label:
        text += f", on which '{fastest.label}' is the fastest"
    return text


@dataclass(frozen=True, slots=True, kw_only=True)
class _PairTable:
    """A pair's jobs on their way to rows; all comparisons stay within it."""

    record: SweepRecord
    pair: str
    jobs: dict[str, tuple[StoredJob, ...]]
    """By label."""
    paces: dict[str, float]
    reference: StoredJob | None
    """The done job whose circumstances all rows must share: the baseline's, or else the first row's."""
    bootstrap: Bootstrap

    @classmethod
    def of(cls, record: SweepRecord, pair: str, bootstrap: Bootstrap) -> _PairTable:
        own = [job for job in record.jobs if job.pair == pair]
        jobs = {
            configuration.label: tuple(
                sorted((job for job in own if job.label == configuration.label), key=lambda job: job.repeat)
            )
            for configuration in record.configurations
        }
        done = [job for label in jobs for job in _done(jobs[label])]
        speeds = actor_speeds(sentinel for sentinel in record.sentinels if sentinel.pair == pair)
        return cls(
            record=record,
            pair=pair,
            jobs=jobs,
            paces=actor_paces((job.actor or "" for job in done), speeds),
            reference=next(iter([*_done(jobs.get(record.baseline, ())), *done]), None),
            bootstrap=bootstrap,
        )

    def rows(self) -> list[Row]:
        rows = [self._row(step, own) for step, own in enumerate(self.record.configurations, start=1)]
        return [replace(row, caveats=self._caveats(row)) for row in with_comparisons(rows, self.bootstrap)]

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

    def caveats(self) -> list[str]:
        own = [sentinel for sentinel in self.record.sentinels if sentinel.pair == self.pair]
        texts = actor_caveats(own, self.bootstrap)
        done = [job for jobs in self.jobs.values() for job in _done(jobs)]
        used = {job.environment or "" for job in done}
        texts += shared_gpu_caveats(used, self.record.environments)
        texts += backend_caveats(used, self.record.environments)
        if self.reference is not None and not _done(self.jobs.get(self.record.baseline, ())):
            texts.append(f"the baseline '{self.record.baseline}' has no result yet, so there is no speedup")
        unmeasured = sorted({job.actor or "unknown" for job in done if (job.actor or "") not in self.paces})
        if unmeasured:
            texts.append(
                f"no speedup for what ran on {', '.join(unmeasured)}: without an AR run of its own an actor"
                " cannot be compared with others"
            )
        return texts

    def _row(self, step: int, configuration: Configuration) -> Row:
        """Return a row as it is by itself, without comparisons and caveats."""
        label = configuration.label
        jobs, done = self.jobs[label], _done(self.jobs[label])
        runs = [Run(repeat=job.repeat, samples=job.samples) for job in done]
        environment = _only({job.environment for job in done})
        calibration = self.record.calibrations.get((self.pair, environment or ""))
        own = figures(configuration.method, runs, self.bootstrap, calibration)
        mixed: tuple[str, ...] = ()
        if own is not None and self.reference is not None:
            mixed = differences(done, self.reference, self.record.environments)
        return Row(
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
            generation=_only({job.generation_digest for job in jobs}),
            key=_only({job.key for job in jobs}),
            rates=self._comparable_rates(label),
        )

    def _comparable_rates(self, label: str) -> dict[int, float] | None:
        """Return prompt throughputs freed of how fast each actor is; None if one has no known pace."""
        done = _done(self.jobs[label])
        if any((job.actor or "") not in self.paces for job in done):
            return None
        return prompt_throughputs(
            Run(repeat=job.repeat, samples=job.samples, pace=self.paces[job.actor or ""]) for job in done
        )

    def _caveats(self, row: Row) -> tuple[str, ...]:
        if row.figures is None:
            return ()
        texts = row_caveats(
            method=row.method,
            params=row.params,
            figures=row.figures,
            versus_baseline=row.versus_baseline,
            confidence=self.record.confidence,
            mixed=row.mixed,
        )
        jobs = self.jobs[row.label]
        texts += load_caveats(_done(jobs))
        if len(_done(jobs)) < len(jobs):
            texts.append(f"figures are over the {len(_done(jobs))} of {len(jobs)} repeats that are done")
        return tuple(texts)


def refuse_mixed(rows: Sequence[Row]) -> None:
    """Raise MixedRowsError for the first row that was not measured like the others of its table."""
    for row in rows:
        if row.mixed:
            origin = row.source.file if row.source else f"pair {row.pair!r}"
            raise MixedRowsError(
                f"row {row.label!r} of {origin} must not stand beside the others: it differs in"
                f" {'; '.join(row.mixed)}; --allow-mixed prints it with a mark"
            )


def _merged(record: SweepRecord) -> list[LeftOut]:
    return [
        LeftOut(
            label=merged.label, pair=None, state="merged", reason=f"same as '{merged.into}': {merged.reason}"
        )
        for merged in record.merged
    ]


def _unshown(record: SweepRecord, out: Sequence[Configuration], preset: Preset | None) -> list[LeftOut]:
    return [
        LeftOut(
            label=configuration.label,
            pair=pair,
            state="not shown",
            reason=f"an unpruned tree, which preset {preset} leaves out",
            job_ids=tuple(
                job.id for job in record.jobs if (job.pair, job.label) == (pair, configuration.label)
            ),
        )
        for pair in record.pairs
        for configuration in out
    ]


def _done(jobs: Sequence[StoredJob]) -> tuple[StoredJob, ...]:
    return tuple(job for job in jobs if job.state is JobState.DONE)


def _row_state(jobs: Sequence[StoredJob]) -> str:
    states = {job.state for job in jobs}
    if states == {JobState.DONE}:
        return JobState.DONE
    coming = states & {JobState.RUNNING, JobState.QUEUED}
    if JobState.RUNNING in states or (coming and JobState.DONE in states):
        return JobState.RUNNING
    if coming or not states:
        return JobState.QUEUED
    if JobState.DONE in states:
        return "partial"
    return JobState.FAILED if JobState.FAILED in states else JobState.CANCELLED


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


# ------------------------------------------------------------------------- JSON


def to_json(report: Report) -> dict[str, object]:
    """Return the report as plain JSON values; what is not known is null."""
    return {
        "sweep": {
            "id": report.sweep_id,
            "name": report.name,
            "state": report.state,
            "digest": report.digest,
            "created_at": report.created_at,
            "confidence": report.confidence,
            "joined": [asdict(sweep) for sweep in report.joined],
        },
        "rows": [_row_json(row) for row in report.rows],
        "left_out": [
            asdict(entry) | {"state": str(entry.state), "job_ids": list(entry.job_ids)}
            for entry in report.left_out
        ],
        "chosen": [asdict(choice) for choice in report.chosen],
        "warnings": list(report.warnings),
    }


def _row_json(row: Row) -> dict[str, object]:
    return {
        "pair": row.pair,
        "step": row.step,
        "label": row.label,
        "method": row.method.value,
        "params": dict(row.params),
        "state": str(row.state),
        "baseline": row.is_baseline,
        **_figures_json(row.figures),
        **_comparison_json(row),
        "prompt_set": row.prompt_set,
        "generation": row.generation,
        "env": row.environment,
        "key": row.key,
        "mixed": list(row.mixed),
        "job_ids": list(row.job_ids),
        "imported": row.source and asdict(row.source),
        "foreign": dict(row.foreign),
    }


def _comparison_json(row: Row) -> dict[str, object]:
    base, previous = row.versus_baseline, row.versus_previous
    return {
        "speedup": base and base.ratio,
        "speedup_interval": base and interval_json(base.interval),
        "speedup_paired": base and base.paired,
        "speedup_paired_interval": base and interval_json(base.paired_interval),
        "separable_from_baseline": base and base.separable,
        "gain_over_baseline": base and base.ratio - 1.0,
        "gain_over_previous": previous and previous.ratio - 1.0,
        "separable_from_previous": previous and previous.separable,
    }


def _figures_json(known: Figures | None) -> dict[str, object]:
    """Flatten a row's figures. A pending row has the same keys, all null."""
    return {key: None if known is None else read(known) for key, read in _FIGURES.items()}


def _rates_json(rates: tuple[float, ...] | None) -> list[float] | None:
    return None if rates is None else list(rates)


def interval_json(interval: Interval | None) -> list[float] | None:
    """Return an interval as JSON has it: its two ends, or null."""
    return None if interval is None else [interval.low, interval.high]


_FIGURES: dict[str, Callable[[Figures], object]] = {
    "prompts": lambda f: f.prompts,
    "repeats": lambda f: f.repeats,
    "tokens": lambda f: f.tokens,
    "throughput_tokens_per_s": lambda f: f.throughput.mean,
    "throughput_interval": lambda f: interval_json(f.throughput.interval),
    "throughput_std": lambda f: f.throughput.std,
    "throughput_pooled": lambda f: f.throughput.pooled,
    "end_to_end_tokens_per_s": lambda f: f.throughput.end_to_end,
    "mean_acceptance_length": lambda f: f.acceptance.mean_length,
    "mean_acceptance_length_per_request": lambda f: f.acceptance.mean_length_per_request,
    "draft_acceptance_rate": lambda f: f.acceptance.draft_rate,
    "path_acceptance": lambda f: f.acceptance.draft_rate,
    "node_acceptance": lambda f: f.acceptance.node_rate,
    "mean_tree_nodes": lambda f: f.acceptance.mean_tree_nodes,
    "node_cap_bound_rate": lambda f: f.acceptance.node_cap_bound_rate,
    "marginal_accept_rates": lambda f: _rates_json(f.acceptance.marginal_rates),
    "conditional_accept_rates": lambda f: _rates_json(f.acceptance.conditional_rates),
    "draft_share": lambda f: f.shares.draft,
    "grow_share": lambda f: f.shares.grow,
    "verify_share": lambda f: f.shares.verify,
    "walk_share": lambda f: f.shares.walk,
    "host_share": lambda f: f.shares.host,
    "predicted_speedup": lambda f: f.predicted_speedup,
    "ttft_s": lambda f: f.latency.ttft and asdict(f.latency.ttft),
    "tpot_s": lambda f: f.latency.tpot and asdict(f.latency.tpot),
    "prefill_s": lambda f: f.latency.prefill and asdict(f.latency.prefill),
    "compared": lambda f: f.agreement.compared,
    "exact_match_rate": lambda f: f.agreement.exact_match_rate,
    "ties": lambda f: f.agreement.ties,
    "violations": lambda f: f.agreement.violations,
    "distinct_2": lambda f: f.distinct_2,
}
