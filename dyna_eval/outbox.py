"""Writes that wait for the database: bounded, in order, and repeated until it takes them."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field


@dataclass(slots=True)
class Outbox:
    """Failures of jobs on their way into the store.

    No job is started while anything waits here, so it holds at most one outcome for each actor. A write may
    be repeated after its answer was lost: the store knows an attempt that has ended already.
    """

    _waiting: deque[Callable[[], None]] = field(default_factory=deque)

    def __len__(self) -> int:
        return len(self._waiting)

    def put(self, write: Callable[[], None]) -> None:
        self._waiting.append(write)

    def flush(self) -> None:
        """Write what waits; raises DatabaseError where the database refuses, and keeps the rest."""
        while self._waiting:
            self._waiting[0]()
            self._waiting.popleft()
