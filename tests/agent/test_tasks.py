"""Every task keeps one contract; token classification answers as Hugging Face's pipeline does."""

import json
import random
from typing import Annotated, get_args, get_origin

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import TypeAdapter, ValidationError

from agent.encoding import IGNORED, Encoder
from agent.errors import DataError
from agent.evaluation import evaluate, predict, run_documents
from agent.segmentation import word_edges
from agent.tasks import BaseTask, Example, Report, Task, TextClassification, TokenClassification
from tests.agent.families import CORPUS, FAMILIES, make, texts
from tests.tiny import said

# What a task added later must add here: records with every label, and no other line.
RECORDS = {
    "token_classification": [
        {"tokens": ["Anna", "works", "in", "London"], "tags": ["B-PER", "O", "O", "B-LOC"]},
        {"text": "Dr. Müller isn't in Zürich (yet).", "spans": [{"start": 4, "end": 10, "label": "PER"}]},
        {"tokens": ["the", "quick", "brown", "fox"] * 12, "tags": ["B-LOC", "I-LOC", "O", "O"] * 12},
    ],
    "text_classification": [
        {"text": "hello world", "label": "greeting"}, {"text": "the quick brown fox " * 12, "label": "story"}, {"text": "", "label": "story"},
    ],
    "multi_label_classification": [
        {"text": "hello world", "labels": ["greeting", "short"]}, {"text": "the quick brown fox " * 12, "labels": ["story"]},
        {"text": "hello", "labels": []}, {"text": "", "labels": ["short"]},
    ],
    "text_pair_classification": [
        {"text": "hello world", "text_pair": "hello", "label": "entailment"},
        {"text": "the quick brown fox " * 12, "text_pair": "the fox", "label": "contradiction"},
        {"text": "hello " * 30, "text_pair": "world " * 30, "label": "neutral"}, {"text": "", "text_pair": "a", "label": "neutral"},
    ],
    "question_answering": [
        {"question": "who", "context": "Anna Smith works in London", "answers": {"text": ["Anna"], "answer_start": [0]}},
        {"question": "fox", "context": "the lazy dog " * 9 + "the quick brown fox", "answers": {"text": ["fox"], "answer_start": [133]}},
        {"question": "in", "context": "Dr. Müller isn't in Zürich (yet).", "answers": {"text": ["Zürich"], "answer_start": [20]}},
    ],
    "masked_language_modelling": [
        {"text": "hello world"}, {"text": "the quick brown fox " * 12}, {"text": "Anna Smith works in London for Acme Inc ."}, {"text": ""},
    ],
    "relation_extraction": [
        {"text": "<e1>a</e1> in <e2>b</e2>", "label": "Employment(e1,e2)"},
        {"text": "the lazy dog " * 9 + "<e2>b</e2> , <e1>a</e1>" + " the quick brown fox" * 9, "label": "Employment(e2,e1)"},
        {"text": "<e1>a</e1> b <e2>a</e2>", "label": "Other"},
    ],
    "sequence_to_sequence": [{"text": "hello world", "target": "the fox"}, {"text": "a", "target": "hello"}, {"text": "the quick dog", "target": "a b c"}],
    "text_generation": [{"text": "hello world", "target": " the fox"}, {"text": "a", "target": "hello"}, {"text": "the", "target": " a b c"}],
}  # fmt: skip
ONE_WINDOW = {"relation_extraction", "sequence_to_sequence", "text_generation"}  # for each text, and nothing is cut off
TASKS = [kind for kind in get_args(get_args(Task)[0]) or get_args(Task)[:1] if isinstance(kind, type)]
every_task = pytest.mark.parametrize("kind", TASKS, ids=[kind.model_fields["kind"].default for kind in TASKS])


def records(kind):
    return RECORDS[kind.model_fields["kind"].default]


def complete(kind):
    """The task with labels, and its examples."""
    examples = [kind().read_record(record, f"f:{number}") for number, record in enumerate(records(kind), start=1)]
    return kind().with_labels(examples), examples


def small_encoder(family="wordpiece", max_tokens=16, stride=4):
    return Encoder(make(family), max_tokens=max_tokens, stride=stride)


def logits_for(task, document, rng, *, padded=0):
    """Random logits in the shape that the targets demand: a row per token, one row per window, or a column per token."""
    outputs = num_outputs(task)
    shapes = []
    for window in document.windows:
        if task.decision.of_vocabulary:
            shapes.append((0 if window.asked is None else int(window.asked.sum()), outputs))
            continue
        tokens = len(window.input_ids) + padded
        shapes.append(
            (tokens, outputs)
            if task.decision.per_token
            else (outputs, tokens)
            if task.decision.of_tokens
            else (outputs,)
        )
    return [rng.normal(size=shape).astype(np.float32) * 3 for shape in shapes]


def num_outputs(task):
    return task.num_outputs(small_encoder()) if task.decision.of_vocabulary else len(task.outputs)


def request(task, text):
    """A text as callers send it: with a mask, where the task fills masks; short, where it is read whole."""
    if task.writes:
        return " ".join(text.split()[:2]) if text.isprintable() and text else "a"
    return f"{text} [MASK]" if task.decision.of_vocabulary else text


def logits_saying(task, target, window):
    """Logits of a model that is sure of the targets."""
    if task.decision.of_vocabulary:
        size = num_outputs(task) if (target < num_outputs(task)).all() else 400  # no family has more sub-words
        return np.eye(size, dtype=np.float32)[target[target != IGNORED]] * 18
    if task.decision.of_tokens:
        return np.eye(len(window.input_ids), dtype=np.float32)[target] * 18
    if task.decision.binary:
        return (target * 18 - 9).astype(np.float32)
    return np.eye(len(task.outputs), dtype=np.float32)[np.where(target == IGNORED, 0, target)] * 9


def shape_of_targets(task, window):
    if task.decision.binary or task.decision.of_tokens:
        return (len(task.outputs),)
    return (len(window.input_ids),) if task.decision.per_token else ()


# --- the contract


def test_the_union_is_the_registry():
    assert get_origin(Task) is Annotated
    assert {TokenClassification, TextClassification} <= set(TASKS)
    assert len({kind.model_fields["kind"].default for kind in TASKS}) == len(TASKS)
    for kind in TASKS:
        assert issubclass(kind, BaseTask)
        assert TypeAdapter(Task).validate_python({"kind": kind.model_fields["kind"].default}) == kind()
    with pytest.raises(ValidationError, match="telepathy"):
        TypeAdapter(Task).validate_python({"kind": "telepathy"})


@every_task
def test_labels_come_from_the_examples_or_stay_as_configured(kind):
    task, examples = complete(kind)
    assert task.labels == tuple(sorted(set().union(*map(task.labels_of, examples))))
    assert task.with_labels(examples[:1]) is task
    assert len(task.outputs) == len(set(task.outputs))
    assert num_outputs(task) >= len(task.labels)
    assert kind.model_validate(json.loads(json.dumps(task.model_dump(mode="json")))) == task


@every_task
def test_examples_know_their_place_and_travel_as_json(kind):
    task, examples = complete(kind)
    for number, example in enumerate(examples, start=1):
        assert isinstance(example, Example)
        assert example.where == f"f:{number}"
        assert type(example).model_validate_json(example.model_dump_json()) == example
        assert isinstance(task.text_of(example), str)


@every_task
def test_a_record_is_the_texts_of_an_input_and_a_correction(kind):
    task, _ = complete(kind)
    records = [set(record) for record in RECORDS[task.kind] if set(task.input_fields) <= set(record)]
    assert records
    assert all(record == {*task.input_fields, task.correction_key} - {""} for record in records)


@every_task
def test_an_empty_record_is_refused_by_its_place(kind):
    with pytest.raises(DataError, match=r"^f:9: .*Allowed: .*Remedy: "):
        kind().read_record({}, "f:9")


@every_task
def test_unknown_labels_are_refused_by_their_place(kind):
    task, examples = complete(kind)
    task.check_labels(examples)
    with pytest.raises(DataError, match=r"^f:\d: unknown label .* Allowed: unrelated"):
        kind(labels=("unrelated",)).check_labels(examples)


@every_task
def test_examples_without_any_label_make_no_task(kind):
    with pytest.raises(DataError, match="no label"):
        kind().with_labels([])


@every_task
@pytest.mark.parametrize("labels", [("a", "a"), ("a", "")])
def test_labels_are_distinct_and_not_empty(kind, labels):
    with pytest.raises(ValidationError, match="distinct"):
        kind(labels=labels)


@every_task
@pytest.mark.parametrize("family", FAMILIES)
def test_targets_fit_the_windows_and_the_outputs(kind, family):
    task, examples = complete(kind)
    documents = task.encode(small_encoder(family), examples)
    assert len(documents) == len(examples)
    num_windows = [len(document.windows) for document in documents]
    assert max(num_windows) > 1 or task.kind in ONE_WINDOW
    for example, document in zip(examples, documents, strict=True):
        targets = task.targets(example, document)
        assert len(targets) == len(document.windows)
        for window, target in zip(document.windows, targets, strict=True):
            assert target.dtype == np.int64
            assert target.shape == shape_of_targets(task, window)
            choices = (
                2 if task.decision.binary else len(window.input_ids) if task.decision.of_tokens else 400 if task.decision.of_vocabulary
                else len(task.outputs)
            )  # fmt: skip
            assert set(target.ravel().tolist()) <= {IGNORED, *range(choices)}


@every_task
def test_pairs_hold_every_gold_and_every_predicted_item_once_and_agree_with_the_score(kind):
    task, examples = complete(kind)
    rng = np.random.default_rng(0)
    documents = task.encode(small_encoder(), examples)
    wrong = 0
    for _ in range(20):
        said = [task.predict(document, logits_for(task, document, rng)) for document in documents]
        rows = [task.pairs(example, prediction) for example, prediction in zip(examples, said, strict=True)]
        pairs = [pair for row in rows for pair in row]
        assert all((pair.gold is None) == (pair.outcome == "invented") for pair in pairs)
        assert all((pair.predicted is None) == (pair.outcome == "missed") for pair in pairs)
        report = task.score(examples, said)
        assert sum(pair.gold is not None for pair in pairs) == report.support
        exact = sum(pair.outcome == "right" for pair in pairs) / report.support
        named = next(name for name in ("recall", "accuracy", "exact_match") if name in report.metrics)
        assert exact == pytest.approx(report.metrics[named])
        wrong += sum(pair.outcome != "right" for pair in pairs)
    assert wrong > 20


@every_task
@pytest.mark.parametrize("family", FAMILIES)
def test_a_model_that_says_the_targets_scores_one(kind, family):
    """Encoding, targets, prediction and scoring close the circle, over several windows."""
    task, examples = complete(kind)
    documents = task.encode(small_encoder(family), examples)
    predictions = []
    for example, document in zip(examples, documents, strict=True):
        said = zip(task.targets(example, document), document.windows, strict=True)
        predictions.append(task.predict(document, [logits_saying(task, *pair) for pair in said]))
    report = task.score(examples, predictions)
    assert report.value == 1.0
    assert report.primary in report.metrics
    assert report.support > 0
    assert report.text.strip()
    assert report.mode
    assert Report.model_validate_json(report.model_dump_json()) == report


@every_task
def test_choices_are_probabilities_that_a_sure_model_gives_to_one_option_and_a_blind_one_to_all(kind):
    task, examples = complete(kind)
    rng = np.random.default_rng(0)
    for example, document in zip(examples, task.encode(small_encoder(), examples), strict=True):
        said = zip(task.targets(example, document), document.windows, strict=True)
        sure = task.choices(document, [logits_saying(task, *pair) for pair in said])
        blind = task.choices(document, [0 * logits for logits in logits_for(task, document, rng)])
        for found in (sure, blind, task.choices(document, logits_for(task, document, rng, padded=3))):
            assert found.dtype == np.float32
            assert found.shape == sure.shape
            assert found.shape[1] >= 2
            assert found.sum(axis=-1) == pytest.approx(1, abs=1e-5)
        assert (sure.max(axis=-1) > 0.99).all()
        if not task.decision.of_tokens:
            assert blind == pytest.approx(1 / found.shape[1])
        else:
            best = np.sort(blind, axis=-1)
            assert best[:, -1] == pytest.approx(best[:, -2])


@every_task
def test_the_record_of_a_right_answer_is_the_labelled_one(kind):
    task, examples = complete(kind)
    if task.decision.of_vocabulary:
        pytest.skip("a text with masks does not say what they hide: test_masked_language.py")
    texts = [task.text_of(example) for example in examples]
    documents = task.encode_request(small_encoder(), texts, kind.parameters())
    for example, text, document in zip(examples, texts, documents, strict=True):
        said = zip(task.targets(example, document), document.windows, strict=True)
        answer = task.answer(text, document, [logits_saying(task, *pair) for pair in said], kind.parameters())
        record = json.loads(json.dumps(task.record_of(text, answer)))
        found = task.read_record(record, example.where)
        assert task.labels_of(found) == task.labels_of(example)
        assert task.text_of(found) == text
        if task.decision.per_token:
            assert found.spans == example.spans
        if task.decision.of_tokens:
            assert found.answers[0] == example.answers[0]


@every_task
def test_any_prediction_can_be_scored(kind):
    task, examples = complete(kind)
    rng = np.random.default_rng(0)
    predictions = [
        task.predict(document, logits_for(task, document, rng)) for document in task.encode(small_encoder(), examples)
    ]
    report = task.score(examples, predictions)
    assert all(0 <= value <= 1 for value in report.metrics.values())


@every_task
def test_answers_have_the_promised_shape(kind):
    task, _ = complete(kind)
    used, rng, parameters = small_encoder(), np.random.default_rng(0), kind.parameters()
    texts = [" ".join(CORPUS[:4]), "Anna", "", "\x00\u200b"]
    inputs = [task.as_input([request(task, text), *texts[: len(task.input_fields) - 1]]) for text in texts]
    masks = task.decision.of_vocabulary
    documents = task.encode_request(used, inputs, parameters) if masks else used.encode_texts(inputs)
    answers = [
        task.answer(text, document, logits_for(task, document, rng), parameters)
        for text, document in zip(inputs, documents, strict=True)
    ]
    for items in answers:
        json.dumps(items)
        for item in items:
            kind.answer_item.model_validate(item)
    for column in kind.columns:
        values = [column.value(items) for items in answers]
        assert {type(value) for value in values} == {{"BYTES": str, "FP32": float}[column.datatype]}
    assert [json.loads(kind.columns[-1].value(items)) for items in answers] == answers
    single, many = (
        task.envelope(some, single=len(some) == 1, parameters=parameters) for some in (answers[:1], answers)
    )
    flat = kind.bare_answers or task.kind == "sequence_to_sequence"  # one list, as pipelines of Hugging Face give it
    assert many == ([items[0] for items in answers] if flat else answers)
    assert single in ([answers[0][0]] if kind.bare_answers else [answers[0], answers[:1]])


@every_task
def test_unknown_parameters_are_refused(kind):
    with pytest.raises(ValidationError):
        kind.parameters(nonsense=1)


@every_task
@pytest.mark.parametrize("budget", [1, 40, 4096])
def test_evaluation_runs_every_document_in_order_whatever_the_batches(kind, budget):
    """The model here says what stands in the ids, so that a mixed-up row would change a prediction."""
    task, examples = complete(kind)
    used, per_token, seen = small_encoder(), kind.decision.per_token, []

    def forward(batch):
        ids = batch.input_ids if batch.decoder_ids is None else batch.decoder_ids
        hashed = (ids[:, :, None] * 31 + np.arange(num_outputs(task)) * 7) % 11
        if kind.decision.of_vocabulary:
            return hashed[batch.asked.astype(bool)].astype(np.float32)
        if kind.decision.of_tokens:
            return hashed.transpose(0, 2, 1).astype(np.float32)
        return (
            hashed.astype(np.float32)
            if per_token
            else (hashed * batch.attention_mask[:, :, None]).sum(1).astype(np.float32)
        )

    predictions = predict(task, used, examples, forward, max_tokens=budget, progress=lambda *done: seen.append(done))
    alone = [predict(task, used, [example], forward)[0] for example in examples]
    assert predictions == alone
    assert seen[-1][0] == seen[-1][1] == sum(len(document.windows) for document in task.encode(used, examples))
    assert evaluate(task, used, examples, forward, max_tokens=budget) == task.score(examples, alone)


def test_no_documents_need_no_model():
    assert run_documents([], pytest.fail, pad_id=0) == []


# --- token classification

TAGGER = TokenClassification(labels=("PER", "ORG", "LOC"))
STRATEGIES = ("none", "simple", "first", "average", "max")


def test_predictions_are_valid_iob2_and_skip_words_without_sub_words():
    words = ["\x00", "anna", "smith", "\u200b", "london"]
    (document,) = small_encoder().encode_texts([" ".join(words)], words=[word_edges(words)])
    outputs = np.full((len(document.windows[0].input_ids), 7), -9, np.float32)
    for word in (1, 2, 4):
        outputs[document.word_pieces.firsts[word] + 1, TAGGER.outputs.index("I-PER")] = 9
    assert TAGGER.predict(document, [outputs]).tags == ("O", "B-PER", "I-PER", "O", "B-PER")


def test_a_split_without_entities_can_be_scored():
    example = TAGGER.read_record({"tokens": ["a"], "tags": ["O"]}, "f:1")
    for tag in ("O", "B-PER"):
        report = TAGGER.score([example], [said(example, [tag])])
        assert (report.value, report.support) == (0.0, 0)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("strategy", STRATEGIES)
@given(text=texts, seed=st.integers(0, 5), ignored=st.sampled_from([("O",), (), ("PER", "O"), ("B-PER",)]))
def test_entities_are_exact_characters_of_any_text(family, strategy, text, seed, ignored):
    (document,) = ENCODERS[family].encode_texts([text])
    parameters = TAGGER.parameters(aggregation_strategy=strategy, ignore_labels=ignored)
    found = TAGGER.answer(
        text, document, logits_for(TAGGER, document, np.random.default_rng(seed), padded=3), parameters
    )
    for entity in found:
        assert 0 <= entity["start"] <= entity["end"] <= len(text)
        assert text[entity["start"] : entity["end"]] == entity["word"]
        assert 0 < entity["score"] <= 1.0001
        assert entity.get("entity", entity.get("entity_group")) not in ignored
        if strategy != "none":
            assert entity["word"] == entity["word"].strip() != ""
    assert [entity["start"] for entity in found] == sorted(entity["start"] for entity in found)


ENCODERS = {family: small_encoder(family, 20, 5) for family in FAMILIES}


@pytest.mark.parametrize("family", ["wordpiece", "byte_level", "metaspace"])
@pytest.mark.parametrize("strategy", STRATEGIES[1:])
def test_an_entity_over_whole_words_has_all_their_characters(family, strategy):
    text = "Anna Smith works in London"
    (document,) = small_encoder(family, 128, 5).encode_texts([text])
    outputs = np.full((len(document.windows[0].input_ids), 7), -9, np.float32)
    for index, (start, end) in enumerate(zip(document.starts.tolist(), document.ends.tolist(), strict=True)):
        inside = "PER" if max(start, 0) < 10 and end <= 10 else "LOC" if end > 19 else None
        prefix = "B" if index in (document.pieces.firsts[0], document.pieces.firsts[-1]) else "I"
        outputs[index + 1, TAGGER.outputs.index(f"{prefix}-{inside}" if inside else "O")] = 9
    found = TAGGER.answer(text, document, [outputs], TAGGER.parameters(aggregation_strategy=strategy))
    assert [(entity["entity_group"], entity["word"]) for entity in found] == [("PER", "Anna Smith"), ("LOC", "London")]


def random_sentences(count):
    rng = random.Random(0)
    words = [
        *" ".join(CORPUS[:5:1]).replace("ü", "u").split(),
        "U.N.",
        "don't",
        "(x)",
        "3,5%",
        "...",
        "A-B",
        "zzyzx",
        "e-mail:",
        "$1",
    ]
    return [
        "".join(
            rng.choice(words) + rng.choice([" ", " ", " ", ", ", "-", ""]) for _ in range(rng.randint(1, 14))
        ).strip()
        for _ in range(count)
    ]


@pytest.fixture(scope="module")
def piped():
    """Hugging Face's pipeline over a tiny random BERT with large weights, and what its model said of each sentence."""
    torch, transformers = pytest.importorskip("torch"), pytest.importorskip("transformers")
    torch.manual_seed(0)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    names = dict(enumerate(TAGGER.outputs))
    config = transformers.BertConfig(
        vocab_size=200, hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16, max_position_embeddings=256,
        id2label=names, label2id={name: index for index, name in names.items()}, initializer_range=1.0,
    )  # fmt: skip
    model = transformers.BertForTokenClassification(config).eval()
    tokenizer = transformers.PreTrainedTokenizerFast(
        tokenizer_object=make("wordpiece"),
        unk_token="[UNK]",
        cls_token="[CLS]",
        sep_token="[SEP]",
        pad_token="[PAD]",
        model_max_length=256,
    )
    pipeline = transformers.TokenClassificationPipeline(model=model, tokenizer=tokenizer, device="cpu")
    with torch.inference_mode():
        said = {
            text: [
                pipeline._forward(piece)
                for piece in pipeline.preprocess(text, is_split_into_words=False, delimiter=None)
            ]
            for text in random_sentences(120)
        }
    torch.set_num_threads(threads)
    return pipeline, said


@pytest.mark.parametrize("ignored", [["O"], [], ["PER", "O"], ["B-PER", "I-LOC"]])
@pytest.mark.parametrize("strategy", STRATEGIES)
def test_answers_are_those_of_hugging_faces_pipeline(piped, strategy, ignored):
    from transformers.pipelines.token_classification import AggregationStrategy

    pipeline, said = piped
    sentences = list(said)
    used = Encoder(make("wordpiece"), max_tokens=256, stride=32)
    parameters = TAGGER.parameters(aggregation_strategy=strategy, ignore_labels=ignored)
    total = 0
    for text, document in zip(sentences, used.encode_texts(sentences), strict=True):
        (window,) = document.windows
        (output,) = said[text]
        assert output["input_ids"][0].tolist() == window.input_ids.tolist()
        ours = TAGGER.answer(text, document, [output["logits"][0].numpy()], parameters)
        theirs = pipeline.postprocess(
            said[text], aggregation_strategy=AggregationStrategy(strategy), ignore_labels=ignored
        )
        name = "entity" if strategy == "none" else "entity_group"
        keys = [name, "start", "end", *(["index"] if strategy == "none" else [])]
        assert [[item[key] for key in keys] for item in ours] == [[item[key] for key in keys] for item in theirs], text
        assert [item["score"] for item in ours] == pytest.approx([float(item["score"]) for item in theirs], abs=1e-5)
        total += len(ours)
    assert total > 200


@pytest.mark.parametrize("stride", [0, 5, 20])
def test_windows_overlap_by_the_stride_of_the_request_as_in_hugging_faces_pipeline(piped, stride):
    pipeline, _ = piped
    text = " ".join(random_sentences(120))
    (document,) = Encoder(make("wordpiece"), max_tokens=256, stride=8).encode_texts([text], stride=stride)
    theirs = list(
        pipeline.preprocess(
            text, is_split_into_words=False, delimiter=None,
            tokenizer_params={"stride": stride, "return_overflowing_tokens": True, "padding": True},
        )
    )  # fmt: skip
    assert len(theirs) == len(document.windows) > 3
    for window, piece in zip(document.windows, theirs, strict=True):
        assert window.input_ids.tolist() == piece["input_ids"][0, : len(window.input_ids)].tolist()


def paired(gold, predicted):
    """Tags side by side, over the words a b c ..."""
    words = tuple("abcdefgh"[: len(gold)])
    example = TAGGER.read_record({"tokens": list(words), "tags": gold}, "f:1")
    return [
        (pair.outcome, pair.gold_text, pair.gold, pair.predicted_text, pair.predicted, pair.shifted)
        for pair in TAGGER.pairs(example, said(example, predicted))
    ]


def test_entities_are_paired_by_the_longest_overlap():
    O, BP, IP, BL, IL = "O", "B-PER", "I-PER", "B-LOC", "I-LOC"  # noqa: N806, E741
    assert paired([BP, IP, O], [BP, IP, O]) == [("right", "a b", "PER", "a b", "PER", False)]
    assert paired([BP, IP, O], [BL, IL, O]) == [("confused", "a b", "PER", "a b", "LOC", False)]
    assert paired([BP, IP, O], [O, BP, O]) == [("boundary", "a b", "PER", "b", "PER", True)]
    assert paired([BP, IP, O], [O, BL, IL]) == [("confused", "a b", "PER", "b c", "LOC", True)]
    assert paired([O, BP], [O, O]) == [("missed", "b", "PER", "", None, False)]
    assert paired([O, O], [BL, O]) == [("invented", "", None, "a", "LOC", False)]
    # One gold entity over two predicted ones: the longer one is its own, the other is invented; in the order of the text.
    assert paired([O, BP, IP, IP], [BL, IL, BP, IP]) == [
        ("invented", "", None, "a b", "LOC", False),
        ("boundary", "b c d", "PER", "c d", "PER", True),
    ]
    assert paired([BP, IP, IP, BL], [BP, BL, IL, IL]) == [
        ("confused", "a b c", "PER", "b c d", "LOC", True),
        ("invented", "", None, "a", "PER", False),
        ("missed", "d", "LOC", "", None, False),
    ]


# --- text classification


def test_a_long_text_is_judged_by_the_mean_of_its_windows():
    task = TextClassification(labels=("a", "b"))
    (document,) = small_encoder().encode_texts(["the quick brown fox " * 30])
    outputs = [np.array([0.0, 1.0], np.float32)] * (len(document.windows) - 1) + [np.array([9.0, 0.0], np.float32)]
    answer = task.answer("", document, outputs, task.parameters())
    first = np.exp([0.0, 1.0]) / np.exp([0.0, 1.0]).sum()
    mean_b = (first[1] * (len(outputs) - 1) + 1 / (1 + np.exp(9))) / len(outputs)
    assert answer[0]["label"] == task.predict(document, outputs) == "b"
    assert answer[0]["score"] == pytest.approx(mean_b, abs=1e-6)
    assert sum(item["score"] for item in answer) == pytest.approx(1)


def test_only_the_best_labels_are_returned_when_asked():
    task = TextClassification(labels=("a", "b", "c"))
    (document,) = small_encoder().encode_texts(["x"])
    logits = [np.array([1, 3, 2], np.float32)]
    assert [item["label"] for item in task.answer("x", document, logits, task.parameters())] == ["b", "c", "a"]
    assert [item["label"] for item in task.answer("x", document, logits, task.parameters(top_k=2))] == ["b", "c"]
    with pytest.raises(ValidationError):
        task.parameters(top_k=0)
