"""Imported files in the store: all of a file or nothing, once, on every kind of database."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from dyna_eval_db import migrate
from dyna_eval_db.store import Store, SweepState
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from measurements import make_sweep
from sqlalchemy import Engine, event
from test_migrations import downgrade

from dyna_eval.errors import UnknownSweepError
from dyna_eval.importers import import_file
from dyna_eval.reports.imported import ImportedFile, ImportedSweep
from tests.result_files import (
    FOUR_STEPS,
    baseline,
    dynatree,
    faster,
    second_layout,
    vanilla,
    write,
    write_answers,
)


def table(folder: Path, rows: Sequence[Any] = FOUR_STEPS, name: str = "a.json") -> ImportedFile:
    return import_file(write(folder, name, dynatree(rows)))


def read(store: Store, sweep_id: int) -> ImportedSweep:
    sweep = store.imported(sweep_id)
    assert sweep is not None
    return sweep


def test_a_file_comes_back_as_it_was_imported(store: Store, tmp_path: Path) -> None:
    files = [
        table(tmp_path),
        import_file(write(tmp_path, "b.json", second_layout())),
        import_file(write_answers(tmp_path, "c.jsonl", faster())),
    ]
    for number, file in enumerate(files, start=1):
        assert store.add_import(file, f"sweep-{number}") == (number, True)
        assert read(store, number).files == (file,)
    assert [sweep.name for sweep in store.imports()] == ["sweep-1", "sweep-2", "sweep-3"]


def test_a_pair_may_be_named_later_once_and_changes_nothing_else(store: Store, tmp_path: Path) -> None:
    file = import_file(write_answers(tmp_path, "c.jsonl", faster()))
    named, other = file.of_pair("demo"), file.of_pair("other")
    assert named is not None
    assert other is not None
    assert store.add_import(file, "one") == (1, True)
    for again in (named, file, other, named):
        assert store.add_import(again, "one") == (1, False)
        assert read(store, 1).files == (named,)
    assert [one.detail.get("pair") for one in store.events(1)] == [None, "demo"]


def test_the_same_bytes_are_found_and_not_doubled_under_any_name(store: Store, tmp_path: Path) -> None:
    first, again = table(tmp_path), table(tmp_path, name="copy.json")
    assert store.add_import(first, "one") == (1, True)
    assert store.add_import(again, "two") == (1, False)
    assert len(store.list_sweeps()) == 1
    assert read(store, 1).files == (first,)


def test_an_imported_sweep_is_listed_and_found_by_name_and_number(store: Store, tmp_path: Path) -> None:
    own = store.add_sweep(make_sweep())
    imported, _ = store.add_import(table(tmp_path), "theirs")
    assert (store.find_sweep("theirs"), store.find_sweep(str(imported))) == (imported, imported)
    listed = {sweep.id: (sweep.name, sweep.state, sweep.imported_rows) for sweep in store.list_sweeps()}
    assert listed[imported] == ("theirs", SweepState.IMPORTED, 4)
    assert listed[own] == ("four-step", SweepState.QUEUED, 0)
    assert store.imported(own) is None
    assert [happened.kind for happened in store.events(imported)] == ["imported"]


def test_an_imported_sweep_has_no_jobs_to_run_or_to_report(store: Store, tmp_path: Path) -> None:
    imported, _ = store.add_import(table(tmp_path), "theirs")
    for ask in (store.record, store.resolved):
        with pytest.raises(UnknownSweepError, match="was imported and has no jobs; `dyna-eval report 1`"):
            ask(imported)
    assert sum(store.progress(imported).values()) == 0


def test_answer_files_of_one_name_become_one_sweep(store: Store, tmp_path: Path) -> None:
    base = import_file(write_answers(tmp_path, "base.jsonl", vanilla()))
    eagle = import_file(write_answers(tmp_path, "eagle.jsonl", faster()))
    assert store.add_import(base, "bench") == (1, True)
    assert store.add_import(eagle, "bench") == (1, True)
    assert read(store, 1).files == (base, eagle)
    assert [sweep.digest for sweep in store.list_sweeps()] == [read(store, 1).digest]
    assert store.add_import(eagle, "elsewhere") == (1, False)


def test_an_answer_file_never_joins_a_sweep_of_another_kind(store: Store, tmp_path: Path) -> None:
    store.add_import(table(tmp_path), "bench")
    store.add_sweep(make_sweep("own"))
    answers = [import_file(write_answers(tmp_path, f"{n}.jsonl", faster(4 + n))) for n in range(2)]
    assert store.add_import(answers[0], "bench") == (3, True)
    assert store.add_import(answers[1], "own") == (4, True)


class CrashError(Exception):
    """What the next test throws into the middle of an import."""


def test_a_crash_in_the_middle_of_an_import_leaves_nothing(store: Store, tmp_path: Path) -> None:
    def crash(_connection: Any, _cursor: Any, statement: str, *_: Any) -> None:
        if "INTO imported_sample" in statement:
            raise CrashError

    file = import_file(write_answers(tmp_path, "eagle.jsonl", faster()))
    event.listen(Engine, "before_cursor_execute", crash)
    with pytest.raises(CrashError):
        store.add_import(file, "bench")
    event.remove(Engine, "before_cursor_execute", crash)
    assert (store.list_sweeps(), store.imports()) == ([], [])
    assert store.add_import(file, "bench")[1] is True


def test_many_that_import_the_same_file_at_once_store_it_once(store: Store, tmp_path: Path) -> None:
    file, outcomes = table(tmp_path), list[tuple[int, bool]]()
    threads = [
        threading.Thread(target=lambda: outcomes.append(store.add_import(file, "a"))) for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(new for _, new in outcomes) == [False, False, False, True]
    assert len({sweep_id for sweep_id, _ in outcomes}) == 1


def test_migrating_back_takes_imported_sweeps_along_and_leaves_the_others(
    store: Store, database_url: str, tmp_path: Path
) -> None:
    own = store.add_sweep(make_sweep())
    store.add_import(table(tmp_path), "theirs")
    store.add_import(import_file(write_answers(tmp_path, "c.jsonl", faster())), "answers")
    store.close()
    downgrade(database_url, "0003")
    assert migrate.upgrade(database_url).version == "0003"
    with Store.open(database_url, create=False) as after:
        assert [sweep.id for sweep in after.list_sweeps()] == [own]
        assert after.resolved(own) == make_sweep()


RATES = st.floats(min_value=1e-6, max_value=1e12)
INTEGERS = st.integers(-(2**63) + 1, 2**63 - 1)
SETTINGS = st.dictionaries(st.text(max_size=8), st.none() | st.booleans() | INTEGERS | st.floats(-1e9, 1e9))
ROWS = st.lists(st.tuples(st.text(max_size=30), RATES, SETTINGS), min_size=1, max_size=4)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=25)
@given(rows=ROWS)
def test_whatever_an_importer_accepts_is_stored_unchanged(
    store: Store, tmp_path: Path, rows: list[tuple[str, float, dict[str, Any]]]
) -> None:
    written = [baseline(rate, method=label, config=config) for label, rate, config in rows]
    file = table(tmp_path, written)
    sweep_id, _ = store.add_import(file, "random")
    assert read(store, sweep_id).files == (file,)
