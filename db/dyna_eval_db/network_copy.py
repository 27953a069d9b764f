"""Reading a SQLite file that lies on a network file system: from a copy of it on a disk of this machine.

SQLite's locks cannot be trusted there, so nobody may write to such a file, nor read it while somebody does. A
file at rest needs no locks: its bytes are copied, and the copy is read.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from sqlalchemy import URL, inspect, select

from dyna_eval.errors import DatabaseAwayError, DatabaseError
from dyna_eval.holder import described, is_gone
from dyna_eval_db.address import parse_address
from dyna_eval_db.columns import database_clock
from dyna_eval_db.engine import bare_engine
from dyna_eval_db.models import LeaseRow
from dyna_eval_db.refusals import reported
from dyna_eval_db.sqlite_file import check_path, lies_on_network

_PARTS = ("", "-wal", "-journal")
"""What a SQLite database is made of, as endings of its file's name: what was committed and is not in the file
yet, and what an interrupted transaction has to take back. `-shm` is made anew from `-wal`."""


@contextmanager
def readable_copy(url: str, tell: Callable[[str], None]) -> Iterator[str]:
    """Give the address at which a database can be read, for the time of a block.

    It is the given one, but for a file on a network file system: that is copied into a temporary folder,
    which `tell` is told in one line. Raises DatabaseError where the file is being written to, or where there
    is no room for the copy.
    """
    address = parse_address(url)
    kind = None
    if address.get_backend_name() == "sqlite":
        path = check_path(address, create=False)
        kind = lies_on_network(path)
    if kind is None:
        yield url
        return
    with _temporary_folder(path) as folder:
        copy = folder / path.name
        _copy_at_rest(path, copy)
        copied = address.set(database=str(copy))
        _refuse_under_controller(copied, path)
        tell(f"{path} lies on a network file system ({kind}): this reads a copy of it, made just now")
        yield copied.render_as_string(hide_password=False)


@contextmanager
def _temporary_folder(path: Path) -> Iterator[Path]:
    """Make a folder for a copy, which only this user may look into."""
    with tempfile.TemporaryDirectory(prefix="dyna-eval-", ignore_cleanup_errors=True) as name:
        folder = Path(name)
        if lies_on_network(folder.resolve()):
            raise DatabaseError(
                f"{path} lies on a network file system, and so does {folder.parent}, where a copy of it would"
                " be read; set TMPDIR to a folder of a local disk"
            )
        yield folder


def _copy_at_rest(path: Path, copy: Path) -> None:
    """Copy a database's files; raises DatabaseAwayError where one of them changes meanwhile."""
    try:
        before = _seen(path)
        for part in before:
            shutil.copyfile(f"{path}{part}", f"{copy}{part}")
        unchanged = _seen(path) == before
    except FileNotFoundError:  # of a part that went away just now
        unchanged = False
    except OSError as error:
        of_source = str(error.filename or "").startswith(str(path))
        advice = "see that you may read it" if of_source else "set TMPDIR to a folder of a disk with room"
        raise DatabaseError(
            f"{path} lies on a network file system, and cannot be copied to {copy.parent} to be read:"
            f" {error.strerror}; {advice}"
        ) from error
    if not unchanged:
        raise DatabaseAwayError(f"{path} lies on a network file system, and {_BEING_WRITTEN}")


_BEING_WRITTEN = "is being written to; read it on the machine that writes it, or when that is done"


def _seen(path: Path) -> dict[str, tuple[int, int, int]]:
    """Return what tells whether one of a database's files has changed, by the ending of its name."""
    found = {}
    for part in _PARTS:
        file = Path(f"{path}{part}")
        if part == "" or file.exists():
            status = file.stat()
            found[part] = status.st_ino, status.st_size, status.st_mtime_ns
    return found


def _refuse_under_controller(copied: URL, path: Path) -> None:
    """Raise DatabaseAwayError where a controller that may be alive holds a sweep of a copied database.

    Between two of its transactions no file changes; its lease tells of it. A file of another program, or of
    an older schema, is refused by who reads it.
    """
    with reported(copied), bare_engine(copied).connect() as connection:
        if not inspect(connection).has_table(LeaseRow.__tablename__):
            return
        alive = select(LeaseRow.sweep_id, LeaseRow.holder).where(LeaseRow.expires_at > database_clock())
        for sweep_id, holder in connection.execute(alive.order_by(LeaseRow.sweep_id)):
            if not is_gone(holder):
                raise DatabaseAwayError(
                    f"{path} lies on a network file system, and sweep {sweep_id} in it is being run by"
                    f" {described(holder)}; look at it on that machine, or when that has ended"
                )
