"""BentoML. Its adaptive batching stays off: it takes the texts of a request apart, and padding makes batches slower."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

import bentoml

from benchmarks.rivals.rival_environment import PORT, SETTINGS
from benchmarks.rivals.tagger import Tagger


@bentoml.service(workers=SETTINGS.get("workers", 1), traffic={"timeout": 60}, logging={"access": {"enabled": False}})
class Model:
    """A worker process."""

    def __init__(self) -> None:
        self._tagger = Tagger()

    @bentoml.api(route="/")
    def predict(self, inputs: Any) -> Any:
        """A text, or texts."""
        return self._tagger.answer(inputs)


if __name__ == "__main__":
    program = str(Path(sys.executable).with_name("bentoml"))
    service = f"{Path(__file__).stem}:Model"
    place = ["--working-dir", str(Path(__file__).parent), "--host", "127.0.0.1", "--port", str(PORT)]
    os.execv(sys.executable, [sys.executable, program, "serve", service, *place])
