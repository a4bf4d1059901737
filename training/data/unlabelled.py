"""Reads and encodes text without labels for distillation, in memory if it is small, else cached on disk."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from agent.data.formats.json_records import ends_object, read_jsonl
from agent.data.lines import Part, numbered_lines
from agent.encoding import Encoder
from agent.errors import DataError
from agent.tasks import BaseTask, Example
from training.data.ingest import CACHE, IngestConfig, cut_files, find_or_fill, windows_key
from training.data.packing import Windows, forget_labels, pack
from training.data.token_cache import StoreContent, StoreDraft

_KINDS = (".txt", ".jsonl")


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
    parts, digest = cut_files(files, ends_object)
    size = sum(file.stat().st_size for file in files)
    kept = ingest.cache or (CACHE if ingest.mode == "stream" or size > ingest.stream_above_mb * 1e6 else None)
    if not any(True for part in parts for _ in _read(part, task)):
        raise DataError(f"teacher.unlabelled={path!r} holds no text", remedy="give a file with text, or leave it out")
    if kept is None:
        examples = [example for part in parts for example in _read(part, task)]
        return UnlabelledText(forget_labels(pack(task, encoder, examples)), digest)

    def fill(draft: StoreDraft) -> StoreContent:
        for part in parts:
            if examples := list(_read(part, task)):
                draft.append(forget_labels(pack(task, encoder, examples)))
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


def _read(part: Part, task: BaseTask[Any]) -> Iterator[Example]:
    """Texts of a part; blank ones are left out."""
    if part.file.suffix == ".txt":
        found = (({"text": line}, f"{part.file}:{number}") for number, line in numbered_lines(part))
    else:
        found = ((_with_text(record), where) for record, where in read_jsonl(part))
    for record, where in found:
        texts = _texts(record, task.input_fields, where)
        if any(text.strip() for text in texts.values()):
            yield task.read_unlabelled(texts, where)


def _with_text(record: dict[str, Any]) -> dict[str, Any]:
    """A record with its words as a text, where it has no other."""
    tokens = record.get("tokens")
    words = isinstance(tokens, list) and all(isinstance(one, str) for one in tokens)
    return {"text": " ".join(tokens), **record} if words and tokens else record


def _texts(record: Mapping[str, Any], fields: Sequence[str], where: str) -> dict[str, str]:
    for field in fields:
        if not isinstance(record.get(field), str):
            shape = ", ".join(f'"{name}": "..."' for name in fields)
            raise DataError(
                f"{where}: no field {field!r}",
                allowed=f"{{{shape}}}" + (' or {"tokens": [...]}' if len(fields) == 1 else ""),
                remedy="mend the record",
            )
    return {field: record[field] for field in fields}
