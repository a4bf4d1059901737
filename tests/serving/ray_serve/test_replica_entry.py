"""The layer before Ray Serve's own code: what it lets in, and what it tells Ray."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from serving.ray_serve.replica_entry import ReplicaEntry, layers

UNWATCHED = b"x-request-disconnect-disabled"
BY_THE_CALLER = [(b"host", b"x"), (UNWATCHED, b"?1"), (UNWATCHED, b"?0")]


def headers_behind(threshold: Any) -> list[tuple[bytes, bytes]]:
    seen: list[tuple[bytes, bytes]] = []

    async def ray(scope: Any, _: Any, __: Any) -> None:
        seen.extend(scope["headers"])

    asyncio.run(threshold(ray)({"type": "http", "headers": BY_THE_CALLER}, None, None))
    return seen


@pytest.mark.parametrize(("watches", "told"), [(True, []), (False, [(UNWATCHED, b"?1")])])
def test_whether_ray_watches_its_callers_is_not_theirs_to_say(watches: bool, told: list[tuple[bytes, bytes]]) -> None:
    assert headers_behind(lambda app: ReplicaEntry(app, watches=watches)) == [(b"host", b"x"), *told]


def test_a_proxy_of_ray_which_alone_sees_its_callers_watches_them() -> None:
    (layer,) = layers()  # no replica is here, as in a proxy
    assert headers_behind(lambda app: layer.cls(app, **layer.kwargs)) == [(b"host", b"x")]
