"""What a watched store hands out: sweeps, jobs and samples as a page shows them, and who works on what."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Generic, TypeVar

from dyna_eval.jobs import JobState, Method, Pair, Params, Scalar, SweepState
from dyna_eval.measurements import Sample
from dyna_eval.time_left import TimeLeft
from dyna_eval_db.values import Attempt

_Item = TypeVar("_Item")


@dataclass(frozen=True, slots=True, kw_only=True)
class Page(Generic[_Item]):
    """Some of `total` items; `number` counts pages from 1."""

    items: tuple[_Item, ...]
    total: int
    number: int
    size: int

    @property
    def last(self) -> int:
        return max(1, -(-self.total // self.size))


@dataclass(frozen=True, slots=True, kw_only=True)
class SweepOutline:
    """What can be said of a sweep without reading what it measured."""

    id: int
    name: str
    pairs: tuple[str, ...]
    state: SweepState
    jobs: Mapping[JobState, int]
    created_at: str
    time_left: TimeLeft | None
    """None where no controller is at work, and where nothing is known of a pair yet."""
    may_grow: bool
    """Whether repeats are added until the speedups are known well enough, beyond the jobs of now."""

    @property
    def total(self) -> int:
        return sum(self.jobs.values())


@dataclass(frozen=True, slots=True, kw_only=True)
class Pulse:
    """Where a sweep stands, and a text that is another one after anything happened to it."""

    text: str
    state: SweepState


@dataclass(frozen=True, slots=True, kw_only=True)
class CommonPulse:
    """A text that is another one after anything happened to any sweep, and whether time goes on meanwhile."""

    text: str
    working: bool
    """Whether a controller is at work: how long its sweep will take changes without anything happening."""
    held: bool
    """Whether there is a lease or a claim, alive or not: how old these are changes as well."""


@dataclass(frozen=True, slots=True, kw_only=True)
class JobLine:
    id: int
    label: str
    pair: str
    method: Method
    repeat: int
    state: JobState
    tries: int
    error: str | None
    actor: str | None
    wall_seconds: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class JobDetail:
    """One job with what its landed attempt brought; the latter is None unless it is done."""

    line: JobLine
    sweep_id: int
    sweep: str
    params: Params
    generation: Mapping[str, Scalar]
    measure: Mapping[str, Scalar]
    pair: Pair
    key: str
    prompt_set: str
    attempts: tuple[Attempt, ...]
    environment: str | None
    facts: Mapping[str, Scalar]
    conditions: Mapping[str, Scalar]
    peak_memory_bytes: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class SampleLine:
    prompt_index: int
    prompt_tokens: int
    tokens: int
    rounds: int
    decode_seconds: float
    exactness: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class SampleDetail:
    """A sample with all its rounds and the prompt that it continues."""

    sample: Sample
    prompt: str | None
    category: str | None
    samples: int
    """How many samples the job has."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ActorAtWork:
    """An actor and the job that it runs."""

    actor: str
    node: str | None
    facts: Mapping[str, Scalar]
    """Of its environment, from the latest job that it, else another actor of its node, landed."""
    heard_seconds: float | None
    """Since it last answered its controller, or landed a job; None where it has not yet done so."""
    sweep_id: int
    sweep: str
    pair: str
    job_id: int
    label: str
    running_seconds: float
    lease_seconds: float | None
    """Until the controller is to have renewed its claim; negative where it is late, or gone."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ActorKnown:
    """An actor that has landed jobs."""

    actor: str
    node: str
    jobs: int
    last_landed_at: str
    facts: Mapping[str, Scalar]


@dataclass(frozen=True, slots=True, kw_only=True)
class ControllerLease:
    sweep_id: int
    sweep: str
    holder: str
    held_seconds: float
    left_seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Cluster:
    database: str
    schema: str
    at_work: tuple[ActorAtWork, ...]
    """Those that were not heard for longest."""
    at_work_total: int
    leases: tuple[ControllerLease, ...]
    known: tuple[ActorKnown, ...]
    """Those that landed a job last."""
    known_total: int
