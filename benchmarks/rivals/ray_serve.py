"""Ray Serve as its documentation shows it: the default proxy and `@serve.batch`.

Annotations are not postponed here: Ray pickles the class by value, and FastAPI could not resolve them in the replica.
"""

import os
import signal
import threading
from typing import Any

from fastapi import FastAPI
from pydantic import BaseModel
from ray import serve

from benchmarks.rivals.rival_environment import PORT, SETTINGS
from benchmarks.rivals.tagger import Answer, Tagger

app = FastAPI()


class Body(BaseModel):
    """A text, or texts."""

    inputs: str | list[str]


@serve.deployment(
    num_replicas=SETTINGS.get("replicas", 1),
    max_ongoing_requests=SETTINGS.get("max_ongoing_requests", 64),
    ray_actor_options={"num_cpus": 1},
)
@serve.ingress(app)
class Model:
    """A replica."""

    def __init__(self) -> None:
        self._tagger = Tagger()

    @serve.batch(
        max_batch_size=SETTINGS.get("max_batch_size", 4),
        batch_wait_timeout_s=SETTINGS.get("batch_wait_timeout_s", 0.002),
    )
    async def batched(self, texts: list[str]) -> list[Answer]:
        """Single texts of several requests."""
        return self._tagger.together(texts)

    @app.post("/", response_model=None)
    async def predict(self, body: Body) -> Any:
        """A text through the batcher, the texts of one request at once."""
        return await self.batched(body.inputs) if isinstance(body.inputs, str) else self._tagger.answer(body.inputs)


def main() -> None:
    """Serves until SIGTERM."""
    import ray

    names = ("BUNDLE", "PORT", "SETTINGS", "PYTHONPATH")
    given = {"env_vars": {name: os.environ[name] for name in names}}
    stop = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: stop.set())
    ray.init(address="local", num_cpus=2, include_dashboard=False, runtime_env=given)
    serve.start(http_options={"port": PORT})
    serve.run(Model.bind())
    stop.wait()
    serve.shutdown()
    ray.shutdown()


if __name__ == "__main__":
    main()
