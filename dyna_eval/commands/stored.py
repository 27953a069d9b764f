"""Commands that look at stored sweeps and their jobs, and the one that cancels them."""

from __future__ import annotations

import re
import time
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING

import click

from dyna_eval.commands.database import database_option, once_back, open_store, open_to_read
from dyna_eval.commands.options import as_typed, json_option, which_sweep
from dyna_eval.commands.output import print_json
from dyna_eval.commands.reading import find_measured
from dyna_eval.jobs import JobState, SweepState, open_jobs
from dyna_eval.wording import count, one_line, rate_text

if TYPE_CHECKING:
    from dyna_eval_db.values import Event, JobError

    from dyna_eval.reports.imported import ImportedSweep

_NODE_DIGITS = 16
"""Enough of Ray's number of a node to find it by; `--json` has all 56 digits."""
_DIGEST_DIGITS = 16
_FOLLOW_SECONDS = 1.0


@click.command()
@which_sweep
@database_option
@json_option
def cancel(*, sweep: str | None, database: str, as_json: bool) -> None:
    """Cancel what is not done of a sweep; `retry` takes it back."""
    with open_store(database) as store:
        sweep_id = find_measured(store, sweep)
        cancelled = store.cancel(sweep_id)
    if as_json:
        print_json({"id": sweep_id, "cancelled": cancelled})
        return
    click.echo(f"sweep {sweep_id}: {count(cancelled, 'job')} cancelled")
    if cancelled:
        click.echo(f"`{as_typed('retry', sweep_id)}` takes back what was cancelled", err=True)


@click.command()
@which_sweep
@database_option
@json_option
def status(*, sweep: str | None, database: str, as_json: bool) -> None:
    """Show how far a sweep is, and what failed."""
    with open_to_read(database) as store:
        sweep_id = store.find_sweep(sweep)
        imported = store.imported(sweep_id)
        if imported is not None:
            _print_imported(imported, as_json=as_json)
            return
        summary, errors = store.summary(sweep_id), store.errors(sweep_id)
    if as_json:
        print_json(
            {"id": summary.id, "name": summary.name, "state": summary.state}
            | {"jobs": {str(state): number for state, number in summary.jobs.items()}}
            | {"errors": [_error_json(job) for job in errors]}
        )
        return
    click.echo(f"sweep {summary.id} {summary.name}: {summary.state}; {_counted(summary.jobs)}")
    for line in _told_errors(errors):
        click.echo(f"  {line}")
    if summary.state in (SweepState.INTERRUPTED, SweepState.QUEUED):
        yet = " yet" if summary.state is SweepState.QUEUED else ""  # one on a cluster may be about to begin
        hint = f"`{as_typed('resume', summary.id)}` goes on, with --address where it ran on a cluster"
        click.echo(f"no controller runs it{yet}; {hint}", err=True)


def _error_json(job: JobError) -> dict[str, object]:
    known = {"job": job.job_id, "pair": job.pair, "label": job.label, "repeat": job.repeat}
    return known | {"state": job.state, "error": job.error}


def _told_errors(errors: Sequence[JobError]) -> list[str]:
    """Return a line for each error: once for all jobs of a pair that it ended, or that wait after it."""
    alike: dict[Hashable, list[JobError]] = {}
    for job in errors:
        alike.setdefault((job.pair, job.state, job.error), []).append(job)
    return [_told_error(jobs) for jobs in alike.values()]


def _told_error(jobs: Sequence[JobError]) -> str:
    """Return what went wrong, which is the same for all of these jobs of a pair."""
    first = jobs[0]
    one = f"job {first.job_id} {first.label} (repeat {first.repeat + 1})"
    if len(jobs) == 1:
        return one_line(f"{one} of pair {first.pair} {first.state}: {first.error}")
    rows = len({job.label for job in jobs})
    several = f"{count(len(jobs), 'job')} of {count(rows, 'row')} of pair {first.pair}"
    return one_line(f"{several} {first.state}, the first of them {one}: {first.error}")


def _print_imported(sweep: ImportedSweep, *, as_json: bool) -> None:
    if as_json:
        print_json(
            {"id": sweep.id, "name": sweep.name, "state": SweepState.IMPORTED, "jobs": {}, "errors": []}
            | {"files": [asdict(file.source) | {"rows": len(file.rows)} for file in sweep.files]}
        )
        return
    click.echo(f"sweep {sweep.id} {sweep.name}: {SweepState.IMPORTED}; {count(len(sweep.rows), 'row')}")
    for file in sweep.files:
        click.echo(f"  {len(file.rows)} from {file.source}")


@click.command("ls")
@database_option
@json_option
def list_sweeps(*, database: str, as_json: bool) -> None:
    """List the sweeps of a database, the latest first."""
    with open_to_read(database) as store:
        sweeps = store.list_sweeps()
    if as_json:
        print_json(
            [
                {"id": sweep.id, "name": sweep.name, "state": sweep.state, "created_at": sweep.created_at}
                | {"jobs": {str(state): number for state, number in sweep.jobs.items()}}
                | {"imported_rows": sweep.imported_rows}
                for sweep in sweeps
            ]
        )
        return
    for sweep in sweeps:
        held = count(sweep.imported_rows, "row") if sweep.imported_rows else _counted(sweep.jobs)
        click.echo(f"{sweep.id:>4}  {sweep.created_at}  {sweep.name}: {sweep.state}; {held}")


def _job_number(context: click.Context, parameter: click.Parameter, text: str) -> int:
    """Return the number that was typed; one too long for a column is refused as a word is."""
    if not re.fullmatch("[0-9]{1,18}", text) or not int(text):
        what = (
            f"{text!r} is not the number of a job; `dyna-eval report --columns jobs` prints those of every"
            " row, and `dyna-eval status SWEEP` is for a sweep"
        )
        raise click.BadParameter(what, context, parameter)
    return int(text)


@click.command()
@click.argument("job", callback=_job_number)
@database_option
@json_option
def show(*, job: int, database: str, as_json: bool) -> None:
    """Show one job: its settings, machine, attempts and texts.

    JOB is its number: `report --columns jobs` prints those of every row.
    """
    from dyna_eval.tables.report_json import pair_json

    with open_to_read(database) as store:
        stored, attempts, samples = store.job(job), store.attempts(job), store.samples(job)
        planned, facts = store.planned_job(job), store.facts(job)
    pair = pair_json(planned.pair)
    if as_json:
        told_job = asdict(stored) | {"samples": [asdict(sample) for sample in samples]}
        calibration = told_job.pop("calibration")  # of the actor, as is the environment
        print_json(
            {"job": told_job}
            | {"pair": pair}
            | {"generation": asdict(planned.generation), "measure": asdict(planned.measure)}
            | {"environment": dict(facts)}
            | {"attempts": [asdict(attempt) for attempt in attempts]}
            | {"calibration": calibration}
        )
        return
    click.echo(
        f"job {stored.id} {stored.label} (repeat {stored.repeat + 1}), pair {stored.pair}: {stored.state}"
    )
    click.echo(f"  {stored.method} {_settings(stored.params)}".rstrip())
    click.echo(f"  pair {_settings(pair)}")
    click.echo(f"  generation {_settings(asdict(planned.generation))}")
    click.echo(f"  measure {_settings(asdict(planned.measure))}")
    if facts:
        click.echo(f"  environment {_settings(facts)}")
    for attempt in attempts:
        outcome = attempt.outcome or "running"
        where = f"{attempt.actor}, node {(attempt.node or 'unknown')[:_NODE_DIGITS]}"
        if attempt.host is not None:
            where += f" ({attempt.host})"
        told = one_line(f"{where}: {outcome} {attempt.error or ''}")
        click.echo(f"  attempt {attempt.epoch} on {told}")
        if attempt.environment:
            click.echo(f"    in {_settings(attempt.environment)}")
    for sample in samples:
        speed = len(sample.token_ids) / sample.decode_seconds
        variety = "" if sample.distinct_2 is None else f"distinct-2 {sample.distinct_2:.2f}, "
        click.echo(
            f"  prompt {sample.prompt_index}: {len(sample.token_ids)} tokens in {len(sample.rounds)} rounds, "
            f"{rate_text(speed)} tokens/s, {variety}{sample.exactness}: {sample.text[:60]!r}"
        )


@click.command()
@which_sweep
@click.option("--follow", is_flag=True, help="Go on until no job is queued or running.")
@click.option("--json", "as_json", is_flag=True, help="Print each event as a line of JSON.")
@database_option
def logs(*, sweep: str | None, follow: bool, as_json: bool, database: str) -> None:
    """Print a sweep's event log."""
    with (open_store if follow else open_to_read)(database) as store:  # no copy tells what comes
        sweep_id, last = store.find_sweep(sweep), 0

        def look() -> tuple[dict[JobState, int], list[Event]]:
            counts = store.progress(sweep_id)  # before the events, so that none after the last job is missed
            return counts, store.events(sweep_id, after=last)

        while True:
            counts, events = once_back(look) if follow else look()
            for event in events:
                if as_json:
                    print_json(asdict(event), indent=None)
                else:
                    click.echo(_event_line(event))
                last = event.id
            if not follow or not open_jobs(counts):
                return
            time.sleep(_FOLLOW_SECONDS)


def _event_line(event: Event) -> str:
    job = f" job {event.job_id}" if event.job_id is not None else ""
    detail = ", ".join(f"{name}={_short(value)}" for name, value in event.detail.items())
    return one_line(f"{event.at}{job} {event.kind} {detail}")


def _settings(values: Mapping[str, object]) -> str:
    """Return `k=6, seed=0`; what is not set is left out."""
    return one_line(", ".join(f"{name}={value}" for name, value in values.items() if value is not None))


def _short(value: object) -> object:
    """Return a number, or a digest, with as many digits as a reader can use, anything else as it is."""
    if isinstance(value, str) and re.fullmatch("[0-9a-f]{64}", value):
        return value[:_DIGEST_DIGITS]
    return round(value, 3) if isinstance(value, float) else value


def _counted(counts: Mapping[JobState, int]) -> str:
    return ", ".join(f"{number} {state}" for state, number in counts.items() if number) or "no jobs"
