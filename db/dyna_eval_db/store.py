"""The store: the one truth about which jobs are to do, who does them, and what they measured.

A job is run at least once and lands exactly once. Each claim adds 1 to the job's epoch; a claim may change
its job only while the job is running in that epoch. Late work of an earlier epoch is fenced: it changes
nothing and leaves an event. The life of a job:

    queued -> running                        claim
    running -> done                          land
    running -> failed or queued              fail, final or not
    running -> queued                        put_back, recover
    queued, running -> cancelled             cancel
    queued -> failed                         fail_pair
    failed -> queued                         retry
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Self

from sqlalchemy import Engine, select, update
from sqlalchemy import delete as delete_rows
from sqlalchemy.orm import Session

from dyna_eval.errors import LeaseLostError, PairError
from dyna_eval.jobs import Job, JobState, Pair, PromptSet, ResolvedSweep, Scalar, SweepState
from dyna_eval.measurements import Calibration, JobResult, Round, Sample
from dyna_eval.records import (
    MeasuredRun,
    ResultOrigin,
    StoredCalibration,
    StoredJob,
    StoredSample,
    SweepRecord,
)
from dyna_eval.reports.imported import ImportedFile, ImportedSweep
from dyna_eval_db import imports, sweeps
from dyna_eval_db.address import parse_address
from dyna_eval_db.anonymous import NeutralNames, read_names
from dyna_eval_db.audit import audit
from dyna_eval_db.claims import (
    claim_jobs,
    close,
    close_cancelled,
    has_failed,
    holds,
    land_results,
    read_attempts,
    read_failures,
    release,
    take_back,
)
from dyna_eval_db.columns import database_clock, execute_counted, insert_missing
from dyna_eval_db.engine import bare_engine, reading, store_engine, writing
from dyna_eval_db.events import log, log_claim, read_events, whereabouts_detail
from dyna_eval_db.migrate import require_schema, require_usable
from dyna_eval_db.models import AttemptRow, JobRow, LeaseRow, SweepRow
from dyna_eval_db.raw import read_rounds, read_run_samples, read_runs
from dyna_eval_db.refusals import reported, retried
from dyna_eval_db.results import (
    read_calibrations,
    read_environments,
    read_facts,
    read_jobs,
    read_likely_calibrations,
    read_result_origins,
    read_samples,
    read_tree_sizes,
)
from dyna_eval_db.sqlite_file import check_file
from dyna_eval_db.transfer import copy_sweep, require_at_rest
from dyna_eval_db.values import (
    Attempt,
    Claim,
    Claimant,
    Discrepancy,
    Event,
    EventKind,
    JobError,
    Landing,
    Outcome,
    SweepSummary,
    Whereabouts,
)

__all__ = [
    "Attempt",
    "Claim",
    "Claimant",
    "Discrepancy",
    "Event",
    "JobError",
    "Landing",
    "Outcome",
    "Store",
    "SweepState",
    "SweepSummary",
    "Whereabouts",
]

_MAX_ERROR_CHARACTERS = 4000
_UNKNOWN = Whereabouts()


class Store:
    """An open database. Every method is one transaction; methods may be called from several threads.

    Where the database refuses (locked for too long, disk full, connection lost) they raise DatabaseError.
    """

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._reading = reading(engine)
        self._writing = writing(engine)

    @classmethod
    def open(cls, url: str, *, create: bool) -> Self:
        """Open `sqlite:///FILE` or `postgresql://USER@HOST/NAME`; `create` makes the schema in an empty one.

        Raises DatabaseError where it cannot be opened, holds something else, or has another version's
        schema: an existing one is never migrated here.
        """
        address = parse_address(url)
        check_file(address, create=create)
        with reported(address):
            require_schema(bare_engine(address), create=create)
            engine = store_engine(address)
            engine.connect().close()
        return cls(engine)

    @staticmethod
    def check(url: str) -> None:
        """Raise DatabaseError where `open(url, create=True)` would; nothing is created or changed."""
        address = parse_address(url)
        check_file(address, create=True)
        if address.get_backend_name() == "sqlite" and not Path(str(address.database)).exists():
            return
        with reported(address):
            require_usable(bare_engine(address))

    def close(self) -> None:
        self._engine.dispose()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @contextmanager
    def _read(self) -> Iterator[Session]:
        with reported(self._engine.url), Session(self._reading) as session:
            yield session

    @contextmanager
    def _write(self) -> Iterator[Session]:
        with reported(self._engine.url), Session(self._writing) as session, session.begin():
            yield session

    # ------------------------------------------------------------------ sweeps

    @retried
    def add_sweep(self, resolved: ResolvedSweep) -> int:
        """Store a sweep with its prompts and jobs; one with the same digest is found, not stored again.

        What its digest leaves out is then taken from this one: categories, and the limit of jobs not done.
        """
        with self._write() as session:
            sweep_id = sweeps.insert_sweep(session, resolved)
            if sweep_id is not None:
                log(session, sweep_id, EventKind.SUBMITTED, jobs=len(resolved.jobs))
                return sweep_id
            known = select(SweepRow.id).where(SweepRow.digest == resolved.digest)
            sweep_id = session.scalars(known).one()
            log(session, sweep_id, EventKind.SUBMITTED_AGAIN)
            return sweep_id

    @retried
    def add_jobs(self, sweep_id: int, jobs: Sequence[Job]) -> int:
        """Add jobs to a sweep and return the number of those that it did not have yet."""
        with self._write() as session:
            sweeps.require_sweep(session, sweep_id, alone=True)  # another command may add the same ones
            added = sweeps.insert_jobs(session, sweep_id, jobs)
            if added:
                log(session, sweep_id, EventKind.JOBS_ADDED, jobs=added)
            return added

    def find_sweep(self, name_or_id: str | None) -> int:
        """Return the sweep of that id, or the latest of that name; None is the latest of all.

        Raises UnknownSweepError, which names the nearest ones.
        """
        with self._read() as session:
            return sweeps.find_sweep(session, name_or_id)

    def sweep_of_digest(self, digest: str) -> int | None:
        """Return the sweep of a digest; None where there is none."""
        with self._read() as session:
            return session.scalar(select(SweepRow.id).where(SweepRow.digest == digest))

    def sweeps_of_files(self, source: Store, sweep_id: int) -> list[int]:
        """Return the sweeps here that hold files which were imported into a sweep of another store."""
        with source._read() as reading_session, self._read() as session:
            digests = imports.file_digests(reading_session, sweep_id)
            found = (imports.find_import(session, digest) for digest in digests)
            return sorted({number for number in found if number is not None})

    def latest_measured(self, name: str) -> int | None:
        """Return the latest sweep of a name that was measured here; None where there is none."""
        with self._read() as session:
            return sweeps.latest_measured(session, name)

    def jobs_to_run(self, sweep_id: int) -> tuple[Job, ...]:
        """Return the jobs of a sweep that are queued or running, in the order in which they are to run."""
        with self._read() as session:
            sweeps.require_sweep(session, sweep_id)
            return sweeps.read_open_jobs(session, sweep_id)

    def sweeps_by_digest(self) -> dict[str, int]:
        """Return the ids of all sweeps by their digests."""
        with self._read() as session:
            return dict(session.execute(select(SweepRow.digest, SweepRow.id)).all())

    def sweeps_of_pairs(self) -> dict[str, tuple[int, str]]:
        """Return the id and the name of the latest sweep of each pair, the latest pair first."""
        with self._read() as session:
            return sweeps.read_sweeps_of_pairs(session)

    def list_sweeps(self) -> list[SweepSummary]:
        """Return how every sweep stands, the latest first; what it counts takes a few queries per sweep."""
        with self._read() as session:
            return sweeps.read_summaries(session)

    def progress(self, sweep_id: int) -> dict[JobState, int]:
        """Return how many jobs are in each state."""
        with self._read() as session:
            sweeps.require_sweep(session, sweep_id)
            return sweeps.count_jobs(session, sweep_id)

    def summary(self, sweep_id: int) -> SweepSummary:
        """Return how a sweep stands, by its jobs alone: rows that were imported are not counted."""
        with self._read() as session:
            return sweeps.read_summary(session, sweeps.require_sweep(session, sweep_id))

    def sweep_state(self, sweep_id: int) -> SweepState:
        """Return where a sweep stands; `values.sweep_state` says how that is derived."""
        with self._read() as session:
            sweeps.require_sweep(session, sweep_id)
            return sweeps.read_state(session, sweep_id)

    def queued_pairs(self, sweep_id: int) -> list[str]:
        """Return the pairs that have queued jobs, that of the next job first."""
        with self._read() as session:
            return sweeps.queued_pairs(session, sweep_id)

    def resolved(self, sweep_id: int) -> ResolvedSweep:
        """Return a sweep as it was added."""
        with self._read() as session:
            return sweeps.read_resolved(session, sweep_id)

    def is_current(self, sweep_id: int) -> bool:
        """Return whether a sweep's jobs were made for these decoding loops; they all are by one version."""
        with self._read() as session:
            sweeps.require_sweep(session, sweep_id)
            return sweeps.is_current(session, sweep_id)

    def errors(self, sweep_id: int) -> list[JobError]:
        """Return what the latest attempt of each job failed of, in the order of the jobs."""
        with self._read() as session:
            sweeps.require_sweep(session, sweep_id)
            return sweeps.read_errors(session, sweep_id)

    def prompt_set(self, digest: str) -> PromptSet:
        """Return a stored prompt set."""
        with self._read() as session:
            return sweeps.read_prompts(session, digest)

    def record(self, sweep_id: int) -> SweepRecord:
        """Return a sweep and all its measurements as one moment of the database, rounds summed."""
        with self._read() as session:
            return sweeps.read_record(session, sweep_id)

    def environments(self, sweep_id: int) -> dict[str, Mapping[str, Scalar]]:
        """Return the facts of every environment that a sweep was measured in, by its digest."""
        with self._read() as session:
            return read_environments(session, sweep_id)

    def result_origins(self, sweep_id: int) -> tuple[ResultOrigin, ...]:
        """Return where the finished jobs of each pair were measured, the latest environment last."""
        with self._read() as session:
            return read_result_origins(session, sweep_id)

    def calibrations(self, pair: Pair) -> dict[str, Calibration]:
        """Return what a pair's passes were last found to cost, by the environment's digest, the latest first.

        A result's own calibration is that of its job, `StoredJob.calibration`.
        """
        with self._read() as session:
            return read_calibrations(session, pair)

    def likely_calibrations(self, resolved: ResolvedSweep) -> dict[str, StoredCalibration]:
        """Return what passes are likely to cost in a sweep, stored or not, by each pair ever calibrated.

        Of several environments that of the sweep's own latest result is taken, else the last calibrated.
        """
        with self._read() as session:
            sweep_id = session.scalar(select(SweepRow.id).where(SweepRow.digest == resolved.digest))
            return read_likely_calibrations(session, resolved.pairs, sweep_id)

    def audit(self, sweep_id: int | None = None) -> list[Discrepancy]:
        """Return every row of a sweep, or of all, that breaks a promise of the store; none if it is sound."""
        with self._read() as session:
            if sweep_id is not None:
                sweeps.require_sweep(session, sweep_id)
            return audit(session, sweep_id)

    # ---------------------------------------------------------------- imported files

    @retried
    def add_import(self, file: ImportedFile, name: str) -> tuple[int, bool]:
        """Store an imported file, all of it or nothing; return its sweep, and whether the file is new.

        A file whose bytes were imported before is found, under whatever name, and not stored again; it gets
        the pair that was named for it, if it has none yet.
        """
        source = file.source
        told: dict[str, Scalar] = {"file": source.file, "format": source.format, "sha256": source.sha256}
        if file.pair_named:
            told["pair"] = file.rows[0].pair
        with self._write() as session:
            known = imports.find_import(session, file.digest)
            sweep_id = imports.insert_import(session, file, name) if known is None else None
            if sweep_id is None:
                known = known or _found(imports.find_import(session, file.digest))
                if imports.name_pair(session, file):
                    log(session, known, EventKind.IMPORTED, **told)
                return known, False
            log(session, sweep_id, EventKind.IMPORTED, **told)
            return sweep_id, True

    def imported(self, sweep_id: int) -> ImportedSweep | None:
        """Return an imported sweep; None for one that jobs measure."""
        with self._read() as session:
            return imports.read_import(session, sweeps.require_sweep(session, sweep_id))

    def imports(self) -> list[ImportedSweep]:
        """Return all imported sweeps, the oldest first, without their samples."""
        with self._read() as session:
            return imports.read_imports(session)

    # -------------------------------------------------------- out of another database

    def require_at_rest(self, sweep_id: int) -> None:
        """Raise InputError while a controller that may be alive works on a sweep."""
        with self._read() as session:
            require_at_rest(session, sweep_id)

    def neutral_names(self, sweep_ids: Sequence[int]) -> NeutralNames:
        """Return what is to stand for machines and paths in copies of some sweeps."""
        with self._read() as session:
            return read_names(session, sweep_ids)

    @retried
    def copy_from(self, source: Store, sweep_id: int, *, names: NeutralNames | None = None) -> int:
        """Copy a sweep of another store with all that belongs to it, and return its number here.

        All of it as one moment of the other database, or nothing. Raises InputError where a controller works
        on it, or where it is here already.
        """
        with source._read() as reading_session, self._write() as session:
            return copy_sweep(reading_session, session, sweep_id, names)

    # ------------------------------------------------------ the controller's lease

    @retried
    def acquire_lease(self, sweep_id: int, holder: str, seconds: float) -> bool:
        """Become a sweep's controller unless another one's lease is alive, by the database's clock."""
        times = {"acquired_at": database_clock(), "expires_at": database_clock(seconds)}
        free = (LeaseRow.holder == holder) | (LeaseRow.expires_at <= database_clock())
        with self._write() as session:
            sweeps.require_sweep(session, sweep_id)
            take_over = update(LeaseRow).where(LeaseRow.sweep_id == sweep_id, free)
            acquired = execute_counted(session, take_over.values(holder=holder, **times)) > 0
            if not acquired:
                acquired = insert_missing(session, LeaseRow, sweep_id=sweep_id, holder=holder, **times)
            if acquired:
                log(session, sweep_id, EventKind.LEASE_ACQUIRED, holder=holder)
            return acquired

    def lease_holder(self, sweep_id: int) -> str | None:
        """Return who holds a sweep's lease, run out or not; None where nobody does."""
        with self._read() as session:
            return session.scalar(select(LeaseRow.holder).where(LeaseRow.sweep_id == sweep_id))

    @retried
    def renew_lease(self, sweep_id: int, holder: str, seconds: float) -> None:
        """Stay a sweep's controller; raises LeaseLostError where another one took over."""
        own = update(LeaseRow).where(LeaseRow.sweep_id == sweep_id, LeaseRow.holder == holder)
        with self._write() as session:
            if not execute_counted(session, own.values(expires_at=database_clock(seconds))):
                raise _lease_lost(sweep_id)

    @retried
    def release_lease(self, sweep_id: int, holder: str) -> None:
        """Stop being a sweep's controller; without effect for one that is not."""
        own = delete_rows(LeaseRow).where(LeaseRow.sweep_id == sweep_id, LeaseRow.holder == holder)
        with self._write() as session:
            if execute_counted(session, own):
                log(session, sweep_id, EventKind.LEASE_RELEASED, holder=holder)

    @retried
    def recover(self, sweep_id: int, holder: str, *, keep: Collection[Claim] = ()) -> int:
        """Take back what runs beside the claims to keep, and return the number of jobs.

        That is what an earlier controller left, or a claim of this one whose answer was lost. Raises
        LeaseLostError unless `holder` holds the lease: only then is nobody at work on them.
        """
        kept = JobRow.id.in_([claim.job_id for claim in keep])
        with self._write() as session:
            _require_lease(session, sweep_id, holder)
            return take_back(session, JobRow.sweep_id == sweep_id, ~kept)

    # -------------------------------------------------------- claims and results

    @retried
    def claim_jobs(
        self,
        sweep_id: int,
        *,
        pair: str,
        claimants: Sequence[Claimant],
        lease_seconds: float,
        holder: str | None = None,
    ) -> list[Claim]:
        """Take the next queued jobs of a pair, one for each claimant as long as there are any.

        Raises LeaseLostError where a `holder` is given whose lease on the sweep was taken over.
        """
        with self._write() as session:
            if holder is not None:
                _require_lease(session, sweep_id, holder, alive=False)
            return claim_jobs(session, sweep_id, pair, claimants, lease_seconds=lease_seconds)

    @retried
    def renew_claim(self, claim: Claim, seconds: float, *, silent_seconds: float | None = None) -> bool:
        """Note that a claim is worked on; False where it is no longer valid and its work would be fenced.

        It is due again within `seconds`, which the cluster's page shows; one that is not renewed stays valid
        until `recover` takes it back. `silent_seconds` says how long ago its actor answered; None where it
        has not answered yet.
        """
        values = {"lease_expires_at": database_clock(seconds)}
        with self._write() as session:
            if not execute_counted(session, update(JobRow).where(*holds(claim)).values(values)):
                return False
            if silent_seconds is not None:
                attempt = update(AttemptRow).where(AttemptRow.id == claim.attempt_id)
                session.execute(attempt.values(heard_at=database_clock(-silent_seconds)))
            return True

    @retried
    def put_back(self, claim: Claim, reason: str, *, where: Whereabouts = _UNKNOWN) -> bool:
        """Give a job up without blame, so that it is queued again; False where the claim was not valid."""
        with self._write() as session:
            if not release(session, claim, JobState.QUEUED):
                return False
            close(session, claim.job_id, claim.epoch, Outcome.PUT_BACK, error=reason)
            told = whereabouts_detail(session, where)
            log_claim(session, claim, EventKind.PUT_BACK, reason=reason, **told)
            return True

    @retried
    def land_results(self, finished: Sequence[tuple[Claim, JobResult]]) -> list[Landing]:
        """Store the results whose claims are still valid, all of each or nothing of it, in one transaction.

        ALREADY_LANDED where this very attempt has landed before: the answer of a commit may get lost.
        FENCED where the job was taken back or cancelled since: the result is discarded, its sentinels too.
        """
        for claim, result in finished:
            if (result.job_key, result.repeat) != (claim.job.key, claim.job.repeat):
                raise ValueError(
                    f"a result of job {result.job_key}, repeat {result.repeat} is not that of {claim}"
                )
        with self._write() as session:
            return land_results(session, finished)

    @retried
    def fail(
        self, claim: Claim, *, error_class: str, message: str, final: bool, where: Whereabouts = _UNKNOWN
    ) -> JobState | None:
        """Count a try against a job that failed: it is failed if that is final, else queued again.

        Returns the job's new state, or None where the claim was no longer valid and nothing changed: it is
        late, or this very failure is stored already, for the answer of a commit may get lost.
        """
        state = JobState.FAILED if final else JobState.QUEUED
        message = message[:_MAX_ERROR_CHARACTERS]
        with self._write() as session:
            blame = {"tries": JobRow.tries + 1, "error_class": error_class, "error": message}
            if not release(session, claim, state, **blame):
                if not has_failed(session, claim, error_class, message):
                    late = {"error_class": error_class, "error": message}
                    log_claim(session, claim, EventKind.FENCED, late="failure", **late)
                return None
            close(session, claim.job_id, claim.epoch, Outcome.FAILED, error_class=error_class, error=message)
            told = {"final": final, **whereabouts_detail(session, where)}
            log_claim(session, claim, EventKind.FAILED, error_class=error_class, error=message, **told)
            return state

    @retried
    def fail_pair(self, sweep_id: int, pair: str, message: str, *, holder: str) -> int:
        """Fail all queued jobs of a pair that does not load, and return their number.

        Raises LeaseLostError where the holder's lease on the sweep was taken over: its successor may load it.
        """
        queued = update(JobRow).where(
            JobRow.sweep_id == sweep_id, JobRow.pair == pair, JobRow.state == JobState.QUEUED
        )
        message = message[:_MAX_ERROR_CHARACTERS]
        values = {"state": JobState.FAILED, "error_class": PairError.__name__, "error": message}
        with self._write() as session:
            _require_lease(session, sweep_id, holder, alive=False)
            count = execute_counted(session, queued.values(values))
            log(session, sweep_id, EventKind.PAIR_FAILED, pair=pair, error=message, jobs=count)
            return count

    @retried
    def cancel(self, sweep_id: int) -> int:
        """Cancel what is queued or running, and return the number of jobs; their late results are fenced.

        `retry` takes them back.
        """
        still_open = (JobRow.sweep_id == sweep_id, JobRow.state.in_([JobState.QUEUED, JobState.RUNNING]))
        locked = select(JobRow.id).where(*still_open).order_by(JobRow.id).with_for_update()
        cancelled = update(JobRow).where(*still_open).values(state=JobState.CANCELLED, lease_expires_at=None)
        with self._write() as session:
            sweeps.require_sweep(session, sweep_id)
            session.execute(locked).all()
            count = execute_counted(session, cancelled)
            close_cancelled(session, sweep_id)
            log(session, sweep_id, EventKind.CANCELLED, jobs=count)
            return count

    @retried
    def retry(self, sweep_id: int) -> int:
        """Queue the failed and the cancelled jobs again with all their tries, and return their number."""
        ended = JobRow.state.in_([JobState.FAILED, JobState.CANCELLED])
        again = update(JobRow).where(JobRow.sweep_id == sweep_id, ended)
        values = {"state": JobState.QUEUED, "tries": 0, "error_class": None, "error": None}
        with self._write() as session:
            sweeps.require_sweep(session, sweep_id)
            count = execute_counted(session, again.values(values))
            log(session, sweep_id, EventKind.RETRIED, jobs=count)
            return count

    # ------------------------------------------------------------ one job, events

    def job(self, job_id: int) -> StoredJob:
        """Return one job with its samples' totals; raises UnknownSweepError where there is none."""
        with self._read() as session:
            sweeps.require_job(session, job_id)
            return read_jobs(session, JobRow.id == job_id, with_samples=True)[0]

    def planned_job(self, job_id: int) -> Job:
        """Return one job as actors are given it: with its pair and all its settings."""
        with self._read() as session:
            return sweeps.read_planned_job(session, sweeps.require_job(session, job_id))

    def facts(self, job_id: int) -> Mapping[str, Scalar]:
        """Return the facts of the environment that a job's result is from; empty unless it is done."""
        with self._read() as session:
            sweeps.require_job(session, job_id)
            return read_facts(session, job_id)

    def samples(self, job_id: int) -> tuple[Sample, ...]:
        """Return what a job decoded, rounds included; empty unless it is done."""
        with self._read() as session:
            sweeps.require_job(session, job_id)
            return read_samples(session, job_id)

    def runs(self, sweep_id: int) -> tuple[MeasuredRun, ...]:
        """Return what brought a sweep's samples: its finished jobs, and the AR runs of its actors."""
        with self._read() as session:
            sweeps.require_sweep(session, sweep_id)
            return read_runs(session, sweep_id)

    def run_samples(self, run: MeasuredRun, *, after: int = -1, most: int) -> tuple[StoredSample, ...]:
        """Return at most so many samples of a run, of the prompts after one of this index, in their order.

        What has landed never changes, so a run may be read in parts.
        """
        with self._read() as session:
            return read_run_samples(session, run, after=after, most=most)

    def rounds(self, samples: Collection[int]) -> dict[int, tuple[Round, ...]]:
        """Return the rounds of some samples by the samples' ids; nothing of one that has none."""
        with self._read() as session:
            return read_rounds(session, samples)

    def tree_sizes(
        self, sweep_id: int, prompts: Mapping[str, Collection[int]] | None = None
    ) -> dict[int, dict[int, int]]:
        """Return how many rounds verified so many draft nodes, by job and by nodes; AR has no trees.

        Over all prompts unless some are named, by their set and index. The database does the counting.
        """
        with self._read() as session:
            sweeps.require_sweep(session, sweep_id)
            return read_tree_sizes(session, sweep_id, prompts)

    def attempts(self, job_id: int) -> tuple[Attempt, ...]:
        """Return every claim of a job, the first one first, and of those that failed where they ran."""
        with self._read() as session:
            return read_attempts(session, sweeps.require_job(session, job_id))

    def failures(self, job_id: int) -> list[str]:
        """Return the error classes of a job's failed attempts, the first one first."""
        with self._read() as session:
            return read_failures(session, job_id)

    def events(self, sweep_id: int, after: int = 0) -> list[Event]:
        """Return a sweep's events in order, those after the one of a given id."""
        with self._read() as session:
            return read_events(session, sweep_id, after=after)


# ---------------------------------------------------------------------- conditions


def _found(sweep_id: int | None) -> int:
    assert sweep_id is not None  # noqa: S101 - a file that cannot be inserted is there
    return sweep_id


def _require_lease(session: Session, sweep_id: int, holder: str, *, alive: bool = True) -> None:
    """Raise LeaseLostError unless a holder has the lease; nobody can take it before the transaction ends."""
    own = select(LeaseRow).where(LeaseRow.sweep_id == sweep_id, LeaseRow.holder == holder)
    if alive:
        own = own.where(LeaseRow.expires_at > database_clock())
    if session.scalar(own.with_for_update(read=True)) is None:
        raise _lease_lost(sweep_id)


def _lease_lost(sweep_id: int) -> LeaseLostError:
    return LeaseLostError(f"the lease on sweep {sweep_id} ran out or was taken over by another controller")
