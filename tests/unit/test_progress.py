"""What is printed on stderr while a sweep runs."""

from __future__ import annotations

import errno
import io
import sys

import pytest

from dyna_eval.notices import Happening, Notice
from dyna_eval.running.progress import ProgressDisplay


def notice(happening: Happening, detail: str = "", *, further: int = 0) -> Notice:
    return Notice(
        happening=happening,
        job_id=1,
        label="Baseline",
        repeat=0,
        pair="small",
        actor="actor-1",
        detail=detail,
        seconds=2.0,
        further=further,
    )


def test_a_landed_job_is_a_line_and_why_its_pair_is_slow_another(capsys: pytest.CaptureFixture[str]) -> None:
    with ProgressDisplay(total=12, done=0) as display:
        display(notice(Happening.LANDED, "ran on the slower eager backend: no C++ compiler"))
        display(notice(Happening.LANDED))
    assert capsys.readouterr().err.splitlines() == [
        "[1/12] Baseline (repeat 1) took 2.0 s",
        "[1/12] pair small ran on the slower eager backend: no C++ compiler",
        "[2/12] Baseline (repeat 1) took 2.0 s",
    ]


def test_of_several_pairs_a_line_names_its_own(capsys: pytest.CaptureFixture[str]) -> None:
    with ProgressDisplay(total=12, done=0, several_pairs=True) as display:
        display(notice(Happening.LANDED))
    assert capsys.readouterr().err.splitlines() == ["[1/12] Baseline (small, repeat 1) took 2.0 s"]


def test_jobs_that_fail_with_their_pair_are_counted_and_so_are_cancelled_ones_at_the_end(
    capsys: pytest.CaptureFixture[str],
) -> None:
    with ProgressDisplay(total=24, done=12) as display:
        display(notice(Happening.FAILED, "it does not load", further=8))
        display.settle(waiting=0)
        display.end(unstored=1)
    assert capsys.readouterr().err.splitlines() == [
        "[13/24] Baseline (repeat 1) failed: it does not load",
        "[21/24] 8 further jobs of pair small failed with it",
        "[24/24] 1 finished job could not be stored, and will run again",
    ]


@pytest.mark.parametrize(
    "error", [BrokenPipeError(), OSError(errno.ENOSPC, "No space left on device")], ids=str
)
def test_a_sweep_goes_on_where_its_progress_cannot_be_written(
    error: OSError, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[str] = []

    class Refusing(io.StringIO):
        def write(self, text: str) -> int:
            told.append(text)
            raise error

    monkeypatch.setattr(sys, "stderr", Refusing())
    with ProgressDisplay(total=12, done=0) as display:
        display(notice(Happening.LANDED))
        display(notice(Happening.FAILED, "its worker died"))
    assert told
