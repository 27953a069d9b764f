"""cluster.yaml is what Ray's own launcher accepts."""

from __future__ import annotations

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
