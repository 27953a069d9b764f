"""Reports of imported sweeps, and of several sweeps joined into one table.

Rows may stand in one table only where prompts, generation settings and environment are the same. Rows of our
own have digests of them; an imported row has what its file says and counts, and where those do not show that
the work was the same, it is refused, or marked where the reader asks for mixed rows.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from dyna_eval.counts import doubted_prompts, identical_rows, shared_counts
from dyna_eval.errors import InputError, MixedRowsError
from dyna_eval.imported import Claims, ImportedFile, ImportedRow, ImportedSweep, sample_figures, sample_rates
from dyna_eval.integrity import mixed_caveats, row_caveats, separability_caveats
from dyna_eval.jobs import Method, SweepRecord, digest
from dyna_eval.report import JoinedSweep, LeftOut, Report, Row, best_row, build_report
from dyna_eval.selection import Candidate, select
from dyna_eval.statistics import Bootstrap, Comparison, compare

IMPORTED = "imported"
DEFAULT_CONFIDENCE = 0.95

_NOT_RECORDED = "not recorded"

Part = SweepRecord | ImportedSweep


# ------------------------------------------------------------------ one imported sweep


def imported_report(
    sweep: ImportedSweep, others: Sequence[ImportedSweep] = (), *, allow_mixed: bool = False
) -> Report:
    """Return the report of an imported sweep.

    `others` are the imported sweeps to compare its counts with. Raises MixedRowsError where its rows must not
    stand in one table, unless `allow_mixed`.
    """
    confidence = next((file.confidence for file in sweep.files if file.confidence), DEFAULT_CONFIDENCE)
    bootstrap = Bootstrap(confidence=confidence)
    pairs = tuple(dict.fromkeys(row.pair for row in sweep.rows))
    rows = tuple(row for pair in pairs for row in _rows_of_pair(sweep, pair, bootstrap))
    if not allow_mixed:
        _refuse_mixed(rows)
    return Report(
        sweep_id=sweep.id,
        name=sweep.name,
        digest=sweep.digest,
        state=IMPORTED,
        created_at=sweep.created_at,
        confidence=confidence,
        pairs=pairs,
        rows=rows,
        left_out=tuple(
            LeftOut(label=entry.label, pair=entry.pair, state=entry.state, reason=entry.reason)
            for file in sweep.files
            for entry in file.left_out
        ),
        pair_caveats=tuple(
            (pair, text)
            for pair in pairs
            for text in (*_pruning_notes(rows, pair), *_file_caveats(sweep, pair, others, rows))
        ),
    )


def findings(sweep: ImportedSweep, others: Sequence[ImportedSweep]) -> list[str]:
    """Return what the counts of an imported sweep say against its files."""
    texts = [group.text for file in sweep.files for group in identical_rows(file)]
    return [*texts, *_doubts(sweep, others)]


def _rows_of_pair(sweep: ImportedSweep, pair: str, bootstrap: Bootstrap) -> list[Row]:
    entries = [(file, row) for file in sweep.files for row in file.rows if row.pair == pair]
    base = next((row for _, row in entries if row.is_baseline), None)
    reference = base or entries[0][1]
    labels = _distinct_labels([(row.label, file.source.file) for file, row in entries])
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
        )
        for row, (_, own) in zip(compared, entries, strict=True)
    ]
    return [
        replace(row, caveats=_caveats(row, own, file, bootstrap.confidence))
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
        state=IMPORTED,
        is_baseline=is_baseline,
        job_ids=(),
        prompt_set=row.prompt_set,
        environment=row.environment,
        mixed=mixed,
        figures=row.figures or sample_figures(row.method, row.samples, bootstrap),
        versus_baseline=None,
        versus_previous=None,
        caveats=(),
        generation=row.generation,
        key=row.key,
        rates=sample_rates(row.samples) if row.samples else None,
        source=file.source,
        foreign=row.foreign,
    )


def _mixed_within(row: ImportedRow, reference: ImportedRow) -> tuple[str, ...]:
    """Return what keeps a row from standing beside another one of its sweep."""
    if row.samples and reference.samples and row.prompt_set != reference.prompt_set:
        return (*row.mixed, "prompt set (other questions)")
    return row.mixed


def _caveats(row: Row, own: ImportedRow, file: ImportedFile, confidence: float) -> tuple[str, ...]:
    assert row.figures is not None  # noqa: S101 - an imported row has figures
    texts = row_caveats(
        method=row.method,
        params=row.params,
        figures=row.figures,
        versus_baseline=row.versus_baseline,
        confidence=confidence,
        mixed=(),
    )
    rate = own.counts.acceptance_rate
    if rate is not None and rate > 1.0:
        texts.append(f"its file's acceptance rate is above 1 ({rate * 100:.1f} %): foreign, not comparable")
    texts += [group.text for group in identical_rows(file) if own.label in group.labels]
    source = f"imported from {file.source}"
    return tuple(dict.fromkeys([*mixed_caveats(row.mixed), source, *texts, *own.notes]))


def _file_caveats(
    sweep: ImportedSweep, pair: str, others: Sequence[ImportedSweep], rows: Sequence[Row]
) -> list[str]:
    notes = [text for file in sweep.files for text in file.notes]
    if not any(row.is_baseline for row in rows if row.pair == pair):
        notes.append("no row is known to be the baseline, so there is no speedup")
    return list(dict.fromkeys([*_doubts(sweep, others), *notes]))


def _doubts(sweep: ImportedSweep, others: Sequence[ImportedSweep]) -> list[str]:
    files = _all_files(others)
    return [doubt.text for file in sweep.files if (doubt := doubted_prompts(file, files))]


def _all_files(sweeps: Iterable[ImportedSweep]) -> list[ImportedFile]:
    return [file for sweep in sweeps for file in sweep.files]


def _pruning_notes(rows: Sequence[Row], pair: str) -> list[str]:
    """Say how imported pruned trees compare with unpruned ones of their shape, each with the nearest row."""
    texts = []
    own = [row for row in rows if row.pair == pair and row.source]
    for row in own:
        shape = (row.params.get("depth"), row.params.get("branch"))
        plain = [one for one in own if _is_tree(one, shape) and one.params.get("threshold") == 0]
        if _is_tree(row, shape) and row.params.get("threshold") and plain:
            nearest = min(plain, key=lambda one: (abs(one.step - row.step), -one.step))
            if (ratio := _compare(row, nearest, None)) is not None:
                texts.append(f"D={shape[0]}, B={shape[1]}, τ={row.params['threshold']}: {ratio.ratio:.2f}")
    return [f"pruned over unpruned trees: {'; '.join(texts)}"] if texts else []


def _is_tree(row: Row, shape: tuple[object, object]) -> bool:
    own = (row.params.get("depth"), row.params.get("branch"))
    return row.method is Method.TREE and None not in own and own == shape


# ------------------------------------------------------------------------ comparisons


def with_comparisons(rows: Sequence[Row], bootstrap: Bootstrap) -> list[Row]:
    """Compare each row with the baseline, and with the nearest and the fastest row above with figures."""
    base = next((row for row in rows if row.is_baseline), None)
    compared: list[Row] = []
    previous = fastest = None
    for row in rows:
        compared.append(
            replace(
                row,
                versus_baseline=None if base is None else _compare(row, base, bootstrap),
                versus_previous=None if previous is None else _compare(row, previous, bootstrap),
                fastest_before=None if fastest is None else fastest.step,
                versus_fastest_before=None if fastest is None else _compare(row, fastest, bootstrap),
            )
        )
        previous = row if row.figures is not None else previous
        fastest = best_row([fastest, row] if fastest else [row])
    return compared


def _compare(row: Row, base: Row, bootstrap: Bootstrap | None) -> Comparison | None:
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


# --------------------------------------------------------------------- several sweeps


@dataclass(frozen=True, slots=True, kw_only=True)
class _Member:
    """A sweep on its way into a joined table, with a report of its own."""

    part: Part
    report: Report
    files: Mapping[str, ImportedFile] = field(default_factory=dict)
    """By digest; empty for a sweep of our own."""

    def baseline(self, pair: str) -> Row | None:
        return next((row for row in self.report.rows_of(pair) if row.is_baseline), None)

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

    `rows` select, see `dyna_eval.selection`; the first sweep's baseline is there in any case, and opens the
    table unless it is selected. Raises MixedRowsError where the rows must not stand together, unless
    `allow_mixed`; InputError where there is nothing to join.
    """
    members = _members(parts, others)
    pairs = _common_pairs(members)
    tables = {pair: _table(members, pair, rows, others) for pair in pairs}
    if not allow_mixed:
        for table in tables.values():
            _refuse_mixed([row for _, row in table])
    first, shown = members[0].report, [one for table in tables.values() for one in table]
    several = len(members) > 1
    return replace(
        first,
        chosen=() if several else first.chosen,
        name=" + ".join(dict.fromkeys(member.report.name for member in members)),
        digest=digest([[member.report.digest for member in members], [row.label for _, row in shown]]),
        state=", ".join(dict.fromkeys(str(member.report.state) for member in members)),
        created_at=max(member.report.created_at for member in members),
        pairs=pairs,
        made_of=tuple(member.part.digest for member in members),
        chosen_rows=tuple(rows),
        rows=tuple(row for _, row in shown),
        left_out=tuple(_left_out(members, pairs, [one.row for one, _ in shown])),
        pair_caveats=tuple(
            (pair, text)
            for pair in pairs
            for text in _joined_caveats(members, pair, [row for _, row in tables[pair]])
        ),
        joined=tuple(
            JoinedSweep(id=member.part.id, name=member.part.name, digest=member.part.digest)
            for member in members
        )
        if several
        else (),
    )


def _members(parts: Sequence[Part], others: Sequence[ImportedSweep]) -> list[_Member]:
    """Report every sweep, those of our own with figures that are comparable among them."""
    records = [part for part in parts if isinstance(part, SweepRecord)]
    shared = _rows_together(records) if len(records) > 1 else {}
    members = []
    for part in parts:
        if isinstance(part, ImportedSweep):
            report = imported_report(part, others, allow_mixed=True)
            files = {file.digest: file for file in part.files}
            members.append(_Member(part=part, report=report, files=files))
            continue
        report = build_report(part, allow_mixed=True)
        own = [
            replace(found, label=row.label, step=row.step, is_baseline=row.is_baseline)
            if (found := shared.get((part.id, row.pair, row.label)))
            else row
            for row in report.rows
        ]
        members.append(_Member(part=part, report=replace(report, rows=tuple(own))))
    return members


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

    def renamed(record: SweepRecord) -> SweepRecord:
        return replace(
            record,
            configurations=tuple(
                replace(row, label=f"{record.id}: {row.label}") for row in record.configurations
            ),
            jobs=tuple(
                replace(job, label=f"{record.id}: {job.label}") for job in record.jobs if job.pair in pairs
            ),
        )

    own = [renamed(record) for record in records]
    together = replace(
        own[0],
        baseline=f"{own[0].id}: {own[0].baseline}",
        pairs=pairs,
        configurations=tuple(row for record in own for row in record.configurations),
        jobs=tuple(job for record in own for job in record.jobs),
        sentinels=tuple(one for record in own for one in record.sentinels),
        environments={name: facts for record in own for name, facts in record.environments.items()},
        calibrations={key: value for record in own for key, value in record.calibrations.items()},
    )
    rows = build_report(together, allow_mixed=True).rows
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
    labels = _distinct_labels([(one.row.label, one.sweep) for one in chosen])
    confidence = members[0].report.confidence
    rows = []
    for step, (one, label) in enumerate(zip(chosen, labels, strict=True), start=1):
        mixed = (*one.row.mixed, *_differences(members, one, reference, others))
        is_first = first is not None and one is first
        rows.append(
            replace(one.row, step=step, label=label, is_baseline=is_first, mixed=tuple(dict.fromkeys(mixed)))
        )
    compared = with_comparisons(rows, Bootstrap(confidence=confidence))
    return [
        (one, replace(row, caveats=_joined_row_caveats(row, one, members, confidence)))
        for row, one in zip(compared, chosen, strict=True)
    ]


def _joined_row_caveats(
    row: Row, one: Candidate, members: Sequence[_Member], confidence: float
) -> tuple[str, ...]:
    """Return a row's caveats in its new company, in which its differences stand first."""
    stale = separability_caveats(one.row.versus_baseline, members[one.part].report.confidence)
    kept = [text for text in one.row.caveats if text not in stale]
    return tuple(
        dict.fromkeys(
            [
                *mixed_caveats(row.mixed),
                *_own_speedup(row, one, members),
                *kept,
                *separability_caveats(row.versus_baseline, confidence),
            ]
        )
    )


def _own_speedup(row: Row, one: Candidate, members: Sequence[_Member]) -> list[str]:
    """Say a mixed row's speedup against the baseline of its own sweep, which may be another number."""
    base = members[one.part].baseline(row.pair)
    if one.part == 0 or not row.mixed or base is None or base is one.row:
        return []
    own = _compare(one.row, base, None)
    return [] if own is None else [f"against its own sweep's baseline its speedup is {own.ratio:.2f}"]


def _distinct_labels(labels: Sequence[tuple[str, str]]) -> list[str]:
    """Return labels of which equal ones name where they come from, and a number where that is not enough."""
    seen: set[str] = set()
    result = []
    for label, origin in labels:
        own, number = label, 1
        if own in seen:
            own = f"{label} ({origin})"
        while own in seen:
            number += 1
            own = f"{label} ({origin}, {number})"
        seen.add(own)
        result.append(own)
    return result


# ------------------------------------------------------------------------- differences


def _differences(
    members: Sequence[_Member], one: Candidate, reference: Candidate, others: Sequence[ImportedSweep]
) -> list[str]:
    """Name what differs, or cannot be shown to be the same, between a row and the table's first baseline."""
    if one.part == reference.part or one.row.figures is None:
        return []
    member, base = members[one.part], members[reference.part]
    row, other = one.row, reference.row
    texts = [
        *_models_difference(member.baseline(row.pair), base.baseline(row.pair)),
        *_split_difference(member.part, base.part),
    ]
    if row.source is None and other.source is None:
        return texts  # prompts, settings and environment were compared by their digests
    file, base_file = member.file(row), base.file(other)
    prompts, alike = _prompts_difference(row, other, file, base_file, others)
    generation = _generation_difference(row, other, file, base_file, alike=alike)
    environment = _digest_difference(row.environment, other.environment)
    found = {"prompt set": prompts, "generation settings": generation, "environment": environment}
    unrecorded = [what for what, difference in found.items() if difference == _NOT_RECORDED]
    texts += [
        f"{what} ({difference})"
        for what, difference in found.items()
        if difference is not None and difference != _NOT_RECORDED
    ]
    return [*texts, f"{', '.join(unrecorded)} ({_NOT_RECORDED})"] if unrecorded else texts


def _models_difference(own: Row | None, base: Row | None) -> list[str]:
    """Baselines of equal work have equal identities, unless the models or how they run differ."""
    if own is None or base is None or own.key is None or base.key is None or own.key == base.key:
        return []
    work = [(one.method, dict(one.params), one.prompt_set, one.generation) for one in (own, base)]
    return ["models, dtype, backend or warm-up"] if work[0] == work[1] else []


def _split_difference(own: Part, base: Part) -> list[str]:
    """Rows over the prompts that a tuning split leaves are not over those of another split."""
    if not isinstance(own, SweepRecord) or not isinstance(base, SweepRecord):
        return []
    here, there = own.measure.tune_fraction, base.measure.tune_fraction
    return [] if here == there else [f"tuning split ({here:g} instead of {there:g} of the prompts)"]


def _prompts_difference(
    row: Row,
    other: Row,
    file: ImportedFile | None,
    base_file: ImportedFile | None,
    others: Sequence[ImportedSweep],
) -> tuple[str | None, bool]:
    """Return how prompt sets differ, and whether counts show that all the work was the same."""
    if row.prompt_set is not None and other.prompt_set is not None:
        return _digest_difference(row.prompt_set, other.prompt_set), False
    for doubted in (file, base_file):
        if doubted is not None and (doubt := doubted_prompts(doubted, _all_files(others))):
            return doubt.short, False
    if file is None or base_file is None:
        return _NOT_RECORDED, False
    return _counted_difference(file, base_file)


def _counted_difference(file: ImportedFile, base_file: ImportedFile) -> tuple[str | None, bool]:
    """Compare the work of two files by their counts; where these say nothing, by what the files say."""
    shared = shared_counts(file, base_file)
    if shared.differing:
        return (
            f"or a setting: of {shared.compared} configurations that both files have, {len(shared.differing)}"
            f" have other counts, as '{shared.differing[0]}'"
        ), False
    if shared.equal:
        return None, True
    here, there = _workload(file.claims), _workload(base_file.claims)
    if here is None or there is None:
        return _NOT_RECORDED, False
    return (f"{here} instead of {there}" if here != there else f"{here}, by name alone"), False


def _workload(claims: Claims) -> str | None:
    """Return in words which prompts a file says it used."""
    if claims.dataset is None:
        return None
    texts = [repr(claims.dataset)]
    if claims.prompts is not None:
        texts.append(f"{claims.prompts} prompts")
    if claims.max_prompt_length is not None:
        texts.append(f"cut at {claims.max_prompt_length}")
    return ", ".join(texts)


def _generation_difference(
    row: Row, other: Row, file: ImportedFile | None, base_file: ImportedFile | None, *, alike: bool
) -> str | None:
    if row.generation is not None and other.generation is not None:
        return _digest_difference(row.generation, other.generation)
    here, there = (one.claims.max_new_tokens if one else None for one in (file, base_file))
    if here is not None and there is not None and here != there:
        return f"{here} instead of {there} new tokens"
    return None if alike else _NOT_RECORDED


def _digest_difference(here: str | None, there: str | None) -> str | None:
    if here is None or there is None:
        return _NOT_RECORDED
    return None if here == there else f"{here[:12]} instead of {there[:12]}"


def _refuse_mixed(rows: Sequence[Row]) -> None:
    for row in rows:
        if row.mixed:
            where = f" of {row.source.file}" if row.source else ""
            raise MixedRowsError(
                f"row {row.label!r}{where} must not stand beside the others: it differs in"
                f" {'; '.join(row.mixed)}; --allow-mixed prints it with a mark"
            )


# ------------------------------------------------------------------------ around a table


def _joined_caveats(members: Sequence[_Member], pair: str, rows: Sequence[Row]) -> list[str]:
    """Return what concerns a joined table: how the baselines compare, and what each sweep says of itself."""
    texts = [text for member in members[1:] for text in _baselines(members[0], member, pair)]
    texts += _pruning_notes(rows, pair)
    said = [
        (member.report.name, [text for own, text in member.report.pair_caveats if own == pair])
        for member in members
    ]
    stale = [text for member in members for text in _pruning_notes(member.report.rows, pair)]
    for name, own in said:
        for text in own:
            if text not in stale:
                alone = not all(text in others for _, others in said)
                texts.append(f"{name}: {text}" if alone else text)
    return list(dict.fromkeys(texts))


def _baselines(first: _Member, other: _Member, pair: str) -> list[str]:
    names = f"{first.report.name} and {other.report.name}"
    base, own = first.baseline(pair), other.baseline(pair)
    if base is None or own is None or base.figures is None or own.figures is None:
        return [f"the baselines of {names} cannot be compared: one of them has no result"]
    rates = [row.figures.throughput.mean for row in (base, own) if row.figures]
    apart = (max(rates) / min(rates) - 1.0) * 100.0
    return [
        f"the baselines of {names} are {rates[0]:.1f} and {rates[1]:.1f} tokens/s, {apart:.1f} % apart;"
        " that baselines agree does not show that the work was the same"
    ]


def _left_out(members: Sequence[_Member], pairs: Sequence[str], shown: Sequence[Row]) -> list[LeftOut]:
    """List what the sweeps leave out themselves, and their rows that are not shown."""
    entries: list[LeftOut] = []
    for member in members:
        name = member.report.name
        opening = f"{name}: " if len(members) > 1 else ""
        entries += [replace(entry, reason=f"{opening}{entry.reason}") for entry in member.report.left_out]
        for row in member.report.rows:
            if row.figures is None or any(row is one for one in shown):
                continue
            missing = row.pair not in pairs
            entries.append(
                LeftOut(
                    label=row.label,
                    pair=None if missing else row.pair,
                    state="not shown",
                    reason=f"{name}: its pair is not in all sweeps"
                    if missing
                    else f"not asked for of {name}",
                    job_ids=row.job_ids,
                )
            )
    return entries
