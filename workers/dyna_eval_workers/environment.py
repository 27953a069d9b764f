"""What an actor's timings depend on, as facts that can be compared and shown."""

from __future__ import annotations

import contextlib
import os
import platform
import re
from pathlib import Path

import torch
import transformers

from dyna_eval import __version__
from dyna_eval.jobs import Scalar, digest
from dyna_eval.measurements import GPU_SHARE, Environment
from dyna_eval_workers.conditions import gpu_driver
from dyna_eval_workers.native import compiler_name
from dyna_eval_workers.native.runner import NativeRunner

_DRIVER = Path("/sys/module/nvidia/version")
_NUMBER = re.compile(r"\d+(\.\d+)?(e[+-]?\d+)?")


def capture_environment(device: torch.device, backend: str | None, *, gpus: float = 1) -> Environment:
    """Return the facts that make two actors comparable; nothing that changes from run to run.

    `backend` is what runs the forward passes of the loaded pair, None before one is; `gpus` is how many GPUs
    the actor was given, or which share of one. Nothing is said of a single GPU that it has for itself.
    Numbers in why slower code runs, such as what a self-test measured, may differ from run to run and are
    not in the digest.
    """
    facts: dict[str, Scalar] = {
        "processor": _processor(),
        "cores": len(os.sched_getaffinity(0)),
        "threads": torch.get_num_threads(),
        "device": device.type,
        "backend": backend,
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        "torch": str(torch.__version__),  # torch's own kind of text, which to unpickle is to import torch
        "transformers": transformers.__version__,
        "dyna_eval": __version__,
    }
    if device.type == "cuda":
        properties = torch.cuda.get_device_properties(device)
        facts |= {
            "gpu": properties.name,
            "gpu_memory_bytes": properties.total_memory,
            "cuda": torch.version.cuda,
            "driver": _driver(device),
        }
    if backend is not None and _runs_our_kernels_for_cpus(backend):
        facts["compiler"] = compiler_name()
    if gpus > 1:
        facts["gpus"] = int(gpus)
    elif 0 < gpus < 1:
        facts[GPU_SHARE] = gpus
    compared = facts | {"backend": backend and _NUMBER.sub("#", backend)}
    return Environment(digest=digest(compared), facts=facts)


def _runs_our_kernels_for_cpus(backend: str) -> bool:
    """Whether they run one of the models at least: `compile`, or `eager (why), draft compile`."""
    return any(of_model.split(" ")[0] == NativeRunner.backend for of_model in backend.split(", draft "))


def _driver(device: torch.device) -> Scalar:
    """Return the GPU driver's version as the kernel knows it, or else as the driver's tool does."""
    with contextlib.suppress(OSError):  # such as in a container that hides the kernel's modules
        return _DRIVER.read_text().strip()
    return gpu_driver(device)


def reset_peak_memory(device: torch.device) -> None:
    """Let the next `peak_memory_bytes` count from now on."""
    if device.type == "cuda":
        for gpu in range(torch.cuda.device_count()):
            torch.cuda.reset_peak_memory_stats(gpu)
        return
    with contextlib.suppress(OSError):  # not every system has it; the peak is then that of the process
        Path("/proc/self/clear_refs").write_text("5")


def peak_memory_bytes(device: torch.device) -> int | None:
    """Return the peak allocation summed over our GPUs, or this process's peak resident size on a CPU."""
    if device.type == "cuda":
        return sum(int(torch.cuda.max_memory_allocated(gpu)) for gpu in range(torch.cuda.device_count()))
    try:
        status = Path("/proc/self/status").read_text()
    except OSError:
        return None
    peak = next((line for line in status.splitlines() if line.startswith("VmHWM:")), None)
    return int(peak.split()[1]) * 1024 if peak else None


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or "unknown"
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), "unknown")
