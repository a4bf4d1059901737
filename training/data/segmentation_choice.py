"""Chooses how texts are cut into pieces, and says which labelled spans the pieces cannot express."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from pydantic import Field

from agent.config.base import Config
from agent.encoding import Encoder
from agent.segmentation import LINE_END_HELP, LineEnd, Segmentation, joining_sign
from agent.tasks import BaseTask

_NUM_EXAMPLES = 20_000  # that the choice is made by; about a second of work
_CHUNK = 1_000  # examples encoded at once
_MAX_LOST_SHARE = 0.002  # of spans that words may lose which sub-words express
_MAX_CUT_SHARE = 0.01  # of a sign's places between letters at which spans may begin or end, for it to join words
_SHOWN = 3
_ABBREVIATION = "abbreviation"
_INNER_SIGN = re.compile(r"(?<=\w)[-.'’&/+@·‐‑](?=\w)")  # commas, colons and brackets part words even without a blank
_INITIAL = re.compile(r"(?:^|(?<=\W))[^\W\d_]\.")


class SegmentationConfig(Config):
    """How texts are cut into the pieces that get a label each; the bundle records what was chosen."""

    pieces: Literal["auto", "words", "subwords"] = Field(
        "auto",
        description="words: a label for every word and sign; subwords: for every sub-word, for names with endings glued on; "
        f"auto: words, unless more than {_MAX_LOST_SHARE:.1%} of the training spans begin or end inside of one",
    )
    joins: str | None = Field(
        None,
        description="signs that join letters and digits on both sides to one word (with pieces=words); default: those at which the "
        "training spans do not begin or end",
    )
    abbreviations: bool = Field(
        False, description="whether the dot of an initial (J., U.S.) is of the word; chosen with joins by default"
    )
    line_end: LineEnd = Field("wrapped", description=LINE_END_HELP)


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
        The choice, and lines that say what it is and why; none for a task without spans.
    """
    sample = examples[:_NUM_EXAMPLES]
    joins, abbreviations = _joining(task, sample) if config.joins is None else (config.joins, config.abbreviations)
    words = Segmentation(joins=joins, abbreviations=abbreviations, line_end=config.line_end)
    subwords = Segmentation(pieces="subwords", line_end=config.line_end)
    lost = reach(task, encoder.with_segmentation(words), sample)
    if lost is None:
        return words, ()
    chosen, why = (subwords if config.pieces == "subwords" else words), ""
    if config.pieces == "auto" and lost.lost:
        fewer = reach(task, encoder.with_segmentation(subwords), sample)
        assert fewer
        chosen = subwords if len(lost.lost) - len(fewer.lost) > _MAX_LOST_SHARE * lost.num_spans else words
        why = (
            f" (of {lost.num_spans:,} training spans words lose {len(lost.lost):,}, sub-words {len(fewer.lost):,}; "
            f"words may lose {_MAX_LOST_SHARE:.1%})"
        )
    return chosen, (f"segmentation: {chosen.told}{why}",)


def _joining(task: BaseTask[Any], examples: Sequence[Any]) -> tuple[str, bool]:
    """The signs between letters or digits at which next to no span begins or ends, and whether the same holds of dots of abbreviations."""
    seen, cut = Counter[str](), Counter[str]()
    for example in examples:
        text = task.text_of(example)
        seen.update(_INNER_SIGN.findall(text))
        seen[_ABBREVIATION] += len(_INITIAL.findall(text))
        for edge in task.edges_of(example):
            cut[joining_sign(text, edge)] += 1
            cut[_ABBREVIATION] += (
                text.startswith(".", edge) and _INITIAL.search(text, max(0, edge - 2), edge + 1) is not None
            )
    kept = {sign for sign, count in seen.items() if count and cut[sign] <= _MAX_CUT_SHARE * count}
    return "".join(sorted(kept - {_ABBREVIATION})), _ABBREVIATION in kept


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
