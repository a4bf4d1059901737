"""Judges a bundle on a log of decisions, with the graph and the decoding that serving uses."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import numpy.typing as npt

from agent import markdown
from agent.decisions.exploration import ExploreConfig
from agent.decisions.judgement import EvidenceConfig, Judgement, judge
from agent.decisions.off_policy import LoggedRewards
from agent.decisions.reward_model import fit_rewards
from agent.errors import ConfigError, EvidenceError
from cluster import bundles
from serving.inference.engine import Engine
from serving.judging.classified_log import ClassifiedLog

Float64 = npt.NDArray[np.float64]
_TEXTS_AT_ONCE = 1_000
_NAMES = {
    "logged": "earned by the logged answers",
    "ips": "judged bundle, IPS",
    "snips": "judged bundle, SNIPS",
    "doubly_robust": "judged bundle, doubly robust",
    "gain": "gain over the logged answers",
}


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
    engine = Engine(bundles.fetch(bundle), precision=precision)
    task = engine.bundle.task
    if not task.explores:
        raise ConfigError(
            f"bundle {bundle} is an agent for {task.kind.replace('_', ' ')}",
            allowed="an agent for text classification",
            remedy="give another bundle",
        )
    places = {label: place for place, label in enumerate(task.labels)}
    actions = np.array([places.get(label, -1) for label in log.labels], dtype=np.int64)
    probabilities = _probabilities(engine, log.texts, places)
    return judge(_compared(log, probabilities, explore.propensities(probabilities), actions), evidence)


def _compared(
    log: ClassifiedLog, probabilities: Float64, policy: Float64, actions: npt.NDArray[np.int64]
) -> LoggedRewards:
    known = np.maximum(actions, 0)
    target = np.where(actions >= 0, policy[np.arange(len(known)), known], 0.0)
    model = fit_rewards(probabilities, policy, actions, log.rewards)
    return LoggedRewards(log.rewards, log.propensities, target, model.logged, model.target)


def _probabilities(engine: Engine, texts: list[str], places: dict[str, int]) -> Float64:
    """float64 [texts, labels]."""
    found = np.zeros((len(texts), len(places)))
    for first in range(0, len(texts), _TEXTS_AT_ONCE):
        for row, answer in enumerate(engine.predict(texts[first : first + _TEXTS_AT_ONCE]), start=first):
            for item in answer:
                found[row, places[item["label"]]] = item["score"]
    return found


def table(found: Judgement, log: ClassifiedLog) -> str:
    """The judgement for people."""
    share = found.num_decisions / max(1, log.num_decisions)
    rows = [
        [_NAMES[name], f"{each.value:.4f}", f"{each.low:.4f} to {each.high:.4f}"]
        for name, each in found.estimates.items()
    ]
    head = (
        f"{log.agent}: {log.num_decisions:,} decisions, {found.num_decisions:,} of them ({share:.1%}) with a reward, "
        f"worth {found.effective:,.0f} of the judged bundle's own; of {found.untold:.1%} of its answers the log does not tell"
    )
    return "\n".join([head, "", *markdown.table([["reward per decision", "value", "interval"], *rows])])


def as_json(found: Judgement, log: ClassifiedLog) -> str:
    """The judgement for programs."""
    content = _counts(log) | {
        "effective_sample_size": found.effective,
        "untold": found.untold,
        "estimates": {name: each._asdict() for name, each in found.estimates.items()},
    }
    return json.dumps(content, indent=1) + "\n"


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
