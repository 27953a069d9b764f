"""What was measured as it is stored, sample by sample and round by round, for one's own statistics.

A sweep may have millions of both, so a caller asks for one part after another. What has landed never changes:
parts that are read in transactions of their own fit together, and no long one stands in a controller's way.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection
from typing import Any

from sqlalchemy import select
from sqlalchemy.orm import Session

from dyna_eval.jobs import TARGET_ALONE, Method
from dyna_eval.measurements import Round
from dyna_eval.records import MeasuredRun, StoredSample
from dyna_eval_db.models import JobRow, ResultRow, RoundRow, SampleRow, SentinelRow, SweepRow
from dyna_eval_db.results import ROUND, TOTALS, rounds_by_sample, sample_totals

_JOB = (
    JobRow.id,
    JobRow.key,
    JobRow.pair,
    JobRow.label,
    JobRow.method,
    JobRow.params,
    JobRow.repeat,
    JobRow.prompt_set,
    ResultRow.actor,
    ResultRow.node,
    ResultRow.environment,
)
_SENTINEL = (
    SentinelRow.id,
    SentinelRow.actor,
    SentinelRow.sequence,
    SentinelRow.pair,
    SentinelRow.environment,
)
_SAMPLE = (
    SampleRow.id,
    SampleRow.prompt_digest,
    SampleRow.divergence_index,
    SampleRow.divergence_margin_ulp,
)


def read_runs(session: Session, sweep_id: int) -> tuple[MeasuredRun, ...]:
    """Read what brought a sweep's samples: its finished jobs, then the sentinels of its actors."""
    of_jobs = select(*_JOB).join(ResultRow, ResultRow.job_id == JobRow.id).where(JobRow.sweep_id == sweep_id)
    jobs = session.execute(of_jobs.order_by(JobRow.id)).all()
    nodes: defaultdict[str, set[str]] = defaultdict(set)
    for job in jobs:
        nodes[job.actor].add(job.node)
    prompt_sets = session.scalars(select(SweepRow.prompt_sets).where(SweepRow.id == sweep_id)).one()
    order = (SentinelRow.pair, SentinelRow.actor, SentinelRow.sequence)
    sentinels = session.execute(
        select(*_SENTINEL).where(SentinelRow.sweep_id == sweep_id).order_by(*order)
    ).all()
    return (
        *map(_run_of_job, jobs),
        *(_run_of_actor(row, prompt_sets[row.pair], nodes[row.actor]) for row in sentinels),
    )


def _run_of_job(row: Any) -> MeasuredRun:
    return MeasuredRun(
        pair=row.pair,
        label=row.label,
        method=Method(row.method),
        params=row.params,
        prompt_set=row.prompt_set,
        actor=row.actor,
        node=row.node,
        environment=row.environment,
        job_id=row.id,
        key=row.key,
        repeat=row.repeat,
    )


def _run_of_actor(row: Any, prompt_set: str, nodes: Collection[str]) -> MeasuredRun:
    return MeasuredRun(
        pair=row.pair,
        label=TARGET_ALONE.label,
        method=TARGET_ALONE.method,
        params=TARGET_ALONE.params,
        prompt_set=prompt_set,
        actor=row.actor,
        node=next(iter(nodes)) if len(nodes) == 1 else None,
        environment=row.environment,
        sentinel_id=row.id,
        sequence=row.sequence,
    )


def read_run_samples(
    session: Session, run: MeasuredRun, *, after: int, most: int
) -> tuple[StoredSample, ...]:
    """Read a run's first samples of the prompts after one of this index, without what they emitted."""
    of_run = (
        SampleRow.sentinel_id == run.sentinel_id if run.job_id is None else SampleRow.job_id == run.job_id
    )
    statement = select(*_SAMPLE, *TOTALS).where(of_run, SampleRow.prompt_index > after)
    rows = session.execute(statement.order_by(SampleRow.prompt_index).limit(most)).mappings()
    return tuple(
        StoredSample(totals=sample_totals(row), **{column.key: row[column.key] for column in _SAMPLE})
        for row in rows
    )


def read_rounds(session: Session, samples: Collection[int]) -> dict[int, tuple[Round, ...]]:
    """Read the rounds of samples by the samples' ids."""
    of_samples = RoundRow.sample_id.in_(samples)
    return rounds_by_sample(session, select(RoundRow.sample_id, *ROUND).where(of_samples))
