"""Traces as a real collector gets them: OTLP protobuf over HTTP."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import httpx
import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.trace.v1.trace_pb2 import Span, Status

from agent.batching import Batch
from agent.bundle import Bundle
from agent.encoding import Float32
from serving.inference.engine import Engine
from serving.middleware.middleware_stack import FrontConfig
from serving.middleware.tracing import TracingConfig
from tests.serving.tiny import TEXTS
from tests.waiting import until

ROOT = Path(__file__).parents[3]
TRACE, PARENT = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"


class Collector:
    """An OTLP collector that keeps what it gets."""

    def __init__(self) -> None:
        self.requests = requests = []  # type: list[ExportTraceServiceRequest]

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["content-length"]))
                requests.append(ExportTraceServiceRequest.FromString(body))
                self.send_response(200)
                self.send_header("content-length", "0")
                self.end_headers()

            def log_message(self, *_: object) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}/v1/traces"

    def spans(self) -> list[Span]:
        scopes = [
            scope for request in self.requests for resource in request.resource_spans for scope in resource.scope_spans
        ]
        return [span for scope in scopes for span in scope.spans]


@pytest.fixture
def collector(monkeypatch: pytest.MonkeyPatch) -> Iterator[Collector]:
    monkeypatch.setenv("OTEL_BSP_SCHEDULE_DELAY", "100")
    collector = Collector()
    thread = threading.Thread(target=collector.server.serve_forever)
    thread.start()
    yield collector
    collector.server.shutdown()
    collector.server.server_close()
    thread.join()


def front(collector: Collector, **more: float) -> FrontConfig:
    return FrontConfig(tracing=TracingConfig(endpoint=collector.url, **more))


def attributes(span: Span) -> dict[str, object]:
    return {item.key: getattr(item.value, item.value.WhichOneof("value")) for item in span.attributes}


def test_a_request_and_its_stages_become_spans_below_the_callers(
    serve_with: Callable[..., str], collector: Collector
) -> None:
    url = serve_with(front=front(collector))
    headers = {"traceparent": f"00-{TRACE}-{PARENT}-01", "x-request-id": "one"}
    httpx.post(url, json={"inputs": TEXTS[:2]}, headers=headers)
    assert until(lambda: len(collector.spans()) == 4)
    by_name = {span.name: span for span in collector.spans()}
    assert set(by_name) == {"POST /", "tokenize", "queue and infer", "decode"}
    root = by_name.pop("POST /")
    assert (root.trace_id.hex(), root.parent_span_id.hex(), root.kind) == (TRACE, PARENT, Span.SPAN_KIND_SERVER)
    assert attributes(root) == {
        "http.request.method": "POST", "http.route": "/", "http.response.status_code": 200, "client.address": "127.0.0.1",
        "bert_agent.request_id": "one", "bert_agent.key": "", "bert_agent.texts": 2, "bert_agent.characters": len("".join(TEXTS[:2])),
    }  # fmt: skip
    assert abs(root.end_time_unix_nano / 1e9 - time.time()) < 20
    stages = [by_name[name] for name in ("tokenize", "queue and infer", "decode")]
    times = [moment for stage in stages for moment in (stage.start_time_unix_nano, stage.end_time_unix_nano)]
    assert [root.start_time_unix_nano, *times, root.end_time_unix_nano] == sorted(
        [root.start_time_unix_nano, *times, root.end_time_unix_nano]
    )
    assert all(stage.parent_span_id == root.span_id and stage.trace_id == root.trace_id for stage in stages)
    assert TEXTS[0].split()[0] not in str(collector.requests)
    resource = collector.requests[0].resource_spans[0].resource.attributes
    assert {"service.name", "service.version"} <= {item.key for item in resource}


def test_a_caller_who_does_not_sample_is_not_traced_and_nonsense_starts_a_new_trace(
    serve_with: Callable[..., str], collector: Collector
) -> None:
    url = serve_with(front=front(collector))
    httpx.get(url + "/health", headers={"traceparent": f"00-{TRACE}-{PARENT}-00"})
    httpx.get(url + "/health", headers={"traceparent": "nonsense"})
    assert until(collector.spans)
    time.sleep(0.5)
    (span,) = collector.spans()
    assert (span.name, span.parent_span_id) == ("GET /health", b"")
    assert span.trace_id.hex() != TRACE


def test_a_ratio_of_zero_traces_only_what_callers_sample(serve_with: Callable[..., str], collector: Collector) -> None:
    url = serve_with(front=front(collector, sample_ratio=0))
    httpx.get(url + "/health")
    httpx.get(url + "/ready", headers={"traceparent": f"00-{TRACE}-{PARENT}-01"})
    assert until(collector.spans)
    assert [span.name for span in collector.spans()] == ["GET /ready"]


def test_failures_are_errors(serve_with: Callable[..., str], collector: Collector, tagger_path: Path) -> None:
    class Broken(Engine):
        def forward(self, batch: Batch) -> Float32:
            raise MemoryError

    url = serve_with(warm=False, engine=Broken(Bundle.load(tagger_path)), front=front(collector))
    httpx.post(url, json={"inputs": "a"})
    assert until(collector.spans)
    root = next(span for span in collector.spans() if span.name == "POST /")
    assert root.status.code == Status.STATUS_CODE_ERROR


def test_a_collector_that_is_not_there_costs_no_answer(serve_with: Callable[..., str]) -> None:
    url = serve_with(front=FrontConfig(tracing=TracingConfig(endpoint="http://127.0.0.1:1/v1/traces")))
    assert httpx.post(url, json={"inputs": TEXTS[0]}).status_code == 200


def test_without_an_endpoint_neither_sdk_nor_exporter_is_imported() -> None:
    heavy = "[name for name in sys.modules if name.startswith(('opentelemetry.sdk', 'opentelemetry.exporter'))]"
    program = f"import sys; from serving.middleware.middleware_stack import MiddlewareStack; MiddlewareStack(); print(*{heavy})"
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == ""


def test_traces_without_the_exporter_are_refused_with_the_extra_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    from agent.errors import ConfigError
    from serving.middleware.tracing import Tracing

    monkeypatch.setitem(sys.modules, "opentelemetry.exporter.otlp.proto.http.trace_exporter", None)
    with pytest.raises(ConfigError, match="is not installed"):
        Tracing(TracingConfig(endpoint="http://127.0.0.1:4318/v1/traces"))
