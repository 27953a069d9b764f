"""cluster.yaml is what Ray's own launcher accepts."""

from __future__ import annotations

import re
from fnmatch import fnmatch
from pathlib import Path

import pytest
import yaml
from ray.autoscaler._private.util import prepare_config, validate_config

CLUSTER = Path(__file__).parents[2] / "cluster.yaml"


def test_cluster_yaml_satisfies_rays_schema() -> None:
    config = prepare_config(yaml.safe_load(CLUSTER.read_text()))
    validate_config(config)
    assert config["max_workers"] == 4


def test_rays_schema_would_refuse_an_unknown_setting() -> None:
    """Guards the test above: the schema is really applied."""
    config = prepare_config(yaml.safe_load(CLUSTER.read_text()) | {"wokers": 4})
    with pytest.raises(Exception, match="wokers"):
        validate_config(config)


def test_every_node_has_an_image_since_the_one_that_ray_takes_is_too_old() -> None:
    for kind in yaml.safe_load(CLUSTER.read_text())["available_node_types"].values():
        assert kind["node_config"]["ImageId"].startswith("ami-")


def test_results_are_kept_where_no_copy_of_a_checkout_reaches_and_can_be_fetched() -> None:
    """Ray applies what it does not copy to what it fetches, too."""
    config = yaml.safe_load(CLUSTER.read_text())
    said = re.search(r"DYNA_EVAL_DB=sqlite:///(\S+\.db)", "\n".join(config["head_setup_commands"]))
    assert said is not None
    results = Path(said[1])
    assert f"ray rsync-down cluster.yaml {results} " in CLUSTER.read_text()
    assert not any(results.is_relative_to(mounted) for mounted in config["file_mounts"])
    assert not any(fnmatch(results.name, pattern.lstrip("/")) for pattern in config["rsync_exclude"])
    assert "/dyna-eval.db*" in config["rsync_exclude"]


def test_the_head_can_start_workers() -> None:
    """By boto3, which Ray does not bring."""
    config = yaml.safe_load(CLUSTER.read_text())
    assert any("pip install boto3" in command for command in config["head_setup_commands"])


def test_every_node_tells_its_metrics_at_the_port_that_the_page_on_monitoring_asks_for() -> None:
    page = CLUSTER.parent / "docs" / "monitoring.md"
    port = re.search(r"--metrics-export-port=\d+", page.read_text())
    assert port is not None
    config = yaml.safe_load(CLUSTER.read_text())
    assert port[0] in config["head_start_ray_commands"][-1]
    assert port[0] in config["worker_start_ray_commands"][-1]
