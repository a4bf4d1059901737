"""Entities in a text: named-entity recognition and its kin. A tag for each piece of the text; IOB2 inside, characters outside."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from functools import lru_cache
from itertools import pairwise
from typing import Any, ClassVar, Literal, NamedTuple

import numpy as np
from pydantic import BaseModel, Field, field_validator

from agent.encoding import Document, Encoder, Float32, Int64
from agent.segmentation import Pieces
from agent.spans import OUTSIDE, Span, decode_tags, tag_set, to_iob2
from agent.tasks.base import BaseTask, Claim, Column, Join, Report, Verdict, as_json
from agent.tasks.entity_scores import score_entities
from agent.tasks.governed.policy_parameters import PolicyParameters
from agent.tasks.output_decision import PER_TOKEN, Decision, softmax
from agent.tasks.pairs import Pair, pair_spans
from agent.tasks.piece_labels import groups_of, tags_of
from agent.tasks.record_fields import refuse_reward
from agent.tasks.requests.request_parameters import Parameters
from agent.tasks.rewards.sampled_answers import RewardsSamples
from agent.tasks.tagged_text import TaggedText, read_tagged_text, trim
from agent.viterbi import best_path, iob2_rules

_tags_of = lru_cache(maxsize=64)(tag_set)  # asked for with every answer

Strategy = Literal["none", "simple", "first", "average", "max"]


class TaggingParameters(PolicyParameters):
    """Parameters of a token-classification request, named as in Hugging Face's API."""

    aggregation_strategy: Strategy = Field(
        "first",
        description="How sub-words become entities. `first` is what the agent was trained to do: the first sub-word speaks for its piece (a word, in most agents).",
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


class Found(NamedTuple):
    """What an agent finds in a text.

    Attributes:
        spans: Its entities, characters of the text: what a caller gets.
        tags: IOB2 tags of the data's own words, each by its first sub-word: what a caller gets who sends words. None if it has none.
    """

    spans: tuple[Span, ...]
    tags: tuple[str, ...] | None = None


class TokenClassification(BaseTask[TaggedText], RewardsSamples):
    """Entity labels such as PER, ORG, LOC; the model has an output for `O` and for `B-` and `I-` of each."""

    architecture: ClassVar[str] = "AutoModelForTokenClassification"
    record_keys: ClassVar[tuple[frozenset[str], ...]] = (frozenset({"tokens", "tags"}), frozenset({"text", "spans"}))
    record_shape: ClassVar[str] = 'words with tags, or {"text": "...", "spans": [{"start", "end", "label"}]}'
    purpose: ClassVar[str] = "Finds {and} in a text."
    picture: ClassVar[Literal["marks", "ranking"]] = "marks"
    item_name: ClassVar[str] = "entity"
    decision: ClassVar[Decision] = PER_TOKEN
    parameters: ClassVar[type[Parameters]] = TaggingParameters
    answer_item: ClassVar[type[BaseModel]] = Entity
    answer_field: ClassVar[str] = "entities"
    columns: ClassVar[tuple[Column, ...]] = (Column("entities", "BYTES", as_json),)
    takes_words: ClassVar[bool] = True
    explains: ClassVar[bool] = True

    kind: Literal["token_classification"] = "token_classification"
    decoding: Literal["greedy", "viterbi"] = Field(
        "greedy",
        description="each piece's own best tag, or the best sequence of tags without an I- that begins nothing",
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

    def read_record(self, record: Mapping[str, Any], where: str, *, join: Join = " ".join) -> TaggedText:
        """Reads `{"tokens", "tags"}` or `{"text", "spans"}`; tags may be of any scheme of the IOB family."""
        refuse_reward(record, where, self.kind)
        return read_tagged_text(record, where, join)

    def read_unlabelled(self, record: Mapping[str, Any], where: str) -> TaggedText:
        """The text without a span."""
        return read_tagged_text({"text": record["text"], "spans": []}, where, " ".join)

    def labels_of(self, example: TaggedText) -> set[str]:
        """Entity labels in an example, without prefixes."""
        return {span.label for span in example.spans}

    def text_of(self, example: TaggedText) -> str:
        """The text."""
        return example.text

    def encode(self, encoder: Encoder, examples: Sequence[TaggedText]) -> list[Document]:
        """Encodes the texts, as those of callers are."""
        return encoder.encode_texts(
            [example.text for example in examples], words=[example.words for example in examples]
        )

    def targets(self, example: TaggedText, document: Document) -> list[Int64]:
        """The tag's index at the sub-word that speaks for each piece, -100 elsewhere; every piece is trained in one window only."""
        place = _places_of(self.outputs)
        targets = np.array([place[tag] for tag in tags_of(document.pieces, example.spans)], dtype=np.int64)
        firsts = np.array(document.pieces.firsts, dtype=np.int64)
        return [document.spread(window, firsts, targets) for window in range(len(document.windows))]

    def edges_of(self, example: TaggedText) -> Sequence[int]:
        """Begins and ends of the spans."""
        return [edge for span in example.spans for edge in span[:2]]

    def reachable(self, example: TaggedText, document: Document) -> tuple[Sequence[Span], Sequence[Span]]:
        """The spans, beside those that the nearest tags of pieces say."""
        return example.spans, self._spans(document, document.pieces, tags_of(document.pieces, example.spans))

    def predict(self, document: Document, outputs: Sequence[Float32]) -> Found:
        """The entities that `answer` gives by default, and tags of words that the data came with."""
        logits = document.merge(outputs)
        pieces = document.pieces
        names = self.outputs
        tags = [names[output] for output in self._best(_rows(pieces, logits, "first"))]
        spans = self._spans(document, pieces, tags)
        words = document.word_pieces
        return Found(spans, None if words is None else self._word_tags(words, logits))

    def score(self, examples: Sequence[TaggedText], predictions: Sequence[Found]) -> Report:
        """Exact characters and label; beside it seqeval's strict score over the words of data that came as words."""
        return score_entities(
            self.labels,
            [example.spans for example in examples],
            [found.spans for found in predictions],
            [
                (list(example.tags), list(found.tags))
                for example, found in zip(examples, predictions, strict=True)
                if example.words is not None and found.tags is not None
            ],
        )

    def pairs(self, example: TaggedText, prediction: Found) -> list[Pair]:
        """Entities beside those predicted in the same characters."""
        return pair_spans(example.spans, prediction.spans, lambda span: example.text[span.start : span.end])

    def answer(
        self, text: str, document: Document, outputs: Sequence[Float32], parameters: TaggingParameters
    ) -> list[dict[str, Any]]:
        """Entities as Hugging Face's pipeline groups them, with exact characters of `text`."""
        logits = document.merge(outputs)
        strategy, ignored = parameters.aggregation_strategy, parameters.ignore_labels
        if strategy == "none":
            return self._subwords(text, document, softmax(logits), ignored)
        pieces, rows = _judged(document, logits, strategy)
        best = logits.argmax(axis=-1).tolist() if strategy == "simple" else self._best(rows)
        return self._entities(document, pieces, rows, best, ignored=ignored)

    def record_of(self, text: str, answer: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        """The text with the entities as spans."""
        return {"text": text, "spans": [{"start": item["start"], "end": item["end"], "label": item["entity_group"]}
                                        for item in answer]}  # fmt: skip

    def choices(self, document: Document, outputs: Sequence[Float32]) -> Float32:
        """One of all tags for each piece, by its first sub-word; the rules of `viterbi` are left out."""
        return softmax(_rows(document.pieces, document.merge(outputs), "first"))

    def counted(self, answer: Sequence[Mapping[str, Any]]) -> list[tuple[str, float]]:
        """The label of every entity; with strategy `none` the tag of every sub-word."""
        return [(item.get("entity_group") or item["entity"], item["score"]) for item in answer]

    def claims(self, answer: Sequence[Mapping[str, Any]], labels: Sequence[str] = ()) -> list[Claim]:
        """The entities; with strategy `none` the tags of sub-words."""
        found = [Claim(item.get("entity_group") or item["entity"], (item["start"], item["end"])) for item in answer]
        return [claim for claim in found if not labels or claim.label in labels]

    def verdicts(
        self,
        claims: Sequence[Claim],
        text: str,
        document: Document,
        outputs: Sequence[Float32],
        parameters: TaggingParameters,
    ) -> list[Verdict]:
        """The mean probability of each label over the pieces of its span, and whether exactly this entity is found."""
        answered = set(self.claims(self.answer(text, document, outputs, parameters)))
        pieces, rows = _judged(document, document.merge(outputs), parameters.aggregation_strategy)
        scores, names = softmax(rows) if len(rows) else rows, self.outputs
        found = []
        for claim in claims:
            begin, end = claim.span or (0, len(text))
            inside = [place for place, start in enumerate(pieces.starts) if start < end and pieces.ends[place] > begin]
            own = [place for place, name in enumerate(names) if claim.label in (name, name[2:])]
            sure = float(scores[np.ix_(inside, own)].sum(axis=-1).mean()) if inside else 0.0
            found.append(Verdict(sure, claim in answered))
        return found

    def best_choices(self, logits: Float32) -> Int64:
        """The tag of each piece of a window."""
        return np.array(self._best(logits), np.int64)

    def reward_of(self, chosen: Int64, wanted: Int64) -> float:
        """F1 of the entities that the tags of a window's pieces say, 1 where there are none and none are said; line ends part none here."""
        names = self.outputs
        found, gold = (set(decode_tags([names[output] for output in tags.tolist()])) for tags in (chosen, wanted))
        return 2 * len(found & gold) / (len(found) + len(gold)) if found or gold else 1.0

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

    def _entities(
        self, document: Document, pieces: Pieces, rows: Float32, best: list[int], *, ignored: tuple[str, ...]
    ) -> list[dict[str, Any]]:
        text, line_end, names = document.text, document.segmentation.line_end, self.outputs
        outside = OUTSIDE not in ignored
        found = []
        for label, first, last in groups_of(
            [names[output] for output in best], pieces, text, line_end=line_end, outside=outside
        ):
            start, end = trim(text, pieces.starts[first], pieces.ends[last])
            if label not in ignored and start < end:  # sub-words of white space cover no characters
                members = range(first, last + 1)
                score = sum(_probability(rows[piece].tolist(), best[piece]) for piece in members) / len(members)
                found.append(
                    {"entity_group": label, "score": score, "word": text[start:end], "start": start, "end": end}
                )
        return found

    def _spans(self, document: Document, pieces: Pieces, tags: Sequence[str]) -> tuple[Span, ...]:
        text, line_end = document.text, document.segmentation.line_end
        return tuple(
            Span(*trim(text, pieces.starts[first], pieces.ends[last]), label)
            for label, first, last in groups_of(tags, pieces, text, line_end=line_end)
        )

    def _best(self, rows: Float32) -> list[int]:
        """The output of each row."""
        if self.decoding == "viterbi":
            rules = iob2_rules(self.outputs)
            found: list[int] = best_path(rows, *rules).tolist()
        else:
            found = rows.argmax(axis=-1).tolist()
        return found

    def _word_tags(self, words: Pieces, logits: Float32) -> tuple[str, ...]:
        """One valid IOB2 tag per word; words without sub-words are `O`, words that share one are one entity."""
        names, best = self.outputs, self._best(_rows(words, logits, "first"))
        tags = [names[output] for output in best]
        for number, (before, first) in enumerate(pairwise(words.firsts), start=1):
            if first == before >= 0 and tags[number] != OUTSIDE:
                tags[number] = f"I-{tags[number][2:]}"
        return tuple(to_iob2(tags))


@lru_cache(maxsize=64)
def _places_of(outputs: tuple[str, ...]) -> dict[str, int]:
    return {name: place for place, name in enumerate(outputs)}


def _judged(document: Document, logits: Float32, strategy: Strategy) -> tuple[Pieces, Float32]:
    """What gets a label of its own under a strategy, and the logits of each: float32 [pieces, outputs]."""
    if strategy in ("none", "simple"):
        return Pieces(list(range(len(logits))), document.starts.tolist(), document.ends.tolist()), logits
    return document.pieces, _rows(document.pieces, logits, strategy)


def _rows(pieces: Pieces, logits: Float32, strategy: Strategy) -> Float32:
    """What is said of each piece: float32 [pieces, outputs], logits up to a constant in each row; a piece without sub-words is `O`."""
    firsts = pieces.firsts
    if -1 not in firsts:
        return _aggregated(firsts, logits, strategy)
    rows = np.full((len(firsts), logits.shape[1]), -np.inf, np.float32)
    rows[:, 0] = 0.0
    known = [number for number, first in enumerate(firsts) if first >= 0]
    rows[known] = _aggregated([firsts[number] for number in known], logits, strategy)
    return rows


def _aggregated(firsts: list[int], logits: Float32, strategy: Strategy) -> Float32:
    if strategy == "first" or not firsts:
        return logits[firsts]
    scores = softmax(logits)
    if strategy == "average":
        counts = np.diff(np.append(firsts, len(scores)))[:, None]
        average = np.add.reduceat(scores, firsts, axis=0) / counts
        return np.log(np.maximum(average, np.finfo(np.float32).tiny)).astype(np.float32)
    best = scores.max(axis=-1)
    parts = pairwise([*firsts, len(scores)])
    return logits[[first + int(best[first:last].argmax()) for first, last in parts]]


def _probability(logits: list[float], output: int) -> float:
    """Of one output; for a row of a few numbers this is faster than numpy."""
    chosen = logits[output]
    highest = max(logits)
    return math.exp(chosen - highest) / sum(math.exp(logit - highest) for logit in logits)
