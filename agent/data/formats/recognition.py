"""Which format a file has, by its content first and its name second; what is none of ours is named."""

from __future__ import annotations

import re
from pathlib import Path

from agent.data import parallel_text, plain_text
from agent.data.formats import brat, docbin, parquet_rows, semeval_relations
from agent.data.formats.base import Format, Hints
from agent.data.formats.columns import column_format, split_columns
from agent.data.formats.shapes import json_format
from agent.data.lines import is_packed, open_file, unpacked_name
from agent.data.normalisation.tag_schemes import is_tag
from agent.errors import DataError

_HEAD_BYTES = 1 << 20  # enough lines to know columns by
_ALLOWED = "CoNLL columns, JSON lines, a JSON array, Parquet, DocBin or brat's pairs, also as .gz or .xz (docs/data.md shows each)"


def recognise(file: Path, hints: Hints) -> Format:
    """How a file is read.

    Raises:
        DataError: It cannot be read, or is of a format that is not ours, which is named.
    """
    packed = is_packed(file)
    with open_file(file) as stream:
        head = stream.read(_HEAD_BYTES) + stream.readline()
    if head.startswith(parquet_rows.MAGIC) and not packed:
        return parquet_rows.parquet_format(file)
    if unpacked_name(file).endswith(docbin.SUFFIX):
        return Format("DocBin (spaCy)", docbin.read_docbin)
    _refuse_foreign(file, head)
    if hints.languages and parallel_text.is_parallel(file, hints.languages):
        return parallel_text.parallel_format(file, hints.languages)
    text = head.decode("utf-8", errors="replace").removeprefix("\ufeff")
    if file.suffix == brat.SUFFIX:
        return Format("brat", brat.read_brat)
    if semeval_relations.begins_so(text):
        read, ends = semeval_relations.read_relations, semeval_relations.ends_relation
        return Format(semeval_relations.NAME, read, None if packed else ends)
    if hints.plain_text and unpacked_name(file).endswith(plain_text.SUFFIX) and plain_text.is_prose(text):
        return Format(plain_text.NAME, plain_text.read_lines, None if packed else plain_text.ends_line)
    found = json_format(file, text) if _is_json(file, text) else column_format(file, text, hints)
    return Format(found.name, found.read, None if packed else found.ends_record, found.unit)


def _is_json(file: Path, text: str) -> bool:
    stripped = text.lstrip()
    if unpacked_name(file).endswith((".json", ".jsonl", ".ndjson")):
        return True
    if not stripped.startswith(("{", "[")):
        return False
    columns = split_columns(stripped.split("\n", 1)[0].removesuffix("\r"))  # the first word of a file may be a bracket
    return len(columns) < 2 or not is_tag(columns[-1])


# What files of other kinds begin with, and what they are.
_BINARY = (
    (b"PK\x03\x04", "a zip archive (or a spreadsheet)", "unpack it; of a spreadsheet write JSON lines"),
    (b"BZh", "packed with bzip2", "unpack it with bunzip2, or pack it with gzip"),
    (b"\x28\xb5\x2f\xfd", "packed with zstd", "unpack it with unzstd, or pack it with gzip"),
    (b"ARROW1", "an Arrow file", "write Parquet: datasets.load_from_disk(...)[split].to_parquet(...)"),
    (b"PAR1", "Parquet inside of gzip", "unpack it; Parquet is packed already"),
    (b"SQLite format 3", "an SQLite data base", "export it; Prodigy does it with db-out"),
    (b"\x80\x04", "a Python pickle", "write JSON lines; pickles are never loaded"),
    (b"\x80\x05", "a Python pickle", "write JSON lines; pickles are never loaded"),
    (b"%PDF", "a PDF", "extract and label its text"),
    (b"\xff\xfe", "UTF-16 text", "convert it: iconv -f utf-16 -t utf-8"),
    (b"\xfe\xff", "UTF-16 text", "convert it: iconv -f utf-16 -t utf-8"),
    (b"version https://git-lfs", "a pointer of Git LFS, not the file itself", "git lfs pull"),
)


def _refuse_foreign(file: Path, head: bytes) -> None:
    found = [(what, remedy) for magic, what, remedy in _BINARY if head.startswith(magic)]
    if not found and _is_utf16(head):
        found = [("UTF-16 text without a byte-order mark", "convert it: iconv -f utf-16le -t utf-8 (or utf-16be)")]
    if (
        not found
        and re.match(rb"\s*<(\?xml|!DOCTYPE|[A-Za-z][\w:.-]*[ />])", head)
        and b"\t" not in head.split(b"\n")[0]
    ):
        xmi = b"xmi:" in head[:2_000] or b"uima" in head[:2_000].lower()
        what = "UIMA CAS XMI (INCEpTION, WebAnno)" if xmi else "XML or HTML"
        found = [(what, "export CoNLL, or JSON lines of texts with spans")]
    if not found and _is_csv(head):
        found = [
            (
                "a table separated by commas",
                'write JSON lines: {"text": "...", "label": "..."}, or of words {"tokens": [...], "tags": [...]}',
            )
        ]
    for what, remedy in found:
        raise DataError(f"{file} is {what}", allowed=_ALLOWED, remedy=remedy)


def _is_utf16(head: bytes) -> bool:
    sample = head[:4_000]
    return len(sample) >= 8 and max(sample[0::2].count(0), sample[1::2].count(0)) > len(sample) * 0.2


def _is_csv(head: bytes) -> bool:
    """A first line of names separated by commas or semicolons."""
    first = head.split(b"\n", 1)[0].strip().decode("utf-8", errors="replace").removeprefix("\ufeff")
    named = re.fullmatch(r'"?[\w -][\w #-]*"?([,;]"?[\w #-]+"?)+', first) is not None
    return named and not is_tag(first.split()[-1])
