"""Serves the page of `make monitor`, which shows the dashboards without Grafana; it runs only the panels' queries."""

from __future__ import annotations

import dataclasses
import json
import re
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import uvicorn
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import FileResponse, JSONResponse, Response
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from agent.errors import RequestError
from cluster.monitoring.panels.dashboard import Dashboard, Variable
from cluster.monitoring.panels.dashboards import DASHBOARDS
from cluster.monitoring.stack import Labels, Prometheus

_FILES = Path(__file__).parent / "page"
_POINTS = 240  # of a line
_MOST_MINUTES = 24 * 60
_ANY = ".*"


class Page:
    """The routes of the page.

    Args:
        prometheus: Answers the queries.
        rate_interval: Value of `$__rate_interval`, longer than Ray's export interval.
        notice: Text at the top of the page.
    """

    def __init__(self, prometheus: Prometheus, *, rate_interval: str = "30s", notice: str = "") -> None:
        self._prometheus, self._rate_interval, self._notice = prometheus, rate_interval, notice
        self._boards = {board.uid: board for board in DASHBOARDS}

    @property
    def app(self) -> Starlette:
        """The page as an ASGI application."""
        routes = [
            Route("/", lambda _: FileResponse(_FILES / "index.html")),
            Route("/api/dashboards", self.dashboards),
            Route("/api/variables/{uid}", self.variables),
            Route("/api/panels/{uid}/{number:int}", self.panel),
            Route("/api/alerts", self.alerts),
            Mount("/page", StaticFiles(directory=_FILES)),
        ]
        return Starlette(
            routes=routes,
            middleware=[Middleware(_ContentSecurityPolicy)],
            exception_handlers={RequestError: _refuse, OSError: _unreachable},
        )

    def dashboards(self, _: Request) -> Response:
        """All dashboards with their panels."""
        return JSONResponse({"notice": self._notice, "dashboards": [dataclasses.asdict(board) for board in DASHBOARDS]})

    def variables(self, request: Request) -> Response:
        """The values of a dashboard's variables."""
        board = self._board(request)
        return JSONResponse({variable.name: self._values(variable) for variable in board.variables})

    def panel(self, request: Request) -> Response:
        """The lines of a panel: name, and points as [unix seconds, value]."""
        board, number = self._board(request), request.path_params["number"]
        if not 0 <= number < len(board.panels):
            raise RequestError(f"panel {number} of {board.uid}", allowed=f"0 to {len(board.panels) - 1}", status=404)
        end, length = time.time(), 60 * _minutes(request)
        lines = [
            {"name": legend(query.legend, labels), "points": points}
            for query in board.panels[number].queries
            for labels, points in self._prometheus.query_range(
                self.fill(query.expr, self._chosen(board, request)),
                start=end - length,
                end=end,
                step=max(1, length / _POINTS),
            )
        ]
        return JSONResponse(_plain(lines))

    def alerts(self, _: Request) -> Response:
        """Alerts that are pending or fire."""
        return JSONResponse(
            [
                {
                    "name": alert["labels"]["alertname"],
                    "severity": alert["labels"]["severity"],
                    "state": alert["state"],
                    **alert["annotations"],
                }
                for alert in self._prometheus.alerts()
            ]
        )

    def fill(self, expr: str, chosen: Mapping[str, str]) -> str:
        """A panel's query with its variables and interval filled in, as in Grafana."""
        filled = {"__rate_interval": self._rate_interval, **chosen}
        return re.sub(r"\$(\w+)", lambda match: filled[match[1]], expr)

    def _board(self, request: Request) -> Dashboard:
        uid = request.path_params["uid"]
        if uid not in self._boards:
            raise RequestError(f"dashboard {uid!r}", allowed=", ".join(self._boards), status=404)
        return self._boards[uid]

    def _values(self, variable: Variable) -> list[str]:
        series = self.fill(variable.series, dict.fromkeys(("namespace", "agent", "run", "version"), _ANY))
        return self._prometheus.label_values(series, variable.label)

    def _chosen(self, board: Dashboard, request: Request) -> dict[str, str]:
        """A regular expression for each variable; only existing values are accepted, so that no caller injects PromQL."""
        chosen = {}
        for variable in board.variables:
            value = request.query_params.get(variable.name, "")
            if value and value not in (values := self._values(variable)):
                raise RequestError(f"{variable.name} is {value!r}", allowed=", ".join(values), field=variable.name)
            chosen[variable.name] = _quoted(value) if value else _ANY
        return chosen


@contextmanager
def serve_page(page: Page, port: int) -> Iterator[str]:
    """Serves the page within the block; yields its URL."""
    server = uvicorn.Server(uvicorn.Config(page.app, host="127.0.0.1", port=port, log_level="warning"))
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    try:
        while not server.started:
            if not thread.is_alive():
                raise OSError(f"cannot listen at 127.0.0.1:{port}")
            time.sleep(0.02)
        yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join()


def legend(template: str, labels: Labels) -> str:
    """A legend with its labels filled in."""
    return re.sub(r"\{\{(\w+)\}\}", lambda match: labels.get(match[1], ""), template).strip()


def _quoted(value: str) -> str:
    """A value as a regular expression that matches it, quoted for PromQL."""
    return json.dumps(re.escape(value), ensure_ascii=False)[1:-1]


def _minutes(request: Request) -> float:
    given = request.query_params.get("minutes", "5")
    try:
        minutes = float(given)
    except ValueError:
        minutes = 0
    if not 0 < minutes <= _MOST_MINUTES:
        raise RequestError(
            f"minutes is {given!r}", allowed=f"a number above 0, at most {_MOST_MINUTES}", field="minutes"
        )
    return minutes


def _plain(lines: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Replaces NaN and infinity, which JSON does not have, by null; a line of nothing else is none: quantiles of what was never observed."""
    for line in lines:
        line["points"] = [[when, value if abs(value) < float("inf") else None] for when, value in line["points"]]
    return [line for line in lines if any(value is not None for _, value in line["points"])]


def _refuse(_: Request, error: Exception) -> Response:
    assert isinstance(error, RequestError)
    return JSONResponse({"error": str(error)}, status_code=error.status)


def _unreachable(_: Request, error: Exception) -> Response:
    return JSONResponse({"error": f"Prometheus does not answer ({error})"}, status_code=502)


class _ContentSecurityPolicy:
    """Forbids browsers to load anything from other hosts."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def with_policy(message: Message) -> None:
            if message["type"] == "http.response.start":
                policy = (b"content-security-policy", b"default-src 'self'")
                message["headers"] = [*message["headers"], policy, (b"cache-control", b"no-store")]
            await send(message)

        await self._app(scope, receive, with_policy)
