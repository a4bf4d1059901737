"""Agents that write over HTTP: whole, told token by token, in conversations, as Hugging Face's client asks; what is refused, by its field."""

from __future__ import annotations

import json
import socket
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest
from huggingface_hub import InferenceClient

from agent.bundle import Bundle
from agent.telemetry import PREFIX
from serving.inference.engine_choice import open_engine
from serving.inference.writing_engine import WritingEngine
from serving.scheduling.limits import LimitsConfig
from serving.scheduling.predictor import Predictor
from tests.serving.api.test_http_app import post
from tests.serving.conftest import listening
from tests.serving.gated_writer import Left, gated_writer
from tests.tiny_writers import publish_converted
from tests.waiting import until

TEXTS = ["anna met bruno", "oslo to lima in pune", "chidi went to graz"]
TALK = [{"role": "system", "content": "met in oslo"}, {"role": "user", "content": "anna went to"}]


@pytest.fixture(autouse=True)
def online(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)


@pytest.fixture(scope="module")
def translator(translator_path: Path) -> WritingEngine:
    return open_engine(Bundle.load(translator_path), num_cpus=1)


@pytest.fixture(scope="module")
def talker(talker_path: Path) -> WritingEngine:
    return open_engine(Bundle.load(talker_path), num_cpus=1)


def test_the_client_of_hugging_face_translates(translator_url: str, translator: WritingEngine) -> None:
    client = InferenceClient(model=translator_url)
    assert client.translation(TEXTS[0]).translation_text == translator.predict(TEXTS[:1])[0][0]["translation_text"]
    few = client.translation(TEXTS[0], generate_parameters={"num_beams": 1, "max_new_tokens": 3})
    wanted = translator.predict(TEXTS[:1], translator.task.parameters(num_beams=1, max_new_tokens=3))
    assert few.translation_text == wanted[0][0]["translation_text"]


def test_several_texts_are_answered_by_one_list(translator_url: str, translator: WritingEngine) -> None:
    answer = post(translator_url, {"inputs": TEXTS, "parameters": {"num_beams": 1, "max_new_tokens": 4}}).json()
    wanted = translator.predict(TEXTS, translator.task.parameters(num_beams=1, max_new_tokens=4))
    assert [item["translation_text"] for item in answer] == [text["translation_text"] for (text,) in wanted]
    assert all(0 < item["score"] <= 1 for item in answer)


def test_an_agent_of_summaries_answers_with_summaries(tmp_path: Path) -> None:
    path = publish_converted(tmp_path / "bundle", "sequence_to_sequence", task={"pipeline_tag": "summarization"})
    with listening(Predictor(open_engine(Bundle.load(path)))) as url:
        assert isinstance(InferenceClient(model=url).summarization(TEXTS[0]).summary_text, str)


def test_the_client_of_hugging_face_has_a_text_go_on(talker_url: str, talker: WritingEngine) -> None:
    client = InferenceClient(model=talker_url)
    text = client.text_generation(TEXTS[1], max_new_tokens=6)
    ((wanted,),) = talker.predict([TEXTS[1]], talker.task.parameters(max_new_tokens=6))
    assert text == wanted["generated_text"]
    found = client.text_generation(TEXTS[1], max_new_tokens=6, details=True, return_full_text=True)
    assert found.generated_text == TEXTS[1] + text
    assert found.details.prefill == []
    given = client.text_generation(TEXTS[1], max_new_tokens=6, details=True, decoder_input_details=True)
    assert [token.text for token in given.details.prefill] == TEXTS[1].split()
    assert all(token.logprob < 0 for token in given.details.prefill[1:])
    assert found.details.finish_reason == "length"
    assert "".join(token.text for token in found.details.tokens) == text
    stopped = client.text_generation(TEXTS[1], max_new_tokens=6, stop=[text.split()[2]])
    assert stopped == text[: text.index(text.split()[2])]
    assert client.text_generation(TEXTS[1], max_new_tokens=6, top_k=1, temperature=0.5) == text
    several = post(talker_url, {"inputs": TEXTS, "parameters": {"max_new_tokens": 2}}).json()
    assert [list(item) for (item,) in several] == [["generated_text", "score"]] * 3


def test_the_client_of_hugging_face_is_told_token_by_token(talker_url: str) -> None:
    client = InferenceClient(model=talker_url)
    text = client.text_generation(TEXTS[1], max_new_tokens=12)
    assert "".join(client.text_generation(TEXTS[1], max_new_tokens=12, stream=True)) == text
    events = list(client.text_generation(TEXTS[1], max_new_tokens=12, stream=True, details=True))
    assert [event.index for event in events] == list(range(1, 13))
    assert [event.generated_text for event in events] == [None] * 11 + [text]
    assert (events[-1].details.finish_reason, events[-1].details.generated_tokens) == ("length", 12)
    stop = text.split()[3]
    told = "".join(client.text_generation(TEXTS[1], max_new_tokens=12, stream=True, stop=[stop]))
    assert told == text[: text.index(stop)]


def test_the_client_of_hugging_face_talks(talker_url: str) -> None:
    client = InferenceClient(model=talker_url)
    whole = client.chat_completion(TALK, max_tokens=7)
    (choice,) = whole.choices
    assert choice.message.role == "assistant"
    assert choice.finish_reason in ("stop", "length")
    assert whole.usage.completion_tokens <= 7
    # <|system|> met in oslo </s> <|user|> anna went to </s> <|assistant|>
    assert whole.usage.prompt_tokens == 11
    parts = list(client.chat_completion(TALK, max_tokens=7, stream=True, stream_options={"include_usage": True}))
    told = [part.choices[0] for part in parts if part.choices]
    assert "".join(part.delta.content or "" for part in told) == choice.message.content
    assert [part.finish_reason for part in told] == [None] * (len(told) - 1) + [choice.finish_reason]
    assert told[0].delta.role == "assistant"
    assert parts[-1].usage.total_tokens == whole.usage.total_tokens


def test_a_conversation_is_the_prompt_that_transformers_makes_of_it(talker: WritingEngine, talker_url: str) -> None:
    import transformers

    from agent.tasks.writing.conversation import CHAT_TEMPLATE, read_prompt

    tokenizer = transformers.AutoTokenizer.from_pretrained(talker.bundle.path)
    ids = tokenizer.apply_chat_template(TALK, chat_template=CHAT_TEMPLATE, add_generation_prompt=True, tokenize=False)
    (job,) = talker.encode([read_prompt(TALK, "messages")])
    assert [talker.bundle.encoder.tokenizer.id_to_token(number) for number in job.given] == ids.replace(
        "</s>", " </s> "
    ).split()


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({"parameters": {"max_new_tokens": 0}}, "parameters.max_new_tokens"),
        ({"parameters": {"max_new_tokens": 1_000}}, "parameters.max_new_tokens"),
        ({"parameters": {"seed": "3"}}, "parameters.seed"),
        ({"parameters": {"seed": 2**63}}, "parameters.seed"),
        ({"parameters": {"temperature": 0}}, "parameters.temperature"),
        ({"parameters": {"top_p": 0}}, "parameters.top_p"),
        ({"parameters": {"num_beams": 17}}, "parameters.num_beams"),
        ({"parameters": {"num_beams": 4, "temperature": 2.0}}, "parameters"),
        ({"parameters": {"do_sample": False, "top_k": 2}}, "parameters"),
        ({"parameters": {"length_penalty": 2.0, "num_beams": 1}}, "parameters"),
        ({"parameters": {"length_penalty": 2.0}}, "parameters.length_penalty"),
        ({"parameters": {"length_penalty": -1, "num_beams": 2}}, "parameters.length_penalty"),
        ({"parameters": {"stop": [""]}}, "parameters.stop[0]"),
        ({"parameters": {"stop": "met"}}, "parameters.stop"),
        ({"parameters": {"grammar": {}}}, "parameters.grammar"),
        ({"inputs": "anna " * 70}, "inputs[0]"),
        ({"inputs": TEXTS, "stream": True}, "stream"),
        ({"stream": "yes"}, "stream"),
        ({"stream": True, "parameters": {"num_beams": 2}}, "parameters.num_beams"),
        (
            {"stream": True, "parameters": {"details": True, "decoder_input_details": True}},
            "parameters.decoder_input_details",
        ),
        ({"parameters": {"decoder_input_details": True}}, "parameters"),
    ],
)
def test_what_cannot_be_done_is_refused_by_its_field(talker_url: str, body: dict[str, Any], field: str) -> None:
    response = post(talker_url, {"inputs": TEXTS[0]} | body)
    assert response.status_code == 422
    assert response.json()["field"] == field
    assert response.json()["allowed"]
    if "stream" not in body:
        assert post(talker_url, {"inputs": TEXTS[0], "stream": True} | body).json() == response.json()


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({"messages": []}, "messages"), ({"messages": [{"role": "assistant", "content": "anna"}]}, "messages"), ({"seed": 1.5}, "seed"),
        ({"messages": [{"role": "tool", "content": "anna"}]}, "messages[0].role"), ({"max_tokens": 10_000}, "parameters.max_new_tokens"),
        ({"n": 2}, "n"), ({"messages": [*TALK, {"role": "user", "content": "anna " * 70}]}, "inputs[0]"),
        ({"messages": [{"role": "user", "content": "<|user|> anna"}]}, "messages"), ({"tools": []}, "tools"),
    ],
)  # fmt: skip
def test_what_no_conversation_is_is_refused_by_its_field(talker_url: str, body: dict[str, Any], field: str) -> None:
    response = httpx.post(f"{talker_url}/v1/chat/completions", json={"messages": TALK} | body)
    assert (response.status_code, response.json()["field"]) == (422, field)
    assert response.json()["allowed"]


def test_an_agent_that_translates_neither_talks_nor_streams(translator_url: str) -> None:
    assert httpx.post(f"{translator_url}/v1/chat/completions", json={"messages": TALK}).status_code == 404
    response = post(translator_url, {"inputs": TEXTS[0], "stream": True})
    assert (response.status_code, response.json()["field"]) == (422, "stream")


def test_lines_are_answered_in_order(talker_url: str, talker: WritingEngine) -> None:
    lines = "".join(json.dumps({"inputs": text, "parameters": {"max_new_tokens": 3}}) + "\n" for text in TEXTS)
    response = httpx.post(talker_url, content=lines, headers={"content-type": "application/x-ndjson"})
    wanted = talker.predict(TEXTS, talker.task.parameters(max_new_tokens=3))
    assert [json.loads(line)[0]["generated_text"] for line in response.text.splitlines()] == [
        item["generated_text"] for (item,) in wanted
    ]


def test_the_server_tells_what_it_serves(talker_url: str) -> None:
    told = httpx.get(f"{talker_url}/info").json()
    assert (told["task"], told["picture"], told["precision"], told["mask"], told["explains"]) == (
        "text_generation", "written", "int8", None, False,
    )  # fmt: skip
    assert {"max_new_tokens", "temperature", "stop", "details"} <= set(told["parameters"])
    assert "ctranslate2" in told["versions"]
    paths = httpx.get(f"{talker_url}/openapi.json").json()["paths"]
    assert {"/", "/v1/chat/completions"} <= set(paths)


def read_metric(url: str, name: str) -> float:
    lines = httpx.get(f"{url}/metrics").text.splitlines()
    return sum(float(line.split()[-1]) for line in lines if line.startswith(f"{PREFIX}{name}{{"))


def test_metrics_tell_tokens_and_the_time_to_and_between_them(talker_url: str) -> None:
    names = ("generated_tokens_total", "first_token_seconds_count", "token_seconds_count", "texts_total")
    before = [read_metric(talker_url, name) for name in names]
    assert post(talker_url, {"inputs": TEXTS[1:], "parameters": {"max_new_tokens": 5}}).status_code == 200
    assert (
        post(talker_url, {"inputs": TEXTS[1], "parameters": {"max_new_tokens": 5, "num_beams": 2}}).status_code == 200
    )

    def grown() -> list[float]:
        return [read_metric(talker_url, name) - first for name, first in zip(names, before, strict=True)]

    until(lambda: grown() == [15, 2, 2, 3])
    assert grown() == [15, 2, 2, 3]  # with beams no token is the first


@pytest.mark.parametrize("body", [{"stream": True}, {"stream": False}, None], ids=["stream", "whole", "conversation"])
def test_writing_ends_with_the_next_token_when_the_caller_hangs_up(
    talker_path: Path, body: dict[str, Any] | None
) -> None:
    engine = gated_writer(talker_path, kind=Left, closed=False, slice_steps=1)
    engine.written, engine.reached = [], threading.Event()
    engine.leave = engine.reached.set
    with listening(Predictor(engine), warm=False) as url:
        path = "/" if body is not None else "/v1/chat/completions"
        sent = {"messages": TALK, "stream": True} if body is None else {"inputs": TEXTS[1], **body}
        content = json.dumps(sent).encode()
        with socket.create_connection(("127.0.0.1", int(url.rpartition(":")[2]))) as caller:
            head = f"POST {path} HTTP/1.1\r\nhost: h\r\ncontent-type: application/json\r\ncontent-length: {len(content)}\r\n\r\n"
            caller.sendall(head.encode() + content)
            assert engine.reached.wait(60)
        until(lambda: read_metric(url, "generated_tokens_total") == 3)
        assert read_metric(url, "generated_tokens_total") == 3  # of some sixty that there was room for
    assert engine.written == [1, 2, 3]


def test_a_busy_server_refuses_a_stream_before_it_begins_and_tells_when_to_come_back(talker_path: Path) -> None:
    engine = gated_writer(talker_path)
    with (
        listening(Predictor(engine, LimitsConfig(max_queued_tokens=20)), warm=False) as url,
        ThreadPoolExecutor(2) as pool,
    ):
        calls = [pool.submit(post, url, {"inputs": TEXTS[1], "parameters": {"max_new_tokens": 5}})]
        assert until(lambda: engine.batches)
        calls.append(pool.submit(post, url, {"inputs": TEXTS[:2], "parameters": {"max_new_tokens": 3}}))
        assert until(lambda: read_metric(url, "queued_windows") == 2)
        for body in ({"inputs": TEXTS[2], "stream": True}, {"inputs": TEXTS[2]}):
            refused = post(url, body)
            assert (refused.status_code, int(refused.headers["retry-after"]) >= 1) == (429, True)
        engine.gate.set()
        assert [call.result().status_code for call in calls] == [200, 200]


def test_a_stream_that_cannot_begin_has_the_status_of_its_failure(talker_path: Path) -> None:
    engine = gated_writer(talker_path, closed=False)
    engine.fails = True
    with listening(Predictor(engine), warm=False) as url:
        response = post(url, {"inputs": TEXTS[1], "stream": True})
        assert response.status_code == 500
        assert "planted" not in response.text


def test_a_text_whose_time_is_up_ends_its_stream_with_the_reason(talker_path: Path) -> None:
    engine = gated_writer(talker_path, kind=Left, closed=False, slice_steps=1)
    engine.written, engine.leave = [], lambda: None  # waits within the third token until it is given up
    with listening(Predictor(engine), warm=False) as url:
        headers = {"x-request-timeout-seconds": "1"}
        response = httpx.post(url, json={"inputs": TEXTS[1], "stream": True}, headers=headers, timeout=60)
        events = [json.loads(line.removeprefix("data: ")) for line in response.text.splitlines() if line]
        assert response.status_code == 200
        assert [event["index"] for event in events[:-1]] == [1, 2, 3]
        assert (events[-1]["error_type"], "within the 0.95 s" in events[-1]["error"]) == ("generation", True)
        assert engine.written == [1, 2, 3]


def test_the_open_inference_protocol_writes_too(translator_url: str, translator: WritingEngine) -> None:
    name = httpx.get(f"{translator_url}/info").json()["agent"]
    told = httpx.get(f"{translator_url}/v2/models/{name}").json()
    assert told["platform"] == "bert-agent_ctranslate2"
    assert [tensor["name"] for tensor in told["outputs"]] == ["generated_text", "score", "texts"]
    tensor = {"name": "text", "datatype": "BYTES", "shape": [3], "data": TEXTS}
    body = {
        "inputs": [tensor],
        "parameters": {"num_beams": 1, "max_new_tokens": 3},
        "outputs": [{"name": "generated_text"}],
    }
    answer = httpx.post(f"{translator_url}/v2/models/{name}/infer", json=body).json()
    wanted = translator.predict(TEXTS, translator.task.parameters(num_beams=1, max_new_tokens=3))
    assert answer["outputs"][0]["data"] == [item["translation_text"] for (item,) in wanted]
