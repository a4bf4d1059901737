"""The HTTP surface on a real socket: Hugging Face's shapes, and every bad request answered with JSON that helps."""

from __future__ import annotations

import concurrent.futures
import json
import logging
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx
import jsonschema
import pytest
from huggingface_hub import InferenceClient
from prometheus_client.parser import text_string_to_metric_families
from starlette.testclient import TestClient

from agent.batching import Batch
from agent.bundle import Bundle
from agent.encoding import Float32
from serving.api.http_app import create_app
from serving.inference.engine import Engine
from serving.scheduling.predictor import Predictor
from tests.serving.conftest import listening
from tests.serving.gated import gated
from tests.serving.tiny import TEXTS
from tests.waiting import until

JSON = {"content-type": "application/json"}


def post(url: str, body: Any, **headers: str) -> httpx.Response:
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    return httpx.post(url, content=content, headers={**JSON, **headers}, timeout=20)


def test_one_text_gets_a_list_of_entities_and_several_a_list_of_lists(tagger_url: str, engine: Engine) -> None:
    one = post(tagger_url, {"inputs": TEXTS[0]}).json()
    several = post(tagger_url, {"inputs": TEXTS}).json()
    assert one == engine.predict(TEXTS[:1])[0]
    assert several == engine.predict(TEXTS)
    assert set(one[0]) == {"entity_group", "score", "word", "start", "end"}


def test_parameters_are_those_of_the_task(tagger_url: str, classifier_url: str) -> None:
    plain = post(tagger_url, {"inputs": TEXTS[0], "parameters": {"aggregation_strategy": "none", "ignore_labels": []}})
    assert set(plain.json()[0]) == {"entity", "index", "score", "word", "start", "end"}
    assert len(post(classifier_url, {"inputs": "fine", "parameters": {"top_k": 1}}).json()[0]) == 1
    assert len(post(classifier_url, {"inputs": "fine", "parameters": None}).json()[0]) == 3


@pytest.mark.parametrize(
    ("fixture", "more"),
    [
        (fixture, more)
        for fixture in ("tagger_url", "classifier_url")
        for more in ({"options": {"use_cache": False, "wait_for_model": True}}, {"options": None}, {"parameters": {"stride": None, "policy": None}})
    ]
    + [
        ("tagger_url", {"parameters": {"aggregation_strategy": None, "ignore_labels": None}}),
        ("classifier_url", {"parameters": {"top_k": None, "function_to_apply": None}}),
        ("classifier_url", {"parameters": {"function_to_apply": "softmax"}}),
        ("labeller_url", {"parameters": {"function_to_apply": None}}),
    ],
)  # fmt: skip
@pytest.mark.usefixtures("way")
def test_what_clients_of_hugging_face_send_beside_a_text_changes_nothing(
    fixture: str, more: dict[str, Any], request: pytest.FixtureRequest
) -> None:
    url = request.getfixturevalue(fixture)
    answer = post(url, {"inputs": TEXTS[0], **more})
    assert (answer.status_code, answer.json()) == (200, post(url, {"inputs": TEXTS[0]}).json())


def test_scores_of_another_function_are_refused_by_name(classifier_url: str) -> None:
    answer = post(classifier_url, {"inputs": "a", "parameters": {"function_to_apply": "sigmoid"}})
    assert (answer.status_code, answer.json()["field"]) == (422, "parameters.function_to_apply")
    assert answer.json()["allowed"] == "'softmax'"


def test_a_classifier_answers_with_ranked_labels(classifier_url: str) -> None:
    one, many = (
        post(classifier_url, {"inputs": "fine"}).json(),
        post(classifier_url, {"inputs": ["fine", "bad"]}).json(),
    )
    assert [len(one), len(many)] == [1, 2]
    scores = [item["score"] for item in one[0]]
    assert scores == sorted(scores, reverse=True)
    assert sum(scores) == pytest.approx(1, abs=1e-5)


def test_the_client_of_hugging_face_works_unchanged(
    tagger_url: str, classifier_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)  # it would refuse even this machine
    entities = InferenceClient(model=tagger_url).token_classification(TEXTS[0], aggregation_strategy="simple")
    assert entities[0].entity_group in {"PER", "LOC", "ORG"}
    assert TEXTS[0][entities[0].start : entities[0].end] == entities[0].word
    labels = InferenceClient(model=classifier_url).text_classification(TEXTS[0], top_k=2)
    assert [item.label in {"good", "fair", "bad"} for item in labels] == [True, True]


def test_the_client_of_hugging_face_gets_scores_of_labels_that_are_decided_each_by_itself(
    labeller_url: str, labeller_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    engine = Engine(Bundle.load(labeller_path))
    expected = [engine.predict([text])[0] for text in TEXTS]
    client = InferenceClient(model=labeller_url)
    for text, items in zip(TEXTS, expected, strict=True):
        found = client.text_classification(text, function_to_apply="sigmoid")
        assert [(item.label, item.score) for item in found] == [(item["label"], item["score"]) for item in items]
        assert len(client.text_classification(text, function_to_apply="sigmoid", top_k=3)) == 3
    assert 0 < sum(map(len, expected)) < 3 * len(TEXTS)


def test_what_does_not_fit_labels_decided_each_by_itself_is_refused_by_its_field(labeller_url: str) -> None:
    for given in ({"function_to_apply": "softmax"}, {"top_k": 0}, {"threshold": 0.5}):
        answer = post(labeller_url, {"inputs": "a", "parameters": given})
        (name,) = given
        assert (answer.status_code, answer.json()["field"]) == (422, f"parameters.{name}")
        assert answer.json()["allowed"]
        assert answer.json()["remedy"]


def test_metrics_count_the_labels_that_reach_their_thresholds(labeller_path: Path) -> None:
    engine = Engine(Bundle.load(labeller_path))
    with listening(Predictor(engine)) as url:
        answers = post(url, {"inputs": TEXTS, "parameters": {"top_k": 3}}).json()
        text = httpx.get(url + "/metrics").text
    reached = [item["label"] for answer in answers for item in answer if item["score"] >= item["threshold"]]
    families = {family.name: family for family in text_string_to_metric_families(text)}
    counted = {
        one.labels["label"]: one.value
        for one in families["bert_agent_answer_items"].samples
        if one.name.endswith("_total")
    }
    assert counted == {label: reached.count(label) for label in set(reached)}
    assert sum(counted.values()) < 3 * len(TEXTS)


@pytest.mark.parametrize(
    "text", ["á̂ naïve", "𝔘𝔫𝔦 😀👩‍👩‍👧", "东京 タワー", "שלום Oslo", "\u200b", " \t\n", "\x00\x07", "a" * 3000]
)
def test_texts_of_any_script_are_answered_with_exact_offsets(tagger_url: str, text: str) -> None:
    for escaped in (True, False):
        answer = post(tagger_url, json.dumps({"inputs": text}, ensure_ascii=escaped).encode())
        assert answer.status_code == 200
        assert all(text[item["start"] : item["end"]] == item["word"] for item in answer.json())


BAD_BODIES: dict[str, tuple[bytes, int, str, str]] = {
    "malformed JSON": (b'{"inputs": "a"', 400, "no JSON", ""),
    "no body": (b"", 400, "no JSON", ""),
    "no UTF-8": ('{"inputs": "Mühe"}'.encode("latin-1"), 400, "no JSON", ""),
    "UTF-16": ('{"inputs": "a"}'.encode("utf-16"), 400, "no JSON", ""),
    "lone surrogate": (b'{"inputs": "a\\ud800b"}', 400, "no JSON", ""),
    "deep nesting": (b"[" * 9_000, 400, "no JSON", ""),
    "deep nesting of inputs": (b'{"inputs": ' + b"[" * 9_000 + b"]" * 9_000 + b"}", 400, "no JSON", ""),
    "list": (b'["a"]', 422, "the body is a list", ""),
    "number": (b"1", 422, "the body is a number", ""),
    "null": (b"null", 422, "the body is null", ""),
    "NaN": (b"NaN", 422, "the body is a number", ""),
    "missing inputs": (b"{}", 422, "inputs is missing", "inputs"),
    "unknown key": (b'{"inputs": "a", "input": "b"}', 422, "unknown key input", "input"),
    "null inputs": (b'{"inputs": null}', 422, "inputs is null", "inputs"),
    "number as inputs": (b'{"inputs": 5}', 422, "inputs is a number", "inputs"),
    "huge number as inputs": (b'{"inputs": 1' + b"0" * 4_000 + b"}", 422, "inputs is a number", "inputs"),
    "huge exponent as inputs": (b'{"inputs": 1e999999}', 422, "inputs is a number", "inputs"),
    "infinity as inputs": (b'{"inputs": -Infinity}', 422, "inputs is a number", "inputs"),
    "boolean as inputs": (b'{"inputs": true}', 422, "inputs is a boolean", "inputs"),
    "object as inputs": (b'{"inputs": {"text": "a"}}', 422, "inputs.words is missing", "inputs.words"),
    "number among inputs": (b'{"inputs": ["a", 5]}', 422, "inputs[1] is a number", "inputs[1]"),
    "null among inputs": (b'{"inputs": ["a", "b", null]}', 422, "inputs[2] is null", "inputs[2]"),
    "nested inputs": (b'{"inputs": [["a"]]}', 422, "inputs[0] is a list", "inputs[0]"),
    "empty text": (b'{"inputs": ""}', 422, "inputs is empty", "inputs"),
    "empty list": (b'{"inputs": []}', 422, "empty list", "inputs"),
    "empty text among inputs": (b'{"inputs": ["a", ""]}', 422, "inputs[1] is empty", "inputs[1]"),
    "too many texts": (json.dumps({"inputs": ["a"] * 21}).encode(), 413, "21 texts", "inputs"),
    "too many characters": (json.dumps({"inputs": "ab " * 2_000}).encode(), 413, "6000 characters", "inputs"),
    "too large": (json.dumps({"inputs": "a" * 30_000}).encode(), 413, "the body is too large", ""),
    "inputs twice": (b'{"inputs": "a", "inputs": "b"}', 422, "key inputs stands twice", "inputs"),
    "parameters twice": (b'{"parameters": {}, "inputs": "a", "parameters": {}}', 422, "stands twice", "parameters"),
    "a parameter twice": (
        b'{"inputs": "a", "parameters": {"ignore_labels": [], "ignore_labels": []}}',
        422,
        "stands twice",
        "ignore_labels",
    ),
    "byte order mark": (b'\xef\xbb\xbf{"inputs": "a"}', 400, "no JSON", ""),
    "UTF-16 without a mark": ('{"inputs": "a"}'.encode("utf-16-le"), 400, "no JSON", ""),
    "UTF-32": ('{"inputs": "a"}'.encode("utf-32"), 400, "no JSON", ""),
    "lone low surrogate": (b'{"inputs": "\\udfff"}', 400, "no JSON", ""),
    "surrogates the wrong way round": (b'{"inputs": "\\udc00\\ud800"}', 400, "no JSON", ""),
    "surrogate in UTF-8": (b'{"inputs": "\xed\xa0\x80"}', 400, "no JSON", ""),
    "lone surrogate in a key": (b'{"inputs": "a", "\\ud800": 1}', 400, "no JSON", ""),
    "overlong UTF-8": (b'{"inputs": "\xc0\xaf"}', 400, "no JSON", ""),
    "raw control character": (b'{"inputs": "a\nb"}', 400, "no JSON", ""),
    "null byte after the object": (b'{"inputs": "a"}\x00', 400, "no JSON", ""),
    "two objects": (b'{"inputs": "a"}{"inputs": "b"}', 400, "no JSON", ""),
    "comment": (b'{"inputs": "a" /* b */}', 400, "no JSON", ""),
    "trailing comma": (b'{"inputs": "a",}', 400, "no JSON", ""),
    "null byte in a key": (b'{"inputs": "a", "x\\u0000y": 1}', 422, "unknown key", "x\x00y"),
    "deep objects": (b'{"a":' * 3_000 + b"1" + b"}" * 3_000, 400, "no JSON", ""),
    "unknown option": (b'{"inputs": "a", "options": {"speed": 1}}', 422, "unknown key options.speed", "options.speed"),
    "deep parameters": (b'{"inputs": "a", "parameters": ' + b"[" * 9_000 + b"]" * 9_000 + b"}", 400, "no JSON", ""),
    "unknown key of endless length": (
        b'{"inputs": "a", "' + b"k" * 9_000 + b'": 1}',
        422,
        "unknown key kkk",
        "k" * 80 + "...",
    ),
    "huge number in parameters": (
        b'{"inputs": "a", "parameters": 1' + b"0" * 9_000 + b"}",
        400,
        "no JSON (number out of range",
        "",
    ),
    "unknown parameter": (b'{"inputs": "a", "parameters": {"strid": 4}}', 422, "unknown key", "parameters.strid"),
    "wrong strategy": (
        b'{"inputs": "a", "parameters": {"aggregation_strategy": "best"}}',
        422,
        "'best'",
        "parameters.aggregation_strategy",
    ),
    "a boolean as stride": (b'{"inputs": "a", "parameters": {"stride": false}}', 422, "boolean", "parameters.stride"),
    "a string as stride": (b'{"inputs": "a", "parameters": {"stride": "4"}}', 422, "'4'", "parameters.stride"),
    "parameters as list": (b'{"inputs": "a", "parameters": []}', 422, "parameters is a list", "parameters"),
    "NaN parameter": (
        b'{"inputs": "a", "parameters": {"ignore_labels": NaN}}',
        422,
        "is a number",
        "parameters.ignore_labels",
    ),
}


@pytest.mark.parametrize("case", BAD_BODIES)
def test_a_bad_body_gets_json_that_says_what_is_wrong(tagger_url: str, case: str) -> None:
    body, status, error, field = BAD_BODIES[case]
    answer = post(tagger_url, body)
    told = answer.json()
    assert (answer.status_code, told["field"] or "") == (status, field), told
    assert error in told["error"]
    assert told["allowed"]
    assert told["remedy"]
    assert set(told) == {"error", "field", "allowed", "remedy"}


@pytest.mark.parametrize(
    "headers",
    [
        {"content-type": "text/plain"},
        {"content-type": "application/x-www-form-urlencoded"},
        {"content-type": "application/json; charset=latin-1"},
        {"content-type": "é"},
        {"content-encoding": "gzip"},
    ],
)
def test_a_wrong_content_type_is_refused(tagger_url: str, headers: dict[str, str]) -> None:
    raw = {name: value.encode("latin-1") for name, value in {**JSON, **headers}.items()}
    answer = httpx.post(tagger_url, content=b'{"inputs": "a"}', headers=raw)
    assert answer.status_code == 415
    assert answer.json()["remedy"]


def test_json_without_a_content_type_or_with_a_charset_is_read(tagger_url: str) -> None:
    for headers in ({}, {"content-type": 'application/json; charset="UTF-8"'}):
        assert httpx.post(tagger_url, content=b'{"inputs": "a"}', headers=headers).status_code == 200


@pytest.mark.parametrize("method", ["PUT", "DELETE", "PATCH", "OPTIONS"])
def test_a_wrong_method_is_refused_with_the_right_ones(tagger_url: str, method: str) -> None:
    answer = httpx.request(method, tagger_url)
    assert answer.status_code == 405
    assert answer.headers["allow"] == answer.json()["allowed"] == "GET, HEAD, POST"


@pytest.mark.parametrize(
    "path", ["/health", "/ready", "/info", "/v2", "/v2/health/ready", "/v2/models/bundle", "/docs", "/nowhere"]
)
def test_head_is_answered_like_get_without_a_body(tagger_url: str, path: str) -> None:
    got, asked = httpx.get(tagger_url + path), httpx.head(tagger_url + path)
    assert (asked.status_code, asked.content) == (got.status_code, b"")
    for name in ("content-length", "content-type"):
        assert asked.headers[name] == got.headers[name]


@pytest.mark.parametrize(("path", "place"), [("/health/", "../health"), ("/v2/models/bundle/?a=b", "../bundle?a=b")])
def test_redirects_are_relative_whatever_host_a_caller_names(tagger_url: str, path: str, place: str) -> None:
    answer = httpx.get(tagger_url + path, headers={"host": "elsewhere.example"})
    assert (answer.status_code, answer.headers["location"]) == (307, place)
    assert httpx.get(tagger_url + path, follow_redirects=True).status_code == 200


def test_the_redirect_of_an_application_below_a_prefix_is_relative(tagger_path: Path) -> None:
    app = create_app(Predictor(Engine(Bundle.load(tagger_path))))
    with TestClient(app, root_path="/models/tickets") as client:
        answer = client.get("/models/tickets", headers={"accept": "text/html"}, follow_redirects=False)
        assert (answer.status_code, answer.headers["location"]) == (307, "tickets/")


def test_an_unknown_path_is_refused_with_those_that_exist(tagger_url: str) -> None:
    answer = httpx.get(tagger_url + "/modles")
    assert answer.status_code == 404
    assert "/ready" in answer.json()["allowed"]


@pytest.mark.parametrize("announced", [True, False])
def test_a_body_is_refused_as_soon_as_it_grows_too_large(tagger_url: str, announced: bool) -> None:
    """The sender would go on for ever: the answer must come while it sends."""
    place = urlsplit(tagger_url)
    with socket.create_connection((place.hostname, place.port), timeout=10) as client:
        head = "POST / HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n"
        head += "content-length: 1000000000\r\n\r\n" if announced else "transfer-encoding: chunked\r\n\r\n"
        client.sendall(head.encode())
        chunk = b"a" * 1_000
        for _ in range(0 if announced else 25):
            client.sendall(b"3e8\r\n" + chunk + b"\r\n")
        assert client.recv(65_536).startswith(b"HTTP/1.1 413")


def test_too_many_queued_tokens_get_429_with_a_time_to_come_back(
    serve_with: Callable[..., str], tagger_path: Path
) -> None:
    slow = gated(tagger_path)
    url = serve_with(warm=False, engine=slow, max_queued_tokens=40)
    with concurrent.futures.ThreadPoolExecutor(12) as callers:
        answers = [callers.submit(post, url, {"inputs": inputs}) for inputs in [TEXTS[0], [TEXTS[0]]] * 6]
        assert until(lambda: sum(answer.done() for answer in answers) > 5)
        early = [answer.result() for answer in answers if answer.done()]
        slow.gate.set()
    all_of_them = [answer.result() for answer in answers]
    refused = [answer for answer in all_of_them if answer.status_code == 429]
    assert {answer.status_code for answer in early} == {429}
    assert {answer.status_code for answer in all_of_them} == {200, 429}
    assert all(int(answer.headers["retry-after"]) >= 1 and "busy" in answer.json()["error"] for answer in refused)
    assert _samples(url)["bert_agent_rejected_requests_total", "overload"] == len(refused)


def test_too_many_requests_in_flight_get_429(serve_with: Callable[..., str], tagger_path: Path) -> None:
    slow = gated(tagger_path)
    url = serve_with(warm=False, engine=slow, max_concurrent_requests=2)
    with concurrent.futures.ThreadPoolExecutor(4) as callers:
        answers = [callers.submit(post, url, {"inputs": "a"}) for _ in range(4)]
        assert until(lambda: sum(answer.done() for answer in answers) == 2)
        slow.gate.set()
    assert sorted(answer.result().status_code for answer in answers) == [200, 200, 429, 429]


@pytest.mark.parametrize("path", ["/", "/models/bundle", "/v2/models/bundle/infer"])
def test_a_full_server_refuses_before_the_body_is_there(
    serve_with: Callable[..., str], tagger_path: Path, path: str
) -> None:
    slow = gated(tagger_path)
    url = httpx.URL(serve_with(warm=False, engine=slow, max_concurrent_requests=1))
    with concurrent.futures.ThreadPoolExecutor(1) as callers:
        first = callers.submit(post, str(url), {"inputs": "a"})
        assert until(lambda: _samples(str(url))["bert_agent_queued_windows",] or slow.free < 0)
        with socket.create_connection((url.host, url.port or 80), timeout=10) as late:
            head = f"POST {path} HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\ncontent-length: 99\r\n\r\n"
            late.sendall(head.encode())
            answer = late.recv(4_096)
        slow.gate.set()
        assert first.result().status_code == 200
    assert answer.startswith(b"HTTP/1.1 429 ")
    assert b"retry-after: 1" in answer


@pytest.mark.parametrize("path", ["/", "/models/bundle"])
def test_the_work_of_a_caller_who_hangs_up_is_dropped(
    serve_with: Callable[..., str], tagger_path: Path, path: str
) -> None:
    slow = gated(tagger_path)
    url = serve_with(warm=False, engine=slow)
    place, body = httpx.URL(url), json.dumps({"inputs": TEXTS * 20})
    with socket.create_connection((place.host, place.port), timeout=10) as caller:
        head = (
            f"POST {path} HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\ncontent-length: {len(body)}\r\n\r\n"
        )
        caller.sendall(f"{head}{body}".encode())
        assert until(lambda: _samples(url)["bert_agent_queued_windows",])
    assert until(lambda: _samples(url).get(("bert_agent_rejected_requests_total", "cancelled")) == 1)
    assert _samples(url)["bert_agent_queued_windows",] == 0
    slow.gate.set()
    assert post(url, {"inputs": "a"}).status_code == 200


def test_a_request_that_allows_too_little_time_gets_408_and_is_not_computed(
    serve_with: Callable[..., str], tagger_path: Path
) -> None:
    slow = gated(tagger_path)
    url = serve_with(warm=False, engine=slow)
    with concurrent.futures.ThreadPoolExecutor(4) as callers:
        patient = [callers.submit(post, url, {"inputs": TEXTS[0]}) for _ in range(slow.plan.sessions)]
        assert until(lambda: slow.free < 0)  # they hold every session
        answer = post(url, {"inputs": TEXTS[0]}, **{"x-request-timeout-seconds": "0.2"})
        waiting = _samples(url)["bert_agent_queued_windows",]
        slow.gate.set()
    assert (answer.status_code, answer.json()["error"]) == (408, "no answer within the 0.19 s that the request allowed")
    assert waiting == 0
    assert {done.result().status_code for done in patient} == {200}
    assert _samples(url)["bert_agent_rejected_requests_total", "timeout"] == 1


@pytest.mark.parametrize("seconds", ["soon", "0", "-1", "nan", "inf", ""])
def test_a_time_that_is_none_is_refused(tagger_url: str, seconds: str) -> None:
    answer = post(tagger_url, {"inputs": "a"}, **{"x-request-timeout-seconds": seconds})
    assert (answer.status_code, answer.json()["field"]) == (422, "x-request-timeout-seconds")


def test_a_request_of_more_tokens_than_the_queue_holds_is_too_large(serve_with: Callable[..., str]) -> None:
    answer = post(serve_with(max_queued_tokens=40), {"inputs": TEXTS * 3})
    assert (answer.status_code, answer.json()["allowed"]) == (413, "at most 40 tokens")


def test_an_internal_failure_tells_the_log_and_not_the_caller(
    serve_with: Callable[..., str], tagger_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    class Broken(Engine):
        def forward(self, batch: Batch) -> Float32:
            raise MemoryError("secret internals")

    url = serve_with(warm=False, engine=Broken(Bundle.load(tagger_path)))
    with caplog.at_level(logging.ERROR):
        answer = post(url, {"inputs": "a"})
    assert answer.status_code == 500
    assert "secret" not in answer.text
    assert answer.json()["remedy"]
    assert "secret internals" in caplog.text
    assert httpx.get(url + "/health").status_code == 200


def test_it_is_alive_at_once_and_ready_when_warm(serve_with: Callable[..., str], tagger_url: str) -> None:
    cold = serve_with(warm=False)
    assert httpx.get(cold + "/health").json() == {"status": "alive"}
    assert httpx.get(cold + "/ready").status_code == 503
    assert httpx.get(tagger_url + "/ready").json() == {"status": "ready"}


def test_a_server_is_ready_when_every_agent_of_it_is_there(tagger_path: Path) -> None:
    predictor = Predictor(Engine(Bundle.load(tagger_path)))
    predictor.awaited = ("tickets", "reviews")
    with listening(predictor) as url:
        told = httpx.get(url + "/ready")
        assert (told.status_code, told.json()["error"]) == (503, "agents that are not there yet: tickets, reviews")
        assert [httpx.get(url + path).status_code for path in ("/v2/health/ready", "/v2/models/bundle/ready")] == [
            503,
            200,
        ]
        predictor.awaited = ()
        assert [httpx.get(url + path).status_code for path in ("/ready", "/v2/health/ready")] == [200, 200]


def test_info_says_what_is_served(tagger_url: str, tagger_path: Path) -> None:
    info = httpx.get(tagger_url + "/info").json()
    assert info["bundle"] == Bundle.load(tagger_path).digest
    assert (info["task"], info["labels"], info["precision"]) == ("token_classification", ["LOC", "ORG", "PER"], "int8")
    assert info["limits"]["max_texts"] == 20
    assert "tokenizers" in info["versions"]


def test_metrics_count_what_happened(serve_with: Callable[..., str], engine: Engine) -> None:
    url = serve_with()
    found = len(post(url, {"inputs": TEXTS[0]}).json())
    post(url, b"{}")
    httpx.get(url + "/nowhere/at/all")
    samples = _samples(url)
    assert samples["bert_agent_requests_total", "/", "200"] == 1
    assert samples["bert_agent_requests_total", "/", "422"] == 1
    assert samples["bert_agent_requests_total", "other", "404"] == 1
    assert samples["bert_agent_rejected_requests_total", "invalid"] == 1
    assert samples["bert_agent_texts_total",] == 1
    assert samples["bert_agent_tokens_total",] == len(engine.encode(TEXTS[:1])[0].windows[0].input_ids)
    assert sum(value for key, value in samples.items() if key[0] == "bert_agent_answer_items_total") == found
    assert samples["bert_agent_request_seconds_count",] == 1
    assert {key[1] for key in samples if key[0] == "bert_agent_stage_seconds_count"} == {
        "tokenize",
        "queue",
        "infer",
        "decode",
    }
    assert samples["bert_agent_queued_tokens",] == 0
    assert samples["bert_agent_warmup_seconds",] > 0


@pytest.mark.parametrize("fixture", ["tagger_url", "classifier_url"])
@pytest.mark.usefixtures("way")
def test_the_openapi_document_describes_requests_and_answers(fixture: str, request: pytest.FixtureRequest) -> None:
    url = request.getfixturevalue(fixture)
    document = httpx.get(url + "/openapi.json").json()
    operation = document["paths"]["/"]["post"]

    def check(instance: Any, schema: dict[str, Any]) -> None:
        jsonschema.validate(instance, schema | {"components": document["components"]})

    asked = {"inputs": TEXTS[:2], "parameters": None}
    check(asked, operation["requestBody"]["content"]["application/json"]["schema"])
    check(post(url, asked).json(), operation["responses"]["200"]["content"]["application/json"]["schema"])
    check(post(url, {}).json(), operation["responses"]["4XX"]["content"]["application/json"]["schema"])
    with pytest.raises(jsonschema.ValidationError):
        check({"inputs": 5}, operation["requestBody"]["content"]["application/json"]["schema"])
    assert list(document["paths"]["/metrics"]["get"]["responses"]["200"]["content"]) == ["text/plain"]
    assert {"/", "/models/{name}", "/explain", "/v2", "/info", "/health", "/ready", "/metrics"} <= set(
        document["paths"]
    )
    assert httpx.get(url + "/docs").status_code == 200


def test_many_callers_at_once_all_get_their_own_answer(tagger_url: str) -> None:
    with concurrent.futures.ThreadPoolExecutor(16) as callers:
        texts = [f"{TEXTS[n % 4]} {n}" for n in range(80)]
        answers = list(callers.map(lambda text: post(tagger_url, {"inputs": text}), texts))
    assert {answer.status_code for answer in answers} == {200}
    for text, answer in zip(texts, answers, strict=True):
        assert all(text[item["start"] : item["end"]] == item["word"] for item in answer.json())


def _samples(url: str) -> dict[tuple[str, ...], float]:
    families = text_string_to_metric_families(httpx.get(url + "/metrics").text)
    return {
        (sample.name, *(value for name, value in sample.labels.items() if name != "replica")): sample.value
        for family in families
        for sample in family.samples
    }
