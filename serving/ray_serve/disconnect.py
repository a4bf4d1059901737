"""The layer that drops the work of callers who hang up. Knows nothing of texts.

Ray Serve watches every connection with two tasks a request, which costs more than most answers do; `serving.ray_serve.replica_entry`
declines that, and here only requests that take long are watched.
"""

from __future__ import annotations

import asyncio

from starlette.types import ASGIApp, Message, Receive, Scope, Send

_UNWATCHED_S = 0.05  # most answers are there by then; the work of a caller who left is worth that much


class DisconnectMiddleware:
    """Cancels what still works for a caller who is gone.

    Args:
        app: What works.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:  # noqa: D102 - ASGI
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        caller = _Caller(receive)
        try:
            async with asyncio.timeout(None) as patience:
                caller.patience = patience
                await self._app(scope, caller.receive, send)
        except TimeoutError:
            if not caller.left:
                raise
        finally:
            caller.forget()


class _Caller:
    """Who asks: until the body is read by the application, then by us."""

    def __init__(self, receive: Receive) -> None:
        self._receive = receive
        self._later: asyncio.TimerHandle | None = None
        self._watch: asyncio.Task[None] | None = None
        self.patience: asyncio.Timeout | None = None
        self.left = False

    async def receive(self) -> Message:
        """The application's; after the body an ASGI server only ever tells that the caller is gone, to all who ask."""
        message = await self._receive()
        if message["type"] == "http.request" and not message.get("more_body", False):
            self._later = asyncio.get_running_loop().call_later(_UNWATCHED_S, self._begin_watch)
        return message

    def forget(self) -> None:
        if self._later:
            self._later.cancel()
        if self._watch:
            self._watch.cancel()

    def _begin_watch(self) -> None:
        self._watch = asyncio.create_task(self._until_left())

    async def _until_left(self) -> None:
        if (await self._receive())["type"] == "http.disconnect" and self.patience:
            self.left = True
            self.patience.reschedule(asyncio.get_running_loop().time())
