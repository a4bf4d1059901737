"""Judges a bundle on a log of decisions, with the graph and the decoding that serving uses."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from agent import markdown
from agent.decisions.exploration import ExploreConfig
from agent.decisions.judgement import Difference, EvidenceConfig, Judgement, judge, judge_difference
from agent.decisions.off_policy import Estimate, LoggedRewards
from agent.decisions.reward_model import fit_rewards
from agent.errors import ConfigError, EvidenceError
from cluster.bundles import fetch
from serving.inference.engine import Engine
from serving.judging.classified_log import ClassifiedLog

Float64 = npt.NDArray[np.float64]
_TEXTS_AT_ONCE = 1_000
_ALIKE = 1e-9  # difference of probabilities
_NAMES = {
    "logged": "earned by the logged answers",
    "ips": "judged bundle, IPS",
    "snips": "judged bundle, SNIPS",
    "doubly_robust": "judged bundle, doubly robust",
    "gain": "gain over the logged answers",
}


class BundleComparison(NamedTuple):
    """What a log tells of a bundle, of another one, and of what the first earns more."""

    judged: Judgement
    other: Judgement
    difference: Difference


class JudgedAnswers(NamedTuple):
    """What a bundle would have done in place of the logged decisions: also as probabilities of each label it has, float64 [decisions]."""

    logged: LoggedRewards
    policy: Mapping[str, Float64]

    def differs(self, other: JudgedAnswers) -> npt.NDArray[np.bool_]:
        """Whether the other bundle would have answered otherwise: bool [decisions]."""
        found = np.zeros(len(self.logged.rewards), dtype=bool)
        for label in {**self.policy, **other.policy}:
            found |= np.abs(self.policy.get(label, 0.0) - other.policy.get(label, 0.0)) > _ALIKE
        return found


def judge_bundle(
    bundle: str, log: ClassifiedLog, explore: ExploreConfig, evidence: EvidenceConfig, *, precision: str = "auto"
) -> Judgement:
    """Judges a bundle.

    Args:
        bundle: Where it lies.
        log: The decisions.
        explore: How it would answer.
        evidence: What the log has to hold.
        precision: Of its ONNX graph.

    Raises:
        EvidenceError: The log cannot tell.
        BundleError: The bundle cannot be served.
        ConfigError: It is no classifier.
    """
    return judge(_answers(bundle, log, explore, precision).logged, evidence)


def compare_bundles(
    bundles: tuple[str, str],
    log: ClassifiedLog,
    explore: ExploreConfig,
    evidence: EvidenceConfig,
    *,
    precision: str = "auto",
) -> BundleComparison:
    """Judges a bundle and another one on the same decisions, and what the first earns more; otherwise as `judge_bundle`."""
    judgements = []
    answers = [_answers(bundle, log, explore, precision) for bundle in bundles]
    for bundle, found in zip(bundles, answers, strict=True):
        try:
            judgements.append(judge(found.logged, evidence))
        except EvidenceError as error:
            raise EvidenceError(f"of {bundle} {error.what}", allowed=error.allowed, remedy=error.remedy) from None
    one, other = answers
    difference = judge_difference(one.logged, other.logged, one.differs(other), evidence)
    return BundleComparison(judgements[0], judgements[1], difference)


def _answers(bundle: str, log: ClassifiedLog, explore: ExploreConfig, precision: str) -> JudgedAnswers:
    engine = Engine(fetch(bundle), precision=precision)
    task = engine.bundle.task
    if not task.explores:
        raise ConfigError(
            f"bundle {bundle} is an agent for {task.kind.replace('_', ' ')}",
            allowed="an agent for text classification",
            remedy="give another bundle",
        )
    places = {label: place for place, label in enumerate(task.labels)}
    actions = np.array([places.get(label, -1) for label in log.labels], dtype=np.int64)
    probabilities = label_probabilities(engine, log.texts, places)
    policy = explore.propensities(probabilities)
    return JudgedAnswers(_compared(log, probabilities, policy, actions), dict(zip(task.labels, policy.T, strict=True)))


def _compared(
    log: ClassifiedLog, probabilities: Float64, policy: Float64, actions: npt.NDArray[np.int64]
) -> LoggedRewards:
    known = np.maximum(actions, 0)
    target = np.where(actions >= 0, policy[np.arange(len(known)), known], 0.0)
    model = fit_rewards(probabilities, policy, actions, log.rewards)
    return LoggedRewards(log.rewards, log.propensities, target, model.logged, model.target)


def label_probabilities(engine: Engine, texts: list[str], places: Mapping[str, int]) -> Float64:
    """Probabilities of each label, in the columns that `places` names: float64 [texts, labels]."""
    found = np.zeros((len(texts), len(places)))
    for first in range(0, len(texts), _TEXTS_AT_ONCE):
        for row, answer in enumerate(engine.predict(texts[first : first + _TEXTS_AT_ONCE]), start=first):
            for item in answer:
                found[row, places[item["label"]]] = item["score"]
    return found


def table(found: Judgement, log: ClassifiedLog) -> str:
    """The judgement for people."""
    share = found.num_decisions / max(1, log.num_decisions)
    rows = [[_NAMES[name], *_cells(each)] for name, each in found.estimates.items()]
    head = (
        f"{log.agent}: {log.num_decisions:,} decisions, {found.num_decisions:,} of them ({share:.1%}) with a reward, "
        f"worth {found.effective:,.0f} of the judged bundle's own; of {found.untold:.1%} of its answers the log does not tell"
    )
    return "\n".join([head, "", *markdown.table([["reward per decision", "value", "interval"], *rows])])


def comparison_table(found: BundleComparison) -> str:
    """The comparison for people, without the first bundle's own judgement."""
    rows = [
        ["the other bundle, doubly robust", *_cells(found.other.estimates["doubly_robust"])],
        ["judged bundle less the other, doubly robust", *_cells(found.difference.estimate)],
    ]
    head = (
        f"the two answer {found.difference.share:.1%} of the decisions differently; of {found.difference.untold:.1%} of these answers, "
        "of both together, the log does not tell"
    )
    return "\n".join([head, "", *markdown.table([["reward per decision", "value", "interval"], *rows])])


def _cells(estimate: Estimate) -> tuple[str, str]:
    return f"{estimate.value:.4f}", f"{estimate.low:.4f} to {estimate.high:.4f}"


def as_json(found: Judgement, log: ClassifiedLog) -> str:
    """The judgement for programs."""
    return json.dumps(_counts(log) | _content(found), indent=1) + "\n"


def comparison_as_json(found: BundleComparison, log: ClassifiedLog) -> str:
    """The judgement of the first bundle, with that of the other and the difference, for programs."""
    difference = {
        **found.difference.estimate._asdict(),
        "share": found.difference.share,
        "untold": found.difference.untold,
    }
    content = _counts(log) | _content(found.judged) | {"other": _content(found.other), "difference": difference}
    return json.dumps(content, indent=1) + "\n"


def _content(found: Judgement) -> dict[str, Any]:
    return {
        "effective_sample_size": found.effective,
        "untold": found.untold,
        "estimates": {name: each._asdict() for name, each in found.estimates.items()},
    }


def refusal_as_json(error: EvidenceError, log: ClassifiedLog) -> str:
    """Why the log cannot tell, for programs."""
    return json.dumps(_counts(log) | {"refused": str(error)}, indent=1) + "\n"


def _counts(log: ClassifiedLog) -> dict[str, Any]:
    return {
        "agent": log.agent,
        "decisions": log.num_decisions,
        "rewards": len(log.texts),
        "corrections": log.num_corrections,
    }
