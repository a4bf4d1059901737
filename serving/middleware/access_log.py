"""Access log: one line of JSON for every request, with its texts only where that is asked for."""

from __future__ import annotations

import logging
from datetime import UTC, datetime
from logging.handlers import RotatingFileHandler
from pathlib import Path
from typing import Self

from pydantic import Field, model_validator
from pydantic_core import to_json

from agent.config.base import Config
from agent.errors import ConfigError
from serving.scheduling.request_context import RequestContext

_MOST_BYTES, _BACKUPS = 64 * 1024 * 1024, 4


class LogConfig(Config):
    """What is logged of requests."""

    access: str = Field(
        "",
        description="directory for the access log, a line of JSON per request without its texts, a file per replica; "
        "empty writes none",
    )
    texts: bool = Field(False, description="log the texts as well")

    @model_validator(mode="after")
    def _has_a_log(self) -> Self:
        if self.texts and not self.access:
            raise ValueError("texts adds to the access log, which is off: set access as well")
        return self


class AccessLog:
    """Writes to a rotated file of its own, readable by its owner only.

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

    def __call__(self, context: RequestContext) -> None:
        """Writes a line."""
        line = {
            "time": datetime.now(UTC).isoformat(timespec="milliseconds"),
            "id": context.request_id,
            "method": context.method,
            "route": context.route,
            "status": context.status,
            "seconds": round(context.seconds, 6),
            "texts": context.num_texts,
            "characters": context.num_characters,
            "key": context.key_id,
            "client": context.client,
        }
        if self._with_texts:
            line["text"] = context.texts
        self._log.info(to_json(line).decode())
