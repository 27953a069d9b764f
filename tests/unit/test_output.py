"""Files that commands write: whole or as they were, and never in the place of somebody else's."""

from __future__ import annotations

import os
import secrets
import threading
from pathlib import Path

import pytest

from dyna_eval.commands.output import write_own
from dyna_eval.errors import InputError
from tests.disks import room_for

OWN = "ours: "


def write(path: Path, text: str) -> None:
    write_own(path, OWN + text, is_own=lambda content: content.startswith(OWN.encode()))


def test_a_file_of_ours_is_written_anew_and_another_one_is_left_as_it_is(tmp_path: Path) -> None:
    file = tmp_path / "page.html"
    write(file, "first")
    write(file, "second")
    assert file.read_text() == "ours: second"
    file.write_text("theirs")
    with pytest.raises(InputError, match="exists, and is not as dyna-eval wrote it"):
        write(file, "third")
    assert file.read_text() == "theirs"


def test_where_there_is_no_room_the_file_before_stays_and_nothing_lies_beside_it(tmp_path: Path) -> None:
    file = tmp_path / "page.html"
    write(file, "first")
    with room_for(1000), pytest.raises(InputError, match="cannot be written: File too large"):
        write(file, "x" * 5000)
    assert file.read_text() == "ours: first"
    assert list(tmp_path.iterdir()) == [file]


def test_a_file_that_is_written_anew_keeps_its_mode_and_its_link(tmp_path: Path) -> None:
    file, link = tmp_path / "page.html", tmp_path / "latest.html"
    link.symlink_to(file)
    write(link, "first")
    file.chmod(0o600)
    write(link, "second")
    assert link.is_symlink()
    assert (file.read_text(), file.stat().st_mode & 0o777) == ("ours: second", 0o600)


def test_a_file_is_on_the_disk_before_it_takes_its_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Or a power cut could leave an empty one there."""
    file, seen = tmp_path / "page.html", list[tuple[str, bool]]()
    fsync = os.fsync

    def watched(number: int) -> None:
        fsync(number)
        seen.append((Path(f"/proc/self/fd/{number}").readlink().read_text(), file.exists()))

    monkeypatch.setattr(os, "fsync", watched)
    write(file, "first")
    assert seen == [("ours: first", False)]


def test_what_is_written_beside_a_file_goes_through_no_link_that_lies_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Somebody who may write to the folder could have laid it, were the name one to foresee."""
    theirs = tmp_path / "theirs"
    theirs.write_text("theirs")
    (tmp_path / f".dyna-eval-{os.getpid()}.part").symlink_to(theirs)
    monkeypatch.setattr(secrets, "token_hex", lambda _: "foreseen")
    (tmp_path / ".dyna-eval-foreseen.part").symlink_to(theirs)
    with pytest.raises(InputError, match="cannot be written: File exists"):
        write(tmp_path / "page.html", "first")
    assert theirs.read_text() == "theirs"
    monkeypatch.undo()
    write(tmp_path / "page.html", "first")
    assert (tmp_path / "page.html").read_text() == "ours: first"
    assert theirs.read_text() == "theirs"


def test_an_empty_file_is_nobodys(tmp_path: Path) -> None:
    """Such as `mktemp` makes."""
    file = tmp_path / "page.html"
    file.touch()
    write(file, "first")
    assert file.read_text() == "ours: first"


def test_a_pipe_and_a_device_are_written_to_and_never_read(tmp_path: Path) -> None:
    """Reading them might never end."""
    write(Path("/dev/null"), "gone")
    with pytest.raises(InputError, match="/dev/full: cannot be written: No space left on device"):
        write(Path("/dev/full"), "gone")
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    read: list[str] = []
    reader = threading.Thread(target=lambda: read.append(pipe.read_text()))
    reader.start()
    write(pipe, "through")
    reader.join()
    assert read == ["ours: through"]
    assert pipe.is_fifo()
