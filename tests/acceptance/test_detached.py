"""A sweep handed to a running cluster goes on without the command that submitted it."""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest
from workplace import SWEEP, Workplace, wait_until

RAY = Path(sys.executable).with_name("ray")


@dataclass(frozen=True, slots=True, kw_only=True)
class Cluster:
    address: str


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@pytest.fixture
def cluster(workplace: Workplace) -> Iterator[Cluster]:
    """A head as `ray start` makes it, with the dashboard that takes jobs; it ends with the test."""
    port = free_port()
    with tempfile.TemporaryDirectory(prefix="de-", ignore_cleanup_errors=True) as folder:
        arguments = ["--head", "--block", f"--port={port}", "--num-cpus=1", f"--temp-dir={folder}"]
        arguments += [f"--dashboard-port={free_port()}", f"--dashboard-agent-listen-port={free_port()}"]
        arguments += ["--node-ip-address=127.0.0.1", "--include-dashboard=true", "--disable-usage-stats"]
        variables = workplace.environment() | {
            "PATH": f"{RAY.parent}:/usr/bin:/bin",
            "RAY_AUTH_MODE": "disabled",
            "RAY_worker_niceness": "0",
        }
        head = subprocess.Popen(
            [RAY, "start", *arguments],
            env=variables,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        try:
            yield Cluster(address=f"127.0.0.1:{port}")
        finally:
            for process in psutil.process_iter():
                with contextlib.suppress(psutil.Error, ProcessLookupError):
                    if os.getsid(process.pid) == head.pid or folder in " ".join(process.cmdline()):
                        process.kill()
            head.wait()


def answers(cluster: Cluster) -> bool:
    """Whether the head takes connections."""
    host, port = cluster.address.split(":")
    try:
        socket.create_connection((host, int(port)), timeout=1).close()
    except OSError:
        return False
    return True


@pytest.mark.slow
def test_a_detached_sweep_is_run_by_the_clusters_head(workplace: Workplace, cluster: Cluster) -> None:
    workplace.write("sweep.yaml", SWEEP)
    database = f"sqlite:///{workplace.database}"
    variables = {"RAY_AUTH_MODE": "disabled", "DYNA_EVAL_DB": database}
    wait_until(lambda: answers(cluster))
    submitted = workplace.run(
        "submit", "sweep.yaml", "--detach", "--insecure", "--address", cluster.address, **variables
    )

    assert submitted.status == 0, submitted.stderr
    assert "runs on the cluster as Ray job" in submitted.stdout
    followed = workplace.run("logs", "--follow", **variables)
    assert followed.status == 0, followed.stderr
    assert followed.stdout.count(" landed ") == 8
    rows = workplace.run_here("report", "--json", **variables).json()["rows"]
    assert [row["exact_match_rate"] for row in rows] == [1.0] * 4
