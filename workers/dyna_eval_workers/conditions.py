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
from collections.abc import Mapping, Sequence
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
_THROTTLED = {
    "gpu_heat_share": ("sw_thermal_slowdown", "hw_thermal_slowdown"),
    "gpu_power_share": ("sw_power_cap", "hw_power_brake_slowdown"),
}
"""What may hold a GPU's clocks down, and the driver's counters of the time for which it did."""
_PATIENCE_SECONDS = 10.0


@dataclass(frozen=True, slots=True, kw_only=True)
class _Times:
    """Seconds since some point: of the clock, of our cores' work and theft summed, of this process."""

    clock: float
    busy: float
    stolen: float
    own: float


@dataclass(frozen=True, slots=True, kw_only=True)
class _Throttled:
    """Since when the driver counts, for how many seconds each of `_THROTTLED` held the GPU's clocks down."""

    clock: float
    seconds: Mapping[str, float]


class Watch:
    """Started before a measured run; `conditions` afterwards tells what happened meanwhile.

    The driver's tool is asked before and after the run, never during it, and not within the time of which
    shares are taken.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._throttled = _throttled(device) if device.type == "cuda" else None
        self._start = _times()

    def conditions(self) -> dict[str, Scalar]:
        """Return the facts. The first two shares are of the time of the cores that this process may use.

        `others_share`: taken by other processes; `stolen_share`: given by a hypervisor to other machines;
        `gpu_heat_share`, `gpu_power_share`: of the run, in which heat or a power limit held the GPU's clocks
        down, where its driver counts that. The GPU's other facts are of the moment after the run.
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
            facts |= _throttled_shares(self._throttled, self._device)
            facts |= _gpu_facts(self._device)
        return {name: fact for name, fact in facts.items() if fact is not None}


def _now() -> float:
    return time.monotonic()


def _times() -> _Times:
    cores = sorted(os.sched_getaffinity(0))
    per_core = psutil.cpu_times(percpu=True)
    ours = [per_core[core] for core in cores if core < len(per_core)]
    process = psutil.Process().cpu_times()
    return _Times(
        clock=_now(),
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


def gpu_driver(device: torch.device) -> Scalar:
    """Return the version of a GPU's driver; None where nothing tells."""
    return next(iter(_asked(device, ["driver_version"])), None)


def _gpu_facts(device: torch.device) -> Mapping[str, Scalar]:
    return dict(zip(_GPU_FACTS, _asked(device, list(_GPU_FACTS.values())), strict=False))


def _throttled(device: torch.device) -> _Throttled | None:
    """Read the driver's counters, which are in microseconds; None where it has none, as older ones."""
    names = [name for counters in _THROTTLED.values() for name in counters]
    values = _asked(device, [f"clocks_event_reasons_counters.{name}" for name in names])
    if len(values) < len(names) or not all(isinstance(value, int) for value in values):
        return None
    known = dict(zip(names, values, strict=True))
    return _Throttled(
        clock=_now(),
        seconds={
            cause: sum(int(known[name] or 0) for name in counters) / 1e6
            for cause, counters in _THROTTLED.items()
        },
    )


def _throttled_shares(start: _Throttled | None, device: torch.device) -> Mapping[str, Scalar]:
    end = _throttled(device) if start is not None else None
    if start is None or end is None or end.clock <= start.clock:
        return {}
    held = {cause: end.seconds[cause] - start.seconds[cause] for cause in _THROTTLED}
    return {
        cause: round(min(1.0, max(0.0, seconds / (end.clock - start.clock))), 3)
        for cause, seconds in held.items()
    }


def _asked(device: torch.device, fields: Sequence[str]) -> list[Scalar]:
    """Ask the driver's own tool, which numbers all GPUs of a machine: ours may have another number there.

    Nothing is known where it fails, as it does for a field that it does not know.
    """
    tool = shutil.which("nvidia-smi")
    if tool is None:
        return []
    gpu = f"GPU-{torch.cuda.get_device_properties(device).uuid}"
    answer = _said(tool, f"--query-gpu={','.join(fields)}", "--format=csv,noheader,nounits", f"--id={gpu}")
    return [_number(value) for value in next(csv.reader(answer.splitlines(), skipinitialspace=True), [])]


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
