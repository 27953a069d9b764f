"""What is left of a sweep, counted and averaged in SQL, for the estimate of when it ends."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import replace
from datetime import datetime
from typing import Any

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from dyna_eval.jobs import JobState, Pair
from dyna_eval.records import StoredCalibration
from dyna_eval.time_left import Basis, Remaining, TimeLeft, target_alone_seconds, time_left
from dyna_eval_db.columns import database_clock
from dyna_eval_db.models import AttemptRow, JobRow, PromptRow, ResultRow, SweepRow
from dyna_eval_db.results import read_likely_calibrations
from dyna_eval_db.sweeps import read_pairs


def read_time_left(session: Session, sweep_id: int) -> TimeLeft | None:
    """Estimate when a sweep that a controller works on ends; None where nothing is known of any pair."""
    columns = (
        SweepRow.pairs,
        SweepRow.prompt_sets,
        SweepRow.spec["generation"]["max_new_tokens"].as_integer().label("max_new_tokens"),
        SweepRow.spec["measure"]["sentinel_every"].as_integer().label("sentinel_every"),
    )  # not the whole file, which may list 10,000 configurations
    sweep: Any = session.execute(select(*columns).where(SweepRow.id == sweep_id)).one()
    pairs = read_pairs(sweep)
    calibrations = read_likely_calibrations(session, pairs.values(), sweep_id)
    found = time_left(
        _remaining(session, sweep_id),
        target_alone=_target_alone(session, sweep, pairs, calibrations),
        sentinel_every=sweep.sentinel_every,
    )
    if found is None or found.basis is not Basis.CALIBRATION:
        return found
    origins = dict.fromkeys(calibration.origin for calibration in calibrations.values())
    return replace(found, calibrations=tuple(origins))


def _remaining(session: Session, sweep_id: int) -> list[Remaining]:
    of_sweep = JobRow.sweep_id == sweep_id
    row = (JobRow.pair, JobRow.label)
    waiting = select(*row, func.count()).where(of_sweep, JobRow.state == JobState.QUEUED).group_by(*row)
    took = (
        select(*row, func.avg(ResultRow.wall_seconds))
        .join(ResultRow, ResultRow.job_id == JobRow.id)
        .where(of_sweep)
        .group_by(*row)
    )
    queued = {(pair, label): count for pair, label, count in session.execute(waiting)}
    means = {(pair, label): float(mean) for pair, label, mean in session.execute(took)}
    running = _running(session, sweep_id)
    return [
        Remaining(
            pair=key[0],
            label=key[1],
            queued=queued.get(key, 0),
            running=tuple(running.get(key, ())),
            done_seconds=means.get(key),
        )
        for key in dict.fromkeys([*queued, *running, *means])
    ]


def _running(session: Session, sweep_id: int) -> dict[tuple[str, str], list[float]]:
    """Return for how long the running jobs of each row have been running, in seconds."""
    claims = (
        select(JobRow.pair, JobRow.label, AttemptRow.started_at)
        .join(AttemptRow, (AttemptRow.job_id == JobRow.id) & (AttemptRow.epoch == JobRow.epoch))
        .where(JobRow.sweep_id == sweep_id, JobRow.state == JobState.RUNNING)
    )
    now: datetime = session.scalars(select(database_clock())).one()
    found: dict[tuple[str, str], list[float]] = defaultdict(list)
    for pair, label, started_at in session.execute(claims):
        found[pair, label].append((now - started_at).total_seconds())
    return found


def _target_alone(
    session: Session, sweep: Any, pairs: Mapping[str, Pair], calibrations: Mapping[str, StoredCalibration]
) -> dict[str, float]:
    """Return how long the target alone takes for a job, by the name of each pair that has a calibration."""
    found = {}
    for name, stored in calibrations.items():
        of_set = select(func.count()).where(PromptRow.prompt_set == sweep.prompt_sets[name])
        own = pairs[name].spec.generation
        found[name] = target_alone_seconds(
            prompts=session.scalar(of_set) or 0,
            max_new_tokens=own.max_new_tokens if own else sweep.max_new_tokens,
            calibration=stored.calibration,
        )
    return found
