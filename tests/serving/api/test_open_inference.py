"""The Open Inference Protocol v2 over HTTP: tritonclient as it comes, plain JSON, and what is refused."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx
import jsonschema
import numpy as np
import pytest
import tritonclient.http as triton
from tritonclient.utils import InferenceServerException

from agent.bundle import Bundle
from serving.api.open_inference.protocol import Tensor, pack, unpack
from serving.inference.engine import Engine
from tests.serving.api.test_http_app import post
from tests.serving.tiny import TEXTS

JSON = {"content-type": "application/json"}


@contextmanager
def client(url: str) -> Iterator[triton.InferenceServerClient]:
    with triton.InferenceServerClient(urlsplit(url).netloc) as opened:
        yield opened


def texts_tensor(texts: list[str], *, binary: bool, column: bool = False) -> triton.InferInput:
    values = np.array([text.encode() for text in texts], dtype=np.object_)
    values = values[:, None] if column else values
    tensor = triton.InferInput("text", list(values.shape), "BYTES")
    tensor.set_data_from_numpy(values, binary_data=binary)
    return tensor


@pytest.mark.parametrize("column", [True, False])
@pytest.mark.parametrize("binary", [True, False])
def test_tritonclient_gets_the_entities_of_every_text(
    tagger_url: str, engine: Engine, binary: bool, column: bool
) -> None:
    outputs = [triton.InferRequestedOutput("entities", binary_data=binary)]
    with client(tagger_url) as opened:
        answer = opened.infer(
            "bundle", [texts_tensor(TEXTS, binary=binary, column=column)], outputs=outputs, request_id="seven"
        )
    found = answer.as_numpy("entities")
    assert [json.loads(value) for value in found.tolist()] == engine.predict(TEXTS)
    assert (answer.get_response()["id"], answer.get_response()["model_name"]) == ("seven", "bundle")


def test_tritonclient_gets_the_label_and_the_score_of_every_text(classifier_url: str, classifier_path: Path) -> None:
    expected = Engine(Bundle.load(classifier_path)).predict(TEXTS)
    with client(classifier_url) as opened:
        answer = opened.infer("bundle", [texts_tensor(TEXTS, binary=True)])
    assert [value.decode() for value in answer.as_numpy("label")] == [items[0]["label"] for items in expected]
    assert answer.as_numpy("score").tolist() == [np.float32(items[0]["score"]) for items in expected]
    assert answer.as_numpy("score").dtype == np.float32
    assert [json.loads(value) for value in answer.as_numpy("labels")] == expected


def test_tritonclient_reads_health_and_metadata(tagger_url: str, tagger_path: Path) -> None:
    version = Bundle.load(tagger_path).digest[:12]
    with client(tagger_url) as opened:
        assert opened.is_server_live()
        assert opened.is_server_ready()
        assert opened.is_model_ready("bundle")
        assert opened.is_model_ready("bundle", version)
        assert not opened.is_model_ready("other")
        assert opened.get_server_metadata()["extensions"] == ["binary_tensor_data"]
        metadata = opened.get_model_metadata("bundle", version)
    assert metadata == {
        "name": "bundle",
        "versions": [version],
        "platform": "bert-agent_onnx",
        "inputs": [{"name": "text", "datatype": "BYTES", "shape": [-1]}],
        "outputs": [{"name": "entities", "datatype": "BYTES", "shape": [-1]}],
    }


def test_parameters_of_the_task_go_with_the_request(tagger_url: str, classifier_url: str) -> None:
    with client(tagger_url) as opened:
        asked = {"aggregation_strategy": "none", "ignore_labels": []}
        answer = opened.infer("bundle", [texts_tensor(TEXTS[:1], binary=True)], parameters=asked)
        assert set(json.loads(answer.as_numpy("entities")[0])[0]) >= {"entity", "index"}
        with pytest.raises(InferenceServerException, match=r"parameters\.aggregation_strategy is 'best'"):
            opened.infer("bundle", [texts_tensor(["a"], binary=True)], parameters={"aggregation_strategy": "best"})
        with pytest.raises(InferenceServerException, match=r"unknown key parameters\.speed"):
            opened.infer("bundle", [texts_tensor(["a"], binary=True)], parameters={"speed": 3})
    with client(classifier_url) as opened:
        answer = opened.infer("bundle", [texts_tensor(["a"], binary=True)], parameters={"top_k": 1})
        assert len(json.loads(answer.as_numpy("labels")[0])) == 1


def test_what_clients_of_triton_and_mlserver_send_beside_texts_changes_nothing(tagger_url: str) -> None:
    with client(tagger_url) as opened:
        expected = opened.infer("bundle", [texts_tensor(TEXTS[:1], binary=True)]).as_numpy("entities").tolist()
        asked = {"sequence_id": 7, "sequence_start": True, "sequence_end": True, "priority": 1, "timeout": 5_000_000}
        answer = opened.infer("bundle", [texts_tensor(TEXTS[:1], binary=True)], **asked)
        assert answer.as_numpy("entities").tolist() == expected
    plain = post(f"{tagger_url}/v2/models/bundle/infer", inference()).json()
    codec = {"parameters": {"content_type": "str"}}
    outputs = [{"name": "entities", **codec}]
    told = post(f"{tagger_url}/v2/models/bundle/infer", inference(tensor=codec, outputs=outputs, **codec))
    assert (told.status_code, told.json()) == (200, plain)
    other = post(f"{tagger_url}/v2/models/bundle/infer", inference(tensor={"parameters": {"content_type": "np"}}))
    assert (other.status_code, other.json()["field"]) == (422, "inputs[0].parameters.content_type")


def test_other_models_and_versions_get_404_with_the_one_that_is_served(tagger_url: str, tagger_path: Path) -> None:
    for method, path in (("GET", ""), ("GET", "/ready"), ("POST", "/infer")):
        answer = httpx.request(method, f"{tagger_url}/v2/models/other{path}")
        assert (answer.status_code, answer.json()["allowed"]) == (404, "bundle")
        answer = httpx.request(method, f"{tagger_url}/v2/models/bundle/versions/1{path}")
        assert (answer.status_code, answer.json()["allowed"]) == (404, Bundle.load(tagger_path).digest[:12])


def test_an_agent_answers_for_its_own_name_and_for_no_other(tagger_url: str, engine: Engine) -> None:
    answer = post(f"{tagger_url}/models/bundle", {"inputs": TEXTS[0]})
    assert answer.json() == engine.predict(TEXTS[:1])[0]
    assert httpx.get(tagger_url + "/info").json()["agent"] == "bundle"
    other = post(f"{tagger_url}/models/tickets", {"inputs": TEXTS[0]})
    assert (other.status_code, other.json()["allowed"]) == (404, "bundle")
    assert "'tickets'" in other.json()["error"]


def inference(**changes: Any) -> dict[str, Any]:
    tensor = {"name": "text", "datatype": "BYTES", "shape": [1], "data": ["Anna"]}
    return {"inputs": [tensor | changes.pop("tensor", {})], **changes}


BAD: dict[str, tuple[Any, int, str]] = {
    "no JSON": (b"{", 400, ""),
    "a list": ([], 422, ""),
    "no inputs": ({}, 422, "inputs"),
    "empty inputs": ({"inputs": []}, 422, "inputs"),
    "two tensors": ({"inputs": inference()["inputs"] * 2}, 422, "inputs"),
    "another tensor": (inference(tensor={"name": "words"}), 422, "inputs[0].name"),
    "numbers": (inference(tensor={"datatype": "FP32", "data": [1.5]}), 422, "inputs[0].datatype"),
    "a number among texts": (inference(tensor={"data": [5]}), 422, "inputs[0].data[0]"),
    "a wrong shape": (inference(tensor={"shape": [2]}), 422, "inputs[0].shape"),
    "a negative shape": (inference(tensor={"shape": [-1]}), 422, "inputs[0].shape[0]"),
    "a cube": (inference(tensor={"shape": [1, 1, 1]}), 422, "inputs[0].shape"),
    "a wide matrix": (inference(tensor={"shape": [1, 2], "data": ["a", "b"]}), 422, "inputs[0].shape"),
    "no texts": (inference(tensor={"shape": [0], "data": []}), 422, "inputs[0]"),
    "no data": (inference(tensor={"data": None}), 422, "inputs[0]"),
    "an empty text": (inference(tensor={"data": [""]}), 422, "inputs[0].data[0]"),
    "a key twice": (b'{"id":"1","id":"2","inputs":[{"name":"text","datatype":"BYTES","shape":[1],"data":["a"]}]}', 422, "id"),
    "a tensor's key twice": (b'{"inputs":[{"name":"text","datatype":"BYTES","shape":[1],"data":["a"],"data":["b"]}]}', 422, "data"),
    "an unknown key": (inference(model="x"), 422, "model"),
    "an unknown key of the tensor": (inference(tensor={"kind": 1}), 422, "inputs[0].kind"),
    "an unknown output": (inference(outputs=[{"name": "vectors"}]), 422, "outputs[0].name"),
    "shared memory": (inference(outputs=[{"name": "entities", "parameters": {"shared_memory_region": "a"}}]), 422, "outputs[0].parameters.shared_memory_region"),
    "too many texts": (inference(tensor={"shape": [21], "data": ["a"] * 21}), 413, "inputs"),
    "a stride that does not fit": (inference(parameters={"stride": 31}), 422, "parameters.stride"),
    "a huge stride": (b'{"inputs":[{"name":"text","datatype":"BYTES","shape":[1],"data":["a"]}],"parameters":{"stride":1' + b"0" * 4000 + b"}}", 422, "parameters.stride"),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD)
def test_a_bad_request_gets_an_error_that_says_what_is_wrong(tagger_url: str, case: str) -> None:
    body, status, field = BAD[case]
    answer = post(f"{tagger_url}/v2/models/bundle/infer", body)
    assert (answer.status_code, answer.json()["field"] or "") == (status, field), answer.json()
    assert answer.json()["error"]
    assert answer.json()["remedy"]


BINARY_TENSOR = {"name": "text", "datatype": "BYTES", "shape": [1], "parameters": {"binary_data_size": 5}}


@pytest.mark.parametrize(
    ("tail", "length"),
    [
        (b"\x01\x00\x00\x00", None),  # shorter than said
        (b"\x02\x00\x00\x00a", None),  # the element is shorter than said
        (b"\x01\x00\x00\x00\xff", None),  # no UTF-8
        (b"\x01\x00\x00\x00a", "9999999"),
        (b"\x01\x00\x00\x00a", "-1"),
        (b"\x01\x00\x00\x00a", "many"),
    ],
)
def test_binary_tensors_that_do_not_fit_are_refused(tagger_url: str, tail: bytes, length: str | None) -> None:
    head = json.dumps({"inputs": [BINARY_TENSOR]}).encode()
    headers = {**JSON, "inference-header-content-length": length or str(len(head))}
    answer = httpx.post(f"{tagger_url}/v2/models/bundle/infer", content=head + tail, headers=headers)
    assert answer.status_code == 422
    assert answer.json()["allowed"]


def test_elements_of_bytes_are_packed_as_the_protocol_says() -> None:
    texts = ["", "Ænna 😀", "x" * 300]
    assert pack(Tensor("t", "BYTES", texts))[:4] == b"\0\0\0\0"
    assert [value.decode() for value in unpack(pack(Tensor("t", "BYTES", texts)), "t")] == texts
    assert np.frombuffer(pack(Tensor("t", "FP32", [0.5, 1.0])), "<f4").tolist() == [0.5, 1.0]


def test_a_cold_agent_is_not_ready(serve_with: Any) -> None:
    url = serve_with(warm=False)
    assert httpx.get(url + "/v2/health/live").json() == {"live": True}
    for path in ("/v2/health/ready", "/v2/models/bundle/ready"):
        assert (httpx.get(url + path).status_code, "error" in httpx.get(url + path).json()) == (503, True)


@pytest.mark.parametrize("fixture", ["tagger_url", "classifier_url"])
@pytest.mark.usefixtures("way")
def test_the_openapi_document_describes_the_protocol(fixture: str, request: pytest.FixtureRequest) -> None:
    url = request.getfixturevalue(fixture)
    document = httpx.get(url + "/openapi.json").json()

    def check(path: str, method: str, answer: httpx.Response, status: str = "200") -> None:
        schema = document["paths"][path][method]["responses"][status]["content"]["application/json"]["schema"]
        jsonschema.validate(answer.json(), schema | {"components": document["components"]})

    for path in ("/v2", "/v2/health/live", "/v2/health/ready", "/v2/models/{name}", "/v2/models/{name}/ready"):
        check(path, "get", httpx.get(url + path.replace("{name}", "bundle")))
    path = "/v2/models/{name}/infer"
    check(path, "post", post(f"{url}/v2/models/bundle/infer", inference(id="1")))
    check(path, "post", post(f"{url}/v2/models/other/infer", inference()), "404")
    check(path, "post", post(f"{url}/v2/models/bundle/infer", {}), "4XX")
    body = document["paths"][path]["post"]["requestBody"]["content"]["application/json"]["schema"]
    jsonschema.validate(inference(outputs=None), body | {"components": document["components"]})
    for bad in ({}, inference(outputs=[{"name": "vectors"}]), inference(tensor={"datatype": "INT8"})):
        with pytest.raises(jsonschema.ValidationError):
            jsonschema.validate(bad, body | {"components": document["components"]})
