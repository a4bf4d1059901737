"""What wrong answers and abstentions cost, and what so priced options an agent has: of each kind of task that a policy can govern."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from typing import Annotated, Any, NamedTuple

import numpy as np
from pydantic import Field

from agent.config.base import Config
from agent.decisions.threshold_choice import Options, Prices
from agent.errors import ConfigError
from agent.tasks import BaseTask, MultiLabelClassification
from agent.tasks.text_classification import LabelledText

Cost = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Answer = Sequence[Mapping[str, Any]]


class Judged(NamedTuple):
    """A text of the evidence.

    Attributes:
        example: With its right labels; None where only `wrong` is known.
        wrong: How wrong the agent's answer is, 0 to 1, where there is no example.
        weight: How many decisions it stands for.
    """

    example: Any
    wrong: float = 0.0
    weight: float = 1.0


class Costs(Config, ABC):
    """Costs of decisions, in any unit; a right answer costs nothing."""

    @abstractmethod
    def named(self) -> Iterable[tuple[str, str]]:
        """The labels that it names, each with its place."""

    @abstractmethod
    def prices(self, labels: Sequence[str]) -> Prices:
        """The costs of each label."""

    @abstractmethod
    def options(self, task: BaseTask[Any], answers: Sequence[Answer], judged: Sequence[Judged]) -> Options:
        """What the agent can say of each text and what it costs.

        Args:
            task: Of the agent.
            answers: To each text, without a policy, with `parameters` of `asked_for`.
            judged: What is known of each text.
        """

    def dearest(self, labels: Sequence[str]) -> float:
        """What the worst mistake costs."""
        return float(self.prices(labels).wrong.max())

    def check(self, labels: Sequence[str]) -> None:
        """Refuses labels that the agent does not have.

        Raises:
            ConfigError: Names the first.
        """
        for place, label in self.named():
            if label not in labels:
                raise ConfigError(
                    f"costs: {place} names the label {label!r}",
                    allowed=", ".join(labels),
                    remedy="mend the file of costs",
                )


class AbstentionCosts(Costs):
    """Of an agent that answers with one label, or hands a text over to a person."""

    abstain: Cost = Field(description="of handing a text over to a person")
    wrong: Cost = Field(1, description="of a wrong answer")
    answered: Mapping[str, Cost] = Field({}, description="of wrong answers with a label, by that label")
    pairs: Mapping[str, Mapping[str, Cost]] = Field(
        {}, description="of single mistakes, by the right label and the answered one"
    )

    def named(self) -> Iterable[tuple[str, str]]:  # noqa: D102 - Costs
        yield from (("answered", label) for label in self.answered)
        for right, others in self.pairs.items():
            yield from (("pairs", label) for label in (right, *others))

    def prices(self, labels: Sequence[str]) -> Prices:
        """Those of single mistakes do not count here."""
        wrong = np.array([self.answered.get(label, self.wrong) for label in labels])
        return Prices(wrong, np.full(len(labels), self.abstain))

    def dearest(self, labels: Sequence[str]) -> float:  # noqa: D102 - Costs
        return max([super().dearest(labels), *(cost for others in self.pairs.values() for cost in others.values())])

    def options(self, task: BaseTask[Any], answers: Sequence[Answer], judged: Sequence[Judged]) -> Options:
        """One for each text: the best label, which may be withheld."""
        places = {label: place for place, label in enumerate(task.labels)}
        wrong, said = np.zeros(len(answers)), np.zeros(len(answers))
        for row, (answer, known) in enumerate(zip(answers, judged, strict=True)):
            label = answer[0]["label"]
            mistaken = known.wrong if known.example is None else float(known.example.label != label)
            wrong[row] = known.weight * mistaken
            said[row] = wrong[row] * self._mistake(known.example, label)
        ones = np.ones(len(answers))
        return Options(
            texts=np.arange(len(answers)),
            labels=np.array([places[answer[0]["label"]] for answer in answers], dtype=np.int64),
            scores=np.array([answer[0]["score"] for answer in answers], dtype=np.float64),
            said=said, unsaid=self.abstain * ones, wrong=wrong, lost=ones, plain=ones > 0, fixed=0 * ones,
        )  # fmt: skip

    def _mistake(self, example: LabelledText | None, label: str) -> float:
        general = self.answered.get(label, self.wrong)
        return general if example is None else self.pairs.get(example.label, {}).get(label, general)


class LabelCosts(Config):
    """Costs of one label."""

    false_alarm: Cost | None = Field(None, description="of saying it wrongly")
    missed: Cost | None = Field(None, description="of not saying it where it is right")


class DetectionCosts(Costs):
    """Of an agent that finds any number of labels or entities."""

    false_alarm: Cost = Field(1, description="of a label or an entity that is none")
    missed: Cost = Field(1, description="of one that is not found")
    labels: Mapping[str, LabelCosts] = Field({}, description="the same by label")

    def named(self) -> Iterable[tuple[str, str]]:  # noqa: D102 - Costs
        return (("labels", label) for label in self.labels)

    def prices(self, labels: Sequence[str]) -> Prices:  # noqa: D102 - Costs
        own = [self.labels.get(label, LabelCosts()) for label in labels]
        wrong = [self.false_alarm if each.false_alarm is None else each.false_alarm for each in own]
        return Prices(np.array(wrong), np.array([self.missed if one.missed is None else one.missed for one in own]))

    def options(self, task: BaseTask[Any], answers: Sequence[Answer], judged: Sequence[Judged]) -> Options:
        """Every label of a text, or every entity that the agent finds; entities that it does not find cost what they cost."""
        places = {label: place for place, label in enumerate(task.labels)}
        prices = self.prices(task.labels)
        rows, fixed = list[tuple[int, int, float, bool, bool]](), np.zeros(len(answers))
        for text, (answer, known) in enumerate(zip(answers, judged, strict=True)):
            found, missed = _found(task, answer, known.example)
            rows += [(text, places[label], score, right, plain) for label, score, right, plain in found]
            fixed[text] = sum(prices.lost[places[label]] for label in missed)
        table = np.array(rows, dtype=np.float64).reshape(-1, 5)
        labels, hit = table[:, 1].astype(np.int64), table[:, 3]
        return Options(
            texts=table[:, 0].astype(np.int64), labels=labels, scores=table[:, 2],
            said=(1 - hit) * prices.wrong[labels], unsaid=hit * prices.lost[labels], wrong=1 - hit, lost=hit,
            plain=table[:, 4] > 0, fixed=fixed,
        )  # fmt: skip


def _found(
    task: BaseTask[Any], answer: Answer, example: Any
) -> tuple[list[tuple[str, float, bool, bool]], Sequence[str]]:
    """Label, score, whether it is right and whether the agent says it of each option of a text; and the labels that are none."""
    if isinstance(task, MultiLabelClassification):
        gold = set(example.labels)
        options = [
            (item["label"], item["score"], item["label"] in gold, item["score"] >= item["threshold"]) for item in answer
        ]
        return options, ()
    spans = {(span.start, span.end, span.label) for span in example.spans}
    said = [(item["start"], item["end"], item["entity_group"]) for item in answer]
    found = [(item["entity_group"], item["score"], key in spans, True) for item, key in zip(answer, said, strict=True)]
    return found, [label for _, _, label in spans.difference(said)]


COSTS: Mapping[str, type[Costs]] = {
    "text_classification": AbstentionCosts,
    "text_pair_classification": AbstentionCosts,
    "multi_label_classification": DetectionCosts,
    "token_classification": DetectionCosts,
}
"""By kind of task; those of `GOVERNED`."""


def asked_for(task: BaseTask[Any]) -> Any:
    """Parameters by which an agent tells all that it could say, without a policy."""
    more = {"top_k": len(task.labels)} if isinstance(task, MultiLabelClassification) else {}
    return task.parameters.model_validate({"policy": False, **more})
