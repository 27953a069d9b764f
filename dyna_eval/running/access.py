"""Who may use a Ray cluster: whether it asks for a token, who can read ours, who can reach a local one."""

from __future__ import annotations

import contextlib
import os
import secrets
from collections.abc import Iterator
from pathlib import Path

import grpc
from ray._private import ray_constants
from ray._raylet import Config  # type: ignore[attr-defined]  # compiled, and without types

from dyna_eval.errors import InputError, first_line

_PROBE_SECONDS = 10.0
_OPEN_TO_OTHERS = 0o077


def check_guarded(address: str) -> None:
    """Raise InputError where a cluster answers someone without a token: whoever reaches it rules it.

    `address` is HOST:PORT of its control service. What this process was told of tokens says nothing about
    the cluster, so it is asked.
    """
    try:
        _ask(address)
    except grpc.RpcError as error:
        if error.code() is grpc.StatusCode.UNAUTHENTICATED:
            return
        raise InputError(
            f"cannot tell whether the Ray cluster at {address} asks for a token:"
            f" {first_line(error) if error.details() is None else error.details()};"
            " --insecure joins it nevertheless"
        ) from error
    raise InputError(
        f"the Ray cluster at {address} asks for no token, so whoever reaches it can run anything there;"
        " start it with RAY_AUTH_MODE=token, or join it with --insecure"
    )


def check_token(address: str) -> None:
    """Raise InputError where a cluster refuses our token: Ray would try it for 20 s, and warn each second."""
    if os.environ.get("RAY_AUTH_MODE", "").lower() != "token":
        return
    token = os.environ.get("RAY_AUTH_TOKEN")
    if not token:
        with contextlib.suppress(OSError, UnicodeDecodeError):  # what Ray tells of a missing one
            token = _token_file().read_text(encoding="ascii").strip()
    if token:
        try:
            _ask(address, ("authorization", f"Bearer {token}"))
        except (grpc.RpcError, ValueError) as error:  # no header holds such a token
            if isinstance(error, ValueError) or error.code() is grpc.StatusCode.UNAUTHENTICATED:
                raise InputError(refusal(address)) from error


def refusal(address: str) -> str:
    """Return what to say of a cluster that took no token, or not ours."""
    return (
        f"the Ray cluster at {address!r} asks for a token;"
        " put its token into ~/.ray/auth_token, and leave RAY_AUTH_MODE unset or at token"
    )


def _ask(address: str, *headers: tuple[str, str]) -> None:
    """Ask a cluster's control service whether it lives; raises grpc.RpcError where it does not say so."""
    with grpc.insecure_channel(address) as channel:
        is_alive = channel.unary_unary("/ray.rpc.NodeInfoGcsService/CheckAlive")
        is_alive(b"", timeout=_PROBE_SECONDS, metadata=headers)


def show_token() -> None:
    """Let this process show its token to a cluster that asks for one, unless RAY_AUTH_MODE says otherwise.

    Ray shows none to a cluster that is named by HOST:PORT, and then tries for a long time.
    """
    if "RAY_AUTH_MODE" not in os.environ:
        os.environ["RAY_AUTH_MODE"] = "token"
        Config.initialize("")  # it read the variable when Ray was imported


def keep_token_private(*, create: bool) -> None:
    """Let nobody else read the file of Ray's token, and with `create` make one where there is none.

    Ray itself makes it readable by all. Raises InputError where that cannot be changed.
    """
    if os.environ.get("RAY_AUTH_TOKEN") or os.environ.get("RAY_AUTH_MODE", "token").lower() != "token":
        return
    file = _token_file()
    try:
        if create:
            _create(file)
        if file.exists() and file.stat().st_mode & _OPEN_TO_OTHERS:
            file.chmod(0o600)
    except OSError as error:
        raise InputError(
            f"{file}: Ray's token cannot be kept from other users of this machine ({first_line(error)});"
            " let its owner set mode 0600, or put the token into RAY_AUTH_TOKEN"
        ) from error


def _token_file() -> Path:
    """Return where Ray looks for its token; raises InputError where there is no home folder for it."""
    named = os.environ.get("RAY_AUTH_TOKEN_PATH")
    try:
        return Path(named) if named else Path.home() / ".ray" / "auth_token"
    except RuntimeError as error:
        raise InputError(
            "this user has no home folder, where Ray keeps its token; set HOME to one"
        ) from error


def _create(file: Path) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    with contextlib.suppress(FileExistsError):
        number = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(number, "w", encoding="ascii") as stream:
            stream.write(secrets.token_hex(32))


@contextlib.contextmanager
def bound_to_loopback() -> Iterator[None]:
    """Let a cluster that is started in this block listen on 127.0.0.1 alone, whatever its processes.

    On Linux Ray replaces 127.0.0.1 by the machine's address and listens on every one. It does not where
    clusters of several machines are switched off, as they are on other systems.
    """
    variable, switch = "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER", "ENABLE_RAY_CLUSTER"
    told, clusters = os.environ.get(variable), getattr(ray_constants, switch)
    os.environ[variable] = "0"
    setattr(ray_constants, switch, False)  # it read the variable when it was imported
    try:
        yield
    finally:
        setattr(ray_constants, switch, clusters)
        os.environ.pop(variable)
        if told is not None:
            os.environ[variable] = told
