"""Chooses how texts are cut into pieces, and says which labelled spans the pieces cannot express."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from pydantic import Field

from agent.config.base import Config
from agent.encoding import Encoder
from agent.segmentation import LineEnd, Segmentation, Unit
from agent.tasks import BaseTask

_NUM_EXAMPLES = 20_000  # that the choice is made by; about a second of work
_CHUNK = 1_000  # examples encoded at once
_MAX_LOST_SHARE = 0.002  # of spans that words may lose which sub-words express
_SHOWN = 3


class SegmentationConfig(Config):
    """How texts are cut into the pieces that get a label each; the bundle records what was chosen."""

    pieces: Literal["auto", "words", "subwords"] = Field(
        "auto",
        description="words: a label for every word and sign; subwords: for every sub-word, for names with endings glued on; "
        f"auto: words, unless more than {_MAX_LOST_SHARE:.1%} of the training spans begin or end inside of one",
    )
    line_end: LineEnd = Field(
        "joins", description="whether an entity may go on behind a single line end, as behind a blank, or ends there"
    )


AUTO = SegmentationConfig()


@dataclass
class Reach:
    """What a perfect model could answer.

    Attributes:
        num_spans: Labelled spans.
        num_answered: Entities that the perfect model answers.
        lost: Spans that it cannot answer exactly, with their examples' places.
    """

    num_spans: int = 0
    num_answered: int = 0
    lost: list[tuple[str, str]] = field(default_factory=list)

    @property
    def f1(self) -> float:
        """The best F1 that can be reached."""
        total = self.num_spans + self.num_answered
        return 2 * (self.num_spans - len(self.lost)) / total if total else 1.0

    def told(self, split: str) -> str:
        """For people, in one line."""
        if not self.lost:
            return f"{split}: all {self.num_spans:,} spans can be answered exactly"
        shown = ", ".join(f"{text!r} ({where})" for text, where in self.lost[:_SHOWN])
        return (
            f"{split}: {len(self.lost):,} of {self.num_spans:,} spans cannot be answered exactly, F1 {self.f1:.4f} can be reached "
            f"at best; they begin or end inside of a piece, or hold a blank line, a tab or a run of blanks: {shown}"
        )


def choose_segmentation(
    config: SegmentationConfig, task: BaseTask[Any], encoder: Encoder, examples: Sequence[Any]
) -> tuple[Segmentation, tuple[str, ...]]:
    """Chooses by labelled examples.

    Returns:
        The choice, and why it was made, in one line; nothing where there was none to make.
    """
    if config.pieces != "auto":
        return Segmentation(pieces=config.pieces, line_end=config.line_end), ()
    sample = examples[:_NUM_EXAMPLES]
    choices: dict[Unit, Segmentation] = {
        unit: Segmentation(pieces=unit, line_end=config.line_end) for unit in ("words", "subwords")
    }
    words = reach(task, encoder.with_segmentation(choices["words"]), sample)
    if words is None or not words.lost:
        return choices["words"], ()
    subwords = reach(task, encoder.with_segmentation(choices["subwords"]), sample)
    assert subwords
    gained = len(words.lost) - len(subwords.lost)
    chosen: Unit = "subwords" if gained > _MAX_LOST_SHARE * words.num_spans else "words"
    note = (
        f"segmentation.pieces={chosen}: of {words.num_spans:,} spans words lose {len(words.lost):,}, sub-words {len(subwords.lost):,} "
        f"(words may lose {_MAX_LOST_SHARE:.1%})"
    )
    return choices[chosen], (note,)


def reach(task: BaseTask[Any], encoder: Encoder, examples: Sequence[Any]) -> Reach | None:
    """What a perfect model could answer of labelled examples; None for a task of which it could answer everything."""
    found = Reach()
    for first in range(0, len(examples), _CHUNK):
        chunk = examples[first : first + _CHUNK]
        for example, document in zip(chunk, task.encode(encoder, chunk), strict=True):
            answer = task.reachable(example, document)
            if answer is None:
                return None
            gold, said = answer
            found.num_spans += len(gold)
            found.num_answered += len(said)
            if gold != said:
                kept = set(said)
                text = task.text_of(example)
                found.lost += [(text[span.start : span.end], example.where) for span in gold if span not in kept]
    return found
