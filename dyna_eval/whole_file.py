"""Writing a file so that it is whole or as it was, also where the disk is full or the command is stopped."""

from __future__ import annotations

import os
import shutil
from pathlib import Path


def write_whole(path: Path, content: bytes) -> None:
    """Write a file beside the place where it is to be, and then put it there; raises OSError.

    A pipe or a device is written to as it is.
    """
    if path.exists() and not path.is_file():
        path.write_bytes(content)
        return
    target = Path(os.path.realpath(path))  # what a link names, not the link, becomes another file
    beside = target.with_name(f".dyna-eval-{os.getpid()}.part")
    try:
        beside.write_bytes(content)
        if target.exists():
            shutil.copymode(target, beside)
        beside.replace(target)
    finally:
        beside.unlink(missing_ok=True)
