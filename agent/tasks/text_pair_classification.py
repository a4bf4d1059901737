"""One label for two texts: inference, paraphrase, matching; and, from an agent of inference, classes that a request names itself."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, ClassVar, Literal

import numpy as np
from pydantic import Field, StrictBool, field_validator

from agent.encoding import Document, Encoder, Float32
from agent.errors import DataError, RequestError
from agent.tasks.base import Join
from agent.tasks.output_decision import softmax
from agent.tasks.record_fields import read_reward, require_text
from agent.tasks.requests.request_parameters import Parameters
from agent.tasks.text_classification import ClassificationParameters, LabelledText, TextClassification
from agent.windows.text_pairs import TextPair

_SHAPE = '{"text": "...", "text_pair": "...", "label": "..."}'
_PLACE = "{}"
MOST_PAIRS, MOST_CHARACTERS = 1_000, 1_000_000  # of texts with each candidate label, in one request

# Distinct and not empty: described here, seen to by a validator that says so.
_LABELS: Any = Field(
    min_length=1,
    max_length=MOST_PAIRS,
    json_schema_extra={"items": {"type": "string", "minLength": 1}, "uniqueItems": True},
)


class LabelledPair(LabelledText):
    """Two texts with their label."""

    text_pair: str


class PairParameters(ClassificationParameters):
    """Parameters of a text-classification or a zero-shot-classification request, named as in Hugging Face's API."""

    candidate_labels: Annotated[list[str], _LABELS] | None = Field(
        None,
        description="Classes for a single text, of which the agent says whether it entails `hypothesis_template` with their name; "
        "for agents with a label that begins with 'entail'.",
    )
    hypothesis_template: str = Field(
        "This example is {}.",
        description="A sentence in which {} stands for a class.",
        json_schema_extra={"pattern": r"\{\}"},
    )
    multi_label: StrictBool = Field(
        False, description="Whether several classes may hold; their scores then do not sum to 1."
    )

    @field_validator("candidate_labels")
    @classmethod
    def _distinct(cls, labels: list[str] | None) -> list[str] | None:
        if labels and ("" in labels or len(set(labels)) < len(labels)):
            raise ValueError("distinct labels of at least one character")
        return labels

    @field_validator("hypothesis_template")
    @classmethod
    def _with_a_place(cls, template: str) -> str:
        if _PLACE not in template:
            raise ValueError("a sentence with {} where the class stands")
        return template


class TextPairClassification(TextClassification):
    """One of `labels` for every two texts."""

    record_keys: ClassVar[tuple[frozenset[str], ...]] = (frozenset({"text", "text_pair", "label"}),)
    record_shape: ClassVar[str] = _SHAPE
    purpose: ClassVar[str] = "Judges two texts: {or}."
    input_fields: ClassVar[tuple[str, ...]] = ("text", "text_pair")
    takes_single: ClassVar[bool] = True
    explores: ClassVar[bool] = False  # callers may bring classes of their own
    parameters: ClassVar[type[Parameters]] = PairParameters

    kind: Literal["text_pair_classification"] = "text_pair_classification"  # type: ignore[assignment]

    def read_record(self, record: Mapping[str, Any], where: str, *, join: Join = " ".join) -> LabelledPair:
        """Reads `{"text", "text_pair", "label"}`, and `propensity` and `reward` of a logged answer."""
        text, other, label = (require_text(record, key, where, _SHAPE) for key in ("text", "text_pair", "label"))
        if not label:
            raise DataError(f"{where}: field 'label' is empty", allowed=_SHAPE, remedy="mend the record")
        return LabelledPair(where=where, logged=read_reward(record, where), text=text, text_pair=other, label=label)

    def text_of(self, example: LabelledText) -> str:
        """Both texts."""
        assert isinstance(example, LabelledPair)
        return TextPair(example.text, example.text_pair)

    def encode(self, encoder: Encoder, examples: Sequence[LabelledText]) -> list[Document]:
        """Encodes the pairs."""
        return encoder.encode_texts(list(map(self.text_of, examples)))

    def asks_single(self, parameters: Any) -> bool:
        """With candidate labels it is."""
        return bool(parameters.candidate_labels)

    def encode_request(self, encoder: Encoder, texts: Sequence[str], parameters: Any) -> list[Document]:
        """Pairs as they are; a single text beside the hypothesis of every candidate label."""
        labels = parameters.candidate_labels
        wrong = [index for index, text in enumerate(texts) if isinstance(text, TextPair) == bool(labels)]
        if wrong:
            raise RequestError(
                f"inputs[{wrong[0]}] is {'two texts, beside parameters.candidate_labels' if labels else 'a single text'}",
                allowed="single texts with parameters.candidate_labels, or objects with text and text_pair without them",
                remedy="send one or the other",
                field="inputs",
            )
        if not labels:
            return super().encode_request(encoder, texts, parameters)
        self._entailment()
        _check_size(texts, len(labels))
        hypotheses = [parameters.hypothesis_template.replace(_PLACE, label) for label in labels]
        return [encoder.encode_beside(text, hypotheses, stride=parameters.stride) for text in texts]

    def answer(
        self, text: str, document: Document, outputs: Sequence[Float32], parameters: Any
    ) -> list[dict[str, Any]]:
        """Labels with probabilities, best first; of candidate labels those of their hypotheses."""
        if not document.groups:
            return super().answer(text, document, outputs, parameters)
        means, done = list[Float32](), 0
        for count in document.groups:
            means.append(np.mean(outputs[done : done + count], axis=0))
            done += count
        scores = self._candidate_scores(np.stack(means), multi_label=parameters.multi_label)
        order = np.argsort(-scores, kind="stable")[: parameters.top_k].tolist()
        return [{"label": parameters.candidate_labels[index], "score": float(scores[index])} for index in order]

    def envelope(self, answers: list[list[dict[str, Any]]], *, single: bool, parameters: Any) -> list[Any]:
        """As for one text; of candidate labels as `InferenceClient.zero_shot_classification` reads it."""
        return answers[0] if single and parameters.candidate_labels else answers

    def _entailment(self) -> tuple[int, int | None]:
        """The outputs that say that a hypothesis follows, and that it does not.

        Raises:
            RequestError: The agent has no such label.
        """
        found = [index for index, label in enumerate(self.labels) if label.lower().startswith("entail")]
        if len(found) != 1:
            raise RequestError(
                f"parameters.candidate_labels was given to an agent with the labels {', '.join(self.labels)[:200]}",
                allowed="an agent of inference, one of whose labels begins with 'entail'",
                remedy="send objects with text and text_pair",
                field="parameters.candidate_labels",
            )
        denials = [index for index, label in enumerate(self.labels) if label.lower().startswith(("contra", "not"))]
        others = denials or ([1 - found[0]] if len(self.labels) == 2 else [])
        return found[0], others[0] if others else None

    def _candidate_scores(self, logits: Float32, *, multi_label: bool) -> Float32:
        """Scores of candidate labels, float32 [candidates], from logits of their pairs, float32 [candidates, outputs]."""
        yes, no = self._entailment()
        if not multi_label and len(logits) > 1:
            return softmax(logits[:, yes])
        if no is None:
            return np.asarray(softmax(logits)[:, yes], np.float32)
        return np.asarray(softmax(logits[:, [no, yes]])[:, 1], np.float32)


def _check_size(texts: Sequence[str], num_labels: int) -> None:
    """Refuses what would make a small request cost more than a large one.

    Raises:
        RequestError: 413.
    """
    for what, number, most in (
        ("texts", len(texts), MOST_PAIRS),
        ("characters", sum(map(len, texts)), MOST_CHARACTERS),
    ):
        if number * num_labels > most:
            raise RequestError(
                f"inputs holds {number} {what}, for {num_labels} candidate labels each",
                allowed=f"at most {most:,} {what} times candidate labels in one request",
                remedy="send the texts in several requests, or fewer candidate labels",
                status=413,
                field="parameters.candidate_labels",
            )
