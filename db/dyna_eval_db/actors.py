"""Who works on what, by what the database knows: actors and controllers at work, actors that landed jobs."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from datetime import datetime

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from dyna_eval.jobs import JobState
from dyna_eval_db.columns import database_clock
from dyna_eval_db.models import (
    SCHEMA_VERSION,
    AttemptRow,
    EnvironmentRow,
    JobRow,
    LeaseRow,
    ResultRow,
    SweepRow,
)
from dyna_eval_db.watched import ActorAtWork, ActorKnown, Cluster, ControllerLease

_ACTORS_SHOWN = 200


def read_cluster(session: Session, database: str) -> Cluster:
    """Read who works on what; `database` is the address that is shown with it."""
    now: datetime = session.scalars(select(database_clock())).one()
    known = _known_actors(session)
    running = select(func.count()).select_from(_RUNNING)
    landed = select(func.count()).select_from(_LANDED.subquery())
    return Cluster(
        database=database,
        schema=SCHEMA_VERSION,
        at_work=_at_work(session, now, known),
        at_work_total=session.scalar(running) or 0,
        leases=_leases(session, now),
        known=known,
        known_total=session.scalar(landed) or 0,
    )


_RUNNING = (
    select(AttemptRow.id)
    .join(JobRow, (JobRow.id == AttemptRow.job_id) & (JobRow.epoch == AttemptRow.epoch))
    .where(JobRow.state == JobState.RUNNING)
    .subquery()
)
_BY_ACTOR = (ResultRow.actor, ResultRow.node, ResultRow.environment)
_LANDED = select(*_BY_ACTOR).group_by(*_BY_ACTOR)


def _at_work(session: Session, now: datetime, known: Sequence[ActorKnown]) -> tuple[ActorAtWork, ...]:
    """Read who runs a job, the longest silent first."""
    running = (
        select(
            AttemptRow.actor,
            AttemptRow.node,
            AttemptRow.started_at,
            AttemptRow.heard_at,
            JobRow.id,
            JobRow.label,
            JobRow.pair,
            JobRow.lease_expires_at,
            SweepRow.id.label("sweep_id"),
            SweepRow.name,
        )
        .join(JobRow, (JobRow.id == AttemptRow.job_id) & (JobRow.epoch == AttemptRow.epoch))
        .join(SweepRow, SweepRow.id == JobRow.sweep_id)
        .where(JobRow.state == JobState.RUNNING)
        .order_by(func.coalesce(AttemptRow.heard_at, AttemptRow.started_at), AttemptRow.actor)
        .limit(_ACTORS_SHOWN)
    )
    rows = session.execute(running).all()
    landed = _last_landed(session, {row.actor for row in rows})
    of_node = {actor.node: actor.facts for actor in reversed(known)}
    of_actor = {actor.actor: actor.facts for actor in known}
    return tuple(
        ActorAtWork(
            actor=row.actor,
            node=row.node,
            facts=of_actor.get(row.actor, of_node.get(row.node or "", {})),
            heard_seconds=_age(now, row.heard_at, landed.get(row.actor)),
            sweep_id=row.sweep_id,
            sweep=row.name,
            pair=row.pair,
            job_id=row.id,
            label=row.label,
            running_seconds=(now - row.started_at).total_seconds(),
            lease_seconds=row.lease_expires_at and (row.lease_expires_at - now).total_seconds(),
        )
        for row in rows
    )


def _last_landed(session: Session, actors: Collection[str]) -> dict[str, datetime]:
    latest = select(ResultRow.actor, func.max(ResultRow.landed_at)).where(ResultRow.actor.in_(actors))
    return {actor: at for actor, at in session.execute(latest.group_by(ResultRow.actor)) if at is not None}


def _age(now: datetime, *moments: datetime | None) -> float | None:
    """Return the seconds since the latest of some moments."""
    known = [moment for moment in moments if moment is not None]
    return (now - max(known)).total_seconds() if known else None


def _leases(session: Session, now: datetime) -> tuple[ControllerLease, ...]:
    rows = session.execute(
        select(LeaseRow, SweepRow.name)
        .join(SweepRow, SweepRow.id == LeaseRow.sweep_id)
        .order_by(LeaseRow.sweep_id)
    )
    return tuple(
        ControllerLease(
            sweep_id=lease.sweep_id,
            sweep=name,
            holder=lease.holder,
            held_seconds=(now - lease.acquired_at).total_seconds(),
            left_seconds=(lease.expires_at - now).total_seconds(),
        )
        for lease, name in rows
    )


def _known_actors(session: Session) -> tuple[ActorKnown, ...]:
    latest = func.max(ResultRow.landed_at).label("latest")
    grouped = (
        select(*_BY_ACTOR, func.count().label("jobs"), latest)
        .group_by(*_BY_ACTOR)
        .order_by(latest.desc(), ResultRow.actor)
        .limit(_ACTORS_SHOWN)
    )
    rows = session.execute(grouped).all()
    used = select(EnvironmentRow).where(EnvironmentRow.digest.in_({row.environment for row in rows}))
    facts = {row.digest: row.facts for row in session.scalars(used)}
    return tuple(
        ActorKnown(
            actor=row.actor,
            node=row.node,
            jobs=row.jobs,
            last_landed_at=row.latest.isoformat(timespec="seconds"),
            facts=facts[row.environment],
        )
        for row in rows
    )
