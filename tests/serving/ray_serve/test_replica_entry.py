"""The layer before Ray Serve's own code: what it lets in, and what it tells Ray."""

from __future__ import annotations

import asyncio
from typing import Any

from serving.ray_serve.replica_entry import ReplicaEntry, layers

UNWATCHED = b"x-request-disconnect-disabled"
BY_THE_CALLER = [(b"host", b"x"), (UNWATCHED, b"?1"), (UNWATCHED, b"?0")]


def headers_behind(app_before: Any) -> list[tuple[bytes, bytes]]:
    seen: list[tuple[bytes, bytes]] = []

    async def ray(scope: Any, _: Any, __: Any) -> None:
        seen.extend(scope["headers"])

    asyncio.run(app_before(ray)({"type": "http", "headers": BY_THE_CALLER}, None, None))
    return seen


def test_whether_ray_notices_callers_who_hang_up_is_not_theirs_to_say() -> None:
    assert headers_behind(ReplicaEntry) == [(b"host", b"x")]


def test_a_proxy_of_ray_gets_the_layer_as_well_and_keeps_uvicorns_protocol() -> None:
    import uvicorn.config

    before = uvicorn.config.HTTP_PROTOCOLS["auto"]
    (layer,) = layers()  # no replica is here, as in a proxy
    assert headers_behind(lambda app: layer.cls(app, **layer.kwargs)) == [(b"host", b"x")]
    assert uvicorn.config.HTTP_PROTOCOLS["auto"] == before
