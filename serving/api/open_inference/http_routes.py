"""The Open Inference Protocol v2 over HTTP: JSON, and tensors in binary behind it for clients that want that."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Request, Response
from pydantic import BaseModel, Field, Strict, StrictBool, ValidationError, create_model
from pydantic_core import to_json

from agent.errors import RequestError
from agent.tasks import BaseTask
from serving.api.duplicate_keys import quoted_keys, refuse_duplicates
from serving.api.endpoint import Asked, Endpoint, Written, answer_request
from serving.api.health_routes import not_ready
from serving.api.input_shapes import OneOrSeveral
from serving.api.open_inference.protocol import (
    EXTENSIONS,
    SERVER,
    OpenInference,
    Shaped,
    Tensor,
    Wanted,
    check_tensor,
    decode,
    pack,
    server_version,
    unpack,
)
from serving.api.open_inference.tensor_parameters import (
    InputParameters,
    OutputParameters,
    StrictBody,
    request_parameters,
)
from serving.api.request_body import (
    BYTES,
    JSON,
    body_schema,
    explain,
    header,
    refuse_empty,
)
from serving.middleware.responses import ErrorBody, answered, reply
from serving.scheduling.prediction import Answers

_HEADER_LENGTH = "inference-header-content-length"
_BINARY = "application/octet-stream"


class ServerLive(BaseModel):
    """Answer of /v2/health/live."""

    live: bool


class ServerReady(BaseModel):
    """Answer of /v2/health/ready."""

    ready: bool


class ModelReady(BaseModel):
    """Answer of /v2/models/{name}/ready."""

    name: str
    ready: bool


class ServerMetadata(BaseModel):
    """Answer of /v2."""

    name: str
    version: str
    extensions: list[str]


class TensorMetadata(BaseModel):
    """A tensor that goes in or out; -1 is any number of texts."""

    name: str
    datatype: str
    shape: list[int]


class ModelMetadata(BaseModel):
    """Answer of /v2/models/{name}."""

    name: str
    versions: list[str]
    platform: str
    inputs: list[TensorMetadata]
    outputs: list[TensorMetadata]


class OutputTensor(BaseModel):
    """A tensor of the answer, one element for each text."""

    name: str
    datatype: str
    shape: list[int]
    data: list[str] | list[float] | list[bool]


class InferenceAnswer(BaseModel):
    """Answer of /v2/models/{name}/infer."""

    model_name: str
    model_version: str
    id: str | None = None
    outputs: list[OutputTensor]


class InputTensor(StrictBody):
    """Texts; its name is one of the agent's inputs."""

    datatype: Literal["BYTES"]
    shape: list[Annotated[int, Strict(), Field(ge=0, le=2**31)]] = Field(
        min_length=1, max_length=2, description="The number of texts, possibly with a second dimension of 1."
    )
    data: list[OneOrSeveral] | None = Field(None, description="The texts, flat or each in a list of its own.")
    parameters: InputParameters | None = None


class InferenceReader:
    """Reads inference requests of one task."""

    def __init__(self, task: BaseTask[Any]) -> None:
        names: Any = Literal[tuple(column.name for column in task.columns)]
        binary: Any = (StrictBool | None, Field(None, description="Send every output in binary behind the JSON."))
        inner: Any = OutputParameters | None
        parameters: Any = create_model(
            "InferenceParameters", __base__=request_parameters(task.parameters), binary_data_output=binary
        )
        output: Any = create_model(
            "RequestedOutput",
            __base__=StrictBody,
            __doc__="A tensor that is asked for.",
            name=(names, ...),
            parameters=(inner, None),
        )
        how: Any = parameters | None
        several: Any = list[output] | None
        fields: Any = Literal[task.input_fields]
        tensor: Any = create_model(
            "NamedInputTensor", __base__=InputTensor, __doc__=InputTensor.__doc__, name=(fields, ...)
        )
        self._inner: dict[str, Any] = {"parameters": parameters, "inputs": tensor, "outputs": output}
        self.model: Any = create_model(
            "InferenceRequest",
            __base__=StrictBody,
            __doc__="Texts as a tensor, and how to answer them.",
            id=(str | None, Field(None, description="Comes back in the answer.")),
            parameters=(how, Field(None, description="How to answer.")),
            inputs=(list[tensor], Field(min_length=1, max_length=len(task.input_fields))),
            outputs=(several, Field(None, description="All by default.")),
        )
        self._quoted = quoted_keys(self.model, *self._inner.values(), InputParameters, OutputParameters)

    def read(self, body: bytes, headers: Mapping[str, str], agent: OpenInference) -> tuple[Wanted, Any]:
        """Reads a body.

        Returns:
            What is wanted, and the request's JSON.

        Raises:
            RequestError: 400 if it is no JSON, 422 if it is not the JSON that is asked for.
        """
        length = _header_length(headers, len(body))
        try:
            request = self.model.model_validate_json(body[:length])
        except ValidationError as error:
            raise explain(error, self.model, self._inner) from None
        refuse_duplicates(body[:length], self._quoted)
        texts = agent.joined(_texts(request.inputs, body[length:], agent.inputs))
        outputs = agent.outputs([output.name for output in request.outputs or ()])
        return Wanted(texts, request.parameters or self._inner["parameters"](), outputs), request


class InferEndpoint:
    """`POST /v2/models/NAME/infer`.

    Args:
        agent: What answers.
        reader: Reads bodies.
        route: The path as declared.
        paths: Where callers find it.
    """

    def __init__(self, agent: OpenInference, reader: InferenceReader, route: str, paths: Sequence[str] = ()) -> None:
        self.route, self.paths, self.streams = route, paths, False
        self._agent, self._reader = agent, reader

    def types(self, headers: Mapping[str, str]) -> Sequence[str]:  # noqa: D102 - Endpoint
        return (JSON, _BINARY) if _HEADER_LENGTH in headers else (JSON,)

    def read(self, body: bytes, headers: Mapping[str, str]) -> Asked:  # noqa: D102 - Endpoint
        wanted, request = self._reader.read(body, headers, self._agent)

        def write(answers: Answers) -> Written:
            return _answer(self._agent, request, self._agent.tensors(wanted.outputs, answers))

        return Asked(wanted.texts, wanted.parameters, write)


_MODEL, _VERSION = "/v2/models/{name}", "/v2/models/{name}/versions/{version}"


def endpoint(agent: OpenInference, reader: InferenceReader) -> Endpoint:
    """The endpoint over one agent, without a version in its path."""
    return InferEndpoint(agent, reader, f"{_MODEL}/infer", (f"/v2/models/{agent.name}/infer",))


def routes(agent: OpenInference, reader: InferenceReader) -> APIRouter:
    """The routes over one agent."""
    router = APIRouter(tags=["Open Inference Protocol v2"])
    predictor = agent.predictor

    @router.get("/v2", summary="Which server is this?")
    async def server() -> ServerMetadata:
        return ServerMetadata(name=SERVER, version=server_version(), extensions=list(EXTENSIONS))

    @router.get("/v2/health/live", summary="Is the process alive?")
    async def live() -> ServerLive:
        return ServerLive(live=True)

    @router.get("/v2/health/ready", summary="Is the agent loaded and warm?", responses={200: {"model": ServerReady}})
    async def ready() -> Response:
        return not_ready(predictor) or reply(ServerReady(ready=True))

    async def metadata(name: str, version: str = "") -> Response:
        async def work() -> Response:
            agent.check(name, version)
            return reply(_metadata(agent))

        return await answered(work())

    async def model_ready(name: str, version: str = "") -> Response:
        async def work() -> Response:
            agent.check(name, version)
            return reply(ModelReady(name=name, ready=True)) if predictor.ready else _cold()

        return await answered(work())

    async def infer(request: Request, name: str, version: str = "") -> Response:
        asked = InferEndpoint(agent, reader, _MODEL)
        return await answered(answer_request(request, asked, predictor, check=lambda: agent.check(name, version)))

    for path in (_MODEL, _VERSION):
        described: dict[str, Any] = {"response_model": None}
        router.get(path, summary="Its tensors", responses=_said(ModelMetadata), **described)(metadata)
        router.get(path + "/ready", summary="Is it ready?", responses=_said(ModelReady), **described)(model_ready)
        said = _said(InferenceAnswer) | {200: {"model": InferenceAnswer, "content": {_BINARY: BYTES}}}
        extra = body_schema(reader.model, _BINARY)
        length = {"type": "integer", "minimum": 0}
        extra["parameters"].append(header(_HEADER_LENGTH, length, "Bytes of the JSON where tensors follow in binary."))
        router.post(path + "/infer", summary="Predict", responses=said, openapi_extra=extra, **described)(infer)
    return router


def _said(model: type[BaseModel]) -> dict[int | str, dict[str, Any]]:
    return {200: {"model": model}, 404: {"model": ErrorBody}}


def _cold() -> Response:
    body = ErrorBody(error="the agent is warming up", remedy="ask again in a second")
    return reply(body, status=503, headers={"retry-after": "1"})


def _metadata(agent: OpenInference) -> ModelMetadata:
    return ModelMetadata(
        name=agent.name,
        versions=[agent.version],
        platform=agent.platform,
        inputs=[TensorMetadata(name=name, datatype="BYTES", shape=[-1]) for name in agent.inputs],
        outputs=[TensorMetadata(name=column.name, datatype=column.datatype, shape=[-1]) for column in agent.columns],
    )


def _header_length(headers: Mapping[str, str], length: int) -> int:
    given = headers.get(_HEADER_LENGTH)
    if given is None:
        return length
    if not given.isdecimal() or int(given[:20]) > length:
        raise RequestError(
            f"header {_HEADER_LENGTH} is {given[:80]!r} for a body of {length} bytes",
            allowed=f"0 to {length}",
            remedy="give the bytes of the JSON in front of the tensors",
            field=_HEADER_LENGTH,
        )
    return int(given)


def _texts(tensors: Sequence[Any], binary: bytes, names: Sequence[str]) -> list[tuple[str, list[str]]]:
    """The texts of each tensor; those in binary stand behind the JSON in the same order."""
    sizes = [tensor.parameters.binary_data_size if tensor.parameters else None for tensor in tensors]
    left, found = len(binary) - sum(size or 0 for size in sizes), list[tuple[str, list[str]]]()
    for index, (tensor, size) in enumerate(zip(tensors, sizes, strict=True)):
        place = f"inputs[{index}]"
        if (size is None) == (tensor.data is None) or left:
            raise RequestError(
                f"{place} has {'no ' if tensor.data is None else ''}data, binary_data_size {size}, and {len(binary)} bytes behind the JSON",
                allowed=f"either data, or binary_data_size and as many bytes behind the JSON, whose length the header {_HEADER_LENGTH} gives",
                remedy="send the texts in one of the two ways",
                field=place,
            )
        shaped = Shaped(tensor.name, tensor.datatype, tensor.shape)
        if size is None:
            texts = [text for row in tensor.data for text in (row if isinstance(row, list) else [row])]
            check_tensor(place, shaped, len(texts), names)
            refuse_empty(texts, f"{place}.data[{{}}]")
        else:
            values, binary = unpack(binary[:size], f"{place}.data"), binary[size:]
            check_tensor(place, shaped, len(values), names)
            texts = decode(values, f"{place}.data")
        found.append((tensor.name, texts))
    return found


def _answer(agent: OpenInference, asked: Any, tensors: Sequence[Tensor]) -> Written:
    """JSON, and behind it the tensors that are wanted in binary."""
    everything = bool(asked.parameters and asked.parameters.binary_data_output)
    chosen = {output.name: output.parameters and output.parameters.binary_data for output in asked.outputs or ()}
    outputs, binary = [], []
    for tensor in tensors:
        told: dict[str, Any] = {"name": tensor.name, "datatype": tensor.datatype, "shape": [len(tensor.values)]}
        own = chosen.get(tensor.name)
        if everything if own is None else own:
            binary.append(pack(tensor))
            told["parameters"] = {"binary_data_size": len(binary[-1])}
        else:
            told["data"] = tensor.values
        outputs.append(told)
    head: dict[str, Any] = {"model_name": agent.name, "model_version": agent.version}
    head |= {"id": asked.id} if asked.id else {}
    content = to_json(head | {"outputs": outputs})
    if not binary:
        return Written(content)
    return Written(b"".join([content, *binary]), _BINARY, {"Inference-Header-Content-Length": str(len(content))})
