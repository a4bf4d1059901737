"""One label for a whole text: topic, intent, sentiment. Texts longer than the model are judged by all their windows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, ClassVar, Literal

import numpy as np
from pydantic import BaseModel, Field, Strict

from agent.encoding import Document, Encoder, Float32, Int64
from agent.errors import DataError
from agent.tasks.base import BaseTask, Claim, Column, Example, Join, Report, Verdict, as_json
from agent.tasks.governed.policy_parameters import PolicyParameters
from agent.tasks.output_decision import PER_WINDOW, Decision
from agent.tasks.pairs import Outcome, Pair
from agent.tasks.record_fields import read_reward, require_text
from agent.tasks.requests.request_parameters import WHOLE, Parameters

_SHAPE = '{"text": "...", "label": "..."}'


class LabelledText(Example):
    """A text with its label."""

    text: str
    label: str


class ClassificationParameters(PolicyParameters):
    """Parameters of a text-classification request, named as in Hugging Face's API."""

    top_k: Annotated[int, Strict(), Field(ge=1), WHOLE] | None = Field(
        None, description="How many labels to return, best first; all by default."
    )
    explore: Annotated[bool, Strict()] | None = Field(
        None, description="false: the best label, even where the server draws labels to learn from them."
    )
    function_to_apply: Literal["softmax"] = Field(
        "softmax", description="How logits become scores: one of the labels is chosen."
    )


class LabelScore(BaseModel):
    """A label with its probability."""

    label: str
    score: float


class TextClassification(BaseTask[LabelledText]):
    """One of `labels` for each text."""

    architecture: ClassVar[str] = "AutoModelForSequenceClassification"
    record_keys: ClassVar[tuple[frozenset[str], ...]] = (frozenset({"text", "label"}),)
    record_shape: ClassVar[str] = _SHAPE
    purpose: ClassVar[str] = "Judges a text: {or}."
    picture: ClassVar[Literal["marks", "ranking"]] = "ranking"
    decision: ClassVar[Decision] = PER_WINDOW
    explores: ClassVar[bool] = True
    explains: ClassVar[bool] = True
    parameters: ClassVar[type[Parameters]] = ClassificationParameters
    answer_item: ClassVar[type[BaseModel]] = LabelScore
    answer_field: ClassVar[str] = "labels"
    columns: ClassVar[tuple[Column, ...]] = (
        Column("label", "BYTES", lambda answer: str(answer[0]["label"])),
        Column("score", "FP32", lambda answer: float(answer[0]["score"])),
        Column("labels", "BYTES", as_json),
    )

    kind: Literal["text_classification"] = "text_classification"

    @property
    def outputs(self) -> tuple[str, ...]:
        """The labels."""
        return self.labels

    def read_record(self, record: Mapping[str, Any], where: str, *, join: Join = " ".join) -> LabelledText:
        """Reads `{"text", "label"}`, and `propensity` and `reward` of a logged answer."""
        classes = record.get("labels")
        if "label" not in record and isinstance(classes, list) and len(classes) != 1:
            raise DataError(
                f"{where}: {len(classes)} classes ({', '.join(map(str, classes[:3])) or 'none'})",
                allowed="one class for a text",
                remedy="keep one of them, or choose task.kind=multi_label_classification",
            )
        text, label = (require_text(record, key, where, _SHAPE) for key in ("text", "label"))
        if not label:
            raise DataError(f"{where}: field 'label' is empty", allowed=_SHAPE, remedy="mend the record")
        return LabelledText(where=where, logged=read_reward(record, where), text=text, label=label)

    def read_unlabelled(self, record: Mapping[str, Any], where: str) -> LabelledText:
        """The text as it is."""
        return self.read_record({**record, "label": self.labels[0], "propensity": None, "reward": None}, where)

    def labels_of(self, example: LabelledText) -> set[str]:
        """The one label."""
        return {example.label}

    def text_of(self, example: LabelledText) -> str:
        """The text."""
        return example.text

    def encode(self, encoder: Encoder, examples: Sequence[LabelledText]) -> list[Document]:
        """Encodes the texts."""
        return encoder.encode_texts([example.text for example in examples])

    def targets(self, example: LabelledText, document: Document) -> list[Int64]:
        """The label's index, for every window."""
        return [np.asarray(self.labels.index(example.label), dtype=np.int64)] * len(document.windows)

    def predict(self, document: Document, outputs: Sequence[Float32]) -> str:
        """The label with the highest mean probability over the windows."""
        return self.labels[int(self.decision.document_probabilities(outputs).argmax())]

    def score(self, examples: Sequence[LabelledText], predictions: Sequence[str]) -> Report:
        """Accuracy and F1 by scikit-learn; the primary metric is macro F1, where every label counts the same."""
        from sklearn.metrics import classification_report

        gold = [example.label for example in examples]
        options = {"labels": list(self.labels), "zero_division": 0}
        table = classification_report(gold, list(predictions), output_dict=True, **options)
        accuracy = float(np.mean([a == b for a, b in zip(gold, predictions, strict=True)]))
        metrics = {"f1": float(table["macro avg"]["f1-score"]), "accuracy": accuracy}
        metrics |= {f"f1.{label}": float(table[label]["f1-score"]) for label in self.labels}
        text = classification_report(gold, list(predictions), digits=4, **options)
        return Report(metrics=metrics, primary="f1", support=len(gold), text=text, mode="scikit-learn, macro average")

    def pairs(self, example: LabelledText, prediction: str) -> list[Pair]:
        """The one gold label beside the predicted one; both speak for the whole text, which is not repeated."""
        outcome: Outcome = "right" if prediction == example.label else "confused"
        return [Pair(outcome=outcome, gold=example.label, predicted=prediction)]

    def answer(
        self, text: str, document: Document, outputs: Sequence[Float32], parameters: ClassificationParameters
    ) -> list[dict[str, Any]]:
        """Labels with probabilities, best first."""
        scores = self.decision.document_probabilities(outputs)
        order = np.argsort(-scores, kind="stable")[: parameters.top_k]
        return [{"label": self.labels[index], "score": float(scores[index])} for index in order.tolist()]

    def record_of(self, text: str, answer: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        """The text with the best label."""
        return {**self.fields_of(text), "label": answer[0]["label"]}

    def choices(self, document: Document, outputs: Sequence[Float32]) -> Float32:
        """One of all labels."""
        return self.decision.document_probabilities(outputs)[None]

    def counted(self, answer: Sequence[Mapping[str, Any]]) -> list[tuple[str, float]]:
        """The best label."""
        return [(item["label"], item["score"]) for item in answer[:1]]

    def claims(self, answer: Sequence[Mapping[str, Any]], labels: Sequence[str] = ()) -> list[Claim]:
        """The best label."""
        return [Claim(label) for label in labels or (answer[0]["label"],)]

    def verdicts(
        self, claims: Sequence[Claim], text: str, document: Document, outputs: Sequence[Float32], parameters: Any
    ) -> list[Verdict]:
        """The probability of each label, and whether it is the best."""
        ranked = self.answer(text, document, outputs, parameters.model_copy(update={"top_k": None}))
        scores = {item["label"]: item["score"] for item in ranked}
        return [Verdict(scores[claim.label], claim.label == ranked[0]["label"]) for claim in claims]

    def envelope(self, answers: list[list[dict[str, Any]]], *, single: bool, parameters: Any) -> list[Any]:
        """A list of answers even for one text: that is what `InferenceClient.text_classification` reads."""
        return answers
