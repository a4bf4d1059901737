"""Fields of records: texts, answers, and propensity and reward of a logged decision."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, NamedTuple

from pydantic import BaseModel

from agent.encoding import Encoder
from agent.errors import DataError

_REWARDED = '{"label": the answered one, "propensity": above 0, at most 1, "reward": 0 to 1}'


class LoggedReward(NamedTuple):
    """What is known of a logged decision instead of the right label.

    Attributes:
        propensity: The probability with which its label was answered, above 0.
        reward: 0 to 1.
    """

    propensity: float
    reward: float


def read_reward(record: Mapping[str, Any], where: str) -> LoggedReward | None:
    """Reads `propensity` and `reward` of a record whose label is an answer; None where it is a label that people gave.

    Raises:
        DataError: One stands without the other, or is no such number.
    """
    propensity, reward = record.get("propensity"), record.get("reward")
    if propensity is None and reward is None:
        return None
    return LoggedReward(
        _share(propensity, "propensity", "reward", where), _share(reward, "reward", "propensity", where)
    )


def refuse_reward(record: Mapping[str, Any], where: str, kind: str) -> None:
    """Refuses logged decisions as data for a task whose answers are not one label.

    Raises:
        DataError: The record has a propensity.
    """
    if record.get("propensity") is not None:
        raise DataError(
            f"{where}: a logged decision with its propensity, and the task is {kind}",
            allowed="labelled records; rewards teach tasks that answer one label (text_classification and its kin)",
            remedy="label the record, or leave it out",
        )


def _share(value: Any, name: str, other: str, where: str) -> float:
    """A number from 0 to 1; no propensity is 0.

    Raises:
        DataError: It is none.
    """
    if value is None:
        raise DataError(
            f"{where}: a {other} without a {name}",
            allowed=_REWARDED,
            remedy="python -m agent.decisions content=rewards writes both; leave both out of labelled records",
        )
    known = isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value <= 1
    if not known or (name == "propensity" and value == 0):
        raise DataError(
            f"{where}: {name} {value!r}",
            allowed="a number above 0, at most 1" if name == "propensity" else "a number from 0 to 1",
            remedy="mend or delete the record",
        )
    return float(value)


def require_text(record: Mapping[str, Any], key: str, where: str, shape: str) -> str:
    """Returns a string field of a record.

    Raises:
        DataError: It is absent, no string, or no Unicode text.
    """
    value = record.get(key)
    if not isinstance(value, str):
        raise DataError(
            f"{where}: field {key!r} is {'absent' if key not in record else repr(value)}",
            allowed=shape,
            remedy="mend the record",
        )
    check_unicode(value, where)
    return value


def check_unicode(text: str, where: str) -> None:
    """Refuses lone surrogates, which JSON can spell and no encoding can write.

    Raises:
        DataError: Names the place.
    """
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise DataError(
            f"{where}: lone surrogate at character {error.start}",
            allowed="Unicode text",
            remedy="replace the broken character",
        ) from None


class AnnotatedRecords:
    """How the records of an annotated corpus hold a task's answers; a part of every task."""

    answer_item: ClassVar[type[BaseModel]]
    answer_field: ClassVar[str]  # what holds the answer in a record

    @property
    def annotation_field(self) -> str:
        """What holds the answer in an annotated record where nobody says otherwise."""
        return self.answer_field

    @property
    def annotation_type(self) -> Any:
        """The type of what `annotation` gives: a list of models, or a string."""
        return list[self.answer_item]  # type: ignore[name-defined]

    def annotation(self, answer: Sequence[Mapping[str, Any]]) -> Any:
        """What an annotated record holds of an answer."""
        return answer

    def check_annotation(self, encoder: Encoder, parameters: Any) -> None:
        """Refuses parameters by which no record can be annotated, before records are read.

        Raises:
            RequestError: Names the parameter.
        """
