"""Whether choosing texts to label beats drawing them: accuracy by number of labels, on real classification data.

    python benchmarks/feedback_loop/label_choice.py data=DIR/cls_banking77 [seeds=3] [rounds=4]

A classifier (TF-IDF in 200 dimensions and logistic regression) stands for the agent: it begins with `start` drawn labels, and in each
round gets `number` more of the training texts. Ways to choose them: at random; the most uncertain (margin) alone; and as
serving/label_next.py does it, with the vectors, the pool and the clusters of its own modules. Writes benchmarks/results/label_choice.json.
"""

from __future__ import annotations

import json
import sys
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
from agent.files import write_file  # noqa: E402
from benchmarks.common.machine import machine  # noqa: E402
from serving.active_learning.diverse_choice import distinct_pool, representatives  # noqa: E402
from serving.active_learning.text_vectors import TextVectors  # noqa: E402
from serving.active_learning.uncertainty import uncertainty  # noqa: E402

RESULT = ROOT / "benchmarks/results/label_choice.json"
WAYS = ("at random", "most uncertain", "label_next")
Float = npt.NDArray[Any]
Int64 = npt.NDArray[np.int64]


class ChoiceConfig(Config):
    """What is measured."""

    data: str = Field(description="directory with train.jsonl and test.jsonl of {text, label}")
    start: int = Field(300, ge=10, description="labels that are drawn before the first round")
    number: int = Field(150, ge=1, description="labels of a round")
    rounds: int = Field(4, ge=1, description="rounds")
    pool: int = Field(10, ge=1, description="times number, as in serving/label_next.py")
    seeds: int = Field(3, ge=1, description="repetitions, each with other labels at the start")
    output: str = Field(str(RESULT), description="file for the result")


class Round(NamedTuple):
    """What a choice goes by: places of labelled and of other texts, and the classifier's probabilities for the latter."""

    known: Int64
    free: Int64
    probabilities: Float
    rng: np.random.Generator


class Corpus:
    """Training and test texts with features of the classifier and vectors of the choice."""

    def __init__(self, directory: Path) -> None:
        from sklearn.decomposition import TruncatedSVD
        from sklearn.feature_extraction.text import TfidfVectorizer
        from sklearn.pipeline import make_pipeline
        from sklearn.preprocessing import Normalizer

        texts, self.labels = _read(directory / "train.jsonl")
        test, self.test_labels = _read(directory / "test.jsonl")
        features = make_pipeline(
            TfidfVectorizer(sublinear_tf=True, ngram_range=(1, 2)), TruncatedSVD(200, random_state=0), Normalizer()
        )
        self.features, self.test_features = features.fit_transform(texts), features.transform(test)
        fields = [(text,) for text in texts]
        self.vectors = TextVectors(fields)(fields)


def measure(config: ChoiceConfig) -> None:
    """Measures, prints and writes."""
    corpus = Corpus(Path(config.data))
    accuracies = {way: np.array([_simulate(config, corpus, way, seed) for seed in range(config.seeds)]) for way in WAYS}
    labels = [config.start + number * config.number for number in range(config.rounds + 1)]
    rows = [[way, *(f"{value:.4f}" for value in found.mean(axis=0))] for way, found in accuracies.items()]
    print("\n".join(markdown.table([["labels", *map(str, labels)], *rows])))
    content = {
        "config": config.model_dump(mode="json", exclude={"output"}) | {"data": Path(config.data).name},
        "labels": labels,
        "accuracy": {way: found.tolist() for way, found in accuracies.items()},
        "machine": machine(),
        "versions": installed_versions(("numpy", "scikit-learn")),
    }
    write_file(Path(config.output), json.dumps(content, indent=1) + "\n")


def _read(file: Path) -> tuple[list[str], npt.NDArray[np.str_]]:
    records = [record for record, _ in read_jsonl(Part(file))]
    return [record["text"] for record in records], np.array([record["label"] for record in records])


def _simulate(config: ChoiceConfig, corpus: Corpus, way: str, seed: int) -> list[float]:
    """Accuracy on the test split at the start and after each round."""
    from sklearn.linear_model import LogisticRegression

    rng = np.random.default_rng(seed)
    known, found = rng.choice(len(corpus.labels), config.start, replace=False), list[float]()
    for number in range(config.rounds + 1):
        model = LogisticRegression(C=20, max_iter=500).fit(corpus.features[known], corpus.labels[known])
        found.append(float((model.predict(corpus.test_features) == corpus.test_labels).mean()))
        if number < config.rounds:
            free = np.setdiff1d(np.arange(len(corpus.labels)), known)
            probabilities = model.predict_proba(corpus.features[free])
            state = Round(known, free, probabilities, rng)
            known = np.concatenate([known, _chosen(config, corpus, state, way)])
    return found


def _chosen(config: ChoiceConfig, corpus: Corpus, state: Round, way: str) -> Int64:
    """Places of the texts that are labelled next."""
    if way == "at random":
        return np.asarray(state.rng.choice(state.free, config.number, replace=False))
    values = _margins(state.probabilities)
    order = np.argsort(-values, kind="stable")
    if way == "most uncertain":
        return state.free[order[: config.number]]
    pool = distinct_pool(
        order,
        lambda places: corpus.vectors[state.free[places]],
        [corpus.vectors[state.known]],
        size=config.pool * config.number,
        similarity=0.95,
    )
    chosen = representatives(pool.vectors, values[pool.places], config.number, seed=0)
    return state.free[pool.places[chosen]]


def _margins(probabilities: Float) -> Float:
    rows = probabilities.astype(np.float32)
    return np.array([uncertainty(row[None], "margin", averaged=False) for row in rows])


if __name__ == "__main__":
    sys.exit(cli.run(ChoiceConfig, measure, usage=__doc__ or ""))
