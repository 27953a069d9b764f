"""Claims of jobs and how they end, many at a time: what a job costs beside its decoding is mostly here.

Statements are those of SQLAlchemy's core, and one of them serves all jobs of a call where it can. A claim may
change its job while the job is running in the claim's epoch, and not after.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from sqlalchemy import insert, select, tuple_, update
from sqlalchemy.orm import Session

from dyna_eval.jobs import JobState, Scalar
from dyna_eval.measurements import JobResult
from dyna_eval_db.columns import database_clock, execute_counted
from dyna_eval_db.events import NewEvent, claim_event, log_all, log_claim, read_failure_details
from dyna_eval_db.models import AttemptRow, EnvironmentRow, JobRow, ResultRow
from dyna_eval_db.results import insert_results
from dyna_eval_db.sweeps import read_sweep_jobs
from dyna_eval_db.values import Attempt, Claim, Claimant, EventKind, Landing, Outcome


def claim_jobs(
    session: Session, sweep_id: int, pair: str, claimants: Sequence[Claimant], *, lease_seconds: float
) -> list[Claim]:
    """Claim the next queued jobs of a pair, one for each claimant in their order as long as there are any."""
    queued = (
        select(*JobRow.__table__.columns)
        .where(JobRow.sweep_id == sweep_id, JobRow.state == JobState.QUEUED, JobRow.pair == pair)
        .order_by(JobRow.position)  # as the index is: any further column may make Postgres sort all jobs
        .limit(len(claimants))
        .with_for_update(skip_locked=True)
    )
    rows = session.execute(queued).all()
    if not rows:
        return []
    running = {
        "epoch": JobRow.epoch + 1,
        "state": JobState.RUNNING,
        "lease_expires_at": database_clock(lease_seconds),
    }
    ids = [row.id for row in rows]
    session.connection().execute(update(JobRow).where(JobRow.id.in_(ids)).values(running))
    attempts = [
        {"job_id": row.id, "epoch": row.epoch + 1, "actor": claimant.actor, "node": claimant.node}
        for row, claimant in zip(rows, claimants, strict=False)
    ]
    adding = insert(AttemptRow).returning(AttemptRow.id, sort_by_parameter_order=True)
    attempt_ids = session.connection().execute(adding, attempts).scalars().all()
    log_all(
        session,
        [
            NewEvent(
                sweep_id=sweep_id,
                kind=EventKind.CLAIMED,
                job_id=attempt["job_id"],
                detail={"actor": attempt["actor"], "epoch": attempt["epoch"]},
            )
            for attempt in attempts
        ],
    )
    return [
        Claim(
            sweep_id=sweep_id,
            job_id=row.id,
            epoch=row.epoch + 1,
            attempt_id=attempt_id,
            tries=row.tries,
            job=job,
        )
        for row, attempt_id, job in zip(
            rows, attempt_ids, read_sweep_jobs(session, sweep_id, rows), strict=True
        )
    ]


def land_results(session: Session, finished: Sequence[tuple[Claim, JobResult]]) -> list[Landing]:
    """Store the results whose claims are still valid, and return what became of each."""
    released = _release_all(session, [claim for claim, _ in finished])
    landed = [(claim, result) for claim, result in finished if (claim.job_id, claim.epoch) in released]
    landings = [
        Landing.LANDED if (claim.job_id, claim.epoch) in released else _late(session, claim)
        for claim, _ in finished
    ]
    if not landed:
        return landings
    insert_results(session, landed)
    attempts = update(AttemptRow).where(AttemptRow.id.in_([claim.attempt_id for claim, _ in landed]))
    session.connection().execute(attempts.values(ended_at=database_clock(), outcome=Outcome.LANDED))
    log_all(
        session,
        [claim_event(claim, EventKind.LANDED, wall_seconds=result.wall_seconds) for claim, result in landed],
    )
    return landings


def _late(session: Session, claim: Claim) -> Landing:
    """Say what a result is whose claim has ended: this very one, whose answer was lost, or too late."""
    landed = session.scalar(select(ResultRow.attempt_id).where(ResultRow.job_id == claim.job_id))
    if landed == claim.attempt_id:
        return Landing.ALREADY_LANDED
    log_claim(session, claim, EventKind.FENCED, late="result")
    return Landing.FENCED


def holds(claim: Claim) -> tuple[Any, ...]:
    """Return the conditions under which a claim may change its job."""
    return (
        JobRow.id == claim.job_id,
        JobRow.state == JobState.RUNNING,
        JobRow.epoch == claim.epoch,
    )


def release(session: Session, claim: Claim, state: JobState, **values: Any) -> bool:
    """Move a claimed job on to its next state; False where the claim is no longer valid."""
    statement = update(JobRow).where(*holds(claim)).values(state=state, lease_expires_at=None, **values)
    return execute_counted(session, statement) > 0


def _release_all(session: Session, claims: Sequence[Claim]) -> set[tuple[int, int]]:
    """Mark the jobs of valid claims as done, and return the job and epoch of each."""
    numbered = JobRow.id.in_([claim.job_id for claim in claims])  # for SQLite, which seeks no pairs
    held = tuple_(JobRow.id, JobRow.epoch).in_([(claim.job_id, claim.epoch) for claim in claims])
    done = {"state": JobState.DONE, "lease_expires_at": None, "error_class": None, "error": None}
    released = update(JobRow).where(numbered, held, JobRow.state == JobState.RUNNING).values(done)
    rows = session.connection().execute(released.returning(JobRow.id, JobRow.epoch))
    return {(job_id, epoch) for job_id, epoch in rows}


def take_back(session: Session, *conditions: Any) -> int:
    """Queue the running jobs of lost claims again; those that are just being landed are left alone."""
    running = select(JobRow.id, JobRow.sweep_id, JobRow.epoch).where(
        JobRow.state == JobState.RUNNING, *conditions
    )
    jobs = session.execute(running.order_by(JobRow.id).with_for_update(skip_locked=True)).all()
    for job in jobs:
        queued = update(JobRow).where(JobRow.id == job.id)
        session.connection().execute(queued.values(state=JobState.QUEUED, lease_expires_at=None))
        close(session, job.id, job.epoch, Outcome.LOST)
    log_all(
        session,
        [
            NewEvent(sweep_id=job.sweep_id, kind=EventKind.LOST, job_id=job.id, detail={"epoch": job.epoch})
            for job in jobs
        ],
    )
    return len(jobs)


def close(
    session: Session,
    job_id: int,
    epoch: int,
    outcome: Outcome,
    *,
    error_class: str | None = None,
    error: str | None = None,
) -> None:
    """Note how an attempt ended."""
    attempt = update(AttemptRow).where(AttemptRow.job_id == job_id, AttemptRow.epoch == epoch)
    session.execute(
        attempt.values(ended_at=database_clock(), outcome=outcome, error_class=error_class, error=error)
    )


def close_cancelled(session: Session, sweep_id: int) -> None:
    """Note of the attempts of cancelled jobs that were at work how they ended."""
    cancelled = select(JobRow.id).where(JobRow.sweep_id == sweep_id, JobRow.state == JobState.CANCELLED)
    attempts = update(AttemptRow).where(AttemptRow.job_id.in_(cancelled), AttemptRow.outcome.is_(None))
    session.connection().execute(attempts.values(ended_at=database_clock(), outcome=Outcome.CANCELLED))


def has_failed(session: Session, claim: Claim, error_class: str, error: str) -> bool:
    """Say whether a claim's attempt is stored as failed with just this error."""
    attempt = session.get_one(AttemptRow, claim.attempt_id)
    stored = (attempt.outcome, attempt.error_class, attempt.error)
    return stored == (Outcome.FAILED, error_class, error)


def read_failures(session: Session, job_id: int) -> list[str]:
    """Read the error classes of a job's failed attempts, the first one first."""
    failed = select(AttemptRow.error_class).where(
        AttemptRow.job_id == job_id, AttemptRow.outcome == Outcome.FAILED
    )
    return [name or "" for name in session.scalars(failed.order_by(AttemptRow.epoch))]


def read_attempts(session: Session, job: JobRow) -> tuple[Attempt, ...]:
    """Read every claim of a job, the first one first, and of those that failed where they ran."""
    found = select(AttemptRow).where(AttemptRow.job_id == job.id).order_by(AttemptRow.epoch)
    rows = session.scalars(found).all()
    failed = any(row.outcome in (Outcome.FAILED, Outcome.PUT_BACK) for row in rows)
    told = read_failure_details(session, job.sweep_id, job.id) if failed else {}
    named = {detail["environment"] for detail in told.values() if "environment" in detail}
    stored = select(EnvironmentRow).where(EnvironmentRow.digest.in_(named))
    facts = {row.digest: row.facts for row in session.scalars(stored)} if named else {}
    return tuple(_attempt(row, told.get(row.epoch, {}), facts) for row in rows)


def _attempt(
    row: AttemptRow, told: Mapping[str, Scalar], facts: Mapping[str, Mapping[str, Scalar]]
) -> Attempt:
    """Make an attempt of its row, what an event told of its failure, and the facts of environments."""
    host = told.get("host")
    return Attempt(
        id=row.id,
        epoch=row.epoch,
        actor=row.actor,
        node=row.node,
        started_at=row.started_at.isoformat(timespec="milliseconds"),
        ended_at=row.ended_at.isoformat(timespec="milliseconds") if row.ended_at else None,
        outcome=Outcome(row.outcome) if row.outcome else None,
        error_class=row.error_class,
        error=row.error,
        host=None if host is None else str(host),
        environment=facts.get(str(told.get("environment")), {}),
    )
