"""Texts to windows and back, over the families of tokenizers."""

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from tokenizers import pre_tokenizers

from agent.batching import pad
from agent.encoding import IGNORED, Encoder
from agent.errors import AgentError, BundleError, ConfigError, RequestError
from agent.segmentation import GivenWords
from tests.agent.families import CORPUS, FAMILIES, ODDITIES, make, texts

every_family = pytest.mark.parametrize("family", FAMILIES)
_ENCODERS: dict[tuple[str, int, int], Encoder] = {}


def encoder(family, max_tokens=12, stride=3):
    key = (family, max_tokens, stride)
    if key not in _ENCODERS:
        _ENCODERS[key] = Encoder(make(family), max_tokens=max_tokens, stride=stride)
    return _ENCODERS[key]


def check_windows(used, document):
    length, covered = len(document.token_ids), np.zeros(len(document.token_ids), bool)
    for window in document.windows:
        size = window.last - window.first
        assert len(window.input_ids) == len(window.type_ids) <= used.max_tokens
        assert (
            window.input_ids[window.offset : window.offset + size].tolist()
            == document.token_ids[window.first : window.last].tolist()
        )
        covered[window.first : window.last] = True
    assert covered.all()
    assert document.windows[0].first == 0
    assert document.windows[-1].last == length
    for before, after in zip(document.windows, document.windows[1:], strict=False):
        assert before.last - after.first == used.stride
        assert before.last < after.last, "no window is redundant"
    assert document.num_tokens == sum(len(window.input_ids) for window in document.windows)


def check_merge(document):
    """Every window says (its number, the sub-word it sees); merging must return what the owner said of each."""
    outputs = []
    for number, window in enumerate(document.windows):
        output = np.full((len(window.input_ids) + 3, 2), -7.0, np.float32)
        output[window.offset : window.offset + window.last - window.first] = [
            (number, position) for position in range(window.first, window.last)
        ] or np.empty((0, 2))
        outputs.append(output)
    merged = document.merge(outputs)
    assert merged.shape == (len(document.token_ids), 2)
    assert merged[:, 0].tolist() == document.owners.tolist()
    assert merged[:, 1].tolist() == list(range(len(document.token_ids)))


def margin(document, window, position):
    left = float("inf") if window.first == 0 else position - window.first
    right = float("inf") if window.last == len(document.token_ids) else window.last - 1 - position
    return min(left, right) if window.first <= position < window.last else -1


@every_family
@given(text=texts, shape=st.sampled_from([(12, 3), (8, 0), (9, 5), (200, 20)]))
@example(text=" ".join(ODDITIES), shape=(8, 4))
@example(text="", shape=(12, 3))
def test_no_piece_is_lost_or_labelled_twice(family, text, shape):
    used = encoder(family, *shape)
    (document,) = used.encode_texts([text])
    firsts = np.array(document.pieces.firsts, np.int64)
    labels = np.arange(100, 100 + len(firsts))
    targets = [document.spread(index, firsts, labels) for index in range(len(document.windows))]
    assert [len(target) for target in targets] == [len(window.input_ids) for window in document.windows]
    assert sorted(int(value) for target in targets for value in target if value != IGNORED) == labels.tolist()
    for index, (window, target) in enumerate(zip(document.windows, targets, strict=True)):
        for place in np.flatnonzero(target != IGNORED).tolist():
            subword = window.first + place - window.offset
            assert document.owners[subword] == index
            assert subword == firsts[target[place] - 100]


@every_family
@given(text=texts, shape=st.sampled_from([(12, 3), (8, 0), (9, 5), (200, 20)]))
@example(text="", shape=(12, 3))
@example(text=" \u200b\x00 ", shape=(12, 3))
def test_texts_of_any_unicode_are_covered_and_keep_their_characters(family, text, shape):
    used = encoder(family, *shape)
    (document,) = used.encode_texts([text])
    check_windows(used, document)
    check_merge(document)
    assert (document.starts >= 0).all()
    assert (document.starts <= document.ends).all()
    assert (document.ends <= len(text)).all()
    assert (np.diff(document.starts) >= 0).all()


@every_family
@pytest.mark.parametrize("blank", [True, False])
def test_no_text_loses_its_first_character(family, blank):
    """A byte-level post-processor that does not know of the blank before a text took the first character for it."""
    tokenizer = make(family)
    if family == "byte_level":
        before = pre_tokenizers.ByteLevel(add_prefix_space=blank)
        tokenizer.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.Digits(), before]) if blank else before
    for used in (Encoder(tokenizer, max_tokens=20, stride=2),) * 2:
        for text in ("London is big", "x", " x", "1 Anna"):
            (document,) = used.encode_texts([text])
            assert document.pieces.starts[0] == len(text) - len(text.lstrip())


@every_family
def test_every_window_is_framed_as_the_tokenizer_frames_a_text(family):
    tokenizer = make(family)
    used = Encoder(tokenizer, max_tokens=40, stride=4)
    (document,) = used.encode_texts(["Anna works in London"])
    whole = tokenizer.encode("Anna works in London")
    (window,) = document.windows
    assert window.input_ids.tolist() == whole.ids
    assert window.type_ids.tolist() == whole.type_ids


@every_family
@given(length=st.integers(0, 60), shape=st.sampled_from([(12, 3), (8, 0), (9, 5), (10, 6)]))
def test_each_sub_word_is_read_where_it_stands_furthest_from_a_cut(family, length, shape):
    (document,) = encoder(family, *shape).encode_texts([" ".join("a" * length)])
    for position, owner in enumerate(document.owners.tolist()):
        margins = [margin(document, window, position) for window in document.windows]
        assert owner == margins.index(max(margins))


@every_family
def test_a_document_of_thousands_of_words_is_covered(family):
    text = " ".join(word for word in CORPUS[1].split() for _ in range(700))
    used = encoder(family, 64, 16)
    (document,) = used.encode_texts([text])
    check_windows(used, document)
    check_merge(document)
    firsts = np.array(document.pieces.firsts)
    targets = [document.spread(index, firsts, np.ones_like(firsts)) for index in range(len(document.windows))]
    assert len(firsts) == 700 * len(CORPUS[1].split())
    assert sum(int((target == 1).sum()) for target in targets) == len(firsts)


@every_family
def test_an_empty_text_is_one_window_of_special_tokens(family):
    used = encoder(family)
    (document,) = used.encode_texts([""])
    assert len(document.windows) == 1
    assert document.pieces == ([], [], [])
    assert document.windows[0].input_ids.tolist() == make(family).encode("").ids
    assert document.merge([np.ones((len(document.windows[0].input_ids), 3), np.float32)]).shape == (0, 3)


def test_given_words_that_the_tokenizer_drops_keep_their_place():
    (document,) = encoder("wordpiece").encode_texts([GivenWords(["\x00", "anna", "\u200b", "\u0301", "smith"])])
    firsts = document.pieces.firsts
    assert [first >= 0 for first in firsts] == [False, True, False, False, True]
    assert [document.text[start:end] for start, end in zip(*document.pieces[1:], strict=True)][1::3] == [
        "anna",
        "smith",
    ]


def test_the_tokenizers_own_truncation_and_padding_are_switched_off():
    tokenizer = make("wordpiece")
    tokenizer.enable_truncation(4)
    tokenizer.enable_padding(length=64)
    (document,) = Encoder(tokenizer, max_tokens=512, stride=0).encode_texts([" ".join(["anna"] * 50)])
    assert len(document.pieces.firsts) == 50


@pytest.mark.parametrize("stride", [-1, 10, 11, 500])
def test_a_stride_that_leaves_no_room_is_refused(stride):
    with pytest.raises(ConfigError, match=r"stride .* Allowed: 0 to 9\. Remedy"):
        Encoder(make("wordpiece"), max_tokens=12, stride=stride)


def test_a_request_may_overlap_windows_by_another_stride_and_no_text_is_lost():
    used, text = Encoder(make("wordpiece"), max_tokens=12, stride=3), " ".join(["Anna met Bruno in Oslo."] * 9)
    (own,), (same,), (other,) = (used.encode_texts([text], stride=stride) for stride in (None, 3, 5))
    assert [window.first for window in own.windows] == [window.first for window in same.windows]
    assert len(other.windows) > len(own.windows)
    assert {before.last - after.first for before, after in pairwise(other.windows)} == {5}
    assert other.windows[-1].last == len(other.token_ids) == len(own.token_ids)
    check_merge(other)


@pytest.mark.parametrize("stride", [-1, 6, 10, 500])
def test_a_stride_that_does_not_fit_a_request_is_refused(stride):
    """At most half of a window: a request with a wider overlap would cost a multiple of its tokens."""
    with pytest.raises(RequestError, match=r"parameters.stride is .* Allowed: 0 to 5\. Remedy") as caught:
        Encoder(make("wordpiece"), max_tokens=12, stride=3).encode_texts(["a"], stride=stride)
    assert caught.value.field == "parameters.stride"


def test_windows_without_room_for_content_are_refused():
    with pytest.raises(ConfigError, match="at least 3 tokens"):
        Encoder(make("wordpiece"), max_tokens=2, stride=0)


def test_a_missing_or_damaged_tokenizer_is_named(tmp_path):
    with pytest.raises(BundleError, match=r"tokenizer\.json"):
        Encoder.load(tmp_path, max_tokens=12, stride=0)
    (tmp_path / "tokenizer.json").write_text("{", encoding="utf-8")
    with pytest.raises(BundleError, match=r"tokenizer\.json.*fast tokenizer"):
        Encoder.load(tmp_path, max_tokens=12, stride=0)


def test_a_tokenizer_is_loaded_with_the_models_length(tmp_path):
    (tmp_path / "tokenizer.json").write_text(make("wordpiece").to_str(), encoding="utf-8")
    assert Encoder.load(tmp_path, max_tokens=12, stride=3).max_tokens == 12
    with pytest.raises(AgentError, match="stride"):
        Encoder.load(tmp_path, max_tokens=12, stride=12)


def test_lone_surrogates_are_refused_by_their_place():
    with pytest.raises(RequestError, match="character 3") as caught:
        encoder("wordpiece").encode_texts(["fine", "bad\ud800"])
    assert caught.value.field == "inputs[1]"
    assert caught.value.status == 422


def test_padding_is_masked_and_uses_the_tokenizers_own_token():
    used = encoder("byte_level")
    documents = used.encode_texts(["a", "a a a a a"])
    batch = pad([document.windows[0] for document in documents], used.pad_id)
    assert used.pad_id == 1
    assert batch.input_ids.shape == batch.attention_mask.shape == batch.token_type_ids.shape
    assert batch.attention_mask.sum(axis=1).tolist() == [len(document.windows[0].input_ids) for document in documents]
    assert (batch.input_ids[batch.attention_mask == 0] == used.pad_id).all()
    assert batch.num_tokens == batch.attention_mask.sum()


@settings(max_examples=20)
@given(many=st.lists(texts, max_size=5))
def test_documents_are_independent_of_their_neighbours(many):
    used = encoder("metaspace")
    for alone, together in zip([used.encode_texts([item])[0] for item in many], used.encode_texts(many), strict=True):
        assert alone.token_ids.tolist() == together.token_ids.tolist()
        assert alone.pieces == together.pieces
