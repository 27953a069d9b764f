"""What `submit` would run and how long that takes: of a new sweep, or of one that is stored already."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import click

from dyna_eval.commands.database import open_store
from dyna_eval.commands.files import plan, print_configurations
from dyna_eval.commands.output import print_json
from dyna_eval.errors import DatabaseError
from dyna_eval.jobs import Job, JobState, PromptSet, PromptSpec, ResolvedSweep, open_jobs
from dyna_eval.wording import count, distinct_prompts, listed, one_line

if TYPE_CHECKING:
    from dyna_eval_db.store import Store

    from dyna_eval.records import StoredCalibration


@dataclass(frozen=True, slots=True, kw_only=True)
class Standing:
    """How a submitted sweep stands to those that a database holds."""

    jobs: Sequence[Job]
    """Those that would run."""
    sweep_id: int | None = None
    """Of the very same sweep; None for a new one."""
    counts: Mapping[JobState, int] = field(default_factory=dict)
    """Of its jobs."""
    earlier: int | None = None
    """Of a new sweep, the latest one of the same name."""
    differences: Sequence[str] = ()
    """In what it differs from that."""

    @property
    def said(self) -> str:
        """Which case it is, as a line; empty for a sweep of a name that the database does not know."""
        if self.sweep_id is not None:
            return f"sweep {self.sweep_id} again: {self._progress}, {len(self.jobs):,} to run"
        if self.earlier is None:
            return ""
        from dyna_eval.sweeps.differences import named

        in_what = one_line(named(self.differences))
        return (
            f"a new sweep: it differs from sweep {self.earlier} in {in_what};"
            f" nothing of sweep {self.earlier} is reused"
        )

    @property
    def done(self) -> int:
        return self.counts.get(JobState.DONE, 0)

    @property
    def _progress(self) -> str:
        ended = {state: self.counts.get(state, 0) for state in (JobState.FAILED, JobState.CANCELLED)}
        others = "".join(f", {number:,} {state}" for state, number in ended.items() if number)
        return f"{self.done:,} of {count(sum(self.counts.values()), 'job')} are done{others}"


def read_standing(store: Store, resolved: ResolvedSweep) -> Standing:
    """Find a sweep in a store, or else the latest one of its name."""
    from dyna_eval.sweeps.differences import differences

    sweep_id = store.sweep_of_digest(resolved.digest)
    if sweep_id is not None:
        jobs = store.jobs_to_run(sweep_id) or repeats_to_add(store, sweep_id)
        return Standing(sweep_id=sweep_id, jobs=jobs, counts=store.progress(sweep_id))
    earlier = store.latest_measured(resolved.spec.name)
    if earlier is None:
        return Standing(jobs=resolved.jobs)
    found = differences(store.resolved(earlier), resolved)
    return Standing(jobs=resolved.jobs, earlier=earlier, differences=found)


def repeats_to_add(store: Store, sweep_id: int) -> Sequence[Job]:
    """Return the jobs of one more repeat where `repeats: auto` asks for it by now."""
    from dyna_eval.running.repeats import jobs_to_add

    counts = store.progress(sweep_id)
    if open_jobs(counts) or not counts[JobState.DONE]:
        return ()
    resolved = store.resolved(sweep_id)
    if resolved.spec.measure.max_repeats is None or not all(job.is_current for job in resolved.jobs):
        return ()
    return jobs_to_add(store.record(sweep_id), resolved)


def told_of_equal_prompts(resolved: ResolvedSweep) -> list[str]:
    """Return a line for each prompt set of which some prompts are the same, with what to do about it."""
    lines, told = [], set[str]()
    for pair in resolved.pairs:
        prompts = resolved.prompt_sets[pair.spec.name]
        if prompts.distinct == len(prompts.prompts) or prompts.digest in told:
            continue
        told.add(prompts.digest)
        said = distinct_prompts(prompts.distinct, len(prompts.prompts))
        advice = _against_equal_prompts(pair.spec.prompts or resolved.spec.prompts, prompts)
        lines.append(
            f"pair {pair.spec.name}: {said}, and intervals, which take all for independent, will be too"
            f" narrow; {advice}"
        )
    return lines


def _against_equal_prompts(spec: PromptSpec, prompts: PromptSet) -> str:
    often = Counter(prompt.digest for prompt in prompts.prompts)
    if any(
        often[prompt.digest] > 1 and len(prompt.token_ids) == spec.max_prompt_tokens
        for prompt in prompts.prompts
    ):
        return (
            f"they are cut after {spec.max_prompt_tokens} tokens, where they may still be alike: raise"
            " prompts.max_prompt_tokens"
        )
    return "rows of the data set are alike: take them out, or take others with prompts.shuffle"


# ------------------------------------------------------------------------ a dry run


def print_plan(resolved: ResolvedSweep, database: str, *, as_json: bool) -> None:
    """Print what a sweep would run on stdout; nothing is stored, and no database is made."""
    from dyna_eval.reports.cells import generation_text

    try:
        with open_store(database) as store:
            standing, calibrations = read_standing(store, resolved), store.likely_calibrations(resolved)
    except DatabaseError:  # there is none yet, or it is empty: it was found usable before
        standing, calibrations = Standing(jobs=resolved.jobs), {}
    seconds = _seconds(replace(resolved, jobs=tuple(standing.jobs)), calibrations)
    asked = {job.pair.spec.name for job in standing.jobs}
    unknown = [name for name in resolved.prompt_sets if name in asked and name not in calibrations]
    if as_json:
        _print_json(resolved, standing, calibrations, seconds, unknown)
        return
    print_configurations(resolved.spec)
    for pair in resolved.pairs:
        prompts = resolved.prompt_sets[pair.spec.name].prompts
        tokens = sum(len(prompt.token_ids) for prompt in prompts)
        generated = generation_text(resolved.spec.generation_of(pair.spec))
        told = f"{count(len(prompts), 'prompt')} with {count(tokens, 'token')}, then {generated}"
        click.echo(f"pair {pair.spec.name}: {pair.dtype}, {told}")
    if standing.said:
        click.echo(standing.said)
    if seconds is None:
        click.echo("no estimate of the time: no calibration of these models is known in this database yet")
    elif standing.jobs:
        known = [own for name, own in calibrations.items() if name in asked]
        click.echo(one_line(f"{_about(seconds)} {_basis(known, unknown)}"))
    click.echo(f"{count(len(standing.jobs), 'job')}; nothing was stored or run")


def _seconds(to_run: ResolvedSweep, calibrations: Mapping[str, StoredCalibration]) -> float | None:
    """Return the estimated time of a sweep's jobs; those of pairs without calibration are left out."""
    from dyna_eval.time_left import planned_time

    if not to_run.jobs:
        return 0.0
    found = planned_time(to_run, {name: own.calibration for name, own in calibrations.items()})
    return None if found is None else found.seconds


def _print_json(
    resolved: ResolvedSweep,
    standing: Standing,
    calibrations: Mapping[str, StoredCalibration],
    seconds: float | None,
    unknown: Sequence[str],
) -> None:
    jobs = [{"key": job.key, "label": job.configuration.label, "repeat": job.repeat} for job in standing.jobs]
    measured = [
        {"pair": name, "machine": own.machine, "measured_at": own.measured_at}
        for name, own in calibrations.items()
    ]
    differs = None
    if standing.earlier is not None:
        differs = {"sweep": standing.earlier, "in": list(standing.differences)}
    print_json(
        plan(resolved.spec)
        | {"digest": resolved.digest, "sweep": standing.sweep_id, "done": standing.done}
        | {"differs_from": differs, "jobs": jobs, "estimated_seconds": seconds}
        | {"calibrations": measured, "not_estimated": unknown}
    )


def _basis(calibrations: Sequence[StoredCalibration], unknown: Sequence[str]) -> str:
    """Return what an estimate rests on, which another machine may have measured, and what is not in it."""
    origins = list(dict.fromkeys(own.origin for own in calibrations))
    noun = "the calibration" if len(origins) == 1 else "calibrations"
    text = f"on one actor if every row were as fast as the target alone, by {noun} {listed(origins)}"
    if not unknown:
        return text
    pairs = listed([f"pair {name}" for name in unknown])
    return f"{text}; without {pairs}, of which no calibration is known"


def _about(seconds: float) -> str:
    """Return a length of time as people say it."""
    if seconds < 60:
        return "under a minute"
    return f"about {seconds / 60:.0f} min" if seconds < 100 * 60 else f"about {seconds / 3600:.1f} h"
