"""Which files of a directory are train, dev and test, by the names that people give them."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path

from agent.data.lines import unpacked_name
from agent.errors import DataError

SPLITS = ("train", "dev", "test")
NAMES = {
    "train": ("train", "training"),
    "dev": ("dev", "valid", "val", "validation", "development", "testa"),
    "test": ("test", "testing", "testb"),
}
SUFFIXES = (
    ".conll", ".conllu", ".txt", ".iob", ".iob2", ".bio", ".bioes", ".tsv", ".jsonl", ".ndjson", ".json", ".parquet", ".spacy", ".ann",
)  # fmt: skip
FILES = (
    "files train, dev and test (dev also as valid, val, validation or testa, test as testb), of any name like train.conll, train.jsonl "
    "or corpus-train.txt, or folders of these names"
)


def split_files(directory: Path) -> dict[str, tuple[Path, ...]]:
    """The files of each split of a directory, in reading order.

    A split is one file (`train.jsonl`), several of one kind (`train-00.jsonl`, `train-01.jsonl`, read in order of name), or a folder of them.
    Where no file has the name of a split, one whose name ends with it is taken (`corpus-train.jsonl`, `eng.train`).
    brat's pairs that lie in no folder of a split are all train, and so are the parts that `serving/annotate.py` writes.

    Raises:
        DataError: The directory cannot be read, holds no data, or it is not clear which files are meant.
    """
    try:
        entries = sorted(directory.iterdir())
    except OSError as error:
        raise DataError(f"{directory} cannot be read ({error.strerror})", remedy="check its permissions") from None
    files = [entry for entry in entries if entry.is_file()]
    annotated = {file.stem for file in files if file.suffix == ".ann"}
    files = [file for file in files if not (file.suffix == ".txt" and file.stem in annotated)]
    found = {split: chosen for split in SPLITS if (chosen := _files_of(directory, split, files))}
    for rest in (".ann", ".jsonl", ".parquet"):
        parts = tuple(
            file for file in files if file.suffix == rest and (rest == ".ann" or file.name.startswith("part-"))
        )
        if not found and parts:
            return {"train": parts}
    if not found:
        raise DataError(
            f"directory {directory} holds no data files",
            allowed=FILES,
            remedy="check data.path",
        )
    return found


def _files_of(directory: Path, split: str, files: Iterable[Path]) -> tuple[Path, ...]:
    """Files of one split: by the surest kind of name that there is."""
    kinds: dict[int, dict[tuple[str, str], list[Path]]] = {}
    for file in files:
        if named := _named(file, split):
            rank, group = named
            kinds.setdefault(rank, {}).setdefault(group, []).append(file)
    folders = [directory / name for name in NAMES[split] if (directory / name).is_dir()]
    for folder in folders:
        for file in sorted(folder.iterdir()):
            text_of_pair = file.suffix == ".txt" and file.with_suffix(".ann").is_file()
            if file.is_file() and _suffix(file) in SUFFIXES and not text_of_pair:
                kinds.setdefault(0, {}).setdefault((f"{folder.name}/", _suffix(file)), []).append(file)
    if not kinds:
        return ()
    choices = list(kinds[min(kinds)].values())
    if len(choices) > 1:
        raise DataError(
            f"{directory} holds {' and '.join(str(group[0].relative_to(directory)) for group in choices)}",
            allowed="one file for each split, or several of one kind (train-*.jsonl)",
            remedy="move the others away; of parallel files (train.en, train.de) give data.languages=[en,de]",
        )
    return tuple(choices[0])


def _named(file: Path, split: str) -> tuple[int, tuple[str, str]] | None:
    """How surely a file is of a split (0 is surest), and the group of files that it is one with; None if it is not."""
    suffix = _suffix(file)
    known = suffix in SUFFIXES
    stem = unpacked_name(file)
    stem = stem.removesuffix(suffix) if known or suffix[1:] not in NAMES[split] else stem
    for name in NAMES[split]:
        if stem == name:
            return (0 if known else 2), (name, file.name)
        if stem.startswith(f"{name}-") and known:
            return 0, (f"{name}-", suffix)
        if re.fullmatch(rf".*[-_.]{name}", stem, re.IGNORECASE) and (known or suffix[1:] == name):
            return 1, (stem, suffix)
    return None


def _suffix(file: Path) -> str:
    return Path(unpacked_name(file)).suffix
