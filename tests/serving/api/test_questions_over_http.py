"""Questions over HTTP, the Open Inference Protocol and gRPC, as Hugging Face's client asks them; what is refused, by its field."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import grpc
import httpx
import numpy as np
import pytest
from huggingface_hub import InferenceClient

from agent.bundle import Bundle
from agent.windows.text_pairs import TextPair
from serving.api.open_inference import inference_pb2 as messages
from serving.api.open_inference.inference_pb2_grpc import GRPCInferenceServiceStub
from serving.inference.engine import Engine
from serving.scheduling.predictor import Predictor
from tests.serving.api.test_http_app import post
from tests.serving.api.test_open_inference import client
from tests.serving.api.test_pairs_over_http import tensor
from tests.serving.conftest import calling
from tests.serving.tiny import TEXTS

QUESTIONS = ["Who flew?", "Who was hired?", "Oslo", "abc"]
CONTEXTS = [*TEXTS[:3], " ".join(TEXTS[:3]) * 3]
INPUTS = [{"question": one, "context": other} for one, other in zip(QUESTIONS, CONTEXTS, strict=True)]
PAIRS = [TextPair(*one.values()) for one in INPUTS]


@pytest.fixture(scope="module")
def engine(reader_path: Path) -> Engine:
    return Engine(Bundle.load(reader_path))


@pytest.fixture(scope="module")
def expected(engine: Engine) -> list[list[dict[str, Any]]]:
    parameters = engine.bundle.task.parameters(top_k=3, handle_impossible_answer=False)
    return [engine.predict([pair], parameters)[0] for pair in PAIRS]


def close(ours: Any, theirs: Any) -> bool:
    """Nearly the same scores for answers that are words of the context: int8 makes a score depend a little on what it is computed with."""
    return bool(np.allclose([item["score"] for item in ours], [item["score"] for item in theirs], atol=0.06))


def test_every_answer_is_an_exact_part_of_its_context(reader_url: str, expected: Any) -> None:
    parameters = {"top_k": 3, "handle_impossible_answer": False}
    answers = post(reader_url, {"inputs": INPUTS, "parameters": parameters}).json()
    assert all(map(close, answers, expected))
    for one, items in zip(INPUTS, answers, strict=True):
        assert all(one["context"][item["start"] : item["end"]] == item["answer"] != "" for item in items)
    single = post(reader_url, {"inputs": INPUTS[0]}).json()
    assert set(single) == {"score", "start", "end", "answer"}
    assert [set(one) for one in post(reader_url, {"inputs": INPUTS}).json()] == [set(single)] * 4


@pytest.mark.parametrize("top_k", [None, 1, 3])
def test_the_client_of_hugging_face_asks_questions(
    reader_url: str, expected: Any, top_k: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    found = InferenceClient(model=reader_url).question_answering(
        question=QUESTIONS[0], context=CONTEXTS[0], top_k=top_k, handle_impossible_answer=False, max_answer_len=30
    )
    items = [vars(item) for item in (found if isinstance(found, list) else [found])]
    assert close(items, expected[0][: top_k or 1])
    assert all(CONTEXTS[0][item["start"] : item["end"]] == item["answer"] for item in items)


def test_an_agent_that_knows_impossible_questions_may_answer_nothing(reader_url: str) -> None:
    every = post(reader_url, {"inputs": INPUTS[0], "parameters": {"top_k": 100}}).json()
    assert sum(item == {"answer": "", "start": 0, "end": 0, "score": item["score"]} for item in every) == 1


def test_a_stream_takes_a_question_a_line(reader_url: str) -> None:
    asked = {"parameters": {"top_k": 2, "handle_impossible_answer": False}}
    lines = "".join(json.dumps({"inputs": one} | asked) + "\n" for one in INPUTS)
    answer = httpx.post(reader_url, content=lines, headers={"content-type": "application/x-ndjson"}, timeout=20)
    found = [json.loads(line) for line in answer.text.splitlines()]
    assert [len(items) for items in found] == [2, 2, 2, 2]
    for one, items in zip(INPUTS, found, strict=True):
        assert all(one["context"][item["start"] : item["end"]] == item["answer"] for item in items)


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({"inputs": "a"}, "inputs"),
        ({"inputs": ["a"]}, "inputs"),
        ({"inputs": {"question": "a"}}, "inputs.context"),
        ({"inputs": {"question": "", "context": "b"}}, "inputs.question"),
        ({"inputs": [INPUTS[0], {"question": "a", "context": ""}]}, "inputs[1].context"),
        ({"inputs": {"question": "a", "context": "b", "third": "c"}}, "inputs.third"),
        ({"inputs": {"question": "Oslo " * 30, "context": "Lima " * 30}}, "inputs[0].question"),
        ({"inputs": INPUTS[0], "parameters": {"top_k": 0}}, "parameters.top_k"),
        ({"inputs": INPUTS[0], "parameters": {"top_k": 101}}, "parameters.top_k"),
        ({"inputs": INPUTS[0], "parameters": {"max_answer_len": "3"}}, "parameters.max_answer_len"),
        ({"inputs": INPUTS[0], "parameters": {"handle_impossible_answer": "no"}}, "parameters.handle_impossible_answer"),
        ({"inputs": INPUTS[0], "parameters": {"max_seq_len": 384}}, "parameters.max_seq_len"),
    ],
)  # fmt: skip
def test_bad_requests_are_refused_by_their_field(reader_url: str, body: Any, field: str) -> None:
    answer = post(reader_url, body)
    told = answer.json()
    assert (answer.status_code, told["field"]) == (422, field), told
    assert told["error"]
    assert told["allowed"]
    assert told["remedy"]


@pytest.mark.parametrize("binary", [True, False])
def test_tritonclient_sends_questions_and_contexts(reader_url: str, binary: bool) -> None:
    tensors = [tensor("context", CONTEXTS, binary=binary), tensor("question", QUESTIONS, binary=binary)]
    with client(reader_url) as opened:
        assert [one["name"] for one in opened.get_model_metadata("bundle")["inputs"]] == ["question", "context"]
        answer = opened.infer("bundle", tensors)
    rows = zip(answer.as_numpy("answer"), map(json.loads, answer.as_numpy("answers")), CONTEXTS, strict=True)
    for best, items, context in rows:
        assert best.decode() == items[0]["answer"] == context[items[0]["start"] : items[0]["end"]]


def test_calls_over_grpc_bring_questions_and_parameters(reader_path: Path) -> None:
    request = messages.ModelInferRequest(model_name="bundle")
    for name, texts in {"question": QUESTIONS, "context": CONTEXTS}.items():
        made = request.inputs.add(name=name, datatype="BYTES", shape=[len(texts)])
        made.contents.bytes_contents.extend(text.encode() for text in texts)
    request.parameters["handle_impossible_answer"].bool_param = False
    request.parameters["top_k"].int64_param = 2
    with calling(Predictor(Engine(Bundle.load(reader_path)))) as place, grpc.insecure_channel(place) as channel:
        answer = GRPCInferenceServiceStub(channel).ModelInfer(request)
    values = {output.name: output.contents.bytes_contents for output in answer.outputs}
    for context, best, told in zip(CONTEXTS, values["answer"], values["answers"], strict=True):
        items = json.loads(told)
        assert len(items) == 2
        assert best.decode() == items[0]["answer"] != ""
        assert all(context[item["start"] : item["end"]] == item["answer"] for item in items)


def test_the_card_and_the_metrics_know_the_task(reader_url: str) -> None:
    info = httpx.get(reader_url + "/info").json()
    assert (info["task"], info["inputs"], info["picture"]) == ("question_answering", ["question", "context"], "answers")
    assert {"top_k", "max_answer_len", "handle_impossible_answer"} <= set(info["parameters"])
    post(reader_url, {"inputs": INPUTS[0], "parameters": {"handle_impossible_answer": False}})
    assert 'label="answer"' in httpx.get(reader_url + "/metrics").text
