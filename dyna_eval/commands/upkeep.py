"""Commands that look after what sweeps stand on: model pairs and the database."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import click

from dyna_eval.commands.database import database_option, open_store, open_to_read, without_password
from dyna_eval.commands.options import json_option
from dyna_eval.commands.output import print_json, stdout_kept_clean
from dyna_eval.errors import InputError, MissingDatabaseError
from dyna_eval.jobs import PACKAGED_PAIRS, PairSpec
from dyna_eval.wording import count, listed, one_line

if TYPE_CHECKING:
    from dyna_eval_db.store import Store


@click.group()
def pairs() -> None:
    """Look at model pairs."""


@pairs.command("list")
@database_option
@json_option
def list_pairs(*, database: str, as_json: bool) -> None:
    """List the packaged pairs and those of stored sweeps."""
    known = dict.fromkeys(PACKAGED_PAIRS, "packaged")
    with contextlib.suppress(MissingDatabaseError), open_to_read(database) as store:
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
    with open_to_read(database) as store:
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


@database.command("copy")
@click.argument("source", callback=without_password)
@click.option(
    "--sweep",
    "chosen",
    multiple=True,
    metavar="SWEEP",
    help="Copy this sweep of SOURCE, by its name or number; several where repeated. Unless given, all.",
)
@click.option(
    "--anonymous",
    is_flag=True,
    help="Put neutral names in the place of hosts and paths, in a new database.",
)
@database_option
@json_option
def copy_sweeps(
    *, source: str, chosen: tuple[str, ...], anonymous: bool, database: str, as_json: bool
) -> None:
    """Copy sweeps of another database with all that belongs to them into the one of --db.

    SOURCE is a file or a URL; nothing is changed in it. Either may be SQLite or Postgres. A sweep that is
    there already, whole or one imported file of it, or that a controller works on, is refused, and then
    nothing is copied.
    """
    from dyna_eval_db.store import Store

    Store.check(database)
    url = source if "://" in source else f"sqlite:///{Path(source).absolute()}"
    if "://" not in source and not Path(source).exists():
        raise InputError(f"there is no file {source}; name the database to copy from, a file or a URL")
    with open_to_read(url) as origin:
        found = _to_copy(origin, chosen)
        names = origin.neutral_names(found) if anonymous else None
        with open_store(database, create=True) as target:
            if anonymous and target.list_sweeps():
                raise InputError(
                    "--anonymous makes a database that holds nothing else: name a new one with --db; sweeps"
                    " of several databases are first copied into one, and that then with --anonymous"
                )
            _refuse_known(origin, found, target)
            copies = []
            for sweep_id in found:
                number = target.copy_from(origin, sweep_id, names=names)
                name = target.summary(number).name
                copies.append({"from": sweep_id, "id": number, "name": name})
                if not as_json:
                    click.echo(one_line(f"sweep {sweep_id} {name}: copied as sweep {number}"))
    if as_json:
        print_json(copies)


def _to_copy(origin: Store, chosen: Sequence[str]) -> list[int]:
    """Return the numbers of the sweeps to copy, the oldest first; raises InputError where one is at work."""
    found = sorted(
        {origin.find_sweep(name) for name in chosen} if chosen else {own.id for own in origin.list_sweeps()}
    )
    if not found:
        origin.find_sweep(None)  # which says that there is none
    for sweep_id in found:
        origin.require_at_rest(sweep_id)
    return found


def _refuse_known(origin: Store, found: Sequence[int], target: Store) -> None:
    """Raise InputError where some sweeps, or files of them, are in the target already; name the others."""
    known: dict[int, str] = {}
    for sweep_id in found:
        there = target.sweep_of_digest(origin.summary(sweep_id).digest)
        if there is not None:
            known[sweep_id] = f"sweep {sweep_id}, as its sweep {there}"
        elif numbers := target.sweeps_of_files(origin, sweep_id):
            of_those = listed([f"sweep {number}" for number in numbers])
            known[sweep_id] = f"a file of sweep {sweep_id}, as one of its {of_those}"
    if not known:
        return
    others = " ".join(f"--sweep {sweep_id}" for sweep_id in found if sweep_id not in known)
    raise InputError(
        f"that database already holds {listed(list(known.values()))}; nothing was copied"
        + (f", {others} copies what it lacks" if others else "")
    )
