"""The controller: claims jobs from the store, hands them to Ray actors, and lands what comes back.

The store is the truth and Ray is disposable compute. Each actor has one call in flight. A worker that
dies costs its job one try; the store's epochs make sure that a late result lands nowhere.
"""

from __future__ import annotations

import os
import re
import shutil
import signal
import socket
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import ray
from dyna_eval_db.store import Claim, Landing, Store
from dyna_eval_workers.actor import DecodingActor
from dyna_eval_workers.resolution import resolve_sweep
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from dyna_eval.errors import DynaEvalError, InputError, LeaseLostError, PairError
from dyna_eval.holder import is_gone, own_name
from dyna_eval.jobs import (
    Happening,
    JobResult,
    JobState,
    Notice,
    PromptSet,
    ResolvedSweep,
    Sentinel,
    SweepSpec,
)

LEASE_SECONDS = 60.0
"""How long a claim and the controller's own lease live without a renewal."""
RENEW_SECONDS = 10.0
WORKER_TRIES = 3
"""Workers that a job may take with it before it counts as poison."""
PAIR_TRIES = 2
"""Times that a pair is loaded before all its jobs fail."""


Watcher = Callable[[Notice], None]


@dataclass(slots=True, kw_only=True)
class _Slot:
    """A place on the cluster for one actor: a GPU, or all cores of a node without one."""

    name: str
    node_id: str
    cpus: float
    gpus: float
    actor: Any = None
    pair: str | None = None
    claim: Claim | None = None
    undelivered: tuple[Sentinel, ...] = ()
    """Sentinels of a discarded result: the actor's later jobs are measured against them all the same."""
    started: int = 0
    """Actors started in this place so far; part of the actor's name, so that names stay unique."""


@dataclass(slots=True, kw_only=True)
class Controller:
    """Runs one sweep to its end on a connected Ray cluster."""

    store: Store
    sweep_id: int
    watch: Watcher
    cpus_per_pair: int | None = None
    fail_fast: bool = False
    holder: str = field(default_factory=own_name)
    _prompts: dict[str, Any] = field(default_factory=dict)
    _calls: dict[Any, _Slot] = field(default_factory=dict)
    _renewed: float = 0.0
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
        slots: list[_Slot] = []
        try:
            self.store.recover(self.sweep_id, self.holder)
            slots = _slots(self.cpus_per_pair)
            self._work(slots)
        finally:
            self._put_back(slots)
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

    def _work(self, slots: list[_Slot]) -> None:
        while True:
            self._renew()
            if not (self.fail_fast and self._failed):
                for slot in slots:
                    if slot.claim is None:
                        self._start_next(slot)
            if not self._calls:
                return
            ready, _ = ray.wait(list(self._calls), num_returns=1, timeout=1.0)
            for call in ready:
                self._finish(call, self._calls.pop(call))

    def _start_next(self, slot: _Slot) -> None:
        """Claim a job for a free slot, of the pair that its actor holds if there is one."""
        claim = self._claim(slot)
        if claim is None:
            _stop(slot)  # so that a cluster can shrink
            return
        if slot.actor is None:
            _start(slot)
        slot.claim, slot.pair = claim, claim.job.pair.spec.name
        call = slot.actor.run.remote(claim.job, self._prompt_set(claim.job.prompt_set))
        self._calls[call] = slot
        self._tell(Happening.STARTED, slot, claim)

    def _claim(self, slot: _Slot) -> Claim | None:
        pairs = self.store.queued_pairs(self.sweep_id)
        if slot.pair in pairs:
            pairs = [slot.pair, *(pair for pair in pairs if pair != slot.pair)]
        for pair in pairs:
            name = f"{slot.name}.{slot.started if slot.actor else slot.started + 1}"
            claim = self.store.claim(self.sweep_id, pair=pair, actor=name, lease_seconds=LEASE_SECONDS)
            if claim is not None:
                return claim
        return None

    def _prompt_set(self, digest: str) -> Any:
        """Return a reference to the prompts in Ray's object store; each set is put there once."""
        if digest not in self._prompts:
            prompts: PromptSet = self.store.prompt_set(digest)
            self._prompts[digest] = ray.put(prompts)
        return self._prompts[digest]

    def _finish(self, call: Any, slot: _Slot) -> None:
        claim, slot.claim = slot.claim, None
        if claim is None:
            return
        try:
            result: JobResult = ray.get(call)
        except ray.exceptions.RayTaskError as error:
            self._failed_in_actor(slot, claim, error.cause or error)
        except (ray.exceptions.RayActorError, ray.exceptions.RaySystemError) as error:
            self._lost_worker(slot, claim, error)
        else:
            self._land(slot, claim, result)

    def _land(self, slot: _Slot, claim: Claim, result: JobResult) -> None:
        sentinels = (*slot.undelivered, *result.sentinels)
        landing = self.store.land(claim, replace(result, sentinels=sentinels))
        if landing is Landing.FENCED:
            slot.undelivered = sentinels
            self._tell(Happening.DISCARDED, slot, claim, detail="its job was cancelled or taken over")
        else:
            slot.undelivered = ()
            self._tell(Happening.LANDED, slot, claim, seconds=result.wall_seconds)

    def _failed_in_actor(self, slot: _Slot, claim: Claim, cause: BaseException) -> None:
        """The actor lives and says why: the job's own fault, the pair's, or memory."""
        message = _one_line(cause)
        if isinstance(cause, PairError):
            self._failed_pair(slot, claim, message)
            return
        memory = isinstance(cause, MemoryError) or type(cause).__name__ == "OutOfMemoryError"
        if memory:
            _stop(slot)  # its allocator may be fragmented
        final = not memory or claim.tries >= 1
        self.store.fail(claim, error_class=type(cause).__name__, message=message, final=final)
        self._told_failure(slot, claim, message, final=final)

    def _failed_pair(self, slot: _Slot, claim: Claim, message: str) -> None:
        """A pair that does not load is tried twice; then all its jobs fail with the reason."""
        _stop(slot)
        final = claim.tries + 1 >= PAIR_TRIES
        self.store.fail(claim, error_class="PairError", message=message, final=final)
        if final:
            self.store.fail_pair(self.sweep_id, claim.job.pair.spec.name, message)
        self._told_failure(slot, claim, message, final=final)

    def _lost_worker(self, slot: _Slot, claim: Claim, error: Exception) -> None:
        """The process died. A job that took three workers with it is poison."""
        _stop(slot)
        final = claim.tries + 1 >= WORKER_TRIES
        message = f"its worker died: {_one_line(error)}"
        if final:
            message = f"failed after it lost {WORKER_TRIES} workers; {message}"
        self.store.fail(claim, error_class=type(error).__name__, message=message, final=final)
        self._told_failure(slot, claim, message, final=final)

    def _told_failure(self, slot: _Slot, claim: Claim, message: str, *, final: bool) -> None:
        self._failed = self._failed or final
        self._tell(Happening.FAILED if final else Happening.RETRIED, slot, claim, detail=message)

    def _renew(self) -> None:
        """Keep the controller's lease and the claims in flight alive."""
        now = time.monotonic()
        if now - self._renewed < RENEW_SECONDS:
            return
        self.store.renew_lease(self.sweep_id, self.holder, LEASE_SECONDS)
        for slot in self._calls.values():
            if slot.claim is not None:
                self.store.renew_claim(slot.claim, LEASE_SECONDS)
        self._renewed = now

    def _put_back(self, slots: list[_Slot]) -> None:
        """Return what is in flight to the queue and end the actors."""
        for slot in slots:
            if slot.claim is not None:
                self.store.put_back(slot.claim, "the controller stopped")
            _stop(slot)
        self._calls.clear()

    def _tell(
        self,
        happening: Happening,
        slot: _Slot,
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
                actor=slot.name,
                detail=detail,
                seconds=seconds,
            )
        )


@contextmanager
def connected(address: str) -> Iterator[None]:
    """Connect to a Ray cluster for the time of a block: `local` starts one, `auto` or host:port joins one."""
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    options: dict[str, Any] = {"log_to_driver": False, "logging_level": "ERROR"}
    folder = _temporary_folder() if address == "local" else None
    if folder is not None:
        options |= {"include_dashboard": False, "num_cpus": os.cpu_count(), "_temp_dir": folder}
    on_terminate = signal.getsignal(signal.SIGTERM)
    try:
        _join(address, options)
        signal.signal(signal.SIGTERM, on_terminate)  # Ray's own handler would end the process here and now
        yield
    finally:
        ray.shutdown()
        if folder is not None:
            shutil.rmtree(folder, ignore_errors=True)  # logs of Ray's own processes, and their sockets


def _join(address: str, options: dict[str, Any]) -> None:
    if address not in ("local", "auto"):
        _check_reachable(address)
    try:
        ray.init(address=address, **options)
    except SystemExit:  # Ray's answer to SIGTERM while it starts
        raise KeyboardInterrupt from None
    except (ConnectionError, ValueError, RuntimeError) as error:
        raise InputError(
            f"cannot connect to Ray at {address!r}: {_one_line(error)}; "
            "start a cluster there, or leave out --address"
        ) from error


def _check_reachable(address: str) -> None:
    """Refuse at once what Ray would try for two minutes, and then end the process over."""
    found = re.fullmatch(r"(?P<host>[^/\s]+):(?P<port>[0-9]{1,5})", address)
    if found is None:
        raise InputError(f"cannot connect to Ray at {address!r}: --address is local, auto or HOST:PORT")
    try:
        socket.create_connection((found["host"].strip("[]"), int(found["port"])), timeout=10).close()
    except (OSError, OverflowError) as error:
        raise InputError(
            f"cannot connect to Ray at {address!r}: {_one_line(error)}; "
            "start a cluster there, or leave out --address"
        ) from error


def resolve_on_cluster(spec: SweepSpec) -> ResolvedSweep:
    """Inspect models and prompts on the connected cluster, where their files are."""
    has_gpu = ray.cluster_resources().get("GPU", 0) > 0
    task = ray.remote(max_retries=0)(resolve_sweep)
    try:
        resolved: ResolvedSweep = ray.get(task.remote(spec, device="cuda" if has_gpu else "cpu"))
    except ray.exceptions.RayTaskError as error:
        if isinstance(error.cause, DynaEvalError):
            raise error.cause from error
        raise
    return resolved


def _temporary_folder() -> str:
    """Return a short folder for Ray's sockets, whose paths may have at most 107 bytes."""
    short = Path("/tmp")  # noqa: S108  # mkdtemp makes a private folder in it
    return tempfile.mkdtemp(prefix="dyna-eval-ray-", dir=short if short.is_dir() else None)


def _slots(cpus_per_pair: int | None) -> list[_Slot]:
    """Return the cluster's places for actors: one per GPU, or one per node where there is none."""
    slots: list[_Slot] = []
    for node in sorted(ray.nodes(), key=lambda node: str(node["NodeID"])):
        if not node["Alive"]:
            continue
        resources, node_id = node["Resources"], str(node["NodeID"])
        cpus, gpus = resources.get("CPU", 0.0), int(resources.get("GPU", 0))
        places = gpus or (int(cpus // (cpus_per_pair or max(cpus, 1.0))) if cpus else 0)
        share = cpus_per_pair or int(cpus // max(places, 1))
        for index in range(places):
            name = f"{node_id[:8]}-{index}-{uuid.uuid4().hex[:6]}"
            slots.append(_Slot(name=name, node_id=node_id, cpus=share, gpus=1 if gpus else 0))
    if not slots:
        raise InputError(
            "the Ray cluster has neither a GPU nor a free core; add a node, or lower --cpus-per-pair"
        )
    return slots


def _start(slot: _Slot) -> None:
    slot.started += 1
    slot.pair = None
    slot.actor = DecodingActor.options(  # type: ignore[attr-defined]  # ray adds it to the class
        num_cpus=slot.cpus,
        num_gpus=slot.gpus,
        scheduling_strategy=NodeAffinitySchedulingStrategy(slot.node_id, soft=False),
    ).remote(name=f"{slot.name}.{slot.started}", threads=max(1, int(slot.cpus)))


def _stop(slot: _Slot) -> None:
    if slot.actor is not None:
        ray.kill(slot.actor, no_restart=True)
    slot.actor = slot.pair = None
    slot.undelivered = ()


def _one_line(error: BaseException) -> str:
    text = str(error).strip() or type(error).__name__
    return text.splitlines()[0][:500]
