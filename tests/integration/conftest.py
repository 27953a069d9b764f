"""Fixtures for the tests that touch disk, servers and processes."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from dyna_eval_dashboards import reports
from dyna_eval_db.store import Store

from tests.new_databases import open_new
from tests.postgres import Server, running_server


@pytest.fixture(params=["sqlite", "postgresql"])
def database_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """The address of an empty database, once on each kind; Postgres is skipped where it is not installed."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path}/store.db"
    server: Server = request.getfixturevalue("postgres_server")
    server.empty()
    return server.url


@pytest.fixture(scope="session")
def empty_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A SQLite database without rows, to be copied: its migrations take longer than most tests."""
    file = tmp_path_factory.mktemp("empty") / "store.db"
    open_new(f"sqlite:///{file}").close()
    return file


@pytest.fixture
def store(database_url: str, request: pytest.FixtureRequest) -> Iterator[Store]:
    """An empty store."""
    if not database_url.startswith("sqlite:///"):
        server: Server = request.getfixturevalue("postgres_server")
        server.empty_tables()
    with open_new(database_url) as store:
        yield store


@pytest.fixture
def unheld(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pages of the dashboard are of the moment at which they are asked for, not up to ten seconds older."""
    monkeypatch.setattr(reports, "_SLOWEST_BEAT", 0.0)


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[Server]:
    """A server of our own."""
    with running_server() as server:
        yield server
