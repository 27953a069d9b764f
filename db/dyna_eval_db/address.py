"""Addresses of databases: how they are written, and how they are shown without passwords."""

from __future__ import annotations

import re
from pathlib import Path

from sqlalchemy import URL, make_url
from sqlalchemy.exc import ArgumentError

from dyna_eval.errors import DatabaseError

_POSTGRES_SCHEMES = ("postgresql", "postgres", "postgresql+psycopg")
_FILE = re.compile(r"[^:@?#%]+\.(db|sqlite3?)", re.IGNORECASE)
"""A file of SQLite without the rest of an address, and without a character that means something in one."""


def parse_address(url: str) -> URL:
    """Read `sqlite:///FILE` or `postgresql://USER@HOST/NAME`; SQLite's file becomes an absolute path."""
    try:
        address = make_url(url)
    except (ArgumentError, ValueError):
        file = f"sqlite:///{url}" if _FILE.fullmatch(url) else "sqlite:///FILE"
        raise DatabaseError(
            f"{_without_credentials(url)!r} is not a database URL; write {file} or postgresql://USER@HOST/NAME"
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
