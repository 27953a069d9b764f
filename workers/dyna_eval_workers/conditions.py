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
from dyna_eval.jobs import Params, Scalar

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
_OWN_GROUPS = Path("/proc/self/cgroup")
_GROUPS = Path("/sys/fs/cgroup")

_OF_OTHERS = ("others_share", "stolen_share")
"""Shares of the cores that others had."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Times:
    """Seconds since some point: of the clock, of our cores' work and theft summed, of this process."""

    clock: float
    busy: float
    stolen: float
    own: float


@dataclass(frozen=True, slots=True, kw_only=True)
class _Quota:
    """What a control group's CPU quota did since the group began."""

    periods: int
    held_periods: int
    """Of those, in how many it was used up, so that the group's threads waited."""
    held_seconds: float
    """For how long, summed over the cores where they waited."""

    def share_since(self, start: _Quota, seconds: float) -> float | None:
        """Return for which share of so many seconds threads waited, at most; None without a quota.

        Seconds are summed over cores, and of a period a part is held: each by itself may say too much.
        """
        periods = self.periods - start.periods
        if periods <= 0 or seconds <= 0:
            return None
        held = (self.held_seconds - start.held_seconds) / seconds
        return max(0.0, min(1.0, held, (self.held_periods - start.held_periods) / periods))


@dataclass(frozen=True, slots=True, kw_only=True)
class _Throttled:
    """Since when the driver counts, for how many seconds each of `_THROTTLED` held the GPU's clocks down."""

    clock: float
    seconds: Mapping[str, float]


@dataclass(frozen=True, slots=True, kw_only=True)
class GpuOthers:
    """Processes on a GPU that are not this one, and the memory that they hold there."""

    processes: int
    mebibytes: int
    """Of those whose memory the driver tells."""


class Watch:
    """Started before a measured run; `conditions` afterwards tells what happened meanwhile.

    The driver's tool is asked before and after the run, never during it, and not within the time of which
    shares are taken.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._beside = gpu_others(device) if device.type == "cuda" else None
        self._throttled = _throttled(device) if device.type == "cuda" else None
        self._quotas = _quotas()
        self._start = _times()

    def conditions(self) -> dict[str, Scalar]:
        """Return the facts. The first two shares are of the time of the cores that this process may use.

        `others_share`: taken by other processes; `stolen_share`: given by a hypervisor to other machines;
        `quota_share`: of the run, in which a CPU quota, as of a container, made threads of its group wait;
        `gpu_heat_share`, `gpu_power_share`: of the run, in which heat or a power limit held the GPU's clocks
        down, where its driver counts that. `gpu_others`: how many other processes had the GPU open before or
        after the run, whichever is more, and `gpu_others_mib`: the memory that they held, where the driver
        lists them. The GPU's other facts are of the moment after the run.
        """
        start, end = self._start, _times()
        facts: dict[str, Scalar] = {"commit": _commit()}
        capacity = (end.clock - start.clock) * len(os.sched_getaffinity(0))
        if capacity > 0:
            others = (end.busy - start.busy) - (end.own - start.own)
            facts["others_share"] = round(min(1.0, max(0.0, others / capacity)), 3)
            facts["stolen_share"] = round(min(1.0, max(0.0, (end.stolen - start.stolen) / capacity)), 3)
        facts["quota_share"] = _quota_share(self._quotas, end.clock - start.clock)
        facts["cpu_mhz"] = _cpu_mhz()
        if self._device.type == "cuda":
            facts |= _throttled_shares(self._throttled, self._device)
            facts |= _gpu_facts(self._device)
            facts |= _gpu_others_facts([self._beside, gpu_others(self._device)])
        return {name: fact for name, fact in facts.items() if fact is not None}


def others_shares(conditions: Params) -> dict[str, float]:
    """Return what others had of the cores, by the names of the facts that are known."""
    found = {name: conditions.get(name) for name in _OF_OTHERS}
    return {name: share for name, share in found.items() if isinstance(share, float)}


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


def _quota_share(before: Mapping[Path, _Quota], seconds: float) -> float | None:
    """Return the largest share of the groups that have a quota; None where none is known to have one."""
    after = _quotas()
    shares = [after[group].share_since(own, seconds) for group, own in before.items() if group in after]
    return max((round(share, 3) for share in shares if share is not None), default=None)


def _quotas() -> dict[Path, _Quota]:
    """Read what the quotas of this process's control groups, and of those around them, did so far.

    Source: `cpu.stat` of the kernel's control groups: throttled_usec in version 2, throttled_time, in
    nanoseconds, in version 1.
    """
    found = {}
    for group in _groups():
        with contextlib.suppress(OSError, ValueError):  # without quotas some of it is not there
            lines = (group / "cpu.stat").read_text().splitlines()
            known = {name: int(value) for name, value in (line.split() for line in lines)}
            if "nr_periods" in known:
                found[group] = _Quota(
                    periods=known["nr_periods"],
                    held_periods=known.get("nr_throttled", 0),
                    held_seconds=known.get("throttled_usec", 0) / 1e6 + known.get("throttled_time", 0) / 1e9,
                )
    return found


def _groups() -> list[Path]:
    """Return the folders of the groups that may limit this process's cores.

    A container may be told its name outside, where the folder is not seen inside: but the topmost one is.
    """
    try:
        lines = _OWN_GROUPS.read_text().splitlines()
    except OSError:
        return []
    found = []
    for _, controllers, name in (line.split(":", 2) for line in lines if line.count(":") >= 2):
        if controllers and "cpu" not in controllers.split(","):
            continue
        for top in [_GROUPS / controllers] if controllers else [_GROUPS, _GROUPS / "unified"]:
            group = top / name.lstrip("/")
            found += [group, *(parent for parent in group.parents if parent.is_relative_to(top))]
    return list(dict.fromkeys(found))


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


def gpu_others(device: torch.device, *, own_is_there: bool = True) -> GpuOthers | None:
    """Return who else has a GPU open; None where the driver's tool does not tell.

    It does not in most containers, which see no process, or those of other numbers: so this very process has
    to be listed, unless it is known that it has not opened this GPU (`own_is_there` is False).
    """
    lines = _of_gpu(device, "--query-compute-apps=pid,used_memory").splitlines()
    rows = [[cell.strip() for cell in line.split(",")] for line in lines]
    if not all(len(row) == 2 and row[0].isdecimal() for row in rows):
        return None
    memory = {int(pid): int(used) if used.isdecimal() else 0 for pid, used in rows}
    if own_is_there and os.getpid() not in memory:
        return None
    others = [used for pid, used in memory.items() if pid != os.getpid()]
    return GpuOthers(processes=len(others), mebibytes=sum(others))


def _gpu_others_facts(seen: Sequence[GpuOthers | None]) -> Mapping[str, Scalar]:
    known = [others for others in seen if others is not None]
    if not known:
        return {}
    most = max(known, key=lambda others: (others.processes, others.mebibytes))
    return {"gpu_others": most.processes, "gpu_others_mib": most.mebibytes}


def _asked(device: torch.device, fields: Sequence[str]) -> list[Scalar]:
    """Ask for facts of a GPU. Nothing is known where that fails, as it does for a field that is unknown."""
    answer = _of_gpu(device, f"--query-gpu={','.join(fields)}")
    return [_number(value) for value in next(csv.reader(answer.splitlines(), skipinitialspace=True), [])]


def _of_gpu(device: torch.device, query: str) -> str:
    """Ask the driver's own tool, which numbers all GPUs of a machine: ours may have another number there."""
    tool = shutil.which("nvidia-smi")
    if tool is None:
        return ""
    gpu = f"GPU-{torch.cuda.get_device_properties(device).uuid}"
    return _said(tool, query, "--format=csv,noheader,nounits", f"--id={gpu}")


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
