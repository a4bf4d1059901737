"""Text in, triples out: an agent of relations beside a tagger over HTTP, streams, the Open Inference Protocol and gRPC; what is refused, and what is counted."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import httpx
import pytest

from agent.bundle import Bundle
from serving.api.open_inference import inference_pb2 as messages
from serving.api.open_inference.inference_pb2_grpc import GRPCInferenceServiceStub
from serving.inference.engine import Engine, EngineConfig
from serving.inference.engine_choice import open_engine
from serving.inference.triple_engine import TripleEngine
from serving.scheduling.limits import LimitsConfig
from serving.scheduling.predictor import Predictor
from tests.serving.api.test_http_app import post
from tests.serving.api.test_open_inference import client
from tests.serving.api.test_pairs_over_http import close, tensor
from tests.serving.conftest import calling, listening
from tests.serving.triples.gold import NUM_PAIRS, NUM_TOO_FAR, TOLD

TEXTS = [told.text for told in TOLD]
MARKED = "<e1>Anna Berg</e1> works for <e2>Acme</e2> in Oslo."


@pytest.fixture(scope="module")
def url(pair: Bundle, way: str) -> Iterator[str]:
    engine = open_engine(pair, num_cpus=1 if way == "direct" else 2)  # on the event loop, and in threads
    with listening(Predictor(engine, LimitsConfig(max_pairs=NUM_PAIRS)), direct=way == "direct") as address:
        yield address


def spans_of(answer: list[dict[str, Any]]) -> set[tuple[tuple[int, int], str, tuple[int, int]]]:
    return {
        ((one["head"]["start"], one["head"]["end"]), one["relation"], (one["tail"]["start"], one["tail"]["end"]))
        for one in answer
    }


def counted(url: str, name: str) -> dict[str, float]:
    lines = httpx.get(url + "/metrics").text.splitlines()
    found = (re.match(rf'bert_agent_{name}_total{{(?:\w+="([^"]*)",)?replica="local"}} (\S+)', line) for line in lines)
    return {match[1]: float(match[2]) for match in found if match}


def test_perfect_agents_give_exactly_the_gold_triples(url: str) -> None:
    before = counted(url, "entity_pairs")
    answers = post(url, {"inputs": TEXTS}).json()
    for told, answer in zip(TOLD, answers, strict=True):
        assert len(answer) == len(told.triples)
        assert spans_of(answer) == told.triples
        for one in answer:
            for mention in (one["head"], one["tail"]):
                place = mention["start"], mention["end"]
                assert mention["word"] == told.text[slice(*place)]
                assert mention["entity_group"] == told.entities[place]
                assert mention["score"] == pytest.approx(1, abs=1e-2)
            assert one["score"] == pytest.approx(1, abs=1e-2)
            assert set(one) == {"head", "relation", "tail", "score"}
    after = counted(url, "entity_pairs")
    grown = {name: after[name] - before.get(name, 0) for name in after}
    assert grown == {"asked": NUM_PAIRS, "too_far": NUM_TOO_FAR}
    assert counted(url, "answer_items")["Employment"] >= 3
    assert [post(url, {"inputs": text}).json() for text in TEXTS] == [[answer] for answer in answers]


def test_marked_texts_are_answered_as_without_a_tagger_also_beside_others(url: str, relater: Path) -> None:
    alone = Engine(Bundle.load(relater)).predict([MARKED])[0]
    assert alone[0]["label"] == "Employment(e1,e2)"
    found = post(url, {"inputs": [TEXTS[0], MARKED, TEXTS[1]], "parameters": {"top_k": 1}}).json()
    assert close(found[1], alone[:1])
    assert [len(answer) for answer in found] == [1, 1, 1]
    assert found[0] == post(url, {"inputs": TEXTS[0]}).json()[0][:1]
    assert close(post(url, {"inputs": MARKED}).json()[0], alone)


def test_a_stream_answers_each_line(url: str) -> None:
    lines = "".join(json.dumps(text) + "\n" for text in [*TEXTS, MARKED])
    answer = httpx.post(url, content=lines, headers={"content-type": "application/x-ndjson"}, timeout=20)
    found = [json.loads(line) for line in answer.text.splitlines()]
    assert [spans_of(one) for one in found[:-1]] == [told.triples for told in TOLD]
    assert found[-1][0]["label"] == "Employment(e1,e2)"


def test_tensors_carry_triples(url: str, pair: Bundle) -> None:
    with client(url) as opened:
        answer = opened.infer("relater", [tensor("text", [*TEXTS, MARKED], binary=True)])
    found = [json.loads(value) for value in answer.as_numpy("triples")]
    assert [spans_of(one) for one in found] == [*(told.triples for told in TOLD), set()]
    assert [value.decode() for value in answer.as_numpy("label")] == ["", "", "", "", "", "Employment(e1,e2)"]
    assert json.loads(answer.as_numpy("labels")[-1])[0]["label"] == "Employment(e1,e2)"
    request = messages.ModelInferRequest(model_name="bundle")
    made = request.inputs.add(name="text", datatype="BYTES", shape=[1])
    made.contents.bytes_contents.extend([TEXTS[0].encode()])
    with calling(Predictor(open_engine(pair))) as where, grpc.insecure_channel(where) as channel:
        outputs = {
            one.name: one.contents.bytes_contents
            for one in GRPCInferenceServiceStub(channel).ModelInfer(request).outputs
        }
    assert spans_of(json.loads(outputs["triples"][0])) == TOLD[0].triples


@pytest.mark.parametrize(
    ("inputs", "status", "field", "told"),
    [
        ([TEXTS[2], "<e1>Anna</e1> flew."], 422, "inputs[1]", "<e2> is missing"),
        ([TEXTS[0], "<e1>A</e1>" + " x" * 200 + "<e2>B</e2>"], 422, "inputs[1]", "a window holds both"),
        ([TEXTS[0], *TEXTS[3:], TEXTS[1], TEXTS[0]], 413, "inputs[4]", "inputs[4] has 3 entities"),
    ],
)
def test_what_cannot_be_asked_is_refused_by_its_field(
    url: str, inputs: list[str], status: int, field: str, told: str
) -> None:
    refused = post(url, {"inputs": inputs})
    assert (refused.status_code, refused.json()["field"]) == (status, field), refused.json()
    assert told in refused.json()["error"]
    assert refused.json()["remedy"]
    if status == 413:
        assert f"at most {NUM_PAIRS} pairs of entities in one request (limits.max_pairs)" in refused.json()["allowed"]


def test_the_card_names_the_tagger(url: str, tagger: Path) -> None:
    info = httpx.get(url + "/info").json()
    assert (info["task"], info["picture"], info["entities"]) == (
        "relation_extraction", "triples", Bundle.load(tagger).digest,
    )  # fmt: skip
    schema = httpx.get(url + "/openapi.json").json()["components"]["schemas"]
    assert set(schema["Related"]["properties"]) == {"head", "relation", "tail", "label", "score"}


def test_the_engine_answers_as_the_server_does(url: str, pair: Bundle) -> None:
    engine = open_engine(pair, EngineConfig(warmup=False))
    assert isinstance(engine, TripleEngine)
    answers = engine.predict([*TEXTS, MARKED])
    assert post(url, {"inputs": TEXTS}).json() == answers[:-1]
    said = engine.labels([*TEXTS, MARKED])
    assert said[-1] == "Employment(e1,e2)"
    assert [set(one) for one in said[:-1]] == [told.triples for told in TOLD]
