"""Opening SQLite or Postgres: the address, what SQLite needs to be safe, and errors without passwords."""

from __future__ import annotations

import functools
import os
import random
import re
import sqlite3
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, ParamSpec, TypeVar

from sqlalchemy import URL, Connection, Engine, create_engine, event, make_url
from sqlalchemy.exc import (
    ArgumentError,
    DataError,
    DBAPIError,
    IntegrityError,
    InterfaceError,
    OperationalError,
)
from sqlalchemy.exc import TimeoutError as PoolTimeoutError
from sqlalchemy.pool import NullPool

from dyna_eval.errors import DatabaseAwayError, DatabaseError, MissingDatabaseError, first_line
from dyna_eval_db.columns import to_json

BUSY_SECONDS = 30.0
"""How long a SQLite connection waits for another one's lock."""
WATCHING_BUSY_SECONDS = 5.0
"""The same for one that only looks: who watches is told rather than kept waiting."""

_CONFLICTS = frozenset({"40001", "40P01"})
"""Postgres's codes for transactions that met another one: a serialization failure, and a deadlock."""
_CONFLICT_TRIES = 60  # more than a machine under load was seen to need, by far

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

_POSTGRES_PATIENCE = {"connect_timeout": "10", "tcp_user_timeout": "30000"}
"""Seconds to connect, and milliseconds that sent data may go unanswered, where the address names none."""

_MAY_WRITE = "see that you may write the file and its folder"
_ADVICE = {
    "file is not a database": "it is a file of another kind, choose another name",
    "database disk image is malformed": "the file is damaged, put a copy of it in its place",
    "unable to open database file": _MAY_WRITE,
    "attempt to write a readonly database": _MAY_WRITE,
    "database is locked": "another process has been writing to it for too long",
    "database or disk is full": "make room on its disk",
    "permission denied for": "grant it to this user, or connect as its owner",
    "no password supplied": "put it into ~/.pgpass, or into DYNA_EVAL_DB",
    "password authentication failed": "correct it in ~/.pgpass or DYNA_EVAL_DB, whichever has it",
}
"""What to do about what a database says, by a part of it."""

_Arguments = ParamSpec("_Arguments")
_Result = TypeVar("_Result")

_POSTGRES_SCHEMES = ("postgresql", "postgres", "postgresql+psycopg")

_NETWORK_FILE_SYSTEMS = frozenset(
    {
        "nfs",
        "nfs4",
        "cifs",
        "smb3",
        "smbfs",
        "fuse.sshfs",
        "lustre",
        "ceph",
        "fuse.glusterfs",
        "beegfs",
        "gpfs",
        "afs",
    }
)
"""Types that several machines write at once without the locks that SQLite relies on.

9p and virtiofs are not among them: they carry the own disks of containers and virtual machines.
"""


# ------------------------------------------------------------------- addresses


def parse_address(url: str) -> URL:
    """Read `sqlite:///FILE` or `postgresql://USER@HOST/NAME`; SQLite's file becomes an absolute path."""
    try:
        address = make_url(url)
    except (ArgumentError, ValueError):
        raise DatabaseError(
            f"{_without_credentials(url)!r} is not a database URL; write sqlite:///FILE or postgresql://USER@HOST/NAME"
        ) from None  # the cause may quote a password
    if address.drivername in _POSTGRES_SCHEMES:
        return address.set(drivername="postgresql+psycopg")
    if address.drivername != "sqlite":
        raise DatabaseError(
            f"unknown kind of database {address.drivername!r}; use sqlite:///FILE or postgresql://USER@HOST/NAME"
        )
    if not address.database or address.database == ":memory:" or address.database.startswith("file:"):
        raise DatabaseError(
            "a SQLite database must be a file, so that results are kept; write sqlite:///FILE"
        )
    if address.query:
        raise DatabaseError("a SQLite address takes no parameters; write sqlite:///FILE without '?'")
    return address.set(database=str(Path(address.database).absolute()))


def shown(address: URL) -> str:
    """Return an address for people to read: no password, nor parameters that may hold one."""
    bare = address.set(drivername=address.get_backend_name()).difference_update_query(list(address.query))
    return bare.render_as_string(hide_password=True)


def _without_credentials(url: str) -> str:
    return re.sub(r".*@", "***@", url)


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


def _secrets(address: URL) -> set[str]:
    given = (address.password, *address.normalized_query.get("password", ()))
    return {str(secret) for secret in given if secret}


def _is_away(error: DBAPIError) -> bool:
    """Whether a database refused for a reason that may pass by itself."""
    code = getattr(error.orig, "sqlite_errorcode", None)
    if code is not None:
        return code & 0xFF in _SQLITE_AWAY
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


# --------------------------------------------------------------------- engines


def bare_engine(address: URL) -> Engine:
    """Return an engine that leaves the database's settings alone: to look at it, and to migrate it.

    SQLite's foreign keys are not enforced, which is what its procedure for changing tables asks for.
    """
    return _engine(address, poolclass=NullPool)


def store_engine(address: URL) -> Engine:
    """Return the engine that a store works with; on SQLite it keeps foreign keys and survives a power cut."""
    engine = _engine(address, pool_pre_ping=address.get_backend_name() != "sqlite")  # servers restart
    if engine.dialect.name == "sqlite":
        event.listen(engine, "connect", functools.partial(_set_pragmas, _journal_mode(address)))
        event.listen(engine, "connect", functools.partial(_remember_file, str(address.database)))
        event.listen(engine, "begin", functools.partial(_check_unmoved, address))
    return engine


def watching_engine(address: URL) -> Engine:
    """Return an engine through which nothing can be written; a transaction sees one state of the database."""
    if address.get_backend_name() == "sqlite":
        existing = functools.partial(_open_existing, str(address.database))
        engine = _engine(address, creator=existing, poolclass=NullPool)  # a file may be replaced
        event.listen(engine, "connect", _refuse_writes)
        return engine
    engine = _engine(address, pool_pre_ping=True)
    return engine.execution_options(isolation_level="REPEATABLE READ", postgresql_readonly=True)


def _engine(address: URL, **options: Any) -> Engine:
    if address.get_backend_name() != "sqlite":
        patience = {name: value for name, value in _POSTGRES_PATIENCE.items() if name not in address.query}
        options["connect_args"] = patience
    try:
        engine = create_engine(
            address,
            hide_parameters=True,  # they hold prompts and model text
            json_serializer=to_json,
            **options,
        )
    except ModuleNotFoundError as error:
        raise DatabaseError(
            f"{shown(address)}: Postgres needs a driver; `pip install 'psycopg[binary]'` installs it"
        ) from error
    if engine.dialect.name == "sqlite":
        event.listen(engine, "connect", _take_over_transactions)
        event.listen(engine, "begin", _begin)
    return engine


def reading(engine: Engine) -> Engine:
    """Return the engine for transactions that read: all their statements see the same state."""
    if engine.dialect.name == "sqlite":
        return engine
    return engine.execution_options(isolation_level="REPEATABLE READ")


def writing(engine: Engine) -> Engine:
    """Return the engine for transactions that write.

    On SQLite they take the write lock at their start: one that first reads could find its lock taken when
    it comes to write, and would have to fail.
    """
    return engine.execution_options(dyna_eval_writes=True)


def _open_existing(file: str) -> sqlite3.Connection:
    """Open a SQLite file; one that has gone is not made anew, as the driver would."""
    return sqlite3.connect(f"{Path(file).as_uri()}?mode=rw", uri=True, check_same_thread=False)


def _take_over_transactions(connection: Any, _record: object) -> None:
    """Keep Python's driver from beginning transactions by itself, which it does late and not for DDL."""
    connection.isolation_level = None
    connection.execute(f"PRAGMA busy_timeout = {int(BUSY_SECONDS * 1000)}")


def _begin(connection: Connection) -> None:
    writes = connection.get_execution_options().get("dyna_eval_writes")
    connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")


def _remember_file(file: str, _connection: object, record: Any) -> None:
    record.info["file"] = _file_identity(file)


def _check_unmoved(address: URL, connection: Connection) -> None:
    """Refuse to go on with a file that has gone from its place: what is written to it would go with it."""
    if _file_identity(str(address.database)) != connection.info["file"]:
        raise DatabaseAwayError(f"{shown(address)}: the file was deleted, moved or replaced; put it back")


def _file_identity(file: str) -> tuple[int, int] | None:
    """Return what stays the same when a file is moved on its disk; None where there is none."""
    try:
        found = Path(file).stat()
    except OSError:
        return None
    return found.st_dev, found.st_ino


def _set_pragmas(journal_mode: str, connection: Any, _record: object) -> None:
    connection.execute("PRAGMA foreign_keys = ON")
    connection.execute("PRAGMA synchronous = FULL")
    connection.execute(f"PRAGMA journal_mode = {journal_mode}")


def _refuse_writes(connection: Any, _record: object) -> None:
    connection.execute("PRAGMA query_only = ON")
    connection.execute(f"PRAGMA busy_timeout = {int(WATCHING_BUSY_SECONDS * 1000)}")


def _journal_mode(address: URL) -> str:
    writable = os.access(str(address.database), os.W_OK)
    return "WAL" if writable and wal_is_safe(sqlite3.sqlite_version_info) else "TRUNCATE"


def wal_is_safe(version: tuple[int, int, int]) -> bool:
    """Say whether a SQLite has the fix for the WAL-reset race, which could corrupt a database.

    Source: https://sqlite.org/wal.html#walresetbug; fixed in 3.51.3, and in the lines 3.44 and 3.50.
    """
    fixed_in_line = {(3, 44): 6, (3, 50): 7}
    line, patch = version[:2], version[2]
    return version >= (3, 51, 3) or (line in fixed_in_line and patch >= fixed_in_line[line])


# ---------------------------------------------------------------- SQLite's file


def check_file(address: URL, *, create: bool) -> None:
    """Refuse a SQLite file that cannot be or lies on a network; one that is not there or may not be written
    to, where `create` says that it is to be filled, and one that is not there where it is to be read."""
    if address.get_backend_name() != "sqlite":
        return
    path = Path(str(address.database))
    try:
        _check_path(path, create=create)
    except OSError as error:  # no permission to look, or a name that is too long
        raise DatabaseError(f"cannot open {path}: {error.strerror}; choose another file") from error
    mounts = Path("/proc/self/mounts")
    if mounts.exists():
        kind = network_file_system(path.resolve(), mounts.read_text(errors="replace"))
        if kind is not None:
            raise DatabaseError(
                f"{path} lies on a network file system ({kind}), where SQLite's locks cannot be trusted; "
                "choose a local folder, or use Postgres"
            )


def _check_path(path: Path, *, create: bool) -> None:
    if path.is_dir():
        raise DatabaseError(f"{path} is a folder; give the name of a database file")
    if not path.parent.is_dir():
        raise DatabaseError(f"cannot open {path}: there is no folder {path.parent}")
    if path.exists() and not path.is_file():
        raise DatabaseError(f"{path} is no file but a device or a pipe; give the name of a database file")
    if not create and not path.exists():
        raise MissingDatabaseError(
            f"there is no database at {path}; `dyna-eval submit` creates one, --db names another"
        )
    places = (path.parent, path) if path.exists() else (path.parent,)  # a journal is made beside the file
    if create and not all(os.access(place, os.W_OK) for place in places):
        raise DatabaseError(f"cannot write {path}; {_MAY_WRITE}")


def network_file_system(path: Path, mounts: str) -> str | None:
    """Return the type of the network file system that holds a path, or None on a local one.

    mounts: the text of /proc/self/mounts, with lines of device, folder, type and options.
    """
    found, kind = Path("/"), ""
    for line in mounts.splitlines():
        _device, folder, type_name, *_ = line.split(" ")
        mounted = Path(re.sub(r"\\(\d{3})", lambda code: chr(int(code[1], 8)), folder))
        if path.is_relative_to(mounted) and len(mounted.parts) >= len(found.parts):
            found, kind = mounted, type_name
    return kind if kind in _NETWORK_FILE_SYSTEMS else None
