"""Who holds a lease: whether that process lives can be told on its own machine, and nowhere else."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

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


def test_a_process_of_another_user_is_not_gone_where_those_are_hidden(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """/proc may be mounted so that it lists one's own processes alone."""

    def refuse(number: int, signal: int) -> None:
        raise PermissionError(number, signal)

    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()  # psutil knows no such process
    monkeypatch.setattr(os, "kill", refuse)
    assert not is_gone(name_of(process))
    monkeypatch.undo()
    assert is_gone(name_of(process))


def test_a_machine_that_was_started_again_or_copied_is_another_one(monkeypatch: pytest.MonkeyPatch) -> None:
    boot = Path("/proc/sys/kernel/random/boot_id")
    if not boot.exists():
        pytest.skip("the system does not tell which boot this is")
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    name = name_of(process)
    assert is_gone(name)
    read_text = Path.read_text
    other = "11111111-2222-3333-4444-555555555555\n"
    monkeypatch.setattr(Path, "read_text", lambda path: other if path == boot else read_text(path))
    assert not is_gone(name)
