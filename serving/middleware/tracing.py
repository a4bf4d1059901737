"""OpenTelemetry spans of finished requests and their stages, sent by OTLP over HTTP; imported only where tracing is on."""

from __future__ import annotations

import asyncio
import time

from pydantic import Field

from agent.bundle import installed_versions
from agent.config.base import Config
from agent.errors import ConfigError
from serving.scheduling.request_context import RequestContext

_NS = 1_000_000_000


class TracingConfig(Config):
    """OpenTelemetry traces of requests."""

    endpoint: str = Field(
        "", description="OTLP/HTTP address for spans, such as http://collector:4318/v1/traces; empty sends none"
    )
    sample_ratio: float = Field(
        1.0, ge=0, le=1, description="part of the requests that are traced, where the caller's traceparent does not say"
    )


class Tracing:
    """Makes spans of requests that are over, so that requests that nobody traces cost nothing.

    Args:
        config: Where spans go, and how many.

    Raises:
        ConfigError: OpenTelemetry's exporter is not installed.
    """

    def __init__(self, config: TracingConfig) -> None:
        require()
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
        from opentelemetry.sdk.resources import Resource
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor
        from opentelemetry.sdk.trace.sampling import ParentBased, TraceIdRatioBased
        from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

        version = installed_versions(("bert-agent",)).get("bert-agent", "unknown")
        self._provider = TracerProvider(
            resource=Resource.create({"service.name": "bert-agent", "service.version": version}),
            sampler=ParentBased(TraceIdRatioBased(config.sample_ratio)),
        )
        self._provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter(endpoint=config.endpoint)))
        self._tracer = self._provider.get_tracer("bert_agent")
        self._extract = TraceContextTextMapPropagator().extract

    def __call__(self, context: RequestContext) -> None:
        """Makes the spans of one request; those the sampler does not want cost little."""
        from opentelemetry.trace import SpanKind, StatusCode, set_span_in_context

        offset = time.time() - time.monotonic()
        span = self._tracer.start_span(
            f"{context.method} {context.route}",
            self._extract({"traceparent": context.traceparent}),
            SpanKind.SERVER,
            attributes=_attributes(context),
            start_time=int((context.started + offset) * _NS),
        )
        if span.is_recording():
            if context.status >= 500:
                span.set_status(StatusCode.ERROR)
            inside = set_span_in_context(span)
            for name, start, end in context.stages:
                stage = self._tracer.start_span(name, inside, start_time=int((start + offset) * _NS))
                stage.end(int((end + offset) * _NS))
        span.end(int((context.started + context.seconds + offset) * _NS))

    async def send_rest(self) -> None:
        """Waits for the end, and sends then what was not sent yet."""
        try:
            await asyncio.Event().wait()
        finally:
            await asyncio.to_thread(self._provider.shutdown)


def require() -> None:
    """Sees to it that traces can be sent.

    Raises:
        ConfigError: OpenTelemetry's exporter is not installed.
    """
    try:
        import opentelemetry.exporter.otlp.proto.http.trace_exporter  # noqa: F401
    except ImportError as error:
        raise ConfigError(
            f"tracing.endpoint is set, and {error.name} is not installed",
            remedy="pip install 'bert-agent[tracing]', or leave tracing.endpoint empty",
        ) from None


def _attributes(context: RequestContext) -> dict[str, str | int]:
    """By OpenTelemetry's semantic conventions for HTTP servers where there is one; never a text, never a key."""
    return {
        "http.request.method": context.method,
        "http.route": context.route,
        "http.response.status_code": context.status,
        "client.address": context.client,
        "bert_agent.request_id": context.request_id,
        "bert_agent.key": context.key_id,
        "bert_agent.texts": context.num_texts,
        "bert_agent.characters": context.num_characters,
    }
