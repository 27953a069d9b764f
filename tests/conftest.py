"""A fixture for all tests: what fault tests of full size leave for the record."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator
from pathlib import Path

import pytest


@pytest.fixture
def record(request: pytest.FixtureRequest) -> Iterator[dict[str, object]]:
    """Figures of a test, added to the file that DYNA_EVAL_CHAOS_RECORD names once it has passed."""
    figures: dict[str, object] = {}
    started = time.monotonic()
    yield figures
    file = os.environ.get("DYNA_EVAL_CHAOS_RECORD")
    if file and figures.pop("passed", False):
        line = {"test": request.node.name, "seconds": round(time.monotonic() - started, 1)} | figures
        with Path(file).open("a", encoding="utf-8") as stream:
            stream.write(json.dumps(line) + "\n")
