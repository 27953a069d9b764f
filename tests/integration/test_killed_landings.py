"""Processes that are killed at any moment of a landing leave all of a result, or nothing of it."""

from __future__ import annotations

import random
import subprocess
import sys
import time
from pathlib import Path

import pytest
from dyna_eval_db.store import Store
from measurements import make_sweep

from dyna_eval.jobs import JobState

LANDING = """
import sys
from claims import claim_one, land_one
from dyna_eval_db.store import Store
from measurements import make_result, make_sentinel

store = Store.open(sys.argv[1], create=False)
while claim := claim_one(store, 1, pair="demo", actor=sys.argv[2], lease_seconds=60.0):
    sentinels = [make_sentinel(sys.argv[2], claim.epoch)]
    land_one(store, claim, make_result(claim.job, sentinels=sentinels, rounds=300))
    print("landed", flush=True)
"""


@pytest.mark.parametrize(
    "kills", [2, pytest.param(200, marks=[pytest.mark.chaos, pytest.mark.timeout(3600)])]
)
def test_a_landing_that_is_killed_leaves_no_part_of_a_result(
    database_url: str, kills: int, record: dict[str, object]
) -> None:
    """Some more are killed where none of the first was at work on a job at that moment."""
    most = max(kills, 12)
    with Store.open(database_url, create=True) as store:
        store.add_sweep(make_sweep(repeats=50 * most))
        interrupted = made = 0
        while made < kills or (not interrupted and made < most):
            made += 1
            command = [sys.executable, "-c", LANDING, database_url, f"actor-{made}"]
            with subprocess.Popen(command, cwd=Path(__file__).parent, stdout=subprocess.PIPE) as child:
                assert child.stdout is not None
                assert child.stdout.readline() == b"landed\n"
                time.sleep(random.uniform(0, 0.3))
                child.kill()
            assert store.acquire_lease(1, "next", 60.0)
            interrupted += store.recover(1, "next")
            assert store.audit() == []
        landed = store.progress(1)[JobState.DONE]
        assert landed >= made
        assert interrupted >= 1
        record |= {"kills": made, "interrupted": interrupted, "landed": landed, "passed": True}
