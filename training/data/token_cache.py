"""A cache of encoded windows on disk, found by a digest of their data, task and tokenizer."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from pydantic import ValidationError

from agent.config.base import Config
from agent.errors import DataError
from agent.files import sha256_of
from training.data.packing import PackedWindows

FORMAT = 5  # raised whenever the same text would be stored otherwise
_MANIFEST = "store.json"
_TYPES: Mapping[str, type[np.number[Any]]] = {
    "input_ids": np.int32,
    "targets": np.int32,
    "bounds": np.int64,
    "labelled": np.int32,
    "owners": np.int32,
    "seconds": np.int32,
    "logged": np.float32,
}


class StoredArray(Config):
    """One file of a store: the array as it lies in memory (little endian), without a header."""

    num_bytes: int
    sha256: str


class StoreContent(NamedTuple):
    """What the windows do not contain.

    Attributes:
        labels: Labels of the task, in the order of the targets.
        split_digest: `agent.data.digests.split_digest` of the examples.
    """

    labels: tuple[str, ...]
    split_digest: str


class StoreManifest(Config):
    """The manifest of a store.

    Attributes:
        format: Version of the layout.
        key: Digest of everything it depends on; its directory's name.
        labels, split_digest: As in `StoreContent`.
        num_examples: Examples of the split.
        targets_per_window: Targets of a window with one for each output; 0 where `targets` is flat.
        arrays: Name of the array to its file.
    """

    format: int
    key: str
    labels: tuple[str, ...]
    num_examples: int
    split_digest: str
    targets_per_window: int
    arrays: Mapping[str, StoredArray]


@dataclass(frozen=True)
class StoredWindows(PackedWindows):
    """Memory-mapped windows, pickled as their path and mapped again where they arrive."""

    directory: Path
    manifest: StoreManifest

    def __reduce__(self) -> tuple[Any, ...]:
        return open_store, (self.directory, self.manifest.key)


def store_key(**ingredients: Any) -> str:
    """The digest of everything that a store depends on, as JSON values."""
    return hashlib.sha256(json.dumps(ingredients | {"format": FORMAT}, sort_keys=True).encode()).hexdigest()


def find_store(cache: Path, key: str) -> StoredWindows | None:
    """Finds a store in a cache and verifies every byte; None if there is none, or a damaged one."""
    directory = cache / key
    if not directory.exists():
        return None
    try:
        return _verified(open_store(directory, key))
    except DataError as error:
        print(f"note: tokenised data is made again: {error.what}", flush=True)
        return None


def open_store(directory: Path, key: str) -> StoredWindows:
    """Maps a store.

    Raises:
        DataError: It is not there, or not whole.
    """
    manifest = _read_manifest(directory, key)
    arrays = {name: _map(directory / name, kind, manifest.arrays[name]) for name, kind in _TYPES.items()}
    if manifest.targets_per_window:
        arrays["targets"] = arrays["targets"].reshape(-1, manifest.targets_per_window)
    arrays["logged"] = arrays["logged"].reshape(-1, 2)
    return StoredWindows(**arrays, directory=directory, manifest=manifest)


@contextmanager
def draft_store(cache: Path, key: str) -> Iterator[StoreDraft]:
    """Yields a new store under a temporary name; what is not published is removed.

    Raises:
        DataError: The cache cannot be written.
    """
    try:
        cache.mkdir(parents=True, exist_ok=True)
        path = Path(tempfile.mkdtemp(prefix=f".{key[:12]}.", dir=cache))
    except OSError as error:
        raise DataError(
            f"tokenised data cannot be written to {cache} ({error.strerror})",
            remedy="give a directory that can be written as ingest.cache",
        ) from None
    try:
        with ExitStack() as stack:
            yield StoreDraft(cache, key, path, stack)
    finally:
        shutil.rmtree(path, ignore_errors=True)


class StoreDraft:
    """A store being written: windows are appended in their final order."""

    def __init__(self, cache: Path, key: str, path: Path, stack: ExitStack) -> None:
        self.path = path
        self.num_examples = 0
        self._cache, self._key = cache, key
        self._num_tokens = self._targets_per_window = 0
        self._files = {name: stack.enter_context((path / name).open("wb")) for name in _TYPES}
        self._hashes = {name: hashlib.sha256() for name in _TYPES}
        self._write("bounds", np.zeros(1, np.int64))

    def append(self, windows: PackedWindows) -> None:
        """Appends windows; numbers of their examples continue."""
        self._write("input_ids", windows.input_ids)
        self._write("targets", windows.targets)
        self._targets_per_window = windows.targets.shape[1] if windows.targets.ndim > 1 else 0
        self._write("bounds", windows.bounds[1:] + self._num_tokens)
        self._write("labelled", windows.labelled)
        self._write("owners", windows.owners + np.int32(self.num_examples))
        self._write("seconds", windows.seconds)
        self._write("logged", windows.logged)
        self._num_tokens += len(windows.input_ids)
        self.num_examples += int(windows.owners[-1]) + 1

    def publish(self, content: StoreContent) -> StoredWindows:
        """Renames the store to its key. If another run has published the same one meanwhile, that one is returned."""
        for file in self._files.values():
            file.close()
        arrays = {
            name: StoredArray(num_bytes=(self.path / name).stat().st_size, sha256=digest.hexdigest())
            for name, digest in self._hashes.items()
        }
        manifest = StoreManifest(
            format=FORMAT,
            key=self._key,
            num_examples=self.num_examples,
            targets_per_window=self._targets_per_window,
            arrays=arrays,
            **content._asdict(),
        )
        (self.path / _MANIFEST).write_text(manifest.model_dump_json(indent=1) + "\n", encoding="utf-8")
        directory = self._cache / self._key
        try:
            return _verified(open_store(directory, self._key))
        except DataError:
            self._replace(directory)
        return open_store(directory, self._key)

    def _replace(self, directory: Path) -> None:
        damaged = self.path.with_suffix(".damaged")
        with suppress(FileNotFoundError):
            os.rename(directory, damaged)
        with suppress(OSError):  # another run has just put the same there
            os.rename(self.path, directory)
        shutil.rmtree(damaged, ignore_errors=True)

    def _write(self, name: str, array: NDArray[Any]) -> None:
        raw = np.ascontiguousarray(array, dtype=np.dtype(_TYPES[name]).newbyteorder("<")).data.cast("B")
        self._files[name].write(raw)
        self._hashes[name].update(raw)


def _verified(store: StoredWindows) -> StoredWindows:
    for name, array in store.manifest.arrays.items():
        file = store.directory / name
        if sha256_of(file) != array.sha256:
            raise DataError(f"{file} was altered", remedy="remove its directory; it is made again")
    return store


def _read_manifest(directory: Path, key: str) -> StoreManifest:
    try:
        manifest = StoreManifest.model_validate_json((directory / _MANIFEST).read_bytes())
    except OSError as error:
        raise DataError(
            f"tokenised data cannot be read from {directory} ({error.strerror})",
            allowed="a directory that every node of the cluster can read",
            remedy="give one on storage that all nodes share as ingest.cache",
        ) from None
    except ValidationError:
        raise DataError(
            f"{directory / _MANIFEST} is no manifest of tokenised data", remedy="remove the directory"
        ) from None
    if (manifest.format, manifest.key) != (FORMAT, key) or set(manifest.arrays) != set(_TYPES):
        raise DataError(f"{directory} holds other tokenised data than its name says", remedy="remove the directory")
    return manifest


def _map(file: Path, kind: type[np.number[Any]], stated: StoredArray) -> NDArray[Any]:
    size = file.stat().st_size if file.is_file() else -1
    if size != stated.num_bytes:
        raise DataError(
            f"{file} {'is missing' if size < 0 else f'has {size} bytes instead of {stated.num_bytes}'}",
            remedy="remove its directory; it is made again",
        )
    return np.memmap(file, dtype=np.dtype(kind).newbyteorder("<"), mode="r").view(np.ndarray)
