"""The checker: silent over everything that the store does, and loud over rows that it never writes."""

from __future__ import annotations

from pathlib import Path

import pytest
from claims import claim_one, land_one
from click.testing import CliRunner
from dyna_eval_db.address import parse_address
from dyna_eval_db.engine import bare_engine, writing
from dyna_eval_db.store import Store
from measurements import make_result, make_sentinel, make_sweep
from sqlalchemy import text

from dyna_eval.cli import cli
from tests.new_databases import open_new

MINUTE = 60.0


@pytest.fixture
def worked(store: Store) -> Store:
    """A sweep of which one job is done, one running, one failed once and queued again, and one untouched."""
    sweep_id = store.add_sweep(make_sweep())
    claims = [claim_one(store, sweep_id, pair="demo", actor="a", lease_seconds=MINUTE) for _ in range(3)]
    done, _running, failed = claims
    assert done is not None
    assert failed is not None
    land_one(store, done, make_result(done.job, sentinels=[make_sentinel()]))
    store.fail(failed, error_class="MemoryError", message="no room", final=False)
    return store


def alter(url: str, *statements: str) -> None:
    """Change rows behind the store's back, without its foreign keys."""
    with writing(bare_engine(parse_address(url))).begin() as connection:
        for statement in statements:
            connection.execute(text(statement))


def test_nothing_is_found_in_what_the_store_does_itself(worked: Store) -> None:
    assert worked.audit() == []
    worked.cancel(1)
    worked.retry(1)
    assert worked.audit() == worked.audit(1) == []


def test_what_a_killed_controller_left_running_is_sound(worked: Store, database_url: str) -> None:
    """However long ago its claim was to be renewed: it waits for the next controller."""
    alter(database_url, "UPDATE job SET lease_expires_at = '2001-01-01' WHERE state = 'running'")
    assert worked.audit() == []


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        ("UPDATE job SET state = 'queued' WHERE id = {done}", "is queued but has a result"),
        ("UPDATE job SET state = 'done' WHERE id = {queued}", "is done without a result"),
        (
            "UPDATE job SET lease_expires_at = NULL WHERE id = {running}",
            "is running, which its lease contradicts",
        ),
        (
            "UPDATE job SET epoch = 5 WHERE id = {failed}",
            "was claimed 5 times, which its attempts contradict",
        ),
        (
            "UPDATE attempt SET outcome = 'failed' WHERE job_id = {done}",
            "attempt 1 has a result but did not land",
        ),
        (
            "UPDATE attempt SET outcome = 'landed' WHERE job_id = {failed}",
            "attempt 1 landed without a result",
        ),
        (
            "UPDATE attempt SET outcome = NULL WHERE job_id = {failed}",
            "attempt 1 is open but not the one that runs",
        ),
        (
            "UPDATE attempt SET outcome = 'lost' WHERE job_id = {running}",
            "has ended but is the one that runs",
        ),
        (
            "INSERT INTO env VALUES ('e2', '{{}}'); UPDATE calibration SET environment = 'e2'",
            "has calibration 1, of another environment",
        ),
        ("UPDATE round SET accepted = accepted + 1 WHERE number = 0", "the sums of its sample are not those"),
        ("DELETE FROM round WHERE number = 2", "the sums of its sample are not those"),
        (
            "DELETE FROM round; DELETE FROM draft_tree; DELETE FROM sample WHERE job_id = {done}",
            "has a result without samples",
        ),
        (
            "UPDATE result SET attempt_id = (SELECT id FROM attempt WHERE job_id = {failed})",
            "has the result of attempt 1, not of its latest claim",
        ),
        (
            "UPDATE job SET epoch = 2 WHERE id = {done}",
            "has the result of attempt 1, not of its latest claim",
        ),
        (
            "DELETE FROM round; DELETE FROM draft_tree; DELETE FROM sample WHERE sentinel_id IS NOT NULL",
            "a sentinel of actor-1 has no samples",
        ),
        ("UPDATE sample SET prompt_index = 9 WHERE prompt_index = 1", "prompt 9 is not of its prompt set"),
    ],
)
def test_a_row_that_breaks_a_promise_is_found(
    worked: Store, database_url: str, damage: str, said: str
) -> None:
    done, running, failed = _by_state(worked)
    damage = damage.format(done=done, running=running, failed=failed, queued=_untouched(worked))
    alter(database_url, *damage.split("; "))
    assert any(said in finding.what for finding in worked.audit(1)), worked.audit(1)


def _by_state(store: Store) -> list[int]:
    """Return the numbers of the done, the running and the once failed job."""
    jobs = store.record(1).jobs
    return [
        next(job.id for job in jobs if job.state == "done"),
        next(job.id for job in jobs if job.state == "running"),
        next(job.id for job in jobs if job.tries),
    ]


def _untouched(store: Store) -> int:
    return next(job.id for job in store.record(1).jobs if job.state == "queued" and not job.tries)


def test_orphaned_rows_of_sqlite_are_found(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/store.db"
    with open_new(url) as store:
        store.add_sweep(make_sweep())
        alter(url, "DELETE FROM sweep")
        assert {finding.what.split(" points")[1] for finding in store.audit()} == {
            " to a missing row of sweep"
        }


def test_the_command_prints_a_line_for_each_finding_and_exits_with_1(
    worked: Store, database_url: str
) -> None:
    words = ["db", "check", "--db", database_url]
    sound = CliRunner().invoke(cli, words, standalone_mode=False)
    assert (sound.output, sound.return_value) == ("ok: 1 sweep\n", 0)
    done = _by_state(worked)[0]
    alter(database_url, "UPDATE job SET state = 'failed' WHERE state = 'done'")
    for options in ([], ["--sweep", "four-step"]):
        broken = CliRunner().invoke(cli, [*words, *options], standalone_mode=False)
        assert broken.return_value == 1
        assert f"sweep 1 job {done} is failed but has a result" in broken.output.splitlines()
