"""A tag per word: named-entity recognition and its kin. IOB2 inside; the first sub-word of a word speaks for it."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from functools import lru_cache
from itertools import pairwise
from typing import Any, ClassVar, Literal, NamedTuple

import numpy as np
from pydantic import BaseModel, Field, field_validator

from agent.encoding import Document, Encoder, Float32, Int64
from agent.spans import OUTSIDE, decode_tags, split_tag, tag_set, to_iob2
from agent.tasks.base import BaseTask, Column, Parameters, Report, as_json, softmax
from agent.tasks.pairs import Pair, pair_spans
from agent.tasks.tagged_words import TaggedWords, read_tagged_words, trim
from agent.viterbi import best_path, iob2_rules

_tags_of = lru_cache(maxsize=64)(tag_set)  # asked for with every answer

Strategy = Literal["none", "simple", "first", "average", "max"]


class TaggingParameters(Parameters):
    """Parameters of a token-classification request, named as in Hugging Face's API."""

    aggregation_strategy: Strategy = Field(
        "first",
        description="How sub-words become entities. `first` is what the agent was trained to do: the first sub-word speaks for its word.",
    )
    ignore_labels: tuple[str, ...] = Field((OUTSIDE,), description="Labels that are left out of the answer.")


class Entity(BaseModel):
    """One entity found. `text[start:end]` is `word`, in characters of the text as it was sent."""

    entity_group: str | None = Field(None, description="The entity's label (every strategy but `none`).")
    entity: str | None = Field(None, description="The sub-word's tag (strategy `none` only).")
    index: int | None = Field(None, description="Position of the sub-word (strategy `none` only).")
    score: float
    word: str
    start: int
    end: int


class TokenClassification(BaseTask[TaggedWords]):
    """Entity labels such as PER, ORG, LOC; the model has an output for `O` and for `B-` and `I-` of each."""

    architecture: ClassVar[str] = "AutoModelForTokenClassification"
    parameters: ClassVar[type[Parameters]] = TaggingParameters
    answer_item: ClassVar[type[BaseModel]] = Entity
    answer_field: ClassVar[str] = "entities"
    columns: ClassVar[tuple[Column, ...]] = (Column("entities", "BYTES", as_json),)

    kind: Literal["token_classification"] = "token_classification"
    decoding: Literal["greedy", "viterbi"] = Field(
        "greedy", description="each word's own best tag, or the best sequence of tags without an I- that begins nothing"
    )

    @field_validator("labels")
    @classmethod
    def _without_outside(cls, labels: tuple[str, ...]) -> tuple[str, ...]:
        if OUTSIDE in labels:
            raise ValueError("give entity labels without 'O' and without prefixes: PER, not B-PER")
        return labels

    @property
    def outputs(self) -> tuple[str, ...]:
        """`O`, then `B-X` and `I-X` for every label."""
        return _tags_of(self.labels)

    def read_record(self, record: Mapping[str, Any], where: str) -> TaggedWords:
        """Reads `{"tokens", "tags"}` or `{"text", "spans"}`; tags may be of any scheme of the IOB family."""
        return read_tagged_words(record, where)

    def read_text(self, text: str, where: str) -> TaggedWords:
        """Its words, as those of a text with spans are cut."""
        return read_tagged_words({"text": text, "spans": []}, where)

    def labels_of(self, example: TaggedWords) -> set[str]:
        """Entity labels in an example, without prefixes."""
        return {split_tag(tag)[1] for tag in example.tags} - {""}

    def text_of(self, example: TaggedWords) -> str:
        """The original text, or the words joined by single spaces."""
        return " ".join(example.words) if example.text is None else example.text

    def encode(self, encoder: Encoder, examples: Sequence[TaggedWords]) -> list[Document]:
        """Encodes the words of each example."""
        return encoder.encode_words([example.words for example in examples])

    def targets(self, example: TaggedWords, document: Document) -> list[Int64]:
        """The tag's index at each word's first sub-word, -100 elsewhere; every word is trained in one window only."""
        index = {tag: position for position, tag in enumerate(self.outputs)}
        words = np.array([index[tag] for tag in example.tags], dtype=np.int64)
        return [document.spread(window, words) for window in range(len(document.windows))]

    def predict(self, document: Document, outputs: Sequence[Float32]) -> list[str]:
        """One valid IOB2 tag per word; words without sub-words are `O`. Greedy: an `I-` without a beginning becomes `B-`."""
        scores = np.full((document.num_words, len(self.outputs)), -np.inf, np.float32)
        scores[:, 0] = 0.0
        scores[document.word_ids[document.first_subwords]] = document.merge(outputs)[document.first_subwords]
        best = scores.argmax(axis=-1) if self.decoding == "greedy" else best_path(scores, *iob2_rules(self.outputs))
        return to_iob2([self.outputs[output] for output in best.tolist()])

    def score(self, examples: Sequence[TaggedWords], predictions: Sequence[list[str]]) -> Report:
        """Entity scores by seqeval in strict mode over IOB2: an entity counts if its words and its label are exact."""
        from seqeval.metrics import classification_report
        from seqeval.scheme import IOB2

        gold = [list(example.tags) for example in examples]
        mode = "seqeval, strict, IOB2"
        if not any(tag != OUTSIDE for tags in (*gold, *predictions) for tag in tags):  # seqeval cannot print that
            none = {"f1": 0.0, "precision": 0.0, "recall": 0.0}
            return Report(metrics=none, primary="f1", support=0, text="no entities, gold or predicted\n", mode=mode)
        options = {"mode": "strict", "scheme": IOB2, "zero_division": 0}
        table = classification_report(gold, list(predictions), output_dict=True, **options)
        total = table.get("micro avg", {"precision": 0.0, "recall": 0.0, "f1-score": 0.0, "support": 0})
        metrics = {"f1": total["f1-score"], "precision": total["precision"], "recall": total["recall"]}
        metrics |= {f"f1.{label}": table[label]["f1-score"] for label in self.labels if label in table}
        return Report(
            metrics={name: float(value) for name, value in metrics.items()},
            primary="f1",
            support=int(total["support"]),
            text=classification_report(gold, list(predictions), digits=4, **options),
            mode=mode,
        )

    def pairs(self, example: TaggedWords, prediction: list[str]) -> list[Pair]:
        """Entities beside those predicted over the same words."""
        gold, predicted = decode_tags(example.tags), decode_tags(prediction)
        return pair_spans(gold, predicted, lambda span: " ".join(example.words[span.start : span.end]))

    def answer(
        self, text: str, document: Document, outputs: Sequence[Float32], parameters: TaggingParameters
    ) -> list[dict[str, Any]]:
        """Entities as Hugging Face's pipeline groups them, with exact characters of `text`."""
        logits = document.merge(outputs)
        if parameters.aggregation_strategy == "none":
            return self._subwords(text, document, softmax(logits), parameters.ignore_labels)
        units = _units(document, logits, parameters.aggregation_strategy)
        if self.decoding == "greedy" or parameters.aggregation_strategy == "simple":
            best = units.logits.argmax(axis=-1)
        else:
            best = best_path(units.logits, *iob2_rules(self.outputs))
        return self._groups(text, document, units, best.tolist(), ignored=parameters.ignore_labels)

    def counted(self, answer: Sequence[Mapping[str, Any]]) -> list[tuple[str, float]]:
        """The label of every entity; with strategy `none` the tag of every sub-word."""
        return [(item.get("entity_group") or item["entity"], item["score"]) for item in answer]

    def _subwords(
        self, text: str, document: Document, scores: Float32, ignored: tuple[str, ...]
    ) -> list[dict[str, Any]]:
        best, names = scores.argmax(axis=-1), self.outputs
        return [
            {
                "entity": names[output],
                "index": index + 1,
                "score": float(scores[index, output]),
                "word": text[start:end],
                "start": start,
                "end": end,
            }
            for index, (output, start, end) in enumerate(
                zip(best.tolist(), document.starts.tolist(), document.ends.tolist(), strict=True)
            )
            if names[output] not in ignored
        ]

    def _groups(
        self, text: str, document: Document, units: _Units, best: list[int], *, ignored: tuple[str, ...]
    ) -> list[dict[str, Any]]:
        names = self.outputs
        kept = (unit for unit, output in enumerate(best) if output or OUTSIDE not in ignored)
        groups: list[tuple[str, list[int]]] = []
        for unit in kept:
            name = names[best[unit]]
            label = name[2:] or name
            if groups and groups[-1][0] == label and groups[-1][1][-1] == unit - 1 and not name.startswith("B-"):
                groups[-1][1].append(unit)
            else:
                groups.append((label, [unit]))
        found = []
        for label, members in groups:
            start, end = trim(text, *units.characters(document, members[0], members[-1]))
            if label not in ignored and start < end:  # byte-level sub-words of white space cover no characters
                score = sum(_probability(units.logits[unit].tolist(), best[unit]) for unit in members) / len(members)
                found.append(
                    {"entity_group": label, "score": score, "word": text[start:end], "start": start, "end": end}
                )
        return found


class _Units(NamedTuple):
    """What gets one tag: sub-words for `simple`, words otherwise.

    Attributes:
        logits: float32 [units, outputs], up to a constant in each row.
        firsts: The first sub-word of each unit.
    """

    logits: Float32
    firsts: Sequence[int]

    def characters(self, document: Document, first: int, last: int) -> tuple[int, int]:
        """Where the units `first` to `last` (inclusive) begin and end in the text."""
        after = self.firsts[last + 1] if last + 1 < len(self.firsts) else len(document.word_ids)
        return int(document.starts[self.firsts[first]]), int(document.ends[after - 1])


def _units(document: Document, logits: Float32, strategy: Strategy) -> _Units:
    if strategy == "simple" or not len(logits):
        return _Units(logits, range(len(logits)))
    firsts = document.first_subwords
    bounds = firsts.tolist()
    if strategy == "first":
        return _Units(logits[firsts], bounds)
    scores = softmax(logits)
    if strategy == "average":
        counts = np.diff(np.append(firsts, len(scores)))[:, None]
        average = np.add.reduceat(scores, firsts, axis=0) / counts
        return _Units(np.log(np.maximum(average, np.finfo(np.float32).tiny)).astype(np.float32), bounds)
    best = scores.max(axis=-1)
    parts = pairwise([*bounds, len(scores)])
    return _Units(logits[[first + int(best[first:last].argmax()) for first, last in parts]], bounds)


def _probability(logits: list[float], output: int) -> float:
    """Of one output; for a row of a few numbers this is faster than numpy."""
    chosen = logits[output]
    highest = max(logits)
    return math.exp(chosen - highest) / sum(math.exp(logit - highest) for logit in logits)
