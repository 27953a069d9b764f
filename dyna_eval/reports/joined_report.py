"""The report of several sweeps, measured or imported, joined into one table.

Rows may stand in one table only where prompts, generation settings and environment are the same; others are
refused, or marked where the reader asks for mixed rows.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TypeVar

from dyna_eval.errors import InputError
from dyna_eval.jobs import JobState, digest
from dyna_eval.records import SweepRecord
from dyna_eval.reports.counts import all_files
from dyna_eval.reports.deferred import Deferred
from dyna_eval.reports.digits import factor, percent
from dyna_eval.reports.imported import ImportedFile, ImportedSweep
from dyna_eval.reports.imported_report import confidence_of, imported_report, pruning_caveats
from dyna_eval.reports.integrity import (
    Caveat,
    CaveatKind,
    mixed_caveats,
    sentinel_load_caveats,
    separability_caveats,
)
from dyna_eval.reports.intervals import Bootstrap
from dyna_eval.reports.labels import labels_with_origin
from dyna_eval.reports.measured_report import build_report
from dyna_eval.reports.report import (
    JoinedSweep,
    LeftOut,
    Report,
    Row,
    RowState,
    baseline_of,
    compare_rows,
    refuse_mixed,
    with_comparisons,
)
from dyna_eval.reports.selection import Candidate, select
from dyna_eval.reports.tuning import reported_record
from dyna_eval.reports.workloads import (
    SourcedRow,
    models_difference,
    sweeps_models_difference,
    what_baselines_show,
    workload_differences,
)
from dyna_eval.wording import rate_text

Part = SweepRecord | ImportedSweep
_Settings = TypeVar("_Settings")


@dataclass(frozen=True, slots=True, kw_only=True)
class _Member:
    """A sweep on its way into a joined table, with a report of its own."""

    part: Part
    report: Report
    files: Mapping[str, ImportedFile] = field(default_factory=dict)
    """By digest; empty for a sweep of our own."""

    def baseline(self, pair: str) -> Row | None:
        return baseline_of(self.report.rows_of(pair))

    def file(self, row: Row) -> ImportedFile | None:
        return self.files.get(row.source.sha256) if row.source else None


def joined_report(
    parts: Sequence[Part],
    *,
    rows: Sequence[str] = (),
    others: Sequence[ImportedSweep] = (),
    allow_mixed: bool = False,
) -> Report:
    """Join rows of sweeps into one table per pair that all of them have, under the first one's baseline.

    `rows` select, see `dyna_eval.reports.selection`; the first sweep's baseline is there in any case, and
    opens the table unless it is selected. Raises MixedRowsError where the rows must not stand together,
    unless `allow_mixed`; InputError where there is nothing to join.
    """
    members = _members(parts, others)
    pairs = _common_pairs(members)
    tables = {pair: _table(members, pair, rows, others) for pair in pairs}
    if not allow_mixed:
        for table in tables.values():
            refuse_mixed([row for _, row in table])
    first, shown = members[0].report, [one for table in tables.values() for one in table]
    several = len(members) > 1
    return replace(
        first,
        chosen=() if several else first.chosen,
        split=any(member.report.split for member in members),
        name=" + ".join(dict.fromkeys(member.report.name for member in members)),
        digest=digest([[member.report.digest for member in members], [row.label for _, row in shown]]),
        state=", ".join(dict.fromkeys(str(member.report.state) for member in members)),
        created_at=max(member.report.created_at for member in members),
        generations=_alike([member.report.generations for member in members]),
        measure=_shared([member.report.measure for member in members]),
        environments={
            name: facts for member in members for name, facts in member.report.environments.items()
        },
        models=_alike([member.report.models for member in members]),
        sweep_file=None if several else first.sweep_file,
        pairs=pairs,
        made_of=tuple(member.part.digest for member in members),
        selectors=tuple(rows),
        rows=tuple(row for _, row in shown),
        left_out=tuple(_left_out(members, pairs, [one.row for one, _ in shown])),
        pair_caveats=tuple(
            (pair, caveat)
            for pair in pairs
            for caveat in _joined_caveats(members, pair, [row for _, row in tables[pair]])
        ),
        joined=tuple(
            JoinedSweep(id=member.part.id, name=member.part.name, digest=member.part.digest)
            for member in members
        )
        if several
        else (),
    )


def _shared(settings: Sequence[_Settings | None]) -> _Settings | None:
    """Return the settings that all sweeps have; None where they differ."""
    return settings[0] if all(other == settings[0] for other in settings) else None


def _alike(known: Sequence[Mapping[str, _Settings]]) -> dict[str, _Settings]:
    """Return what is known of pairs, by their names, as far as it is the same in all sweeps."""
    return {
        name: settings
        for name, settings in known[0].items()
        if all(own.get(name) == settings for own in known)
    }


def _members(parts: Sequence[Part], others: Sequence[ImportedSweep]) -> list[_Member]:
    """Report every sweep, those of our own with figures that are comparable among them.

    All intervals are at the first one's confidence; those of a file at another one are left out.
    """
    first = parts[0]
    confidence = confidence_of(first) if isinstance(first, ImportedSweep) else first.confidence
    parts = [
        replace(part, confidence=confidence) if isinstance(part, SweepRecord) else part for part in parts
    ]
    records = [part for part in parts if isinstance(part, SweepRecord)]
    shared = _rows_together(records) if len(records) > 1 else {}
    members = []
    for part in parts:
        if isinstance(part, ImportedSweep):
            report = imported_report(part, others, allow_mixed=True)
            if report.confidence != confidence:
                report = replace(report, rows=tuple(map(_without_interval, report.rows)))
            files = {file.digest: file for file in part.files}
            members.append(_Member(part=part, report=report, files=files))
            continue
        report = _as_split(records[0], part)
        own = [
            replace(
                found,
                from_prefill=_with_noise_of(row.from_prefill, found.from_prefill),
                label=row.label,
                step=row.step,
                is_baseline=row.is_baseline,
                figures=row.figures,
                noise=row.noise,
                caveats=(
                    *found.caveats,
                    *(caveat for caveat in row.caveats if caveat.kind is CaveatKind.CHOSEN),
                ),
            )
            if (found := shared.get((part.id, row.pair, row.label)))
            else row
            for row in report.rows
        ]
        members.append(_Member(part=part, report=replace(report, rows=tuple(own))))
    return members


def _with_noise_of(row: Deferred[Row] | None, found: Deferred[Row] | None) -> Deferred[Row] | None:
    """Return a row of sweeps together with the noise of its own sweep, which `row` has."""
    if row is None or found is None:
        return None
    return Deferred(lambda: replace(found.value, noise=row.value.noise))


def _without_interval(row: Row) -> Row:
    """Return a row without the interval of its throughput."""
    if row.figures is None:
        return row
    throughput = replace(row.figures.throughput, interval=None)
    return replace(row, figures=replace(row.figures, throughput=throughput))


def _as_split(first: SweepRecord, record: SweepRecord) -> Report:
    """Report a sweep on the prompts that the first one is; its choice is told if its own split is that."""
    split = with_split_of(first, record)
    if record is first or _same_split(record, first):
        return build_report(split, allow_mixed=True)
    return replace(build_report(reported_record(split), allow_mixed=True), measure=split.measure)


def _same_split(one: SweepRecord, other: SweepRecord) -> bool:
    return (one.measure.tune_fraction, one.seed) == (other.measure.tune_fraction, other.seed)


def with_split_of(first: SweepRecord, record: SweepRecord) -> SweepRecord:
    """Return a sweep that is reported on the prompts that the first one is: all rows of a table are."""
    fraction = first.measure.tune_fraction
    return replace(record, seed=first.seed, measure=replace(record.measure, tune_fraction=fraction))


def _rows_together(records: Sequence[SweepRecord]) -> dict[tuple[int, str, str], Row]:
    """Return the rows of several sweeps as if one sweep had measured them: by sweep, pair and label.

    Actors are then compared across the sweeps, and rows that were measured differently are known as mixed.
    """
    pairs = tuple(pair for pair in records[0].pairs if all(pair in record.pairs for record in records))
    names = {
        f"{record.id}: {row.label}": (record.id, row.label)
        for record in records
        for row in record.configurations
    }

    def renamed(record: SweepRecord, first_repeat: int) -> SweepRecord:
        """Sweeps have no label in common, nor a repeat: those of one ran at another time."""
        return replace(
            record,
            configurations=tuple(
                replace(row, label=f"{record.id}: {row.label}") for row in record.configurations
            ),
            jobs=tuple(
                replace(job, label=f"{record.id}: {job.label}", repeat=first_repeat + job.repeat)
                for job in record.jobs
            ),
        )

    repeats = [1 + max((job.repeat for job in record.jobs), default=-1) for record in records]
    own = [renamed(record, sum(repeats[:place])) for place, record in enumerate(records)]
    together = replace(
        own[0],
        baseline=f"{own[0].id}: {own[0].baseline}",
        pairs=pairs,
        configurations=tuple(row for record in own for row in record.configurations),
        jobs=tuple(job for record in own for job in record.jobs),
        sentinels=tuple(one for record in own for one in record.sentinels),
        environments={name: facts for record in own for name, facts in record.environments.items()},
    )
    rows = build_report(reported_record(together), allow_mixed=True).rows  # sweeps choose by themselves
    return {(names[row.label][0], row.pair, names[row.label][1]): row for row in rows}


def _common_pairs(members: Sequence[_Member]) -> tuple[str, ...]:
    """Return the pairs that all sweeps have; raises InputError where there is none."""
    first = members[0].report.pairs
    common = tuple(pair for pair in first if all(pair in member.report.pairs for member in members))
    if not common:
        each = "; ".join(f"{member.report.name}: {', '.join(member.report.pairs)}" for member in members)
        raise InputError(f"these sweeps have no pair of models in common, so no table joins them ({each})")
    return common


def _table(
    members: Sequence[_Member], pair: str, selectors: Sequence[str], others: Sequence[ImportedSweep]
) -> list[tuple[Candidate, Row]]:
    """Return the joined rows of a pair as their sweeps have them, and compared, numbered and marked."""
    candidates = [
        Candidate(part=part, sweep=member.report.name, sweep_id=member.part.id, row=row)
        for part, member in enumerate(members)
        for row in member.report.rows_of(pair)
    ]
    chosen = select(candidates, selectors)
    first = next((one for one in candidates if one.part == 0 and one.row.is_baseline), None)
    if first is not None and all(first is not one for one in chosen):
        chosen.insert(0, first)
    reference = first or chosen[0]
    labels = labels_with_origin([(one.row.label, one.sweep) for one in chosen])
    confidence = members[0].report.confidence
    rows = []
    for step, (one, label) in enumerate(zip(chosen, labels, strict=True), start=1):
        mixed = (*one.row.mixed, *_differences(members, one, reference, others))
        is_first = first is not None and one is first
        rows.append(
            replace(one.row, step=step, label=label, is_baseline=is_first, mixed=tuple(dict.fromkeys(mixed)))
        )
    compared = with_comparisons(rows, Bootstrap(confidence=confidence))
    compared = [_with_own_comparisons(row, place, chosen) for place, row in enumerate(compared)]
    return [
        (one, replace(row, caveats=_joined_row_caveats(row, one, members, confidence)))
        for row, one in zip(compared, chosen, strict=True)
    ]


def _with_own_comparisons(row: Row, place: int, chosen: Sequence[Candidate]) -> Row:
    """Return a row of the first sweep, if that was imported, with the comparisons that it has there.

    Intervals are of its file, from whose figures no one could compute them anew. The baseline is the same;
    the step before it may be another one here.
    """
    one = chosen[place]
    if one.part or one.row.source is None:
        return row
    same_previous = place > 0 and (chosen[place - 1].part, chosen[place - 1].row.step) == (
        0,
        one.row.step - 1,
    )
    return replace(
        row,
        versus_baseline=one.row.versus_baseline,
        deferred_end_to_end=one.row.deferred_end_to_end,
        versus_previous=one.row.versus_previous if same_previous else row.versus_previous,
    )


def _joined_row_caveats(
    row: Row, one: Candidate, members: Sequence[_Member], confidence: float
) -> tuple[Caveat, ...]:
    """Return a row's caveats in its new company, in which its differences stand first."""
    kept = [caveat for caveat in one.row.caveats if caveat.kind is not CaveatKind.SEPARABILITY]
    return tuple(
        dict.fromkeys(
            [
                *mixed_caveats(row.mixed),
                *_own_speedup(row, one, members),
                *_lost_interval(row, one),
                *kept,
                *separability_caveats(row.versus_baseline, confidence),
            ]
        )
    )


def _own_speedup(row: Row, one: Candidate, members: Sequence[_Member]) -> list[Caveat]:
    """Say a mixed row's speedup against the baseline of its own sweep, which may be another number."""
    base = members[one.part].baseline(row.pair)
    if one.part == 0 or not row.mixed or base is None or base is one.row:
        return []
    own = compare_rows(one.row, base, Bootstrap(confidence=members[one.part].report.confidence))
    if own is None:
        return []
    return [Caveat(f"against its own sweep's baseline its speedup is {factor(own.ratio)}")]


def _lost_interval(row: Row, one: Candidate) -> list[Caveat]:
    """Say that the interval of an imported row's speedup was against another baseline."""
    if row.versus_baseline is None or row.is_baseline or row.speedup_interval or not one.row.speedup_interval:
        return []
    return [Caveat(_LOST_INTERVAL)] if one.row.source else []


_LOST_INTERVAL = (
    "its speedup is a ratio of mean throughputs: the interval in its file is against the baseline there"
)


def _differences(
    members: Sequence[_Member], one: Candidate, reference: Candidate, others: Sequence[ImportedSweep]
) -> list[str]:
    """Name what keeps a row from standing beside the table's first baseline."""
    if one.part == reference.part or one.row.figures is None:
        return []
    member, base = members[one.part], members[reference.part]
    row, other = one.row, reference.row
    if row.source is None and other.source is None:  # the rest was compared by digests
        return sweeps_models_difference(member.report.rows_of(row.pair), base.report.rows_of(row.pair))
    texts = models_difference(member.baseline(row.pair), base.baseline(row.pair))
    here, there = SourcedRow(row=row, file=member.file(row)), SourcedRow(row=other, file=base.file(other))
    return [*texts, *workload_differences(here, there, all_files(others))]


# ------------------------------------------------------------------------ around a table


def _joined_caveats(members: Sequence[_Member], pair: str, rows: Sequence[Row]) -> list[Caveat]:
    """Return what concerns a joined table: how the baselines compare, and what each sweep says of itself."""
    caveats = [Caveat(_baselines(members[0], member, pair)) for member in members[1:]]
    caveats += _own_splits(members)
    caveats += pruning_caveats(rows, pair)
    said = [
        (
            member.report.name,
            [
                caveat
                for own, caveat in member.report.pair_caveats
                if own == pair and caveat.kind is not CaveatKind.PRUNING  # which is about other rows
            ],
        )
        for member in members
    ]
    records = [member.part for member in members if isinstance(member.part, SweepRecord)]
    done = [
        job for record in records for job in record.jobs if job.pair == pair and job.state is JobState.DONE
    ]
    caveats += sentinel_load_caveats(done)
    for name, own in said:
        for caveat in own:
            if caveat in caveats:
                continue
            alone = not all(caveat in others for _, others in said)
            caveats.append(Caveat(f"{name}: {caveat.text}") if alone else caveat)
    return list(dict.fromkeys(caveats))


def _own_splits(members: Sequence[_Member]) -> list[Caveat]:
    """Name the sweeps whose rows may have been chosen on prompts that this table reports them on.

    All rows are over the same prompts: those that the split of the first sweep of our own leaves.
    """
    records = [member.part for member in members if isinstance(member.part, SweepRecord)]
    return [
        Caveat(
            f"{record.name}: its rows are over the prompts that {records[0].name} reports, not over those"
            " that its own tuning split leaves: a row that was chosen by that split may look faster than it"
            " is"
        )
        for record in records[1:]
        if record.measure.tune_fraction and not _same_split(record, records[0])
    ]


def _baselines(first: _Member, other: _Member, pair: str) -> str:
    names = f"{first.report.name} and {other.report.name}"
    base, own = first.baseline(pair), other.baseline(pair)
    rates = [row.figures.throughput.mean for row in (base, own) if row is not None and row.figures]
    if len(rates) < 2 or min(rates) <= 0.0:
        return f"the baselines of {names} cannot be compared: one of them has no result"
    apart = percent(max(rates) / min(rates) - 1.0)
    return (
        f"the baselines of {names} are {rate_text(rates[0])} and {rate_text(rates[1])} tokens/s,"
        f" {apart} % apart; {what_baselines_show(*rates)}"
    )


def _left_out(members: Sequence[_Member], pairs: Sequence[str], shown: Sequence[Row]) -> list[LeftOut]:
    """List what the sweeps leave out themselves, and their rows that are not shown, with all their jobs."""
    entries: list[LeftOut] = []
    for member in members:
        name = member.report.name
        opening = f"{name}: " if len(members) > 1 else ""
        unshown = [row for row in member.report.rows if row.figures and all(row is not one for one in shown)]
        jobs = {job for row in unshown for job in row.job_ids}
        entries += [
            replace(entry, reason=f"{opening}{entry.reason}")
            for entry in member.report.left_out
            if jobs.isdisjoint(entry.job_ids)
        ]
        for row in unshown:
            missing = row.pair not in pairs
            entries.append(
                LeftOut(
                    label=row.label,
                    pair=None if missing else row.pair,
                    state=RowState.NOT_SHOWN,
                    reason=f"{name}: its pair is not in all sweeps"
                    if missing
                    else f"not asked for of {name}",
                    job_ids=row.job_ids,
                )
            )
    return entries
