"""A database opened to be looked at: pages of sweeps, jobs and samples, counted and cut in SQL.

Nothing here reads more than a page shows, so that a sweep of 10,000 configurations or a million samples costs
little. Only `record` reads a whole sweep, for its report.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Generic, Self, TypeVar

from sqlalchemy import ColumnElement, Engine, Select, String, cast, func, or_, select
from sqlalchemy.orm import Session

from dyna_eval.errors import UnknownSweepError
from dyna_eval.imported import ImportedSweep
from dyna_eval.jobs import JobState, Method, Params, Sample, Scalar, SweepRecord
from dyna_eval.time_left import TimeLeft
from dyna_eval_db import imports, sweeps
from dyna_eval_db.columns import database_clock
from dyna_eval_db.engine import bare_engine, check_file, parse_address, reported, shown, watching_engine
from dyna_eval_db.migrate import require_schema
from dyna_eval_db.models import (
    SCHEMA_VERSION,
    AttemptRow,
    EnvironmentRow,
    EventRow,
    JobRow,
    LeaseRow,
    PromptRow,
    ResultRow,
    SampleRow,
    SweepRow,
)
from dyna_eval_db.remaining import read_time_left
from dyna_eval_db.results import read_samples
from dyna_eval_db.store import attempt_value
from dyna_eval_db.values import Attempt, SweepState, error_text

_Item = TypeVar("_Item")
_ACTORS_SHOWN = 200
_AT_ONCE = 5_000  # numbers in one statement: SQLite takes 32,766


@dataclass(frozen=True, slots=True, kw_only=True)
class Page(Generic[_Item]):
    """Some of `total` items; `number` counts pages from 1."""

    items: tuple[_Item, ...]
    total: int
    number: int
    size: int

    @property
    def last(self) -> int:
        return max(1, -(-self.total // self.size))


@dataclass(frozen=True, slots=True, kw_only=True)
class SweepOutline:
    """What can be said of a sweep without reading what it measured."""

    id: int
    name: str
    pairs: tuple[str, ...]
    state: SweepState
    jobs: Mapping[JobState, int]
    created_at: str
    time_left: TimeLeft | None
    """None where no controller is at work, and where nothing is known of a pair yet."""
    may_grow: bool
    """Whether repeats are added until the speedups are known well enough, beyond the jobs of now."""

    @property
    def total(self) -> int:
        return sum(self.jobs.values())


@dataclass(frozen=True, slots=True, kw_only=True)
class JobLine:
    id: int
    label: str
    pair: str
    method: Method
    repeat: int
    state: JobState
    tries: int
    error: str | None
    actor: str | None
    wall_seconds: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class JobDetail:
    """One job with what its landed attempt brought; the latter is None unless it is done."""

    line: JobLine
    sweep_id: int
    sweep: str
    params: Params
    generation: Mapping[str, Scalar]
    measure: Mapping[str, Scalar]
    key: str
    prompt_set: str
    attempts: tuple[Attempt, ...]
    environment: str | None
    facts: Mapping[str, Scalar]
    conditions: Mapping[str, Scalar]
    peak_memory_bytes: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class SampleLine:
    prompt_index: int
    prompt_tokens: int
    tokens: int
    rounds: int
    decode_seconds: float
    accepted_tokens: int
    exactness: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class SampleDetail:
    """A sample with all its rounds and the prompt that it continues."""

    sample: Sample
    prompt: str | None
    category: str | None
    samples: int
    """How many samples the job has."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ActorAtWork:
    """An actor and the job that it runs."""

    actor: str
    node: str | None
    facts: Mapping[str, Scalar]
    """Of its environment, from the latest job that it, else another actor of its node, landed."""
    heard_seconds: float | None
    """Since it last answered its controller, or landed a job; None where it has not yet done so."""
    sweep_id: int
    sweep: str
    pair: str
    job_id: int
    label: str
    running_seconds: float
    lease_seconds: float | None
    """Until the job may be taken back, unless the controller renews its claim."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ActorKnown:
    """An actor that has landed jobs."""

    actor: str
    node: str
    jobs: int
    last_landed_at: str
    facts: Mapping[str, Scalar]


@dataclass(frozen=True, slots=True, kw_only=True)
class ControllerLease:
    sweep_id: int
    sweep: str
    holder: str
    held_seconds: float
    left_seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Cluster:
    database: str
    schema: str
    at_work: tuple[ActorAtWork, ...]
    leases: tuple[ControllerLease, ...]
    known: tuple[ActorKnown, ...]


class WatchedStore:
    """An open database that cannot be written to. Methods may be called from several threads.

    Where the database refuses they raise DatabaseError; unknown sweeps and jobs are UnknownSweepError.
    """

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    @classmethod
    def open(cls, url: str) -> Self:
        """Open an existing database; raises DatabaseError where it has not this version's schema."""
        address = parse_address(url)
        check_file(address, create=False)
        with reported(address):
            require_schema(bare_engine(address), create=False)
            engine = watching_engine(address)
            engine.connect().close()
        return cls(engine)

    def close(self) -> None:
        self._engine.dispose()

    @property
    def address(self) -> str:
        """The database's address without its password."""
        return shown(self._engine.url)

    @contextmanager
    def _read(self) -> Iterator[Session]:
        with reported(self._engine.url), Session(self._engine) as session:
            yield session

    # ------------------------------------------------------------------ sweeps

    def sweeps(self, *, search: str = "", number: int = 1, size: int = 50) -> Page[SweepOutline]:
        """Return a page of the sweeps whose name or number holds some text, the latest first."""
        found: ColumnElement[bool] = SweepRow.name.icontains(search, autoescape=True)
        if search.isdecimal():
            found = or_(found, cast(SweepRow.id, String) == search)
        rows = select(*_OUTLINE).where(found)
        with self._read() as session:
            total = session.scalar(select(func.count()).select_from(SweepRow).where(found)) or 0
            page = _cut(rows.order_by(SweepRow.id.desc()), number, size)
            items = tuple(_outline(session, row) for row in session.execute(page))
        return Page(items=items, total=total, number=number, size=size)

    def names(self, *, most: int = 500) -> list[tuple[int, str]]:
        """Return the numbers and names of the latest sweeps, the latest first."""
        latest = select(SweepRow.id, SweepRow.name).order_by(SweepRow.id.desc()).limit(most)
        with self._read() as session:
            return [(sweep_id, name) for sweep_id, name in session.execute(latest)]

    def outline(self, sweep_id: int) -> SweepOutline:
        """Return one sweep's line of the list."""
        with self._read() as session:
            row = session.execute(select(*_OUTLINE).where(SweepRow.id == sweep_id)).one_or_none()
            if row is None:
                raise UnknownSweepError(f"no sweep {sweep_id} in this database")
            return _outline(session, row)

    def pulse(self, sweep_id: int) -> str:
        """Return a text that changes when anything happens to a sweep."""
        with self._read() as session:
            latest = session.scalar(select(func.max(EventRow.id)).where(EventRow.sweep_id == sweep_id))
            return f"{latest or 0}-{sweeps.read_state(session, sweep_id)}"

    def latest_event(self) -> int:
        """Return the number of the latest event of all sweeps, 0 where there is none."""
        with self._read() as session:
            return session.scalar(select(func.max(EventRow.id))) or 0

    def record(self, sweep_id: int) -> SweepRecord:
        """Return a sweep and all its measurements."""
        with self._read() as session:
            return sweeps.read_record(session, sweep_id)

    def imported(self, sweep_id: int) -> ImportedSweep | None:
        """Return an imported sweep; None for one that jobs measure."""
        with self._read() as session:
            return imports.read_import(session, sweeps.require_sweep(session, sweep_id))

    def imports(self) -> list[ImportedSweep]:
        """Return all imported sweeps without their samples."""
        with self._read() as session:
            return imports.read_imports(session)

    def job_states(self, job_ids: Sequence[int]) -> dict[int, JobState]:
        """Return the states of some jobs."""
        found: dict[int, JobState] = {}
        with self._read() as session:
            for start in range(0, len(job_ids), _AT_ONCE):
                some = JobRow.id.in_(job_ids[start : start + _AT_ONCE])
                found |= {
                    job: JobState(state)
                    for job, state in session.execute(select(JobRow.id, JobRow.state).where(some))
                }
        return found

    # -------------------------------------------------------------------- jobs

    def jobs(
        self,
        sweep_id: int,
        *,
        state: JobState | None = None,
        search: str = "",
        number: int = 1,
        size: int = 100,
    ) -> Page[JobLine]:
        """Return a page of a sweep's jobs in their order, of one state and with some text in their label."""
        conditions = [JobRow.sweep_id == sweep_id]
        if state is not None:
            conditions.append(JobRow.state == state)
        if search:
            conditions.append(JobRow.label.icontains(search, autoescape=True))
        with self._read() as session:
            total = session.scalar(select(func.count()).select_from(JobRow).where(*conditions)) or 0
            order = (JobRow.position, JobRow.id)
            shown = _cut(select(JobRow.id).where(*conditions).order_by(*order), number, size)
            rows = _job_lines().where(JobRow.id.in_(shown)).order_by(*order)  # an index alone finds them
            items = tuple(_job_line(row) for row in session.execute(rows))
        return Page(items=items, total=total, number=number, size=size)

    def job(self, job_id: int) -> JobDetail:
        """Return all about a job but its samples."""
        with self._read() as session:
            row = session.execute(_job_lines().where(JobRow.id == job_id)).one_or_none()
            if row is None:
                raise UnknownSweepError(f"no job {job_id} in this database")
            job = session.get_one(JobRow, job_id)
            result = session.get(ResultRow, job_id)
            environment = session.get(EnvironmentRow, result.environment) if result else None
            name = session.scalars(select(SweepRow.name).where(SweepRow.id == job.sweep_id)).one()
            attempts = session.scalars(
                select(AttemptRow).where(AttemptRow.job_id == job_id).order_by(AttemptRow.epoch)
            )
            return JobDetail(
                line=_job_line(row),
                sweep_id=job.sweep_id,
                sweep=name,
                params=job.params,
                generation=job.generation,
                measure=job.measure,
                key=job.key,
                prompt_set=job.prompt_set,
                attempts=tuple(attempt_value(attempt) for attempt in attempts),
                environment=result.environment if result else None,
                facts=environment.facts if environment else {},
                conditions=(result.conditions or {}) if result else {},
                peak_memory_bytes=result.peak_memory_bytes if result else None,
            )

    def samples(self, job_id: int, *, number: int = 1, size: int = 50) -> Page[SampleLine]:
        """Return a page of a job's samples without their text, in the order of the prompts."""
        rows = select(
            SampleRow.prompt_index,
            SampleRow.prompt_tokens,
            SampleRow.tokens,
            SampleRow.rounds,
            SampleRow.decode_seconds,
            SampleRow.accepted_tokens,
            SampleRow.exactness,
        ).where(SampleRow.job_id == job_id)
        of_job = select(func.count()).select_from(SampleRow).where(SampleRow.job_id == job_id)
        with self._read() as session:
            total = session.scalar(of_job) or 0
            page = session.execute(_cut(rows.order_by(SampleRow.prompt_index), number, size))
            items = tuple(SampleLine(**row._mapping) for row in page)
        return Page(items=items, total=total, number=number, size=size)

    def sample(self, job_id: int, prompt_index: int) -> SampleDetail:
        """Return one sample with its rounds; raises UnknownSweepError where there is none."""
        with self._read() as session:
            found = read_samples(session, job_id, SampleRow.prompt_index == prompt_index)
            if not found:
                raise UnknownSweepError(f"job {job_id} has no sample of prompt {prompt_index}")
            job = session.get_one(JobRow, job_id)
            prompt = session.get(PromptRow, (job.prompt_set, prompt_index))
            of_job = select(func.count()).select_from(SampleRow).where(SampleRow.job_id == job_id)
            return SampleDetail(
                sample=found[0],
                prompt=prompt.text if prompt else None,
                category=prompt.category if prompt else None,
                samples=session.scalar(of_job) or 0,
            )

    # ----------------------------------------------------------------- cluster

    def cluster(self) -> Cluster:
        """Return who works on what, by what the database knows."""
        with self._read() as session:
            now = session.scalars(select(database_clock())).one()
            known = _known_actors(session)
            return Cluster(
                database=self.address,
                schema=SCHEMA_VERSION,
                at_work=_at_work(session, now, known),
                leases=_leases(session, now),
                known=known,
            )


def _cut(rows: Select[*tuple[Any, ...]], number: int, size: int) -> Select[*tuple[Any, ...]]:
    return rows.limit(size).offset((number - 1) * size)


_OUTLINE = (
    SweepRow.id,
    SweepRow.name,
    SweepRow.pairs,
    SweepRow.created_at,
    SweepRow.spec["measure"]["max_repeats"].as_integer().label("max_repeats"),
)


def _outline(session: Session, row: Any) -> SweepOutline:
    """Make a line of the list from a row of `_OUTLINE`."""
    sweep_id = row.id
    counts = sweeps.count_jobs(session, sweep_id)
    state = sweeps.read_state(session, sweep_id, counts)
    return SweepOutline(
        id=sweep_id,
        name=row.name,
        pairs=tuple(pair["spec"]["name"] for pair in row.pairs),
        state=state,
        jobs=counts,
        created_at=row.created_at.isoformat(timespec="seconds"),
        time_left=read_time_left(session, sweep_id) if state is SweepState.RUNNING else None,
        may_grow=row.max_repeats is not None,
    )


def _job_lines() -> Select[*tuple[Any, ...]]:
    return select(
        JobRow.id,
        JobRow.label,
        JobRow.pair,
        JobRow.method,
        JobRow.repeat,
        JobRow.state,
        JobRow.tries,
        JobRow.error_class,
        JobRow.error,
        ResultRow.actor,
        ResultRow.wall_seconds,
    ).outerjoin(ResultRow, ResultRow.job_id == JobRow.id)


def _job_line(row: Any) -> JobLine:
    return JobLine(
        id=row.id,
        label=row.label,
        pair=row.pair,
        method=Method(row.method),
        repeat=row.repeat,
        state=JobState(row.state),
        tries=row.tries,
        error=error_text(row.error_class, row.error),
        actor=row.actor,
        wall_seconds=row.wall_seconds,
    )


def _at_work(session: Session, now: Any, known: Sequence[ActorKnown]) -> tuple[ActorAtWork, ...]:
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
        .order_by(AttemptRow.actor)
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


def _leases(session: Session, now: Any) -> tuple[ControllerLease, ...]:
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
        select(ResultRow.actor, ResultRow.node, ResultRow.environment, func.count().label("jobs"), latest)
        .group_by(ResultRow.actor, ResultRow.node, ResultRow.environment)
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
