"""Data sets of the Hugging Face hub, read through `datasets` into the same records as files."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Any

from agent.data.formats.base import Record
from agent.errors import DataError, one_line

_SPLITS = {"train": ("train",), "dev": ("validation", "dev", "valid"), "test": ("test",)}
_TAGS = ("tags", "ner_tags", "labels")


def read_hub(name: str, subset: str | None) -> dict[str, Callable[[], Iterator[Record]]]:
    """Loads a hub data set; returns its splits under our names (`validation` becomes `dev`).

    Columns `tokens` with `ner_tags` (or `tags`), `text` with `spans`, `label` or `labels`, and `question` with `context` and `answers`
    are read; class indices become their names.

    Raises:
        DataError: `datasets` is absent, or the data set cannot be loaded.
    """
    try:
        import datasets
    except ImportError:
        raise DataError(
            f"data.path={name!r} is no directory, and reading it from the hub needs the package 'datasets'",
            remedy="pip install datasets, or give a directory",
        ) from None
    try:
        loaded = datasets.load_dataset(name, subset)
    except Exception as error:  # noqa: BLE001  # the hub's client raises a dozen unrelated kinds
        raise DataError(
            f"data.path={name!r} is no directory, and the hub did not give it ({type(error).__name__}: {one_line(error, 200)})",
            allowed="'demo', a directory with train/dev/test files, or the name of a hub data set",
            remedy="check the path; to use the hub check the name, the network and HF_ENDPOINT",
        ) from None
    found = {ours: next((split for split in theirs if split in loaded), None) for ours, theirs in _SPLITS.items()}
    return {ours: partial(_records, name, split, loaded[split]) for ours, split in found.items() if split}


def _records(name: str, split: str, rows: Any) -> Iterator[Record]:
    for number, row in enumerate(rows):
        yield _record(row, rows.features), f"{name}/{split}[{number}]"


def _record(row: Mapping[str, Any], features: Mapping[str, Any]) -> dict[str, Any]:
    record = dict(row)
    column = next((tags for tags in _TAGS if tags in record), None)
    if "tokens" in record and column:
        return {"tokens": record["tokens"], "tags": _names(record[column], getattr(features[column], "feature", None))}
    if isinstance(record.get("labels"), list):
        record["labels"] = _names(record["labels"], getattr(features["labels"], "feature", None))
    if "label" in record:
        record["label"] = _names([record["label"]], features["label"])[0]
    return record


def _names(values: list[Any], feature: Any) -> list[Any]:
    """Names of class indices; what has no name (-1 or None where labels are withheld) is left for the task to refuse."""
    names = getattr(feature, "names", None)
    if not names:
        return values
    return [names[value] if isinstance(value, int) and 0 <= value < len(names) else value for value in values]
