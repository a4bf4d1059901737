"""One line of JSON for every request: who, what and how long; the texts themselves only where that is asked for."""

from __future__ import annotations

import logging
from datetime import UTC, datetime
from logging.handlers import RotatingFileHandler
from pathlib import Path

from pydantic_core import to_json

from agent.errors import ConfigError
from serving.middleware.request_context import RequestContext

_MOST_BYTES, _BACKUPS = 64 * 1024 * 1024, 4


class AccessLog:
    """Writes to a file of its own, which nobody else may read and which is rotated.

    Args:
        directory: Where the file is.
        replica: Names the file, since no two processes may rotate the same one.
        with_texts: Whether the texts are written as well.

    Raises:
        ConfigError: The file cannot be written.
    """

    def __init__(self, directory: Path, replica: str, *, with_texts: bool) -> None:
        self._with_texts = with_texts
        file = directory / f"access-{replica}.log"
        try:
            directory.mkdir(parents=True, exist_ok=True)
            file.touch(0o600)
            handler = RotatingFileHandler(file, maxBytes=_MOST_BYTES, backupCount=_BACKUPS, encoding="utf-8")
        except OSError as error:
            raise ConfigError(
                f"log.access: {file} cannot be written ({error.strerror})", remedy="give a directory that is ours"
            ) from None
        handler.setFormatter(logging.Formatter("%(message)s"))
        self._log = logging.Logger(
            "bert_agent.access", logging.INFO
        )  # outside of the tree: nobody else's handlers get it
        self._log.addHandler(handler)

    def __call__(self, exchange: RequestContext) -> None:
        """Writes a line."""
        line = {
            "time": datetime.now(UTC).isoformat(timespec="milliseconds"),
            "id": exchange.request_id,
            "method": exchange.method,
            "route": exchange.route,
            "status": exchange.status,
            "seconds": round(exchange.seconds, 6),
            "texts": exchange.num_texts,
            "characters": exchange.num_characters,
            "key": exchange.key_id,
            "client": exchange.client,
        }
        if self._with_texts:
            line["text"] = exchange.texts
        self._log.info(to_json(line).decode())
