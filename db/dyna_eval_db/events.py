"""The event log: what happened to sweeps and their jobs, in order. Rows are only ever added."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from sqlalchemy import insert, select
from sqlalchemy.orm import Session

from dyna_eval.jobs import Scalar
from dyna_eval_db.models import EventRow
from dyna_eval_db.values import Claim, Event


def log(session: Session, sweep_id: int, kind: str, job_id: int | None = None, **detail: Scalar) -> None:
    """Add an event of a sweep, or of one of its jobs."""
    log_all(session, [(sweep_id, kind, job_id, detail)])


def log_claim(session: Session, claim: Claim, kind: str, **detail: Scalar) -> None:
    """Add an event of a claimed job."""
    log(session, claim.sweep_id, kind, claim.job_id, epoch=claim.epoch, **detail)


def log_all(session: Session, events: Sequence[tuple[int, str, int | None, dict[str, Scalar]]]) -> None:
    """Add several events at once: of each its sweep, its kind, its job and its detail."""
    rows: list[dict[str, Any]] = [
        {"sweep_id": sweep_id, "job_id": job_id, "kind": kind, "detail": detail}
        for sweep_id, kind, job_id, detail in events
    ]
    if rows:
        session.connection().execute(insert(EventRow), rows)


def read_events(session: Session, sweep_id: int, *, after: int) -> list[Event]:
    """Read a sweep's events in order, those after the one of a given number."""
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
