"""Reads and describes the bodies of requests: Hugging Face's shape, whatever the task. Refuses by name, never guesses."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Discriminator, Field, Strict, Tag, ValidationError, create_model
from starlette.requests import ClientDisconnect

from agent.errors import RequestError
from agent.tasks import BaseTask, Parameters
from serving.exchange import CALLER_LEFT

_JSON_REMEDY = 'send one JSON object in UTF-8, such as {"inputs": "a text"}'
_LONGEST_SHOWN = 80


@dataclass(frozen=True, slots=True)
class Prediction:
    """A request that was read: its texts, whether they came as one string, and its parameters."""

    texts: list[str]
    single: bool
    parameters: Parameters


class PayloadReader:
    """Reads prediction requests of one task.

    Args:
        task: What is predicted.
        max_texts: What the schema says of the most texts; whoever predicts sees to it that it is kept.
    """

    def __init__(self, task: BaseTask[Any], *, max_texts: int | None = None) -> None:
        self._parameters = task.parameters
        self.model = _request_model(task.parameters, max_texts)
        self._quoted = [f'"{name}"'.encode() for model in (self.model, task.parameters) for name in model.model_fields]
        self.answer_model: Any = list[task.answer_item] | list[list[task.answer_item]]  # type: ignore[name-defined]

    def read(self, body: bytes) -> Prediction:
        """Reads a body.

        Raises:
            RequestError: 400 if it is no JSON, 422 if it is not the JSON that is asked for.
        """
        try:
            request: Any = self.model.model_validate_json(body)
        except ValidationError as error:
            raise self._explain(error) from None
        if any(body.count(name) > 1 for name in self._quoted):
            _refuse_duplicates(body)
        inputs = request.inputs
        single = isinstance(inputs, str)
        texts = [inputs] if single else list(inputs)
        _refuse_empty(texts, single=single)
        return Prediction(texts, single, request.parameters or self._parameters())

    def _explain(self, error: ValidationError) -> RequestError:
        item = error.errors(include_url=False, include_context=False)[0]
        kind, place = item["type"], [part for part in item["loc"] if part not in (_ONE, _SEVERAL)]
        field = _path(place)
        if kind == "json_invalid":
            why = item["msg"].removeprefix("Invalid JSON: ")
            return RequestError(
                f"the body is no JSON ({why})", allowed="JSON in UTF-8", remedy=_JSON_REMEDY, status=400
            )
        if kind == "missing":
            return RequestError(f"{field} is missing", allowed=_INPUTS, remedy=_JSON_REMEDY, field=field)
        if kind == "extra_forbidden":
            known = self._parameters if place[0] == "parameters" else self.model
            return RequestError(
                f"unknown key {field}",
                allowed=", ".join(known.model_fields) or "no keys",
                remedy="leave it out",
                field=field,
            )
        if field.startswith("inputs"):
            return RequestError(f"{field} is {_kind(item['input'])}", allowed=_INPUTS, remedy=_JSON_REMEDY, field=field)
        return RequestError(
            f"{field or 'the body'} is {_kind(item['input'])}",
            allowed=item["msg"].removeprefix("Input should be "),
            remedy="see the schema at /docs",
            field=field,
        )


_ONE, _SEVERAL = "<one>", "<several>"  # tags of the union; no key of a request can be mistaken for them
_INPUTS = "a string, or a list of strings"


async def read_body(
    chunks: AsyncIterator[bytes], headers: Mapping[str, str], *, max_bytes: int, max_s: float = 10.0
) -> bytes:
    """Reads a body that says that it is plain JSON, and stops as soon as it grows too large or comes too slowly.

    Raises:
        RequestError: 415 for another content type or an encoded body, 413 beyond `max_bytes`, 408 beyond `max_s` seconds,
            499 if the caller hung up.
    """
    _check_type(headers)
    length = headers.get("content-length", "")
    if length.isdecimal() and int(length[:20]) > max_bytes:
        raise _too_large(max_bytes)
    parts, size = [], 0
    try:
        async with asyncio.timeout(max_s):
            async for chunk in chunks:
                size += len(chunk)
                if size > max_bytes:
                    raise _too_large(max_bytes)
                parts.append(chunk)
    except TimeoutError:
        raise RequestError(
            f"the body was not there within {max_s:g} s",
            allowed=f"bodies that arrive within {max_s:g} s",
            remedy="send fewer texts in one request, or over a faster line",
            status=408,
        ) from None
    except ClientDisconnect:
        raise RequestError("the caller hung up before the body was there", status=CALLER_LEFT) from None
    return b"".join(parts)


def _check_type(headers: Mapping[str, str]) -> None:
    name, _, options = headers.get("content-type", "application/json").lower().partition(";")
    charset = options.partition("charset=")[2].strip(" \"'") or "utf-8"
    if name.strip() != "application/json" or charset not in ("utf-8", "utf8"):
        raise RequestError(
            f"content type {headers['content-type'][:_LONGEST_SHOWN]!r}",
            allowed="application/json (UTF-8)",
            remedy="send the header 'content-type: application/json'",
            status=415,
        )
    if headers.get("content-encoding", "identity").lower() != "identity":
        raise RequestError(
            f"content encoding {headers['content-encoding'][:_LONGEST_SHOWN]!r}",
            allowed="an uncompressed body",
            remedy="leave the header out",
            status=415,
        )


def _too_large(max_bytes: int) -> RequestError:
    return RequestError(
        "the body is too large",
        allowed=f"at most {max_bytes} bytes",
        remedy="send the texts in several requests",
        status=413,
    )


def _refuse_empty(texts: list[str], *, single: bool) -> None:
    for index, text in enumerate(texts):
        if not text:
            field = "inputs" if single else f"inputs[{index}]"
            raise RequestError(
                f"{field} is empty", allowed="texts of at least one character", remedy="leave it out", field=field
            )
    if not texts:
        raise RequestError("inputs is an empty list", allowed="at least one text", remedy=_JSON_REMEDY, field="inputs")


def _refuse_duplicates(body: bytes) -> None:
    """Refuses objects that say one thing twice: pydantic would take the last, another reader of the same request the first.

    It parses a second time, so it is called only where the name of a key occurs twice, as in few texts.
    """
    json.loads(body, object_pairs_hook=_object)


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, value in pairs:
        if name in found:
            raise RequestError(
                f"key {name} stands twice in one object", allowed="each key once", remedy="leave one out", field=name
            )
        found[name] = value
    return found


def _request_model(parameters: type[Parameters], max_texts: int | None) -> type[BaseModel]:
    # The document says what _refuse_empty refuses, in words of its own.
    bounds: dict[str, Any] = {"minItems": 1} | ({"maxItems": max_texts} if max_texts else {})
    text = Annotated[str, Strict(), Field(json_schema_extra={"minLength": 1})]
    one = Annotated[text, Tag(_ONE)]
    several = Annotated[list[text], Field(json_schema_extra=bounds), Tag(_SEVERAL)]
    inputs: Any = Annotated[one | several, Discriminator(_shape)]
    optional: Any = parameters | None
    return create_model(
        "PredictionRequest",
        __config__=ConfigDict(extra="forbid"),
        __doc__="One text or several, and how to answer them.",
        inputs=(inputs, Field(description="A text, or a list of texts.")),
        parameters=(optional, Field(None, description="How to answer.")),
    )


def _shape(inputs: Any) -> str | None:
    if isinstance(inputs, str):
        return _ONE
    return _SEVERAL if isinstance(inputs, list) else None


def _path(parts: list[int | str]) -> str:
    path = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in parts).lstrip(".")
    return path if len(path) <= _LONGEST_SHOWN else path[:_LONGEST_SHOWN] + "..."


def _kind(value: Any) -> str:
    names = {
        dict: "an object",
        list: "a list",
        bool: "a boolean",
        int: "a number",
        float: "a number",
        type(None): "null",
    }
    if isinstance(value, str):
        return repr(value if len(value) <= _LONGEST_SHOWN else value[:_LONGEST_SHOWN] + "...")
    return names.get(type(value), "something else")
