"""Runs any model over examples and scores it: torch or ONNX Runtime, the caller brings the forward pass."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from agent.batching import cut_by_length
from agent.encoding import Batch, Document, Encoder, Float32, pad
from agent.tasks import BaseTask, Report

Forward = Callable[[Batch], Float32]
"""Padded windows to logits: float32 [rows, tokens, outputs], or [rows, outputs] for one answer per window."""

Progress = Callable[[int, int], None]
"""Called with (windows done, windows in all)."""


def run_documents(
    documents: Sequence[Document],
    forward: Forward,
    *,
    pad_id: int,
    max_tokens: int = 4096,
    progress: Progress | None = None,
) -> list[list[Float32]]:
    """Runs the windows of all documents in batches of like length.

    Returns:
        For each document the logits of its windows, without padding rows but possibly with padded columns.
    """
    places = [(number, index) for number, document in enumerate(documents) for index in range(len(document.windows))]
    windows = [documents[number].windows[index] for number, index in places]
    outputs: list[list[Float32]] = [[None] * len(document.windows) for document in documents]  # type: ignore[list-item]
    done = 0
    for batch in cut_by_length([len(window.input_ids) for window in windows], max_tokens=max_tokens):
        logits = forward(pad([windows[item] for item in batch], pad_id))
        for row, item in enumerate(batch):
            number, index = places[item]
            outputs[number][index] = logits[row]
        done += len(batch)
        if progress:
            progress(done, len(windows))
    return outputs


def predict(
    task: BaseTask[Any], encoder: Encoder, examples: Sequence[Any], forward: Forward, **options: Any
) -> list[Any]:
    """Predicts every example, in order, whole documents whatever their length."""
    documents = task.encode(encoder, examples)
    outputs = run_documents(documents, forward, pad_id=encoder.pad_id, **options)
    return [task.predict(document, logits) for document, logits in zip(documents, outputs, strict=True)]


def evaluate(
    task: BaseTask[Any], encoder: Encoder, examples: Sequence[Any], forward: Forward, **options: Any
) -> Report:
    """Predicts and scores; `options` as in `run_documents`."""
    return task.score(examples, predict(task, encoder, examples, forward, **options))
