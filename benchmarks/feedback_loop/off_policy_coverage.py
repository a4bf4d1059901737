"""How often 95% intervals of off-policy evaluation cover the truth, on bandit logs made of real classification data.

    python benchmarks/feedback_loop/off_policy_coverage.py data=[DIR/cls_banking77,DIR/cls_sst2] [replications=500] [decisions=2000]

Two classifiers (TF-IDF and logistic regression on a tenth and on a third of the training texts) stand for the agent that was
served and the one that is judged. A log is `decisions` texts drawn from the test split with replacement, each answered by the
first one as the way of exploring says, with reward 1 for the right class. The truth is the judged one's mean reward on the whole split.
Beside ways that explore: a log of best answers only, which has to be refused. Writes benchmarks/results/off_policy_coverage.json.
"""

from __future__ import annotations

import json
import sys
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

ROOT = Path(__file__).resolve().parents[2]
sys.path[0] = str(ROOT)

import numpy as np  # noqa: E402
import numpy.typing as npt  # noqa: E402
from pydantic import Field  # noqa: E402

from agent.bundle import installed_versions  # noqa: E402
from agent.config import cli  # noqa: E402
from agent.config.base import Config  # noqa: E402
from agent.decisions.exploration import ExploreConfig  # noqa: E402
from agent.decisions.judgement import EvidenceConfig, judge  # noqa: E402
from agent.decisions.off_policy import Estimate, LoggedRewards  # noqa: E402
from agent.decisions.reward_model import fit_rewards  # noqa: E402
from agent.errors import EvidenceError  # noqa: E402
from benchmarks.common.machine import machine  # noqa: E402

RESULT = ROOT / "benchmarks/results/off_policy_coverage.json"
AIM = 0.93
Float64 = npt.NDArray[np.float64]
WAYS = {
    "temperature 1": ExploreConfig(temperature=1),
    "temperature 0.5": ExploreConfig(temperature=0.5),
    "epsilon 0.3": ExploreConfig(epsilon=0.3),
    "epsilon 0.1": ExploreConfig(epsilon=0.1),
    "best answers only": ExploreConfig(),
}


REASONS = ("none or hardly any", "propensities are wrong", "of the judged agent's own")  # words of each refusal


class CoverageConfig(Config):
    """What is measured."""

    data: tuple[str, ...] = Field(description="directories with train.jsonl and test.jsonl of {text, label}")
    replications: int = Field(500, ge=2, description="logs of each kind")
    decisions: int = Field(2_000, ge=200, description="decisions in a log")
    seed: int = Field(0, description="of everything that is drawn")


class Population(NamedTuple):
    """A test split with what two classifiers think of it. `served` and `judged` are float64 [texts, labels], `gold` int64 [texts]."""

    served: Float64
    judged: Float64
    gold: npt.NDArray[np.int64]

    def values(self, explore: ExploreConfig) -> dict[str, float]:
        """The truth: mean rewards of the logged answers and of the judged classifier's."""
        everybody = np.arange(len(self.gold))
        logged = float(explore.propensities(self.served)[everybody, self.gold].mean())
        judged = float((self.judged.argmax(axis=1) == self.gold).mean())
        return {"logged": logged, "judged": judged, "gain": judged - logged}


def main(config: CoverageConfig) -> None:
    """Measures every data set with every way of exploring and writes the result."""
    rows = []
    for directory in config.data:
        population = classified(Path(directory), config.seed)
        for name, explore in WAYS.items():
            started = time.monotonic()
            row = {"data": Path(directory).name, "way": name} | measured(population, explore, config)
            rows.append(row | {"seconds": round(time.monotonic() - started, 1)})
            print(json.dumps(rows[-1]), flush=True)
    settings = config.model_dump() | {"data": [Path(directory).name for directory in config.data]}
    versions = installed_versions(("numpy", "scikit-learn"))
    result = {"machine": machine(), "versions": versions, "config": settings, "aim": AIM, "rows": rows}
    RESULT.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")


def measured(population: Population, explore: ExploreConfig, config: CoverageConfig) -> dict[str, Any]:
    """Coverage, mean width and bias of every estimator over the logs that were not refused."""
    truth = population.values(explore)
    rng = np.random.default_rng(config.seed)
    found: list[Mapping[str, Estimate]] = []
    effective: list[float] = []
    untold: list[float] = []
    refused: Counter[str] = Counter()
    for replication in range(config.replications):
        logged = simulated(population, explore, config.decisions, rng)
        try:
            judgement = judge(logged, EvidenceConfig(seed=replication))
        except EvidenceError as error:
            refused[next(reason for reason in REASONS if reason in error.what)] += 1
            continue
        found.append(judgement.estimates)
        effective.append(judgement.effective)
        untold.append(judgement.untold)
    row: dict[str, Any] = {"truth": _rounded(truth), "refused": sum(refused.values()), "reasons": dict(refused)}
    if found:
        row["effective_sample_size"] = round(float(np.median(effective)))
        row["untold"] = round(float(np.median(untold)), 4)
        row["estimators"] = {
            name: _told([each[name] for each in found], truth.get(name, truth["judged"])) for name in found[0]
        }
    return row


def simulated(population: Population, explore: ExploreConfig, number: int, rng: np.random.Generator) -> LoggedRewards:
    """One log, with what the judged classifier would have done."""
    texts = rng.integers(0, len(population.gold), number)
    propensities = explore.propensities(population.served[texts])
    actions = (np.cumsum(propensities, axis=1) > rng.random(number)[:, None]).argmax(axis=1)
    everybody = np.arange(number)
    rewards = (actions == population.gold[texts]).astype(np.float64)
    probabilities = population.judged[texts]
    policy = ExploreConfig().propensities(probabilities)
    model = fit_rewards(probabilities, policy, actions, rewards)
    chances, target = propensities[everybody, actions], policy[everybody, actions]
    return LoggedRewards(rewards, chances, target, model.logged, model.target)


def classified(directory: Path, seed: int) -> Population:
    """Teaches both classifiers."""
    train, test = (_read(directory / f"{split}.jsonl") for split in ("train", "test"))
    order = np.random.default_rng(seed).permutation(len(train))
    labels = sorted({label for _, label in train})
    few, more = order[: len(train) // 10], order[-len(train) // 3 :]
    served, judged = (_taught([train[place] for place in part], test, labels) for part in (few, more))
    return Population(served, judged, np.array([labels.index(label) for _, label in test]))


def _taught(train: Sequence[tuple[str, str]], test: Sequence[tuple[str, str]], labels: Sequence[str]) -> Float64:
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline

    model = make_pipeline(TfidfVectorizer(ngram_range=(1, 2)), LogisticRegression(C=30, max_iter=500))
    model.fit([text for text, _ in train], [label for _, label in train])
    found = np.full((len(test), len(labels)), 1e-9)
    columns = [labels.index(label) for label in model.classes_]
    found[:, columns] = model.predict_proba([text for text, _ in test])
    return found / found.sum(axis=1, keepdims=True)


def _read(file: Path) -> list[tuple[str, str]]:
    rows = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]
    return [(row["text"], row["label"]) for row in rows]


def _told(estimates: Sequence[Estimate], truth: float) -> dict[str, float]:
    return _rounded(
        {
            "coverage": float(np.mean([each.low <= truth <= each.high for each in estimates])),
            "width": float(np.mean([each.high - each.low for each in estimates])),
            "bias": float(np.mean([each.value for each in estimates])) - truth,
        }
    )


def _rounded(figures: Mapping[str, float]) -> dict[str, float]:
    return {name: round(figure, 4) for name, figure in figures.items()}


if __name__ == "__main__":
    sys.exit(cli.run(CoverageConfig, main, usage=__doc__))
