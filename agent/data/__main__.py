"""`python -m agent.data PATH`: shows what training would read of a data set, and writes it in the normal form."""

from __future__ import annotations

import json
import random
import sys
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from pydantic import Field

from agent.config import cli
from agent.config.base import Config
from agent.data.data_summary import ReadSplit, describe, text_of
from agent.data.exports import Form, write_split
from agent.data.formats.base import Record
from agent.data.normalisation.normal_form import SplitReport
from agent.data.sources import Source, told
from agent.data.split_files import SPLITS
from agent.data.splits import DataConfig, kinds_of, open_sources, open_split
from agent.tasks import KINDS, BaseTask

_USAGE = """
Shows what training would read: format, splits, labels with counts, lengths, spans that cannot be taught, texts in two splits.

  python -m agent.data DIR                                   a directory with train, dev and test, 'demo' or a hub data set
  python -m agent.data FILE output=DIR format=doccano        answers of an agent, for people to correct them in a tool
  python -m agent.data FILE output=DIR test_fraction=0.1     one file: makes splits of it and writes them in the normal form
"""


class ShowConfig(Config):
    """What to show, and whether to write it."""

    data: DataConfig = Field(default_factory=DataConfig)
    format: Form = Field(
        "jsonl",
        description="what is written: jsonl is the normal form, the others are files of a tool in which people correct entities",
    )
    output: str | None = Field(
        None, description="directory that takes train.jsonl, dev.jsonl and test.jsonl in the normal form"
    )
    test_fraction: float | None = Field(
        None,
        gt=0,
        lt=0.5,
        description="part of train that becomes test where there is none; dev takes data.dev_fraction",
    )
    seed: int = Field(0, description="chooses which texts become dev and test")


def show(config: ShowConfig) -> None:
    """Prints what a data set holds, and writes it where `output` says so.

    Raises:
        DataError: A record that no task could read; spans that cannot be taught, after everything was shown.
    """
    splits = {name: _read(source, config.data.max_examples) for name, source in _sources(config.data).items()}
    _check(splits)
    splits = _completed(splits, config)
    print(describe(splits), flush=True)
    for name in SPLITS:
        if name not in splits:
            print(f"\nno {name} split{_REMEDIES.get(name, '')}")
    for split in splits.values():
        split.report.refuse(config.data.spans)
    if config.output:
        directory = Path(config.output).expanduser()
        for name, split in splits.items():
            files = write_split(directory, name, split.records, config.format, config.data.join)
            print(f"{files[0] if len(files) == 1 else files[0].parent}: {len(split.records):,} examples")


_REMEDIES = {
    "dev": ": training holds a part of train out (data.dev_fraction)",
    "test": ": training needs one; test_fraction=0.1 makes one of train (with output=DIR)",
}


def _sources(config: DataConfig) -> Mapping[str, Source]:
    path = Path(config.path).expanduser()
    return {"train": open_split(config, [path])} if path.is_file() else open_sources(config)


def _read(source: Source, limit: int | None) -> ReadSplit:
    report = SplitReport()
    records = list(source.read(report, limit))
    return ReadSplit(source, records, report, [*source.notes, *told(report, source.reading.spans)])


def _completed(splits: Mapping[str, ReadSplit], config: ShowConfig) -> dict[str, ReadSplit]:
    """Splits with those that are cut from train; the same text never comes to two of them."""
    if config.test_fraction is None or "test" in splits or "train" not in splits:
        return dict(splits)
    train = splits["train"]
    shares = {"test": config.test_fraction} | ({} if "dev" in splits else {"dev": config.data.dev_fraction})
    texts = list(dict.fromkeys(text_of(record) for record, _ in train.records))
    random.Random(config.seed).shuffle(texts)
    home, first = dict.fromkeys(texts, "train"), 0
    for name, share in shares.items():
        number = max(1, round(len(texts) * share))
        home.update(dict.fromkeys(texts[first : first + number], name))
        first += number
    cut: dict[str, list[Record]] = {name: [] for name in ("train", *shares)}
    for record in train.records:
        cut[home[text_of(record[0])]].append(record)
    found = {**splits, **{name: ReadSplit(train.source, records) for name, records in cut.items()}}
    found["train"] = replace(train, records=cut["train"])
    return {name: found[name] for name in SPLITS if name in found}


def _check(splits: Mapping[str, ReadSplit]) -> None:
    """Reads every record as the task would.

    Raises:
        DataError: Names the first that it would refuse.
    """
    for split in splits.values():
        kind = next(iter(kinds_of(split.records)), "token_classification")
        task: BaseTask[Any] = KINDS[kind].model_validate({"kind": kind})
        for record, where in split.records:
            task.read_record(record, where)


def main() -> int:
    """Runs the command line; its first argument is the path."""
    given = sys.argv[1:]
    if given and not given[0].startswith("-") and "=" not in given[0]:
        given[0] = f"data.path={json.dumps(given[0])}"
    return cli.run(ShowConfig, show, usage=_USAGE, arguments=given)


if __name__ == "__main__":
    sys.exit(main())
