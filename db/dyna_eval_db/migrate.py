"""Which schema a database has, and how it gets this version's.

Opening a store creates a schema in an empty database and never changes an existing one: `upgrade` does.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from sqlalchemy import Connection, Engine, column, inspect, select, table, text

from dyna_eval.errors import DatabaseError, first_line
from dyna_eval.holder import described, is_gone
from dyna_eval_db.address import parse_address, shown
from dyna_eval_db.columns import database_clock
from dyna_eval_db.engine import bare_engine, writing
from dyna_eval_db.models import SCHEMA_VERSION, LeaseRow
from dyna_eval_db.refusals import reported
from dyna_eval_db.sqlite_file import check_file

MIGRATIONS = Path(__file__).parent / "migrations"

VERSION_TABLE = "dyna_eval_schema"
"""Alembic's version table under our own name, so that nobody else's Alembic database is taken for ours."""

_MIGRATION_LOCK = 7_251_003
"""Any number: Postgres processes that migrate at the same time wait for each other on it."""


class SchemaKind(StrEnum):
    EMPTY = "empty"
    FOREIGN = "foreign"
    OLDER = "older"
    CURRENT = "current"
    NEWER = "newer"


@dataclass(frozen=True, slots=True, kw_only=True)
class Schema:
    """The schema found in a database; `version` is None where it holds none of ours."""

    kind: SchemaKind
    version: str | None


def upgrade(url: str) -> Schema:
    """Bring an empty or older database to this version's schema and return the schema it had before.

    Raises DatabaseError for a database of a newer version or of another program, and while a controller works
    on a sweep in an older one: it could store nothing in the new schema.
    """
    address = parse_address(url)
    check_file(address, create=False)
    with reported(address):
        engine = bare_engine(address)
        before = inspect_schema(engine)
        if before.kind in (SchemaKind.NEWER, SchemaKind.FOREIGN):
            raise DatabaseError(_refusal(before, shown(address)))
        create_schema(engine)
    return before


def require_schema(engine: Engine, *, create: bool) -> None:
    """Raise DatabaseError unless a database has this version's schema; `create` makes it in an empty one."""
    schema = inspect_schema(engine)
    if schema.kind is SchemaKind.EMPTY and create:
        create_schema(engine)
    elif schema.kind is not SchemaKind.CURRENT:
        raise DatabaseError(_refusal(schema, shown(engine.url)))


def require_usable(engine: Engine) -> None:
    """Raise DatabaseError unless a database is empty or has this version's schema; change nothing."""
    schema = inspect_schema(engine)
    if schema.kind not in (SchemaKind.EMPTY, SchemaKind.CURRENT):
        raise DatabaseError(_refusal(schema, shown(engine.url)))


def inspect_schema(engine: Engine) -> Schema:
    """Look at a database's tables and at its schema version."""
    with engine.connect() as connection:
        return _inspect_schema(connection)


def _inspect_schema(connection: Connection) -> Schema:
    tables = inspect(connection).get_table_names()
    if not tables:
        _require_namespace(connection)
        return Schema(kind=SchemaKind.EMPTY, version=None)
    if VERSION_TABLE not in tables:
        return Schema(kind=SchemaKind.FOREIGN, version=None)
    version = connection.scalar(select(column("version_num")).select_from(table(VERSION_TABLE)))
    return Schema(kind=_kind(version), version=version)


def _require_namespace(connection: Connection) -> None:
    """Refuse a Postgres database whose tables this user may not even see: it would look empty."""
    if connection.dialect.name == "postgresql" and not connection.scalar(text("SELECT current_schema()")):
        where = shown(connection.engine.url)
        raise DatabaseError(f"{where}: this user may use none of its schemas; GRANT USAGE, CREATE on one")


def _kind(version: str | None) -> SchemaKind:
    if version is None or version < SCHEMA_VERSION:
        return SchemaKind.OLDER
    return SchemaKind.CURRENT if version == SCHEMA_VERSION else SchemaKind.NEWER


def create_schema(engine: Engine) -> None:
    """Run all migrations that a database lacks, in one transaction; those of two processes do not mix."""
    from alembic import command  # noqa: PLC0415  # slow to import, and most runs need no migration
    from alembic.config import Config  # noqa: PLC0415
    from alembic.util import CommandError  # noqa: PLC0415

    config = Config()
    config.set_main_option("script_location", str(MIGRATIONS).replace("%", "%%"))
    with writing(engine).begin() as connection:
        if connection.dialect.name == "postgresql":
            connection.execute(text("SELECT pg_advisory_xact_lock(:lock)"), {"lock": _MIGRATION_LOCK})
        if _inspect_schema(connection).kind is SchemaKind.OLDER:
            _require_no_controller(connection)
        config.attributes["connection"] = connection
        try:
            command.upgrade(config, "head")
        except CommandError as error:
            where = shown(connection.engine.url)
            raise DatabaseError(
                f"{where} cannot be upgraded: {first_line(error)}; restore a copy of it"
            ) from error
        _require_whole_references(connection)


def _require_no_controller(connection: Connection) -> None:
    """Refuse to change a schema under a controller at work, whose finished jobs would then fail for good.

    Its table is as it was in the first version.
    """
    leases = select(LeaseRow.sweep_id, LeaseRow.holder).where(LeaseRow.expires_at > database_clock())
    for sweep_id, holder in connection.execute(leases.order_by(LeaseRow.sweep_id)):
        if not is_gone(holder):
            raise DatabaseError(
                f"{shown(connection.engine.url)}: sweep {sweep_id} is being run by {described(holder)};"
                " end that, or wait a minute if it died, and upgrade then"
            )


def _require_whole_references(connection: Connection) -> None:
    """Refuse a migration that left rows pointing nowhere: SQLite did not look while it ran."""
    if connection.dialect.name == "sqlite" and connection.execute(text("PRAGMA foreign_key_check")).first():
        raise DatabaseError(
            f"{shown(connection.engine.url)}: the upgrade would leave broken references; nothing changed"
        )


def _refusal(schema: Schema, where: str) -> str:
    match schema.kind:
        case SchemaKind.NEWER:
            return f"{where} was written by a newer dyna-eval (schema {schema.version}); upgrade dyna-eval"
        case SchemaKind.OLDER:
            return f"{where} has the older schema {schema.version}; run `dyna-eval db upgrade`"
        case SchemaKind.EMPTY:
            return f"{where} is empty; `dyna-eval submit` stores a sweep there, --db names another"
        case _:
            return f"{where} belongs to another program; choose another database"
