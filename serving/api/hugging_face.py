"""The routes that predict in the shape of Hugging Face's inference API, whatever the task."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

from fastapi import APIRouter, Request, Response
from pydantic_core import to_json

from agent.errors import RequestError
from agent.tasks import Parameters
from serving.api import streaming
from serving.api.endpoint import Asked, Endpoint, Written, allowed_time, answer_request, check_name
from serving.api.request_body import BYTES, JSON, PayloadReader, body_schema, refusals_counted
from serving.api.streaming import NDJSON, Streams
from serving.api.writing.event_stream import EVENTS_CONTENT
from serving.api.writing.token_events import TokenEvents
from serving.middleware.request_headers import headers_of
from serving.middleware.responses import answered
from serving.scheduling.prediction import Answers
from serving.scheduling.predictor import Predictor


class HuggingFaceEndpoint:
    """`POST /`, and `POST /models/NAME` for those who say which agent they mean.

    Args:
        predictor: What answers.
        reader: Reads bodies.
        route: The path as declared.
        path: The path itself.
    """

    def __init__(self, predictor: Predictor, reader: PayloadReader, route: str, path: str) -> None:
        self.route = route
        self.paths: Sequence[str] = (path,)
        task = predictor.engine.bundle.task
        self.streams = task.streams
        self._envelope, self._reader = task.envelope, reader

    def types(self, headers: Mapping[str, str]) -> Sequence[str]:  # noqa: D102 - Endpoint
        return (JSON,)

    def read(self, body: bytes, headers: Mapping[str, str]) -> Asked:  # noqa: D102 - Endpoint
        texts, single, parameters, stream = self._reader.read(body)
        if not stream:
            return Asked(texts, parameters, partial(self._write, single, parameters))
        if not single:
            raise RequestError(
                "stream is true for a list of texts",
                allowed="one text",
                remedy="send a request for each",
                field="stream",
            )
        if (getattr(parameters, "num_beams", None) or 1) > 1:
            raise RequestError(
                "stream is true with beams, of which none is the text before all have ended",
                allowed="parameters.num_beams 1", remedy="leave stream or num_beams out", field="parameters.num_beams",
            )  # fmt: skip
        if getattr(parameters, "decoder_input_details", None):
            raise RequestError(
                "stream is true with decoder_input_details, which no event tells",
                allowed="parameters.decoder_input_details false", remedy="leave one of them out", field="parameters.decoder_input_details",
            )  # fmt: skip
        by_token = parameters.model_copy(update={"details": True})
        events = TokenEvents(getattr(parameters, "drawn_seed", None))
        return Asked(texts, by_token, partial(self._write, single, parameters), events)

    def _write(self, single: bool, parameters: Parameters, answers: Answers) -> Written:
        return Written(to_json(self._envelope(answers, single=single, parameters=parameters)))


def endpoints(predictor: Predictor, reader: PayloadReader, name: str) -> tuple[HuggingFaceEndpoint, ...]:
    """The endpoints over one predictor, whose agent has a name."""
    return (
        HuggingFaceEndpoint(predictor, reader, "/", "/"),
        HuggingFaceEndpoint(predictor, reader, "/models/{name}", f"/models/{name}"),
    )


def routes(predictor: Predictor, reader: PayloadReader, name: str) -> APIRouter:
    """The same as routes of an application, with streams."""
    router = APIRouter()
    plain, named = endpoints(predictor, reader, name)
    content = {NDJSON: BYTES} | (EVENTS_CONTENT if plain.streams else {})
    described: dict[str, Any] = {
        "response_model": None,
        "responses": {200: {"model": reader.answer_model, "content": content}},
        "openapi_extra": body_schema(reader.model, NDJSON),
    }
    streams = Streams(predictor, reader)

    @router.post("/", summary="Predict one text or several", **described)
    async def predict(request: Request) -> Response:
        """Answers in the shape of Hugging Face's inference API for the agent's task; `Accept: application/x-ndjson` streams."""
        return await answered(answer(request, plain))

    @router.post("/models/{name}", summary="Predict with the agent of that name", **described)
    async def predict_by_name(request: Request, name: str) -> Response:
        """The same, for callers who say which agent they mean."""
        return await answered(answer(request, named, asked=name))

    async def answer(request: Request, endpoint: Endpoint, asked: str = name) -> Response:
        headers = headers_of(request.scope["headers"])
        if not streaming.wanted(headers.get("accept", ""), headers.get("content-type", "")):
            return await answer_request(request, endpoint, predictor, check=partial(check_name, asked, name))
        with refusals_counted(predictor.metrics):
            predictor.check_room()
            check_name(asked, name)
            return await streams.answer(request, allowed_time(headers))

    return router
