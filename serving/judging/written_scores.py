"""Scores an agent that writes on a test split, as compression does: by the perplexity of right texts, and translations and summaries by texts that it writes."""

from __future__ import annotations

from collections.abc import Sequence

from agent.tasks import Report, SequenceToSequence
from agent.tasks.writing.teacher_forcing import WrittenDocument
from agent.tasks.writing.text_scores import score_probabilities
from agent.tasks.writing.written_text import WrittenText
from cluster.progress import timed_bar
from serving.inference.writing_engine import WritingEngine

_AT_ONCE = 256


def score_writer(engine: WritingEngine, examples: Sequence[WrittenText], name: str) -> tuple[Report, list[str]]:
    """The scores, and what was written for each example; nothing where the task is scored by right texts alone.

    Args:
        engine: Writes as a server does by default.
        examples: With right texts.
        name: The agent's, for the progress bar.

    Raises:
        DataError: An example does not fit into the model; names its place.
    """
    task, encoder = engine.task, engine.bundle.encoder
    documents = [each for each in task.encode(encoder, examples) if isinstance(each, WrittenDocument)]
    found, texts = [], list[str]()
    with timed_bar(f"writing with {name}") as progress:
        for first in range(0, len(examples), _AT_ONCE):
            found += engine.log_probabilities(documents[first : first + _AT_ONCE])
            if isinstance(task, SequenceToSequence):
                texts += engine.labels([example.text for example in examples[first : first + _AT_ONCE]])
            progress(min(first + _AT_ONCE, len(examples)), len(examples))
    report = score_probabilities(found)
    return (task.score_generated(report, examples, texts) if isinstance(task, SequenceToSequence) else report), texts
