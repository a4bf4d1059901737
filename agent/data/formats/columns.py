"""CoNLL columns: one word a line, its tag in a column that is found by content, a blank line between sentences."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from agent.data.formats.base import Findings, Format, Hints, Record
from agent.data.lines import Part, numbered_lines
from agent.data.normalisation.tag_schemes import is_tag
from agent.errors import DataError

# Labels of phrases (CoNLL-2000), which stand in a column of their own beside entities.
_PHRASES = frozenset(["NP", "VP", "PP", "ADVP", "ADJP", "SBAR", "PRT", "CONJP", "INTJ", "LST", "UCP"])
_RANGE = re.compile(r"\d+[-.]\d+")  # of CoNLL-U: a word that the next ones spell out, or one that is not in the text
_LONG_SENTENCE = 200
_ALLOWED = "WORD ... TAG, separated by spaces or tabs, a blank line after each sentence"


@dataclass(frozen=True, slots=True)
class Layout:
    """What the columns of a file are.

    Attributes:
        word, tag: Their places from 0; -1 is the last.
        nested: The place of another column of tags, as a rule of entities within entities.
        numbered: Whether the first column counts the words of a sentence.
        width: How many columns its lines have; None if they differ.
        labels: What stands in the column of tags where it holds labels without prefixes.
    """

    word: int = 0
    tag: int = -1
    nested: int | None = None
    numbered: bool = False
    width: int | None = None
    labels: frozenset[str] = frozenset()

    def is_row(self, columns: Sequence[str]) -> bool:
        """Whether a line that begins with '#' is a word with its tag all the same."""
        if self.numbered or len(columns) < 2 or self.width not in (None, len(columns)):
            return False
        return is_tag(columns[self.tag]) or columns[self.tag] in self.labels


def column_format(file: Path, text: str, hints: Hints) -> Format:
    """How a file of columns is read, by the text that it begins with.

    Raises:
        DataError: No column holds tags.
    """
    layout = _layout(file, text, hints)
    name = "CoNLL columns"
    if layout.numbered or layout.tag >= 0:
        name += f" (word {layout.word + 1}, tag {layout.tag + 1})"
    return Format(name, partial(read_columns, layout=layout), ends_sentence)


def read_columns(part: Part, findings: Findings, *, layout: Layout) -> Iterator[Record]:
    """Yields `({"tokens", "tags"}, "file:line")` for every sentence.

    Columns are separated by tabs if the line holds one (a word may then contain spaces), else by white space; at least two, the
    same number in all lines of a sentence. `-DOCSTART-` lines, and `#` lines before a sentence that are no words with tags, are left out;
    a byte-order mark and CRLF are read.

    Raises:
        DataError: A line cannot be decoded or has no tag.
    """
    tokens: list[str] = []
    tags: list[str] = []
    first = width = sentences = longest = nested = 0
    for number, line in numbered_lines(part):
        columns = split_columns(line)
        if not tokens and line.startswith("#") and not layout.is_row(columns):
            continue
        if not columns or "-DOCSTART-" in columns[:2]:
            if tokens:
                yield {"tokens": tokens, "tags": tags}, f"{part.file}:{first}"
                sentences, longest = sentences + 1, max(longest, len(tokens))
            tokens, tags, width = [], [], 0
            continue
        if layout.numbered and _RANGE.fullmatch(columns[0]):
            findings.remarks["lines of CoNLL-U left out that are no words of their own (numbered 3-4 or 3.1)"] += 1
            continue
        if not tokens:
            first, width = number, len(columns)
        _check_columns(columns, layout, width, where=f"{part.file}:{number}")
        tokens.append(columns[layout.word])
        tags.append(columns[layout.tag])
        nested += layout.nested is not None and columns[layout.nested][:2] in ("B-", "S-", "U-")
    if tokens:
        yield {"tokens": tokens, "tags": tags}, f"{part.file}:{first}"
        sentences, longest = sentences + 1, max(longest, len(tokens))
    if nested:
        findings.remarks["entities of another column of tags are not read (data.tag_column chooses it)"] += nested
    if sentences == 1 and longest >= _LONG_SENTENCE and part.stop is None:
        findings.remarks["words are one sentence, for the file has no blank line: put one after each sentence"] += (
            longest
        )


def ends_sentence(line: bytes) -> bool:
    """Whether a line, given with its end, is blank: no sentence goes on beyond it."""
    return not line.removesuffix(b"\n").removesuffix(b"\r").strip(b" \t")


def split_columns(line: str) -> list[str]:
    """The columns of a line."""
    if not line.strip(" \t"):
        return []
    if "\t" in line:
        return [column.strip(" ") for column in line.rstrip(" \t").split("\t")]
    return [column for column in line.split(" ") if column]  # str.split() would take control characters for blanks


def write_columns(record: dict[str, Any]) -> str:
    """A sentence of `{"tokens", "tags"}` as lines, the blank one after it too."""
    pairs = zip(record["tokens"], record["tags"], strict=True)
    return "".join(f"{token}\t{tag}\n" for token, tag in pairs) + "\n"


def _layout(file: Path, text: str, hints: Hints) -> Layout:
    sentences = _sentences(text)
    rows = [row for sentence in sentences for row in sentence]
    if not rows:
        return Layout(tag=-1 if hints.tag_column is None else hints.tag_column - 1)
    numbered = len(rows[0]) > 2 and all(_is_counted(sentence) for sentence in sentences)
    widths = {len(row) for row in rows}
    width = max(widths)
    if hints.tag_column is not None:
        return _told(file, hints.tag_column, numbered=numbered, width=width, rows=rows)
    word = int(numbered)
    columns = {place: [row[place] for row in rows if place < len(row)] for place in range(word + 1, width)}
    tagged = [place for place, values in columns.items() if 2 * len(values) >= len(rows) and all(map(is_tag, values))]
    tagged = [place for place in tagged if not _phrases(columns[place])] or tagged
    only = width if len(widths) == 1 else None
    if numbered and tagged:  # GermEval: the outer entities, then the inner ones; Universal NER: remarks follow the tags
        return Layout(word, tagged[0], nested=tagged[1] if len(tagged) > 1 else None, numbered=True, width=only)
    if only and tagged:
        other = tagged[-2] if len(tagged) > 1 and not _phrases(columns[tagged[-2]]) else None
        return Layout(word, tagged[-1] if tagged[-1] < width - 1 else -1, nested=other, width=only)
    last = [row[-1] for row in rows]
    if not any(value in "Oo" or is_tag(value) for value in last):
        raise _untagged(file, rows, last)
    return Layout(word, -1, numbered=numbered, width=only, labels=frozenset(last))


def _told(file: Path, number: int, *, numbered: bool, width: int, rows: Sequence[Sequence[str]]) -> Layout:
    place = number - 1
    if not int(numbered) < place < width:
        raise DataError(
            f"data.tag_column={number}: {file} has {width} columns, the word in column {int(numbered) + 1}",
            allowed=f"{int(numbered) + 2} to {width}",
            remedy="give the number of the column that holds the tags",
        )
    return Layout(
        int(numbered), place, numbered=numbered, labels=frozenset(row[place] for row in rows if place < len(row))
    )


def _sentences(text: str) -> list[list[list[str]]]:
    """Rows of columns by sentence, without comments; the last line may be cut."""
    found: list[list[list[str]]] = [[]]
    for line in text.split("\n"):
        columns = split_columns(line.removesuffix("\r"))
        if not columns or "-DOCSTART-" in columns[:2]:
            found.append([])
        elif not line.startswith("#"):
            found[-1].append(columns)
    return [rows for rows in found if rows]


def _is_counted(rows: Sequence[Sequence[str]]) -> bool:
    numbers = [row[0] for row in rows if not _RANGE.fullmatch(row[0])]
    return bool(numbers) and numbers in (
        [str(number) for number in range(first, len(numbers) + first)] for first in (0, 1)
    )


def _phrases(values: Sequence[str]) -> bool:
    labels = {value.partition("-")[2] for value in values} - {""}
    return bool(labels) and labels <= _PHRASES


def _untagged(file: Path, rows: Sequence[Sequence[str]], last: Sequence[str]) -> DataError:
    held = ", ".join(sorted(set(last))[:3])
    if len(rows[0]) >= 8 and any(set("()*") >= set(value) and value for row in rows for value in row[1:]):
        what = f"{file} looks like CoNLL-2012 (OntoNotes), whose entities are brackets"
    elif len(rows[0]) >= 8:
        what = f"{file} looks like a CoNLL-U treebank, and none of its columns holds entity tags"
    elif all(len(row) > 1 and is_tag(row[0]) for row in rows):
        what = f"{file} has its tags in the first column ({rows[0][0]} before {rows[0][1]})"
        return DataError(what, allowed=_ALLOWED, remedy="write the word first and its tag last")
    elif len({len(row) for row in rows}) > 1:
        what = f"{file} looks like plain text: its lines end in {held}, which are no tags"
    else:
        what = f"{file}: no column holds entity tags (the last one holds {held}; none is 'O')"
    return DataError(
        what, allowed=_ALLOWED, remedy="add the tags as the last column, or say which holds them with data.tag_column=N"
    )


def _check_columns(columns: list[str], layout: Layout, width: int, *, where: str) -> None:
    needed = max(layout.word, layout.tag, layout.nested or 0) + 1
    if len(columns) < max(2, needed):
        raise DataError(
            f"{where}: a word without a tag ({columns[min(layout.word, len(columns) - 1)]!r})",
            allowed="WORD ... TAG, separated by spaces or tabs",
            remedy="add the tag as the last column" if layout.tag < 0 else f"add the tag as column {layout.tag + 1}",
        )
    if not columns[layout.word]:
        raise DataError(
            f"{where}: a tag without a word ({columns[layout.tag]!r})",
            allowed="WORD ... TAG, separated by spaces or tabs",
            remedy=f"add the word as column {layout.word + 1}",
        )
    if len(columns) != width and not layout.numbered:
        raise DataError(
            f"{where}: {len(columns)} columns where the sentence began with {width}",
            allowed="the same number of columns in all lines of a sentence",
            remedy="mend the line",
        )
