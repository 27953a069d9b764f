"""One small sweep through the real command: run, report, look, and submit again."""

from __future__ import annotations

import csv
import io
import json
import math
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
from workplace import SWEEP, Finished, Workplace, wait_until

LABELS = ["Baseline", "+ Draft model", "+ Tree structure", "+ Adaptive pruning"]
REPEATS = 2
JOBS = REPEATS * len(LABELS)

PROMISED_KEYS = {
    "label",
    "method",
    "params",
    "state",
    "prompts",
    "repeats",
    "tokens",
    "throughput_tokens_per_s",
    "throughput_std",
    "speedup",
    "speedup_interval",
    "gain_over_previous",
    "gain_over_baseline",
    "mean_acceptance_length",
    "draft_acceptance_rate",
    "mean_tree_nodes",
    "node_cap_bound_rate",
    "exact_match_rate",
    "prompt_set",
    "env",
    "job_ids",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Swept:
    """A finished sweep, and what its `submit` printed."""

    workplace: Workplace
    submitted: Finished

    def read(self, *arguments: str) -> Finished:
        """Run a command that reads the database."""
        done = self.workplace.run_here(*arguments)
        assert done.status == 0, done.stderr
        return done


@pytest.fixture(scope="module")
def swept(new_workplace: Callable[[], Workplace]) -> Swept:
    workplace = new_workplace()
    workplace.write("sweep.yaml", SWEEP)
    submitted = workplace.run("submit", "sweep.yaml")
    assert submitted.status == 0, submitted.stderr
    return Swept(workplace=workplace, submitted=submitted)


def attempts(workplace: Workplace) -> list[tuple[int, int]]:
    """Return the number of attempts of every job of the first sweep."""
    with workplace.store() as store:
        return [(job.id, len(store.attempts(job.id))) for job in store.record(1).jobs]


# ---------------------------------------------------------------------- running


def test_the_table_is_on_stdout_and_the_progress_on_stderr(swept: Swept) -> None:
    for label in LABELS:
        assert label in swept.submitted.stdout
    assert "100 %" in swept.submitted.stdout
    progress = swept.submitted.stderr.splitlines()
    assert [line.split("]")[0] for line in progress] == [f"[{n}/{JOBS}" for n in range(1, JOBS + 1)]


def test_a_sweep_leaves_no_process_and_no_file_behind_but_its_database(swept: Swept) -> None:
    wait_until(lambda: swept.workplace.living() == [])  # Ray's processes end a moment later
    names = {path.name for path in swept.workplace.folder.iterdir()}
    assert {name for name in names if not name.startswith("dyna-eval.db")} == {"sweep.yaml"}


@pytest.mark.usefixtures("looked_at_here")
def test_submitting_the_same_file_again_runs_nothing(swept: Swept) -> None:
    before, reported = attempts(swept.workplace), swept.read("report", "--json").json()
    again = swept.read("submit", "sweep.yaml", "--json")
    assert "nothing left to run" in again.stderr
    assert again.json() == reported
    assert attempts(swept.workplace) == before == [(job, 1) for job, _ in before]


@pytest.mark.parametrize("command", ["resume", "retry"])
def test_a_finished_sweep_has_nothing_to_resume_or_retry(swept: Swept, command: str) -> None:
    before = attempts(swept.workplace)
    assert "nothing left to run" in swept.read(command, "small").stderr
    assert attempts(swept.workplace) == before


def test_cancelling_a_finished_sweep_changes_nothing(swept: Swept) -> None:
    assert "0 jobs cancelled" in swept.read("cancel").stdout
    assert swept.read("cancel", "--json").json() == {"id": 1, "cancelled": 0}
    assert swept.read("status", "--json").json()["jobs"]["done"] == JOBS


@pytest.mark.slow
def test_sampled_sweeps_are_exact_and_automatic_repeats_go_on_to_their_limit(workplace: Workplace) -> None:
    """Samples drawn with a draft are those that the target draws alone; the choice is made on other prompts.

    No machine is quiet enough for one part in a million. Also: a run with --json prints one JSON document on
    stdout, and nothing of Ray's.
    """
    measure = "{repeats: auto, max_repeats: 4, precision: 0.000001, tune_fraction: 0.5}"
    workplace.write("sweep.yaml", SWEEP.replace("{repeats: 2, warmup: 1}", measure))
    changes = ("--set", "generation.temperature=1.0", "--set", "generation.seed=7")
    words = ("submit", "sweep.yaml", "--name", "sämpling: 1", *changes)
    submitted = workplace.run(*words, "--json")

    assert submitted.status == 0, submitted.stderr
    report = submitted.json()
    assert report["sweep"]["name"] == "sämpling: 1"
    assert [row["exact_match_rate"] for row in report["rows"]] == [1.0] * len(LABELS)
    assert [(row["repeats"], row["prompts"]) for row in report["rows"]] == [(4, 1)] * len(LABELS)
    assert [choice["tuning_prompts"] for choice in report["chosen"]] == [1]
    assert "all figures are over the other prompts" in "".join(report["warnings"])
    assert submitted.stderr.splitlines()[-1].startswith("[16/16]")
    assert "jobs added jobs=4" in workplace.run_here("logs").stdout

    again = workplace.run(*words)
    assert (again.status, "nothing left to run" in again.stderr) == (0, True)


# ---------------------------------------------------------------------- reports


def rows_of(swept: Swept) -> dict[str, dict[str, Any]]:
    rows = swept.read("report", "--json").json()["rows"]
    assert [row["label"] for row in rows] == LABELS
    return {row["label"]: row for row in rows}


def test_the_json_report_has_every_promised_key(swept: Swept) -> None:
    report = swept.read("report", "--json").json()
    assert {"sweep", "rows", "left_out", "warnings"} <= report.keys()
    assert {"id", "name", "state", "digest"} <= report["sweep"].keys()
    assert (report["sweep"]["name"], report["sweep"]["state"]) == ("small", "done")
    assert report["left_out"] == []
    for row in report["rows"]:
        assert row.keys() >= PROMISED_KEYS


def test_every_row_is_exact_and_counted_in_full(swept: Swept) -> None:
    for row in rows_of(swept).values():
        assert (row["state"], row["exact_match_rate"]) == ("done", 1.0)
        assert (row["prompts"], row["repeats"], row["tokens"]) == (2, REPEATS, 2 * REPEATS * 16)
        assert len(row["job_ids"]) == REPEATS
        assert row["throughput_tokens_per_s"] > 0


def test_the_baseline_is_the_measure_of_the_others(swept: Swept) -> None:
    rows = rows_of(swept)
    baseline = rows["Baseline"]
    assert baseline["speedup"] == 1.0
    assert baseline["mean_acceptance_length"] == 1.0
    assert baseline["draft_acceptance_rate"] is None
    assert baseline["gain_over_previous"] is None
    for label in LABELS[1:]:
        row = rows[label]
        low, high = row["speedup_interval"]
        assert low <= high
        assert math.isclose(row["gain_over_baseline"], row["speedup"] - 1)
        assert 0 <= row["draft_acceptance_rate"] <= 1
        assert row["mean_acceptance_length"] >= 1


def test_a_full_tree_verifies_all_its_nodes_and_a_pruned_one_fewer(swept: Swept) -> None:
    """Depth 3 and branch 2 make 2 + 4 + 8 draft nodes; near the end of a text fewer levels are drafted."""
    rows = rows_of(swept)
    full, pruned = rows["+ Tree structure"], rows["+ Adaptive pruning"]
    assert pruned["mean_tree_nodes"] < full["mean_tree_nodes"] <= 14
    assert pruned["node_cap_bound_rate"] == 0.0


def test_latex_markdown_and_csv_have_the_four_rows(swept: Swept) -> None:
    latex = swept.read("report", "--latex").stdout
    for part in ("\\toprule", "\\bottomrule", "\\caption{", "\\label{", "\\textbf{"):
        assert part in latex
    markdown = swept.read("report", "--markdown").stdout
    table = list(csv.DictReader(io.StringIO(swept.read("report", "--csv").stdout)))
    assert len(table) == len(LABELS)
    for label in LABELS:
        assert label in latex
        assert label.removeprefix("+ ") in markdown


@pytest.mark.slow
def test_figures_are_written_as_pdf_svg_and_png_and_what_is_left_out_is_said(swept: Swept) -> None:
    done = swept.read("report", "--plots", "figures/new")
    assert done.stdout == ""
    files = {path.name: path.read_bytes() for path in (swept.workplace.folder / "figures/new").iterdir()}
    stems = {"ablation", "curves-speedup-threshold", "cost-model", "phases", "depth", "tree-size", "prompts"}
    assert files.keys() == {f"{stem}.{form}" for stem in stems for form in ("pdf", "svg", "png")}
    for name, content in files.items():
        assert content.startswith({"pdf": b"%PDF-", "svg": b"<?xml", "png": b"\x89PNG\r\n"}[name[-3:]])
    assert "wrote figures/new/ablation.pdf, .svg and .png" in done.stderr
    assert "left out heat: no method has two parameters" in done.stderr


def test_a_figure_can_be_chosen_and_spanned_by_parameters(swept: Swept) -> None:
    done = swept.read(
        "report", "--plots", "chosen", "--var-x", "threshold", "--measure", "throughput", "--csv"
    )
    assert done.stdout.startswith("pair,step,")
    names = {path.name for path in (swept.workplace.folder / "chosen").iterdir()}
    assert names == {f"curves-throughput-threshold.{form}" for form in ("pdf", "svg", "png")}


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--var-x", "treshold"], "(did you mean 'threshold'?); swept are threshold, method"),
        (["--heat", "threshold"], "--heat takes two parameters"),
        (["--plot", "heat"], "cannot draw heat: no method has two parameters"),
    ],
)
def test_a_figure_that_cannot_be_drawn_is_refused_before_any_is(
    swept: Swept, options: list[str], said: str
) -> None:
    done = swept.workplace.run_here("report", "--plots", "refused", *options)
    assert (done.status, done.stdout) == (2, "")
    assert said in done.stderr
    assert not (swept.workplace.folder / "refused").exists()


def test_a_paper_agrees_with_the_database_until_a_number_is_edited(swept: Swept) -> None:
    swept.read(
        "report", "--tex-document", "paper.tex", "--columns", "interval,exact", "--preset", "three-step"
    )
    assert "0 differences" in swept.read("report", "--check", "paper.tex").stdout
    paper = swept.workplace.folder / "paper.tex"
    text = paper.read_text(encoding="utf-8")
    assert "+ Tree structure" in text  # said to be left out
    cell = re.search(r"& AR only & (\\textbf\{)?(?P<rate>\d+\.\d)", text)  # bold where a draft gains nothing
    assert cell is not None
    rate = cell["rate"]
    paper.write_text(text.replace(cell[0], cell[0].replace(rate, "1.5")), encoding="utf-8")
    edited = swept.workplace.run_here("report", "--check", "paper.tex")
    assert edited.status == 1
    assert f"step 1 (Baseline), Throughput: 1.5 in the paper, {rate} now" in edited.stdout
    refused = swept.workplace.run_here("report", "--tex-document", "paper.tex")
    assert (refused.status, refused.stdout) == (2, "")
    assert "paper.tex: exists, and is not as dyna-eval wrote it" in refused.stderr
    assert cell[0].replace(rate, "1.5") in paper.read_text(encoding="utf-8")
    as_json = swept.workplace.run_here("report", "--check", "paper.tex", "--json")
    assert as_json.status == 1
    assert [found["in_paper"] for found in as_json.json()[0]["differences"]] == ["1.5"]


def test_macros_and_prose_are_written_for_a_paper(swept: Swept) -> None:
    swept.read("report", "--macros", "macros.tex")
    swept.read("report", "--macros", "macros.tex")  # its own file it writes anew
    macros = (swept.workplace.folder / "macros.tex").read_text(encoding="utf-8")
    assert r"\newcommand{\smallAdaptivePruningThroughput}" in macros
    assert "0 differences" in swept.read("report", "--check", "macros.tex").stdout
    assert r"\paragraph{Step 4: + Adaptive pruning.}" in swept.read("report", "--prose").stdout


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["--latex", "--columns", "acceptence"], "did you mean 'acceptance'?"),
        (["--std"], "--std is about LaTeX tables; add --latex or --tex-document"),
        (["--csv", "--columns", "nodes"], "--columns is about tables"),
        (["--by-category", "--columns", "nodes"], "has columns of its own; leave out --columns"),
        (["--latex", "--side-by-side"], "has one pair"),
        (["--check", "sweep.yaml"], "sweep.yaml: no table, prose or macros that dyna-eval wrote"),
        (["--check", "missing.tex"], "missing.tex: cannot be read"),
        (["small", "--check", "sweep.yaml"], "is in the paper; leave out SWEEP"),
        (["--macros", "missing/macros.tex"], "missing/macros.tex: cannot be written"),
    ],
)
def test_what_a_paper_cannot_have_is_refused_in_one_line(swept: Swept, options: list[str], says: str) -> None:
    done = swept.workplace.run_here("report", *options)
    assert (done.status, done.stdout) == (2, "")
    (line,) = done.stderr.splitlines()
    assert says in line


# ------------------------------------------------------------ looking at a sweep


def test_status_and_ls_count_the_jobs(swept: Swept) -> None:
    assert f"done; {JOBS} done" in swept.read("status").stdout
    assert f"small: done; {JOBS} done" in swept.read("ls").stdout
    status = swept.read("status", "small", "--json").json()
    assert (status["state"], status["jobs"]["done"], status["errors"]) == ("done", JOBS, [])
    assert [sweep["name"] for sweep in swept.read("ls", "--json").json()] == ["small"]


def test_show_tells_a_jobs_attempts_prompts_and_rounds(swept: Swept) -> None:
    job = rows_of(swept)["+ Draft model"]["job_ids"][0]
    shown = swept.read("show", str(job), "--json").json()
    assert [attempt["outcome"] for attempt in shown["attempts"]] == ["landed"]
    samples = shown["job"]["samples"]
    assert [sample["exactness"] for sample in samples] == ["exact", "exact"]
    for sample in samples:
        assert sum(played["emitted"] for played in sample["rounds"]) == len(sample["token_ids"]) == 16
    assert (shown["generation"]["max_new_tokens"], shown["measure"]["warmup"]) == (16, 1)
    report = swept.read("report", "small", "--json").json()
    [pair] = report["pairs"]  # in float32, or in bfloat16 where the processor multiplies that
    assert (shown["pair"]["target"], shown["pair"]["dtype"]) == ("demo", pair["dtype"])
    assert report["environments"][shown["job"]["environment"]] == shown["environment"]
    text = swept.read("show", str(job)).stdout
    assert "linear k=4" in text
    assert re.search(r"^  generation max_new_tokens=16, .*stop_at_eos=", text, re.MULTILINE)
    assert f", torch={shown['environment']['torch']}," in text
    assert f"tokens/s, distinct-2 {samples[0]['distinct_2']:.2f}, exact: " in text
    assert re.search(r"attempt 1 on \S+, node [0-9a-f]{16,}: landed", text)


def test_logs_tell_the_sweeps_story_in_order(swept: Swept) -> None:
    events = [line.split()[1:] for line in swept.read("logs").stdout.splitlines()]
    story = [" ".join(event) for event in events]
    submitted = next(i for i, event in enumerate(story) if event.startswith("submitted"))
    acquired = next(i for i, event in enumerate(story) if event.startswith("lease acquired"))
    released = next(i for i, event in enumerate(story) if event.startswith("lease released"))
    assert submitted < acquired < released
    landed = [i for i, event in enumerate(story) if " landed " in event]
    assert len(landed) == JOBS
    assert acquired < landed[0] < landed[-1] < released
    told = [json.loads(line) for line in swept.read("logs", "--json").stdout.splitlines()]
    assert [event["kind"] for event in told if event["kind"] == "landed"] == ["landed"] * JOBS
    assert len(told) == len(story)
    assert all({"id", "at", "job_id", "detail"} < event.keys() for event in told)
    took = [re.search(r"wall_seconds=\d+\.(\d+)$", story[i]) for i in landed]
    assert all(match and len(match[1]) <= 3 for match in took)


def test_the_database_may_be_named_by_a_variable_or_an_option(swept: Swept, workplace: Workplace) -> None:
    url = f"sqlite:///{swept.workplace.database}"
    assert "8 done" in workplace.run_here("status", DYNA_EVAL_DB=url).stdout
    assert "8 done" in workplace.run_here("status", "--db", url, DYNA_EVAL_DB="sqlite:///other.db").stdout
    assert workplace.run_here("status").status == 2
    assert list(workplace.folder.iterdir()) == []


def test_db_check_and_upgrade_find_the_schema_current(swept: Swept) -> None:
    assert swept.read("db", "check").stdout == "ok: 1 sweep\n"
    assert swept.read("db", "check", "--json").json() == {"sweeps": 1, "findings": []}
    assert "current" in swept.read("db", "upgrade").stdout


def test_pairs_list_names_the_packaged_pair(swept: Swept) -> None:
    assert "demo" in swept.read("pairs", "list").stdout
    assert "demo" in swept.read("pairs", "list", "--json").json()


def test_pairs_check_finds_the_packaged_pair_exact(workplace: Workplace) -> None:
    done = workplace.run_here("pairs", "check", "demo", "--json")
    assert done.status == 0, done.stderr
    told = done.json()
    assert (told["target"], told["draft"]) == ("demo", "demo")
    passed = "\n".join(told["passed"])
    for method in ("linear", "tree"):
        for temperature in ("0.0", "1.0"):
            assert f"{method}, temperature {temperature}: exact" in passed


# ------------------------------------------------------------- before a sweep runs


@pytest.mark.usefixtures("looked_at_here")
def test_a_dry_run_stores_nothing(workplace: Workplace) -> None:
    workplace.write("sweep.yaml", SWEEP)
    done = workplace.run_here("submit", "sweep.yaml", "--dry-run", "--json", "--set", "measure.repeats=3")
    assert done.status == 0, done.stderr
    plan = done.json()
    assert [row["label"] for row in plan["configurations"]] == LABELS
    assert len({(job["key"], job["repeat"]) for job in plan["jobs"]}) == len(plan["jobs"]) == 12
    assert [path.name for path in workplace.folder.iterdir()] == ["sweep.yaml"]


def test_validate_and_expand_look_at_the_file_alone(workplace: Workplace) -> None:
    row = "  - {label: Depths, method: tree, depth: [3, 4], branch: [1, 2], threshold: 0.05}\n"
    workplace.write("sweep.yaml", SWEEP + row)
    checked = workplace.run_here("validate", "sweep.yaml", "--json")
    assert checked.json() == {"name": "small", "configurations": 7, "jobs": 14, "most_jobs": 14}
    expanded = workplace.run_here("expand", "sweep.yaml", "--json").json()
    labels = [row["label"] for row in expanded["configurations"]]
    assert labels[:4] == LABELS
    assert "Depths (depth=4, branch=2)" in labels
    assert [merged["into"] for merged in expanded["merged"]] == ["+ Adaptive pruning"]
    assert "left out" in workplace.run_here("expand", "sweep.yaml").stdout
    assert "7 configurations, 14 jobs" in workplace.run_here("validate", "sweep.yaml").stdout


def test_the_schema_for_editors_is_json_schema(workplace: Workplace) -> None:
    schema = workplace.run_here("validate", "--schema").json()
    assert schema["$schema"].startswith("https://json-schema.org/")
    assert {"pair", "prompts", "configs"} <= schema["properties"].keys()


def test_help_imports_nothing_heavy(workplace: Workplace) -> None:
    """The interpreter lists every import on stderr; help must answer at once."""
    helped = workplace.run("--help", PYTHONPROFILEIMPORTTIME="1")
    assert "submit" in helped.stdout
    imported = {line.rpartition("|")[2].strip() for line in helped.stderr.splitlines()}
    assert "click" in imported
    assert imported.isdisjoint({"torch", "ray", "transformers", "sqlalchemy", "pydantic", "numpy", "rich"})
