"""Engines for SQLite and Postgres: for stores, for who only looks, and for migrations, each made safe."""

from __future__ import annotations

import functools
import os
import sqlite3
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from sqlalchemy import URL, Connection, Engine, create_engine, event
from sqlalchemy.pool import NullPool

from dyna_eval.errors import DatabaseAwayError, DatabaseError
from dyna_eval_db.address import shown
from dyna_eval_db.columns import to_json

BUSY_SECONDS = 30.0
"""How long a SQLite connection waits for another one's lock."""
WATCHING_BUSY_SECONDS = 5.0
"""The same for one that only looks: who watches is told rather than kept waiting."""

_CLIENT_PATIENCE = {
    "connect_timeout": "10",
    "tcp_user_timeout": "30000",
    "keepalives_idle": "20",
    "keepalives_interval": "10",
    "keepalives_count": "3",
}
"""How long a Postgres server may be silent, where the address does not say: seconds to connect, milliseconds
that sent data may go unanswered, and after how many seconds, how often and how many times it is asked whether
it is still there."""
_SERVER_PATIENCE = {
    "tcp_user_timeout": "30000",
    "tcp_keepalives_idle": "20",
    "tcp_keepalives_interval": "10",
    "tcp_keepalives_count": "3",
}
"""The same for the server, which by itself notices only after two hours that a machine in the midst of a
transaction has gone, and keeps that one's locks until then."""
IDLE_IN_TRANSACTION_SECONDS = 300.0
"""How long a store's transaction may wait for its next statement: a process that was stopped in the midst of
one keeps its locks no longer. Between two statements a store works for seconds at most."""


def bare_engine(address: URL) -> Engine:
    """Return an engine that leaves the database's settings alone: to look at it, and to migrate it.

    SQLite's foreign keys are not enforced, which is what its procedure for changing tables asks for.
    """
    return _engine(address, poolclass=NullPool)


def store_engine(address: URL) -> Engine:
    """Return the engine that a store works with; on SQLite it keeps foreign keys and survives a power cut."""
    engine = _engine(address, pool_pre_ping=address.get_backend_name() != "sqlite")  # servers restart
    if engine.dialect.name == "sqlite":
        event.listen(engine, "connect", functools.partial(_set_pragmas, address))
        event.listen(engine, "connect", functools.partial(_remember_file, str(address.database)))
        event.listen(engine, "begin", functools.partial(_check_unmoved, address))
    else:
        idle = {"idle_in_transaction_session_timeout": f"{IDLE_IN_TRANSACTION_SECONDS * 1000:.0f}"}
        event.listen(engine, "connect", functools.partial(_set_patience, idle))
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
        patience = {name: value for name, value in _CLIENT_PATIENCE.items() if name not in address.query}
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
    else:
        event.listen(engine, "connect", functools.partial(_set_patience, _SERVER_PATIENCE))
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


def _set_patience(patience: Mapping[str, str], connection: Any, _record: object) -> None:
    """Set how long the server has patience with this connection, in what neither it, the role nor the address
    sets and its version knows.

    By a statement, since PgBouncer refuses such settings where a connection begins; where it pools
    transactions, they reach other clients of the same role too. Unix sockets take no tcp_ settings, and
    Postgres ignores them.
    """
    setting = (
        "SELECT set_config(name, value, false) FROM unnest(%s::text[], %s::text[]) AS wanted (name, value)"
        " JOIN pg_settings USING (name) WHERE reset_val = '0'"
    )
    connection.execute(setting, (list(patience), list(patience.values())))
    connection.commit()


def _set_pragmas(address: URL, connection: Any, _record: object) -> None:
    connection.execute("PRAGMA foreign_keys = ON")
    connection.execute("PRAGMA synchronous = FULL")
    _set_journal_mode(address, connection)


def _set_journal_mode(address: URL, connection: Any) -> None:
    """Set the journal mode; raises DatabaseAwayError where another program keeps an unsafe one."""
    try:
        connection.execute(f"PRAGMA journal_mode = {_journal_mode(address)}")
    except sqlite3.OperationalError:
        [(found,)] = connection.execute("PRAGMA journal_mode")
        if found != "wal" or wal_is_safe(sqlite3.sqlite_version_info):
            raise
        raise DatabaseAwayError(
            f"{shown(address)}: another program has the file open in WAL mode, which is not safe with SQLite"
            f" {sqlite3.sqlite_version}; close that program, or run dyna-eval with the SQLite that it uses"
        ) from None


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
