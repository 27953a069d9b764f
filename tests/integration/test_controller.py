"""The controller on a real Ray with two logical GPUs: places, and answers that come late."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import measurements
import psutil
import pytest
import ray
from claims import claim_one, land_one
from dyna_eval_db.store import Claim, Store
from dyna_eval_workers.resolution import resolve_sweep
from measurements import make_result, make_sentinel, make_sweep
from ray.util import placement_group_table

from dyna_eval.errors import DatabaseAwayError, DecodingError, NoPlaceError, PairError
from dyna_eval.jobs import Job, JobState, PromptSet, digest
from dyna_eval.latex.table import to_latex
from dyna_eval.measurements import Environment, JobResult
from dyna_eval.notices import Happening, Notice, Standstill
from dyna_eval.reports.cells import Notes
from dyna_eval.reports.measured_report import build_report
from dyna_eval.running import apart, supervision
from dyna_eval.running import controller as controller_module
from dyna_eval.running.cluster import MAX_WANTED, Slot, WantedPlaces, find_slots
from dyna_eval.running.controller import Controller
from dyna_eval.running.lease import leased
from dyna_eval.running.outbox import Finished
from dyna_eval.running.supervision import Call
from dyna_eval.sweeps.config import load_sweep
from tests.models import save_model, tiny_gpt_neox
from tests.new_databases import open_new

SWEEP = """\
name: places
pair: {{name: tiny, target: {folder}/target, draft: {folder}/draft}}
prompts: {{dataset: json, data_files: {folder}/prompts.jsonl}}
generation: {{max_new_tokens: 48}}
measure: {{repeats: {repeats}}}
engine: {{backend: eager, dtype: float32}}
configs:
  - {{label: Baseline, method: ar}}
  - {{label: Draft, method: linear, k: 2}}
"""


@pytest.fixture(scope="module", autouse=True)
def two_gpus() -> Iterator[None]:
    """A Ray of our own with two cores and two GPUs, which are logical."""
    folder = tempfile.mkdtemp(prefix="de-", dir="/tmp")
    options = {"include_dashboard": False, "log_to_driver": False, "logging_level": "ERROR"}
    for module in (measurements, sys.modules[__name__]):  # which Ray's workers cannot import
        ray.cloudpickle.register_pickle_by_value(module)
    ray.init(address="local", num_cpus=2, num_gpus=2, _temp_dir=folder, **options)
    try:
        yield
    finally:
        ray.shutdown()
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with open_new(f"sqlite:///{tmp_path}/store.db") as store:
        yield store


def add_sweep(store: Store, folder: Path, *, repeats: int) -> int:
    save_model(tiny_gpt_neox(seed=1), folder / "target")
    save_model(tiny_gpt_neox(seed=2, hidden=16, layers=1), folder / "draft")
    (folder / "prompts.jsonl").write_text('{"text": "Once upon"}\n{"text": "a time"}\n')
    file = folder / "sweep.yaml"
    file.write_text(SWEEP.format(folder=folder, repeats=repeats))
    return store.add_sweep(resolve_sweep(load_sweep(file), device="cpu"))


def run(
    store: Store,
    sweep_id: int,
    watch: Callable[[Notice | Standstill], None] = lambda _: None,
    gpus_per_pair: float | None = None,
) -> None:
    """Run a sweep to its end; all its jobs must be done, once."""
    with leased(store, sweep_id) as holder:
        controller = Controller(
            store=store, sweep_id=sweep_id, holder=holder, watch=watch, gpus_per_pair=gpus_per_pair
        )
        counts = controller.run()
    assert counts[JobState.DONE] == sum(counts.values())
    assert store.audit() == []


def worker_processes() -> list[psutil.Process]:
    found = []
    for process in psutil.Process().children(recursive=True):
        with contextlib.suppress(psutil.Error):
            if process.name().startswith("ray::DecodingA"):
                found.append(process)
    return found


def wait_until(condition: Callable[[], bool], seconds: float = 500) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


# ------------------------------------------------------------------------ places


@pytest.mark.parametrize(
    ("gpus_per_pair", "places", "cpus"), [(None, 2, 1), (1, 2, 1), (2, 1, 2), (0.5, 4, 0), (0.3, 6, 0)]
)
def test_an_actor_gets_whole_gpus_unless_a_share_is_asked_for(
    gpus_per_pair: float | None, places: int, cpus: int
) -> None:
    slots = find_slots(None, gpus_per_pair)
    assert [(slot.gpus, slot.cpus) for slot in slots] == [(gpus_per_pair or 1, cpus)] * places
    assert find_slots(None, gpus_per_pair, keep=slots) == slots


@pytest.mark.parametrize(
    ("cpus_per_pair", "places", "cpus"), [(None, 1, 8), (1, 8, 1), (2, 4, 2), (3, 2, 3), (8, 1, 8)]
)
def test_the_cores_of_a_node_without_gpus_are_one_place_unless_a_pair_needs_fewer(
    store: Store, monkeypatch: pytest.MonkeyPatch, cpus_per_pair: int | None, places: int, cpus: int
) -> None:
    [node] = ray.nodes()
    monkeypatch.setattr(ray, "nodes", lambda: [node | {"Resources": {"CPU": 8.0}}])
    controller = Controller(
        store=store,
        sweep_id=store.add_sweep(make_sweep()),
        holder="me",
        watch=lambda _: None,
        cpus_per_pair=cpus_per_pair,
    )
    controller._places.look(keep=())
    found = [(slot.place, slot.cpus, slot.gpus) for slot in controller._places.slots]
    assert found == [(place, cpus, 0) for place in range(places)]


def test_more_cores_than_any_node_has_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    [node] = ray.nodes()
    monkeypatch.setattr(ray, "nodes", lambda: [node | {"Resources": {"CPU": 8.0}}])
    with pytest.raises(NoPlaceError, match=r"has neither a GPU nor a free core; .+ lower --cpus-per-pair"):
        find_slots(9)


def test_more_gpus_than_any_node_has_are_refused() -> None:
    with pytest.raises(NoPlaceError, match="no node of the Ray cluster has the 3 GPUs of a pair, the large"):
        find_slots(None, 3)


def test_a_sweep_with_results_from_gpus_does_not_go_on_without(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    sweep_id = store.add_sweep(make_sweep())
    claim = claim_one(store, sweep_id, pair="demo", actor="earlier", lease_seconds=60.0)
    assert claim is not None
    on_a_gpu = Environment(digest=digest("on a GPU"), facts={"device": "cuda", "gpu": "NVIDIA H100"})
    land_one(store, claim, replace(make_result(claim.job), environment=on_a_gpu))
    nodes = [node | {"Resources": {"CPU": 2.0}} for node in ray.nodes()]
    monkeypatch.setattr(ray, "nodes", lambda: nodes)
    with pytest.raises(NoPlaceError, match="has results from GPUs, and the Ray cluster has none; add a node"):
        run(store, sweep_id)
    assert store.progress(sweep_id)[JobState.QUEUED] == 3


def test_a_sweep_on_cpus_leaves_out_nodes_with_gpus_that_join_it(monkeypatch: pytest.MonkeyPatch) -> None:
    [node] = ray.nodes()
    joined = node | {"NodeID": "f" * 56, "Resources": {"CPU": 2.0}}
    monkeypatch.setattr(ray, "nodes", lambda: [node, joined])
    assert [slot.node_id for slot in find_slots(None, 0)] == [joined["NodeID"]]
    monkeypatch.setattr(ray, "nodes", lambda: [node])
    with pytest.raises(NoPlaceError, match="begun on CPUs, and no node of the Ray cluster without a GPU has"):
        find_slots(None, 0)


def test_a_sweep_that_finds_no_gpu_at_first_stays_on_cpus(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    sweep_id = store.add_sweep(make_sweep())
    [node] = ray.nodes()
    plain = node | {"Resources": {"CPU": 2.0}}
    monkeypatch.setattr(ray, "nodes", lambda: [plain])
    controller = Controller(store=store, sweep_id=sweep_id, holder="me", watch=lambda _: None)
    controller._places.look(keep=())
    monkeypatch.setattr(ray, "nodes", lambda: [plain, node | {"NodeID": "f" * 56}])
    controller._places.look(keep=controller._places.slots)
    assert [(slot.node_id, slot.gpus) for slot in controller._places.slots] == [(node["NodeID"], 0)]


def test_a_sweep_with_results_from_cpus_alone_does_not_go_on_with_gpus(store: Store) -> None:
    sweep_id = store.add_sweep(make_sweep())
    claim = claim_one(store, sweep_id, pair="demo", actor="earlier", lease_seconds=60.0)
    assert claim is not None
    on_a_cpu = Environment(digest=digest("on a CPU"), facts={"device": "cpu"})
    land_one(store, claim, replace(make_result(claim.job), environment=on_a_cpu))
    with pytest.raises(NoPlaceError, match="begun on CPUs"):
        run(store, sweep_id)
    assert store.progress(sweep_id)[JobState.QUEUED] == 3


@ray.remote
class BareActor:
    """Takes the arguments of a DecodingActor and loads nothing."""

    def __init__(self, *, name: str, threads: int, gpus: float) -> None: ...


@pytest.mark.parametrize(("gpus_per_pair", "visible"), [(1, {"0", "1"}), (2, {"0,1"}), (0.5, {"0", "1"})])
def test_ray_gives_an_actor_its_gpus(gpus_per_pair: float, visible: set[str]) -> None:
    slots = find_slots(None, gpus_per_pair, actor_class=BareActor)
    slots = slots[:2] if gpus_per_pair >= 1 else slots
    try:
        for slot in slots:
            slot.start()
        told = [
            ray.get(slot.actor.__ray_call__.remote(lambda _: os.environ["CUDA_VISIBLE_DEVICES"]))
            for slot in slots
        ]
        assert set(told) == visible
        assert len(told) == len(slots)
    finally:
        for slot in slots:
            slot.stop()


@pytest.mark.slow
def test_more_places_are_wanted_for_jobs_that_wait_once_actors_have_taken_those_that_there_are() -> None:
    wanted, slots = WantedPlaces(), find_slots(None)

    def pending() -> list[dict[str, float]]:
        groups = [group for group in placement_group_table().values() if group["state"] == "PENDING"]
        return [group["bundles"][0] for group in groups]

    wanted.want(5, slots)
    assert pending() == []
    try:
        for slot in slots:
            slot.start()
            ray.get(slot.actor.heartbeat.remote())
            slot.answered = True
        for jobs in (5, 2, MAX_WANTED + 1):
            wanted.want(jobs, slots)
            assert pending() == [{"GPU": 1.0}] * min(jobs, MAX_WANTED)
        wanted.want(0, slots)
        assert pending() == []
    finally:
        for slot in slots:
            slot.stop()


def test_on_a_cluster_without_a_worker_a_first_place_is_asked_for_where_its_size_is_known(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[dict[str, float]] = []

    def want(wanted: WantedPlaces, jobs: int, slots: Sequence[Slot]) -> None:
        asked.extend([wanted.bundle] * (jobs if not slots else 0))

    monkeypatch.setattr(WantedPlaces, "want", want)
    [node] = ray.nodes()
    sweep_id = store.add_sweep(make_sweep())
    with leased(store, sweep_id) as holder:
        options: dict[str, Any] = {"sweep_id": sweep_id, "holder": holder, "watch": lambda _: None}
        for resources, needed in ((({}, {"CPU": 4.0}), {"GPU": 1}), (({},), {"CPU": 2})):
            nodes = [node | {"Resources": own} for own in resources]
            monkeypatch.setattr(ray, "nodes", lambda nodes=nodes: nodes)
            pair = {"gpus_per_pair": needed.get("GPU"), "cpus_per_pair": needed.get("CPU")}
            with pytest.raises(NoPlaceError):
                Controller(store=store, **options, **pair)._places.look(keep=())
            Controller(store=store, **options, **pair, may_grow=True)._renew()
            assert asked == [needed] * 4
            asked.clear()
        monkeypatch.setattr(ray, "nodes", lambda: [node])
        with pytest.raises(NoPlaceError, match="the 3 GPUs of a pair, the largest has 2"):
            Controller(store=store, **options, gpus_per_pair=3, may_grow=True)._renew()


@pytest.mark.slow
def test_shares_of_a_gpu_are_marked_in_reports_and_under_tables(store: Store, tmp_path: Path) -> None:
    sweep_id = add_sweep(store, tmp_path, repeats=1)
    run(store, sweep_id, gpus_per_pair=0.5)
    report = build_report(store.record(sweep_id))
    mark = "measured on shares of a GPU (0.5 of one for each pair): timings are not comparable"
    assert mark in report.warnings
    assert mark in Notes.of(report, "tiny").general
    assert "timings are not comparable" in to_latex(report)
    facts = [environment["gpu_share"] for environment in store.record(sweep_id).environments.values()]
    assert facts == [0.5]


# ------------------------------------------------------------- places that fail


class Scripted:
    """Stands in for a decoding actor; `place` is 0 or 1, that of its slot."""

    def __init__(self, *, name: str, threads: int, gpus: float = 0) -> None:  # noqa: ARG002 - as actors are started
        self.name, self.place = name, int(name.split("-")[1])

    def run(self, job: Job, prompts: PromptSet) -> JobResult:  # noqa: ARG002 - as actors are called
        return make_result(job, actor=self.name)

    @ray.method(concurrency_group="heartbeat")  # type: ignore[untyped-decorator]
    def heartbeat(self) -> None:
        pass


def run_scripted(
    store: Store,
    sweep_id: int,
    actor: type[Scripted],
    monkeypatch: pytest.MonkeyPatch,
    watch: Callable[[Notice | Standstill], None] = lambda _: None,
    **options: Any,
) -> list[Notice | Standstill]:
    """Run a made-up sweep, whose results need not be possible, and return what was told.

    `options` are those of the controller.
    """
    monkeypatch.setattr(controller_module, "broken_invariants", lambda *_: [])
    as_actor = ray.remote(max_restarts=0, max_task_retries=0, concurrency_groups={"heartbeat": 1})
    told: list[Notice | Standstill] = []

    def note(one: Notice | Standstill) -> None:
        told.append(one)
        watch(one)

    with leased(store, sweep_id) as holder:
        controller = Controller(
            store=store,
            sweep_id=sweep_id,
            holder=holder,
            watch=note,
            actor_class=as_actor(actor),
            **options,
        )
        try:
            controller.run()
        finally:
            assert store.audit() == []
    return told


def retried(told: Iterable[Notice | Standstill]) -> list[str]:
    """Why jobs were tried again."""
    notices = [notice for notice in told if isinstance(notice, Notice)]
    return [notice.detail for notice in notices if notice.happening is Happening.RETRIED]


def mark(folder: Path) -> None:
    Path(tempfile.mkstemp(dir=folder)[1]).touch()


def marks(folder: Path) -> int:
    return len(list(folder.iterdir()))


def loads_pairs(folder: Path, *, at: int | None) -> type[Scripted]:
    """An actor that loads no pair but at one place, and there only after two others did not."""

    class Loads(Scripted):
        def run(self, job: Job, prompts: PromptSet) -> JobResult:
            if self.place == at:
                while marks(folder) < 2:
                    time.sleep(0.05)
                return super().run(job, prompts)
            mark(folder)
            raise PairError("/models/t: there is no such folder")

    return Loads


@pytest.mark.slow
def test_a_place_where_a_pair_does_not_load_twice_leaves_its_jobs_to_the_others(
    store: Store, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, sweep_id = tmp_path_factory.mktemp("marks"), store.add_sweep(make_sweep())
    told = run_scripted(store, sweep_id, loads_pairs(folder, at=0), monkeypatch)
    assert store.progress(sweep_id)[JobState.DONE] == 4
    assert {job.tries for job in store.record(sweep_id).jobs} == {0}
    [first, second] = retried(told)
    assert first == f"on {ray.nodes()[0]['NodeManagerHostname']}: /models/t: there is no such folder"
    assert second == f"{first}; its pair's jobs go elsewhere from now on"


@pytest.mark.slow
def test_a_pair_that_loads_nowhere_fails_once_each_place_tried_it_twice(
    store: Store, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, sweep_id = tmp_path_factory.mktemp("marks"), store.add_sweep(make_sweep())
    run_scripted(store, sweep_id, loads_pairs(folder, at=None), monkeypatch)
    assert store.progress(sweep_id)[JobState.FAILED] == 4
    assert marks(folder) == 4
    assert {error.error for error in store.errors(sweep_id)} == {
        "PairError: /models/t: there is no such folder"
    }


def starts_workers(folder: Path, *, at: int | None) -> type[Scripted]:
    """An actor that starts at no place but one, and works there only after two others did not start."""

    class Starts(Scripted):
        def __init__(self, *, name: str, threads: int, gpus: float = 0) -> None:
            super().__init__(name=name, threads=threads, gpus=gpus)
            if self.place != at:
                mark(folder)
                raise ModuleNotFoundError("No module named 'torch'")

        def run(self, job: Job, prompts: PromptSet) -> JobResult:
            while marks(folder) < 2:
                time.sleep(0.05)
            return super().run(job, prompts)

    return Starts


def test_a_place_where_no_worker_starts_takes_no_jobs_from_the_others(
    store: Store, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, sweep_id = tmp_path_factory.mktemp("marks"), store.add_sweep(make_sweep())
    told = run_scripted(store, sweep_id, starts_workers(folder, at=0), monkeypatch)
    assert store.progress(sweep_id)[JobState.DONE] == 4
    assert {job.tries for job in store.record(sweep_id).jobs} == {0}
    reason = "ModuleNotFoundError: No module named 'torch'"
    first = f"no worker starts on {ray.nodes()[0]['NodeManagerHostname']}: {reason}"
    assert retried(told) == [first, f"{first}; it gets no more jobs"]


@pytest.mark.slow
def test_a_sweep_ends_with_the_reason_where_no_worker_starts_anywhere(
    store: Store, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, sweep_id = tmp_path_factory.mktemp("marks"), store.add_sweep(make_sweep())
    with pytest.raises(NoPlaceError) as caught:
        run_scripted(store, sweep_id, starts_workers(folder, at=None), monkeypatch)
    assert re.fullmatch(
        "no node takes the jobs that are left: no worker starts on .+: ModuleNotFoundError: No module named"
        " 'torch'; mend that, then `dyna-eval resume` goes on",
        str(caught.value),
    )
    assert marks(folder) == 4
    assert store.progress(sweep_id)[JobState.QUEUED] == 4
    assert {job.tries for job in store.record(sweep_id).jobs} == {0}


def test_a_job_that_takes_its_node_with_it_each_time_fails_in_the_end(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    sweep_id = store.add_sweep(make_sweep())
    controller = Controller(store=store, sweep_id=sweep_id, holder="me", watch=lambda _: None)
    controller._places.look(keep=())
    monkeypatch.setattr(Slot, "node_is_alive", lambda _: False)
    failed = JobState.FAILED
    for lost in range(1, 11):
        [slot, *_] = controller._places.slots
        claim = claim_one(store, sweep_id, pair="demo", actor="actor", lease_seconds=60.0)
        assert claim is not None
        call = Call(slot=slot, actor="actor", claim=claim, answer=None, started=0.0, limit_seconds=1.0)
        controller._lose_worker(call, ray.exceptions.NodeDiedError("gone"))
        controller._outbox.flush()
        assert (store.job(claim.job_id).state is failed) is (lost == 10)
    assert store.progress(sweep_id)[failed] == 1
    assert store.audit() == []


def test_a_place_that_takes_no_jobs_keeps_no_cluster_from_growing(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[tuple[int, list[int]]] = []
    monkeypatch.setattr(
        WantedPlaces, "want", lambda _, jobs, slots: asked.append((jobs, [slot.place for slot in slots]))
    )
    sweep_id = store.add_sweep(make_sweep())
    with leased(store, sweep_id) as holder:
        controller = Controller(
            store=store, sweep_id=sweep_id, holder=holder, watch=lambda _: None, may_grow=True
        )
        controller._places.look(keep=())
        controller._places.slots[0].unstarted = ["no torch", "no torch"]
        controller._renew()
    assert asked == [(4, [1])]


def other_work(**resources: float) -> Any:
    """An actor that holds resources of the cluster until it is killed."""

    class Other:
        def answer(self) -> None:
            pass

    actor = ray.remote(**resources)(Other).remote()
    ray.get(actor.answer.remote())
    return actor


def test_looking_at_models_says_that_it_may_wait_for_a_core(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise PairError("demo: no")

    monkeypatch.setattr(apart, "_WAIT_SECONDS", 0.5)
    monkeypatch.setattr(apart, "_resolve", refuse)
    others, told = other_work(num_cpus=2), list[str]()

    def end_the_others(text: str) -> None:
        told.append(text)
        ray.kill(others)

    with pytest.raises(PairError, match="demo: no"):
        apart.resolve_on_cluster(make_sweep().spec, end_the_others)
    [text] = told
    assert "waits for a free core" in text


@pytest.mark.slow
def test_a_sweep_says_that_other_work_holds_its_places_and_goes_on_where_that_ends(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(supervision, "PENDING_SECONDS", 1.0)
    monkeypatch.setattr(Call, "starts_sooner_in", lambda *_: False)  # one may start long before the other
    others = other_work(num_gpus=2)
    reason = "no actor starts; other work on the cluster may hold its GPUs or cores"

    def end_the_others(told: Notice | Standstill) -> None:
        if isinstance(told, Standstill) and told.reason:
            ray.kill(others)

    sweep_id = store.add_sweep(make_sweep())
    told = run_scripted(store, sweep_id, Scripted, monkeypatch, end_the_others)
    assert store.progress(sweep_id)[JobState.DONE] == 4
    assert retried(told) == []
    standstills = [notice for notice in told if isinstance(notice, Standstill)]
    assert standstills[:2] == [  # an actor that is slow to start may be told of again
        Standstill(waits_for="a free place", reason=reason),
        Standstill(waits_for="a free place", reason=None),
    ]


def test_a_job_does_not_wait_for_an_actor_that_hangs_while_another_place_is_idle(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its place is the first one to be asked, and would else get the last job again and again."""

    class Hangs(Scripted):
        def __init__(self, *, name: str, threads: int, gpus: float = 0) -> None:
            super().__init__(name=name, threads=threads, gpus=gpus)
            if self.place == 0:
                time.sleep(1e6)

    def give_up_in_the_end(told: Notice | Standstill) -> None:
        happened.append(told)
        assert len(retried(happened)) <= 2, "it gets the job again and again"

    happened: list[Notice | Standstill] = []
    monkeypatch.setattr(supervision, "PENDING_SECONDS", 1.0)
    monkeypatch.setattr(supervision, "START_SECONDS", 200.0)
    sweep_id = store.add_sweep(make_sweep())
    run_scripted(store, sweep_id, Hangs, monkeypatch, give_up_in_the_end)
    assert store.progress(sweep_id)[JobState.DONE] == 4
    assert all("another place is idle" in reason for reason in retried(happened))
    assert {job.tries for job in store.record(sweep_id).jobs} == {0}


def test_places_whose_actors_did_not_answer_get_jobs_after_all_others(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    sweep_id = store.add_sweep(make_sweep())
    controller = Controller(store=store, sweep_id=sweep_id, holder="me", watch=lambda _: None)
    started: list[Slot] = []
    monkeypatch.setattr(Controller, "_start", lambda _self, slot, _claim: started.append(slot))
    first, second = find_slots(None)
    first.unanswered = 1
    with Store.open(str(store._engine.url), create=False) as other:
        other.acquire_lease(sweep_id, "me", 60.0)
    assert controller._start_of_pair("demo", [first, second]) == []
    assert started == [second, first]


@pytest.mark.slow
def test_a_job_that_lost_a_worker_still_gets_a_fresh_actor_for_its_memory(
    store: Store, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path_factory.mktemp("marks")

    class Unlucky(Scripted):
        def run(self, job: Job, prompts: PromptSet) -> JobResult:
            if job.position == 1:  # the first one of the sweep
                mark(folder)
                if marks(folder) == 1:
                    os._exit(1)
                if marks(folder) == 2:
                    raise MemoryError("48 GB")
            return super().run(job, prompts)

    sweep_id = store.add_sweep(make_sweep())
    told = run_scripted(store, sweep_id, Unlucky, monkeypatch)
    assert store.progress(sweep_id)[JobState.DONE] == 4
    assert "worker died" in retried(told)[0]
    assert retried(told)[1:] == ["48 GB"]


@pytest.mark.slow
def test_an_attempt_that_failed_is_stored_with_what_its_actor_ran_in(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What an actor raises is told with its environment, a death with that of the last heartbeat."""

    class Fails(Scripted):
        @ray.method(concurrency_group="heartbeat")  # type: ignore[untyped-decorator]
        def heartbeat(self) -> Environment:  # type: ignore[override]
            return Environment(digest=digest("here"), facts={"gpu": "NVIDIA H100"})

        def run(self, job: Job, prompts: PromptSet) -> JobResult:
            if job.position == 1:
                raise DecodingError("no")
            if job.position == 2:
                time.sleep(3)
                os._exit(1)
            return super().run(job, prompts)

    sweep_id = store.add_sweep(make_sweep())
    run_scripted(store, sweep_id, Fails, monkeypatch)
    failed = [job for job in store.record(sweep_id).jobs if job.state is JobState.FAILED]
    attempts = [attempt for job in failed for attempt in store.attempts(job.id)]
    assert len(attempts) == 1 + 3
    host = ray.nodes()[0]["NodeManagerHostname"]
    assert {(attempt.host, attempt.environment["gpu"]) for attempt in attempts} == {(host, "NVIDIA H100")}


@pytest.mark.parametrize("fate", ["refused", "fenced"])
def test_every_actor_of_results_has_its_own_runs_stored_also_where_they_first_came_with_a_lost_result(
    store: Store, monkeypatch: pytest.MonkeyPatch, fate: str
) -> None:
    """An actor runs the target alone once, and its first result alone brings that."""

    class Decoding(Scripted):
        runs = 0

        def run(self, job: Job, prompts: PromptSet) -> JobResult:
            self.runs += 1
            sentinels = [make_sentinel(self.name)] if self.runs == 1 else []
            result = replace(super().run(job, prompts), sentinels=tuple(sentinels))
            refused = fate == "refused" and job.position == 1  # the first one of the sweep
            return replace(result, conditions={"load": float("nan")}) if refused else result

    def take_back_the_first(told: Notice | Standstill) -> None:
        started = isinstance(told, Notice) and told.happening is Happening.STARTED
        if fate == "fenced" and started and not taken:
            taken.append(True)
            with Store.open(str(store._engine.url), create=False) as other:
                other.recover(sweep_id, str(other.lease_holder(sweep_id)))

    taken: list[bool] = []
    sweep_id = store.add_sweep(make_sweep(repeats=4))
    told = run_scripted(store, sweep_id, Decoding, monkeypatch, take_back_the_first)
    record = store.record(sweep_id)
    assert {job.actor for job in record.jobs} - {None} == {own.actor for own in record.sentinels}
    lost = Happening.FAILED if fate == "refused" else Happening.DISCARDED
    assert any(isinstance(one, Notice) and one.happening is lost for one in told)
    assert sum(job.state is JobState.DONE for job in record.jobs) == 8 - (fate == "refused")


def test_a_result_that_contradicts_itself_does_not_land_and_ends_its_actor(store: Store) -> None:
    sweep_id, notices = store.add_sweep(make_sweep()), list[Notice | Standstill]()
    controller = Controller(
        store=store, sweep_id=sweep_id, holder="me", watch=notices.append, actor_class=BareActor
    )
    controller._places.look(keep=())
    [slot, _] = controller._places.slots
    slot.start()
    call = call_at(controller, slot, None, actor=slot.actor_name)
    call.answer = ray.put(make_result(call.claim.job))
    controller._finish(call)
    controller._outbox.flush()
    job = store.job(call.claim.job_id)
    assert job.state is JobState.FAILED
    assert str(job.error).startswith("InvariantError: its result contradicts itself: ")
    assert store.samples(job.id) == ()
    assert slot.actor is None
    [notice] = notices
    assert isinstance(notice, Notice)
    assert notice.happening is Happening.FAILED
    [attempt] = store.attempts(job.id)
    assert attempt.environment == make_result(call.claim.job).environment.facts
    assert store.audit() == []


def test_fail_fast_starts_nothing_more_once_a_job_has_failed(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Fails(Scripted):
        def run(self, job: Job, prompts: PromptSet) -> JobResult:  # noqa: ARG002 - as actors are called
            raise DecodingError("no")

    sweep_id = store.add_sweep(make_sweep())
    run_scripted(store, sweep_id, Fails, monkeypatch, fail_fast=True, gpus_per_pair=2)
    counts = store.progress(sweep_id)
    assert (counts[JobState.FAILED], counts[JobState.QUEUED]) == (1, 3)


def hangs_at_first(folder: Path) -> type[Scripted]:
    """An actor that says which process it is as it begins with a job, and of which only the first to do so
    hangs: for so long that a test fails by its answer in the end, instead of never ending."""

    class Hangs(Scripted):
        def run(self, job: Job, prompts: PromptSet) -> JobResult:
            (folder / f"{self.name}.new").write_text(str(os.getpid()))
            (folder / f"{self.name}.new").rename(folder / self.name)
            if marks(folder) == 1:
                time.sleep(90)
            return super().run(job, prompts)

    return Hangs


@pytest.mark.parametrize("fate", ["cancelled", "taken back"])
def test_a_job_that_is_no_longer_its_own_is_abandoned_with_its_actor(
    store: Store, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch, fate: str
) -> None:
    """Long before it would be done: the actor's process ends, and a new one takes what is left."""
    folder, sweep_id = tmp_path_factory.mktemp("marks"), store.add_sweep(make_sweep())
    monkeypatch.setattr(controller_module, "RENEW_SECONDS", 0.0)
    first: list[Notice] = []

    def watch(told: Notice | Standstill) -> None:
        assert isinstance(told, Notice)
        if told.happening is Happening.STARTED and not first:
            first.append(told)
            wait_until((folder / told.actor).exists)
            with Store.open(str(store._engine.url), create=False) as other:
                if fate == "cancelled":
                    other.cancel(sweep_id)
                else:
                    other.recover(sweep_id, str(other.lease_holder(sweep_id)))
        if told.happening is Happening.DISCARDED:
            process = int((folder / told.actor).read_text())
            wait_until(lambda: not psutil.pid_exists(process), seconds=60)

    told = run_scripted(store, sweep_id, hangs_at_first(folder), monkeypatch, watch, gpus_per_pair=2)
    [given_up] = first
    [discarded] = [
        notice for notice in told if isinstance(notice, Notice) and notice.happening is Happening.DISCARDED
    ]
    assert (discarded.job_id, discarded.actor) == (given_up.job_id, given_up.actor)
    assert discarded.detail == "its job was cancelled or taken over"
    counts = store.progress(sweep_id)
    if fate == "cancelled":
        assert counts[JobState.CANCELLED] == 4
    else:
        assert counts[JobState.DONE] == 4
        assert given_up.actor not in {job.actor for job in store.record(sweep_id).jobs}


def test_a_job_that_hangs_is_tried_again_and_fails_by_its_own_limit(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Hangs(Scripted):
        def run(self, job: Job, prompts: PromptSet) -> JobResult:
            time.sleep(60)  # a test without the limit ends, and fails
            return super().run(job, prompts)

    resolved = make_sweep(repeats=1)
    measure = replace(resolved.spec.measure, job_timeout_s=0.1)
    jobs = tuple(replace(job, measure=measure) for job in resolved.jobs)
    spec = replace(resolved.spec, measure=measure)
    sweep_id = store.add_sweep(replace(resolved, spec=spec, jobs=jobs))
    monkeypatch.setattr(controller_module, "POLL_SECONDS", 0.05)
    told = run_scripted(store, sweep_id, Hangs, monkeypatch)
    lost = "its worker died: it ran for more than 0.1 s; measure.job_timeout_s sets the limit"
    assert retried(told) == [lost] * 4
    jobs_failed = store.record(sweep_id).jobs
    assert [(job.state, job.tries) for job in jobs_failed] == [(JobState.FAILED, 3)] * 2
    assert {job.error for job in jobs_failed} == {f"StuckWorkerError: failed after it lost 3 workers; {lost}"}


def test_a_job_in_flight_keeps_its_claim_while_the_database_is_away(
    store: Store, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, sweep_id = tmp_path_factory.mktemp("marks"), store.add_sweep(make_sweep())
    monkeypatch.setattr(controller_module, "RENEW_SECONDS", 0.0)
    renew_claim, renewed = Store.renew_claim, list[Claim]()

    class Waits(Scripted):
        def run(self, job: Job, prompts: PromptSet) -> JobResult:
            while not marks(folder):
                time.sleep(0.05)
            return super().run(job, prompts)

    def away_at_first(store: Store, claim: Claim, *args: Any, **kwargs: Any) -> bool:
        renewed.append(claim)
        if len(renewed) == 1:
            raise DatabaseAwayError("the server is gone")
        return renew_claim(store, claim, *args, **kwargs)

    def end_the_jobs(told: Notice | Standstill) -> None:
        if isinstance(told, Standstill) and told.reason is None:
            mark(folder)

    monkeypatch.setattr(Store, "renew_claim", away_at_first)
    told = run_scripted(store, sweep_id, Waits, monkeypatch, end_the_jobs)
    gone = "finished jobs are kept in memory: the server is gone"
    assert [one for one in told if isinstance(one, Standstill)] == [
        Standstill(waits_for="the database", reason=reason) for reason in (gone, None)
    ]
    jobs = store.record(sweep_id).jobs
    assert [job.state for job in jobs] == [JobState.DONE] * 4
    assert [len(store.attempts(job.id)) for job in jobs] == [1] * 4


def test_an_actor_that_no_job_is_left_for_ends_while_others_work(store: Store) -> None:
    """So that a cluster can shrink."""
    sweep_id = store.add_sweep(make_sweep(repeats=1))
    with leased(store, sweep_id) as holder:
        controller = Controller(
            store=store, sweep_id=sweep_id, holder=holder, watch=lambda _: None, actor_class=BareActor
        )
        controller._places.look(keep=())
        controller._take_over()
        [working, idle] = controller._places.slots
        for slot in (working, idle):
            slot.start()
        call, last = (call_at(controller, working, ray.put("no answer yet")) for _ in range(2))
        land_one(store, last.claim, make_result(last.claim.job))
        controller._calls[call.answer] = call
        controller._write()
        assert idle.actor is None
        assert working.actor is not None
        assert list(controller._calls.values()) == [call]
        controller._put_back()


def test_jobs_that_could_not_be_taken_back_at_first_run_before_the_sweep_ends(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A connection that the server had not yet ended held them. Results land without an actor here."""
    sweep_id = store.add_sweep(make_sweep())
    for _ in range(2):
        assert claim_one(store, sweep_id, pair="demo", actor="earlier", lease_seconds=60.0)
    recover, tried = Store.recover, list[int]()

    def land(_controller: Controller, _slot: Slot, claim: Claim) -> None:
        land_one(store, claim, make_result(claim.job))

    def too_early_at_first(*args: Any, **kwargs: Any) -> int:
        tried.append(0 if not tried else recover(*args, **kwargs))
        return tried[-1]

    monkeypatch.setattr(Store, "recover", too_early_at_first)
    monkeypatch.setattr(Controller, "_start", land)
    run(store, sweep_id)


# ---------------------------------------------------------------- slower passes


def test_why_a_pair_runs_in_slower_code_is_told_with_its_first_result_and_once(store: Store) -> None:
    sweep_id, notices = store.add_sweep(make_sweep(repeats=3)), list[Notice]()

    def watch(notice: Notice | Standstill) -> None:
        assert isinstance(notice, Notice)
        notices.append(notice)

    controller = Controller(store=store, sweep_id=sweep_id, holder="me", watch=watch)
    fallen = "eager (no C++ compiler)"
    for backend in ("compile", fallen, fallen, "compile, draft eager (x)"):
        claim = claim_one(store, sweep_id, pair="demo", actor="actor-1", lease_seconds=60)
        assert claim is not None
        environment = Environment(digest=digest(backend), facts={"backend": backend})
        result = replace(make_result(claim.job), environment=environment)
        controller._outbox.put(Finished(actor="actor-1", claim=claim, result=result))
        controller._outbox.flush()
    assert [notice.happening for notice in notices] == [Happening.LANDED] * 4
    assert [notice.detail for notice in notices] == [
        "",
        "ran on the slower eager backend: no C++ compiler",
        "",
        "the draft ran on the slower eager backend: x",
    ]


def test_a_sweep_that_goes_on_elsewhere_says_so_with_its_first_result_and_once(store: Store) -> None:
    """In what the machine and its software differ from those of the results that it has."""
    sweep_id, details = store.add_sweep(make_sweep(repeats=3)), list[str]()

    def land(torch: str) -> None:
        claim = claim_one(store, sweep_id, pair="demo", actor="actor-1", lease_seconds=60)
        assert claim is not None
        facts = {"processor": "Here", "cores": 8, "torch": torch}
        result = replace(make_result(claim.job), environment=Environment(digest=digest(facts), facts=facts))
        controller._outbox.put(Finished(actor="actor-1", claim=claim, result=result))
        controller._outbox.flush()

    def watch(notice: Notice | Standstill) -> None:
        assert isinstance(notice, Notice)
        details.append(notice.detail)

    for versions in (["2.9", "2.10"], ["2.10", "2.11", "2.11", "2.12"]):
        with leased(store, sweep_id) as holder:
            controller = Controller(store=store, sweep_id=sweep_id, holder=holder, watch=watch)
            controller._take_over()
            for torch in versions:
                land(torch)
    first, known, told, *later = details[:2], details[2], details[3], *details[4:]
    assert (first, known, later) == (["", ""], "", ["", ""])
    assert re.fullmatch(
        r"ran in another environment than its results of 20\d\d-\d\d-\d\d on Here, 8 cores"
        r" \(torch: 2\.11 instead of 2\.10\), and `report` refuses to mix them; submit the file with another"
        r" --name to measure all rows here",
        told,
    )


# ------------------------------------------------------------------- late answers


def call_at(controller: Controller, slot: Slot, answer: Any, *, actor: str = "actor") -> Call:
    """A call of a job just claimed that has taken far too long."""
    claim = claim_one(controller.store, controller.sweep_id, pair="demo", actor=actor, lease_seconds=60.0)
    assert claim is not None
    return Call(slot=slot, actor=actor, claim=claim, answer=answer, started=-1e9, limit_seconds=1.0)


def test_an_answer_that_is_there_is_not_given_up_for_the_time_that_it_took(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Such as one that waits while larger ones are taken in."""
    sweep_id = store.add_sweep(make_sweep())
    controller = Controller(store=store, sweep_id=sweep_id, holder="me", watch=lambda _: None)
    controller._places.look(keep=())
    [slot, _] = controller._places.slots
    slot.answered = True
    monkeypatch.setattr(Call, "listen", lambda *_: None)
    call = call_at(controller, slot, ray.put("a result"))
    controller._calls[call.answer] = call
    controller._supervise()
    assert list(controller._calls.values()) == [call]
    assert len(controller._outbox) == 0


def test_a_worker_that_was_silent_and_answers_keeps_its_job(store: Store) -> None:
    """The last of its silence passes at once."""

    class Works(Scripted):
        def run(self, job: Job, prompts: PromptSet) -> JobResult:
            time.sleep(1e6)
            return super().run(job, prompts)

    sweep_id = store.add_sweep(make_sweep())
    actor_class = ray.remote(concurrency_groups={"heartbeat": 1})(Works)
    controller = Controller(
        store=store, sweep_id=sweep_id, holder="me", watch=lambda _: None, actor_class=actor_class
    )
    controller._places.look(keep=())
    [slot, other] = controller._places.slots
    slot.start()
    other.answered = True
    process = ray.get(slot.actor.__ray_call__.remote(lambda _: os.getpid()))
    call = call_at(controller, slot, slot.actor.run.remote(None, None))
    call.started, call.limit_seconds = time.monotonic(), 1e9
    controller._calls[call.answer] = call
    try:
        while not slot.answered:
            controller._supervise()
        os.kill(process, signal.SIGSTOP)
        try:
            call.asked = float("-inf")  # it is time to ask again
            controller._supervise()
            call.asked -= supervision.SILENT_SECONDS + 1
            assert call.complaint(time.monotonic()) == "its worker has not answered for 30 s"
        finally:
            os.kill(process, signal.SIGCONT)
        ray.get(call.question)
        controller._supervise()
        assert list(controller._calls.values()) == [call]
        assert len(controller._outbox) == 0
        assert not slot.late
    finally:
        slot.stop()


def test_a_silent_worker_is_waited_for_no_longer_where_nobody_else_takes_what_is_left(store: Store) -> None:
    """Its place is the only one: without it the sweep would end with jobs left."""
    sweep_id = store.add_sweep(make_sweep())
    with leased(store, sweep_id) as holder:
        controller = Controller(
            store=store,
            sweep_id=sweep_id,
            holder=holder,
            watch=lambda _: None,
            gpus_per_pair=2,
            actor_class=ray.remote(concurrency_groups={"heartbeat": 1})(Scripted),
        )
        controller._places.look(keep=())
        [slot] = controller._places.slots
        call = call_at(controller, slot, ray.put("late"))
        slot.late, controller._late[call.answer] = True, call
        controller._write()
        assert (slot.late, controller._late) == (False, {})
        assert [at_work.slot for at_work in controller._calls.values()] == [slot]
        controller._put_back()


@pytest.mark.slow
def test_the_late_answer_of_a_worker_that_was_given_up_is_discarded_and_logged(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(supervision, "SILENT_SECONDS", 6.0)
    monkeypatch.setattr(supervision, "HEARTBEAT_SECONDS", 1.0)
    sweep_id = add_sweep(store, tmp_path, repeats=30)
    notices: list[Notice] = []

    def watch(notice: Notice | Standstill) -> None:
        if isinstance(notice, Notice):
            notices.append(notice)

    def happened(happening: Happening) -> list[Notice]:
        return [notice for notice in notices if notice.happening is happening]

    def stop_one_worker() -> None:
        wait_until(lambda: len({notice.actor for notice in happened(Happening.LANDED)}) == 2)
        time.sleep(2)  # both have answered a heartbeat
        stopped = worker_processes()[0]
        stopped.suspend()
        try:
            wait_until(lambda: bool(happened(Happening.RETRIED)))
        finally:
            stopped.resume()

    stopping = threading.Thread(target=stop_one_worker)
    stopping.start()
    try:
        run(store, sweep_id, watch)
    finally:
        stopping.join()
    [retried] = happened(Happening.RETRIED)
    assert "has not answered" in retried.detail
    [discarded] = happened(Happening.DISCARDED)
    assert (discarded.job_id, discarded.actor) == (retried.job_id, retried.actor)
    assert [event.kind for event in store.events(sweep_id)].count("fenced") == 1
    wait_until(lambda: worker_processes() == [])  # idle actors have ended
