"""How answers and refusals are written: JSON, one body for everything that is refused, no internals."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from fastapi import Response
from pydantic import BaseModel, Field
from pydantic_core import to_json

from agent.errors import RequestError
from serving.batcher import OverloadError
from serving.rates import RateLimitError


class ErrorBody(BaseModel):
    """What every refusal says."""

    error: str = Field(description="What is wrong.")
    field: str | None = Field(None, description="Which part of the request, as a path such as `inputs[3]`.")
    allowed: str | None = Field(None, description="What would have been accepted.")
    remedy: str | None = Field(None, description="What to do now.")


def reply(content: Any, *, status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    """Anything that pydantic can write, as JSON."""
    return Response(to_json(content), status, headers=headers, media_type="application/json")


def refusal(error: RequestError) -> Response:
    """What a caller whose request was refused gets."""
    body = ErrorBody(
        error=error.what, field=error.field or None, allowed=error.allowed or None, remedy=error.remedy or None
    )
    return reply(body, status=error.status, headers=_headers(error))


def _headers(error: RequestError) -> dict[str, str]:
    if isinstance(error, OverloadError | RateLimitError):
        return {"retry-after": str(error.retry_after_s)}
    return {"www-authenticate": 'Bearer realm="bert-agent"'} if error.status == 401 else {}


def failure() -> Response:
    """What a caller gets when the fault is ours; the log has the trace."""
    body = ErrorBody(error="the server failed; this is not the request's fault", remedy="try again; tell its operator")
    return reply(body, status=500)
