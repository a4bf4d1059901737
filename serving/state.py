"""Routes that tell how the server is and what it serves: /health, /ready, /info, /metrics."""

from __future__ import annotations

from fastapi import APIRouter, Response
from prometheus_client import CONTENT_TYPE_LATEST
from pydantic import BaseModel

from agent.bundle import installed_versions
from serving.predictor import Predictor
from serving.replies import ErrorBody, reply
from serving.settings import LimitsConfig

VERSIONS = ("bert-agent", "ray", "onnxruntime-gpu", "onnxruntime", "tokenizers", "fastapi")


class Status(BaseModel):
    """Answer of /health and /ready."""

    status: str


class Info(BaseModel):
    """What is served, and within which limits."""

    agent: str
    bundle: str
    base_model: str
    task: str
    labels: list[str]
    precision: str
    provider: str
    max_tokens: int
    limits: LimitsConfig
    versions: dict[str, str]


def routes(predictor: Predictor) -> APIRouter:
    """The routes over one predictor."""
    router = APIRouter()

    @router.get("/health", summary="Is the process alive?")
    async def health() -> Status:
        return Status(status="alive")

    @router.get("/ready", summary="Is the agent loaded and warm?", responses={503: {"model": ErrorBody}})
    async def ready() -> Response:
        if predictor.ready:
            return reply(Status(status="ready"))
        body = ErrorBody(error="the agent is warming up", remedy="ask again in a second")
        return reply(body, status=503, headers={"retry-after": "1"})

    @router.get("/info", summary="Which agent is this?")
    async def describe() -> Info:
        return _info(predictor)

    @router.get(
        "/metrics",
        summary="Metrics of this replica for Prometheus",
        response_class=Response,
        responses={200: {"content": {"text/plain": {"schema": {"type": "string"}}}}},
    )
    async def metrics() -> Response:
        return Response(predictor.metrics.render(), media_type=CONTENT_TYPE_LATEST)

    return router


def _info(predictor: Predictor) -> Info:
    engine, manifest = predictor.engine, predictor.engine.bundle.manifest
    return Info(
        agent=engine.bundle.path.name,
        bundle=engine.bundle.digest,
        base_model=manifest.lineage.base_model,
        task=engine.bundle.task.kind,
        labels=list(engine.bundle.task.labels),
        precision=engine.variant.precision,
        provider=engine.provider,
        max_tokens=manifest.max_tokens,
        limits=predictor.limits,
        versions=installed_versions(VERSIONS),
    )
