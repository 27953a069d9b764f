"""The name under which a controller holds a sweep's lease: it tells whether that process still lives.

A controller that is killed leaves its lease behind. One on the same machine need not wait for it to run out.
"""

from __future__ import annotations

import os
import socket
import uuid
from pathlib import Path

import psutil


def own_name() -> str:
    """Return a name for this process that no other one has: machine, process number, and a random part."""
    return f"{_machine()}:{os.getpid()}:{uuid.uuid4().hex[:8]}"


def is_gone(name: str) -> bool:
    """Say whether a holder is known to have ended; False where it ran elsewhere, and nothing is known.

    A number that another process has got since counts as alive.
    """
    machine, _, rest = name.partition(":")
    number, _, _ = rest.partition(":")
    if machine != _machine() or not number.isdecimal():
        return False
    try:
        return bool(psutil.Process(int(number)).status() == psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return True


def _machine() -> str:
    """Return the host's name and its table of processes: containers have their own."""
    table = Path("/proc/self/ns/pid")
    return f"{socket.gethostname()}/{table.stat().st_ino}" if table.exists() else socket.gethostname()
