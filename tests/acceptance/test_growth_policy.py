"""The example package of docs/growth-policy.md: installed by pip, it is a method like any other."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
from workplace import Finished, Workplace

pytestmark = pytest.mark.slow

EXAMPLE = Path(__file__).parents[2] / "examples" / "growth-policy"
SMALL = ("--set", "prompts.limit=2", "--set", "generation.max_new_tokens=16", "--set", "measure.repeats=1")
LABELS = ["Baseline", "Pruned tree", "Min-p (min_p=0.1)", "Min-p (min_p=0.3)", "Min-p (min_p=0.6)"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Installed:
    """A workplace whose commands find the package, and what `submit` of its sweep left behind."""

    workplace: Workplace
    packages: Path
    submitted: Finished

    def run(self, *arguments: str | Path) -> Finished:
        return self.workplace.run(*arguments, PYTHONPATH=python_path(self.packages))


def python_path(packages: Path) -> str:
    return ":".join(map(str, (packages, *filter(None, sys.path))))


@pytest.fixture(scope="module")
def installed(new_workplace: Callable[[], Workplace], tmp_path_factory: pytest.TempPathFactory) -> Installed:
    packages = tmp_path_factory.mktemp("packages")
    pip = [
        sys.executable,
        "-m",
        "pip",
        "install",
        "--quiet",
        "--no-deps",
        "--no-index",
        "--no-build-isolation",
    ]
    subprocess.run([*pip, "--target", packages, EXAMPLE], check=True)
    workplace = new_workplace()
    submitted = workplace.run("submit", EXAMPLE / "min-p.yaml", *SMALL, PYTHONPATH=python_path(packages))
    return Installed(workplace=workplace, packages=packages, submitted=submitted)


def test_a_sweep_with_it_runs_to_its_end_and_is_exact(installed: Installed) -> None:
    assert installed.submitted.status == 0, installed.submitted.stderr
    rows = {row["label"]: row for row in installed.workplace.run_here("report", "--json").json()["rows"]}
    assert list(rows) == LABELS
    for label in LABELS[2:]:
        row = rows[label]
        assert (row["method"], row["state"], row["exact_match_rate"]) == ("min_p", "done", 1.0)
        assert row["mean_acceptance_length"] > 1.0
        assert row["params"]["package"].startswith("dyna-eval-min-p 0.1.0 ")
    nodes = [rows[label]["mean_tree_nodes"] for label in LABELS[2:]]
    assert nodes == sorted(nodes, reverse=True)


def test_reports_of_it_need_no_package(installed: Installed) -> None:
    workplace = installed.workplace
    table = workplace.run_here("report").stdout
    assert "min_p, D=6, B=4, min_p=0.3" in table
    assert "grown by the policy min_p of dyna-eval-min-p 0.1.0" in table
    for arguments in (
        ("report", "--latex"),
        ("report", "--csv"),
        ("report", "--html", "page.html"),
        ("report", "--plots", "figures", "--var-x", "min_p"),
        ("show", "3"),
        ("status",),
        ("db", "check"),
    ):
        done = workplace.run_here(*arguments)
        assert done.status == 0, done.stderr
    assert "min_p" in (workplace.folder / "page.html").read_text()
    assert list((workplace.folder / "figures").glob("*.pdf"))


def test_what_is_done_is_not_run_again_and_another_version_is_a_sweep_of_its_own(
    installed: Installed,
) -> None:
    again = installed.run("submit", EXAMPLE / "min-p.yaml", *SMALL)
    assert (again.status, "took" in again.stderr) == (0, False)
    module = installed.packages / "dyna_eval_min_p.py"
    before = module.read_text()
    module.write_text(before + "\n# edited\n")
    planned = installed.run("submit", "--dry-run", EXAMPLE / "min-p.yaml", *SMALL, "--json").json()
    module.write_text(before)
    packages = {row["params"].get("package") for row in planned["configurations"]} - {None}
    row = installed.workplace.run_here("report", "--json").json()["rows"][-1]
    assert packages.isdisjoint({row["params"]["package"]})


def test_without_the_package_the_file_is_refused_in_one_line(installed: Installed) -> None:
    done = installed.workplace.run_here("validate", EXAMPLE / "min-p.yaml")
    assert done.status == 2
    [line] = done.stderr.splitlines()
    assert "min-p.yaml:10: unknown method 'min_p'; installed: ar, linear, " in line


def test_reading_a_file_with_it_imports_neither_torch_nor_ray(installed: Installed) -> None:
    script = (
        "import sys; from pathlib import Path; from dyna_eval.sweeps.config import load_sweep;"
        f" load_sweep(Path({str(EXAMPLE / 'min-p.yaml')!r}));"
        " sys.exit(any(name in sys.modules for name in ('torch', 'ray', 'transformers', 'datasets')))"
    )
    variables = installed.workplace.environment() | {"PYTHONPATH": python_path(installed.packages)}
    subprocess.run([sys.executable, "-c", script], env=variables, check=True)


def test_doctor_lists_it(installed: Installed) -> None:
    told = installed.run("doctor", "--address", "127.0.0.1:1").stdout  # spares the start of a cluster
    assert "ok    policy: min_p of dyna-eval-min-p 0.1.0 " in told
