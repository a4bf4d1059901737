"""A request for texts on its way: each is written in batches with others and is part of the answer as soon as it is there."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from serving.inference.writing_engine import WritingEngine
from serving.scheduling.batch_scheduler import Submission
from serving.scheduling.prediction import Prediction


class WritingPrediction(Prediction):
    """The texts of one request on their way through an agent that writes; arguments as those of `Prediction`."""

    __slots__ = ()

    def _submit(self, documents: Sequence[Any]) -> Submission:
        return self.version.batcher.submit(documents, self)

    def deliver(self, place: int, output: Any) -> None:
        """Takes a text that is written."""
        if not self.over:
            self._decode(place, output)

    def _decode_text(self, index: int, outputs: Any) -> list[dict[str, Any]]:
        engine = self.version.engine
        assert isinstance(engine, WritingEngine)
        return engine.decode(self._texts[index], outputs, self._parameters)
