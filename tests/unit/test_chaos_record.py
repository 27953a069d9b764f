"""The record of fault tests grows in parts."""

from __future__ import annotations

import json
from pathlib import Path

from tests.conftest import keep


def test_a_later_run_of_a_test_takes_the_place_of_its_own_figures_alone(tmp_path: Path) -> None:
    file = tmp_path / "chaos.json"
    keep(file, "kills", {"seconds": 9.0, "killed": 10})
    keep(file, "disk", {"seconds": 2.0})
    keep(file, "kills", {"seconds": 7.0})
    found = json.loads(file.read_text())
    assert found["recorded"] == ["disk", "kills"]
    assert {test: figures["seconds"] for test, figures in found["tests"].items()} == {
        "disk": 2.0,
        "kills": 7.0,
    }
    assert "killed" not in found["tests"]["kills"]
    assert found["tests"]["disk"].keys() == {"date", "machine", "seconds"}
