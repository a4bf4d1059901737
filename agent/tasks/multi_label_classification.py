"""Any number of labels for a whole text, or none: each is decided by itself, by a threshold of its own that is chosen on dev."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any, ClassVar, Literal, Self

import numpy as np
from pydantic import BaseModel, Field, Strict, model_validator

from agent.encoding import Document, Encoder, Float32, Int64
from agent.errors import DataError
from agent.tasks.base import BaseTask, Claim, Column, Example, Join, Report, Verdict, as_json
from agent.tasks.governed.policy_parameters import PolicyParameters
from agent.tasks.multi_label_scores import choose_thresholds, score_labels
from agent.tasks.output_decision import EACH_OUTPUT, Decision
from agent.tasks.pairs import Pair
from agent.tasks.record_fields import refuse_reward, require_text
from agent.tasks.requests.request_parameters import WHOLE, Parameters

_SHAPE = '{"text": "...", "labels": ["...", ...]}, the list possibly empty'
_UNTUNED = 0.5


class TextWithLabels(Example):
    """A text with its labels, in order of their names."""

    text: str
    labels: tuple[str, ...]


class MultiLabelParameters(PolicyParameters):
    """Parameters of a text-classification request, named as in Hugging Face's API."""

    top_k: Annotated[int, Strict(), Field(ge=1), WHOLE] | None = Field(
        None,
        description="How many labels to return, best first, whether they reach their thresholds or not; by default those that do.",
    )
    function_to_apply: Literal["sigmoid"] = Field(
        "sigmoid", description="How logits become scores: every label is decided by itself."
    )


class ThresholdedScore(BaseModel):
    """A label with its probability and the threshold from which on the text has it."""

    label: str
    score: float
    threshold: float


@dataclass(frozen=True)
class LabelScores:
    """What an agent says of a text.

    Attributes:
        labels: Those that reach their thresholds; two predictions that have them in common are equal.
        scores: Probabilities of all labels, in the task's order.
    """

    labels: tuple[str, ...]
    scores: tuple[float, ...] = field(compare=False)


class MultiLabelClassification(BaseTask[TextWithLabels]):
    """Those of `labels` that a text has."""

    architecture: ClassVar[str] = "AutoModelForSequenceClassification"
    head: ClassVar[Mapping[str, str]] = {"problem_type": "multi_label_classification"}
    decision: ClassVar[Decision] = EACH_OUTPUT
    record_keys: ClassVar[tuple[frozenset[str], ...]] = (frozenset({"text", "labels"}),)
    record_shape: ClassVar[str] = _SHAPE
    purpose: ClassVar[str] = "Finds those of {and} that a text has, or none."
    picture: ClassVar[Literal["marks", "ranking"]] = "ranking"
    tunes: ClassVar[bool] = True
    explains: ClassVar[bool] = True
    parameters: ClassVar[type[Parameters]] = MultiLabelParameters
    answer_item: ClassVar[type[BaseModel]] = ThresholdedScore
    answer_field: ClassVar[str] = "labels"
    columns: ClassVar[tuple[Column, ...]] = (Column("labels", "BYTES", as_json),)

    kind: Literal["multi_label_classification"] = "multi_label_classification"
    thresholds: tuple[Annotated[float, Field(gt=0, lt=1)], ...] = Field(
        (),
        description="probability from which on a text has a label, one for each of labels; empty chooses them on dev",
    )

    @model_validator(mode="after")
    def _one_for_each_label(self) -> Self:
        if self.thresholds and len(self.thresholds) != len(self.labels):
            raise ValueError(
                f"{len(self.thresholds)} thresholds for {len(self.labels)} labels: give labels too, and a threshold for each"
            )
        return self

    @property
    def outputs(self) -> tuple[str, ...]:
        """The labels."""
        return self.labels

    @property
    def cuts(self) -> tuple[float, ...]:
        """The threshold of each label, a half before any were chosen."""
        return self.thresholds or (_UNTUNED,) * len(self.labels)

    def read_record(self, record: Mapping[str, Any], where: str, *, join: Join = " ".join) -> TextWithLabels:
        """Reads `{"text", "labels"}`."""
        refuse_reward(record, where, self.kind)
        text, labels = require_text(record, "text", where, _SHAPE), record.get("labels")
        known = isinstance(labels, list) and all(isinstance(label, str) and label for label in labels)
        if not isinstance(labels, list) or not known or len(set(labels)) < len(labels):
            raise DataError(
                f"{where}: field 'labels' is {'absent' if 'labels' not in record else repr(labels)}",
                allowed=f"{_SHAPE}, none of them twice",
                remedy="mend the record",
            )
        return TextWithLabels(where=where, text=text, labels=tuple(sorted(labels)))

    def read_unlabelled(self, record: Mapping[str, Any], where: str) -> TextWithLabels:
        """The text without a label."""
        return self.read_record({**record, "labels": []}, where)

    def labels_of(self, example: TextWithLabels) -> set[str]:
        """The labels."""
        return set(example.labels)

    def text_of(self, example: TextWithLabels) -> str:
        """The text."""
        return example.text

    def encode(self, encoder: Encoder, examples: Sequence[TextWithLabels]) -> list[Document]:
        """Encodes the texts."""
        return encoder.encode_texts([example.text for example in examples])

    def targets(self, example: TextWithLabels, document: Document) -> list[Int64]:
        """1 for each label that the text has and 0 for the others, in every window."""
        row = np.array([label in example.labels for label in self.labels], dtype=np.int64)
        return [row] * len(document.windows)

    def predict(self, document: Document, outputs: Sequence[Float32]) -> LabelScores:
        """Mean probabilities over the windows, and the labels that reach their thresholds."""
        scores = self.decision.document_probabilities(outputs).tolist()
        return LabelScores(self._reached(scores), tuple(scores))

    def tuned(self, examples: Sequence[TextWithLabels], predictions: Sequence[LabelScores]) -> Self:
        """With the thresholds that do best on these examples; those that were configured stay."""
        if self.thresholds:
            return self
        gold, scores = self._table(examples), _scores(predictions)
        return self.model_copy(update={"thresholds": choose_thresholds(gold, scores)})

    def score(self, examples: Sequence[TextWithLabels], predictions: Sequence[LabelScores]) -> Report:
        """Micro, macro and sample F1 and average precision by scikit-learn; the primary metric is micro F1."""
        return score_labels(self.labels, self._table(examples), _scores(predictions), np.array(self.cuts))

    def pairs(self, example: TextWithLabels, prediction: LabelScores) -> list[Pair]:
        """A pair for each label that is gold or predicted."""
        said = self._reached(prediction.scores)
        return [
            *(Pair(outcome="right" if label in said else "missed", gold=label, predicted=label if label in said else None)
              for label in example.labels),
            *(Pair(outcome="invented", predicted=label) for label in said if label not in example.labels),
        ]  # fmt: skip

    def answer(
        self, text: str, document: Document, outputs: Sequence[Float32], parameters: MultiLabelParameters
    ) -> list[dict[str, Any]]:
        """Labels with probabilities and thresholds, best first."""
        scores, cuts = self.decision.document_probabilities(outputs), self.cuts
        items = [
            {"label": self.labels[index], "score": float(scores[index]), "threshold": cuts[index]}
            for index in np.argsort(-scores, kind="stable").tolist()
        ]
        return items[: parameters.top_k] if parameters.top_k else [item for item in items if _reaches(item)]

    def record_of(self, text: str, answer: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        """The text with the labels that reach their thresholds."""
        return {"text": str(text), "labels": sorted(label for label, _ in self.counted(answer))}

    def choices(self, document: Document, outputs: Sequence[Float32]) -> Float32:
        """No or yes for each label, equal at its threshold."""
        found, cuts = self.decision.document_probabilities(outputs), np.array(self.cuts, np.float32)
        no, yes = cuts * (1 - found), found * (1 - cuts)
        return np.asarray(np.stack([no, yes], axis=-1) / (no + yes)[:, None], np.float32)

    def counted(self, answer: Sequence[Mapping[str, Any]]) -> list[tuple[str, float]]:
        """The labels that reach their thresholds."""
        return [(item["label"], item["score"]) for item in answer if _reaches(item)]

    def claims(self, answer: Sequence[Mapping[str, Any]], labels: Sequence[str] = ()) -> list[Claim]:
        """The labels of the answer; all labels for a text that reaches none of them."""
        return [Claim(label) for label in labels or [item["label"] for item in answer] or self.labels]

    def verdicts(
        self, claims: Sequence[Claim], text: str, document: Document, outputs: Sequence[Float32], parameters: Any
    ) -> list[Verdict]:
        """The probability of each label, and whether it reaches its threshold."""
        scores = dict(zip(self.labels, self.decision.document_probabilities(outputs).tolist(), strict=True))
        cuts = dict(zip(self.labels, self.cuts, strict=True))
        return [Verdict(scores[claim.label], scores[claim.label] >= cuts[claim.label]) for claim in claims]

    def envelope(self, answers: list[list[dict[str, Any]]], *, single: bool, parameters: Any) -> list[Any]:
        """A list of answers even for one text: that is what `InferenceClient.text_classification` reads."""
        return answers

    def _reached(self, scores: Sequence[float]) -> tuple[str, ...]:
        return tuple(label for label, score, cut in zip(self.labels, scores, self.cuts, strict=True) if score >= cut)

    def _table(self, examples: Sequence[TextWithLabels]) -> Int64:
        """int64 [examples, labels], 1 where an example has a label."""
        return np.array([[label in example.labels for label in self.labels] for example in examples], dtype=np.int64)


def _reaches(item: Mapping[str, Any]) -> bool:
    return bool(item["score"] >= item["threshold"])


def _scores(predictions: Sequence[LabelScores]) -> Float32:
    scores = np.array([prediction.scores for prediction in predictions], dtype=np.float32)
    return np.nan_to_num(scores)  # of a broken graph
