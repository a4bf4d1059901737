"""False alarms of the watch for drift in simulated months of calm, and after how many texts it sees planted shifts, on real texts.

    python benchmarks/feedback_loop/drift_detection.py data=DIR/cls_banking77 domain=DIR/cls_sst2 language=FILE [months=400]

A classifier (TF-IDF and logistic regression, upper and lower case distinct) with a WordPiece tokenizer of its own stands for the agent; bins,
test and thresholds are those of serving. Its test texts are the population: each simulated month draws a reference from it and then blocks, with
replacement, so that calm is calm by construction; what is drawn twice passes for two texts. A shift begins within a block; counted are its texts up to the end of the first block that alarms, of
those that the watch looks at. Writes benchmarks/results/drift_detection.json.
"""

from __future__ import annotations

import json
import sys
import time
from collections import Counter
from collections.abc import Sequence
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
from agent.drift.drift_reference import STATISTICS, DriftReference  # noqa: E402
from agent.drift.observer import Observation, Observer  # noqa: E402
from agent.encoding import Encoder  # noqa: E402
from agent.files import write_file  # noqa: E402
from agent.tasks import TextClassification  # noqa: E402
from benchmarks.common.machine import machine  # noqa: E402
from serving.shift.drift_watch import DriftConfig  # noqa: E402
from serving.shift.homogeneity import compare  # noqa: E402

RESULT = ROOT / "benchmarks/results/drift_detection.json"
_MONTH_S = 30 * 86_400
_MAX_BLOCKS = 20  # after which a shift counts as not seen
Int64 = npt.NDArray[np.int64]


class DetectionConfig(Config):
    """What is measured."""

    data: str = Field(description="directory with train.jsonl and test.jsonl of {text, label}")
    domain: str = Field(description="directory of the same form, with texts of another domain")
    language: str = Field(description="file with a text of another language a line")
    months: int = Field(400, ge=2, description="months of calm, by size of the reference")
    references: tuple[int, ...] = Field((300, 1_000, 3_000), description="texts of a reference")
    runs: int = Field(200, ge=2, description="times that each shift is planted")
    seed: int = Field(0, description="of everything that is drawn")
    output: str = Field(str(RESULT), description="file for the result")


class Classifier:
    """The stand-in for an agent."""

    def __init__(self, texts: Sequence[str], labels: Sequence[str]) -> None:
        from sklearn.feature_extraction.text import TfidfVectorizer
        from sklearn.linear_model import LogisticRegression
        from sklearn.pipeline import make_pipeline

        features = TfidfVectorizer(sublinear_tf=True, ngram_range=(1, 2), lowercase=False)
        self._model = make_pipeline(features, LogisticRegression(C=20, max_iter=500)).fit(texts, labels)
        self._encoder = _encoder(texts)
        self._observer = Observer(TextClassification(labels=tuple(self._model.classes_)), self._encoder)

    def observe(self, texts: Sequence[str]) -> list[Observation]:
        """What serving would count of the answers to texts."""
        logits = self._model.decision_function(texts).astype(np.float32)
        documents = self._encoder.encode_texts(texts)
        return [self._observer.observe(*one[:2], [one[2]]) for one in zip(texts, documents, logits, strict=True)]


class Observed(NamedTuple):
    """Texts as they were observed, one by one and by statistic."""

    texts: Sequence[Observation]
    columns: Sequence[Any]

    @classmethod
    def of(cls, texts: Sequence[Observation]) -> Observed:
        """Puts the statistics beside each other."""
        columns = zip(*texts, strict=True)
        return cls(
            texts,
            [list(one) if name == "labels" else np.array(one) for name, one in zip(STATISTICS, columns, strict=True)],
        )


class Calm(NamedTuple):
    """Months of calm: alarms in all, and how many months had one."""

    alarms: int
    months_with_alarm: int


def measure(config: DetectionConfig) -> None:
    """Measures, prints and writes."""
    from scipy.stats import binomtest

    rng = np.random.default_rng(config.seed)
    texts, labels = _read(Path(config.data) / "train.jsonl")
    test, test_labels = _read(Path(config.data) / "test.jsonl")
    agent = Classifier(texts, labels)
    population = Observed.of(agent.observe(test))
    calm: dict[str, Any] = {}
    for name, rate, size, repeats in _calm_cases(config):
        started = time.perf_counter()
        months = config.months if repeats == 1 else max(1, config.months // 10)
        found = _months(population, DriftConfig(false_alarms_per_year=rate), size, repeats, (months, rng))
        interval = binomtest(found.months_with_alarm, months).proportion_ci()
        calm[name] = {
            "reference": size, "false_alarms_per_year": rate, "like_texts": repeats, "months": months,
            "alarms_per_year": found.alarms / months * 365 / 30, "months_with_alarm": found.months_with_alarm / months,
            "interval_95": [interval.low, interval.high], "seconds": time.perf_counter() - started,
        }  # fmt: skip
    planted = {
        name: _planted(
            population, Observed.of(agent.observe(shifted) if isinstance(shifted[0], str) else shifted), config, rng
        )
        for name, shifted in _shifts(config, test, test_labels, population.texts).items()
    }
    _print(calm, planted)
    content = {
        "config": config.model_dump(mode="json", exclude={"output"})
        | {"data": Path(config.data).name, "domain": Path(config.domain).name, "language": Path(config.language).name},
        "block_texts": DriftConfig().block_texts,
        "calm": calm,
        "planted": planted,
        "seconds_to_observe_a_text": _cost(agent, test),
        "machine": machine(),
        "versions": installed_versions(("numpy", "scipy", "scikit-learn", "tokenizers")),
    }
    write_file(Path(config.output), json.dumps(content, indent=1) + "\n")


def _calm_cases(config: DetectionConfig) -> list[tuple[str, float, int, int]]:
    """Name, false alarms a year that are asked for, texts of the reference, how many texts of a block are alike."""
    default, middle = DriftConfig().false_alarms_per_year, _middle(config)
    return [
        *((f"reference of {size:,}", default, size, 1) for size in config.references),
        (f"reference of {middle:,}, 12 a year asked for", 12.0, middle, 1),
        ("texts come in pairs of like ones", default, middle, 2),
        ("texts come in fives of like ones", default, middle, 5),
    ]


def _middle(config: DetectionConfig) -> int:
    return sorted(config.references)[len(config.references) // 2]


def _shifts(
    config: DetectionConfig, test: list[str], labels: list[str], population: Sequence[Observation]
) -> dict[str, list[Any]]:
    """Texts, or observations where the texts are those of the population."""
    rng = np.random.default_rng(config.seed)
    kept = set(rng.permutation(sorted(set(labels)))[::2])
    half = [one for one, label in zip(population, labels, strict=True) if label in kept]
    domain = _read(Path(config.domain) / "test.jsonl")[0]
    language = Path(config.language).read_text(encoding="utf-8").splitlines()
    return {
        "half of the intents": half,
        "upper case": [text.upper() for text in test],
        "first half of the words": [" ".join(words[: (len(words) + 1) // 2]) for words in map(str.split, test)],
        "another domain": domain,
        "a tenth is of another domain": [*test, *(domain * 2)[: len(test) // 9]],
        "another language": language,
        "two letters exchanged in each word": [" ".join(map(_mistyped, text.split())) for text in test],
    }


def _mistyped(word: str) -> str:
    return word if len(word) < 4 else word[0] + word[2] + word[1] + word[3:]


def _places(reference: DriftReference, observed: Observed) -> Int64:
    """int64 [statistics, texts], as `reference.places` gives them for one text."""
    found = []
    for name, column in zip(STATISTICS, observed.columns, strict=True):
        bins = getattr(reference, name)
        found.append(list(map(bins.place, column)) if name == "labels" else np.searchsorted(bins.edges, column))
    assert [each[0] for each in found] == list(reference.places(observed.texts[0]))
    return np.array(found, np.int64)


def _drawn(population: Observed, size: int, rng: np.random.Generator) -> DriftReference:
    texts = population.texts
    return DriftReference.of([texts[place] for place in rng.integers(len(texts), size=size).tolist()], "drawn")


def _alarms(reference: DriftReference, places: Int64, alpha: float) -> npt.NDArray[np.bool_]:
    """Which statistics of which blocks alarm: bool [statistics, blocks] of places int64 [statistics, blocks, texts]."""
    found = []
    for counts, of_statistic in zip(reference.counts, places, strict=True):
        rows, bins = len(of_statistic), len(counts)
        flat = (of_statistic + bins * np.arange(rows)[:, None]).ravel()
        blocks = np.bincount(flat, minlength=rows * bins).reshape(rows, bins)
        found.append(compare(np.array(counts), blocks).p_values < alpha)
    return np.array(found)


def _months(
    population: Observed,
    config: DriftConfig,
    size: int,
    repeats: int,
    drawing: tuple[int, np.random.Generator],
) -> Calm:
    """Months of calm, each with a reference of its own; `drawing` is how many, and the random numbers."""
    months, rng = drawing
    num_blocks, alarms, with_alarm = int(_MONTH_S / config.block_s), 0, 0
    for _ in range(months):
        reference = _drawn(population, size, rng)
        chosen = rng.integers(len(population.texts), size=(num_blocks, config.block_texts // repeats)).repeat(
            repeats, axis=1
        )
        found = int(_alarms(reference, _places(reference, population)[:, chosen], config.alpha).sum())
        alarms, with_alarm = alarms + found, with_alarm + bool(found)
    return Calm(alarms, with_alarm)


def _planted(
    population: Observed, shifted: Observed, config: DetectionConfig, rng: np.random.Generator
) -> dict[str, Any]:
    """Texts from the shift to the end of the first block that alarms, over many runs; the default configuration."""
    watch, size = DriftConfig(), _middle(config)
    texts, first = list[float](), Counter[str]()
    for _ in range(config.runs):
        reference = _drawn(population, size, rng)
        before = int(rng.integers(watch.block_texts))  # calm texts of the block in which the shift begins
        places = _places(reference, shifted)[:, rng.integers(len(shifted.texts), size=(_MAX_BLOCKS, watch.block_texts))]
        places[:, 0, :before] = _places(reference, population)[:, rng.integers(len(population.texts), size=before)]
        alarms = _alarms(reference, places, watch.alpha)
        seen = np.flatnonzero(alarms.any(axis=0))
        texts.append(watch.block_texts * (seen[0] + 1) - before if len(seen) else np.inf)
        if len(seen):
            first.update(name for name, alarm in zip(STATISTICS, alarms[:, seen[0]], strict=True) if alarm)
    return {
        "runs": config.runs, "seen": float(np.isfinite(texts).mean()),
        "texts_median": _finite(np.quantile(texts, 0.5, method="higher")), "texts_95": _finite(np.quantile(texts, 0.95, method="higher")),
        "alarming_statistics": {name: first[name] / config.runs for name in STATISTICS},
    }  # fmt: skip


def _finite(value: float) -> float | None:
    return float(value) if np.isfinite(value) else None


def _cost(agent: Classifier, texts: list[str]) -> float:
    documents, task = agent._encoder.encode_texts(texts), agent._observer
    logits = agent._model.decision_function(texts).astype(np.float32)
    started = time.perf_counter()
    for text, document, row in zip(texts, documents, logits, strict=True):
        task.observe(text, document, [row])
    return (time.perf_counter() - started) / len(texts)


def _encoder(texts: Sequence[str]) -> Encoder:
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=False, strip_accents=False)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.train_from_iterator(texts, trainers.WordPieceTrainer(vocab_size=4_000, special_tokens=["[PAD]", "[UNK]"]))
    return Encoder(tokenizer, max_tokens=512, stride=64)


def _read(file: Path) -> tuple[list[str], list[str]]:
    records = [record for record, _ in read_jsonl(Part(file))]
    return [record["text"] for record in records], [str(record["label"]) for record in records]


def _print(calm: dict[str, Any], planted: dict[str, Any]) -> None:
    rows = [
        [
            name, f"{one['alarms_per_year']:.2f}", f"{one['months_with_alarm']:.2%}",
            "{:.2%} to {:.2%}".format(*one["interval_95"]),
        ]
        for name, one in calm.items()
    ]  # fmt: skip
    print("\n".join(markdown.table([["calm", "alarms a year", "months with one", "95% interval"], *rows])))
    rows = [
        [name, f"{one['seen']:.0%}", f"{one['texts_median']}", f"{one['texts_95']}", str(one["alarming_statistics"])]
        for name, one in planted.items()
    ]
    print("\n".join(markdown.table([["shift", "seen", "texts, median", "texts, 95%", "by"], *rows])))


if __name__ == "__main__":
    sys.exit(cli.run(DetectionConfig, measure, usage=__doc__ or ""))
