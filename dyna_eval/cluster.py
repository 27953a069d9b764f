"""The Ray cluster: connecting to it, and the places on it where an actor can run."""

from __future__ import annotations

import os
import re
import shutil
import signal
import socket
import tempfile
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ray
from dyna_eval_db.store import Claim
from dyna_eval_workers.actor import DecodingActor
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from dyna_eval.access import bound_to_loopback, check_guarded, keep_token_private, show_token
from dyna_eval.errors import DynaEvalError, InputError, NoPlaceError, first_line
from dyna_eval.jobs import ResolvedSweep, SweepSpec


@dataclass(slots=True, kw_only=True)
class Slot:
    """A place on the cluster for one actor at a time: whole GPUs or a share of one, or a node's cores."""

    name: str
    node_id: str
    place: int
    cpus: float
    gpus: float
    actor_class: Any = DecodingActor
    actor: Any = None
    pair: str | None = None
    claim: Claim | None = None
    answered: bool = False
    """Whether the actor has answered a heartbeat: before that it may still be starting."""
    late: bool = False
    """Whether its actor was given up and may still answer: until then nothing else starts here."""
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
        ).remote(name=name, threads=max(1, int(self.cpus)), gpus=self.gpus)

    def stop(self) -> None:
        """End the actor if there is one."""
        if self.actor is not None:
            ray.kill(self.actor, no_restart=True)
        self.actor = self.pair = None

    def node_is_alive(self) -> bool:
        """Whether Ray counts it as alive and it does not refuse: of a killed one Ray learns late."""
        node = next((node for node in ray.nodes() if node["NodeID"] == self.node_id), None)
        return node is not None and bool(node["Alive"]) and not _refuses(node)


def find_slots(
    cpus_per_pair: int | None,
    gpus_per_pair: float | None = None,
    *,
    keep: Sequence[Slot] = (),
    actor_class: Any = DecodingActor,
) -> list[Slot]:
    """Return the cluster's slots: one per GPU, or on a cluster without any, one per node.

    `gpus_per_pair` is a whole number of GPUs, which are of one node, or a share of one. Slots of `keep` are
    returned themselves while their node is alive or their actor has a job. Raises NoPlaceError where there
    is no place at all.
    """
    known = {(slot.node_id, slot.place): slot for slot in keep}
    nodes = sorted((node for node in ray.nodes() if node["Alive"]), key=lambda node: str(node["NodeID"]))
    if gpus_per_pair is None and any(node["Resources"].get("GPU", 0) >= 1 for node in nodes):
        gpus_per_pair = 1
    slots = []
    for node in nodes:
        node_id = str(node["NodeID"])
        places, share = _places(node["Resources"], cpus_per_pair, gpus_per_pair)
        for place in range(places):
            name = f"{node_id[:8]}-{place}-{uuid.uuid4().hex[:6]}"
            new = Slot(
                name=name,
                node_id=node_id,
                place=place,
                cpus=share,
                gpus=gpus_per_pair or 0,
                actor_class=actor_class,
            )
            slots.append(known.pop((node_id, place), new))
    slots += [slot for slot in known.values() if slot.claim is not None]
    if not slots:
        raise NoPlaceError(_why_no_place(nodes, gpus_per_pair))
    return slots


def _places(
    resources: Mapping[str, float], cpus_per_pair: int | None, gpus_per_pair: float | None
) -> tuple[int, int]:
    """Return how many actors a node has room for, and the cores of each."""
    cpus, gpus = int(resources.get("CPU", 0)), int(resources.get("GPU", 0))
    if gpus_per_pair is None:
        share = cpus_per_pair or cpus
        return (cpus // share if share else 0), share
    places = int(gpus // gpus_per_pair) if gpus_per_pair >= 1 else gpus * int(1 / gpus_per_pair)
    return places, cpus // max(places, 1)


def _why_no_place(nodes: Sequence[Mapping[str, Any]], gpus_per_pair: float | None) -> str:
    if gpus_per_pair is None:
        return "the Ray cluster has neither a GPU nor a free core; add a node, or lower --cpus-per-pair"
    most = max((int(node["Resources"].get("GPU", 0)) for node in nodes), default=0)
    return (
        f"no node of the Ray cluster has the {gpus_per_pair:g} GPUs of a pair, the largest has {most};"
        " add a node, or change --gpus-per-pair"
    )


def _refuses(node: Mapping[str, Any]) -> bool:
    """Whether a node's machine answers that no raylet is there any more."""
    try:
        socket.create_connection((node["NodeManagerAddress"], node["NodeManagerPort"]), timeout=2).close()
    except ConnectionRefusedError:
        return True
    except OSError:  # it does not answer at all, which Ray decides upon
        return False
    return False


@contextmanager
def connected(address: str, *, insecure: bool = False) -> Iterator[str]:
    """Connect to a Ray cluster for the time of a block: `local` starts one, `auto` or host:port joins one.

    Gives HOST:PORT of the cluster's dashboard, which also takes jobs; empty where it has none. Raises
    InputError where the cluster cannot be joined, or asks for no token and `insecure` does not allow that.
    """
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    options: dict[str, Any] = {"log_to_driver": False, "logging_level": "ERROR"}
    folder = _temporary_folder() if address == "local" else None
    if folder is not None:
        options |= {"include_dashboard": False, "_temp_dir": folder}
    keep_token_private(create=address == "local")
    on_terminate = signal.getsignal(signal.SIGTERM)
    database = os.environ.pop("DYNA_EVAL_DB", None)  # workers hold no credentials
    try:
        with bound_to_loopback() if address == "local" else nullcontext():
            dashboard = _join(address, options, insecure=insecure)
        signal.signal(signal.SIGTERM, on_terminate)  # Ray's own handler would end the process here and now
        yield dashboard
    finally:
        if database is not None:
            os.environ["DYNA_EVAL_DB"] = database
        ray.shutdown()
        if folder is not None:
            shutil.rmtree(folder, ignore_errors=True)  # logs of Ray's own processes, and their sockets


def _join(address: str, options: dict[str, Any], *, insecure: bool) -> str:
    named = os.environ.get("RAY_ADDRESS", "auto") if address == "auto" else address
    if named not in ("local", "auto"):
        _check_reachable(named)
        if not insecure:  # before our own token is shown to it
            check_guarded(named)
            show_token()
    try:
        dashboard = str(ray.init(address=address, **options).dashboard_url or "")
    except SystemExit:  # Ray's answer to SIGTERM while it starts
        raise KeyboardInterrupt from None
    except ray.exceptions.AuthenticationError as error:
        raise InputError(
            f"the Ray cluster at {address!r} asks for a token;"
            " put its token into ~/.ray/auth_token, and leave RAY_AUTH_MODE unset or at token"
        ) from error
    except Exception as error:  # a wrong token is a ConnectionError, a node slow to start a bare Exception
        advice = "start a cluster there, put its token into ~/.ray/auth_token, or leave out --address"
        if address == "local":
            advice = "try again when this machine is less busy"
        raise InputError(
            f"cannot connect to Ray at {address!r}: {first_line(error).rstrip('.')}; {advice}"
        ) from error
    if named == "auto" and not insecure:
        check_guarded(ray.get_runtime_context().gcs_address)
    return dashboard


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
