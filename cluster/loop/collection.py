"""Collects from the store of decisions what came back since the last round."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

from agent.decisions.decision import LoggedDecision
from agent.errors import ConfigError
from cluster.loop.workspace import key_of, text_key


@dataclass(frozen=True)
class Wanted:
    """What is collected beside new corrections.

    Attributes:
        texts: How many of the latest texts.
        rewards_teach: Whether rewards teach, beside corrections.
        unlabelled: How many of the latest texts on which there is no feedback.
    """

    texts: int = 0
    rewards_teach: bool = False
    unlabelled: int = 0


@dataclass(frozen=True)
class Collected:
    """What is new in a store.

    Attributes:
        agent: Whose decisions these are.
        feedback: Decisions whose feedback no round has used yet, in the order of the feedback.
        texts: The latest texts, with or without feedback.
        unlabelled: The latest decision on each of the latest texts without feedback, oldest first.
        rewards_teach: Whether rewards teach, beside corrections.
    """

    agent: str
    feedback: list[LoggedDecision]
    texts: list[str]
    unlabelled: list[LoggedDecision]
    rewards_teach: bool = False

    def teaching(self) -> list[LoggedDecision]:
        """The decisions whose feedback can be taught. The others are not used, and wait."""
        return [one for one in self.feedback if self.rewards_teach or _is_corrected(one)]

    def counts(self) -> dict[str, Any]:
        """How much there is of what, and how much that can be taught each caller has given."""
        corrections = sum(_is_corrected(one) for one in self.feedback)
        return {
            "corrections": corrections,
            "rewards": len(self.feedback) - corrections,
            "callers": dict(Counter(one.feedback.key_id for one in self.teaching() if one.feedback)),
        }


def collect(url: str, agent: str, taken: Collection[str], wanted: Wanted) -> Collected:
    """Reads the store.

    Which feedback is new is told by the keys of that which was used, not by a time: clocks of several servers differ and jump, and
    feedback comes late.

    Args:
        url: Of the store.
        agent: Whose decisions; may be empty where the store has one agent.
        taken: Keys of feedback that was used.
        wanted: What is collected beside new corrections.

    Raises:
        ConfigError: The store's address is wrong, it needs what is not installed, or it has several agents.
        StoreError: The store cannot be read.
    """
    try:
        from agent.decisions.store import DecisionStore
    except ImportError as error:
        raise ConfigError(
            f"store is set, and {error.name} is not installed", remedy="pip install 'bert-agent[feedback]'"
        ) from None
    store = DecisionStore(url)
    agents: set[str] = set()
    texts: deque[str] = deque(maxlen=wanted.texts)
    found: list[LoggedDecision] = []
    unlabelled = _Unlabelled(wanted.unlabelled)
    try:
        for one in store.read(agent):
            decision = one.decision
            agents.add(decision.agent)
            texts.append(decision.text)
            unlabelled.add(one)
            if one.feedback and key_of(decision.agent, decision.id, decision.position) not in taken:
                found.append(one)
    finally:
        store.close()
    if len(agents) > 1:
        raise ConfigError(
            f"the store holds decisions of {len(agents)} agents",
            allowed=", ".join(sorted(agents)),
            remedy="give agent=, the name of the one that learns",
        )
    name, feedback = next(iter(agents), agent), sorted(found, key=_order)
    return Collected(name, feedback, list(texts), unlabelled.latest(), wanted.rewards_teach)


class _Unlabelled:
    """The latest texts on which there is no feedback, whatever their case and white space.

    Args:
        most: How many.
    """

    def __init__(self, most: int) -> None:
        self._most, self._found, self._told = most, dict[str, LoggedDecision](), set[str]()

    def add(self, one: LoggedDecision) -> None:
        """Looks at the next decision."""
        if not self._most:
            return
        key = text_key(one.decision.text)
        self._found.pop(key, None)
        if one.feedback:
            self._told.add(key)
        elif key not in self._told:
            self._found[key] = one
            if len(self._found) > self._most:
                del self._found[next(iter(self._found))]

    def latest(self) -> list[LoggedDecision]:
        """Of each text the latest decision, oldest first."""
        return list(self._found.values())


def _is_corrected(one: LoggedDecision) -> bool:
    return one.feedback is not None and one.feedback.correction is not None


def _order(one: LoggedDecision) -> tuple[float, str, int]:
    assert one.feedback
    return one.feedback.time, one.decision.id, one.decision.position
