"""Who holds a lease: whether that process lives can be told on its own machine, and nowhere else."""

from __future__ import annotations

import subprocess
import sys
import time

import psutil

from dyna_eval.holder import is_gone, own_name


def name_of(process: subprocess.Popen[bytes]) -> str:
    machine, _, token = own_name().split(":")
    return f"{machine}:{process.pid}:{token}"


def test_every_name_is_different() -> None:
    assert own_name() != own_name()


def test_a_living_process_is_not_gone() -> None:
    assert not is_gone(own_name())


def test_a_process_that_ended_is_gone_even_before_its_parent_looks() -> None:
    process = subprocess.Popen([sys.executable, "-c", ""])
    while psutil.Process(process.pid).status() != psutil.STATUS_ZOMBIE:
        time.sleep(0.01)
    assert is_gone(name_of(process))
    process.wait()
    assert is_gone(name_of(process))


def test_nothing_is_known_of_another_machine_or_of_a_name_of_another_kind() -> None:
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    assert not is_gone(f"elsewhere/1:{process.pid}:x")
    assert not is_gone("somebody")
    assert not is_gone("")
