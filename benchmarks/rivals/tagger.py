"""What rivals that take our code have in common: the agent on one session of one thread."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

from agent.bundle import Bundle
from benchmarks.rivals.rival_environment import BUNDLE, SETTINGS
from serving.inference.engine import Engine, EngineConfig

Answer = list[dict[str, Any]]


class Tagger:
    """A worker's model."""

    def __init__(self) -> None:
        os.environ["TOKENIZERS_PARALLELISM"] = "false"
        engine = EngineConfig(provider="cpu", sessions=1, threads_per_session=1)
        self._engine = Engine(Bundle.load(BUNDLE), engine, num_cpus=1)
        self._engine.prepare()

    def together(self, texts: Sequence[str]) -> list[Answer]:
        """Texts as they come, padded to the longest: what batching layers do."""
        documents = self._engine.encode(texts)
        logits = iter(self._engine.forward_windows([window for document in documents for window in document.windows]))
        outputs = [[next(logits) for _ in document.windows] for document in documents]
        return self._engine.answer(texts, documents, outputs)

    def answer(self, inputs: str | list[str]) -> Any:
        """A text, or the texts of one request: `one by one` is faster on a CPU than `together`, padded to the longest."""
        if isinstance(inputs, str):
            return self.together([inputs])[0]
        if SETTINGS["texts_of_a_request"] == "together":
            return self.together(inputs)
        return [self.together([text])[0] for text in inputs]

    def answers(self, requests: Sequence[str | list[str]]) -> list[Any]:
        """Requests that a batching layer put together: single texts as one batch, lists of texts as in `answer`."""
        single = [inputs for inputs in requests if isinstance(inputs, str)]
        found = iter(self.together(single)) if single else iter(())
        return [next(found) if isinstance(inputs, str) else self.answer(inputs) for inputs in requests]
