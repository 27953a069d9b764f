"""A real Postgres server of the tests' own, in a folder of its own, that can be stopped and started."""

from __future__ import annotations

import importlib.util
import os
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from dyna_eval_db.store import Store

NOTHING = "SET client_min_messages = error; DROP SCHEMA public CASCADE; CREATE SCHEMA public"


class Server:
    """One server, reached by the socket in its folder. Connections need no password."""

    def __init__(self, folder: Path, programs: Path) -> None:
        self.folder, self.programs = folder, programs
        self._user = "postgres" if os.geteuid() == 0 else None  # the server refuses to run as root
        if self._user:
            shutil.chown(folder, self._user)
        initdb = [programs / "initdb", "-D", folder / "data", "-A", "trust", "-U", "postgres", "--no-sync"]
        subprocess.run(initdb, check=True, user=self._user, cwd=folder, stdout=subprocess.DEVNULL)
        self.start()

    @property
    def url(self) -> str:
        return f"postgresql://postgres@/postgres?host={self.folder}"

    def start(self) -> None:
        """Start the server and wait until it answers."""
        self._process = subprocess.Popen(
            [self.programs / "postgres", "-D", self.folder / "data", "-k", self.folder, "-h", "", "-F"],
            user=self._user,
            cwd=self.folder,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        deadline = time.monotonic() + 300
        asking = [self.programs / "pg_isready", "-q", "-h", self.folder]
        while subprocess.run(asking, check=False).returncode:
            if time.monotonic() > deadline:
                pytest.fail("the Postgres server did not start within five minutes")
            time.sleep(0.1)

    def stop(self, *, immediate: bool = False) -> None:
        """Stop the server without waiting for clients; `immediate` leaves recovery to the next start."""
        self._process.send_signal(signal.SIGQUIT if immediate else signal.SIGINT)
        self._process.wait(timeout=120)

    def empty(self) -> None:
        """Drop whatever the database holds."""
        self._run("psql", "-q", "-c", NOTHING)

    def empty_tables(self) -> None:
        """Let the database hold our tables without rows, by a script: migrations take twice as long."""
        script = self.folder / "tables.sql"
        if not script.exists():
            self.empty()
            Store.open(self.url, create=True).close()
            self._run("pg_dump", "--no-owner", "--no-privileges", "-f", script)
        self._run("psql", "-q", "-1", "-v", "ON_ERROR_STOP=1", "-o", os.devnull, "-c", NOTHING, "-f", script)

    def _run(self, program: str, *options: str | Path) -> None:
        connection = ["-h", self.folder, "-U", "postgres"]
        subprocess.run([self.programs / program, *connection, *options], check=True)


@contextmanager
def running_server() -> Iterator[Server]:
    """Run a server for the time of a block; skips the test where Postgres is not installed."""
    if importlib.util.find_spec("psycopg") is None:
        pytest.skip("psycopg is not installed")
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/postgres"))
    if not found:
        pytest.skip("no Postgres server in /usr/lib/postgresql")
    with tempfile.TemporaryDirectory(prefix="dyna-eval-pg-", dir="/tmp") as folder:  # sockets: short paths
        server = Server(Path(folder), found[-1].parent)
        try:
            yield server
        finally:
            server.stop()
