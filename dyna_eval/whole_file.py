"""Writing a file so that it is whole or as it was, also where the disk is full or the command is stopped."""

from __future__ import annotations

import os
import secrets
import shutil
from pathlib import Path


def write_whole(path: Path, content: bytes) -> None:
    """Write a file beside the place where it is to be, and then put it there; raises OSError.

    A pipe or a device is written to as it is. A new file has the rights of any other new one, and one that
    takes another's place has the rights of that.
    """
    if path.exists() and not path.is_file():
        path.write_bytes(content)
        return
    target = Path(os.path.realpath(path))  # what a link names, not the link, becomes another file
    beside = target.with_name(f".dyna-eval-{secrets.token_hex(8)}.part")
    stream = beside.open("xb")  # never another file, nor through a link
    try:
        with stream:
            if target.exists():
                shutil.copymode(target, beside)
            stream.write(content)
            stream.flush()
            os.fsync(stream.fileno())  # or a power cut after the next step could leave an empty file
        beside.replace(target)
    finally:
        beside.unlink(missing_ok=True)
