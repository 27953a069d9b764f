"""Connecting to a Ray cluster, one that is started here or one that runs already."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import signal
import socket
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import ray

from dyna_eval.errors import InputError, first_line
from dyna_eval.holder import is_gone, own_name
from dyna_eval.running.access import (
    bound_to_loopback,
    check_guarded,
    check_token,
    keep_token_private,
    refusal,
    show_token,
)

_CREDENTIALS = ("DYNA_EVAL_DB", "PGPASSWORD", "PGPASSFILE")
"""Variables that hold a database's password, or name the file that does."""

_FOLDERS = "dyna-eval-ray-"
"""How the names of our folders for Ray's sockets and logs begin."""
_OWNER = "owner"
"""The file in such a folder that names the process which made it."""


@contextmanager
def connected(address: str, *, insecure: bool = False) -> Iterator[str]:
    """Connect to a Ray cluster for the time of a block: `local` starts one, `auto` or host:port joins one.

    Gives HOST:PORT of the cluster's dashboard, which also takes jobs; empty where it has none. Raises
    InputError where the cluster cannot be joined, or asks for no token and `insecure` does not allow that.
    """
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")  # or Ray warns that this will be so
    # Ray's workers yield to whatever else runs (niceness 15), and what they are to measure would be that.
    os.environ.setdefault("RAY_worker_niceness", "0")
    options: dict[str, Any] = {"log_to_driver": False, "logging_level": "ERROR"}
    keep_token_private(create=address == "local")
    folder = _temporary_folder() if address == "local" else None
    if folder is not None:
        options |= {"include_dashboard": False, "_temp_dir": folder}
    on_terminate = signal.getsignal(signal.SIGTERM)
    try:
        loopback = bound_to_loopback() if address == "local" else nullcontext()
        with _without_credentials(), _hangups_held_back(), loopback:
            dashboard = _join(address, options, insecure=insecure)
        signal.signal(signal.SIGTERM, on_terminate)  # Ray's own handler would end the process here and now
        yield dashboard
    finally:
        ray.shutdown()
        if folder is not None:
            shutil.rmtree(folder, ignore_errors=True)  # logs of Ray's own processes, and their sockets


@contextmanager
def _without_credentials() -> Iterator[None]:
    """Keep a database's credentials out of the environment that processes started in this block inherit.

    They come back at the end: this process itself reads them whenever it connects to the database again.
    """
    held = {name: os.environ.pop(name) for name in _CREDENTIALS if name in os.environ}
    try:
        yield
    finally:
        os.environ.update(held)


@contextmanager
def _hangups_held_back() -> Iterator[None]:
    """Let a terminal that closes end this process, if only after the block, but none that the block starts.

    They inherit that the signal is blocked, which the whole process group gets: this process ends them in
    order, once their jobs are back in the queue.
    """
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGHUP})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _join(address: str, options: dict[str, Any], *, insecure: bool) -> str:
    named = os.environ.get("RAY_ADDRESS", "auto") if address == "auto" else address
    if named not in ("local", "auto"):
        _check_reachable(named)
        if not insecure:  # before our own token is shown to it
            check_guarded(named)
            show_token()
            check_token(named)
    try:
        dashboard = str(ray.init(address=address, **options).dashboard_url or "")
    except SystemExit:  # Ray's answer to SIGTERM while it starts
        raise KeyboardInterrupt from None
    except ray.exceptions.AuthenticationError as error:
        raise InputError(refusal(address)) from error
    except Exception as error:  # a wrong token is a ConnectionError, a node slow to start a bare Exception
        advice = "start a cluster there, put its token into ~/.ray/auth_token, or leave out --address"
        if address == "local":
            advice = "try again when this machine is less busy"
        raise InputError(
            f"cannot connect to Ray at {address!r}: {first_line(error).rstrip('.')}; {advice}"
        ) from error
    if named == "auto" and not insecure:
        check_guarded(ray.get_runtime_context().gcs_address)
    return dashboard


def _check_reachable(address: str) -> None:
    """Refuse at once what Ray would try for many minutes, deaf to Ctrl-C."""
    found = re.fullmatch(r"(?P<host>[^/\s]+):(?P<port>[0-9]{1,5})", address)
    if found is None:
        raise InputError(f"cannot connect to Ray at {address!r}: --address is local, auto or HOST:PORT")
    try:
        socket.create_connection((found["host"].strip("[]"), int(found["port"])), timeout=10).close()
    except (OSError, OverflowError, UnicodeError) as error:
        raise InputError(
            f"cannot connect to Ray at {address!r}: {first_line(error)}; "
            "start a cluster there, or leave out --address"
        ) from error


def _temporary_folder() -> str:
    """Return a short folder for Ray's sockets, whose paths may have at most 107 bytes.

    The folders of processes that were killed are removed on the way.
    """
    short = Path("/tmp")  # noqa: S108  # mkdtemp makes a private folder in it
    parent = short if os.access(short, os.W_OK) else Path(tempfile.gettempdir())
    _remove_stale(parent)
    folder = tempfile.mkdtemp(prefix=_FOLDERS, dir=parent)
    (Path(folder) / _OWNER).write_text(own_name(), encoding="utf-8")
    return folder


def _remove_stale(parent: Path) -> None:
    """Remove this user's folders whose processes are known to have ended; what else lies there stays."""
    for folder in parent.glob(f"{_FOLDERS}*"):
        with contextlib.suppress(OSError):  # it has no owner's name, or another command removes it
            is_own = not folder.is_symlink() and folder.stat().st_uid == os.geteuid()
            if is_own and is_gone((folder / _OWNER).read_text(encoding="utf-8", errors="replace")):
                shutil.rmtree(folder, ignore_errors=True)
