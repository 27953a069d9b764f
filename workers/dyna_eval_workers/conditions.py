"""What else the machine did while a job was measured: the load of others, clocks, throttling.

The environment says which machine it is; conditions say how it was at the time. They explain a figure and
never decide whether two may be compared; what cannot be found out is left out, and fails no job.
"""

from __future__ import annotations

import contextlib
import csv
import functools
import os
import shutil
import subprocess
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import psutil
import torch

import dyna_eval
from dyna_eval.jobs import Scalar

_GPU_FACTS = {
    "gpu_driver": "driver_version",
    "gpu_clock_mhz": "clocks.sm",
    "gpu_most_clock_mhz": "clocks.max.sm",
    "gpu_temperature": "temperature.gpu",
    "gpu_throttle_reasons": "clocks_event_reasons.active",
}
_PATIENCE_SECONDS = 10.0


@dataclass(frozen=True, slots=True, kw_only=True)
class _Times:
    """Seconds since some point: of the clock, of our cores' work and theft summed, of this process."""

    clock: float
    busy: float
    stolen: float
    own: float


class Watch:
    """Started before a measured run; `conditions` afterwards tells what happened meanwhile."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._start = _times()

    def conditions(self) -> dict[str, Scalar]:
        """Return the facts. Shares are of the time of the cores that this process may use.

        `others_share`: taken by other processes; `stolen_share`: given by a hypervisor to other machines.
        """
        start, end = self._start, _times()
        facts: dict[str, Scalar] = {"commit": _commit()}
        capacity = (end.clock - start.clock) * len(os.sched_getaffinity(0))
        if capacity > 0:
            others = (end.busy - start.busy) - (end.own - start.own)
            facts["others_share"] = round(min(1.0, max(0.0, others / capacity)), 3)
            facts["stolen_share"] = round(min(1.0, max(0.0, (end.stolen - start.stolen) / capacity)), 3)
        facts["cpu_mhz"] = _cpu_mhz()
        if self._device.type == "cuda":
            facts |= _gpu_facts(self._device)
        return {name: fact for name, fact in facts.items() if fact is not None}


def _times() -> _Times:
    cores = sorted(os.sched_getaffinity(0))
    per_core = psutil.cpu_times(percpu=True)
    ours = [per_core[core] for core in cores if core < len(per_core)]
    process = psutil.Process().cpu_times()
    return _Times(
        clock=time.monotonic(),
        busy=sum(t.user + t.nice + t.system + t.irq + t.softirq for t in ours),  # user holds guests as well
        stolen=sum(getattr(t, "steal", 0.0) for t in ours),
        own=process.user + process.system,
    )


def _cpu_mhz() -> int | None:
    with contextlib.suppress(OSError, NotImplementedError):  # on some ARM machines nothing tells
        frequency = psutil.cpu_freq()
        if frequency is not None and frequency.current:
            return round(frequency.current)
    return None


def _gpu_facts(device: torch.device) -> Mapping[str, Scalar]:
    """Ask the driver's own tool, which numbers all GPUs of a machine: ours may have another number there."""
    tool = shutil.which("nvidia-smi")
    if tool is None:
        return {}
    gpu = f"GPU-{torch.cuda.get_device_properties(device).uuid}"
    query = f"--query-gpu={','.join(_GPU_FACTS.values())}"
    answer = _said(tool, query, "--format=csv,noheader,nounits", f"--id={gpu}")
    values = next(csv.reader(answer.splitlines(), skipinitialspace=True), [])
    return {name: _number(value) for name, value in zip(_GPU_FACTS, values, strict=False)}


def _number(text: str) -> Scalar:
    return int(text) if text.isdecimal() else text


@functools.cache
def _commit() -> str | None:
    """Return the commit of the checkout that this package runs from, with `+` if it was edited since."""
    git, folder = shutil.which("git"), Path(dyna_eval.__file__).parent.parent
    if git is None or not (folder / ".git").exists():
        return None
    commit = _said(git, "-C", str(folder), "rev-parse", "--short=12", "HEAD")
    edited = _said(git, "-C", str(folder), "status", "--porcelain", "--untracked-files=no")
    return f"{commit}{'+' if edited else ''}" if commit else None


def _said(*command: str) -> str:
    """Return what a tool says; nothing where it fails, or takes so long that it may never answer."""
    try:
        run = subprocess.run(  # noqa: S603 - fixed arguments
            command, capture_output=True, text=True, timeout=_PATIENCE_SECONDS, check=True
        )
    except (OSError, subprocess.SubprocessError):
        return ""
    return run.stdout.strip()
