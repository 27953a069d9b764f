"""Sweeps copied from one database into another: all of a sweep or nothing, and its reports stay the same."""

from __future__ import annotations

import json
import re
import shutil
import socket
import sqlite3
from collections.abc import Callable
from contextlib import closing
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
from claims import claim_one, land_one
from click.testing import CliRunner
from dyna_eval_db.store import Claim, Store, SweepState, Whereabouts
from measurements import CALIBRATION, make_result, make_sentinel, make_sweep

from dyna_eval.cli import cli, run
from dyna_eval.errors import InputError
from dyna_eval.importers import import_file
from dyna_eval.jobs import JobState, Pair, PairSpec, ResolvedSweep
from dyna_eval.measurements import Environment
from dyna_eval.records import SweepRecord
from dyna_eval.reports.imported import ImportedSweep
from tests.new_databases import open_new
from tests.postgres import Server
from tests.result_files import FOUR_STEPS, dynatree, faster, write, write_answers

HOST = "gpu-node17.cluster.example"
HOLDER = f"{HOST}/boot/1:12:abcd"
ELSEWHERE = Environment(digest="e" * 64, facts={"processor": "Other", "cores": 4})


@pytest.fixture
def new_file(tmp_path: Path, empty_file: Path) -> Callable[[str], str]:
    """Make an empty SQLite database of a name, and return its address."""
    return lambda name: f"sqlite:///{shutil.copy(empty_file, tmp_path / name)}"


@pytest.fixture
def source(new_file: Callable[[str], str]) -> str:
    """A database of two sweeps: one with a queued job alone, then one in which all has happened."""
    url = new_file("source.db")
    with Store.open(url, create=False) as store:
        store.add_sweep(make_sweep("before", repeats=1))
        fill(store, make_sweep(pairs=("demo", "large")))
    return url


def claimed(store: Store, sweep_id: int, pair: str, actor: str) -> Claim:
    claim = claim_one(store, sweep_id, pair=pair, actor=actor, node=f"node-of-{actor}", lease_seconds=600.0)
    assert claim is not None
    return claim


def fill(store: Store, resolved: ResolvedSweep, environment: Environment | None = None) -> int:
    """Run a sweep on two actors: results with sentinels, a failure, a job put back, one left, and a lease."""
    sweep_id = store.add_sweep(resolved)
    assert store.acquire_lease(sweep_id, HOLDER, 60.0)
    for pair in resolved.prompt_sets:
        for place in range(3):
            actor = ("Zed", "actor-b", "actor-b")[place] + pair
            claim = claimed(store, sweep_id, pair, actor)
            result = make_result(
                claim.job, actor=actor, sentinels=[make_sentinel(actor, place)], rounds=2 + place
            )
            if place == 2:
                costs = replace(CALIBRATION, verify_seconds=((1, float(place)),))
                result = replace(result, calibration=costs, environment=environment or ELSEWHERE)
            land_one(store, claim, result)
    pair = next(iter(resolved.prompt_sets))
    store.put_back(claimed(store, sweep_id, pair, "Zed" + pair), "no room", where=Whereabouts(host=HOST))
    store.fail(
        claimed(store, sweep_id, pair, "lost"),
        error_class="OSError",
        message=f"on {HOST}: [Errno 2] '/home/alice/models/big/config.json' is not there (10.1.2.3:6379)",
        final=True,
        where=Whereabouts(host=HOST, environment=Environment(digest="f" * 64, facts={"cores": 1})),
    )
    store.release_lease(sweep_id, HOLDER)
    return sweep_id


def copy(*words: str) -> str:
    done = CliRunner().invoke(cli, ["db", "copy", *words], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return done.stdout


def report(url: str, *sweeps: str) -> dict[str, Any]:
    """Return a report with its sweep's number left out, and its jobs numbered from 1."""
    words = ["report", *sweeps, "--json", "--allow-mixed", "--db", url]
    done = CliRunner().invoke(cli, words, catch_exceptions=False)
    assert done.exit_code == 0, done.output
    told: dict[str, Any] = json.loads(done.stdout)
    entries = [*told["rows"], *told["left_out"]]
    jobs = sorted({job for entry in entries for job in entry["job_ids"]})
    for entry in entries:
        entry["job_ids"] = [jobs.index(job) + 1 for job in entry["job_ids"]]
    del told["sweep"]["id"]
    return told


def all_of(store: Store, sweep_id: int) -> dict[str, Any]:
    """Return everything that a store knows of a sweep, its rows' numbers apart."""
    record = store.record(sweep_id)
    places = {job.id: place for place, job in enumerate(record.jobs)}
    events = [event for event in store.events(sweep_id) if event.kind != "copied"]
    return {
        "record": replace(record, id=0, jobs=tuple(replace(job, id=0) for job in record.jobs)),
        "resolved": replace(store.resolved(sweep_id), jobs=()),
        "planned": [store.planned_job(job.id) for job in record.jobs],
        "samples": [store.samples(job.id) for job in record.jobs],
        "attempts": [[replace(one, id=0) for one in store.attempts(job.id)] for job in record.jobs],
        "events": [
            asdict(event) | {"id": 0, "job_id": None if event.job_id is None else places[event.job_id]}
            for event in events
        ],
        "origins": store.result_origins(sweep_id),
        "sizes": sorted(map(repr, store.tree_sizes(sweep_id).values())),
        "state": store.sweep_state(sweep_id),
    }


def test_a_copy_holds_all_of_a_sweep_and_reports_the_same_there_and_back(
    source: str, database_url: str, new_file: Callable[[str], str]
) -> None:
    """SQLite to SQLite or Postgres, and from there into another SQLite file."""
    back = new_file("back.db")
    with Store.open(source, create=False) as store:
        wanted = all_of(store, 2)
    assert copy(source, "--sweep", "four-step", "--db", database_url) == (
        "sweep 2 four-step: copied as sweep 1\n"
    )
    copy(database_url, "--db", back)
    for url in (database_url, back):
        with Store.open(url, create=False) as store:
            assert all_of(store, 1) == wanted
            assert store.audit() == []
            assert [sweep.id for sweep in store.list_sweeps()] == [1]
            assert store.events(1)[-1].kind == "copied"
        assert report(url) == report(source)


def test_all_sweeps_are_copied_unless_some_are_named_and_imported_ones_too(
    source: str, database_url: str, tmp_path: Path
) -> None:
    with Store.open(source, create=False) as store:
        store.add_import(import_file(write(tmp_path, "a.json", dynatree(FOUR_STEPS))), "theirs")
        store.add_import(import_file(write_answers(tmp_path, "c.jsonl", faster())), "answers")
    told = json.loads(copy(source, "--json", "--db", database_url))
    assert [(one["from"], one["id"], one["name"]) for one in told] == [
        (1, 1, "before"),
        (2, 2, "four-step"),
        (3, 3, "theirs"),
        (4, 4, "answers"),
    ]
    with Store.open(source, create=False) as store, Store.open(database_url, create=False) as copied:
        for number in (3, 4):
            assert imported(copied, number) == imported(store, number)
        assert copied.sweep_state(1) is SweepState.QUEUED
    assert report(database_url, "theirs") == report(source, "theirs")


def imported(store: Store, sweep_id: int) -> ImportedSweep:
    sweep = store.imported(sweep_id)
    assert sweep is not None
    return sweep


def test_the_files_of_two_runs_come_into_one_table(source: str, new_file: Callable[[str], str]) -> None:
    """What `report --from` of two sweeps in one file says, it says of those of two files."""
    other, both = new_file("other.db"), new_file("both.db")
    with Store.open(other, create=False) as store:
        fill(store, make_sweep("one more row", pairs=("demo", "large"), repeats=2))
    copy(source, "--sweep", "2", "--db", both)
    copy(other, "--db", both)
    words = ["report", "--from", "four-step", "--from", "one more row", "--allow-mixed", "--db", both]
    done = CliRunner().invoke(cli, words, catch_exceptions=False)
    assert done.exit_code == 0, done.output
    assert done.stdout.count("+ Tree") >= 4
    with Store.open(both, create=False) as store:
        assert store.audit() == []
        assert len({job.key for job in store.record(1).jobs} & {job.key for job in store.record(2).jobs}) > 0


def test_what_sweeps_share_is_there_once_and_categories_stay(
    source: str, new_file: Callable[[str], str]
) -> None:
    target = new_file("target.db")
    with Store.open(target, create=False) as store:
        there = make_sweep("there")
        prompts = next(iter(there.prompt_sets.values()))
        own = replace(prompts, prompts=tuple(replace(prompt, category="own") for prompt in prompts.prompts))
        fill(store, replace(there, prompt_sets=dict.fromkeys(there.prompt_sets, own)))
    copy(source, "--sweep", "2", "--db", target)
    with closing(sqlite3.connect(target.removeprefix("sqlite:///"))) as connection:
        counting = (
            "SELECT (SELECT count(*) FROM prompt), (SELECT count(*) FROM calibration), count(*) FROM env"
        )
        assert connection.execute(counting).fetchone() == (2, 2, 3)
    with Store.open(target, create=False) as store:
        assert {prompt.category for prompt in store.prompt_set(prompts.digest).prompts} == {"own"}


def test_categories_come_along_where_a_prompt_set_has_none(
    source: str, new_file: Callable[[str], str]
) -> None:
    target = new_file("target.db")
    there = make_sweep("there")
    prompts = next(iter(there.prompt_sets.values()))
    bare = replace(prompts, prompts=tuple(replace(prompt, category=None) for prompt in prompts.prompts))
    with Store.open(target, create=False) as store:
        store.add_sweep(replace(there, prompt_sets=dict.fromkeys(there.prompt_sets, bare)))
        copy(source, "--db", target)
        assert store.prompt_set(prompts.digest) == prompts


# ---------------------------------------------------------------------- refusals


def complaint(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    capsys.readouterr()
    assert run(["db", "copy", *words]) == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    [line] = printed.err.splitlines()
    return line


def test_a_sweep_that_is_there_already_is_refused_and_the_others_are_named(
    source: str, database_url: str, capsys: pytest.CaptureFixture[str]
) -> None:
    copy(source, "--sweep", "2", "--db", database_url)
    said = complaint(capsys, source, "--db", database_url)
    assert "that database already holds sweep 2, as its sweep 1; nothing was copied" in said
    assert said.endswith(", --sweep 1 copies what it lacks")
    with Store.open(database_url, create=False) as store:
        assert len(store.list_sweeps()) == 1
        with (
            Store.open(source, create=False) as origin,
            pytest.raises(InputError, match="in that database already"),
        ):
            store.copy_from(origin, 2)
        assert store.audit() == []


def test_a_file_that_was_imported_in_another_sweep_is_refused(
    source: str, database_url: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    first, second = (write_answers(tmp_path, f"{name}.jsonl", faster()) for name in ("a", "b"))
    second.write_text(second.read_text() + "\n")
    with Store.open(source, create=False) as store, Store.open(database_url, create=True) as target:
        store.add_import(import_file(first), "answers")
        store.add_import(import_file(second), "answers")
        target.add_import(import_file(second), "answers")
    said = complaint(capsys, source, "--sweep", "answers", "--db", database_url)
    assert "that database already holds a file of sweep 3, as one of its sweep 1; nothing was copied" in said
    said = complaint(capsys, source, "--db", database_url)  # of which two could be copied before it
    assert said.endswith("; nothing was copied, --sweep 1 --sweep 2 copies what it lacks")
    with Store.open(source, create=False) as store, Store.open(database_url, create=False) as target:
        assert len(target.list_sweeps()) == 1
        with pytest.raises(InputError, match="a file of sweep 3 is in that database already, as one of its"):
            target.copy_from(store, 3)
        assert len(target.list_sweeps()) == 1


def test_a_sweep_that_a_controller_works_on_is_refused_until_its_lease_runs_out(
    source: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    target = f"sqlite:///{tmp_path}/target.db"
    with Store.open(source, create=False) as store:
        assert store.acquire_lease(2, HOLDER, 60.0)
        said = complaint(capsys, source, "--db", target)
        assert f"sweep 2 (four-step) is being run by process 12 on {HOST}; copy it when" in said
        assert not (tmp_path / "target.db").exists()
        copy(source, "--sweep", "1", "--db", target)
        assert store.acquire_lease(2, HOLDER, -1.0)
        running = claimed(store, 2, "large", "late")
    copy(source, "--sweep", "2", "--db", target)
    with Store.open(target, create=False) as store:
        assert store.lease_holder(2) is None
        [job] = [job for job in store.record(2).jobs if job.state is JobState.RUNNING]
        assert job.key == running.job.key
        assert store.audit() == []
        assert store.acquire_lease(2, "next", 60.0)
        assert store.recover(2, "next") == 1


@pytest.mark.parametrize("table", ["sample", "event"])
def test_a_copy_that_fails_half_way_leaves_nothing_of_its_sweep(
    source: str, new_file: Callable[[str], str], table: str
) -> None:
    target = new_file("target.db")
    with closing(sqlite3.connect(target.removeprefix("sqlite:///"))) as connection, connection:
        connection.execute(
            f"CREATE TRIGGER no BEFORE INSERT ON {table} BEGIN SELECT RAISE(FAIL, 'full'); END"
        )
    with (
        Store.open(source, create=False) as origin,
        Store.open(target, create=False) as store,
    ):
        with pytest.raises(Exception, match="full"):
            store.copy_from(origin, 2)
        assert store.list_sweeps() == []
        with store._read() as session:
            assert session.connection().exec_driver_sql("SELECT count(*) FROM job").scalar() == 0


def test_bad_names_of_sweeps_and_databases_are_one_line(
    source: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    target = f"sqlite:///{tmp_path}/target.db"
    assert "no sweep 'for-step'; did you mean 'four-step'?" in complaint(
        capsys, source, "--sweep", "for-step", "--db", target
    )
    assert "there is no file none.db; name the database to copy from" in complaint(
        capsys, "none.db", "--db", target
    )
    empty = f"sqlite:///{tmp_path}/none-yet.db"
    open_new(empty).close()
    assert "holds no sweep yet" in complaint(capsys, empty, "--db", target)
    assert "everyone on this machine can see a password" in complaint(
        capsys, "postgresql://me:secret@host/name", "--db", target
    )
    assert not (tmp_path / "target.db").exists()


def test_a_source_may_be_named_as_a_file(
    source: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    copy("source.db", "--db", "sqlite:///target.db")
    assert report("sqlite:///target.db") == report(source)


# --------------------------------------------------------------------- anonymous


SECRETS = (
    "alice",
    "gpu-node17",
    "cluster.example",
    socket.gethostname(),
    "Zed",
    "/boot/",
    "10.1.2.3",
    "/opt/",
)


@pytest.fixture
def telling(new_file: Callable[[str], str], tmp_path: Path) -> str:
    """A database whose every column that may tell of machines and places does."""
    plain = make_sweep(pairs=("demo", "large"), source="")
    text = (
        f"# run on {HOST}, by {socket.gethostname()}\n"
        "pair: {target: '/home/alice/models/big', draft: ~alice/small}\n"
        "prompts: {dataset: json, data_files: [/data/alice/a.jsonl, https://files.cluster.example/b.jsonl]}\n"
    )
    spec = replace(
        plain.spec,
        source=text,
        pairs=tuple(map(with_folders, plain.spec.pairs)),
        prompts=replace(
            plain.spec.prompts,
            dataset="/data/alice/sets",
            data_files=("/data/alice/a.jsonl", "https://files.cluster.example/b.jsonl"),
        ),
    )
    pairs: tuple[Pair, ...] = tuple(replace(pair, spec=with_folders(pair.spec)) for pair in plain.pairs)
    reason = "eager (no compiler: /opt/alice/bin/g++ failed), draft eager (/opt/alice/bin/g++)"
    environment = Environment(
        digest="a" * 64, facts={"processor": "Known", "backend": reason, "cores": 2, "gpu": None}
    )
    url = new_file("telling.db")
    with Store.open(url, create=False) as store:
        fill(store, replace(plain, spec=spec, pairs=pairs, jobs=plain.jobs), environment)
        document = dynatree(FOUR_STEPS, target_model="/home/alice/models/big", draft_model="hub/small")
        store.add_import(import_file(write(tmp_path, "a.json", document)), "theirs")
    return url


def with_folders(spec: PairSpec) -> PairSpec:
    return replace(spec, target="/home/alice/models/big", draft="/home/alice/models/small")


def test_an_anonymous_copy_tells_neither_hosts_nor_paths_and_reports_the_same_figures(
    telling: str, tmp_path: Path
) -> None:
    file = tmp_path / "for-reviewers.db"
    copy(telling, "--anonymous", "--db", f"sqlite:///{file}")
    content = b"".join(path.read_bytes() for path in tmp_path.glob("for-reviewers.db*"))
    found = [secret for secret in SECRETS if secret.lower().encode() in content.lower()]
    assert found == []
    source_bytes = Path(telling.removeprefix("sqlite:///")).read_bytes().lower()
    assert [secret for secret in SECRETS if secret.lower().encode() not in source_bytes] == []

    with Store.open(telling, create=False) as store, Store.open(f"sqlite:///{file}", create=False) as copied:
        assert copied.audit() == []
        assert digests(copied.record(1)) == digests(store.record(1))
        assert imported(copied, 2).digest == imported(store, 2).digest
    before, after = report(telling, "four-step"), report(f"sqlite:///{file}", "four-step")
    said = json.dumps(after)
    for told in (before, after):
        for name in ("pairs", "environments", "warnings"):
            told.pop(name)
        told["sweep"].pop("file")
        for entry in [*told["rows"], *told["left_out"]]:
            for text in ("caveats", "mixed", "reason"):
                entry.pop(text, None)
    assert after == before
    assert "model-1" in said


def digests(record: SweepRecord) -> list[object]:
    return [record.digest, [(job.key, job.environment, job.state) for job in record.jobs]]


def test_the_same_thing_has_the_same_neutral_name_throughout(telling: str, tmp_path: Path) -> None:
    target = f"sqlite:///{tmp_path}/anonymous.db"
    copy(telling, "--anonymous", "--db", target)
    with Store.open(target, create=False) as store:
        record = store.record(1)
        assert {sentinel.actor for sentinel in record.sentinels} == {
            job.actor for job in record.jobs if job.actor
        }
        assert [spec.spec.target for spec in record.models.values()] == ["model-1"] * 2
        [failed] = [job for job in record.jobs if job.state is JobState.FAILED]
        attempt = store.attempts(failed.id)[-1]
        assert failed.error is not None
        host = attempt.host
        assert host is not None
        assert re.fullmatch(r"host-\d", host)
        assert (
            failed.error
            == f"OSError: on {host}: [Errno 2] 'model-1/config.json' is not there (address-1:6379)"
        )
        holders = {event.detail["holder"] for event in store.events(1) if "holder" in event.detail}
        assert holders == {"controller-1"}
        lines = record.source.splitlines()
        assert lines[0].startswith(f"# run on {host}, by host-")
        assert lines[1] == "pair: {target: 'model-1', draft: model-2}"
        assert lines[2] == "prompts: {dataset: json, data_files: [data-1.jsonl, data-3.jsonl]}"
        prompts = store.resolved(1).spec.prompts
        assert (prompts.dataset, prompts.data_files) == ("data-2", ("data-1.jsonl", "data-3.jsonl"))


RELATIVE = """\
# Größe
pair:
  - {name: a, target: &big ../jdoe/big, draft: "jdoe small"}
  - {name: b, target: *big, draft: org/hub-model}
prompts:
  dataset: json
  data_files: [moved/p.jsonl, 'p.jsonl', ../../elsewhere/jdoe.jsonl]
  chat_template_file: moved/jdoe.jinja
configs: [{label: p.jsonl, method: ar}]
# --set prompts.data_files.2=~jdoe/q.jsonl"""
RELATIVE_NEUTRAL = """\
# Größe
pair:
  - {name: a, target: &big model-1, draft: "model-2"}
  - {name: b, target: *big, draft: org/hub-model}
prompts:
  dataset: json
  data_files: [data-2.jsonl, 'data-3.jsonl', path-1]
  chat_template_file: template-1.jinja
configs: [{label: p.jsonl, method: ar}]
# --set prompts.data_files.2=data-1.jsonl"""


def test_paths_relative_to_the_sweep_file_have_the_neutral_names_of_what_they_lead_to(
    new_file: Callable[[str], str], tmp_path: Path
) -> None:
    """A hub id stays; what an override replaced leads nowhere any more, and is a path like others."""
    source, target = new_file("relative.db"), f"sqlite:///{tmp_path}/anonymous.db"
    plain = make_sweep(pairs=("demo",))
    files = ("/work/sweeps/moved/p.jsonl", "/work/sweeps/p.jsonl", "/work/jdoe/q.jsonl")
    [pair] = plain.spec.pairs
    spec = replace(
        plain.spec,
        source=RELATIVE,
        pairs=(
            replace(pair, target="/work/jdoe/big", draft="/work/sweeps/jdoe small"),
            replace(pair, name="b", target="/work/jdoe/big", draft="org/hub-model"),
        ),
        prompts=replace(plain.spec.prompts, dataset="json", data_files=files),
    )
    with Store.open(source, create=False) as store:
        store.add_sweep(replace(plain, spec=spec))
    copy(source, "--anonymous", "--db", target)
    with Store.open(target, create=False) as store:
        found = store.resolved(1).spec
        assert found.source == RELATIVE_NEUTRAL
        assert found.prompts.data_files == ("data-2.jsonl", "data-3.jsonl", "data-1.jsonl")
        assert [one.draft for one in found.pairs] == ["model-2", "org/hub-model"]


def test_an_anonymous_copy_joins_no_other_sweeps_whose_actors_it_would_be_taken_for(
    telling: str, source: str, new_file: Callable[[str], str], capsys: pytest.CaptureFixture[str]
) -> None:
    target = new_file("target.db")
    copy(source, "--db", target)
    said = complaint(capsys, telling, "--anonymous", "--db", target)
    assert "--anonymous makes a database that holds nothing else" in said


def test_an_anonymous_copy_out_of_postgres_is_the_same(
    telling: str, postgres_server: Server, tmp_path: Path
) -> None:
    postgres_server.empty()
    here, there = f"sqlite:///{tmp_path}/here.db", f"sqlite:///{tmp_path}/there.db"
    copy(telling, "--db", postgres_server.url)
    copy(telling, "--anonymous", "--db", here)
    copy(postgres_server.url, "--anonymous", "--db", there)
    assert report(there, "four-step") == report(here, "four-step")
