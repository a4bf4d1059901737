"""`POST /v1/chat/completions`: a turn of a conversation, in the shape of OpenAI's API that InferenceClient.chat_completion speaks too."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Request, Response
from pydantic import BaseModel, ConfigDict, Field, Strict, ValidationError
from pydantic_core import to_json

from agent.errors import DataError, RequestError
from agent.generation.growing_text import Finish, GrowingText, WrittenToken
from agent.tasks.requests.request_parameters import WHOLE
from agent.tasks.writing.conversation import read_prompt
from agent.tasks.writing.writing_parameters import ContinuationParameters, Seed
from serving.api.duplicate_keys import quoted_keys, refuse_duplicates
from serving.api.endpoint import Asked, Written, answer_request
from serving.api.request_body import JSON, body_schema, explain
from serving.api.writing.event_stream import EVENTS_CONTENT
from serving.middleware.responses import answered, failed, refused
from serving.scheduling.prediction import Answers
from serving.scheduling.predictor import Predictor
from serving.scheduling.request_context import current

_PATH = "/v1/chat/completions"
_FINISH: Mapping[Finish, str] = {"eos_token": "stop", "stop_sequence": "stop", "length": "length"}
_Text = Annotated[str, Strict(), Field(min_length=1, max_length=200)]


class _Model(BaseModel):
    model_config = ConfigDict(extra="forbid")


class ChatMessage(_Model):
    """What one side says."""

    role: Literal["system", "user", "assistant"]
    content: Annotated[str, Strict(), Field(min_length=1)]


class StreamOptions(_Model):
    """What a stream tells beside the text."""

    include_usage: Annotated[bool, Strict()] | None = Field(
        None, description="Whether it ends with the numbers of tokens."
    )


class ChatRequest(_Model):
    """A conversation, and how to go on with it."""

    messages: Annotated[list[ChatMessage], Field(min_length=1)]
    model: Annotated[str, Strict()] | None = Field(None, description="Any name: this address has one agent.")
    max_tokens: Annotated[int, Strict(), Field(ge=1, le=1_000_000), WHOLE] | None = Field(
        None, description="Tokens that are written at most."
    )
    temperature: Annotated[float, Strict(), Field(ge=0, le=100)] | None = Field(
        None,
        description="Divides logits before a token is drawn; 0 takes the likeliest, as is done where nothing is said.",
    )
    top_p: Annotated[float, Strict(), Field(ge=0.001, le=1)] | None = Field(
        None, description="Tokens are drawn of the likeliest that have this probability together."
    )
    seed: Seed | None = Field(
        None, description="Has the same answer drawn whenever the request is repeated; without effect where nothing is."
    )
    n: Annotated[int, Strict(), Field(ge=1, le=1), WHOLE] | None = Field(None, description="Answers: one.")
    stop: _Text | Annotated[list[_Text], Field(max_length=8)] | None = Field(
        None, description="Strings before which the answer is cut off."
    )
    stream: Annotated[bool, Strict()] | None = Field(
        None, description="Whether the answer is told as it is written, as server-sent events."
    )
    stream_options: StreamOptions | None = None


class ChatChoice(BaseModel):
    """The answer."""

    index: int
    message: ChatMessage
    finish_reason: Literal["stop", "length"]
    logprobs: None = None


class Usage(BaseModel):
    """Numbers of tokens."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int


class ChatCompletion(BaseModel):
    """What a conversation is answered with."""

    id: str
    object: Literal["chat.completion"] = "chat.completion"
    created: int
    model: str
    system_fingerprint: str
    choices: list[ChatChoice]
    usage: Usage


class ChatEndpoint:
    """The endpoint over one predictor.

    Args:
        predictor: What answers.
        name: The agent's.
    """

    route, streams = _PATH, True
    paths: Sequence[str] = (_PATH,)

    def __init__(self, predictor: Predictor, name: str) -> None:
        self._predictor, self._name = predictor, name
        self._quoted = quoted_keys(ChatRequest, ChatMessage, StreamOptions)

    def types(self, headers: Mapping[str, str]) -> Sequence[str]:  # noqa: D102 - Endpoint
        return (JSON,)

    def read(self, body: bytes, headers: Mapping[str, str]) -> Asked:  # noqa: D102 - Endpoint
        try:
            request = ChatRequest.model_validate_json(body)
        except ValidationError as error:
            raise explain(error, ChatRequest, {"messages": ChatMessage, "stream_options": StreamOptions}) from None
        refuse_duplicates(body, self._quoted)
        try:
            prompt = read_prompt([message.model_dump() for message in request.messages], "messages")
        except DataError as error:
            raise RequestError(error.what, allowed=error.allowed, remedy=error.remedy, field="messages") from None
        bundle = self._predictor.engine.bundle
        made = _Completion(
            self._name, bundle.digest[:12], lambda: len(self._predictor.engine.encode([prompt])[0].given)
        )
        return Asked([prompt], _parameters(request), made.write, _ChatEvents(made, request) if request.stream else None)


def _parameters(request: ChatRequest) -> ContinuationParameters:
    draws = bool(request.temperature) or (request.temperature is None and request.top_p is not None)
    stop = [request.stop] if isinstance(request.stop, str) else request.stop
    return ContinuationParameters(
        max_new_tokens=request.max_tokens, do_sample=draws, stop=stop, details=True,
        temperature=max(request.temperature, 0.01) if request.temperature else None, top_p=request.top_p if draws else None,
        seed=request.seed,
    )  # fmt: skip


class _Completion:
    """One answer and how it is written down.

    Args:
        model: The agent's name.
        fingerprint: Of what answered.
        count: Tokens of the prompt.
    """

    def __init__(self, model: str, fingerprint: str, count: Any) -> None:
        self._model, self._fingerprint, self._count = model, fingerprint, count
        self._created, self._id = int(time.time()), f"chatcmpl-{current().request_id}"

    def shared(self, kind: str) -> dict[str, Any]:
        """What every part of it says."""
        return {
            "id": self._id, "object": kind, "created": self._created, "model": self._model, "system_fingerprint": self._fingerprint,
        }  # fmt: skip

    def usage(self, num_written: int) -> Usage:
        """Numbers of tokens."""
        given = self._count()
        return Usage(prompt_tokens=given, completion_tokens=num_written, total_tokens=given + num_written)

    def write(self, answers: Answers) -> Written:
        """The answer as a whole."""
        ((answer,),) = answers
        details, message = answer["details"], {"role": "assistant", "content": answer["generated_text"]}
        choice = {"index": 0, "message": message, "finish_reason": _FINISH[details["finish_reason"]], "logprobs": None}
        usage = self.usage(details["generated_tokens"])
        return Written(to_json({**self.shared("chat.completion"), "choices": [choice], "usage": usage}))


class _ChatEvents:
    """The answer in pieces."""

    def __init__(self, made: _Completion, request: ChatRequest) -> None:
        self._made, self._told = made, False
        self._with_usage = bool(request.stream_options and request.stream_options.include_usage)

    def token(self, token: WrittenToken) -> Any:
        """Its text, if it has any."""
        return self._chunk({"content": token.text}) if token.text else None

    def end(self, written: GrowingText, answers: Answers) -> Sequence[Any]:
        """The last token, and why it ended."""
        assert written.finish is not None
        text = self.token(written.tokens[-1])
        last = [*([text] if text else []), self._chunk({}, _FINISH[written.finish])]
        if self._with_usage:
            usage = self._made.usage(len(written.numbers))
            last.append({**self._made.shared("chat.completion.chunk"), "choices": [], "usage": usage})
        return [*last, "[DONE]"]

    def error(self, error: RequestError | None) -> Sequence[Any]:
        """What went wrong."""
        return [(refused(error) if error else failed()).model_dump(exclude_none=True)]

    def _chunk(self, delta: dict[str, Any], finish: str | None = None) -> dict[str, Any]:
        if not self._told:
            self._told, delta = True, {"role": "assistant", "content": "", **delta}
        choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish}
        return {**self._made.shared("chat.completion.chunk"), "choices": [choice]}


def routes(endpoint: ChatEndpoint, predictor: Predictor) -> APIRouter:
    """The endpoint as a route of an application."""
    router = APIRouter()

    @router.post(
        _PATH,
        summary="Go on with a conversation",
        response_model=None,
        responses={200: {"model": ChatCompletion, "content": EVENTS_CONTENT}},
        openapi_extra=body_schema(ChatRequest),
    )
    async def complete(request: Request) -> Response:
        """Answers in the shape of OpenAI's chat completions; `"stream": true` tells the answer as it is written."""
        return await answered(answer_request(request, endpoint, predictor))

    return router
