"""The places on a Ray cluster where an actor can run."""

from __future__ import annotations

import contextlib
import socket
import uuid
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import ray
from dyna_eval_db.store import Whereabouts
from dyna_eval_workers.actor import DecodingActor
from ray.util import placement_group, placement_group_table, remove_placement_group
from ray.util.placement_group import PlacementGroup
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from dyna_eval.errors import NoPlaceError
from dyna_eval.measurements import Environment
from dyna_eval.running.verdicts import PAIR_TRIES, START_TRIES

MAX_WANTED = 20
"""For how many places more a controller asks at once; the limits of the cluster may be lower."""


ANSWER_SECONDS = 2.0
"""How long to wait for what an idle actor says it runs in; it takes milliseconds."""


@dataclass(slots=True, kw_only=True)
class Slot:
    """A place on the cluster for one actor at a time: whole GPUs or a share of one, or a node's cores."""

    name: str
    node_id: str
    host: str
    """The name of the node's machine."""
    place: int
    cpus: float
    gpus: float
    actor_class: Any = DecodingActor
    actor: Any = None
    pair: str | None = None
    environment: Environment | None = None
    """What the actor said last that it runs in."""
    answered: bool = False
    """Whether the actor has answered a heartbeat or a call: before that it may still be starting."""
    start_seconds: float | None = None
    """How long the last actor that answered took to do so; None where none did."""
    unanswered: int = 0
    """Actors in a row that were given up here before they answered: they got no room, or hung."""
    late: bool = False
    """Whether its actor was given up and may still answer: until then nothing else starts here."""
    started: int = 0
    """Actors started here so far; part of the actor's name, so that names stay unique."""
    unstarted: list[str] = field(default_factory=list)
    """Why actors did not start here, each time since one last brought a result."""
    unloaded: dict[str, list[str]] = field(default_factory=dict)
    """Why pairs did not load here, by their names, each time since they last did."""

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
        self.answered, self.environment = False, None
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

    def has_answered(self, seconds: float) -> None:
        """Note that the actor answered for the first time, so long after it was asked for."""
        self.answered, self.unanswered, self.start_seconds = True, 0, seconds

    def hear(self, answer: Any) -> None:
        """Take in the answer to a heartbeat, waiting for it a little; an actor that died says nothing."""
        with contextlib.suppress(ray.exceptions.RayError):
            self.environment = ray.get(answer, timeout=ANSWER_SECONDS) or self.environment

    @property
    def whereabouts(self) -> Whereabouts:
        """Where jobs run here, as far as it is known."""
        return Whereabouts(host=self.host, environment=self.environment)

    def refusal(self, pair: str) -> str | None:
        """Return why no more jobs of a pair are started here, or None where they are."""
        if len(self.unstarted) >= START_TRIES:
            return self.unstarted[-1]
        reasons = self.unloaded.get(pair, [])
        return reasons[-1] if len(reasons) >= PAIR_TRIES else None

    def works_with(self, pair: str, *, seconds: float) -> None:
        """Note that the actor started and loaded a pair; its first job may be done before it was heard."""
        if not self.answered:
            self.has_answered(seconds)
        self.unstarted.clear()
        self.unloaded.pop(pair, None)

    def node_is_alive(self) -> bool:
        """Whether Ray counts it as alive and it does not refuse: of a killed one Ray learns late."""
        node = next((node for node in ray.nodes() if node["NodeID"] == self.node_id), None)
        return node is not None and bool(node["Alive"]) and not _refuses(node)


@dataclass(slots=True, kw_only=True)
class WantedPlaces:
    """Tells a cluster's autoscaler that jobs wait, by placement groups in which nothing ever runs.

    Actors start on nodes that are there, so that Ray does not learn by itself that more would help. For a
    group that is pending an autoscaler adds a node; once Ray has placed it, it is removed, so that an actor
    can start there. Without an autoscaler groups stay pending. They end with this process, however it ends.
    """

    bundle: dict[str, float] = field(default_factory=dict)
    """The resources of one place, by Ray's names; unknown, so that none is asked for, while empty."""
    _groups: list[PlacementGroup] = field(default_factory=list)

    def want(self, jobs: int, slots: Sequence[Slot]) -> None:
        """Ask for a place more for each of the queued jobs, as large as the largest of `slots` if any.

        Nothing more is asked for until an actor has started in every slot, lest a group take its room.
        """
        wanted = min(jobs, MAX_WANTED)
        states = {key: group["state"] for key, group in placement_group_table().items()}
        pending = [group for group in self._groups if states.get(group.id.hex()) == "PENDING"]
        for group in self._groups:
            if group not in pending[:wanted]:
                remove_placement_group(group)
        self._groups = pending[:wanted]
        if slots:
            largest = max(slots, key=lambda slot: (slot.gpus, slot.cpus))
            self.bundle = place_resources(largest.cpus, largest.gpus)
        if self.bundle and all(slot.actor is not None and slot.answered for slot in slots):
            self._groups += [placement_group([self.bundle]) for _ in range(wanted - len(self._groups))]


def place_resources(cpus: float | None, gpus: float | None) -> dict[str, float]:
    """Return what Ray calls the resources of a place for one pair, as far as they are known."""
    if gpus:
        return {"GPU": gpus}
    return {"CPU": cpus} if cpus else {}


def has_resource(name: str) -> bool:
    """Whether any node of the cluster has some of a resource, "GPU" or "CPU", free or not."""
    return any(node["Resources"].get(name, 0) > 0 for node in ray.nodes() if node["Alive"])


def find_slots(
    cpus_per_pair: int | None,
    gpus_per_pair: float | None = None,
    *,
    keep: Sequence[Slot] = (),
    busy: Collection[str] = (),
    actor_class: Any = DecodingActor,
) -> list[Slot]:
    """Return the cluster's slots: one per GPU, or on a cluster without any, one per node.

    `gpus_per_pair` is a whole number of GPUs, which are of one node, or a share of one; 0 leaves out nodes
    with GPUs, which their actors would use. Slots of `keep` are returned themselves while their node is
    alive, and those whose names are `busy` anyway. Raises NoPlaceError where there is no place at all.
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
                host=str(node["NodeManagerHostname"]),
                place=place,
                cpus=share,
                gpus=gpus_per_pair or 0,
                actor_class=actor_class,
            )
            slots.append(known.pop((node_id, place), new))
    slots += [slot for slot in known.values() if slot.name in busy]
    if not slots:
        raise NoPlaceError(_why_no_place(nodes, gpus_per_pair))
    return slots


def _places(
    resources: Mapping[str, float], cpus_per_pair: int | None, gpus_per_pair: float | None
) -> tuple[int, int]:
    """Return how many actors a node has room for, and the cores of each."""
    cpus, gpus = int(resources.get("CPU", 0)), int(resources.get("GPU", 0))
    if not gpus_per_pair:
        share = cpus_per_pair or cpus
        return (cpus // share if share and not gpus else 0), share
    places = int(gpus // gpus_per_pair) if gpus_per_pair >= 1 else gpus * int(1 / gpus_per_pair)
    return places, cpus // max(places, 1)


def _why_no_place(nodes: Sequence[Mapping[str, Any]], gpus_per_pair: float | None) -> str:
    most = max((int(node["Resources"].get("GPU", 0)) for node in nodes), default=0)
    if gpus_per_pair is None or (gpus_per_pair == 0 and most == 0):
        return "the Ray cluster has neither a GPU nor a free core; add a node, or lower --cpus-per-pair"
    if gpus_per_pair == 0:
        return (
            "the sweep was begun on CPUs, and no node of the Ray cluster without a GPU has a free core;"
            " add such a node, lower --cpus-per-pair, or submit the file with another --name"
        )
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
