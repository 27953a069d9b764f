"""What is computed when it is first read: figures of a report that only some of its forms show."""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property
from typing import Generic, TypeVar

Value = TypeVar("Value")


class Deferred(Generic[Value]):
    """A value that is computed when it is first read, and kept. Two are equal if their values are."""

    def __init__(self, compute: Callable[[], Value]) -> None:
        self._compute = compute

    @classmethod
    def known(cls, value: Value) -> Deferred[Value]:
        return cls(lambda: value)

    @cached_property
    def value(self) -> Value:
        return self._compute()

    def __eq__(self, other: object) -> bool:
        return self.value == other.value if isinstance(other, Deferred) else NotImplemented

    def __hash__(self) -> int:
        return hash(self.value)
