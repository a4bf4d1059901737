"""Where the three splits come from, and what must hold of them before anything is trained."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Iterator, Mapping, Sized
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

from pydantic import Field

from agent.config.base import Config
from agent.data.conll import Record, ends_sentence, read_conll
from agent.data.digests import data_digest, split_digest
from agent.data.hub import read_hub
from agent.data.jsonl import ends_object, read_jsonl
from agent.data.lines import Part
from agent.data.natural_text import TextForm, joiner
from agent.errors import DataError
from agent.tasks import BaseTask
from agent.tasks.base import Join

DEMO = "demo"
SPLITS = ("train", "dev", "test")


class Format(NamedTuple):
    """How a kind of file is read, and after which lines it may be cut into parts."""

    read: Callable[[Part], Iterator[Record]]
    ends_record: Callable[[bytes], bool]


_COLUMNS = Format(read_conll, ends_sentence)
FORMATS: Mapping[str, Format] = {
    ".conll": _COLUMNS,
    ".txt": _COLUMNS,
    ".iob2": _COLUMNS,
    ".jsonl": Format(read_jsonl, ends_object),
}


class DataConfig(Config):
    """Which data to use."""

    path: str = Field(
        DEMO,
        description="'demo', a directory with train/dev/test files (.conll .txt .iob2 .jsonl; several as train-*.jsonl), or a hub data set",
    )
    subset: str | None = Field(None, description="configuration of a hub data set that has several")
    dev_fraction: float = Field(
        0.1, gt=0, lt=0.5, description="part of train that is held out when there is no dev split"
    )
    max_examples: int | None = Field(None, ge=1, description="use only the first examples of each split (for trials)")
    text: TextForm = Field(
        "natural",
        description="what becomes of data that comes as words: natural text, as callers send it, or the words joined by single blanks",
    )
    language: str = Field(
        "en", min_length=2, description="of data that comes as words (ISO 639-1): natural text follows its rules"
    )

    @property
    def join(self) -> Join:
        """Makes a text of words."""
        return joiner(self.text, self.language)


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
    records, join = _open(config, task), config.join
    read = {
        name: [task.read_record(record, where, join=join) for record, where in islice(rows, config.max_examples)]
        for name, rows in records.items()
    }
    notes: list[str] = []
    complete = task.with_labels(read["train"]) if read.get("train") else task  # before any is held out
    if "dev" not in read and "train" in read:
        read |= _hold_out(read["train"], config.dev_fraction, seed)
        notes.append(
            f"no dev split in {config.path}: held out {len(read['dev'])} of its training examples (data.dev_fraction={config.dev_fraction})"
        )
    for name in SPLITS:
        check_split(config, name, read.get(name))
    for name in SPLITS:
        complete.check_labels(read[name])
    digest = data_digest({name: split_digest(read[name]) for name in SPLITS})
    return Splits(complete, **read, digest=digest, notes=tuple(notes))


def check_split(config: DataConfig, name: str, found: Sized | None) -> None:
    """Refuses a split that is missing (None) or empty.

    Raises:
        DataError: Names the split.
    """
    if not found:
        raise DataError(
            f"data.path={config.path!r}: the {name} split is {'missing' if found is None else 'empty'}",
            allowed=_FILES,
            remedy=f"add {name}.conll or {name}.jsonl with at least one example",
        )


def find_files(config: DataConfig) -> dict[str, tuple[Path, ...]]:
    """The files of each split, in reading order; nothing where `data.path` is no directory.

    A split is one file (`train.jsonl`) or several of one kind (`train-00.jsonl`, `train-01.jsonl`), read in order of name.

    Raises:
        DataError: The directory holds no data, or files of which it is not clear which are meant.
    """
    directory = Path(config.path).expanduser()
    if config.path == DEMO or not directory.is_dir():
        return {}
    found = {name: files for name in SPLITS if (files := _files_of(directory, name))}
    if not found:
        raise DataError(f"directory {directory} holds no data files", allowed=_FILES, remedy="check data.path")
    return found


def read_files(files: Iterable[Path]) -> Iterator[Record]:
    """Yields the records of files, one after another.

    Raises:
        DataError: Names file and line.
    """
    for file in files:
        yield from FORMATS[file.suffix].read(Part(file))


_FILES = "files train, dev and test, each .conll, .txt, .iob2 or .jsonl"


def _open(config: DataConfig, task: BaseTask[Any]) -> Mapping[str, Iterable[Record]]:
    if config.path == DEMO:
        return _demo(task)
    if files := find_files(config):
        return {name: read_files(paths) for name, paths in files.items()}
    if (path := Path(config.path).expanduser()).exists() or config.path.startswith((".", "/", "~")):
        raise DataError(
            f"data.path={config.path!r} {'is a file' if path.exists() else 'does not exist'}",
            allowed=f"a directory with {_FILES}, 'demo' or a hub data set",
            remedy="check the path",
        )
    return read_hub(config.path, config.subset)


def _files_of(directory: Path, name: str) -> tuple[Path, ...]:
    whole = [directory / f"{name}{suffix}" for suffix in FORMATS]
    several = [sorted(directory.glob(f"{name}-*{suffix}")) for suffix in FORMATS]
    choices = [[file] for file in whole if file.is_file()] + [files for files in several if files]
    if len(choices) > 1:
        raise DataError(
            f"{directory} holds {' and '.join(files[0].name for files in choices)}",
            allowed="one file for each split, or several of one kind (train-*.jsonl)",
            remedy="move the others away",
        )
    return tuple(choices[0]) if choices else ()


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
