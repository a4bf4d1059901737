"""Tasks under a policy: what a caller gets follows the thresholds of its labels; what is scored stays that of the agent alone.

A task that can be governed is one class here and one line in `GOVERNED`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any, ClassVar, Literal

from pydantic import BaseModel, Field

from agent.encoding import Document, Float32
from agent.tasks.base import BaseTask, Column, Verdict
from agent.tasks.multi_label_classification import MultiLabelClassification, MultiLabelParameters
from agent.tasks.text_classification import ClassificationParameters, LabelScore, TextClassification
from agent.tasks.text_pair_classification import TextPairClassification
from agent.tasks.token_classification import TaggingParameters, TokenClassification


def abstains(answer: Sequence[Mapping[str, Any]]) -> bool:
    """Whether an answer is none: its first label's score is below the threshold of a policy."""
    return bool(answer and answer[0].get("abstains"))


class AbstainableScore(LabelScore):
    """A label with its probability, and whether that is too low for the agent to answer with it."""

    abstains: bool


class _Abstaining(TextClassification):
    """Says of each label whether its score reaches the threshold; if the first does not, the agent abstains."""

    answer_item: ClassVar[type[BaseModel]] = AbstainableScore
    columns: ClassVar[tuple[Column, ...]] = (
        *TextClassification.columns[:-1],
        Column("abstains", "BOOL", abstains),
        TextClassification.columns[-1],
    )

    policy_cuts: Mapping[str, float] = Field(exclude=True, repr=False)

    def answer(
        self, text: str, document: Document, outputs: Sequence[Float32], parameters: ClassificationParameters
    ) -> list[dict[str, Any]]:
        """The ranking, each label with `abstains`; of classes that a request brought itself as it is."""
        found = super().answer(text, document, outputs, parameters)
        if parameters.policy is False or document.groups:
            return found
        return [{**item, "abstains": item["score"] < self.policy_cuts[item["label"]]} for item in found]


class GovernedTextClassification(_Abstaining):
    """One label for a text, or none."""


class GovernedPairClassification(_Abstaining, TextPairClassification):
    """One label for two texts, or none."""

    kind: Literal["text_pair_classification"] = "text_pair_classification"  # type: ignore[assignment]


class GovernedMultiLabel(MultiLabelClassification):
    """The labels that reach the policy's thresholds instead of the agent's own."""

    policy_cuts: Mapping[str, float] = Field(exclude=True, repr=False)

    @cached_property
    def _decided(self) -> MultiLabelClassification:
        own = {name: getattr(self, name) for name in MultiLabelClassification.model_fields}
        thresholds = tuple(self.policy_cuts[label] for label in self.labels)
        return MultiLabelClassification.model_construct(**own | {"thresholds": thresholds})

    def answer(
        self, text: str, document: Document, outputs: Sequence[Float32], parameters: MultiLabelParameters
    ) -> list[dict[str, Any]]:
        """Labels with probabilities and the thresholds that hold, best first."""
        if parameters.policy is False:
            return super().answer(text, document, outputs, parameters)
        return self._decided.answer(text, document, outputs, parameters)

    def verdicts(self, claims: Any, text: str, document: Document, outputs: Any, parameters: Any) -> list[Verdict]:
        """The probability of each label, and whether it reaches the threshold that holds."""
        if parameters.policy is False:
            return super().verdicts(claims, text, document, outputs, parameters)
        return self._decided.verdicts(claims, text, document, outputs, parameters)

    def choices(self, document: Document, outputs: Sequence[Float32]) -> Float32:
        """No or yes for each label, equal at its threshold."""
        return self._decided.choices(document, outputs)


class GovernedTokenClassification(TokenClassification):
    """Entities whose scores reach the thresholds of their labels."""

    policy_cuts: Mapping[str, float] = Field(exclude=True, repr=False)

    def answer(
        self, text: str, document: Document, outputs: Sequence[Float32], parameters: TaggingParameters
    ) -> list[dict[str, Any]]:
        """Entities that are sure enough; tags of sub-words (strategy `none`) as they are."""
        found = super().answer(text, document, outputs, parameters)
        if parameters.policy is False or parameters.aggregation_strategy == "none":
            return found
        return [item for item in found if item["score"] >= self.policy_cuts.get(item["entity_group"], 0.0)]


GOVERNED: Mapping[str, type[BaseTask[Any]]] = {
    "text_classification": GovernedTextClassification,
    "text_pair_classification": GovernedPairClassification,
    "multi_label_classification": GovernedMultiLabel,
    "token_classification": GovernedTokenClassification,
}
"""By kind of task; others have no policy."""


def govern(task: BaseTask[Any], thresholds: Mapping[str, float]) -> BaseTask[Any]:
    """The task of an agent under a policy."""
    own = {name: getattr(task, name) for name in type(task).model_fields}
    return GOVERNED[task.kind].model_validate(own | {"policy_cuts": dict(thresholds)})
