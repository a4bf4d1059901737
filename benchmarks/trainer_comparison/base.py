"""The contract of a contestant, and the material that all train on."""

from __future__ import annotations

import json
import random
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from agent.config.base import Config
from agent.data import DataConfig, Splits, load_splits
from agent.encoding import Encoder
from agent.tasks import BaseTask, TokenClassification
from agent.tasks.output_decision import Decision

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerFast

MODEL, SEED = "minilm", 0
WEIGHT_DECAY, WARMUP = 0.01, 0.06  # of runs to the end

UNSEEN = 100  # sentences of dev and test, which only ours reads, outside of its timing

Step = tuple[float, int, int, int]
"""Seconds, sentences, real tokens and padded tokens of an optimizer step."""


class Contestant(Config, ABC):
    """A way of training, measured in a process of its own."""

    kind: str
    threads: int = 2
    waiting: Literal["as installed", "briefly"] = "as installed"

    @property
    @abstractmethod
    def name(self) -> str:
        """Name in the table, with all that distinguishes it."""

    @abstractmethod
    def measure(self, data: DataConfig) -> dict[str, Any]:
        """Runs and returns plain values; `steps` is a list of `Step`."""

    def environment(self) -> dict[str, str]:
        """Environment of the process. `briefly` is how our workers wait (benchmarks/waiting_threads.py)."""
        brief = {"GOMP_SPINCOUNT": "1000"} if self.waiting == "briefly" else {}
        return {"OMP_NUM_THREADS": str(self.threads)} | brief


@dataclass(frozen=True)
class Material:
    """The model, sentences and targets that all contestants train on.

    Attributes:
        rows: What Trainer takes of each window: `input_ids`, `attention_mask`, for two texts `token_type_ids`, and the targets as
            models of transformers name them; the target of a word is at its first sub-word. Where hidden words are learned there
            are no targets but `offset_mapping`, by which its collator finds words to hide.
    """

    splits: Splits
    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerFast
    encoder: Encoder
    rows: list[dict[str, Any]]


def load_material(data: DataConfig, seed: int = SEED, task: BaseTask[Any] | None = None) -> Material:
    """Reads and encodes, and loads the model under a new head."""
    import torch

    from training.model.models import ModelConfig, build_model, load_tokenizer, make_encoder

    config = ModelConfig(name=MODEL)
    tokenizer = load_tokenizer(config.name)
    encoder = make_encoder(tokenizer, config)
    splits = load_splits(data, task or TokenClassification())
    if splits.task.learns_from_text:
        rows = unlabelled_rows(tokenizer, [splits.task.text_of(example) for example in splits.train], encoder)
    else:
        rows = labelled_rows(splits, encoder)
    torch.manual_seed(seed)
    return Material(splits, build_model(config, splits.task), tokenizer, encoder, rows)


def labelled_rows(splits: Splits, encoder: Encoder) -> list[dict[str, Any]]:
    """The windows of the training split with their targets."""
    pairs = len(splits.task.input_fields) > 1
    rows = []
    for example, document in zip(splits.train, splits.task.encode(encoder, splits.train), strict=True):
        for window, targets in zip(document.windows, splits.task.targets(example, document), strict=True):
            ids = window.input_ids.tolist()
            types = {"token_type_ids": window.type_ids.tolist()} if pairs else {}
            answers = named_targets(splits.task.decision, targets.tolist())
            rows.append({"input_ids": ids, "attention_mask": [1] * len(ids), **types, **answers})
    return rows


def unlabelled_rows(tokenizer: PreTrainedTokenizerFast, texts: Sequence[str], encoder: Encoder) -> list[dict[str, Any]]:
    """The windows of texts, as transformers' tokenizer cuts them."""
    found = tokenizer(
        list(texts), truncation=True, max_length=encoder.max_tokens, stride=encoder.stride,
        return_overflowing_tokens=True, return_offsets_mapping=True,
    )  # fmt: skip
    names = ("input_ids", "attention_mask", "offset_mapping")
    return [dict(zip(names, row, strict=True)) for row in zip(*(found[name] for name in names), strict=True)]


def named_targets(decision: Decision, targets: Any) -> dict[str, Any]:
    """A window's targets as the heads of transformers take them."""
    if decision.of_tokens:
        return dict(zip(("start_positions", "end_positions"), targets, strict=True))
    return {"labels": [float(target) for target in targets] if decision.binary else targets}


def write_samples(data: DataConfig, directory: Path, *, size: int) -> tuple[DataConfig, DataConfig]:
    """Writes the data sets that speed is measured on: all training sentences, and a random part; dev and test are a few of them."""
    splits = load_splits(data, TokenClassification())
    part = random.Random(SEED).sample(splits.train, min(size, len(splits.train)))
    names = (f"{kind}-{len(train)}-{splits.digest[:8]}" for kind, train in (("whole", splits.train), ("part", part)))
    return _write_sample(directory / next(names), splits.train), _write_sample(directory / next(names), part)


def _write_sample(directory: Path, train: Sequence[Any]) -> DataConfig:
    """Writes one data set."""
    directory.mkdir(exist_ok=True)
    for name, examples in (("train", train), ("dev", train[:UNSEEN]), ("test", train[:UNSEEN])):
        records = ({"text": example.text, "spans": [span._asdict() for span in example.spans]} for example in examples)
        (directory / f"{name}.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    return DataConfig(path=str(directory))
