"""Headers and path of a request, as every layer reads them."""

from __future__ import annotations

from collections.abc import Sequence

from starlette.types import Scope


def headers_of(raw: Sequence[tuple[bytes, bytes]]) -> dict[str, str]:
    """Headers by name in lower case; of one that is there several times the first."""
    return {name.decode("latin-1"): value.decode("latin-1") for name, value in reversed(raw)}


def client_of(raw: Sequence[tuple[bytes, bytes]], peer: Sequence[object] | None) -> str:
    """Who asks: HAProxy appends the address that it saw to x-forwarded-for, whatever the caller wrote there before."""
    for name, value in reversed(raw):
        if name == b"x-forwarded-for":
            return value.decode("latin-1").rpartition(",")[2].strip()
    return str(peer[0]) if peer else ""


def route_path(scope: Scope) -> str:
    """The path below the application's prefix, as the router sees it."""
    path, prefix = str(scope["path"]), str(scope.get("root_path", ""))
    if not prefix or not path.startswith(prefix):
        return path
    rest = path[len(prefix) :]
    return rest if not rest or rest.startswith("/") else path
