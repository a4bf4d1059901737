"""The layer that takes predictions past the router: what FastAPI does around an endpoint costs more than reading the request."""

from __future__ import annotations

from starlette._utils import get_route_path  # what the router itself goes by, so that both see the same path
from starlette.requests import Request
from starlette.routing import Route
from starlette.types import ASGIApp, Receive, Scope, Send


class Express:
    """Calls one endpoint itself, and leaves all else to the router.

    Args:
        app: The router.
        route: A route without path parameters, whose endpoint takes a request, answers every error and depends on nothing.
    """

    def __init__(self, app: ASGIApp, route: Route) -> None:
        self._app, self._route, self._methods = app, route, route.methods or set()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:  # noqa: D102 - ASGI
        route = self._route
        if scope["type"] != "http" or scope["method"] not in self._methods or get_route_path(scope) != route.path:
            await self._app(scope, receive, send)
            return
        scope["route"] = route  # as the router does; answers are counted by it
        response = await route.endpoint(Request(scope, receive, send))
        await response(scope, receive, send)
