"""The short way of predictions: what takes it, from when on, and that everything that stands before the routes stands there too."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

from serving.metrics import Metrics
from serving.middleware.middleware_stack import MiddlewareStack
from serving.ray_serve.direct_predictions import Lane
from serving.settings import AuthConfig, FrontConfig

JSON = (b"content-type", b"application/json")


async def _endpoint(request: Request) -> Response:
    return PlainTextResponse(f"{request.scope['root_path']}|{request.url.path}|{request.scope['route'].path}")


def _lane(front: MiddlewareStack | None = None) -> Lane:
    layers = (front or MiddlewareStack()).layers(Metrics(), adds_id=True)
    return Lane(Route("/", _endpoint, methods=["POST"]), layers)


def _scope(path: str, method: str = "POST", root_path: str = "") -> dict[str, Any]:
    return {
        "type": "http", "method": method, "path": path, "root_path": root_path, "headers": [JSON], "query_string": b"",
        "scheme": "http", "server": ("127.0.0.1", 80), "client": ("127.0.0.1", 1),
    }  # fmt: skip


def _answer(lane: Lane, scope: dict[str, Any]) -> tuple[int, dict[bytes, bytes], bytes]:
    sent: list[Any] = []

    async def receive() -> Any:
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(message: Any) -> None:
        sent.append(message)

    asyncio.run(lane(scope, receive, send))
    return sent[0]["status"], dict(sent[0]["headers"]), b"".join(message.get("body", b"") for message in sent[1:])


@pytest.mark.parametrize(
    ("prefix", "taken"), [("", ["/"]), ("/models/reviews", ["/models/reviews", "/models/reviews/"])]
)
def test_the_lane_opens_where_the_first_request_came_in(prefix: str, taken: list[str]) -> None:
    lane = _lane()
    assert not any(lane.takes(_scope(path)) for path in taken)
    long_way = _scope(f"{prefix}/", root_path=prefix)
    assert lane.matches(long_way)
    lane.learn(long_way)
    assert all(lane.takes(_scope(path)) for path in taken)
    others = [*({"/", "/models/reviews"} - set(taken)), f"{prefix}/info", f"{prefix}/v2", ""]
    assert not any(lane.takes(_scope(path)) for path in others)
    assert not any(lane.takes(_scope(path, method)) for path in taken for method in ("GET", "OPTIONS", "HEAD"))
    for path in taken:
        status, _, body = _answer(lane, _scope(path))
        assert (status, body.decode()) == (200, f"{prefix}|{prefix}/|/")


def test_who_shows_no_key_is_refused_on_the_short_way_as_well(tmp_path: Path) -> None:
    keys = tmp_path / "keys"
    keys.write_text("anna: 4f1d8a0e6c2b4f1d8a0e6c2b4f1d8a0e\n")
    lane = _lane(MiddlewareStack(FrontConfig(auth=AuthConfig(keys_file=str(keys)))))
    lane.learn(_scope("/"))
    status, headers, _ = _answer(lane, _scope("/"))
    assert status == 401
    assert headers[b"x-request-id"]
    shown = _scope("/")
    shown["headers"].append((b"x-api-key", b"4f1d8a0e6c2b4f1d8a0e6c2b4f1d8a0e"))
    assert _answer(lane, shown)[0] == 200
