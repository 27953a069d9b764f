"""What the machine did meanwhile is seen."""

from __future__ import annotations

import os
import subprocess
import sys
import time

import pytest
import torch
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
    conditions = Watch(CPU).conditions()

    if "commit" not in conditions:
        pytest.skip("the package does not run from a checkout")
    commit = str(conditions["commit"])
    assert len(commit.rstrip("+")) == 12
    int(commit.rstrip("+"), 16)
