"""Sets of labels: how they are read, decided by thresholds of their own, scored and answered."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError
from sklearn.metrics import average_precision_score, f1_score

from agent.data import DataConfig, load_splits
from agent.encoding import Encoder
from agent.errors import DataError
from agent.tasks import MultiLabelClassification, TextClassification
from agent.tasks.multi_label_classification import LabelScores
from agent.tasks.multi_label_scores import CUTS, best_threshold, choose_thresholds, sample_f1
from tests.agent.data.reading import put, read, source_of
from tests.tiny import make_tokenizer

TASK = MultiLabelClassification(labels=("a", "b", "c"))


def example(*labels, text="x"):
    return TASK.read_record({"text": text, "labels": list(labels)}, "f:1")


def said(*scores):
    return LabelScores((), scores)


# --- reading


@pytest.mark.parametrize(
    ("labels", "told"),
    [(None, "absent"), ("a", "'a'"), ([1], r"\[1\]"), (["a", ""], r"\['a', ''\]"), (["a", "a"], r"\['a', 'a'\]")],
)
def test_what_is_no_set_of_labels_is_refused_by_its_place(labels, told):
    record = {"text": "x"} | ({} if labels is None else {"labels": labels})
    with pytest.raises(DataError, match=rf"^f:7: field 'labels' is {told}.*Allowed: .*Remedy: "):
        TASK.read_record(record, "f:7")


def test_json_lines_are_read_as_they_are_even_where_the_first_text_has_no_label(tmp_path):
    rows = [{"text": "x", "labels": []}, {"text": "y", "labels": ["b", "a"]}, {"text": "z", "labels": ["a"]}]
    file = put(tmp_path, "x.jsonl", list(rows))
    source = source_of(file)
    assert source.name == "texts with sets of classes in JSON lines"
    assert source.whole is None  # it can be streamed
    assert read(file) == rows


def test_answers_of_an_agent_are_read_by_their_thresholds(tmp_path):
    answers = [{"label": "a", "score": 0.9, "threshold": 0.5}, {"label": "b", "score": 0.2, "threshold": 0.3}]
    file = put(tmp_path, "x.jsonl", [{"text": "x", "labels": answers}])
    assert read(file) == [{"text": "x", "labels": ["a"]}]


def write(directory, train, rest=({"text": "y", "labels": ["a"]},)):
    for name, rows in {"train": train, "dev": rest, "test": rest}.items():
        put(directory, f"{name}.jsonl", list(rows))
    return DataConfig(path=str(directory))


def test_splits_take_their_labels_from_train_and_a_text_may_have_none(tmp_path):
    config = write(tmp_path, [{"text": "x", "labels": ["b", "a"]}, {"text": "z", "labels": []}])
    splits = load_splits(config, MultiLabelClassification())
    assert splits.task.labels == ("a", "b")
    assert [example.labels for example in splits.train] == [("a", "b"), ()]


def test_an_unknown_label_is_named_with_file_and_line(tmp_path):
    config = write(
        tmp_path, [{"text": "x", "labels": ["a"]}], [{"text": "y", "labels": ["a"]}, {"text": "z", "labels": ["new"]}]
    )
    with pytest.raises(DataError, match=r"dev\.jsonl:2: unknown label 'new'"):
        load_splits(config, MultiLabelClassification())


def test_data_of_another_task_is_refused_by_name(tmp_path):
    config = write(tmp_path, [{"text": "x", "labels": ["a", "b"]}])
    with pytest.raises(
        DataError,
        match=r"train\.jsonl:1: .* is data for multi_label_classification.*Remedy: choose task.kind=multi_label",
    ):
        load_splits(config, TextClassification())


# --- thresholds


@given(
    st.lists(st.tuples(st.booleans(), st.sampled_from([0.1, 0.2, 0.35, 0.5, 0.62, 0.8, 0.97])), min_size=1, max_size=30)
)
def test_no_threshold_beats_the_chosen_one(items):
    gold = np.array([right for right, _ in items], np.int64)
    scores = np.array([score for _, score in items], np.float32)
    chosen = best_threshold(gold, scores)
    assert chosen in CUTS
    if gold.any():
        ours, *others = (
            2 * (gold & said).sum() / (gold.sum() + said.sum()) for said in (scores >= cut for cut in (chosen, *CUTS))
        )
        assert ours >= max(others) - 1e-9
    else:
        assert chosen == 0.5


def test_of_equal_thresholds_the_middle_of_the_longest_run_is_taken():
    gold, scores = np.array([1, 1, 0, 0]), np.array([0.9, 0.7, 0.3, 0.1], np.float32)
    assert best_threshold(gold, scores) == pytest.approx(0.5, abs=0.011)


def test_a_model_that_has_learned_next_to_nothing_is_not_made_to_look_well():
    gold, scores = np.array([1, 1, 0, 0]), np.array([0.5914, 0.5913, 0.5912, 0.5911], np.float32)
    assert f1_score(gold, scores >= best_threshold(gold, scores)) == pytest.approx(2 / 3)


def test_a_rare_label_shares_the_threshold_that_suits_all():
    gold = np.zeros((40, 2), np.int64)
    gold[:20, 0] = 1
    gold[0, 1] = 1
    scores = np.where(gold, 0.4, 0.1).astype(np.float32)
    scores[0, 1] = 0.9
    first, rare = choose_thresholds(gold, scores)
    assert first == rare == pytest.approx(0.25, abs=0.011)


def test_thresholds_are_chosen_on_labelled_examples_and_those_that_are_configured_stay():
    examples = [example("a")] * 6 + [example("b")] * 6
    predictions = [said(0.4, 0.1, 0.1)] * 6 + [said(0.2, 0.3, 0.1)] * 6
    tuned = TASK.tuned(examples, predictions)
    assert tuned.thresholds == pytest.approx((0.3, 0.2, 0.2), abs=0.07)
    assert TASK.score(examples, predictions).value == 0
    assert tuned.score(examples, predictions).value == 1
    assert tuned.tuned(examples, predictions[::-1]) is tuned
    assert MultiLabelClassification.model_validate_json(tuned.model_dump_json()) == tuned


@pytest.mark.parametrize("thresholds", [(0.5,), (0.0, 0.5, 0.5), (0.5, 0.5, 1.0)])
def test_thresholds_are_one_for_each_label_between_0_and_1(thresholds):
    with pytest.raises(ValidationError):
        MultiLabelClassification(labels=("a", "b", "c"), thresholds=thresholds)


# --- scores


def test_scores_are_those_of_scikit_learn():
    rng = np.random.default_rng(0)
    gold, scores = rng.integers(0, 2, (50, 3)), rng.random((50, 3)).astype(np.float32)
    task = TASK.model_copy(update={"thresholds": (0.3, 0.5, 0.6)})
    examples = [example(*(label for label, has in zip("abc", row, strict=True) if has)) for row in gold]
    metrics = task.score(examples, [said(*row.tolist()) for row in scores]).metrics
    wanted = scores >= np.array(task.thresholds)
    for name, average in {"f1": "micro", "macro_f1": "macro"}.items():
        assert metrics[name] == pytest.approx(f1_score(gold, wanted, average=average))
    assert metrics["average_precision"] == pytest.approx(average_precision_score(gold, scores, average="macro"))
    assert metrics["f1_at_half"] == pytest.approx(f1_score(gold, scores >= 0.5, average="micro"))
    some = gold.any(axis=1) | wanted.any(axis=1)
    assert sample_f1(gold[some], wanted[some].astype(int)) == pytest.approx(
        f1_score(gold[some], wanted[some], average="samples", zero_division=0)
    )


def test_a_text_that_rightly_gets_no_label_is_right():
    report = TASK.score([example(), example("a")], [said(0.1, 0.1, 0.1), said(0.9, 0.1, 0.1)])
    assert report.metrics["sample_f1"] == report.metrics["exact_match"] == 1


def test_splits_without_any_label_can_be_scored():
    assert TASK.score([example()], [said(0.9, 0.1, 0.1)]).value == 0


# --- answers


@pytest.fixture(scope="module")
def document():
    (found,) = Encoder(make_tokenizer(), max_tokens=16, stride=2).encode_texts(["anna went to oslo"])
    return found


def answer(document, *probabilities, **parameters):
    logits = np.log(np.array(probabilities) / (1 - np.array(probabilities))).astype(np.float32)
    task = TASK.model_copy(update={"thresholds": (0.3, 0.5, 0.6)})
    return task, task.answer(document.text, document, [logits], task.parameters(**parameters))


def test_an_answer_has_the_labels_that_reach_their_thresholds_best_first(document):
    task, items = answer(document, 0.4, 0.7, 0.55)
    assert [(item["label"], item["threshold"]) for item in items] == [("b", 0.5), ("a", 0.3)]
    assert [item["score"] for item in items] == pytest.approx([0.7, 0.4])
    assert task.counted(items) == [(item["label"], item["score"]) for item in items]
    assert answer(document, 0.1, 0.1, 0.1)[1] == []


def test_top_k_gives_scores_of_labels_that_do_not_reach_theirs_and_counts_only_those_that_do(document):
    task, items = answer(document, 0.4, 0.1, 0.55, top_k=2, function_to_apply="sigmoid")
    assert [item["label"] for item in items] == ["c", "a"]
    assert [label for label, _ in task.counted(items)] == ["a"]


def test_an_answer_and_a_prediction_agree_on_windows_of_a_long_text():
    (long,) = Encoder(make_tokenizer(), max_tokens=16, stride=2).encode_texts(["anna went to oslo . " * 9])
    rng = np.random.default_rng(1)
    outputs = [rng.normal(size=3).astype(np.float32) for _ in long.windows]
    labels = TASK.predict(long, outputs).labels
    assert sorted(item["label"] for item in TASK.answer(long.text, long, outputs, TASK.parameters())) == list(labels)
    assert TASK.predict(long, outputs) == LabelScores(labels, (0.0,) * 3)  # equal are predictions with the same labels


def test_another_function_than_the_sigmoid_is_refused():
    with pytest.raises(ValidationError, match="sigmoid"):
        TASK.parameters(function_to_apply="softmax")
