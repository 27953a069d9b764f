"""Real clusters for tests: several raylets on this machine, with a token of their own.

Their nodes have the machine's own address. Ray replaces 127.0.0.1 by it, and a node that was started under
another loopback address then waits for a raylet that registered elsewhere.
"""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import psutil
import ray
from ray.autoscaler._private.fake_multi_node.node_provider import FAKE_HEAD_NODE_ID, FAKE_HEAD_NODE_TYPE

RAY = Path(sys.executable).with_name("ray")


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@dataclass(slots=True)
class Cluster:
    """A head without cores, and the nodes that were added; `variables` let a process join."""

    address: str
    folder: str
    variables: dict[str, str]
    sessions: list[subprocess.Popen[bytes]] = field(default_factory=list)

    def add_node(self, *, cpus: int = 1, gpus: int = 0) -> subprocess.Popen[bytes]:
        """Start a node and wait for its raylet; GPUs are logical."""
        node = self.start(f"--address={self.address}", f"--num-cpus={cpus}", f"--num-gpus={gpus}")
        deadline = time.monotonic() + 300
        while raylet_of(node) is None:
            assert node.poll() is None, "the node did not start"
            assert time.monotonic() < deadline
            time.sleep(0.2)
        return node

    def start(self, *arguments: str) -> subprocess.Popen[bytes]:
        common = [f"--dashboard-agent-listen-port={free_port()}", "--disable-usage-stats", "--block"]
        common.append("--include-log-monitor=false")  # nobody reads what they send, one per node
        process = subprocess.Popen(
            [RAY, "start", *common, *arguments],
            env=self.variables,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        self.sessions.append(process)
        return process

    def end(self) -> None:
        leaders = {one.pid for one in self.sessions}
        for process in psutil.process_iter():
            with contextlib.suppress(psutil.Error, ProcessLookupError):
                if os.getsid(process.pid) in leaders or self.folder in " ".join(process.cmdline()):
                    process.kill()
        for one in self.sessions:
            one.wait()


def raylet_of(node: subprocess.Popen[bytes]) -> psutil.Process | None:
    """Return the raylet that a `ray start` runs, once it is there."""
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error, ProcessLookupError):
            if os.getsid(process.pid) == node.pid and process.name() == "raylet":
                return process
    return None


@contextlib.contextmanager
def running_cluster(
    variables: Mapping[str, str], *, token: bool = True, grows_to: int = 0
) -> Iterator[Cluster]:
    """A head that asks for a token, or for none, as long as a block runs.

    With `grows_to` it has an autoscaler, which starts nodes of one core: one by itself, and so many in all.
    """
    port, host = free_port(), ray.util.get_node_ip_address()
    with tempfile.TemporaryDirectory(prefix="de-", dir="/tmp", ignore_cleanup_errors=True) as folder:
        own = dict(variables) | {"PATH": f"{RAY.parent}:/usr/bin:/bin", "RAY_AUTH_MODE": "disabled"}
        own["RAY_worker_niceness"] = "0"  # as docs/cluster.md says
        if token:
            file = Path(folder) / "token"
            file.touch(mode=0o600)
            file.write_text(secrets.token_hex(32))
            own |= {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": str(file)}
        cluster = Cluster(f"{host}:{port}", folder, own)
        head = ["--head", f"--port={port}", "--num-cpus=0", f"--temp-dir={folder}/ray"]
        if grows_to:
            settings = Path(folder) / "autoscaler.json"
            settings.write_text(json.dumps(autoscaler_settings(cluster.address, most=grows_to)))
            head.append(f"--autoscaling-config={settings}")
            cluster.variables |= {
                "AUTOSCALER_UPDATE_INTERVAL_S": "1",
                "RAY_FAKE_CLUSTER": "1",
                "RAY_enable_autoscaler_v2": "1",  # as `ray up` does
                "RAY_CLOUD_INSTANCE_ID": FAKE_HEAD_NODE_ID,
            }
        try:
            cluster.start(*head, "--include-dashboard=false")
            deadline = time.monotonic() + 300
            while not answers(host, port):
                assert time.monotonic() < deadline
                time.sleep(0.2)
            yield cluster
        finally:
            cluster.end()


def autoscaler_settings(address: str, *, most: int) -> dict[str, object]:
    """Return what `--autoscaling-config` reads, for Ray's own provider of nodes on one machine.

    It is named as an external one: by its own name Ray looks for a file that its wheels do not have.
    """
    module = "ray.autoscaler._private.fake_multi_node.node_provider.FakeMultiNodeProvider"
    commands = ("initialization", "setup", "head_setup", "worker_setup", "head_start_ray", "worker_start_ray")
    return {
        "cluster_name": "grows",
        "max_workers": most,
        "provider": {
            "type": "external",
            "module": module,
            "gcs_address": address,
            "disable_node_updaters": True,
            "disable_launch_config_check": True,
        },
        "available_node_types": {
            FAKE_HEAD_NODE_TYPE: {"resources": {"CPU": 0}, "node_config": {}, "max_workers": 0},
            "worker": {"resources": {"CPU": 1}, "node_config": {}, "min_workers": 1, "max_workers": most},
        },
        "head_node_type": FAKE_HEAD_NODE_TYPE,
        "auth": {},
        "file_mounts": {},
        "cluster_synced_files": [],
    } | {f"{name}_commands": [] for name in commands}


def answers(host: str, port: int) -> bool:
    with contextlib.suppress(OSError):
        socket.create_connection((host, port), timeout=1).close()
        return True
    return False
