"""Python's garbage collector, kept out of imports and of measured time."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager


def collect_rarely() -> None:
    """Let more objects come up between two collections.

    Imports make many objects and no garbage: collections were a fifth of their time.
    """
    gc.set_threshold(50_000)


@contextmanager
def paused() -> Iterator[None]:
    """Hold collections back: one that goes through all of torch's objects takes up to half a second.

    What became garbage meanwhile is collected at the end.
    """
    gc.disable()
    try:
        yield
    finally:
        gc.enable()
        gc.collect(1)  # what is young: the rest is not worth the time
