"""What abstaining below thresholds saves: cost of a text with and without a policy, on held-out truth of real classification data.

    python benchmarks/feedback_loop/abstention_costs.py data=DIR/cls_banking77 [seeds=3] [trained=2000]

A classifier (TF-IDF in 200 dimensions and logistic regression) stands for the agent; it learns from `trained` of the training texts. Policies are
chosen on further ones by the modules of serving/decide.py, and all are judged on the test split. Costs of a wrong answer are 1, or 5 for 15 drawn labels
(`uneven`). Beside them: one threshold for all labels, thresholds of each label's own decisions alone, and the decision of least expected cost by
probabilities calibrated with a temperature. Writes benchmarks/results/decide.json.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

ROOT = Path(__file__).resolve().parents[2]
sys.path[0] = str(ROOT)

import numpy as np  # noqa: E402
import numpy.typing as npt  # noqa: E402
from pydantic import Field  # noqa: E402

from agent import markdown  # noqa: E402
from agent.bundle import installed_versions  # noqa: E402
from agent.config import cli  # noqa: E402
from agent.config.base import Config  # noqa: E402
from agent.data.formats.json_records import read_jsonl  # noqa: E402
from agent.data.lines import Part  # noqa: E402
from agent.decisions.decision_costs import AbstentionCosts, Judged  # noqa: E402
from agent.decisions.off_policy import Bootstrap  # noqa: E402
from agent.decisions.threshold_choice import Options, choose_thresholds, cross_fitted  # noqa: E402
from agent.files import write_file  # noqa: E402
from agent.tasks import TextClassification  # noqa: E402
from agent.tasks.text_classification import LabelledText  # noqa: E402
from benchmarks.common.machine import machine  # noqa: E402

RESULT = ROOT / "benchmarks/results/decide.json"
WAYS = ("no policy", "always abstain", "policy", "one threshold", "own decisions alone", "expected cost")
SHRINKAGE, EVERYTHING = 20.0, 1e12
_NUM_DEAR, _DEAR = 15, 5.0
Float = npt.NDArray[np.float64]
Int64 = npt.NDArray[np.int64]


class AbstentionConfig(Config):
    """What is measured."""

    data: str = Field(description="directory with train.jsonl and test.jsonl of {text, label}")
    trained: int = Field(2_000, ge=100, description="training texts that the classifier learns from")
    evidence: tuple[int, ...] = Field((1_000, 3_000, 6_000), description="further ones that policies are chosen on")
    abstain: tuple[float, ...] = Field((0.1, 0.3), description="costs of handing a text over to a person")
    seeds: int = Field(3, ge=1, description="repetitions, each with other texts")
    output: str = Field(str(RESULT), description="file for the result")


class Scored(NamedTuple):
    """Texts with probabilities, float64 [texts, labels], and right labels, int64 [texts]."""

    probabilities: Float
    right: Int64

    def options(self, task: TextClassification, costs: AbstentionCosts) -> Options:
        """As serving/decide.py has them."""
        best, names = self.probabilities.argmax(axis=1), task.labels
        scores = self.probabilities.max(axis=1).tolist()
        answers = [
            [{"label": names[place], "score": score}] for place, score in zip(best.tolist(), scores, strict=True)
        ]
        judged = [Judged(LabelledText(text="", label=names[place])) for place in self.right.tolist()]
        return costs.options(task, answers, judged)


class Corpus:
    """Features and labels of the training and the test split."""

    def __init__(self, directory: Path) -> None:
        from sklearn.decomposition import TruncatedSVD
        from sklearn.feature_extraction.text import TfidfVectorizer
        from sklearn.pipeline import make_pipeline
        from sklearn.preprocessing import Normalizer

        (texts, labels), (test, test_labels) = (_read(directory / f"{name}.jsonl") for name in ("train", "test"))
        features = make_pipeline(
            TfidfVectorizer(sublinear_tf=True, ngram_range=(1, 2)), TruncatedSVD(200, random_state=0), Normalizer()
        )
        self.features, self.test_features = features.fit_transform(texts), features.transform(test)
        self.task = TextClassification(labels=tuple(sorted(set(labels))))
        self.right, self.test_right = (
            np.array([self.task.labels.index(one) for one in each]) for each in (labels, test_labels)
        )

    def scored(self, trained: int, seed: int) -> tuple[Scored, Scored]:
        """What a classifier that learned from some texts says of all other training texts, in drawn order, and of the test split."""
        from sklearn.linear_model import LogisticRegression

        order = np.random.default_rng(seed).permutation(len(self.right))
        known, others = order[:trained], order[trained:]
        model = LogisticRegression(C=20, max_iter=500).fit(self.features[known], self.right[known])

        def probabilities(features: Any) -> Float:
            found = np.full((len(features), len(self.task.labels)), 1e-9)
            found[:, model.classes_] = model.predict_proba(features)
            return found

        return (
            Scored(probabilities(self.features[others]), self.right[others]),
            Scored(probabilities(self.test_features), self.test_right),
        )


def measure(config: AbstentionConfig) -> None:
    """Measures, prints and writes."""
    corpus = Corpus(Path(config.data))
    found = [row for seed in range(config.seeds) for row in _of_seed(config, corpus, seed)]
    keys = list(dict.fromkeys((row["evidence"], row["abstain"], row["prices"]) for row in found))
    rows = []
    for key in keys:
        same = [row for row in found if (row["evidence"], row["abstain"], row["prices"]) == key]
        means = [f"{np.mean([row['cost'][way] for row in same]):.4f}" for way in WAYS]
        rows.append([*map(str, key), *means, f"{np.mean([row['abstained'] for row in same]):.0%}"])
    print("\n".join(markdown.table([["evidence", "abstain", "prices", *WAYS, "abstained"], *rows])))
    held = [row["interval"][0] <= row["cost"]["policy"] <= row["interval"][1] for row in found]
    print(f"\nthe interval held the policy's cost on the test split in {sum(held)} of {len(held)} cases")
    content = {
        "config": config.model_dump(mode="json", exclude={"output"}) | {"data": Path(config.data).name},
        "shrinkage": SHRINKAGE,
        "rows": found,
        "machine": machine(),
        "versions": installed_versions(("numpy", "scikit-learn")),
    }
    write_file(Path(config.output), json.dumps(content, indent=1) + "\n")


def _read(file: Path) -> tuple[list[str], list[str]]:
    records = [record for record, _ in read_jsonl(Part(file))]
    return [record["text"] for record in records], [record["label"] for record in records]


def _of_seed(config: AbstentionConfig, corpus: Corpus, seed: int) -> Iterator[dict[str, Any]]:
    others, test = corpus.scored(config.trained, seed)
    dear = np.random.default_rng(seed).choice(corpus.task.labels, _NUM_DEAR, replace=False).tolist()
    for number in config.evidence:
        evidence = Scored(others.probabilities[:number], others.right[:number])
        for abstain in config.abstain:
            for name, prices in (("even", {}), ("uneven", dict.fromkeys(dear, _DEAR))):
                costs = AbstentionCosts(abstain=abstain, answered=prices)
                row = {"seed": seed, "evidence": number, "abstain": abstain, "prices": name}
                yield row | _compared(corpus.task, costs, evidence, test)


def _compared(task: TextClassification, costs: AbstentionCosts, evidence: Scored, test: Scored) -> dict[str, Any]:
    """Costs on the test split, the policy's interval by the evidence, and the part of the test split that it abstains from."""
    known, truth, prices = evidence.options(task, costs), test.options(task, costs), costs.prices(task.labels)
    number = len(evidence.right)
    bootstrap = Bootstrap(number, resamples=1_000)
    chosen = cross_fitted(known, prices, np.arange(number) % 10, shrinkage=SHRINKAGE, bootstrap=bootstrap)
    said = {"no policy": truth.plain, "always abstain": ~truth.plain, "policy": truth.reaching(chosen.thresholds)}
    for way, shrinkage in (("one threshold", EVERYTHING), ("own decisions alone", 0.0)):
        said[way] = truth.reaching(choose_thresholds(known, prices, shrinkage=shrinkage))
    cost = {way: float(truth.costs(each).mean()) for way, each in said.items()}
    cost["expected cost"] = _least_expected(prices.wrong, costs.abstain, evidence, test)
    low, high = chosen.estimates["policy"][1:]
    return {"cost": cost, "interval": [low, high], "abstained": float((~said["policy"]).mean())}


def _least_expected(wrong: Float, abstain: float, evidence: Scored, test: Scored) -> float:
    """Cost on the test split of what costs least by calibrated probabilities: a label, or abstaining."""
    from scipy.optimize import minimize_scalar

    def tempered(probabilities: Float, temperature: float) -> Float:
        raised = probabilities ** (1 / temperature)
        return np.asarray(raised / raised.sum(axis=1, keepdims=True))

    def surprise(temperature: float) -> float:
        return float(
            -np.log(
                tempered(evidence.probabilities, temperature)[np.arange(len(evidence.right)), evidence.right]
            ).mean()
        )

    temperature = float(minimize_scalar(surprise, bounds=(0.1, 5), method="bounded").x)
    expected = wrong * (1 - tempered(test.probabilities, temperature))
    best = expected.argmin(axis=1)
    answered = np.where(best == test.right, 0.0, wrong[best])
    return float(np.where(expected.min(axis=1) < abstain, answered, abstain).mean())


if __name__ == "__main__":
    sys.exit(cli.run(AbstentionConfig, measure, usage=__doc__ or ""))
