"""Programs that tests of monitoring need; without one they skip and say which."""

from __future__ import annotations

import json
import math
import shutil
import threading
from collections.abc import Container, Iterable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, TypeVar

import pytest

from cluster.monitoring.page_server import Page
from cluster.monitoring.panels.dashboard import Dashboard
from cluster.monitoring.stack import Prometheus

T = TypeVar("T")


def needed(*names: str) -> str:
    """The path of the first that is there."""
    for name in names:
        if path := shutil.which(name):
            return path
    pytest.skip(f"no {' or '.join(names)} on PATH (.ci/tools brings what Debian has)")


class Webhook:
    """Takes what Alertmanager posts, on a real socket."""

    def __init__(self) -> None:
        told: list[dict[str, Any]] = []

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                told.extend(json.loads(self.rfile.read(int(self.headers["content-length"])))["alerts"])
                self.send_response(200)
                self.end_headers()

            def log_message(self, *_: object) -> None:
                return

        self.told = told
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}/"
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def fired(self, alert: str) -> list[dict[str, Any]]:
        return [one for one in self.told if one["labels"]["alertname"] == alert and one["status"] == "firing"]

    def close(self) -> None:
        self._server.shutdown()


@pytest.fixture(scope="module")
def webhook() -> Iterator[Webhook]:
    hook = Webhook()
    yield hook
    hook.close()


def unanswered(prometheus: Prometheus, boards: Iterable[Dashboard], *, without: Container[str] = ()) -> list[str]:
    """Queries of panels that give no data, as `panel: legend`; of those that need nothing that is not here."""
    page = Page(prometheus)
    everything = dict.fromkeys(("namespace", "agent", "run", "version"), ".*")
    return [
        f"{panel.title}: {query.legend}"
        for board in boards
        for panel in board.panels
        for query in panel.queries
        if not query.needs and panel.title not in without
        if not any(math.isfinite(value) for _, value in prometheus.query(page.fill(query.expr, everything)))
    ]
