"""The Open Inference Protocol v2 over gRPC, with the same limits, refusals and keys as over HTTP.

A refusal is a status and its details, never an exception, because Ray Serve drops the metadata of calls that raise. Whoever
gives up, by a deadline or by hanging up, cancels the call, and what still waits for it is not computed.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, TypeVar

import grpc
from google.protobuf.message import Message

from agent import telemetry
from agent.errors import RequestError
from serving.api.endpoint import allowed_time
from serving.api.open_inference import inference_pb2 as pb
from serving.api.open_inference.protocol import (
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
from serving.api.request_body import refusals_counted
from serving.middleware.middleware_stack import MiddlewareStack
from serving.middleware.request_logging import report
from serving.middleware.responses import retry_after_s
from serving.scheduling.refusals import CALLER_LEFT
from serving.scheduling.request_context import REQUEST_ID, RequestContext, begin, checked_id, new_id

_log = logging.getLogger(__name__)
ReplyT = TypeVar("ReplyT", bound=Message)
_CODES = {
    401: grpc.StatusCode.UNAUTHENTICATED,
    403: grpc.StatusCode.PERMISSION_DENIED,
    404: grpc.StatusCode.NOT_FOUND,
    408: grpc.StatusCode.DEADLINE_EXCEEDED,
    429: grpc.StatusCode.RESOURCE_EXHAUSTED,
}
_ROUTE = "/inference.GRPCInferenceService/"


class InferenceService:
    """The service; its methods are named as the protocol names them.

    Args:
        agent: What answers.
        front: Whose keys are asked for and who is told of calls, as over HTTP. Health is told without a key, and not logged.
    """

    def __init__(self, agent: OpenInference, front: MiddlewareStack | None = None) -> None:
        self._agent, self._front = agent, front or MiddlewareStack()

    async def ServerLive(self, request: pb.ServerLiveRequest, grpc_context: Any) -> pb.ServerLiveResponse:
        """Tells that the process is alive."""
        return pb.ServerLiveResponse(live=True)

    async def ServerReady(self, request: pb.ServerReadyRequest, grpc_context: Any) -> pb.ServerReadyResponse:
        """Tells whether the agent is loaded and warm."""
        predictor = self._agent.predictor
        return pb.ServerReadyResponse(ready=predictor.ready and not predictor.awaited)

    async def ModelReady(self, request: pb.ModelReadyRequest, grpc_context: Any) -> pb.ModelReadyResponse:
        """Tells whether that model is loaded and warm."""

        async def work() -> pb.ModelReadyResponse:
            self._agent.check(request.name, request.version)
            return pb.ModelReadyResponse(ready=self._agent.predictor.ready)

        return await self._answered("ModelReady", grpc_context, work, pb.ModelReadyResponse)

    async def ServerMetadata(self, request: pb.ServerMetadataRequest, grpc_context: Any) -> pb.ServerMetadataResponse:
        """Tells which server this is."""

        async def work() -> pb.ServerMetadataResponse:
            return pb.ServerMetadataResponse(name=SERVER, version=server_version())

        return await self._answered("ServerMetadata", grpc_context, work, pb.ServerMetadataResponse)

    async def ModelMetadata(self, request: pb.ModelMetadataRequest, grpc_context: Any) -> pb.ModelMetadataResponse:
        """The tensors that go in and come out."""

        async def work() -> pb.ModelMetadataResponse:
            self._agent.check(request.name, request.version)
            told = pb.ModelMetadataResponse(
                name=self._agent.name, versions=[self._agent.version], platform=self._agent.platform
            )
            for name in self._agent.inputs:
                told.inputs.add(name=name, datatype="BYTES", shape=[-1])
            for column in self._agent.columns:
                told.outputs.add(name=column.name, datatype=column.datatype, shape=[-1])
            return told

        return await self._answered("ModelMetadata", grpc_context, work, pb.ModelMetadataResponse)

    async def ModelInfer(self, request: pb.ModelInferRequest, grpc_context: Any) -> pb.ModelInferResponse:
        """Predicts."""

        async def work() -> pb.ModelInferResponse:
            with refusals_counted(self._agent.predictor.metrics):
                wanted, timeout_s = self._read(request), allowed_time(_metadata(grpc_context))
            tensors = await self._agent.infer(wanted, timeout_s)
            return _reply(self._agent, request, tensors)

        return await self._answered("ModelInfer", grpc_context, work, pb.ModelInferResponse)

    async def _answered(
        self, method: str, context: Any, work: Callable[[], Awaitable[ReplyT]], empty: Callable[[], ReplyT]
    ) -> ReplyT:
        request_context = RequestContext(new_id(), "POST", _ROUTE + method, keeps_texts=self._front.keeps_texts)
        request_context.status = 200
        begin(request_context)
        code = grpc.StatusCode.OK
        try:
            self._admit(_metadata(context), request_context)
            return await work()
        except RequestError as error:
            code, request_context.status = _refuse(context, error), error.status
            return empty()
        except asyncio.CancelledError:
            code, request_context.status = grpc.StatusCode.CANCELLED, CALLER_LEFT
            raise
        except Exception:  # noqa: BLE001 - the caller gets no internals; the log gets the trace
            _log.exception("request %s failed", request_context.request_id)
            code, request_context.status = grpc.StatusCode.INTERNAL, 500
            context.set_code(code)
            context.set_details("the server failed; this is not the request's fault")
            return empty()
        finally:
            self._agent.predictor.metrics.count(telemetry.REQUESTS, route=request_context.route, status=code.name)
            report(request_context, self._front.reports)

    def _admit(self, metadata: Mapping[str, str], request_context: RequestContext) -> None:
        """Does for a call what the layers before the routes do for a request over HTTP."""
        request_context.client = metadata.get("x-forwarded-for", "").rpartition(",")[2].strip()
        request_context.traceparent = metadata.get("traceparent", "")
        if given := metadata.get(REQUEST_ID):
            request_context.request_id = checked_id(given)
        if self._front.keys:
            with refusals_counted(self._agent.predictor.metrics):
                self._front.keys.admit(metadata, request_context)

    def _read(self, request: pb.ModelInferRequest) -> Wanted:
        self._agent.check(request.model_name, request.model_version)
        _check_size(request, self._agent.predictor.limits.max_body_bytes)
        given = {name: _value(parameter) for name, parameter in request.parameters.items()}
        parameters = self._agent.parameters(given)
        texts = _texts(request, self._agent)
        return Wanted(texts, parameters, self._agent.outputs([output.name for output in request.outputs]))


def _texts(request: pb.ModelInferRequest, agent: OpenInference) -> list[str]:
    most, raw = len(agent.inputs), request.raw_input_contents
    if not 1 <= len(request.inputs) <= most:
        raise RequestError(
            f"inputs holds {len(request.inputs)} tensors",
            allowed=f"one tensor {', one tensor '.join(map(repr, agent.inputs))}",
            remedy="send all texts in one tensor",
            field="inputs",
        )
    if raw and (len(raw) != len(request.inputs) or any(tensor.contents.bytes_contents for tensor in request.inputs)):
        raise RequestError(
            "raw_input_contents does not fit the inputs",
            allowed="the bytes of each tensor, which then has no contents of its own",
            remedy="send the texts in one of the two ways",
            field="raw_input_contents",
        )
    found = []
    for index, tensor in enumerate(request.inputs):
        place = f"raw_input_contents[{index}]" if raw else f"inputs[{index}].contents.bytes_contents"
        values = unpack(raw[index], place) if raw else tensor.contents.bytes_contents
        shaped = Shaped(tensor.name, tensor.datatype, tensor.shape)
        check_tensor(f"inputs[{index}]", shaped, len(values), agent.inputs)
        found.append((tensor.name, decode(values, place)))
    return agent.joined(found)


def _reply(agent: OpenInference, request: pb.ModelInferRequest, tensors: list[Tensor]) -> pb.ModelInferResponse:
    told = pb.ModelInferResponse(model_name=agent.name, model_version=agent.version, id=request.id)
    for tensor in tensors:
        output = told.outputs.add(name=tensor.name, datatype=tensor.datatype, shape=[len(tensor.values)])
        if request.raw_input_contents:  # whoever sends in binary reads binary
            told.raw_output_contents.append(pack(tensor))
        elif tensor.datatype == "FP32":
            output.contents.fp32_contents.extend(tensor.values)
        elif tensor.datatype == "BOOL":
            output.contents.bool_contents.extend(tensor.values)
        else:
            output.contents.bytes_contents.extend(value.encode() for value in tensor.values)
    return told


def _check_size(request: pb.ModelInferRequest, max_bytes: int) -> None:
    if request.ByteSize() > max_bytes:
        raise RequestError(
            "the request is too large",
            allowed=f"at most {max_bytes} bytes",
            remedy="send the texts in several requests",
            status=413,
        )


def _refuse(context: Any, error: RequestError) -> grpc.StatusCode:
    code = _CODES.get(error.status, grpc.StatusCode.INVALID_ARGUMENT)
    context.set_code(code)
    context.set_details(str(error))
    if (seconds := retry_after_s(error)) is not None:
        context.set_trailing_metadata([("retry-after", str(seconds))])
    return code


def _metadata(context: Any) -> Mapping[str, str]:
    return {key: value for key, value in context.invocation_metadata() if isinstance(value, str)}


def _value(parameter: Any) -> Any:
    chosen = parameter.WhichOneof("parameter_choice")
    return getattr(parameter, chosen) if chosen else None
