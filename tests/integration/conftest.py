"""Fixtures for the tests that touch disk, servers and processes."""

from __future__ import annotations

import importlib.util
import os
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from dyna_eval_db.store import Store


@pytest.fixture(params=["sqlite", "postgresql"])
def database_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """The address of an empty database, once on each kind; Postgres is skipped where it is not installed."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path}/store.db"
    socket_folder: Path = request.getfixturevalue("postgres_server")
    psql = [_postgres_programs() / "psql", "-q", "-h", socket_folder, "-U", "postgres"]
    empty = "SET client_min_messages = error; DROP SCHEMA public CASCADE; CREATE SCHEMA public"
    subprocess.run([*psql, "-c", empty], check=True)
    return f"postgresql://postgres@/postgres?host={socket_folder}"


@pytest.fixture
def store(database_url: str) -> Iterator[Store]:
    """An empty store."""
    with Store.open(database_url, create=True) as store:
        yield store


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[Path]:
    """A server of our own, reached by the socket in the folder that this returns."""
    if importlib.util.find_spec("psycopg") is None:
        pytest.skip("psycopg is not installed")
    programs = _postgres_programs()
    with tempfile.TemporaryDirectory(
        prefix="dyna-eval-pg-", dir="/tmp"
    ) as folder:  # sockets need short paths
        user = "postgres" if os.geteuid() == 0 else None  # the server refuses to run as root
        if user:
            shutil.chown(folder, user)
        data = Path(folder) / "data"
        initdb = [programs / "initdb", "-D", data, "-A", "trust", "-U", "postgres", "--no-sync"]
        subprocess.run(initdb, check=True, user=user, cwd=folder, stdout=subprocess.DEVNULL)
        server = subprocess.Popen(
            [programs / "postgres", "-D", data, "-k", folder, "-h", "", "-F"],
            user=user,
            cwd=folder,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        try:
            _wait_until_ready(programs, folder)
            yield Path(folder)
        finally:
            server.send_signal(signal.SIGINT)  # its fast shutdown, which waits for no client
            server.wait(timeout=30)


def _postgres_programs() -> Path:
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/postgres"))
    if not found:
        pytest.skip("no Postgres server in /usr/lib/postgresql")
    return found[-1].parent


def _wait_until_ready(programs: Path, folder: str) -> None:
    deadline = time.monotonic() + 60
    while subprocess.run([programs / "pg_isready", "-q", "-h", folder], check=False).returncode:
        if time.monotonic() > deadline:
            pytest.fail("the Postgres server did not start within a minute")
        time.sleep(0.1)
