"""`POST /explain`: which words of a text caused the agent's decisions, by interventions that queue with the predictions."""

from __future__ import annotations

import asyncio
from functools import partial
from typing import Any

from fastapi import APIRouter, Request, Response

from agent import telemetry
from agent.errors import RequestError
from serving.api.endpoint import check_head
from serving.api.request_body import JSON, PayloadReader, body_schema, read_body
from serving.explanation.explainer import EXPLAINABLE, explanation
from serving.explanation.explanation_models import Explanation, explain_parameters
from serving.explanation.scheduled import ScheduledExplanation
from serving.inference.engine import Engine
from serving.middleware.request_headers import headers_of
from serving.middleware.responses import answered, refusal, reply
from serving.scheduling.predictor import Predictor
from serving.scheduling.refusals import DeadlineError, OverloadError, reason_of
from serving.scheduling.request_context import current


class ExplanationDesk:
    """Explains what one agent decides.

    Args:
        predictor: Whose queue computes.
        reader: Reads bodies.
    """

    def __init__(self, predictor: Predictor, reader: PayloadReader) -> None:
        self._predictor, self._limits, self._reader = predictor, predictor.limits.explain, reader
        self._busy = 0

    async def answer(self, request: Request) -> Response:
        """Answers a request.

        Raises:
            RequestError: It is refused.
        """
        count = self._predictor.metrics.count
        try:
            found = await self._admit(request)
        except BaseException as error:
            count(telemetry.EXPLANATIONS, outcome=reason_of(error))
            raise
        count(telemetry.EXPLANATIONS, outcome="answered")
        return reply(found)

    async def _admit(self, request: Request) -> Explanation:
        headers, limits = headers_of(request.scope["headers"]), self._predictor.limits
        timeout_s = check_head(self._predictor, headers, (JSON,))
        if self._busy >= self._limits.max_concurrent:
            raise OverloadError(
                "the server is busy: too many explanations", retry_after_s=self._predictor.batcher.retry_after_s()
            )
        self._busy += 1
        try:
            most, most_s = limits.max_body_bytes, limits.max_body_s
            body = await read_body(request.stream(), headers, max_bytes=most, max_s=most_s)
            text, parameters = self._read(body)
            async with asyncio.timeout(timeout_s):
                return await self._explain(request, text, parameters)
        except TimeoutError:
            if timeout_s is None:
                raise
            raise DeadlineError(timeout_s) from None
        finally:
            self._busy -= 1

    def _read(self, body: bytes) -> tuple[str, Any]:
        """The input and its parameters."""
        asked = self._reader.read(body)
        (text,) = asked.texts
        self._predictor.limits.check([text], len(text))
        return text, asked.parameters

    async def _explain(self, request: Request, text: str, parameters: Any) -> Explanation:
        context, metrics = current(), self._predictor.metrics
        with self._predictor.live_version() as version:
            assert isinstance(version.engine, Engine)
            version.batcher.check_wait(0)
            charged = parameters.interventions or self._limits.max_interventions
            context.charge([text], len(text), times=charged)
            scheduled = ScheduledExplanation(version, parameters, len(text), request.is_disconnected)
            try:
                return await scheduled.finish(explanation(version.engine, text, parameters, self._limits))
            finally:
                context.give_back(max(0, charged - scheduled.num_computed))
                metrics.count(telemetry.INTERVENTIONS, max(0, scheduled.num_computed - 1))


def explains(predictor: Predictor) -> bool:
    """Whether a server explains what its agent decides."""
    return predictor.engine.bundle.task.explains and predictor.limits.explain.max_interventions > 0


def reader_of(predictor: Predictor) -> PayloadReader:
    """Reads requests that explain."""
    task = predictor.engine.bundle.task
    return PayloadReader(task, explained=explain_parameters(task, predictor.limits.explain))


def routes(predictor: Predictor) -> APIRouter:
    """The route over one predictor; it says why, where its agent cannot be explained."""
    router = APIRouter()
    if not predictor.limits.explain.max_interventions:
        return router
    if not explains(predictor):
        router.add_api_route("/explain", partial(_refuse, predictor), methods=["POST"], include_in_schema=False)
        return router
    reader = reader_of(predictor)
    desk = ExplanationDesk(predictor, reader)
    described: dict[str, Any] = {
        "response_model": None,
        "responses": {200: {"model": Explanation}},
        "openapi_extra": body_schema(reader.model),
    }

    @router.post("/explain", summary="Explain the decisions on a text", **described)
    async def explain(request: Request) -> Response:
        """Says which words caused each decision on one text, by hiding words and asking the agent again: docs/explain.md."""
        return await answered(desk.answer(request))

    return router


async def _refuse(predictor: Predictor) -> Response:
    kind = predictor.engine.bundle.task.kind.replace("_", " ")
    error = RequestError(f"an agent for {kind} cannot be explained", allowed=EXPLAINABLE, remedy="ask another agent")
    predictor.metrics.count(telemetry.EXPLANATIONS, outcome=reason_of(error))
    return refusal(error)
