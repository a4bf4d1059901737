"""FastAPI, uvicorn workers, Hugging Face's pipeline on torch in fp32: what most tutorials show."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import cache
from typing import Any

import uvicorn
from fastapi import FastAPI
from fastapi.responses import Response
from pydantic import BaseModel
from pydantic_core import to_json

from benchmarks.rivals.rival_environment import BUNDLE, PORT, SETTINGS


class Body(BaseModel):
    """A text, or texts."""

    inputs: str | list[str]


@cache
def pipe() -> Any:
    """One for each worker."""
    import torch
    from transformers import pipeline

    torch.set_num_threads(1)
    return pipeline("token-classification", model=BUNDLE, aggregation_strategy="first", device="cpu")


@asynccontextmanager
async def loaded(_: FastAPI) -> AsyncIterator[None]:
    """The model is there before the first request."""
    pipe()
    yield


app = FastAPI(lifespan=loaded)


@app.post("/", response_model=None)
async def predict(body: Body) -> Response:
    """Entities as the pipeline gives them; its scores are numpy's."""
    found = pipe()(body.inputs, batch_size=SETTINGS["batch_size"])
    return Response(to_json(found, fallback=float), media_type="application/json")


if __name__ == "__main__":
    uvicorn.run("benchmarks.rivals.fastapi_pipeline:app", port=PORT, workers=SETTINGS["workers"], log_level="error")
