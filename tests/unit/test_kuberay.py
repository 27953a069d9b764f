"""The Kubernetes manifests say what KubeRay reads, hold no secret, and give no database to the workers."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).parents[2]
MANIFESTS = ROOT / "workers" / "kuberay"


def cluster(name: str) -> dict[str, Any]:
    """Return the RayCluster of a manifest."""
    manifest = yaml.safe_load((MANIFESTS / name).read_text())
    assert manifest["apiVersion"] == "ray.io/v1"
    spec: dict[str, Any] = manifest["spec"]
    if manifest["kind"] == "RayJob":
        spec = spec["rayClusterSpec"]
    return spec


def containers(group: dict[str, Any]) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = group["template"]["spec"]["containers"]
    return found


@pytest.fixture(params=["raycluster.yaml", "rayjob.yaml"])
def spec(request: pytest.FixtureRequest) -> dict[str, Any]:
    return cluster(request.param)


def test_both_manifests_describe_the_same_workers() -> None:
    assert cluster("raycluster.yaml")["workerGroupSpecs"] == cluster("rayjob.yaml")["workerGroupSpecs"]


def test_rays_version_is_the_one_that_the_image_installs(spec: dict[str, Any]) -> None:
    pinned = re.search(r"^ray==(.+)$", (ROOT / "constraints.txt").read_text(), re.MULTILINE)

    assert pinned is not None
    assert spec["rayVersion"] == pinned[1]


def test_the_cluster_asks_for_a_token(spec: dict[str, Any]) -> None:
    assert spec["authOptions"] == {"mode": "token"}


def test_only_the_head_reaches_the_database_and_by_a_secrets_name_alone(spec: dict[str, Any]) -> None:
    [head] = containers(spec["headGroupSpec"])
    [variable] = head["env"]
    assert variable["name"] == "DYNA_EVAL_DB"
    assert set(variable["valueFrom"]) == {"secretKeyRef"}
    for group in spec["workerGroupSpecs"]:
        assert all("env" not in container for container in containers(group))


def test_nothing_is_timed_beside_a_neighbour(spec: dict[str, Any]) -> None:
    """The head has no core for actors; a worker gets what it asks for, and a whole GPU."""
    assert spec["headGroupSpec"]["rayStartParams"]["num-cpus"] == "0"
    for group in spec["workerGroupSpecs"]:
        for container in containers(group):
            resources = container["resources"]
            assert resources["requests"] == resources["limits"]
            assert resources["limits"]["nvidia.com/gpu"] == "1"


def test_a_mounted_volume_exists(spec: dict[str, Any]) -> None:
    for group in (spec["headGroupSpec"], *spec["workerGroupSpecs"]):
        volumes = {volume["name"] for volume in group["template"]["spec"].get("volumes", [])}
        mounted = {mount["name"] for one in containers(group) for mount in one.get("volumeMounts", [])}
        assert mounted == volumes
