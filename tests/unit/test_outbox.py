"""Outcomes that wait for the database."""

from __future__ import annotations

import pytest

from dyna_eval.errors import DatabaseAwayError
from dyna_eval.outbox import Outbox


def test_writes_are_kept_in_order_until_each_was_taken() -> None:
    outbox, taken, away = Outbox(), [], [True]

    def write(number: int) -> None:
        if number == 1 and away:
            raise DatabaseAwayError("the server is gone")
        taken.append(number)

    for number in range(3):
        outbox.put(lambda number=number: write(number))  # type: ignore[misc]
    for _ in range(2):
        with pytest.raises(DatabaseAwayError):
            outbox.flush()
        assert (taken, len(outbox)) == ([0], 2)
    away.clear()
    outbox.flush()
    assert (taken, len(outbox)) == ([0, 1, 2], 0)
