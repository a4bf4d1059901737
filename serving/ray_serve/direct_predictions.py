"""The short way of predictions: past what FastAPI and Ray Serve do around an endpoint, which costs more than reading the request.

Two shortcuts for one endpoint. `DirectPredictions` stands in the application and spares a request the router. `Lane` stands before Ray
Serve's own code (`serving.ray_serve.replica_entry` calls it): the layers of the application and nothing else. Ray then neither counts
these requests (its HAProxy does) nor waits for them when it drains a replica; uvicorn, which it stops afterwards, does.
"""

from __future__ import annotations

from collections.abc import Iterable

from starlette._utils import get_route_path  # what the router itself goes by, so that both see the same path
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.routing import Route
from starlette.types import ASGIApp, Receive, Scope, Send


class Lane:
    """An endpoint behind the layers that an application puts before it, and nothing else.

    The lane learns where Ray Serve has put the application from the requests that came the long way, so the first one does.

    Args:
        route: A route without path parameters, whose endpoint takes a request, answers every error and depends on nothing.
        layers: What stands before it, outermost first.
    """

    def __init__(self, route: Route, layers: Iterable[Middleware] = ()) -> None:
        self._route, self._methods = route, route.methods or set()
        self._prefixes: dict[str, str] = {}  # by path
        self._app: ASGIApp = self.answer
        for layer in reversed(list(layers)):
            self._app = layer.cls(self._app, *layer.args, **layer.kwargs)

    def matches(self, scope: Scope) -> bool:
        """Whether a request that came the long way is one for the endpoint."""
        return scope["method"] in self._methods and get_route_path(scope) == self._route.path

    def learn(self, scope: Scope) -> None:
        """From a request that matches: the next one like it may come by the lane."""
        prefix = scope.get("root_path", "")
        for path in {prefix, f"{prefix}{self._route.path}"} - {""}:
            self._prefixes[path] = prefix

    def takes(self, scope: Scope) -> bool:
        """Whether a request that Ray Serve has not seen yet is one for the endpoint."""
        return scope["path"] in self._prefixes and scope["method"] in self._methods

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answers a request that `takes` is true of."""
        prefix = self._prefixes[scope["path"]]
        scope["root_path"], scope["path"] = prefix, f"{prefix}{self._route.path}"
        await self._app(scope, receive, send)

    async def answer(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Calls the endpoint."""
        scope["route"] = self._route  # as the router does; answers are counted by it
        response = await self._route.endpoint(Request(scope, receive, send))
        await response(scope, receive, send)


class DirectPredictions:
    """Gives requests for the endpoint to it, and leaves all else to the router.

    Args:
        app: The router.
        lane: Leads to the endpoint.
    """

    def __init__(self, app: ASGIApp, lane: Lane) -> None:
        self._app, self._lane = app, lane

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:  # noqa: D102 - ASGI
        if scope["type"] != "http" or not self._lane.matches(scope):
            await self._app(scope, receive, send)
            return
        self._lane.learn(scope)
        await self._lane.answer(scope, receive, send)
