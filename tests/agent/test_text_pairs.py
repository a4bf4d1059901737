"""Two texts in one input: their windows, how pairs are read, judged, and asked about classes that a request names itself."""

import pickle

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError
from tokenizers import processors

from agent.batching import pad
from agent.data import DataConfig, load_splits
from agent.encoding import Encoder
from agent.errors import ConfigError, DataError, RequestError
from agent.tasks import TextClassification, TextPairClassification
from agent.tasks.text_pair_classification import MOST_CHARACTERS, MOST_PAIRS
from agent.windows.text_pairs import PairFrame, TextPair, cut_pair
from tests.agent.data.reading import put, read, source_of
from tests.agent.families import FAMILIES, make
from tests.tiny import make_tokenizer

NLI = TextPairClassification(labels=("contradiction", "entailment", "neutral"))
BINARY = TextPairClassification(labels=("entailment", "not_entailment"))


def encoder(family=None, max_tokens=16, stride=2):
    return Encoder(make(family) if family else make_tokenizer(), max_tokens=max_tokens, stride=stride)


# --- windows


@given(first=st.integers(0, 60), second=st.integers(0, 60), room=st.integers(2, 24), stride=st.integers(0, 30))
def test_every_sub_word_of_one_text_stands_beside_every_one_of_the_other(first, second, room, stride):
    seen = set()
    for (begin, end), (start, stop) in cut_pair(first, second, room, stride):
        assert end - begin + stop - start <= room
        seen |= {(one, other) for one in range(begin, end) for other in range(start, stop)}
    assert len(seen) == first * second


def test_the_first_text_stands_whole_in_every_window_while_it_fills_no_more_than_half():
    cuts = list(cut_pair(5, 40, 12, 2))
    assert {cut.first for cut in cuts} == {(0, 5)}
    assert [cut.second for cut in cuts] == [(start, min(start + 7, 40)) for start in range(0, 36, 5)]


@pytest.mark.parametrize("family", FAMILIES)
def test_a_window_of_both_is_what_the_tokenizer_makes_of_a_pair(family):
    tokenizer, used = make(family), encoder(family, max_tokens=64)
    whole = tokenizer.encode("the quick fox", "hello world")
    (document,) = used.encode_texts([TextPair("the quick fox", "hello world")])
    (window,) = document.windows
    assert window.input_ids.tolist() == whole.ids
    assert window.type_ids.tolist() == whole.type_ids
    held = window.input_ids[window.offset : window.offset + window.last - window.first]
    assert held.tolist() == document.token_ids[window.first : window.last].tolist()


def test_pairs_and_single_texts_are_encoded_together():
    used = encoder()
    pair, single = used.encode_texts([TextPair("anna", "oslo"), "anna"])
    assert [len(pair.windows), len(single.windows)] == [1, 1]
    assert pair.windows[0].type_ids.tolist() == [0, 0, 0, 1, 1]
    assert not single.windows[0].type_ids.any()
    assert pad([pair.windows[0], single.windows[0]], 0).token_type_ids.tolist()[1] == [0] * 5


def test_a_text_beside_several_is_each_pair_in_a_row():
    used, others = encoder(), ["oslo", "lima is far away from here and so is pune", "x"]
    text = "anna went to oslo . " * 4
    joined = used.encode_beside(text, others)
    alone = used.encode_texts([TextPair(text, other) for other in others])
    assert joined.groups == tuple(len(document.windows) for document in alone)
    rows = [window.input_ids.tolist() for document in alone for window in document.windows]
    assert [window.input_ids.tolist() for window in joined.windows] == rows


def test_a_tokenizer_that_does_not_part_two_texts_is_refused():
    tokenizer = make_tokenizer()
    tokenizer.post_processor = processors.TemplateProcessing(single="$A", pair="$A $B", special_tokens=[])
    with pytest.raises(ConfigError, match="no special token between two texts"):
        PairFrame.of(tokenizer)


def test_a_pair_counts_as_one_text_and_travels():
    pair = TextPair("anna", "oslo")
    again = pickle.loads(pickle.dumps(pair))
    assert (again.first, again.second, len(pair)) == ("anna", "oslo", 9)
    assert NLI.fields_of(str(pair)) == {"text": "anna", "text_pair": "oslo"}


# --- reading


def record(**changes):
    return {"text": "anna met bruno", "text_pair": "bruno met anna", "label": "entailment"} | changes


@pytest.mark.parametrize(
    "names", [("text", "text_pair"), ("premise", "hypothesis"), ("sentence1", "sentence2"), ("question1", "question2")]
)
def test_pairs_are_read_by_the_names_that_collections_give_them(tmp_path, names):
    row = dict(zip((*names, "label"), record().values(), strict=True))
    file = put(tmp_path, "x.jsonl", [row])
    assert (source_of(file).name, source_of(file).whole) == ("pairs of texts with classes in JSON lines", None)
    assert read(file) == [record()]


@pytest.mark.parametrize("field", ["text", "text_pair", "label"])
def test_what_is_missing_is_named_with_its_place(field):
    wrong = record()
    del wrong[field]
    with pytest.raises(DataError, match=rf"^f:3: field '{field}' is absent.*Allowed: .*text_pair.*Remedy: "):
        NLI.read_record(wrong, "f:3")


def test_a_pair_is_no_text_for_a_classifier(tmp_path):
    for name in ("train", "dev", "test"):
        put(tmp_path, f"{name}.jsonl", [record()])
    config = DataConfig(path=str(tmp_path))
    with pytest.raises(DataError, match=r"train\.jsonl:1: .*data for text_pair_classification"):
        load_splits(config, TextClassification())
    assert load_splits(config, TextPairClassification()).train[0].text_pair == "bruno met anna"


# --- candidate labels


def zero_shot(task, rows, labels, **parameters):
    given = task.parameters(candidate_labels=labels, **parameters)
    (document,) = task.encode_request(encoder(max_tokens=64), ["anna met bruno"], given)
    return task.answer("anna met bruno", document, [np.array(row, np.float32) for row in rows], given)


def test_candidates_share_one_by_what_their_hypotheses_are_said_to_follow():
    rows = [[0, 1, 9], [3, 2, 0], [0, 0, 0]]
    items = zero_shot(NLI, rows, ["a", "b", "c"])
    odds = np.exp([1, 2, 0])
    assert [item["label"] for item in items] == ["b", "a", "c"]
    assert [item["score"] for item in items] == pytest.approx(sorted(odds / odds.sum(), reverse=True), abs=1e-6)
    assert len(zero_shot(NLI, rows, ["a", "b", "c"], top_k=1)) == 1


@pytest.mark.parametrize(("task", "yes", "no"), [(NLI, 1, 0), (BINARY, 0, 1)])
def test_with_multi_label_each_candidate_is_weighed_against_its_contradiction(task, yes, no):
    rows = np.random.default_rng(0).normal(size=(2, len(task.labels)))
    scores = {item["label"]: item["score"] for item in zero_shot(task, rows, ["a", "b"], multi_label=True)}
    for label, row in zip("ab", rows, strict=True):
        assert scores[label] == pytest.approx(1 / (1 + np.exp(row[no] - row[yes])), abs=1e-5)


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ({"candidate_labels": []}, "at least 1"),
        ({"candidate_labels": ["a", "a"]}, "distinct"),
        ({"candidate_labels": ["a", ""]}, "distinct"),
        ({"candidate_labels": ["a"], "hypothesis_template": "It is so."}, "with {} where"),
        ({"candidate_labels": ["a"] * (MOST_PAIRS + 1)}, "at most"),
    ],
)
def test_candidates_that_make_no_sense_are_refused(given, told):
    with pytest.raises(ValidationError, match=told):
        NLI.parameters(**given)


@pytest.mark.parametrize(
    ("task", "text", "labels", "field"),
    [
        (NLI, "a", None, "inputs"),
        (NLI, TextPair("a", "b"), ["x"], "inputs"),
        (TextPairClassification(labels=("same", "other")), "a", ["x"], "parameters.candidate_labels"),
        (NLI, "a" * (MOST_CHARACTERS // 2), ["x", "y", "z"], "parameters.candidate_labels"),
    ],
)
def test_inputs_that_do_not_fit_their_parameters_are_refused_by_field(task, text, labels, field):
    with pytest.raises(RequestError) as caught:
        task.encode_request(encoder(), [text], task.parameters(candidate_labels=labels))
    assert caught.value.field == field
    assert caught.value.allowed
    assert caught.value.remedy


def test_one_candidate_has_a_score_of_its_own():
    (item,) = zero_shot(NLI, [[2, 1, 0]], ["a"])
    assert item["score"] == pytest.approx(1 / (1 + np.exp(1)), abs=1e-6)
