"""Sentences of English Wikinews: text without labels for distillation, of the same kind as CoNLL-2003's."""

from __future__ import annotations

import lzma
import random
import re
from collections.abc import Iterable, Iterator
from pathlib import Path

from agent.errors import DataError

_END = re.compile(r"(?:(?<=[.!?])|(?<=[.!?][\"”']))\s+(?=[A-Z\"“])")
_TORN = re.compile(r"\s[,;.)]|\(\s|\bthe (?:of|in|and|to)\b|\"\"")  # where the dump lost the text of a link
_WORDS = range(5, 41)


def write_sentences(corpus: Path, output: Path, *, count: int, seed: int = 0) -> None:
    """Draws sentences, a line each; the same ones for the same seed.

    Args:
        corpus: A `.txt.xz` file, a paragraph a line.
        output: The file to write.
        count: How many.
        seed: Of the draw.

    Raises:
        DataError: There are not so many.
    """
    with lzma.open(corpus, "rt", encoding="utf-8") as lines:
        found = list(dict.fromkeys(whole_sentences(lines)))
    if len(found) < count:
        raise DataError(f"{corpus} has {len(found):,} whole sentences", remedy=f"ask for fewer than {count:,}")
    output.parent.mkdir(parents=True, exist_ok=True)
    output.write_text("\n".join(random.Random(seed).sample(found, count)) + "\n", encoding="utf-8")


def whole_sentences(paragraphs: Iterable[str]) -> Iterator[str]:
    """Those of 5 to 40 words from which no word is missing."""
    for paragraph in paragraphs:
        for sentence in _END.split(paragraph.strip()):
            if len(sentence.split()) in _WORDS and not _TORN.search(sentence):
                yield sentence
