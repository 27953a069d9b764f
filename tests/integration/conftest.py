"""Fixtures for the tests that touch disk, servers and processes."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from dyna_eval_db.store import Store

from tests.postgres import Server, running_server


@pytest.fixture(params=["sqlite", "postgresql"])
def database_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """The address of an empty database, once on each kind; Postgres is skipped where it is not installed."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path}/store.db"
    server: Server = request.getfixturevalue("postgres_server")
    server.empty()
    return server.url


@pytest.fixture
def store(database_url: str) -> Iterator[Store]:
    """An empty store."""
    with Store.open(database_url, create=True) as store:
        yield store


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[Server]:
    """A server of our own."""
    with running_server() as server:
        yield server
