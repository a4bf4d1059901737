"""Tasks from data files to answers over HTTP, in this process: trained, resumed, taught, compressed, served and annotated."""

from __future__ import annotations

import json

import httpx
import numpy as np
import pytest

from agent.bundle import Bundle
from agent.evaluation import predict
from compression.encoder.torch_model import load_model, torch_forward
from compression.reporting.report_files import terminal_table
from serving.annotation.formats import FORMATS
from serving.annotation.records import Fields
from serving.annotation.storage import StorageLocation
from serving.inference.engine import Engine
from serving.scheduling.predictor import Predictor
from tests.agent.data.reading import put, read
from tests.compression.pipeline.test_pipeline import run
from tests.local_ray import commands_join
from tests.serving.conftest import listening
from tests.tiny import WRITERS, make_model
from tests.training.runs import settings, train_by_ranks, train_here

pytestmark = [pytest.mark.system, pytest.mark.usefixtures("local_ray")]
EPOCHS = {
    "text_classification": 6,
    "multi_label_classification": 20,
    "text_pair_classification": 10,
    "question_answering": 15,
    "relation_extraction": 8,
}  # sets of labels stay at F1 0.91 when 8 are planned; token classification: test_whole_way.py, by the commands
DAILY = "text_pair_classification"  # two inputs, which a station may mix up; the others: make test-long
KINDS = [pytest.param(kind, marks=() if kind == DAILY else pytest.mark.long) for kind in EPOCHS]
TEXTS = ["anna went to oslo .", "in lima , acme hired bruno .", "nothing happened today ."]
SECONDS = ["went", "hired", "went"]
MARKED = [
    "<e1>anna</e1> went to <e2>oslo</e2> .",
    "in <e1>lima</e1> , <e2>acme</e2> hired bruno .",
    "<e1>acme</e1> and <e2>dewi</e2> met in pune",
]


def inputs(task):
    """The same inputs as requests, as records and as what engines take."""
    given = (SECONDS, TEXTS) if "question" in task.input_fields else (TEXTS, SECONDS)
    if task.kind == "relation_extraction":
        given = (MARKED,)
    objects = [dict(zip(task.input_fields, pair, strict=False)) for pair in zip(*given, strict=True)]
    texts = [task.as_input(list(one.values())) for one in objects]
    return (objects if len(task.input_fields) > 1 else texts), objects, texts


def config(place, kind, name, **changes):
    # At 0.005, sets of labels at 0.003 too, it hangs on the seed, and on how the CPU rounds, whether they learn.
    rate = 0.002 if kind == "multi_label_classification" else 0.003
    given = {
        "task": {"kind": kind}, "data": {"path": str(place / "data")}, "output": str(place / name), "epochs": EPOCHS[kind],
        "early_stopping": {"patience": None}, "optimizer": {"kind": "adamw", "learning_rate": rate},
    }  # fmt: skip
    return settings(place, name, **given | changes)


@pytest.fixture(scope="module", params=KINDS)
def kind(request):
    return request.param


@pytest.fixture(scope="module")
def place(kind, tmp_path_factory):
    place = tmp_path_factory.mktemp(kind)
    make_model(place / "model")
    WRITERS[kind](place / "data", train=480)
    return place


@pytest.fixture(scope="module")
def trained(kind, place):
    return train_here(config(place, kind, "agent"))


@pytest.fixture(scope="module")
def small(trained, place):
    steps = ["prune", {"kind": "export", "exporter": "torchscript"}, {"kind": "quantize"}]
    report = run(trained.bundle.path, place / "small", steps)
    return Bundle.load(place / "small"), report


def test_it_learns_and_its_bundle_gives_what_its_reports_say(trained):
    bundle, outcome = Bundle.load(trained.bundle.path), trained.outcome
    assert outcome.before.value <= 0.8  # a new head that gives all labels to every text
    assert outcome.after.value > 0.9
    assert "gold items" in (bundle.path / "report.md").read_text()
    from agent.data import load_splits

    splits = load_splits(*_data(bundle))
    reports = {evaluation.split: evaluation.report for evaluation in bundle.manifest.evaluations}
    for name, report in reports.items():
        found = predict(bundle.task, bundle.encoder, getattr(splits, name), torch_forward(load_model(bundle)))
        assert bundle.task.score(getattr(splits, name), found).metrics == pytest.approx(report.metrics, abs=1e-3)


def _data(bundle):
    from agent.data import DataConfig

    return DataConfig.model_validate(bundle.manifest.lineage.config["data"]), bundle.task


@pytest.mark.timeout(900)
@pytest.mark.faults  # of groups that Ray starts: test_training_run.py, test_two_nodes.py
def test_two_workers_learn_what_one_learns(kind, place):
    """For two epochs of few examples: rounding differs by the CPU, and grows with the steps."""
    few = {"epochs": 2, "data": {"path": str(place / "data"), "max_examples": 160}}
    changes = {"num_workers": 2, "engine": {"zero_stage": 2}, "batch": {"micro_tokens": 64}}
    alone = train_here(config(place, kind, "one", **few)).outcome
    with commands_join():
        both = train_by_ranks(config(place, kind, "two", **few, **changes))
    np.testing.assert_allclose(*([row["loss"] for row in one.history] for one in (both, alone)), rtol=1e-3)
    assert both.after.value == pytest.approx(alone.after.value, abs=0.02)


def test_a_student_learns_from_its_teacher_alone(kind, place, trained):
    teacher = {"bundle": str(trained.bundle.path), "weight": 1.0}
    result = train_here(config(place, kind, "student", teacher=teacher))
    assert result.outcome.after.value > 0.9


def test_the_gate_measures_pruned_and_int8_graphs(small):
    bundle, report = small
    assert [variant.precision for variant in bundle.manifest.onnx] == ["fp32", "int8"]
    assert report.verdict.kept > 0.9
    name = "macro F1" if bundle.task.kind == "relation_extraction" else "F1"
    assert f"of {name} (" in terminal_table(report)
    assert f"| {name} |" in (bundle.path / "report.md").read_text()
    assert all(0 <= row.calibration_error < 0.5 for row in report.model_rows)


def test_served_answers_are_those_of_the_engine_and_streams_too(small):
    bundle, _ = small
    asked, _, texts = inputs(bundle.task)
    with listening(Predictor(Engine(bundle))) as url:
        served = httpx.post(url, json={"inputs": asked}, timeout=20).json()
        streamed = httpx.post(url, json={"inputs": asked}, headers={"accept": "application/x-ndjson"}, timeout=20).text
    answers = Engine(bundle).predict(texts)
    assert served == bundle.task.envelope(answers, single=False, parameters=bundle.task.parameters())
    assert [json.loads(line) for line in streamed.splitlines()] == answers


def test_a_corpus_is_annotated(small, tmp_path):
    bundle, _ = small
    task, file = bundle.task, tmp_path / "x.jsonl"
    _, objects, texts = inputs(task)
    file.write_text("".join(json.dumps(one) + "\n" for one in objects))
    fields = Fields(task.input_fields[0], task.annotation_field, task.annotation_type, 100, task.input_fields[1:])
    span = 0, file.stat().st_size, 1, 3
    content = FORMATS["jsonl"].read(StorageLocation(str(tmp_path)), str(file), span, fields)
    assert content.texts == texts
    answers = Engine(bundle).predict(content.texts)
    written = [json.loads(line) for line in content.render(answers).splitlines()]
    assert written == [one | {task.answer_field: answer} for one, answer in zip(objects, answers, strict=True)]


def test_answers_to_a_corpus_are_read_as_data(small, tmp_path):
    """Of a task whose answers are what its data holds."""
    bundle, _ = small
    if not bundle.task.tunes:
        pytest.skip("a classifier answers with all labels")
    task = bundle.task
    _, objects, texts = inputs(task)
    answers = Engine(bundle).predict(texts)
    rows = [one | {task.answer_field: answer} for one, answer in zip(objects, answers, strict=True)]
    found = [task.read_record(record, "here") for record in read(put(tmp_path, "y.jsonl", rows))]
    if task.kind == "question_answering":
        assert [one.texts for one in found] == [
            [item["answer"] for item in items if item["answer"]] for items in answers
        ]
    else:
        assert [task.labels_of(one) for one in found] == [
            {label for label, _ in task.counted(items)} for items in answers
        ]
