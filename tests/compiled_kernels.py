"""Compile the kernels of a pass for an H100, which need not be there: python -m tests.compiled_kernels

Prints the name of each kernel, and how many bytes of shared memory a program of it takes.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from dyna_eval_workers.fused import kernels
from dyna_eval_workers.fused.runner import FusedRunner
from triton.backends.compiler import GPUTarget
from triton.runtime.driver import driver

from tests.models import tiny_model

MODELS: dict[str, dict[str, Any]] = {
    "gpt_neox": {"intermediate_size": 1024},  # inputs that are split among programs
    "qwen3": {
        "vocab_size": 151_936
    },  # gated, with grouped heads and normalised queries; Qwen's own vocabulary
}


class H100:
    """What Triton asks of a driver before it compiles."""

    def get_current_target(self) -> GPUTarget:
        return GPUTarget("cuda", 90, 32)

    def get_current_device(self) -> int:
        return 0

    def get_current_stream(self, device: int) -> int:  # noqa: ARG002
        return 0


class CompiledKernel:
    """A kernel that is compiled for its arguments where it would be launched."""

    def __init__(self, name: str) -> None:
        self._name = name

    def __getitem__(self, grid: tuple[int, ...]) -> Callable[..., None]:
        def compile_for(*arguments: Any, **options: Any) -> None:
            compiled = getattr(kernels, self._name).warmup(*arguments, grid=grid, **options)
            print(self._name, compiled.metadata.shared)

        return compile_for


class CompiledKernels:
    """Stands for the module of the kernels."""

    def __getattr__(self, name: str) -> CompiledKernel:
        return CompiledKernel(name)


class CompilingRunner(FusedRunner):
    """A runner whose passes compile their kernels once, and run nothing."""

    def __init__(self, model: Any) -> None:
        super().__init__(model)
        self._kernels: Any = CompiledKernels()

    def _capture(self, function: Callable[[], object]) -> Callable[[], object]:
        function()
        return function


if __name__ == "__main__":
    driver.set_active(H100())
    for kind, changes in MODELS.items():
        runner = CompilingRunner(tiny_model(kind, seed=1, **changes).to(torch.bfloat16))
        runner.reserve(20)
        runner.warm_up([1], shortest=1, longest=20)
        for branch in (1, 32):
            runner.warm_up([1], shortest=1, longest=20, proposable=runner.vocabulary, branch=branch)
