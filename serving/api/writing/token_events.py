"""The events of a text as text-generation-inference sends them and InferenceClient.text_generation reads them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from agent.errors import RequestError
from agent.generation.growing_text import GrowingText, WrittenToken
from agent.tasks.writing.text_generation import details_of, named
from serving.middleware.responses import failed, refused
from serving.scheduling.prediction import Answers


class TokenEvents:
    """A token in each event; the last one tells the whole text and why it ended as well.

    Args:
        seed: By which tokens are drawn, if any.
    """

    def __init__(self, seed: int | None) -> None:
        self._index, self._seed = 0, seed

    def token(self, token: WrittenToken) -> Any:
        """A token."""
        self._index += 1
        return {"index": self._index, "token": named(token), "generated_text": None, "details": None}

    def end(self, written: GrowingText, answers: Answers) -> Sequence[Any]:
        """The last token, with the text."""
        details = details_of(written, self._seed)
        kept = {name: details[name] for name in ("finish_reason", "generated_tokens", "seed")}
        return [self.token(written.tokens[-1]) | {"generated_text": answers[0][0]["generated_text"], "details": kept}]

    def error(self, error: RequestError | None) -> Sequence[Any]:
        """What went wrong, in the words of text-generation-inference's clients beside ours."""
        body = (refused(error) if error else failed()).model_dump(exclude_none=True)
        return [body | {"error_type": "generation"}]
