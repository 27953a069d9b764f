"""Ray's token stays between its owner and the cluster."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from dyna_eval.commands.options import Execution
from dyna_eval.errors import InputError
from dyna_eval.holder import is_gone, own_name
from dyna_eval.running import connection
from dyna_eval.running.access import keep_token_private


@pytest.fixture
def token(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where the token of a user without any settings lies."""
    for name in ("RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH", "RAY_AUTH_MODE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    return tmp_path / ".ray/auth_token"


def test_a_token_that_is_made_is_for_its_owner_alone(token: Path) -> None:
    before = os.umask(0)
    try:
        keep_token_private(create=True)
    finally:
        os.umask(before)
    assert token.stat().st_mode & 0o777 == 0o600
    made = token.read_text()
    assert len(made) == 64
    keep_token_private(create=True)
    assert token.read_text() == made


def test_a_token_that_others_could_read_is_closed_to_them(token: Path) -> None:
    token.parent.mkdir()
    token.write_text("0" * 64)
    token.chmod(0o644)
    keep_token_private(create=False)
    assert token.stat().st_mode & 0o777 == 0o600


def test_a_token_that_cannot_be_closed_to_others_is_refused(
    token: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A file of /proc, whose mode nobody can change."""
    monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", "/proc/self/status")
    with pytest.raises(InputError, match=r"^/proc/self/status: .*let its owner set mode 0600"):
        keep_token_private(create=False)
    monkeypatch.setenv("RAY_AUTH_TOKEN", "0" * 64)  # the file is then not used
    keep_token_private(create=False)
    assert not token.exists()


def test_without_a_home_folder_the_token_has_no_place(token: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As in a container whose user is a number that no list of users knows."""
    monkeypatch.delenv("HOME")
    monkeypatch.setattr(os, "getuid", lambda: 4_000_000)
    with pytest.raises(InputError, match="set HOME to one"):
        keep_token_private(create=True)
    monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", str(token))
    keep_token_private(create=True)
    assert token.exists()


def test_no_token_is_made_where_none_is_wanted(token: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    keep_token_private(create=False)
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")
    keep_token_private(create=True)
    assert not token.exists()


@pytest.mark.usefixtures("token")
def test_workers_that_are_started_here_take_turns_with_other_processes_as_equals(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Ray gives them the lowest priority unless told otherwise, so that others slow what is timed."""
    told: list[str | None] = []

    def start(**_: object) -> SimpleNamespace:
        told.append(os.environ.get("RAY_worker_niceness"))  # noqa: SIM112 - Ray's own name
        return SimpleNamespace(dashboard_url="")

    monkeypatch.setattr(connection.ray, "init", start)
    monkeypatch.delenv("RAY_worker_niceness", raising=False)
    with connection.connected("local"):
        pass
    monkeypatch.setenv("RAY_worker_niceness", "5")
    with connection.connected("local"):
        pass
    assert told == ["0", "5"]


def test_what_ray_starts_inherits_no_credentials_of_a_database_and_the_controller_keeps_them(
    token: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A controller reads them again when it connects anew to a server that was away."""
    held = {"DYNA_EVAL_DB": "postgresql://u:p@h/d", "PGPASSWORD": "secret", "PGPASSFILE": "/home/me/.pgpass"}
    for name, value in held.items():
        monkeypatch.setenv(name, value)
    inherited: list[dict[str, str]] = []

    def start(**_: object) -> SimpleNamespace:
        inherited.append(dict(os.environ))
        return SimpleNamespace(dashboard_url="")

    monkeypatch.setattr(connection.ray, "init", start)
    with connection.connected("auto", insecure=True):
        assert {name: os.environ.get(name) for name in held} == held
    [environment] = inherited
    assert not held.keys() & environment.keys()
    assert environment["HOME"] == str(token.parents[1])


@pytest.mark.usefixtures("token")
def test_a_terminal_that_closes_ends_no_process_of_ray_and_the_command_once_ray_has_started(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    held: list[bool] = []

    def start(**_: object) -> SimpleNamespace:
        held.append(
            signal.SIGHUP in signal.pthread_sigmask(signal.SIG_BLOCK, ())
        )  # as what is started has it
        signal.raise_signal(signal.SIGHUP)
        held.append(True)
        return SimpleNamespace(dashboard_url="")

    monkeypatch.setattr(connection.ray, "init", start)
    monkeypatch.setattr(connection, "_temporary_folder", lambda: str(tmp_path / "folder"))
    (tmp_path / "folder").mkdir()
    before = signal.signal(signal.SIGHUP, signal.default_int_handler)
    try:
        with pytest.raises(KeyboardInterrupt), connection.connected("local"):
            pytest.fail("the command went on")
    finally:
        signal.signal(signal.SIGHUP, before)
    assert held == [True, True]
    assert signal.SIGHUP not in signal.pthread_sigmask(signal.SIG_BLOCK, ())
    assert not (tmp_path / "folder").exists()


def ray_folder(parent: Path, name: str, owner: str | None) -> Path:
    """Make a folder as a command makes it for Ray, of a process that is named so, or of none."""
    folder = parent / f"{connection._FOLDERS}{name}"
    (folder / "session").mkdir(parents=True)
    if owner is not None:
        (folder / connection._OWNER).write_text(owner)
    return folder


@pytest.fixture
def ended() -> str:
    """The number of a process that has ended."""
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    return str(process.pid)


def test_folders_for_ray_are_removed_where_their_process_was_killed_and_no_others(
    tmp_path: Path, ended: str
) -> None:
    """A number alone tells nothing: other machines and containers may share the folder."""
    machine, own, _ = own_name().split(":")
    killed = ray_folder(tmp_path, "killed", f"{machine}:{ended}:x")
    linked = ray_folder(tmp_path / "elsewhere", "linked", f"{machine}:{ended}:x")
    (tmp_path / f"{connection._FOLDERS}link").symlink_to(linked)
    kept = [
        ray_folder(tmp_path, "living", f"{machine}:{own}:x"),
        ray_folder(tmp_path, "container", f"another/1:{ended}:x"),
        ray_folder(tmp_path, "unnamed", None),
        linked,
    ]
    connection._remove_stale(tmp_path)
    assert not killed.exists()
    assert all((folder / "session").exists() for folder in kept)


def test_another_users_folder_for_ray_is_left_alone(
    tmp_path: Path, ended: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    theirs = ray_folder(tmp_path, "theirs", own_name().replace(f":{os.getpid()}:", f":{ended}:"))
    monkeypatch.setattr(os, "geteuid", lambda: tmp_path.stat().st_uid + 1)
    connection._remove_stale(tmp_path)
    assert theirs.exists()


def test_a_folder_for_ray_names_its_process_and_replaces_those_of_killed_ones(
    tmp_path: Path, ended: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    killed = ray_folder(tmp_path, "killed", own_name().replace(f":{os.getpid()}:", f":{ended}:"))
    monkeypatch.setattr(connection.tempfile, "gettempdir", lambda: str(tmp_path))
    monkeypatch.setattr(os, "access", lambda *_: False)
    made = Path(connection._temporary_folder())
    assert list(tmp_path.iterdir()) == [made]
    owner = (made / connection._OWNER).read_text()
    assert not is_gone(owner)
    assert is_gone(owner.replace(f":{os.getpid()}:", f":{ended}:"))
    assert not killed.exists()


@pytest.mark.parametrize(
    ("gpus", "options"),
    [(None, []), (2, ["--gpus-per-pair", "2"]), (0.5, ["--gpu-fraction", "0.5"])],
)
def test_a_detached_run_is_told_how_to_run(gpus: float | None, options: list[str]) -> None:
    execution = Execution(
        address="auto", cpus_per_pair=3, gpus_per_pair=gpus, insecure=True, fail_fast=True, detach=True
    )
    assert execution.as_options() == ["--cpus-per-pair", "3", *options, "--insecure", "--fail-fast"]


def test_the_command_that_goes_on_with_a_sweep_names_the_cluster_that_it_ran_on() -> None:
    def command(address: str, *, insecure: bool) -> str:
        execution = Execution(
            address=address,
            cpus_per_pair=None,
            gpus_per_pair=None,
            insecure=insecure,
            fail_fast=False,
            detach=False,
        )
        return execution.command("resume", 7)

    assert command("local", insecure=False) == "dyna-eval resume 7"
    assert command("auto", insecure=False) == "dyna-eval resume 7 --address auto"
    assert command("head:6379", insecure=True) == "dyna-eval resume 7 --address head:6379 --insecure"
