"""The Ray cluster: connecting to it, and the places on it where an actor can run."""

from __future__ import annotations

import os
import re
import shutil
import signal
import socket
import tempfile
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ray
from dyna_eval_db.store import Claim
from dyna_eval_workers.actor import DecodingActor
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from dyna_eval.errors import DynaEvalError, InputError, first_line
from dyna_eval.jobs import ResolvedSweep, SweepSpec


@dataclass(slots=True, kw_only=True)
class Slot:
    """A place on the cluster for one actor at a time: a GPU, or all cores of a node without one."""

    name: str
    node_id: str
    place: int
    cpus: float
    gpus: int
    actor_class: Any = DecodingActor
    actor: Any = None
    pair: str | None = None
    claim: Claim | None = None
    answered: bool = False
    """Whether the actor has answered a heartbeat: before that it may still be starting."""
    started: int = 0
    """Actors started here so far; part of the actor's name, so that names stay unique."""

    @property
    def actor_name(self) -> str:
        """The name of the actor that runs here, or of the next one."""
        return f"{self.name}.{self.started if self.actor is not None else self.started + 1}"

    def start(self) -> None:
        """Start an actor on this node unless one is here."""
        if self.actor is not None:
            return
        name = self.actor_name
        self.started += 1
        self.answered = False
        self.actor = self.actor_class.options(
            num_cpus=self.cpus,
            num_gpus=self.gpus,
            scheduling_strategy=NodeAffinitySchedulingStrategy(self.node_id, soft=False),
        ).remote(name=name, threads=max(1, int(self.cpus)))

    def stop(self) -> None:
        """End the actor if there is one."""
        if self.actor is not None:
            ray.kill(self.actor, no_restart=True)
        self.actor = self.pair = None

    def node_is_alive(self) -> bool:
        return any(node["NodeID"] == self.node_id and node["Alive"] for node in ray.nodes())


def find_slots(
    cpus_per_pair: int | None, *, keep: Sequence[Slot] = (), actor_class: Any = DecodingActor
) -> list[Slot]:
    """Return the cluster's slots: one per GPU, or on a cluster without any, one per node.

    Slots of `keep` are returned themselves while their node is alive or their actor has a job. Raises
    InputError where there is no place at all.
    """
    known = {(slot.node_id, slot.place): slot for slot in keep}
    nodes = sorted((node for node in ray.nodes() if node["Alive"]), key=lambda node: str(node["NodeID"]))
    with_gpus = any(node["Resources"].get("GPU", 0) >= 1 for node in nodes)
    slots = []
    for node in nodes:
        node_id, cpus = str(node["NodeID"]), int(node["Resources"].get("CPU", 0))
        gpus = int(node["Resources"].get("GPU", 0))
        if with_gpus:
            places, share = gpus, cpus // max(gpus, 1)
        else:
            share = cpus_per_pair or cpus
            places = cpus // share if share else 0
        for place in range(places):
            name = f"{node_id[:8]}-{place}-{uuid.uuid4().hex[:6]}"
            new = Slot(
                name=name,
                node_id=node_id,
                place=place,
                cpus=share,
                gpus=1 if with_gpus else 0,
                actor_class=actor_class,
            )
            slots.append(known.pop((node_id, place), new))
    slots += [slot for slot in known.values() if slot.claim is not None]
    if not slots:
        raise InputError(
            "the Ray cluster has neither a GPU nor a free core; add a node, or lower --cpus-per-pair"
        )
    return slots


@contextmanager
def connected(address: str) -> Iterator[str]:
    """Connect to a Ray cluster for the time of a block: `local` starts one, `auto` or host:port joins one.

    Gives HOST:PORT of the cluster's dashboard, which also takes jobs; empty where it has none.
    """
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    options: dict[str, Any] = {"log_to_driver": False, "logging_level": "ERROR"}
    folder = _temporary_folder() if address == "local" else None
    if folder is not None:
        options |= {"include_dashboard": False, "_temp_dir": folder}
    on_terminate = signal.getsignal(signal.SIGTERM)
    database = os.environ.pop("DYNA_EVAL_DB", None)  # workers hold no credentials
    try:
        dashboard = _join(address, options)
        signal.signal(signal.SIGTERM, on_terminate)  # Ray's own handler would end the process here and now
        yield dashboard
    finally:
        if database is not None:
            os.environ["DYNA_EVAL_DB"] = database
        ray.shutdown()
        if folder is not None:
            shutil.rmtree(folder, ignore_errors=True)  # logs of Ray's own processes, and their sockets


def _join(address: str, options: dict[str, Any]) -> str:
    named = os.environ.get("RAY_ADDRESS", "auto") if address == "auto" else address
    if named not in ("local", "auto"):
        _check_reachable(named)
    try:
        return str(ray.init(address=address, **options).dashboard_url or "")
    except SystemExit:  # Ray's answer to SIGTERM while it starts
        raise KeyboardInterrupt from None
    except Exception as error:  # of a bare kind where a node is slow to start
        advice = "start a cluster there, or leave out --address"
        if address == "local":
            advice = "try again when this machine is less busy"
        raise InputError(
            f"cannot connect to Ray at {address!r}: {first_line(error).rstrip('.')}; {advice}"
        ) from error


def _check_reachable(address: str) -> None:
    """Refuse at once what Ray would try for many minutes, deaf to Ctrl-C."""
    found = re.fullmatch(r"(?P<host>[^/\s]+):(?P<port>[0-9]{1,5})", address)
    if found is None:
        raise InputError(f"cannot connect to Ray at {address!r}: --address is local, auto or HOST:PORT")
    try:
        socket.create_connection((found["host"].strip("[]"), int(found["port"])), timeout=10).close()
    except (OSError, OverflowError) as error:
        raise InputError(
            f"cannot connect to Ray at {address!r}: {first_line(error)}; "
            "start a cluster there, or leave out --address"
        ) from error


def resolve_on_cluster(spec: SweepSpec) -> ResolvedSweep:
    """Inspect models and prompts on the connected cluster, where their files are."""

    has_gpu = ray.cluster_resources().get("GPU", 0) > 0
    task = ray.remote(max_retries=0)(_resolve)
    try:
        resolved: ResolvedSweep = ray.get(task.remote(spec, "cuda" if has_gpu else "cpu"))
    except ray.exceptions.RayTaskError as error:
        if isinstance(error.cause, DynaEvalError):
            raise error.cause from error
        raise DynaEvalError(f"the cluster cannot look at the models: {first_line(error.cause)}") from error
    except ray.exceptions.RayError as error:
        raise DynaEvalError(f"the cluster cannot look at the models: {first_line(error)}") from error
    return resolved


def _resolve(spec: SweepSpec, device: str) -> ResolvedSweep:
    from dyna_eval_workers.resolution import resolve_sweep  # noqa: PLC0415 - torch stays out of controllers

    return resolve_sweep(spec, device=device)


def _temporary_folder() -> str:
    """Return a short folder for Ray's sockets, whose paths may have at most 107 bytes."""
    short = Path("/tmp")  # noqa: S108  # mkdtemp makes a private folder in it
    return tempfile.mkdtemp(prefix="dyna-eval-ray-", dir=short if short.is_dir() else None)
