"""Routes that tell how the server is and what it serves: /health, /ready, /info, /metrics."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from fastapi import APIRouter, Response
from prometheus_client import CONTENT_TYPE_LATEST
from pydantic import BaseModel

from agent.bundle import FirstPass, OnnxVariant, installed_versions
from serving.middleware.responses import ErrorBody, reply
from serving.scheduling.limits import LimitsConfig
from serving.scheduling.predictor import Predictor

VERSIONS = ("bert-agent", "ray", "onnxruntime-gpu", "onnxruntime", "ctranslate2", "tokenizers", "fastapi")


class Status(BaseModel):
    """Answer of /health and /ready."""

    status: str


class Info(BaseModel):
    """What is served, and within which limits; `policy` holds the thresholds of its labels, `entities` is the digest of its tagger, `first_pass` answers easy texts."""

    agent: str
    bundle: str
    entities: str | None
    base_model: str
    task: str
    labels: list[str]
    inputs: list[str]
    purpose: str
    picture: str
    parameters: list[str]
    explains: bool
    streams: bool
    mask: str | None
    correction: str | None
    policy: dict[str, float] | None
    precision: str
    first_pass: FirstPass | None
    provider: str
    plan: str
    max_tokens: int
    limits: LimitsConfig
    versions: dict[str, str]


Scrape = Callable[[], Awaitable[bytes]]
"""Gives metrics in Prometheus' text format."""


def routes(predictor: Predictor, name: str, scrape: Scrape | None = None) -> APIRouter:
    """The routes over one predictor, whose agent has a name; `/metrics` shows what `scrape` gives, or the predictor's own."""
    router = APIRouter()

    @router.get("/health", summary="Is the process alive?")
    async def health() -> Status:
        return Status(status="alive")

    @router.get(
        "/ready", summary="Is every agent of this server loaded and warm?", responses={503: {"model": ErrorBody}}
    )
    async def ready() -> Response:
        return not_ready(predictor) or reply(Status(status="ready"))

    @router.get("/info", summary="Which agent is this?")
    async def describe() -> Info:
        return _info(predictor, name)

    @router.get(
        "/metrics",
        summary="Metrics for Prometheus, by replica",
        response_class=Response,
        responses={200: {"content": {"text/plain": {"schema": {"type": "string"}}}}},
    )
    async def metrics() -> Response:
        text = await scrape() if scrape else predictor.metrics.render()
        return Response(text, media_type=CONTENT_TYPE_LATEST)

    return router


def not_ready(predictor: Predictor) -> Response | None:
    """503 while the agent, or another one of the same server, is not there yet; None once all are."""
    what = f"agents that are not there yet: {', '.join(predictor.awaited)}" if predictor.awaited else ""
    if not predictor.ready:
        what = "the agent is warming up"
    if not what:
        return None
    return reply(ErrorBody(error=what, remedy="ask again in a second"), status=503, headers={"retry-after": "1"})


def _info(predictor: Predictor, name: str) -> Info:
    engine, manifest = predictor.engine, predictor.engine.bundle.manifest
    task = engine.bundle.task
    return Info(
        agent=name,
        bundle=engine.bundle.digest,
        entities=engine.bundle.tagger.digest if engine.bundle.tagger else None,
        base_model=manifest.lineage.base_model,
        task=task.kind,
        labels=list(task.labels),
        inputs=list(task.input_fields),
        purpose=task.purpose,
        picture=task.picture,
        parameters=list(task.parameters.model_fields),
        explains=task.explains and predictor.limits.explain.max_interventions > 0,
        streams=task.streams,
        mask=engine.bundle.encoder.vocabulary.mask_token if task.decision.of_vocabulary and not task.writes else None,
        correction=task.correction_key if predictor.decisions else None,
        policy=dict(engine.bundle.policy.thresholds) if engine.bundle.policy else None,
        precision=engine.variant.precision,
        first_pass=engine.variant.first_pass if isinstance(engine.variant, OnnxVariant) else None,
        provider=engine.provider,
        plan=str(engine.plan),
        max_tokens=manifest.max_tokens,
        limits=predictor.limits,
        versions=installed_versions(VERSIONS),
    )
