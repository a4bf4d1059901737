"""Snapshots of the state after each step, from which an interrupted run resumes.

They lie in the work directory beside the output: `steps/KEY.json` describes a state, `objects/` holds its files by their SHA-256,
so that a file that steps did not change is stored once. A key is a digest of everything that the state depends on.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import shutil
import tempfile
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from pydantic import ValidationError

from agent.config.base import Config
from agent.files import draft_file, sha256_of, write_file
from compression.reporting.compression_report import Measurement, StepRow
from compression.state.pipeline_state import ConvertedModel, Graph, PipelineState

ModelT = TypeVar("ModelT", Graph, ConvertedModel)
# Fields that a state and its snapshot have in common.
_PLAIN = (
    "weights_changed",
    "parameters",
    "batch_size",
    "contention",
    "model_rows",
    "step_rows",
    "step_outputs",
    "notes",
)


class Snapshot(Config):
    """A state as plain values.

    Attributes:
        kind: Kind of the finished step.
        files: SHA-256 of each file in the state's directory, by name.
        model: SHA-256 of each file that `save_model` wrote, by name; empty while the network is the original's.
        graphs, converted: Their paths hold no more than the files' names, since a resumed run has another directory.
    """

    kind: str
    files: Mapping[str, str]
    model: Mapping[str, str]
    exporter: str | None
    graphs: tuple[Graph, ...]
    converted: tuple[ConvertedModel, ...]
    weights_changed: bool
    parameters: int
    batch_size: int
    contention: float | None
    model_rows: tuple[Measurement, ...]
    step_rows: tuple[StepRow, ...]
    step_outputs: Mapping[str, Any]
    notes: tuple[str, ...]

    @property
    def objects(self) -> set[str]:
        """SHA-256 of all files of the state."""
        return {*self.files.values(), *self.model.values()}


def cache_keys(known: Any, steps: Sequence[Any]) -> list[str]:
    """A cache key for the state after each step, from `known`, the steps up to it and their extra inputs."""
    keys = [_digest(known)]
    for index, step in enumerate(steps):
        keys.append(_digest([keys[-1], step.model_dump(mode="json"), step.extra_cache_inputs(steps[index + 1 :])]))
    return keys[1:]


class Snapshots:
    """The snapshots in a work directory.

    Args:
        directory: Made when the first snapshot is saved.
    """

    def __init__(self, directory: Path) -> None:
        self._steps, self._objects = directory / "steps", directory / "objects"

    def find(self, key: str) -> Snapshot | None:
        """The snapshot with a key; None if there is none, or if a file of it is missing or altered."""
        found = self._read(key)
        return found if found and all(map(self._intact, found.objects)) else None

    def save(self, key: str, kind: str, state: PipelineState) -> None:
        """Saves a state."""
        self._steps.mkdir(parents=True, exist_ok=True)
        files = {
            file.relative_to(state.directory).as_posix(): self._put(file)
            for file in sorted(state.directory.rglob("*"))
            if file.is_file()
        }
        snapshot = Snapshot(
            kind=kind,
            files=files,
            model=self._put_model(state) if state.weights_changed else {},
            exporter=state.exporter and state.exporter.kind,
            graphs=tuple(_relocated(graph, Path()) for graph in state.graphs),
            converted=tuple(_relocated(model, Path()) for model in state.converted),
            **{name: getattr(state, name) for name in _PLAIN},
        )
        write_file(self._steps / f"{key}.json", snapshot.model_dump_json(indent=1) + "\n")

    def restore(self, snapshot: Snapshot, state: PipelineState) -> None:
        """Restores an initial state to the snapshot."""
        from compression.encoder.torch_model import load_directory
        from compression.exporters import EXPORTERS

        shutil.rmtree(state.directory)
        self._get(snapshot.files, state.directory)
        state.reload_encoder()
        if snapshot.model:
            with tempfile.TemporaryDirectory(dir=self._steps.parent) as place:
                self._get(snapshot.model, Path(place))
                state.model = load_directory(Path(place), state.bundle.task.architecture)
        state.exporter = EXPORTERS[snapshot.exporter]() if snapshot.exporter else None
        state.graphs = [_relocated(graph, state.directory) for graph in snapshot.graphs]
        state.converted = [_relocated(model, state.directory) for model in snapshot.converted]
        for name in _PLAIN:
            value = getattr(snapshot, name)
            setattr(state, name, list(value) if isinstance(value, tuple) else value)

    def keep_only(self, keys: Collection[str]) -> None:
        """Removes all other snapshots, drafts that a killed run left, and files that no snapshot refers to any more."""
        used: set[str] = set()
        for file in self._steps.glob("*"):
            snapshot = self._read(file.stem) if file.suffix == ".json" and file.stem in keys else None
            if snapshot is None:
                file.unlink()
            else:
                used |= snapshot.objects
        for file in self._objects.glob("*"):
            if file.name not in used:
                file.unlink()

    def _read(self, key: str) -> Snapshot | None:
        try:
            return Snapshot.model_validate_json((self._steps / f"{key}.json").read_bytes())
        except (OSError, ValidationError):
            return None

    def _intact(self, name: str) -> bool:
        file = self._objects / name
        return file.is_file() and sha256_of(file) == name

    def _put(self, file: Path) -> str:
        name = sha256_of(file)
        if not (self._objects / name).is_file():
            with draft_file(self._objects / name) as draft:
                shutil.copyfile(file, draft)
        return name

    def _put_model(self, state: PipelineState) -> dict[str, str]:
        from compression.encoder.torch_model import save_model

        with tempfile.TemporaryDirectory(dir=self._steps.parent) as place:
            save_model(state.model, Path(place))
            return {file.name: self._put(file) for file in sorted(Path(place).iterdir())}

    def _get(self, names: Mapping[str, str], directory: Path) -> None:
        for name, digest in names.items():
            target = directory / name
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(self._objects / digest, target)


def _relocated(model: ModelT, directory: Path) -> ModelT:
    return dataclasses.replace(model, path=directory / model.path.name)


def _digest(tree: Any) -> str:
    return hashlib.sha256(json.dumps(tree, sort_keys=True).encode()).hexdigest()[:16]
