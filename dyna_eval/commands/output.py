"""What commands write: JSON and nothing else on stdout, and files that replace nobody else's."""

from __future__ import annotations

import contextlib
import json
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import click

from dyna_eval.errors import InputError
from dyna_eval.whole_file import write_whole


def print_json(value: object, *, indent: int | None = 2) -> None:
    """Print a value as JSON; where stdout cannot write its characters, with JSON's own escapes for them.

    Without `indent` it is one line.
    """
    text = json.dumps(value, indent=indent, ensure_ascii=False)
    try:
        text.encode(sys.stdout.encoding or "utf-8")
    except UnicodeEncodeError:
        text = json.dumps(value, indent=indent)
    click.echo(text)


@contextlib.contextmanager
def stdout_kept_clean() -> Iterator[None]:
    """Send whatever libraries and Ray's processes print on stdout to stderr, for the time of a block."""
    sys.stdout.flush()
    kept = os.dup(1)
    os.dup2(2, 1)
    try:
        yield
    finally:
        sys.stdout.flush()
        os.dup2(kept, 1)
        os.close(kept)


def write_own(path: Path, text: str, *, is_own: Callable[[bytes], bool]) -> None:
    """Write a file, and say so on stderr.

    `is_own` tells by its content whether a file is one that dyna-eval may write anew; an empty one always is,
    and pipes and devices are just written to. Raises InputError where another file stands there, or where
    nothing can be written.
    """
    try:
        if path.is_file() and path.stat().st_size and not is_own(path.read_bytes()):
            raise not_ours(path)
        write_whole(path, text.encode())
    except OSError as error:
        raise unwritable(path, error) from error
    click.echo(f"wrote {path}", err=True)


def not_ours(path: Path) -> InputError:
    """Return what to say where a file stands that would be lost."""
    return InputError(f"{path}: exists, and is not as dyna-eval wrote it; move it away, or name another file")


def unwritable(path: Path, error: OSError) -> InputError:
    return InputError(f"{path}: cannot be written: {error.strerror}; name another file")
