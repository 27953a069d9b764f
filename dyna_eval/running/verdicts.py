"""What a job's failure means: whose fault it is, and whether the job is tried again. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from dyna_eval.errors import (
    CaptureError,
    DynaEvalError,
    ForeignError,
    InvariantError,
    PairError,
    first_line,
    raised_line,
)

WORKER_TRIES = 3
"""Workers that a job may take with it before it counts as poison."""
PAIR_TRIES = 2
"""Times in a row that a pair may fail to load in one place before its jobs go elsewhere."""
START_TRIES = 2
"""Actors in a row that may fail to start in one place before it is not used any more."""
NODE_TRIES = 10
"""Nodes that may go away under a job before it counts as poison too: it may exceed what a node has."""
MEMORY_TRIES = 2
"""Actors on which a job may run out of memory before it fails."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """What follows from a failure.

    blamed: it counts as a try of the job; final: the job fails; pair_fails: so do all jobs of its pair;
    actor_ends: the actor is not to be used again.
    """

    error_class: str
    message: str
    blamed: bool = True
    final: bool
    pair_fails: bool = False
    actor_ends: bool


def judge_error(cause: BaseException, *, failures: Sequence[str] = ()) -> Verdict:
    """Judge what a living actor raised; `failures` are the error classes of the job's failed tries before.

    Memory that runs out gets another try on a fresh actor. Anything else follows from the configuration, and
    would come again. What dyna-eval did not raise itself ends the actor too: after an error of CUDA, say,
    every further call in its process fails. Such an error may be what kept a CUDA graph from being captured.
    """
    name = cause.name if isinstance(cause, ForeignError) else type(cause).__name__
    message = first_line(cause)
    if isinstance(cause, MemoryError) or name == "OutOfMemoryError":  # torch's, which is not imported here
        name = MemoryError.__name__
        final = failures.count(name) + 1 >= MEMORY_TRIES
        return Verdict(error_class=name, message=message, final=final, actor_ends=True)
    own = isinstance(cause, DynaEvalError) and not isinstance(cause, ForeignError | CaptureError)
    return Verdict(error_class=name, message=message, final=True, actor_ends=not own)


def judge_unloaded(error: PairError, *, host: str, here: bool, elsewhere: bool) -> Verdict:
    """Judge a pair that did not load on a host.

    here, elsewhere: whether it may be tried again in the same place, and in another one. Until neither is
    so, the fault may be the host's: the job is not blamed.
    """
    final = not (here or elsewhere)
    message = first_line(error)
    if not final:
        message = f"on {host}: {message}" + ("" if here else "; its pair's jobs go elsewhere from now on")
    return Verdict(
        error_class=PairError.__name__,
        message=message,
        blamed=final,
        final=final,
        pair_fails=final,
        actor_ends=True,
    )


def judge_unstarted(error: BaseException, *, host: str, again: bool) -> Verdict:
    """Judge an actor that did not start on a host, which no job is blamed for.

    again: whether another one is started in the same place.
    """
    message = f"no worker starts on {host}: {raised_line(str(error))}"
    if not again:
        message += "; it gets no more jobs"
    return Verdict(
        error_class=type(error).__name__, message=message, blamed=False, final=False, actor_ends=True
    )


def judge_contradiction(broken: Sequence[str]) -> Verdict:
    """Judge a result that contradicts itself: it is not stored, and the same job would bring it again.

    The actor ends, for its next result would lack the sentinels that are refused with this one.
    """
    more = f" (and {len(broken) - 1} more)" if len(broken) > 1 else ""
    message = f"its result contradicts itself: {broken[0]}{more}"
    return Verdict(error_class=InvariantError.__name__, message=message, final=True, actor_ends=True)


def judge_unstorable(error: Exception) -> Verdict:
    """Judge a result that the store cannot hold, though it contradicts nothing: it would come again.

    The actor ends, for its next result would lack the sentinels that are refused with this one.
    """
    message = f"its result cannot be stored: {first_line(error)}"
    return Verdict(error_class=type(error).__name__, message=message, final=True, actor_ends=True)


def judge_loss(
    error: BaseException, *, failures: Sequence[str] = (), node_lives: bool, nodes_lost: int = 0
) -> Verdict:
    """Judge a worker that is gone; `failures` are the error classes of the job's failed tries before.

    A node that went away, or was taken away, is not the job's fault, unless too many did: `nodes_lost` went
    away under it before. A job that took three workers with it is poison; a worker that Ray ended because its
    host's memory ran out is one of them, for others may have used that memory.
    """
    name, reason = type(error).__name__, first_line(error)
    if not node_lives or getattr(error, "preempted", False):
        final, message = nodes_lost + 1 >= NODE_TRIES, f"its node is gone: {reason}"
        if final:
            message = f"failed after {NODE_TRIES} nodes went away under it; {message}"
        return Verdict(error_class=name, message=message, blamed=final, final=final, actor_ends=True)
    message = f"its worker died: {reason}"
    final = _workers_lost(failures) + 1 >= WORKER_TRIES
    if final:
        message = f"failed after it lost {WORKER_TRIES} workers; {message}"
    return Verdict(error_class=name, message=message, final=final, actor_ends=True)


def _workers_lost(failures: Sequence[str]) -> int:
    """Count the tries that failed with their worker: what a living actor raises is final, but for these."""
    return sum(name not in (MemoryError.__name__, PairError.__name__) for name in failures)
