"""How fast models write: in turns in one process, so that a busy machine slows all of them alike."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from agent.batching import cut_by_length
from agent.generation.text_writer import BATCH_TOKENS
from agent.tasks import BaseTask, SequenceToSequence
from agent.tasks.writing.teacher_forcing import WrittenDocument, right_tokens
from compression.measurement.speed import TimeBudget
from compression.reporting.compression_report import WritingSpeed
from compression.writing.measured_writer import MeasuredWriter, WritingLimit, prompt_of

_ROOM = 1.5  # what a text may be longer than the longest right one: a model that has not learned to end goes on and on


def writing_speeds(
    writers: Mapping[str, MeasuredWriter],
    documents: Sequence[WrittenDocument],
    limit: WritingLimit,
    *,
    batch_size: int,
    budget: TimeBudget,
) -> dict[str, WritingSpeed]:
    """Times each model while it writes the same texts, in the same batches of like length.

    Args:
        writers: Models by name.
        documents: What is to be written.
        limit: How.
        batch_size: Texts in a batch, fewer where they are long.
        budget: Each round is one turn of every model.
    """
    batches = _batches(documents, batch_size)
    seconds: dict[str, list[float]] = {name: [] for name in writers}
    tokens: dict[str, int] = {}
    for name, writer in budget.turns(writers):
        writer.write(batches[0][:1], limit)  # not timed: the previous model's data is in the caches
        started = time.perf_counter()
        written = [row for batch in batches for row in writer.write(batch, limit)]
        seconds[name].append(time.perf_counter() - started)
        tokens[name] = sum(map(len, written))
    return {name: _speed(len(documents), tokens[name], turns) for name, turns in seconds.items()}


def timed_limit(task: BaseTask[Any], documents: Sequence[WrittenDocument], max_tokens: int) -> WritingLimit:
    """How texts are written that are timed: as the task says and not much longer than the right ones; by a decoder, exactly as long as the longest.

    Args:
        task: The agent's.
        documents: What is to be written.
        max_tokens: The model's length.
    """
    longest = max(len(right_tokens(document)) for document in documents)
    if isinstance(task, SequenceToSequence):
        most = min(task.max_new_tokens or max_tokens, max_tokens)
        return WritingLimit(task.num_beams, min(most, round(_ROOM * longest)))
    room = max_tokens - max(len(prompt_of(document)) for document in documents)
    return WritingLimit(1, max(1, min(longest, room)), exact=True)


def _batches(documents: Sequence[WrittenDocument], batch_size: int) -> list[list[WrittenDocument]]:
    lengths = [len(prompt_of(document)) for document in documents]
    return [
        [documents[place] for place in places[first : first + batch_size]]
        for places in cut_by_length(lengths, max_tokens=BATCH_TOKENS)
        for first in range(0, len(places), batch_size)
    ]


def _speed(num_texts: int, num_tokens: int, seconds: Sequence[float]) -> WritingSpeed:
    fastest, middle, slowest = np.quantile(seconds, (0.0, 0.5, 1.0)).tolist()
    return WritingSpeed(
        num_texts=num_texts, num_turns=len(seconds), texts_per_s=num_texts / middle, tokens_per_s=num_tokens / middle,
        slowest_tokens_per_s=num_tokens / slowest, fastest_tokens_per_s=num_tokens / fastest,
    )  # fmt: skip
