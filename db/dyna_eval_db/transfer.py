"""A sweep with all that belongs to it, copied from one database into another, of whatever kind.

Rows get new numbers in their old order. All else stays, so that reports of the copy say what those of the
sweep say: digests, job keys, states, epochs, and times, which are of the source's clock. The lease of a
controller is not copied; a sweep that one works on is refused.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import ColumnElement, insert, inspect, select, update
from sqlalchemy.orm import Session

from dyna_eval.errors import InputError
from dyna_eval.holder import described, is_gone
from dyna_eval_db.anonymous import NeutralNames
from dyna_eval_db.columns import database_clock, insert_all_missing, insert_many, insert_missing
from dyna_eval_db.events import log
from dyna_eval_db.models import (
    AttemptRow,
    Base,
    CalibrationRow,
    DraftTreeRow,
    EnvironmentRow,
    EventRow,
    ImportedFileRow,
    ImportedRowRow,
    ImportedSampleRow,
    JobRow,
    LeaseRow,
    PromptRow,
    ResultRow,
    RoundRow,
    SampleRow,
    SentinelRow,
    SweepRow,
)
from dyna_eval_db.refusals import reported
from dyna_eval_db.sweeps import require_sweep
from dyna_eval_db.values import EventKind

_Numbers = Mapping[int, int]
"""New numbers of rows by their old ones."""
_Row = dict[str, Any]


def copy_sweep(source: Session, target: Session, sweep_id: int, names: NeutralNames | None) -> int:
    """Copy a sweep and return its number in the target; with `names`, these stand for machines and paths.

    Raises InputError where a controller works on it, or where the target has it already.
    """
    require_at_rest(source, sweep_id)
    route = _Route(source=source, target=target, names=names)
    [sweep] = route.rows(SweepRow, SweepRow.id == sweep_id)
    if not insert_missing(target, SweepRow, **_without_number(sweep)):
        raise InputError(f"sweep {sweep_id} ({sweep['name']}) is in that database already")
    copied = target.scalars(select(SweepRow.id).where(SweepRow.digest == sweep["digest"])).one()

    for digest in sorted(set(sweep["prompt_sets"].values())):
        _copy_prompts(route, digest)
    jobs = route.add_all(JobRow, JobRow.sweep_id == sweep_id, sweep_id={sweep_id: copied})
    of_jobs = select(JobRow.id).where(JobRow.sweep_id == sweep_id)
    attempts = route.add_all(AttemptRow, AttemptRow.job_id.in_(of_jobs), job_id=jobs)
    _copy_results(route, jobs, attempts)
    _copy_sentinels(route, sweep_id, copied)
    _copy_imports(route, sweep_id, copied)
    _copy_events(route, sweep_id, copied, jobs)
    log(target, copied, EventKind.COPIED, sweep=sweep_id)
    return copied


def require_at_rest(session: Session, sweep_id: int) -> None:
    """Raise InputError while a controller that may be alive works on a sweep."""
    sweep = require_sweep(session, sweep_id)
    alive = (LeaseRow.sweep_id == sweep_id, LeaseRow.expires_at > database_clock())
    holder = session.scalar(select(LeaseRow.holder).where(*alive))
    if holder is not None and not is_gone(holder):
        raise InputError(
            f"sweep {sweep_id} ({sweep.name}) is being run by {described(holder)};"
            " copy it when that has ended"
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class _Route:
    """From where to where rows go, and which names they get on the way."""

    source: Session
    target: Session
    names: NeutralNames | None

    def rows(self, table: type[Base], *conditions: ColumnElement[bool]) -> list[_Row]:
        """Read the rows that meet some conditions, by their keys; neutral names are in them already."""
        own = table.__table__
        statement = select(*own.columns).where(*conditions).order_by(*inspect(table).primary_key)
        with reported(self.source.get_bind().engine.url):
            rows = [dict(row) for row in self.source.execute(statement).mappings()]
        return rows if self.names is None else [self.names.in_row(table, row) for row in rows]

    def add(self, table: type[Base], rows: Sequence[_Row], **references: _Numbers) -> _Numbers:
        """Insert rows under new numbers, which are returned; `references` renumbers columns by name."""
        if not rows:
            return {}
        adding = insert(table).returning(table.__table__.columns["id"], sort_by_parameter_order=True)
        renumbered = [_without_number(row) for row in _renumbered(rows, references)]
        numbers = self.target.connection().execute(adding, renumbered).scalars().all()
        return dict(zip((row["id"] for row in rows), numbers, strict=True))

    def add_all(
        self, table: type[Base], *conditions: ColumnElement[bool], **references: _Numbers
    ) -> _Numbers:
        """Copy the rows that meet some conditions."""
        return self.add(table, self.rows(table, *conditions), **references)


def _without_number(row: _Row) -> _Row:
    return {name: value for name, value in row.items() if name != "id"}


def _renumbered(rows: Sequence[_Row], references: Mapping[str, _Numbers]) -> list[_Row]:
    """Return rows that point to the copies of what they pointed to."""
    return [
        row | {name: None if row[name] is None else new[row[name]] for name, new in references.items()}
        for row in rows
    ]


# ------------------------------------------------------------------- what sweeps share


def _copy_prompts(route: _Route, prompt_set: str) -> None:
    """Copy a prompt set unless it is there; one that is there keeps the categories that it has."""
    rows = route.rows(PromptRow, PromptRow.prompt_set == prompt_set)
    insert_all_missing(route.target, PromptRow, rows)
    named = select(PromptRow.index).where(PromptRow.prompt_set == prompt_set, PromptRow.category.is_not(None))
    categories = [
        {name: row[name] for name in ("prompt_set", "index", "category")}
        for row in rows
        if row["category"] is not None
    ]
    if categories and route.target.scalar(named.limit(1)) is None:
        route.target.execute(update(PromptRow), categories)


def _copy_environments(route: _Route, digests: Collection[str]) -> None:
    rows = route.rows(EnvironmentRow, EnvironmentRow.digest.in_(digests))
    insert_all_missing(route.target, EnvironmentRow, rows)


def _copy_calibrations(route: _Route, numbers: Collection[int]) -> _Numbers:
    """Copy calibrations that are not there, and return the numbers of all of them."""
    found = {}
    for row in route.rows(CalibrationRow, CalibrationRow.id.in_(numbers)):
        insert_missing(route.target, CalibrationRow, **_without_number(row))
        key = {name: row[name] for name in ("pair_key", "environment", "digest")}
        found[row["id"]] = route.target.scalars(select(CalibrationRow.id).filter_by(**key)).one()
    return found


# ------------------------------------------------------------------ what was measured


def _copy_results(route: _Route, jobs: _Numbers, attempts: _Numbers) -> None:
    """Copy the results of jobs with their samples, one by one: together they may be larger than memory."""
    seen: dict[str, None] = {}
    calibrations: dict[int, int] = {}
    for job_id in jobs:
        rows = route.rows(ResultRow, ResultRow.job_id == job_id)
        if not rows:
            continue
        [result] = rows
        if result["environment"] not in seen:
            _copy_environments(route, [result["environment"]])
            seen[result["environment"]] = None
        if result["calibration_id"] not in (None, *calibrations):
            calibrations |= _copy_calibrations(route, [result["calibration_id"]])
        references = {"job_id": jobs, "attempt_id": attempts, "calibration_id": calibrations}
        route.target.connection().execute(insert(ResultRow), _renumbered(rows, references))
        _copy_samples(route, SampleRow.job_id == job_id, job_id=jobs)


def _copy_sentinels(route: _Route, sweep_id: int, copied: int) -> None:
    rows = route.rows(SentinelRow, SentinelRow.sweep_id == sweep_id)
    _copy_environments(route, {row["environment"] for row in rows})
    sentinels = route.add(SentinelRow, rows, sweep_id={sweep_id: copied})
    for sentinel in sentinels:
        _copy_samples(route, SampleRow.sentinel_id == sentinel, sentinel_id=sentinels)


def _copy_samples(route: _Route, owned: ColumnElement[bool], **owners: _Numbers) -> None:
    """Copy the samples of a result or a sentinel, with their rounds and draft trees."""
    samples = route.add_all(SampleRow, owned, **owners)
    own = select(SampleRow.id).where(owned)
    for table, of_samples in (
        (RoundRow, RoundRow.sample_id.in_(own)),
        (DraftTreeRow, DraftTreeRow.sample_id.in_(own)),
    ):
        insert_many(route.target, table, _renumbered(route.rows(table, of_samples), {"sample_id": samples}))


# ---------------------------------------------------------- imported files, events


def _copy_imports(route: _Route, sweep_id: int, copied: int) -> None:
    files = route.rows(ImportedFileRow, ImportedFileRow.sweep_id == sweep_id)
    for file in files:
        known = select(ImportedFileRow.sweep_id).where(ImportedFileRow.sha256 == file["sha256"])
        there = route.target.scalar(known)
        if there is not None:
            what = f"a file of sweep {sweep_id} is in that database already, as one of its sweep {there}"
            raise InputError(f"{what}; copy others with --sweep")
    numbers = route.add(ImportedFileRow, files, sweep_id={sweep_id: copied})
    for file_id in numbers:
        rows = route.add_all(ImportedRowRow, ImportedRowRow.file_id == file_id, file_id=numbers)
        for row_id in rows:
            samples = route.rows(ImportedSampleRow, ImportedSampleRow.row_id == row_id)
            insert_many(route.target, ImportedSampleRow, _renumbered(samples, {"row_id": rows}))


def _copy_events(route: _Route, sweep_id: int, copied: int, jobs: _Numbers) -> None:
    """Copy what happened, in its order, with the environments of attempts that failed."""
    rows = route.rows(EventRow, EventRow.sweep_id == sweep_id)
    named = {row["detail"]["environment"] for row in rows if "environment" in row["detail"]}
    _copy_environments(route, named)
    route.add(EventRow, rows, sweep_id={sweep_id: copied}, job_id=jobs)
