"""Configurations: frozen pydantic models, loaded from YAML files and `key.path=value` arguments."""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping, Sequence
from datetime import date
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError
from pydantic_core import ErrorDetails

from agent.config.config_keys import describe, keys_of, spell, with_defaults
from agent.errors import ConfigError, one_line

__all__ = ["Config", "check_parameters", "describe", "dump", "from_mapping", "load"]

ConfigT = TypeVar("ConfigT", bound="Config")
ModelT = TypeVar("ModelT", bound=BaseModel)


class Config(BaseModel):
    """Base of every configuration: unknown keys are errors, values do not change after loading."""

    model_config = ConfigDict(extra="forbid", frozen=True, validate_default=True, protected_namespaces=())


def load(kind: type[ConfigT], arguments: Sequence[str]) -> ConfigT:
    """Loads a configuration from defaults, YAML files and `key.path=value` arguments; later ones override earlier ones.

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
        return kind.model_validate(with_defaults(kind, tree))
    except ValidationError as error:
        raise _explain(kind, error) from None


def check_parameters(model: type[ModelT], given: Mapping[str, Any], *, of: str) -> ModelT:
    """Reads the keys below `parameters` of a command, which are those of a request.

    Args:
        model: Of the parameters.
        given: The keys.
        of: What they are parameters of, for people.

    Raises:
        ConfigError: One is unknown or wrong.
    """
    try:
        return model.model_validate(given)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        key = ".".join(["parameters", *map(str, first["loc"])])
        raise ConfigError(
            f"{key}={first['input']!r}: {first['msg']}",
            allowed=f"parameters of {of}: {', '.join(model.model_fields)}",
            remedy="mend the key; they are those of a request",
        ) from None


def dump(config: BaseModel) -> str:
    """Returns the resolved configuration as YAML that `load` accepts."""
    text: str = yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False, allow_unicode=True)
    return text


def _parse(value: str, *, where: str) -> Any:
    try:
        return yaml.safe_load(value) if value else ""
    except (yaml.YAMLError, ValueError) as error:  # ValueError: a date such as 2024-13-01
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
    except (yaml.YAMLError, ValueError) as error:
        raise ConfigError(f"file {path} is not YAML: {one_line(error)}", remedy=remedy) from None
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
    known = {key.path: key.needs for key in keys_of(kind)}
    keys = list(known)
    lines: list[str] = []
    allowed = ""
    for item in error.errors(include_url=False):
        key = spell(kind, item["loc"])
        if item["type"] == "extra_forbidden":
            allowed = ", ".join(keys)
            if needs := known.get(_general(key)):
                lines.append(f"key {key!r} needs {needs}")
                continue
            near = _near(key, keys)
            lines.append(f"unknown key {key!r}" + (f" (did you mean {' or '.join(near)}?)" if near else ""))
        elif item["type"] == "missing":
            lines.append(f"key {key!r} is required and was not given")
        else:
            given, reason = f"{key or kind.__name__}={item['input']!r}: ", _reason(item)
            if lines and lines[-1].startswith(given):  # another kind of value that it could be
                lines[-1] += f"; or {reason}"
            else:
                lines.append(given + reason)
    return ConfigError("; ".join(lines), allowed=allowed, remedy="--help lists every key with its default")


def _general(key: str) -> str:
    """The key as it stands for every member of a list."""
    return re.sub(r"\.\d+(?=\.|$)", "[]", key)


def _near(key: str, keys: Sequence[str]) -> list[str]:
    general = _general(key)
    near = difflib.get_close_matches(general, keys, n=3, cutoff=0.5)
    return near or [path for path in keys if path.split(".")[-1] == general.split(".")[-1]][:3]


def _reason(item: ErrorDetails) -> str:
    reason = item["msg"].removeprefix("Value error, ")
    if item["type"] == "string_type" and isinstance(item["input"], bool | int | float | date):
        return f"{reason}, and YAML reads this as {type(item['input']).__name__}: put it in quotes, '\"...\"'"
    return reason
