"""Fixtures for the tests that run the real command on real Ray, SQLite and the packaged pair."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from workplace import Workplace


@pytest.fixture(scope="session")
def variables(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Environment variables of every command: no network, no shared caches, and cores that are shared."""
    return {
        "HF_HOME": str(tmp_path_factory.mktemp("hf")),
        "HF_HUB_OFFLINE": "1",
        "GOMP_SPINCOUNT": "0",  # a thread that waits for another one must not keep its core busy
    }


@pytest.fixture(scope="session")
def new_workplace(
    tmp_path_factory: pytest.TempPathFactory, variables: dict[str, str]
) -> Callable[[], Workplace]:
    return lambda: Workplace(folder=tmp_path_factory.mktemp("work"), variables=variables)


@pytest.fixture
def workplace(tmp_path: Path, variables: dict[str, str]) -> Workplace:
    return Workplace(folder=tmp_path, variables=variables)
