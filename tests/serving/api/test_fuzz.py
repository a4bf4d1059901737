"""Whatever the request, the answer is what the OpenAPI document says; whatever the text, offsets are exact and answers one's own."""

from __future__ import annotations

import concurrent.futures
import gc
import json
import os
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args

import httpx
import pytest
import schemathesis
from hypothesis import given, settings
from hypothesis import strategies as st
from schemathesis import GenerationMode

from agent.bundle import Bundle
from agent.tasks.token_classification import TaggingParameters
from serving.inference.engine_choice import open_engine
from serving.scheduling.predictor import Predictor
from tests.serving.conftest import listening

SECONDS = 20
ANYTHING = st.text(st.characters(exclude_categories=("Cs",)), min_size=1, max_size=60)  # surrogates are no text
ALPHABETS = st.sampled_from(
    ["aA .-", "éïß̂̈", "東京タワー。", "שלום", "😀👩‍👧\U0001f1e6\u200d", "\x00\t\n\r\u2028\u00a0", "İıſKÅ"]
)
MIXED = st.lists(ALPHABETS.flatmap(lambda letters: st.text(letters, max_size=12)), min_size=1, max_size=8).map("".join)

# Every task past the application, as predictions go in a replica of one core, and one of them through it. Daily one that
# labels texts and one that writes.
DAILY = ("tagger_url", "talker_url")
THOROUGH = (
    *("classifier_url", "labeller_url", "judge_url", "reader_url"),
    *("relater_url", "extractor_url", "filler_url", "translator_url"),
)
UNEXPLAINED = ("reader_url", "relater_url", "extractor_url", "filler_url", "translator_url", "talker_url")
DOCUMENTED = [
    *(("direct", fixture) for fixture in DAILY),
    *(pytest.param("direct", fixture, marks=pytest.mark.long) for fixture in THOROUGH),
    pytest.param("asgi", "tagger_url", marks=pytest.mark.long),
]


@pytest.fixture(scope="module")
def client(tagger_url: str) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=tagger_url, timeout=SECONDS) as client:
        yield client


@pytest.fixture(scope="module")
def extractor_url(relater_path: Path, tagger_path: Path, way: str) -> Iterator[str]:
    """An agent of relations beside a tagger: texts in, triples out."""
    pair = Bundle.load(relater_path).beside(Bundle.load(tagger_path))
    with listening(Predictor(open_engine(pair)), direct=way == "direct") as url:
        yield url


@pytest.mark.parametrize("strategy", get_args(TaggingParameters.model_fields["aggregation_strategy"].annotation))
@settings(max_examples=60, deadline=None)
@given(text=(ANYTHING | MIXED).filter(bool))
def test_for_any_text_the_slice_at_the_offsets_is_the_entity(client: httpx.Client, strategy: str, text: str) -> None:
    body = {"inputs": text, "parameters": {"aggregation_strategy": strategy, "ignore_labels": []}}
    answer = client.post("/", json=body)
    assert answer.status_code == 200, answer.text
    end = 0
    for item in answer.json():
        assert text[item["start"] : item["end"]] == item["word"]
        assert end <= item["start"] <= item["end"] <= len(text)
        end = item["end"]


def _fit_candidates(body: dict[str, Any]) -> None:
    """Single texts are asked about with candidate labels, pairs without: what a schema says of each key does not say it."""
    inputs, parameters = body["inputs"], dict(body.get("parameters") or {})
    if not isinstance(inputs[0] if isinstance(inputs, list) else inputs, str):
        parameters.pop("candidate_labels", None)
    elif not parameters.get("candidate_labels"):
        parameters["candidate_labels"] = ["weather", "trade"]
    body["parameters"] = parameters


def _fit_masks(body: dict[str, Any]) -> None:
    """Texts hold a mask, and targets are sub-words: the schema knows neither."""
    inputs = body["inputs"]
    if isinstance(inputs, str):
        body["inputs"] = f"{inputs[:200]} [MASK]"
    elif isinstance(inputs, list):
        for place, one in enumerate(inputs):
            if isinstance(one, str):
                inputs[place] = f"{one[:200]} [MASK]"
            elif isinstance(one, dict) and isinstance(one.get("data"), list):
                one["data"] = [f"{text[:200]} [MASK]" if isinstance(text, str) else text for text in one["data"]]
    if isinstance(body.get("parameters"), dict):
        body["parameters"].pop("targets", None)


def _fit_words(body: dict[str, Any]) -> None:
    """Texts that a small model has room for, ways of writing that agree with each other, conversations that somebody is to answer."""
    for holder, key in ((body, "inputs"), *((one, "data") for one in body.get("inputs", ()) if isinstance(one, dict))):
        if key in holder and not (isinstance(holder[key], list) and any(isinstance(one, dict) for one in holder[key])):
            holder[key] = [_short(one) for one in holder[key]] if isinstance(holder[key], list) else _short(holder[key])
    if isinstance(body.get("inputs", []), list):
        body.pop("stream", None)
    given = body.get("parameters") or {}
    for parameters in (given, given.get("generate_parameters") or {}):
        for chosen in ("do_sample", "num_beams", "length_penalty"):
            parameters.pop(chosen, None)
        if not parameters.get("details"):
            parameters.pop("decoder_input_details", None)
        if parameters.get("max_new_tokens"):
            parameters["max_new_tokens"] = min(parameters["max_new_tokens"], 4)
    if given.get("generate_parameters") is not None:
        body["parameters"] = {"generate_parameters": given["generate_parameters"]}
    else:
        given.pop("generate_parameters", None)
    if "messages" in body:
        body["messages"] = [{"role": "user", "content": _short(turn["content"])} for turn in body["messages"][:3]]
        body["max_tokens"] = 4


def _short(text: Any) -> Any:
    return f"anna {' '.join(text.replace('<', '').split()[:8])}" if isinstance(text, str) else text


def _marked(inputs: Any) -> Any:
    """Texts with two entities: a schema of texts does not say which hold some."""
    if isinstance(inputs, str):
        return f"{inputs.replace('<', '')} <e1>a</e1> <e2>b</e2>"
    if isinstance(inputs, dict):
        return inputs | {"data": _marked(inputs["data"])} if "data" in inputs else inputs
    return [_marked(one) for one in inputs] if isinstance(inputs, list) else inputs


@pytest.mark.usefixtures("way")
@pytest.mark.parametrize(("way", "fixture"), DOCUMENTED, indirect=["way"])
@pytest.mark.parametrize("mode", list(GenerationMode))
def test_every_answer_matches_the_openapi_document(
    fixture: str, mode: GenerationMode, request: pytest.FixtureRequest
) -> None:
    document = schemathesis.openapi.from_url(request.getfixturevalue(fixture) + "/openapi.json")
    document.config.checks.positive_data_acceptance.expected_statuses += ["408"]  # whoever allows no time gets none
    document.config.checks.negative_data_rejection.expected_statuses += ["413"]
    operations = {found.ok().label: found.ok() for found in document.get_all_operations()}
    assert set(operations) >= {"POST /", "GET /info", "GET /health", "GET /ready"}
    assert ("POST /explain" in operations) == (fixture not in UNEXPLAINED)
    for operation in operations.values():
        if mode is GenerationMode.NEGATIVE and not operation.body and not operation.query:
            continue  # nothing that could be wrong
        if fixture != "tagger_url" and not operation.body:
            continue  # the same of every task

        @settings(max_examples=25 if fixture == "tagger_url" else 15, deadline=None)
        @given(case=operation.as_strategy(generation_mode=mode))
        def ask(case: Any) -> None:
            if mode is GenerationMode.POSITIVE and isinstance(case.body, dict):
                parameters = case.body.get("parameters") or {}
                if parameters.get("stride"):
                    parameters["stride"] = min(parameters["stride"], 8)  # which fit, the bundle decides
                for chosen in ("labels", "start", "interventions"):  # which suit, the agent and its answer decide
                    parameters.pop(chosen, None)
                if fixture == "judge_url" and "inputs" in case.body:
                    _fit_candidates(case.body)
                if fixture == "filler_url" and "inputs" in case.body:
                    _fit_masks(case.body)
                if fixture in ("translator_url", "talker_url"):
                    _fit_words(case.body)
                if fixture == "relater_url" and "inputs" in case.body:
                    case.body["inputs"] = _marked(case.body["inputs"])
            case.call_and_validate(timeout=SECONDS)

        ask()


def test_nobody_gets_an_answer_to_another_ones_text(tagger_url: str) -> None:
    """Sixteen callers, each with words of its own, between requests that are refused and callers who hang up."""

    def ask(number: int) -> None:
        own = f"Caller{number}x"
        with httpx.Client(base_url=tagger_url, timeout=SECONDS) as client:
            for turn in range(12):
                texts = [f"{own} {turn} {place}" for place in range(1 + turn % 3)]
                answer = client.post("/", json={"inputs": texts, "parameters": {"ignore_labels": []}})
                for text, items in zip(texts, answer.json(), strict=True):
                    assert items
                    assert all(text[item["start"] : item["end"]] == item["word"] for item in items)
                refused = client.post("/", json={"inputs": texts, own: turn})
                assert (refused.status_code, refused.json()["field"]) == (422, own)
                _hang_up(tagger_url, own)

    with concurrent.futures.ThreadPoolExecutor(16) as callers:
        list(callers.map(ask, range(16)))


def test_floods_of_bad_requests_leave_no_memory_behind(tagger_url: str) -> None:
    bodies = [
        b"[" * 19_000, b'{"inputs": ' + b"9" * 19_000 + b"}", b'{"inputs": "' + b"a" * 30_000 + b'"}', b"\xff" * 19_000,
        b'{"inputs": "a", "' + b"k" * 15_000 + b'": 1}', json.dumps({"inputs": ["a"] * 900}).encode(),
    ]  # fmt: skip

    def flood(count: int) -> None:
        with httpx.Client(base_url=tagger_url, timeout=SECONDS) as client:
            for number in range(count):
                path = f"/{number}" if number % 7 == 0 else "/"
                headers = {"content-type": "application/json", f"x-{number}": "a" * 4_000}
                assert 400 <= client.post(path, content=bodies[number % 6], headers=headers).status_code < 500

    flood(400)
    gc.collect()
    before = _resident_bytes()
    flood(1_000)
    gc.collect()
    assert _resident_bytes() - before < 4 * 1024 * 1024  # 1,000 of these bodies are 20 MB


def _hang_up(url: str, word: str) -> None:
    place, body = httpx.URL(url), json.dumps({"inputs": word}).encode()
    with socket.create_connection((place.host, place.port)) as client:
        head = f"POST / HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\ncontent-length: {len(body)}\r\n\r\n"
        client.sendall(head.encode() + body)


def _resident_bytes() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
