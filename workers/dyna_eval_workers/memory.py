"""Memory that runs out, whatever the library that noticed calls it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from dyna_eval.errors import first_line


@contextmanager
def memory_told() -> Iterator[None]:
    """Raise MemoryError where torch says in a RuntimeError that the host has no memory left."""
    try:
        yield
    except RuntimeError as error:
        if ran_out(error) and not isinstance(error, torch.OutOfMemoryError):
            raise MemoryError(first_line(error)) from error
        raise


def ran_out(error: BaseException) -> bool:
    """Whether an error means that there was not enough memory, on a GPU or on the host."""
    return isinstance(error, MemoryError | torch.OutOfMemoryError) or (
        isinstance(error, RuntimeError) and "DefaultCPUAllocator" in str(error)
    )
