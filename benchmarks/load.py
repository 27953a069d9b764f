#!/usr/bin/env python3
"""What the store, the controller and the dashboard cost under load; nothing here decodes but `watchers`.

    python benchmarks/load.py                                   all parts, on SQLite
    python benchmarks/load.py --part submit --postgres          one part, on SQLite and on Postgres

Parts, each with what it is to show:

    submit      100,000 jobs are submitted in 10 s, `status` answers in 1 s, the controller stays under 500 MB
    controller  empty jobs on 8 actors cost it less than 5 ms each
    busy        64 actors whose jobs take 1 s are 95 % busy
    landing     a result of 1,000 samples with all its rounds lands in 1 s
    dashboard   pages of 10,000 configurations and 1,000,000 samples paint in 1 s
    watchers    20 watchers of a live sweep slow its jobs by under 2 %

Parts that are run replace those in the file, the others stay. Nothing else may run beside it.
"""

from __future__ import annotations

import argparse
import contextlib
import http.client
import json
import multiprocessing
import os
import platform
import random
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from statistics import geometric_mean, median
from typing import Any

import psutil
import ray
from dyna_eval_db.store import Store
from dyna_eval_db.watching import WatchedStore
from made_up import claim_one, fill, made_up_result, made_up_sweep

from dyna_eval.errors import DynaEvalError
from dyna_eval.jobs import Job, JobState, PromptSet
from dyna_eval.measurements import JobResult
from dyna_eval.notices import Happening, Notice, Standstill
from dyna_eval.running.controller import Controller
from dyna_eval.running.lease import leased

COMMAND = str(Path(sys.executable).with_name("dyna-eval"))
MEGABYTE = 1_000_000


# ----------------------------------------------------------------- actors that only take time


class _Empty:
    """Answers as a decoding actor does, at once."""

    seconds = 0.0

    def __init__(self, *, name: str, threads: int, gpus: float = 0) -> None:  # noqa: ARG002 - as actors are started
        self._generator = random.Random(name)

    def run(self, job: Job, prompts: PromptSet) -> JobResult:
        time.sleep(self.seconds)
        return made_up_result(job, prompts, self._generator)

    @ray.method(concurrency_group="heartbeat")  # type: ignore[untyped-decorator]
    def heartbeat(self) -> None:
        pass


class _Sleeping(_Empty):
    seconds = 1.0


_as_actor = ray.remote(max_restarts=0, max_task_retries=0, concurrency_groups={"heartbeat": 1})
EmptyActor, SleepingActor = _as_actor(_Empty), _as_actor(_Sleeping)


class EnoughError(Exception):
    """So many jobs have landed as were to be measured."""


class Landings:
    """Notes when jobs land, and ends the run after some of them."""

    def __init__(self, most: int) -> None:
        self._most = most
        self.moments: list[float] = []
        self.actors: set[str] = set()
        self.all_at_work: dict[int, int] = {}
        """How many had landed when so many actors had landed one."""
        self.processor: list[float] = []

    def __call__(self, told: Notice | Standstill) -> None:
        if isinstance(told, Standstill) or told.happening is Happening.STARTED:
            return
        if told.happening is not Happening.LANDED:
            raise SystemExit(f"a job did not land: {told.detail}")
        self.moments.append(time.perf_counter())
        self.processor.append(time.process_time())
        self.actors.add(told.actor)
        self.all_at_work.setdefault(len(self.actors), len(self.moments))
        if len(self.moments) == self._most:
            raise EnoughError


@contextlib.contextmanager
def cluster(actors: int) -> Iterator[None]:
    """Run Ray with logical GPUs for so many actors."""
    folder = tempfile.mkdtemp(prefix="load-ray-", dir="/tmp")
    try:
        ray.init(
            address="local",
            num_cpus=actors,
            num_gpus=actors,
            include_dashboard=False,
            log_to_driver=False,
            logging_level="ERROR",
            object_store_memory=200 * MEGABYTE,
            _temp_dir=folder,
        )
        yield
    finally:
        ray.shutdown()
        shutil.rmtree(folder, ignore_errors=True)


def run_simulated(url: str, actor_class: Any, *, actors: int, landings: Landings, jobs: int) -> None:
    """Run the real controller and store on actors that only take time, until enough jobs have landed."""
    with Store.open(url, create=True) as store, cluster(actors):
        sweep_id = store.add_sweep(made_up_sweep(jobs // 10, 10, 2))
        with leased(store, sweep_id) as holder, contextlib.suppress(EnoughError):
            Controller(
                store=store, sweep_id=sweep_id, holder=holder, watch=landings, actor_class=actor_class
            ).run()


def controller_part(url: str, settings: argparse.Namespace) -> dict[str, Any]:
    """Measure what a job costs beside its decoding, among 100,000 that wait."""
    landings = Landings(settings.landings)
    run_simulated(url, EmptyActor, actors=8, landings=landings, jobs=settings.jobs)
    first = landings.all_at_work[len(landings.actors)]  # all have started
    count = len(landings.moments) - first
    return {
        "jobs_queued": settings.jobs,
        "jobs_timed": count,
        "actors": len(landings.actors),
        "milliseconds_per_job": 1000 * (landings.moments[-1] - landings.moments[first - 1]) / count,
        "processor_milliseconds_per_job": 1000
        * (landings.processor[-1] - landings.processor[first - 1])
        / count,
        "resident_bytes": psutil.Process().memory_info().rss,
    }


def busy_part(url: str, settings: argparse.Namespace) -> dict[str, Any]:
    """Measure which share of the time actors work, from when all have landed a job."""
    landings = Landings(settings.actors * 40)
    run_simulated(url, SleepingActor, actors=settings.actors, landings=landings, jobs=settings.jobs)
    first = landings.all_at_work[len(landings.actors)]
    seconds = landings.moments[-1] - landings.moments[first - 1]
    count = len(landings.moments) - first
    return {
        "actors": len(landings.actors),
        "jobs_timed": count,
        "busy_share": count * 1.0 / (settings.actors * seconds),
    }


# ----------------------------------------------------------------------- the store alone


def landing_part(url: str, settings: argparse.Namespace) -> dict[str, Any]:
    """Land results of 1,000 samples with 40 rounds each."""
    rounds, generator = 40, random.Random(1)
    sweep = made_up_sweep(settings.repeats + 1, 1, 1000)
    [prompts] = sweep.prompt_sets.values()
    seconds = []
    with Store.open(url, create=True) as store:
        sweep_id = store.add_sweep(sweep)
        while claim := claim_one(store, sweep_id):
            result = made_up_result(claim.job, prompts, generator, rounds=rounds)
            began = time.perf_counter()
            store.land_results([(claim, result)])
            seconds.append(time.perf_counter() - began)
    return {"samples": 1000, "rounds": 1000 * rounds, "seconds": seconds[1:]}


def submit_part(url: str, settings: argparse.Namespace) -> dict[str, Any]:
    """Run the real commands on a sweep of 10 repeats; the time is until all is stored and work begins."""
    configurations = settings.jobs // 10
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "large.yaml")
        thresholds = ", ".join(f"{i / (4 * configurations):.6f}" for i in range(1, configurations))
        file.write_text(
            "name: large\npair: demo\nprompts: {dataset: demo, limit: 2, max_prompt_tokens: 32}\n"
            "generation: {max_new_tokens: 16}\nmeasure: {repeats: 10, warmup: 0}\nbaseline: Baseline\n"
            "configs:\n  - {label: Baseline, method: ar}\n"
            f"  - {{label: Tree, method: tree, depth: 4, branch: 2, threshold: [{thresholds}]}}\n"
        )
        began = time.perf_counter()
        process = subprocess.Popen(  # noqa: S603 - our own command
            [COMMAND, "submit", str(file), "--db", url, "--json"],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        watched = psutil.Process(process.pid)
        stored = _wait_for(lambda: _is_leased(url), process)
        first = _wait_for(lambda: _landed(url) > 0, process)
        peak, until = 0, time.perf_counter() + settings.run_seconds
        while time.perf_counter() < until:
            peak = max(peak, watched.memory_info().rss)
            time.sleep(0.2)
        landed = _landed(url)
        process.send_signal(signal.SIGINT)
        process.wait(timeout=120)
    with Store.open(url, create=False) as store:
        jobs = sum(store.progress(1).values())
    return {
        "jobs": jobs,
        "configurations": configurations,
        "submit_seconds": stored - began,
        "first_job_landed_seconds": first - began,
        "jobs_landed_while_watched": landed,
        "controller_resident_bytes": peak,
        "status": _command_cost(["status", "--json", "--db", url], settings.repeats),
    }


def _wait_for(condition: Callable[[], bool], process: subprocess.Popen[bytes], seconds: float = 600) -> float:
    until = time.perf_counter() + seconds
    while not condition():
        if process.poll() is not None or time.perf_counter() > until:
            raise SystemExit(f"{process.args!r} did not get so far")
        time.sleep(0.1)
    return time.perf_counter()


def _is_leased(url: str) -> bool:
    with contextlib.suppress(DynaEvalError), Store.open(url, create=False) as store:
        return store.lease_holder(store.find_sweep(None)) is not None
    return False


def _landed(url: str) -> int:
    with Store.open(url, create=False) as store:
        return store.progress(1)[JobState.DONE]


def _command_cost(arguments: list[str], runs: int) -> dict[str, Any]:
    """Return the wall seconds of a command's runs, and its highest resident memory."""
    seconds, peak = [], 0
    for _ in range(runs):
        began = time.perf_counter()
        process = subprocess.Popen([COMMAND, *arguments], stdout=subprocess.DEVNULL)  # noqa: S603
        _, status, usage = os.wait4(process.pid, 0)
        if status:
            raise SystemExit(f"{arguments} failed")
        seconds.append(time.perf_counter() - began)
        peak = max(peak, usage.ru_maxrss * 1024)
    return {"seconds": seconds, "peak_resident_bytes": peak}


# -------------------------------------------------------------------------- the dashboard


@contextlib.contextmanager
def dashboard(url: str) -> Iterator[tuple[str, int, int]]:
    """Serve the pages of a database for the time of a block, and hand out host, port and process number."""
    process = subprocess.Popen(  # noqa: S603 - our own command
        [COMMAND, "dashboard", "--port", "0", "--db", url], stderr=subprocess.PIPE, text=True
    )
    assert process.stderr is not None  # noqa: S101 - it was asked for
    told = re.search(r"http://([\d.]+):(\d+)", process.stderr.readline())
    if told is None:
        raise SystemExit("the dashboard did not start")
    try:
        yield told[1], int(told[2]), process.pid
    finally:
        process.terminate()
        process.wait(timeout=30)


def first_byte(host: str, port: int, path: str) -> tuple[float, bytes]:
    """Return the seconds until a page's first byte, and the page."""
    connection = http.client.HTTPConnection(host, port, timeout=600)
    began = time.perf_counter()
    connection.request("GET", path)
    answer = connection.getresponse()
    seconds = time.perf_counter() - began
    body = answer.read()
    connection.close()
    if answer.status != 200:
        raise SystemExit(f"{path} answers {answer.status}")
    return seconds, body


def first_paint(browser: Any, address: str) -> float:
    """Return the seconds from a navigation to the first content that a browser paints."""
    page = browser.new_context(viewport={"width": 1280, "height": 900}).new_page()
    page.goto(address, wait_until="load", timeout=120_000)
    page.wait_for_function("performance.getEntriesByName('first-contentful-paint').length > 0")
    paint = page.evaluate("performance.getEntriesByName('first-contentful-paint')[0].startTime")
    page.context.close()
    return float(paint) / 1000


def dashboard_part(settings: argparse.Namespace) -> dict[str, Any]:
    """Open the pages of a huge sweep, at first while its report is being built, and then with it."""
    from playwright.sync_api import sync_playwright  # noqa: PLC0415 - other parts do without

    configurations, prompts = settings.configurations, settings.samples // settings.configurations
    with contextlib.ExitStack() as stack:
        file = settings.large or Path(stack.enter_context(tempfile.TemporaryDirectory()), "large.db")
        url = f"sqlite:///{file}"
        if not file.exists():
            with Store.open(url, create=True) as store:
                fill(store, made_up_sweep(configurations, 1, prompts))
        host, port, _ = stack.enter_context(dashboard(url))
        browser = stack.enter_context(sync_playwright()).chromium.launch(
            executable_path=shutil.which("chromium"), args=_QUIET
        )
        paths = ["/", "/sweeps/1", "/sweeps/1/jobs", "/sweeps/1/explore", "/cluster"]
        first_byte(host, port, "/")
        began = time.perf_counter()
        building = {path: _page_cost(browser, host, port, path) for path in paths}
        while b"data-pending" in first_byte(host, port, "/sweeps/1")[1]:
            time.sleep(1)
        built = time.perf_counter() - began
        return {
            "configurations": configurations,
            "samples": configurations * prompts,
            "while_the_report_is_built": building,
            "seconds_until_the_report_is_there": built,
            "then": {path: _page_cost(browser, host, port, path) for path in paths},
        }


_QUIET = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync"]
_QUIET += ["--disable-background-networking", "--disable-component-update"]


def _page_cost(browser: Any, host: str, port: int, path: str) -> dict[str, float]:
    seconds, body = first_byte(host, port, path)
    paint = first_paint(browser, f"http://{host}:{port}{path}")
    return {"first_byte_seconds": seconds, "first_paint_seconds": paint, "page_bytes": len(body)}


# ----------------------------------------------------------------------------- watchers

LIVE = """\
name: live
pair: demo
prompts: {dataset: demo, limit: 8, max_prompt_tokens: 64}
generation: {max_new_tokens: 128}
measure: {repeats: 1000, warmup: 0, sentinel_every: 1000}
baseline: Baseline
configs:
  - {label: Baseline, method: ar}
  - {label: Linear, method: linear, k: 6}
"""


def watch(host: str, port: int, count: int, watching: Any, ended: Any) -> None:
    """Do as the script of so many open pages does, while `watching` is set: its process of its own."""

    def page(number: int) -> None:
        time.sleep(2.0 * number / count)
        seen = ""
        while not ended.is_set():
            if watching.wait(0.5):
                told = json.loads(first_byte(host, port, "/sweeps/1/pulse")[1])
                if told["pulse"] != seen:
                    first_byte(host, port, "/sweeps/1")
                    seen = told["pulse"]
                time.sleep(told["again_seconds"])

    pages = [threading.Thread(target=page, args=(number,)) for number in range(count)]
    for thread in pages:
        thread.start()
    for thread in pages:
        thread.join()


def watchers_part(settings: argparse.Namespace) -> dict[str, Any]:
    """Let 20 watchers come and go beside one live sweep, and compare its jobs."""
    context = multiprocessing.get_context("spawn")
    watching, ended = context.Event(), context.Event()
    periods: list[tuple[datetime, datetime, bool]] = []
    with tempfile.TemporaryDirectory() as folder:
        url, file = f"sqlite:///{folder}/live.db", Path(folder, "live.yaml")
        file.write_text(LIVE)
        process = subprocess.Popen(  # noqa: S603 - our own command
            [COMMAND, "submit", str(file), "--db", url],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        _wait_for(lambda: _is_leased(url) and _landed(url) > 2, process)
        with dashboard(url) as (host, port, served_by):
            clients = context.Process(target=watch, args=(host, port, 20, watching, ended))
            clients.start()
            time.sleep(5)
            costs = {"dashboard": psutil.Process(served_by), "watchers": psutil.Process(clients.pid)}
            cores: dict[str, list[float]] = {name: [] for name in costs}
            for period in range(2 * settings.periods):
                watched = (period % 4) in (1, 2)  # off, on, on, off: a drift hits both alike
                watching.set() if watched else watching.clear()
                time.sleep(2)
                began = datetime.now(UTC)
                for process_ in costs.values():
                    process_.cpu_percent()
                time.sleep(settings.period_seconds)
                periods.append((began, datetime.now(UTC), watched))
                if watched:
                    for name, process_ in costs.items():
                        cores[name].append(process_.cpu_percent() / 100)
            ended.set()
            watching.set()
            clients.join()
        process.send_signal(signal.SIGINT)
        process.wait(timeout=120)
        used = {name: sum(found) / len(found) for name, found in cores.items()}
        return _slowdown(url, periods) | {"watchers": 20, "periods": len(periods), "cores_used_by": used}


def _slowdown(url: str, periods: list[tuple[datetime, datetime, bool]]) -> dict[str, Any]:
    """Compare the jobs that ran wholly within a period, each row with itself."""
    store = WatchedStore.open(url)
    seconds: dict[tuple[str, bool], list[float]] = {}
    number = 1
    while items := store.jobs(1, state=JobState.DONE, number=number, size=500).items:
        number += 1
        for job in items:
            attempt = store.job(job.id).attempts[-1]
            start, end = (datetime.fromisoformat(str(at)) for at in (attempt.started_at, attempt.ended_at))
            for began, over, watched in periods:
                if began <= start and end <= over:
                    seconds.setdefault((job.label, watched), []).append(job.wall_seconds or 0.0)
    store.close()
    labels = sorted({label for label, _ in seconds})
    ratios = {label: median(seconds[label, True]) / median(seconds[label, False]) for label in labels}
    return {
        "jobs": {
            f"{label}, {'watched' if on else 'alone'}": len(found) for (label, on), found in seconds.items()
        },
        "seconds_watched_over_alone": ratios,
        "slowdown": geometric_mean(ratios.values()) - 1,
    }


# --------------------------------------------------------------------------- the command


@contextlib.contextmanager
def databases(*, postgres: bool) -> Iterator[list[tuple[str, Callable[[], str]]]]:
    """Hand out kinds of databases, each with what makes an empty one and returns its address."""
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="load-", dir="/tmp")))
        numbers = iter(range(1000))
        kinds: list[tuple[str, Callable[[], str]]] = [
            ("sqlite", lambda: f"sqlite:///{folder}/{next(numbers)}.db")
        ]
        if postgres:
            kinds.append(("postgres", stack.enter_context(postgres_server(folder))))
        yield kinds


@contextlib.contextmanager
def postgres_server(folder: Path) -> Iterator[Callable[[], str]]:
    """Run a server that writes to disk as it does by default, in a folder that is deleted."""
    programs = max(Path("/usr/lib/postgresql").glob("*/bin"))
    user = "postgres" if os.geteuid() == 0 else None
    if user:
        shutil.chown(folder, user)
    data = folder / "postgres"
    subprocess.run(  # noqa: S603 - the server's own programs
        [programs / "initdb", "-D", data, "-A", "trust", "-U", "postgres"],
        check=True,
        user=user,
        cwd=folder,
        stdout=subprocess.DEVNULL,
    )
    server = subprocess.Popen(  # noqa: S603
        [programs / "postgres", "-D", data, "-k", folder, "-h", ""],
        user=user,
        cwd=folder,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    ask: list[str | Path] = [programs / "psql", "-q", "-h", folder, "-U", "postgres"]
    while subprocess.run([*ask, "-c", "SELECT 1"], check=False, capture_output=True).returncode:  # noqa: S603
        time.sleep(0.2)

    def empty() -> str:
        again = "SET client_min_messages = error; DROP SCHEMA public CASCADE; CREATE SCHEMA public"
        subprocess.run([*ask, "-c", again], check=True)  # noqa: S603
        return f"postgresql://postgres@/postgres?host={folder}"

    try:
        yield empty
    finally:
        server.send_signal(signal.SIGINT)
        server.wait(timeout=60)


ON_STORES = {
    "submit": submit_part,
    "controller": controller_part,
    "busy": busy_part,
    "landing": landing_part,
}
ON_PAGES = {"dashboard": dashboard_part, "watchers": watchers_part}


def machine() -> dict[str, Any]:
    names = re.findall(r"model name\s*: (.*)", Path("/proc/cpuinfo").read_text())
    return {
        "processor": names[0] if names else platform.processor(),
        "cores": len(os.sched_getaffinity(0)),
        "memory_bytes": psutil.virtual_memory().total,
        "python": platform.python_version(),
        **{name.replace("-", "_"): version(name) for name in ("dyna-eval", "ray", "sqlalchemy", "starlette")},
    }


def rounded(value: Any) -> Any:
    """Return a value with its floats to four significant digits."""
    if isinstance(value, dict):
        return {name: rounded(part) for name, part in value.items()}
    if isinstance(value, list):
        return [rounded(part) for part in value]
    return float(f"{value:.4g}") if isinstance(value, float) else value


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--part", action="append", choices=[*ON_STORES, *ON_PAGES], help="default: all")
    parser.add_argument("--postgres", action="store_true", help="also on a Postgres server of its own")
    parser.add_argument("--jobs", type=int, default=100_000)
    parser.add_argument("--landings", type=int, default=3_000, help="jobs that `controller` runs")
    parser.add_argument("--actors", type=int, default=64, help="of `busy`")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--run-seconds", type=float, default=20, help="that `submit` watches its controller")
    parser.add_argument("--configurations", type=int, default=10_000, help="of `dashboard`")
    parser.add_argument("--samples", type=int, default=1_000_000, help="of `dashboard`")
    parser.add_argument("--large", type=Path, help="a database for `dashboard` to fill, or to use again")
    parser.add_argument("--periods", type=int, default=6, help="with watchers, and as many without")
    parser.add_argument("--period-seconds", type=float, default=20)
    parser.add_argument("--out", type=Path, default=Path(__file__).with_name("load.json"))
    return parser.parse_args()


def main() -> None:
    settings = arguments()
    known = json.loads(settings.out.read_text()) if settings.out.exists() else {"parts": {}}
    with databases(postgres=settings.postgres) as kinds:
        for name in settings.part or [*ON_STORES, *ON_PAGES]:
            print(f"{name} ...", file=sys.stderr, flush=True)
            if name in ON_STORES:
                found: dict[str, Any] = {kind: ON_STORES[name](empty(), settings) for kind, empty in kinds}
            else:
                found = ON_PAGES[name](settings)
            command = " ".join(["python benchmarks/load.py", *sys.argv[1:]])
            made = {"command": command, "date": datetime.now(UTC).date().isoformat(), "machine": machine()}
            known["parts"][name] = rounded({**made, **found})
            print(json.dumps({name: known["parts"][name]}, indent=2), flush=True)
            settings.out.write_text(json.dumps(known, indent=2) + "\n")


if __name__ == "__main__":
    main()
