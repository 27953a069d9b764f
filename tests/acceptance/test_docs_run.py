"""The commands of README and documents, run as they stand there, page by page in one shell each.

`submit` gets its sizes from the environment, so that a page takes seconds; the text of no command is changed,
but for the host of the Postgres server.
"""

from __future__ import annotations

import csv
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from definitions import AGAINST_THE_BASELINE, AGAINST_THE_PREVIOUS, OF_A_ROW
from workplace import ONE_CORE, Workplace

from tests.documents import PAGES, ROOT, fences, lay_out_checkout, lay_out_own
from tests.postgres import running_server
from tests.result_files import answer, baseline, dynatree, tree, write

SMALL = "generation.max_new_tokens=8 measure.repeats=2 measure.warmup=0 prompts.limit=3"
"""What replaces the settings of every sweep file."""

LIMIT_SECONDS = 2400
"""Of a page: it is many commands, two pages run at once, and a busy machine takes many times as long."""

pytestmark = pytest.mark.timeout(LIMIT_SECONDS)

BINARIES = Path(sys.executable).parent
TUTORIAL, POSTGRES, METRICS = (ROOT / "docs" / f"{name}.md" for name in ("tutorial", "postgres", "metrics"))


def script(page: Path) -> str:
    """Return a page's commands as one script that says on stderr which block it has reached."""
    blocks = [fence for fence in fences(page) if fence.language == "sh" and fence.not_run is None]
    return "\n".join(f"echo '== {fence}' >&2\n{fence.text}" for fence in blocks)


def pages() -> list[Path]:
    """The pages with something to run; that of Postgres has a test of its own."""
    return [page for page in PAGES if script(page) and page != POSTGRES]


def run(folder: Path, text: str, variables: Mapping[str, str]) -> subprocess.CompletedProcess[str]:
    """Run a script to its first failure, with the tests' `dyna-eval` and none of the caller's settings."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("DYNA_EVAL_", "RAY_"))}
    own = {"PATH": f"{BINARIES}:{os.environ['PATH']}", "DYNA_EVAL_SUBMIT_SET": SMALL}
    return subprocess.run(
        ["bash", "-euo", "pipefail", "-c", text],
        cwd=folder,
        env=kept | own | ONE_CORE | variables,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
        timeout=LIMIT_SECONDS,
    )


@pytest.fixture(scope="module")
def desk(new_workplace: Callable[[], Workplace]) -> Workplace:
    """What the documents presuppose: a finished sweep in two more databases too, and files of other tools."""
    workplace = new_workplace()
    lay_out_checkout(workplace.folder)
    lay_out_own(workplace.folder)
    workplace.sweep_here("my-sweep.yaml", *SMALL.split())
    for name in ("main.db", "branch.db", "before.db", "after.db"):
        shutil.copy(workplace.database, workplace.folder / name)
    shutil.copy(workplace.folder / "my-sweep.yaml", workplace.folder / "bench.yaml")
    models = {"target_model": "/models/my-target", "draft_model": "/models/my-draft"}
    theirs = dynatree([baseline(), tree(7, 0.0, 80.0), tree(7, 0.1, 150.0, path=3.0)], **models)
    write(workplace.folder, "theirs.json", theirs)
    page = (ROOT / "docs/import.md").read_text(encoding="utf-8")
    workplace.write("paper.csv", page[page.index("label,method,") :].partition("```")[0])
    for method in ("vanilla", "eagle"):
        lines = "".join(json.dumps(answer(question, model=method)) + "\n" for question in (1, 2))
        workplace.write(f"{method}.jsonl", lines)
    return workplace


@pytest.fixture(scope="module")
def ran(
    desk: Workplace, tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest
) -> Iterator[Mapping[Path, Future[subprocess.CompletedProcess[str]]]]:
    """The scripts of the pages that are asked for, two at a time; the tutorial starts with nothing."""
    asked = [item.callspec.params["page"] for item in request.session.items if is_of_page(item)]
    with ThreadPoolExecutor(max_workers=2) as threads:
        futures = {}
        for page in sorted(asked, key=lambda page: page != TUTORIAL):  # the longest first
            folder = tmp_path_factory.mktemp(page.stem) / "here"
            if page == TUTORIAL:
                folder.mkdir()
                lay_out_checkout(folder)
            else:
                shutil.copytree(desk.folder, folder, symlinks=True)
            futures[page] = threads.submit(run, folder, script(page), desk.variables)
        yield futures


def is_of_page(item: pytest.Item) -> bool:
    return isinstance(item, pytest.Function) and item.originalname == "test_the_commands_of_a_page_run"


@pytest.mark.slow
@pytest.mark.parametrize("page", pages(), ids=lambda page: str(page.relative_to(ROOT)))
def test_the_commands_of_a_page_run(
    page: Path, ran: Mapping[Path, Future[subprocess.CompletedProcess[str]]]
) -> None:
    if "pdflatex" in script(page) and shutil.which("pdflatex") is None:
        pytest.skip("pdflatex is not installed (Debian: texlive-latex-recommended, lmodern)")
    done = ran[page].result()
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]


@pytest.mark.slow
def test_the_commands_for_postgres_run(desk: Workplace, tmp_path: Path) -> None:
    with running_server() as server:
        folder = tmp_path / "here"
        shutil.copytree(desk.folder, folder, symlinks=True)
        text = re.sub(r"@db\.example\.org(/\w+)", rf"@\1?host={server.folder}", script(POSTGRES))
        programs = f"{BINARIES}:{server.programs}:{os.environ['PATH']}"
        superuser = {"PATH": programs, "PGHOST": str(server.folder), "PGUSER": "postgres"}
        superuser |= {"HOME": str(folder), "XDG_CACHE_HOME": str(Path.home() / ".cache")}  # for ~/.pgpass
        done = run(folder, text, desk.variables | superuser)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
    assert "ok: 1 sweep" in done.stdout


# ----------------------------------------------------------------------- metrics


def test_the_figures_of_a_report_follow_from_its_samples_by_their_definitions(desk: Workplace) -> None:
    """Of a row with a draft; what the baseline has, it has by the same code."""
    rows = {row["label"]: row for row in desk.run_here("report", "--json").json()["rows"]}
    labels = list(rows)
    row, base = rows["+ Adaptive pruning"], rows["Baseline"]
    previous = rows[labels[labels.index(row["label"]) - 1]]
    samples, base_samples = samples_of(desk, row), samples_of(desk, base)

    for name, figure in OF_A_ROW.items():
        assert row[name] == pytest.approx(figure(samples)), name
    for name, comparison in AGAINST_THE_BASELINE.items():
        assert row[name] == pytest.approx(comparison(samples, base_samples)), name
    for name, comparison in AGAINST_THE_PREVIOUS.items():
        assert row[name] == pytest.approx(comparison(samples, samples_of(desk, previous))), name


@pytest.mark.parametrize("tuned", [(), ("measure.tune_fraction=0.4",)], ids=["all prompts", "tuning split"])
def test_the_example_that_computes_throughput_from_samples_equals_the_report(
    desk: Workplace, new_workplace: Callable[[], Workplace], tuned: tuple[str, ...]
) -> None:
    workplace = desk
    if tuned:
        workplace = new_workplace()
        lay_out_checkout(workplace.folder)
        lay_out_own(workplace.folder)
        workplace.sweep_here("my-sweep.yaml", *SMALL.split(), *tuned)
    [example] = [fence.text for fence in fences(METRICS) if fence.language == "python"]
    assert workplace.run_here("report", "--samples", "samples.csv").status == 0
    computed = subprocess.run(
        [sys.executable, "-c", example], cwd=workplace.folder, capture_output=True, text=True, check=True
    )
    cells = list(csv.DictReader(workplace.run_here("report", "--csv").stdout.splitlines()))
    assert len(cells) > 4
    assert computed.stdout.splitlines() == [
        f"{row['pair']}\t{row['components']}\t{float(row['throughput_tokens_per_s']):.1f}" for row in cells
    ]


def test_every_defined_figure_is_computed_by_its_definition() -> None:
    """But for intervals, and what follows from them."""
    table = METRICS.read_text(encoding="utf-8").partition("## ")[0]
    cells = "".join(line.split("|")[1] for line in table.splitlines() if line.startswith("| `"))
    named = set(re.findall(r"`(\w+)", cells))

    computed = {*OF_A_ROW, *AGAINST_THE_BASELINE, *AGAINST_THE_PREVIOUS}
    computed.remove("mean_acceptance_length_per_request")  # beside another one
    assert named == computed | {"separable_from_baseline"}


def samples_of(desk: Workplace, row: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the samples of a row's jobs, each with its job's repeat, peak memory and calibration."""
    shown = [desk.run_here("show", str(job), "--json").json() for job in row["job_ids"]]
    of_job = ("repeat", "peak_memory_bytes")
    return [
        sample | {name: told["job"][name] for name in of_job} | {"calibration": told["calibration"]}
        for told in shown
        for sample in told["job"]["samples"]
    ]
