"""FastAPI, uvicorn workers, ONNX Runtime without batching."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import cache
from typing import Any

import uvicorn
from fastapi import FastAPI
from pydantic import BaseModel

from benchmarks.rivals.rival_environment import PORT, SETTINGS
from benchmarks.rivals.tagger import Tagger


class Body(BaseModel):
    """A text, or texts."""

    inputs: str | list[str]


@cache
def tagger() -> Tagger:
    """One for each worker."""
    return Tagger()


@asynccontextmanager
async def loaded(_: FastAPI) -> AsyncIterator[None]:
    """The model is there before the first request."""
    tagger()
    yield


app = FastAPI(lifespan=loaded)


@app.post("/", response_model=None)
async def predict(body: Body) -> Any:
    """Computes on the event loop: a thread pool was slower with one thread to compute on."""
    return tagger().answer(body.inputs)


if __name__ == "__main__":
    uvicorn.run("benchmarks.rivals.fastapi_onnx:app", port=PORT, workers=SETTINGS["workers"], log_level="error")
