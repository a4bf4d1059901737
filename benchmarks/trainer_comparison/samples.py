"""Writes the sentences on which speed is compared: the same files for every contestant."""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from agent.data import DataConfig, load_splits
from agent.tasks import TokenClassification
from benchmarks.trainer_comparison.base import SEED

UNSEEN = 100  # sentences of dev and test, which only ours looks at, outside of its clock


def write_samples(data: DataConfig, directory: Path, *, size: int) -> tuple[DataConfig, DataConfig]:
    """Writes all training sentences, and a random part of them; dev and test are a few of the same."""
    splits = load_splits(data, TokenClassification())
    part = random.Random(SEED).sample(splits.train, min(size, len(splits.train)))
    names = (f"{kind}-{len(train)}-{splits.digest[:8]}" for kind, train in (("whole", splits.train), ("part", part)))
    return write_sample(directory / next(names), splits.train), write_sample(directory / next(names), part)


def write_sample(directory: Path, train: Sequence[Any]) -> DataConfig:
    """One data set."""
    directory.mkdir(exist_ok=True)
    for name, examples in (("train", train), ("dev", train[:UNSEEN]), ("test", train[:UNSEEN])):
        records = ({"text": example.text, "spans": [span._asdict() for span in example.spans]} for example in examples)
        (directory / f"{name}.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    return DataConfig(path=str(directory))
