"""Streams of lines: all answers, in order, as they come; held back by a slow reader; ended by what goes wrong."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from agent.batching import Batch
from agent.bundle import Bundle
from agent.encoding import Float32
from serving.inference.engine import Engine, EngineConfig
from serving.scheduling.limits import LimitsConfig
from serving.scheduling.predictor import Predictor
from tests.serving.api.test_http_app import _samples, post
from tests.serving.conftest import listening
from tests.serving.gated import gated
from tests.serving.tiny import TEXTS
from tests.waiting import until

NDJSON = "application/x-ndjson"
LINES = {"content-type": NDJSON}


@pytest.fixture(scope="module")
def exact(tagger_path: Path) -> Engine:
    """The float32 graph: what it says does not depend on the batch."""
    return Engine(Bundle.load(tagger_path), precision="fp32")


@pytest.fixture(scope="module")
def url(tagger_path: Path) -> Iterator[str]:
    limits = LimitsConfig(max_texts=20, max_characters=4_000, max_body_bytes=20_000, max_stream_bytes=300_000)
    with listening(Predictor(Engine(Bundle.load(tagger_path), precision="fp32"), limits)) as place:
        yield place


def lines(*items: Any) -> bytes:
    return "".join(json.dumps(item) + "\n" for item in items).encode()


def spans(answer: list[dict[str, Any]]) -> list[tuple[Any, ...]]:
    return [(item.get("entity_group") or item["entity"], item["start"], item["end"]) for item in answer]


def read(answer: httpx.Response) -> list[Any]:
    assert (answer.status_code, answer.headers["content-type"]) == (200, NDJSON)
    return [json.loads(line) for line in answer.text.splitlines()]


def test_many_texts_are_answered_line_by_line_in_order(url: str, exact: Engine) -> None:
    texts = [f"{TEXTS[n % 4]} {n}" for n in range(500)]
    texts[7:7] = ["Oslo " * 700, "Lima " * 700]  # together more than one request may hold
    answers = read(httpx.post(url, content=lines(*texts), headers=LINES, timeout=60))
    assert [spans(answer) for answer in answers] == [spans(answer) for answer in exact.predict(texts)]


@pytest.mark.parametrize("path", ["/", "/models/bundle"])
def test_a_json_body_streams_when_lines_are_accepted(url: str, exact: Engine, path: str) -> None:
    texts = [f"{TEXTS[n % 4]} {n}" for n in range(60)]  # three times max_texts
    answers = read(post(url + path, {"inputs": texts}, accept=NDJSON))
    assert [spans(answer) for answer in answers] == [spans(answer) for answer in exact.predict(texts)]


def test_a_line_may_have_parameters_of_its_own(url: str, exact: Engine) -> None:
    asked = {"aggregation_strategy": "none"}
    body = (
        lines(TEXTS[0], {"inputs": TEXTS[0], "parameters": asked}, TEXTS[0])
        + b"\n  \n"
        + lines({"inputs": "Anna"})[:-1]
    )
    plain, marked, again, last = read(httpx.post(url, content=body, headers=LINES))
    assert plain == again
    assert set(marked[0]) >= {"index", "entity"}
    assert spans(last) == spans(exact.predict(["Anna"])[0])


def test_a_mistake_on_the_way_is_the_last_line(url: str) -> None:
    body = lines(*["Anna"] * 69, 5, *["Oslo"] * 100)
    *answers, last = read(httpx.post(url, content=body, headers=LINES))
    assert len(answers) == 69
    assert all(isinstance(answer, list) for answer in answers)
    assert (last["field"], "line 70" in last["error"]) == ("line 70", True)
    assert last["remedy"]


@pytest.mark.parametrize(
    ("body", "status", "told"),
    [
        (b"", 422, "no line"),
        (b"\n\n", 422, "no line"),
        (b"{", 400, "line 1: the body is no JSON"),
        (b'"Anna', 400, "line 1: the body is no JSON"),
        (b'"\xff"', 400, "line 1: the body is no JSON"),
        (b'""', 422, "line 1: inputs is empty"),
        (b'{"inputs": ["a", "b"]}', 422, "line 1 holds a list"),
        (b'{"text": "a"}', 422, "line 1: inputs is missing"),
        (b'{"inputs": "a", "parameters": {"stride": 31}}', 422, "parameters.stride is 31"),
        (lines("a " * 2_500), 413, "line 1 holds 5000 characters"),
        (lines(*["Anna went to Lima"] * 20_000), 413, "the body is too large"),
    ],
)
def test_a_stream_that_cannot_begin_is_refused_like_any_request(url: str, body: bytes, status: int, told: str) -> None:
    answer = httpx.post(url, content=body, headers=LINES)
    assert (answer.status_code, told in answer.json()["error"]) == (status, True), answer.json()
    assert answer.headers["content-type"] == "application/json"


def test_lines_come_while_later_ones_are_not_computed_yet(tagger_path: Path) -> None:
    slow = gated(tagger_path, batches=4)
    with (
        listening(Predictor(slow), warm=False) as place,
        httpx.stream("POST", place, content=lines(*[TEXTS[0]] * 2_000), headers=LINES, timeout=20) as answer,
    ):
        arriving = answer.iter_lines()
        assert json.loads(next(arriving)) is not None
        assert _samples(place)["bert_agent_texts_total",] < 2_000
        slow.gate.set()
        assert len(list(arriving)) == 1_999


def test_a_slow_reader_holds_back_the_work(tagger_path: Path) -> None:
    engine = Engine(Bundle.load(tagger_path), EngineConfig(sessions=2))
    body = lines(
        *[{"inputs": TEXTS[3] * 6, "parameters": {"aggregation_strategy": "none", "ignore_labels": []}}] * 2_500
    )
    with listening(Predictor(engine, LimitsConfig(max_queued_s=60))) as place:
        with httpx.stream("POST", place, content=body, headers=LINES, timeout=60) as answer:
            assert answer.status_code == 200
            arriving = answer.iter_raw(1)
            next(arriving)
            assert until(lambda: _stands_still(place))
            assert 0 < _samples(place)["bert_agent_texts_total",] < 2_000
        assert until(lambda: _samples(place)["bert_agent_queued_tokens",] == 0)  # and leaving drops the rest


def test_more_streams_than_allowed_get_429_and_one_that_ends_makes_room(tagger_path: Path) -> None:
    slow = gated(tagger_path, batches=4)
    with listening(Predictor(slow, LimitsConfig(max_streams=1)), warm=False) as place:
        with httpx.stream("POST", place, content=lines(*["Anna"] * 2_000), headers=LINES) as answer:
            arriving = answer.iter_lines()
            next(arriving)
            second = httpx.post(place, content=lines("Anna"), headers=LINES)
            assert (second.status_code, int(second.headers["retry-after"])) == (429, 1)
        slow.gate.set()
        assert until(lambda: httpx.post(place, content=lines("Anna"), headers=LINES).status_code == 200)
        httpx.post(place, content=b"{", headers=LINES)
        assert httpx.post(place, content=lines("Anna"), headers=LINES).status_code == 200


def test_a_stream_that_has_begun_waits_its_turn_on_a_busy_server(
    serve_with: Callable[..., str], engine: Engine
) -> None:
    room = 40 * engine.encode(TEXTS[:1])[0].num_tokens
    answer = httpx.post(serve_with(max_queued_tokens=room), content=lines(*[TEXTS[0]] * 100), headers=LINES, timeout=30)
    assert [type(line) for line in read(answer)] == [list] * 100


def test_a_stream_ends_when_its_time_is_up(tagger_path: Path) -> None:
    slow = gated(tagger_path, batches=4)
    with listening(Predictor(slow), warm=False) as place:
        headers = {**LINES, "x-request-timeout-seconds": "3"}
        *answers, last = read(httpx.post(place, content=lines(*["Anna"] * 2_000), headers=headers))
        slow.gate.set()
    assert 0 < len(answers) < 2_000
    assert "no answer within the 2.85 s" in last["error"]


def test_a_failure_on_the_way_tells_nothing_of_its_cause(tagger_path: Path) -> None:
    class Failing(Engine):
        left = 1

        def forward(self, batch: Batch) -> Float32:
            self.left -= 1
            if self.left < 0:
                raise MemoryError("secret internals")
            return super().forward(batch)

    engine = Failing(Bundle.load(tagger_path), EngineConfig(sessions=1, max_batch_tokens=4_096))
    with listening(Predictor(engine), warm=False) as place:
        *answers, last = read(httpx.post(place, content=lines(*["Anna"] * 300), headers=LINES))
    assert len(answers) == 32
    assert "the server failed" in last["error"]
    assert "secret" not in json.dumps(last)


def _stands_still(place: str) -> bool:
    before = _samples(place)["bert_agent_texts_total",]
    time.sleep(0.7)
    return _samples(place)["bert_agent_texts_total",] == before
