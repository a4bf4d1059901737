"""What goes to the workers of a run and what worker 0 hands back. Plain data, in the object store once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from agent.encoding import Document, Encoder
from agent.tasks import BaseTask, Report
from training.data.packing import Windows
from training.state.directory_store import DirectoryStore

if TYPE_CHECKING:
    from training.config import TrainingConfig


@dataclass(frozen=True)
class EvaluationSet:
    """Examples of a split with their encoded documents."""

    examples: list[Any]
    documents: list[Document]


@dataclass(frozen=True)
class Payload:
    """All that a worker needs.

    Attributes:
        store: Where checkpoints lie.
        pad_id: Of the tokenizer.
        interactive: Whether the driver writes to a terminal.
        run: What the run is called.
    """

    config: TrainingConfig
    task: BaseTask[Any]
    train: Windows
    dev: EvaluationSet
    test: EvaluationSet
    store: DirectoryStore
    pad_id: int
    interactive: bool
    run: str


@dataclass
class Outcome:
    """What worker 0 hands back.

    Attributes:
        before, after: Reports on the test split, before training and of the best epoch.
        dev: The best epoch's report on the dev split.
        best_epoch: Counted from 1.
        history: One row per epoch.
        journal: Every row of the run, as JSON lines.
        predictions: Of the best model for each test example, in their order.
        description: Where it ran, in one line.
    """

    before: Report
    after: Report
    dev: Report
    best_epoch: int
    history: list[dict[str, float]] = field(default_factory=list)
    journal: list[str] = field(default_factory=list)
    predictions: list[Any] = field(default_factory=list)
    description: str = ""


def evaluation_set(task: BaseTask[Any], encoder: Encoder, examples: Sequence[Any]) -> EvaluationSet:
    """Encodes a split for evaluation."""
    return EvaluationSet(list(examples), task.encode(encoder, examples))
