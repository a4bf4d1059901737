"""Objects against the schemas of Kubernetes, the schemas of CustomResourceDefinitions and the CEL rules in those."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from typing import Any

import celpy
import jsonschema
import kubernetes_validate
import yaml
from celpy.adapter import json_to_cel

from tests.manifests.world import CRDS, Object, World, label, templates

KUBERNETES = "1.36"


def core_schemas(world: World) -> Iterator[str]:
    """Core kinds, and the pod templates of the Ray kinds as pods, against the strict schemas of Kubernetes."""
    pods = [
        (item.where, {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "x"}, "spec": item.spec})
        for item in templates(world)
    ]
    core = [(label(item), item) for item in [*world.objects, *world.examples] if not is_custom(item)]
    for where, item in core + pods:
        try:
            kubernetes_validate.validate(item, KUBERNETES, strict=True)
        except kubernetes_validate.ValidationError as error:
            yield f"{where}: {error.message}"


def crd_schemas(world: World) -> Iterator[str]:
    """Custom resources against their definitions, closed: an unknown field is a mistake."""
    for item in filter(is_custom, world.objects):
        for error in _validator(item["apiVersion"], item["kind"]).iter_errors(item):
            yield f"{label(item)}: {error.json_path}: {error.message[:200]}"


def cel_rules(world: World) -> Iterator[str]:
    """The rules that stand in the definitions as CEL; those about changes (oldSelf) hold for no single object."""
    for item in filter(is_custom, world.objects):
        for where, message in _broken(_schema(item["apiVersion"], item["kind"]), item, ""):
            yield f"{label(item)}: {where.lstrip('.')}: {message}"


def is_custom(item: Object) -> bool:
    """Whether a kind comes from a CustomResourceDefinition: its group is a domain that is not Kubernetes' own."""
    group = item["apiVersion"].rpartition("/")[0]
    return group in ("ray.io", "monitoring.coreos.com", "gateway.networking.k8s.io")


def _broken(schema: Any, value: Any, where: str) -> Iterator[tuple[str, str]]:
    for rule in schema.get("x-kubernetes-validations", []):
        if "oldSelf" not in rule["rule"] and not _holds(rule["rule"], value):
            yield where, rule.get("message", rule["rule"])
    if isinstance(value, dict):
        for key, part in schema.get("properties", {}).items():
            if key in value:
                yield from _broken(part, value[key], f"{where}.{key}")
    elif isinstance(value, list) and isinstance(schema.get("items"), dict):
        for index, entry in enumerate(value):
            yield from _broken(schema["items"], entry, f"{where}[{index}]")


def _holds(rule: str, value: Any) -> bool:
    return bool(_program(rule).evaluate({"self": json_to_cel(value)}))


@functools.cache
def _program(rule: str) -> celpy.Runner:
    environment = celpy.Environment()
    return environment.program(environment.compile(rule))


@functools.cache
def _validator(api_version: str, kind: str) -> jsonschema.Draft202012Validator:
    return jsonschema.Draft202012Validator(close(_schema(api_version, kind)))


@functools.cache
def _schema(api_version: str, kind: str) -> Any:
    group, _, name = api_version.partition("/")
    for file in sorted(CRDS.glob("*.yaml")):
        if kind.lower() not in file.name:
            continue
        for crd in yaml.load_all(file.read_text(), Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader)):
            if (crd["spec"]["group"], crd["spec"]["names"]["kind"]) == (group, kind):
                return next(
                    version["schema"]["openAPIV3Schema"]
                    for version in crd["spec"]["versions"]
                    if version["name"] == name
                )
    raise LookupError(f"no definition of {kind} of {group} in {CRDS}")


def close(schema: Any) -> Any:
    """Refuses fields that are not declared; a field with a default is not required of the author."""
    if isinstance(schema, list):
        return [close(item) for item in schema]
    if not isinstance(schema, dict):
        return schema
    closed = {key: close(value) for key, value in schema.items()}
    properties = schema.get("properties")
    if isinstance(properties, dict) and "type" in schema:
        if not schema.get("x-kubernetes-preserve-unknown-fields"):
            closed.setdefault("additionalProperties", False)
        if isinstance(schema.get("required"), list):
            closed["required"] = [key for key in schema["required"] if "default" not in properties.get(key, {})]
    return closed


CHECKS = (core_schemas, crd_schemas, cel_rules)
