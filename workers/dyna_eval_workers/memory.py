"""Memory that runs out, whatever the library that noticed calls it, and memory that is given back."""

from __future__ import annotations

import ctypes
import gc
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from dyna_eval.errors import first_line

_WORDS = "DefaultCPUAllocator", "out of memory", "ALLOC_FAILED"
"""Of torch's allocator on the host; of CUDA and Triton; of cuBLAS."""


@contextmanager
def memory_told() -> Iterator[None]:
    """Raise MemoryError where a library says in a RuntimeError that there is no memory left."""
    try:
        yield
    except RuntimeError as error:
        if ran_out(error) and not isinstance(error, torch.OutOfMemoryError):
            raise MemoryError(first_line(error)) from error
        raise


def ran_out(error: BaseException) -> bool:
    """Whether an error means that there was not enough memory, on a GPU or on the host."""
    return isinstance(error, MemoryError | torch.OutOfMemoryError) or (
        isinstance(error, RuntimeError) and any(words in str(error) for words in _WORDS)
    )


def free_unreachable() -> None:
    """Free what nothing refers to any more but itself, such as compiled models, and give it back."""
    gc.collect()
    give_back_freed()


def give_back_freed() -> None:
    """Give the system what was freed, which glibc would keep; other C libraries do as they like."""
    if trim := getattr(ctypes.CDLL(None), "malloc_trim", None):
        trim(0)
