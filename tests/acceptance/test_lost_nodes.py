"""Nodes of a real cluster that die or stop while they decode: their jobs run elsewhere."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest
from workplace import Workplace

from dyna_eval.errors import DatabaseError, UnknownSweepError
from dyna_eval.jobs import JobState
from tests.models import save_model, tiny_gpt_neox

RAY = Path(sys.executable).with_name("ray")
JOBS = 120

SWEEP = f"""\
name: nodes
pair: {{target: ./target, draft: ./draft}}
prompts: {{dataset: json, data_files: prompts.jsonl}}
generation: {{max_new_tokens: 64}}
measure: {{repeats: {JOBS // 2}}}
engine: {{backend: eager, dtype: float32}}  # slow enough to be caught at work
configs:
  - {{label: Baseline, method: ar}}
  - {{label: Draft, method: linear, k: 2}}
"""


@dataclass(slots=True)
class Nodes:
    """A head without cores, and two nodes with one core each, each a session of processes."""

    address: str
    workers: list[subprocess.Popen[bytes]]


@pytest.fixture
def nodes(workplace: Workplace) -> Iterator[Nodes]:
    started: list[subprocess.Popen[bytes]] = []
    variables = workplace.environment() | {"PATH": f"{RAY.parent}:/usr/bin:/bin", "RAY_AUTH_MODE": "disabled"}

    def start(address: str, *arguments: str) -> subprocess.Popen[bytes]:
        ports = [f"--dashboard-agent-listen-port={free_port()}", "--disable-usage-stats", "--block"]
        command = [RAY, "start", f"--node-ip-address={address}", *ports, *arguments]
        process = subprocess.Popen(
            command,
            env=variables,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        started.append(process)
        return process

    port = free_port()
    with tempfile.TemporaryDirectory(prefix="de-", ignore_cleanup_errors=True) as folder:
        head = ["--head", f"--port={port}", "--num-cpus=0", f"--temp-dir={folder}"]
        start("127.0.0.1", *head, "--include-dashboard=false")
        try:
            wait_until(lambda: answers(port))
            joined = f"--address=127.0.0.1:{port}"
            workers = []
            for number in (2, 3):
                workers.append(start(f"127.0.0.{number}", joined, "--num-cpus=1"))
                wait_until(lambda: has_raylet(workers[-1]))  # two that start at once disturb each other
            yield Nodes(address=f"127.0.0.1:{port}", workers=workers)
        finally:
            for process in psutil.process_iter():
                with contextlib.suppress(psutil.Error, ProcessLookupError):
                    ours = os.getsid(process.pid) in {one.pid for one in started}
                    if ours or folder in " ".join(process.cmdline()):
                        process.kill()
            for one in started:
                one.wait()


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def has_raylet(node: subprocess.Popen[bytes]) -> bool:
    assert node.poll() is None, "the node did not start"
    return "raylet" in {one.name() for one in psutil.Process(node.pid).children(recursive=True)}


def answers(port: int) -> bool:
    with contextlib.suppress(OSError):
        socket.create_connection(("127.0.0.1", port), timeout=1).close()
        return True
    return False


def wait_until(condition: object, seconds: float = 180) -> None:
    assert callable(condition)
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.1)


@pytest.mark.chaos
@pytest.mark.timeout(900)
@pytest.mark.parametrize(
    ("how", "at_most_seconds"), [(signal.SIGKILL, 30), (signal.SIGSTOP, 90)], ids=["killed", "stopped"]
)
def test_the_job_of_a_node_that_is_gone_runs_elsewhere(
    workplace: Workplace, nodes: Nodes, how: signal.Signals, at_most_seconds: float, record: dict[str, object]
) -> None:
    save_model(tiny_gpt_neox(seed=1), workplace.folder / "target")
    save_model(tiny_gpt_neox(seed=2, hidden=16, layers=1), workplace.folder / "draft")
    workplace.write("prompts.jsonl", '{"text": "Once upon"}\n{"text": "a time"}\n')
    workplace.write("sweep.yaml", SWEEP)
    process = workplace.start("submit", "sweep.yaml", "--address", nodes.address, RAY_AUTH_MODE="disabled")

    def running() -> dict[int, str]:
        """Return the actors of the jobs in flight, by job."""
        with contextlib.suppress(DatabaseError, UnknownSweepError), workplace.store() as store:
            jobs = [job.id for job in store.record(1).jobs if job.state is JobState.RUNNING]
            return {job: store.attempts(job)[-1].actor for job in jobs}
        return {}

    def done() -> int:
        with contextlib.suppress(DatabaseError, UnknownSweepError), workplace.store() as store:
            return store.progress(1)[JobState.DONE]
        return 0

    wait_until(lambda: done() >= 4 and len(running()) == 2)
    decoding = {actor.partition(".")[0] for actor in running().values()}
    assert len(decoding) == 2
    for one in psutil.process_iter():
        with contextlib.suppress(psutil.Error, ProcessLookupError):
            if os.getsid(one.pid) == nodes.workers[0].pid and (
                how is signal.SIGKILL or one.name() == "raylet"
            ):
                one.send_signal(how)
    gone = time.monotonic()
    wait_until(lambda: any(kind in ("put back", "failed") for kind in kinds(workplace)), 150)
    noticed = time.monotonic() - gone
    _, stderr = process.communicate(timeout=300)
    assert process.returncode == 0, stderr
    with workplace.store() as store:
        assert store.audit() == []
        assert store.progress(1)[JobState.DONE] == JOBS
    record |= {"passed": True, "rescheduled_seconds": round(noticed, 1)}
    assert noticed < at_most_seconds


def kinds(workplace: Workplace) -> list[str]:
    with workplace.store() as store:
        return [event.kind for event in store.events(1)]
