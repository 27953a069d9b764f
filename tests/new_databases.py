"""Stores in new SQLite files, which are copied: the migrations that make one take longer than most tests."""

from __future__ import annotations

import tempfile
from functools import cache
from pathlib import Path

from dyna_eval_db.store import Store


def open_new(url: str) -> Store:
    """Open a store, with its tables in a new file where there is none yet."""
    file = Path(url.removeprefix("sqlite:///"))
    if url.startswith("sqlite:///") and not file.exists():
        file.write_bytes(empty_file())
    return Store.open(url, create=True)


@cache
def empty_file() -> bytes:
    """The bytes of a file with the current schema and no rows."""
    with tempfile.TemporaryDirectory(prefix="dyna-eval-") as folder:
        file = Path(folder) / "empty.db"
        Store.open(f"sqlite:///{file}", create=True).close()
        return file.read_bytes()
