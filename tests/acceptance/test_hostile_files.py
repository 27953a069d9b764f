"""Sweep files made to harm: refused with hardly more work than any other, in 200 MB, before anything runs."""

from __future__ import annotations

import os
import re
import string
import subprocess
from collections.abc import Callable, Iterator

import pytest
from workplace import COMMAND, Workplace

MAX_WORK = 4.0
"""Processor time of a refusal, in that of refusing one wrong key, most of which starts Python."""
BOUNDED = ["sh", "-c", 'ulimit -v 204800; exec "$0" "$@"']
"""Runs a command in 200 MB of address space: what the kernel counts of its memory includes its parent's."""


def alias_bomb() -> Iterator[bytes]:
    """Nine lists, each of nine references to the one before: 9^10 values."""
    yield b"a: &a [x, x, x, x, x, x, x, x, x]\n"
    for before, name in zip(string.ascii_lowercase, string.ascii_lowercase[1:10], strict=False):
        yield f"{name}: &{name} [{', '.join([f'*{before}'] * 9)}]\n".encode()


def deep() -> Iterator[bytes]:
    yield b"a: " + b"[" * 3000 + b"]" * 3000


def deep_mappings() -> Iterator[bytes]:
    for level in range(1300):
        yield b" " * level + b"a:\n"


def huge() -> Iterator[bytes]:
    for _ in range(100):
        yield b"# x\n" * 2**18


def binary() -> Iterator[bytes]:
    yield bytes(range(256)) * 1000


def billion_jobs() -> Iterator[bytes]:
    depths, branches, thresholds = [*range(1, 1001)], [*range(2, 1002)], [i / 1000 for i in range(1000)]
    yield b"pair: demo\nprompts: {dataset: demo}\nconfigs:\n  - {label: B, method: ar}\n"
    row = f"  - {{label: A, method: tree, depth: {depths}, branch: {branches}, threshold: {thresholds}}}\n"
    yield row.encode()


def refusal(workplace: Workplace, content: Iterator[bytes]) -> tuple[str, float]:
    """Submit a file that must be refused; return what was said, and the processor time in seconds."""
    with (workplace.folder / "sweep.yaml").open("wb") as file:
        file.writelines(content)
    process = subprocess.Popen(
        [*BOUNDED, COMMAND, "submit", "sweep.yaml"], cwd=workplace.folder, stderr=subprocess.PIPE, text=True
    )
    assert process.stderr is not None
    said = process.stderr.read()
    process.stderr.close()
    _, status, used = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    assert process.returncode == 2, said
    return said, used.ru_utime + used.ru_stime


@pytest.fixture(scope="module")
def ordinary(new_workplace: Callable[[], Workplace]) -> float:
    """The processor time of refusing one wrong key, in seconds."""
    _, work = refusal(new_workplace(), iter([b"nme: x\n"]))
    return work


@pytest.mark.parametrize(
    ("content", "line", "says"),
    [
        (alias_bomb, 1, "more than 100,000 values"),
        (deep, 1, "nested more than 64 deep"),
        (deep_mappings, 65, "nested more than 64 deep"),
        (huge, 250_001, "larger than 1,000,000 bytes"),
        (binary, 2, "not UTF-8"),
        (lambda: iter([b"\0" * 5000]), 1, "control character"),
        (lambda: iter([b"name: x\npair: demo\nname: y\n"]), 3, "duplicate key"),
        (billion_jobs, 5, "1,000,000,001 configurations"),
    ],
)
def test_a_hostile_file_is_refused_quickly_with_its_line(
    workplace: Workplace, ordinary: float, content: Callable[[], Iterator[bytes]], line: int, says: str
) -> None:
    said, work = refusal(workplace, content())
    assert re.fullmatch(rf"dyna-eval: sweep\.yaml:{line}: [^\n]*\n", said), said
    assert says in said
    assert work < MAX_WORK * ordinary
    assert [path.name for path in workplace.folder.iterdir()] == ["sweep.yaml"]
