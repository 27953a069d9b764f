"""The tables. Rows stay inside this package: what goes in and comes out are values (`dyna_eval.jobs` and its
neighbours).

Unknown is NULL. Times are UTC from the database's clock; columns named `..._seconds` are durations.
"""

from __future__ import annotations

from datetime import datetime
from typing import Any, ClassVar

from sqlalchemy import CheckConstraint, ForeignKey, Index, MetaData, String, UniqueConstraint
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column
from sqlalchemy.types import TypeEngine

from dyna_eval.jobs import JobState
from dyna_eval_db.columns import Id, Json, PlainText, Real, UtcTime, database_clock

SCHEMA_VERSION = "0007"
"""The newest migration; four digits, so that older versions sort before newer ones."""

Digest = String(64)
Word = String(32)
_NOT_COUNTED = "0"  # in rows of schema 0001
_STATES = ", ".join(f"'{state}'" for state in JobState)


class Base(DeclarativeBase):
    metadata = MetaData(
        naming_convention={  # named by rule, so that a migration can drop what either database made
            "pk": "pk_%(table_name)s",
            "fk": "fk_%(table_name)s_%(column_0_name)s",
            "uq": "uq_%(table_name)s_%(column_0_N_name)s",
            "ix": "ix_%(table_name)s_%(column_0_N_name)s",
            "ck": "ck_%(table_name)s_%(constraint_name)s",
        }
    )
    type_annotation_map: ClassVar[dict[Any, TypeEngine[Any]]] = {
        str: PlainText(),
        float: Real,
        datetime: UtcTime(),
        dict[str, Any]: Json,
        list[Any]: Json,
    }


class SweepRow(Base):
    """One submitted sweep file, with all that was resolved from it."""

    __tablename__ = "sweep"

    id: Mapped[int] = mapped_column(Id, primary_key=True)
    name: Mapped[str] = mapped_column(index=True)
    digest: Mapped[str] = mapped_column(Digest, unique=True)
    spec: Mapped[dict[str, Any]] = mapped_column(deferred=True)
    """Read where it is asked for alone: it holds every configuration, and each claim looks at its sweep."""
    pairs: Mapped[list[Any]]
    prompt_sets: Mapped[dict[str, Any]]
    """Pair name to prompt-set digest."""
    created_at: Mapped[datetime] = mapped_column(default=database_clock())


class LeaseRow(Base):
    """The controller that works on a sweep; at most one, until its lease expires."""

    __tablename__ = "controller_lease"

    sweep_id: Mapped[int] = mapped_column(Id, ForeignKey("sweep.id"), primary_key=True, autoincrement=False)
    holder: Mapped[str]
    acquired_at: Mapped[datetime]
    expires_at: Mapped[datetime]


class PromptRow(Base):
    """One prompt of a prompt set; sets are shared by all sweeps that use them."""

    __tablename__ = "prompt"

    prompt_set: Mapped[str] = mapped_column(Digest, primary_key=True)
    index: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    text: Mapped[str]
    token_ids: Mapped[list[Any]]
    digest: Mapped[str] = mapped_column(Digest)
    category: Mapped[str | None]


class JobRow(Base):
    """One configuration and one repeat on one pair, and where it stands."""

    __tablename__ = "job"
    __table_args__ = (
        UniqueConstraint("sweep_id", "key", "repeat", "pair"),
        CheckConstraint(f"state IN ({_STATES})", name="state"),
        Index(None, "sweep_id", "state", "pair", "position"),
    )

    id: Mapped[int] = mapped_column(Id, primary_key=True)
    sweep_id: Mapped[int] = mapped_column(Id, ForeignKey("sweep.id"))
    key: Mapped[str] = mapped_column(Digest)
    pair: Mapped[str]
    repeat: Mapped[int]
    position: Mapped[int]
    label: Mapped[str]
    method: Mapped[str] = mapped_column(Word)
    params: Mapped[dict[str, Any]]
    prompt_set: Mapped[str] = mapped_column(Digest)
    generation: Mapped[dict[str, Any]]
    generation_digest: Mapped[str] = mapped_column(Digest)
    measure: Mapped[dict[str, Any]]
    state: Mapped[str] = mapped_column(Word)
    epoch: Mapped[int]
    """Times claimed. An attempt of an earlier epoch may change nothing any more."""
    tries: Mapped[int]
    """Attempts that failed by the job's own fault, since the job was last retried by hand."""
    error_class: Mapped[str | None]
    error: Mapped[str | None]
    """Of the latest failed attempt."""
    lease_expires_at: Mapped[datetime | None]
    """By when the claim of a running job is to be renewed. One that is not is taken back by the next
    controller alone."""


class AttemptRow(Base):
    """One claim of a job by an actor, and how it ended."""

    __tablename__ = "attempt"
    __table_args__ = (UniqueConstraint("job_id", "epoch"),)

    id: Mapped[int] = mapped_column(Id, primary_key=True)
    job_id: Mapped[int] = mapped_column(Id, ForeignKey("job.id"))
    epoch: Mapped[int]
    actor: Mapped[str]
    node: Mapped[str | None]
    """Where the actor runs; NULL in rows of an earlier schema that did not land."""
    heard_at: Mapped[datetime | None]
    """When its controller last heard the actor; NULL until it has answered once."""
    started_at: Mapped[datetime] = mapped_column(default=database_clock())
    ended_at: Mapped[datetime | None]
    outcome: Mapped[str | None] = mapped_column(Word)
    error_class: Mapped[str | None]
    error: Mapped[str | None]


class EnvironmentRow(Base):
    """Hardware and software an actor ran on."""

    __tablename__ = "env"

    digest: Mapped[str] = mapped_column(Digest, primary_key=True)
    facts: Mapped[dict[str, Any]]


class ResultRow(Base):
    """What the landed attempt of a job brought. The job's number as key lets one land only once."""

    __tablename__ = "result"

    job_id: Mapped[int] = mapped_column(Id, ForeignKey("job.id"), primary_key=True, autoincrement=False)
    attempt_id: Mapped[int] = mapped_column(Id, ForeignKey("attempt.id"), unique=True)
    actor: Mapped[str]
    node: Mapped[str]
    environment: Mapped[str] = mapped_column(Digest, ForeignKey("env.digest"))
    calibration_id: Mapped[int | None] = mapped_column(Id, ForeignKey("calibration.id"))
    """What the actor had found passes to cost; NULL where it did not say."""
    wall_seconds: Mapped[float]
    peak_memory_bytes: Mapped[int | None] = mapped_column(Id)
    conditions: Mapped[dict[str, Any] | None]
    """What the machine did meanwhile; NULL in rows of an earlier schema."""
    totals: Mapped[bytes | None]
    """The sums of all samples in one value, `dyna_eval.reports.samples.SampleTable`, which reports read
    instead of the rows of `sample`; NULL in rows of an earlier schema."""
    landed_at: Mapped[datetime] = mapped_column(default=database_clock())


class CalibrationRow(Base):
    """What an actor found a pair's forward passes to cost in an environment. Rows are only ever added, so the
    latest one has the highest number."""

    __tablename__ = "calibration"
    __table_args__ = (UniqueConstraint("pair_key", "environment", "digest"),)

    id: Mapped[int] = mapped_column(Id, primary_key=True)
    pair_key: Mapped[str] = mapped_column(Digest)
    """Digest of the models, the dtype and the backend: `dyna_eval.jobs.calibration_key`."""
    environment: Mapped[str] = mapped_column(Digest, ForeignKey("env.digest"))
    digest: Mapped[str] = mapped_column(Digest)
    """Of all the costs, so that what comes with each result of an actor is stored once."""
    draft_seconds: Mapped[list[Any]]
    """[tokens, seconds] of each size, ascending; empty without a draft."""
    verify_seconds: Mapped[list[Any]]
    measured_at: Mapped[datetime] = mapped_column(default=database_clock())
    """When the first result that brought it landed; in rows of an earlier schema, the last one."""


class SentinelRow(Base):
    """An actor's own AR run over the prompts of a pair."""

    __tablename__ = "sentinel"
    __table_args__ = (UniqueConstraint("sweep_id", "actor", "sequence", "pair"),)

    id: Mapped[int] = mapped_column(Id, primary_key=True)
    sweep_id: Mapped[int] = mapped_column(Id, ForeignKey("sweep.id"))
    actor: Mapped[str]
    sequence: Mapped[int]
    pair: Mapped[str]
    environment: Mapped[str] = mapped_column(Digest, ForeignKey("env.digest"))
    totals: Mapped[bytes | None]
    """As of a result."""


class SampleRow(Base):
    """One prompt decoded once, for a result or for a sentinel, with its rounds summed."""

    __tablename__ = "sample"
    __table_args__ = (
        UniqueConstraint("job_id", "prompt_index"),
        UniqueConstraint("sentinel_id", "prompt_index"),
        CheckConstraint("(job_id IS NULL) <> (sentinel_id IS NULL)", name="one_owner"),
    )

    id: Mapped[int] = mapped_column(Id, primary_key=True)
    job_id: Mapped[int | None] = mapped_column(Id, ForeignKey("result.job_id"))
    sentinel_id: Mapped[int | None] = mapped_column(Id, ForeignKey("sentinel.id"))
    prompt_index: Mapped[int]
    prompt_digest: Mapped[str] = mapped_column(Digest)
    prompt_tokens: Mapped[int]
    token_ids: Mapped[list[Any]]
    text: Mapped[str]
    prefill_seconds: Mapped[float]
    decode_seconds: Mapped[float]
    ttft_seconds: Mapped[float]
    exactness: Mapped[str | None] = mapped_column(Word)
    divergence_index: Mapped[int | None]
    divergence_margin_ulp: Mapped[float | None]
    distinct_2: Mapped[float | None]
    tokens: Mapped[int]
    rounds: Mapped[int]
    drafted_nodes: Mapped[int]
    verified_nodes: Mapped[int]
    drafted_levels: Mapped[int]
    accepted_tokens: Mapped[int]
    capped_rounds: Mapped[int]
    draft_steps: Mapped[int] = mapped_column(server_default=_NOT_COUNTED)
    draft_rows: Mapped[int] = mapped_column(server_default=_NOT_COUNTED)
    draft_seconds: Mapped[float | None]
    grow_seconds: Mapped[float | None]
    verify_seconds: Mapped[float | None]
    walk_seconds: Mapped[float | None]
    accepted_by_depth: Mapped[list[Any]]


class RoundRow(Base):
    """One verification round of a sample. The key is the only index, and SQLite keeps no row number."""

    __tablename__ = "round"
    __table_args__ = ({"sqlite_with_rowid": False},)

    sample_id: Mapped[int] = mapped_column(Id, ForeignKey("sample.id"), primary_key=True, autoincrement=False)
    number: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    drafted: Mapped[int]
    verified: Mapped[int]
    depth: Mapped[int]
    accepted: Mapped[int]
    emitted: Mapped[int]
    capped: Mapped[bool]
    draft_steps: Mapped[int] = mapped_column(server_default=_NOT_COUNTED)
    draft_rows: Mapped[int] = mapped_column(server_default=_NOT_COUNTED)
    draft_seconds: Mapped[float | None]
    grow_seconds: Mapped[float | None]
    verify_seconds: Mapped[float | None]
    walk_seconds: Mapped[float | None]


class DraftTreeRow(Base):
    """The draft tree of one of a sample's first rounds, where its sweep asks for them."""

    __tablename__ = "draft_tree"
    __table_args__ = ({"sqlite_with_rowid": False},)

    sample_id: Mapped[int] = mapped_column(Id, ForeignKey("sample.id"), primary_key=True, autoincrement=False)
    number: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    tree: Mapped[dict[str, Any]]


class ImportedFileRow(Base):
    """A result file of another tool, as one of the files of an imported sweep; each file is stored once."""

    __tablename__ = "imported_file"
    __table_args__ = (Index(None, "sweep_id", "id"),)

    id: Mapped[int] = mapped_column(Id, primary_key=True)
    sweep_id: Mapped[int] = mapped_column(Id, ForeignKey("sweep.id"))
    sha256: Mapped[str] = mapped_column(Digest, unique=True)
    format: Mapped[str] = mapped_column(Word)
    content: Mapped[dict[str, Any]]
    """All that is known of the file beside its rows: `dyna_eval.reports.imported.ImportedFile`."""


class ImportedRowRow(Base):
    """One row of an imported file: `dyna_eval.reports.imported.ImportedRow` without its samples."""

    __tablename__ = "imported_row"

    id: Mapped[int] = mapped_column(Id, primary_key=True)
    file_id: Mapped[int] = mapped_column(Id, ForeignKey("imported_file.id"), index=True)
    label: Mapped[str]
    content: Mapped[dict[str, Any]]


class ImportedSampleRow(Base):
    """One question of an imported row. The key is the only index, and SQLite keeps no row number."""

    __tablename__ = "imported_sample"
    __table_args__ = ({"sqlite_with_rowid": False},)

    row_id: Mapped[int] = mapped_column(
        Id, ForeignKey("imported_row.id"), primary_key=True, autoincrement=False
    )
    prompt: Mapped[int] = mapped_column(Id, primary_key=True, autoincrement=False)
    category: Mapped[str | None]
    tokens: Mapped[int] = mapped_column(Id)
    seconds: Mapped[float]
    rounds: Mapped[int | None] = mapped_column(Id)
    emitted: Mapped[int | None] = mapped_column(Id)


class EventRow(Base):
    """What happened, in order. Rows are only ever added."""

    __tablename__ = "event"
    __table_args__ = (Index(None, "sweep_id", "id"),)

    id: Mapped[int] = mapped_column(Id, primary_key=True)
    sweep_id: Mapped[int] = mapped_column(Id, ForeignKey("sweep.id"))
    job_id: Mapped[int | None] = mapped_column(Id, ForeignKey("job.id"))
    at: Mapped[datetime] = mapped_column(default=database_clock())
    kind: Mapped[str]
    detail: Mapped[dict[str, Any]]
