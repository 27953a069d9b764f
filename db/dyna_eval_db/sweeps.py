"""Sweeps and their prompts, on their way into the database and out of it."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from pydantic import TypeAdapter
from pydantic_core import to_jsonable_python
from sqlalchemy import and_, func, select, update
from sqlalchemy.orm import Session

from dyna_eval.errors import UnknownSweepError
from dyna_eval.holder import is_gone
from dyna_eval.jobs import (
    Configuration,
    GenerationSpec,
    Job,
    JobState,
    MeasureSpec,
    Method,
    Pair,
    Prompt,
    PromptSet,
    ResolvedSweep,
    SweepSpec,
    SweepState,
    generation_digest,
)
from dyna_eval.records import SweepRecord
from dyna_eval_db.columns import database_clock, insert_all_missing, insert_many, insert_missing
from dyna_eval_db.imports import count_imported, is_imported
from dyna_eval_db.models import JobRow, LeaseRow, PromptRow, SweepRow
from dyna_eval_db.results import read_environments, read_jobs, read_sentinels
from dyna_eval_db.values import JobError, SweepSummary, error_text, sweep_state

_SPEC = TypeAdapter(SweepSpec)
_PAIRS = TypeAdapter(tuple[Pair, ...])
_GENERATION = TypeAdapter(GenerationSpec)
_MEASURE = TypeAdapter(MeasureSpec)
_CATEGORY = ("prompt_set", "index", "category")


# --------------------------------------------------------------------- writing


def insert_sweep(session: Session, resolved: ResolvedSweep) -> int | None:
    """Store a sweep with its prompts and jobs and return its id; None where its digest is known.

    A known one, too, gets the categories of its prompts, and the limit of its jobs: its file may name them
    only now.
    """
    for prompts in {prompts.digest: prompts for prompts in resolved.prompt_sets.values()}.values():
        _insert_prompts(session, prompts)
    new = insert_missing(
        session,
        SweepRow,
        name=resolved.spec.name,
        digest=resolved.digest,
        spec=_json(resolved.spec),
        pairs=_json(resolved.pairs),
        prompt_sets={pair: prompts.digest for pair, prompts in resolved.prompt_sets.items()},
    )
    if not new:
        _update_job_timeout(session, resolved)
        return None
    sweep_id = session.scalars(select(SweepRow.id).where(SweepRow.digest == resolved.digest)).one()
    insert_many(session, JobRow, _job_values(sweep_id, resolved.jobs))
    return sweep_id


def _update_job_timeout(session: Session, resolved: ResolvedSweep) -> None:
    """Give what a stored sweep still has to run the limit of the file submitted last.

    The limit is no part of a sweep's identity: a job that was stopped by it is to run again under another.
    """
    row = session.scalars(select(SweepRow).where(SweepRow.digest == resolved.digest)).one()
    spec, limit = _SPEC.validate_python(row.spec), resolved.spec.measure.job_timeout_s
    if spec.measure.job_timeout_s == limit:
        return
    measure = replace(spec.measure, job_timeout_s=limit)
    left = update(JobRow).where(JobRow.sweep_id == row.id, JobRow.state != JobState.DONE)
    session.execute(left.values(measure=_json(measure)))
    row.spec = _json(replace(spec, measure=measure))  # jobs first, as whoever lands them and then logs it


def _insert_prompts(session: Session, prompts: PromptSet) -> None:
    """Store prompts unless they are there. Categories are no part of a prompt set's identity: naming them
    later must not make its rows incomparable, so a set has those of the latest sweep that names any."""
    rows = [
        {
            "prompt_set": prompts.digest,
            "index": prompt.index,
            "text": prompt.text,
            "token_ids": list(prompt.token_ids),
            "digest": prompt.digest,
            "category": prompt.category,
        }
        for prompt in prompts.prompts
    ]
    insert_all_missing(session, PromptRow, rows)
    if categories := [{name: row[name] for name in _CATEGORY} for row in rows if row["category"] is not None]:
        session.execute(update(PromptRow), categories)


def _job_values(sweep_id: int, jobs: Iterable[Job]) -> list[dict[str, Any]]:
    """Return the rows of new jobs. What many of them share is made once."""
    generations: dict[GenerationSpec, tuple[Any, str]] = {}
    measures: dict[MeasureSpec, Any] = {}
    rows = []
    for job in jobs:
        if job.generation not in generations:
            generations[job.generation] = _json(job.generation), generation_digest(job.generation)
        if job.measure not in measures:
            measures[job.measure] = _json(job.measure)
        generation, generation_key = generations[job.generation]
        rows.append(
            {
                "sweep_id": sweep_id,
                "key": job.key,
                "pair": job.pair.spec.name,
                "repeat": job.repeat,
                "position": job.position,
                "label": job.configuration.label,
                "method": job.configuration.method,
                "params": dict(job.configuration.params),
                "prompt_set": job.prompt_set,
                "generation": generation,
                "generation_digest": generation_key,
                "measure": measures[job.measure],
                "state": JobState.QUEUED,
                "epoch": 0,
                "tries": 0,
            }
        )
    return rows


def insert_jobs(session: Session, sweep_id: int, jobs: Iterable[Job]) -> int:
    """Add jobs to a stored sweep and return the number of those that it did not have."""
    rows = _job_values(sweep_id, jobs)
    stored = select(JobRow.key, JobRow.repeat, JobRow.pair).where(JobRow.sweep_id == sweep_id)
    known = {(key, repeat, pair) for key, repeat, pair in session.execute(stored)}
    new = [row for row in rows if (row["key"], row["repeat"], row["pair"]) not in known]
    insert_many(session, JobRow, new)
    return len(new)


def _json(value: object) -> Any:
    return to_jsonable_python(value, fallback=dict)  # a mapping of another kind than dict is a dict here


# --------------------------------------------------------------------- reading


def find_sweep(session: Session, name_or_id: str | None) -> int:
    """Find a sweep by its id or else its name, the latest of that name; None is the latest of all."""
    latest = select(func.max(SweepRow.id))
    if name_or_id is None:
        found = session.scalar(latest)
    else:
        found = _numbered(session, name_or_id) or session.scalar(latest.where(SweepRow.name == name_or_id))
    if found is None:
        raise UnknownSweepError(_no_such_sweep(name_or_id, session.scalars(select(SweepRow.name).distinct())))
    return found


def latest_measured(session: Session, name: str) -> int | None:
    """Find the latest sweep of a name that jobs measure; None where there is none."""
    of_name = select(SweepRow.id).where(SweepRow.name == name).order_by(SweepRow.id.desc())
    return next((number for number in session.scalars(of_name) if not is_imported(session, number)), None)


def _numbered(session: Session, text: str) -> int | None:
    if not re.fullmatch(r"[0-9]{1,18}", text):  # a longer number fits in no column
        return None
    return session.scalar(select(SweepRow.id).where(SweepRow.id == int(text)))


def _no_such_sweep(name_or_id: str | None, names: Iterable[str]) -> str:
    known = sorted(names)
    if not known:
        return "this database holds no sweep yet; `dyna-eval submit FILE` runs one"
    near = difflib.get_close_matches(str(name_or_id), known, n=3)
    hint = "did you mean " + " or ".join(f"'{name}'" for name in near) + "?" if near else "see `dyna-eval ls`"
    return f"no sweep '{name_or_id}'; {hint}"


def require_sweep(session: Session, sweep_id: int, *, alone: bool = False) -> SweepRow:
    """Read a sweep; raises UnknownSweepError where there is none.

    alone: lets one transaction after another change its set of jobs, as SQLite does by itself.
    """
    row = session.get(SweepRow, sweep_id, with_for_update={"key_share": True} if alone else None)
    if row is None:
        raise UnknownSweepError(f"no sweep {sweep_id} in this database")
    return row


def require_job(session: Session, job_id: int) -> JobRow:
    row = session.get(JobRow, job_id)
    if row is None:
        raise UnknownSweepError(f"no job {job_id} in this database")
    return row


def _require_own(session: Session, sweep_id: int) -> SweepRow:
    row = require_sweep(session, sweep_id)
    if is_imported(session, sweep_id):
        raise UnknownSweepError(
            f"sweep {sweep_id} ({row.name}) was imported and has no jobs;"
            f" `dyna-eval report {sweep_id}` prints it"
        )
    return row


def count_jobs(session: Session, sweep_id: int) -> dict[JobState, int]:
    """Count a sweep's jobs by state; every state is there."""
    counts = dict.fromkeys(JobState, 0)
    grouped = select(JobRow.state, func.count()).where(JobRow.sweep_id == sweep_id).group_by(JobRow.state)
    for state, count in session.execute(grouped):
        counts[JobState(state)] = count
    return counts


def queued_pairs(session: Session, sweep_id: int) -> list[str]:
    """Return the pairs that have queued jobs, that of the next job first.

    One seek in an index for each pair of the sweep, however many jobs wait: a controller asks before each.
    """
    first: dict[str, int] = {}
    for name in read_pairs(require_sweep(session, sweep_id)):
        position = select(func.min(JobRow.position)).where(
            JobRow.sweep_id == sweep_id, JobRow.state == JobState.QUEUED, JobRow.pair == name
        )
        found = session.scalar(position)
        if found is not None:
            first[name] = found
    return sorted(first, key=first.__getitem__)


def is_current(session: Session, sweep_id: int) -> bool:
    """Say whether a sweep was made for these very decoding loops.

    All its jobs are by one version: another gives it other keys, so another digest. One of each pair tells.
    """
    for name, pair in read_pairs(require_sweep(session, sweep_id)).items():
        first = select(JobRow).where(JobRow.sweep_id == sweep_id, JobRow.pair == name).limit(1)
        job = session.scalar(first)
        if job is not None and not _job(job, pair).is_current:
            return False
    return True


def read_errors(session: Session, sweep_id: int) -> list[JobError]:
    """Read what went wrong with jobs, without what was measured."""
    failed = (
        select(
            JobRow.id,
            JobRow.pair,
            JobRow.label,
            JobRow.repeat,
            JobRow.state,
            JobRow.error_class,
            JobRow.error,
        )
        .where(JobRow.sweep_id == sweep_id, JobRow.state != JobState.DONE, JobRow.error.is_not(None))
        .order_by(JobRow.position, JobRow.id)
    )
    return [
        JobError(
            job_id=row.id,
            pair=row.pair,
            label=row.label,
            repeat=row.repeat,
            state=JobState(row.state),
            error=str(error_text(row.error_class, row.error)),
        )
        for row in session.execute(failed)
    ]


def read_state(session: Session, sweep_id: int, counts: Mapping[JobState, int] | None = None) -> SweepState:
    """Derive where a sweep stands; `counts` of its jobs are counted unless they are given."""
    if is_imported(session, sweep_id):
        return SweepState.IMPORTED
    counts = count_jobs(session, sweep_id) if counts is None else counts
    lease = select(LeaseRow.holder).where(
        LeaseRow.sweep_id == sweep_id, LeaseRow.expires_at > database_clock()
    )
    holder = session.scalar(lease)
    leased = holder is not None and not is_gone(holder)  # killed on this machine, it works no more
    return sweep_state(counts, begun=_has_begun(session, sweep_id, counts), leased=leased)


@dataclass(frozen=True, slots=True, kw_only=True)
class Leases:
    """The leases that there are, and the sweeps of those whose controllers are at work."""

    total: int
    working: tuple[int, ...]


def count_leases(session: Session) -> Leases:
    """Tell on which sweeps a controller is at work, as `read_state` does."""
    rows = session.execute(
        select(LeaseRow.sweep_id, LeaseRow.holder, LeaseRow.expires_at > database_clock()).order_by(
            LeaseRow.sweep_id
        )
    ).all()
    working = tuple(sweep_id for sweep_id, holder, alive in rows if alive and not is_gone(holder))
    return Leases(total=len(rows), working=working)


def _has_begun(session: Session, sweep_id: int, counts: Mapping[JobState, int]) -> bool:
    """Whether some job was claimed at least once; its state mostly tells."""
    if any(counts[state] for state in (JobState.RUNNING, JobState.DONE, JobState.FAILED)):
        return True
    claimed = select(JobRow.id).where(JobRow.sweep_id == sweep_id, JobRow.epoch > 0).limit(1)
    return session.scalar(claimed) is not None


def read_summaries(session: Session) -> list[SweepSummary]:
    """Read one line per sweep, the latest first."""
    imported = count_imported(session)
    return [
        read_summary(session, row, imported_rows=imported.get(row.id, 0))
        for row in session.scalars(select(SweepRow).order_by(SweepRow.id.desc()))
    ]


def read_sweeps_of_pairs(session: Session) -> dict[str, tuple[int, str]]:
    """Read the id and the name of the latest sweep of each pair, the latest pair first."""
    found: dict[str, tuple[int, str]] = {}
    rows = select(SweepRow.id, SweepRow.name, SweepRow.pairs).order_by(SweepRow.id.desc())
    for sweep_id, name, pairs in session.execute(rows):
        for pair in _PAIRS.validate_python(pairs):
            found.setdefault(pair.spec.name, (sweep_id, name))
    return found


def read_summary(session: Session, row: SweepRow, *, imported_rows: int = 0) -> SweepSummary:
    """Read one sweep's line; rows that were imported are counted by the caller."""
    counts = count_jobs(session, row.id)
    return SweepSummary(
        id=row.id,
        name=row.name,
        digest=row.digest,
        pairs=tuple(read_pairs(row)),
        state=read_state(session, row.id, counts),
        jobs=counts,
        created_at=row.created_at.isoformat(timespec="seconds"),
        imported_rows=imported_rows,
    )


def read_record(session: Session, sweep_id: int) -> SweepRecord:
    """Read a sweep and everything measured in it, in a fixed number of queries."""
    row = _require_own(session, sweep_id)
    spec, pairs = _SPEC.validate_python(row.spec), read_pairs(row)
    return SweepRecord(
        id=row.id,
        name=row.name,
        digest=row.digest,
        state=read_state(session, sweep_id),
        baseline=spec.baseline,
        confidence=spec.measure.confidence,
        created_at=row.created_at.isoformat(timespec="seconds"),
        configurations=spec.configurations,
        merged=spec.merged,
        pairs=tuple(pairs),
        jobs=read_jobs(session, JobRow.sweep_id == sweep_id, with_samples=True),
        sentinels=read_sentinels(session, sweep_id),
        environments=read_environments(session, sweep_id),
        measure=spec.measure,
        seed=spec.generation.seed,
        generations={name: spec.generation_of(pair.spec) for name, pair in pairs.items()},
        models=pairs,
        past_answers=spec.past_answers,
        source=spec.source,
        categories=_read_categories(session, set(row.prompt_sets.values())),
        equal_prompts=_read_equal_prompts(session, set(row.prompt_sets.values())),
    )


def _read_categories(session: Session, prompt_sets: Iterable[str]) -> dict[str, Mapping[int, str]]:
    """Read the categories of prompts by prompt set; a set without any is left out."""
    named = select(PromptRow.prompt_set, PromptRow.index, PromptRow.category).where(
        PromptRow.prompt_set.in_(list(prompt_sets)), PromptRow.category.is_not(None)
    )
    found: dict[str, dict[int, str]] = {}
    for prompt_set, index, category in session.execute(named.order_by(PromptRow.prompt_set, PromptRow.index)):
        found.setdefault(prompt_set, {})[index] = str(category)
    return dict(found)


def _read_equal_prompts(session: Session, prompt_sets: Iterable[str]) -> dict[str, Mapping[int, int]]:
    """Read which prompts equal an earlier one, and the first such, by prompt set; the others are left out."""
    first = (
        select(PromptRow.prompt_set, PromptRow.digest, func.min(PromptRow.index).label("index"))
        .where(PromptRow.prompt_set.in_(list(prompt_sets)))
        .group_by(PromptRow.prompt_set, PromptRow.digest)
        .having(func.count() > 1)
        .subquery()
    )
    later = select(PromptRow.prompt_set, PromptRow.index, first.c.index).join(
        first,
        and_(
            PromptRow.prompt_set == first.c.prompt_set,
            PromptRow.digest == first.c.digest,
            PromptRow.index > first.c.index,
        ),
    )
    found: dict[str, dict[int, int]] = {}
    for prompt_set, index, earliest in session.execute(later):
        found.setdefault(prompt_set, {})[index] = earliest
    return dict(found)


def read_resolved(session: Session, sweep_id: int) -> ResolvedSweep:
    """Read a sweep as it was submitted, so that it can go on without its file."""
    row = _require_own(session, sweep_id)
    pairs = read_pairs(row)
    jobs = session.scalars(select(JobRow).where(JobRow.sweep_id == sweep_id).order_by(JobRow.id))
    return ResolvedSweep(
        spec=_SPEC.validate_python(row.spec),
        digest=row.digest,
        pairs=tuple(pairs.values()),
        prompt_sets={pair: read_prompts(session, digest) for pair, digest in row.prompt_sets.items()},
        jobs=tuple(_job(job, pairs[job.pair]) for job in jobs),
    )


def read_open_jobs(session: Session, sweep_id: int) -> tuple[Job, ...]:
    """Read the jobs of a sweep that are still to run, or are running."""
    still_open = JobRow.state.in_([JobState.QUEUED, JobState.RUNNING])
    rows = session.scalars(
        select(JobRow).where(JobRow.sweep_id == sweep_id, still_open).order_by(JobRow.position, JobRow.id)
    )
    return tuple(read_sweep_jobs(session, sweep_id, rows))


def read_sweep_jobs(session: Session, sweep_id: int, rows: Iterable[Any]) -> list[Job]:
    """Turn rows of a sweep's jobs into what actors are given."""
    pairs = read_pairs(require_sweep(session, sweep_id))
    return [_job(row, pairs[row.pair]) for row in rows]


def read_pairs(row: SweepRow) -> Mapping[str, Pair]:
    """Read a sweep's pairs by their names, in the order of its file; of the row, nothing else is needed."""
    return {pair.spec.name: pair for pair in _PAIRS.validate_python(row.pairs)}


def read_pair(session: Session, job: JobRow) -> Pair:
    """Read a job's pair, with all that was resolved."""
    return read_pairs(require_sweep(session, job.sweep_id))[job.pair]


def read_planned_job(session: Session, row: JobRow) -> Job:
    """Read a job as actors are given it."""
    return _job(row, read_pair(session, row))


def _job(row: Any, pair: Pair) -> Job:
    return Job(
        key=row.key,
        pair=pair,
        prompt_set=row.prompt_set,
        generation=_GENERATION.validate_python(row.generation),
        measure=_MEASURE.validate_python(row.measure),
        configuration=Configuration(label=row.label, method=Method(row.method), params=row.params),
        repeat=row.repeat,
        position=row.position,
    )


def read_prompts(session: Session, digest: str) -> PromptSet:
    """Read a prompt set in its order; it has no prompts where no sweep brought any."""
    rows = session.scalars(select(PromptRow).where(PromptRow.prompt_set == digest).order_by(PromptRow.index))
    prompts = (
        Prompt(
            index=row.index,
            text=row.text,
            token_ids=tuple(row.token_ids),
            digest=row.digest,
            category=row.category,
        )
        for row in rows
    )
    return PromptSet(digest=digest, prompts=tuple(prompts))
