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
        os.kill(int(number), 0)  # signal 0 only asks
        return bool(psutil.Process(int(number)).status() == psutil.STATUS_ZOMBIE)
    except ProcessLookupError:
        return True
    except (PermissionError, psutil.Error):  # it lives, and is another user's, whose processes may be hidden
        return False


def described(name: str) -> str:
    """Return a holder's name as people say it: its process and the name of its host."""
    machine, _, rest = name.partition(":")
    number, _, _ = rest.partition(":")
    return f"process {number} on {machine.partition('/')[0]}" if number.isdecimal() else name


def _machine() -> str:
    """Return the host's name, its boot (copies of a machine share the name), and its table of processes, of
    which containers have their own."""
    name, boot, table = (
        socket.gethostname(),
        Path("/proc/sys/kernel/random/boot_id"),
        Path("/proc/self/ns/pid"),
    )
    if not (boot.exists() and table.exists()):
        return name
    return f"{name}/{boot.read_text().strip()}/{table.stat().st_ino}"
