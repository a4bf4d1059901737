"""Reads a classifier's decisions with their rewards from a log."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from pydantic_core import from_json

from agent.decisions.decision import Feedback
from agent.decisions.held_out import is_held_out
from agent.errors import ConfigError
from serving.feedback.decision_log import open_store

Float64 = npt.NDArray[np.float64]


class ClassifiedLog(NamedTuple):
    """Decisions of one classifier that have a reward, in the order of time.

    Attributes:
        agent: Its name.
        texts, labels: What was answered how.
        bundles, chosen: Digest of the bundle that answered, and how its answer was chosen.
        rewards, propensities: float64 [decisions].
        num_decisions: With and without a reward.
        num_corrections: Rewards that came as the right label.
    """

    agent: str
    texts: list[str]
    labels: list[str]
    bundles: list[str]
    chosen: list[str]
    rewards: Float64
    propensities: Float64
    num_decisions: int
    num_corrections: int


def read_log(
    url: str, agent: str = "", *, since: float = 0, missing_reward: float | None = None, text_share: float = 1
) -> ClassifiedLog:
    """Reads the log of one agent. The right label as a correction is a reward of 1 for the same answer and of 0 for others.

    Args:
        url: Of the store.
        agent: Whose decisions; may be empty where the log has one agent.
        since: Seconds since the epoch of the oldest decision.
        missing_reward: Reward of decisions without feedback; None leaves them out.
        text_share: Part of the texts that count, by their hash.

    Raises:
        ConfigError: The store's address is wrong, the log is of several agents, or not of a classifier.
        StoreError: The store cannot be read.
    """
    store = open_store(url)
    agents: set[str] = set()
    texts, labels, bundles, chosen = list[str](), list[str](), list[str](), list[str]()
    rows: list[tuple[float, float]] = []
    num_decisions = num_corrections = 0
    try:
        for decision, feedback in store.read(agent, since=since):
            agents.add(decision.agent)
            if not is_held_out(decision.text, text_share):
                continue
            num_decisions += 1
            label = _label(decision.answer, decision.agent)
            reward = missing_reward if feedback is None else _reward(feedback, label, decision.agent)
            if reward is None:
                continue
            num_corrections += feedback is not None and feedback.correction is not None
            texts.append(decision.text)
            labels.append(label)
            bundles.append(decision.bundle)
            chosen.append(decision.chosen)
            rows.append((reward, decision.propensity))
    finally:
        store.close()
    if len(agents) > 1:
        raise ConfigError(
            f"the log holds decisions of {len(agents)} agents", allowed=", ".join(sorted(agents)), remedy="give agent="
        )
    columns = np.array(rows, dtype=np.float64).reshape(-1, 2)
    name = next(iter(agents), agent)
    return ClassifiedLog(
        name, texts, labels, bundles, chosen, columns[:, 0], columns[:, 1], num_decisions, num_corrections
    )


def _label(answer: str, agent: str) -> str:
    items = from_json(answer)
    if not items or not isinstance(items[0], dict) or "label" not in items[0]:
        raise _no_classifier(agent)
    return str(items[0]["label"])


def _reward(feedback: Feedback, label: str, agent: str) -> float:
    if feedback.reward is not None:
        return feedback.reward
    correction = from_json(feedback.correction or "{}")
    if "label" not in correction:
        raise _no_classifier(agent)
    return float(correction["label"] == label)


def _no_classifier(agent: str) -> ConfigError:
    return ConfigError(
        f"the log's decisions of agent {agent} are no classes",
        allowed="decisions of a classifier, which alone explores",
        remedy="choose another agent with agent=",
    )
