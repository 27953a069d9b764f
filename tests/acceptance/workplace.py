"""The `dyna-eval` command as a user runs it: a process of its own, started in a folder of its own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
import uuid
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil
from dyna_eval_db.store import Store

COMMAND = Path(sys.executable).with_name("dyna-eval")

_MARK = "DYNA_EVAL_ACCEPTANCE_TEST"
"""A variable that every process of a test inherits: Ray's processes rename themselves and change groups."""

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
    """What a command left behind. `seconds` is its wall time."""

    status: int
    stdout: str
    stderr: str
    seconds: float

    def json(self) -> Any:
        """Return stdout, which must be one JSON document and nothing else."""
        return json.loads(self.stdout)


@dataclass(frozen=True, slots=True, kw_only=True)
class Workplace:
    """A folder to run commands in, with a database that the first `submit` creates."""

    folder: Path
    variables: dict[str, str]
    mark: str = field(default_factory=lambda: uuid.uuid4().hex)

    @property
    def database(self) -> Path:
        return self.folder / "dyna-eval.db"

    def write(self, name: str, text: str) -> Path:
        file = self.folder / name
        file.write_text(text, encoding="utf-8")
        return file

    def run(self, *arguments: str | Path, **variables: str) -> Finished:
        """Run a command to its end."""
        started = time.monotonic()
        done = subprocess.run(
            [COMMAND, *arguments],
            cwd=self.folder,
            env=self._environment() | variables,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            encoding="utf-8",
            timeout=240,
            check=False,
        )
        return Finished(
            status=done.returncode,
            stdout=done.stdout,
            stderr=done.stderr,
            seconds=time.monotonic() - started,
        )

    def start(self, *arguments: str | Path) -> subprocess.Popen[str]:
        """Start a command in a process group of its own, as a terminal does."""
        return subprocess.Popen(
            [COMMAND, *arguments],
            cwd=self.folder,
            env=self._environment(),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            encoding="utf-8",
            process_group=0,
        )

    def store(self) -> Store:
        return Store.open(f"sqlite:///{self.database}", create=False)

    def living(self) -> list[str]:
        """Return the command lines of all processes that descend from commands run here and still live."""
        found = []
        for process in psutil.process_iter():
            try:
                if process.status() != psutil.STATUS_ZOMBIE and process.environ().get(_MARK) == self.mark:
                    found.append(" ".join(process.cmdline()))
            except psutil.Error:  # it ended just now, or is not ours to look at
                continue
        return found

    def _environment(self) -> dict[str, str]:
        kept = {
            name: value for name, value in os.environ.items() if not name.startswith(("DYNA_EVAL_", "RAY_"))
        }
        return kept | self.variables | {_MARK: self.mark}
