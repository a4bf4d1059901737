"""Where the three splits come from, and what must hold of them before anything is trained."""

from __future__ import annotations

import hashlib
import json
import random
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import Field

from agent.config import Config
from agent.data.conll import Record, read_conll
from agent.data.hub import read_hub
from agent.data.jsonl import read_jsonl
from agent.errors import DataError
from agent.tasks import BaseTask

DEMO = "demo"
_READERS = {".conll": read_conll, ".txt": read_conll, ".iob2": read_conll, ".jsonl": read_jsonl}
_NAMES = ("train", "dev", "test")


class DataConfig(Config):
    """Which data to use."""

    path: str = Field(
        DEMO, description="'demo', a directory with train/dev/test files (.conll .txt .iob2 .jsonl), or a hub data set"
    )
    subset: str | None = Field(None, description="configuration of a hub data set that has several")
    dev_fraction: float = Field(
        0.1, gt=0, lt=0.5, description="part of train that is held out when there is no dev split"
    )
    max_examples: int | None = Field(None, ge=1, description="use only the first examples of each split (for trials)")


@dataclass(frozen=True)
class Splits:
    """Checked examples.

    Attributes:
        task: The task, labels included.
        train, dev, test: Examples, none empty.
        digest: sha256 over the content of all splits.
        notes: What the user should know about how the splits were made.
    """

    task: BaseTask[Any]
    train: list[Any]
    dev: list[Any]
    test: list[Any]
    digest: str
    notes: tuple[str, ...] = ()


def load_splits(config: DataConfig, task: BaseTask[Any], *, seed: int = 0) -> Splits:
    """Reads, completes and checks the splits of a data set for a task.

    A missing dev split is cut from train (`dev_fraction`, by `seed`); a missing test split is an error. The task's labels are taken from
    train if it has none.

    Raises:
        DataError: Names file, line, what is wrong and how to mend it.
    """
    records = _open(config, task)
    read = {name: [task.read_record(record, where) for record, where in rows] for name, rows in records.items()}
    read = {name: examples[: config.max_examples] for name, examples in read.items()}
    notes: list[str] = []
    complete = task.with_labels(read["train"]) if read.get("train") else task  # before any is held out
    if "dev" not in read and "train" in read:
        read |= _hold_out(read["train"], config.dev_fraction, seed)
        notes.append(
            f"no dev split in {config.path}: held out {len(read['dev'])} of its training examples (data.dev_fraction={config.dev_fraction})"
        )
    for name in _NAMES:
        if not read.get(name):
            raise DataError(
                f"data.path={config.path!r}: the {name} split is {'empty' if name in read else 'missing'}",
                allowed=_FILES,
                remedy=f"add {name}.conll or {name}.jsonl with at least one example",
            )
    for name in _NAMES:
        complete.check_labels(read[name])
    return Splits(complete, **read, digest=_digest(read), notes=tuple(notes))


_FILES = "files train, dev and test, each .conll, .txt, .iob2 or .jsonl"


def _open(config: DataConfig, task: BaseTask[Any]) -> Mapping[str, Iterable[Record]]:
    if config.path == DEMO:
        return _demo(task)
    directory = Path(config.path).expanduser()
    if directory.is_dir():
        return {name: _READERS[file.suffix](file) for name, file in _files(directory).items()}
    if directory.exists() or config.path.startswith((".", "/", "~")):
        state = "is a file" if directory.exists() else "does not exist"
        raise DataError(
            f"data.path={config.path!r} {state}",
            allowed=f"a directory with {_FILES}, 'demo' or a hub data set",
            remedy="check the path",
        )
    return read_hub(config.path, config.subset)


def _files(directory: Path) -> dict[str, Path]:
    found: dict[str, Path] = {}
    for name in _NAMES:
        files = [directory / f"{name}{suffix}" for suffix in _READERS if (directory / f"{name}{suffix}").is_file()]
        if len(files) > 1:
            raise DataError(
                f"{directory} holds {' and '.join(file.name for file in files)}",
                allowed="one file for each split",
                remedy="move one of them away",
            )
        if files:
            found[name] = files[0]
    if not found:
        raise DataError(f"directory {directory} holds no data files", allowed=_FILES, remedy="check data.path")
    return found


def _demo(task: BaseTask[Any]) -> dict[str, Iterator[Record]]:
    from agent.corpus import generate

    def records(name: str, sentences: Iterable[Any]) -> Iterator[Record]:
        for number, sentence in enumerate(sentences):
            spans = [{"start": start, "end": end, "label": label} for start, end, label in sentence.spans]
            yield {"text": sentence.text, "spans": spans, "label": sentence.genre}, f"demo/{name}[{number}]"

    return {name: records(name, sentences) for name, sentences in generate().items()}


def _hold_out(train: list[Any], fraction: float, seed: int) -> dict[str, list[Any]]:
    order = random.Random(seed).sample(range(len(train)), len(train))
    held = frozenset(order[: max(1, int(len(train) * fraction))])
    return {
        "train": [example for index, example in enumerate(train) if index not in held],
        "dev": [example for index, example in enumerate(train) if index in held],
    }


def _digest(splits: Mapping[str, list[Any]]) -> str:
    digest = hashlib.sha256()
    for name in _NAMES:
        for example in splits[name]:
            digest.update(
                json.dumps([name, example.model_dump(mode="json", exclude={"where"})], sort_keys=True).encode()
            )
    return digest.hexdigest()
