"""The database that a command names: the option, and opening it."""

from __future__ import annotations

import contextlib
import re
import time
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, TypeVar

import click
from click.core import ParameterSource

from dyna_eval.errors import DatabaseAwayError
from dyna_eval.interrupts import raise_if_interrupted
from dyna_eval.wording import one_line

if TYPE_CHECKING:
    from dyna_eval_db.store import Store

DEFAULT_DATABASE = "sqlite:///dyna-eval.db"

_Answer = TypeVar("_Answer")
_AGAIN_SECONDS = 1.0

_PASSWORD = re.compile(r"://[^/?@]*:[^@]+@|[?&]password=")


def without_password(context: click.Context, parameter: click.Parameter, url: str | None) -> str | None:
    """Refuse a password in an argument, which every user of the machine can read while the command runs."""
    given = context.get_parameter_source(str(parameter.name))
    if given is ParameterSource.COMMANDLINE and _PASSWORD.search(url or ""):
        raise click.BadParameter(
            "everyone on this machine can see a password in a command line; put the address into "
            "DYNA_EVAL_DB, or the password into ~/.pgpass"
        )
    return url


database_option = click.option(
    "--db",
    "database",
    default=DEFAULT_DATABASE,
    callback=without_password,
    envvar="DYNA_EVAL_DB",
    show_default=True,
    show_envvar=True,
    help="Where results are kept: an SQLAlchemy URL.",
)


@contextlib.contextmanager
def open_store(database: str, *, create: bool = False) -> Iterator[Store]:
    """Open the store for the time of a block; raises DatabaseError where it cannot be used."""
    from dyna_eval_db.store import Store

    with Store.open(database, create=create) as store:
        yield store


def readable(database: str) -> str:
    """Return the address at which the present command, which only reads, finds a database until it ends.

    A SQLite file on a network file system is copied for it, once however often it asks, and stderr says so.
    Outside of a command it is the given address.
    """
    from dyna_eval_db.network_copy import readable_copy

    context = click.get_current_context(silent=True)
    if context is None:
        return database
    found: dict[str, str] = context.meta.setdefault(f"{__name__}.readable", {})
    if database not in found:
        copied = readable_copy(database, lambda text: click.echo(one_line(text), err=True))
        found[database] = context.with_resource(copied)
    return found[database]


@contextlib.contextmanager
def open_to_read(database: str) -> Iterator[Store]:
    """Open the store for a command that only reads, for the time of a block."""
    with open_store(readable(database)) as store:
        yield store


def once_back(ask: Callable[[], _Answer]) -> _Answer:
    """Return what the database answers; while it is away, say so once and ask again."""
    told = False
    while True:
        raise_if_interrupted()
        try:
            return ask()
        except DatabaseAwayError as error:
            if not told:
                click.echo(f"waiting for the database; {error}", err=True)
            told = True
        time.sleep(_AGAIN_SECONDS)
