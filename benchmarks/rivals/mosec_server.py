"""Mosec: a front in Rust, worker processes in Python."""

from __future__ import annotations

import sys
from typing import Any

import mosec

from benchmarks.rivals.rival_environment import PORT, SETTINGS
from benchmarks.rivals.tagger import Tagger

BATCH = SETTINGS.get("max_batch_size", 1)


class Model(mosec.Worker):
    """A worker process."""

    def __init__(self) -> None:
        super().__init__()
        self._tagger = Tagger()

    def forward(self, data: Any) -> Any:
        """The requests of a batch; one request where batching is off."""
        if BATCH == 1:
            return self._tagger.answer(data["inputs"])
        return self._tagger.answers([item["inputs"] for item in data])


if __name__ == "__main__":
    sys.argv += ["--address", "127.0.0.1", "--port", str(PORT), "--timeout", "60000", "--log-level", "error"]
    server = mosec.Server()
    server.append_worker(
        Model,
        num=SETTINGS["workers"],
        max_batch_size=BATCH,
        max_wait_time=SETTINGS["max_wait_time_ms"],
        timeout=60,
    )
    server.run()
