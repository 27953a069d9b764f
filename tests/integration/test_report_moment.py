"""A report's table and figures are of one moment, also while jobs land."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from claims import claim_one, land_one
from click.testing import CliRunner
from dyna_eval_db.store import Store
from measurements import make_result, make_sample, make_sentinel, make_sweep

from dyna_eval.cli import cli
from dyna_eval.records import SweepRecord

PROMPTS = 6


def land_next(store: Store, sweep_id: int, *, verified: int) -> None:
    """Land the sweep's next job; its rounds verify so many nodes, and accept as its id has it."""
    claim = claim_one(store, sweep_id, pair="demo", actor="actor-1", lease_seconds=60.0)
    assert claim is not None
    samples = []
    for index in range(PROMPTS):
        made = make_sample(index, rounds=2 + (index + claim.job_id) % 4)
        samples.append(
            replace(made, rounds=tuple(replace(round_, verified=verified) for round_ in made.rounds))
        )
    result = make_result(claim.job, sentinels=[] if claim.job.repeat else [make_sentinel()])
    land_one(store, claim, replace(result, samples=tuple(samples)))


def land_after_each_reading(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a sweep's next two jobs, AR and a tree, land right after each reading of its record."""
    read = Store.record

    def record(store: Store, sweep_id: int) -> SweepRecord:
        found = read(store, sweep_id)
        for _ in range(2):
            land_next(store, sweep_id, verified=9)
        return found

    monkeypatch.setattr(Store, "record", record)


@pytest.mark.parametrize("fraction", [0.0, 0.5], ids=["whole", "split"])
@pytest.mark.parametrize("options", [["sweep"], ["--from", "sweep", "--from", "again"]], ids=" ".join)
def test_figures_are_of_the_moment_of_the_table(
    options: list[str],
    fraction: float,
    empty_file: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    file = tmp_path / "moving.db"
    file.write_bytes(empty_file.read_bytes())
    url = f"sqlite:///{file}"
    with Store.open(url, create=False) as store:
        for name in ("sweep", "again"):
            made = make_sweep(name, repeats=6)
            measure = replace(made.spec.measure, tune_fraction=fraction)
            sweep_id = store.add_sweep(replace(made, spec=replace(made.spec, measure=measure)))
            for _ in range(4):
                land_next(store, sweep_id, verified=6)

    def printed(folder: str) -> tuple[str, dict[str, bytes]]:
        wanted = ["--plots", str(tmp_path / folder), "--plot", "tree-size", "--plot", "depth", "--csv"]
        done = CliRunner().invoke(cli, ["report", *options, *wanted, "--db", url])
        assert done.exit_code == 0, done.output
        return done.stdout, {path.name: path.read_bytes() for path in (tmp_path / folder).glob("*.svg")}

    still = printed("still")
    land_after_each_reading(monkeypatch)
    moving = printed("moving")
    assert set(still[1]) == {"tree-size.svg", "depth.svg"}
    assert moving == still
    assert printed("after") != still
