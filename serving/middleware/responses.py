"""Answers and refusals as JSON: one body for everything that is refused, no internals."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Mapping
from typing import Any

from pydantic import BaseModel, Field
from pydantic_core import to_json
from starlette.responses import Response

from agent.errors import RequestError
from serving.scheduling.request_context import current

_log = logging.getLogger(__name__)


class ErrorBody(BaseModel):
    """What every refusal says."""

    error: str = Field(description="What is wrong.")
    field: str | None = Field(None, description="Which part of the request, as a path such as `inputs[3]`.")
    allowed: str | None = Field(None, description="What would have been accepted.")
    remedy: str | None = Field(None, description="What to do now.")


def reply(content: Any, *, status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    """Anything that pydantic can write, as JSON."""
    return Response(to_json(content), status, headers=headers, media_type="application/json")


async def answered(work: Awaitable[Response]) -> Response:
    """The response that is being made, or what a caller gets instead."""
    try:
        return await work
    except RequestError as error:
        return refusal(error)
    except Exception:  # noqa: BLE001 - the caller gets no internals; the log gets the trace
        _log.exception("request %s failed", current().request_id)
        return failure()


def refusal(error: RequestError) -> Response:
    """What a caller whose request was refused gets."""
    return reply(refused(error), status=error.status, headers=_headers(error))


def _headers(error: RequestError) -> dict[str, str]:
    if (seconds := retry_after_s(error)) is not None:
        return {"retry-after": str(seconds)}
    return {"www-authenticate": 'Bearer realm="bert-agent"'} if error.status == 401 else {}


def retry_after_s(error: RequestError) -> int | None:
    """Seconds until the request may come again, where that is all that is wrong with it."""
    return getattr(error, "retry_after_s", None)


def refused(error: RequestError) -> ErrorBody:
    """What is said of a refusal."""
    return ErrorBody(
        error=error.what, field=error.field or None, allowed=error.allowed or None, remedy=error.remedy or None
    )


def failure() -> Response:
    """What a caller gets when the fault is ours; the log has the trace."""
    return reply(failed(), status=500)


def failed() -> ErrorBody:
    """What is said of a fault of ours."""
    return ErrorBody(error="the server failed; this is not the request's fault", remedy="try again; tell its operator")
