"""The input of a run's workers and the result that worker 0 returns; plain data, in the object store once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from agent.encoding import Document, Encoder
from agent.tasks import BaseTask, Report
from training.config import TrainingConfig
from training.data.packing import Windows
from training.state.directory_store import DirectoryStore


@dataclass(frozen=True)
class EvaluationSet:
    """Examples of a split with their encoded documents."""

    examples: list[Any]
    documents: list[Document]


@dataclass(frozen=True)
class WorkerInput:
    """Everything that a worker needs.

    Attributes:
        store: Of the checkpoints.
        pad_id: Of the tokenizer.
        max_tokens: The model's length.
        interactive: Whether the driver writes to a terminal.
        run_name: Name of the output.
    """

    config: TrainingConfig
    task: BaseTask[Any]
    train: Windows
    dev: EvaluationSet
    test: EvaluationSet
    store: DirectoryStore
    pad_id: int
    max_tokens: int
    interactive: bool
    run_name: str


@dataclass
class TrainingOutcome:
    """What worker 0 returns.

    Attributes:
        before, after: Reports on the test split, before training and of the best epoch.
        dev: The best epoch's report on the dev split.
        guess: What guessing scores on the test split: a new head before training; where the head was trained before, the shares of labels.
        best_epoch: Counted from 1.
        history: One row per epoch.
        metrics_log: Every row of the run, as JSON lines.
        predictions: Of the best model for each test example, in their order.
        description: Hardware, precision and attention, in one line.
        task: With what it chose on the dev split; that of the bundle.
    """

    before: Report
    after: Report
    dev: Report
    guess: float
    best_epoch: int
    history: list[dict[str, float]] = field(default_factory=list)
    metrics_log: list[str] = field(default_factory=list)
    predictions: list[Any] = field(default_factory=list)
    description: str = ""
    task: BaseTask[Any] | None = None


def evaluation_set(task: BaseTask[Any], encoder: Encoder, examples: Sequence[Any]) -> EvaluationSet:
    """Encodes a split for evaluation."""
    return EvaluationSet(list(examples), task.encode(encoder, examples))
