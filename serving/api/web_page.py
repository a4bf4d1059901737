"""The page at / for a browser: who gets it, its files, and the headers that let nothing in from elsewhere. Knows no agent."""

from __future__ import annotations

import re
from pathlib import Path

from fastapi import APIRouter, Request, Response
from starlette.staticfiles import StaticFiles

from serving.middleware.responses import ErrorBody, reply

_HTML = "text/html"
_REFUSED = re.compile(r"q=0(\.0*)?")
_POLICY = (
    "default-src 'none'",
    "script-src 'self'",
    "style-src 'self'",
    "connect-src 'self'",
    "img-src 'self' data:",
    "base-uri 'none'",
    "form-action 'none'",
    "frame-ancestors 'none'",
    "require-trusted-types-for 'script'",  # no string ever becomes markup, also not by a mistake of ours
    "trusted-types 'none'",
)
_HEADERS = {
    "content-security-policy": "; ".join(_POLICY),
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cache-control": "no-cache",  # asked again each time, answered 304: page and script never come from two versions
}
_NO_BROWSER = ErrorBody(
    error=f"GET / is a page for browsers, and this request does not ask for {_HTML}",
    allowed=f"POST with JSON; GET with 'accept: {_HTML}'",
    remedy='predict with POST / and {"inputs": "a text"}; /docs describes it, /info the agent',
)


def routes() -> APIRouter:
    """The page and its files; not part of the API, so not in the OpenAPI document."""
    router = APIRouter(include_in_schema=False)
    files = StaticFiles(directory=Path(__file__).parents[1] / "static")

    async def send(name: str, request: Request) -> Response:
        response = await files.get_response(name, request.scope)
        response.headers.update(_HEADERS)
        return response

    @router.get("/")
    async def page(request: Request) -> Response:
        wanted = accepts_html(request.headers.get("accept", ""))
        response = await send("page.html", request) if wanted else reply(_NO_BROWSER, status=406)
        response.headers["vary"] = "accept"
        return response

    @router.get("/static/{name}")
    async def file(name: str, request: Request) -> Response:
        return await send(name, request)

    return router


def accepts_html(accept: str) -> bool:
    """Whether an Accept header names HTML, as every browser's does; `*/*` alone is what programs send."""
    for given in accept.lower().split(","):
        kind, *options = (part.strip() for part in given.split(";"))
        if kind == _HTML:
            return not any(_REFUSED.fullmatch(option) for option in options)
    return False
