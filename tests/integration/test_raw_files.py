"""`report --samples` and `--rounds`: every stored sample and round as a line, read and written in parts."""

from __future__ import annotations

import contextlib
import csv
import gc
import gzip
import io
import json
import os
import sys
import threading
from collections import Counter
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
from claims import claim_one, land_one
from click.testing import CliRunner, Result
from dyna_eval_db.store import Landing, Store
from measurements import make_result, make_sample, make_sweep

from dyna_eval.cli import cli, run
from dyna_eval.commands import raw
from dyna_eval.errors import DatabaseError
from dyna_eval.jobs import Configuration, MeasureSpec, Method, ResolvedSweep
from dyna_eval.measurements import Sample, Sentinel, sum_rounds
from dyna_eval.records import MeasuredRun, StoredSample
from tests.disks import room_for

PROMPTS = 5


def land_all(store: Store, resolved: ResolvedSweep, *, rounds: int = 3) -> dict[int, tuple[Sample, ...]]:
    """Run a sweep on one actor that makes one AR run for itself; return the samples by job, 0 for its own."""
    sweep_id = store.add_sweep(resolved)
    own = tuple(make_sample(index, exactness=None) for index in range(PROMPTS))
    landed: dict[int, tuple[Sample, ...]] = {0: own}
    for pair in resolved.spec.pairs:
        sentinels = [Sentinel(actor="actor-1", sequence=0, samples=own)]
        while claim := claim_one(store, sweep_id, pair=pair.name, actor="actor-1", lease_seconds=60.0):
            samples = tuple(
                replace(make_sample(index, rounds=rounds), decode_seconds=0.1 * claim.job_id + index / 7)
                for index in range(PROMPTS)
            )
            result = replace(make_result(claim.job, sentinels=sentinels), samples=samples)
            assert land_one(store, claim, result) is Landing.LANDED
            landed[claim.job_id] = samples
            sentinels = []
    return landed


@pytest.fixture
def url(tmp_path: Path, empty_file: Path) -> str:
    """The address of an empty SQLite database."""
    file = tmp_path / "raw.db"
    file.write_bytes(empty_file.read_bytes())
    return f"sqlite:///{file}"


@pytest.fixture
def landed(url: str) -> dict[int, tuple[Sample, ...]]:
    with Store.open(url, create=False) as store:
        return land_all(store, make_sweep())


def report(url: str, *options: str | Path) -> Result:
    return CliRunner().invoke(cli, ["report", *map(str, options), "--db", url])


def lines_of(text: str) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(text, newline="")))


def cell(value: object) -> str:
    if value is None:
        return ""
    return str(int(value)) if isinstance(value, bool) else str(value)


def test_runs_samples_and_rounds_are_read_part_by_part(store: Store) -> None:
    resolved = make_sweep(pairs=("demo", "other"))
    landed = land_all(store, resolved)
    runs = store.runs(1)
    assert Counter(each.job_id is None for each in runs) == {False: 8, True: 2}
    for each in runs:
        samples = list[StoredSample]()
        while page := store.run_samples(
            each, after=samples[-1].totals.prompt_index if samples else -1, most=2
        ):
            assert len(page) <= 2
            samples += page
        expected = landed[each.job_id or 0]
        assert [one.totals for one in samples] == [sum_rounds(one) for one in expected]
        assert [one.prompt_digest for one in samples] == [one.prompt_digest for one in expected]
        rounds = store.rounds([one.id for one in samples[1:3]])
        assert [rounds[one.id] for one in samples[1:3]] == [one.rounds for one in expected[1:3]]
        assert len(rounds) == 2
        job = next((job for job in resolved.jobs if job.key == each.key), None)
        if job is None:
            assert (each.label, each.sequence, each.node) == ("target alone", 0, "node-1")
        else:
            assert (each.label, each.params) == (job.configuration.label, job.configuration.params)
            assert each.sequence is None


def test_every_sample_is_a_line_with_what_is_stored_of_it(
    url: str, landed: dict[int, tuple[Sample, ...]], tmp_path: Path
) -> None:
    file = tmp_path / "samples.csv"
    done = report(url, "--samples", file)
    assert (done.exit_code, done.stdout, done.stderr) == (0, "", f"wrote {file}\n")
    lines = lines_of(file.read_text(encoding="utf-8"))
    assert len(lines) == sum(map(len, landed.values()))
    assert len({line["sample"] for line in lines}) == len(lines)
    with Store.open(url, create=False) as store:
        jobs = {str(job.id): job for job in store.record(1).jobs}
    for line in lines:
        sample = landed[int(line["job"] or 0)][int(line["prompt_index"])]
        totals = sum_rounds(sample)
        known = {name: value for name, value in asdict(totals).items() if name in line}
        known |= {"new_tokens": totals.tokens, "exactness": sample.exactness and sample.exactness.value}
        known |= {name: getattr(sample, name) for name in ("divergence_index", "divergence_margin_ulp")}
        assert {name: line[name] for name in known} == {name: cell(value) for name, value in known.items()}
        assert (line["sweep"], line["pair"], line["tuning"]) == ("four-step", "demo", "0")
        assert (line["actor"], line["node"]) == ("actor-1", "node-1")
        assert line["prompt_digest"] == sample.prompt_digest
        if not line["job"]:
            assert (line["sentinel"], line["label"], line["method"], line["params"]) == (
                "0",
                "target alone",
                "ar",
                "{}",
            )
            assert (line["repeat"], line["job_key"], line["exactness"]) == ("", "", "")
            continue
        job = jobs[line["job"]]
        assert (line["sentinel"], line["repeat"], line["job_key"]) == ("", str(job.repeat), job.key)
        assert (line["method"], json.loads(line["params"])) == (job.method.value, job.params)
        assert line["environment"] == job.environment
        assert line["prompt_set"] == job.prompt_set
    assert [line["category"] for line in lines[:3]] == ["", "prose", ""]  # of the two prompts that are stored
    assert [line["label"] for line in lines[:: 2 * PROMPTS]] == ["Baseline", "'+ Tree", "target alone"]


def test_every_round_is_a_line_that_joins_with_its_sample_and_adds_up_to_it(
    url: str, landed: dict[int, tuple[Sample, ...]], tmp_path: Path
) -> None:
    samples, rounds = tmp_path / "samples.csv.gz", tmp_path / "rounds.csv.gz"
    assert report(url, "--samples", samples, "--rounds", rounds).exit_code == 0
    by_number = {
        line["sample"]: line for line in lines_of(gzip.decompress(samples.read_bytes()).decode("utf-8"))
    }
    lines = lines_of(gzip.decompress(rounds.read_bytes()).decode("utf-8"))
    assert len(lines) == 3 * len(by_number)
    sums: Counter[tuple[str, str]] = Counter()
    for line in lines:
        own = by_number[line["sample"]]
        shared = ("sweep", "pair", "label", "sentinel", "job", "repeat", "prompt_index")
        assert [line[name] for name in shared] == [own[name] for name in shared]
        stored = landed[int(line["job"] or 0)][int(line["prompt_index"])].rounds[int(line["round"])]
        phases = ("draft_seconds", "grow_seconds", "verify_seconds", "walk_seconds")
        assert [line[name] for name in phases] == [cell(getattr(stored, name)) for name in phases]
        told = ("drafted_nodes", "verified_nodes", "drafted_levels", "accepted_tokens", "emitted_tokens")
        values = (stored.drafted, stored.verified, stored.depth, stored.accepted, stored.emitted)
        assert [line[name] for name in told] == [str(value) for value in values]
        assert line["capped"] == cell(stored.capped)
        for name in ("drafted_nodes", "accepted_tokens", "draft_steps", "draft_rows"):
            sums[line["sample"], name] += int(line[name])
    assert all(by_number[sample][name] == str(total) for (sample, name), total in sums.items())


def test_samples_go_to_stdout_beside_files_of_a_paper(
    url: str, landed: dict[int, tuple[Sample, ...]], tmp_path: Path
) -> None:
    macros = tmp_path / "macros.tex"
    done = report(url, "--samples", "-", "--macros", macros)
    assert (done.exit_code, done.stderr) == (0, f"wrote {macros}\n")
    assert len(lines_of(done.stdout)) == sum(map(len, landed.values()))
    beside = report(url, "--samples", tmp_path / "samples.csv", "--csv")
    assert beside.stdout == report(url, "--csv").stdout
    assert (tmp_path / "samples.csv").read_text(encoding="utf-8") == done.stdout


def test_a_pipe_is_written_to(url: str, landed: dict[int, tuple[Sample, ...]], tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    read: list[str] = []
    reader = threading.Thread(target=lambda: read.append(pipe.read_text(encoding="utf-8")))
    reader.start()
    assert report(url, "--rounds", pipe).exit_code == 0
    reader.join()
    assert len(lines_of(read[0])) == 3 * sum(map(len, landed.values()))
    assert pipe.is_fifo()


@pytest.mark.usefixtures("landed")
def test_a_reader_that_has_seen_enough_is_no_failure(
    url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Such as `head`; what else was asked for is written all the same."""
    reading, writing = os.pipe()
    os.close(reading)
    rounds = tmp_path / "rounds.csv"
    with open(writing, "w", encoding="utf-8") as closed:  # noqa: PTH123 - a number, not a path
        monkeypatch.setattr(sys, "stdout", closed)
        status = run(["report", "--samples", "-", "--rounds", str(rounds), "--db", url])
        monkeypatch.undo()
    assert (status, capsys.readouterr().err) == (0, f"wrote {rounds}\n")


def test_texts_are_no_formulas_and_end_no_line(url: str) -> None:
    resolved = make_sweep(name="=1+1")
    hostile = Configuration(label='@cmd\n"x",y', method=Method.AR, params={})
    spec = replace(resolved.spec, configurations=(hostile,), baseline=hostile.label)
    jobs = tuple(
        replace(job, configuration=hostile) for job in resolved.jobs if job.configuration.method is Method.AR
    )
    with Store.open(url, create=False) as store:
        land_all(store, replace(resolved, spec=spec, jobs=jobs))
    lines = lines_of(report(url, "--samples", "-").stdout)
    assert {line["sweep"] for line in lines} == {"'=1+1"}
    assert {line["label"] for line in lines} == {'\'@cmd "x",y', "target alone"}


def test_the_prompts_that_a_row_is_chosen_on_are_marked(url: str) -> None:
    resolved = make_sweep()
    measure = MeasureSpec(repeats=2, tune_fraction=0.4)
    spec = replace(resolved.spec, measure=measure)
    with Store.open(url, create=False) as store:
        land_all(store, replace(resolved, spec=spec))
    lines = lines_of(report(url, "--samples", "-").stdout)
    tuning = {line["prompt_index"] for line in lines if line["tuning"] == "1"}
    rows = json.loads(report(url, "--json").stdout)["rows"]
    assert len(tuning) == 2
    assert {row["prompts"] for row in rows} == {PROMPTS - len(tuning)}
    for row in rows:
        own = [line for line in lines if line["job"] in map(str, row["job_ids"])]
        assert row["tokens"] == sum(int(line["new_tokens"]) for line in own if line["tuning"] == "0")


@pytest.mark.usefixtures("landed")
def test_no_more_samples_are_held_than_are_read_at_once(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(raw, "_SAMPLES_AT_ONCE", 2)
    monkeypatch.setattr(raw, "_ROUNDS_OF_AT_ONCE", 3)
    held: list[int] = []

    def counted(self: Store, run: MeasuredRun, **part: Any) -> tuple[StoredSample, ...]:
        held.append(sum(isinstance(one, StoredSample) for one in gc.get_objects()))
        return read(self, run, **part)

    read = Store.run_samples
    whole = report(url, "--rounds", "-").stdout
    monkeypatch.setattr(Store, "run_samples", counted)
    assert report(url, "--rounds", "-").stdout == whole
    assert len(held) > PROMPTS
    assert 0 < max(held) <= 2 + 3


# ------------------------------------------------------------- whole or not at all


def fail_midway(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the database refuse when the third run is read."""
    read, asked = Store.run_samples, list[MeasuredRun]()

    def refusing(self: Store, run: MeasuredRun, **part: Any) -> tuple[StoredSample, ...]:
        asked.append(run)
        if len(asked) > 3:
            raise DatabaseError("the disk is on fire")
        return read(self, run, **part)

    monkeypatch.setattr(Store, "run_samples", refusing)


@pytest.mark.usefixtures("landed")
@pytest.mark.parametrize("name", ["samples.csv", "samples.csv.gz"])
def test_where_reading_or_writing_fails_the_file_before_stays(
    url: str, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "out"
    folder.mkdir()
    file = folder / name
    words = ["report", "--samples", str(file), "--db", url]
    with room_for(1000):
        assert run(words) == 2
    assert capsys.readouterr().err == (
        f"dyna-eval: {file}: cannot be written: File too large; name another file\n"
    )
    assert list(folder.iterdir()) == []
    assert run(words) == 0
    before = file.read_bytes()
    fail_midway(monkeypatch)
    assert run(words) != 0
    assert "the disk is on fire" in capsys.readouterr().err
    assert (list(folder.iterdir()), file.read_bytes()) == ([file], before)
    monkeypatch.undo()
    assert run(words) == 0  # its own file it writes anew
    assert file.read_bytes() == before


@pytest.mark.usefixtures("landed")
@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("samples.csv", b"prompt,answer\n1,2\n"),
        ("samples.csv.gz", b"no gzip at all"),
        ("samples.csv.gz", gzip.compress(b"theirs" * 100, mtime=0)),
        ("samples.csv.gz", gzip.compress(b"cut off" * 100, mtime=0)[:30]),
    ],
)
def test_a_file_of_somebody_else_stays(url: str, name: str, content: bytes, tmp_path: Path) -> None:
    file, rounds = tmp_path / name, tmp_path / "rounds.csv"
    file.write_bytes(content)
    assert "move it away, or name another file" in complaint(url, "--rounds", rounds, "--samples", file)
    assert file.read_bytes() == content
    assert not rounds.exists()


# --------------------------------------------------------------------------- refused


def complaint(url: str, *options: str | Path) -> str:
    """Run a report that must be refused in one line and print nothing."""
    streams = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(streams[0]), contextlib.redirect_stderr(streams[1]):
        status = run(["report", *map(str, options), "--db", url])
    [line] = streams[1].getvalue().splitlines()
    assert (status, streams[0].getvalue()) == (2, "")
    return line


@pytest.mark.usefixtures("landed")
@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["--samples", "-", "--rounds", "-"], "files of their own; name two"),
        (["--samples", "-", "--json"], "goes to stdout, where nothing else can be printed then"),
        (["--samples", "-", "--by-category"], "goes to stdout"),
        (["--samples", "x.csv", "--from", "1"], "--samples takes one whole sweep; leave out --from"),
        (["--rounds", "x.csv", "--row", "Baseline"], "--rounds takes one whole sweep; leave out --row"),
        (["--rounds", "x.csv", "--preset", "three-step"], "one whole sweep; leave out --preset"),
        (["--samples", "x.csv", "--check", "paper.tex"], "is in the paper; leave out --samples"),
        (["none", "--samples", "x.csv"], "no sweep 'none'"),
        (["--samples", "missing/x.csv"], "missing/x.csv: cannot be written: No such file or directory"),
    ],
)
def test_what_cannot_be_written_is_refused_in_one_line(
    url: str, options: list[str], says: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    before = set(tmp_path.iterdir())
    assert says in complaint(url, *options)
    assert set(tmp_path.iterdir()) == before


def test_a_sweep_without_results_has_nothing_to_write(url: str, tmp_path: Path) -> None:
    with Store.open(url, create=False) as store:
        store.add_sweep(make_sweep())
    file = tmp_path / "samples.csv"
    assert "sweep 1 has no result yet" in complaint(url, "--samples", file)
    assert not file.exists()
