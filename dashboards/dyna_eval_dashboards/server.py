"""Serving the application until the process is told to stop."""

from __future__ import annotations

import socket
from collections.abc import Callable

import uvicorn
from dyna_eval_db.watching import WatchedStore

from dyna_eval_dashboards.app import create_app
from dyna_eval_dashboards.safety import Access, is_wildcard


def serve(
    database: str,
    *,
    bind: str,
    port: int,
    allowed: tuple[str, ...] = (),
    token: str | None = None,
    ready: Callable[[str], None],
) -> None:
    """Serve the pages of a database; `ready` is told their address once browsers can connect.

    Raises DatabaseError, InputError, and OSError where the address cannot be listened on.
    """
    access = Access.of(bind, allowed=allowed, token=token)
    store = WatchedStore.open(database)
    family = socket.AF_INET6 if ":" in bind else socket.AF_INET
    with socket.create_server((bind, port), family=family, backlog=128) as listener:
        address = _address(bind, listener.getsockname()[1], access)
        config = uvicorn.Config(
            create_app(store, access),
            access_log=False,  # addresses may hold the token
            log_level="error",
            server_header=False,
            ws="none",
            timeout_graceful_shutdown=2,
        )
        ready(address)
        uvicorn.Server(config).run(sockets=[listener])


def _address(bind: str, port: int, access: Access) -> str:
    """Return the address to open, with the token if one is asked for."""
    name = min(access.hosts) if is_wildcard(bind) else bind
    name = f"[{name}]" if ":" in name else name
    return f"http://{name}:{port}/" + (f"?token={access.token}" if access.token else "")
