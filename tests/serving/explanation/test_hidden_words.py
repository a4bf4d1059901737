"""Words of any text are hidden exactly, and places keep what stands at them."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agent.encoding import Encoder
from agent.segmentation import GivenWords, Segmentation
from agent.tasks.base import Claim
from agent.windows.text_pairs import TextPair
from serving.explanation.hidden_words import HiddenWords, neutral_token
from tests.serving.tiny import CLASSIFIER, JUDGE, TAGGER
from tests.tiny import make_tokenizer

ENCODER = Encoder(make_tokenizer(), max_tokens=32, stride=8)
TEXT = "Anna Berg flew to Lima, today."


def hidden_words(text: str, replacement: str = "mask", most: int = 50, task=TAGGER) -> HiddenWords:
    return HiddenWords(task, ENCODER, text, most=most, replacement=replacement)  # type: ignore[arg-type]


def set_of(words: HiddenWords, *names: str) -> int:
    return sum(1 << place for place, word in enumerate(words.words) if words.told(word)["word"] in names)


def test_words_are_replaced_or_removed() -> None:
    words = hidden_words(TEXT)
    assert [words.told(word)["word"] for word in words.words] == [
        "Anna",
        "Berg",
        "flew",
        "to",
        "Lima",
        ",",
        "today",
        ".",
    ]
    assert words.without(0) == TEXT
    assert words.without(set_of(words, "Berg", ",")) == "Anna [MASK] flew to Lima[MASK] today."
    removed = hidden_words(TEXT, "remove")
    assert removed.without(set_of(removed, "Anna", "to", ",", ".")) == "Berg flew Lima today"
    assert not removed.without(2 ** len(removed.words) - 1).strip()


@pytest.mark.parametrize(
    ("replacement", "hidden", "span"),
    [
        ("mask", ("flew",), (20, 24)),
        ("mask", ("Lima",), (18, 24)),
        ("mask", ("Anna", "Lima"), (20, 26)),
        ("remove", ("Anna", "Berg"), (8, 12)),
        ("remove", ("to",), (15, 19)),
    ],
)
def test_a_claim_moves_with_its_words(replacement: str, hidden: tuple[str, ...], span: tuple[int, int]) -> None:
    words = hidden_words(TEXT, replacement)
    chosen = set_of(words, *hidden)
    text = words.without(chosen)
    moved = words.moved(Claim("LOC", (18, 22)), chosen)
    assert moved.span is not None
    assert text[slice(*moved.span)] == ("[MASK]" if "Lima" in hidden else "Lima")
    assert moved.span == span


def test_an_entity_of_which_words_are_removed_is_what_is_left() -> None:
    words = hidden_words(TEXT, "remove")
    chosen = set_of(words, "Berg")
    assert words.moved(Claim("PER", (0, 9)), chosen).span == (0, 4)


def test_given_words_stay_given() -> None:
    text = GivenWords(["New York", "is", "far"])
    words = hidden_words(text)
    assert words.without(0b101).words == GivenWords(["[MASK]", "is", "[MASK]"]).words  # type: ignore[attr-defined]
    assert words.as_inputs(0b001) == {"words": ["[MASK]", "is", "far"]}
    removed = hidden_words(text, "remove")
    assert removed.as_inputs(0b010) == {"words": ["New York", "far"]}
    assert not removed.sendable(0b111)


def test_a_pair_keeps_its_two_texts() -> None:
    words = hidden_words(TextPair("Anna left", "Who left"), "remove", task=JUDGE)
    assert [(word.part, words.told(word)["field"]) for word in words.words] == [(0, "text")] * 2 + [
        (1, "text_pair")
    ] * 2
    assert words.as_inputs(0b1001) == {"text": "left", "text_pair": "Who "}
    assert not words.sendable(0b0011)
    assert words.sendable(0b0101)


def test_a_long_text_is_hidden_in_runs_of_words() -> None:
    words = hidden_words("one two three four five six seven", most=3)
    assert [words.told(word)["word"] for word in words.words] == ["one two three", "four five six", "seven"]
    assert words.without(0b010) == "one two three [MASK] [MASK] [MASK] seven"
    assert words.num_words == 7


def test_a_tokenizer_without_a_mask_uses_its_unknown_token_or_removes() -> None:
    tokenizer = make_tokenizer()
    assert neutral_token(tokenizer) == "[MASK]"
    from tokenizers import Tokenizer, models, pre_tokenizers

    bare = Tokenizer(models.WordLevel({"a": 0, "[UNK]": 1}, unk_token="[UNK]"))
    bare.pre_tokenizer = pre_tokenizers.Whitespace()
    assert neutral_token(bare) == ""
    bare.add_special_tokens(["[UNK]"])
    assert neutral_token(bare) == "[UNK]"


def test_an_agent_of_sub_words_is_explained_by_words() -> None:
    encoder = ENCODER.with_segmentation(Segmentation(pieces="subwords"))
    words = HiddenWords(CLASSIFIER, encoder, "unbelievably quixotic", most=50, replacement="mask")
    assert [words.told(word)["word"] for word in words.words] == ["unbelievably", "quixotic"]


TEXTS = st.lists(st.sampled_from(["Anna", "é", "東京", "a-b", ".", "[MASK]", "\n", "  ", "😀", "x"]), max_size=12).map(
    " ".join
)


@settings(max_examples=200, deadline=None)
@given(text=TEXTS, hidden=st.integers(0, 2**40), replacement=st.sampled_from(["mask", "remove"]))
def test_for_any_text_words_that_are_shown_stay_where_claims_move(text: str, hidden: int, replacement: str) -> None:
    words = hidden_words(text, replacement)
    hidden &= 2 ** len(words.words) - 1
    changed = words.without(hidden)
    assert words.without(0) == text
    for place, word in enumerate(words.words):
        assert text[word.start : word.end] == words.told(word)["word"]
        if not hidden >> place & 1:
            moved = words.moved(Claim("X", (word.start, word.end)), hidden).span
            assert moved is not None
            assert changed[slice(*moved)] == text[word.start : word.end]


def test_the_mask_of_a_text_is_one_token(tmp_path: Path) -> None:
    (document,) = ENCODER.encode_texts([hidden_words("went to oslo").without(0b100)])
    assert document.token_ids[-1] == ENCODER.tokenizer.token_to_id("[MASK]")
    assert len(document.pieces.starts) == 3
