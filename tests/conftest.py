"""For all tests: Ctrl-C for what they start, and what fault tests of full size leave for the record."""

from __future__ import annotations

import datetime
import gc
import json
import os
import platform
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from dyna_eval_workers.collector import collect_rarely
from hypothesis import settings


def pytest_configure() -> None:
    """Spare the time of collections, give workers the priority of any process, as `submit` does, and let
    Triton interpret its kernels where there is no GPU.

    It asks for that when it is first imported. No example of Hypothesis's is too slow: a machine may be busy.
    """
    collect_rarely()
    settings.register_profile("unhurried", deadline=None)
    settings.load_profile("unhurried")
    os.environ.setdefault("RAY_worker_niceness", "0")
    if not list(Path("/dev").glob("nvidia[0-9]*")):
        os.environ["TRITON_INTERPRET"] = "1"


def pytest_collection_finish() -> None:
    """Let no collection look at what was imported: before every pair a session collects all there is."""
    gc.freeze()


def pytest_unconfigure() -> None:
    """Let extension modules see at the end of the process that nothing of theirs is left."""
    gc.unfreeze()


@pytest.fixture(scope="session", autouse=True)
def heard_interrupts() -> Iterator[None]:
    """Let commands hear Ctrl-C and SIGHUP also where these tests run in the background or under `nohup`."""
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGHUP)}
    if before[signal.SIGINT] is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    if before[signal.SIGHUP] is signal.SIG_IGN:
        signal.signal(signal.SIGHUP, lambda *_: None)  # which commands do not inherit
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.fixture
def looked_at_here(monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> None:
    """Commands that run in this process look at models and prompts in it too, which spares a start.

    That of a process of its own is held by every `submit` that runs as a command.
    """
    import datasets  # noqa: PLC0415  # takes seconds, which other tests do not need
    from dyna_eval_workers.resolution import resolve_sweep  # noqa: PLC0415

    monkeypatch.setattr("dyna_eval.running.apart.resolve_here", resolve_sweep)
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path_factory.mktemp("datasets"))


@pytest.fixture
def record(request: pytest.FixtureRequest) -> Iterator[dict[str, object]]:
    """Figures of a test, kept in the file that DYNA_EVAL_CHAOS_RECORD names once it has passed."""
    figures: dict[str, object] = {}
    started = time.monotonic()
    yield figures
    file = os.environ.get("DYNA_EVAL_CHAOS_RECORD")
    if file and figures.pop("passed", False):
        seconds = round(time.monotonic() - started, 1)
        keep(Path(file), request.node.name, {"seconds": seconds} | figures)


def keep(file: Path, test: str, figures: dict[str, object]) -> None:
    """Put a test's figures into the record, where those of an earlier run of it may stand.

    Each test has its own date and machine, so that the record may grow in parts.
    """
    tests = json.loads(file.read_text(encoding="utf-8"))["tests"] if file.exists() else {}
    machine = {"cores": os.cpu_count(), "system": platform.platform(), "python": platform.python_version()}
    day = datetime.datetime.now(datetime.UTC).date().isoformat()
    tests[test] = {"date": day, "machine": machine} | figures
    text = json.dumps({"recorded": sorted(tests), "tests": tests}, indent=2)
    new = file.with_suffix(".new")
    new.write_text(text + "\n", encoding="utf-8")
    new.replace(file)
