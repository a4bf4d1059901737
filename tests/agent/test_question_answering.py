"""Extractive question answering: SQuAD's rules by hand, decoding against a search of all pairs, windows, no answer, what is refused."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.encoding import Encoder
from agent.errors import DataError, RequestError
from agent.tasks import QuestionAnswering
from agent.tasks.output_decision import OUT_OF_REACH, TOKENS, softmax
from agent.tasks.question_answering.answer_spans import context_edges
from agent.tasks.question_answering.extractive import FoundAnswer
from agent.tasks.question_answering.squad_scores import (
    answer_scores,
    choose_threshold,
    normalised,
    score_answers,
)
from agent.windows.text_pairs import TextPair
from tests.agent.families import FAMILIES, make, of_characters, texts
from tests.tiny import make_tokenizer

TASK = QuestionAnswering(labels=("answer",))
CONTEXT = "in lima , acme hired bruno . "


def encoder(max_tokens=24, stride=4):
    return Encoder(make_tokenizer(), max_tokens=max_tokens, stride=stride)


def record(context, answer=None, question="who", start=None):
    start = context.index(answer) if answer and start is None else start
    answers = {"text": [answer], "answer_start": [start]} if answer else {"text": [], "answer_start": []}
    return {"question": question, "context": context, "answers": answers}


def read(*given, **named):
    return TASK.read_record(record(*given, **named), "f:3")


def noise(document, seed=0, padded=0):
    rng = np.random.default_rng(seed)
    return [rng.normal(size=(2, len(w.input_ids) + padded)).astype(np.float32) * 3 for w in document.windows]


# --- scores


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("The  Denver Broncos!", "denver broncos"),
        ("an \u201capple\u201d a day", "\u201capple\u201d day"),  # ASCII punctuation only
        ("A.B. Co-op", "ab coop"),
        ("the", ""),
        ("Athens", "athens"),
        ("theatre a\tthe\nB", "theatre b"),
    ],
)
def test_answers_are_compared_without_case_punctuation_articles_and_blanks(text, wanted):
    assert normalised(text) == wanted


@pytest.mark.parametrize(
    ("golds", "answer", "exact", "f1"),
    [
        (["Denver Broncos"], "the Denver Broncos", 1, 1),
        (["Denver Broncos"], "Broncos", 0, 2 / 3),
        (["in Denver, Colorado"], "Denver", 0, 1 / 2),
        (["a b c", "b c d e"], "b c", 1, 1),  # "a" is an article
        (["x y", "x y z"], "y z", 0, 4 / 5),
        (["to be or not to be"], "be be be", 0, 4 / 9),  # each word as often as it occurs
        (["Oslo"], "", 0, 0),
        ([], "", 1, 1),
        ([], "Oslo", 0, 0),
        (["the"], "", 1, 1),  # a gold answer of articles only is none
        (["Oslo", "the"], "the", 0, 0),
    ],
)
def test_exact_match_and_f1_are_those_worked_out_by_hand(golds, answer, exact, f1):
    assert answer_scores(golds, answer) == pytest.approx((exact, f1))


def test_a_report_is_the_mean_over_questions_and_parts_those_without_answer():
    report = score_answers([["Oslo"], ["Lima", "the city of Lima"], [], []], ["Oslo", "city", "", "Graz"])
    assert report.metrics == pytest.approx(
        {
            "f1": (1 + 1 / 2 + 1 + 0) / 4, "exact_match": 2 / 4, "has_answer_f1": 3 / 4, "has_answer_exact_match": 1 / 2,
            "no_answer_f1": 1 / 2, "no_answer_exact_match": 1 / 2,
        }
    )  # fmt: skip
    assert (report.primary, report.support) == ("f1", 4)
    assert set(score_answers([["Oslo"]], ["Oslo"]).metrics) == {"f1", "exact_match"}


def test_the_threshold_is_that_with_the_best_f1():
    answerable = [True, True, True, False, False]
    confidences = np.array([0.9, 0.8, 0.3, 0.4, 0.1], np.float32)
    # From above 0.4 to 0.8: both answers, both nones. From above 0.1 to 0.3: all answers, one none, but the third answer is half right.
    cut = choose_threshold(answerable, [1, 1, 0.5, 0, 0], confidences)
    assert 0.4 < cut <= 0.8
    tuned = TASK.tuned([read(CONTEXT, "bruno"), read(CONTEXT)], [found("bruno", 0.7), found("acme", 0.2)])
    assert 0.2 < tuned.null_threshold <= 0.7


def found(best, confidence, task=TASK):
    return FoundAnswer(best if task._gives(confidence) else "", best, confidence, 0)


def test_a_threshold_is_chosen_only_where_some_questions_have_no_answer_and_none_was_given():
    answered = [read(CONTEXT, "bruno")]
    assert TASK.tuned(answered, [found("x", 0.1)]) is TASK
    given_one = QuestionAnswering(labels=("answer",), null_threshold=0.3)
    assert given_one.tuned([read(CONTEXT)], [found("x", 0.1)]) is given_one
    assert given_one.score([read(CONTEXT)], [found("x", 0.2)]).value == 1
    assert TASK.score([read(CONTEXT)], [found("x", 0.2)]).value == 0


@pytest.mark.parametrize(
    ("gold", "said", "outcome", "labels"),
    [
        ("bruno", "bruno", "right", ("answer", "answer")),
        ("acme hired bruno", "bruno", "boundary", ("answer", "answer")),
        ("lima", "bruno", "boundary", ("answer", "answer")),
        (None, "bruno", "confused", ("no answer", "answer")),
        (None, "", "right", ("no answer", "no answer")),
        ("lima", "", "confused", ("answer", "no answer")),
    ],
)
def test_every_question_has_one_pair_in_reports(gold, said, outcome, labels):
    task = QuestionAnswering(labels=("answer",), null_threshold=0.5)
    (pair,) = task.pairs(read(CONTEXT, gold), FoundAnswer(said, said or "x", 0.9 if said else 0.1, 0))
    assert (pair.outcome, (pair.gold, pair.predicted)) == (outcome, labels)
    assert (pair.gold_text, pair.predicted_text) == (gold or "", said)


# --- windows, targets, decoding


def test_every_window_holds_the_question_and_the_one_with_the_answer_points_at_it():
    example = read(CONTEXT * 6 + "anna went to oslo .", "anna")
    used = encoder()
    (document,) = TASK.encode(used, [example])
    question = used.tokenizer.encode("who", add_special_tokens=False).ids
    targets = TASK.targets(example, document)
    pointed = 0
    for window, target in zip(document.windows, targets, strict=True):
        assert window.input_ids[1 : 1 + len(question)].tolist() == question
        held = used.tokenizer.decode(window.input_ids[target[0] : target[1] + 1].tolist(), skip_special_tokens=False)
        assert held in ("anna", "[CLS]")
        pointed += held == "anna"
    assert len(document.windows) > 3
    assert pointed == sum(document.token_ids[place] == used.tokenizer.token_to_id("anna")
                          for window in document.windows for place in range(window.first, window.last))  # fmt: skip


def test_a_question_without_an_answer_points_to_the_first_token_everywhere():
    example = read(CONTEXT * 4)
    (document,) = TASK.encode(encoder(), [example])
    assert len(document.windows) > 1
    assert all(target.tolist() == [0, 0] for target in TASK.targets(example, document))


@pytest.mark.parametrize("family", FAMILIES)
@given(context=texts.filter(lambda text: text.strip()), seed=st.integers(0, 5), most=st.integers(1, 6))
def test_answers_are_the_best_pairs_of_any_text_in_exact_characters(family, context, seed, most):
    used = ENCODERS[family]
    (document,) = used.encode_texts([TextPair("a", context)], whole_first="question")
    outputs = noise(document, seed, padded=3)
    parameters = TASK.parameters(top_k=3, max_answer_len=most, align_to_words=False)
    answers = TASK.answer(document.text, document, outputs, parameters)
    best = all_pairs(document, outputs, most, context)
    if not best:
        assert [item["answer"] for item in answers] == [""]
        return
    assert [item["score"] for item in answers] == sorted((item["score"] for item in answers), reverse=True)
    assert answers[0]["score"] == pytest.approx(max(best.values()), rel=1e-4)
    for item in answers:
        edges = item["start"], item["end"]
        assert context[slice(*edges)] == item["answer"] == item["answer"].strip() != ""
        assert item["score"] == pytest.approx(best[edges], rel=1e-4)
    assert len({(item["start"], item["end"]) for item in answers}) == len(answers) == min(3, len(best))


ENCODERS = {family: Encoder(make(family), max_tokens=20, stride=5) for family in FAMILIES}


def all_pairs(document, outputs, most, context):
    """The probability of every answer, by its characters: a search through all windows and all pairs of their tokens."""
    lead, starts, ends = context_edges(document)
    found = {}
    for window, output in zip(document.windows, outputs, strict=True):
        begin, end = softmax(output[:, : len(window.input_ids)])
        own = range(window.first - lead, window.last - lead)
        for first, last in itertools.product(own, own):
            if 0 <= last - first < most:
                place = window.offset - (window.first - lead)
                text = context[starts[first] : ends[last]]
                edges = starts[first] + len(text) - len(text.lstrip()), ends[last] - len(text) + len(text.rstrip())
                if edges[0] < edges[1]:
                    score = float(begin[first + place] * end[last + place])
                    found[edges] = max(found.get(edges, 0.0), score)
    return found


def test_a_context_of_three_thousand_words_answers_what_its_right_window_alone_answers():
    used = encoder(max_tokens=64, stride=16)
    context = CONTEXT * 500  # of six words
    assert len(context.split()) >= 3_000
    (document,) = used.encode_texts([TextPair("who", context)], whole_first="question")
    outputs = noise(document)
    (best,) = TASK.answer(document.text, document, outputs, TASK.parameters())
    lead, starts, ends = context_edges(document)
    alone = []
    for window, output in zip(document.windows, outputs, strict=True):
        begin = int(starts[window.first - lead])
        text = context[begin : int(ends[window.last - 1 - lead])]
        (single,) = used.encode_texts([TextPair("who", text)], whole_first="question")
        assert [one.input_ids.tolist() for one in single.windows] == [window.input_ids.tolist()]
        (answer,) = TASK.answer(single.text, single, [output], TASK.parameters())
        alone.append(answer | {"start": answer["start"] + begin, "end": answer["end"] + begin})
    assert max(alone, key=lambda answer: answer["score"]) == best


@pytest.mark.parametrize(("context", "wanted"), [("Anna flew", "Anna"), ("福岡と秋山", "岡"), ("(Anna)", "Anna")])
def test_answers_within_words_are_widened_where_words_have_blanks(context, wanted):
    used = Encoder(of_characters("wordpiece"), max_tokens=64, stride=8)
    (document,) = used.encode_texts([TextPair("a", context)])
    outputs = np.full((2, len(document.windows[0].input_ids)), -9, np.float32)
    outputs[:, document.windows[0].offset + 1] = 9
    (widened,) = TASK.answer("", document, [outputs], TASK.parameters())
    (exact,) = TASK.answer("", document, [outputs], TASK.parameters(align_to_words=False))
    assert (widened["answer"], exact["answer"]) == (wanted, context[1])


def test_no_answer_stands_where_its_likelihood_puts_it():
    (document,) = encoder(64, 8).encode_texts([TextPair("who", CONTEXT)])
    (window,) = document.windows
    outputs = np.full((2, len(window.input_ids)), -9, np.float32)
    outputs[:, 0], outputs[:, window.offset + 2] = 2, 1
    careful = QuestionAnswering(labels=("answer",), null_threshold=0.5)
    bold = QuestionAnswering(labels=("answer",), null_threshold=0.05)
    ask = TASK.parameters(top_k=2)
    answers = {task: [item["answer"] for item in task.answer("", document, [outputs], ask)] for task in (careful, bold)}
    assert answers[careful][0] == ""
    assert answers[bold][1] == ""
    assert answers[bold][0] == answers[careful][1] != ""
    assert all(item["answer"] for item in TASK.answer("", document, [outputs], ask))
    wanted = TASK.answer("", document, [outputs], TASK.parameters(handle_impossible_answer=True))
    assert [item["answer"] for item in wanted] == [""]
    assert careful.answer("", document, [outputs], TASK.parameters(handle_impossible_answer=False))[0]["answer"]
    assert careful.predict(document, [outputs]).answer == ""
    assert bold.predict(document, [outputs]).answer == answers[bold][0]


def test_a_broken_graph_and_a_context_without_sub_words_answer_nothing():
    (document,) = encoder().encode_texts([TextPair("who", "\u200b")])
    broken = np.full((2, len(document.windows[0].input_ids)), np.nan, np.float32)
    (item,) = TASK.answer("", document, [broken], TASK.parameters())
    assert (item["answer"], item["start"], item["end"]) == ("", 0, 0)
    assert TASK.predict(document, [broken]).confidence == 0


def test_items_of_the_decision_are_starts_and_ends_of_every_window():
    outputs = [np.array([[5, 0, OUT_OF_REACH], [0, 5, OUT_OF_REACH]], np.float32), np.eye(2, 4, dtype=np.float32) * 5]
    probabilities, right = TOKENS.items([np.array([0, 1]), np.array([1, 1])], outputs)
    assert right.tolist() == [0, 1, 1, 1]
    assert probabilities.argmax(-1).tolist() == [0, 1, 0, 1]
    assert probabilities[:, 2].tolist()[:2] == [0, 0]


# --- what is refused


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"answers": {"text": ["bruno"], "answer_start": [0]}}, r"f:3: answers\[0\] 'bruno' stands at 21; at 0 the context has 'in li'"),
        ({"answers": {"text": ["chidi"], "answer_start": [0]}}, r"'chidi' does not stand in the context"),
        ({"answers": {"text": ["bruno"], "answer_start": [400]}}, r"at 400 lies outside of the context, which has 29"),
        ({"answers": {"text": ["bruno"], "answer_start": [-1]}}, "at -1 lies outside"),
        ({"answers": {"text": ["bruno"], "answer_start": ["21"]}}, r"is 'bruno' at '21'"),
        ({"answers": {"text": [""], "answer_start": [0]}}, "is '' at 0"),
        ({"answers": {"text": ["bruno"], "answer_start": []}}, "field 'answers' is"),
        ({"answers": ["bruno"]}, "field 'answers' is"),
        ({"question": " "}, "field 'question' is empty"),
        ({"context": ""}, "field 'context' is empty"),
        ({"context": 5}, "field 'context' is 5"),
    ],
)  # fmt: skip
def test_records_are_refused_by_their_place(changes, told):
    with pytest.raises(DataError, match=told) as error:
        TASK.read_record(record(CONTEXT, "bruno") | changes, "f:3")
    assert str(error.value).startswith("f:3: ")
    assert error.value.allowed
    assert error.value.remedy


def test_a_question_that_fills_the_window_is_refused_by_name():
    long = read(CONTEXT * 3, question="who " * 40)
    with pytest.raises(DataError, match=r"^f:3: question has \d+ sub-words, .*at most 10 of the 21"):
        TASK.encode(encoder(), [read(CONTEXT), long])
    with pytest.raises(RequestError, match="question has") as error:
        TASK.encode_request(encoder(), [TextPair("who", "x"), TextPair("who " * 40, CONTEXT * 3)], TASK.parameters())
    assert error.value.field == "inputs[1].question"
    (short,) = TASK.encode_request(encoder(), [TextPair("anna went to oslo . anna went", "oslo")], TASK.parameters())
    assert len(short.windows) == 1  # beside a short context a long question has room


def test_a_single_text_is_refused():
    with pytest.raises(RequestError, match="single text"):
        TASK.encode_request(encoder(), ["who"], TASK.parameters())
