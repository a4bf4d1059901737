"""HEAD is answered like GET, without the body, and redirects are relative: a gateway may have another scheme, host or prefix than we know."""

from __future__ import annotations

from urllib.parse import urlsplit

from starlette.datastructures import MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send


class HttpSemantics:
    """The innermost layer: what Starlette's routes say otherwise than clients expect.

    Args:
        app: The routes.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:  # noqa: D102 - ASGI
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        head = scope["method"] == "HEAD"

        async def sent(message: Message) -> None:
            if message["type"] == "http.response.start" and 300 <= message["status"] < 400:
                headers = MutableHeaders(scope=message)
                if "location" in headers:
                    headers["location"] = _relative(scope["path"], headers["location"])
            if head and message["type"] == "http.response.body":
                message = {**message, "body": b""}
            await send(message)

        await self._app({**scope, "method": "GET"} if head else scope, receive, sent)


def _relative(path: str, location: str) -> str:
    """Where a redirect leads, from a path that differs by a slash at its end."""
    target = urlsplit(location)
    last = target.path.rstrip("/").rpartition("/")[2]
    place = f"../{last}" if path.endswith("/") else f"{last}/"
    return place + (f"?{target.query}" if target.query else "")
