"""`report --baseline`, `--confidence` and `--chosen` as commands, on stored sweeps, and their papers."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from claims import claim_one, land_one
from click.testing import CliRunner, Result
from dyna_eval_db.store import Store
from measurements import make_result, make_sample, make_sentinel, make_sweep

from dyna_eval.cli import cli, run
from tests.result_files import baseline, dynatree, tree, write

PROMPTS = 4


@pytest.fixture
def url(tmp_path: Path, empty_file: Path) -> str:
    """The address of a database with two equal sweeps, `plain` and, with prompts set aside, `tuned`."""
    file = tmp_path / "terms.db"
    file.write_bytes(empty_file.read_bytes())
    with Store.open(f"sqlite:///{file}", create=False) as store:
        for name, fraction in (("plain", 0.0), ("tuned", 0.5)):
            made = make_sweep(name)
            measure = replace(made.spec.measure, tune_fraction=fraction)
            sweep_id = store.add_sweep(replace(made, spec=replace(made.spec, measure=measure)))
            while claim := claim_one(store, sweep_id, pair="demo", actor="actor-1", lease_seconds=60.0):
                slow = 1.0 if claim.job.configuration.label == "Baseline" else 0.6
                samples = tuple(
                    replace(make_sample(index), decode_seconds=slow * (1.0 + (index + claim.job_id) / 50))
                    for index in range(PROMPTS)
                )
                sentinels = [make_sentinel()] if claim.job.repeat == 0 else []
                result = replace(make_result(claim.job, sentinels=sentinels), samples=samples)
                land_one(store, claim, result)
    return f"sqlite:///{file}"


def report(url: str, *options: str | Path) -> Result:
    return CliRunner().invoke(cli, ["report", *map(str, options), "--db", url])


def test_baseline_and_confidence_replace_those_of_the_sweep_file(url: str) -> None:
    other = json.loads(report(url, "plain", "--baseline", "+ Tree", "--confidence", "0.99", "--json").stdout)
    assert other["terms"] == {"baseline": "+ Tree", "confidence": 0.99, "chosen": False}
    assert other["sweep"]["confidence"] == 0.99
    assert [(row["label"], row["speedup"]) for row in other["rows"] if row["baseline"]] == [("+ Tree", 1.0)]
    assert other["rows"][0]["speedup"] == pytest.approx(0.6, rel=0.05)
    plain = json.loads(report(url, "plain", "--json").stdout)
    low, high = plain["rows"][1]["speedup_interval"]
    wider = json.loads(report(url, "plain", "--confidence", "0.99", "--json").stdout)
    assert wider["rows"][1]["speedup"] == plain["rows"][1]["speedup"]
    assert wider["rows"][1]["speedup_interval"][0] < low < high < wider["rows"][1]["speedup_interval"][1]


@pytest.mark.parametrize(
    "options",
    [
        ["plain", "--baseline", "2", "--confidence", "0.99", "--latex"],
        ["plain", "--baseline", "+ Tree", "--row", "+ Tree", "--row", "Baseline", "--latex"],
        ["--from", "plain", "--from", "plain", "--confidence", "0.5", "--prose"],
        ["plain", "--by-category", "--baseline", "+ Tree", "--latex"],
        ["tuned", "--chosen", "--confidence", "0.9", "--latex", "--columns", "interval"],
    ],
)
def test_a_paper_is_checked_on_the_terms_that_made_it(url: str, options: list[str], tmp_path: Path) -> None:
    written = report(url, *options)
    assert written.exit_code == 0, written.stderr
    paper = tmp_path / "paper.tex"
    paper.write_text(written.stdout, encoding="utf-8")
    check = ["report", "--check", str(paper), "--db", url]
    assert run(check) == 0
    for told in ('"baseline":"+ Tree",', '"confidence":0.99,', '"confidence":0.5,', '"confidence":0.9,'):
        if told in written.stdout:
            paper.write_text(written.stdout.replace(told, ""), encoding="utf-8")
            assert run(check) == 1, told


def test_what_fits_no_report_is_refused_in_one_line(
    url: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    theirs = write(tmp_path, "theirs.json", dynatree([baseline(), tree(7, 0.1, 150.0)]))
    assert run(["import", str(theirs), "--name", "theirs", "--db", url]) == 0
    capsys.readouterr()
    for options, says in (
        (["theirs", "--confidence", "0.9"], "(theirs) was imported: its baseline and intervals are those"),
        (["theirs", "--baseline", "1"], "(theirs) was imported"),
        (["plain", "--baseline", "Tree"], "--baseline 'Tree' names no row; did you mean '+ Tree'?"),
        (["plain", "--confidence", "1"], "1 is no confidence; it is more than 0 and less than 1"),
        (["plain", "--confidence", "nan"], "nan is no confidence"),
        (["plain", "--chosen"], "--chosen: sweep 'plain' sets no prompts aside to choose on"),
        (["tuned", "--chosen", "--row", "1"], "--chosen is for one whole sweep; leave out --from and --row"),
        (["tuned", "--chosen", "--by-category"], "--by-category takes one whole sweep; leave out --chosen"),
        (["--check", "paper.tex", "--baseline", "1"], "what is in the paper; leave out --baseline"),
    ):
        assert run(["report", *options, "--db", url]) == 2
        told = capsys.readouterr()
        [line] = told.err.splitlines()
        assert (says in line, told.out) == (True, ""), line
