"""The loop's directory: what it has learned from, which feedback it has used, and its rounds."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from agent.config.base import Config
from agent.data import DataConfig
from agent.files import write_file
from agent.tasks import KINDS, BaseTask

STEPS = ("collect", "data", "train", "compress", "judge", "publish")

Row = Mapping[str, Any]
"""An object of a file of JSON lines."""


class Origin(Config):
    """What the first live agent was trained from; the same for all rounds.

    Attributes:
        data: The original labelled data.
        seed: By which dev was held out of train, where it was.
        task, objective: As the training was configured.
        base_model: Whose weights it started from.
        dev, test: Digests of the splits.
    """

    data: DataConfig
    seed: int
    task: Mapping[str, Any]
    base_model: str
    objective: Mapping[str, Any] = {"kind": "cross_entropy"}
    dev: str = ""
    test: str = ""

    @property
    def template(self) -> BaseTask[Any]:
        """The task as configured: without labels, where training takes them from the data."""
        found: BaseTask[Any] = KINDS[str(self.task["kind"])].model_validate(self.task)
        return found


class RoundState(Config):
    """How far a round has come.

    Attributes:
        number: From 1.
        started: When, in ISO 8601.
        config: Of the command that works on it.
        live: Digest of the live bundle when it began.
        trained: The bundle that the live one was compressed from.
        results: Of each finished step.
    """

    number: int
    started: str
    config: Mapping[str, Any]
    live: str
    trained: str
    results: Mapping[str, Mapping[str, Any]] = {}


class Workspace:
    """Paths below the loop's directory, and the small files there, each written whole.

    Args:
        directory: It is made where it is absent, for its owner alone: it holds texts of callers.
    """

    def __init__(self, directory: str) -> None:
        self.directory = Path(directory).expanduser().absolute()
        self.ledger, self._origin = self.directory / "ledger.jsonl", self.directory / "origin.json"
        self._taken, self._learned = self.directory / "taken.txt", self.directory / "learned.jsonl"

    def make(self) -> None:
        """Makes the directory."""
        self.directory.mkdir(parents=True, exist_ok=True, mode=0o700)

    def round(self, number: int) -> Path:
        """The directory of a round."""
        return self.directory / "rounds" / f"{number:04}"

    def rounds(self) -> list[int]:
        """Numbers of the rounds that have a directory."""
        return sorted(int(path.name) for path in self.directory.glob("rounds/[0-9][0-9][0-9][0-9]*"))

    def read_origin(self) -> Origin | None:
        """None before the first round."""
        return Origin.model_validate_json(self._origin.read_bytes()) if self._origin.exists() else None

    def write_origin(self, origin: Origin) -> None:
        """Keeps it for all rounds."""
        write_file(self._origin, origin.model_dump_json(indent=1) + "\n", durable=True)

    def read_taken(self) -> set[str]:
        """Keys, as `key_of` makes them, of the feedback that rounds have used or set aside."""
        return set(self._taken.read_text(encoding="utf-8").split()) if self._taken.exists() else set()

    def add_taken(self, keys: Iterable[str]) -> None:
        """Adds keys; those that are there already change nothing."""
        found = sorted(self.read_taken() | set(keys))
        write_file(self._taken, "".join(f"{key}\n" for key in found), durable=True)

    def read_learned(self) -> list[Row]:
        """The corrections and rewards that the live agent was trained on, with their provenance."""
        return read_rows(self._learned)

    def write_learned(self, rows: Sequence[Row]) -> None:
        """Replaces them."""
        write_rows(self._learned, rows)

    def read_state(self, number: int) -> RoundState | None:
        """The state of a round; None if it has not begun."""
        file = self.round(number) / "state.json"
        return RoundState.model_validate_json(file.read_bytes()) if file.exists() else None

    def write_state(self, state: RoundState) -> RoundState:
        """Keeps the state of a round, and returns it."""
        write_file(self.round(state.number) / "state.json", state.model_dump_json(indent=1) + "\n", durable=True)
        return state


def key_of(agent: str, request_id: str, position: int) -> str:
    """What stands for the feedback on a decision, which has at most one; it tells nothing of text or caller."""
    return hashlib.sha256(f"{agent}\0{request_id}\0{position}".encode()).hexdigest()[:32]


def text_key(text: str) -> str:
    """A text without differences of case and white space: two texts with one key are one text."""
    return " ".join(text.split()).casefold()


def read_rows(file: Path) -> list[Row]:
    """The objects of a file of JSON lines; none if it is absent."""
    if not file.exists():
        return []
    return [json.loads(line) for line in file.read_text(encoding="utf-8").split("\n") if line]


def write_rows(file: Path, rows: Iterable[Row]) -> None:
    """Writes a file of JSON lines, whole or not at all."""
    lines = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    write_file(file, lines.encode("utf-8", "surrogatepass"), durable=True)
