"""The middleware around the routes, put together from its configuration: keys, CORS, access log, traces."""

from __future__ import annotations

import re
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

from pydantic import Field, field_validator
from starlette.middleware import Middleware
from starlette.middleware.cors import CORSMiddleware

from agent.config.base import Config
from serving.metrics import Metrics
from serving.middleware.access_log import AccessLog, LogConfig
from serving.middleware.api_key_middleware import OPEN, ApiKeyMiddleware
from serving.middleware.api_keys import ApiKeys, AuthConfig
from serving.middleware.request_logging import RequestLogging
from serving.middleware.tracing import Tracing, TracingConfig
from serving.scheduling.request_context import REQUEST_ID, Report

Duty = Callable[[], Coroutine[Any, Any, None]]
"""Something that runs beside the requests for as long as the application does."""

_HEADERS = ("authorization", "content-type", "x-api-key", REQUEST_ID, "x-request-timeout-seconds", "traceparent")


class CorsConfig(Config):
    """Which web pages may ask."""

    allow_origins: tuple[str, ...] = Field(
        (), description="origins (https://app.example.com, or '*') whose pages may ask; none unless listed"
    )

    @field_validator("allow_origins")
    @classmethod
    def _are_origins(cls, origins: tuple[str, ...]) -> tuple[str, ...]:
        for origin in origins:
            if origin != "*" and not re.fullmatch(r"https?://[^/\s*]+", origin):
                raise ValueError(
                    f"{origin!r} is no origin; allowed are '*' or such as https://app.example.com, without a path"
                )
        return origins


class FrontConfig(Config):
    """What stands between the network and the predictions."""

    auth: AuthConfig = Field(default_factory=AuthConfig)
    cors: CorsConfig = Field(default_factory=CorsConfig)
    log: LogConfig = Field(default_factory=LogConfig)
    tracing: TracingConfig = Field(default_factory=TracingConfig)


class MiddlewareStack:
    """The layers around an application.

    Args:
        config: Which of them, and how.
        replica: Names the process.
        behind_ray: Whether Ray Serve's own code, which adds a request's id to its answer, stands before the application.

    Raises:
        ConfigError: The file of keys is no good, the access log cannot be written, or what traces need is not installed.
    """

    def __init__(self, config: FrontConfig | None = None, *, replica: str = "local", behind_ray: bool = False) -> None:
        config = config or FrontConfig()
        self.cors, self.keeps_texts, self.behind_ray = config.cors, config.log.texts, behind_ray
        self.keys = ApiKeys(config.auth) if config.auth.keys_file else None
        self.duties: list[Duty] = [self.keys.watch] if self.keys else []
        self.reports: list[Report] = []
        if config.log.access:
            self.reports.append(AccessLog(Path(config.log.access), replica, with_texts=config.log.texts))
        if config.tracing.endpoint:
            tracing = Tracing(config.tracing)
            self.reports.append(tracing)
            self.duties.append(tracing.send_rest)

    def layers(self, metrics: Metrics, *, adds_id: bool) -> list[Middleware]:
        """What stands before the routes, outermost first. Pages are told where they may ask before they show a key.

        Args:
            metrics: Where answers and refusals are counted.
            adds_id: Whether answers get the request's id here.
        """
        observed = Middleware(
            RequestLogging, metrics=metrics, reports=self.reports, keeps_texts=self.keeps_texts, adds_id=adds_id
        )
        found = [observed]
        if self.cors.allow_origins:
            found.append(Middleware(CORSMiddleware, **_cors(self.cors)))
        if self.keys:
            found.append(Middleware(ApiKeyMiddleware, keys=self.keys, metrics=metrics))
        return found

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
