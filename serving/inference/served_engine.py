"""What serving asks of an engine, whatever computes: ONNX Runtime from texts to logits, or CTranslate2 from texts to texts."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple, Protocol

from agent.bundle import Bundle, ConvertedVariant, OnnxVariant
from agent.errors import RequestError
from agent.tasks import Parameters
from serving.inference.session_plan import SessionPlan

CORPUS_WINDOW = 4_096  # texts of a corpus that are sorted by length together; memory some MB


class AnsweredTexts(NamedTuple):
    """Answers of texts of a corpus that stand one after the other.

    Attributes:
        answers: One for each text.
        num_read: Tokens that were read for them, special ones included.
        num_written: Tokens that were written; 0 where answers are no texts.
    """

    answers: list[list[dict[str, Any]]]
    num_read: int
    num_written: int = 0


class ServedEngine(Protocol):
    """An agent that computes in this process."""

    bundle: Bundle
    provider: str

    @property
    def variant(self) -> OnnxVariant | ConvertedVariant:
        """The form of its model that is computed."""

    @property
    def plan(self) -> SessionPlan:
        """How it computes."""

    def best_plan(self) -> SessionPlan:
        """The fastest of the plans that its configuration leaves open."""

    def use(self, plan: SessionPlan) -> None:
        """Computes under another plan from now on; not while a batch is computed."""

    def encode(self, texts: Sequence[str], parameters: Any = None) -> Sequence[Any]:
        """What has to be computed for each text.

        Raises:
            RequestError: A text cannot be answered, or a parameter does not fit.
        """

    def predict(self, texts: Sequence[str], parameters: Parameters | None = None) -> list[list[dict[str, Any]]]:
        """Answers texts in this process.

        Raises:
            RequestError: As `encode`.
        """

    def refusal_of(self, text: str, parameters: Any) -> str:
        """Why a text of a corpus cannot be answered; empty where it can."""

    def annotate(self, texts: Sequence[str], parameters: Any) -> Iterator[AnsweredTexts]:
        """Answers the texts of a corpus in order, some thousand at a time, on all cores of the plan.

        Args:
            texts: Those that `refusal_of` lets pass.
            parameters: How to answer.
        """

    def labels(self, texts: Sequence[str]) -> list[Any]:
        """What it answers, in a form that can be compared: without scores or positions."""

    def prepare(self) -> None:
        """Makes the first request as fast as all others."""


def refusal_by(encode: Callable[[], Any]) -> str:
    """Why the encoding of a single text refuses it; empty where it does not."""
    try:
        encode()
    except RequestError as error:
        what = error.what.removeprefix("inputs[0]: ").removeprefix("inputs[0] ")
        return f"{what}; allowed: {error.allowed}"
    return ""
