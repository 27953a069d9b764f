"""Writing a file so that it is whole or as it was, also where the disk is full or the command is stopped."""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import IO


def write_whole(path: Path, content: bytes) -> None:
    """Write a file beside the place where it is to be, and then put it there; raises OSError.

    A pipe or a device is written to as it is. A new file has the rights of any other new one, and one that
    takes another's place has the rights of that.
    """
    with whole_file(path) as stream:
        stream.write(content)


@contextlib.contextmanager
def whole_file(path: Path) -> Iterator[IO[bytes]]:
    """Yield what to write to for a file too large to be held: as `write_whole`, once the block has ended.

    Where the block raises, nothing changes but what a pipe or a device has got already.
    """
    if path.exists() and not path.is_file():
        with path.open("wb") as stream:
            yield stream
        return
    target = Path(os.path.realpath(path))  # what a link names, not the link, becomes another file
    beside = target.with_name(f".dyna-eval-{secrets.token_hex(8)}.part")
    stream = beside.open("xb")  # never another file, nor through a link
    try:
        with stream:
            if target.exists():
                shutil.copymode(target, beside)
            yield stream
            stream.flush()
            os.fsync(stream.fileno())  # or a power cut after the next step could leave an empty file
        beside.replace(target)
    finally:
        beside.unlink(missing_ok=True)
