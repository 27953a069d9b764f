"""Importing, reporting and joining result files through the real command."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from workplace import Finished, Workplace

from tests.result_files import (
    FOUR_STEPS,
    baseline,
    dynatree,
    faster,
    linear,
    real_file,
    tree,
    vanilla,
    write,
    write_answers,
)


def one_line(finished: Finished) -> str:
    (line,) = finished.stderr.splitlines()
    assert line.startswith("dyna-eval: ")
    return line


def test_a_file_is_imported_listed_and_reported(workplace: Workplace) -> None:
    file = write(workplace.folder, "theirs.json", dynatree(FOUR_STEPS))
    done = workplace.run("import", file)
    assert (done.status, done.stderr) == (0, "")
    assert done.stdout == f"{file}: 4 rows (dynatree) imported into sweep 1 'theirs'\n"
    again = workplace.run_here("import", file)
    assert (again.status, again.stdout) == (0, f"{file}: was imported before, see sweep 1 'theirs'\n")

    assert "theirs: imported; 4 rows" in workplace.run_here("ls").stdout
    status = workplace.run_here("status", "theirs").stdout
    assert status.startswith("sweep 1 theirs: imported; 4 rows\n  4 from theirs.json (dynatree, SHA-256 ")
    assert workplace.run_here("status", "--json").json()["files"][0]["rows"] == 4
    assert "1.60 ×" in workplace.run_here("report", "theirs").stdout
    assert [row["state"] for row in workplace.run_here("report", "--json").json()["rows"]] == ["imported"] * 4
    assert "imported file=theirs.json" in workplace.run_here("logs").stdout


def test_files_that_cannot_be_read_are_named_and_the_others_imported(workplace: Workplace) -> None:
    folder = workplace.folder
    good = [write(folder, f"good-{n}.json", dynatree([baseline(100.0 + n)])) for n in range(2)]
    (folder / "empty.json").write_bytes(b"")
    (folder / "binary.bin").write_bytes(b"\x7fELF\0\0")
    half = write(folder, "half.json", dynatree([baseline(), {"method": "x", "config": {}}]))
    bad = [folder / "empty.json", folder / "binary.bin", half, folder / "missing.json", folder]
    done = workplace.run_here("import", good[0], *bad, good[1])
    assert done.status == 2
    assert len(done.stderr.splitlines()) == len(bad)
    assert all(line.startswith("dyna-eval: ") for line in done.stderr.splitlines())
    assert "half.json: results[1].throughput_tps is missing" in done.stderr
    assert "Traceback" not in done.stderr
    with workplace.store() as store:
        assert [sweep.name for sweep in store.imports()] == ["good-0", "good-1"]


def test_json_says_what_became_of_every_file(workplace: Workplace) -> None:
    rows = [baseline(), *(tree(depth, 0.0, 50.0, path=4.829789) for depth in (5, 6))]
    file = write(workplace.folder, "a.json", dynatree(rows))
    good, bad = workplace.run_here("import", "--json", file, "missing.json").json()
    assert (good["sweep"], good["rows"], good["new"], good["error"]) == (1, 3, True, None)
    assert "must have bound" in good["findings"][0]
    assert (bad["sweep"], bad["rows"]) == (None, 0)
    assert "No such file" in bad["error"]


def test_formats_are_listed_and_unknown_ones_refused(workplace: Workplace) -> None:
    listed = workplace.run_here("import", "--formats").stdout
    assert [line.partition(":")[0] for line in listed.splitlines()] == [
        *("dynatree", "spec-bench", "dyna-eval", "table")
    ]
    wrong = workplace.run_here("import", "--format", "csv", "a.json")
    assert wrong.status == 2
    assert "unknown format 'csv'; known: dynatree, spec-bench, dyna-eval, table" in one_line(wrong)
    assert not workplace.database.exists()


def test_a_pair_is_named_for_files_that_record_none_before_or_after(workplace: Workplace) -> None:
    folder = workplace.folder
    base = write_answers(folder, "base.jsonl", vanilla())
    eagle = write_answers(folder, "eagle.jsonl", faster())
    assert workplace.run_here("import", base, "--name", "bench").status == 0
    done = workplace.run_here("import", base, eagle, "--name", "bench", "--pair", "big + small")
    assert (done.status, done.stderr) == (0, "")
    report = workplace.run_here("report", "bench", "--json").json()
    assert {row["pair"] for row in report["rows"]} == {"big + small"}
    shown = workplace.run_here("report", "bench").stdout
    assert "does not record the pair: 'big + small' was named by whoever imported it" in shown

    other = workplace.run_here("import", base, "--pair", "other")
    assert other.status == 2
    assert "was imported before, as sweep 1 'bench', for the pair 'big + small'" in one_line(other)
    theirs = write(folder, "theirs.json", dynatree([baseline()]))
    recorded = workplace.run_here("import", theirs, "--pair", "mine")
    assert recorded.status == 2
    assert "records its pair, 'big/small'; --pair is for files that do not" in one_line(recorded)
    for name in ("", "pair not recorded", "a\nb"):
        refused = workplace.run_here("import", theirs, "--pair", name)
        assert refused.status == 2
        assert "--pair" in one_line(refused)


def test_published_numbers_stand_in_a_table_marked_and_never_bold(workplace: Workplace) -> None:
    text = (
        "label,method,tokens_per_s,speedup,source\n"
        'Vanilla,AR,300,1.0,"Somebody et al. 2024, table 1"\n'
        'EAGLE-2,EAGLE-2,240,,"Somebody et al. 2024, table 1"\n'
        "EAGLE-3,EAGLE-3,,4.2,\n"
    )
    workplace.write("paper.csv", text)
    done = workplace.run_here("import", "paper.csv", "--pair", "big/small")
    assert (done.status, done.stderr) == (0, "")
    assert "2 rows (table) imported into sweep 1 'paper'" in done.stdout
    shown = workplace.run_here("report", "paper").stdout
    assert "published elsewhere: Somebody et al. 2024, table 1" in shown
    assert (
        "'EAGLE-3' (published elsewhere: without tokens_per_s; speedup 4.2: its source is not given)" in shown
    )
    write(workplace.folder, "a.json", dynatree([baseline(100.0), tree(7, 0.0, 150.0)]))
    assert workplace.run_here("import", "a.json").status == 0
    for arguments in (("paper",), ("--from", "a", "--from", "paper", "--allow-mixed")):
        latex = workplace.run_here("report", *arguments, "--latex").stdout
        assert "EAGLE-2" in latex
        assert "textbf" not in latex
    workplace.write("paper.csv", text.replace("240", "fast"))
    wrong = workplace.run_here("import", "paper.csv")
    assert wrong.status == 2
    assert one_line(wrong) == (
        "dyna-eval: paper.csv:3: tokens_per_s is 'fast': should be a number above 0, as 1.25, or empty where"
        " unknown"
    )


@pytest.mark.parametrize(
    ("name", "said"), [("12", "would be taken for a sweep's number"), ("", "at least 1")]
)
def test_a_name_that_no_sweep_may_have_is_refused(workplace: Workplace, name: str, said: str) -> None:
    file = write(workplace.folder, "a.json", dynatree([baseline()]))
    wrong = workplace.run_here("import", file, "--name", name)
    assert wrong.status == 2
    assert said in one_line(wrong)
    assert not workplace.database.exists()


def test_whole_sweeps_do_not_share_a_name(workplace: Workplace) -> None:
    files = [write(workplace.folder, f"{n}.json", dynatree([baseline(100.0 + n)])) for n in range(2)]
    done = workplace.run_here("import", "--name", "both", *files)
    assert done.status == 2
    assert "cannot share the name 'both'" in done.stderr
    assert workplace.run_here("import", files[0]).stdout.endswith("imported into sweep 1 'imported 0'\n")


def test_answer_files_of_one_name_are_one_table(workplace: Workplace) -> None:
    files = [
        write_answers(workplace.folder, "base.jsonl", vanilla()),
        write_answers(workplace.folder, "eagle.jsonl", faster()),
    ]
    assert workplace.run_here("import", *files, "--name", "bench").status == 0
    base, eagle = workplace.run_here("report", "bench", "--json").json()["rows"]
    assert (base["baseline"], base["speedup"]) == (True, 1.0)
    assert eagle["speedup_paired"] == pytest.approx(2.0)
    assert eagle["separable_from_baseline"] is True


def test_joining_is_refused_unless_mixed_rows_are_asked_for(workplace: Workplace) -> None:
    write(workplace.folder, "a.json", dynatree([baseline(100.0), tree(7, 0.0, 50.0)], dataset="A"))
    write(workplace.folder, "b.json", dynatree([baseline(102.0), linear(6, 150.0)], dataset="B"))
    assert workplace.run_here("import", "a.json", "b.json").status == 0
    join = ("report", "--from", "a", "--from", "b", "--row", "Linear K=6")
    refused = workplace.run_here(*join)
    assert (refused.status, refused.stdout) == (2, "")
    assert "prompt set ('B', 10 prompts instead of 'A', 10 prompts)" in one_line(refused)
    mixed = workplace.run_here(*join, "--allow-mixed")
    assert mixed.status == 0
    assert "1.50 ×" in mixed.stdout
    assert "are 100.0 and 102.0 tokens/s, 2.0 % apart" in mixed.stdout


def test_a_paper_with_joined_rows_is_checked_against_the_sweeps_they_came_from(workplace: Workplace) -> None:
    write(workplace.folder, "a.json", dynatree([baseline(100.0), tree(7, 0.0, 50.0)], dataset="A"))
    write(workplace.folder, "b.json", dynatree([baseline(102.0), linear(6, 150.0)], dataset="B"))
    workplace.run_here("import", "a.json", "b.json")
    join = ("report", "--from", "a", "--from", "b", "--row", "Linear K=6", "--allow-mixed")
    assert workplace.run_here(*join, "--tex-document", "paper.tex").status == 0
    paper = workplace.folder / "paper.tex"
    text = paper.read_text(encoding="utf-8")
    assert "among the rows that were measured alike" in text  # the row of 150.0 tokens/s may not win
    agreed = workplace.run_here("report", "--check", "paper.tex")
    assert (agreed.status, agreed.stderr) == (0, "")
    assert agreed.stdout == "paper.tex: checked 1 table, 1 subsection, 1 macro set: 0 differences\n"
    paper.write_text(text.replace("& 150.0 &", "& 155.0 &"), encoding="utf-8")
    edited = workplace.run_here("report", "--check", "paper.tex")
    assert edited.status == 1
    assert "(Linear K=6), Throughput: 155.0 in the paper, 150.0 now" in edited.stdout


def test_a_table_of_macros_is_checked_with_the_file_that_defines_them(workplace: Workplace) -> None:
    write(workplace.folder, "a.json", dynatree([baseline(100.0), linear(6, 150.0)]))
    workplace.run_here("import", "a.json")
    assert workplace.run_here("report", "--macros", "macros.tex").status == 0
    table = workplace.run_here("report", "--latex").stdout
    cell = re.search(r"& (\\textbf\{)?150\.0\}? &", table)
    name = re.search(
        r"\\newcommand\{(\\\w+Throughput)\}\{150\.0\}", (workplace.folder / "macros.tex").read_text("utf-8")
    )
    assert cell is not None
    assert name is not None
    paper = workplace.folder / "paper.tex"
    paper.write_text(table.replace(cell[0], rf"& {name[1]}{{}} &"), encoding="utf-8")
    both = workplace.run_here("report", "--check", "paper.tex", "--check", "macros.tex")
    assert both.status == 0, both.stdout
    alone = workplace.run_here("report", "--check", "paper.tex")
    assert alone.status == 1
    assert "1 cell not compared; no file that was named defines" in alone.stdout
    assert alone.stdout.endswith("0 differences, 1 not checked\n")


def test_presets_are_for_sweeps_that_were_measured_here(workplace: Workplace) -> None:
    write(workplace.folder, "a.json", dynatree([baseline(100.0), tree(7, 0.0, 50.0)]))
    workplace.run_here("import", "a.json")
    assert "choose rows with --row" in one_line(workplace.run_here("report", "--preset", "three-step"))


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("a", "--from", "a"), "name one SWEEP, or several with --from"),
        (("--from", "a", "--from", "nowhere"), "no sweep 'nowhere'"),
        (("a", "--row", "Linear K=7"), "--row 'Linear K=7' names no row"),
    ],
)
def test_a_wrong_question_is_answered_in_one_line(
    workplace: Workplace, arguments: tuple[str, ...], said: str
) -> None:
    workplace.run_here("import", write(workplace.folder, "a.json", dynatree(FOUR_STEPS)))
    wrong = workplace.run_here("report", *arguments)
    assert wrong.status == 2
    assert said in one_line(wrong)


def test_an_imported_sweep_has_no_jobs_to_run_or_to_cancel(workplace: Workplace) -> None:
    workplace.run_here("import", write(workplace.folder, "a.json", dynatree(FOUR_STEPS)))
    for command in ("resume", "retry", "cancel"):
        assert "was imported and has no jobs" in one_line(workplace.run_here(command))
    assert workplace.run_here("logs").stdout.count("\n") == 1  # of the import


def test_what_was_published_is_imported_doubted_refused_and_marked(workplace: Workplace) -> None:
    names = ("pruning_ablation", "wikitext_benchmark_500tokens", "fallback_benchmark_500tokens")
    done = workplace.run_here("import", *(real_file(f"{name}.json") for name in names))
    assert done.status == 0
    assert "D = 5, 6 and 7 without pruning are identical in every count" in done.stdout
    assert "wikitext_benchmark_500tokens.json says that it ran on" not in done.stderr
    join = ("report", "--from", names[0], "--from", names[1], "--row", "Linear K=6")
    refused = workplace.run_here(*join)
    assert refused.status == 2
    assert "prompt set ('Fallback Prompts" in one_line(refused)
    rows = {
        row["label"]: row
        for row in json.loads(workplace.run_here(*join, "--allow-mixed", "--json").stdout)["rows"]
    }
    linear_row = rows["Linear K=6"]
    assert f"{linear_row['throughput_tokens_per_s']:.1f} {linear_row['speedup']:.2f}" == "174.2 1.35"
    assert linear_row["mixed"]


def test_a_report_of_ours_can_be_taken_to_another_database(workplace: Workplace, tmp_path: Path) -> None:
    workplace.run_here("import", write(workplace.folder, "a.json", dynatree(FOUR_STEPS)))
    report = workplace.folder / "report.json"
    report.write_text(workplace.run_here("report", "--json").stdout, encoding="utf-8")
    other = f"sqlite:///{tmp_path}/other.db"
    assert workplace.run_here("import", report, "--db", other).status == 0
    before, after = (
        workplace.run_here("report", "--csv", "--db", url).stdout for url in ("sqlite:///dyna-eval.db", other)
    )
    cells = [[line.split(",")[5:7] for line in text.splitlines()] for text in (before, after)]
    assert cells[0] == cells[1]
