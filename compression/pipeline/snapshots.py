"""The state after each step, on disk, so that an interrupted run goes on behind the last one that was finished.

Lies in the workshop beside the output: `steps/KEY.json` says what there was after a step, `objects/` holds the files by their
sha256, so that what a step left as it was lies there once. A key stands for everything that the state hangs on.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import tempfile
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from agent.bundle import Precision
from agent.config.base import Config
from agent.files import draft_file, sha256_of, write_file
from compression.pipeline.pipeline_state import Graph, State
from compression.reporting.compression_report import Measured, StepRow


class GraphEntry(Config):
    """A graph, by its name in the directory."""

    file: str
    precision: Precision
    inputs: tuple[str, ...]
    exporter: str
    published: bool


class Snapshot(Config):
    """A state as plain values; `files` and `model` are names with the sha256 of their content.

    Attributes:
        kind: Of the step that was finished.
        files: What lay in the directory.
        model: What `save_model` wrote; empty while the network is the original's.
    """

    kind: str
    files: Mapping[str, str]
    model: Mapping[str, str]
    changed: bool
    parameters: int
    batch_size: int
    contention: float | None
    exporter: str | None
    graphs: tuple[GraphEntry, ...]
    measured: tuple[Measured, ...]
    trail: tuple[StepRow, ...]
    remembered: Mapping[str, Any]
    notes: tuple[str, ...]

    @property
    def objects(self) -> set[str]:
        """All files that it needs."""
        return {*self.files.values(), *self.model.values()}


def chain_keys(known: Any, steps: Sequence[Any]) -> list[str]:
    """A key for the state after each step: of `known`, of the steps up to it, and of what they heed."""
    keys = [_digest(known)]
    for index, step in enumerate(steps):
        keys.append(_digest([keys[-1], step.model_dump(mode="json"), step.heeds(steps[index + 1 :])]))
    return keys[1:]


class Snapshots:
    """The snapshots in a workshop.

    Args:
        directory: The workshop. It is made when the first snapshot is.
    """

    def __init__(self, directory: Path) -> None:
        self._steps, self._objects = directory / "steps", directory / "objects"

    def find(self, key: str) -> Snapshot | None:
        """The state with a key; None if there is none, or if a file of it is missing or altered."""
        found = self._read(key)
        return found if found and all(map(self._intact, found.objects)) else None

    def save(self, key: str, kind: str, state: State) -> None:
        """Keeps a state."""
        self._steps.mkdir(parents=True, exist_ok=True)
        files = {
            file.relative_to(state.directory).as_posix(): self._put(file)
            for file in sorted(state.directory.rglob("*"))
            if file.is_file()
        }
        taken = Snapshot(
            kind=kind, files=files, model=self._put_model(state) if state.changed else {}, changed=state.changed,
            parameters=state.parameters, batch_size=state.batch_size, contention=state.contention,
            exporter=state.exporter and state.exporter.kind, graphs=tuple(map(_entry, state.graphs)),
            measured=tuple(state.measured), trail=tuple(state.trail), remembered=state.remembered, notes=tuple(state.notes),
        )  # fmt: skip
        write_file(self._steps / f"{key}.json", taken.model_dump_json(indent=1) + "\n")

    def restore(self, taken: Snapshot, state: State) -> None:
        """Makes a fresh state what it was when the snapshot was taken."""
        from compression.encoder.torch_model import load_directory
        from compression.exporters import EXPORTERS

        shutil.rmtree(state.directory)
        self._get(taken.files, state.directory)
        state.reload_encoder()
        if taken.model:
            with tempfile.TemporaryDirectory(dir=self._steps.parent) as place:
                self._get(taken.model, Path(place))
                state.model = load_directory(Path(place), state.bundle.task.architecture)
        state.changed, state.parameters = taken.changed, taken.parameters
        state.batch_size, state.contention = taken.batch_size, taken.contention
        state.exporter = EXPORTERS[taken.exporter]() if taken.exporter else None
        state.graphs = [_graph(entry, state.directory) for entry in taken.graphs]
        state.measured, state.trail = list(taken.measured), list(taken.trail)
        state.remembered, state.notes = dict(taken.remembered), list(taken.notes)

    def keep_only(self, keys: Collection[str]) -> None:
        """Removes all other snapshots, what a killed run left half written, and the files that nobody has any more."""
        used: set[str] = set()
        for file in self._steps.glob("*"):
            taken = self._read(file.stem) if file.suffix == ".json" and file.stem in keys else None
            if taken is None:
                file.unlink()
            else:
                used |= taken.objects
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

    def _put_model(self, state: State) -> dict[str, str]:
        from compression.encoder.torch_model import save_model

        with tempfile.TemporaryDirectory(dir=self._steps.parent) as place:
            save_model(state.model, Path(place))
            return {file.name: self._put(file) for file in sorted(Path(place).iterdir())}

    def _get(self, names: Mapping[str, str], directory: Path) -> None:
        for name, digest in names.items():
            target = directory / name
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(self._objects / digest, target)


def _entry(graph: Graph) -> GraphEntry:
    return GraphEntry(
        file=graph.path.name, precision=graph.precision, inputs=graph.inputs, exporter=graph.exporter,
        published=graph.published,
    )  # fmt: skip


def _graph(entry: GraphEntry, directory: Path) -> Graph:
    return Graph(directory / entry.file, entry.precision, entry.inputs, entry.exporter, entry.published)


def _digest(tree: Any) -> str:
    return hashlib.sha256(json.dumps(tree, sort_keys=True).encode()).hexdigest()[:16]
