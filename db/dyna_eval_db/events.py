"""The event log: what happened to sweeps and their jobs, in order. Rows are only ever added."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass

from sqlalchemy import insert, select
from sqlalchemy.orm import Session

from dyna_eval.jobs import Scalar
from dyna_eval_db.models import EventRow, SweepRow
from dyna_eval_db.results import insert_environment
from dyna_eval_db.values import Claim, Event, EventKind, Whereabouts


@dataclass(frozen=True, slots=True, kw_only=True)
class NewEvent:
    """An event that is to be added; its id and its time are the database's."""

    sweep_id: int
    kind: EventKind
    job_id: int | None = None
    detail: Mapping[str, Scalar]


def log(session: Session, sweep_id: int, kind: EventKind, **detail: Scalar) -> None:
    """Add an event of a sweep."""
    log_all(session, [NewEvent(sweep_id=sweep_id, kind=kind, detail=detail)])


def log_claim(session: Session, claim: Claim, kind: EventKind, **detail: Scalar) -> None:
    """Add an event of a claimed job."""
    log_all(session, [claim_event(claim, kind, **detail)])


def claim_event(claim: Claim, kind: EventKind, **detail: Scalar) -> NewEvent:
    """Return an event of a claimed job, which tells the claim's epoch."""
    return NewEvent(
        sweep_id=claim.sweep_id, kind=kind, job_id=claim.job_id, detail={"epoch": claim.epoch, **detail}
    )


def log_all(session: Session, events: Iterable[NewEvent]) -> None:
    """Add several events at once.

    Transactions that add events of one sweep take turns from here to their ends. So events are seen in the
    order of their ids, and who goes on after the latest one misses none.
    """
    rows = [asdict(event) for event in events]
    if rows:
        sweeps = select(SweepRow.id).where(SweepRow.id.in_({row["sweep_id"] for row in rows}))
        session.connection().execute(sweeps.order_by(SweepRow.id).with_for_update(key_share=True))
        session.connection().execute(insert(EventRow), rows)


def whereabouts_detail(session: Session, where: Whereabouts) -> dict[str, Scalar]:
    """Return what an event tells of where an attempt ran, and store the environment that it names."""
    detail: dict[str, Scalar] = {} if where.host is None else {"host": where.host}
    if where.environment is not None:
        insert_environment(session, where.environment)
        detail["environment"] = where.environment.digest
    return detail


def read_failure_details(session: Session, sweep_id: int, job_id: int) -> dict[int, Mapping[str, Scalar]]:
    """Read what was told of a job's failed attempts, by their epochs, out of all events of its sweep."""
    ended = EventRow.kind.in_([EventKind.FAILED, EventKind.PUT_BACK])
    details = select(EventRow.detail).where(EventRow.sweep_id == sweep_id, EventRow.job_id == job_id, ended)
    return {detail["epoch"]: detail for detail in session.scalars(details)}


def read_events(session: Session, sweep_id: int, *, after: int) -> list[Event]:
    """Read a sweep's events in order, those after the one of a given id."""
    later = select(EventRow).where(EventRow.sweep_id == sweep_id, EventRow.id > after)
    return [
        Event(
            id=row.id,
            at=row.at.isoformat(timespec="milliseconds"),
            kind=row.kind,
            job_id=row.job_id,
            detail=row.detail,
        )
        for row in session.scalars(later.order_by(EventRow.id))
    ]
