"""Calls in flight: whether their workers still answer, and whether they take too long.

Ray does not notice a process that was stopped, nor one that hangs.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import ray
from dyna_eval_db.store import Claim

from dyna_eval.jobs import Job
from dyna_eval.measurements import Calibration
from dyna_eval.running.cluster import Slot
from dyna_eval.time_left import target_alone_seconds

HEARTBEAT_SECONDS = 5.0
"""Between two questions to a worker that is decoding; each takes it about a millisecond."""
SILENT_SECONDS = 30.0
"""After which a worker that has not answered is taken for stopped."""
LATE_SECONDS = 120.0
"""How long such a worker may still come back before it is ended, while others do its work."""
START_SECONDS = 1800.0
"""How long an actor may take until it first answers: it waits for room that other work holds, and starts."""
PENDING_SECONDS = 60.0
"""After which an actor that has not answered is taken to wait for room: the sweep says so where none has, and
its job goes to a place that is idle."""
_SLOWEST = 50
"""A job may take so many times what the target alone would take, by its slowest calibration, ..."""
_SHORTEST_LIMIT_SECONDS = 1800.0
"""... and at least this long: loading, compiling and warming up are not in the estimate."""
_UNKNOWN_PAIR = Calibration(draft_seconds=(), verify_seconds=((1, 0.1),))
"""What a pass of the target is taken to cost before a first result brings a calibration, ..."""
_FIRST_LIMIT_SECONDS = 7200.0
"""... and the least that a job may take until then: its models may have to be fetched."""


@dataclass(slots=True, kw_only=True)
class Call:
    """A job that an actor works on. Moments are seconds of the controller's monotonic clock."""

    slot: Slot
    actor: str
    """Its name, which the slot gives to another one once this is gone."""
    claim: Claim
    answer: Any
    started: float
    """When it was asked for; where that started an actor, moved on to when the actor first answers."""
    limit_seconds: float
    failures: tuple[str, ...] = ()
    """Error classes of the job's failed tries before this one."""
    question: Any = None
    asked: float = 0.0
    looked: float = 0.0
    heard: float | None = None

    def listen(self, now: float) -> None:
        """Collect the answer to the last question, and ask again when it is time."""
        if self.question is not None and now - self.looked > SILENT_SECONDS / 2:
            self.asked = now  # this process itself was away: the answer may be on its way
        self.looked = now
        if self.question is not None and ray.wait([self.question], timeout=0)[0]:
            self.slot.hear(self.question)
            self.question = None
            if not self.slot.answered:
                self.slot.has_answered(now - self.started)
                self.started = now
            self.heard = now
        if self.question is None and now - self.asked >= HEARTBEAT_SECONDS:
            self.question, self.asked = self.slot.actor.heartbeat.remote(), now

    def silent_seconds(self, now: float) -> float | None:
        """Return how long ago the worker answered; None where it has not answered in this call."""
        return None if self.heard is None else now - self.heard

    def complaint(self, now: float) -> str | None:
        """Return why the call is to be given up, or None."""
        if not self.slot.answered:
            late = now - self.started > START_SECONDS
            return f"it has not answered within {START_SECONDS:.0f} s of its start" if late else None
        if now - self.started > self.limit_seconds:
            return f"it ran for more than {self.limit_seconds:g} s; measure.job_timeout_s sets the limit"
        if self.is_silent(now):
            return f"its worker has not answered for {SILENT_SECONDS:.0f} s"
        return None

    def starts_sooner_in(self, idle: Slot, now: float) -> bool:
        """Whether it is better given to an idle place, where the last actor started in half the time or less.

        A place that gave up on an actor since then is no better: jobs would go to and fro between places that
        other work holds.
        """
        if not self.is_pending(now) or idle.refusal(self.claim.job.pair.spec.name) is not None:
            return False
        if idle.start_seconds is None or idle.unanswered:
            return False
        return 2 * idle.start_seconds < now - self.started

    def is_pending(self, now: float) -> bool:
        """Whether its actor has not answered for so long that it is likely to wait for room."""
        return not self.slot.answered and now - self.started > PENDING_SECONDS

    def is_silent(self, now: float) -> bool:
        """Whether its worker, which answered before, has not answered for too long."""
        return self.question is not None and self.slot.answered and now - self.asked > SILENT_SECONDS


def limit_seconds(job: Job, *, prompts: int, calibrations: list[Calibration]) -> float:
    """Return how long a job may run: as its sweep says, else many times what its passes cost."""
    if job.measure.job_timeout_s is not None:
        return job.measure.job_timeout_s
    tokens = job.generation.max_new_tokens
    least = _SHORTEST_LIMIT_SECONDS if calibrations else _FIRST_LIMIT_SECONDS
    alone = max(
        target_alone_seconds(prompts=prompts, max_new_tokens=tokens, calibration=calibration)
        for calibration in calibrations or [_UNKNOWN_PAIR]
    )
    runs = 2  # the job, and the sentinel that its actor may run before it, which load repeats
    return max(least, _SLOWEST * runs * alone)
