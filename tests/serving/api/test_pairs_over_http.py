"""Two texts in one input over HTTP, the Open Inference Protocol and gRPC; candidate labels; what is refused, by its field."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import grpc
import httpx
import numpy as np
import pytest
import tritonclient.http as triton
from huggingface_hub import InferenceClient

from agent.bundle import Bundle
from agent.windows.text_pairs import TextPair
from serving.api.open_inference import inference_pb2 as messages
from serving.api.open_inference.inference_pb2_grpc import GRPCInferenceServiceStub
from serving.api.open_inference.protocol import Tensor, pack, unpack
from serving.inference.engine import Engine
from serving.scheduling.predictor import Predictor
from tests.serving.api.test_http_app import post
from tests.serving.api.test_open_inference import client
from tests.serving.conftest import calling
from tests.serving.tiny import TEXTS

FIRSTS, SECONDS = TEXTS, [*TEXTS[1:], "Oslo " * 40]
PAIRS = [TextPair(*pair) for pair in zip(FIRSTS, SECONDS, strict=True)]
INPUTS = [{"text": first, "text_pair": second} for first, second in zip(FIRSTS, SECONDS, strict=True)]


@pytest.fixture(scope="module")
def expected(judge_path: Path) -> list[list[dict[str, Any]]]:
    engine = Engine(Bundle.load(judge_path))
    return [engine.predict([pair])[0] for pair in PAIRS]


def close(ours: Any, theirs: Any) -> bool:
    """The same labels with nearly the same scores: int8 makes a score depend a little on what it is computed with."""
    return bool([item["label"] for item in ours] == [item["label"] for item in theirs]) and bool(
        np.allclose([item["score"] for item in ours], [item["score"] for item in theirs], atol=0.02)
    )


def test_two_texts_are_judged_one_pair_or_several(judge_url: str, expected: Any) -> None:
    (one,), many = (post(judge_url, {"inputs": inputs}).json() for inputs in (INPUTS[0], INPUTS))
    assert close(one, expected[0])
    assert all(map(close, many, expected))
    assert len(expected[0]) == 3


def test_a_stream_takes_a_pair_a_line(judge_url: str, expected: Any) -> None:
    lines = "".join(json.dumps({"inputs": pair}) + "\n" for pair in INPUTS)
    answer = httpx.post(judge_url, content=lines, headers={"content-type": "application/x-ndjson"}, timeout=20)
    assert all(map(close, [json.loads(line) for line in answer.text.splitlines()], expected))


@pytest.mark.parametrize("multi_label", [False, True])
def test_the_client_of_hugging_face_classifies_by_labels_of_its_own(
    judge_url: str, judge_path: Path, multi_label: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    asked = {
        "candidate_labels": ["travel", "work", "food"],
        "hypothesis_template": "It is about {}.",
        "multi_label": multi_label,
    }
    found = InferenceClient(model=judge_url).zero_shot_classification(TEXTS[2], **asked)
    engine = Engine(Bundle.load(judge_path))
    expected = engine.predict([TEXTS[2]], engine.bundle.task.parameters(**asked))[0]
    assert close([vars(item) for item in found], expected)
    assert sorted(item.label for item in found) == ["food", "travel", "work"]
    if not multi_label:
        assert sum(item.score for item in found) == pytest.approx(1, abs=1e-4)
    several = post(judge_url, {"inputs": TEXTS[:2], "parameters": asked}).json()
    assert [len(items) for items in several] == [3, 3]


@pytest.mark.parametrize(
    ("body", "status", "field"),
    [
        ({"inputs": "a"}, 422, "inputs"),
        ({"inputs": {"text": "a"}}, 422, "inputs.text_pair"),
        ({"inputs": {"text": "a", "text_pair": ""}}, 422, "inputs.text_pair"),
        ({"inputs": [{"text": "a", "text_pair": "b"}, {"text": "", "text_pair": "b"}]}, 422, "inputs[1].text"),
        ({"inputs": {"text": "a", "text_pair": 5}}, 422, "inputs.text_pair"),
        ({"inputs": {"text": "a", "text_pair": "b", "third": "c"}}, 422, "inputs.third"),
        ({"inputs": [{"text": "a", "text_pair": "b"}, "c"]}, 422, "inputs[1]"),
        ({"inputs": "a", "parameters": {"candidate_labels": []}}, 422, "parameters.candidate_labels"),
        ({"inputs": "a", "parameters": {"candidate_labels": ["x", "x"]}}, 422, "parameters.candidate_labels"),
        ({"inputs": "a", "parameters": {"candidate_labels": "x"}}, 422, "parameters.candidate_labels"),
        ({"inputs": "a", "parameters": {"candidate_labels": ["x"], "hypothesis_template": "so"}}, 422, "parameters.hypothesis_template"),
        ({"inputs": "a", "parameters": {"candidate_labels": ["x"], "multi_label": "yes"}}, 422, "parameters.multi_label"),
        ({"inputs": INPUTS, "parameters": {"candidate_labels": ["x"]}}, 422, "inputs"),
        ({"inputs": ["a"] * 600, "parameters": {"candidate_labels": ["x", "y"]}}, 413, "parameters.candidate_labels"),
    ],
)  # fmt: skip
def test_bad_requests_are_refused_by_their_field(judge_url: str, body: Any, status: int, field: str) -> None:
    answer = post(judge_url, body)
    told = answer.json()
    assert (answer.status_code, told["field"]) == (status, field), told
    assert told["error"]
    assert told["allowed"]
    assert told["remedy"]


def tensor(name: str, texts: list[str], *, binary: bool) -> triton.InferInput:
    made = triton.InferInput(name, [len(texts)], "BYTES")
    made.set_data_from_numpy(np.array([text.encode() for text in texts], dtype=np.object_), binary_data=binary)
    return made


@pytest.mark.parametrize("binary", [True, False])
def test_tritonclient_sends_a_tensor_for_each_text(judge_url: str, expected: Any, binary: bool) -> None:
    tensors = [tensor("text_pair", SECONDS, binary=binary), tensor("text", FIRSTS, binary=binary)]
    with client(judge_url) as opened:
        assert [one["name"] for one in opened.get_model_metadata("bundle")["inputs"]] == ["text", "text_pair"]
        answer = opened.infer("bundle", tensors)
    assert all(map(close, map(json.loads, answer.as_numpy("labels")), expected))


@pytest.mark.parametrize(
    ("tensors", "told"),
    [
        ([("text", ["a"])], "a single text"),
        ([("text_pair", ["a"])], "the tensors text_pair of 1"),
        ([("text", ["a"]), ("text", ["a"])], "the tensors text of 1, text of 1"),
        ([("text", ["a"]), ("text_pair", ["a", "b"])], "the tensors text of 1, text_pair of 2"),
    ],
)
def test_tensors_that_make_no_pairs_are_refused(judge_url: str, tensors: Any, told: str) -> None:
    inputs = [{"name": name, "datatype": "BYTES", "shape": [len(data)], "data": data} for name, data in tensors]
    answer = post(judge_url + "/v2/models/bundle/infer", {"inputs": inputs})
    assert (answer.status_code, answer.json()["field"]) == (422, "inputs")
    assert told in answer.json()["error"]


@pytest.mark.parametrize("raw", [True, False])
def test_calls_over_grpc_bring_pairs_and_candidate_labels(judge_path: Path, expected: Any, raw: bool) -> None:
    request = messages.ModelInferRequest(model_name="bundle")
    for name, texts in {"text": FIRSTS, "text_pair": SECONDS}.items():
        made = request.inputs.add(name=name, datatype="BYTES", shape=[len(texts)])
        if raw:
            request.raw_input_contents.append(pack(Tensor(name, "BYTES", texts)))
        else:
            made.contents.bytes_contents.extend(text.encode() for text in texts)
    single = messages.ModelInferRequest(model_name="bundle")
    single.inputs.add(name="text", datatype="BYTES", shape=[1]).contents.bytes_contents.append(b"a trip to Lima")
    single.parameters["candidate_labels"].string_param = '["travel", "work"]'
    with calling(Predictor(Engine(Bundle.load(judge_path)))) as place, grpc.insecure_channel(place) as channel:
        stub = GRPCInferenceServiceStub(channel)
        answer, zero_shot = stub.ModelInfer(request), stub.ModelInfer(single)
    outputs = {output.name: index for index, output in enumerate(answer.outputs)}
    values = (
        unpack(answer.raw_output_contents[outputs["labels"]], "raw")
        if raw
        else answer.outputs[outputs["labels"]].contents.bytes_contents
    )
    assert all(map(close, map(json.loads, values), expected))
    (labels,) = (output.contents.bytes_contents for output in zero_shot.outputs if output.name == "labels")
    assert sorted(item["label"] for item in json.loads(labels[0])) == ["travel", "work"]


def test_the_card_names_the_texts_of_an_input(judge_url: str) -> None:
    info = httpx.get(judge_url + "/info").json()
    assert info["inputs"] == ["text", "text_pair"]
    assert "candidate_labels" in info["parameters"]
