"""A shell completes commands, options, and the sweeps of the database at hand."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest
from workplace import COMMAND, Workplace

from tests.result_files import FOUR_STEPS, dynatree, write


def completed(workplace: Workplace, line: str, **variables: str) -> list[str]:
    """Return what bash offers after a line, by the script that `completion bash` prints."""
    script = workplace.run_here("completion", "bash").stdout
    words = line.split(" ")
    ask = (
        f'COMP_WORDS=({" ".join(words[:-1])} "{words[-1]}"); COMP_CWORD={len(words) - 1};'
        ' _dyna_eval_completion dyna-eval; printf "%s\\n" "${COMPREPLY[@]}"'
    )
    done = subprocess.run(
        [shutil.which("bash") or "bash", "--norc", "-c", f"{script}\n{ask}"],
        env=workplace.environment() | variables | {"PATH": f"{COMMAND.parent}:/usr/bin:/bin"},
        cwd=workplace.folder,
        capture_output=True,
        text=True,
        check=True,
    )
    return done.stdout.split()


@pytest.fixture
def stocked(workplace: Workplace, tmp_path: Path) -> Workplace:
    """A workplace whose database has two sweeps."""
    file = write(tmp_path, "theirs.json", dynatree(FOUR_STEPS))
    for name, database in (("monday", "dyna-eval.db"), ("tuesday", "other.db")):
        done = workplace.run_here("import", file, "--name", name, "--db", f"sqlite:///{database}")
        assert done.status == 0, done.stderr
    return workplace


def test_commands_and_options_are_completed(workplace: Workplace) -> None:
    assert completed(workplace, "dyna-eval re") == ["resume", "retry", "report"]  # in the order of their use
    assert "--dry-run" in completed(workplace, "dyna-eval submit --d")


def test_sweeps_of_the_database_are_completed(stocked: Workplace) -> None:
    assert completed(stocked, "dyna-eval report ") == ["monday"]
    assert completed(stocked, "dyna-eval report --db sqlite:///other.db ") == ["tuesday"]
    assert completed(stocked, "dyna-eval report x") == []


def test_without_a_database_nothing_is_offered_and_none_is_made(workplace: Workplace) -> None:
    assert completed(workplace, "dyna-eval report ") == []
    assert not workplace.database.exists()


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_every_shell_has_a_script(workplace: Workplace, shell: str) -> None:
    done = workplace.run_here("completion", shell)
    assert done.status == 0
    assert f"_DYNA_EVAL_COMPLETE={shell}_complete" in done.stdout


def test_another_shell_is_refused_in_one_line(workplace: Workplace) -> None:
    done = workplace.run_here("completion", "csh")
    assert (done.status, done.stdout) == (2, "")
    [line] = done.stderr.splitlines()
    assert "csh" in line
