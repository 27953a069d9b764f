"""Commands that look after what sweeps stand on: model pairs and the database."""

from __future__ import annotations

import contextlib
from dataclasses import asdict

import click

from dyna_eval.commands.options import database_option, json_option, open_store
from dyna_eval.commands.output import print_json, stdout_kept_clean
from dyna_eval.errors import MissingDatabaseError
from dyna_eval.wording import count


@click.group()
def pairs() -> None:
    """Look at model pairs."""


@pairs.command("list")
@database_option
@json_option
def list_pairs(*, database: str, as_json: bool) -> None:
    """List the packaged pairs and those of stored sweeps."""
    from dyna_eval.jobs import PACKAGED_PAIRS

    known = dict.fromkeys(PACKAGED_PAIRS, "packaged")
    with contextlib.suppress(MissingDatabaseError), open_store(database) as store:
        for pair, (sweep_id, name) in store.sweeps_of_pairs().items():
            known.setdefault(pair, f"sweep {sweep_id} {name}")
    if as_json:
        print_json(known)
        return
    for name, where in known.items():
        click.echo(f"{name}: {where}")


@pairs.command("check")
@click.argument("target")
@click.argument("draft", required=False)
@click.option(
    "--dtype",
    type=click.Choice(["auto", "float32", "bfloat16", "float16"]),
    default="auto",
    show_default=True,
    help="Of the weights; auto follows checkpoint and machine.",
)
@json_option
def check_pair(*, target: str, draft: str | None, dtype: str, as_json: bool) -> None:
    """Load a pair, compare its tokenizers, and test that its trees are verified exactly.

    TARGET and DRAFT are folders or hub ids; `demo` or `demo-large` alone is a packaged pair.
    """
    from dyna_eval_workers.selfcheck import check

    from dyna_eval.jobs import PACKAGED_PAIRS, PairSpec

    if not target or draft == "":
        raise click.UsageError("TARGET and DRAFT are folders or hub ids; name them")
    if target in PACKAGED_PAIRS and draft is None:
        draft = target
    with stdout_kept_clean():
        lines = check(PairSpec(name=target, target=target, draft=draft, dtype=dtype))
    if as_json:
        print_json({"target": target, "draft": draft, "passed": lines})
        return
    for line in lines:
        click.echo(line)


@click.group("db")
def database() -> None:
    """Look after the database."""


@database.command("upgrade")
@database_option
def upgrade_database(*, database: str) -> None:
    """Bring an older database to this version's schema."""
    from dyna_eval_db.migrate import upgrade

    before = upgrade(database)
    click.echo(f"the schema is up to date; before it was {before.kind}")


@database.command("check")
@click.option("--sweep", help="Look at the rows of one sweep alone, by its name or number.")
@database_option
@json_option
def check_database(*, sweep: str | None, database: str, as_json: bool) -> int:
    """Check that this version can use the database, and that its rows agree with each other.

    Prints a line for every finding; the exit status is 1 if there is any.
    """
    with open_store(database) as store:
        sweep_id = None if sweep is None else store.find_sweep(sweep)
        findings = store.audit(sweep_id)
        checked = len(store.sweeps_by_digest()) if sweep_id is None else 1
    if as_json:
        print_json({"sweeps": checked, "findings": [asdict(finding) for finding in findings]})
        return 1 if findings else 0
    for finding in findings:
        sweep_words = "" if finding.sweep_id is None else f"sweep {finding.sweep_id} "
        job_words = "" if finding.job_id is None else f"job {finding.job_id} "
        click.echo(f"{sweep_words}{job_words}{finding.what}")
    if not findings:
        click.echo(f"ok: {count(checked, 'sweep')}")
    return 1 if findings else 0
