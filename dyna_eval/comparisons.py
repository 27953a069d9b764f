"""Rows of any origin in one table: named apart, or refused."""

from __future__ import annotations

from collections.abc import Sequence

from dyna_eval.errors import MixedRowsError
from dyna_eval.report import Row


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


def refuse_mixed(rows: Sequence[Row]) -> None:
    for row in rows:
        if row.mixed:
            where = f" of {row.source.file}" if row.source else ""
            raise MixedRowsError(
                f"row {row.label!r}{where} must not stand beside the others: it differs in"
                f" {'; '.join(row.mixed)}; --allow-mixed prints it with a mark"
            )
