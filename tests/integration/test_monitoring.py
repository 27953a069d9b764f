"""A small sweep on real Ray, scraped while it runs: every metric is there, and agrees with the store."""

from __future__ import annotations

import json
import logging
import re
import shutil
import socket
import subprocess
import tempfile
import threading
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from math import isfinite
from pathlib import Path
from statistics import fmean
from typing import Any

import pytest
import ray
from dyna_eval_db.store import Store
from dyna_eval_workers.resolution import resolve_sweep

from dyna_eval.jobs import JobState, Method
from dyna_eval.monitoring import METRICS, Kind, SweepExport, tag_text
from dyna_eval.notices import Happening, Notice, Standstill
from dyna_eval.records import StoredJob, SweepRecord
from dyna_eval.reports.statistics import Run, acceptance, prompt_throughputs
from dyna_eval.running.controller import Controller
from dyna_eval.running.lease import leased
from dyna_eval.sweeps.config import load_sweep
from tests.boards import BOARDS, filled_in, queries, read

pytestmark = pytest.mark.slow

PAIR = 'ä "pair" \\{x="1"}\n/' + "y" * 100
SWEEP = """\
name: small
pair: demo
prompts: {dataset: demo, limit: 2, max_prompt_tokens: 32}
generation: {max_new_tokens: 16}
measure: {repeats: 2, warmup: 1}
baseline: Baseline
configs:
  - {label: Baseline, method: ar}
  - {label: Chain, method: linear, k: 4}
"""
METHODS = (Method.AR, Method.LINEAR)

Series = dict[tuple[str, frozenset[tuple[str, str]]], float]
"""The last value of every series, by its name and our tags."""


@dataclass(slots=True, kw_only=True)
class Watched:
    """A sweep that ran, and the last value of every series that was seen, by its name and our tags."""

    record: SweepRecord
    attempts: int
    started: float
    ended: float
    series: Series = field(repr=False)
    port: int
    prometheus: str | None

    def value(self, name: str, **tags: str) -> float:
        return self.series[name, frozenset(tags.items())]

    def last(self, method: Method) -> StoredJob:
        """Return the job of a method that landed last: one actor takes repeats in their order."""
        return max((job for job in self.record.jobs if job.method is method), key=lambda job: job.repeat)


def scrape(port: int) -> Iterator[tuple[str, frozenset[tuple[str, str]], float]]:
    """Give the name, our tags and the value of every series of ours that Ray's agent serves."""
    own = {tag for metric in METRICS for tag in metric.tags} | {"le"}
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=60) as answer:
        lines = answer.read().decode().splitlines()
    for line in lines:
        found = re.fullmatch(r"(ray_dyna_eval_\w+)\{(.*)\} (\S+)", line)
        if found is not None:
            tags = re.findall(r'(\w+)="((?:[^"\\]|\\.)*)"', found[2])
            yield found[1], frozenset((tag, text) for tag, text in tags if tag in own), float(found[3])


@contextmanager
def scraped(port: int) -> Iterator[Series]:
    """Scrape on and on for the time of a block."""
    seen: Series = {}
    over = threading.Event()

    def go_on() -> None:
        while not over.wait(0.3):
            try:
                seen.update({(name, tags): value for name, tags, value in scrape(port)})
            except (urllib.error.URLError, OSError):
                continue  # the agent is not up yet

    thread = threading.Thread(target=go_on)
    thread.start()
    try:
        yield seen
    finally:
        over.set()
        thread.join()


@contextmanager
def prometheus(port: int, folder: Path) -> Iterator[str | None]:
    """Run a Prometheus that scrapes a port every second; gives its address, None where there is none."""
    program = shutil.which("prometheus")
    if program is None:
        yield None
        return
    own = free_port()
    config = folder / "prometheus.yaml"
    targets = f"static_configs: [{{targets: ['127.0.0.1:{port}']}}]"
    config.write_text(f"global: {{scrape_interval: 1s}}\nscrape_configs: [{{job_name: ray, {targets}}}]\n")
    options = [f"--config.file={config}", f"--storage.tsdb.path={folder}/data"]
    with (folder / "prometheus.log").open("w") as log:
        process = subprocess.Popen(
            [program, *options, f"--web.listen-address=127.0.0.1:{own}"], stdout=log, stderr=log
        )
    try:
        yield f"http://127.0.0.1:{own}"
    finally:
        process.terminate()
        process.wait(timeout=120)


def free_port() -> int:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        port: int = taken.getsockname()[1]
        return port


def wait_for(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 500
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.2)


def wait_for_the_actor(store: Store, sweep_id: int, series: Series, notice: Notice | Standstill) -> None:
    """Go on after a job only when the actor's own report of it was scraped, by Prometheus too."""
    if not isinstance(notice, Notice) or notice.happening is not Happening.LANDED:
        return
    landed = sum(sample.tokens for job in store.record(sweep_id).jobs for sample in job.samples)
    name = "ray_dyna_eval_actor_tokens_total"
    wait_for(lambda: sum(value for key, value in dict(series).items() if key[0] == name) == landed)
    time.sleep(1.5)


@pytest.fixture(scope="module")
def watched(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Watched]:
    """The sweep, run once for all tests here; Prometheus answers as long as they ask."""
    folder, port = tmp_path_factory.mktemp("monitoring"), free_port()
    file = folder / "sweep.yaml"
    file.write_text(SWEEP)
    spec = load_sweep(file)
    spec = replace(spec, pairs=(replace(spec.pairs[0], name=PAIR),))
    temporary = tempfile.mkdtemp(prefix="de-", dir="/tmp")
    ray.init(
        address="local",
        num_cpus=1,
        include_dashboard=False,
        log_to_driver=False,
        logging_level="ERROR",
        _temp_dir=temporary,
        _metrics_export_port=port,
        _system_config={"metrics_report_interval_ms": 1000},
    )
    try:
        with (
            Store.open(f"sqlite:///{folder}/store.db", create=True) as store,
            prometheus(port, folder) as address,
            scraped(port) as series,
        ):
            started = time.time()
            sweep_id = store.add_sweep(resolve_sweep(spec))
            with leased(store, sweep_id) as holder:
                watch = partial(wait_for_the_actor, store, sweep_id, series)
                counts = Controller(store=store, sweep_id=sweep_id, holder=holder, watch=watch).run()
            sweep = str(sweep_id)
            done = "ray_dyna_eval_jobs", frozenset({"sweep": sweep, "state": "done"}.items())
            wait_for(lambda: series.get(done) == counts[JobState.DONE])
            time.sleep(3)  # two more reports, and two more scrapes
            record = store.record(sweep_id)
            yield Watched(
                record=record,
                attempts=sum(len(store.attempts(job.id)) for job in record.jobs),
                started=started,
                ended=time.time(),
                series=dict(series),
                port=port,
                prometheus=address,
            )
    finally:
        ray.shutdown()
        shutil.rmtree(temporary, ignore_errors=True)


def test_every_metric_is_exported_with_its_tags_and_no_other(watched: Watched) -> None:
    seen = {(name, frozenset(tag for tag, _ in tags)) for name, tags in watched.series}
    expected = set()
    for metric in METRICS:
        name, tags = metric.exported_name, frozenset(metric.tags)
        if metric.kind is Kind.HISTOGRAM:
            expected |= {(f"{name}_bucket", tags | {"le"}), (f"{name}_sum", tags), (f"{name}_count", tags)}
        else:
            expected.add((name, tags))

    assert seen == expected


def test_jobs_by_state_are_those_of_the_store(watched: Watched) -> None:
    sweep = str(watched.record.id)
    for state in JobState:
        jobs = sum(job.state is state for job in watched.record.jobs)
        assert watched.value("ray_dyna_eval_jobs", sweep=sweep, state=state.value) == jobs
    assert watched.value("ray_dyna_eval_jobs", sweep=sweep, state="done") == 4


def test_a_sweep_at_its_end_has_no_queue_and_no_actor_at_work(watched: Watched) -> None:
    sweep = str(watched.record.id)
    assert watched.value("ray_dyna_eval_queue_age_seconds", sweep=sweep) < watched.ended - watched.started
    assert watched.value("ray_dyna_eval_actors", sweep=sweep, state="working") == 0
    assert watched.value("ray_dyna_eval_actors", sweep=sweep, state="idle") == 1
    assert watched.value("ray_dyna_eval_database_away", sweep=sweep) == 0


@pytest.mark.parametrize("method", METHODS)
def test_figures_are_those_of_the_job_that_landed_last(watched: Watched, method: Method) -> None:
    tags = {"sweep": str(watched.record.id), "pair": tag_text(PAIR), "method": method.value}
    job = watched.last(method)
    speed = fmean(prompt_throughputs([Run(repeat=job.repeat, samples=job.samples)]).values())

    assert watched.value("ray_dyna_eval_tokens_per_second", **tags) == pytest.approx(speed)
    length = acceptance(method, job.samples).mean_length
    assert watched.value("ray_dyna_eval_acceptance_length", **tags) == pytest.approx(length)


@pytest.mark.parametrize("method", METHODS)
def test_attempts_and_tokens_add_up_to_the_stores(watched: Watched, method: Method) -> None:
    tags = {"pair": tag_text(PAIR), "method": method.value}
    jobs = [job for job in watched.record.jobs if job.method is method]
    sweep = str(watched.record.id)

    assert watched.value("ray_dyna_eval_attempts_total", sweep=sweep, outcome="landed", **tags) == len(jobs)
    assert watched.value("ray_dyna_eval_job_seconds_count", sweep=sweep, **tags) == len(jobs)
    assert watched.attempts == len(watched.record.jobs)
    decoded = sum(sample.tokens for job in jobs for sample in job.samples)
    exported = watched.value("ray_dyna_eval_actor_tokens_total", **tags)
    assert exported == decoded


def test_an_actor_says_what_its_pair_took_to_load_and_how_fast_the_target_is(watched: Watched) -> None:
    pair = tag_text(PAIR)
    assert 0 < watched.value("ray_dyna_eval_actor_load_seconds", pair=pair) < watched.ended - watched.started
    speeds = [
        fmean(prompt_throughputs([Run(repeat=0, samples=sentinel.samples)]).values())
        for sentinel in watched.record.sentinels
    ]
    told = watched.value("ray_dyna_eval_actor_target_tokens_per_second", pair=pair)
    assert any(told == pytest.approx(speed) for speed in speeds)


def test_a_name_from_a_sweep_file_is_short_and_plain_in_tags(watched: Watched) -> None:
    pairs = {text for _, tags in watched.series for tag, text in tags if tag == "pair"}
    assert pairs == {"_ _pair_ __x__1___/" + "y" * 61}


def test_every_panel_of_the_boards_shows_the_sweep(watched: Watched) -> None:
    if watched.prometheus is None:
        pytest.skip("Prometheus is not installed")
    for file in BOARDS:
        for title, query in queries(read(file)):
            asked = {"query": filled_in(query), "start": watched.started, "end": watched.ended, "step": 1}
            url = f"{watched.prometheus}/api/v1/query_range?{urllib.parse.urlencode(asked)}"
            with urllib.request.urlopen(url, timeout=30) as answer:  # noqa: S310 - our own server
                found: Any = json.load(answer)
            assert found["status"] == "success"
            values = [float(value) for line in found["data"]["result"] for _, value in line["values"]]
            assert any(map(isfinite, values)), title


def test_a_job_that_nobody_takes_ages_and_a_database_that_is_away_shows(watched: Watched) -> None:
    """The clock is ours: the queue's head waits from second 10 on, and is taken in second 30."""
    export, counts = SweepExport(sweep="stuck"), dict.fromkeys(JobState, 0) | {JobState.QUEUED: 2}

    def shows(age: float, away: float) -> bool:
        seen = {(name, tags): value for name, tags, value in scrape(watched.port)}
        sweep = frozenset({"sweep": "stuck"}.items())
        names = "ray_dyna_eval_queue_age_seconds", "ray_dyna_eval_database_away"
        return [seen.get((name, sweep)) for name in names] == [age, away]

    export.jobs(counts)
    export.moment(10.0, working=0, places=1, away=False)
    export.moment(25.0, working=0, places=1, away=True)
    wait_for(partial(shows, 15.0, 1.0))
    export.started(30.0)
    export.moment(32.0, working=1, places=1, away=False)
    wait_for(partial(shows, 2.0, 0.0))
    export.jobs(counts | {JobState.QUEUED: 0})
    export.moment(90.0, working=1, places=1, away=False)
    wait_for(partial(shows, 0.0, 0.0))


def test_metrics_that_fail_are_logged_once_and_cost_nothing(caplog: pytest.LogCaptureFixture) -> None:
    """Ray takes ASCII alone: a sweep whose number were none raises in Ray's own code."""
    broken = SweepExport(sweep="ä")
    with caplog.at_level(logging.WARNING):
        for now in (0.0, 1.0):
            broken.moment(now, working=1, places=1, away=False)
            broken.jobs(dict.fromkeys(JobState, 0))

    [line] = [record.getMessage() for record in caplog.records]
    assert line.startswith("a metric was not exported: UnicodeEncodeError")
