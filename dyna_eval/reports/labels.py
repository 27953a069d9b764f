"""Labels that stand in one table, told apart where they are equal."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from itertools import chain, count
from typing import TypeVar

Named = TypeVar("Named", str, tuple[str, str])


def numbered_labels(labels: Iterable[str]) -> list[str]:
    """Return labels of which repeated ones have a number: `A`, `A (2)`."""

    def candidates(label: str) -> Iterator[str]:
        return chain([label], (f"{label} ({number})" for number in count(2)))

    return _told_apart(labels, candidates)


def labels_with_origin(labels: Iterable[tuple[str, str]]) -> list[str]:
    """Return labels of which repeated ones have their origin, and a number where that is not enough.

    Each is given with its origin: `A`, `A (origin)`, `A (origin, 2)`.
    """

    def candidates(labelled: tuple[str, str]) -> Iterator[str]:
        label, origin = labelled
        numbered = (f"{label} ({origin}, {number})" for number in count(2))
        return chain([label, f"{label} ({origin})"], numbered)

    return _told_apart(labels, candidates)


def _told_apart(labels: Iterable[Named], candidates: Callable[[Named], Iterator[str]]) -> list[str]:
    """Give every label the first of its candidates that none before it has."""
    taken: set[str] = set()
    coming: dict[Named, Iterator[str]] = {}
    found = []
    for label in labels:
        names = coming.setdefault(label, candidates(label))  # those that were passed over are taken for good
        found.append(next(name for name in names if name not in taken))
        taken.add(found[-1])
    return found
