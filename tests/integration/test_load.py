"""What must not grow with a sweep: the work for one job, for a page, and for `status`."""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest
from claims import claim_one, land_one
from dyna_eval_dashboards import reports
from dyna_eval_dashboards.comparing import Comparisons
from dyna_eval_db.store import Claim, Landing, Store
from dyna_eval_db.watching import WatchedStore
from dyna_eval_workers.resolution import resolve_sweep
from measurements import make_result, make_sentinel, make_sweep
from served import client_of, database, fill
from sqlalchemy import event

from dyna_eval.errors import PairError
from dyna_eval.holder import own_name
from dyna_eval.jobs import SweepSpec
from dyna_eval.reports.samples import SampleTable
from dyna_eval.running.apart import resolve_here
from dyna_eval.sweeps.config import load_sweep
from tests.new_databases import open_new

Statement = tuple[str, object]


@contextmanager
def statements_of(store: Store | WatchedStore) -> Iterator[list[Statement]]:
    """Note the statements of a block, with their parameters."""
    found: list[Statement] = []

    def note(_connection: object, _cursor: object, statement: str, parameters: object, *_: object) -> None:
        found.append((statement, parameters))

    event.listen(store._engine, "before_cursor_execute", note)
    try:
        yield found
    finally:
        event.remove(store._engine, "before_cursor_execute", note)


def plans_of(store: Store | WatchedStore, statements: list[Statement]) -> list[str]:
    """Ask SQLite how it finds the rows of statements."""
    with store._engine.connect() as connection:
        return [
            str(step[3])
            for statement, parameters in statements
            if statement.lstrip().startswith(("SELECT", "UPDATE"))
            for step in connection.exec_driver_sql(f"EXPLAIN QUERY PLAN {statement}", parameters)
        ]


def claimed(store: Store, sweep_id: int) -> Claim:
    [pair, *_] = store.queued_pairs(sweep_id)
    claim = claim_one(store, sweep_id, pair=pair, actor="actor-1", lease_seconds=60)
    assert claim is not None
    return claim


def statements_for_one_job(store: Store, name: str, *, repeats: int) -> list[Statement]:
    sweep_id = store.add_sweep(make_sweep(name, repeats=repeats))
    with statements_of(store) as found:
        claim = claimed(store, sweep_id)
        assert land_one(store, claim, make_result(claim.job)) is Landing.LANDED
    return found


def test_a_job_takes_as_many_statements_in_a_large_sweep_as_in_a_small_one(store: Store) -> None:
    statements_for_one_job(store, "first", repeats=1)  # brings the calibration that the others share
    small = statements_for_one_job(store, "small", repeats=1)
    large = statements_for_one_job(store, "large", repeats=200)
    assert [statement for statement, _ in large] == [statement for statement, _ in small]


def test_a_claim_does_not_read_the_configurations_of_its_sweep(store: Store) -> None:
    found = statements_for_one_job(store, "any", repeats=1)
    assert not any("sweep.spec" in statement for statement, _ in found)


@pytest.fixture
def sqlite_store(tmp_path: Path) -> Iterator[Store]:
    with open_new(f"sqlite:///{tmp_path}/store.db") as store:
        yield store


def test_neither_a_job_nor_status_looks_through_all_jobs_of_a_database(sqlite_store: Store) -> None:
    store = sqlite_store
    sweep_id = store.add_sweep(make_sweep(pairs=("demo", "other"), repeats=20))
    with statements_of(store) as found:
        claims = [claimed(store, sweep_id) for _ in range(3)]
        store.land_results([(claim, make_result(claim.job)) for claim in claims])
        store.summary(sweep_id)
        store.errors(sweep_id)
        store.is_current(sweep_id)
    plans = plans_of(store, found)
    assert any("job USING" in plan for plan in plans)
    assert not [plan for plan in plans if plan.startswith("SCAN") and " job" in plan]


def test_a_claim_on_a_server_reads_the_next_jobs_from_an_index_and_sorts_nothing(
    store: Store, database_url: str
) -> None:
    if not database_url.startswith("postgresql"):
        pytest.skip("SQLite's plans are looked at above")
    sweep_id = store.add_sweep(make_sweep(repeats=20))
    with statements_of(store) as found:
        claimed(store, sweep_id)
    [(claiming, parameters)] = [one for one in found if "SKIP LOCKED" in one[0]]
    with store._engine.connect() as connection:
        for costly in ("seqscan", "bitmapscan", "sort"):  # which a table as small as this would prefer
            connection.exec_driver_sql(f"SET enable_{costly} = off")
        plan = [row[0] for row in connection.exec_driver_sql(f"EXPLAIN {claiming}", parameters)]
    assert any("Index Scan using ix_job_sweep_id_state_pair_position" in step for step in plan)
    assert not [step for step in plan if "Sort" in step]


def test_counting_jobs_and_cutting_a_page_of_them_read_an_index_alone(sqlite_store: Store) -> None:
    sweep_id = sqlite_store.add_sweep(make_sweep(repeats=20))
    watched = WatchedStore.open(str(sqlite_store._engine.url))
    with statements_of(sqlite_store) as counting:
        sqlite_store.progress(sweep_id)
    with statements_of(watched) as cutting:
        page = watched.jobs(sweep_id, number=2, size=15)
    in_order = [job.id for job in sqlite_store.record(sweep_id).jobs]
    assert ([job.id for job in page.items], page.total) == (in_order[15:30], 40)
    assert any("COVERING INDEX ix_job" in plan for plan in plans_of(sqlite_store, counting))
    assert any("COVERING INDEX ix_job" in plan for plan in plans_of(watched, cutting[-1:]))
    watched.close()


def test_status_tells_what_the_record_of_a_sweep_tells(store: Store) -> None:
    sweep_id = store.add_sweep(make_sweep())
    first = claimed(store, sweep_id)
    land_one(store, first, make_result(first.job, sentinels=[make_sentinel()]))
    store.fail(claimed(store, sweep_id), error_class="ValueError", message="again", final=False)
    store.fail(claimed(store, sweep_id), error_class="ValueError", message="no more", final=True)
    record, summary = store.record(sweep_id), store.summary(sweep_id)
    assert (summary.state, summary.jobs) == (record.state, store.progress(sweep_id))
    told = [(j.job_id, j.pair, j.label, j.repeat, j.state, j.error) for j in store.errors(sweep_id)]
    assert told == [(j.id, j.pair, j.label, j.repeat, j.state, j.error) for j in record.jobs if j.error]
    assert told


def test_what_many_jobs_share_is_read_into_memory_once(store: Store) -> None:
    jobs = store.record(store.add_sweep(make_sweep(repeats=3))).jobs
    same = [job for job in jobs if job.key == jobs[0].key]
    assert len(same) == 3
    assert len({id(job.params) for job in same}) == len({id(job.label) for job in same}) == 1


# ---------------------------------------------------------------------- controllers


def test_a_controller_does_not_load_torch() -> None:
    heavy = "{'torch', 'transformers'}"
    code = f"import sys, dyna_eval.running.controller; sys.exit(bool({heavy} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


SWEEP = """\
name: small
pair: demo
prompts: {dataset: demo, limit: 2, max_prompt_tokens: 8}
generation: {max_new_tokens: 4}
baseline: Baseline
configs: [{label: Baseline, method: ar}, {label: Linear, method: linear, k: [2, 3]}]
"""


@pytest.fixture
def spec(tmp_path: Path) -> SweepSpec:
    file = tmp_path / "sweep.yaml"
    file.write_text(SWEEP)
    return load_sweep(file)


@pytest.mark.slow
def test_a_process_of_its_own_finds_the_same_sweep(spec: SweepSpec) -> None:
    assert resolve_here(spec) == resolve_sweep(spec)


def test_a_mistake_found_in_a_process_of_its_own_is_told_as_such(spec: SweepSpec) -> None:
    missing = replace(spec, pairs=(replace(spec.pairs[0], target="./nowhere"),))
    with pytest.raises(PairError, match="nowhere"):
        resolve_here(missing)


# ------------------------------------------------------------------------ dashboard


def test_time_left_is_known_once_a_job_has_landed(store: Store) -> None:
    sweep_id = store.add_sweep(make_sweep())
    watched = WatchedStore.open(store._engine.url.render_as_string(hide_password=False))
    store.acquire_lease(sweep_id, own_name(), 60)
    claimed(store, sweep_id)
    assert watched.outline(sweep_id).time_left is None
    claim = claimed(store, sweep_id)
    land_one(store, claim, make_result(claim.job))
    left = watched.outline(sweep_id).time_left
    assert left is not None
    assert left.seconds > 0.0
    watched.close()


def test_who_watches_is_told_of_changes_less_often_where_that_costs_much(tmp_path: Path) -> None:
    url, now, used = database(tmp_path), [0.0], [0.0]
    sweep_id = fill(url)
    shared = reports.Reports(WatchedStore.open(url), clock=lambda: now[0], processor=lambda: used[0])

    def pulses() -> tuple[object, object]:
        return shared.pulse(sweep_id), shared.pulse_of_all()

    def changes_after(seconds: float, *, processor_seconds: float) -> bool:
        before = pulses()
        with Store.open(url, create=False) as store:
            store.retry(sweep_id)  # which is noted, though nothing failed
        now[0] += seconds
        used[0] += processor_seconds
        both = {new != old for new, old in zip(pulses(), before, strict=True)}
        [changed] = both
        return changed

    assert changes_after(2.1, processor_seconds=0.01)
    assert not changes_after(2.1, processor_seconds=0.1)
    assert shared.seconds_to_next_pulse(sweep_id) == pytest.approx(2.9)
    assert shared.seconds_to_next_pulse() == pytest.approx(2.9)
    assert changes_after(3.0, processor_seconds=0.0)
    assert changes_after(10.1, processor_seconds=60.0)
    shared.close()
    shared.store.close()


@pytest.fixture
def read_from_prefill(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """In which threads the samples of a job were read as if decoding had begun with the prefill."""
    found: list[str] = []
    from_prefill = SampleTable.from_prefill

    def noted(table: SampleTable) -> SampleTable:
        found.append(threading.current_thread().name)
        return from_prefill(table)

    monkeypatch.setattr(SampleTable, "from_prefill", noted)
    return found


def test_what_only_files_show_is_computed_for_them_alone_once_and_where_reports_are_built(
    tmp_path: Path, read_from_prefill: list[str]
) -> None:
    fill(url := database(tmp_path))
    with client_of(url) as client:
        for ending in ("tex", "md", "csv", "json"):
            assert client.get(f"/sweeps/1/report.{ending}").status_code == 200
            assert bool(read_from_prefill) is (ending in ("csv", "json")), ending
    stored = WatchedStore.open(url).record(1)
    assert read_from_prefill == ["report_0"] * (len(stored.jobs) + len(stored.sentinels))


def test_the_next_report_waits_for_what_a_file_cost_as_well(
    store: Store, read_from_prefill: list[str]
) -> None:
    """Building takes no time by this clock, and each job's samples that are read for a file take a second."""
    now = [100.0]
    shared = reports.Reports(
        WatchedStore.open(store._engine.url.render_as_string(hide_password=False)),
        clock=lambda: now[0] + len(read_from_prefill),
    )
    comparisons = Comparisons(shared)
    sweep_id, other = store.add_sweep(make_sweep()), store.add_sweep(make_sweep("other"))
    store.acquire_lease(sweep_id, own_name(), 60)
    for _ in range(2):
        claim = claimed(store, sweep_id)
        land_one(store, claim, make_result(claim.job))
    first = shared.latest(sweep_id, patience=60)
    compared = comparisons.latest(sweep_id, other, patience=60)
    whole = shared.complete(sweep_id, patience=60)
    assert first and whole and whole.report is first.report
    cost = len(read_from_prefill)
    assert cost > 0
    claim = claimed(store, sweep_id)
    land_one(store, claim, make_result(claim.job))
    now[0] += 49.0 * cost - 0.5  # just before fifty times of what it took, which has passed once already
    same = shared.complete(sweep_id, patience=60)
    assert same and same.report is first.report
    again = comparisons.latest(sweep_id, other, patience=60)
    assert compared and again and again.outcome is compared.outcome
    now[0] += 1.0
    newer = shared.latest(sweep_id, patience=60)
    assert newer and newer.report is not first.report
    comparisons.close()
    shared.close()
    shared.store.close()


def test_exploring_says_that_figures_are_still_computed_and_then_shows_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    url, ready, build = database(tmp_path), threading.Event(), reports.build_report

    def slow(*arguments: object, **options: object) -> object:
        ready.wait(60)
        return build(*arguments, **options)  # type: ignore[arg-type]

    sweep_id = fill(url)
    monkeypatch.setattr(reports, "build_report", slow)
    with client_of(url) as client:
        early = client.get(f"/sweeps/{sweep_id}/explore").text
        assert "data-pending" in early
        assert f'data-pulse="/sweeps/{sweep_id}/pulse"' in early
        assert "<select" not in early
        ready.set()
        client.get(f"/sweeps/{sweep_id}/report.json")  # which waits for the report
        late = client.get(f"/sweeps/{sweep_id}/explore").text
        assert "data-pending" not in late
        assert "<select" in late
