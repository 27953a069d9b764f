"""The `dyna-eval` command as a user runs it: a process of its own, started in a folder of its own."""

from __future__ import annotations

import contextlib
import io
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from unittest import mock

import psutil
import torch
from dyna_eval_db.store import Landing, Store
from dyna_eval_workers.resolution import resolve_sweep
from dyna_eval_workers.session import DecodingSession

from dyna_eval import cli
from dyna_eval.sweeps.config import load_sweep
from tests.integration.claims import claim_one, land_one
from tests.new_databases import open_new

COMMAND = Path(sys.executable).with_name("dyna-eval")
ONE_CORE = {"RAY_OVERRIDE_RESOURCES": '{"CPU": 1}'}
"""For a command that starts Ray, so that tests can run side by side: its actor decodes with one thread."""

SWEEP = """\
name: small
pair: demo
prompts: {dataset: demo, limit: 2, max_prompt_tokens: 32}
generation: {max_new_tokens: 16, temperature: 0.0, seed: 0}
measure: {repeats: 2, warmup: 1}
baseline: Baseline
configs:
  - {label: Baseline, method: ar}
  - {label: + Draft model, method: linear, k: 4}
  - {label: + Tree structure, method: tree, depth: 3, branch: 2, threshold: 0.0}
  - {label: + Adaptive pruning, method: tree, depth: 3, branch: 2, threshold: 0.05}
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Finished:
    """What a command left behind."""

    status: int
    stdout: str
    stderr: str

    def json(self) -> Any:
        """Return stdout, which must be one JSON document and nothing else."""
        return json.loads(self.stdout)


@dataclass(frozen=True, slots=True, kw_only=True)
class Workplace:
    """A folder to run commands in, with a database that the first `submit` creates."""

    folder: Path
    variables: dict[str, str]
    sessions: list[int] = field(default_factory=list)
    """Of the commands started so far. What they start stays in them, whatever name or parent it gets."""

    @property
    def database(self) -> Path:
        return self.folder / "dyna-eval.db"

    def write(self, name: str, text: str) -> Path:
        file = self.folder / name
        file.write_text(text, encoding="utf-8")
        return file

    def run(self, *arguments: str | Path, **variables: str) -> Finished:
        """Run a command to its end."""
        process = self.start(*arguments, **variables)
        try:
            stdout, stderr = process.communicate(timeout=800)
        finally:
            process.kill()
        return Finished(
            status=process.returncode,
            stdout=stdout,
            stderr=stderr,
        )

    def run_here(self, *arguments: str | Path, **variables: str) -> Finished:
        """Run a command in this process, which spares a start where that is not what is tested."""
        with (
            contextlib.chdir(self.folder),
            mock.patch.dict(os.environ, self.environment() | variables, clear=True),
            contextlib.redirect_stdout(io.StringIO()) as stdout,
            contextlib.redirect_stderr(io.StringIO()) as stderr,
        ):
            status = cli.run([str(argument) for argument in arguments])
        return Finished(status=status, stdout=stdout.getvalue(), stderr=stderr.getvalue())

    def sweep_here(self, file: str, *overrides: str) -> None:
        """Run a sweep file to its end in this process, where who ran it is not what is tested.

        A session does what an actor's does. No Ray is started, and a controller's own events are missing.
        """
        session = DecodingSession(actor="here", node="here", device=torch.device("cpu"))
        with contextlib.chdir(self.folder):
            resolved = resolve_sweep(load_sweep(Path(file), overrides))
            with open_new(f"sqlite:///{self.database}") as store:
                sweep = store.add_sweep(resolved)
                for pair, prompts in resolved.prompt_sets.items():
                    while claim := claim_one(store, sweep, pair=pair, actor="here", lease_seconds=600.0):
                        result = session.run(claim.job, prompts)
                        assert land_one(store, claim, result) is Landing.LANDED

    def start(self, *arguments: str | Path, **variables: str) -> subprocess.Popen[str]:
        """Start a command in a session of its own, as a terminal does.

        A Ray that it starts has one core; clusters that tests start themselves have what these give them.
        """
        process = subprocess.Popen(
            [COMMAND, *arguments],
            cwd=self.folder,
            env=self.environment() | ONE_CORE | variables,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            encoding="utf-8",
            start_new_session=True,
        )
        self.sessions.append(process.pid)
        return process

    def store(self) -> Store:
        return Store.open(f"sqlite:///{self.database}", create=False)

    def living(self) -> list[str]:
        """Return the command lines of all processes that descend from commands run here and still live."""
        found = []
        for process in psutil.process_iter():
            with contextlib.suppress(psutil.Error, ProcessLookupError):  # it ended just now
                if os.getsid(process.pid) in self.sessions and process.cmdline():  # a dying one has none
                    found.append(" ".join(process.cmdline()))
        return found

    def environment(self) -> dict[str, str]:
        """Return the variables that a command is given: none of ours but those of this place."""
        own = ("DYNA_EVAL_", "RAY_")
        return {
            name: value for name, value in os.environ.items() if not name.startswith(own)
        } | self.variables


def wait_until(
    condition: Callable[[], bool], process: subprocess.Popen[str] | None = None, seconds: float = 500
) -> None:
    """Wait for a condition, which a process brings about if one is given."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert process is None or process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.1)
