"""cluster/on-premises.yaml: what `ray up` checks of it, and that it says the same as the code and the documentation."""

from __future__ import annotations

import re
import shlex
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def config() -> dict[str, Any]:
    given: dict[str, Any] = yaml.safe_load((ROOT / "cluster" / "on-premises.yaml").read_text())
    return given


def starts(config: dict[str, Any]) -> list[str]:
    return [config[f"{node}_start_ray_commands"][-1] for node in ("head", "worker")]


def test_ray_up_takes_it(config):
    from ray.autoscaler._private.util import prepare_config, validate_config

    prepared = prepare_config(config)
    validate_config(prepared)
    (group,) = (kind for kind in prepared["available_node_types"].values() if kind["max_workers"] != 0)
    assert group["min_workers"] == len(config["provider"]["worker_ips"])


def test_a_misspelt_key_is_refused(config):
    from jsonschema import ValidationError
    from ray.autoscaler._private.util import prepare_config, validate_config

    with pytest.raises((ValidationError, ValueError)):
        validate_config(prepare_config(config | {"head_start_commands": []}))


def test_every_node_starts_with_the_token_our_packages_and_the_fast_path(config):
    from serving.ray_serve.haproxy import _RETRIES, SWITCHES

    for command in starts(config):
        words = shlex.split(command)
        for name, value in {"RAY_AUTH_MODE": "token", "PYTHONPATH": "/opt/bert-agent", **SWITCHES, **_RETRIES}.items():
            assert f"{name}={value}" in words


def test_the_options_are_ones_that_ray_start_has(config):
    from ray.scripts.scripts import start

    known = {option for parameter in start.params for option in parameter.opts}
    for command in starts(config):
        options = set(re.findall(r"--[a-z-]+", command))
        assert options
        assert options <= known


def test_the_ports_it_fixes_are_the_ones_that_the_documentation_opens(config):
    text = (ROOT / "docs" / "clusters.md").read_text()
    for command in starts(config):
        for port in re.findall(r"-port=(\d+)", command):
            assert port in text, port


def test_the_serve_config_in_the_documentation_is_one():
    from ray.serve.schema import ServeDeploySchema

    from agent.config.base import from_mapping
    from serving.ray_serve.app_config import AppConfig

    text = (ROOT / "docs" / "clusters.md").read_text()
    block = re.search(r"((?:    .*\n)*    proxy_location.*\n(?:    .*\n)+)", text)
    assert block
    schema = ServeDeploySchema.model_validate(yaml.safe_load(block[1]))
    assert from_mapping(AppConfig, schema.applications[0].args).replicas.max_replicas == 8
