"""What a report is: a row per configuration and pair, how rows compare, what to doubt, and what is missing.

`measured_report`, `imported_report` and `joined_report` make one; tables, LaTeX, figures and pages print it.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import StrEnum
from statistics import fmean

from dyna_eval.errors import MixedRowsError
from dyna_eval.jobs import GenerationSpec, MeasureSpec, Method, Pair, Params
from dyna_eval.records import AS_IN_THE_FILE, Terms
from dyna_eval.reports.deferred import Deferred
from dyna_eval.reports.imported import PUBLISHED, Source
from dyna_eval.reports.integrity import Caveat, CaveatKind, Environments
from dyna_eval.reports.intervals import Bootstrap, Interval, RunNoise, Variance
from dyna_eval.reports.presets import Preset
from dyna_eval.reports.statistics import (
    Comparison,
    Figures,
    PacedRun,
    compare,
    paced_throughputs,
    ratio_of_means,
)


class RowState(StrEnum):
    """Where a row stands, by its jobs where it has any."""

    QUEUED = "queued"
    RUNNING = "running"
    UNFINISHED = "unfinished"  # some jobs done, others queued, none running
    DONE = "done"
    PARTIAL = "partial"  # some jobs done, none to come
    FAILED = "failed"
    CANCELLED = "cancelled"
    IMPORTED = "imported"
    MERGED = "merged"  # with a row that does the same
    NOT_SHOWN = "not shown"  # by a preset, or not selected

    @property
    def is_to_come(self) -> bool:
        """Whether jobs of such a row may still land, so that its figures may change."""
        return self in (RowState.QUEUED, RowState.RUNNING, RowState.UNFINISHED)


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One configuration on one pair."""

    pair: str
    step: int
    """Place among the pair's rows, from 1, in the order of the sweep file."""
    label: str
    method: Method
    params: Params
    state: RowState
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
    caveats: tuple[Caveat, ...]
    fastest_before: int | None = None
    """The step of the fastest row above whose output and circumstances are right."""
    versus_fastest_before: Comparison | None = None
    generation_digest: str | None = None
    """None where the settings are not known, or differ among its jobs."""
    key: str | None = None
    """Identity of its jobs; rows of equal keys did the same work."""
    rates: Mapping[int, float] | None = field(default=None, repr=False)
    """Tokens per second by prompt, freed of how fast each actor is."""
    runs: tuple[PacedRun, ...] = field(default=(), repr=False, compare=False)
    """What `rates` follow from, a run for each repeat; empty for an imported row."""
    noise: RunNoise | None = field(default=None, repr=False, compare=False)
    """How far runs of this row differ by chance, in its sweep; None for an imported one."""
    source: Source | None = None
    """The file that an imported row comes from."""
    foreign: Mapping[str, float] = field(default_factory=dict)
    """Figures that the file defines otherwise than this project does."""
    peak_memory_bytes: int | None = None
    """The highest of its done jobs."""
    from_prefill: Deferred[Row] | None = field(default=None, repr=False, compare=False)
    """The row with the rates, runs and noise that it would have if decoding had begun with the prefill; None
    for an imported one."""
    deferred_end_to_end: Deferred[Comparison | None] | None = field(default=None, repr=False)
    """What `end_to_end` reads."""

    @property
    def caveat_texts(self) -> tuple[str, ...]:
        return tuple(caveat.text for caveat in self.caveats)

    @property
    def slowed(self) -> tuple[str, ...]:
        """What slowed it down so much while it was measured that its times are in doubt; mostly nothing."""
        return tuple(caveat.text for caveat in self.caveats if caveat.kind is CaveatKind.HEAVY_LOAD)

    @property
    def is_exact(self) -> bool:
        """Whether the output is known to be the target's own, numeric ties allowed.

        Of published numbers not even the target's own row is known to be what it says.
        """
        if self.figures is None or self.figures.agreement.violations:
            return False
        if self.source is not None and self.source.format == PUBLISHED:
            return False
        return self.method is Method.AR or self.figures.agreement.compared > 0

    def has_prompts_of(self, other: Row) -> bool:
        """Whether two rows are known to be over one prompt set, so that equal indices are the same prompt."""
        return self.prompt_set is not None and self.prompt_set == other.prompt_set

    @property
    def own_noise(self) -> Variance | None:
        """The noise, from run to run, of the logarithm of its throughput as measured; None where unknown."""
        noise = self.noise.as_measured if self.noise else None
        return noise * (1.0 / self.done_repeats) if noise and self.done_repeats else None

    @property
    def done_repeats(self) -> int:
        """Repeats that its figures are over; 0 without figures, and where its file does not tell."""
        return (self.figures.repeats or 0) if self.figures else 0

    @property
    def speedup_interval(self) -> Interval | None:
        """Of the speedup; the baseline's own is 1 by definition and has none, whatever its file says."""
        return self.versus_baseline.interval if self.versus_baseline and not self.is_baseline else None

    @property
    def end_to_end(self) -> Comparison | None:
        """As `versus_baseline`, prefill included; computed when it is first read, as few forms show it."""
        return self.deferred_end_to_end.value if self.deferred_end_to_end else None

    @property
    def end_to_end_interval(self) -> Interval | None:
        """Of the speedup with the prefill in it; None as `speedup_interval` is."""
        return self.end_to_end.interval if self.end_to_end and not self.is_baseline else None


@dataclass(frozen=True, slots=True, kw_only=True)
class LeftOut:
    """A configuration, or some of its jobs, that the figures do not contain."""

    label: str
    pair: str | None
    """None for a merged configuration, which is left out for every pair."""
    state: str
    """A `RowState`, or what an imported file says."""
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
    """A `SweepState`; where sweeps are joined all of theirs, with commas between."""
    created_at: str
    confidence: float
    pairs: tuple[str, ...]
    rows: tuple[Row, ...]
    left_out: tuple[LeftOut, ...]
    pair_caveats: tuple[tuple[str, Caveat], ...]
    """What concerns all rows of a pair, with the pair."""
    joined: tuple[JoinedSweep, ...] = ()
    """The sweeps whose rows are joined here; empty for the report of one sweep."""
    made_of: tuple[str, ...] = ()
    """Digests of the sweeps whose rows were joined or selected; empty for the whole of one sweep."""
    selectors: tuple[str, ...] = ()
    """What selected rows of them, as `dyna_eval.reports.selection` reads it; empty where all are shown."""
    chosen: tuple[Choice, ...] = ()
    """What was chosen on the tuning prompts, by pair; nothing for a pair that is not done."""
    split: bool = False
    """Whether there are tuning prompts, which no figure contains."""
    preset: Preset | None = None
    generations: Mapping[str, GenerationSpec] = field(default_factory=dict, repr=False)
    """How the rows of a pair were generated, by its name; without pairs that were not measured here."""
    measure: MeasureSpec | None = None
    """How the sweep's rows were measured; None where that was not done here."""
    models: Mapping[str, Pair] = field(default_factory=dict, repr=False)
    """By the name of the pair; without those of imported rows."""
    environments: Environments = field(default_factory=dict, repr=False)
    """Facts by the digest of the environment, as far as they are known."""
    sweep_file: str | None = field(default=None, repr=False)
    """The text of the sweep's file; None where rows are of none, or of several."""
    terms: Terms = AS_IN_THE_FILE
    """Where it is made by others than those of the sweep file, of several sweeps that of the first."""

    def rows_of(self, pair: str) -> tuple[Row, ...]:
        return tuple(row for row in self.rows if row.pair == pair)

    @property
    def generation(self) -> GenerationSpec | None:
        """How the rows of every pair were generated; None where pairs differ, or where it is not known."""
        known = {self.generations.get(pair) for pair in self.pairs}
        return next(iter(known)) if len(known) == 1 else None

    def texts_on(self, pair: str) -> tuple[str, ...]:
        """Return what concerns all rows of a pair."""
        return tuple(caveat.text for own, caveat in self.pair_caveats if own == pair)

    @property
    def warnings(self) -> tuple[str, ...]:
        """All caveats as sentences that name their row."""
        several = len(self.pairs) > 1
        texts = [
            f"{row.pair}: {row.label}: {text}" if several else f"{row.label}: {text}"
            for row in self.rows
            for text in row.caveat_texts
        ]
        of_pairs = [f"{pair}: {own.text}" if several else own.text for pair, own in self.pair_caveats]
        return (*texts, *of_pairs)


def baseline_of(rows: Sequence[Row]) -> Row | None:
    """Return the row that the others of its pair are compared with; None where there is none."""
    return next((row for row in rows if row.is_baseline), None)


def best_row(rows: Sequence[Row]) -> Row | None:
    """Return the row that is called the fastest; None while another one may still turn out to be.

    None is also where an imported row, whose output nobody compared with the target's, is faster.
    """
    best = None if _to_come(rows) else _fastest(rows)
    doubted = [row for row in rows if row.source and not row.mixed and not row.is_exact]
    return None if best is None or any(_rate(row) > _rate(best) for row in doubted) else best


def best_row_by_pace(rows: Sequence[Row]) -> Row | None:
    """Return the fastest of measured rows as if one actor had run them all; None while one is to come.

    Where the pace of an actor is not known, rows are ranked by their throughput as it is.
    """
    fit = [row for row in rows if row.is_exact and not row.mixed]
    if _to_come(rows) or not all(row.rates for row in fit):
        return best_row(rows)
    return max(fit, key=lambda row: fmean((row.rates or {}).values()), default=None)


def _to_come(rows: Sequence[Row]) -> bool:
    return any(row.state.is_to_come for row in rows)


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
                deferred_end_to_end=None if base is None else _compare_from_prefill(row, base, bootstrap),
            )
        )
        previous = row if row.figures is not None else previous
        fastest = _fastest([fastest, row] if fastest else [row])
    return compared


def compare_rows(row: Row, base: Row, bootstrap: Bootstrap | None) -> Comparison | None:
    """Compare prompt by prompt where both rows have the prompts; by their means alone where not.

    Rows of one sweep are compared over the repeats that both have, so that no drift comes between them.
    Of a row against itself the ratio is 1 by definition and has no interval.
    """
    if row.figures is None or base.figures is None:
        return None
    if any(one.source is None and not one.rates for one in (row, base)):
        return None  # an actor of unknown pace
    if bootstrap is not None and row.rates and base.rates and (row.source is None) == (base.source is None):
        if not row.has_prompts_of(base):
            return ratio_of_means(fmean(row.rates.values()), fmean(base.rates.values()))
        noise = None if row is base else noise_together(row, base)
        found = compare(*rates_together(row, base), bootstrap, noise)
        return replace(found, interval=None, paired_interval=None) if found and row is base else found
    return ratio_of_means(row.figures.throughput.mean, base.figures.throughput.mean)


def _compare_from_prefill(row: Row, base: Row, bootstrap: Bootstrap) -> Deferred[Comparison | None] | None:
    """Compare as `compare_rows` does, prefill included; None where a row is imported."""
    ours, theirs = row.from_prefill, base.from_prefill
    if ours is None or theirs is None:
        return None
    return Deferred(lambda: compare_rows(ours.value, theirs.value, bootstrap))


def rates_together(row: Row, base: Row) -> tuple[Mapping[int, float], Mapping[int, float]]:
    """Return two rows' rates by prompt over the repeats that both have; over all where they share none."""

    def rates(one: Row, runs: Sequence[PacedRun]) -> Mapping[int, float]:
        return paced_throughputs(runs) if len(runs) < len(one.runs) else one.rates or {}

    ours, theirs = runs_together(row, base)
    return rates(row, ours), rates(base, theirs)


def runs_together(row: Row, base: Row) -> tuple[Sequence[PacedRun], Sequence[PacedRun]]:
    """Return two rows' runs of the repeats that both have; all of them where they share none."""
    repeats = _common_repeats(row, base)
    if not repeats:
        return row.runs, base.runs
    ours, theirs = ([run for run in one.runs if run.repeat in repeats] for one in (row, base))
    return ours, theirs


def _common_repeats(row: Row, base: Row) -> set[int]:
    return {run.repeat for run in row.runs} & {run.repeat for run in base.runs}


def noise_together(row: Row, base: Row) -> Variance | None:
    """Return the noise, from run to run, of the logarithm of the ratio of `rates_together`."""
    repeats = _common_repeats(row, base)
    paces = _noise_of_paces(*runs_together(row, base))
    if not repeats:
        return _noise_apart(row, base, paces)
    if row.noise is None or base.noise is None:
        return None
    share = 1.0 / len(repeats)
    noise = _weighted(row.noise.in_block, share, base.noise.in_block, share)
    known = [one.noise.alone for one in (row, base) if one.noise and one.noise.alone]
    if noise is None or not known or not paces:
        return noise
    # Both are estimated from the same runs, so their degrees of freedom do not add up.
    alone = max(known, key=lambda one: one.value)
    value = noise.value + alone.value * sum(paces.values())
    return Variance(value=value, degrees=min(noise.degrees, alone.degrees))


def _noise_of_paces(ours: Sequence[PacedRun], theirs: Sequence[PacedRun]) -> dict[str, float]:
    """Return the noise that each actor's pace brings into a ratio, as a multiple of that of one run there.

    A pace has that of the AR runs that it was found from. It counts by how unequally the runs of the two rows
    are spread over the actors; actors over which they are spread equally are not among the keys.
    """
    shares: defaultdict[str, float] = defaultdict(float)
    for runs, sign in ((ours, 1.0), (theirs, -1.0)):
        for run in runs:
            shares[run.actor] += sign / len(runs)
    sentinels = {run.actor: run.sentinels for run in (*ours, *theirs)}
    return {actor: share**2 / sentinels[actor] for actor, share in shares.items() if abs(share) > 1e-9}


def noise_as_measured(row: Row, base: Row) -> Variance | None:
    """Return the noise, from run to run, of the logarithm of a ratio of two rows' throughput as measured.

    The rows are of two sweeps, and share no block. What one sweep has too few repeats to tell is taken from
    the other; None where neither tells, and for imported rows.
    """
    ours, theirs = (one.noise.as_measured if one.noise else None for one in (row, base))
    if row.noise is None or base.noise is None or not row.done_repeats or not base.done_repeats:
        return None
    return _weighted(ours, 1.0 / row.done_repeats, theirs, 1.0 / base.done_repeats)


def _noise_apart(row: Row, base: Row, paces: Mapping[str, float]) -> Variance | None:
    """Return the noise of a ratio of two rows' `rates`, which ran in no common block.

    `paces` is what `_noise_of_paces` returns; each counts with the noise of the sweep that its actor ran for.
    None as `noise_as_measured` has it.
    """
    ours, theirs = (one.noise.alone if one.noise else None for one in (row, base))
    if not row.runs or not base.runs:
        return None
    own, other = 1.0 / len(row.runs), 1.0 / len(base.runs)
    actors = {run.actor for run in row.runs}
    for actor, multiple in paces.items():
        if actor in actors:
            own += multiple
        else:
            other += multiple
    return _weighted(ours, own, theirs, other)


def _weighted(ours: Variance | None, own: float, theirs: Variance | None, other: float) -> Variance | None:
    """Return the weighted sum of two sweeps' noise; of one that is not known the other's stands in for it."""
    ours, theirs = ours or theirs, theirs or ours
    if ours is None or theirs is None:
        return None
    if ours == theirs:  # one estimate, whose degrees of freedom count once
        return ours * (own + other)
    return ours * own + theirs * other


def refuse_mixed(rows: Sequence[Row]) -> None:
    """Raise MixedRowsError for the first row that was not measured like the others of its table."""
    for row in rows:
        if row.mixed:
            origin = row.source.file if row.source else f"pair {row.pair!r}"
            raise MixedRowsError(
                f"row {row.label!r} of {origin} must not stand beside the others: it differs in"
                f" {'; '.join(row.mixed)}; --allow-mixed prints it with a mark"
            )
