"""What was measured, on its way into the database and out of it."""

from __future__ import annotations

import itertools
import sys
from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import asdict, fields
from typing import Any

from sqlalchemy import Select, and_, false, func, insert, or_, select
from sqlalchemy.orm import Session

from dyna_eval.jobs import JobState, Method, Pair, Params, Scalar, calibration_key, digest
from dyna_eval.measurements import (
    Calibration,
    DraftTree,
    Environment,
    Exactness,
    JobResult,
    Round,
    Sample,
    SampleTotals,
    Sentinel,
    TreeNode,
    sum_rounds,
)
from dyna_eval.records import ResultOrigin, StoredCalibration, StoredJob, StoredSentinel
from dyna_eval.reports.samples import SampleTable
from dyna_eval_db.columns import insert_many, insert_missing
from dyna_eval_db.models import (
    CalibrationRow,
    DraftTreeRow,
    EnvironmentRow,
    JobRow,
    ResultRow,
    RoundRow,
    SampleRow,
    SentinelRow,
)
from dyna_eval_db.values import Claim, error_text

TOTALS = [getattr(SampleRow, field.name) for field in fields(SampleTotals)]
"""Columns of a sample that `sample_totals` reads."""
_JOB = [
    JobRow.id,
    JobRow.key,
    JobRow.pair,
    JobRow.label,
    JobRow.method,
    JobRow.params,
    JobRow.repeat,
    JobRow.state,
    JobRow.tries,
    JobRow.error_class,
    JobRow.error,
    JobRow.prompt_set,
    JobRow.generation_digest,
]
ROUND = [getattr(RoundRow, field.name) for field in fields(Round)]
"""Columns of a round that `rounds_by_sample` reads, beside the id of its sample."""


# --------------------------------------------------------------------- writing


def insert_results(session: Session, landed: Sequence[tuple[Claim, JobResult]]) -> None:
    """Store jobs' results, with the environments, the calibrations and the sentinels that came with them."""
    for environment in {result.environment.digest: result.environment for _, result in landed}.values():
        insert_environment(session, environment)
    for claim, result in landed:
        for sentinel in result.sentinels:
            insert_sentinel(session, claim, sentinel, result.environment)
    summed = [[sum_rounds(sample) for sample in result.samples] for _, result in landed]
    rows = [
        {
            "job_id": claim.job_id,
            "attempt_id": claim.attempt_id,
            "actor": result.actor,
            "node": result.node,
            "environment": result.environment.digest,
            "calibration_id": calibration_id,
            "wall_seconds": result.wall_seconds,
            "peak_memory_bytes": result.peak_memory_bytes,
            "conditions": dict(result.conditions),
            "totals": SampleTable.of(totals).to_bytes(),
        }
        for (claim, result), totals, calibration_id in zip(
            landed, summed, _insert_calibrations(session, landed), strict=True
        )
    ]
    session.connection().execute(insert(ResultRow), rows)
    samples = [
        ({"job_id": claim.job_id, "sentinel_id": None}, sample, totals)
        for (claim, result), own in zip(landed, summed, strict=True)
        for sample, totals in zip(result.samples, own, strict=True)
    ]
    _insert_samples(session, samples)


def insert_environment(session: Session, environment: Environment) -> None:
    insert_missing(session, EnvironmentRow, digest=environment.digest, facts=dict(environment.facts))


def _insert_calibrations(session: Session, landed: Sequence[tuple[Claim, JobResult]]) -> list[int | None]:
    """Return the id of each result's calibration; those of one actor mostly bring the same."""
    ids: dict[tuple[str, str, Calibration], int] = {}
    found: list[int | None] = []
    for claim, result in landed:
        if result.calibration is None:
            found.append(None)
            continue
        brought = calibration_key(claim.job.pair), result.environment.digest, result.calibration
        if brought not in ids:
            ids[brought] = _insert_calibration(session, *brought)
        found.append(ids[brought])
    return found


def _insert_calibration(session: Session, pair_key: str, environment: str, calibration: Calibration) -> int:
    """Return the id of a calibration, which is stored unless an earlier result brought it."""
    costs = asdict(calibration)
    key = {"pair_key": pair_key, "environment": environment, "digest": digest(costs)}
    own = select(CalibrationRow.id).filter_by(**key)
    known = session.scalar(own)
    if known is not None:
        return known
    insert_missing(session, CalibrationRow, **key, **costs)  # another controller may store it just now
    return session.scalars(own).one()


def insert_sentinel(session: Session, claim: Claim, sentinel: Sentinel, environment: Environment) -> None:
    """Store an actor's own run unless it is there already, brought by an attempt that was repeated."""
    key = {
        "sweep_id": claim.sweep_id,
        "pair": claim.job.pair.spec.name,
        "actor": sentinel.actor,
        "sequence": sentinel.sequence,
    }
    summed = [sum_rounds(sample) for sample in sentinel.samples]
    values = {"environment": environment.digest, "totals": SampleTable.of(summed).to_bytes()}
    if insert_missing(session, SentinelRow, **key, **values):
        owner = {
            "job_id": None,
            "sentinel_id": session.scalars(select(SentinelRow.id).filter_by(**key)).one(),
        }
        samples = zip(sentinel.samples, summed, strict=True)
        _insert_samples(session, [(owner, sample, totals) for sample, totals in samples])


_Owned = tuple[Mapping[str, int | None], Sample, SampleTotals]
"""Whose a sample is, the sample, and its rounds summed."""


def _insert_samples(session: Session, samples: Sequence[_Owned]) -> None:
    if not samples:
        return
    rows = [
        {
            **owner,
            "prompt_digest": sample.prompt_digest,
            "token_ids": list(sample.token_ids),
            "text": sample.text,
            "divergence_index": sample.divergence_index,
            "divergence_margin_ulp": sample.divergence_margin_ulp,
            **_values(totals),
        }
        for owner, sample, totals in samples
    ]
    adding = insert(SampleRow).returning(SampleRow.id, sort_by_parameter_order=True)
    sample_ids = session.connection().execute(adding, rows).scalars().all()
    rounds = [
        {"sample_id": sample_id, "number": number, **_values(round_)}
        for sample_id, (_, sample, _) in zip(sample_ids, samples, strict=True)
        for number, round_ in enumerate(sample.rounds)
    ]
    insert_many(session, RoundRow, rounds)
    trees = [
        {"sample_id": sample_id, "number": number, "tree": _tree_json(tree)}
        for sample_id, (_, sample, _) in zip(sample_ids, samples, strict=True)
        for number, tree in enumerate(sample.trees)
    ]
    if trees:
        session.execute(insert(DraftTreeRow), trees)


def _values(flat: Round | SampleTotals) -> dict[str, Any]:
    """Return the fields of a value that holds no others; `asdict`, which copies deeply, is much slower."""
    return {field: getattr(flat, field) for field in flat.__slots__}


def _tree_json(tree: DraftTree) -> dict[str, Any]:
    return asdict(tree) | {"nodes": [list(asdict(node).values()) for node in tree.nodes]}


def _tree(stored: Mapping[str, Any]) -> DraftTree:
    names = [field.name for field in fields(TreeNode)]
    nodes = tuple(TreeNode(**dict(zip(names, values, strict=True))) for values in stored["nodes"])
    return DraftTree(**{**stored, "nodes": nodes})


# --------------------------------------------------------------------- reading


def read_jobs(session: Session, *conditions: Any, with_samples: bool) -> tuple[StoredJob, ...]:
    """Read the jobs that meet some conditions, in the order in which they were to run.

    Of what a sweep may have a hundred thousand of, only what is used is read, and kept once.
    """
    statement = (
        select(
            *_JOB,
            ResultRow.environment,
            ResultRow.actor,
            ResultRow.calibration_id,
            ResultRow.conditions,
            ResultRow.peak_memory_bytes,
        )
        .outerjoin(ResultRow, ResultRow.job_id == JobRow.id)
        .where(*conditions)
        .order_by(JobRow.position, JobRow.id)
    )
    samples = _samples_by_job(session, *conditions) if with_samples else {}
    calibrations = _calibrations_of_results(session, *conditions)
    params: dict[str, Params] = {}
    return tuple(
        _stored_job(
            row,
            params.setdefault(row.key, row.params),
            calibrations.get(row.calibration_id),
            samples.get(row.id, ()),
        )
        for row in session.execute(statement)
    )


def _samples_by_job(session: Session, *conditions: Any) -> dict[int, Sequence[SampleTotals]]:
    """Read the sums of the samples of jobs, by job; from the samples themselves for older results."""
    stored = select(ResultRow.job_id, ResultRow.totals).join(JobRow, JobRow.id == ResultRow.job_id)
    older = select(SampleRow.job_id, *TOTALS).join(ResultRow, ResultRow.job_id == SampleRow.job_id)
    older = older.join(JobRow, JobRow.id == ResultRow.job_id).where(ResultRow.totals.is_(None))
    rows = session.execute(stored.where(*conditions, ResultRow.totals.is_not(None)))
    return {
        **_totals_by_owner(session, older.where(*conditions), "job_id"),
        **{job_id: SampleTable.from_bytes(totals) for job_id, totals in rows if totals is not None},
    }


def _calibrations_of_results(session: Session, *conditions: Any) -> dict[int, Calibration]:
    """Read the calibrations that the results of jobs were measured with, each once, by id."""
    used = select(ResultRow.calibration_id).join(JobRow, JobRow.id == ResultRow.job_id).where(*conditions)
    rows = session.scalars(select(CalibrationRow).where(CalibrationRow.id.in_(used)))
    return {row.id: _calibration(row) for row in rows}


def _stored_job(
    row: Any, params: Params, calibration: Calibration | None, samples: Sequence[SampleTotals]
) -> StoredJob:
    return StoredJob(
        id=row.id,
        key=sys.intern(row.key),
        pair=sys.intern(row.pair),
        label=sys.intern(row.label),
        method=Method(row.method),
        params=params,
        repeat=row.repeat,
        state=JobState(row.state),
        tries=row.tries,
        error=error_text(row.error_class, row.error),
        prompt_set=sys.intern(row.prompt_set),
        generation_digest=sys.intern(row.generation_digest),
        environment=None if row.environment is None else sys.intern(row.environment),
        actor=None if row.actor is None else sys.intern(row.actor),
        conditions=row.conditions,
        peak_memory_bytes=row.peak_memory_bytes,
        calibration=calibration,
        samples=samples,
    )


def read_sentinels(session: Session, sweep_id: int) -> tuple[StoredSentinel, ...]:
    """Read the sentinels of a sweep, by actor and in the order in which each ran them."""
    of_sweep = SentinelRow.sweep_id == sweep_id
    older = select(SampleRow.sentinel_id, *TOTALS).join(SentinelRow, SentinelRow.id == SampleRow.sentinel_id)
    samples = _totals_by_owner(session, older.where(of_sweep, SentinelRow.totals.is_(None)), "sentinel_id")
    order = (SentinelRow.actor, SentinelRow.pair, SentinelRow.sequence)
    return tuple(
        StoredSentinel(
            actor=row.actor,
            sequence=row.sequence,
            pair=row.pair,
            samples=SampleTable.from_bytes(row.totals) if row.totals else samples.get(row.id, ()),
        )
        for row in session.scalars(select(SentinelRow).where(of_sweep).order_by(*order))
    )


def read_environments(session: Session, sweep_id: int) -> dict[str, Mapping[str, Scalar]]:
    """Read the facts of every environment that a sweep was measured in."""
    of_results = select(ResultRow.environment).join(JobRow).where(JobRow.sweep_id == sweep_id)
    of_sentinels = select(SentinelRow.environment).where(SentinelRow.sweep_id == sweep_id)
    used = of_results.union(of_sentinels)
    rows = session.scalars(select(EnvironmentRow).where(EnvironmentRow.digest.in_(used)))
    return {row.digest: row.facts for row in rows}


def read_result_origins(session: Session, sweep_id: int) -> tuple[ResultOrigin, ...]:
    """Read where the finished jobs of each pair of a sweep were measured, the latest environment last."""
    latest = func.max(ResultRow.landed_at)
    rows = session.execute(
        select(JobRow.pair, ResultRow.environment, latest)
        .join(JobRow, JobRow.id == ResultRow.job_id)
        .where(JobRow.sweep_id == sweep_id)
        .group_by(JobRow.pair, ResultRow.environment)
        .order_by(latest, JobRow.pair, ResultRow.environment)
    )
    facts = read_environments(session, sweep_id)
    return tuple(
        ResultOrigin(
            pair=pair,
            environment=environment,
            facts=facts[environment],
            measured_at=landed_at.isoformat(timespec="seconds"),
        )
        for pair, environment, landed_at in rows
    )


def read_facts(session: Session, job_id: int) -> Mapping[str, Scalar]:
    """Read the facts of the environment that a job's result is from; empty where there is none."""
    of_job = select(EnvironmentRow.facts).join(ResultRow, ResultRow.environment == EnvironmentRow.digest)
    return session.scalar(of_job.where(ResultRow.job_id == job_id)) or {}


def read_calibrations(session: Session, pair: Pair) -> dict[str, Calibration]:
    """Read what a pair's passes were last found to cost, by environment, the latest first."""
    rows = session.scalars(
        select(CalibrationRow)
        .where(CalibrationRow.id.in_(_latest_calibrations(pair)))
        .order_by(CalibrationRow.id.desc())
    )
    return {row.environment: _calibration(row) for row in rows}


def _latest_calibrations(pair: Pair) -> Select[Any]:
    """Select the ids of a pair's latest calibrations, one for each environment."""
    of_pair = CalibrationRow.pair_key == calibration_key(pair)
    return select(func.max(CalibrationRow.id)).where(of_pair).group_by(CalibrationRow.environment)


def read_likely_calibrations(
    session: Session, pairs: Iterable[Pair], sweep_id: int | None
) -> dict[str, StoredCalibration]:
    """Read what passes are likely to cost in what a sweep still has to run, by each pair ever calibrated.

    Of several environments that of the sweep's own latest result is taken, else the latest calibrated one.
    """
    found = {pair.spec.name: _likely_calibration(session, pair, sweep_id) for pair in pairs}
    return {name: calibration for name, calibration in found.items() if calibration is not None}


def _likely_calibration(session: Session, pair: Pair, sweep_id: int | None) -> StoredCalibration | None:
    rows = session.execute(
        select(CalibrationRow, EnvironmentRow.facts)
        .join(EnvironmentRow, EnvironmentRow.digest == CalibrationRow.environment)
        .where(CalibrationRow.id.in_(_latest_calibrations(pair)))
        .order_by(CalibrationRow.id.desc())
    ).all()
    if not rows:
        return None
    own = None
    if len(rows) > 1 and sweep_id is not None:
        results = select(ResultRow.environment).join(JobRow, JobRow.id == ResultRow.job_id)
        results = results.where(JobRow.sweep_id == sweep_id, JobRow.pair == pair.spec.name)
        latest = (ResultRow.landed_at.desc(), ResultRow.attempt_id.desc())
        own = session.scalar(results.order_by(*latest).limit(1))
    row, facts = next((found for found in rows if found[0].environment == own), rows[0])
    return StoredCalibration(
        calibration=_calibration(row),
        facts=facts,
        measured_at=row.measured_at.isoformat(timespec="seconds"),
    )


def _calibration(row: CalibrationRow) -> Calibration:
    return Calibration(
        draft_seconds=tuple((size, seconds) for size, seconds in row.draft_seconds),
        verify_seconds=tuple((size, seconds) for size, seconds in row.verify_seconds),
    )


def read_samples(session: Session, job_id: int, *conditions: Any) -> tuple[Sample, ...]:
    """Read what a job decoded, with all rounds, in the order of the prompts."""
    of_job = and_(SampleRow.job_id == job_id, *conditions)
    rounds = rounds_by_sample(session, select(RoundRow.sample_id, *ROUND).join(SampleRow).where(of_job))
    stored = select(DraftTreeRow).join(SampleRow).where(of_job)
    trees: defaultdict[int, list[DraftTree]] = defaultdict(list)
    for row in session.scalars(stored.order_by(DraftTreeRow.sample_id, DraftTreeRow.number)):
        trees[row.sample_id].append(_tree(row.tree))
    samples = session.scalars(select(SampleRow).where(of_job).order_by(SampleRow.prompt_index))
    return tuple(_sample(row, rounds.get(row.id, ()), tuple(trees[row.id])) for row in samples)


def rounds_by_sample(session: Session, statement: Select[Any]) -> dict[int, tuple[Round, ...]]:
    """Read what selects `sample_id` and ROUND as the rounds of each sample, in their order."""
    rows = session.execute(statement.order_by(RoundRow.sample_id, RoundRow.number)).mappings()
    return {
        sample_id: tuple(Round(**{key: row[key] for key in row if key != "sample_id"}) for row in group)
        for sample_id, group in itertools.groupby(rows, key=lambda row: row["sample_id"])
    }


def read_tree_sizes(
    session: Session, sweep_id: int, prompts: Mapping[str, Collection[int]] | None
) -> dict[int, dict[int, int]]:
    """Count a sweep's rounds by job and by verified draft nodes, over some prompts of each set or all."""
    conditions = [JobRow.sweep_id == sweep_id, JobRow.method != Method.AR]
    if prompts is not None:
        of_sets = [
            and_(JobRow.prompt_set == name, SampleRow.prompt_index.in_(own)) for name, own in prompts.items()
        ]
        conditions.append(or_(false(), *of_sets))
    counted = (
        select(JobRow.id, RoundRow.verified, func.count())
        .join(SampleRow, SampleRow.job_id == JobRow.id)
        .join(RoundRow, RoundRow.sample_id == SampleRow.id)
        .where(*conditions)
        .group_by(JobRow.id, RoundRow.verified)
        .order_by(JobRow.id, RoundRow.verified)
    )
    sizes: dict[int, dict[int, int]] = {}
    for job_id, nodes, rounds in session.execute(counted):
        sizes.setdefault(job_id, {})[nodes] = rounds
    return sizes


def _sample(row: SampleRow, rounds: tuple[Round, ...], trees: tuple[DraftTree, ...]) -> Sample:
    return Sample(
        prompt_index=row.prompt_index,
        prompt_digest=row.prompt_digest,
        prompt_tokens=row.prompt_tokens,
        token_ids=tuple(row.token_ids),
        text=row.text,
        prefill_seconds=row.prefill_seconds,
        decode_seconds=row.decode_seconds,
        ttft_seconds=row.ttft_seconds,
        exactness=_exactness(row.exactness),
        divergence_index=row.divergence_index,
        divergence_margin_ulp=row.divergence_margin_ulp,
        distinct_2=row.distinct_2,
        rounds=rounds,
        trees=trees,
    )


def _totals_by_owner(
    session: Session, statement: Select[Any], owner: str
) -> dict[int, tuple[SampleTotals, ...]]:
    found: defaultdict[int, list[SampleTotals]] = defaultdict(list)
    for row in session.execute(statement.order_by(SampleRow.prompt_index)).mappings():
        found[row[owner]].append(sample_totals(row))
    return {key: tuple(samples) for key, samples in found.items()}


def sample_totals(row: Mapping[Any, Any]) -> SampleTotals:
    """Read a row that has all of TOTALS."""
    values = {column.key: row[column.key] for column in TOTALS}
    values["exactness"] = _exactness(values["exactness"])
    values["accepted_by_depth"] = tuple(values["accepted_by_depth"])
    return SampleTotals(**values)


def _exactness(stored: str | None) -> Exactness | None:
    return None if stored is None else Exactness(stored)
