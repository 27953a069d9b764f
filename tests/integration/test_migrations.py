"""Schemas: how they are made and upgraded, and what is refused when a database is opened."""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import os
import re
import shutil
import socket
import sqlite3
import struct
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from claims import claim_one, land_one
from dyna_eval_db import migrate
from dyna_eval_db.address import parse_address
from dyna_eval_db.engine import bare_engine, writing
from dyna_eval_db.migrate import MIGRATIONS, VERSION_TABLE, Schema, SchemaKind, inspect_schema
from dyna_eval_db.models import SCHEMA_VERSION, Base
from dyna_eval_db.store import Store
from measurements import CALIBRATION, make_result, make_sentinel, make_sweep
from sqlalchemy import Engine, MetaData, Table, event, inspect, select, text

from dyna_eval.errors import DatabaseError
from dyna_eval.holder import own_name
from dyna_eval.jobs import Backend, EngineSpec
from dyna_eval.measurements import Calibration, Environment
from tests.postgres import Server

REPOSITORY = Path(__file__).parents[2]


@contextmanager
def foreign_database(file: Path, *statements: str) -> Iterator[None]:
    """Write a SQLite database that is not a store, and check that a block leaves every byte of it alone."""
    connection = sqlite3.connect(file)
    for statement in statements:
        connection.execute(statement)
    connection.commit()
    connection.close()
    before = hashlib.sha256(file.read_bytes()).hexdigest()
    yield
    assert hashlib.sha256(file.read_bytes()).hexdigest() == before


def execute(url: str, statement: str) -> None:
    with writing(bare_engine(parse_address(url))).begin() as connection:
        connection.execute(text(statement))


def downgrade(url: str, version: str) -> None:
    config = Config()
    config.set_main_option("script_location", str(MIGRATIONS))
    with writing(bare_engine(parse_address(url))).begin() as connection:
        config.attributes["connection"] = connection
        command.downgrade(config, version)


def found_schema(url: str) -> Schema:
    return inspect_schema(bare_engine(parse_address(url)))


def refusal(url: str, *, create: bool = True) -> str:
    """Return the one line with which opening a database is refused."""
    with pytest.raises(DatabaseError) as refused:
        Store.open(url, create=create)
    message = str(refused.value)
    assert "\n" not in message
    return message


# --------------------------------------------------------------------- schemas


@pytest.mark.usefixtures("store")
def test_the_migrated_schema_equals_the_models(database_url: str) -> None:
    with bare_engine(parse_address(database_url)).connect() as connection:
        options = {"version_table": VERSION_TABLE, "compare_type": True, "compare_server_default": True}
        context = MigrationContext.configure(connection, opts=options)
        assert compare_metadata(context, Base.metadata) == []


@pytest.mark.usefixtures("store")
def test_constraints_and_checks_are_named_as_in_the_models(database_url: str) -> None:
    """What `compare_metadata` does not look at, but a later migration has to name."""
    with bare_engine(parse_address(database_url)).connect() as connection:
        found = inspect(connection)
        for table in Base.metadata.sorted_tables:
            checks = {check["name"] for check in found.get_check_constraints(table.name)}
            keys = {key["name"] for key in found.get_foreign_keys(table.name)}
            named = {str(constraint.name) for constraint in table.constraints if constraint.name}
            assert {name for name in named if name.startswith("ck_")} == checks
            assert {name for name in named if name.startswith("fk_")} == keys


def test_the_newest_migration_is_the_version_that_a_store_asks_for() -> None:
    scripts = ScriptDirectory(str(MIGRATIONS))
    assert scripts.get_heads() == [SCHEMA_VERSION]
    assert all(re.fullmatch(r"[0-9]{4}", script.revision) for script in scripts.walk_revisions())


@pytest.mark.usefixtures("store")
def test_migrations_can_be_taken_back(database_url: str) -> None:
    downgrade(database_url, "base")
    with bare_engine(parse_address(database_url)).connect() as connection:
        assert inspect(connection).get_table_names() == [VERSION_TABLE]


@pytest.mark.usefixtures("store")
def test_the_command_line_of_alembic_sees_nothing_to_migrate(database_url: str) -> None:
    alembic = [sys.executable, "-m", "alembic", "-c", REPOSITORY / "db/alembic.ini"]
    done = subprocess.run(
        [*alembic, "-x", f"db={database_url}", "check"], capture_output=True, text=True, check=False
    )
    assert "No new upgrade operations detected" in done.stdout, done.stderr


def test_many_that_open_a_new_database_at_once_make_its_schema_once(database_url: str) -> None:
    errors: list[BaseException] = []

    def open_new() -> None:
        try:
            Store.open(database_url, create=True).close()
        except BaseException as error:  # reported below, where pytest sees it
            errors.append(error)

    threads = [threading.Thread(target=open_new) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []
    assert found_schema(database_url).kind == SchemaKind.CURRENT


class CrashError(Exception):
    """What the next test throws into the middle of a migration."""


def test_a_crash_while_a_schema_is_made_leaves_an_empty_database(database_url: str) -> None:
    created = itertools.count(1)

    def crash_at_the_fifth_table(_connection: Any, _cursor: Any, statement: str, *_: Any) -> None:
        if "CREATE TABLE" in statement and next(created) == 5:
            raise CrashError

    event.listen(Engine, "before_cursor_execute", crash_at_the_fifth_table)
    with pytest.raises(CrashError):
        Store.open(database_url, create=True)
    event.remove(Engine, "before_cursor_execute", crash_at_the_fifth_table)
    assert found_schema(database_url).kind == SchemaKind.EMPTY
    with Store.open(database_url, create=True) as store:
        assert store.list_sweeps() == []


# --------------------------------------------------------- other versions, others' databases


@pytest.mark.usefixtures("store")
def test_a_newer_schema_is_refused_with_its_version(database_url: str) -> None:
    execute(database_url, "UPDATE dyna_eval_schema SET version_num = '9999'")
    assert refusal(database_url).endswith("was written by a newer dyna-eval (schema 9999); upgrade dyna-eval")
    with pytest.raises(DatabaseError, match="newer dyna-eval"):
        migrate.upgrade(database_url)


@pytest.mark.usefixtures("store")
def test_an_older_schema_is_refused_with_the_command_that_upgrades_it_and_left_alone(
    database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(migrate, "SCHEMA_VERSION", "9999")
    assert "run `dyna-eval db upgrade`" in refusal(database_url)
    assert found_schema(database_url) == Schema(kind=SchemaKind.OLDER, version=SCHEMA_VERSION)


def test_upgrading_makes_the_schema_and_then_changes_nothing(database_url: str, tmp_path: Path) -> None:
    if database_url.startswith("sqlite"):
        (tmp_path / "store.db").touch()
    assert migrate.upgrade(database_url).kind == SchemaKind.EMPTY
    with Store.open(database_url, create=False) as store:
        sweep_id = store.add_sweep(make_sweep())
        assert migrate.upgrade(database_url).kind == SchemaKind.CURRENT
        assert store.resolved(sweep_id) == make_sweep()


def as_written_by_0001(url: str) -> None:
    """Turn a database into what version 0001 leaves: without later columns, tables and keys in JSON."""
    downgrade(url, "0001")
    with writing(bare_engine(parse_address(url))).begin() as connection:
        assert not inspect(connection).has_table("calibration")
        assert "draft_steps" not in {column["name"] for column in inspect(connection).get_columns("round")}
        sweep = Table("sweep", MetaData(), autoload_with=connection)
        ((spec, pairs),) = connection.execute(select(sweep.c.spec, sweep.c.pairs)).all()
        del spec["engine"]
        for pair in pairs:
            del pair["backend"]
        connection.execute(sweep.update().values(spec=spec, pairs=pairs))


def test_rows_of_schema_0001_are_kept_and_lack_only_what_was_not_measured(database_url: str) -> None:
    with Store.open(database_url, create=True) as store:
        sweep_id = store.add_sweep(make_sweep())
        claim = claim_one(store, sweep_id, pair="demo", actor="actor-1", lease_seconds=60.0)
        assert claim is not None
        result = make_result(claim.job, sentinels=[make_sentinel()])
        land_one(store, claim, result)
        before = store.record(sweep_id)
    as_written_by_0001(database_url)

    assert "run `dyna-eval db upgrade`" in refusal(database_url)
    assert migrate.upgrade(database_url) == Schema(kind=SchemaKind.OLDER, version="0001")

    with Store.open(database_url, create=False) as store:
        after, samples, resolved = (
            store.record(sweep_id),
            store.samples(claim.job_id),
            store.resolved(sweep_id),
        )
    assert (resolved.spec.engine, resolved.pairs[0].backend) == (EngineSpec(), Backend.AUTO)
    lacking = {"draft_steps": 0, "draft_rows": 0, "grow_seconds": None, "walk_seconds": None}
    assert samples == tuple(
        replace(sample, rounds=tuple(replace(one, **lacking) for one in sample.rounds), trees=())
        for sample in result.samples
    )
    totals = [one for job in (*before.jobs, *before.sentinels) for one in job.samples]
    assert totals
    assert [one for job in (*after.jobs, *after.sentinels) for one in job.samples] == [
        replace(one, **lacking) for one in totals
    ]
    assert after.environments == before.environments
    assert [job.calibration for job in after.jobs if job.samples] == [None]


def test_results_of_schema_0006_get_the_calibration_that_their_reports_were_made_with(
    database_url: str,
) -> None:
    """The latest of their pair and environment, which was the only one; where there was none, none."""
    slower, other = (
        Calibration(draft_seconds=((1, 0.5),), verify_seconds=((1, seconds), (4, 7.5)))
        for seconds in (2.0, 3.0)
    )
    quantised = make_sweep("quantised", pairs=("demo",))
    quantised = replace(quantised, pairs=(replace(quantised.pairs[0], dtype="bfloat16"),))
    landings = [
        (make_sweep(), "e1", CALIBRATION),
        (make_sweep(), "e1", slower),
        (make_sweep(), "e2", other),
        (make_sweep(), "e3", None),
        (quantised, "e1", other),
    ]
    with Store.open(database_url, create=True) as store:
        for sweep, environment, calibration in landings:
            claim = claim_one(store, store.add_sweep(sweep), pair="demo", actor="actor-1", lease_seconds=60.0)
            assert claim is not None
            result = make_result(claim.job, calibration=calibration)
            land_one(store, claim, replace(result, environment=Environment(digest=environment, facts={})))
        likely = store.likely_calibrations(make_sweep())
    downgrade(database_url, "0006")
    assert migrate.upgrade(database_url) == Schema(kind=SchemaKind.OLDER, version="0006")
    with Store.open(database_url, create=False) as store:
        found = [
            job.calibration
            for sweep in (make_sweep(), quantised)
            for job in store.record(store.add_sweep(sweep)).jobs
            if job.samples
        ]
        assert found == [slower, slower, other, None, other]
        assert store.calibrations(make_sweep().pairs[0]) == {"e2": other, "e1": slower}
        assert store.calibrations(quantised.pairs[0]) == {"e1": other}
        assert store.likely_calibrations(make_sweep()) == likely
        assert store.audit() == []


@pytest.mark.parametrize(
    ("holder", "seconds", "said"),
    [
        (
            "elsewhere/boot/1:4711:abcd",
            60.0,
            "is being run by process 4711 on elsewhere; end that",
        ),
        ("elsewhere/boot/1:4711:abcd", 0.0, None),
        (own_name().replace(f":{os.getpid()}:", f":{2**22 + 1}:"), 60.0, None),
    ],
    ids=["at work", "its lease ran out", "it was killed on this machine"],
)
def test_a_schema_is_not_changed_under_a_controller_at_work(
    database_url: str, holder: str, seconds: float, said: str | None
) -> None:
    with Store.open(database_url, create=True) as store:
        store.acquire_lease(store.add_sweep(make_sweep()), holder, seconds)
    downgrade(database_url, "0006")
    if said is None:
        assert migrate.upgrade(database_url).version == "0006"
        assert found_schema(database_url).kind is SchemaKind.CURRENT
    else:
        with pytest.raises(DatabaseError, match=f": sweep 1 {said}"):
            migrate.upgrade(database_url)
        assert found_schema(database_url).version == "0006"


def test_a_current_schema_is_found_so_while_a_controller_is_at_work(database_url: str) -> None:
    with Store.open(database_url, create=True) as store:
        store.acquire_lease(store.add_sweep(make_sweep()), "elsewhere", 60.0)
    assert migrate.upgrade(database_url).kind is SchemaKind.CURRENT


@pytest.mark.parametrize("table", ["customers", "alembic_version"])
def test_the_database_of_another_program_is_refused(database_url: str, tmp_path: Path, table: str) -> None:
    if database_url.startswith("sqlite"):
        (tmp_path / "store.db").touch()
    execute(database_url, f"CREATE TABLE {table} (version_num VARCHAR(32))")
    assert refusal(database_url).endswith("belongs to another program; choose another database")
    with pytest.raises(DatabaseError, match="another program"):
        migrate.upgrade(database_url)


def test_the_file_of_another_program_keeps_every_byte(tmp_path: Path) -> None:
    file = tmp_path / "theirs.db"
    with foreign_database(file, "PRAGMA journal_mode = WAL", "CREATE TABLE customers (name TEXT)"):
        assert "belongs to another program" in refusal(f"sqlite:///{file}")


# ------------------------------------------------------------- files and addresses


def test_a_missing_database_is_not_created_by_reading(tmp_path: Path) -> None:
    file = tmp_path / "missing.db"
    message = refusal(f"sqlite:///{file}", create=False)
    assert message.startswith(f"there is no database at {file}; `dyna-eval submit` creates one")
    assert list(tmp_path.iterdir()) == []


def test_an_empty_database_is_filled_only_when_asked_to(database_url: str, tmp_path: Path) -> None:
    if database_url.startswith("sqlite"):
        (tmp_path / "store.db").touch()
    assert "is empty; `dyna-eval submit`" in refusal(database_url, create=False)
    Store.open(database_url, create=True).close()
    Store.open(database_url, create=False).close()


def test_a_file_of_another_kind_is_refused_and_left_alone(tmp_path: Path) -> None:
    file = tmp_path / "notes.txt"
    file.write_text("not a database\n" * 100)
    assert f"{file}: file is not a database" in refusal(f"sqlite:///{file}")
    assert file.read_text() == "not a database\n" * 100


@pytest.mark.parametrize("kind", ["pipe", "device"])
def test_what_is_no_file_is_refused_before_it_is_read(tmp_path: Path, kind: str) -> None:
    place = Path("/dev/null")
    if kind == "pipe":
        place = tmp_path / "pipe"
        os.mkfifo(place)
    assert refusal(f"sqlite:///{place}").startswith(f"{place} is no file but a device or a pipe; ")


def test_a_folder_that_may_not_be_written_to_is_told_before_anything_runs(tmp_path: Path) -> None:
    """As root without its privileges, which may else write everywhere."""
    folder = tmp_path / "folder"
    folder.mkdir(mode=0o500)
    code = "import sys; from dyna_eval_db.store import Store; Store.check(sys.argv[1])"
    bare = ["setpriv", "--bounding-set=-all", "--inh-caps=-all"] if os.geteuid() == 0 else []
    if bare and shutil.which("setpriv") is None:
        pytest.skip("setpriv is not installed")
    command = [*bare, sys.executable, "-c", code, f"sqlite:///{folder}/store.db"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert f"DatabaseError: cannot write {folder}/store.db; see that you may write" in done.stderr, (
        done.stderr
    )


def test_half_a_file_is_told_to_be_damaged(tmp_path: Path) -> None:
    file = tmp_path / "store.db"
    with Store.open(f"sqlite:///{file}", create=True) as store:
        for number in range(20):
            store.add_sweep(make_sweep(f"sweep {number}"))
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
    with pytest.raises(DatabaseError) as refused, Store.open(f"sqlite:///{file}", create=False) as store:
        store.audit()
    assert str(refused.value).endswith("malformed; the file is damaged, put a copy of it in its place")


@pytest.mark.parametrize(
    ("whole", "damaged"),
    [(b"CREATE TABLE sample", b"CREATE \x9cABLE sample"), (b'"target_digest"', b'"target_digest@')],
    ids=["the schema", "a value"],
)
def test_a_file_with_a_wrong_byte_is_told_to_be_damaged(tmp_path: Path, whole: bytes, damaged: bytes) -> None:
    file = tmp_path / "store.db"
    with Store.open(f"sqlite:///{file}", create=True) as store:
        store.add_sweep(make_sweep())
    assert whole in file.read_bytes()
    file.write_bytes(file.read_bytes().replace(whole, damaged))
    with pytest.raises(DatabaseError) as refused, Store.open(f"sqlite:///{file}", create=False) as store:
        store.record(1)
    assert str(refused.value).endswith("; the file is damaged, put a copy of it in its place")


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        ("UPDATE event SET at = '2026-1@-27 15:18:00.000000'", "Invalid isoformat string: '2026-1@-27"),
        ("UPDATE event SET at = 20261127", "fromisoformat: argument must be str"),
        ("UPDATE calibration SET measured_at = x'32'", "fromisoformat: argument must be str"),
        ("UPDATE sample SET decode_seconds = 'N␤N'", "could not convert string to float: 'N␤N'"),
    ],
)
def test_a_time_or_a_number_with_a_wrong_byte_is_told_to_be_damaged(
    tmp_path: Path, damage: str, said: str
) -> None:
    """SQLite keeps them as it is given them, and gives them out unchecked."""
    file = tmp_path / "store.db"
    with Store.open(f"sqlite:///{file}", create=True) as store:
        sweep_id = store.add_sweep(make_sweep())
        claim = claim_one(store, sweep_id, pair="demo", actor="actor-1", lease_seconds=60.0)
        assert claim is not None
        land_one(store, claim, make_result(claim.job))
    with contextlib.closing(sqlite3.connect(file)) as connection:
        assert connection.execute(damage).rowcount > 0
        connection.commit()
    with pytest.raises(DatabaseError) as refused, Store.open(f"sqlite:///{file}", create=False) as store:
        store.events(sweep_id)
        store.likely_calibrations(make_sweep())
        store.samples(claim.job_id)
    told = str(refused.value)
    assert told.startswith(f"sqlite:///{file}: what is stored cannot be read ({said}")
    assert told.endswith("; the file is damaged, put a copy of it in its place")


def test_a_user_without_rights_is_told_what_to_ask_for(postgres_server: Server) -> None:
    postgres_server.empty()
    with bare_engine(parse_address(postgres_server.url)).begin() as owner:
        owner.execute(text("DROP ROLE IF EXISTS weak"))
        owner.execute(text("CREATE ROLE weak LOGIN"))
    url = postgres_server.url.replace("postgres@", "weak@")
    assert refusal(url).endswith("this user may use none of its schemas; GRANT USAGE, CREATE on one")
    Store.open(postgres_server.url, create=True).close()
    execute(postgres_server.url, "GRANT USAGE ON SCHEMA public TO weak")
    said = refusal(url, create=False)
    assert said.endswith(
        "permission denied for table dyna_eval_schema; grant it to this user, or connect as its owner"
    )


@pytest.mark.usefixtures("store")
def test_a_version_that_never_was_is_refused_in_one_line_and_left_alone(database_url: str) -> None:
    execute(database_url, "UPDATE dyna_eval_schema SET version_num = '0003x'")
    with pytest.raises(DatabaseError) as refused:
        migrate.upgrade(database_url)
    assert re.search(r"cannot be upgraded: .*'0003x'; restore a copy of it$", str(refused.value))
    assert found_schema(database_url).version == "0003x"


def test_a_folder_and_a_missing_folder_are_named(tmp_path: Path) -> None:
    assert refusal(f"sqlite:///{tmp_path}") == f"{tmp_path} is a folder; give the name of a database file"
    nowhere = tmp_path / "nowhere"
    assert f"there is no folder {nowhere}" in refusal(f"sqlite:///{nowhere}/store.db")
    assert not nowhere.exists()
    circle = tmp_path / "circle.db"
    circle.symlink_to(circle)
    assert refusal(f"sqlite:///{circle}") == f"cannot open {circle}: it is a link that leads back to itself"


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read every file")
def test_a_file_that_may_not_be_read_is_reported(tmp_path: Path) -> None:
    file = tmp_path / "store.db"
    Store.open(f"sqlite:///{file}", create=True).close()
    file.chmod(0)
    assert "see that you may write the file and its folder" in refusal(f"sqlite:///{file}")


def test_a_relative_path_stays_the_same_file_when_the_folder_changes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with Store.open("sqlite:///store.db", create=True) as store:
        (tmp_path / "elsewhere").mkdir()
        monkeypatch.chdir(tmp_path / "elsewhere")
        assert store.list_sweeps() == []
    assert list(Path.cwd().iterdir()) == []


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("store.db", "'store.db' is not a database URL; write sqlite:///store.db or postgresql://"),
        ("/data/my.sqlite3", "is not a database URL; write sqlite:////data/my.sqlite3 or postgresql://"),
        ("me:pw@host/store.db", "'***@host/store.db' is not a database URL; write sqlite:///FILE or"),
        ("store", "'store' is not a database URL; write sqlite:///FILE"),
        ("", "is not a database URL"),
        ("mysql://host/name", "unknown kind of database 'mysql'"),
        ("postgresql+asyncpg://host/name", "unknown kind of database 'postgresql+asyncpg'"),
        ("sqlite://", "must be a file"),
        ("sqlite:///:memory:", "must be a file"),
        ("sqlite:///file:store.db?uri=true", "must be a file"),
    ],
)
def test_an_address_that_cannot_be_used_is_explained(url: str, said: str) -> None:
    assert said in refusal(url)


@pytest.mark.parametrize(
    "url",
    [
        "postgresql://user:s3cret@127.0.0.1:1/name",
        "postgres://user:s3cret@127.0.0.1:1/name?sslmode=disable",
        "postgresql://user@127.0.0.1:1/name?password=s3cret",
        "postgresql://user:s3cret@127.0.0.1:port/name",
        "mysql://user:s3cret@host/name",
        "user:s3cret@host",
        "postgresql:/user:s3cret@host/name",
    ],
)
def test_no_error_shows_a_password(url: str) -> None:
    assert "s3cret" not in refusal(url)


def test_a_password_that_is_missing_is_told_where_to_put(monkeypatch: pytest.MonkeyPatch) -> None:
    """The server is no more than Postgres's question for a password."""
    pytest.importorskip("psycopg", reason="psycopg is not installed")
    monkeypatch.setenv("PGPASSFILE", "/nonexistent")
    monkeypatch.delenv("PGPASSWORD", raising=False)
    with socket.create_server(("127.0.0.1", 0)) as server:

        def ask() -> None:
            with contextlib.suppress(OSError):
                while True:
                    connection, _ = server.accept()
                    with connection:
                        connection.recv(1000)
                        connection.sendall(b"R" + struct.pack("!II", 8, 3))
                        connection.recv(1000)

        threading.Thread(target=ask, daemon=True).start()
        port = server.getsockname()[1]
        message = refusal(f"postgresql://me@127.0.0.1:{port}/name?sslmode=disable&gssencmode=disable")
        server.shutdown(socket.SHUT_RDWR)
    assert message.endswith("no password supplied; put it into ~/.pgpass, or into DYNA_EVAL_DB")


def test_a_server_that_does_not_answer_is_reported() -> None:
    pytest.importorskip("psycopg", reason="psycopg is not installed")
    message = refusal("postgresql://user:s3cret@127.0.0.1:1/name")
    assert message.startswith("postgresql://user:***@127.0.0.1:1/name: ")
    assert "refused" in message
