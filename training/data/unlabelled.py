"""Reads and encodes text without labels for distillation, in memory if it is small, else cached on disk."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np

from agent.data.jsonl import ends_object, read_jsonl
from agent.data.lines import Part, cut_file, numbered_lines
from agent.encoding import Encoder
from agent.errors import DataError
from agent.tasks import BaseTask, Example
from training.data.ingest import CACHE, IngestConfig, find_or_fill, windows_key
from training.data.packing import PackedWindows, Windows, forget_labels, pack
from training.data.token_cache import StoreContent, StoreDraft

_KINDS = (".txt", ".jsonl")
_PART_BYTES = 4_000_000  # text encoded at once: tens of MB of objects


@dataclass(frozen=True)
class UnlabelledText:
    """Unlabelled text as windows.

    Attributes:
        windows: With `UNLABELLED` targets.
        digest: sha256 over the bytes of all files, in order of their names.
    """

    windows: Windows
    digest: str

    @property
    def note(self) -> str:
        """Its size, for people."""
        return f"{int(self.windows.owners[-1]) + 1:,} texts, {int(self.windows.lengths.sum()):,} tokens"


def open_unlabelled(path: str, task: BaseTask[Any], encoder: Encoder, ingest: IngestConfig) -> UnlabelledText:
    """Reads and encodes text in this process. If train would be streamed for its size, the windows go to disk, part by part.

    Args:
        path: A file or a directory.
        task: With labels.
        encoder: Of the model in training.
        ingest: From which size windows are cached, and where.

    Raises:
        DataError: There is no text, or a line of it is wrong; named.
    """
    files = _files(path)
    parts, digest = _cut(files)
    size = sum(file.stat().st_size for file in files)
    kept = ingest.cache or (CACHE if ingest.mode == "stream" or size > ingest.stream_above_mb * 1e6 else None)
    if kept is None:
        return UnlabelledText(_join([*_encode(parts, task, encoder, path)]), digest)

    def fill(draft: StoreDraft) -> StoreContent:
        for windows in _encode(parts, task, encoder, path):
            draft.append(windows)
        return StoreContent(task.labels, digest)

    return UnlabelledText(find_or_fill(kept, windows_key(task, encoder, f"unlabelled {digest}"), fill), digest)


def _files(path: str) -> list[Path]:
    source = Path(path).expanduser()
    found = sorted(file for kind in _KINDS for file in source.glob(f"*{kind}")) if source.is_dir() else [source]
    if not found or found[0].suffix not in _KINDS or not found[0].is_file():
        raise DataError(
            f"teacher.unlabelled={path!r} {'holds no text' if source.is_dir() else 'is no file of text'}",
            allowed='a .txt file (a text a line), a .jsonl file ({"text": ...}), or a directory of them',
            remedy="check the path",
        )
    return found


def _cut(files: list[Path]) -> tuple[list[Part], str]:
    parts, digest = list[Part](), hashlib.sha256()
    for file in files:
        found, content = cut_file(file, _PART_BYTES, ends_object)
        parts += found
        digest.update(f"{file.suffix} {content}\n".encode())
    return parts, digest.hexdigest()


def _encode(parts: list[Part], task: BaseTask[Any], encoder: Encoder, path: str) -> Iterator[PackedWindows]:
    empty = True
    for part in parts:
        if examples := list(_read(part, task)):
            empty = False
            yield forget_labels(pack(task, encoder, examples))
    if empty:
        raise DataError(f"teacher.unlabelled={path!r} holds no text", remedy="give a file with text, or leave it out")


def _read(part: Part, task: BaseTask[Any]) -> Iterator[Example]:
    """Texts of a part; blank ones are left out."""
    if part.file.suffix == ".txt":
        found = ((line, f"{part.file}:{number}") for number, line in numbered_lines(part))
    else:
        found = ((_text(record, where), where) for record, where in read_jsonl(part))
    return (task.read_text(text, where) for text, where in found if text.strip())


def _text(record: dict[str, Any], where: str) -> str:
    tokens = record.get("tokens")
    text = " ".join(tokens) if isinstance(tokens, list) and all(isinstance(one, str) for one in tokens) else None
    found = record.get("text", text)
    if isinstance(found, str):
        return found
    raise DataError(
        f"{where}: no field 'text'", allowed='{"text": "..."} or {"tokens": [...]}', remedy="mend the record"
    )


def _join(parts: list[PackedWindows]) -> PackedWindows:
    if len(parts) == 1:
        return parts[0]
    tokens = np.cumsum([0, *(len(part.input_ids) for part in parts[:-1])])
    texts = np.cumsum([0, *(int(part.owners[-1]) + 1 for part in parts[:-1])]).astype(np.int32)
    joined = {field.name: [getattr(part, field.name) for part in parts] for field in fields(PackedWindows)}
    joined["bounds"] = [
        np.zeros(1, np.int64),
        *(part.bounds[1:] + first for part, first in zip(parts, tokens, strict=True)),
    ]
    joined["owners"] = [part.owners + first for part, first in zip(parts, texts, strict=True)]
    return PackedWindows(**{name: np.concatenate(arrays) for name, arrays in joined.items()})
