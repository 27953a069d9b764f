"""What people are told while something runs: a watcher of a sweep, and who asks what a machine lacks."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum


class Happening(StrEnum):
    """What a watcher of a running sweep is told."""

    STARTED = "started"
    LANDED = "landed"
    RETRIED = "retried"
    FAILED = "failed"
    DISCARDED = "discarded"


@dataclass(frozen=True, slots=True, kw_only=True)
class Notice:
    """One thing that happened to a job. `seconds` is the job's wall time, where it landed.

    `detail` is why it did not land; where it did, what is told once of its pair: why it runs in slower code
    than ours, and that its earlier results are of another environment. `further` queued jobs failed with it,
    as their pair cannot be loaded.
    """

    happening: Happening
    job_id: int
    label: str
    repeat: int
    pair: str
    actor: str
    detail: str = ""
    seconds: float | None = None
    further: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Standstill:
    """The sweep waits for its database, a node or a free place, for a reason; None where it goes on again."""

    waits_for: str
    reason: str | None


Watcher = Callable[[Notice | Standstill], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One thing that was looked at on a machine. `advice` is empty where all is well."""

    what: str
    told: str
    advice: str = ""
    fatal: bool = False
    """Nothing can be measured before this is mended."""
