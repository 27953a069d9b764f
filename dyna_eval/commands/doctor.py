"""The command that looks at a machine: what is there, what is not, and what to do about it."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Iterator
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path

import click

from dyna_eval.commands.database import database_option
from dyna_eval.commands.options import insecure_option, json_option
from dyna_eval.commands.output import print_json, stdout_kept_clean
from dyna_eval.errors import DatabaseError, InputError, PolicyError
from dyna_eval.notices import Finding
from dyna_eval.wording import count

_LEAST_GIB = 2.0
"""Free space that a sweep, Ray's logs and its object store fit into."""


@click.command()
@click.option("--address", default="local", show_default=True, help="Ray cluster to look at, as for submit.")
@insecure_option
@database_option
@json_option
def doctor(*, address: str, insecure: bool, database: str, as_json: bool) -> int:
    """Look at this machine, and say what is missing.

    That is models, GPU, compiler, other packages' policies, Ray, database and disk.
    """
    from dyna_eval_workers.diagnosis import diagnose

    findings = []
    ray = _ray(address, insecure=insecure)
    for source in (diagnose(), _policies(), ray, _database(database), _disk()):
        with stdout_kept_clean():
            found = list(source)
        findings += found
        if not as_json:
            for finding in found:
                click.echo(_line(finding))
    if as_json:
        print_json([asdict(finding) for finding in findings])
    return 1 if any(finding.fatal for finding in findings) else 0


def _line(finding: Finding) -> str:
    mark = "FAIL" if finding.fatal else "warn" if finding.advice else "ok"
    advice = f"; {finding.advice}" if finding.advice else ""
    return f"{mark:<5} {finding.what}: {finding.told}{advice}"


def _policies() -> Iterator[Finding]:
    from dyna_eval.policies import external_names, parameters_of

    for name in sorted(external_names()):
        try:
            yield Finding(what="policy", told=f"{name} of {parameters_of(name).package}")
        except PolicyError as error:
            what, _, advice = str(error).rpartition("; ")
            yield Finding(what="policy", told=what, advice=advice)


def _ray(address: str, *, insecure: bool) -> Iterator[Finding]:
    from dyna_eval.running.cluster import find_slots
    from dyna_eval.running.connection import connected

    try:
        with connected(address, insecure=insecure):
            slots = find_slots(None)
            nodes = len({slot.node_id for slot in slots})
    except InputError as error:
        yield Finding(what="Ray", told=str(error), advice="no job can run", fatal=True)
        return
    kind = "GPUs" if slots[0].gpus else "nodes without GPUs"
    room = f"{count(nodes, 'node')}, room for {count(len(slots), 'actor')} on {kind}"
    yield Finding(what="Ray", told=f"Ray {version('ray')} at {address}: {room}")


def _database(url: str) -> Iterator[Finding]:
    from dyna_eval_db.address import parse_address, shown
    from dyna_eval_db.store import Store

    try:
        Store.check(url)
        yield Finding(what="database", told=f"{shown(parse_address(url))} can be used")
    except DatabaseError as error:
        yield Finding(what="database", told=str(error), advice="no result can be kept", fatal=True)


def _disk() -> Iterator[Finding]:
    """Look at the current folder, where results go, at temporary files, and at shared memory."""
    temporary = os.environ.get("RAY_TMPDIR") or os.environ.get("TMPDIR") or "/tmp"  # noqa: S108 - Ray's own choice
    for folder in dict.fromkeys((".", temporary, "/dev/shm")):  # noqa: S108 - where Ray keeps its objects
        if sys.platform == "linux" and Path(folder).is_dir():
            free = shutil.disk_usage(folder).free / 2**30
            little = free < _LEAST_GIB
            advice = f"make at least {_LEAST_GIB:.0f} GiB free" if little else ""
            name = str(Path(folder).resolve())
            yield Finding(what="disk", told=f"{free:.1f} GiB free in {name}", advice=advice)
