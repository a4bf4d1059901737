"""A decision of a served agent, and what came back on it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from pydantic_core import from_json, to_json

from agent.errors import DataError
from agent.windows.text_pairs import SEPARATOR


class Decision(NamedTuple):
    """One answered text.

    Attributes:
        agent: Name of the agent that answered.
        id: Of the request (`x-request-id`).
        position: Of the text in its request, from 0.
        time: When it was answered, in seconds since the epoch.
        bundle: Digest of the bundle that answered.
        key_id: Name of the caller's key; empty where none is asked for.
        text: The text.
        answer: What the caller got, as JSON.
        propensity: The probability with which the answer was chosen among all that were possible, 0 to 1.
        chosen: How: `greedy`, `epsilon` or `temperature`.
    """

    agent: str
    id: str
    position: int
    time: float
    bundle: str
    key_id: str
    text: str
    answer: str
    propensity: float
    chosen: str


class Feedback(NamedTuple):
    """What came back on a decision: either a reward or a correction.

    Attributes:
        time: When, in seconds since the epoch.
        key_id: Name of the key of who gave it.
        reward: 0 to 1.
        correction: What a labelled record holds beside its text (`label`, `spans` ...), as JSON; with its texts where they are several.
    """

    time: float
    key_id: str
    reward: float | None
    correction: str | None

    def says_the_same(self, other: Feedback) -> bool:
        """Whether two differ at most in when and by whom they were given."""
        return (self.reward, self.correction) == (other.reward, other.correction)


def _json(value: Any) -> str:
    return to_json(value).decode()


class LoggedDecision(NamedTuple):
    """A decision with the feedback on it, where there is some."""

    decision: Decision
    feedback: Feedback | None

    @classmethod
    def from_object(cls, found: Mapping[str, Any]) -> LoggedDecision:
        """What `as_object` has made an object of."""
        decision = Decision(**{name: found[name] for name in Decision._fields} | {"answer": _json(found["answer"])})
        if "feedback_time" not in found:
            return cls(decision, None)
        correction = None if found["correction"] is None else _json(found["correction"])
        return cls(decision, Feedback(found["feedback_time"], found["feedback_key_id"], found["reward"], correction))

    def as_object(self) -> dict[str, Any]:
        """What an export holds of it."""
        found = self.decision._asdict() | {"answer": from_json(self.decision.answer)}
        if self.feedback is not None:
            given = self.feedback
            correction = from_json(given.correction) if given.correction is not None else None
            found |= {"feedback_time": given.time, "feedback_key_id": given.key_id}
            found |= {"reward": given.reward, "correction": correction}
        return found

    def as_record(self) -> dict[str, Any] | None:
        """The labelled record that a correction makes of its text; None without a correction."""
        if self.feedback is None or self.feedback.correction is None:
            return None
        text, correction = self.decision.text, from_json(self.feedback.correction)
        brought = [value for value in correction.values() if isinstance(value, str)]
        if SEPARATOR in text and all(part in brought for part in text.split(SEPARATOR, 1)):
            return dict(correction)  # with the texts of an input that has several, by their own names
        return {"text": text, **correction}

    def as_rewarded_record(self) -> dict[str, Any] | None:
        """The answered label with its propensity and reward, as training reads them; None without a reward.

        Raises:
            DataError: The answer is not one label.
        """
        if self.feedback is None or self.feedback.reward is None:
            return None
        answer = from_json(self.decision.answer)
        first = answer[0] if isinstance(answer, list) and answer else None
        if not isinstance(first, dict) or "label" not in first or "threshold" in first:
            raise DataError(
                f"decision {self.decision.id}[{self.decision.position}] of agent {self.decision.agent!r} answers more or less than one label",
                allowed="content=rewards for agents that answer one label of a text",
                remedy="give agent=, or content=corrections",
            )
        text, _, other = self.decision.text.partition(SEPARATOR)
        texts = {"text": text, "text_pair": other} if SEPARATOR in self.decision.text else {"text": text}
        return texts | {
            "label": first["label"], "propensity": self.decision.propensity, "reward": self.feedback.reward
        }  # fmt: skip
