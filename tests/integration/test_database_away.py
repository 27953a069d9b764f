"""A database that goes away at any moment of a run: it is waited for, or the user is told how to go on."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from dyna_eval_db.store import Claimant, Store
from measurements import make_result, make_sweep

from dyna_eval.cli import cli, run
from dyna_eval.commands import database, running, stored
from dyna_eval.errors import DatabaseAwayError, LeaseLostError
from dyna_eval.jobs import JobState
from dyna_eval.notices import Standstill
from dyna_eval.running import controller as controller_module
from dyna_eval.running import places
from dyna_eval.running.cluster import Slot
from dyna_eval.running.controller import Controller
from dyna_eval.running.lease import leased
from dyna_eval.running.outbox import Finished


@pytest.fixture
def store(tmp_path: Path, empty_file: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Store]:
    """An empty store, which commands open too, whatever they are told."""
    shutil.copy(empty_file, tmp_path / "store.db")
    with Store.open(f"sqlite:///{tmp_path}/store.db", create=False) as store:

        @contextmanager
        def opened(_database: str, **_: object) -> Iterator[Store]:
            yield store

        for module in (running, stored):
            monkeypatch.setattr(module, "open_store", opened)
        monkeypatch.setattr(stored, "open_to_read", opened)
        monkeypatch.setattr(database.time, "sleep", lambda _: None)
        yield store


def away(monkeypatch: pytest.MonkeyPatch, store: Store, name: str, *, calls: range) -> None:
    """Let a method of the store find no server at those of its calls."""
    answer: Callable[..., Any] = getattr(store, name)
    called = 0

    def ask(*arguments: Any, **named: Any) -> Any:
        nonlocal called
        called += 1
        if called - 1 in calls:
            raise DatabaseAwayError("the server is gone")
        return answer(*arguments, **named)

    monkeypatch.setattr(store, name, ask)


# ---------------------------------------------------------------- the controller


@pytest.fixture
def no_actors(monkeypatch: pytest.MonkeyPatch) -> None:
    """A cluster with one place, where nothing is ever started."""
    slot = Slot(name="slot", node_id="node", host="here", place=0, cpus=1, gpus=0)
    monkeypatch.setattr(places, "find_slots", lambda *_, **__: [slot])
    monkeypatch.setattr(controller_module, "POLL_SECONDS", 0.0)


@pytest.mark.usefixtures("no_actors")
@pytest.mark.parametrize(
    ("name", "calls"),
    [
        pytest.param("renew_lease", range(2), id="while Ray started"),
        pytest.param("result_origins", range(1), id="at the start"),
        pytest.param("progress", range(1, 2), id="at the end"),
    ],
)
def test_a_controller_waits_for_a_database_that_is_away_at_its_start_or_end(
    store: Store, monkeypatch: pytest.MonkeyPatch, name: str, calls: range
) -> None:
    sweep_id = store.add_sweep(make_sweep())
    store.cancel(sweep_id)
    told: list[object] = []
    with leased(store, sweep_id) as holder:
        away(monkeypatch, store, name, calls=calls)
        counts = Controller(store=store, sweep_id=sweep_id, holder=holder, watch=told.append).run()
    assert counts[JobState.CANCELLED] == sum(counts.values()) == 4
    gone = "finished jobs are kept in memory: the server is gone"
    assert told == [Standstill(waits_for="the database", reason=reason) for reason in (gone, None)]


def test_a_run_that_ends_tells_how_many_results_the_database_did_not_take(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    actors = [Claimant(actor=f"actor-{number}") for number in range(3)]
    sweep_id = store.add_sweep(make_sweep())
    claims = store.claim_jobs(sweep_id, pair="demo", claimants=actors, lease_seconds=60)
    controller = Controller(store=store, sweep_id=sweep_id, holder="me", watch=lambda _: None)
    for claim in claims[:2]:
        controller._outbox.put(Finished(actor="actor", claim=claim, result=make_result(claim.job)))
    with monkeypatch.context() as patch:
        away(patch, store, "land_results", calls=range(1))
        controller._put_back()
    assert controller.unstored == 2
    controller._put_back()
    assert controller.unstored == 0
    assert store.progress(sweep_id)[JobState.DONE] == 2


# ------------------------------------------------------------------ the commands


class Ends:
    """A controller that comes to an end of some kind."""

    def __init__(self, error: BaseException, *, unstored: int = 0) -> None:
        self.error, self.unstored = error, unstored

    def __call__(self, **_: object) -> Ends:
        return self

    def run(self) -> None:
        raise self.error


@contextmanager
def no_cluster(_address: str, **_: object) -> Iterator[str]:
    yield ""


@pytest.fixture
def resumed(
    store: Store, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[..., tuple[int, str]]:
    """Resume a new sweep in a run that ends so; return the exit status and what was said."""
    store.add_sweep(make_sweep())
    monkeypatch.setattr("dyna_eval.running.connection.connected", no_cluster)
    monkeypatch.setenv("DYNA_EVAL_DB", "postgresql://me:secret@here/x")

    def resume(ends: Ends, *words: str) -> tuple[int, str]:
        monkeypatch.setattr(controller_module, "Controller", ends)
        return run(["resume", *words]), capsys.readouterr().err

    return resume


GONE = DatabaseAwayError("sqlite:///x.db: the server is gone")


@pytest.mark.parametrize(
    ("ends", "status", "said"),
    [
        (
            Ends(KeyboardInterrupt()),
            130,
            ["dyna-eval: interrupted; `dyna-eval resume 1{db}` goes on where it stopped"],
        ),
        (
            Ends(KeyboardInterrupt(), unstored=2),
            130,
            [
                "[0/4] 2 finished jobs could not be stored, and will run again",
                "dyna-eval: interrupted; `dyna-eval resume 1{db}` goes on where it stopped",
            ],
        ),
        (
            Ends(GONE, unstored=1),
            2,
            [
                "[0/4] 1 finished job could not be stored, and will run again",
                f"dyna-eval: {GONE}; then `dyna-eval resume 1{{db}}` goes on where it stopped",
            ],
        ),
        (
            Ends(LeaseLostError("another one has it")),
            1,
            ["dyna-eval: another one has it; `dyna-eval status 1{db}` shows how far it is"],
        ),
    ],
)
@pytest.mark.parametrize("db", ["", " --db 'sqlite:///after hours.db'"])
def test_a_run_that_is_stopped_says_what_it_lost_and_how_to_go_on_in_its_database(
    resumed: Callable[..., tuple[int, str]], ends: Ends, status: int, said: list[str], db: str
) -> None:
    """A database that the environment names is named still, and its address may hold a password."""
    words = ["--db", "sqlite:///after hours.db"] if db else []
    lines = "".join(f"{line}\n" for line in said)
    assert resumed(ends, *words) == (status, lines.replace("{db}", db))


def test_a_table_waits_for_a_database_that_is_away_when_all_jobs_are_done(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    sweep_id = store.add_sweep(make_sweep())
    store.cancel(sweep_id)
    away(monkeypatch, store, "record", calls=range(3))
    done = CliRunner().invoke(cli, ["resume", "--json"], catch_exceptions=False)
    assert done.stderr.count("waiting for the database; the server is gone\n") == 1
    assert json.loads(done.stdout)["left_out"]


@pytest.mark.parametrize("name", ["progress", "events"])
def test_following_the_log_waits_for_a_database_that_is_away_and_misses_nothing(
    store: Store, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    sweep_id = store.add_sweep(make_sweep())
    to_come: list[Callable[[int], int]] = [store.retry, store.retry, store.cancel]
    monkeypatch.setattr(database.time, "sleep", lambda _: to_come.pop(0)(sweep_id))
    away(monkeypatch, store, name, calls=range(1, 2))
    done = CliRunner().invoke(cli, ["logs", "--follow"], catch_exceptions=False)
    assert done.exit_code == 0
    assert [line.split()[1] for line in done.stdout.splitlines()] == [
        "submitted",
        "retried",
        "retried",
        "cancelled",
    ]
    assert done.stderr == "waiting for the database; the server is gone\n"


def test_a_log_that_is_not_followed_waits_for_no_database(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    store.add_sweep(make_sweep())
    away(monkeypatch, store, "events", calls=range(1))
    assert isinstance(CliRunner().invoke(cli, ["logs"]).exception, DatabaseAwayError)
