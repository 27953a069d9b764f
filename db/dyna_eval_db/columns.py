"""Column types and SQL that SQLite and Postgres spell differently.

Each stores the same value exactly on both databases; what cannot be is said at its type.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, TypeVar

from sqlalchemy import JSON, BigInteger, DateTime, Dialect, Double, Integer, Text, insert, literal
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.orm import DeclarativeBase, Session
from sqlalchemy.sql.compiler import SQLCompiler
from sqlalchemy.sql.dml import UpdateBase
from sqlalchemy.sql.functions import FunctionElement
from sqlalchemy.types import TypeDecorator

from dyna_eval.errors import first_line

_Value = TypeVar("_Value")

Id = BigInteger().with_variant(Integer(), "sqlite")
"""A row's number. SQLite numbers rows by itself only where the type is called INTEGER."""

Json = JSON(none_as_null=True).with_variant(postgresql.JSONB(none_as_null=True), "postgresql")
"""Lists, mappings and scalars, written by `to_json`."""


class UnreadableError(ValueError):
    """A stored value is not of its column's type: SQLite gives out what a damaged file holds, unchecked."""


def _checked(read: Callable[[Any], _Value]) -> Callable[[Any], _Value | None]:
    """Return what reads a column's values, NULL as None; it raises UnreadableError."""

    def process(value: Any) -> _Value | None:
        try:
            return None if value is None else read(value)
        except (TypeError, ValueError) as error:
            raise UnreadableError(first_line(error)) from error

    return process


class _SqliteDouble(Double[float]):
    """A double that keeps NaN as text: SQLite itself would turn it into NULL, which means unknown."""

    cache_ok = True

    def bind_processor(self, dialect: Dialect) -> Callable[[float | None], float | str | None]:  # noqa: ARG002
        return lambda value: "NaN" if value is not None and math.isnan(value) else value

    def result_processor(self, dialect: Dialect, coltype: object) -> Callable[[Any], float | None]:  # noqa: ARG002
        return _checked(float)


Real: Double[float] = Double().with_variant(_SqliteDouble(), "sqlite")
"""A number, exact to the last bit, NaN and infinity included."""


class PlainText(TypeDecorator[str]):
    """Text of any origin. A NUL, which Postgres cannot hold, becomes U+2400; a lone surrogate is escaped."""

    impl = Text
    cache_ok = True

    def process_bind_param(self, value: str | None, dialect: Dialect) -> str | None:  # noqa: ARG002
        return None if value is None else _storable(value)


def _storable(text: str) -> str:
    return text.replace("\0", "\N{SYMBOL FOR NULL}").encode("utf-8", "backslashreplace").decode()


_ENCODER = json.JSONEncoder(allow_nan=False, separators=(",", ":"))
"""Made once: a sweep may bring hundreds of thousands of values."""
_PERHAPS_NOT_STORABLE = re.compile(r"\\u(?:0000|d[89a-f])")


def to_json(value: Any) -> str:
    """Write a value for a column of JSON, its texts as PlainText would be; NaN and infinity are refused."""
    written = _ENCODER.encode(value)
    return _ENCODER.encode(_all_storable(value)) if _PERHAPS_NOT_STORABLE.search(written) else written


def _all_storable(value: Any) -> Any:
    if isinstance(value, str):
        return _storable(value)
    if isinstance(value, Mapping):
        return {_all_storable(name): _all_storable(part) for name, part in value.items()}
    return [_all_storable(part) for part in value] if isinstance(value, list | tuple) else value


class _SqliteTime(sqlite.DATETIME):
    """A time, which SQLite keeps as text."""

    cache_ok = True

    def result_processor(self, dialect: Dialect, coltype: object) -> Callable[[Any], datetime | None]:  # noqa: ARG002
        return _checked(datetime.fromisoformat)


class UtcTime(TypeDecorator[datetime]):
    """A moment, always in UTC and always taken from the database's clock."""

    impl = DateTime(timezone=True).with_variant(
        _SqliteTime(),  # type: ignore[no-untyped-call]  # SQLAlchemy's has no types
        "sqlite",
    )
    cache_ok = True

    def process_result_value(self, value: datetime | None, dialect: Dialect) -> datetime | None:  # noqa: ARG002
        if value is None:
            return None
        return value.replace(tzinfo=UTC) if value.tzinfo is None else value.astimezone(UTC)


class DatabaseClock(FunctionElement[datetime]):
    """The database's clock at the moment of the statement, moved by some seconds."""

    name = "database_clock"
    type = UtcTime()
    inherit_cache = True


def database_clock(seconds_from_now: float = 0.0) -> DatabaseClock:
    """Return the SQL expression for the database's present time, or a time that many seconds later.

    Leases compare times of this one clock only: the clocks of two machines may differ by minutes.
    """
    return DatabaseClock(literal(float(seconds_from_now), Double))


@compiles(DatabaseClock, "sqlite")
def _sqlite_clock(element: DatabaseClock, compiler: SQLCompiler, **options: Any) -> str:
    """To the millisecond, in the text format in which SQLAlchemy stores times."""
    seconds = compiler.process(element.clauses, **options)
    return f"(strftime('%Y-%m-%d %H:%M:%f', 'now', {seconds} || ' seconds') || '000')"


@compiles(DatabaseClock, "postgresql")
def _postgres_clock(element: DatabaseClock, compiler: SQLCompiler, **options: Any) -> str:
    """`clock_timestamp` and not `now`, which stands still within a transaction."""
    seconds = compiler.process(element.clauses, **options)
    return f"(clock_timestamp() + make_interval(secs => {seconds}))"


def execute_counted(session: Session, statement: UpdateBase) -> int:
    """Execute an INSERT, UPDATE or DELETE and return how many rows it changed."""
    preserve = {"preserve_rowcount": True}  # SQLAlchemy else forgets it after an INSERT on Postgres
    return session.connection().execute(statement, execution_options=preserve).rowcount


def insert_missing(session: Session, table: type[DeclarativeBase], **values: Any) -> bool:
    """Insert a row and return True, or False where its unique key is there already."""
    statement = _inserting(session, table).on_conflict_do_nothing()
    return execute_counted(session, statement.values(**values)) > 0


def insert_all_missing(
    session: Session, table: type[DeclarativeBase], rows: Sequence[Mapping[str, Any]]
) -> None:
    """Insert rows and skip those whose unique key is there already."""
    if rows:
        session.connection().execute(_inserting(session, table).on_conflict_do_nothing(), rows)


def insert_many(session: Session, table: type[DeclarativeBase], rows: Sequence[Mapping[str, Any]]) -> None:
    """Insert rows that all have the same columns: on Postgres by COPY, which is faster."""
    if not rows:
        return
    connection = session.connection()
    if connection.dialect.name != "postgresql":
        connection.execute(insert(table), rows)
        return
    driver: Any = connection.connection.driver_connection
    copying = f"COPY {table.__tablename__} ({', '.join(rows[0])}) FROM STDIN"
    error_of_driver = connection.dialect.loaded_dbapi.Error
    processors = _bind_processors(table, rows[0], connection.dialect)
    try:
        with driver.cursor() as cursor, cursor.copy(copying) as copy:
            for row in rows:
                bound = dict(row)
                for name, process in processors.items():
                    bound[name] = process(bound[name])
                copy.write_row(tuple(bound.values()))
    except error_of_driver as error:
        raise DBAPIError.instance(
            copying, None, error, error_of_driver, hide_parameters=True, dialect=connection.dialect
        ) from error


def _bind_processors(
    table: type[DeclarativeBase], names: Iterable[str], dialect: Dialect
) -> dict[str, Callable[[Any], Any]]:
    """Return what turns values into those of the driver, for the columns whose type has such a thing."""
    columns = table.__table__.columns
    found = {name: columns[name].type.dialect_impl(dialect).bind_processor(dialect) for name in names}
    return {name: process for name, process in found.items() if process is not None}


def _inserting(session: Session, table: type[DeclarativeBase]) -> postgresql.Insert | sqlite.Insert:
    if session.get_bind().dialect.name == "postgresql":
        return postgresql.insert(table)
    return sqlite.insert(table)
