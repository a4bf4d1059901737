"""The keys of a configuration class, as --help lists them and as errors name them."""

from __future__ import annotations

import textwrap
import types
from collections import abc
from collections.abc import Iterator, Mapping, Sequence
from typing import Annotated, Any, Literal, NamedTuple, Union, get_args, get_origin

import yaml
from pydantic import BaseModel
from pydantic.fields import FieldInfo

_INDENT, _COLUMN, _WIDTH = 2, 40, 118
_SEQUENCES = (tuple, list, abc.Sequence)


class Key(NamedTuple):
    """A key as it is written on the command line; `steps[]` stands for every member of a list."""

    path: str
    default: str | None  # as YAML; None: required
    description: str
    needs: str = ""  # the kinds that have it, where others do not


def keys_of(kind: type[BaseModel], prefix: str = "", *, default: BaseModel | None = None) -> Iterator[Key]:
    """Yields every key of a configuration, those of nested ones with their full path.

    A union of variants yields its `kind` and then the keys of all variants.

    Args:
        kind: The configuration's class.
        prefix: Stands before every key.
        default: An instance whose values replace the class's defaults.
    """
    for name, field in kind.model_fields.items():
        path, variants = prefix + name, variants_of(field.annotation)
        value = _MISSING if field.is_required() else field.get_default(call_default_factory=True)
        if default is not None:
            value = getattr(default, name)
        if not variants or not (value is _MISSING or isinstance(value, BaseModel)):
            yield Key(path, None if value is _MISSING else _flow(value), _describe(field))
        if variants:
            start = value if isinstance(value, BaseModel) else None
            inner = f"{path}[]." if _is_sequence(field.annotation) else f"{path}."
            yield from _keys_of_variants(variants, inner, start, field.description or "")


def describe(kind: type[BaseModel], prefix: str = "") -> Iterator[str]:
    """Yields the help of each key: `key=default` as on the command line, then what it means, wrapped."""
    for path, default, description, _ in keys_of(kind, prefix):
        head = f"{' ' * _INDENT}{path}" + ("=..." if default is None else f"={default}")
        text = f"{description} (required)".strip() if default is None else description
        if not text:
            yield head
            continue
        body = textwrap.wrap(text, _WIDTH - _COLUMN, break_on_hyphens=False)
        if len(head) < _COLUMN:
            body[0] = head.ljust(_COLUMN) + body[0]
            yield f"\n{' ' * _COLUMN}".join(body)
        else:
            yield f"\n{' ' * _COLUMN}".join([head, *body])


def spell(kind: type[BaseModel], place: Sequence[int | str]) -> str:
    """The location of a pydantic error as the key that a user writes, without the names of variants."""
    parts: list[str] = []
    annotation: Any = kind
    for part in place:
        models = variants_of(annotation)
        if isinstance(part, int):
            parts.append(str(part))
        elif not models and get_origin(annotation) in (Union, types.UnionType):
            continue  # which kind of value was tried
        elif len(models) > 1 and (chosen := next((model for model in models if part == _tag(model)), None)):
            annotation = chosen
        else:
            parts.append(part)
            field = models[0].model_fields.get(part) if len(models) == 1 else None
            annotation = field.annotation if field else None
    return ".".join(parts)


def variants_of(annotation: Any) -> list[type[BaseModel]]:
    """The configuration classes in an annotation, also in unions, lists and `Annotated`, but not in mappings."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    origin, inner = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        return variants_of(inner[0])
    if origin in (Union, types.UnionType, *_SEQUENCES):
        return [model for item in inner for model in variants_of(item)]
    return []


def with_defaults(kind: type[BaseModel], tree: Mapping[str, Any]) -> dict[str, Any]:
    """Completes nested mappings from the defaults of their fields, so that one key can be given alone.

    A mapping with another `kind` than the default's stays as it is.
    """
    fields = {name: field for name, field in kind.model_fields.items() if name in tree and not field.is_required()}
    return dict(tree) | {
        name: _complete(field.get_default(call_default_factory=True), tree[name]) for name, field in fields.items()
    }


_MISSING: Any = object()


def _complete(default: Any, given: Any) -> Any:
    if not isinstance(default, BaseModel) or not isinstance(given, Mapping):
        return given
    if "kind" in given and given["kind"] != getattr(default, "kind", None):
        return given
    names = default.model_fields_set | ({"kind"} & set(type(default).model_fields))
    inner = {name: _complete(getattr(default, str(name), None), value) for name, value in given.items()}
    return {name: getattr(default, name) for name in names} | inner


def _keys_of_variants(
    variants: Sequence[type[BaseModel]], prefix: str, default: BaseModel | None, description: str
) -> Iterator[Key]:
    if len(variants) == 1:
        yield from keys_of(variants[0], prefix, default=default)
        return
    chosen = _tag(type(default)) if default is not None else None
    yield Key(f"{prefix}kind", chosen, f"{description}: {' | '.join(map(_tag, variants))}".removeprefix(": "))
    seen = {f"{prefix}kind"}
    for variant in sorted(variants, key=lambda variant: variant is not type(default)):
        for key in keys_of(variant, prefix, default=default if variant is type(default) else None):
            if key.path in seen:
                continue
            seen.add(key.path)
            name = key.path.removeprefix(prefix).split(".")[0].removesuffix("[]")
            owners = [_tag(other) for other in variants if name in other.model_fields]
            if len(owners) == len(variants):
                yield key
                continue
            described = f"{key.description} [{', '.join(owners)}]".strip()
            yield key._replace(description=described, needs=f"{prefix}kind={' or '.join(owners)}")


def _tag(kind: type[BaseModel]) -> str:
    field = kind.model_fields.get("kind")
    return str(get_args(field.annotation)[0]) if field and get_origin(field.annotation) is Literal else kind.__name__


def _is_sequence(annotation: Any) -> bool:
    origin = get_origin(annotation)
    if origin in (Annotated, Union, types.UnionType):
        return any(map(_is_sequence, get_args(annotation)))
    return origin in _SEQUENCES


def _describe(field: FieldInfo) -> str:
    text, values = field.description or "", _literals(field.annotation)
    choice = " | ".join(_flow(value) for value in values)
    return f"{text}: {choice}" if text and choice else text or choice


def _literals(annotation: Any) -> list[Any]:
    origin, inner = get_origin(annotation), get_args(annotation)
    if origin is Literal:
        return list(inner)
    return [value for item in inner for value in _literals(item)] if origin in (Union, types.UnionType) else []


def _flow(value: Any) -> str:
    text: str = yaml.safe_dump(
        _plain(value), default_flow_style=True, sort_keys=False, allow_unicode=True, width=10_000
    )
    return text.removesuffix("\n...\n").strip()


def _plain(value: Any) -> Any:
    if isinstance(value, BaseModel):
        return value.model_dump(mode="json")
    if isinstance(value, tuple | list):
        return [_plain(item) for item in value]
    return value if isinstance(value, str | int | float | dict | None) else str(value)
