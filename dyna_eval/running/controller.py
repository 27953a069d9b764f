"""The controller: claims jobs from the store, hands them to Ray actors, and lands what comes back.

The store is the truth and Ray is disposable compute. Each actor has one call in flight. What a failure means
is judged by `verdicts`, whether a worker still answers is watched by `supervision`, and what came of jobs
waits in `outbox` while the database is away. The store's epochs make sure that a late result lands nowhere.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import ray
from dyna_eval_db.store import Claim, Claimant, Landing, Store
from dyna_eval_workers.actor import DecodingActor

from dyna_eval.errors import (
    DatabaseAwayError,
    DatabaseError,
    LeaseLostError,
    NoPlaceError,
    PairError,
    StuckWorkerError,
    first_line,
    raised_line,
)
from dyna_eval.interrupts import raise_if_interrupted
from dyna_eval.jobs import JobState, Pair, PromptSet, Scalar
from dyna_eval.measurements import Calibration, Environment, JobResult
from dyna_eval.monitoring import SweepExport
from dyna_eval.notices import Happening, Notice, Standstill
from dyna_eval.records import ResultOrigin
from dyna_eval.reports.integrity import backend_caveats, elsewhere_warning
from dyna_eval.running.cluster import Slot, WantedPlaces, find_slots, has_resource, place_resources
from dyna_eval.running.invariants import broken_invariants
from dyna_eval.running.lease import LEASE_SECONDS
from dyna_eval.running.outbox import Failed, Finished, Outbox
from dyna_eval.running.supervision import LATE_SECONDS, Call, limit_seconds
from dyna_eval.running.verdicts import (
    START_TRIES,
    Verdict,
    judge_contradiction,
    judge_error,
    judge_loss,
    judge_unloaded,
    judge_unstarted,
)

RENEW_SECONDS = 10.0
POLL_SECONDS = 1.0
"""How long to wait for an answer before looking at everything else again."""
GATHER_SECONDS = 0.02
"""How long to take in answers that are there before the first of them is landed."""

Watcher = Callable[[Notice | Standstill], None]


@dataclass(slots=True, kw_only=True)
class Controller:
    """Runs one sweep to its end on a connected Ray cluster; `holder` has its lease, from `lease.leased`."""

    store: Store
    sweep_id: int
    holder: str
    watch: Watcher
    cpus_per_pair: int | None = None
    gpus_per_pair: float | None = None
    """Whole GPUs of one node, or a share of one; unless given, one where the cluster has any, else 0."""
    fail_fast: bool = False
    may_grow: bool = False
    """Whether the cluster may have an autoscaler, which is then told how many jobs wait for a place."""
    refill: Callable[[], int] | None = None
    """Asked for more jobs once all are done; returns how many it added to the store."""
    actor_class: Any = DecodingActor
    """What runs jobs: a Ray actor class of the same methods, such as one that only takes time."""
    resume: str = "dyna-eval resume"
    """The command that goes on with the sweep, to be named where a user has to mend something first."""
    unstored: int = field(default=0, init=False)
    """How many results the database had not taken when the run ended; their jobs run again."""
    _slots: list[Slot] = field(default_factory=list)
    _wanted: WantedPlaces = field(default_factory=WantedPlaces)
    _prompts: dict[str, tuple[Any, PromptSet]] = field(default_factory=dict)
    _calibrations: dict[str, list[Calibration]] = field(default_factory=dict)
    _slower: set[tuple[str, str]] = field(default_factory=set)
    """The pairs that run in slower code than ours, with why; what is in it was told."""
    _earlier: dict[str, list[ResultOrigin]] = field(default_factory=dict)
    """Where results of before this run were measured, by pairs of which no other place was told yet."""
    _idle: list[Slot] = field(default_factory=list)
    """Slots that no job was left for when that was last looked at."""
    _calls: dict[Any, Call] = field(default_factory=dict)
    _late: dict[Any, Call] = field(default_factory=dict)
    """Calls that were given up while their workers may still answer."""
    _nodes_lost: dict[int, int] = field(default_factory=dict)
    """How many nodes went away under each job."""
    _taken_over: bool = False
    _begun: bool = False
    _placeless: bool = False
    """Whether jobs wait for a node to come."""
    _roomless: bool = False
    """Whether all actors wait for room, which other work on the cluster holds."""
    _outbox: Outbox = field(init=False)
    _away: bool = False
    _renewed: float = float("-inf")
    _failed: bool = False
    _export: SweepExport = field(init=False)

    def __post_init__(self) -> None:
        self._outbox = Outbox(
            store=self.store, holder=self.holder, landed=self._landed, failed=self._has_failed
        )
        self._export = SweepExport(sweep=str(self.sweep_id))
        self._wanted.bundle = place_resources(self.cpus_per_pair, self.gpus_per_pair)

    def run(self) -> dict[JobState, int]:
        """Work until no job is queued or running, and return the counts by state.

        While the database is away, jobs in flight go on, their results wait in memory, and no further job
        starts. Raises LeaseLostError where another controller took over. On any exception the jobs in flight
        go back to the queue, and `unstored` tells of results that the database did not take.
        """
        try:
            counts = self._work()
        finally:
            self._put_back()
        self._export.jobs(counts)
        return counts

    def _work(self) -> dict[JobState, int]:
        while True:
            raise_if_interrupted()
            try:
                self._write()
                if not self._calls and not self._placeless and not self._take_back_rest():
                    return self.store.progress(self.sweep_id)
            except DatabaseAwayError as error:
                self._stand_still(error)
            self._collect()
            self._supervise()
            self._export.moment(
                time.monotonic(), working=len(self._calls), places=len(self._slots), away=self._away
            )

    def _take_back_rest(self) -> int:
        """Queue what an earlier controller left and its connection, which a server ends late, kept locked
        until now; return the number of jobs."""
        return self.store.recover(self.sweep_id, self.holder)

    def _write(self) -> None:
        """All that needs the database: land what waits, renew, and start jobs on free actors."""
        self._idle = []
        if not self._taken_over:
            self._take_over()
        self._outbox.flush()
        if self._away:
            self._come_back()
        self._renew()
        if self.fail_fast and self._failed:
            self._placeless = False
            return
        busy = {call.slot.name for call in self._calls.values()}
        free = [slot for slot in self._slots if not slot.late and slot.name not in busy]
        if free:
            self._start_next(free)
        if self._late and not self._calls:  # nobody else takes what is left
            self._start_next(self._end_late())
        if self._placeless and not self.store.queued_pairs(self.sweep_id):
            self._placeless = False
        self._require_places()

    def _take_over(self) -> None:
        """Begin with a sweep that an earlier controller may have left in the middle."""
        self.store.renew_lease(self.sweep_id, self.holder, LEASE_SECONDS)  # Ray may have outlasted it
        self.store.recover(self.sweep_id, self.holder)
        for origin in self.store.result_origins(self.sweep_id):
            self._earlier.setdefault(origin.pair, []).append(origin)
        self._taken_over = True

    # ---------------------------------------------------------- a database that is away

    def _stand_still(self, error: DatabaseAwayError) -> None:
        if not self._away:
            reason = f"finished jobs are kept in memory: {error}"
            self.watch(Standstill(waits_for="the database", reason=reason))
        self._away = True

    def _come_back(self) -> None:
        """Go on: claims whose answer was lost are taken back, those in flight are kept."""
        self.store.renew_lease(self.sweep_id, self.holder, LEASE_SECONDS)
        in_flight = [call.claim for call in self._calls.values()]
        self.store.recover(self.sweep_id, self.holder, keep=in_flight)
        self._away = False
        self.watch(Standstill(waits_for="the database", reason=None))

    # ------------------------------------------------------------------- starting a job

    def _start_next(self, free: Sequence[Slot]) -> None:
        """Start jobs on free slots, and end the actors of those that none is left for."""
        left = self._start_queued(free)
        if left and not self._calls and self.refill is not None and self.refill():
            left = self._start_queued(left)
        for slot in left:
            slot.stop()  # so that a cluster can shrink
        self._idle = left

    def _start_queued(self, free: Sequence[Slot]) -> list[Slot]:
        """Start queued jobs, on each slot of the pair that its actor holds and only where that has none left
        of another one, and return the slots that no job is left for."""
        left: list[Slot] = []
        for pair in dict.fromkeys(slot.pair for slot in free):
            slots = [slot for slot in free if slot.pair == pair]
            left += slots if pair is None else self._start_of_pair(pair, slots)
        for pair in self.store.queued_pairs(self.sweep_id) if left else ():
            left = self._start_of_pair(pair, left)
        return left

    def _start_of_pair(self, pair: str, slots: Sequence[Slot]) -> list[Slot]:
        """Claim a pair's next jobs and start them; return the slots that there was none for.

        Where actors did not answer, jobs are started last.
        """
        able = [slot for slot in slots if slot.refusal(pair) is None]
        able.sort(key=lambda slot: slot.unanswered)
        if not able:
            return list(slots)
        claims = self.store.claim_jobs(
            self.sweep_id,
            pair=pair,
            claimants=[Claimant(actor=slot.actor_name, node=slot.node_id) for slot in able],
            lease_seconds=LEASE_SECONDS,
            holder=self.holder,
        )
        for slot, claim in zip(able, claims, strict=False):
            slot.claim = claim
        for slot, claim in zip(able, claims, strict=False):
            self._start(slot, claim)
        started = {slot.name for slot in able[: len(claims)]}
        return [slot for slot in slots if slot.name not in started]

    def _require_places(self) -> None:
        """Raise NoPlaceError where nothing runs and jobs are queued that no place takes."""
        if self._calls or not self._slots:
            return
        for pair in self.store.queued_pairs(self.sweep_id):
            refusals = [slot.refusal(pair) for slot in self._slots]
            if all(refusals):
                raise NoPlaceError(
                    f"no node takes the jobs that are left: {refusals[0]}; mend that, then"
                    f" `{self.resume}` goes on"
                )

    def _start(self, slot: Slot, claim: Claim) -> None:
        """Let a slot's actor run a claimed job."""
        job = claim.job
        reference, prompts = self._prompt_set(job.prompt_set)
        calibrations = self._calibrations_of(job.pair)
        failures = self._failures_before(claim)
        slot.start()
        slot.pair = job.pair.spec.name
        call = Call(
            slot=slot,
            actor=slot.actor_name,
            claim=claim,
            answer=slot.actor.run.remote(job, reference),
            started=time.monotonic(),
            limit_seconds=limit_seconds(job, prompts=len(prompts.prompts), calibrations=calibrations),
            failures=failures,
        )
        self._calls[call.answer] = call
        self._export.started(call.started)
        self._tell(Happening.STARTED, slot.actor_name, claim)

    def _failures_before(self, claim: Claim) -> tuple[str, ...]:
        """Return the error classes of the failed tries that count against a claimed job."""
        if not claim.tries:
            return ()
        return tuple(self.store.failures(claim.job_id)[-claim.tries :])

    def _calibrations_of(self, pair: Pair) -> list[Calibration]:
        """Return what a pair's passes cost; read again once a result brings one that is not known."""
        name = pair.spec.name
        if name not in self._calibrations:
            self._calibrations[name] = list(self.store.calibrations(pair).values())
        return self._calibrations[name]

    def _prompt_set(self, digest: str) -> tuple[Any, PromptSet]:
        """Return a reference to the prompts, each set put into Ray once, and the prompts."""
        if digest not in self._prompts:
            prompts = self.store.prompt_set(digest)
            self._prompts[digest] = ray.put(prompts), prompts
        return self._prompts[digest]

    # ---------------------------------------------------------------- what comes back

    def _collect(self) -> None:
        """Wait a little for an answer, and take in what else is there by then, to be landed with it.

        Large answers are taken in one by one, so that an actor gets its next job at once.
        """
        answers = [*self._calls, *self._late]
        if not answers:
            time.sleep(POLL_SECONDS)
            return
        if not ray.wait(answers, num_returns=1, timeout=POLL_SECONDS)[0]:
            return
        until = time.monotonic() + GATHER_SECONDS
        for answer in ray.wait(answers, num_returns=len(answers), timeout=0)[0]:
            if answer in self._calls:
                self._finish(self._calls.pop(answer))
            else:
                self._finish_late(self._late.pop(answer))
            if time.monotonic() > until:
                return

    def _finish(self, call: Call) -> None:
        claim = call.claim
        call.slot.claim = None
        try:
            result: JobResult = ray.get(call.answer)
        except ray.exceptions.RayTaskError as error:
            call.slot.hear(call.slot.actor.heartbeat.remote())
            self._fail(call, self._judge(call, error.cause or error))
        except ray.exceptions.RayError as error:  # its process, its node, or its answer is gone
            self._lose_worker(call, error)
        else:
            broken = broken_invariants(claim.job, self._prompt_set(claim.job.prompt_set)[1], result)
            if broken:
                call.slot.environment = result.environment
                self._fail(call, judge_contradiction(broken))
            else:
                call.slot.works_with(claim.job.pair.spec.name, seconds=time.monotonic() - call.started)
                self._outbox.put(Finished(actor=call.actor, claim=claim, result=result))

    def _judge(self, call: Call, cause: BaseException) -> Verdict:
        """Judge what a living actor raised, and note where a pair does not load."""
        if not isinstance(cause, PairError):
            return judge_error(cause, failures=call.failures)
        slot, pair = call.slot, call.claim.job.pair.spec.name
        why = f"pair {pair} does not load on {slot.host}: {first_line(cause)}"
        slot.unloaded.setdefault(pair, []).append(why)
        others = [other for other in self._slots if other is not slot]
        return judge_unloaded(
            cause,
            host=slot.host,
            here=slot.refusal(pair) is None,
            elsewhere=any(other.refusal(pair) is None for other in others),
        )

    def _finish_late(self, call: Call) -> None:
        """Take in the answer of a worker that was given up: the store discards it and logs that it came.

        The worker ends, for its next result would lack the sentinels that are discarded with this one.
        """
        actor, claim = call.actor, call.claim
        call.slot.late = False
        call.slot.stop()
        try:
            result: JobResult = ray.get(call.answer)
        except ray.exceptions.RayTaskError as error:
            verdict = judge_error(error.cause or error)
            self._outbox.put(Failed(actor=actor, claim=claim, verdict=verdict, late=True))
        except ray.exceptions.RayError:
            pass  # it has died without an answer, as it was taken to have
        else:
            self._outbox.put(Finished(actor=actor, claim=claim, result=result))

    def _lose_worker(self, call: Call, error: Exception) -> None:
        slot = call.slot
        if getattr(error, "actor_init_failed", False):
            slot.unstarted.append(f"no worker starts on {slot.host}: {raised_line(str(error))}")
            again = len(slot.unstarted) < START_TRIES
            self._fail(call, judge_unstarted(error, host=slot.host, again=again))
            return
        node_lives = slot.node_is_alive()
        lost, job_id = self._nodes_lost, call.claim.job_id
        verdict = judge_loss(
            error, failures=call.failures, node_lives=node_lives, nodes_lost=lost.get(job_id, 0)
        )
        if not verdict.blamed:
            lost[job_id] = lost.get(job_id, 0) + 1
        self._fail(call, verdict)
        if not node_lives:
            self._find_slots(keep=[other for other in self._slots if other is not slot])

    def _fail(self, call: Call, verdict: Verdict) -> None:
        if verdict.actor_ends:
            call.slot.stop()
        where = call.slot.whereabouts
        self._outbox.put(Failed(actor=call.actor, claim=call.claim, verdict=verdict, where=where))

    def _landed(self, finished: Finished, landing: Landing) -> None:
        """Take note of a result that the store has taken, or discarded."""
        claim, result = finished.claim, finished.result
        known = self._calibrations.get(claim.job.pair.spec.name, ())
        if result.calibration is not None and result.calibration not in known:
            self._calibrations.clear()
        if landing is Landing.FENCED:
            self._end_actor(finished.actor)
            detail = "its job was cancelled or taken over meanwhile"
            self._tell(Happening.DISCARDED, finished.actor, claim, detail=detail)
        else:
            self._export.landed(claim.job, result)
            pair = claim.job.pair
            found = self._slower_passes(pair, result.environment), self._elsewhere(pair, result.environment)
            detail = "; ".join(filter(None, found))
            self._tell(Happening.LANDED, finished.actor, claim, detail=detail, seconds=result.wall_seconds)

    def _slower_passes(self, pair: Pair, environment: Environment) -> str:
        """Return why a pair runs in slower code than ours, unless that was told already or is not so."""
        caveats = backend_caveats([environment.digest], {environment.digest: environment.facts})
        text = "; ".join(caveat.text for caveat in caveats)
        if (pair.spec.name, text) in self._slower:
            return ""
        self._slower.add((pair.spec.name, text))
        return text

    def _elsewhere(self, pair: Pair, environment: Environment) -> str:
        """Return that a pair goes on in an environment that is not that of its results of before this run,
        unless that was told already or is not so."""
        warning = elsewhere_warning(environment, self._earlier.get(pair.spec.name, ()))
        if warning:
            del self._earlier[pair.spec.name]
        return warning

    def _has_failed(self, failed: Failed, further: int) -> None:
        """Take note of a failure that the store has taken, or discarded; `further` jobs failed with it."""
        if failed.verdict.actor_ends:
            self._end_actor(failed.actor)  # one whose result cannot be stored is still there
        happening, detail = Happening.RETRIED, failed.verdict.message
        if failed.late:
            happening, detail = Happening.DISCARDED, f"it failed late: {detail}"
        elif failed.verdict.final:
            happening, self._failed = Happening.FAILED, True
        self._tell(happening, failed.actor, failed.claim, detail=detail, further=further)

    def _end_actor(self, name: str) -> None:
        """End an actor, unless it has ended: later results would lack sentinels that were not stored."""
        for slot in self._slots:
            if slot.actor is not None and slot.actor_name == name:
                slot.stop()

    def _find_slots(self, keep: Sequence[Slot]) -> None:
        """Look where actors have room now. A sweep that once had room waits where all of it is gone.

        So does a new one on a cluster that may grow and has nothing yet of what the user said a pair needs.
        A sweep that was begun on GPUs never goes on without, and one that was begun on CPUs stays there,
        whichever controller began it.
        """
        if not self._begun and self.gpus_per_pair is None and self._devices() == {"cpu"}:
            self.gpus_per_pair = 0
        try:
            self._slots = find_slots(
                self.cpus_per_pair, self.gpus_per_pair, keep=keep, actor_class=self.actor_class
            )
        except NoPlaceError as error:
            if not self._begun and not self._may_grow_from_nothing():
                raise
            if not self._placeless:
                self.watch(Standstill(waits_for="a node", reason=str(error)))
            self._slots, self._placeless = [], True
            return
        if not self._begun and not self._slots[0].gpus and "cuda" in self._devices():
            raise NoPlaceError(
                f"sweep {self.sweep_id} has results from GPUs, and the Ray cluster has none;"
                " add a node with a GPU, or submit the file with another --name"
            )
        if self._placeless:
            self.watch(Standstill(waits_for="a node", reason=None))
        self._begun, self._placeless = True, False
        if self.gpus_per_pair is None:
            self.gpus_per_pair = self._slots[0].gpus

    def _may_grow_from_nothing(self) -> bool:
        needed = place_resources(self.cpus_per_pair, self.gpus_per_pair)
        return self.may_grow and bool(needed) and not any(has_resource(name) for name in needed)

    def _devices(self) -> set[Scalar]:
        """Return which kinds of devices the sweep has results from: "cpu", "cuda", or nothing yet."""
        return {facts.get("device") for facts in self.store.environments(self.sweep_id).values()}

    # ---------------------------------------------------------------------- watching

    def _supervise(self) -> None:
        """Give up calls whose worker is silent or that take too long; their jobs are tried elsewhere."""
        for answer, call in list(self._calls.items()):
            now = time.monotonic()
            call.listen(now)
            complaint = call.complaint(now)
            sooner = next((slot for slot in self._idle if call.starts_sooner_in(slot, now)), None)
            if sooner is not None:
                complaint = f"it has not answered for {now - call.started:.0f} s, and another place is idle"
            if complaint is None or ray.wait([answer], timeout=0)[0]:  # what is there is taken in next
                continue
            if sooner is not None:
                self._idle.remove(sooner)  # it takes one job
            del self._calls[answer]
            call.slot.claim = None
            if not call.slot.answered:
                call.slot.unanswered += 1
                self._fail(
                    call, judge_unstarted(StuckWorkerError(complaint), host=call.slot.host, again=True)
                )
            elif call.is_silent(now) and self._goes_on_without(call.slot):
                self._give_up(answer, call, StuckWorkerError(complaint))
            else:
                self._lose_worker(call, StuckWorkerError(complaint))
        for answer, call in list(self._late.items()):
            if time.monotonic() - call.asked > LATE_SECONDS:
                del self._late[answer]
                call.slot.late = False
                call.slot.stop()
        self._tell_of_room()

    def _tell_of_room(self) -> None:
        """Say where all actors wait for room, and where the first of them got it."""
        now, calls = time.monotonic(), self._calls.values()
        working = any(slot.answered for slot in self._slots if slot.actor is not None)
        if not self._roomless and not working and calls and all(call.is_pending(now) for call in calls):
            self._roomless = True
            reason = "no actor starts; other work on the cluster may hold its GPUs or cores"
            self.watch(Standstill(waits_for="a free place", reason=reason))
        elif self._roomless and working:
            self._roomless = False
            self.watch(Standstill(waits_for="a free place", reason=None))

    def _goes_on_without(self, slot: Slot) -> bool:
        """Whether other workers can take over, so that a silent one may have time to come back."""
        return slot.node_is_alive() and any(
            other is not slot and not other.late and other.answered for other in self._slots
        )

    def _give_up(self, answer: Any, call: Call, error: Exception) -> None:
        """Let a job run elsewhere, and listen to its worker for a while: what comes late is to be seen."""
        call.slot.late, self._late[answer] = True, call
        verdict = judge_loss(error, failures=call.failures, node_lives=True)
        self._fail(call, replace(verdict, actor_ends=False))

    def _end_late(self) -> list[Slot]:
        """End the workers that were given up, and return their places."""
        slots = [call.slot for call in self._late.values()]
        self._late.clear()
        for slot in slots:
            slot.late = False
            slot.stop()
        return [slot for slot in slots if slot in self._slots]

    def _renew(self) -> None:
        """Keep the controller's lease and the claims in flight alive, look for new nodes and ask for some."""
        now = time.monotonic()
        if now - self._renewed < RENEW_SECONDS:
            return
        self.store.renew_lease(self.sweep_id, self.holder, LEASE_SECONDS)
        for call in list(self._calls.values()):
            silent_seconds = call.silent_seconds(now)
            if not self.store.renew_claim(call.claim, LEASE_SECONDS, silent_seconds=silent_seconds):
                self._abandon(call)
        self._find_slots(keep=self._slots)
        counts = self.store.progress(self.sweep_id)
        if self.may_grow:
            ends = self.fail_fast and self._failed
            pairs = self.store.queued_pairs(self.sweep_id)
            usable = [slot for slot in self._slots if any(slot.refusal(pair) is None for pair in pairs)]
            self._wanted.want(0 if ends else counts[JobState.QUEUED], usable)
        self._export.jobs(counts)
        self._renewed = now

    def _abandon(self, call: Call) -> None:
        """Stop working on a job that was cancelled or taken over."""
        del self._calls[call.answer]
        call.slot.claim = None
        call.slot.stop()
        self._tell(Happening.DISCARDED, call.actor, call.claim, detail="its job was cancelled or taken over")

    def _put_back(self) -> None:
        """End the actors, land what waits and queue what is in flight, if the database lets us."""
        for slot in [*self._slots, *(call.slot for call in self._late.values())]:
            slot.stop()
        with contextlib.suppress(DatabaseError):
            self._outbox.flush()
            for slot in self._slots:
                if slot.claim is not None:
                    self.store.put_back(slot.claim, "the controller stopped")
        self.unstored = self._outbox.results
        with contextlib.suppress(DatabaseError, LeaseLostError):
            self.store.recover(self.sweep_id, self.holder)  # what Ctrl-C came between claiming and knowing
        self._calls.clear()
        self._late.clear()
        if self.may_grow:
            self._wanted.want(0, ())

    def _tell(
        self,
        happening: Happening,
        actor: str,
        claim: Claim,
        *,
        detail: str = "",
        seconds: float | None = None,
        further: int = 0,
    ) -> None:
        job = claim.job
        if happening is not Happening.STARTED:
            self._export.ended(job, happening)
        self.watch(
            Notice(
                happening=happening,
                job_id=claim.job_id,
                label=job.configuration.label,
                repeat=job.repeat,
                pair=job.pair.spec.name,
                actor=actor,
                detail=detail,
                seconds=seconds,
                further=further,
            )
        )
