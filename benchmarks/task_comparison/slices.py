"""Makes small data sets of one task from the shared ones: records of a source, shuffled, cut, and written as JSON lines."""

from __future__ import annotations

import hashlib
import json
import random
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from agent.data import DataConfig, load_splits
from agent.tasks import TokenClassification

Record = dict[str, Any]
Records = Mapping[str, Sequence[Record]]
"""By split: train, test and, where the source has one, dev."""

_SEED = 0
_FEW_CLASSES = 10  # whose joined texts are learned from hundreds of them
_SHORTEST, _LONGEST = 60, 800  # characters of a paragraph
SAME, DIFFERENT = "same intent", "different intent"


@dataclass(frozen=True)
class Sizes:
    """Records of each split."""

    train: int
    dev: int
    test: int

    def scaled(self, factor: float) -> Sizes:
        """The same at another scale."""
        return Sizes(*(max(1, round(size * factor)) for size in (self.train, self.dev, self.test)))


def write_slices(records: Records, sizes: Sizes, directory: Path) -> DataConfig:
    """Writes a data set into a directory named by its content; dev is cut off train where the source has none."""
    shuffled = {name: random.Random(_SEED).sample(list(found), len(found)) for name, found in records.items()}
    dev = shuffled.get("dev") or shuffled["train"][sizes.train :]
    splits = {
        "train": shuffled["train"][: sizes.train],
        "dev": dev[: sizes.dev],
        "test": shuffled["test"][: sizes.test],
    }
    lines = {name: "".join(json.dumps(record) + "\n" for record in found) for name, found in splits.items()}
    digest = hashlib.sha256(json.dumps(lines).encode()).hexdigest()[:8]
    place = directory / f"{len(splits['train'])}-{digest}"
    place.mkdir(parents=True, exist_ok=True)
    for name, text in lines.items():
        (place / f"{name}.jsonl").write_text(text, encoding="utf-8")
    return DataConfig(path=str(place))


def as_they_are(directory: Path) -> Records:
    """The records of JSON lines."""
    files = {name: directory / f"{name}.jsonl" for name in ("train", "dev", "test")}
    return {
        name: [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]
        for name, file in files.items()
        if file.is_file()
    }


def intent_pairs(directory: Path) -> Records:
    """Every text of a classified data set beside another one: of its own class for every second, else of any other."""
    return _changed(as_they_are(directory), _paired)


def joined_texts(directory: Path) -> Records:
    """Texts of ten of the classes joined in twos and threes, each text once: they have the labels of all."""
    records = as_they_are(directory)
    few = sorted({record["label"] for record in records["train"]})[:_FEW_CLASSES]
    chosen = {name: [one for one in found if one["label"] in few] for name, found in records.items()}
    return _changed(chosen, _joined)


def _changed(records: Records, change: Callable[[list[Record]], list[Record]]) -> Records:
    return {
        name: change(random.Random(_SEED).sample(list(found), len(found))) for name, found in sorted(records.items())
    }


def _paired(records: list[Record]) -> list[Record]:
    draw = random.Random(_SEED)
    by_label: dict[str, list[str]] = {}
    for record in records:
        by_label.setdefault(record["label"], []).append(record["text"])
    pairs = []
    for number, record in enumerate(records):
        same = number % 2 == 0
        others = by_label[record["label"]]
        if same:
            choices = [text for text in others if text != record["text"]]
        else:
            choices = by_label[draw.choice(sorted(by_label.keys() - {record["label"]}))]
        if choices:
            label = SAME if same else DIFFERENT
            pairs.append({"text": record["text"], "text_pair": draw.choice(choices), "label": label})
    return pairs


def _joined(records: list[Record]) -> list[Record]:
    joined, begin = [], 0
    while begin < len(records):
        chunk = records[begin : begin + 2 + len(joined) % 2]
        begin += len(chunk)
        joined.append({
            "text": " ".join(record["text"] for record in chunk),
            "labels": sorted({record["label"] for record in chunk}),
        })  # fmt: skip
    return joined


def squad_questions(directory: Path) -> Records:
    """The questions of SQuAD's articles; test is its dev split."""
    return {
        "train": _questions(directory / "train_sample.json"),
        "test": _questions(directory / "dev-v1.1.json"),
    }


def _questions(file: Path) -> list[Record]:
    articles: Iterable[Any] = json.loads(file.read_text(encoding="utf-8"))["data"]
    return [
        {
            "question": question["question"],
            "context": paragraph["context"],
            "answers": {key: [answer[key] for answer in question["answers"]] for key in ("text", "answer_start")},
        }
        for article in articles
        for paragraph in article["paragraphs"]
        for question in paragraph["qas"]
    ]


def paragraphs(directory: Path) -> Records:
    """Raw text, a paragraph a record: neither headings nor what takes several windows."""
    files = {"train": directory / "train.txt", "test": directory / "dev.txt"}
    return {
        name: [
            {"text": line} for line in dict.fromkeys(file.read_text(encoding="utf-8").splitlines())
            if _SHORTEST <= len(line) <= _LONGEST
        ]
        for name, file in files.items()
    }  # fmt: skip


def tagged_sentences(directory: Path) -> Records:
    """Sentences of CoNLL columns as natural text with spans."""
    splits = load_splits(DataConfig(path=str(directory)), TokenClassification())
    return {
        name: [
            {"text": example.text, "spans": [span._asdict() for span in example.spans]}
            for example in getattr(splits, name)
        ]
        for name in ("train", "dev", "test")
    }
