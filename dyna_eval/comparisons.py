"""Rows of any origin in one table, named apart."""

from __future__ import annotations

from collections.abc import Sequence


def distinct_labels(labels: Sequence[tuple[str, str]]) -> list[str]:
    """Return labels of which equal ones name where they come from, and a number where that is not enough."""
    seen: set[str] = set()
    result = []
    for label, origin in labels:
        own, number = label, 1
        if own in seen:
            own = f"{label} ({origin})"
        while own in seen:
            number += 1
            own = f"{label} ({origin}, {number})"
        seen.add(own)
        result.append(own)
    return result
