"""Faults of every kind while a sweep runs: no result is lost, none counts twice, and the store stays sound.

Each test runs in a small size; `scripts/chaos` runs the full one and records what it saw.
"""

from __future__ import annotations

import contextlib
import os
import random
import signal
import sqlite3
import subprocess
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest
from dyna_eval_db.store import Outcome, Store
from workplace import Workplace, wait_until

from dyna_eval.errors import DatabaseError, UnknownSweepError
from dyna_eval.jobs import JobState
from tests.models import save_model, tiny_gpt_neox
from tests.postgres import running_server

SWEEP = """\
name: faults
pair: [{{name: tiny, target: ./target, draft: ./draft}}{pairs}]
prompts: {{dataset: json, data_files: prompts.jsonl}}
generation: {{max_new_tokens: 32}}
measure: {{repeats: {repeats}}}
engine: {{backend: eager, dtype: float32}}  # slow enough to be caught at work
configs:
  - {{label: Baseline, method: ar}}
  - {{label: Draft, method: linear, k: 2}}
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Size:
    """How much of a fault a test makes."""

    name: str
    jobs: int
    faults: int
    away_seconds: float


SMALL = Size(name="small", jobs=20, faults=2, away_seconds=4)
FULL = Size(name="full", jobs=200, faults=10, away_seconds=120)


@pytest.fixture(params=[SMALL, pytest.param(FULL, marks=[pytest.mark.chaos, pytest.mark.timeout(3600)])])
def size(request: pytest.FixtureRequest) -> Size:
    found: Size = request.param
    return found


@dataclass(slots=True)
class Run:
    """A sweep of a tiny pair, in a database of any kind."""

    workplace: Workplace
    url: str

    def prepare(self, jobs: int, *, pairs: str = "") -> None:
        folder = self.workplace.folder
        save_model(tiny_gpt_neox(seed=1), folder / "target")
        save_model(tiny_gpt_neox(seed=2, hidden=16, layers=1), folder / "draft")
        self.workplace.write("prompts.jsonl", '{"text": "Once upon"}\n{"text": "a time"}\n')
        self.workplace.write("sweep.yaml", SWEEP.format(repeats=jobs // 2, pairs=pairs))

    def start(self, *words: str) -> subprocess.Popen[str]:
        words = words or ("submit", "sweep.yaml")
        return self.workplace.start(*words, DYNA_EVAL_DB=self.url, PGPASSWORD="unused")

    def finish(self, process: subprocess.Popen[str]) -> tuple[int, str]:
        """Wait for a command's end and return its exit status and stderr."""
        _, stderr = process.communicate(timeout=1800)
        return process.returncode, stderr

    def done(self) -> int:
        """Return the number of finished jobs; none while there is no sweep or no database."""
        try:
            with Store.open(self.url, create=False) as store:
                return store.progress(1)[JobState.DONE]
        except (DatabaseError, UnknownSweepError):
            return 0

    def wait_for(self, done: int, process: subprocess.Popen[str]) -> None:
        wait_until(lambda: self.done() >= done, process)

    def check(self, jobs: int) -> list[str]:
        """Assert that every job is done once and the rows agree; return the kinds of all events."""
        with Store.open(self.url, create=False) as store:
            assert store.audit() == []
            assert store.progress(1)[JobState.DONE] == jobs
            for job in store.record(1).jobs:
                outcomes = [attempt.outcome for attempt in store.attempts(job.id)]
                assert outcomes.count(Outcome.LANDED) == 1
            return [event.kind for event in store.events(1)]


def workers(workplace: Workplace) -> list[psutil.Process]:
    """Return the processes of the actors that commands of this workplace started."""
    return processes(workplace, "ray::DecodingA")


def processes(workplace: Workplace, name: str) -> list[psutil.Process]:
    """Return the processes of commands of this workplace whose name begins so."""
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error, ProcessLookupError):
            ours = os.getsid(process.pid) in workplace.sessions
            if ours and process.name().startswith(name):
                found.append(process)
    return found


@pytest.fixture
def run(workplace: Workplace) -> Run:
    return Run(workplace, f"sqlite:///{workplace.database}")


# ------------------------------------------------------------------- processes


@pytest.mark.slow
def test_workers_that_are_killed_cost_no_result(run: Run, size: Size, record: dict[str, object]) -> None:
    """Kill -9 of a random worker, every three seconds of work at full size."""
    run.prepare(size.jobs)
    started = time.monotonic()
    process = run.start()
    killed = 0
    while process.poll() is None and (size is FULL or killed < size.faults):
        enough = min(run.done() + 3, size.jobs)
        while run.done() < enough and process.poll() is None:
            time.sleep(0.1)
        if size is FULL:
            time.sleep(3)
        if found := workers(run.workplace):
            random.choice(found).kill()
            killed += 1
    status, stderr = run.finish(process)
    assert status == 0, stderr
    assert "Traceback" not in stderr
    run.check(size.jobs)
    assert killed >= 1 if size is FULL else killed == size.faults
    wall_seconds = time.monotonic() - started
    if size is FULL:
        started = time.monotonic()
        status, stderr = run.finish(run.start("submit", "sweep.yaml", "--name", "clean"))
        assert status == 0, stderr
        record["clean_seconds"] = round(time.monotonic() - started, 1)
    record |= {
        "passed": True,
        "jobs": size.jobs,
        "killed": killed,
        "wall_seconds": round(wall_seconds, 1),
    }


@pytest.mark.slow
def test_a_job_that_kills_its_workers_and_a_pair_that_does_not_load_fail_and_no_other(run: Run) -> None:
    """The job is tried three times, the pair, whose weights are cut off, twice."""
    run.prepare(4, pairs=", {name: cut, target: ./cut, draft: ./draft}")
    save_model(tiny_gpt_neox(seed=3), run.workplace.folder / "cut")
    weights = run.workplace.folder / "cut/model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1000])
    process = run.start("submit", "sweep.yaml", "--set", "measure.repeats=1", "--set", "measure.warmup=60")
    while process.poll() is None:
        with contextlib.suppress(DatabaseError, UnknownSweepError, psutil.Error), run_store(run) as store:
            jobs = store.record(1).jobs
            running = [(job.pair, job.label) for job in jobs if job.state is JobState.RUNNING]
            if running == [("tiny", "Draft")]:
                for worker in workers(run.workplace):
                    worker.kill()
        time.sleep(0.05)
    status, stderr = run.finish(process)
    assert status == 1, stderr
    assert "Traceback" not in stderr
    with run_store(run) as store:
        assert store.audit() == []
        jobs = store.record(1).jobs
        tried = [attempt.error for job in jobs for attempt in store.attempts(job.id) if job.pair == "cut"]
    assert {(job.pair, job.label, job.state) for job in jobs} == {
        ("tiny", "Baseline", JobState.DONE),
        ("tiny", "Draft", JobState.FAILED),
        ("cut", "Baseline", JobState.FAILED),
        ("cut", "Draft", JobState.FAILED),
    }
    [killing] = [job for job in jobs if (job.pair, job.label) == ("tiny", "Draft")]
    assert killing.tries == 3
    assert "failed after it lost 3 workers" in str(killing.error)
    assert len(tried) == 2
    assert all("./cut" in str(error) or "/cut: cannot be loaded" in str(error) for error in tried)


def run_store(run: Run) -> Store:
    return Store.open(run.url, create=False)


@pytest.mark.chaos
def test_a_stopped_worker_is_noticed_and_its_job_runs_elsewhere(run: Run, record: dict[str, object]) -> None:
    """It takes a minute; in tests/integration/test_actor.py the clock is made to pass."""
    run.prepare(20)
    process = run.start()
    run.wait_for(2, process)
    [worker] = workers(run.workplace)
    worker.suspend()
    before, stopped = run.done(), time.monotonic()
    run.wait_for(before + 2, process)
    record["rescheduled_seconds"] = round(time.monotonic() - stopped, 1)
    with contextlib.suppress(psutil.NoSuchProcess):
        worker.resume()
    status, stderr = run.finish(process)
    assert status == 0, stderr
    run.check(20)
    record["passed"] = True


# ------------------------------------------------------------------ controllers


def stop_between_transactions(process: subprocess.Popen[str], database: Path) -> None:
    """SIGSTOP a process at a moment when it holds no lock of a SQLite database."""
    while True:
        process.send_signal(signal.SIGSTOP)
        try:
            with contextlib.closing(sqlite3.connect(database, timeout=0.2)) as connection:
                connection.execute("BEGIN IMMEDIATE")
                return
        except sqlite3.OperationalError:
            process.send_signal(signal.SIGCONT)
            time.sleep(random.uniform(0.01, 0.1))


@pytest.mark.slow
def test_of_two_controllers_one_works_and_a_stopped_one_writes_nothing_stale(
    run: Run, size: Size, record: dict[str, object]
) -> None:
    """The small size lets the stopped controller's lease run out by hand, the full one waits for it."""
    run.prepare(size.jobs)
    first = run.start()
    run.wait_for(2, first)
    stop_between_transactions(first, run.workplace.database)
    started = time.monotonic()
    status, stderr = run.finish(run.start("resume"))
    record["refused_seconds"] = round(time.monotonic() - started, 1)
    assert status == 1
    assert "another controller" in stderr
    if size is FULL:
        time.sleep(61)
    else:
        with run_store(run) as store:
            store.renew_lease(1, str(store.lease_holder(1)), -1.0)
    status, stderr = run.finish(run.start("resume"))
    assert status == 0, stderr
    before = run.check(size.jobs)
    first.send_signal(signal.SIGCONT)
    status, stderr = run.finish(first)
    assert status == 1, stderr
    assert "taken over by another controller" in stderr.splitlines()[-1]
    after = run.check(size.jobs)
    assert [kind for kind in after[len(before) :] if kind != "fenced"] == []
    record["passed"] = True


@pytest.mark.chaos
@pytest.mark.timeout(1800)
def test_a_controller_killed_again_and_again_is_resumed(run: Run, record: dict[str, object]) -> None:
    """The small size of this is in test_crash.py."""
    run.prepare(FULL.jobs)
    waits = []
    process = run.start()
    for kill in range(FULL.faults):
        run.wait_for(10 * (kill + 1), process)
        process.kill()
        process.communicate()
        before, started = run.done(), time.monotonic()
        process = run.start("resume")
        wait_until(lambda before=before: run.done() > before, process)  # type: ignore[misc]
        waits.append(round(time.monotonic() - started, 1))
    status, stderr = run.finish(process)
    assert status == 0, stderr
    kinds = run.check(FULL.jobs)
    assert kinds.count("lost") <= FULL.faults
    record |= {
        "passed": True,
        "kills": FULL.faults,
        "redone": kinds.count("lost"),
        "first_result_seconds": waits,
    }


# -------------------------------------------------------------------- databases


@pytest.mark.slow
def test_a_server_that_restarts_or_goes_away_is_waited_for(
    workplace: Workplace, size: Size, record: dict[str, object]
) -> None:
    with running_server() as server:
        run = Run(workplace, server.url)
        run.prepare(size.jobs)
        process = run.start()
        run.wait_for(2, process)
        [raylet] = processes(workplace, "raylet")  # its workers inherit what it has
        assert not {"DYNA_EVAL_DB", "PGPASSWORD"} & raylet.environ().keys()
        for _ in range(min(size.faults, 5)):
            server.stop(immediate=True)
            server.start()
            run.wait_for(run.done() + 1, process)
        server.stop(immediate=True)
        time.sleep(size.away_seconds)
        server.start()
        back, before = time.monotonic(), run.done()
        wait_until(lambda: run.done() > before or before == size.jobs, process)  # all was done before
        record |= {"away_seconds": size.away_seconds, "goes_on_seconds": round(time.monotonic() - back, 1)}
        status, stderr = run.finish(process)
        assert status == 0, stderr
        assert "waiting for the database" in stderr
        assert "the database is back" in stderr
        run.check(size.jobs)
        record["passed"] = True


@pytest.mark.slow
def test_a_full_disk_pauses_a_sweep_until_there_is_room(workplace: Workplace) -> None:
    with tempfile.TemporaryDirectory(dir="/tmp") as folder, small_disk(folder):
        run = Run(workplace, f"sqlite:///{folder}/store.db")
        run.prepare(SMALL.jobs)
        process = run.start()
        run.wait_for(2, process)
        ballast = Path(folder) / "ballast"
        with contextlib.suppress(OSError), ballast.open("wb") as stream:
            while True:
                stream.write(b"\0" * 4096)
                stream.flush()
        time.sleep(5)
        assert process.poll() is None
        before = run.done()
        assert before < SMALL.jobs
        ballast.unlink()
        wait_until(lambda: run.done() > before, process)
        status, stderr = run.finish(process)
        assert status == 0, stderr
        assert "is full; make room on its disk" in stderr
        run.check(SMALL.jobs)


@contextlib.contextmanager
def small_disk(folder: str) -> Iterator[None]:
    """Mount a file system of 2 MB; skips the test where that is not allowed."""
    mounting = ["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", folder]
    if os.geteuid() or subprocess.run(mounting, check=False, capture_output=True).returncode:
        pytest.skip("no file system may be mounted here")
    try:
        yield
    finally:
        subprocess.run(["umount", "-l", folder], check=True)
