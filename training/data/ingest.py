"""Reads and encodes a data set for training: small ones in memory, large ones streamed to disk, with the same windows."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import tokenizers
from pydantic import Field

from agent.config.base import Config
from agent.data.digests import data_digest, split_digest
from agent.data.formats.recognition import recognise
from agent.data.lines import Part, cut_file
from agent.data.sources import Source
from agent.data.split_files import SPLITS
from agent.data.splits import (
    DEFAULT_KIND,
    TEST_OF_DEV,
    DataConfig,
    Splits,
    check_labelled,
    check_split,
    find_files,
    halve,
    load_splits,
    open_sources,
    read_examples,
)
from agent.encoding import Encoder
from agent.errors import DataError
from agent.segmentation import Segmentation
from agent.tasks import BaseTask
from training.data.packing import Windows, pack
from training.data.parallel_encoding import ParallelEncoding, with_labels
from training.data.segmentation_choice import AUTO, SegmentationConfig, choose_segmentation, reach
from training.data.token_cache import StoreContent, StoreDraft, StoredWindows, draft_store, find_store, store_key

CACHE = "~/.cache/bert-agent/windows"
_PART_BYTES = 4_000_000  # text of one task: some seconds of work, some tens of MB of objects


class IngestConfig(Config):
    """How training data reaches the workers."""

    mode: Literal["auto", "memory", "stream"] = Field(
        "auto", description="read train at once on the driver, or in parts with Ray Data; auto goes by its size"
    )
    stream_above_mb: float = Field(64, gt=0, description="size of the train files from which auto streams")
    cache: str | None = Field(
        None,
        description="directory that keeps tokenised data, found again by digest; all nodes must share it. "
        f"Default: {CACHE} when streaming, none otherwise",
    )


@dataclass(frozen=True)
class TrainingData:
    """The data of a run.

    Attributes:
        task: The task, labels included.
        train: Encoded windows, in memory or memory-mapped.
        dev, test: Examples.
        digest: Of the content of all splits; the same however it was read.
        num_train: Examples that `train` was made from.
        segmentation: How texts are cut into pieces.
        notes: Remarks for the user on how the data was read.
    """

    task: BaseTask[Any]
    train: Windows
    dev: list[Any]
    test: list[Any]
    digest: str
    num_train: int
    segmentation: Segmentation
    notes: tuple[str, ...] = ()


def streams(config: DataConfig, ingest: IngestConfig, kind: str = DEFAULT_KIND) -> bool:
    """Whether the train split is streamed, which needs a connection to Ray."""
    if ingest.mode != "auto":
        return ingest.mode == "stream"
    train = find_files(config).get("train", ())
    large = sum(file.stat().st_size for file in train) > ingest.stream_above_mb * 1e6
    hints = config.hints(kind)
    return large and config.max_examples is None and all(recognise(file, hints).ends_record for file in train)


def open_data(  # noqa: PLR0913  # parts of a run's configuration, each by its name
    config: DataConfig,
    task: BaseTask[Any],
    *,
    ingest: IngestConfig,
    segmentation: SegmentationConfig = AUTO,
    seed: int,
    make_encoder: Callable[[], Encoder],
) -> TrainingData:
    """Reads and encodes a data set. Where it `streams`, this process is connected to Ray already.

    Args:
        config: Which data.
        task: With labels, or a template that takes them from train.
        ingest: How train is read, and where its windows are kept.
        segmentation: How texts are cut into pieces, or that it is chosen by examples: of train, or of dev where train is not in memory.
        seed: Chooses the examples held out where there is no dev split (in memory only).
        make_encoder: Called once the data could be opened.

    Raises:
        DataError: Names file, line, what is wrong and how to mend it.
    """
    if streams(config, ingest, task.kind):
        return _stream(config, task, ingest, segmentation, make_encoder)
    splits = load_splits(config, task, seed=seed)
    return encode_splits(splits, make_encoder(), ingest, segmentation)


def encode_splits(
    splits: Splits, encoder: Encoder, ingest: IngestConfig, segmentation: SegmentationConfig = AUTO
) -> TrainingData:
    """Encodes examples that are in memory.

    Raises:
        DataError: A logged decision is in dev or test.
    """
    for name in SPLITS:
        check_labelled(name, getattr(splits, name))
    cut, notes = choose_segmentation(segmentation, splits.task, encoder, splits.train)
    encoder = encoder.with_segmentation(cut)
    notes += _remarks(splits.task, encoder, {name: getattr(splits, name) for name in SPLITS})
    train = _encode_in_memory(splits, encoder, ingest.cache)
    return TrainingData(
        splits.task, train, splits.dev, splits.test, splits.digest,
        num_train=len(splits.train), segmentation=cut, notes=(*splits.notes, *notes),
    )  # fmt: skip


def _remarks(task: BaseTask[Any], encoder: Encoder, splits: Mapping[str, Sequence[Any]]) -> tuple[str, ...]:
    """What a perfect model could answer of each split, and what else the task has to say of it."""
    found = {name: reach(task, encoder, examples) for name, examples in splits.items()}
    told = [each.told(name) for name, each in found.items() if each]
    for name, examples in splits.items():
        told += [f"{name}: {remark}" for remark in task.remarks(encoder, examples)]
    return tuple(told)


def _encode_in_memory(splits: Splits, encoder: Encoder, cache: str | None) -> Windows:
    if cache is None:
        return pack(splits.task, encoder, splits.train)

    def fill(draft: StoreDraft) -> StoreContent:
        draft.append(pack(splits.task, encoder, splits.train))
        return StoreContent(splits.task.labels, split_digest(splits.train))

    return find_or_fill(cache, windows_key(splits.task, encoder, splits.digest), fill)


def _stream(
    config: DataConfig,
    task: BaseTask[Any],
    ingest: IngestConfig,
    segmentation: SegmentationConfig,
    make_encoder: Callable[[], Encoder],
) -> TrainingData:
    sources, held, read = _streamable(config, task), dict[str, list[Any]](), list[str]()
    for name in sorted(sources.keys() - {"train"}):
        held[name], met = read_examples(config, task, sources[name])
        read += [f"{name}: {note}" for note in met]
    if "test" not in held:
        held |= halve(held["dev"])
        read.append(TEST_OF_DEV.format(path=config.path))
    read += [f"train: {note}" for note in sources["train"].notes]
    parts, source = sources["train"].cut(_PART_BYTES)
    for name, found in {"train": parts, **held}.items():
        check_split(config, name, found)
    encoder = make_encoder()
    cut, notes = choose_segmentation(segmentation, task, encoder, held["dev"])
    encoder = encoder.with_segmentation(cut)
    notes += _remarks(task, encoder, held)
    source = f"{source} {config.text} {config.language}"

    def fill(draft: StoreDraft) -> StoreContent:
        return _encode(draft, ParallelEncoding(parts, task, encoder, draft.path / "parts", config), config)

    store = find_or_fill(ingest.cache or CACHE, windows_key(task, encoder, source), fill)
    complete = with_labels(task, store.manifest.labels)
    for name, examples in held.items():
        complete.check_labels(examples)
        check_labelled(name, examples)
    digests = {"train": store.manifest.split_digest} | {name: split_digest(found) for name, found in held.items()}
    note = f"train is streamed; its windows lie in {store.directory}"
    return TrainingData(
        complete, store, **held, digest=data_digest(digests), num_train=store.manifest.num_examples,
        segmentation=cut, notes=(*read, note, *notes),
    )  # fmt: skip


def _streamable(config: DataConfig, task: BaseTask[Any]) -> dict[str, Source]:
    """The splits of a data set that can be streamed.

    Raises:
        DataError: It cannot, with the reason.
    """
    files = find_files(config)
    reasons = {
        f"data.path={config.path!r} is no directory": not files,
        f"data.max_examples={config.max_examples} asks for a part of it": config.max_examples is not None,
        f"{config.path} has no dev split, and none is held out of what is not in memory": "dev" not in files,
    }
    for reason, holds in reasons.items():
        if holds:
            raise DataError(
                f"train cannot be streamed: {reason}",
                allowed="a whole directory with train, dev and test files",
                remedy="add what is missing (dev.jsonl), or read it at once with ingest.mode=memory",
            )
    for name in SPLITS if not task.learns_from_text else ("train", "dev"):
        check_split(config, name, files.get(name))
    sources = open_sources(config, task.kind)
    if whole := sources["train"].whole:
        raise DataError(
            f"train cannot be streamed: {whole}",
            allowed="CoNLL columns, JSON lines of our own shapes and plain text, not packed",
            remedy=f"write them: python -m agent.data {config.path} output=DIR, or read it at once with ingest.mode=memory",
        )
    return sources


def cut_files(files: Sequence[Path], ends_record: Callable[[bytes], bool]) -> tuple[list[Part], str]:
    """The parts of files of one kind, and a digest of their bytes."""
    parts, digest = list[Part](), hashlib.sha256()
    for file in files:
        found, content = cut_file(file, _PART_BYTES, ends_record)
        parts += found
        digest.update(f"{file.suffix} {content}\n".encode())
    return parts, digest.hexdigest()


def _encode(draft: StoreDraft, work: ParallelEncoding, config: DataConfig) -> StoreContent:
    """Encodes all parts and appends their windows in the order of the files."""
    work.directory.mkdir()
    parts = [part for part in work.run() if part.num_examples]
    check_split(config, "train", parts)
    labels = tuple(sorted({label for part in parts for label in part.labels}))
    task = with_labels(work.task, work.task.labels or labels)
    if not task.labels:
        task.with_labels([])  # raises
    digest = hashlib.sha256()
    for part in parts:
        windows, example_digests = work.load(part, task.outputs)
        draft.append(windows)
        digest.update(example_digests)
        work.remove(part)
    work.directory.rmdir()
    return StoreContent(task.labels, digest.hexdigest())


def find_or_fill(cache: str, key: str, fill: Callable[[StoreDraft], StoreContent]) -> StoredWindows:
    """The windows cached under a key, written by `fill` if there are none."""
    directory = Path(cache).expanduser().absolute()
    if store := find_store(directory, key):
        return store
    with draft_store(directory, key) as draft:
        return draft.publish(fill(draft))


def windows_key(task: BaseTask[Any], encoder: Encoder, data: str) -> str:
    """The cache key of windows: digest of the data, task, tokenizer and window length."""
    return store_key(
        data=data,
        task=task.model_dump(mode="json"),
        tokenizer=encoder.tokenizer.to_str(),
        tokenizers=tokenizers.__version__,
        max_tokens=encoder.max_tokens,
        stride=encoder.stride,
        segmentation=encoder.segmentation.model_dump(mode="json"),
    )
