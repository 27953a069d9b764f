"""What a job's failure means: whose fault it is, and whether the job is tried again. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from dyna_eval.errors import DynaEvalError, InvariantError, PairError, first_line

WORKER_TRIES = 3
"""Workers that a job may take with it before it counts as poison."""
PAIR_TRIES = 2
"""Times that a pair is loaded before all its jobs fail."""
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


def judge_error(cause: BaseException, *, tries: int) -> Verdict:
    """Judge what a living actor raised after so many failed tries of the job.

    A pair that does not load, and memory that runs out, get another try on a fresh actor. Anything else
    follows from the configuration, and would come again. What dyna-eval did not raise itself ends the actor
    too: after an error of CUDA, say, every further call in its process fails.
    """
    name, message = type(cause).__name__, first_line(cause)
    if isinstance(cause, PairError):
        final = tries + 1 >= PAIR_TRIES
        return Verdict(
            error_class=PairError.__name__, message=message, final=final, pair_fails=final, actor_ends=True
        )
    if isinstance(cause, MemoryError) or name == "OutOfMemoryError":  # torch's, which is not imported here
        return Verdict(error_class=name, message=message, final=tries + 1 >= MEMORY_TRIES, actor_ends=True)
    actor_ends = not isinstance(cause, DynaEvalError)
    return Verdict(error_class=name, message=message, final=True, actor_ends=actor_ends)


def judge_contradiction(broken: Sequence[str]) -> Verdict:
    """Judge a result that contradicts itself: it is not stored, and the same job would bring it again.

    The actor ends, for its next result would lack the sentinels that are refused with this one.
    """
    more = f" (and {len(broken) - 1} more)" if len(broken) > 1 else ""
    message = f"its result contradicts itself: {broken[0]}{more}"
    return Verdict(error_class=InvariantError.__name__, message=message, final=True, actor_ends=True)


def judge_unstorable(error: Exception) -> Verdict:
    """Judge a result that the store cannot hold, though it contradicts nothing: it would come again."""
    message = f"its result cannot be stored: {first_line(error)}"
    return Verdict(error_class=type(error).__name__, message=message, final=True, actor_ends=False)


def judge_loss(error: BaseException, *, tries: int, node_lives: bool) -> Verdict:
    """Judge a worker that is gone after so many failed tries of the job.

    A node that went away, or was taken away, is not the job's fault. A job that took three workers with it
    is poison; a worker that Ray ended because its host's memory ran out is one of them, for others may have
    used that memory.
    """
    name, reason = type(error).__name__, first_line(error)
    if not node_lives or getattr(error, "preempted", False):
        return Verdict(
            error_class=name,
            message=f"its node is gone: {reason}",
            blamed=False,
            final=False,
            actor_ends=True,
        )
    message = f"its worker died: {reason}"
    final = tries + 1 >= WORKER_TRIES
    if final:
        message = f"failed after it lost {WORKER_TRIES} workers; {message}"
    return Verdict(error_class=name, message=message, final=final, actor_ends=True)
