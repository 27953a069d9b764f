"""Ray's token stays between its owner and the cluster."""

from __future__ import annotations

import os
from pathlib import Path
from types import SimpleNamespace

import pytest

from dyna_eval.commands.options import Execution
from dyna_eval.errors import InputError
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
