"""Nodes of a real cluster that die, stop, join or are asked for while a sweep runs."""

from __future__ import annotations

import contextlib
import signal
import subprocess
import time
from collections.abc import Iterator

import pytest
from dyna_eval_db.store import Store
from workplace import Workplace, wait_until

from dyna_eval.errors import DatabaseError, UnknownSweepError
from dyna_eval.jobs import JobState
from tests.clusters import Cluster, raylet_of, running_cluster
from tests.models import save_model, tiny_gpt_neox

SWEEP = """\
name: nodes
pair: {{name: tiny, target: ./target, draft: ./draft}}
prompts: {{dataset: json, data_files: prompts.jsonl}}
generation: {{max_new_tokens: 64}}
measure: {{repeats: {repeats}}}
engine: {{backend: eager, dtype: float32}}  # slow enough to be caught at work
configs:
  - {{label: Baseline, method: ar}}
  - {{label: Draft, method: linear, k: 2}}
"""


@pytest.fixture
def cluster(workplace: Workplace) -> Iterator[Cluster]:
    with running_cluster(workplace.environment()) as cluster:
        yield cluster


def prepare(workplace: Workplace, *, jobs: int) -> None:
    save_model(tiny_gpt_neox(seed=1), workplace.folder / "target")
    save_model(tiny_gpt_neox(seed=2, hidden=16, layers=1), workplace.folder / "draft")
    workplace.write("prompts.jsonl", '{"text": "Once upon"}\n{"text": "a time"}\n')
    workplace.write("sweep.yaml", SWEEP.format(repeats=jobs // 2))


def actors_at_work(workplace: Workplace) -> dict[int, str]:
    """Return the actors of the jobs in flight, by job."""
    with contextlib.suppress(DatabaseError, UnknownSweepError), workplace.store() as store:
        running = [job.id for job in store.record(1).jobs if job.state is JobState.RUNNING]
        return {job: str(store.attempts(job)[-1].actor) for job in running}
    return {}


def nodes_at_work(workplace: Workplace) -> set[str]:
    return {actor.partition("-")[0] for actor in actors_at_work(workplace).values()}


def nodes_of_attempts(workplace: Workplace) -> set[str]:
    """Return the nodes whose actors were given a job so far."""
    with workplace.store() as store:
        attempts = [attempt for job in store.record(1).jobs for attempt in store.attempts(job.id)]
    return {str(attempt.actor).partition("-")[0] for attempt in attempts}


def done(workplace: Workplace) -> int:
    with contextlib.suppress(DatabaseError, UnknownSweepError), workplace.store() as store:
        return store.progress(1)[JobState.DONE]
    return 0


def check(store: Store, *, jobs: int, most_tries: int = 0) -> None:
    """Assert that every job is done, how often one was blamed at most, and that the rows agree."""
    assert store.audit() == []
    assert store.progress(1)[JobState.DONE] == jobs
    assert max(job.tries for job in store.record(1).jobs) <= most_tries


def start_on_two_nodes(
    workplace: Workplace, cluster: Cluster, *, jobs: int
) -> tuple[subprocess.Popen[str], list[subprocess.Popen[bytes]]]:
    """Start a `submit` on two nodes and return it, and them, when both are at work."""
    prepare(workplace, jobs=jobs)
    nodes = [cluster.add_node(), cluster.add_node()]
    process = workplace.start("submit", "sweep.yaml", "--address", cluster.address, **cluster.variables)
    wait_until(lambda: done(workplace) >= 4 and len(nodes_at_work(workplace)) == 2, process)
    return process, nodes


def seconds_until_given_up(
    workplace: Workplace,
    process: subprocess.Popen[str],
    node: subprocess.Popen[bytes],
    how: signal.Signals,
) -> float:
    """Lose a node, and wait until its job is put back; stopping is for its workers too."""
    raylet = raylet_of(node)
    assert raylet is not None
    for one in [raylet, *raylet.children(recursive=True)] if how is signal.SIGSTOP else [raylet]:
        one.send_signal(how)
    lost = time.monotonic()

    def given_up() -> bool:
        with workplace.store() as store:
            return any(event.kind in ("put back", "failed") for event in store.events(1))

    wait_until(given_up, process)
    return time.monotonic() - lost


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_the_job_of_a_killed_node_runs_elsewhere_and_without_any_the_sweep_waits_for_one(
    workplace: Workplace, cluster: Cluster
) -> None:
    """First one of two nodes dies, then the other one, and at last one joins.

    The whole node: its raylet, and the workers, which a raylet that dies takes with it. A job is not blamed.
    """
    jobs = 100  # work enough that the sweep is not over before the losses are noticed
    process, nodes = start_on_two_nodes(workplace, cluster, jobs=jobs)
    seconds_until_given_up(workplace, process, nodes[0], signal.SIGKILL)
    before = done(workplace)
    wait_until(lambda: done(workplace) > before, process)  # on the node that is left
    raylet = raylet_of(nodes[1])
    assert raylet is not None
    raylet.kill()
    assert process.stderr is not None
    waits = "waiting for a node; the Ray cluster has neither a GPU nor a free core"
    assert any(waits in line for line in process.stderr)  # reads no further than that
    gone = nodes_of_attempts(workplace)
    time.sleep(3)
    assert process.poll() is None
    cluster.add_node()
    _, stderr = process.communicate(timeout=1200)
    assert process.returncode == 0, stderr
    assert "a node is back" in stderr
    assert "Traceback" not in stderr
    with workplace.store() as store:
        check(store, jobs=jobs)
        last = store.record(1).jobs[-1]
        used = {str(attempt.actor).partition("-")[0] for attempt in store.attempts(last.id)}
    assert len(gone) == 2
    assert used
    assert used.isdisjoint(gone)


@pytest.mark.chaos
@pytest.mark.timeout(1800)
def test_the_job_of_a_stopped_node_runs_elsewhere(
    workplace: Workplace, cluster: Cluster, record: dict[str, object]
) -> None:
    """It is known later than that its worker is silent, for which the job is blamed once."""
    jobs = 100
    process, nodes = start_on_two_nodes(workplace, cluster, jobs=jobs)
    seconds = seconds_until_given_up(workplace, process, nodes[0], signal.SIGSTOP)
    _, stderr = process.communicate(timeout=1200)
    assert process.returncode == 0, stderr
    assert "Traceback" not in stderr
    with workplace.store() as store:
        check(store, jobs=jobs, most_tries=1)
    assert seconds < 90
    record |= {"passed": True, "rescheduled_seconds": round(seconds, 1)}


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_a_cluster_with_an_autoscaler_grows_for_jobs_that_wait(workplace: Workplace) -> None:
    """Fewer nodes may be added than jobs wait: what is asked for beyond that must not hold the others up."""
    prepare(workplace, jobs=1000)  # more than are done before a node has started
    with running_cluster(workplace.environment(), grows_to=2) as cluster:
        one = ["--address", cluster.address]
        process = workplace.start("submit", "sweep.yaml", *one, **cluster.variables)
        wait_until(lambda: len(set(actors_at_work(workplace).values())) == 2, process)
        process.send_signal(signal.SIGINT)
        _, stderr = process.communicate(timeout=600)
    assert process.returncode == 130, stderr
    with workplace.store() as store:
        attempts = [attempt for job in store.record(1).jobs for attempt in store.attempts(job.id)]
    assert len({attempt.node for attempt in attempts}) == 2
