"""How well a model writes: the perplexity of right texts, and for encoders with a decoder the scores of texts that it writes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from agent.tasks import BaseTask, Report, SequenceToSequence
from agent.tasks.writing.teacher_forcing import WrittenDocument
from agent.tasks.writing.text_scores import score_probabilities
from agent.tasks.writing.written_text import WrittenText
from cluster.progress import timed_bar
from compression.reporting.compression_report import Agreement
from compression.writing.measured_writer import MeasuredWriter, WritingLimit

_TEXTS_AT_ONCE = 64


@dataclass(frozen=True)
class WrittenAnswers:
    """What one model writes for a split.

    Attributes:
        report: Scores.
        texts: What was written for each example; none where the task is scored by right texts alone.
    """

    report: Report
    texts: tuple[str, ...] = ()

    def agreement(self, original: WrittenAnswers) -> Agreement | None:
        """The share of texts that are the original's to the last character."""
        if not self.texts:
            return None
        same = [ours == theirs for ours, theirs in zip(self.texts, original.texts, strict=True)]
        share = sum(same) / len(same)
        return Agreement(texts=share, words=share)


@dataclass(frozen=True)
class WrittenSplit:
    """A split to measure models on.

    Attributes:
        examples: With the right texts.
        documents: Their sub-words, one for each.
        max_tokens: The model's length.
    """

    examples: Sequence[WrittenText]
    documents: Sequence[WrittenDocument]
    max_tokens: int

    def answers(self, task: BaseTask[WrittenText], writer: MeasuredWriter, name: str) -> WrittenAnswers:
        """Scores a model, with a progress bar: by texts that it writes as the task says, or else by the perplexity of the right ones."""
        found, written = [], list[str]()
        with timed_bar(f"verify: quality of {name}") as progress:
            for first in range(0, len(self.documents), _TEXTS_AT_ONCE):
                some = self.documents[first : first + _TEXTS_AT_ONCE]
                found += writer.log_probabilities(some)
                if isinstance(task, SequenceToSequence):
                    most = min(task.max_new_tokens or self.max_tokens, self.max_tokens)
                    written += decoded(some, writer.write(some, WritingLimit(task.num_beams, most)))
                progress(min(first + _TEXTS_AT_ONCE, len(self.documents)), len(self.documents))
        report = score_probabilities(found)
        if isinstance(task, SequenceToSequence):
            report = task.score_generated(report, self.examples, written)
        return WrittenAnswers(report, tuple(written))


def decoded(documents: Sequence[WrittenDocument], rows: Sequence[Sequence[int]]) -> list[str]:
    """Texts of rows of sub-words, without tokens that stand for no text.

    Args:
        documents: What the texts were written for.
        rows: Sub-words of each.
    """
    vocabulary = documents[0].vocabulary
    assert vocabulary is not None
    return [vocabulary.tokenizer.decode(list(row), skip_special_tokens=True) for row in rows]
