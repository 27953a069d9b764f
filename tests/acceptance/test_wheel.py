"""The wheel holds what the commands need and nothing else, and works without the checkout."""

from __future__ import annotations

import subprocess
import sys
import sysconfig
import tarfile
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import pytest
from workplace import ONE_CORE, SWEEP

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
SOURCES = ("dyna_eval", "workers/dyna_eval_workers", "db/dyna_eval_db", "dashboards/dyna_eval_dashboards")


@dataclass(frozen=True, slots=True, kw_only=True)
class Built:
    wheel: Path
    sdist: Path


@dataclass(frozen=True, slots=True, kw_only=True)
class Environment:
    """An environment of its own that holds the wheel alone; other libraries are those of the tests."""

    python: Path
    folder: Path
    variables: Mapping[str, str]

    def run(self, *arguments: str | Path) -> subprocess.CompletedProcess[str]:
        command = self.python.with_name("dyna-eval")
        return subprocess.run(
            [command, *arguments],
            cwd=self.folder,
            env=dict(self.variables),
            capture_output=True,
            text=True,
            check=False,
        )


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Built:
    """The wheel is made from the source distribution, as an installer makes it."""
    folder = tmp_path_factory.mktemp("dist")
    command = [sys.executable, "-m", "build", "--no-isolation", "--outdir", folder, ROOT]
    subprocess.run(command, check=True, capture_output=True)
    [wheel], [sdist] = folder.glob("*.whl"), folder.glob("*.tar.gz")
    return Built(wheel=wheel, sdist=sdist)


@pytest.fixture(scope="module")
def environment(
    built: Built, variables: dict[str, str], tmp_path_factory: pytest.TempPathFactory
) -> Environment:
    venv = tmp_path_factory.mktemp("venv")
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", venv], check=True)
    python = venv / "bin" / "python"
    [packages] = venv.glob("lib/python*/site-packages")
    (packages / "libraries.pth").write_text(sysconfig.get_path("purelib"))
    pip = [sys.executable, "-m", "pip", "--python", python, "install", "--quiet", "--no-deps", "--no-index"]
    subprocess.run([*pip, built.wheel], check=True)
    return Environment(
        python=python,
        folder=tmp_path_factory.mktemp("elsewhere"),
        variables={"PATH": f"{python.parent}:/usr/bin:/bin", "HOME": str(venv), **ONE_CORE, **variables},
    )


def files_of(folder: Path) -> set[str]:
    """Return the files that git would keep, by their names in the wheel."""
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard", "."],
        cwd=folder,
        capture_output=True,
        text=True,
        check=True,
    )
    return {f"{folder.name}/{name}" for name in listed.stdout.splitlines() if (folder / name).exists()}


def test_the_wheel_holds_the_packages_and_nothing_else(built: Built) -> None:
    names = {name for name in zipfile.ZipFile(built.wheel).namelist() if ".dist-info/" not in name}
    assert names == set().union(*(files_of(ROOT / source) for source in SOURCES))
    subprocess.run(
        [Path(sys.executable).with_name("check-wheel-contents"), built.wheel], cwd=ROOT, check=True
    )


def test_no_part_of_it_is_compiled_by_an_installer(built: Built) -> None:
    assert built.wheel.name.endswith("-py3-none-any.whl")


def test_the_source_distribution_holds_the_tests_and_the_licence(built: Built) -> None:
    with tarfile.open(built.sdist) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    assert {
        "LICENSE",
        "README.md",
        "tests/conftest.py",
        "examples/four-step.yaml",
        "constraints.txt",
    } <= names
    assert not [name for name in names if name.endswith((".db", ".pyc")) or ".venv" in name]


@pytest.mark.timeout(900)  # six commands, of which each starts a Python of its own, and one starts Ray
def test_commands_run_from_the_wheel_alone(environment: Environment) -> None:
    where = "import dyna_eval, dyna_eval_workers, dyna_eval_db, dyna_eval_dashboards as d; print(d.__file__)"
    found = subprocess.run(
        [environment.python, "-c", where],
        cwd=environment.folder,
        env=dict(environment.variables),
        capture_output=True,
        text=True,
        check=True,
    )
    assert Path(found.stdout.strip()).is_relative_to(environment.python.parents[1])

    (environment.folder / "sweep.yaml").write_text(SWEEP)
    for arguments in (
        ("--help",),
        ("validate", "sweep.yaml"),
        ("submit", "sweep.yaml", "--set", "measure.repeats=1"),
        ("report", "--html", "page.html"),
        ("report", "--plots", "figures"),
        ("db", "check"),
    ):
        done = environment.run(*arguments)
        assert done.returncode == 0, (arguments, done.stdout, done.stderr)
    assert "+ Adaptive pruning" in (environment.folder / "page.html").read_text()
