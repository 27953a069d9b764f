"""SQLite files on network file systems: what only reads them does so from a copy, all else refuses them."""

from __future__ import annotations

import shutil
import sqlite3
import tempfile
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from claims import claim_one, land_one
from click.testing import CliRunner, Result
from dyna_eval_db import network_copy, sqlite_file
from dyna_eval_db.engine import wal_is_safe
from dyna_eval_db.store import Store
from measurements import make_result, make_sentinel, make_sweep

from dyna_eval.cli import cli, run
from tests.result_files import FOUR_STEPS, dynatree, write

HOLDER = "elsewhere/boot/1:12:abcd"


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder that looks as if it were mounted from a server; copies go into another one, `local`."""
    folder, local = tmp_path / "home", tmp_path / "local"
    folder.mkdir()
    local.mkdir()
    mounts = tmp_path / "mounts"
    mounts.write_text(f"/dev/vda / ext4 rw 0 0\nserver:/home {folder} nfs4 rw 0 0\n")
    monkeypatch.setattr(sqlite_file, "_MOUNTS", mounts)
    monkeypatch.setattr(tempfile, "tempdir", str(local))
    monkeypatch.chdir(tmp_path)
    return folder


@pytest.fixture
def elsewhere(home: Path, empty_file: Path) -> Path:
    """A file of one measured sweep on a local disk."""
    file = home.parent / "results.db"
    shutil.copy(empty_file, file)
    with Store.open(f"sqlite:///{file}", create=False) as store:
        sweep_id = store.add_sweep(make_sweep())
        while claim := claim_one(store, sweep_id, pair="demo", actor="actor-1", lease_seconds=60.0):
            land_one(store, claim, make_result(claim.job, sentinels=[make_sentinel()]))
    return file


@pytest.fixture
def fetched(home: Path, elsewhere: Path) -> Path:
    """The same, fetched into the home."""
    return Path(shutil.copy(elsewhere, home / "results.db"))


def ask(*words: str) -> Result:
    return CliRunner().invoke(cli, words, catch_exceptions=False)


READING = [
    ("report", "--json"),
    ("report", "--spec-bench", "answers", "--markdown"),
    ("compare", "1", "1"),
    ("status",),
    ("ls",),
    ("show", "1"),
    ("logs",),
    ("db", "check"),
    ("pairs", "list"),
]


@pytest.mark.parametrize("words", READING, ids=" ".join)
def test_what_only_reads_says_in_one_line_that_it_reads_a_copy(
    fetched: Path, elsewhere: Path, words: tuple[str, ...]
) -> None:
    wanted = ask(*words, "--db", f"sqlite:///{elsewhere}")
    content = fetched.read_bytes()
    found = ask(*words, "--db", f"sqlite:///{fetched}")
    assert (found.exit_code, found.stdout) == (0, wanted.stdout.replace(str(elsewhere), str(fetched)))
    said = [line for line in found.stderr.splitlines() if "network" in line]
    assert said == [f"{fetched} lies on a network file system (nfs4): this reads a copy of it, made just now"]
    assert [path.name for path in fetched.parent.iterdir()] == ["results.db"]
    assert fetched.read_bytes() == content
    assert list((fetched.parents[1] / "local").iterdir()) == []


def test_a_page_and_a_paper_are_written_from_one_copy(fetched: Path) -> None:
    done = ask("report", "--html", "page.html", "--tex-document", "a.tex", "--db", f"sqlite:///{fetched}")
    assert (done.exit_code, done.stderr.count("a copy of it")) == (0, 1)
    assert "+ Tree" in Path("page.html").read_text()
    checked = ask("report", "--check", "a.tex", "--db", f"sqlite:///{fetched}")
    assert (checked.exit_code, "0 differences" in checked.stdout) == (0, True)


def test_a_copy_has_what_is_committed_and_not_in_the_file_yet(home: Path, empty_file: Path) -> None:
    file = Path(shutil.copy(empty_file, home.parent / "open.db"))
    with Store.open(f"sqlite:///{file}", create=False) as store:
        store.add_sweep(make_sweep())
        for path in home.parent.glob("open.db*"):
            shutil.copy(path, home)  # as a machine that went down would leave it
        has_wal = (home / "open.db-wal").exists() and (home / "open.db-wal").stat().st_size > 0
    assert has_wal == wal_is_safe(sqlite3.sqlite_version_info)
    listed = ask("ls", "--db", f"sqlite:///{home}/open.db")
    assert "four-step: queued; 4 queued" in listed.stdout


def test_a_link_to_a_file_on_a_network_is_read_from_a_copy(fetched: Path) -> None:
    Path("link.db").symlink_to(fetched)
    listed = ask("ls", "--db", "sqlite:///link.db")
    assert (listed.exit_code, listed.stderr.count("a copy of it")) == (0, 1)


# ------------------------------------------------------------------ while it is written


def complaint(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    """Run a command that is refused, and return its one line."""
    capsys.readouterr()
    assert run(list(words)) == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    [line] = printed.err.splitlines()
    return line


def test_a_file_that_a_controller_works_on_is_not_read(
    fetched: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The machine whose disk it is may run it there; between two jobs nothing of the file changes."""
    with monkeypatch.context() as there:
        there.setattr(sqlite_file, "_MOUNTS", Path("/nowhere"))
        with Store.open(f"sqlite:///{fetched}", create=False) as store:
            assert store.acquire_lease(1, HOLDER, 60.0)
    said = complaint(capsys, "report", "--db", f"sqlite:///{fetched}")
    assert f"{fetched} lies on a network file system, and sweep 1 in it is being run by process 12" in said
    assert "on elsewhere; look at it on that machine, or when that has ended" in said

    with monkeypatch.context() as there:
        there.setattr(sqlite_file, "_MOUNTS", Path("/nowhere"))
        with Store.open(f"sqlite:///{fetched}", create=False) as store:
            assert store.acquire_lease(1, HOLDER, -1.0)
    assert ask("report", "--db", f"sqlite:///{fetched}").exit_code == 0


def test_a_file_that_changes_while_it_is_copied_is_not_read(
    fetched: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    copy: Callable[..., Any] = shutil.copyfile

    def copy_under_a_writer(source: str, target: str) -> None:
        copy(source, target)
        with closing(sqlite3.connect(fetched)) as connection, connection:
            connection.execute("UPDATE sweep SET name = 'other'")

    monkeypatch.setattr(network_copy.shutil, "copyfile", copy_under_a_writer)
    said = complaint(capsys, "report", "--db", f"sqlite:///{fetched}")
    assert "is being written to; read it on the machine that writes it, or when that is done" in said
    assert list((fetched.parents[1] / "local").iterdir()) == []


def test_without_a_local_folder_for_the_copy_it_says_how_to_name_one(
    fetched: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(fetched.parent))
    assert "set TMPDIR to a folder of a local disk" in complaint(capsys, "ls", "--db", f"sqlite:///{fetched}")


def test_a_file_that_is_not_there_or_of_another_kind_is_refused_as_on_a_local_disk(
    home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert f"there is no database at {home}/none.db" in complaint(
        capsys, "ls", "--db", f"sqlite:///{home}/none.db"
    )
    (home / "text.db").write_text("no database" * 100)
    assert "file is not a database" in complaint(capsys, "ls", "--db", f"sqlite:///{home}/text.db")


# --------------------------------------------------------------------- what writes

SWEEP = "pair: demo\nprompts: {dataset: demo}\nconfigs:\n  - {label: Baseline, method: ar}\n"


@pytest.mark.parametrize(
    "words",
    [
        ("submit", "sweep.yaml"),
        ("resume",),
        ("retry",),
        ("cancel",),
        ("import", "a.json"),
        ("db", "upgrade"),
        ("dashboard", "--port", "0"),
        ("logs", "--follow"),
    ],
    ids=" ".join,
)
def test_what_writes_or_watches_refuses_a_network(
    fetched: Path, capsys: pytest.CaptureFixture[str], words: tuple[str, ...]
) -> None:
    Path("sweep.yaml").write_text(SWEEP)
    write(Path(), "a.json", dynatree(FOUR_STEPS))
    content = fetched.read_bytes()
    said = complaint(capsys, *words, "--db", f"sqlite:///{fetched}")
    assert "network file system" in said
    assert "choose a folder of a local disk, or use Postgres" in said
    assert fetched.read_bytes() == content
