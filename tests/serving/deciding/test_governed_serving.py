"""A bundle with a policy is served: every way of asking gets its decisions, callers may do without, and the log stays fit to judge on."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import httpx
import numpy as np
import pyarrow as pa
import pytest
from huggingface_hub import InferenceClient

from agent.bundle import Bundle
from agent.decisions.exploration import ExploreConfig
from agent.tasks import TextClassification
from agent.tasks.base import Claim
from serving.annotation.parquet import _answer_type
from serving.api.open_inference.inference_pb2_grpc import GRPCInferenceServiceStub
from serving.feedback.decision_log import DecisionLog, FeedbackConfig
from serving.inference.engine import Engine
from serving.metrics import Metrics
from serving.scheduling.predictor import Predictor
from serving.scheduling.request_context import RequestContext
from tests.serving.api.test_http_app import _samples, post
from tests.serving.api.test_open_inference import client, texts_tensor
from tests.serving.api.test_open_inference_grpc import inference
from tests.serving.conftest import calling, listening
from tests.serving.deciding.planted import governed, planted, texts
from tests.serving.tiny import JUDGE, LABELLER, TEXTS

PLAIN = {"policy": False}
ASKED = texts(40)


@pytest.fixture(scope="module")
def plain(classifier_path: Path) -> Engine:
    """The float32 graph: what it says does not depend on the batch."""
    return Engine(Bundle.load(classifier_path), precision="fp32")


@pytest.fixture(scope="module")
def cuts(plain: Engine) -> dict[str, float]:
    return planted(plain)[0]


@pytest.fixture(scope="module")
def governed_path(classifier_path: Path, cuts: dict[str, float], tmp_path_factory: pytest.TempPathFactory) -> Path:
    return governed(classifier_path, tmp_path_factory.mktemp("governed") / "bundle", cuts)


@pytest.fixture(scope="module")
def url(governed_path: Path) -> Iterator[str]:
    with listening(Predictor(Engine(Bundle.load(governed_path), precision="fp32"))) as place:
        yield place


@pytest.fixture(scope="module")
def expected(plain: Engine, cuts: dict[str, float]) -> list[list[dict[str, Any]]]:
    """The plain answers, each label beside whether its score is below its threshold."""
    marked = [
        [{**item, "abstains": item["score"] < cuts[item["label"]]} for item in one] for one in plain.predict(ASKED)
    ]
    assert 5 < sum(one[0]["abstains"] for one in marked) < 35
    return marked


def test_the_agent_abstains_where_it_should_and_callers_may_do_without(
    url: str, plain: Engine, expected: list[Any], cuts: dict[str, float]
) -> None:
    assert post(url, {"inputs": ASKED}).json() == expected
    assert post(url, {"inputs": ASKED, "parameters": {"top_k": 1}}).json() == [one[:1] for one in expected]
    assert post(url, {"inputs": ASKED, "parameters": PLAIN}).json() == plain.predict(ASKED)
    streamed = httpx.post(
        url,
        content="".join(json.dumps(text) + "\n" for text in ASKED),
        headers={"content-type": "application/x-ndjson"},
        timeout=20,
    )
    assert [json.loads(line)[0]["abstains"] for line in streamed.text.splitlines()] == [
        one[0]["abstains"] for one in expected
    ]
    info = httpx.get(url + "/info").json()
    assert info["policy"] == cuts
    assert "policy" in info["parameters"]
    refused = post(url, {"inputs": "a", "parameters": {"policy": "no"}})
    assert (refused.status_code, refused.json()["field"]) == (422, "parameters.policy")


def test_abstentions_are_counted_by_label(governed_path: Path, expected: list[Any]) -> None:
    with listening(Predictor(Engine(Bundle.load(governed_path), precision="fp32"))) as place:
        post(place, {"inputs": ASKED})
        post(place, {"inputs": ASKED, "parameters": PLAIN})
        samples = _samples(place)
    found = {key[1]: value for key, value in samples.items() if key[0] == "bert_agent_abstentions_total"}
    silent = [one[0]["label"] for one in expected if one[0]["abstains"]]
    assert found == {label: silent.count(label) for label in set(silent)}


def test_the_client_of_hugging_face_reads_it_unchanged(
    url: str, expected: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    caller = InferenceClient(model=url)
    for text, answer in list(zip(ASKED, expected, strict=True))[:10]:
        found = caller.text_classification(text)
        assert [(item.label, item.abstains) for item in found] == [(item["label"], item["abstains"]) for item in answer]
        assert [item.score for item in found] == pytest.approx([item["score"] for item in answer], abs=1e-5)


@pytest.mark.parametrize("binary", [True, False])
def test_tensors_of_the_open_inference_protocol_say_it(url: str, expected: list[Any], binary: bool) -> None:
    with client(url) as opened:
        outputs = [{"name": "abstains", "datatype": "BOOL", "shape": [-1]}]
        assert opened.get_model_metadata("bundle")["outputs"][2:3] == outputs
        answer = opened.infer("bundle", [texts_tensor(ASKED, binary=binary)])
    assert answer.as_numpy("abstains").tolist() == [one[0]["abstains"] for one in expected]
    assert answer.as_numpy("abstains").dtype == np.bool_
    assert [json.loads(value)[0]["abstains"] for value in answer.as_numpy("labels")] == [
        one[0]["abstains"] for one in expected
    ]


@pytest.mark.parametrize("raw", [True, False])
def test_grpc_says_it(governed_path: Path, expected: list[Any], raw: bool) -> None:
    silent = [one[0]["abstains"] for one in expected]
    with (
        calling(Predictor(Engine(Bundle.load(governed_path), precision="fp32"))) as place,
        grpc.insecure_channel(place) as channel,
    ):
        reply = GRPCInferenceServiceStub(channel).ModelInfer(inference(ASKED, raw=raw), timeout=20)
    place_of = [output.name for output in reply.outputs].index("abstains")
    if raw:
        assert list(reply.raw_output_contents[place_of]) == silent
    else:
        assert list(reply.outputs[place_of].contents.bool_contents) == silent


def test_decisions_are_logged_as_those_of_the_agent_alone(
    governed_path: Path, plain: Engine, expected: list[Any], cuts: dict[str, float], tmp_path: Path
) -> None:
    """The label stands first and its propensity is that of the label, so that judging on the log stays what it was."""
    log = DecisionLog(
        FeedbackConfig(store=f"sqlite:///{tmp_path / 'd.db'}"), Metrics(), "a", explore=ExploreConfig(epsilon=0.6)
    )
    predictor = Predictor(Engine(Bundle.load(governed_path), precision="fp32"), decisions=log)

    async def ask() -> None:
        parameters = predictor.engine.bundle.task.parameters
        await predictor.predict(ASKED, parameters(), context=RequestContext("drawn"))
        await predictor.predict(ASKED, parameters(explore=False), context=RequestContext("best"))
        assert await log.flush()

    asyncio.run(ask())
    predictor.close()
    rows = [decision for decision, _ in log.store.read("a")]
    log.store.close()
    best = {row.position: json.loads(row.answer) for row in rows if row.id == "best"}
    assert [best[place] for place in range(len(ASKED))] == expected
    assert {row.propensity for row in rows if row.id == "best"} == {1.0}
    explore = ExploreConfig(epsilon=0.6)
    for row in (row for row in rows if row.id == "drawn"):
        answer = json.loads(row.answer)
        ranking = plain.predict([row.text])[0]
        chances = explore.propensities([item["score"] for item in ranking]).tolist()
        place = [item["label"] for item in ranking].index(answer[0]["label"])
        assert row.propensity == pytest.approx(chances[place])
        assert [item["abstains"] for item in answer] == [item["score"] < cuts[item["label"]] for item in answer]


def test_annotations_have_a_column_for_it(governed_path: Path, expected: list[Any], plain: Engine) -> None:
    engine = Engine(Bundle.load(governed_path), precision="fp32")
    column = pa.array(engine.predict(ASKED), _answer_type(engine.bundle.task.annotation_type))
    assert column.to_pylist() == expected
    assert "abstains" not in str(_answer_type(plain.bundle.task.annotation_type))


def test_what_is_scored_stays_that_of_the_agent_alone(governed_path: Path, plain: Engine) -> None:
    task = Bundle.load(governed_path).task
    assert isinstance(task, TextClassification)
    assert task.model_dump() == plain.bundle.task.model_dump()
    assert Engine(Bundle.load(governed_path), precision="fp32").labels(ASKED) == plain.labels(ASKED)


def test_entities_below_their_thresholds_are_not_reported(tagger_path: Path, tmp_path: Path) -> None:
    alone = Engine(Bundle.load(tagger_path), precision="fp32")
    before = alone.predict(TEXTS)
    cuts = dict.fromkeys(("LOC", "ORG", "PER"), float(np.median([item["score"] for one in before for item in one])))
    engine = Engine(Bundle.load(governed(tagger_path, tmp_path / "b", cuts)), precision="fp32")
    after = engine.predict(TEXTS)
    assert after == [[item for item in one if item["score"] >= cuts[item["entity_group"]]] for one in before]
    assert 0 < sum(map(len, after)) < sum(map(len, before))
    task = engine.bundle.task
    (document,) = engine.encode(TEXTS[:1])
    (outputs,) = engine.run([document])
    claims = task.claims(before[0])
    verdicts = task.verdicts(claims, TEXTS[0], document, outputs, task.parameters())
    assert [claim for claim, verdict in zip(claims, verdicts, strict=True) if verdict.holds] == task.claims(after[0])
    none = task.parameters.model_validate({"aggregation_strategy": "none"})
    assert engine.predict(TEXTS, none) == alone.predict(TEXTS, none)


def test_labels_follow_the_thresholds_of_the_policy(labeller_path: Path, tmp_path: Path) -> None:
    alone = Engine(Bundle.load(labeller_path), precision="fp32")
    cuts = {"calm": 0.9, "long": 0.1, "loud": 1.1}
    engine = Engine(Bundle.load(governed(labeller_path, tmp_path / "b", cuts)), precision="fp32")
    task = engine.bundle.task
    every = alone.bundle.task.parameters.model_validate({"top_k": 3})
    scores = [{item["label"]: item["score"] for item in one} for one in alone.predict(TEXTS, every)]
    found = [{item["label"] for item in one} for one in engine.predict(TEXTS)]
    assert found == [{label for label, score in one.items() if score >= cuts[label]} for one in scores]
    assert engine.labels(TEXTS) == alone.labels(TEXTS)
    (document,) = engine.encode(TEXTS[:1])
    (outputs,) = engine.run([document])
    claims = [Claim(label) for label in LABELLER.labels]
    for parameters, thresholds in (
        (task.parameters(), cuts),
        (task.parameters.model_validate(PLAIN), dict(zip(LABELLER.labels, LABELLER.cuts, strict=True))),
    ):
        verdicts = task.verdicts(claims, TEXTS[0], document, outputs, parameters)
        assert [one.holds for one in verdicts] == [scores[0][label] >= thresholds[label] for label in LABELLER.labels]


def test_pairs_abstain_and_candidate_labels_do_not(judge_path: Path, tmp_path: Path) -> None:
    engine = Engine(Bundle.load(governed(judge_path, tmp_path / "b", dict.fromkeys(JUDGE.labels, 1.1))))
    assert engine.bundle.task.kind == "text_pair_classification"
    (answer,) = engine.predict([JUDGE.as_input(TEXTS[:2])])
    assert all(item["abstains"] for item in answer)
    asked = engine.bundle.task.parameters.model_validate({"candidate_labels": ["news", "work"]})
    (answer,) = engine.predict(TEXTS[:1], asked)
    assert [set(item) for item in answer] == [{"label", "score"}] * 2
