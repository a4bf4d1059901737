"""Parallel files: a text a line in one, what is written of it in the same line of the other (train.en, train.de)."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from itertools import zip_longest
from pathlib import Path

from agent.data.formats.base import Findings, Format, Record
from agent.data.lines import Part, numbered_lines, unpacked_name
from agent.data.split_files import NAMES, SPLITS
from agent.errors import DataError

NAME = "parallel files"
_PACKED = ("", ".gz", ".xz")
_LEFT_OUT = "pairs with a blank line"


def is_parallel(file: Path, languages: tuple[str, str]) -> bool:
    """Whether a file is of the language of the texts."""
    return unpacked_name(file).endswith(f".{languages[0]}")


def parallel_format(file: Path, languages: tuple[str, str]) -> Format:
    """How such a file is read, beside the one of the targets.

    Raises:
        DataError: There is none.
    """
    stem = unpacked_name(file).removesuffix(languages[0])
    other = next((found for end in _PACKED if (found := file.with_name(f"{stem}{languages[1]}{end}")).is_file()), None)
    if other is None:
        raise DataError(
            f"{file} has no file beside it with what is written of its lines",
            allowed=f"{stem}{languages[1]}, also as .gz or .xz",
            remedy="add it, or mend data.languages",
        )
    return Format(f"{NAME} ({languages[0]} to {languages[1]})", partial(_read_pairs, other=other))


def parallel_files(directory: Path, languages: tuple[str, str], test_name: str | None) -> dict[str, tuple[Path, ...]]:
    """The file of the texts of each split: `train.en`, `dev.en`, `test.en`, or another name that begins so (`test2016.en`).

    Args:
        directory: Where they lie.
        languages: Suffixes of texts and of targets.
        test_name: The name of the test split's files without suffix, where there are several.

    Raises:
        DataError: There are none, or several for a split.
    """
    try:
        entries = sorted(directory.iterdir())
    except OSError as error:
        raise DataError(f"{directory} cannot be read ({error.strerror})", remedy="check its permissions") from None
    names = {
        file: unpacked_name(file).removesuffix(f".{languages[0]}")
        for file in entries
        if file.is_file() and is_parallel(file, languages)
    }
    named = {"test": (test_name,)} if test_name else {}
    found: dict[str, tuple[Path, ...]] = {
        split: (file,)
        for split in SPLITS
        if (file := _file_of(split, names, named.get(split, ()), directory)) is not None
    }
    if not found:
        raise DataError(
            f"directory {directory} holds no parallel files of data.languages=[{', '.join(languages)}]",
            allowed=f"train.{languages[0]} with train.{languages[1]}, likewise dev and test",
            remedy="check data.path and data.languages",
        )
    return found


def _file_of(split: str, names: Mapping[Path, str], wanted: Sequence[str], directory: Path) -> Path | None:
    """The file of a split: of the name that is wanted, or of the split's own, or one whose name begins so."""
    for chosen in (
        [file for file, name in names.items() if name in (wanted or NAMES[split])],
        [file for file, name in names.items() if not wanted and _begins_so(name, split)],
    ):
        if len(chosen) > 1:
            raise DataError(
                f"{directory} holds {' and '.join(file.name for file in chosen)} for {split}",
                allowed="one file of each language for a split",
                remedy=f"name one: data.test_name={names[chosen[0]]}" if split == "test" else "move the others away",
            )
        if chosen:
            return chosen[0]
    if wanted:
        raise DataError(
            f"data.test_name={wanted[0]!r}, and {directory} has no such files",
            allowed=", ".join(names.values()),
            remedy="mend data.test_name",
        )
    return None


def _begins_so(name: str, split: str) -> bool:
    return any(re.fullmatch(rf"{known}(?![a-z]).*", name, re.IGNORECASE) for known in NAMES[split])


def _read_pairs(part: Part, findings: Findings, *, other: Path) -> Iterator[Record]:
    """Yields `({"text", "target"}, "file:line")`; a pair with a blank side is left out and counted.

    Raises:
        DataError: A line cannot be decoded, or one file has more lines.
    """
    for text, target in zip_longest(numbered_lines(part), numbered_lines(Part(other))):
        if text is None or target is None:
            longer, number = (part.file, text[0]) if text is not None else (other, target[0])
            raise DataError(
                f"{longer}:{number}: {part.file.name} and {other.name} have different numbers of lines",
                allowed="files whose lines belong together",
                remedy="get both from one source again",
            )
        if text[1].strip() and target[1].strip():
            yield {"text": text[1], "target": target[1]}, f"{part.file}:{text[0]}"
        else:
            findings.left_out[_LEFT_OUT] += 1
