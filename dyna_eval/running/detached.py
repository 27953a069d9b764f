"""Running a stored sweep without staying: the controller becomes a job of the Ray cluster, on its head."""

from __future__ import annotations

import os
import shlex

import ray
from dyna_eval_db.address import parse_address
from ray.job_submission import JobSubmissionClient
from sqlalchemy import URL

from dyna_eval.errors import InputError, first_line

_HEAD = "node:__internal_head__"


def check_database_of_detached(database: str) -> None:
    """Raise InputError where a database's address must not travel: job settings show on Ray's dashboard."""
    address = parse_address(database)
    if address.password or address.normalized_query.get("password"):
        raise InputError(
            "--detach shows the database's address on Ray's dashboard, password and all; leave the password"
            " out of it and put it into ~/.pgpass on the cluster's head"
        )


def start_detached(sweep_id: int, database: str, *, dashboard: str, options: list[str]) -> str:
    """Hand a stored sweep to the cluster that this process is connected to; return Ray's name of the job.

    `dashboard` is HOST:PORT of where it takes jobs, `options` are those of `dyna-eval resume` on the head.
    Raises InputError where the head does not see the database, where its address must not travel, or where
    the cluster takes no jobs.
    """
    check_database_of_detached(database)
    address = parse_address(database)
    if address.get_backend_name() == "sqlite":
        _check_on_head(address)
    url = address.set(drivername=address.get_backend_name()).render_as_string(hide_password=False)
    command = ["dyna-eval", "resume", str(sweep_id), "--address", "auto", *options]
    try:
        if not dashboard:
            raise ConnectionError("its head runs no dashboard")
        client = JobSubmissionClient(f"http://{dashboard}")
        job: str = client.submit_job(
            entrypoint=shlex.join(command),
            runtime_env={"env_vars": {"DYNA_EVAL_DB": url, **_cluster_access()}},
            metadata={"sweep": str(sweep_id)},
        )
    except (RuntimeError, ConnectionError, ValueError) as error:
        raise InputError(
            f"the cluster takes no jobs: {first_line(error)}; start its head with the dashboard, or leave out"
            " --detach"
        ) from error
    return job


def _check_on_head(address: URL) -> None:
    head = next((node for node in ray.nodes() if node["Alive"] and _HEAD in node["Resources"]), None)
    if head is None or head["NodeManagerAddress"] != ray.util.get_node_ip_address():
        raise InputError(
            f"--detach runs on the cluster's head, which does not see {address.database};"
            " submit there, or use Postgres"
        )


def _cluster_access() -> dict[str, str]:
    """Return what the controller needs to join its own cluster; the token itself lies on the head."""
    return {name: os.environ[name] for name in ("RAY_AUTH_MODE",) if name in os.environ}
