"""Puts together what stands between the network and the routes: keys, web pages, log, traces. Knows no routes."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

from fastapi import FastAPI
from starlette.middleware.cors import CORSMiddleware

from serving.access_log import AccessLog
from serving.exchange import REQUEST_ID, Report
from serving.guard import OPEN, Guard
from serving.keys import Keys
from serving.metrics import Metrics
from serving.observed import Observed
from serving.settings import CorsConfig, FrontConfig
from serving.tracing import Tracing

Duty = Callable[[], Coroutine[Any, Any, None]]
"""Something that runs beside the requests for as long as the application does."""

_HEADERS = ("authorization", "content-type", "x-api-key", REQUEST_ID, "x-request-timeout-seconds", "traceparent")


class Front:
    """The layers around an application.

    Args:
        config: Which of them, and how.
        replica: Names the process.
        adds_id: Whether answers get the request's id here; Ray Serve's own HTTP server adds it by itself.

    Raises:
        ConfigError: The file of keys is no good, the access log cannot be written, or what traces need is not installed.
    """

    def __init__(self, config: FrontConfig | None = None, *, replica: str = "local", adds_id: bool = True) -> None:
        config = config or FrontConfig()
        self._cors, self._adds_id, self.keeps_texts = config.cors, adds_id, config.log.texts
        self.keys = Keys(config.auth) if config.auth.keys_file else None
        self.duties: list[Duty] = [self.keys.watch] if self.keys else []
        self.reports: list[Report] = []
        if config.log.access:
            self.reports.append(AccessLog(Path(config.log.access), replica, with_texts=config.log.texts))
        if config.tracing.endpoint:
            tracing = Tracing(config.tracing)
            self.reports.append(tracing)
            self.duties.append(tracing.send_rest)

    def stand_before(self, app: FastAPI, metrics: Metrics) -> None:
        """Adds the layers; the last is the outermost. Pages are told where they may ask before they show a key."""
        if self.keys:
            app.add_middleware(Guard, keys=self.keys, metrics=metrics)
        if self._cors.allow_origins:
            app.add_middleware(CORSMiddleware, **_cors(self._cors))
        app.add_middleware(
            Observed, metrics=metrics, reports=self.reports, keeps_texts=self.keeps_texts, adds_id=self._adds_id
        )

    def describe(self, document: dict[str, Any]) -> None:
        """Adds to an OpenAPI document what the layers ask callers for."""
        if self.keys:
            document["components"]["securitySchemes"] = {
                "bearer": {"type": "http", "scheme": "bearer"},
                "header": {"type": "apiKey", "in": "header", "name": "X-API-Key"},
            }
            document["security"] = [{"bearer": []}, {"header": []}]
            for path in OPEN & set(document["paths"]):
                for operation in document["paths"][path].values():
                    operation["security"] = []


def _cors(config: CorsConfig) -> dict[str, Any]:
    return {
        "allow_origins": config.allow_origins,
        "allow_methods": ("GET", "POST"),
        "allow_headers": _HEADERS,
        "expose_headers": (REQUEST_ID, "retry-after"),
    }
