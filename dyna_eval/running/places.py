"""Where a sweep's actors may run, as nodes come and go."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field
from typing import Any

from dyna_eval_workers.actor import DecodingActor

from dyna_eval.errors import NoPlaceError
from dyna_eval.jobs import Scalar
from dyna_eval.running.cluster import Slot, WantedPlaces, find_slots, has_resource, place_resources
from dyna_eval.running.news import News


@dataclass(slots=True, kw_only=True)
class Places:
    """The places of one sweep's actors on a connected Ray cluster, as the latest look found them."""

    news: News
    devices: Callable[[], Collection[Scalar]]
    """Asked which kinds of devices the sweep has results from: "cpu", "cuda", or nothing yet."""
    cpus_per_pair: int | None = None
    gpus_per_pair: float | None = None
    """Whole GPUs of one node, or a share of one. Unless given, what the first look finds: one where the
    cluster has any, else 0."""
    may_grow: bool = False
    """Whether the cluster may have an autoscaler, which is then told how many jobs wait for a place."""
    actor_class: Any = DecodingActor
    """What runs jobs: a Ray actor class of the same methods, such as one that only takes time."""
    slots: list[Slot] = field(default_factory=list, init=False)
    awaited: bool = field(default=False, init=False)
    """Whether jobs wait for a node to come."""
    _begun: bool = field(default=False, init=False)
    _wanted: WantedPlaces = field(default_factory=WantedPlaces, init=False)

    def __post_init__(self) -> None:
        self._wanted.bundle = place_resources(self.cpus_per_pair, self.gpus_per_pair)

    def look(self, keep: Sequence[Slot], *, busy: Collection[str] = ()) -> None:
        """Look where actors have room now; slots to `keep` stay while their nodes do, `busy` ones anyway.

        A sweep that once had room waits where all of it is gone. So does a new one on a cluster that may grow
        and has nothing yet of what the user said a pair needs. A sweep that was begun on GPUs never goes on
        without, and one that was begun on CPUs stays there, whichever controller began it.

        Raises NoPlaceError where there is no room, and no sense in waiting for it.
        """
        if not self._begun and self.gpus_per_pair is None and set(self.devices()) == {"cpu"}:
            self.gpus_per_pair = 0
        try:
            self.slots = find_slots(
                self.cpus_per_pair, self.gpus_per_pair, keep=keep, busy=busy, actor_class=self.actor_class
            )
        except NoPlaceError as error:
            if not self._begun and not self._may_grow_from_nothing():
                raise
            self.news.waits_for("a node", str(error))
            self.slots, self.awaited = [], True
            return
        if not self._begun and not self.slots[0].gpus and "cuda" in self.devices():
            raise NoPlaceError(
                f"sweep {self.news.sweep_id} has results from GPUs, and the Ray cluster has none;"
                " add a node with a GPU, or submit the file with another --name"
            )
        self.news.goes_on_with("a node")
        self._begun, self.awaited = True, False
        if self.gpus_per_pair is None:
            self.gpus_per_pair = self.slots[0].gpus

    def refusal(self, pairs: Collection[str]) -> str | None:
        """Return why some of these pairs has no place that takes its jobs; None where each has one."""
        for pair in pairs:
            refusals = [slot.refusal(pair) for slot in self.slots]
            if refusals and all(refusals):
                return refusals[0]
        return None

    def want(self, queued: int, pairs: Collection[str]) -> None:
        """Tell a cluster that may grow how many jobs are queued, of which pairs."""
        takes = [slot for slot in self.slots if any(slot.refusal(pair) is None for pair in pairs)]
        self._wanted.want(queued, takes)

    def want_none(self) -> None:
        """Take back what a cluster that may grow was asked for."""
        if self.may_grow:
            self._wanted.want(0, ())

    def end_actor(self, name: str) -> None:
        """End an actor, unless it has ended."""
        for slot in self.slots:
            if slot.actor is not None and slot.actor_name == name:
                slot.stop()

    def _may_grow_from_nothing(self) -> bool:
        needed = place_resources(self.cpus_per_pair, self.gpus_per_pair)
        return self.may_grow and bool(needed) and not any(has_resource(name) for name in needed)
