"""`dyna-eval doctor` tells what a machine has, and what to do about what it lacks."""

from __future__ import annotations

import pytest
from workplace import Workplace

pytestmark = pytest.mark.slow


def test_a_machine_that_runs_these_tests_is_fit_to_measure(workplace: Workplace) -> None:
    looked = workplace.run("doctor")

    assert looked.status == 0, looked.stderr
    told = dict(line[6:].split(": ", 1) for line in looked.stdout.splitlines())
    assert {"libraries", "exactness", "Ray", "database", "disk"} <= told.keys()
    assert "FAIL" not in looked.stdout
    assert "1 node" in told["Ray"]
    assert told["exactness"] == "the packaged pair decodes as its target alone does"
    assert list(workplace.folder.iterdir()) == []


def test_what_is_wrong_is_said_with_what_to_do(workplace: Workplace) -> None:
    """No compiler, nobody at the cluster's address, and a folder where the database should be."""
    found = workplace.run(
        "doctor", "--json", "--address", "127.0.0.1:1", "--db", "sqlite:////", CXX="no-such-compiler"
    )

    assert found.status == 1
    findings = {finding["what"]: finding for finding in found.json()}
    assert findings["Ray"]["fatal"]
    assert "cannot connect to Ray" in findings["Ray"]["told"]
    assert findings["database"]["fatal"]
    assert "is a folder" in findings["database"]["told"]
    assert not findings["kernels"]["fatal"]
    assert "install g++" in findings["kernels"]["advice"]
