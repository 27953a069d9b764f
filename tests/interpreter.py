"""Triton's interpreter, which runs kernels where there is no GPU, with less of its own work."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest


@contextmanager
def quick_interpreter() -> Iterator[None]:
    """Let the interpreter look once for what Triton defines: at every call it takes a third of its time."""
    from triton.language import core  # noqa: PLC0415  # where there is Triton
    from triton.runtime import interpreter  # noqa: PLC0415

    @functools.cache
    def names(package: Any) -> list[str]:
        return [name for name, member in inspect.getmembers(package) if core.is_builtin(member)]

    def patch(package: Any, builder: Any, *scope: Any) -> None:
        for name in names(package):
            member = getattr(package, name)
            if core.is_builtin(member):  # not where it was replaced already
                interpreter._patch_attr(package, name, member, builder, *scope)

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(interpreter, "_patch_builtin", patch)
        yield
