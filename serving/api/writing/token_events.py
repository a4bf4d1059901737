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
    """A token in each event; the last one again, with the whole text and why it ended."""

    def __init__(self) -> None:
        self._held: WrittenToken | None = None
        self._index = 0

    def token(self, token: WrittenToken) -> Any:
        """The token before: of the last one more is said."""
        before, self._held = self._held, token
        return None if before is None else self._event(before)

    def end(self, written: GrowingText, answers: Answers) -> Sequence[Any]:
        """The last token, with the text."""
        assert self._held is not None
        details = details_of(written)
        kept = {name: details[name] for name in ("finish_reason", "generated_tokens", "seed")}
        return [self._event(self._held) | {"generated_text": answers[0][0]["generated_text"], "details": kept}]

    def error(self, error: RequestError | None) -> Sequence[Any]:
        """What went wrong, in the words of text-generation-inference's clients beside ours."""
        body = (refused(error) if error else failed()).model_dump(exclude_none=True)
        return [body | {"error_type": "generation"}]

    def _event(self, token: WrittenToken) -> dict[str, Any]:
        self._index += 1
        return {"index": self._index, "token": named(token), "generated_text": None, "details": None}
