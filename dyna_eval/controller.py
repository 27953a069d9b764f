"""The controller: claims jobs from the store, hands them to Ray actors, and lands what comes back.

The store is the truth and Ray is disposable compute. Each actor has one call in flight. A worker that
dies costs its job one try; the store's epochs make sure that a late result lands nowhere.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import ray
from dyna_eval_db.store import Claim, Landing, Store

from dyna_eval.cluster import Slot, find_slots
from dyna_eval.errors import LeaseLostError, PairError, first_line
from dyna_eval.holder import is_gone, own_name
from dyna_eval.invariants import broken_invariants
from dyna_eval.jobs import Happening, JobResult, JobState, Notice, PromptSet

LEASE_SECONDS = 60.0
"""How long a claim and the controller's own lease live without a renewal."""
RENEW_SECONDS = 10.0
WORKER_TRIES = 3
"""Workers that a job may take with it before it counts as poison."""
PAIR_TRIES = 2
"""Times that a pair is loaded before all its jobs fail."""


Watcher = Callable[[Notice], None]


@dataclass(slots=True, kw_only=True)
class Controller:
    """Runs one sweep to its end on a connected Ray cluster."""

    store: Store
    sweep_id: int
    watch: Watcher
    cpus_per_pair: int | None = None
    fail_fast: bool = False
    refill: Callable[[], int] | None = None
    """Asked for more jobs once all are done; returns how many it added to the store."""
    holder: str = field(default_factory=own_name)
    _slots: list[Slot] = field(default_factory=list)
    _prompts: dict[str, Any] = field(default_factory=dict)
    _read_prompts: dict[str, PromptSet] = field(default_factory=dict)
    _calls: dict[Any, Slot] = field(default_factory=dict)
    _renewed: float = float("-inf")
    _failed: bool = False

    def run(self) -> dict[JobState, int]:
        """Work until no job is queued or running, and return the counts by state.

        Raises LeaseLostError where another controller works on this sweep. On any exception the jobs in
        flight go back to the queue.
        """
        if not self._acquire_lease():
            raise LeaseLostError(
                f"sweep {self.sweep_id} is being run by another controller; watch it with "
                f"`dyna-eval status {self.sweep_id}`, or try again in {LEASE_SECONDS:.0f} s if it died"
            )
        try:
            self.store.recover(self.sweep_id, self.holder)
            self._work()
        finally:
            self._put_back()
            self.store.release_lease(self.sweep_id, self.holder)
        return self.store.progress(self.sweep_id)

    def _acquire_lease(self) -> bool:
        """Take the sweep's lease, also from a controller that was killed on this machine while it held it."""
        if self.store.acquire_lease(self.sweep_id, self.holder, LEASE_SECONDS):
            return True
        other = self.store.lease_holder(self.sweep_id)
        if other is not None and is_gone(other):
            self.store.release_lease(self.sweep_id, other)
        return self.store.acquire_lease(self.sweep_id, self.holder, LEASE_SECONDS)

    def _work(self) -> None:
        while True:
            self._renew()
            if not (self.fail_fast and self._failed):
                for slot in self._slots:
                    if slot.claim is None:
                        self._start_next(slot)
            if not self._calls:
                return
            ready, _ = ray.wait(list(self._calls), num_returns=1, timeout=1.0)
            for call in ready:
                self._finish(call, self._calls.pop(call))

    def _start_next(self, slot: Slot) -> None:
        """Claim a job for a free slot, of the pair that its actor holds if there is one."""
        slot.claim = claim = self._claim(slot)
        if claim is None and not self._calls and self.refill is not None and self.refill():
            slot.claim = claim = self._claim(slot)
        if claim is None:
            slot.stop()  # so that a cluster can shrink
            return
        slot.start()
        slot.pair = claim.job.pair.spec.name
        call = slot.actor.run.remote(claim.job, self._prompt_set(claim.job.prompt_set))
        self._calls[call] = slot
        self._tell(Happening.STARTED, slot, claim)

    def _claim(self, slot: Slot) -> Claim | None:
        pairs = self.store.queued_pairs(self.sweep_id)
        if slot.pair in pairs:
            pairs = [slot.pair, *(pair for pair in pairs if pair != slot.pair)]
        for pair in pairs:
            claim = self.store.claim(
                self.sweep_id, pair=pair, actor=slot.actor_name, lease_seconds=LEASE_SECONDS
            )
            if claim is not None:
                return claim
        return None

    def _prompt_set(self, digest: str) -> Any:
        """Return a reference to the prompts in Ray's object store; each set is put there once."""
        if digest not in self._prompts:
            self._prompts[digest] = ray.put(self._prompts_of(digest))
        return self._prompts[digest]

    def _prompts_of(self, digest: str) -> PromptSet:
        if digest not in self._read_prompts:
            self._read_prompts[digest] = self.store.prompt_set(digest)
        return self._read_prompts[digest]

    def _finish(self, call: Any, slot: Slot) -> None:
        claim = slot.claim
        if claim is None:
            return
        try:
            result: JobResult = ray.get(call)
        except ray.exceptions.RayTaskError as error:
            self._failed_in_actor(slot, claim, error.cause or error)
        except ray.exceptions.RayError as error:  # its process, its node, or its answer is gone
            self._lost_worker(slot, claim, error)
        else:
            self._land(slot, claim, result)
        slot.claim = None

    def _land(self, slot: Slot, claim: Claim, result: JobResult) -> None:
        broken = broken_invariants(claim.job, self._prompts_of(claim.job.prompt_set), result)
        if broken:
            message = f"its result contradicts itself: {broken[0]}"
            message += f" (and {len(broken) - 1} more)" if len(broken) > 1 else ""
            self.store.fail(claim, error_class="InvariantError", message=message, final=True)
            self._told_failure(slot, claim, message, final=True)
            return
        if self.store.land(claim, result) is Landing.FENCED:
            self._tell(Happening.DISCARDED, slot, claim, detail="its job was cancelled or taken over")
        else:
            self._tell(Happening.LANDED, slot, claim, seconds=result.wall_seconds)

    def _failed_in_actor(self, slot: Slot, claim: Claim, cause: BaseException) -> None:
        """The actor lives and says why: the job's own fault, the pair's, or memory."""
        message = first_line(cause)
        if isinstance(cause, PairError):
            self._failed_pair(slot, claim, message)
            return
        memory = isinstance(cause, MemoryError) or type(cause).__name__ == "OutOfMemoryError"
        if memory:
            slot.stop()  # its allocator may be fragmented
        final = not memory or claim.tries >= 1
        self.store.fail(claim, error_class=type(cause).__name__, message=message, final=final)
        self._told_failure(slot, claim, message, final=final)

    def _failed_pair(self, slot: Slot, claim: Claim, message: str) -> None:
        """A pair that does not load is tried twice; then all its jobs fail with the reason."""
        slot.stop()
        final = claim.tries + 1 >= PAIR_TRIES
        self.store.fail(claim, error_class="PairError", message=message, final=final)
        if final:
            self.store.fail_pair(self.sweep_id, claim.job.pair.spec.name, message)
        self._told_failure(slot, claim, message, final=final)

    def _lost_worker(self, slot: Slot, claim: Claim, error: Exception) -> None:
        """The process died. A job that took three workers with it is poison; a lost node is not its fault."""
        slot.stop()
        if not slot.node_is_alive():
            self.store.put_back(claim, f"its node is gone: {first_line(error)}")
            self._tell(Happening.RETRIED, slot, claim, detail="its node is gone")
            self._slots = find_slots(self.cpus_per_pair, keep=[s for s in self._slots if s is not slot])
            return
        final = claim.tries + 1 >= WORKER_TRIES
        message = f"its worker died: {first_line(error)}"
        if final:
            message = f"failed after it lost {WORKER_TRIES} workers; {message}"
        self.store.fail(claim, error_class=type(error).__name__, message=message, final=final)
        self._told_failure(slot, claim, message, final=final)

    def _told_failure(self, slot: Slot, claim: Claim, message: str, *, final: bool) -> None:
        self._failed = self._failed or final
        self._tell(Happening.FAILED if final else Happening.RETRIED, slot, claim, detail=message)

    def _renew(self) -> None:
        """Keep the controller's lease and the claims in flight alive, and look for new nodes."""
        now = time.monotonic()
        if now - self._renewed < RENEW_SECONDS:
            return
        self.store.renew_lease(self.sweep_id, self.holder, LEASE_SECONDS)
        for call, slot in list(self._calls.items()):
            if slot.claim is not None and not self.store.renew_claim(slot.claim, LEASE_SECONDS):
                self._abandon(call, slot, slot.claim)
        self._slots = find_slots(self.cpus_per_pair, keep=self._slots)
        self._renewed = now

    def _abandon(self, call: Any, slot: Slot, claim: Claim) -> None:
        """Stop working on a job that was cancelled or taken over."""
        del self._calls[call]
        slot.stop()
        slot.claim = None
        self._tell(Happening.DISCARDED, slot, claim, detail="its job was cancelled or taken over")

    def _put_back(self) -> None:
        """End the actors and return what is in flight to the queue."""
        for slot in self._slots:
            slot.stop()
        self._calls.clear()
        for slot in self._slots:
            if slot.claim is not None:
                self.store.put_back(slot.claim, "the controller stopped")

    def _tell(
        self,
        happening: Happening,
        slot: Slot,
        claim: Claim,
        *,
        detail: str = "",
        seconds: float | None = None,
    ) -> None:
        job = claim.job
        self.watch(
            Notice(
                happening=happening,
                job_id=claim.job_id,
                label=job.configuration.label,
                repeat=job.repeat,
                pair=job.pair.spec.name,
                actor=slot.actor_name,
                detail=detail,
                seconds=seconds,
            )
        )
