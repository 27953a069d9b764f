"""What a database refuses: told in one line without passwords, and tried again where that helps."""

from __future__ import annotations

import functools
import json
import random
import sqlite3
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import ParamSpec, TypeVar

from sqlalchemy import URL
from sqlalchemy.exc import DataError, DBAPIError, IntegrityError, InterfaceError, OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError

from dyna_eval.errors import DatabaseAwayError, DatabaseError, first_line
from dyna_eval_db.address import shown
from dyna_eval_db.columns import UnreadableError

_CONFLICTS = frozenset({"40001", "40P01"})
"""Postgres's codes for transactions that met another one: a serialization failure, and a deadlock."""
_CONFLICT_TRIES = 60  # more than a machine under load was seen to need, by far

_POSTGRES_AWAY = frozenset({"25006", "25P03"})
"""Postgres's codes for what drivers do not count as operational and yet may pass: a server that takes no
writes (a standby after a failover, or one whose disk is full), a transaction that was idle for too long."""

_SQLITE_AWAY = frozenset(
    {
        sqlite3.SQLITE_BUSY,
        sqlite3.SQLITE_LOCKED,
        sqlite3.SQLITE_FULL,
        sqlite3.SQLITE_IOERR,
        sqlite3.SQLITE_CANTOPEN,
        sqlite3.SQLITE_READONLY,
    }
)
"""Primary codes of what may pass: somebody else's lock, a disk without room, a folder that is away."""

_DAMAGED = "the file is damaged, put a copy of it in its place"
MAY_WRITE = "see that you may write the file and its folder"
_ADVICE = {
    "file is not a database": "it is a file of another kind, choose another name",
    "database disk image is malformed": _DAMAGED,
    "malformed database schema": _DAMAGED,
    "unable to open database file": MAY_WRITE,
    "attempt to write a readonly database": MAY_WRITE,
    "database is locked": "another process has been writing to it for too long",
    "database or disk is full": "make room on its disk",
    "permission denied for": "grant it to this user, or connect as its owner",
    "no password supplied": "put it into ~/.pgpass, or into DYNA_EVAL_DB",
    "password authentication failed": "correct it in ~/.pgpass or DYNA_EVAL_DB, whichever has it",
}
"""What to do about what a database says, by a part of it."""

_Arguments = ParamSpec("_Arguments")
_Result = TypeVar("_Result")


@contextmanager
def reported(address: URL) -> Iterator[None]:
    """Raise what the database refuses as a DatabaseError of one line; our own mistakes pass unchanged."""
    try:
        yield
    except (IntegrityError, DataError):
        raise
    except PoolTimeoutError as error:
        raise DatabaseAwayError(
            f"{shown(address)}: every connection has been in use for too long; try again later"
        ) from error
    except DBAPIError as error:
        reason = first_line(error.orig or error)
        for secret in _secrets(address):
            reason = reason.replace(secret, "***")
        kind = DatabaseAwayError if _is_away(error) else DatabaseError
        raise kind(f"{shown(address)}: {reason}{_advice(reason)}") from error
    except (UnicodeDecodeError, json.JSONDecodeError, UnreadableError) as error:  # out of a SQLite file
        what = f"what is stored cannot be read ({first_line(error)}); {_DAMAGED}"
        raise DatabaseError(f"{shown(address)}: {what}") from error


def _secrets(address: URL) -> set[str]:
    given = (address.password, *address.normalized_query.get("password", ()))
    return {str(secret) for secret in given if secret}


def _is_away(error: DBAPIError) -> bool:
    """Whether a database refused for a reason that may pass by itself."""
    code = getattr(error.orig, "sqlite_errorcode", None)
    if code is not None:
        return code & 0xFF in _SQLITE_AWAY
    if getattr(error.orig, "sqlstate", None) in _POSTGRES_AWAY:
        return True
    return isinstance(error, OperationalError | InterfaceError)


def retried(transaction: Callable[_Arguments, _Result]) -> Callable[_Arguments, _Result]:
    """Run a transaction again where Postgres ended it because of another one's: nothing of it was done."""

    @functools.wraps(transaction)
    def run(*args: _Arguments.args, **kwargs: _Arguments.kwargs) -> _Result:
        for tried in range(1, _CONFLICT_TRIES):
            try:
                return transaction(*args, **kwargs)
            except DatabaseAwayError as error:
                if not _is_conflict(error.__cause__):
                    raise
                time.sleep(random.uniform(0, min(0.005 * tried, 0.2)))
        return transaction(*args, **kwargs)

    return run


def _is_conflict(error: BaseException | None) -> bool:
    return isinstance(error, DBAPIError) and getattr(error.orig, "sqlstate", None) in _CONFLICTS


def _advice(reason: str) -> str:
    return next((f"; {advice}" for part, advice in _ADVICE.items() if part in reason), "")
