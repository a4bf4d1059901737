"""Uncertainty of answers: the published definitions, and what each task decides."""

from __future__ import annotations

import math

import numpy as np
import pytest

from agent.bundle import Bundle
from agent.tasks import MultiLabelClassification, QuestionAnswering
from agent.windows.text_pairs import TextPair
from serving.active_learning.uncertainty import score_texts, uncertainty
from serving.inference.engine import Engine
from tests.serving.tiny import LABELLER, TEXTS

ROWS = np.array([[0.6, 0.3, 0.1], [0.5, 0.25, 0.25]], np.float32)


def entropy(row: list[float]) -> float:
    return -sum(p * math.log(p) for p in row) / math.log(3)


@pytest.mark.parametrize(
    ("measure", "averaged", "expected"),
    [
        ("margin", False, 1 - 0.25),
        ("margin", True, 1 - 0.25),
        ("least_confidence", False, 0.5),
        ("least_confidence", True, 1 - math.sqrt(0.6 * 0.5)),
        ("entropy", False, max(entropy([0.6, 0.3, 0.1]), entropy([0.5, 0.25, 0.25]))),
        ("entropy", True, (entropy([0.6, 0.3, 0.1]) + entropy([0.5, 0.25, 0.25])) / 2),
    ],
)
def test_measures_are_the_published_ones(measure, averaged, expected) -> None:
    assert uncertainty(ROWS, measure, averaged=averaged) == pytest.approx(expected, abs=1e-6)
    assert uncertainty(ROWS[:0], measure, averaged=averaged) == 0
    assert uncertainty(np.eye(3, dtype=np.float32), measure, averaged=averaged) == pytest.approx(0, abs=1e-6)
    even = np.full((2, 4), 0.25, np.float32)
    assert uncertainty(even, measure, averaged=averaged) == pytest.approx({"least_confidence": 0.75}.get(measure, 1))


def test_a_label_is_least_sure_at_its_own_threshold() -> None:
    task = MultiLabelClassification(labels=("a", "b"), thresholds=(0.2, 0.9))
    logit = [math.log(0.2 / 0.8), math.log(0.9 / 0.1)]

    def of(*shifts: float) -> float:
        choices = task.choices(None, [np.array([x + s for x, s in zip(logit, shifts, strict=True)], np.float32)])
        return uncertainty(choices, "margin", averaged=False)

    assert of(0, 5) == pytest.approx(1, abs=1e-5)
    assert of(5, 0) == pytest.approx(1, abs=1e-5)
    assert of(1, 5) == pytest.approx(of(-1, 5), abs=1e-5)
    assert of(1, 5) == pytest.approx(1 - math.tanh(0.5), abs=1e-5)  # 1 - |2 sigmoid(1) - 1|
    assert of(5, -5) < 0.02


def test_a_question_is_unsure_between_two_answers_and_between_one_and_none(reader_path) -> None:
    encoder = Bundle.load(reader_path).encoder
    text = TextPair("Who?", "Anna flew.")
    (document,) = encoder.encode_texts([text], whole_first="question")
    (window,) = document.windows
    places = range(window.offset, window.offset + 2)  # the first two sub-words of the context

    def of(*logits: float, threshold: float | None = None) -> float:
        output = np.full((2, len(window.input_ids)), -20, np.float32)
        for place, logit in zip((0, *places), logits, strict=True):
            output[:, place] = logit
        task = QuestionAnswering(labels=("answer",), null_threshold=threshold)
        return uncertainty(task.choices(document, [output]), "margin", averaged=False)

    first, second = (document.offsets[place] for place in (document.windows[0].first, document.windows[0].first + 1))
    assert first[0] < second[0]
    assert of(-20, 9, -20) < 0.01
    assert of(9, 9, -20) < 0.01  # an agent that always answers
    assert of(9, 9, -20, threshold=0.5) == pytest.approx(1, abs=1e-3)
    assert of(9, 9, -20, threshold=0.9) == pytest.approx(1 - 0.8, abs=1e-3)  # of ten parts nine speak for none
    assert of(9 + math.log(3), 9, -20, threshold=0.1) == pytest.approx(1, abs=1e-3)  # nine to one in probability


@pytest.mark.parametrize("measure", ["margin", "entropy", "least_confidence"])
@pytest.mark.parametrize("path", ["tagger_path", "classifier_path", "labeller_path", "judge_path", "reader_path"])
def test_every_task_is_scored_alike_in_any_company(path, measure, request) -> None:
    engine = Engine(Bundle.load(request.getfixturevalue(path)), num_cpus=2, precision="fp32")
    task = engine.bundle.task
    inputs = [task.as_input([text[:20], text][-len(task.input_fields) :]) for text in [*TEXTS, "Anna"]]
    done = list[int]()
    scored = score_texts(engine, inputs, measure, done.append, averaged=task.decision.per_token)
    assert (sum(done), scored.refused, scored.reason) == (len(inputs), 0, "")
    assert ((scored.uncertainty >= 0) & (scored.uncertainty <= 1)).all()
    assert len(set(scored.uncertainty.tolist())) > 1
    for text, value in zip(inputs, scored.uncertainty, strict=True):
        alone = score_texts(engine, [text], measure, done.append, averaged=task.decision.per_token).uncertainty[0]
        assert alone == pytest.approx(value, abs=1e-4)


def test_the_classifier_s_figure_is_that_of_its_answer(classifier_path, labeller_path) -> None:
    engine = Engine(Bundle.load(classifier_path), num_cpus=1)
    scored = score_texts(engine, TEXTS, "margin", lambda _: None, averaged=False).uncertainty
    for answer, value in zip(engine.predict(TEXTS), scored, strict=True):
        assert value == pytest.approx(1 - (answer[0]["score"] - answer[1]["score"]), abs=1e-5)
    engine = Engine(Bundle.load(labeller_path), num_cpus=1)
    for prediction, choices in zip(engine.labels(TEXTS), _choices(engine), strict=True):
        yes = [row[1] >= 0.5 for row in choices.tolist()]
        assert [label for label, said in zip(LABELLER.labels, yes, strict=True) if said] == list(prediction.labels)


def _choices(engine):
    documents = engine.encode(TEXTS)
    return [engine.bundle.task.choices(*pair) for pair in zip(documents, engine.run(documents), strict=True)]


def test_what_the_agent_refuses_has_no_score_and_a_reason(reader_path) -> None:
    engine = Engine(Bundle.load(reader_path), num_cpus=1)
    short, long = TextPair("Who?", TEXTS[0]), TextPair(" ".join(TEXTS), TEXTS[0] * 3)
    scored = score_texts(engine, [short, long, short, long, short], "margin", lambda _: None, averaged=False)
    assert [value < 0 for value in scored.uncertainty] == [False, True, False, True, False]
    assert scored.refused == 2
    assert "question" in scored.reason
