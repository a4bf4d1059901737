"""Masked language modelling: hidden words of raw text are learned, and masks in a text are filled."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Annotated, Any, ClassVar, Literal, Self

import numpy as np
from pydantic import BaseModel, Field, Strict, model_validator

from agent.encoding import IGNORED, Document, Encoder, Float32, Int64
from agent.errors import RequestError
from agent.tasks.base import BaseTask, Column, Example, Join, Report, as_json
from agent.tasks.masked_language.mask_scores import NamedToken, name_token, pair_tokens, score_tokens
from agent.tasks.masked_language.masked_document import (
    MaskedDocument,
    ask,
    ask_in_turns,
    words_by_window,
    words_of,
)
from agent.tasks.masked_language.word_masking import WordMasking, text_key
from agent.tasks.output_decision import OF_VOCABULARY, Decision, softmax
from agent.tasks.pairs import Pair
from agent.tasks.record_fields import require_text
from agent.tasks.requests.request_parameters import WHOLE, Parameters
from agent.windows.token_vocabulary import Vocabulary

WORD = "word"
_SHAPE = '{"text": "..."}'
_TOP_K = 5
_MOST_MASKS = 16  # of a text: each costs the probabilities of a whole vocabulary


class PlainText(Example):
    """A text, of which everything is learned."""

    text: str


class FillMaskParameters(Parameters):
    """Parameters of a fill-mask request, named as in Hugging Face's API."""

    top_k: Annotated[int, Strict(), Field(ge=1, le=1_000), WHOLE] | None = Field(
        None, description=f"How many sub-words to return for each mask, best first; {_TOP_K} by default."
    )
    targets: Annotated[list[Annotated[str, Field(min_length=1)]], Field(min_length=1, max_length=1_000)] | None = Field(
        None, description="The only sub-words to choose from; each must be one of the agent's vocabulary."
    )


class Filling(BaseModel):
    """A sub-word for a mask, which stands at characters `start` to `end` of the text."""

    score: float
    token: int = Field(description="Its number in the vocabulary.")
    token_str: str
    sequence: str = Field(description="The text with the sub-word in the mask's place.")
    start: int
    end: int


class MaskedLanguageModelling(BaseTask[PlainText]):
    """The words that masks stand for; learned from text without labels."""

    architecture: ClassVar[str] = "AutoModelForMaskedLM"
    decision: ClassVar[Decision] = OF_VOCABULARY
    record_keys: ClassVar[tuple[frozenset[str], ...]] = (frozenset({"text"}),)
    record_shape: ClassVar[str] = f"plain text, a text a line, or {_SHAPE}"
    purpose: ClassVar[str] = "Fills masks in a text with words."
    picture: ClassVar[Literal["marks", "ranking", "answers", "fillings"]] = "fillings"
    item_name: ClassVar[str] = WORD
    learns_from_text: ClassVar[bool] = True
    nests: ClassVar[bool] = True
    encoding_refuses: ClassVar[bool] = True  # masks are missing, or too many
    parameters: ClassVar[type[Parameters]] = FillMaskParameters
    answer_item: ClassVar[type[BaseModel]] = Filling
    answer_field: ClassVar[str] = "fillings"
    columns: ClassVar[tuple[Column, ...]] = (
        Column("sequence", "BYTES", lambda answer: str(answer[0]["sequence"])),
        Column("score", "FP32", lambda answer: float(answer[0]["score"])),
        Column("fillings", "BYTES", as_json),
    )

    kind: Literal["masked_language_modelling"] = "masked_language_modelling"
    mask_fraction: float = Field(
        0.15, gt=0, lt=1, description="part of the words that is hidden, drawn anew each epoch"
    )
    random_fraction: float = Field(
        0.1, ge=0, le=1, description="part of the hidden sub-words in whose place another one is shown in training"
    )
    kept_fraction: float = Field(0.1, ge=0, le=1, description="part of the hidden sub-words that training shows")

    evaluation_turns: int = Field(
        4,
        ge=1,
        le=100,
        description="times that texts of dev and test are computed, each time with other words hidden: more make scores less noisy, "
        "and take as many times as long and as much memory",
    )

    @model_validator(mode="after")
    def _parts_of_one(self) -> Self:
        if self.random_fraction + self.kept_fraction > 1:
            raise ValueError("random_fraction and kept_fraction are parts of the hidden sub-words: together at most 1")
        return self

    @property
    def correction_key(self) -> str:
        """None: a text is right as it is."""
        return ""

    @property
    def outputs(self) -> tuple[str, ...]:
        """None with a name of its own: the sub-words of the tokenizer."""
        return ()

    def num_outputs(self, encoder: Encoder) -> int:
        """The size of the vocabulary."""
        return encoder.vocabulary.size

    def read_record(self, record: Mapping[str, Any], where: str, *, join: Join = " ".join) -> PlainText:
        """Reads the text of a record, or its words; labels beside them say nothing."""
        words = record.get("tokens")
        if "text" not in record and isinstance(words, list) and words and all(isinstance(word, str) for word in words):
            record = {"text": join(words)}
        return PlainText(where=where, text=require_text(record, "text", where, _SHAPE))

    def read_unlabelled(self, record: Mapping[str, Any], where: str) -> PlainText:
        """The text."""
        return self.read_record(record, where)

    def labels_of(self, example: PlainText) -> set[str]:
        """One label for all words."""
        return {WORD} if example.text.strip() else set()

    def text_of(self, example: PlainText) -> str:
        """The text, without masks."""
        return example.text

    def trial_input(self, encoder: Encoder) -> str:
        """A mask."""
        return encoder.vocabulary.mask_token

    def masking(self, encoder: Encoder) -> WordMasking:
        """How words are hidden in training."""
        vocabulary = encoder.vocabulary
        return WordMasking(
            self.mask_fraction, self.random_fraction, self.kept_fraction, vocabulary.mask_id, vocabulary.ordinary
        )

    def encode(self, encoder: Encoder, examples: Sequence[PlainText]) -> list[Document]:
        """Encodes texts with words hidden by masks, always the same ones of a text: its windows stand there once for each turn."""
        vocabulary = encoder.vocabulary
        masking, found = self.masking(encoder), list[Document]()
        for document in encoder.encode_texts([example.text for example in examples]):
            turns = masking.choose_in_turns(
                words_of(document, vocabulary), text_key(document.text), self.evaluation_turns
            )
            found.append(ask_in_turns(document, vocabulary, turns, hide=True))
        return found

    def training_windows(
        self, encoder: Encoder, examples: Sequence[PlainText]
    ) -> Iterator[tuple[Document, list[Int64]]]:
        """Texts as they are, with the number of the word of each token: what is hidden is drawn when a batch is made."""
        for document in encoder.encode_texts([example.text for example in examples]):
            yield document, words_by_window(document, encoder.vocabulary)

    def encode_request(self, encoder: Encoder, texts: Sequence[str], parameters: Any) -> list[Document]:
        """Encodes texts with masks.

        Raises:
            RequestError: A text has no mask or very many, or a target is no sub-word.
        """
        vocabulary = encoder.vocabulary
        _targets(vocabulary, parameters)
        found: list[Document] = []
        for index, document in enumerate(encoder.encode_texts(texts, stride=parameters.stride)):
            masks = document.token_ids == vocabulary.mask_id
            if not 1 <= masks.sum() <= _MOST_MASKS:
                raise RequestError(
                    f"inputs[{index}] holds {masks.sum() or 'no'} masks",
                    allowed=f"1 to {_MOST_MASKS} times {vocabulary.mask_token}",
                    remedy=f"write {vocabulary.mask_token} in the place of a word",
                    field=f"inputs[{index}]",
                )
            found.append(ask(document, vocabulary, masks, hide=False))
        return found

    def targets(self, example: PlainText, document: Document) -> list[Int64]:
        """The hidden sub-word at each token that is asked about, -100 elsewhere."""
        return [
            np.where(
                _asked(window) == 1,
                np.pad(document.token_ids[window.first : window.last], _around(window), constant_values=IGNORED),
                IGNORED,
            )
            for window in document.windows
        ]

    def predict(self, document: Document, outputs: Sequence[Float32]) -> tuple[NamedToken, ...]:
        """The likeliest sub-word in each place that was asked about, beside the hidden one."""
        if not isinstance(document, MaskedDocument) or document.vocabulary is None:
            return ()
        vocabulary, words = document.vocabulary, words_of(document, document.vocabulary)
        return tuple(
            name_token(vocabulary, int(document.token_ids[place]), int(words[place]), logits)
            for place, logits in document.by_place(outputs)
        )

    def score(self, examples: Sequence[PlainText], predictions: Sequence[Sequence[NamedToken]]) -> Report:
        """Accuracy on hidden sub-words, and pseudo-perplexity."""
        return score_tokens(predictions)

    def pairs(self, example: PlainText, prediction: Sequence[NamedToken]) -> list[Pair]:
        """Each hidden sub-word beside the one named in its place."""
        return pair_tokens(prediction, WORD)

    def answer(
        self, text: str, document: Document, outputs: Sequence[Float32], parameters: FillMaskParameters
    ) -> list[dict[str, Any]]:
        """The best sub-words for each mask, in the order of the text."""
        if not isinstance(document, MaskedDocument) or document.vocabulary is None:
            return []
        vocabulary, targets = document.vocabulary, _targets(document.vocabulary, parameters)
        found = []
        for place, logits in document.by_place(outputs):
            scores = softmax(logits[: vocabulary.size])
            among = np.arange(len(scores)) if targets is None else targets
            best = among[np.argsort(-scores[among], kind="stable")[: parameters.top_k or _TOP_K]]
            start, end = int(document.starts[place]), int(document.ends[place])
            found += [
                {
                    "score": float(scores[token]), "token": token, "token_str": vocabulary.written(token),
                    "sequence": vocabulary.put(text, start, end, token), "start": start, "end": end,
                }
                for token in best.tolist()
            ]  # fmt: skip
        return found

    def record_of(self, text: str, answer: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        """The text with the best sub-word in the place of each mask."""
        filled = text
        for item in reversed(_best(answer)):
            after = len(text) - item["end"]  # characters of the text behind the mask
            filled = item["sequence"][: len(item["sequence"]) - after] + filled[item["end"] :]
        return {"text": filled}

    def choices(self, document: Document, outputs: Sequence[Float32]) -> Float32:
        """One of all sub-words in each place that was asked about."""
        return softmax(np.concatenate(outputs))

    def counted(self, answer: Sequence[Mapping[str, Any]]) -> list[tuple[str, float]]:
        """Each mask, with the score of what fills it best."""
        return [(WORD, item["score"]) for item in _best(answer)]

    def envelope(self, answers: list[list[dict[str, Any]]], *, single: bool, parameters: Any) -> list[Any]:
        """A list of sub-words for a text with one mask, and a list of such lists for one with several."""
        shaped = [_by_mask(answer) for answer in answers]
        return shaped[0] if single else shaped


def _around(window: Any) -> tuple[int, int]:
    """How many special tokens stand before and behind the text of a window."""
    return window.offset, len(window.input_ids) - window.offset - (window.last - window.first)


def _asked(window: Any) -> Int64:
    return np.zeros(len(window.input_ids), np.int64) if window.asked is None else window.asked


def _targets(vocabulary: Vocabulary, parameters: FillMaskParameters) -> Int64 | None:
    """The numbers of the sub-words to choose from; None for all.

    Raises:
        RequestError: One of them is no sub-word.
    """
    if parameters.targets is None:
        return None
    numbers = [vocabulary.find(target) for target in parameters.targets]
    for index, (number, target) in enumerate(zip(numbers, parameters.targets, strict=True)):
        if number is None:
            raise RequestError(
                f"parameters.targets[{index}] is {target[:80]!r}, which is no single sub-word of the agent's",
                allowed="words that its vocabulary has",
                remedy="leave it out, or choose a more common word",
                field=f"parameters.targets[{index}]",
            )
    return np.array(list(dict.fromkeys(numbers)), np.int64)


def _by_mask(answer: Sequence[dict[str, Any]]) -> list[Any]:
    masks: dict[int, list[dict[str, Any]]] = {}
    for item in answer:
        masks.setdefault(item["start"], []).append(item)
    return list(masks.values()) if len(masks) > 1 else list(answer)


def _best(answer: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """The first item of each mask."""
    seen: dict[int, Mapping[str, Any]] = {}
    for item in answer:
        seen.setdefault(item["start"], item)
    return list(seen.values())
