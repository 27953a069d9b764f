"""A host that runs out of memory: Ray ends the worker before the system ends anything else."""

from __future__ import annotations

import os
import shutil
import tempfile
import time
from collections.abc import Iterator

import psutil
import pytest
import ray
from dyna_eval_workers.actor import DecodingActor

from dyna_eval.running.verdicts import judge_loss

_GIB = 2**30


@pytest.fixture
def tight_memory() -> Iterator[None]:
    """A Ray of our own that ends workers where the host uses 3 GiB more than now."""
    memory = psutil.virtual_memory()
    if memory.available < 8 * _GIB:
        pytest.skip("less than 8 GiB are free")
    threshold = (memory.total - memory.available + 3 * _GIB) / memory.total
    limits = {"RAY_memory_usage_threshold": f"{threshold:.3f}", "RAY_memory_monitor_refresh_ms": "100"}
    folder = tempfile.mkdtemp(prefix="de-", dir="/tmp")
    os.environ.update(limits)
    try:
        options = {"include_dashboard": False, "log_to_driver": False, "logging_level": "ERROR"}
        ray.init(address="local", num_cpus=1, _temp_dir=folder, **options)
        yield
    finally:
        for name in limits:
            del os.environ[name]
        ray.shutdown()
        shutil.rmtree(folder, ignore_errors=True)


@pytest.mark.slow
@pytest.mark.usefixtures("tight_memory")
def test_a_job_whose_worker_ray_ends_for_memory_is_tried_three_times() -> None:
    """Others on the host may have used the memory, so it counts as a lost worker."""

    def fill(_: object) -> None:
        """Hold 6 GiB, bit by bit."""
        held = []
        for _ in range(60):
            held.append(b"\1" * (_GIB // 10))
            time.sleep(0.05)
        time.sleep(10)

    actor = DecodingActor.options(num_cpus=1).remote(name="greedy", threads=1)  # type: ignore[attr-defined]
    with pytest.raises(ray.exceptions.RayError) as caught:
        ray.get(actor.__ray_call__.remote(fill))
    assert type(caught.value) is ray.exceptions.OutOfMemoryError
    failures = ["OutOfMemoryError"] * 2
    verdicts = [judge_loss(caught.value, failures=failures[:tries], node_lives=True) for tries in range(3)]
    assert [verdict.final for verdict in verdicts] == [False, False, True]
    assert all(verdict.blamed and verdict.actor_ends for verdict in verdicts)
    assert verdicts[0].error_class == "OutOfMemoryError"
    assert "running low on memory" in verdicts[0].message
