"""The controller: claims jobs from the store, hands them to Ray actors, and lands what comes back.

The store is the truth and Ray is disposable compute. Each actor has one call in flight. `places` knows where
actors may run, `verdicts` judges what a failure means, `supervision` watches whether a worker still answers,
what came of jobs waits in `outbox` while the database is away, and `news` tells watchers of it. The store's
epochs make sure that a late result lands nowhere.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Sequence
from dataclasses import InitVar, dataclass, field, replace
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
from dyna_eval.measurements import Calibration, JobResult
from dyna_eval.notices import Watcher
from dyna_eval.running.cluster import Slot
from dyna_eval.running.invariants import broken_invariants
from dyna_eval.running.lease import LEASE_SECONDS
from dyna_eval.running.news import News
from dyna_eval.running.outbox import Failed, Finished, Outbox
from dyna_eval.running.places import Places
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


@dataclass(slots=True, kw_only=True)
class Controller:
    """Runs one sweep to its end on a connected Ray cluster; `holder` has its lease, from `lease.leased`."""

    store: Store
    sweep_id: int
    holder: str
    watch: InitVar[Watcher]
    cpus_per_pair: InitVar[int | None] = None  # these four are those of `Places`
    gpus_per_pair: InitVar[float | None] = None
    may_grow: InitVar[bool] = False
    actor_class: InitVar[Any] = DecodingActor
    fail_fast: bool = False
    refill: Callable[[], int] | None = None
    """Asked for more jobs once all are done; returns how many it added to the store."""
    resume: str = "dyna-eval resume"
    """The command that goes on with the sweep, to be named where a user has to mend something first."""
    unstored: int = field(default=0, init=False)
    """How many results the database had not taken when the run ended; their jobs run again."""
    _news: News = field(init=False)
    _places: Places = field(init=False)
    _outbox: Outbox = field(init=False)
    _prompts: dict[str, tuple[Any, PromptSet]] = field(default_factory=dict, init=False)
    _calibrations: dict[str, list[Calibration]] = field(default_factory=dict, init=False)
    _idle: list[Slot] = field(default_factory=list, init=False)
    """Slots that no job was left for when that was last looked at."""
    _calls: dict[Any, Call] = field(default_factory=dict, init=False)
    _late: dict[Any, Call] = field(default_factory=dict, init=False)
    """Calls that were given up while their workers may still answer."""
    _nodes_lost: dict[int, int] = field(default_factory=dict, init=False)
    """How many nodes went away under each job."""
    _taken_over: bool = field(default=False, init=False)
    _away: bool = field(default=False, init=False)
    _renewed: float = field(default=float("-inf"), init=False)
    _failed: bool = field(default=False, init=False)

    def __post_init__(
        self,
        watch: Watcher,
        cpus_per_pair: int | None,
        gpus_per_pair: float | None,
        may_grow: bool,
        actor_class: Any,
    ) -> None:
        self._news = News(sweep_id=self.sweep_id, watch=watch)
        self._places = Places(
            news=self._news,
            devices=self._devices,
            cpus_per_pair=cpus_per_pair,
            gpus_per_pair=gpus_per_pair,
            may_grow=may_grow,
            actor_class=actor_class,
        )
        self._outbox = Outbox(
            store=self.store, holder=self.holder, landed=self._landed, failed=self._has_failed
        )

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
        self._news.export.jobs(counts)
        return counts

    def _work(self) -> dict[JobState, int]:
        while True:
            raise_if_interrupted()
            try:
                self._write()
                if not self._calls and not self._places.awaited and not self._take_back_rest():
                    return self.store.progress(self.sweep_id)
            except DatabaseAwayError as error:
                self._stand_still(error)
            self._collect()
            self._supervise()
            self._news.export.moment(
                time.monotonic(),
                working=len(self._calls),
                places=len(self._places.slots),
                away=self._away,
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
            self._places.awaited = False
            return
        busy = self._busy()
        free = [slot for slot in self._places.slots if not slot.late and slot.name not in busy]
        if free:
            self._start_next(free)
        if self._late and not self._calls:  # nobody else takes what is left
            self._start_next(self._end_late())
        if self._places.awaited and not self.store.queued_pairs(self.sweep_id):
            self._places.awaited = False
        self._require_places()

    def _busy(self) -> set[str]:
        """Return the names of the slots whose actors have a job."""
        return {call.slot.name for call in self._calls.values()}

    def _take_over(self) -> None:
        """Begin with a sweep that an earlier controller may have left in the middle."""
        self.store.renew_lease(self.sweep_id, self.holder, LEASE_SECONDS)  # Ray may have outlasted it
        self.store.recover(self.sweep_id, self.holder)
        self._news.began_before(self.store.result_origins(self.sweep_id))
        self._taken_over = True

    # ---------------------------------------------------------- a database that is away

    def _stand_still(self, error: DatabaseAwayError) -> None:
        self._news.waits_for("the database", f"finished jobs are kept in memory: {error}")
        self._away = True

    def _come_back(self) -> None:
        """Go on: claims whose answer was lost are taken back, those in flight are kept."""
        self.store.renew_lease(self.sweep_id, self.holder, LEASE_SECONDS)
        in_flight = [call.claim for call in self._calls.values()]
        self.store.recover(self.sweep_id, self.holder, keep=in_flight)
        self._away = False
        self._news.goes_on_with("the database")

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
            self._start(slot, claim)
        started = {slot.name for slot in able[: len(claims)]}
        return [slot for slot in slots if slot.name not in started]

    def _require_places(self) -> None:
        """Raise NoPlaceError where nothing runs and jobs are queued that no place takes."""
        if self._calls or not self._places.slots:
            return
        refusal = self._places.refusal(self.store.queued_pairs(self.sweep_id))
        if refusal is not None:
            raise NoPlaceError(
                f"no node takes the jobs that are left: {refusal}; mend that, then `{self.resume}` goes on"
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
        self._news.started(slot.actor_name, claim, now=call.started)

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
        others = [other for other in self._places.slots if other is not slot]
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
            others = [other for other in self._places.slots if other is not slot]
            self._places.look(keep=others, busy=self._busy())

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
            self._places.end_actor(finished.actor)  # its sentinels were discarded with the result
            self._news.discarded(
                finished.actor, claim, detail="its job was cancelled or taken over meanwhile"
            )
        else:
            self._news.landed(finished)

    def _has_failed(self, failed: Failed, further: int) -> None:
        """Take note of a failure that the store has taken, or discarded; `further` jobs failed with it."""
        if failed.verdict.actor_ends:
            self._places.end_actor(failed.actor)  # one whose result cannot be stored is still there
        self._failed = self._failed or (failed.verdict.final and not failed.late)
        self._news.failed(failed, further=further)

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
        if any(slot.answered for slot in self._places.slots if slot.actor is not None):
            self._news.goes_on_with("a free place")
        elif calls and all(call.is_pending(now) for call in calls):
            reason = "no actor starts; other work on the cluster may hold its GPUs or cores"
            self._news.waits_for("a free place", reason)

    def _goes_on_without(self, slot: Slot) -> bool:
        """Whether other workers can take over, so that a silent one may have time to come back."""
        return slot.node_is_alive() and any(
            other is not slot and not other.late and other.answered for other in self._places.slots
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
        return [slot for slot in slots if slot in self._places.slots]

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
        self._places.look(keep=self._places.slots, busy=self._busy())
        counts = self.store.progress(self.sweep_id)
        if self._places.may_grow:
            ends = self.fail_fast and self._failed
            self._places.want(0 if ends else counts[JobState.QUEUED], self.store.queued_pairs(self.sweep_id))
        self._news.export.jobs(counts)
        self._renewed = now

    def _abandon(self, call: Call) -> None:
        """Stop working on a job that was cancelled or taken over."""
        del self._calls[call.answer]
        call.slot.stop()
        self._news.discarded(call.actor, call.claim, detail="its job was cancelled or taken over")

    def _put_back(self) -> None:
        """End the actors, land what waits and queue what is in flight, if the database lets us."""
        for slot in [*self._places.slots, *(call.slot for call in self._late.values())]:
            slot.stop()
        with contextlib.suppress(DatabaseError):
            self._outbox.flush()
            for call in self._calls.values():
                self.store.put_back(call.claim, "the controller stopped")
        self.unstored = self._outbox.results
        with contextlib.suppress(DatabaseError, LeaseLostError):
            self.store.recover(self.sweep_id, self.holder)  # what Ctrl-C came between claiming and knowing
        self._calls.clear()
        self._late.clear()
        self._places.want_none()
