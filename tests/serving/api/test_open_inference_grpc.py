"""The gRPC service on a real socket, called by the generated stub: the same answers, limits and refusals as over HTTP."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest

from agent.bundle import Bundle
from serving.api.open_inference import inference_pb2 as messages
from serving.api.open_inference.inference_pb2_grpc import GRPCInferenceServiceStub
from serving.api.open_inference.protocol import Tensor, pack, unpack
from serving.inference.engine import Engine
from serving.middleware.access_log import LogConfig
from serving.middleware.api_keys import AuthConfig
from serving.middleware.middleware_stack import FrontConfig
from serving.scheduling.limits import LimitsConfig
from serving.scheduling.predictor import Predictor
from tests.serving.conftest import calling
from tests.serving.gated import gated
from tests.serving.tiny import TEXTS
from tests.waiting import until

KEY, OTHER = "anna-0123456789abcdef", "0123456789abcdef-bruno"


@pytest.fixture(scope="module")
def stub(tagger_path: Path) -> Iterator[GRPCInferenceServiceStub]:
    limits = LimitsConfig(max_texts=20, max_characters=4_000, max_body_bytes=20_000)
    with (
        calling(Predictor(Engine(Bundle.load(tagger_path)), limits)) as place,
        grpc.insecure_channel(place) as channel,
    ):
        yield GRPCInferenceServiceStub(channel)


def inference(texts: list[str], *, raw: bool = False, **fields: Any) -> messages.ModelInferRequest:
    request = messages.ModelInferRequest(model_name="bundle", **fields)
    tensor = request.inputs.add(name="text", datatype="BYTES", shape=[len(texts)])
    if raw:
        request.raw_input_contents.append(pack(Tensor("text", "BYTES", texts)))
    else:
        tensor.contents.bytes_contents.extend(text.encode() for text in texts)
    return request


def parameter(value: str) -> messages.InferParameter:
    return messages.InferParameter(string_param=value)


def refused(call: Any, request: Any, code: grpc.StatusCode, **options: Any) -> grpc.RpcError:
    with pytest.raises(grpc.RpcError) as caught:
        call(request, timeout=20, **options)
    assert caught.value.code() == code, caught.value
    return caught.value


@pytest.mark.parametrize("raw", [True, False])
def test_entities_are_those_of_the_engine(stub: GRPCInferenceServiceStub, engine: Engine, raw: bool) -> None:
    answer = stub.ModelInfer(inference(TEXTS, raw=raw, id="seven"))
    assert (answer.model_name, answer.id) == ("bundle", "seven")
    (output,) = answer.outputs
    assert (output.name, output.datatype, list(output.shape)) == ("entities", "BYTES", [4])
    values = unpack(answer.raw_output_contents[0], "raw") if raw else output.contents.bytes_contents
    assert [json.loads(value) for value in values] == engine.predict(TEXTS)


def test_a_classifier_gives_labels_and_scores(classifier_path: Path) -> None:
    engine = Engine(Bundle.load(classifier_path))
    with calling(Predictor(engine)) as place, grpc.insecure_channel(place) as channel:
        answer = GRPCInferenceServiceStub(channel).ModelInfer(inference(TEXTS))
    found = {output.name: output.contents for output in answer.outputs}
    expected = engine.predict(TEXTS)
    assert [value.decode() for value in found["label"].bytes_contents] == [items[0]["label"] for items in expected]
    assert found["score"].fp32_contents == pytest.approx([items[0]["score"] for items in expected])


def test_health_and_metadata_are_told(stub: GRPCInferenceServiceStub, tagger_path: Path) -> None:
    version = Bundle.load(tagger_path).digest[:12]
    assert stub.ServerLive(messages.ServerLiveRequest()).live
    assert stub.ServerReady(messages.ServerReadyRequest()).ready
    assert stub.ModelReady(messages.ModelReadyRequest(name="bundle", version=version)).ready
    assert stub.ServerMetadata(messages.ServerMetadataRequest()).name == "bert-agent"
    told = stub.ModelMetadata(messages.ModelMetadataRequest(name="bundle"))
    assert [told.inputs[0].name, told.outputs[0].name, told.versions[0]] == ["text", "entities", version]
    refused(stub.ModelReady, messages.ModelReadyRequest(name="other"), grpc.StatusCode.NOT_FOUND)
    refused(stub.ModelMetadata, messages.ModelMetadataRequest(name="bundle", version="1"), grpc.StatusCode.NOT_FOUND)


def test_parameters_go_with_the_request_and_lists_are_json(stub: GRPCInferenceServiceStub) -> None:
    asked = {"aggregation_strategy": parameter("none"), "ignore_labels": parameter("[]")}
    answer = stub.ModelInfer(inference(TEXTS[:1], parameters=asked))
    assert "index" in json.loads(answer.outputs[0].contents.bytes_contents[0])[0]
    for name, value in (("speed", "3"), ("aggregation_strategy", "best"), ("stride", "many"), ("ignore_labels", "[")):
        error = refused(
            stub.ModelInfer, inference(["a"], parameters={name: parameter(value)}), grpc.StatusCode.INVALID_ARGUMENT
        )
        assert f"parameters.{name}" in error.details()


def test_what_clients_of_triton_send_beside_texts_changes_nothing(stub: GRPCInferenceServiceStub) -> None:
    given = {"sequence_id": 7, "sequence_start": True, "sequence_end": True, "priority": 1, "timeout": 5_000_000}
    kinds = {bool: "bool_param", int: "int64_param"}
    parameters = {name: messages.InferParameter(**{kinds[type(value)]: value}) for name, value in given.items()}
    parameters["content_type"] = parameter("str")
    assert stub.ModelInfer(inference(TEXTS[:1], parameters=parameters)) == stub.ModelInfer(inference(TEXTS[:1]))


def test_bad_requests_are_refused_by_name(stub: GRPCInferenceServiceStub) -> None:
    two = inference(["a"])
    two.inputs.add(name="text")
    wrong_type = inference(["a"])
    wrong_type.inputs[0].datatype = "FP32"
    wrong_shape = inference(["a", "b"])
    wrong_shape.inputs[0].shape[:] = [3]
    no_text = inference([])
    cut = inference(["abc"], raw=True)
    cut.raw_input_contents[0] = cut.raw_input_contents[0][:-1]
    no_utf8 = inference([])
    no_utf8.inputs[0].contents.bytes_contents.append(b"\xff")
    no_utf8.inputs[0].shape[:] = [1]
    twice = inference(["a"])
    twice.raw_input_contents.append(b"\1\0\0\0a")
    output = inference(["a"])
    output.outputs.add(name="vectors")
    for request, told in (
        (two, "inputs holds 2 tensors"),
        (wrong_type, "inputs[0].datatype is 'FP32'"),
        (wrong_shape, "inputs[0].shape is [3] for 2 texts"),
        (no_text, "inputs[0] holds no text"),
        (inference([""]), "inputs[0].contents.bytes_contents[0] is empty"),
        (cut, "raw_input_contents[0] ends within element 0"),
        (no_utf8, "no UTF-8"),
        (twice, "raw_input_contents does not fit"),
        (output, "outputs[0].name is 'vectors'"),
        (inference(["a"] * 21), "21 texts"),
        (inference(["a" * 30_000]), "too large"),
    ):
        error = refused(stub.ModelInfer, request, grpc.StatusCode.INVALID_ARGUMENT)
        assert told in error.details()
        assert "Remedy" in error.details()
    error = refused(stub.ModelInfer, messages.ModelInferRequest(model_name="other"), grpc.StatusCode.NOT_FOUND)
    assert "Allowed: bundle" in error.details()


def test_keys_their_texts_and_the_log_are_those_of_http(tagger_path: Path, tmp_path: Path) -> None:
    (tmp_path / "keys").write_text(f"anna: {KEY}\n{OTHER}\n")
    front = FrontConfig(
        auth=AuthConfig(keys_file=str(tmp_path / "keys"), texts_per_s=0.01, burst_texts=3),
        log=LogConfig(access=str(tmp_path)),
    )
    with (
        calling(Predictor(Engine(Bundle.load(tagger_path))), front) as place,
        grpc.insecure_channel(place) as channel,
    ):
        stub, request = GRPCInferenceServiceStub(channel), inference(["Anna", "Oslo"])
        assert stub.ServerLive(messages.ServerLiveRequest()).live
        assert stub.ServerReady(messages.ServerReadyRequest()).ready
        for call, asked in (
            (stub.ModelInfer, request),
            (stub.ServerMetadata, messages.ServerMetadataRequest()),
            (stub.ModelMetadata, messages.ModelMetadataRequest(name="bundle")),
            (stub.ModelReady, messages.ModelReadyRequest(name="bundle")),
        ):
            refused(call, asked, grpc.StatusCode.UNAUTHENTICATED)
            refused(call, asked, grpc.StatusCode.PERMISSION_DENIED, metadata=[("x-api-key", KEY + "x")])
        forged = [("x-api-key", KEY), ("x-request-id", "a b")]
        refused(stub.ModelInfer, request, grpc.StatusCode.INVALID_ARGUMENT, metadata=forged)
        for metadata in ([("authorization", f"Bearer {KEY}"), ("x-request-id", "one")], [("x-api-key", KEY)]):
            assert stub.ModelInfer(request, metadata=metadata).model_name == "bundle"
        error = refused(stub.ModelInfer, request, grpc.StatusCode.RESOURCE_EXHAUSTED, metadata=[("x-api-key", KEY)])
        assert int(dict(error.trailing_metadata())["retry-after"]) > 100
        assert stub.ModelInfer(request, metadata=[("x-api-key", OTHER)]).model_name == "bundle"
    logged = [json.loads(line) for line in (tmp_path / "access-local.log").read_text().splitlines()]
    first = next(line for line in logged if line["id"] == "one")
    told = {name: first[name] for name in ("method", "route", "status", "texts", "characters", "key")}
    route = "/inference.GRPCInferenceService/ModelInfer"
    assert told == {"method": "POST", "route": route, "status": 200, "texts": 2, "characters": 8, "key": "anna"}
    assert [line["status"] for line in logged] == [401, 403] * 4 + [400, 200, 200, 429, 200]


def test_overload_tells_when_to_come_back_and_deadlines_and_hang_ups_drop_the_work(tagger_path: Path) -> None:
    slow = gated(tagger_path)
    slow.gate.set()
    tokens = slow.encode(TEXTS[:1])[0].num_tokens
    predictor = Predictor(slow, LimitsConfig(max_queued_tokens=2 * tokens))
    with calling(predictor) as place, grpc.insecure_channel(place) as channel:
        stub = GRPCInferenceServiceStub(channel)
        slow.gate.clear()
        slow.free = 0
        held = stub.ModelInfer.future(inference(TEXTS[:1]))  # holds the only session
        assert until(lambda: slow.free < 0)
        abandoned = stub.ModelInfer.future(inference(TEXTS[:1]))
        assert until(lambda: predictor.batcher.queued_tokens == tokens)
        error = refused(stub.ModelInfer, inference([TEXTS[0], TEXTS[0]]), grpc.StatusCode.RESOURCE_EXHAUSTED)
        assert int(dict(error.trailing_metadata())["retry-after"]) >= 1
        abandoned.cancel()
        assert until(lambda: predictor.batcher.queued_tokens == 0)
        with pytest.raises(grpc.RpcError) as caught:
            stub.ModelInfer(inference(["Anna"]), timeout=3)  # it reaches a busy server, which counts it
        assert caught.value.code() == grpc.StatusCode.DEADLINE_EXCEEDED
        assert until(lambda: predictor.batcher.queued_tokens == 0)
        allowed = [("x-request-timeout-seconds", "0.2")]
        error = refused(stub.ModelInfer, inference(["Anna"]), grpc.StatusCode.DEADLINE_EXCEEDED, metadata=allowed)
        assert "no answer within" in error.details()
        slow.gate.set()
        assert held.result(10).model_name == "bundle"
        counted = predictor.metrics.render().decode()
        assert 'route="/inference.GRPCInferenceService/ModelInfer",status="RESOURCE_EXHAUSTED"} 1.0' in counted
        assert 'rejected_requests_total{reason="cancelled",replica="local"} 2.0' in counted


def test_an_internal_failure_tells_the_log_and_not_the_caller(
    tagger_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    class Broken(Engine):
        def decode(self, *_: Any) -> Any:
            raise MemoryError("secret internals")

        def prepare(self) -> None:
            pass

    with (
        calling(Predictor(Broken(Bundle.load(tagger_path)))) as place,
        grpc.insecure_channel(place) as channel,
    ):
        error = refused(GRPCInferenceServiceStub(channel).ModelInfer, inference(["a"]), grpc.StatusCode.INTERNAL)
    assert "secret" not in error.details()
    assert "secret internals" in caplog.text
