"""Masks filled over HTTP, streams, the Open Inference Protocol and gRPC, as Hugging Face's client asks; what is refused, by its field."""

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
from serving.api.open_inference import inference_pb2 as messages
from serving.api.open_inference.inference_pb2_grpc import GRPCInferenceServiceStub
from serving.inference.engine import Engine
from serving.scheduling.predictor import Predictor
from tests.serving.api.test_http_app import post
from tests.serving.conftest import calling

ONE, TWO = "Anna flew from [MASK] to Lima.", "[MASK] flew from Oslo to [MASK]."
LONG = "The minutes of the meeting were sent to Chidi. " * 6 + "Anna flew to [MASK] on Monday."


@pytest.fixture(scope="module")
def engine(filler_path: Path) -> Engine:
    return Engine(Bundle.load(filler_path), precision="fp32")


def test_the_client_of_hugging_face_fills_a_mask(
    filler_url: str, engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    found = InferenceClient(model=filler_url).fill_mask(ONE, top_k=3)
    assert len(found) == 3
    assert [item.score for item in found] == sorted((item.score for item in found), reverse=True)
    vocabulary = engine.bundle.encoder.vocabulary
    for item in found:
        assert item.token_str == vocabulary.written(item.token)
        assert item.sequence == vocabulary.put(ONE, 15, 21, item.token)
    targets = ["oslo", "lima"]
    chosen = InferenceClient(model=filler_url).fill_mask(ONE, targets=targets)
    assert {item.token for item in chosen} == {vocabulary.find(target) for target in targets}


def test_scores_are_those_of_transformers_pipeline(engine: Engine) -> None:
    import torch
    import transformers

    path = engine.bundle.path
    model = transformers.AutoModelForMaskedLM.from_pretrained(path).eval()
    for text in (ONE, TWO):
        (document,) = engine.encode([text])
        ids = torch.from_numpy(document.windows[0].input_ids)[None]
        with torch.inference_mode():
            rows = model(ids).logits[0][ids[0] == engine.bundle.encoder.vocabulary.mask_id].softmax(-1)
        wanted = [
            (score, token)
            for row in rows
            for score, token in zip(*(part.tolist() for part in row.topk(5)), strict=True)
        ]
        answer = engine.predict([text])[0]
        assert [item["score"] for item in answer] == pytest.approx([score for score, _ in wanted], abs=1e-4)
        assert [item["token"] for item in answer] == [token for _, token in wanted]


def test_several_masks_have_a_list_each_and_several_texts_a_list_of_those(filler_url: str) -> None:
    one, two = post(filler_url, {"inputs": [ONE, TWO], "parameters": {"top_k": 2}}).json()
    assert [item["start"] for item in one] == [15, 15]
    assert [[item["start"] for item in items] for items in two] == [[0, 0], [25, 25]]
    assert post(filler_url, {"inputs": ONE, "parameters": {"top_k": 2}}).json()[0].keys() == one[0].keys()
    assert all(item["sequence"].endswith("from Oslo to [MASK].") for item in two[0])


def test_a_mask_far_behind_the_first_window_is_filled_once(filler_url: str) -> None:
    found = post(filler_url, {"inputs": LONG}).json()
    assert {(item["start"], item["end"]) for item in found} == {(LONG.index("[MASK]"), LONG.index("[MASK]") + 6)}
    assert len(found) == 5


@pytest.mark.parametrize(
    ("body", "field", "told"),
    [
        ({"inputs": "Anna flew."}, "inputs[0]", "no masks"),
        ({"inputs": [ONE, "Anna"]}, "inputs[1]", "no masks"),
        ({"inputs": "[MASK] " * 17}, "inputs[0]", "17 masks"),
        ({"inputs": ONE, "parameters": {"targets": ["lima", "abracadabra"]}}, "parameters.targets[1]", "abracadabra"),
        ({"inputs": ONE, "parameters": {"targets": []}}, "parameters.targets", ""),
        ({"inputs": ONE, "parameters": {"top_k": 0}}, "parameters.top_k", ""),
    ],
)  # fmt: skip
def test_what_cannot_be_filled_is_refused_by_its_field(filler_url: str, body: Any, field: str, told: str) -> None:
    answer = httpx.post(filler_url, json=body, timeout=20)
    assert answer.status_code == 422
    assert answer.json()["field"] == field
    assert told in answer.json()["error"]


def test_a_stream_answers_each_line_with_all_its_masks(filler_url: str) -> None:
    lines = "".join(json.dumps({"inputs": text, "parameters": {"top_k": 1}}) + "\n" for text in (ONE, TWO))
    headers = {"content-type": "application/x-ndjson"}
    streamed = httpx.post(filler_url, content=lines, headers=headers, timeout=20).text
    assert [[item["start"] for item in json.loads(line)] for line in streamed.splitlines()] == [[15], [0, 25]]


def test_the_card_says_how_a_mask_is_written(filler_url: str) -> None:
    card = httpx.get(f"{filler_url}/info", timeout=20).json()
    assert (card["mask"], card["picture"], card["task"]) == ("[MASK]", "fillings", "masked_language_modelling")


def test_calls_over_grpc_bring_masks(filler_path: Path) -> None:
    request = messages.ModelInferRequest(model_name="bundle")
    made = request.inputs.add(name="text", datatype="BYTES", shape=[2])
    made.contents.bytes_contents.extend([ONE.encode(), TWO.encode()])
    with calling(Predictor(Engine(Bundle.load(filler_path)))) as place, grpc.insecure_channel(place) as channel:
        answer = GRPCInferenceServiceStub(channel).ModelInfer(request)
    values = {output.name: output.contents for output in answer.outputs}
    fillings = [json.loads(told) for told in values["fillings"].bytes_contents]
    assert [len(items) for items in fillings] == [5, 10]
    assert np.allclose(values["score"].fp32_contents, [items[0]["score"] for items in fillings])
