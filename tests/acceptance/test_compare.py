"""Comparing sweeps, breaking one down by category and exporting it, by the real command on a real sweep."""

from __future__ import annotations

import csv
import io
import json
import re
import sqlite3
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean

import pytest
from workplace import SWEEP, Finished, Workplace

QUESTIONS = [
    {"question_id": 81, "category": "writing", "turns": ["def read(path):\n", "Again."]},
    {"question_id": 101, "category": "coding", "turns": ["import os\n"], "reference": ["?"]},
    {"question_id": 102, "category": "coding", "turns": ["class Queue:\n", "Now a stack."]},
]
QUESTION_SWEEP = SWEEP.replace(
    "{dataset: demo, limit: 2, max_prompt_tokens: 32}",
    "{dataset: json, data_files: questions.jsonl, column: turns, category: category}",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Swept:
    """A folder with a finished sweep, and a copy of its database in which one row got slower."""

    workplace: Workplace

    def run(self, *arguments: str | Path) -> Finished:
        """Run a command that reads databases, in this process."""
        return self.workplace.run_here(*arguments)

    def complaint(self, *arguments: str | Path) -> str:
        """Run a command that must refuse its input in one line."""
        done = self.run(*arguments)
        assert (done.status, done.stdout) == (2, "")
        [line] = done.stderr.splitlines()
        return line.removeprefix("dyna-eval: ")


@pytest.fixture(scope="module")
def swept(new_workplace: Callable[[], Workplace]) -> Swept:
    workplace = new_workplace()
    workplace.write("questions.jsonl", "".join(json.dumps(row) + "\n" for row in QUESTIONS))
    workplace.write("sweep.yaml", QUESTION_SWEEP)
    workplace.sweep_here("sweep.yaml")
    even_out(workplace.database)
    with sqlite3.connect(workplace.database) as source, sqlite3.connect(workplace.folder / "new.db") as copy:
        source.backup(copy)
    slow_down(workplace.folder / "new.db", "+ Draft model", 2.0)
    return Swept(workplace=workplace)


def even_out(database: Path) -> None:
    """Let all repeats of a prompt have taken the same time: what runs differ by would widen the intervals."""
    with sqlite3.connect(database) as connection:
        connection.execute("UPDATE result SET totals = NULL")  # figures then follow from the samples
        connection.execute(
            "WITH mean AS (SELECT label, prompt_index, avg(decode_seconds) AS seconds FROM sample"
            " JOIN job ON job.id = job_id GROUP BY label, prompt_index)"
            " UPDATE sample SET decode_seconds = (SELECT seconds FROM mean JOIN job ON job.label = mean.label"
            " WHERE job.id = sample.job_id AND mean.prompt_index = sample.prompt_index)"
            " WHERE job_id IS NOT NULL"  # those without are of the actors' own AR runs
        )


def slow_down(database: Path, label: str, factor: float) -> None:
    """Let a row of a database have taken so many times as long."""
    with sqlite3.connect(database) as connection:
        connection.execute(
            "UPDATE sample SET decode_seconds = decode_seconds * ? WHERE job_id IN"
            " (SELECT id FROM job WHERE label = ?)",
            (factor, label),
        )


def copy_slower(database: Path, slower: Path, factor: float) -> None:
    """Copy a database as if its machine took so many times as long for everything, AR runs of actors too."""
    with sqlite3.connect(database) as source, sqlite3.connect(slower) as copy:
        source.backup(copy)
        copy.execute("UPDATE sample SET decode_seconds = decode_seconds * ?", (factor,))


# --------------------------------------------------------------------------- compare


def test_a_sweep_compared_with_itself_has_regressed_nowhere(swept: Swept) -> None:
    done = swept.run("compare", "small", "1", "--fail-on-regression", "0%")
    assert (done.status, done.stderr) == (0, "")
    assert done.stdout.count("1.000") >= 4
    assert "faster" not in done.stdout
    assert "slower" not in done.stdout


def test_a_slower_row_in_another_database_fails_the_check_and_is_named(swept: Swept) -> None:
    plain = swept.run("compare", "small", "new.db#small", "--json")
    assert plain.status == 0
    rows = {row["b"]["label"]: row for row in plain.json()["rows"]}
    assert rows["+ Draft model"]["ratio"] == pytest.approx(0.5)
    assert rows["+ Draft model"]["verdict"] == "slower"
    assert rows["+ Draft model"]["differences"] == []
    assert rows["Baseline"]["ratio"] == 1.0
    failed = swept.run("compare", "small", "new.db#small", "--json", "--fail-on-regression", "3%")
    assert failed.status == 1
    [line] = failed.stderr.splitlines()
    assert line.startswith(
        "dyna-eval: 1 row of B is more than 3 % slower than A, without a result, or not comparable:"
    )
    assert "'+ Draft model' (50.0 % slower, ratio 0.500 [0.500, 0.500])" in line
    assert [one["label"] for one in failed.json()["regressions"]] == ["+ Draft model"]
    assert swept.run("compare", "new.db", "small", "--fail-on-regression", "3%").status == 0
    assert swept.run("compare", "small", "new.db", "--fail-on-regression", "60%").status == 0


def test_other_counts_fail_their_check_and_slower_rows_do_not(swept: Swept, tmp_path: Path) -> None:
    agreed = swept.run("compare", "small", "new.db#small", "--fail-on-acceptance", "0%")
    assert (agreed.status, agreed.stderr) == (0, "")
    assert "slower" in agreed.stdout
    assert "same counts" in agreed.stdout
    with (
        sqlite3.connect(swept.workplace.folder / "new.db") as source,
        sqlite3.connect(tmp_path / "other.db") as copy,
    ):
        source.backup(copy)
        copy.execute(
            "UPDATE sample SET rounds = rounds + 1 WHERE job_id IN"
            " (SELECT id FROM job WHERE label = '+ Draft model')"
        )
    arguments = ("compare", "small", f"{tmp_path}/other.db", "--json", "--fail-on-acceptance", "0.1%")
    failed = swept.run(*arguments)
    assert failed.status == 1
    [line] = failed.stderr.splitlines()
    assert line.startswith("dyna-eval: the tokens per round of 1 row of B differ from A's by more than 0.1 %")
    assert [one["label"] for one in failed.json()["other_counts"]] == ["+ Draft model"]
    assert failed.json()["regressions"] is None
    both = swept.run(*arguments, "--fail-on-regression", "3%")
    assert (both.status, len(both.stderr.splitlines())) == (1, 2)


def test_lower_speedups_fail_their_check_and_a_slower_machine_does_not(swept: Swept, tmp_path: Path) -> None:
    lower = ("compare", "small", "new.db#small", "--json", "--fail-on-speedup", "3%")
    failed = swept.run(*lower)
    assert failed.status == 1
    [line] = failed.stderr.splitlines()
    assert line == (
        "dyna-eval: the speedup of 1 row of B is more than 3 % lower than A's, not there, or not comparable:"
        " '+ Draft model' (speedup 50.0 % lower, ratio 0.500 [0.500, 0.500])"
    )
    assert [one["label"] for one in failed.json()["lower_speedups"]] == ["+ Draft model"]
    assert failed.json()["regressions"] is None
    rows = {row["b"]["label"]: row for row in failed.json()["rows"]}
    assert rows["+ Draft model"]["speedup_ratio"] == pytest.approx(0.5)
    assert rows["Baseline"]["speedup_ratio"] is None
    assert swept.run("compare", "small", "new.db", "--fail-on-speedup", "60%").status == 0
    assert swept.run("compare", "new.db", "small", "--fail-on-speedup", "0%").status == 0
    both = swept.run(*lower, "--fail-on-regression", "3%")
    assert (both.status, len(both.stderr.splitlines())) == (1, 2)

    copy_slower(swept.workplace.database, tmp_path / "slower.db", 2.0)
    slower = ("compare", "small", f"{tmp_path}/slower.db")
    assert swept.run(*slower, "--fail-on-regression", "3%").status == 1
    passed = swept.run(*slower, "--fail-on-speedup", "0%")
    assert (passed.status, passed.stderr) == (0, "")


def test_a_sweep_without_a_baseline_has_no_speedup_to_check(swept: Swept, tmp_path: Path) -> None:
    assert swept.run("report", "--spec-bench", tmp_path / "answers").status == 0
    [file] = [one for one in (tmp_path / "answers").iterdir() if "draft" in one.name.lower()]
    there = f"sqlite:///{tmp_path}/alone.db"
    assert swept.run("import", file, "--name", "alone", "--db", there).status == 0
    complaint = swept.complaint("compare", "alone", "alone", "--db", there, "--fail-on-speedup", "3%")
    assert complaint == (
        "sweep 1 ('alone') has no speedup to check: none of its rows has a result beside that of a baseline"
    )


def test_the_same_by_a_url_or_by_an_option(swept: Swept) -> None:
    expected = swept.run("compare", "1", "new.db#1", "--csv").stdout
    assert [row["verdict"] for row in csv.DictReader(io.StringIO(expected))].count("slower") == 1
    assert (
        swept.run("compare", "1", f"sqlite:///{swept.workplace.folder}/new.db#1", "--csv").stdout == expected
    )
    assert swept.run("compare", "1", "1", "--db-b", "sqlite:///new.db", "--csv").stdout == expected
    assert swept.run("compare", "1", "1", "--db-b", "sqlite:///new.db", "--markdown").status == 0


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("small", "smol"), "no sweep 'smol'; did you mean 'small'?"),
        (("small", "gone.db"), "gone.db"),
        (("small", "gone.db#small"), "gone.db"),
        (("sqlite:///new.db#7", "small"), "no sweep '7'"),
        (("mysql://host/x#1", "small"), "unknown kind of database 'mysql'"),
        (("sweep.yaml", "small"), "file is not a database"),
        (("small", "1", "--fail-on-regression", "3"), "'3' is not a percentage"),
        (("small", "1", "--fail-on-regression", "101%"), "write it as 3%"),
        (("small", "1", "--fail-on-speedup", "three"), "'three' is not a percentage"),
        (("small", "1", "--fail-on-acceptance", "1"), "'1' is not a percentage"),
        (("small",), "Missing argument 'B'"),
    ],
)
def test_what_cannot_be_compared_is_refused_in_one_line(
    swept: Swept, arguments: tuple[str, ...], says: str
) -> None:
    before = set(swept.workplace.folder.iterdir())
    assert says in swept.complaint("compare", *arguments)
    assert set(swept.workplace.folder.iterdir()) == before


# ------------------------------------------------------------------------ categories


def test_the_table_is_broken_down_by_the_categories_of_a_question_file(swept: Swept) -> None:
    shown = swept.run("report", "--by-category")
    assert shown.status == 0, shown.stderr
    assert "writing (1 prompt)" in shown.stdout
    assert "coding (2 prompts)" in shown.stdout
    report = swept.run("report", "--by-category", "--json").json()
    assert [(one["category"], one["prompts"]) for one in report["categories"]] == [
        ("writing", 1),
        ("coding", 2),
    ]
    overall = report["rows"][1]["throughput_tokens_per_s"]
    writing, coding = (one["rows"][1]["throughput_tokens_per_s"] for one in report["categories"])
    assert overall == pytest.approx((writing + 2 * coding) / 3)
    for form in ("--markdown", "--csv", "--latex"):
        assert "coding" in swept.run("report", "--by-category", form).stdout


def test_a_paper_with_a_table_by_category_is_checked(swept: Swept) -> None:
    table = swept.run("report", "--by-category", "--latex").stdout
    paper = swept.workplace.folder / "paper.tex"
    paper.write_text(table, encoding="utf-8")
    agreed = swept.run("report", "--check", "paper.tex")
    assert (agreed.status, agreed.stdout, agreed.stderr) == (
        0,
        "paper.tex: checked 1 table: 0 differences\n",
        "",
    )
    paper.write_text(re.sub(r"(    1 & [^&]* & )", r"\g<1>9", table, count=1), encoding="utf-8")
    edited = swept.run("report", "--check", "paper.tex")
    assert edited.status == 1
    assert "(Baseline), tokens/s on writing: 9" in edited.stdout


# ------------------------------------------------------------------------ Spec-Bench


def test_answer_files_have_the_figures_of_the_report(swept: Swept) -> None:
    done = swept.run("report", "--spec-bench", "answers")
    assert (done.status, done.stdout) == (0, "")
    assert len(done.stderr.splitlines()) == 4
    rows = swept.run("report", "--json").json()["rows"]
    files = sorted((swept.workplace.folder / "answers").iterdir())
    assert len(files) == len(rows) == 4
    for row, file in zip(rows, files, strict=True):
        lines = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]
        assert [line["category"] for line in lines] == ["writing", "coding", "coding"]
        assert {line["model_id"] for line in lines} == {row["label"]}
        answers = [line["choices"][0] for line in lines]
        rates = [sum(answer["new_tokens"]) / sum(answer["wall_time"]) for answer in answers]
        lengths = [length for answer in answers for length in answer["accept_lengths"]]
        assert fmean(rates) == pytest.approx(row["throughput_tokens_per_s"])
        assert fmean(lengths) == pytest.approx(row["mean_acceptance_length"])


def test_answer_files_that_are_imported_again_compare_as_equal_by_their_means(swept: Swept) -> None:
    """And two imports are compared question by question; an imported sweep has no categories of ours."""
    assert swept.run("report", "--spec-bench", "again").status == 0
    files = sorted((swept.workplace.folder / "again").iterdir())
    there = "sqlite:///imported.db"
    assert swept.run("import", *files, "--name", "theirs", "--db", there).status == 0
    compared = swept.run("compare", "small", "imported.db#theirs", "--json").json()
    assert [row["ratio"] for row in compared["rows"]] == pytest.approx([1.0] * 4)
    assert {row["verdict"] for row in compared["rows"]} == {"not comparable"}
    assert any("prompt set" in difference for difference in compared["rows"][1]["differences"])
    assert compared["rows"][1]["unproven"] == ["generation settings", "environment"]
    themselves = swept.run("compare", "imported.db", "imported.db#theirs", "--json").json()
    assert {(row["verdict"], row["prompts"]) for row in themselves["rows"]} == {("not separable", 3)}
    for option in (["--by-category"], ["--spec-bench", "third"], ["--samples", "third.csv"]):
        assert "was imported" in swept.complaint("report", "theirs", "--db", there, *option)


def test_answer_files_join_rows_of_our_own_once_their_pair_is_named(swept: Swept, tmp_path: Path) -> None:
    answers = tmp_path / "answers"
    assert swept.run("report", "--spec-bench", answers).status == 0
    with (
        sqlite3.connect(swept.workplace.database) as source,
        sqlite3.connect(tmp_path / "joined.db") as copy,
    ):
        source.backup(copy)
    here = f"sqlite:///{tmp_path}/joined.db"
    files = sorted(answers.iterdir())
    assert swept.run("import", *files, "--name", "theirs", "--db", here).status == 0
    join = ("report", "--from", "small", "--from", "theirs", "--db", here)
    assert "no pair of models in common" in swept.complaint(*join)
    named = swept.run("import", *files, "--name", "theirs", "--pair", "demo", "--db", here)
    assert (named.status, named.stderr) == (0, "")
    assert "models (as whoever imported them named the pair)" in swept.complaint(*join)
    report = swept.run(*join, "--allow-mixed", "--json").json()
    own, theirs = report["rows"][:4], report["rows"][4:]
    assert [row["mixed"] != [] for row in report["rows"]] == [False] * 4 + [True] * 4
    for one, other in zip(own, theirs, strict=True):
        assert other["throughput_tokens_per_s"] == pytest.approx(one["throughput_tokens_per_s"])
        assert other["end_to_end_tokens_per_s"] == pytest.approx(one["end_to_end_tokens_per_s"])
    assert any("prefill apart" in text for text in report["warnings"])
    compared = swept.run("compare", "small", "theirs", "--db", here).stdout
    assert "same counts" in compared


def test_breakdowns_of_joined_sweeps_are_refused(swept: Swept) -> None:
    assert "one whole sweep; leave out --from" in swept.complaint("report", "--by-category", "--from", "1")
    assert "leave out --prose" in swept.complaint("report", "1", "--spec-bench", "x", "--prose")


def test_categories_and_answers_that_are_not_there_are_refused(swept: Swept) -> None:
    assert "no sweep 'none'" in swept.complaint("report", "none", "--spec-bench", "empty")
    assert not (swept.workplace.folder / "empty").exists()
    with sqlite3.connect(swept.workplace.folder / "new.db") as connection:
        connection.execute("UPDATE prompt SET category = NULL")
    assert "has no categories" in swept.complaint("report", "--by-category", "--db", "sqlite:///new.db")
