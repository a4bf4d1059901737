"""Granian (HTTP in Rust) with workers of one thread, its RSGI interface, ONNX Runtime without batching."""

from __future__ import annotations

from functools import cache
from typing import Any

from granian import Granian
from granian.constants import Interfaces, Loops
from pydantic_core import from_json, to_json

from benchmarks.rivals.rival_environment import PORT, SETTINGS
from benchmarks.rivals.tagger import Tagger


@cache
def tagger() -> Tagger:
    """One for each worker."""
    return Tagger()


class App:
    """An RSGI application; the model is there before the first request."""

    def __rsgi_init__(self, loop: Any) -> None:
        """Called by every worker as it starts."""
        tagger()

    async def __rsgi__(self, scope: Any, protocol: Any) -> None:
        """Computes on the event loop, as in fastapi_onnx.py."""
        inputs = from_json(await protocol())["inputs"]
        body = to_json(tagger().answer(inputs))
        headers = [("content-type", "application/json"), ("content-length", str(len(body)))]
        protocol.response_bytes(200, headers, body)


app = App()

if __name__ == "__main__":
    Granian(
        "benchmarks.rivals.granian_onnx:app",
        port=PORT,
        workers=SETTINGS["workers"],
        interface=Interfaces.RSGI,
        loop=Loops.uvloop,
    ).serve()
