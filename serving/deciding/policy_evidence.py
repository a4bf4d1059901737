"""Reads what a policy is chosen on: logged decisions with feedback, or labelled data; and tells how wrong an agent is on each text."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from pydantic_core import from_json, to_json

from agent.data import DataConfig
from agent.data.digests import split_digest
from agent.data.splits import open_split, read_examples
from agent.decisions.decision import LoggedDecision
from agent.decisions.decision_costs import Answer, Judged
from agent.decisions.decision_policy import PolicyEvidence
from agent.decisions.held_out import is_held_out
from agent.decisions.judgement import EvidenceConfig, told_by
from agent.decisions.off_policy import LoggedRewards
from agent.errors import ConfigError, EvidenceError
from agent.tasks import BaseTask
from serving.feedback.decision_log import open_store


class KnownText(NamedTuple):
    """A text with what is known of it.

    Attributes:
        text: The input.
        example: With its right labels; None where only a reward below 1 came.
        label, reward, propensity: Of the logged decision.
    """

    text: str
    example: Any
    label: str = ""
    reward: float = 1.0
    propensity: float = 1.0


class Evidence(NamedTuple):
    """Texts, and where they come from."""

    texts: Sequence[KnownText]
    source: PolicyEvidence


class JudgedTexts(NamedTuple):
    """What is known of an agent's own answers, and which part of them the log does not tell of."""

    judged: list[Judged]
    untold: float


def read_labelled_file(file: Path, task: BaseTask[Any]) -> Evidence:
    """Labelled data of a file, which the agent must not have learned from.

    Raises:
        DataError: It cannot be read, is for another task, or holds labels that the agent does not have.
    """
    config = DataConfig()
    examples, _ = read_examples(config, task, open_split(config, [file]))
    task.check_labels(examples)
    texts = [KnownText(task.text_of(example), example) for example in examples]
    return Evidence(texts, PolicyEvidence(kind="data", texts=len(texts), digest=split_digest(examples)))


def read_feedback(
    url: str, task: BaseTask[Any], agent: str = "", *, since: float = 0, text_share: float = 1
) -> Evidence:
    """Decisions with feedback.

    Args:
        url: Of the store.
        task: Of the agent, by which decisions are read.
        agent: Whose decisions; may be empty where the log has one agent.
        since: Seconds since the epoch of the oldest decision.
        text_share: Part of the texts that count, by their hash.

    Raises:
        ConfigError: The store's address is wrong, or the log is of several agents.
        DataError: A correction is none for this task.
        StoreError: The store cannot be read.
    """
    store, agents, times = open_store(url), set[str](), list[float]()
    texts, digest = list[KnownText](), hashlib.sha256()
    try:
        for logged in store.read(agent, since=since):
            decision, feedback = logged
            agents.add(decision.agent)
            fields = task.fields_of(decision.text)
            if feedback is None or len(fields) < len(task.input_fields) or not is_held_out(decision.text, text_share):
                continue
            texts.append(_known(task, logged, task.as_input(list(fields.values()))))
            times.append(decision.time)
            digest.update(to_json([decision.text, decision.answer, feedback.reward, feedback.correction]))
    finally:
        store.close()
    if len(agents) > 1:
        raise ConfigError(
            f"the log holds decisions of {len(agents)} agents", allowed=", ".join(sorted(agents)), remedy="give agent="
        )
    first, last = (_moment(times[0]), _moment(times[-1])) if times else (None, None)
    source = PolicyEvidence(
        kind="log", texts=len(texts), digest=digest.hexdigest(), agent=next(iter(agents), agent), first=first, last=last
    )
    return Evidence(texts, source)


def judge_answers(
    evidence: Evidence, task: BaseTask[Any], answers: Sequence[Answer], config: EvidenceConfig
) -> JudgedTexts:
    """What the evidence says of an agent's own answers.

    Where every feedback tells the right answer, each text counts as 1. Where some are rewards below 1, decisions weigh by importance: only
    those that the agent would have answered alike count, each by one over the probability with which it was answered.

    Args:
        evidence: The texts.
        task: Of the agent.
        answers: Its own.
        config: What the evidence has to hold.

    Raises:
        EvidenceError: It cannot tell.
    """
    _check_number(evidence, config)
    untold_texts = sum(known.example is None for known in evidence.texts)
    if not untold_texts:
        return JudgedTexts([Judged(known.example) for known in evidence.texts], 0.0)
    if not task.explores:
        raise EvidenceError(
            f"the log cannot tell: {untold_texts} of {len(evidence.texts)} decisions have a reward below 1, which does not say what was wrong",
            allowed="corrections, and rewards of 1",
            remedy="choose by labelled data with data=FILE, or on decisions since corrections came (since_days)",
        )
    alike = np.array([known.label == answer[0]["label"] for known, answer in zip(evidence.texts, answers, strict=True)])
    zeros, propensities = np.zeros(len(alike)), np.array([known.propensity for known in evidence.texts])
    told = told_by(LoggedRewards(zeros, propensities, alike.astype(np.float64), zeros, zeros), config)
    weights = told.clipped.weights.tolist()
    rows = zip(evidence.texts, weights, strict=True)
    return JudgedTexts([Judged(known.example, 1 - known.reward, weight) for known, weight in rows], told.untold)


def folds_of(evidence: Evidence, number: int) -> np.ndarray[Any, np.dtype[np.int64]]:
    """A fold for each text, int64 [texts]; the same text is always in the same."""
    _, places = np.unique(np.array([str(known.text) for known in evidence.texts], dtype=object), return_inverse=True)
    return np.asarray(places % number, dtype=np.int64)


def _known(task: BaseTask[Any], logged: LoggedDecision, text: str) -> KnownText:
    decision, feedback = logged
    assert feedback is not None
    answer = from_json(decision.answer)
    where = f"decision {decision.id}[{decision.position}]"
    if (record := logged.as_record()) is not None:
        example = task.read_record(task.fields_of(decision.text) | record, where)
    elif feedback.reward == 1 and _is_whole(answer):
        example = task.read_record(task.record_of(decision.text, answer), where)
    else:
        example = None
    label = str(answer[0].get("label", "")) if answer else ""
    return KnownText(text, example, label, 1.0 if feedback.reward is None else feedback.reward, decision.propensity)


def _is_whole(answer: Answer) -> bool:
    """Whether an answer holds what a record does: tags of sub-words do not."""
    return all("entity" not in item for item in answer)


def _check_number(evidence: Evidence, config: EvidenceConfig) -> None:
    number, log = len(evidence.texts), evidence.source.kind == "log"
    if number < config.min_decisions:
        raise EvidenceError(
            f"the {'log' if log else 'data'} cannot tell: it holds {number} {'decisions with feedback' if log else 'labelled texts'}",
            allowed=f"at least {config.min_decisions} (evidence.min_decisions)",
            remedy="collect more feedback, or give labelled data with data=FILE" if log else "give more labelled texts",
        )


def _moment(time: float) -> str:
    return datetime.fromtimestamp(time, UTC).isoformat(timespec="seconds")


def parts(texts: Sequence[str], size: int) -> Iterator[Sequence[str]]:
    """The texts in runs."""
    return (texts[first : first + size] for first in range(0, len(texts), size))
