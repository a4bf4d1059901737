"""LitServe with its fast queue."""

from __future__ import annotations

from typing import Any

import litserve

from benchmarks.rivals.rival_environment import PORT, SETTINGS
from benchmarks.rivals.tagger import Tagger


class Model(litserve.LitAPI):
    """A worker process."""

    def setup(self, device: str) -> None:
        """Loads the agent."""
        self._tagger = Tagger()

    def decode_request(self, request):
        """The inputs of a JSON body; LitServe would take a type in the signature for a part of the query."""
        return request["inputs"]

    def batch(self, inputs: list[Any]) -> list[Any]:
        """Requests as they came."""
        return inputs

    def unbatch(self, output: list[Any]) -> list[Any]:
        """Answers as they go."""
        return output

    def predict(self, inputs: Any) -> Any:
        """The requests of a batch; one request where batching is off."""
        return self._tagger.answers(inputs) if SETTINGS["max_batch_size"] > 1 else self._tagger.answer(inputs)

    def encode_response(self, output: Any) -> Any:
        """The answer."""
        return output


if __name__ == "__main__":
    api = Model(max_batch_size=SETTINGS["max_batch_size"], batch_timeout=SETTINGS["batch_timeout_s"], api_path="/")
    server = litserve.LitServer(
        api, accelerator="cpu", workers_per_device=SETTINGS["workers"], fast_queue=True, timeout=60
    )
    server.run(host="127.0.0.1", port=PORT, generate_client_file=False, log_level="error")
