"""Reads and describes request bodies in Hugging Face's shape; says by name what is wrong with one."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Annotated, Any, NamedTuple

from pydantic import BaseModel, ConfigDict, Field, Strict, ValidationError, create_model
from starlette.requests import ClientDisconnect

from agent import telemetry
from agent.errors import RequestError
from agent.segmentation import GivenWords
from agent.tasks import BaseTask, Parameters
from serving.api.duplicate_keys import quoted_keys, refuse_duplicates
from serving.api.input_shapes import (
    INPUTS,
    TAGS,
    HubOptions,
    Words,
    input_object_of,
    input_type,
    inputs_type,
    told_inputs,
)
from serving.metrics import Metrics
from serving.scheduling.refusals import CALLER_LEFT, reason_of

JSON = "application/json"
BYTES = {"schema": {"type": "string", "format": "binary"}}
TIMEOUT = "x-request-timeout-seconds"
REF = "#/components/schemas/{model}"
_JSON_REMEDY = 'send one JSON object in UTF-8, such as {"inputs": "a text"}'
_LONGEST_SHOWN = 80


class PredictionBody(NamedTuple):
    """A request that was read: its texts, whether they came as one string, and its parameters."""

    texts: list[str]
    single: bool
    parameters: Parameters
    stream: bool = False


class PayloadReader:
    """Reads prediction requests of one task.

    Args:
        task: What is predicted.
        max_texts: What the schema says of the most texts; whoever predicts sees to it that it is kept.
        explained: Parameters of requests that explain instead, each about one input.
    """

    def __init__(
        self, task: BaseTask[Any], *, max_texts: int | None = None, explained: type[Parameters] | None = None
    ) -> None:
        self._task, self._parameters = task, explained or task.parameters
        self._object = input_object_of(task)
        self._inputs = told_inputs(task, several=explained is None)
        if explained:
            self.model = _request_model("ExplainRequest", input_type(task, self._object), self._inputs, explained)
        else:
            inputs = inputs_type(task, self._object, max_texts)
            self.model = _request_model(
                "PredictionRequest", inputs, self._inputs, task.parameters, streams=task.streams
            )
        self._quoted = quoted_keys(self.model, self._parameters, HubOptions, *([self._object] if self._object else []))
        item: Any = task.answer_item
        nested: Any = list[list[list[item]]] if task.nests else list[item]
        self.answer_model: Any = list[item] | list[list[item]] | nested | (item if task.bare_answers else list[item])

    def read(self, body: bytes) -> PredictionBody:
        """Reads a body.

        Raises:
            RequestError: 400 if it is no JSON, 422 if it is not the JSON that is asked for.
        """
        try:
            request: Any = self.model.model_validate_json(body)
        except ValidationError as error:
            raise self._explain(error) from None
        refuse_duplicates(body, self._quoted)
        inputs = request.inputs
        single = not isinstance(inputs, list)
        items = [inputs] if single else inputs
        if not items:
            raise RequestError(
                "inputs is an empty list", allowed="at least one text", remedy=_JSON_REMEDY, field="inputs"
            )
        if isinstance(items[0], str):
            refuse_empty(items, "inputs" if single else "inputs[{}]")
            stream = bool(getattr(request, "stream", False))
            return PredictionBody(items, single, request.parameters or self._parameters(), stream)
        texts = [self._of_object(item, "inputs" if single else f"inputs[{index}]") for index, item in enumerate(items)]
        return PredictionBody(texts, single, request.parameters or self._parameters())

    def _of_object(self, item: Any, place: str) -> str:
        """The text of an input that came as an object."""
        if isinstance(item, Words):
            refuse_empty(item.words, f"{place}.words[{{}}]")
            return GivenWords(item.words)
        texts = [getattr(item, field) for field in self._task.input_fields]
        for field, text in zip(self._task.input_fields, texts, strict=True):
            refuse_empty([text], f"{place}.{field}")
        return self._task.as_input(texts)

    def _explain(self, error: ValidationError) -> RequestError:
        inner = {"inputs": self._object} if self._object else {}
        told = explain(error, self.model, {"parameters": self._parameters, "options": HubOptions, **inner})
        if told.field.startswith("inputs") and not told.what.startswith("unknown"):
            return RequestError(told.what, allowed=self._inputs, remedy=_JSON_REMEDY, field=told.field)
        return told


def explain(error: ValidationError, model: type[BaseModel], inner: Mapping[str, type[BaseModel]]) -> RequestError:
    """Says what the first thing is that is wrong with a body.

    Args:
        error: Pydantic's.
        model: What the body was to be.
        inner: The models below its keys, to name the keys that they know.
    """
    item = error.errors(include_url=False, include_context=False)[0]
    kind, place = item["type"], [part for part in item["loc"] if part not in TAGS]
    field = _path(place)
    if kind == "json_invalid":
        why = item["msg"].removeprefix("Invalid JSON: ")
        return RequestError(f"the body is no JSON ({why})", allowed="JSON in UTF-8", remedy=_JSON_REMEDY, status=400)
    if kind == "missing":
        return RequestError(f"{field} is missing", allowed="a value", remedy="see the schema at /docs", field=field)
    if kind == "extra_forbidden":
        known = inner.get(str(place[0]), model) if len(place) > 1 else model
        keys = ", ".join(known.model_fields) or "no keys"
        return RequestError(f"unknown key {field}", allowed=keys, remedy="leave it out", field=field)
    return RequestError(
        f"{field or 'the body'} is {_kind(item['input'])}",
        allowed=INPUTS
        if kind == "union_tag_not_found"
        else item["msg"].removeprefix("Input should be ").removeprefix("Value error, "),
        remedy="see the schema at /docs",
        field=field,
    )


@contextmanager
def refusals_counted(metrics: Metrics) -> Iterator[None]:
    """Counts requests that are refused before the predictor sees them, which counts its own."""
    try:
        yield
    except RequestError as error:
        metrics.count(telemetry.REJECTED, reason=reason_of(error))
        raise


async def read_body(
    chunks: AsyncIterator[bytes],
    headers: Mapping[str, str],
    *,
    max_bytes: int,
    max_s: float,
    types: Sequence[str] = (JSON,),
) -> bytes:
    """Reads a body that says that it is plain and of one of the types; stops as soon as it grows too large or comes too slowly.

    Raises:
        RequestError: 415 for another content type or an encoded body, 413 beyond `max_bytes`, 408 beyond `max_s` seconds,
            499 if the caller hung up.
    """
    content_type(headers, types)
    check_length(headers, max_bytes)
    parts, size = [], 0
    try:
        async with asyncio.timeout(max_s):
            async for chunk in chunks:
                size += len(chunk)
                if size > max_bytes:
                    raise too_large(max_bytes)
                parts.append(chunk)
    except TimeoutError:
        raise too_slow(max_s) from None
    except ClientDisconnect:
        raise RequestError("the caller hung up before the body was there", status=CALLER_LEFT) from None
    return b"".join(parts)


def content_type(headers: Mapping[str, str], types: Sequence[str]) -> str:
    """Which of the types the body has; the first one where nothing is said.

    Raises:
        RequestError: 415, it is none of them, not in UTF-8, or compressed.
    """
    name, _, options = headers.get("content-type", types[0]).lower().partition(";")
    charset = options.partition("charset=")[2].strip(" \"'") or "utf-8"
    if name.strip() not in types or charset not in ("utf-8", "utf8"):
        raise RequestError(
            f"content type {headers['content-type'][:_LONGEST_SHOWN]!r}",
            allowed=f"{' or '.join(types)} (UTF-8)",
            remedy=f"send the header 'content-type: {types[0]}'",
            status=415,
        )
    if headers.get("content-encoding", "identity").lower() != "identity":
        raise RequestError(
            f"content encoding {headers['content-encoding'][:_LONGEST_SHOWN]!r}",
            allowed="an uncompressed body",
            remedy="leave the header out",
            status=415,
        )
    return name.strip()


def body_schema(model: type[BaseModel], *others: str) -> dict[str, Any]:
    """What OpenAPI says of a prediction, whose body and headers are read by hand.

    Args:
        model: Of the body as JSON.
        others: Further content types, of which OpenAPI can only say that they are bytes.
    """
    content: dict[str, Any] = {JSON: {"schema": {"$ref": REF.format(model=model.__name__)}}}
    content |= dict.fromkeys(others, BYTES)
    timeout = {"type": "number", "exclusiveMinimum": 0}
    return {
        "requestBody": {"required": True, "content": content},
        "parameters": [header(TIMEOUT, timeout, "Seconds after which the caller no longer wants the answer.")],
    }


def header(name: str, schema: dict[str, Any], description: str) -> dict[str, Any]:
    """What OpenAPI says of a header that is read by hand."""
    return {"name": name, "in": "header", "required": False, "schema": schema, "description": description}


def refuse_empty(texts: Sequence[str], place: str) -> None:
    """Refuses texts without a character.

    Args:
        texts: The texts.
        place: What to call one of them, with `{}` for its index.

    Raises:
        RequestError: Names the first.
    """
    for index, text in enumerate(texts):
        if not text:
            field = place.format(index)
            raise RequestError(
                f"{field} is empty", allowed="texts of at least one character", remedy="leave it out", field=field
            )


def check_length(headers: Mapping[str, str], max_bytes: int) -> None:
    """Refuses a body that says of itself that it is too large.

    Raises:
        RequestError: 413.
    """
    length = headers.get("content-length", "")
    if length.isdecimal() and int(length[:20]) > max_bytes:
        raise too_large(max_bytes)


def too_slow(max_s: float) -> RequestError:
    """The refusal of a body that takes too long to arrive."""
    return RequestError(
        f"the body was not there within {max_s:g} s",
        allowed=f"bodies that arrive within {max_s:g} s",
        remedy="send fewer texts in one request, or over a faster line",
        status=408,
    )


def too_large(max_bytes: int) -> RequestError:
    """The refusal of a body beyond the limit."""
    return RequestError(
        "the body is too large",
        allowed=f"at most {max_bytes} bytes",
        remedy="send the texts in several requests",
        status=413,
    )


def _request_model(
    name: str, inputs: Any, told: str, parameters: type[Parameters], *, streams: bool = False
) -> type[BaseModel]:
    optional: Any = parameters | None
    further: dict[str, Any] = {}
    if streams:
        meaning = "Whether a single text is told token by token, as server-sent events."
        further["stream"] = (Annotated[bool, Strict()] | None, Field(None, description=meaning))
    return create_model(
        name,
        __config__=ConfigDict(extra="forbid"),
        __doc__="What is asked about, and how to answer.",
        inputs=(inputs, Field(description=told)),
        parameters=(optional, Field(None, description="How to answer.")),
        options=(HubOptions | None, Field(None, description="As in Hugging Face's API; without effect.")),
        **further,
    )


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
