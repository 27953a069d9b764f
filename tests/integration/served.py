"""Stored sweeps for tests of the dashboard, and the application over them as a client sees it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from claims import claim_one, land_one
from dyna_eval_dashboards.app import create_app
from dyna_eval_dashboards.safety import Access
from dyna_eval_db.watching import WatchedStore
from measurements import make_result, make_sentinel, make_sweep
from starlette.testclient import TestClient

from dyna_eval.jobs import PromptSet, ResolvedSweep
from dyna_eval.measurements import JobResult
from tests.new_databases import open_new

HOSTILE = "<script>alert(1)</script>\"'><img src=x onerror=alert(2)>{{ 7*7 }}</textarea>\u202e"


def hostile_sweep() -> ResolvedSweep:
    """Return a sweep whose every text tries to become markup."""
    sweep = make_sweep()
    label = HOSTILE[:80]
    configurations = tuple(
        replace(row, label=f"{label}{number}") for number, row in enumerate(sweep.spec.configurations)
    )
    renamed = dict(zip((row.label for row in sweep.spec.configurations), configurations, strict=True))
    prompts = {
        pair: PromptSet(
            digest=found.digest, prompts=tuple(replace(prompt, text=HOSTILE) for prompt in found.prompts)
        )
        for pair, found in sweep.prompt_sets.items()
    }
    return replace(
        sweep,
        spec=replace(
            sweep.spec, name=HOSTILE, configurations=configurations, baseline=configurations[0].label
        ),
        prompt_sets=prompts,
        jobs=tuple(replace(job, configuration=renamed[job.configuration.label]) for job in sweep.jobs),
    )


def fill(url: str, sweep: ResolvedSweep | None = None, *, failed: bool = False) -> int:
    """Run a sweep by hand: all of its jobs land, or the last but one fails."""
    sweep = sweep or make_sweep()
    with open_new(url) as store:
        sweep_id = store.add_sweep(sweep)
        number = 0
        while claim := claim_one(
            store, sweep_id, pair=sweep.pairs[0].spec.name, actor="actor-1", lease_seconds=60
        ):
            number += 1
            if failed and number == len(sweep.jobs) - 1:
                store.fail(claim, error_class="ValueError", message=HOSTILE, final=True)
                continue
            sentinels = [make_sentinel()] if number == 1 else []
            land_one(store, claim, _with_hostile_text(make_result(claim.job, sentinels=sentinels)))
    return sweep_id


def _with_hostile_text(result: JobResult) -> JobResult:
    """Return a result that is the same but for what the samples of its own jobs say."""
    return replace(result, samples=tuple(replace(sample, text=HOSTILE) for sample in result.samples))


def database(folder: Path) -> str:
    return f"sqlite:///{folder}/dashboard.db"


@contextmanager
def client_of(url: str, access: Access | None = None) -> Iterator[TestClient]:
    app = create_app(WatchedStore.open(url), access or Access.of("127.0.0.1"))
    with TestClient(app, base_url="http://127.0.0.1:8470", follow_redirects=False) as client:
        yield client
