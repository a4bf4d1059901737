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
from benchmarks.task_comparison.plain_pipeline import Answerer, load_pipeline


class Body(BaseModel):
    """An input (a text, or an object of several), or a list of them."""

    inputs: Any


@cache
def pipe() -> Answerer:
    """One for each worker."""
    return load_pipeline(BUNDLE, SETTINGS["pipeline"], SETTINGS["kind"], threads=1)


@asynccontextmanager
async def loaded(_: FastAPI) -> AsyncIterator[None]:
    """The model is there before the first request."""
    pipe()
    yield


app = FastAPI(lifespan=loaded)


@app.post("/", response_model=None)
async def predict(body: Body) -> Response:
    """Answers as the pipeline gives them; its scores are numpy's."""
    found = pipe()(body.inputs, SETTINGS["batch_size"])
    return Response(to_json(found, fallback=float), media_type="application/json")


if __name__ == "__main__":
    uvicorn.run("benchmarks.rivals.fastapi_pipeline:app", port=PORT, workers=SETTINGS["workers"], log_level="error")
