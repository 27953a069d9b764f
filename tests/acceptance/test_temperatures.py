"""One sweep at temperature 0 and at 1 through the real command: run once, then shown in every form."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable

import pytest
from dyna_eval_dashboards.app import create_app
from dyna_eval_dashboards.safety import Access
from dyna_eval_db.watching import WatchedStore
from starlette.testclient import TestClient
from workplace import SWEEP, Finished, Workplace

PAIRS = ("demo at T=0", "demo at T=1")
LAWS = ("greedy", "temperature 1")
LABELS = ("Baseline", "+ Draft model", "+ Tree structure", "+ Adaptive pruning")
SIDE_BY_SIDE = ("--side-by-side", "--columns", "acceptance")


@pytest.fixture(scope="module")
def submitted(new_workplace: Callable[[], Workplace]) -> tuple[Workplace, Finished]:
    workplace = new_workplace()
    workplace.write("sweep.yaml", SWEEP.replace("temperature: 0.0", "temperature: [0, 1]"))
    return workplace, workplace.run("submit", "sweep.yaml")


@pytest.fixture
def swept(submitted: tuple[Workplace, Finished]) -> Workplace:
    workplace, done = submitted
    assert done.status == 0, done.stderr
    return workplace


def read(workplace: Workplace, *arguments: str) -> Finished:
    done = workplace.run_here(*arguments)
    assert done.status == 0, done.stderr
    return done


def test_submit_prints_a_table_for_each_temperature_that_says_which_it_is(
    submitted: tuple[Workplace, Finished],
) -> None:
    _, done = submitted
    before, *tables = done.stdout.split("\npair ")
    assert "measured on" not in before
    for table, pair, law in zip(tables, PAIRS, LAWS, strict=True):
        assert table.startswith(f"{pair}: 2 prompts, 2 repeats\n")
        assert all(label in table for label in LABELS)
        [told] = [line for line in table.splitlines() if line.startswith("measured on")]
        assert told.endswith(f", 16 tokens a prompt, {law}; prefill apart")


def test_every_row_is_exact_at_its_own_temperature_and_against_its_own_baseline(swept: Workplace) -> None:
    report = read(swept, "report", "--json").json()
    assert report["sweep"]["generation"] is None
    generations = {pair["name"]: pair["generation"] for pair in report["pairs"]}
    assert [generations[pair]["temperature"] for pair in PAIRS] == [0.0, 1.0]
    rows = {(row["pair"], row["label"]): row for row in report["rows"]}
    assert list(rows) == [(pair, label) for pair in PAIRS for label in LABELS]
    for row in rows.values():
        assert (row["exact_match_rate"], row["mixed"], row["state"]) == (1.0, [], "done")
        base = rows[row["pair"], "Baseline"]
        assert row["generation"] == base["generation"]
    bases = [rows[pair, "Baseline"] for pair in PAIRS]
    assert [base["speedup"] for base in bases] == [1.0, 1.0]
    assert bases[0]["prompt_set"] == bases[1]["prompt_set"]
    assert bases[0]["generation"] != bases[1]["generation"]


def test_the_models_are_loaded_once_and_each_temperature_has_its_own_texts(swept: Workplace) -> None:
    """Of a pair that is loaded again no calibration is like another."""
    rows = read(swept, "report", "--json").json()["rows"]
    shown = [read(swept, "show", str(row["job_ids"][0]), "--json").json() for row in rows]
    assert len({str(one["calibration"]) for one in shown}) == 1
    assert len({one["job"]["actor"] for one in shown}) == 1
    assert [one["generation"]["temperature"] for one in shown] == [0.0] * 4 + [1.0] * 4
    texts = {(one["job"]["pair"], tuple(sample["text"] for sample in one["job"]["samples"])) for one in shown}
    assert len(texts) == len({text for _, text in texts}) == 2


@pytest.mark.usefixtures("looked_at_here")
def test_a_dry_run_says_how_each_table_would_be_generated(swept: Workplace) -> None:
    told = read(swept, "submit", "sweep.yaml", "--dry-run").stdout.splitlines()
    lines = [line for line in told if line.startswith("pair demo at ")]
    assert [line.partition(": ")[0] for line in lines] == [f"pair {pair}" for pair in PAIRS]
    for line, law in zip(lines, LAWS, strict=True):
        assert line.endswith(f", then 16 tokens a prompt, {law}")
    plan = read(swept, "expand", "sweep.yaml", "--json").json()
    assert [plan["generations"][pair]["temperature"] for pair in plan["pairs"]] == [0.0, 1.0]


def test_both_stand_side_by_side_in_one_table_that_is_checked(swept: Workplace) -> None:
    table = read(swept, "report", "--latex", *SIDE_BY_SIDE).stdout
    assert table.count(r"\begin{tabular}") == 1
    for pair, law in zip(PAIRS, LAWS, strict=True):
        assert rf"\multicolumn{{3}}{{c}}{{{pair}}}" in table
        assert f", 16 tokens a prompt, {law} (on {pair})." in table
    paper = swept.write("table.tex", table)
    assert "0 differences" in read(swept, "report", "--check", "table.tex").stdout
    [row] = [line for line in table.splitlines() if line.lstrip().startswith("1 & ")]
    cells = row.split(" & ")
    cells[-2] = "9.99"  # the speedup at temperature 1
    paper.write_text(table.replace(row, " & ".join(cells)), encoding="utf-8")
    edited = swept.run_here("report", "--check", "table.tex")
    assert edited.status == 1
    assert "step 1 (Baseline), Speedup on demo at T=1: 9.99 in the paper" in edited.stdout


def test_a_paper_of_both_has_prose_and_macros_for_each_and_is_checked(swept: Workplace) -> None:
    read(swept, "report", "--tex-document", "paper.tex", "--plots", "figures", *SIDE_BY_SIDE)
    text = (swept.folder / "paper.tex").read_text(encoding="utf-8")
    for pair in PAIRS:
        assert rf"\subsection{{Ablation study ({pair})}}" in text
    for name in ("Zero", "One"):
        assert rf"\newcommand{{\smallDemoAtT{name}DraftModelSpeedup}}" in text
    names = {path.name for path in (swept.folder / "figures").iterdir()}
    assert {"ablation-demo-at-t-0.pdf", "ablation-demo-at-t-1.pdf"} <= names
    assert "0 differences" in read(swept, "report", "--check", "paper.tex").stdout


@pytest.mark.skipif(
    shutil.which("pdflatex") is None,
    reason="pdflatex is not installed (Debian: texlive-latex-recommended, lmodern)",
)
def test_a_paper_of_both_compiles(swept: Workplace) -> None:
    read(swept, "report", "--tex-document", "both.tex", *SIDE_BY_SIDE)
    done = subprocess.run(
        ["pdflatex", "-halt-on-error", "-no-shell-escape", "-interaction=nonstopmode", "both.tex"],
        cwd=swept.folder,
        capture_output=True,
        text=True,
        errors="replace",
        check=False,
        timeout=240,
    )
    assert done.returncode == 0, done.stdout[-3000:]


def test_a_figure_runs_over_the_temperatures(swept: Workplace) -> None:
    read(swept, "report", "--plots", "curves", "--var-x", "pair", "--curve-by", "method")
    assert (swept.folder / "curves" / "curves-speedup-pair-by-method-threshold.pdf").exists()


def test_answer_files_are_written_for_each(swept: Workplace) -> None:
    read(swept, "report", "--spec-bench", "answers")
    names = sorted(path.name for path in (swept.folder / "answers").iterdir())
    assert len(names) == len(PAIRS) * len(LABELS)
    assert {name[:11] for name in names} == {"demo-at-t-0", "demo-at-t-1"}


def test_the_dashboard_shows_both_and_so_does_its_file(swept: Workplace) -> None:
    read(swept, "report", "--html", "page.html")
    watched = WatchedStore.open(f"sqlite:///{swept.database}")
    app = create_app(watched, Access.of("127.0.0.1"))
    with TestClient(app, base_url="http://127.0.0.1:8470") as client:
        pages = [client.get("/sweeps/1").text, (swept.folder / "page.html").read_text(encoding="utf-8")]
    for page in pages:
        for pair, law in zip(PAIRS, LAWS, strict=True):
            assert pair in page
            assert f"16 tokens a prompt, {law}" in page


def test_it_is_compared_pair_by_pair(swept: Workplace) -> None:
    compared = read(swept, "compare", "1", "1", "--json").json()
    assert [(row["a"]["pair"], row["a"]["label"]) for row in compared["rows"]] == [
        (pair, label) for pair in PAIRS for label in LABELS
    ]
    assert {str(row["differences"]) for row in compared["rows"]} == {"[]"}
