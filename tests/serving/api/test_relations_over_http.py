"""Texts with two marked entities over HTTP, streams, the Open Inference Protocol and gRPC; what is refused, by its field."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import grpc
import httpx
import pytest
from huggingface_hub import InferenceClient

from agent.bundle import Bundle
from serving.api.open_inference import inference_pb2 as messages
from serving.api.open_inference.inference_pb2_grpc import GRPCInferenceServiceStub
from serving.inference.engine import Engine
from serving.scheduling.predictor import Predictor
from tests.serving.api.test_http_app import post
from tests.serving.api.test_open_inference import client
from tests.serving.api.test_pairs_over_http import close, tensor
from tests.serving.conftest import calling

MARKED = [
    "<e1>Anna</e1> flew from <e2>Oslo</e2> to Lima on Monday.",
    "<e2>Anna</e2> flew from <e1>Oslo</e1> to Lima on Monday.",
    "nothing else happened that day. " * 9 + "<e1>Bruno</e1> in <e2>Graz</e2>" + " to the office in Pune." * 9,
]


@pytest.fixture(scope="module")
def expected(relater_path: Path) -> list[list[dict[str, Any]]]:
    engine = Engine(Bundle.load(relater_path))
    return [engine.predict([text])[0] for text in MARKED]


def test_relations_are_ranked_for_one_text_or_several_and_in_a_stream(relater_url: str, expected: Any) -> None:
    (one,), many = (post(relater_url, {"inputs": inputs}).json() for inputs in (MARKED[0], MARKED))
    assert close(one, expected[0])
    assert all(map(close, many, expected))
    lines = "".join(json.dumps(text) + "\n" for text in MARKED)
    answer = httpx.post(relater_url, content=lines, headers={"content-type": "application/x-ndjson"}, timeout=20)
    assert all(map(close, [json.loads(line) for line in answer.text.splitlines()], expected))


def test_the_client_of_hugging_face_reads_them(
    relater_url: str, expected: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    found = InferenceClient(model=relater_url).text_classification(MARKED[0], top_k=2)
    assert close([vars(item) for item in found], expected[0][:2])


@pytest.mark.parametrize(
    ("body", "field", "told"),
    [
        ({"inputs": "Anna flew."}, "inputs[0]", "no entity is marked"),
        ({"inputs": [MARKED[0], "<e1>Anna</e1> flew."]}, "inputs[1]", "<e2> is missing"),
        ({"inputs": "<e1>Anna of <e2>Oslo</e2></e1>"}, "inputs[0]", "its markers stand in the order"),
        ({"inputs": "<e1>Anna</e1>" + " to Lima" * 40 + "<e2>Oslo</e2>"}, "inputs[0]", "a window holds both"),
        ({"inputs": MARKED[0], "parameters": {"stride": 4}}, "parameters.stride", "parameters.stride is a number"),
        ({"inputs": {"text": MARKED[0]}}, "inputs", "inputs is an object"),
    ],
)
def test_what_marks_no_two_entities_is_refused_by_its_field(relater_url: str, body: Any, field: str, told: str) -> None:
    answer = post(relater_url, body)
    assert (answer.status_code, answer.json()["field"]) == (422, field), answer.json()
    assert told in answer.json()["error"]
    assert answer.json()["allowed"]
    assert answer.json()["remedy"]


def test_tensors_carry_the_marked_texts(relater_url: str, relater_path: Path, expected: Any) -> None:
    with client(relater_url) as opened:
        answer = opened.infer("bundle", [tensor("text", MARKED, binary=True)])
    assert all(map(close, map(json.loads, answer.as_numpy("labels")), expected))
    request = messages.ModelInferRequest(model_name="bundle")
    made = request.inputs.add(name="text", datatype="BYTES", shape=[len(MARKED)])
    made.contents.bytes_contents.extend(text.encode() for text in MARKED)
    with calling(Predictor(Engine(Bundle.load(relater_path)))) as place, grpc.insecure_channel(place) as channel:
        outputs = {
            one.name: one.contents.bytes_contents
            for one in GRPCInferenceServiceStub(channel).ModelInfer(request).outputs
        }
    assert all(map(close, map(json.loads, outputs["labels"]), expected))


def test_the_card_says_what_the_agent_does(relater_url: str) -> None:
    info = httpx.get(relater_url + "/info").json()
    assert (info["task"], info["inputs"], info["picture"], info["explains"]) == (
        "relation_extraction", ["text"], "ranking", False,
    )  # fmt: skip
