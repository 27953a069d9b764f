"""The file of a SQLite database: where it may lie, and what it takes to open or to fill it."""

from __future__ import annotations

import os
import re
from pathlib import Path

from sqlalchemy import URL

from dyna_eval.errors import DatabaseError, MissingDatabaseError
from dyna_eval_db.refusals import MAY_WRITE

_NETWORK_FILE_SYSTEMS = frozenset(
    {
        "nfs",
        "nfs4",
        "cifs",
        "smb3",
        "smbfs",
        "lustre",
        "ceph",
        "beegfs",
        "fhgfs",
        "gpfs",
        "afs",
        "wekafs",
        "panfs",
        "pvfs2",
        "dvs",
    }
)
"""Types that several machines write at once without the locks that SQLite relies on.

9p and virtiofs are not among them: they carry the own disks of containers and virtual machines.
"""
_LOCAL_FUSE = frozenset(
    {
        "fuse.bindfs",
        "fuse.encfs",
        "fuse.exfat",
        "fuse.fuse-overlayfs",
        "fuse.fuse2fs",
        "fuse.gocryptfs",
        "fuse.grpcfuse",
        "fuse.lxcfs",
        "fuse.mergerfs",
        "fuse.ntfs-3g",
        "fuse.osxfs",
        "fuse.unionfs",
        "fuse.vmhgfs-fuse",
    }
)
"""What programs serve from a disk of this machine, or of the one that its container or virtual machine is on.

Every other type of FUSE counts as a network's (sshfs, s3fs, gcsfuse, JuiceFS, GlusterFS and many more), also
one without a name of its own. A whole disk served by a program has the type fuseblk.
"""


_MOUNTS = Path("/proc/self/mounts")


def check_file(address: URL, *, create: bool) -> None:
    """Refuse a SQLite file that cannot be or lies on a network; one that is not there or may not be written
    to, where `create` says that it is to be filled, and one that is not there where it is to be read."""
    if address.get_backend_name() != "sqlite":
        return
    path = check_path(address, create=create)
    kind = lies_on_network(path)
    if kind is not None:
        raise DatabaseError(
            f"{address.database} lies on a network file system, or may do so ({kind}), where SQLite's locks"
            " cannot be trusted; choose a folder of a local disk, or use Postgres"
        )


def check_path(address: URL, *, create: bool) -> Path:
    """Return where a SQLite file is, links followed; refuse it as `check_file` does, but for a network."""
    path = Path(str(address.database))
    try:
        resolved = path.resolve()
        _check_path(path, create=create)
    except OSError as error:  # no permission to look, or a name that is too long
        raise DatabaseError(f"cannot open {path}: {error.strerror}; choose another file") from error
    except RuntimeError as error:
        raise DatabaseError(f"cannot open {path}: it is a link that leads back to itself") from error
    return resolved


def lies_on_network(path: Path) -> str | None:
    """Return the type of a path's file system where it is or may be a network's, else None."""
    if not _MOUNTS.exists():
        return None
    return network_file_system(path, _MOUNTS.read_text(errors="replace"))


def _check_path(path: Path, *, create: bool) -> None:
    if path.is_dir():
        raise DatabaseError(f"{path} is a folder; give the name of a database file")
    if not path.parent.is_dir():
        raise DatabaseError(f"cannot open {path}: there is no folder {path.parent}")
    if path.exists() and not path.is_file():
        raise DatabaseError(f"{path} is no file but a device or a pipe; give the name of a database file")
    if not create and not path.exists():
        raise MissingDatabaseError(
            f"there is no database at {path}; `dyna-eval submit` creates one, --db names another"
        )
    places = (path.parent, path) if path.exists() else (path.parent,)  # a journal is made beside the file
    if create and not all(os.access(place, os.W_OK) for place in places):
        raise DatabaseError(f"cannot write {path}; {MAY_WRITE}")


def network_file_system(path: Path, mounts: str) -> str | None:
    """Return the type of the file system that holds a path where it is or may be a network's, else None.

    mounts: the text of /proc/self/mounts, with lines of device, folder, type and options.
    """
    found, kind = Path("/"), ""
    for line in mounts.splitlines():
        _device, folder, type_name, *_ = line.split(" ")
        mounted = Path(re.sub(r"\\(\d{3})", lambda code: chr(int(code[1], 8)), folder))
        if path.is_relative_to(mounted) and len(mounted.parts) >= len(found.parts):
            found, kind = mounted, type_name
    by_program = kind == "fuse" or kind.startswith("fuse.")
    networked = kind not in _LOCAL_FUSE if by_program else kind in _NETWORK_FILE_SYSTEMS
    return kind if networked else None
