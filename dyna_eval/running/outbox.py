"""How jobs ended, on its way into the store: kept in memory and in order until the store has taken it."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from dyna_eval_db.store import Claim, Landing, Store, Whereabouts

from dyna_eval.errors import DatabaseError, LeaseLostError
from dyna_eval.measurements import JobResult
from dyna_eval.running.verdicts import Verdict, judge_unstorable


@dataclass(frozen=True, slots=True, kw_only=True)
class Finished:
    """A result that an actor brought; whether it came in time is for the store to say."""

    actor: str
    claim: Claim
    result: JobResult


@dataclass(frozen=True, slots=True, kw_only=True)
class Failed:
    """A failure, and what follows from it."""

    actor: str
    claim: Claim
    verdict: Verdict
    late: bool = False
    """Whether the actor told of it after it had been given up: nothing follows then."""
    where: Whereabouts = field(default_factory=Whereabouts)


@dataclass(slots=True, kw_only=True)
class Outbox:
    """What the store has not taken yet, in the order in which it came.

    By that order a late answer finds its claim ended by the failure of the worker that was given up. No job
    is started while anything waits here: this, not a limit, bounds it to one outcome for each job in flight,
    and the late answer of each that was given up. A write may be repeated after its answer was lost: the
    store knows an attempt that has ended already.
    """

    store: Store
    holder: str
    """Who has the lease on the sweep."""
    landed: Callable[[Finished, Landing], None]
    failed: Callable[[Failed, int], None]
    """Who is told of what the store has taken: of a failure with how many queued jobs failed as well."""
    _waiting: list[Finished | Failed] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self._waiting)

    @property
    def results(self) -> int:
        """How many of those that wait are results."""
        return sum(isinstance(outcome, Finished) for outcome in self._waiting)

    def put(self, outcome: Finished | Failed) -> None:
        self._waiting.append(outcome)

    def flush(self) -> None:
        """Write what waits, results that came one after another in one transaction.

        Raises DatabaseError where the database refuses, and keeps the rest.
        """
        while self._waiting:
            first = self._waiting[0]
            if isinstance(first, Failed):
                self._fail(first)
            else:
                self._land(self._first_results())

    def _first_results(self) -> list[Finished]:
        results = []
        for outcome in self._waiting:
            if isinstance(outcome, Failed):
                break
            results.append(outcome)
        return results

    def _land(self, results: Sequence[Finished]) -> None:
        """Land the first results that wait; where one of them cannot be stored, each by itself."""
        try:
            landings = self.store.land_results([(one.claim, one.result) for one in results])
        except DatabaseError:
            raise
        except Exception as error:
            if len(results) == 1:
                self._refuse(results[0], error)
            else:
                for result in results:
                    self._land([result])
            return
        del self._waiting[: len(results)]
        for one, landing in zip(results, landings, strict=True):
            self.landed(one, landing)

    def _refuse(self, result: Finished, error: Exception) -> None:
        """Fail the job of the first result that waits, which cannot be stored."""
        refused = Failed(
            actor=result.actor,
            claim=result.claim,
            verdict=judge_unstorable(error),
            where=Whereabouts(environment=result.result.environment),
        )
        self._waiting[0] = refused
        self._fail(refused)

    def _fail(self, failed: Failed) -> None:
        further = self._write(failed)
        del self._waiting[0]
        self.failed(failed, further)

    def _write(self, failed: Failed) -> int:
        """Write a failure, and return how many queued jobs failed with their pair."""
        claim, verdict = failed.claim, failed.verdict
        if verdict.blamed:
            self.store.fail(
                claim,
                error_class=verdict.error_class,
                message=verdict.message,
                final=verdict.final,
                where=failed.where,
            )
        else:
            self.store.put_back(claim, verdict.message, where=failed.where)
        if verdict.pair_fails and not failed.late:
            with contextlib.suppress(LeaseLostError):  # what is queued is another controller's now
                pair = claim.job.pair.spec.name
                return self.store.fail_pair(claim.sweep_id, pair, verdict.message, holder=self.holder)
        return 0
