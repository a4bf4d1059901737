"""`POST /feedback`: takes a reward for an answered prediction, or a correction of it."""

from __future__ import annotations

import asyncio
import time
from typing import Annotated, Any

from fastapi import APIRouter, Request, Response
from pydantic import BaseModel, ConfigDict, Field, Strict, ValidationError
from pydantic_core import to_json

from agent import telemetry
from agent.decisions.decision import Decision, Feedback, LoggedDecision
from agent.errors import DataError, RequestError, StoreError
from agent.tasks.requests.request_parameters import WHOLE
from serving.api.duplicate_keys import quoted_keys, refuse_duplicates
from serving.api.request_body import JSON, REF, explain, read_body
from serving.feedback.decision_log import DecisionLog
from serving.middleware.request_headers import headers_of
from serving.middleware.responses import ErrorBody, answered, reply
from serving.scheduling.predictor import Predictor
from serving.scheduling.refusals import OverloadError, reason_of
from serving.scheduling.request_context import RequestContext, current

_DAY_S = 86_400.0
_MOST_AT_ONCE = 32
_LOOKS = 4  # another replica may not have written the decision yet
_REASONS = {403: "foreign", 404: "unknown", 409: "contradictory", 410: "late", 503: "unavailable"}


class FeedbackRequest(BaseModel):
    """What came back on an answer: a reward or a correction."""

    model_config = ConfigDict(extra="forbid")

    id: Annotated[str, Strict(), Field(min_length=1, max_length=128)] = Field(
        description="The x-request-id of the answer."
    )
    index: Annotated[int, Strict(), Field(ge=0, le=10_000_000), WHOLE] = Field(
        0, description="Which of the request's texts is meant, from 0."
    )
    reward: Annotated[float, Strict(), Field(ge=0, le=1)] | None = Field(
        None, description="How good the answer was, from 0 to 1."
    )
    correction: dict[str, Any] | None = Field(
        None, description="What a labelled record holds beside its text, such as label or spans."
    )


class FeedbackAnswer(BaseModel):
    """What became of feedback; `repeated` tells that the same was recorded before."""

    id: str
    index: int
    outcome: str


class FeedbackDesk:
    """Takes feedback for one agent.

    Args:
        predictor: Whose answers; it has a log of them.
        log: The log.
    """

    def __init__(self, predictor: Predictor, log: DecisionLog) -> None:
        self._predictor, self._log, self._busy = predictor, log, 0
        self._quoted = quoted_keys(FeedbackRequest)

    async def answer(self, request: Request) -> Response:
        """Answers a request.

        Raises:
            RequestError: The feedback is refused.
        """
        count = self._predictor.metrics.count
        try:
            outcome = await self._take(request)
        except RequestError as error:
            count(telemetry.FEEDBACK, outcome=_REASONS.get(error.status, reason_of(error)))
            raise
        count(telemetry.FEEDBACK, outcome=outcome.outcome)
        return reply(outcome)

    async def _take(self, request: Request) -> FeedbackAnswer:
        if self._busy >= _MOST_AT_ONCE:
            raise OverloadError("the server is busy: too much feedback at once", retry_after_s=1)
        self._busy += 1
        try:
            context, limits = current(), self._predictor.limits
            if context.rate_limit is not None:
                context.rate_limit.take(1)
            body = await read_body(
                request.stream(),
                headers_of(request.scope["headers"]),
                max_bytes=limits.max_body_bytes,
                max_s=limits.max_body_s,
            )
            return await self._record(self._read(body), context)
        except StoreError:
            raise RequestError(
                "feedback cannot be recorded now: the store does not answer",
                remedy="send it again in a minute",
                status=503,
            ) from None
        finally:
            self._busy -= 1

    def _read(self, body: bytes) -> FeedbackRequest:
        try:
            given = FeedbackRequest.model_validate_json(body)
        except ValidationError as error:
            raise explain(error, FeedbackRequest, {}) from None
        refuse_duplicates(body, self._quoted)
        if (given.reward is None) == (given.correction is None):
            raise RequestError(
                f"the body holds {'no reward and no' if given.reward is None else 'a reward and a'} correction",
                allowed='one of both, such as {"id": "...", "reward": 1}',
                remedy="send a reward, or the right answer as a correction",
            )
        return given

    async def _record(self, given: FeedbackRequest, context: RequestContext) -> FeedbackAnswer:
        logged = await self._find(given)
        self._check(logged.decision, given, context)
        correction = None if given.correction is None else self._kept(logged.decision.text, given.correction)
        feedback = Feedback(time.time(), context.key_id, given.reward, correction)
        before = logged.feedback or await asyncio.to_thread(self._log.store.give, logged.decision, feedback)
        if before is None:
            return FeedbackAnswer(id=given.id, index=given.index, outcome="recorded")
        if before.says_the_same(feedback):
            return FeedbackAnswer(id=given.id, index=given.index, outcome="repeated")
        raise RequestError(
            f"decision {given.id!r} has other feedback already",
            allowed="one reward or one correction for each answer; the first one counts",
            remedy="ask the operator to delete the decision where that was wrong",
            status=409,
            field="id",
        )

    async def _find(self, given: FeedbackRequest) -> LoggedDecision:
        for look in range(_LOOKS):
            if look:
                await self._log.flush()
                await asyncio.sleep(self._log.config.flush_s if look > 1 else 0)
            found = await asyncio.to_thread(self._log.store.find, self._log.agent, given.id, given.index)
            if found is not None:
                return found
        days = self._log.config.retention_days
        raise RequestError(
            f"there is no decision {given.id!r} with index {given.index} of agent {self._log.agent}",
            allowed=f"the x-request-id of one of its answers of the last {days:g} days, and which of the request's texts is meant",
            remedy="send feedback to the agent that answered, with the x-request-id of its answer",
            status=404,
            field="id",
        )

    def _check(self, decision: Decision, given: FeedbackRequest, context: RequestContext) -> None:
        """Refuses feedback that is none for this decision."""
        if decision.key_id != context.key_id:
            raise RequestError(
                f"decision {given.id!r} was answered to another key",
                allowed="feedback of who asked",
                remedy="show the key with which the prediction was asked for",
                status=403,
                field="id",
            )
        days = self._log.config.accept_days
        if time.time() - decision.time > days * _DAY_S:
            raise RequestError(
                f"decision {given.id!r} is too old for feedback",
                allowed=f"answers of the last {days:g} days",
                remedy="send feedback earlier, or ask the operator for a larger feedback.accept_days",
                status=410,
                field="id",
            )
        if given.correction is not None:
            self._check_correction(decision.text, given.correction)

    def _kept(self, text: str, correction: dict[str, Any]) -> str:
        """The correction as it is stored; with the texts of the input where these are several, since the log holds them as one."""
        task = self._predictor.engine.bundle.task
        fields = task.fields_of(text) if len(task.input_fields) > 1 else {}
        return to_json(fields | correction).decode()

    def _check_correction(self, text: str, correction: dict[str, Any]) -> None:
        """Reads the correction as the labels of a record with this text."""
        task = self._predictor.engine.bundle.task
        if not task.correction_key:
            raise RequestError(
                f"answers of {task.kind} are not corrected: it learns from texts as they are",
                allowed="a reward",
                remedy="send a reward, or train on more text",
                field="correction",
            )
        if texts := sorted(set(task.input_fields) & set(correction)):
            raise RequestError(
                f"unknown key correction.{texts[0]}",
                allowed="what a labelled record holds beside its text",
                remedy="leave it out",
                field=f"correction.{texts[0]}",
            )
        try:
            task.read_record(task.fields_of(text) | correction, "correction")
        except DataError as error:
            raise RequestError(
                error.what, allowed=error.allowed, remedy="send what a labelled record holds", field="correction"
            ) from None


def routes(predictor: Predictor) -> APIRouter:
    """The route over one predictor; none where it keeps no decisions."""
    router = APIRouter()
    if predictor.decisions is None:
        return router
    desk = FeedbackDesk(predictor, predictor.decisions)
    schema: dict[str, Any] = {JSON: {"schema": {"$ref": REF.format(model=FeedbackRequest.__name__)}}}
    refusals: dict[int | str, dict[str, Any]] = {status: {"model": ErrorBody} for status in sorted(_REASONS)}
    described: dict[str, Any] = {
        "response_model": None,
        "responses": {200: {"model": FeedbackAnswer}} | refusals,
        "openapi_extra": {"requestBody": {"required": True, "content": schema}},
    }

    @router.post("/feedback", summary="Reward or correct an answer", **described)
    async def give(request: Request) -> Response:
        """Records feedback on a prediction: a reward from 0 to 1, or what the right answer would have been."""
        return await answered(desk.answer(request))

    return router
