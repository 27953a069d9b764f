"""Commands that run jobs: a sweep from its file, and what a stored sweep still lacks."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import click

from dyna_eval.commands.database import database_option, once_back, open_store
from dyna_eval.commands.files import warn
from dyna_eval.commands.options import (
    Execution,
    as_typed,
    execution_options,
    json_option,
    limit_option,
    overrides_option,
    which_sweep,
)
from dyna_eval.commands.output import print_json, stdout_kept_clean
from dyna_eval.commands.planning import print_plan, read_standing, repeats_to_add, told_of_equal_prompts
from dyna_eval.commands.reading import find_measured
from dyna_eval.commands.reports import print_report
from dyna_eval.errors import DatabaseError, LeaseLostError, MixedRowsError, PairError, PromptError
from dyna_eval.jobs import JobState, ResolvedSweep, SweepSpec, open_jobs
from dyna_eval.wording import count, listed, one_line

if TYPE_CHECKING:
    from dyna_eval_db.store import Store


@click.command()
@click.argument("file", type=click.Path(path_type=Path))
@overrides_option
@limit_option
@click.option("--name", help="Name of the sweep, instead of the file's.")
@click.option("--dry-run", is_flag=True, help="Say what would run; store and run nothing.")
@execution_options
@database_option
@json_option
def submit(
    *,
    file: Path,
    overrides: tuple[str, ...],
    max_configurations: int,
    name: str | None,
    dry_run: bool,
    execution: Execution,
    database: str,
    as_json: bool,
) -> int:
    """Run what a sweep file still lacks, and print the table."""
    from dyna_eval.sweeps.config import load_sweep

    spec = load_sweep(file, overrides, name=name, max_configurations=max_configurations)
    warn(file, spec)
    _check_cores(execution)
    _check_may_travel(database, execution)
    _check_database(database)
    with stdout_kept_clean(), _blamed_on(file, spec, overrides):
        resolved = _resolve(spec, replace(execution, address="local") if dry_run else execution)
    for line in told_of_equal_prompts(resolved):
        click.echo(line, err=True)
    if dry_run:
        print_plan(resolved, database, as_json=as_json)
        return 0
    with open_store(database, create=True) as store:
        standing = read_standing(store, resolved)
        if standing.said and standing.jobs:
            click.echo(standing.said, err=True)
        sweep_id = store.add_sweep(resolved)
        return _execute(store, database, sweep_id, execution, as_json=as_json)


@click.command()
@which_sweep
@execution_options
@database_option
@json_option
def resume(*, sweep: str | None, execution: Execution, database: str, as_json: bool) -> int:
    """Go on with a sweep that was interrupted."""
    _check_may_travel(database, execution)
    with open_store(database) as store:
        return _execute(store, database, find_measured(store, sweep), execution, as_json=as_json)


@click.command()
@which_sweep
@execution_options
@database_option
@json_option
def retry(*, sweep: str | None, execution: Execution, database: str, as_json: bool) -> int:
    """Run the failed and the cancelled jobs of a sweep again."""
    _check_may_travel(database, execution)
    with open_store(database) as store:
        sweep_id = find_measured(store, sweep)
        counts = store.progress(sweep_id)
        if counts[JobState.FAILED] + counts[JobState.CANCELLED] + open_jobs(counts):
            _check_decoder(store, sweep_id)
        click.echo(f"{count(store.retry(sweep_id), 'job')} queued again", err=True)
        return _execute(store, database, sweep_id, execution, as_json=as_json)


class _Interrupted(click.ClickException):
    """A run was stopped by Ctrl-C or SIGTERM; its sweep is stored and can go on."""

    exit_code = 130


# ------------------------------------------------------------- before anything runs


def _check_cores(execution: Execution) -> None:
    """Refuse more cores than this machine has before anything is stored; a cluster may still grow."""
    cores = os.cpu_count() or 1
    if execution.address == "local" and (execution.cpus_per_pair or 0) > cores:
        raise click.BadParameter(f"this machine has {cores} cores", param_hint="--cpus-per-pair")


def _check_may_travel(database: str, execution: Execution) -> None:
    """Refuse, before anything is changed, to hand a database's password to a cluster."""
    if execution.detach:
        from dyna_eval.running.detached import check_database_of_detached

        check_database_of_detached(database)


def _check_database(database: str) -> None:
    """Refuse a database that cannot be used before any model is looked at; create nothing."""
    from dyna_eval_db.store import Store

    Store.check(database)


@contextlib.contextmanager
def _blamed_on(file: Path, spec: SweepSpec, overrides: tuple[str, ...]) -> Iterator[None]:
    """Name the line of the sweep file that asks for the models or the prompts that are refused."""
    from dyna_eval.sweeps.config import mistake_at

    try:
        yield
    except (PairError, PromptError) as error:
        section = "pair" if isinstance(error, PairError) else "prompts"
        raise mistake_at(section, str(error), spec=spec, file=str(file), overrides=overrides) from error


def _resolve(spec: SweepSpec, execution: Execution) -> ResolvedSweep:
    from dyna_eval.running.apart import resolve_here, resolve_on_cluster

    if execution.address == "local":
        return resolve_here(spec)
    from dyna_eval.running.connection import connected

    with connected(execution.address, insecure=execution.insecure):
        return resolve_on_cluster(
            spec, lambda text: click.echo(text, err=True), gpus_per_pair=execution.gpus_per_pair
        )


# -------------------------------------------------------------------------- running


def _execute(store: Store, database: str, sweep_id: int, execution: Execution, *, as_json: bool) -> int:
    """Run what a sweep still lacks, print its table, and return the exit status."""
    with _told_how_to_go_on(sweep_id, execution):
        return _run_and_report(store, database, sweep_id, execution, as_json=as_json)


@contextlib.contextmanager
def _told_how_to_go_on(sweep_id: int, execution: Execution) -> Iterator[None]:
    """Name the command that goes on with a stored sweep where its run is stopped before its end."""
    goes_on = f"`{execution.command('resume', sweep_id)}` goes on where it stopped"
    try:
        yield
    except KeyboardInterrupt:
        raise _Interrupted(f"interrupted; {goes_on}") from None
    except DatabaseError as error:
        raise type(error)(f"{error}; then {goes_on}") from error
    except LeaseLostError as error:
        raise LeaseLostError(f"{error}; `{as_typed('status', sweep_id)}` shows how far it is") from error


def _run_and_report(
    store: Store, database: str, sweep_id: int, execution: Execution, *, as_json: bool
) -> int:
    from dyna_eval.reports.measured_report import build_report

    _add_repeats(store, sweep_id)  # a run may have been killed just before it did
    counts = store.progress(sweep_id)
    waiting = open_jobs(counts)
    if waiting:
        _check_decoder(store, sweep_id)
    if waiting and execution.detach:
        return _detach(database, sweep_id, execution, as_json=as_json)
    if waiting:
        with stdout_kept_clean():
            counts = _work(store, sweep_id, execution, counts)
    else:
        click.echo(_nothing_left(store, sweep_id), err=True)
    _hint_at_rest(sweep_id, execution, counts)
    record = once_back(lambda: store.record(sweep_id))
    print_report(build_report(record, allow_mixed=True), "json" if as_json else None)
    return 0 if counts[JobState.DONE] == sum(counts.values()) else 1


def _nothing_left(store: Store, sweep_id: int) -> str:
    """Return that a sweep has no job to run, and where and when its results were measured."""
    origins = list(dict.fromkeys(own.origin for own in store.result_origins(sweep_id)))
    text = f"sweep {sweep_id}: nothing left to run"
    if not origins:
        return text
    return one_line(
        f"{text}; its results are {listed(origins)}; submit the file with another --name to measure anew"
    )


def _detach(database: str, sweep_id: int, execution: Execution, *, as_json: bool) -> int:
    """Hand a stored sweep to the cluster's head."""
    from dyna_eval.running.connection import connected
    from dyna_eval.running.detached import start_detached

    with (
        stdout_kept_clean(),
        connected(execution.address, insecure=execution.insecure) as dashboard,
    ):
        job = start_detached(sweep_id, database, dashboard=dashboard, options=execution.as_options())
    if as_json:
        print_json({"sweep": sweep_id, "ray_job": job})
    else:
        watching, stopping = as_typed("logs", sweep_id, "--follow"), as_typed("cancel", sweep_id)
        click.echo(
            f"sweep {sweep_id} runs on the cluster as Ray job {job};"
            f" `{watching}` watches it, `{stopping}` stops it"
        )
    return 0


def _check_decoder(store: Store, sweep_id: int) -> None:
    """Refuse to go on with a sweep of other decoding loops: its rows would not be comparable."""
    if not store.is_current(sweep_id):
        raise MixedRowsError(
            f"sweep {sweep_id} was begun by a version of dyna-eval whose decoding loops differ; submit its "
            "file again, which makes a new sweep, or go on with the version that began it"
        )


def _hint_at_rest(sweep_id: int, execution: Execution, counts: Mapping[JobState, int]) -> None:
    """Say what can be done about jobs that are not done and will not run by themselves."""
    failed, cancelled = counts[JobState.FAILED], counts[JobState.CANCELLED]
    running = counts[JobState.RUNNING]
    if running:
        click.echo(
            f"{count(running, 'job')} could not be taken back from an earlier run, whose connection the"
            f" database has not ended yet; in a minute `{execution.command('resume', sweep_id)}` runs"
            " what is left",
            err=True,
        )
    if failed:
        click.echo(
            f"{count(failed, 'job')} failed: `{as_typed('status', sweep_id)}` says why, "
            f"`{execution.command('retry', sweep_id)}` runs them again",
            err=True,
        )
    if cancelled:
        were, again = ("was", "it") if cancelled == 1 else ("were", "them")
        click.echo(
            f"{count(cancelled, 'job')} {were} cancelled: "
            f"`{execution.command('retry', sweep_id)}` runs {again} after all",
            err=True,
        )


def _work(
    store: Store, sweep_id: int, execution: Execution, counts: dict[JobState, int]
) -> dict[JobState, int]:
    """Run a sweep unless another controller does, which is known before anything slow is begun."""
    from dyna_eval.running.lease import leased

    with leased(store, sweep_id) as holder:
        return _work_as(holder, store, sweep_id, execution, counts)


def _work_as(
    holder: str, store: Store, sweep_id: int, execution: Execution, counts: dict[JobState, int]
) -> dict[JobState, int]:
    from dyna_eval.running.connection import connected
    from dyna_eval.running.controller import Controller
    from dyna_eval.running.progress import ProgressDisplay

    total = sum(counts.values())
    with (
        connected(execution.address, insecure=execution.insecure),
        ProgressDisplay(
            total=total,
            done=total - open_jobs(counts),
            several_pairs=len(store.summary(sweep_id).pairs) > 1,
        ) as display,
    ):

        def refill() -> int:
            added = _add_repeats(store, sweep_id)
            display.extend(added)
            return added

        controller = Controller(
            store=store,
            sweep_id=sweep_id,
            holder=holder,
            watch=display,
            cpus_per_pair=execution.cpus_per_pair,
            gpus_per_pair=execution.gpus_per_pair,
            fail_fast=execution.fail_fast,
            may_grow=execution.address != "local",
            refill=refill,
            resume=execution.command("resume", sweep_id),
        )
        try:
            ended = controller.run()
            display.settle(waiting=open_jobs(ended))
            return ended
        finally:
            display.end(unstored=controller.unstored)


def _add_repeats(store: Store, sweep_id: int) -> int:
    """Add the repeats that `repeats: auto` asks for by now, and return how many jobs that are."""
    jobs = repeats_to_add(store, sweep_id)
    return store.add_jobs(sweep_id, jobs) if jobs else 0
