"""Where the three splits come from, and what must hold of them before anything is trained."""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence, Sized
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Self

from pydantic import Field, field_validator, model_validator

from agent.config.base import Config
from agent.data.digests import data_digest, split_digest
from agent.data.formats.base import Hints, Record
from agent.data.hub import read_hub
from agent.data.natural_text import TextForm, joiner
from agent.data.normalisation.normal_form import SpansConfig, SplitReport
from agent.data.parallel_text import parallel_files
from agent.data.sources import Source, open_files, open_rows
from agent.data.split_files import FILES, SPLITS, split_files
from agent.errors import DataError
from agent.tasks import KINDS, BaseTask
from agent.tasks.base import Join

DEMO = "demo"
DEFAULT_KIND = "token_classification"


class DataConfig(Config):
    """Which data to use."""

    path: str = Field(
        DEMO,
        description="'demo', a directory with train/dev/test files (CoNLL columns, JSON lines, Parquet, brat and others), or a hub data set",
    )
    subset: str | None = Field(None, description="configuration of a hub data set that has several")
    dev_fraction: float = Field(
        0.1, gt=0, lt=0.5, description="part of train that is held out when there is no dev split"
    )
    max_examples: int | None = Field(None, ge=1, description="use only the first examples of each split (for trials)")
    tag_column: int | None = Field(
        None,
        ge=2,
        description="of CoNLL columns, the number of the one that holds the tags, from 1; by content if not given",
    )
    label_names: tuple[str, ...] = Field(
        (), description="what numbers stand for that are given as tags or classes, in their order from 0"
    )
    spans: SpansConfig = Field(default_factory=SpansConfig)
    text: TextForm = Field(
        "natural",
        description="what becomes of data that comes as words: natural text, as callers send it, or the words joined by single blanks",
    )
    language: str = Field(
        "en", min_length=2, description="of data that comes as words (ISO 639-1): natural text follows its rules"
    )

    def hints(self, kind: str) -> Hints:
        """What files do not say of themselves, for a kind of task."""
        return Hints(self.tag_column, self.label_names, KINDS[kind].learns_from_text, self.languages)

    languages: tuple[str, str] | None = Field(
        None,
        description="of parallel files (train.en, train.de): the suffix of the texts, then that of what is written of them, as [en, de]",
    )
    test_name: str | None = Field(
        None,
        min_length=1,
        description="of parallel files, which of several test sets to take, without suffix (test2016)",
    )

    @field_validator("languages")
    @classmethod
    def _two_suffixes(cls, languages: tuple[str, str] | None) -> tuple[str, str] | None:
        if languages and (languages[0] == languages[1] or not all(map(re.compile(r"[\w-]+").fullmatch, languages))):
            raise ValueError("give two suffixes that differ, as in [en, de]")
        return languages

    @model_validator(mode="after")
    def _test_of_parallel_files(self) -> Self:
        if self.test_name and not self.languages:
            raise ValueError("test_name is for parallel files: give languages as well, as in [en, de]")
        return self

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

    A missing dev split is cut from train (`dev_fraction`, by `seed`); a missing test split is an error, or the second half of dev where
    a task learns from text alone. The task's labels are taken from
    train if it has none.

    Raises:
        DataError: Names file, line, what is wrong and how to mend it.
    """
    read, notes = dict[str, list[Any]](), list[str]()
    for name, source in open_sources(config, task.kind).items():
        read[name], met = read_examples(config, task, source)
        notes += [f"{name}: {note}" for note in met]
    complete = task.with_labels(read["train"]) if read.get("train") else task  # before any is held out
    if "dev" not in read and "train" in read:
        read |= hold_out(read["train"], config.dev_fraction, seed)
        notes.append(
            f"no dev split in {config.path}: held out {len(read['dev'])} of its training examples (data.dev_fraction={config.dev_fraction})"
        )
    if task.learns_from_text and "test" not in read and read.get("dev"):
        read |= halve(read["dev"])
        notes.append(TEST_OF_DEV.format(path=config.path))
    for name in SPLITS:
        check_split(config, name, read.get(name), [note for note in notes if note.startswith(f"{name}: ")])
    for name in SPLITS:
        complete.check_labels(read[name])
        check_labelled(name, read[name])
    notes += _doubts(complete, read)
    digest = data_digest({name: split_digest(read[name]) for name in SPLITS})
    return Splits(complete, **read, digest=digest, notes=tuple(notes))


def check_split(config: DataConfig, name: str, found: Sized | None, notes: Iterable[str] = ()) -> None:
    """Refuses a split that is missing (None) or empty.

    Args:
        config: Which data.
        name: Of the split.
        found: Its examples.
        notes: What was met while it was read, which tells why it may be empty.

    Raises:
        DataError: Names the split.
    """
    if not found:
        raise DataError(
            f"data.path={config.path!r}: the {name} split is {'; '.join(['missing' if found is None else 'empty', *notes])}",
            allowed=FILES,
            remedy=f"add {name}.conll or {name}.jsonl with at least one example",
        )


def check_labelled(name: str, examples: Iterable[Any]) -> None:
    """Refuses logged decisions where labels are needed, to score by.

    Raises:
        DataError: Names the first such record of a split other than train.
    """
    first = next((example.where for example in examples if example.logged), None) if name != "train" else None
    if first is not None:
        raise DataError(
            f"{first}: a logged decision in the {name} split, whose label is an answer that need not be right",
            allowed="records that people have labelled, in dev and test",
            remedy="take records with a reward to train alone, and give dev and test splits, so that none are held out of train",
        )


def find_files(config: DataConfig) -> dict[str, tuple[Path, ...]]:
    """The files of each split, in reading order; nothing where `data.path` is no directory.

    Raises:
        DataError: The directory holds no data, or files of which it is not clear which are meant.
    """
    directory = Path(config.path).expanduser()
    is_directory = config.path != DEMO and directory.is_dir()
    if config.languages and not is_directory:
        raise DataError(
            f"data.languages=[{', '.join(config.languages)}] is for parallel files, and data.path={config.path!r} is no directory",
            allowed=f"a directory with train.{config.languages[0]}, train.{config.languages[1]} and the like",
            remedy="mend data.path, or leave data.languages out",
        )
    if not is_directory:
        return {}
    return parallel_files(directory, config.languages, config.test_name) if config.languages else split_files(directory)


def open_split(config: DataConfig, files: Iterable[Path], kind: str = DEFAULT_KIND) -> Source:
    """The files of one split as a source of records.

    Raises:
        DataError: A file is of no known format, or what it says is not clear.
    """
    return open_files(files, config.spans, config.hints(kind), config.max_examples)


def open_sources(config: DataConfig, kind: str = DEFAULT_KIND) -> dict[str, Source]:
    """The splits of a data set as sources of records.

    Args:
        config: Which data.
        kind: Of the task: what the embedded corpus is asked for, and whether plain text is data; other data has the labels that it has.

    Raises:
        DataError: There is no such data set, or a file is of no known format.
    """
    if config.path == DEMO:
        return {name: _rows(config, kind, name, rows) for name, rows in _demo(kind).items()}
    if files := find_files(config):
        return {name: open_split(config, paths, kind) for name, paths in files.items()}
    if (path := Path(config.path).expanduser()).exists() or config.path.startswith((".", "/", "~")):
        raise DataError(
            f"data.path={config.path!r} {'is a file' if path.exists() else 'does not exist'}",
            allowed=f"a directory with {FILES}, 'demo' or a hub data set",
            remedy=f"make splits of it: python -m agent.data {config.path} output=DIR test_fraction=0.1"
            if path.exists()
            else "check the path",
        )
    return {name: _rows(config, kind, name, rows) for name, rows in read_hub(config.path, config.subset).items()}


def read_examples(config: DataConfig, task: BaseTask[Any], source: Source) -> tuple[list[Any], list[str]]:
    """The examples of a split, and what the user should know of how they were read.

    Raises:
        DataError: Names file, line, what is wrong and how to mend it.
    """
    report, examples, join = SplitReport(), list[Any](), config.join
    for record, where in source.read(report, config.max_examples):
        if not examples:
            check_kind(task, source, [(record, where)])
        examples.append(task.read_record(record, where, join=join))
    return examples, source.finish(report)


def check_kind(task: BaseTask[Any], source: Source, first: Sequence[Record]) -> None:
    """Refuses data of another task, by its first record.

    Raises:
        DataError: Names the place, what it holds and the task that it is for.
    """
    held = kinds_of(first)
    if task.learns_from_text and {"text", "tokens"} & set(first[0][0]):
        return  # whatever labels stand beside
    if held and task.kind not in held:
        raise DataError(
            f"{first[0][1]}: {source.name}, which is data for {held[0]}, and the task is {task.kind}",
            allowed=task.record_shape,
            remedy=f"choose task.kind={held[0]}, or give other data",
        )


def kinds_of(records: Sequence[Record]) -> list[str]:
    """The kinds of task that records are labelled data for, by the first of them."""
    keys = set(records[0][0]) if records else set()
    found = {
        kind: wanted
        for kind, task in KINDS.items()
        if not task.learns_from_text
        for wanted in task.record_keys
        if wanted <= keys
    }
    return [kind for kind, wanted in found.items() if not any(wanted < more for more in found.values())]


def _rows(config: DataConfig, kind: str, name: str, rows: Callable[[], Iterator[Record]]) -> Source:
    return open_rows(name, rows, config.spans, config.hints(kind), config.max_examples)


def _demo(kind: str) -> dict[str, Callable[[], Iterator[Record]]]:
    from agent.corpus import generate
    from agent.corpus.task_records import RECORDS

    def records(name: str, sentences: Sequence[Any]) -> Iterator[Record]:
        for number, record in enumerate(RECORDS[kind](sentences)):
            yield record, f"demo/{name}[{number}]"

    return {name: partial(records, name, sentences) for name, sentences in generate().items()}


def _doubts(task: BaseTask[Any], read: Mapping[str, Sequence[Any]]) -> list[str]:
    """What is odd about splits that are complete."""
    found = {name: set().union(*map(task.labels_of, read[name])) for name in SPLITS}
    notes = [
        f"the {name} split has no {task.item_name} at all: its scores say nothing" for name in SPLITS if not found[name]
    ]
    if len(task.labels) == 1 and task.labels[0] != task.item_name:  # where every item has it by nature
        notes.append(f"there is one label only, {task.labels[0]}")
    return notes


TEST_OF_DEV = "no test split in {path}: the second half of dev is test"


def halve(dev: list[Any]) -> dict[str, list[Any]]:
    """Cuts a dev split into dev and test, as it stands: neighbours are often of one document."""
    middle = (len(dev) + 1) // 2
    return {"dev": dev[:middle], "test": dev[middle:]}


def hold_out(train: list[Any], fraction: float, seed: int) -> dict[str, list[Any]]:
    """Cuts a training split into train and dev; the same for examples and for the records that they were read from."""
    order = random.Random(seed).sample(range(len(train)), len(train))
    held = frozenset(order[: max(1, int(len(train) * fraction))])
    return {
        "train": [example for index, example in enumerate(train) if index not in held],
        "dev": [example for index, example in enumerate(train) if index in held],
    }
