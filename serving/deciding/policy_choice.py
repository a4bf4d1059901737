"""Chooses a policy for a bundle with the graph and the decoding that serving uses, and writes the bundle that has it."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

from pydantic import Field

from agent import markdown
from agent.bundle import Bundle, write_bundle
from agent.config.base import Config, load
from agent.decisions.decision_costs import COSTS, Answer, Costs, asked_for
from agent.decisions.decision_policy import POLICY, CostEstimate, Policy
from agent.decisions.judgement import EvidenceConfig
from agent.decisions.off_policy import Bootstrap, Estimate
from agent.decisions.threshold_choice import NEVER, Chosen, cross_fitted
from agent.errors import ConfigError, EvidenceError
from agent.tasks import BaseTask
from cluster.progress import Progress
from serving.deciding.policy_evidence import Evidence, folds_of, judge_answers, parts
from serving.inference.engine import Engine

_TEXTS_AT_ONCE = 1_000
_MOST_ROWS = 20
_NAMES = {
    "plain": "as the agent is",
    "policy": "with the policy",
    "silent": "if nothing is answered",
    "saving": "saved by the policy",
}


class ChoiceConfig(Config):
    """How thresholds are chosen."""

    shrinkage: float = Field(
        20,
        ge=0,
        description="how many decisions those of all other labels count for in the choice of a label's threshold (benchmarks/results/decide.json)",
    )
    folds: int = Field(
        10, ge=2, le=50, description="parts of the texts; each is judged by thresholds chosen on the others"
    )


def read_costs(file: Path, task: BaseTask[Any]) -> Costs:
    """The costs of decisions of an agent.

    Raises:
        ConfigError: The file cannot be read, names labels that the agent does not have, or agents for this task have no policies.
    """
    kind = COSTS.get(task.kind)
    if kind is None:
        raise ConfigError(
            f"the bundle is an agent for {task.kind.replace('_', ' ')}",
            allowed=f"an agent for {', '.join(name.replace('_', ' ') for name in COSTS)}",
            remedy="give another bundle",
        )
    costs = load(kind, [str(file)])
    costs.check(task.labels)
    return costs


def choose_policy(
    engine: Engine, evidence: Evidence, costs: Costs, how: ChoiceConfig, needed: EvidenceConfig
) -> Policy:
    """Chooses thresholds, and tells what they cost.

    Args:
        engine: The agent.
        evidence: Texts that it has not learned from.
        costs: Of its decisions.
        how: How to choose.
        needed: What the evidence has to hold.

    Raises:
        EvidenceError: The evidence cannot tell.
    """
    task = engine.bundle.task
    answers = _answers(engine, evidence)
    known = judge_answers(evidence, task, answers, needed)
    options, prices = costs.options(task, answers, known.judged), costs.prices(task.labels)
    bootstrap = Bootstrap(len(answers), confidence=needed.confidence, resamples=needed.resamples, seed=needed.seed)
    folds = folds_of(evidence, how.folds)
    chosen = cross_fitted(options, prices, folds, shrinkage=how.shrinkage, bootstrap=bootstrap)
    estimates = _widened(chosen, known.untold * costs.dearest(task.labels))
    return Policy(
        task=task.kind,
        thresholds=dict(zip(task.labels, chosen.thresholds.tolist(), strict=True)),
        costs=costs.model_dump(mode="json"),
        evidence=evidence.source,
        bundle=engine.bundle.digest,
        precision=engine.variant.precision,
        confidence=needed.confidence,
        expected={name: CostEstimate(**one._asdict()) for name, one in estimates.items()},
        withheld=chosen.withheld,
        added=chosen.added,
    )


def require_saving(policy: Policy) -> None:
    """Refuses a policy that may be worse than none.

    Raises:
        EvidenceError: The lower end of what it saves is not above 0.
    """
    saving = policy.expected["saving"]
    if saving.low <= 0:
        raise EvidenceError(
            f"the policy may be worse than none: it saves {saving.value:.4f} of a text's cost ({saving.low:.4f} to {saving.high:.4f})",
            allowed=f"a saving above 0 by the lower end of its {policy.confidence:.0%} interval",
            remedy="give more evidence, or other costs; force=true writes it all the same",
        )


def write_governed(bundle: Bundle, policy: Policy, output: Path, *, overwrite: bool = False) -> None:
    """Writes a copy of a bundle that has a policy instead of any that it had.

    Raises:
        BundleError: The output may not be replaced, or cannot be written.
    """
    with write_bundle(output, overwrite=overwrite) as draft:
        for name in bundle.manifest.files:
            (draft.path / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(bundle.path / name, draft.path / name)
        (draft.path / POLICY).write_text(policy.as_json(), encoding="utf-8")
        draft.publish(
            bundle.manifest
        )  # its lineage is that of the agent: the loop finds by it what it was compressed from


def table(policy: Policy) -> str:
    """The policy for people."""
    told, rows = policy.evidence, sorted(policy.thresholds.items(), key=lambda row: (-row[1], row[0]))
    where = (
        f"{told.agent}: {told.texts:,} decisions with feedback"
        if told.kind == "log"
        else f"{told.texts:,} labelled texts"
    )
    costs = [
        [_NAMES[name], f"{each.value:.4f}", f"{each.low:.4f} to {each.high:.4f}"]
        for name, each in policy.expected.items()
    ]
    added = f", and says {policy.added:.1%} more" if policy.added else ""
    shown = [[markdown.escape(label), "never" if cut >= NEVER else f"{cut:.3f}"] for label, cut in rows[:_MOST_ROWS]]
    more = [f"and {len(rows) - _MOST_ROWS} labels with lower thresholds"] if len(rows) > _MOST_ROWS else []
    return "\n".join([
        where, "", *markdown.table([["cost of a text", "value", f"{policy.confidence:.0%} interval"], *costs]), "",
        f"the policy withholds {policy.withheld:.1%} of what the agent would say{added}", "",
        *markdown.table([["label", "answered from"], *shown]), *more,
    ])  # fmt: skip


def _answers(engine: Engine, evidence: Evidence) -> list[Answer]:
    parameters, found = asked_for(engine.bundle.task), list[Answer]()
    texts = [known.text for known in evidence.texts]
    with Progress("answering", len(texts), unit="text", rate=lambda rate: f"{rate:,.0f} texts/s") as progress:
        for part in parts(texts, _TEXTS_AT_ONCE):
            found += engine.predict(part, parameters)
            progress.advance(len(part))
    return found


def _widened(chosen: Chosen, untold: float) -> dict[str, Estimate]:
    """Intervals with what the log does not tell of, which costs between nothing and so much a text."""
    found = dict(chosen.estimates)
    for name, below in (("plain", 0.0), ("policy", 0.0), ("saving", untold)):
        value, low, high = found[name]
        found[name] = Estimate(value, low - below, high + untold)
    return found
