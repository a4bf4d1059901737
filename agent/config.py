"""Configurations: frozen pydantic models, read from YAML and `key.path=value`, refused by name when wrong."""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar, Union, get_args, get_origin

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError
from pydantic.fields import FieldInfo

from agent.errors import ConfigError

ConfigT = TypeVar("ConfigT", bound="Config")


class Config(BaseModel):
    """Base of every configuration: unknown keys are errors, values do not change after loading."""

    model_config = ConfigDict(extra="forbid", frozen=True, validate_default=True, protected_namespaces=())


def load(kind: type[ConfigT], arguments: Sequence[str]) -> ConfigT:
    """Loads a configuration: defaults < YAML file < `key.path=value` arguments, each layer over the one before.

    Args:
        kind: The configuration's class.
        arguments: Paths of YAML files and assignments, as on a command line. Values are YAML scalars or flows.

    Raises:
        ConfigError: A file cannot be read, an argument is no assignment, a key is unknown or a value is not allowed.
    """
    tree: dict[str, Any] = {}
    for argument in arguments:
        key, equals, value = argument.partition("=")
        if equals:
            _assign(tree, key, _parse(value, where=argument))
        else:
            _merge(tree, _read_file(Path(argument)))
    return from_mapping(kind, tree)


def from_mapping(kind: type[ConfigT], tree: Mapping[str, Any]) -> ConfigT:
    """Validates a tree of plain values.

    Raises:
        ConfigError: Names every wrong key with its value, what is allowed and the nearest right key.
    """
    try:
        return kind.model_validate(dict(tree))
    except ValidationError as error:
        raise _explain(kind, error) from None


def dump(config: BaseModel) -> str:
    """Returns the resolved configuration as YAML, loadable again."""
    return yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False, allow_unicode=True)


def describe(kind: type[BaseModel], prefix: str = "") -> Iterator[str]:
    """Yields one help line per key: name, default and description."""
    for name, field in kind.model_fields.items():
        inner = _nested(field)
        if inner is not None:
            yield from describe(inner, f"{prefix}{name}.")
            continue
        default = (
            "required" if field.is_required() else f"default {_short(field.get_default(call_default_factory=True))}"
        )
        yield f"  {prefix + name:<32} {field.description or ''} ({default})"


def _short(value: Any) -> str:
    plain = (
        [item.model_dump(mode="json") for item in value]
        if isinstance(value, tuple) and value and isinstance(value[0], BaseModel)
        else value
    )
    return (
        yaml.safe_dump(plain if not isinstance(plain, tuple) else list(plain), default_flow_style=True, width=10_000)
        .removesuffix("\n...\n")
        .strip()
    )


def _nested(field: FieldInfo) -> type[BaseModel] | None:
    kinds = get_args(field.annotation) if get_origin(field.annotation) is Union else (field.annotation,)
    models = [kind for kind in kinds if isinstance(kind, type) and issubclass(kind, BaseModel)]
    return models[0] if len(models) == 1 else None


def _parse(value: str, *, where: str) -> Any:
    try:
        return yaml.safe_load(value) if value else ""
    except yaml.YAMLError as error:
        raise ConfigError(
            f"argument {where!r} holds a value that is no YAML ({str(error).splitlines()[0]})", remedy="quote the value"
        ) from None


def _read_file(path: Path) -> dict[str, Any]:
    remedy = "give a YAML file or key.path=value; --help lists the keys"
    try:
        tree = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(
            f"argument {str(path)!r} is no assignment and no readable file ({error.strerror})", remedy=remedy
        ) from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(f"file {path} is not YAML: {' '.join(str(error).split())}", remedy=remedy) from None
    if tree is not None and not isinstance(tree, dict):
        raise ConfigError(
            f"file {path} holds a {type(tree).__name__}", allowed="a mapping of keys to values", remedy=remedy
        )
    return tree or {}


def _assign(tree: dict[str, Any], key: str, value: Any) -> None:
    *parents, last = key.strip().split(".")
    for parent in parents:
        inner = tree.setdefault(parent, {})
        if not isinstance(inner, dict):
            raise ConfigError(
                f"key {key!r} goes below {parent!r}, which was given the value {inner!r}",
                remedy=f"set either {parent} or {key}",
            )
        tree = inner
    if isinstance(value, dict) and isinstance(tree.get(last), dict):
        _merge(tree[last], value)
    else:
        tree[last] = value


def _merge(tree: dict[str, Any], other: Mapping[str, Any]) -> None:
    for key, value in other.items():
        if isinstance(value, dict) and isinstance(tree.get(key), dict):
            _merge(tree[key], value)
        else:
            tree[key] = value


def _explain(kind: type[BaseModel], error: ValidationError) -> ConfigError:
    keys = [line.split()[0] for line in describe(kind)]
    lines, allowed = [], ""
    for item in error.errors(include_url=False):
        key = ".".join(str(part) for part in item["loc"])
        if item["type"] == "extra_forbidden":
            near = difflib.get_close_matches(key, keys, n=3, cutoff=0.5)
            near = near or [full for full in keys if full.split(".")[-1] == key.split(".")[-1]][:3]
            lines.append(f"unknown key {key!r}" + (f" (did you mean {' or '.join(near)}?)" if near else ""))
            allowed = ", ".join(keys)
        elif item["type"] == "missing":
            lines.append(f"key {key!r} is required and was not given")
        else:
            lines.append(f"{key or kind.__name__}={item['input']!r}: {item['msg'].removeprefix('Value error, ')}")
    return ConfigError("; ".join(lines), allowed=allowed, remedy="--help lists every key with its default")
