"""Viterbi against brute force, and the tagger that decodes by it."""

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.segmentation import word_edges
from agent.spans import decode_tags, encode_spans, tag_set
from agent.tasks import TokenClassification
from agent.viterbi import best_path, iob2_rules
from tests.agent.test_tasks import small_encoder

TAGS = tag_set(["LOC", "PER"])
RULES = iob2_rules(TAGS)
GREEDY, VITERBI = (TokenClassification(labels=("LOC", "PER"), decoding=decoding) for decoding in ("greedy", "viterbi"))
WORDS = ["anna", "smith", "the", "quick", "brown", "fox", "in", "london"]


def is_valid(tags):
    """Of IOB2: what the spans of the tags spell again."""
    return encode_spans(decode_tags(tags), len(tags)) == list(tags)


def total(log_probs, path):
    return sum(float(log_probs[word, tag]) for word, tag in enumerate(path))


def brute_force(log_probs, allowed, first):
    """The highest sum of any allowed sequence."""
    words, tags = log_probs.shape
    sums = [
        total(log_probs, path)
        for path in itertools.product(range(tags), repeat=words)
        if first[path[0]] and all(allowed[pair] for pair in itertools.pairwise(path))
    ]
    return max(sums, default=-np.inf)


@given(words=st.integers(1, 5), tags=st.integers(1, 4), seed=st.integers(0, 10_000))
def test_the_best_path_is_that_of_brute_force_under_any_rules(words, tags, seed):
    rng = np.random.default_rng(seed)
    log_probs = rng.normal(size=(words, tags)).astype(np.float32)
    allowed, first = rng.random((tags, tags)) < 0.6, rng.random(tags) < 0.6
    best = brute_force(log_probs, allowed, first)
    if np.isneginf(best):
        with pytest.raises(ValueError, match="no allowed sequence"):
            best_path(log_probs, allowed, first)
        return
    path = best_path(log_probs, allowed, first)
    assert path.dtype == np.int64
    assert path.shape == (words,)
    assert first[path[0]]
    assert allowed[path[:-1], path[1:]].all()
    assert total(log_probs, path) == pytest.approx(best, abs=1e-5)


@given(words=st.integers(1, 5), seed=st.integers(0, 10_000), forbidden=st.integers(0, 4))
def test_a_forbidden_tag_is_never_taken(words, seed, forbidden):
    log_probs = np.random.default_rng(seed).normal(size=(words, len(TAGS))).astype(np.float32)
    log_probs[forbidden % words, 1:] = -np.inf
    path = best_path(log_probs, *RULES)
    assert path[forbidden % words] == 0
    assert total(log_probs, path) == pytest.approx(brute_force(log_probs, *RULES), abs=1e-5)


def test_no_words_have_the_empty_path():
    assert best_path(np.empty((0, 5), np.float32), *RULES).tolist() == []


@given(st.lists(st.sampled_from(TAGS), min_size=1, max_size=6))
def test_the_rules_allow_exactly_the_valid_sequences(tags):
    allowed, first = RULES
    path = [TAGS.index(tag) for tag in tags]
    fits = first[path[0]] and all(allowed[pair] for pair in itertools.pairwise(path))
    assert bool(fits) == is_valid(tags)


def logits_of(document, task, seed, *, scale=3.0):
    rng = np.random.default_rng(seed)
    shapes = [(len(window.input_ids) + 2, len(task.outputs)) for window in document.windows]
    return [(rng.normal(size=shape) * scale).astype(np.float32) for shape in shapes]


@given(length=st.integers(0, 40), seed=st.integers(0, 10_000), scale=st.sampled_from([0.1, 3.0, 300.0]))
def test_predictions_are_valid_over_window_joins_and_words_without_sub_words(length, seed, scale):
    words = [(*WORDS, "\x00")[number] for number in np.random.default_rng(seed).integers(0, 9, length)]
    document = given_words(words)
    tags = VITERBI.predict(document, logits_of(document, VITERBI, seed, scale=scale)).tags
    assert len(tags) == length
    assert is_valid(tags)
    assert all(tag == "O" for tag, word in zip(tags, words, strict=True) if word == "\x00")


ENCODER = small_encoder(max_tokens=16, stride=4)


def given_words(words):
    """The words as a text, with the places of each."""
    (document,) = ENCODER.encode_texts([" ".join(words)], words=[word_edges(words)])
    return document


def test_a_sequence_is_decoded_over_the_join_of_two_windows():
    document = given_words(WORDS * 4)
    assert len(document.windows) > 1
    outputs = [np.full((len(window.input_ids), 5), -9, np.float32) for window in document.windows]
    for output in outputs:
        output[:, TAGS.index("I-PER")] = 5  # a beginning is missing: B-PER is second best everywhere
        output[:, TAGS.index("B-PER")] = 4
    assert VITERBI.predict(document, outputs).tags == ("B-PER", *["I-PER"] * 31)


def test_viterbi_mends_a_broken_beginning_where_greedy_keeps_it():
    """The first word is PER by a hair, the second surely goes on as LOC."""
    document = given_words(["anna", "smith"])
    outputs = np.full((len(document.windows[0].input_ids), 5), -9, np.float32)
    firsts = np.array(document.pieces.firsts) + 1
    outputs[firsts[0], [TAGS.index("B-PER"), TAGS.index("B-LOC")]] = 5.1, 5.0
    outputs[firsts[1], [TAGS.index("I-LOC"), TAGS.index("B-LOC"), TAGS.index("O")]] = 6, 1, 0
    assert GREEDY.predict(document, [outputs]).tags == ("B-PER", "B-LOC")
    assert VITERBI.predict(document, [outputs]).tags == ("B-LOC", "I-LOC")


@given(seed=st.integers(0, 10_000), strategy=st.sampled_from(["first", "average", "max"]))
def test_served_answers_are_decoded_as_in_evaluation(seed, strategy):
    text = " ".join(WORDS * 3)
    (served,) = ENCODER.encode_texts([text])
    outputs = logits_of(served, VITERBI, seed)
    answer = VITERBI.answer(text, served, outputs, VITERBI.parameters(aggregation_strategy=strategy))
    found = [(item["start"], item["end"], item["entity_group"]) for item in answer]
    if strategy == "first":
        predicted = VITERBI.predict(given_words(text.split()), outputs)
        assert found == list(predicted.spans)
        assert [(text[start:end], label) for start, end, label in found] == [
            (" ".join(text.split()[start:end]), label) for start, end, label in decode_tags(predicted.tags)
        ]
    assert all(0 < item["score"] <= 1 for item in answer)


@given(seed=st.integers(0, 2000))
def test_where_greedy_is_valid_both_decodings_agree(seed):
    document = given_words(WORDS[:3])
    outputs = logits_of(document, GREEDY, seed)
    raw = [TAGS[tag] for tag in document.merge(outputs)[document.pieces.firsts].argmax(axis=-1)]
    if is_valid(raw):
        assert VITERBI.predict(document, outputs) == GREEDY.predict(document, outputs)
        assert VITERBI.predict(document, outputs).tags == tuple(raw)
