"""A tag per word: named-entity recognition and its kin. IOB2 inside; the first sub-word of a word speaks for it."""

from __future__ import annotations

import itertools
import re
import sys
import unicodedata
from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any, ClassVar, Literal, NamedTuple

import numpy as np
from pydantic import BaseModel, Field, field_validator

from agent.encoding import Document, Encoder, Float32, Int64
from agent.errors import DataError
from agent.pairs import Pair, pair_spans
from agent.spans import OUTSIDE, Span, decode_tags, encode_spans, split_tag, tag_set, to_iob2
from agent.tasks.base import BaseTask, Example, Parameters, Report, check_unicode, require_text, softmax
from agent.viterbi import best_path, iob2_rules

_SHAPE = '{"tokens": [...], "tags": [...]} or {"text": "...", "spans": [{"start", "end", "label"}]}'

Strategy = Literal["none", "simple", "first", "average", "max"]


class TaggedWords(Example):
    """Words with their IOB2 tags. `text` is the original text when the data had one."""

    words: tuple[str, ...]
    tags: tuple[str, ...]
    text: str | None = None


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
        return tag_set(self.labels)

    def read_record(self, record: Mapping[str, Any], where: str) -> TaggedWords:
        """Reads `{"tokens", "tags"}` or `{"text", "spans"}`; tags may be of any scheme of the IOB family."""
        if "tokens" in record:
            return _read_tokens(record, where)
        text = require_text(record, "text", where, _SHAPE)
        words, tags = _align(text, _read_spans(record, text, where), where)
        return TaggedWords(where=where, words=words, tags=tags, text=text)

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
        scores = softmax(document.merge(outputs))
        if parameters.aggregation_strategy == "none":
            return self._subwords(text, document, scores, parameters.ignore_labels)
        units = _units(document, scores, parameters.aggregation_strategy)
        if self.decoding == "greedy" or parameters.aggregation_strategy == "simple":
            best = units.scores.argmax(axis=-1)
        else:
            log_probs = np.log(np.maximum(units.scores, np.finfo(np.float32).tiny))
            best = best_path(log_probs, *iob2_rules(self.outputs))
        return self._groups(text, units, best, ignored=parameters.ignore_labels)

    def counted(self, answer: Sequence[Mapping[str, Any]]) -> list[str]:
        """The label of every entity; with strategy `none` the tag of every sub-word."""
        return [item.get("entity_group") or item["entity"] for item in answer]

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

    def _groups(self, text: str, units: _Units, best: Int64, *, ignored: tuple[str, ...]) -> list[dict[str, Any]]:
        names, top = self.outputs, units.scores[np.arange(len(best)), best]
        kept = range(len(best)) if OUTSIDE not in ignored else np.flatnonzero(best != 0).tolist()
        groups: list[tuple[str, list[int]]] = []
        for unit in kept:
            begins, label = names[best[unit]].startswith("B-"), names[best[unit]].split("-", 1)[-1]
            if groups and groups[-1][0] == label and groups[-1][1][-1] == unit - 1 and not begins:
                groups[-1][1].append(unit)
            else:
                groups.append((label, [unit]))
        found = []
        for label, members in groups:
            start, end = _trim(text, int(units.starts[members[0]]), int(units.ends[members[-1]]))
            if label not in ignored and start < end:  # byte-level sub-words of white space cover no characters
                found.append(
                    {
                        "entity_group": label,
                        "score": float(top[members].mean()),
                        "word": text[start:end],
                        "start": start,
                        "end": end,
                    }
                )
        return found


class _Units(NamedTuple):
    """Probabilities, first and last character of what gets one tag: sub-words for `simple`, words otherwise."""

    scores: Float32
    starts: Int64
    ends: Int64


def _units(document: Document, scores: Float32, strategy: Strategy) -> _Units:
    if strategy == "simple" or not len(scores):
        return _Units(scores, document.starts, document.ends)
    firsts = document.first_subwords
    ends = document.ends[np.append(firsts[1:], len(document.ends)) - 1]
    starts = document.starts[firsts]
    if strategy == "first":
        return _Units(scores[firsts], starts, ends)
    if strategy == "average":
        counts = np.diff(np.append(firsts, len(scores)))[:, None]
        return _Units(np.asarray(np.add.reduceat(scores, firsts, axis=0) / counts, np.float32), starts, ends)
    best = scores.max(axis=-1)
    bounds = zip(firsts.tolist(), [*firsts[1:].tolist(), len(scores)], strict=True)
    return _Units(scores[[first + int(best[first:last].argmax()) for first, last in bounds]], starts, ends)


def _trim(text: str, start: int, end: int) -> tuple[int, int]:
    """Leaves out white space at both ends: byte-level tokenizers count the space before a word to it."""
    while start < end and text[start].isspace():
        start += 1
    while end > start and text[end - 1].isspace():
        end -= 1
    return start, end


def _read_tokens(record: Mapping[str, Any], where: str) -> TaggedWords:
    tokens: Any = record["tokens"]
    tags: Any = record.get("tags")
    for key, value in (("tokens", tokens), ("tags", tags)):
        if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
            raise DataError(
                f"{where}: field {key!r} is {'absent' if value is None else 'no list of strings'}",
                allowed=_SHAPE,
                remedy="mend the record",
            )
    if len(tokens) != len(tags):
        raise DataError(
            f"{where}: {len(tokens)} tokens but {len(tags)} tags",
            allowed="one tag for each token",
            remedy="mend the record",
        )
    for token, tag in zip(tokens, tags, strict=True):
        _check_tag(token, tag, where)
    return TaggedWords(where=where, words=tuple(tokens), tags=tuple(to_iob2(tags)))


def _check_tag(token: str, tag: str, where: str) -> None:
    check_unicode(token, where)
    check_unicode(tag, where)
    try:
        _, label = split_tag(tag)
    except ValueError as error:
        raise DataError(
            f"{where}: word {token!r}: {error}", allowed="tags of IOB1, IOB2, IOBES or BILOU", remedy="mend the tag"
        ) from None
    if label == OUTSIDE:
        raise DataError(
            f"{where}: word {token!r}: tag {tag!r} has the label 'O', which is the tag of words outside of all entities",
            remedy="write 'O', or rename the label",
        )


def _read_spans(record: Mapping[str, Any], text: str, where: str) -> list[Span]:
    spans = record.get("spans")
    if not isinstance(spans, list):
        raise DataError(
            f"{where}: field 'spans' is {'absent' if spans is None else 'no list'}",
            allowed=_SHAPE,
            remedy="mend the record; a text without entities has []",
        )
    read = sorted(_read_span(span, text, f"{where}: spans[{index}]") for index, span in enumerate(spans))
    for before, after in itertools.pairwise(read):
        if after.start < before.end:
            raise DataError(
                f"{where}: span {after.start}:{after.end} {after.label} overlaps span {before.start}:{before.end} {before.label}",
                allowed="spans that do not overlap",
                remedy="keep one of the two",
            )
    return read


def _read_span(span: Any, text: str, where: str) -> Span:
    if not isinstance(span, dict) or not {"start", "end", "label"} <= set(span):
        raise DataError(
            f"{where}: {span!r} is no span",
            allowed='{"start": int, "end": int, "label": str}',
            remedy="mend the record",
        )
    start, end, label = span["start"], span["end"], span["label"]
    integers = all(isinstance(edge, int) and not isinstance(edge, bool) for edge in (start, end))
    if not integers or not 0 <= start < end <= len(text):
        raise DataError(
            f"{where}: {start!r}:{end!r} is no part of a text of {len(text)} characters",
            allowed="0 <= start < end <= length, in characters",
            remedy="mend the offsets (they are not bytes)",
        )
    if not isinstance(label, str) or not label or label == OUTSIDE:
        raise DataError(
            f"{where}: label {label!r}", allowed="a non-empty string other than 'O'", remedy="mend the label"
        )
    start, end = _trim(text, start, end)
    if start == end:
        raise DataError(
            f"{where}: the span holds white space only",
            allowed="a span with at least one visible character",
            remedy="mend the offsets",
        )
    check_unicode(label, where)
    return Span(start, end, label)


@cache
def _word_pattern() -> re.Pattern[str]:
    r"""A run of letters, digits and combining marks (which `\w` leaves out), or one other visible character."""
    marks = "".join(chr(code) for code in range(sys.maxunicode + 1) if unicodedata.category(chr(code))[0] == "M")
    return re.compile(rf"[\w{re.escape(marks)}]+|\S")


def _align(text: str, spans: Sequence[Span], where: str) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Words of a text, cut at the edges of spans too, with their tags: no span loses a character."""
    edges = sorted({edge for span in spans for edge in span[:2]} | {0, len(text)})
    pieces = [
        match.span()
        for first, last in itertools.pairwise(edges)
        for match in _word_pattern().finditer(text, first, last)
    ]
    starts = [start for start, _ in pieces]
    words = [
        Span(int(np.searchsorted(starts, span.start)), int(np.searchsorted(starts, span.end)), span.label)
        for span in spans
    ]
    try:
        tags = encode_spans(words, len(pieces))
    except ValueError as error:  # a span of invisible characters only
        raise DataError(f"{where}: {error}", allowed="spans over words", remedy="mend the offsets") from None
    return tuple(text[start:end] for start, end in pieces), tuple(tags)
