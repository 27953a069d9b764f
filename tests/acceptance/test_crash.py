"""Runs that are killed, interrupted or fail: nothing is lost, and nothing is done twice."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess

import pytest
from dyna_eval_db.store import Outcome
from dyna_eval_workers.resolution import resolve_sweep
from workplace import Workplace, wait_until

from dyna_eval.errors import DatabaseError, UnknownSweepError
from dyna_eval.jobs import JobState
from dyna_eval.sweeps.config import load_sweep
from dyna_eval.wording import count
from tests.models import save_model, tiny_gpt_neox
from tests.new_databases import open_new

RAY_AGENTS = {"ray::DashboardAgent", "ray::RuntimeEnvAgent"}
"""Idle processes of Ray that need a minute to notice that nobody is left."""

REPEATS = 6
JOBS = 2 * REPEATS

SWEEP = f"""\
name: long
pair: demo
prompts: {{dataset: demo, limit: 2, max_prompt_tokens: 32}}
generation: {{max_new_tokens: 48}}
measure: {{repeats: {REPEATS}}}
engine: {{backend: eager, dtype: float32}}  # slow enough to be caught at work
configs:
  - {{label: Baseline, method: ar}}
  - {{label: Draft, method: linear, k: 4}}
"""


def start(workplace: Workplace, *, until_done: int) -> subprocess.Popen[str]:
    """Start a `submit` and return it when so many of its jobs are done."""
    workplace.write("sweep.yaml", SWEEP)
    process = workplace.start("submit", "sweep.yaml")
    wait_until(lambda: number_done(workplace) >= until_done, process)
    return process


def number_done(workplace: Workplace) -> int:
    """Return how many jobs are done; none while there is no sweep."""
    try:
        with workplace.store() as store:
            return store.progress(1)[JobState.DONE]
    except (DatabaseError, UnknownSweepError):  # not created yet
        return 0


def done_jobs(workplace: Workplace) -> dict[int, list[Outcome | None]]:
    """Return the outcomes of every attempt of each finished job."""
    with workplace.store() as store:
        jobs = [job for job in store.record(1).jobs if job.state is JobState.DONE]
        return {job.id: [attempt.outcome for attempt in store.attempts(job.id)] for job in jobs}


def stop(process: subprocess.Popen[str], how: signal.Signals, *, group: bool) -> tuple[int, str, str]:
    """Send a signal and return exit status, stdout and stderr."""
    (os.killpg if group else os.kill)(process.pid, how)
    stdout, stderr = process.communicate(timeout=300)
    return process.returncode, stdout, stderr


def test_after_kill_9_the_same_submit_does_only_what_is_left(workplace: Workplace) -> None:
    """First the controller alone is killed, so that Ray's processes are orphans; then all at once.

    What is killed is not told to be running.
    """
    stop(start(workplace, until_done=2), signal.SIGKILL, group=False)
    first = done_jobs(workplace)
    stop(start(workplace, until_done=len(first) + 2), signal.SIGKILL, group=True)
    second = done_jobs(workplace)
    assert 4 <= len(second) < JOBS
    with workplace.store() as store:
        assert store.sweep_state(1) == "interrupted"

    again = workplace.run("submit", "sweep.yaml", "--json")
    assert again.status == 0, again.stderr
    progress = [int(number) for number in re.findall(r"^\[(\d+)/", again.stderr, re.MULTILINE)]
    assert progress == list(range(len(second) + 1, JOBS + 1))
    last = done_jobs(workplace)
    assert len(last) == JOBS
    assert {job: second[job] for job in first} == first
    assert {job: last[job] for job in second} == second
    assert all(outcomes.count(Outcome.LANDED) == 1 for outcomes in last.values())
    assert sum(len(outcomes) - 1 for outcomes in last.values()) <= 2  # one job ran at each kill
    for row in again.json()["rows"]:
        assert (row["repeats"], row["exact_match_rate"]) == (REPEATS, 1.0)

    wait_until(lambda: set(workplace.living()) <= RAY_AGENTS)


@pytest.mark.parametrize(
    ("how", "group"),
    [
        pytest.param(signal.SIGINT, True, id="Ctrl-C"),
        pytest.param(signal.SIGTERM, False, id="SIGTERM", marks=pytest.mark.slow),
        pytest.param(signal.SIGHUP, True, id="a closed terminal", marks=pytest.mark.slow),
    ],
)
def test_an_interrupted_run_puts_its_jobs_back_and_says_how_to_go_on(
    workplace: Workplace, how: signal.Signals, group: bool
) -> None:
    status, stdout, stderr = stop(start(workplace, until_done=2), how, group=group)
    assert (status, stdout) == (130, "")
    *progress, hint = stderr.splitlines()
    assert all(line.startswith("[") for line in progress)
    assert "dyna-eval resume 1" in hint
    wait_until(lambda: workplace.living() == [])

    looked = workplace.run_here("status", "--json").json()
    done = number_done(workplace)
    assert (looked["state"], looked["jobs"]["running"]) == ("interrupted", 0)
    assert looked["jobs"]["done"] == done == JOBS - looked["jobs"]["queued"]
    advice = "`dyna-eval resume 1` goes on, with --address where it ran on a cluster"
    assert workplace.run_here("status").stderr == f"no controller runs it; {advice}\n"

    assert f"{count(JOBS - done, 'job')} cancelled" in workplace.run_here("cancel").stdout
    resumed = workplace.run_here("resume", "--json")
    assert resumed.status == 1
    assert "nothing left to run" in resumed.stderr
    assert sum(len(left["job_ids"]) for left in resumed.json()["left_out"]) == JOBS - done


@pytest.mark.slow
def test_jobs_of_a_pair_that_is_gone_fail_with_the_reason_and_can_be_tried_again(
    workplace: Workplace,
) -> None:
    folder = workplace.folder
    save_model(tiny_gpt_neox(seed=1), folder / "target")
    save_model(tiny_gpt_neox(seed=2, hidden=16, layers=1), folder / "draft")
    sweep = SWEEP.replace("demo\n", "{target: ./target, draft: ./draft}\n", 1)
    store_only(workplace, sweep.replace(f"repeats: {REPEATS}", "repeats: 1"))
    shutil.move(folder / "draft", folder / "elsewhere")

    resumed = workplace.run("resume")
    assert resumed.status == 1
    assert "Left out" in resumed.stdout
    assert "Traceback" not in resumed.stderr
    failed = workplace.run_here("status", "--json").json()
    assert failed["state"] == "failed"
    assert failed["jobs"]["failed"] == 2
    assert all(str(folder / "draft") in job["error"] for job in failed["errors"])

    shutil.move(folder / "elsewhere", folder / "draft")
    retried = workplace.run("retry", "--json")
    assert retried.status == 0, retried.stderr
    assert "2 jobs queued again" in retried.stderr
    assert [row["exact_match_rate"] for row in retried.json()["rows"]] == [1.0, 1.0]


def store_only(workplace: Workplace, sweep: str) -> None:
    """Leave what a `submit` leaves that was stopped before its first job."""
    resolved = resolve_sweep(load_sweep(workplace.write("sweep.yaml", sweep)))
    with open_new(f"sqlite:///{workplace.database}") as store:
        assert store.add_sweep(resolved) == 1


def test_a_sweep_that_another_controller_works_on_is_left_alone(workplace: Workplace) -> None:
    """A controller on another machine may live, whether this one can see it or not."""
    store_only(workplace, SWEEP)
    with workplace.store() as store:
        assert store.acquire_lease(1, "elsewhere:1:x", 120)
    resumed = workplace.run_here("resume")
    assert (resumed.status, resumed.stdout) == (1, "")
    [line] = resumed.stderr.splitlines()
    assert "another controller" in line
    with workplace.store() as store:
        assert store.lease_holder(1) == "elsewhere:1:x"
