"""One line of JSON for every request: who, what and how long; the texts themselves only where that is asked for."""

from __future__ import annotations

import logging
from datetime import UTC, datetime

from pydantic_core import to_json

from serving.exchange import Exchange

LOGGER = "bert_agent.access"


class AccessLog:
    """Writes to the logger `bert_agent.access`; to stderr unless that logger was given another handler.

    Args:
        with_texts: Whether the texts are written as well.
    """

    def __init__(self, *, with_texts: bool) -> None:
        self._with_texts = with_texts
        self._log = logging.getLogger(LOGGER)
        self._log.setLevel(logging.INFO)
        if not self._log.handlers:
            handler = logging.StreamHandler()
            handler.setFormatter(logging.Formatter("%(message)s"))
            self._log.addHandler(handler)
            self._log.propagate = False

    def __call__(self, exchange: Exchange) -> None:
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
