"""What the store hands out beside the values of `dyna_eval.records` and `dyna_eval.measurements`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum

from dyna_eval.jobs import Job, JobState, Scalar, SweepState, open_jobs
from dyna_eval.measurements import Environment


class Outcome(StrEnum):
    """How an attempt ended."""

    LANDED = "landed"
    FAILED = "failed"
    LOST = "lost"  # its controller went away
    PUT_BACK = "put back"  # its controller gave the job up
    CANCELLED = "cancelled"


class EventKind(StrEnum):
    """What happened to a sweep or to one of its jobs, in the words that are stored and shown."""

    SUBMITTED = "submitted"
    SUBMITTED_AGAIN = "submitted again"
    JOBS_ADDED = "jobs added"
    IMPORTED = "imported"
    COPIED = "copied"  # out of another database, in which the event's `sweep` was its number
    LEASE_ACQUIRED = "lease acquired"
    LEASE_RELEASED = "lease released"
    CLAIMED = "claimed"
    LANDED = "landed"
    FENCED = "fenced"  # a result or a failure came after its claim had ended
    FAILED = "failed"
    LOST = "lost"
    PUT_BACK = "put back"
    PAIR_FAILED = "pair failed"
    CANCELLED = "cancelled"
    RETRIED = "retried"


class Landing(StrEnum):
    """What became of a result that was handed to the store."""

    LANDED = "landed"
    ALREADY_LANDED = "already landed"
    FENCED = "fenced"


@dataclass(frozen=True, slots=True, kw_only=True)
class Claimant:
    """An actor that is to run a job, and the node that it is on."""

    actor: str
    node: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Claim:
    """The right to run a job once, and to land its result while nobody else has claimed the job since."""

    sweep_id: int
    job_id: int
    epoch: int
    attempt_id: int
    tries: int
    """Attempts that failed before this one by the job's own fault."""
    job: Job


@dataclass(frozen=True, slots=True, kw_only=True)
class Whereabouts:
    """Where an attempt ran: the name of the machine and its actor's environment, None where unknown."""

    host: str | None = None
    environment: Environment | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class JobError:
    """A job that is not done, and what its latest attempt failed of."""

    job_id: int
    pair: str
    label: str
    repeat: int
    state: JobState
    error: str


@dataclass(frozen=True, slots=True, kw_only=True)
class SweepSummary:
    """One line of the list of sweeps."""

    id: int
    name: str
    digest: str
    pairs: tuple[str, ...]
    state: SweepState
    jobs: Mapping[JobState, int]
    created_at: str
    imported_rows: int = 0
    """Of an imported sweep, which has no jobs."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Attempt:
    """One claim of a job. `ended_at` and `outcome` are None while it runs, `node` where nobody noted it.

    `host` is the name of the node's machine and `environment` the facts of what the actor ran in, where it
    failed and they were known; of an attempt that landed the job's result has them.
    """

    id: int
    epoch: int
    actor: str
    node: str | None
    started_at: str
    ended_at: str | None
    outcome: Outcome | None
    error_class: str | None
    error: str | None
    host: str | None = None
    environment: Mapping[str, Scalar] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """Something that happened to a sweep, or to one of its jobs."""

    id: int
    at: str
    kind: str
    """An `EventKind`, or what another version wrote in its place."""
    job_id: int | None
    detail: Mapping[str, Scalar]


@dataclass(frozen=True, slots=True, kw_only=True)
class Discrepancy:
    """Something in a database that should not be. The sweep and the job are None where it has none."""

    sweep_id: int | None
    job_id: int | None
    what: str


def sweep_state(jobs: Mapping[JobState, int], *, begun: bool, leased: bool) -> SweepState:
    """Derive a sweep's state from its counts of jobs.

    begun: some job was claimed at least once; leased: a controller holds a live lease. Running while a
    controller works on it; done when every job is; with jobs left to run, queued before the first claim and
    interrupted after it; otherwise failed if any job failed, else cancelled.
    """
    if leased:
        return SweepState.RUNNING
    if open_jobs(jobs):
        return SweepState.INTERRUPTED if begun else SweepState.QUEUED
    if jobs[JobState.FAILED]:
        return SweepState.FAILED
    return SweepState.CANCELLED if jobs[JobState.CANCELLED] else SweepState.DONE


def error_text(error_class: str | None, error: str | None) -> str | None:
    """Return why a job failed as people read it: the kind of error and its message; None if it did not."""
    return None if error is None else f"{error_class}: {error}"
