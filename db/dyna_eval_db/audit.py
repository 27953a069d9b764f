"""The checker: whether what the store promises holds for the rows that are there.

Every promise is one query for the rows that break it; a sound database answers each with none.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from sqlalchemy import Select, and_, exists, func, or_, select, text
from sqlalchemy.orm import Session

from dyna_eval.jobs import JobState
from dyna_eval_db.models import (
    AttemptRow,
    CalibrationRow,
    JobRow,
    PromptRow,
    ResultRow,
    RoundRow,
    SampleRow,
    SentinelRow,
)
from dyna_eval_db.values import Discrepancy, Outcome

_ROUND_SUMS = {
    "drafted_nodes": RoundRow.drafted,
    "verified_nodes": RoundRow.verified,
    "drafted_levels": RoundRow.depth,
    "accepted_tokens": RoundRow.accepted,
    "draft_steps": RoundRow.draft_steps,
    "draft_rows": RoundRow.draft_rows,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class _Promise:
    """Rows that break a promise: their sweep, job and a detail, which `broken` puts into words."""

    broken: str
    rows: Select[*tuple[Any, ...]]


def audit(session: Session, sweep_id: int | None) -> list[Discrepancy]:
    """Return what is wrong with one sweep, or with all of them; nothing is changed."""
    findings = [
        Discrepancy(sweep_id=sweep, job_id=job, what=promise.broken.format(detail=detail))
        for promise in _promises()
        for sweep, job, detail in session.execute(_of(promise.rows, sweep_id))
    ]
    return findings + (_file_findings(session) if sweep_id is None else [])


def _of(rows: Select[*tuple[Any, ...]], sweep_id: int | None) -> Select[*tuple[Any, ...]]:
    found = rows.subquery()
    columns = list(found.c)
    chosen = select(*columns).order_by(columns[0], columns[1])
    return chosen if sweep_id is None else chosen.where(columns[0] == sweep_id)


def _promises() -> list[_Promise]:
    return [*_results(), *_attempts(), *_samples()]


def _results() -> list[_Promise]:
    job = select(JobRow.sweep_id, JobRow.id.label("job"), JobRow.state.label("detail"))
    landed = exists().where(ResultRow.job_id == JobRow.id)
    sampled = exists().where(SampleRow.job_id == JobRow.id)
    calibrated_elsewhere = (
        select(JobRow.sweep_id, JobRow.id.label("job"), CalibrationRow.id.label("detail"))
        .join(ResultRow, ResultRow.job_id == JobRow.id)
        .join(CalibrationRow, CalibrationRow.id == ResultRow.calibration_id)
        .where(CalibrationRow.environment != ResultRow.environment)
    )
    leased = (JobRow.state == JobState.RUNNING) != JobRow.lease_expires_at.is_not(None)
    return [
        _Promise(broken="is done without a result", rows=job.where(JobRow.state == JobState.DONE, ~landed)),
        _Promise(
            broken="is {detail} but has a result", rows=job.where(JobRow.state != JobState.DONE, landed)
        ),
        _Promise(broken="has a result without samples", rows=job.where(landed, ~sampled)),
        _Promise(broken="has calibration {detail}, of another environment", rows=calibrated_elsewhere),
        _Promise(broken="is {detail}, which its lease contradicts", rows=job.where(leased)),
    ]


def _attempts() -> list[_Promise]:
    """An attempt per epoch; one that landed where the job is done; an open one only where it is running."""
    counted = (
        select(AttemptRow.job_id, func.count().label("count"), func.max(AttemptRow.epoch).label("last"))
        .group_by(AttemptRow.job_id)
        .subquery()
    )
    epochs = select(JobRow.sweep_id, JobRow.id.label("job"), JobRow.epoch.label("detail")).outerjoin(
        counted, counted.c.job_id == JobRow.id
    )
    differ = or_(
        func.coalesce(counted.c.count, 0) != JobRow.epoch, func.coalesce(counted.c.last, 0) != JobRow.epoch
    )
    attempt = select(JobRow.sweep_id, JobRow.id.label("job"), AttemptRow.epoch.label("detail")).join(
        AttemptRow, AttemptRow.job_id == JobRow.id
    )
    of_result = exists().where(ResultRow.attempt_id == AttemptRow.id)
    current = and_(JobRow.state == JobState.RUNNING, JobRow.epoch == AttemptRow.epoch)
    landed = AttemptRow.outcome == Outcome.LANDED
    mismatched = (
        select(JobRow.sweep_id, JobRow.id.label("job"), AttemptRow.epoch.label("detail"))
        .join(ResultRow, ResultRow.job_id == JobRow.id)
        .join(AttemptRow, AttemptRow.id == ResultRow.attempt_id)
        .where(or_(AttemptRow.job_id != JobRow.id, AttemptRow.epoch != JobRow.epoch))
    )
    return [
        _Promise(
            broken="was claimed {detail} times, which its attempts contradict", rows=epochs.where(differ)
        ),
        _Promise(broken="attempt {detail} landed without a result", rows=attempt.where(landed, ~of_result)),
        _Promise(
            broken="attempt {detail} has a result but did not land",
            rows=attempt.where(of_result, func.coalesce(AttemptRow.outcome, "") != Outcome.LANDED),
        ),
        _Promise(
            broken="attempt {detail} is open but not the one that runs",
            rows=attempt.where(AttemptRow.outcome.is_(None), ~current),
        ),
        _Promise(
            broken="attempt {detail} has ended but is the one that runs",
            rows=attempt.where(AttemptRow.outcome.is_not(None), current),
        ),
        _Promise(broken="has the result of attempt {detail}, not of its latest claim", rows=mismatched),
    ]


def _samples() -> list[_Promise]:
    """Samples of the job's own prompts, with sums that are those of their rounds."""
    sums = [func.sum(column).label(name) for name, column in _ROUND_SUMS.items()]
    rounds = (
        select(RoundRow.sample_id, func.count().label("rounds"), *sums)
        .group_by(RoundRow.sample_id)
        .subquery()
    )
    differ = or_(
        *(func.coalesce(rounds.c[name], 0) != getattr(SampleRow, name) for name in ("rounds", *_ROUND_SUMS))
    )
    owner = func.coalesce(JobRow.sweep_id, SentinelRow.sweep_id)
    sample = (
        select(owner.label("sweep_id"), SampleRow.job_id.label("job"), SampleRow.prompt_index.label("detail"))
        .outerjoin(JobRow, JobRow.id == SampleRow.job_id)
        .outerjoin(SentinelRow, SentinelRow.id == SampleRow.sentinel_id)
        .outerjoin(rounds, rounds.c.sample_id == SampleRow.id)
    )
    known = exists().where(
        PromptRow.prompt_set == JobRow.prompt_set,
        PromptRow.index == SampleRow.prompt_index,
    )
    bare = (
        select(SentinelRow.sweep_id, SampleRow.job_id.label("job"), SentinelRow.actor.label("detail"))
        .outerjoin(SampleRow, SampleRow.sentinel_id == SentinelRow.id)
        .where(SampleRow.id.is_(None))
    )
    return [
        _Promise(
            broken="prompt {detail}: the sums of its sample are not those of its rounds",
            rows=sample.where(differ),
        ),
        _Promise(
            broken="prompt {detail} is not of its prompt set",
            rows=sample.where(SampleRow.job_id.is_not(None), ~known),
        ),
        _Promise(broken="a sentinel of {detail} has no samples", rows=bare),
    ]


def _file_findings(session: Session) -> list[Discrepancy]:
    """What the database itself finds: on SQLite damaged pages, and rows that point nowhere."""
    if session.get_bind().dialect.name != "sqlite":
        return []
    damage = [str(row[0]) for row in session.execute(text("PRAGMA integrity_check")) if row[0] != "ok"]
    orphans = [
        f"row {row[1]} of {row[0]} points to a missing row of {row[2]}"
        for row in session.execute(text("PRAGMA foreign_key_check"))
    ]
    return [Discrepancy(sweep_id=None, job_id=None, what=what) for what in (*damage, *orphans)]
