"""API keys from a file that is read again when it changes; only their hashes are kept."""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import logging
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Literal, NamedTuple, Self

from pydantic import Field, model_validator

from agent.config.base import Config
from agent.errors import ConfigError, RequestError
from serving.scheduling.rate_limit import RateLimit
from serving.scheduling.request_context import RequestContext

_log = logging.getLogger(__name__)
_LOOK_S = 1.0
_LINE = re.compile(r"(?:(?P<name>[A-Za-z0-9._-]{1,64})\s*:\s*)?(?P<key>[A-Za-z0-9._~+/=-]{16,512})", re.ASCII)
_FORM = "KEY or NAME: KEY, the key of 16 to 512 letters, digits and - . _ ~ + / ="
_HOW = "send the header 'Authorization: Bearer KEY' or 'X-API-Key: KEY'"


class AuthConfig(Config):
    """Who may ask."""

    keys_file: str = Field(
        "",
        description="file of API keys, one per line (KEY or NAME: KEY), read again when it changes; empty asks for none",
    )
    texts_per_s: float = Field(
        0, ge=0, description="texts a second that a key may have predicted by each replica; 0 sets no limit"
    )
    burst_texts: float | Literal["auto"] = Field(
        "auto",
        description="texts that a key may have predicted at once, before that limit: a number, or auto for a second's",
    )

    @model_validator(mode="after")
    def _limits_keys(self) -> Self:
        if self.texts_per_s and not self.keys_file:
            raise ValueError("texts_per_s limits each key, and there is no keys_file")
        if self.burst_texts != "auto" and self.burst_texts < 1:
            raise ValueError(f"burst_texts is {self.burst_texts:g}; allowed is 'auto' or a number from 1")
        return self


class ApiKeys:
    """The keys of a file.

    Args:
        config: Where the file is, and how much each key may use.

    Raises:
        ConfigError: The file cannot be read, holds no key, or a line of it is none.
    """

    def __init__(self, config: AuthConfig) -> None:
        self._path, self._config = Path(config.keys_file), config
        self._state, self._known = _look(self._path), _read(self._path)
        self._rate_limits: dict[str, RateLimit] = {}

    def admit(self, headers: Mapping[str, str], context: RequestContext) -> None:
        """Lets a request go on, charged to the key that its headers (or a call's metadata) show.

        Raises:
            RequestError: As `check`.
        """
        context.key_id = self.check(presented(headers))
        context.rate_limit = self.rate_limit(context.key_id)

    def check(self, key: str | None) -> str:
        """The id of a key, which logs may show. Every known key is compared, in constant time.

        Raises:
            RequestError: 401 if there is no key, 403 if it is none of ours.
        """
        if not key:
            raise RequestError("the request shows no key", allowed="a key of this server", remedy=_HOW, status=401)
        digest, found = _hash(key), ""
        for known in self._known:
            if hmac.compare_digest(known.digest, digest):
                found = known.key_id
        if not found:
            raise RequestError(
                "the key is none of this server's",
                allowed="a key of this server",
                remedy="ask its operator for one",
                status=403,
            )
        return found

    def rate_limit(self, key_id: str) -> RateLimit | None:
        """What a key may still use in this replica; None without a limit."""
        if not self._config.texts_per_s:
            return None
        if key_id not in self._rate_limits:
            burst = self._config.burst_texts
            most = self._config.texts_per_s if burst == "auto" else burst
            self._rate_limits[key_id] = RateLimit(self._config.texts_per_s, max(1.0, most))
        return self._rate_limits[key_id]

    async def watch(self) -> None:
        """Looks at the file again and again."""
        while True:
            await asyncio.sleep(_LOOK_S)
            await asyncio.to_thread(self.look)

    def look(self) -> None:
        """Reads the file if it changed; one that is no good leaves the keys as they were."""
        state = _look(self._path)
        if state == self._state:
            return
        self._state = state
        try:
            self._known = _read(self._path)
        except ConfigError as error:
            _log.error("the keys stay as they were: %s", error)
            return
        _log.info("%s changed; keys now: %s", self._path, ", ".join(sorted({key.key_id for key in self._known})))


def presented(headers: Mapping[str, str]) -> str | None:
    """The key of a caller: `authorization: Bearer KEY`, or `x-api-key: KEY`."""
    scheme, _, key = headers.get("authorization", "").partition(" ")
    if scheme.lower() == "bearer" and key:
        return key.strip()
    return headers.get("x-api-key", "").strip() or None


class _Key(NamedTuple):
    key_id: str
    digest: bytes


def _hash(key: str) -> bytes:
    return hashlib.sha256(key.encode("utf-8", "surrogateescape")).digest()


def _look(path: Path) -> tuple[int, int, int] | None:
    """What tells one content of the file from another. Kubernetes swaps a link, so that the inode changes."""
    try:
        stat = path.stat()
    except OSError:
        return None
    return stat.st_ino, stat.st_mtime_ns, stat.st_size


def _read(path: Path) -> list[_Key]:
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(
            f"auth.keys_file {path} cannot be read ({getattr(error, 'strerror', None) or 'it is no UTF-8'})",
            remedy=f"write one key per line ({_FORM})",
        ) from None
    keys: dict[bytes, _Key] = {}
    for number, line in enumerate(lines, 1):
        if line.strip() and not line.lstrip().startswith("#"):
            key = _key(line.strip(), f"line {number} of auth.keys_file {path}")
            if keys.setdefault(key.digest, key) != key:
                raise ConfigError(
                    f"line {number} of auth.keys_file {path} holds a key of another name", remedy="delete one of both"
                )
    if not keys:
        raise ConfigError(f"auth.keys_file {path} holds no key", remedy=f"write one per line ({_FORM})")
    return list(keys.values())


def _key(line: str, where: str) -> _Key:
    match = _LINE.fullmatch(line)
    if not match:  # the line itself is not shown: it may be a secret
        raise ConfigError(
            f"{where} is no key", allowed=_FORM, remedy="make one with: openssl rand -hex 32; comments begin with '#'"
        )
    digest = _hash(match["key"])
    return _Key(match["name"] or f"key-{digest.hex()[:8]}", digest)
