"""Which clusters are joined, and who can reach those that are started here."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from workplace import SWEEP, Workplace

from tests.clusters import Cluster, running_cluster

LISTENING = """\
import json, os, psutil
from dyna_eval.running.connection import connected

with connected("local"):
    import ray
    ray.get(ray.remote(lambda: os.getpid()).remote())
    ours = [psutil.Process(), *psutil.Process().children(recursive=True)]
    found = [one for process in ours for one in process.net_connections()]
    sockets = [one.laddr.ip for one in found if one.status == "LISTEN"]
print(json.dumps([sockets, os.environ.get("RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER")]))
"""


def test_a_local_cluster_listens_on_loopback_alone_and_its_token_is_private(
    workplace: Workplace, tmp_path: Path
) -> None:
    """None of its processes, the workers among them."""
    home = tmp_path / "home"
    home.mkdir()
    answer = subprocess.run(
        [sys.executable, "-c", LISTENING],
        env=workplace.environment() | {"HOME": str(home)},
        capture_output=True,
        text=True,
        check=True,
    )
    addresses, left_behind = json.loads(answer.stdout.splitlines()[-1])
    assert {address.removeprefix("::ffff:") for address in addresses} == {"127.0.0.1"}
    assert len(addresses) >= 5
    assert left_behind is None
    assert (home / ".ray/auth_token").stat().st_mode & 0o777 == 0o600


@pytest.mark.slow
def test_a_cluster_without_a_token_is_joined_only_where_the_command_says_so(workplace: Workplace) -> None:
    workplace.write("sweep.yaml", SWEEP)
    with running_cluster(workplace.environment(), token=False) as cluster:
        joining = ("submit", "sweep.yaml", "--address", cluster.address)
        refused = workplace.run(*joining, RAY_AUTH_MODE="disabled")
        assert refused.status == 2
        assert refused.stderr.count("\n") == 1
        assert f"the Ray cluster at {cluster.address} asks for no token" in refused.stderr
        assert not workplace.database.exists()
        looked = workplace.run(
            "doctor", "--json", "--address", cluster.address, "--insecure", RAY_AUTH_MODE="disabled"
        )
        [found] = [finding["told"] for finding in looked.json() if finding["what"] == "Ray"]
        assert "asks for no token" not in found


@pytest.fixture(scope="module")
def guarded(new_workplace: Callable[[], Workplace]) -> Iterator[Cluster]:
    """A cluster with a token, and without a core."""
    with running_cluster(new_workplace().environment()) as cluster:
        yield cluster


def test_a_cluster_with_a_token_refuses_a_wrong_one_in_a_line(workplace: Workplace, guarded: Cluster) -> None:
    workplace.write("sweep.yaml", SWEEP)
    wrong = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": "00" * 32}
    refused = workplace.run("submit", "sweep.yaml", "--address", guarded.address, **wrong)
    assert refused.status == 2
    [said] = refused.stderr.splitlines()  # and none of Ray's warnings
    assert "put its token into ~/.ray/auth_token" in said


@pytest.mark.slow
def test_a_clusters_token_is_shown_without_being_told_to_and_missed_at_once(
    workplace: Workplace, guarded: Cluster
) -> None:
    """A newcomer copies the token and sets no variable."""
    looking = ("doctor", "--json", "--address", guarded.address)
    without = workplace.run(*looking, RAY_AUTH_TOKEN_PATH=str(workplace.folder / "none"))
    assert f"the Ray cluster at '{guarded.address}' asks for a token; put its token" in without.stdout
    token = guarded.variables["RAY_AUTH_TOKEN_PATH"]
    found = workplace.run(*looking, RAY_AUTH_TOKEN_PATH=token)
    [told] = [finding["told"] for finding in found.json() if finding["what"] == "Ray"]
    assert "neither a GPU nor a free core" in told  # joined: the head has none
    assert "gcs_client" not in without.stderr + found.stderr
