"""Runs any model over examples and scores it: torch or ONNX Runtime, the caller brings the forward pass."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from agent.batching import Batch, cut_by_length, pad
from agent.encoding import Document, Encoder, Float32
from agent.tasks import BaseTask, Report

Forward = Callable[[Batch], Float32]
"""Padded windows to logits: float32 [rows, tokens, outputs], [rows, outputs] for one answer per window, or [asked, outputs] where tokens are asked about."""


@dataclass(frozen=True)
class Cascade:
    """Two models of one agent: the first answers the documents of which it is sure, the second all others.

    Attributes:
        first, second: Compute batches.
        is_sure: Whether the logits that the first one has for the windows of a document are the answer.
    """

    first: Forward
    second: Forward
    is_sure: Callable[[Document, Sequence[Float32]], bool]


Progress = Callable[[int, int], None]
"""Called with (windows done, windows in all)."""


ResultT = TypeVar("ResultT")


def lowest_probability(task: BaseTask[Any], document: Document, outputs: Sequence[Float32]) -> float:
    """How sure a model is of a document: the lowest probability among its choices; 1 where there is nothing to choose, NaN of NaN."""
    choices = task.choices(document, outputs)
    return float(choices.max(axis=-1).min()) if len(choices) else 1.0


def run_documents(documents: Sequence[Document], forward: Forward | Cascade, **options: Any) -> list[list[Float32]]:
    """Runs the windows of all documents; `options` as in `run_each`.

    Returns:
        For each document the logits of its windows, without padding rows but possibly with padded columns.
    """
    return run_each(documents, forward, lambda _, logits: logits, **options)


def run_each(  # noqa: PLR0913  # the three that vary, and how they are run
    documents: Sequence[Document],
    forward: Forward | Cascade,
    finish: Callable[[int, list[Float32]], ResultT],
    *,
    pad_id: int,
    max_tokens: int = 4096,
    progress: Progress | None = None,
) -> list[ResultT]:
    """Runs the windows of all documents in batches of like length, and keeps of each document only what is made of its logits.

    Args:
        documents: At least one window each.
        forward: The model, or two of them.
        finish: Makes a result of the number of a document and the logits of its windows.
        pad_id: Of the tokenizer.
        max_tokens: Padded tokens of a batch.
        progress: Told how far it is.

    Returns:
        The results, one for each document.
    """
    if isinstance(forward, Cascade):
        return _run_cascade(documents, forward, finish, pad_id=pad_id, max_tokens=max_tokens, progress=progress)
    places = [(number, index) for number, document in enumerate(documents) for index in range(len(document.windows))]
    windows = [documents[number].windows[index] for number, index in places]
    outputs: list[list[Float32]] = [[None] * len(document.windows) for document in documents]  # type: ignore[list-item]
    results: list[ResultT] = [None] * len(documents)  # type: ignore[list-item]
    missing = [len(document.windows) for document in documents]
    done = 0
    for batch in cut_by_length([len(window.input_ids) for window in windows], max_tokens=max_tokens):
        padded = pad([windows[item] for item in batch], pad_id)
        for item, logits in zip(batch, padded.rows_of(forward(padded)), strict=True):
            number, index = places[item]
            outputs[number][index] = logits
            missing[number] -= 1
            if not missing[number]:
                results[number], outputs[number] = finish(number, outputs[number]), []
        done += len(batch)
        if progress:
            progress(done, len(windows))
    return results


def _run_cascade(
    documents: Sequence[Document], cascade: Cascade, finish: Callable[[int, list[Float32]], ResultT], **options: Any
) -> list[ResultT]:
    def answered(number: int, logits: list[Float32]) -> list[ResultT]:
        return [finish(number, logits)] if cascade.is_sure(documents[number], logits) else []

    found = run_each(documents, cascade.first, answered, **options)
    left = [number for number, answers in enumerate(found) if not answers]
    rest = run_each(
        [documents[number] for number in left], cascade.second, lambda at, logits: finish(left[at], logits), **options
    )
    for number, result in zip(left, rest, strict=True):
        found[number] = [result]
    return [result for (result,) in found]


def predict(
    task: BaseTask[Any], encoder: Encoder, examples: Sequence[Any], forward: Forward | Cascade, **options: Any
) -> list[Any]:
    """Predicts every example, in order, whole documents whatever their length."""
    documents = task.encode(encoder, examples)
    found: list[Any] = run_each(
        documents, forward, lambda number, logits: task.predict(documents[number], logits),
        pad_id=encoder.pad_id, **options,
    )  # fmt: skip
    return found


def evaluate(
    task: BaseTask[Any], encoder: Encoder, examples: Sequence[Any], forward: Forward | Cascade, **options: Any
) -> Report:
    """Predicts and scores; `options` as in `run_documents`."""
    return task.score(examples, predict(task, encoder, examples, forward, **options))
