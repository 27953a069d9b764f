"""A database opened to be looked at: pages of sweeps, jobs and samples, counted and cut in SQL.

Nothing here reads more than a page shows, so that a sweep of 10,000 configurations or a million samples costs
little. Only `record` reads a whole sweep, for its report.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Self

from sqlalchemy import ColumnElement, Engine, Select, String, cast, func, or_, select
from sqlalchemy.orm import Session

from dyna_eval.errors import DatabaseAwayError, DatabaseError, UnknownSweepError
from dyna_eval.jobs import JobState, Method, SweepState
from dyna_eval.records import SweepRecord
from dyna_eval.reports.imported import ImportedSweep
from dyna_eval_db import imports, sweeps
from dyna_eval_db.actors import read_cluster
from dyna_eval_db.address import parse_address, shown
from dyna_eval_db.claims import read_attempts
from dyna_eval_db.engine import bare_engine, watching_engine
from dyna_eval_db.migrate import require_schema
from dyna_eval_db.models import (
    EnvironmentRow,
    EventRow,
    JobRow,
    PromptRow,
    ResultRow,
    SampleRow,
    SweepRow,
)
from dyna_eval_db.refusals import reported
from dyna_eval_db.remaining import read_time_left
from dyna_eval_db.results import read_samples
from dyna_eval_db.sqlite_file import check_file
from dyna_eval_db.values import error_text
from dyna_eval_db.watched import (
    Cluster,
    CommonPulse,
    JobDetail,
    JobLine,
    Page,
    Pulse,
    SampleDetail,
    SampleLine,
    SweepOutline,
)

_AT_ONCE = 5_000  # numbers in one statement: SQLite takes 32,766
_LARGEST_INDEX = 2**31 - 1  # of prompts; Postgres refuses to look for a larger one


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
        try:
            with reported(self._engine.url), Session(self._engine) as session:
                yield session
        except DatabaseError as error:
            self._require_same(error)
            raise

    def _require_same(self, error: DatabaseError) -> None:
        """Raise what says it better where the database has gone, or become another one, since."""
        check_file(self._engine.url, create=False)
        if not isinstance(error, DatabaseAwayError):
            with reported(self._engine.url):
                require_schema(self._engine, create=False)

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

    def names(self, *, most: int | None = 500) -> list[tuple[int, str]]:
        """Return the ids and names of the latest sweeps, the latest first; of all where `most` is None."""
        latest = select(SweepRow.id, SweepRow.name).order_by(SweepRow.id.desc()).limit(most)
        with self._read() as session:
            return [(sweep_id, name) for sweep_id, name in session.execute(latest)]

    def outline(self, sweep_id: int) -> SweepOutline:
        """Return one sweep's line of the list."""
        with self._read() as session:
            sweeps.require_sweep(session, sweep_id)
            return _outline(session, session.execute(select(*_OUTLINE).where(SweepRow.id == sweep_id)).one())

    def pulse(self, sweep_id: int) -> Pulse:
        """Return what changes when anything happens to a sweep, or another one takes its number."""
        with self._read() as session:
            added = sweeps.require_sweep(session, sweep_id).created_at
            latest = session.scalar(select(func.max(EventRow.id)).where(EventRow.sweep_id == sweep_id))
            state = sweeps.read_state(session, sweep_id)
            return Pulse(text=f"{added.timestamp():.3f}-{latest or 0}-{state}", state=state)

    def pulse_of_all(self) -> CommonPulse:
        """Return what changes when anything happens to any sweep, or a controller is found to work no more.

        The latest event's number would not do: sweeps do not take turns, so one may come in below it. Nor
        would events alone: a lease that runs out, or whose holder was killed, makes none.
        """
        latest = select(func.max(EventRow.id)).where(EventRow.sweep_id == SweepRow.id).scalar_subquery()
        claim = select(JobRow.id).where(JobRow.sweep_id == SweepRow.id, JobRow.state == JobState.RUNNING)
        with self._read() as session:
            events = session.scalar(select(func.sum(latest)).select_from(SweepRow)) or 0
            leases = sweeps.count_leases(session)
            claimed = session.scalar(select(SweepRow.id).where(claim.exists()).limit(1))
        working = ".".join(map(str, leases.working))
        return CommonPulse(
            text=f"{events}-{working}",
            working=bool(leases.working),
            held=leases.total > 0 or claimed is not None,
        )

    def sweep_of(self, job_id: int) -> int:
        """Return the number of a job's sweep."""
        with self._read() as session:
            return sweeps.require_job(session, job_id).sweep_id

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
            cut = _cut(select(JobRow.id).where(*conditions).order_by(*order), number, size)
            rows = _job_lines().where(JobRow.id.in_(cut)).order_by(*order)  # an index alone finds them
            items = tuple(_job_line(row) for row in session.execute(rows))
        return Page(items=items, total=total, number=number, size=size)

    def job(self, job_id: int) -> JobDetail:
        """Return all about a job but its samples."""
        with self._read() as session:
            job = sweeps.require_job(session, job_id)
            line = session.execute(_job_lines().where(JobRow.id == job_id)).one()
            result = session.get(ResultRow, job_id)
            environment = session.get(EnvironmentRow, result.environment) if result else None
            name = session.scalars(select(SweepRow.name).where(SweepRow.id == job.sweep_id)).one()
            return JobDetail(
                line=_job_line(line),
                sweep_id=job.sweep_id,
                sweep=name,
                params=job.params,
                generation=job.generation,
                measure=job.measure,
                pair=sweeps.read_pair(session, job),
                key=job.key,
                prompt_set=job.prompt_set,
                attempts=read_attempts(session, job),
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
            of_prompt = SampleRow.prompt_index == prompt_index
            found = read_samples(session, job_id, of_prompt) if prompt_index <= _LARGEST_INDEX else ()
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
            return read_cluster(session, self.address)


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
        pairs=tuple(sweeps.read_pairs(row)),
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
