"""Run by Alembic: on the connection that `migrate` hands over, or on the one its command line names.

On the command line, `-x db=URL` or the variable DYNA_EVAL_DB names the database.
"""

from __future__ import annotations

import os
from typing import Literal

from alembic import context
from sqlalchemy import JSON, Connection, Double
from sqlalchemy.types import TypeDecorator

from dyna_eval.errors import DatabaseError
from dyna_eval_db.address import parse_address
from dyna_eval_db.engine import bare_engine, writing
from dyna_eval_db.migrate import VERSION_TABLE
from dyna_eval_db.models import Base


def render_type(kind: str, item: object, _context: object) -> str | Literal[False]:
    """Write a new migration with the database's own types, so that it never changes with `columns.py`."""
    if kind == "type" and isinstance(item, JSON):
        return 'sa.JSON().with_variant(sa.dialects.postgresql.JSONB(), "postgresql")'
    if kind == "type" and isinstance(item, Double):
        return "sa.Double()"
    if kind == "type" and isinstance(item, TypeDecorator):
        return f"sa.{item.impl!r}"
    return False


def migrate(connection: Connection) -> None:
    """Run the migrations asked for; the caller's transaction holds them all."""
    context.configure(
        connection=connection,
        target_metadata=Base.metadata,
        version_table=VERSION_TABLE,
        render_as_batch=True,  # SQLite can alter a table only by copying it
        render_item=render_type,
    )
    with context.begin_transaction():
        context.run_migrations()


def migrate_named_database() -> None:
    url = context.get_x_argument(as_dictionary=True).get("db") or os.environ.get("DYNA_EVAL_DB")
    if url is None:
        raise DatabaseError("name the database with `-x db=URL` or DYNA_EVAL_DB")
    with writing(bare_engine(parse_address(str(url)))).begin() as connection:
        migrate(connection)


given = context.config.attributes.get("connection")
if given is not None:
    migrate(given)
else:
    migrate_named_database()
