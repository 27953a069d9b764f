"""What the machine did meanwhile is seen."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import psutil
import pytest
import torch
from dyna_eval_workers import conditions
from dyna_eval_workers.conditions import Watch

CPU = torch.device("cpu")


def test_the_work_of_another_process_is_seen() -> None:
    """It takes one of our cores, or half of that where something else is at work too."""
    code = "import time\nend = time.monotonic() + 30\nwhile time.monotonic() < end: pass"
    other = subprocess.Popen([sys.executable, "-c", code])
    try:
        time.sleep(0.2)
        watch = Watch(CPU)
        time.sleep(1.0)
        beside = watch.conditions()
    finally:
        other.kill()
        other.wait()
    share = beside["others_share"]
    assert isinstance(share, float)
    assert 0.4 / len(os.sched_getaffinity(0)) <= share <= 1.0


def test_our_own_work_is_not_that_of_others() -> None:
    """Others get at most what we left; the system's own clock of it ticks a hundred times a second."""
    watch, began, worked = Watch(CPU), time.monotonic(), time.process_time()
    while time.process_time() < worked + 0.5:
        pass
    share = watch.conditions()["others_share"]
    capacity = (time.monotonic() - began) * len(os.sched_getaffinity(0))
    assert isinstance(share, float)
    assert share <= 1.0 - 0.4 / capacity


def test_a_checkout_is_named_by_its_commit() -> None:
    found = Watch(CPU).conditions()
    if "commit" not in found:
        pytest.skip("the package does not run from a checkout")
    commit = str(found["commit"])
    assert len(commit.rstrip("+")) == 12
    int(commit.rstrip("+"), 16)


# ------------------------------------------------------------------- tools of the machine


@pytest.fixture
def tools(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder whose programs come before the machine's own; the commit is asked for anew."""
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    conditions._commit.cache_clear()
    yield tmp_path
    conditions._commit.cache_clear()


def program(folder: Path, name: str, lines: str) -> None:
    (folder / name).write_text(f"#!/bin/sh\n{lines}\n")
    (folder / name).chmod(0o755)


def watch_of_a_gpu(monkeypatch: pytest.MonkeyPatch) -> Watch:
    """Watch the second GPU of a machine, the only one that this process may use, and so its first."""
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda _: SimpleNamespace(uuid="22-b"))
    return Watch(torch.device("cuda"))


def test_a_gpu_is_asked_for_by_what_the_driver_calls_it_too(
    tools: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A number would be another GPU's where a process may not use all of them."""
    program(
        tools,
        "nvidia-smi",
        'for one; do case "$one" in --id=GPU-22-b) echo "590.1, 1400, 1980, 61, 0x4" ;; esac; done',
    )
    found = watch_of_a_gpu(monkeypatch).conditions()
    assert {name: fact for name, fact in found.items() if name.startswith("gpu_")} == {
        "gpu_driver": "590.1",
        "gpu_clock_mhz": 1400,
        "gpu_most_clock_mhz": 1980,
        "gpu_temperature": 61,
        "gpu_throttle_reasons": "0x4",
    }


COUNTING = """
for one; do
    case "$one" in
        *counters*) asked=counters ;;
    esac
done
[ "$asked" = counters ] || exit 9
read -r heat power < {state} 2>/dev/null
echo "${{heat:-0}}, 0, ${{power:-0}}, 0"
"""
"""A driver's tool that counts microseconds, as a file says, and answers nothing else."""


def test_how_long_a_gpus_clocks_were_held_down_is_read_from_the_drivers_counters(
    tools: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They are read before and after: while it decodes nobody asks, and after it the GPU is idle."""
    state = tmp_path / "counters"
    program(tools, "nvidia-smi", COUNTING.format(state=state))
    state.write_text("5000000 7000000\n")
    moments = iter([100.0, 100.0, 104.0, 104.0])  # counters and clock, before and after
    monkeypatch.setattr(conditions, "_now", lambda: next(moments))
    watch = watch_of_a_gpu(monkeypatch)
    state.write_text("6000000 7000000\n")
    found = watch.conditions()
    assert (found["gpu_heat_share"], found["gpu_power_share"]) == (0.25, 0.0)


def test_a_driver_without_counters_says_nothing_of_held_clocks(
    tools: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program(tools, "nvidia-smi", 'echo "[N/A], [N/A], [N/A], [N/A]"')
    found = watch_of_a_gpu(monkeypatch).conditions()
    assert not [name for name in found if name.endswith(("heat_share", "power_share"))]


@pytest.mark.parametrize("lines", ["exec sleep 30", "exit 9"], ids=["that never answers", "that fails"])
def test_a_tool_that_gives_no_answer_costs_its_facts_and_no_job(
    lines: str, tools: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(conditions, "_PATIENCE_SECONDS", 0.2)
    for name in ("nvidia-smi", "git"):
        program(tools, name, lines)
    found = watch_of_a_gpu(monkeypatch).conditions()
    assert "others_share" in found
    assert not [name for name in found if name.startswith(("gpu_", "commit"))]


def test_a_processor_that_does_not_tell_its_clock_costs_that_fact_alone(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def untold() -> None:
        raise NotImplementedError("can't find current frequency file")

    monkeypatch.setattr(psutil, "cpu_freq", untold)
    found = Watch(CPU).conditions()
    assert "others_share" in found
    assert "cpu_mhz" not in found


# ------------------------------------------------------------------------------ CPU quotas

NEW = "usage_usec 9\nnr_periods {}\nnr_throttled {}\nthrottled_usec {}\n"
OLD = "nr_periods {}\nnr_throttled {}\nthrottled_time {}000\n"


@pytest.fixture
def groups(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where control groups are, instead of the machine's own; `own` says which ones a process is in.

    Of every watch two seconds pass.
    """
    monkeypatch.setattr(conditions, "_GROUPS", tmp_path)
    monkeypatch.setattr(conditions, "_OWN_GROUPS", tmp_path / "own")
    monkeypatch.setattr(conditions, "_now", iter([100.0, 102.0]).__next__)
    (tmp_path / "own").write_text("0::/\n")
    return tmp_path


@pytest.mark.parametrize(
    ("own", "group", "form"),
    [
        ("0::/", "", NEW),
        ("0::/pod/box", "pod/box", NEW),
        ("0::/pod/box", "pod", NEW),
        ("1:name=systemd:/\n0::/box", "unified/box", NEW),
        ("4:cpu,cpuacct:/docker/b0c\n3:cpuset:/docker/b0c", "cpu,cpuacct", OLD),
    ],
    ids=["a container's own", "by name", "of the group around it", "beside version 1", "version 1"],
)
def test_the_time_for_which_a_quota_holds_threads_back_is_read_from_its_control_group(
    own: str, group: str, form: str, groups: Path
) -> None:
    (groups / "own").write_text(own + "\n")
    stat = groups / group / "cpu.stat"
    stat.parent.mkdir(parents=True, exist_ok=True)
    stat.write_text(form.format(1000, 500, 7_000_000))
    watch = Watch(CPU)
    stat.write_text(form.format(1020, 515, 8_200_000))
    assert watch.conditions()["quota_share"] == 0.6


@pytest.mark.parametrize(
    ("held_periods", "held_microseconds", "share"),
    [(20, 500_000, 0.25), (5, 64_000_000, 0.25), (20, 64_000_000, 1.0), (0, 0, 0.0)],
    ids=["a part of each period", "many cores at once", "all the time", "not used up"],
)
def test_a_quota_holds_threads_back_for_no_more_than_its_seconds_and_its_periods_tell(
    held_periods: int, held_microseconds: int, share: float, groups: Path
) -> None:
    """Seconds are summed over the cores that wait; of a period a part may be held."""
    (groups / "cpu.stat").write_text(NEW.format(0, 0, 0))
    watch = Watch(CPU)
    (groups / "cpu.stat").write_text(NEW.format(20, held_periods, held_microseconds))
    assert watch.conditions()["quota_share"] == share


@pytest.mark.parametrize(
    "stat",
    [None, "usage_usec 9\n", NEW.format(0, 0, 0), "nr_periods\n", "nr_periods many\n"],
    ids=["no file", "the topmost group", "no quota", "odd lines", "odd values"],
)
def test_without_a_quota_nothing_is_said_of_one(stat: str | None, groups: Path) -> None:
    if stat is not None:
        (groups / "cpu.stat").write_text(stat)
    assert "quota_share" not in Watch(CPU).conditions()


def test_a_system_without_control_groups_costs_that_fact_alone(groups: Path) -> None:
    (groups / "own").unlink()
    found = Watch(CPU).conditions()
    assert "others_share" in found
    assert "quota_share" not in found


# ----------------------------------------------------------------------- others on the GPU

LISTING = """
for one; do
    case "$one" in
        --query-compute-apps=pid,used_memory) asked=processes ;;
        --id=GPU-22-b) id=ours ;;
    esac
done
[ "$asked$id" = processesours ] && cat {state}
"""
"""A driver's tool that lists the processes of our GPU as a file has them, and answers nothing else."""


@pytest.mark.parametrize(
    ("before", "after", "others"),
    [
        ("{own}, 900", "{own}, 1200", (0, 0)),
        ("{own}, 900\n1, 2000\n2, 500", "{own}, 900\n1, 9000", (2, 2500)),
        ("{own}, 900", "{own}, 900\n1, [N/A]", (1, 0)),
        ("", "{own}, 900\n1, 70", (1, 70)),
        ("", "", None),
        ("1, 2000", "1, 2000", None),
        ("No devices were found", "{own}, 900, 3", None),
        ("{own}", "pid, used", None),
    ],
    ids=[
        "this process alone",
        "the more of before and after",
        "memory that is not told",
        "told only afterwards",
        "a container that lists none",
        "a container that lists others alone",
        "odd lines",
        "odd cells",
    ],
)
def test_others_on_the_gpu_are_counted_where_this_process_is_listed_among_them(
    before: str,
    after: str,
    others: tuple[int, int] | None,
    tools: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    state = tools / "processes"
    program(tools, "nvidia-smi", LISTING.format(state=state))
    state.write_text(before.format(own=os.getpid()))
    watch = watch_of_a_gpu(monkeypatch)
    state.write_text(after.format(own=os.getpid()))
    found = watch.conditions()
    known = {name: fact for name, fact in found.items() if name.startswith("gpu_others")}
    wanted = {} if others is None else {"gpu_others": others[0], "gpu_others_mib": others[1]}
    assert known == wanted


def test_others_on_the_gpu_are_asked_for_outside_the_time_of_which_shares_are_taken(
    tools: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    order = tmp_path / "order"
    program(
        tools,
        "nvidia-smi",
        f'case "$*" in *compute-apps*) echo others ;; *counters*) echo counters ;; esac >> {order}\n'
        'case "$*" in *counters*) echo "1, 1, 1, 1" ;; esac',
    )
    times = conditions._times

    def told() -> conditions._Times:
        with order.open("a") as file:
            file.write("clock\n")
        return times()

    monkeypatch.setattr(conditions, "_times", told)
    watch_of_a_gpu(monkeypatch).conditions()
    assert order.read_text().split() == ["others", "counters", "clock", "clock", "counters", "others"]
