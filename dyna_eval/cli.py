"""The `dyna-eval` command. Results go to stdout, progress and mistakes to stderr.

Exit status: 0 done; 1 some job failed; 2 bad input or usage, told in one line; 130 interrupted.
Everything heavy is imported inside the command that needs it, so that `--help` answers at once.
"""

from __future__ import annotations

import contextlib
import json
import os
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn, TypeVar

import click

from dyna_eval import __version__
from dyna_eval.errors import DynaEvalError, InputError, MissingDatabaseError

if TYPE_CHECKING:
    from dyna_eval_db.store import Store

    from dyna_eval.jobs import JobState, ResolvedSweep, SweepSpec
    from dyna_eval.report import Report

DEFAULT_DATABASE = "sqlite:///dyna-eval.db"

_Command = TypeVar("_Command", bound=Callable[..., Any])


def main() -> NoReturn:
    """Run the command line; every expected failure is one line on stderr."""
    sys.exit(_run(sys.argv[1:]))


def _run(arguments: list[str]) -> int:
    try:
        status = cli.main(arguments, prog_name="dyna-eval", standalone_mode=False)
    except click.ClickException as error:
        click.echo(f"dyna-eval: {error.format_message()}", err=True)
        return error.exit_code
    except InputError as error:
        click.echo(f"dyna-eval: {error}", err=True)
        return 2
    except DynaEvalError as error:
        click.echo(f"dyna-eval: {error}", err=True)
        return 1
    except (KeyboardInterrupt, click.Abort):
        click.echo("dyna-eval: interrupted; `dyna-eval resume` goes on where it stopped", err=True)
        return 130
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        return 0
    return status if isinstance(status, int) else 0


_database = click.option(
    "--db",
    "database",
    default=DEFAULT_DATABASE,
    envvar="DYNA_EVAL_DB",
    show_default=True,
    show_envvar=True,
    help="Where results are kept: an SQLAlchemy URL.",
)
_as_json = click.option("--json", "as_json", is_flag=True, help="Print JSON and nothing else on stdout.")
_which_sweep = click.argument("sweep", required=False)


def _execution_options(command: _Command) -> _Command:
    options = [
        click.option(
            "--address",
            default="local",
            show_default=True,
            help="Ray cluster: local starts one here, auto or HOST:PORT joins a running one.",
        ),
        click.option(
            "--cpus-per-pair", type=click.IntRange(min=1), help="Cores for each pair on a node without GPUs."
        ),
        click.option("--fail-fast", is_flag=True, help="Start no further job once one has failed."),
    ]
    for option in reversed(options):
        command = option(command)
    return command


@click.group(
    context_settings={
        "auto_envvar_prefix": "DYNA_EVAL",
        "help_option_names": ["-h", "--help"],
        "max_content_width": 100,
    }
)
@click.version_option(__version__)
def cli() -> None:
    """Run ablations of speculative decoding and report them.

    SWEEP is a sweep's name or number; without it, the latest sweep.
    """


# ------------------------------------------------------------------ sweep files


_sweep_file = click.argument("file", type=click.Path(path_type=Path))
_overrides = click.option(
    "--set", "overrides", multiple=True, metavar="KEY=VALUE", help="Change a setting, as generation.seed=1."
)
_most = click.option(
    "--max-configurations",
    type=click.IntRange(min=1),
    default=10_000,
    show_default=True,
    help="Limit of a sweep.",
)


@cli.command()
@_sweep_file
@_overrides
@_most
@click.option("--name", help="Name of the sweep, instead of the file's.")
@click.option("--dry-run", is_flag=True, help="Say what would run; store and run nothing.")
@_execution_options
@_database
@_as_json
def submit(
    *,
    file: Path,
    overrides: tuple[str, ...],
    max_configurations: int,
    name: str | None,
    dry_run: bool,
    address: str,
    cpus_per_pair: int | None,
    fail_fast: bool,
    database: str,
    as_json: bool,
) -> int:
    """Expand a sweep file, run what is not done yet, and print the table."""
    from dyna_eval.config import load_sweep

    spec = load_sweep(file, overrides, name=name, max_configurations=max_configurations)
    _check_database(database)
    with _stdout_kept_clean():
        resolved = _resolve(spec, "local" if dry_run else address)
    if dry_run:
        _print_plan(resolved, as_json=as_json)
        return 0
    with _open_store(database, create=True) as store:
        sweep_id = store.add_sweep(resolved)
        return _execute(
            store, sweep_id, address, cpus_per_pair=cpus_per_pair, fail_fast=fail_fast, as_json=as_json
        )


@cli.command()
@click.argument("file", type=click.Path(path_type=Path), required=False)
@_overrides
@_most
@click.option("--schema", is_flag=True, help="Print the JSON Schema of sweep files, for editors.")
@_as_json
def validate(
    *, file: Path | None, overrides: tuple[str, ...], max_configurations: int, schema: bool, as_json: bool
) -> None:
    """Check a sweep file without looking at its models or data."""
    from dyna_eval.config import json_schema, load_sweep

    if schema:
        _print_json(json_schema())
        return
    if file is None:
        raise click.UsageError("name a sweep file, or ask for --schema")
    spec = load_sweep(file, overrides, max_configurations=max_configurations)
    jobs = len(spec.configurations) * len(spec.pairs) * spec.measure.repeats
    if as_json:
        _print_json({"name": spec.name, "configurations": len(spec.configurations), "jobs": jobs})
    else:
        click.echo(f"{file}: {spec.name}: {len(spec.configurations)} configurations, {jobs} jobs")


@cli.command()
@_sweep_file
@_overrides
@_most
@_as_json
def expand(*, file: Path, overrides: tuple[str, ...], max_configurations: int, as_json: bool) -> None:
    """List the configurations that a sweep file stands for, with every default resolved."""
    from dyna_eval.config import load_sweep

    spec = load_sweep(file, overrides, max_configurations=max_configurations)
    if as_json:
        _print_json(_plan(spec))
    else:
        _print_configurations(spec)


# --------------------------------------------------------------- stored sweeps


@cli.command()
@_which_sweep
@_execution_options
@_database
@_as_json
def resume(
    *,
    sweep: str | None,
    address: str,
    cpus_per_pair: int | None,
    fail_fast: bool,
    database: str,
    as_json: bool,
) -> int:
    """Go on with a sweep that was interrupted."""
    with _open_store(database) as store:
        return _execute(
            store,
            store.find_sweep(sweep),
            address,
            cpus_per_pair=cpus_per_pair,
            fail_fast=fail_fast,
            as_json=as_json,
        )


@cli.command()
@_which_sweep
@_execution_options
@_database
@_as_json
def retry(
    *,
    sweep: str | None,
    address: str,
    cpus_per_pair: int | None,
    fail_fast: bool,
    database: str,
    as_json: bool,
) -> int:
    """Run the failed jobs of a sweep again."""
    with _open_store(database) as store:
        sweep_id = store.find_sweep(sweep)
        count = store.retry(sweep_id)
        click.echo(f"{count} failed jobs queued again", err=True)
        return _execute(
            store, sweep_id, address, cpus_per_pair=cpus_per_pair, fail_fast=fail_fast, as_json=as_json
        )


@cli.command()
@_which_sweep
@_database
def cancel(*, sweep: str | None, database: str) -> None:
    """Stop a sweep: what is not done is cancelled, what is done stays."""
    with _open_store(database) as store:
        sweep_id = store.find_sweep(sweep)
        click.echo(f"sweep {sweep_id}: {store.cancel(sweep_id)} jobs cancelled")


@cli.command()
@_which_sweep
@_database
@_as_json
def status(*, sweep: str | None, database: str, as_json: bool) -> None:
    """Show how far a sweep is, and what failed."""
    with _open_store(database) as store:
        sweep_id = store.find_sweep(sweep)
        record = store.record(sweep_id)
        counts = store.progress(sweep_id)
    failed = [job for job in record.jobs if job.error]
    if as_json:
        _print_json(
            {"id": record.id, "name": record.name, "state": record.state}
            | {"jobs": {str(state): count for state, count in counts.items()}}
            | {"errors": [{"job": job.id, "label": job.label, "error": job.error} for job in failed]}
        )
        return
    click.echo(f"sweep {record.id} {record.name}: {record.state}; {_counted(counts)}")
    for job in failed:
        click.echo(f"  job {job.id} {job.label} (repeat {job.repeat + 1}) {job.state}: {job.error}")


@cli.command("ls")
@_database
@_as_json
def list_sweeps(*, database: str, as_json: bool) -> None:
    """List the sweeps of a database, the latest first."""
    with _open_store(database) as store:
        sweeps = store.list_sweeps()
    if as_json:
        _print_json(
            [
                {"id": sweep.id, "name": sweep.name, "state": sweep.state, "created_at": sweep.created_at}
                | {"jobs": {str(state): count for state, count in sweep.jobs.items()}}
                for sweep in sweeps
            ]
        )
        return
    for sweep in sweeps:
        click.echo(f"{sweep.id:>4}  {sweep.created_at}  {sweep.name}: {sweep.state}; {_counted(sweep.jobs)}")


@cli.command()
@click.argument("job", type=int)
@_database
@_as_json
def show(*, job: int, database: str, as_json: bool) -> None:
    """Show one job: its configuration, its attempts, and what every prompt was continued with."""
    with _open_store(database) as store:
        stored, attempts, samples = store.job(job), store.attempts(job), store.samples(job)
    if as_json:
        _print_json(
            {"job": asdict(stored) | {"samples": [asdict(sample) for sample in samples]}}
            | {"attempts": [asdict(attempt) for attempt in attempts]}
        )
        return
    click.echo(
        f"job {stored.id} {stored.label} (repeat {stored.repeat + 1}), pair {stored.pair}: {stored.state}"
    )
    click.echo(f"  {stored.method} " + ", ".join(f"{name}={value}" for name, value in stored.params.items()))
    for attempt in attempts:
        click.echo(
            f"  attempt {attempt.epoch} on {attempt.actor}: {attempt.outcome} {attempt.error or ''}".rstrip()
        )
    for sample in samples:
        speed = len(sample.token_ids) / sample.decode_seconds
        click.echo(
            f"  prompt {sample.prompt_index}: {len(sample.token_ids)} tokens in {len(sample.rounds)} rounds, "
            f"{speed:.1f} tokens/s, {sample.exactness}: {sample.text[:60]!r}"
        )


@cli.command()
@_which_sweep
@_database
def logs(*, sweep: str | None, database: str) -> None:
    """Print a sweep's event log."""
    with _open_store(database) as store:
        for event in store.events(store.find_sweep(sweep)):
            job = f" job {event.job_id}" if event.job_id is not None else ""
            detail = ", ".join(f"{name}={value}" for name, value in event.detail.items())
            click.echo(f"{event.at}{job} {event.kind} {detail}".rstrip())


# --------------------------------------------------------------------- reports


@cli.command()
@_which_sweep
@click.option("--latex", "form", flag_value="latex", help="Print a booktabs table.")
@click.option("--markdown", "form", flag_value="markdown", help="Print a Markdown table.")
@click.option("--csv", "form", flag_value="csv", help="Print comma-separated values.")
@click.option("--json", "form", flag_value="json", help="Print every figure as JSON.")
@click.option(
    "--plots", type=click.Path(path_type=Path, file_okay=False), help="Write the figure to this folder."
)
@click.option("--allow-mixed", is_flag=True, help="Print rows that were not measured alike, marked as such.")
@_database
def report(
    *, sweep: str | None, form: str | None, plots: Path | None, allow_mixed: bool, database: str
) -> None:
    """Print the ablation table of a sweep."""
    from dyna_eval.report import build_report

    with _open_store(database) as store:
        record = store.record(store.find_sweep(sweep))
    built = build_report(record, allow_mixed=allow_mixed)
    if plots is not None:
        from dyna_eval.plots import ablation_bars

        for path in ablation_bars(built, plots):
            click.echo(f"wrote {path}", err=True)
        if form is None:
            return
    _print_report(built, form)


# ----------------------------------------------------------- pairs and databases


@cli.group()
def pairs() -> None:
    """Look at model pairs."""


@pairs.command("list")
@_database
@_as_json
def list_pairs(*, database: str, as_json: bool) -> None:
    """List the packaged pair and those of stored sweeps."""
    known = {"demo": "packaged"}
    with contextlib.suppress(MissingDatabaseError), _open_store(database) as store:
        for sweep in store.list_sweeps():
            for name in store.record(sweep.id).pairs:
                known.setdefault(name, f"sweep {sweep.id} {sweep.name}")
    if as_json:
        _print_json(known)
        return
    for name, where in known.items():
        click.echo(f"{name}: {where}")


@pairs.command("check")
@click.argument("target")
@click.argument("draft", required=False)
@click.option("--dtype", type=click.Choice(["auto", "float32", "bfloat16", "float16"]), default="auto")
def check_pair(*, target: str, draft: str | None, dtype: str) -> None:
    """Load a pair, compare its tokenizers, and test that its trees are verified exactly.

    TARGET and DRAFT are folders or hub ids; `demo` alone is the packaged pair.
    """
    from dyna_eval_workers.selfcheck import check

    from dyna_eval.jobs import PairSpec

    spec = PairSpec(name=target, target=target, draft=target if target == "demo" else draft, dtype=dtype)
    with _stdout_kept_clean():
        lines = check(spec)
    for line in lines:
        click.echo(line)


@cli.group("db")
def database_group() -> None:
    """Look after the database."""


@database_group.command("upgrade")
@_database
def upgrade_database(*, database: str) -> None:
    """Bring an older database to this version's schema."""
    from dyna_eval_db.migrate import upgrade

    before = upgrade(database)
    click.echo(f"the schema is up to date; before it was {before.kind}")


@database_group.command("check")
@_database
def check_database(*, database: str) -> None:
    """Check that the database can be used by this version."""
    with _open_store(database) as store:
        click.echo(f"ok: {len(store.list_sweeps())} sweeps")


# -------------------------------------------------------------- shared by commands


@contextlib.contextmanager
def _stdout_kept_clean() -> Iterator[None]:
    """Send whatever libraries and Ray's processes print on stdout to stderr, for the time of a block."""
    sys.stdout.flush()
    kept = os.dup(1)
    os.dup2(2, 1)
    try:
        yield
    finally:
        sys.stdout.flush()
        os.dup2(kept, 1)
        os.close(kept)


@contextlib.contextmanager
def _open_store(database: str, *, create: bool = False) -> Iterator[Store]:
    from dyna_eval_db.store import Store

    store = Store.open(database, create=create)
    try:
        yield store
    finally:
        store.close()


def _check_database(database: str) -> None:
    """Refuse a database that cannot be used before any model is looked at; create nothing."""
    from dyna_eval_db.store import Store

    Store.check(database)


def _resolve(spec: SweepSpec, address: str) -> ResolvedSweep:
    from dyna_eval_workers.resolution import resolve_sweep

    from dyna_eval.controller import connected, resolve_on_cluster

    if address == "local":
        return resolve_sweep(spec)
    with connected(address):
        return resolve_on_cluster(spec)


def _execute(
    store: Store, sweep_id: int, address: str, *, cpus_per_pair: int | None, fail_fast: bool, as_json: bool
) -> int:
    """Run what a sweep still lacks, print its table, and return the exit status."""
    from dyna_eval.jobs import JobState
    from dyna_eval.report import build_report

    counts = store.progress(sweep_id)
    if counts[JobState.QUEUED] or counts[JobState.RUNNING]:
        with _stdout_kept_clean():
            counts = _work(store, sweep_id, address, counts, cpus_per_pair=cpus_per_pair, fail_fast=fail_fast)
    else:
        click.echo(f"sweep {sweep_id}: nothing left to run", err=True)
    record = store.record(sweep_id)
    _print_report(build_report(record, allow_mixed=True), "json" if as_json else None)
    return 0 if counts[JobState.DONE] == sum(counts.values()) else 1


def _work(
    store: Store,
    sweep_id: int,
    address: str,
    counts: dict[JobState, int],
    *,
    cpus_per_pair: int | None,
    fail_fast: bool,
) -> dict[JobState, int]:
    from dyna_eval.controller import Controller, connected
    from dyna_eval.jobs import JobState
    from dyna_eval.progress import ProgressDisplay

    total = sum(counts.values())
    waiting = counts[JobState.QUEUED] + counts[JobState.RUNNING]
    with connected(address), ProgressDisplay(total=total, done=total - waiting) as display:
        controller = Controller(
            store=store, sweep_id=sweep_id, watch=display, cpus_per_pair=cpus_per_pair, fail_fast=fail_fast
        )
        return controller.run()


def _print_report(built: Report, form: str | None) -> None:
    from dyna_eval import latex, report, tables

    if form == "json":
        _print_json(report.to_json(built))
    elif form == "latex":
        click.echo(latex.to_latex(built), nl=False)
    elif form == "markdown":
        click.echo(tables.to_markdown(built), nl=False)
    elif form == "csv":
        click.echo(tables.to_csv(built), nl=False)
    else:
        tables.print_table(built, sys.stdout)


def _plan(spec: SweepSpec) -> dict[str, Any]:
    return {
        "name": spec.name,
        "pairs": [pair.name for pair in spec.pairs],
        "repeats": spec.measure.repeats,
        "configurations": [
            {"label": row.label, "method": str(row.method), "params": dict(row.params)}
            for row in spec.configurations
        ],
        "merged": [{"label": row.label, "into": row.into, "reason": row.reason} for row in spec.merged],
    }


def _print_configurations(spec: SweepSpec) -> None:
    for row in spec.configurations:
        settings = ", ".join(f"{name}={value}" for name, value in row.params.items())
        click.echo(f"{row.label}: {row.method} {settings}".rstrip())
    for merged in spec.merged:
        click.echo(f"{merged.label}: left out, the same as {merged.into}: {merged.reason}")


def _print_plan(resolved: ResolvedSweep, *, as_json: bool) -> None:
    spec = resolved.spec
    if as_json:
        _print_json(
            _plan(spec)
            | {"digest": resolved.digest}
            | {
                "jobs": [
                    {"key": job.key, "label": job.configuration.label, "repeat": job.repeat}
                    for job in resolved.jobs
                ]
            }
        )
        return
    _print_configurations(spec)
    for pair in resolved.pairs:
        prompts = resolved.prompt_sets[pair.spec.name].prompts
        tokens = sum(len(prompt.token_ids) for prompt in prompts)
        click.echo(f"pair {pair.spec.name}: {pair.dtype}, {len(prompts)} prompts with {tokens} tokens")
    click.echo(f"{len(resolved.jobs)} jobs; nothing was stored or run")


def _counted(counts: Mapping[JobState, int]) -> str:
    return ", ".join(f"{count} {state}" for state, count in counts.items() if count) or "no jobs"


def _print_json(value: object) -> None:
    click.echo(json.dumps(value, indent=2, ensure_ascii=False))
