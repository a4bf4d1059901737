"""`POST /explain` on a real socket: what is explained, what it costs, and how everything else is answered."""

from __future__ import annotations

import concurrent.futures
import json
import socket
import threading
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import httpx
import pytest

from agent.bundle import Bundle
from serving.inference.engine import Engine, EngineConfig
from serving.metrics import Metrics
from serving.middleware.api_keys import AuthConfig
from serving.middleware.middleware_stack import FrontConfig
from serving.scheduling.limits import ExplainLimits, LimitsConfig
from serving.scheduling.predictor import Predictor
from tests.serving.conftest import listening
from tests.serving.explanation.planted import FILLER, engine_of, topic_bundle, topic_texts
from tests.serving.gated import Gated
from tests.serving.tiny import TEXTS
from tests.waiting import until

KEY = "anna-0123456789abcdef"
TEXT = "nothing happened while a storm waited ."


@pytest.fixture(scope="module")
def topic_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return topic_bundle(tmp_path_factory.mktemp("topics") / "bundle")


class Served:
    """A server that explains."""

    def __init__(self, stack: ExitStack, engine: Engine, *, front: FrontConfig | None = None, **limits: Any) -> None:
        self.metrics = Metrics()
        self.predictor = Predictor(engine, LimitsConfig(**limits), self.metrics)
        self.url = stack.enter_context(listening(self.predictor, front=front))
        self.client = stack.enter_context(httpx.Client(base_url=self.url, timeout=20))

    def explain(self, inputs: Any = TEXT, headers: dict[str, str] | None = None, **parameters: Any) -> httpx.Response:
        return self.client.post("/explain", json={"inputs": inputs, "parameters": parameters}, headers=headers)

    def counted(self, name: str) -> dict[str, float]:
        """The series of a counter, by their first label."""
        found = {}
        for line in self.metrics.render().decode().splitlines():
            if line.startswith(name):
                head, _, value = line.rpartition(" ")
                found[head.split('"')[1]] = float(value)
        return found


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    with ExitStack() as stack:
        yield stack


@pytest.fixture
def served(stack: ExitStack, topic_path: Path) -> Served:
    return Served(stack, engine_of(topic_path))


def test_causes_come_back_with_their_places_and_the_flip_flips(served: Served) -> None:
    answer = served.explain()
    assert answer.status_code == 200, answer.text
    found = answer.json()
    assert (found["replacement"], found["words_at_once"], found["exact"]) == ("[MASK]", 1, True)
    assert found["bundle"] == served.predictor.engine.bundle.digest
    (decision,) = found["decisions"]
    assert (decision["label"], decision["holds"], decision["word"]) == ("weather", True, None)
    first = decision["causes"][0]
    assert TEXT[first["start"] : first["end"]] == first["word"] == "storm"
    assert sum(cause["effect"] for cause in decision["causes"]) == pytest.approx(
        decision["probability"] - decision["baseline"], abs=1e-6
    )
    flipped = served.client.post("/", json={"inputs": decision["flip"]["inputs"]}).json()
    assert flipped[0][0]["label"] == "other"
    assert served.explain().json() == found


def test_explanations_are_counted_and_are_no_predictions(served: Served) -> None:
    done = served.explain().json()["interventions"]
    assert served.explain("").status_code == 422
    assert served.counted("bert_agent_explanations_total{") == {"answered": 1, "invalid": 1}
    rendered = served.metrics.render().decode()
    assert f'bert_agent_interventions_total{{replica="local"}} {done}.0' in rendered
    assert 'bert_agent_texts_total{replica="local"} 0.0' in rendered
    assert "bert_agent_rejected_requests_total{" not in rendered
    assert served.counted("bert_agent_answer_items_total{") == {}


@pytest.mark.parametrize(
    ("body", "status", "field"),
    [
        ({"inputs": ["a", "b"]}, 422, "inputs"),
        ({"inputs": 5}, 422, "inputs"),
        ({"inputs": ""}, 422, "inputs"),
        ({}, 422, "inputs"),
        ({"inputs": "a", "more": 1}, 422, "more"),
        ({"inputs": "a", "parameters": {"best": 1}}, 422, "parameters.best"),
        ({"inputs": "a", "parameters": {"seed": -1}}, 422, "parameters.seed"),
        ({"inputs": "a", "parameters": {"interventions": 501}}, 422, "parameters.interventions"),
        ({"inputs": "a", "parameters": {"interventions": 3}}, 422, "parameters.interventions"),
        ({"inputs": "a", "parameters": {"replacement": "swap"}}, 422, "parameters.replacement"),
        ({"inputs": "a", "parameters": {"labels": ["weather", "sea"]}}, 422, "parameters.labels[1]"),
        ({"inputs": "a", "parameters": {"start": 0}}, 422, "parameters.start"),
        ({"inputs": "a", "parameters": {"stride": 99}}, 422, "parameters.stride"),
        ({"inputs": "a" * 300_000}, 413, "inputs"),
    ],
)
def test_what_does_not_suit_is_refused_by_its_place(served: Served, body: Any, status: int, field: str) -> None:
    refused = served.client.post("/explain", json=body)
    assert (refused.status_code, refused.json()["field"]) == (status, field), refused.text
    assert refused.json()["allowed"]


def test_a_list_is_refused_with_what_is_allowed(served: Served, stack: ExitStack, judge_path: Path) -> None:
    assert served.explain(["a"]).json()["allowed"] == "a string"
    judge = Served(stack, Engine(Bundle.load(judge_path)))
    assert judge.explain([{"text": "a", "text_pair": "b"}]).json()["allowed"].startswith('an object {"text"')
    answer = judge.explain({"text": TEXTS[0], "text_pair": TEXTS[1]}).json()
    assert {cause["field"] for cause in answer["decisions"][0]["causes"]} == {"text", "text_pair"}
    single = judge.explain(TEXTS[0], candidate_labels=["travel", "law"], labels=["law"]).json()
    assert single["decisions"][0]["label"] == "law"


def test_a_task_that_is_not_explained_is_refused_by_name(stack: ExitStack, reader_path: Path) -> None:
    served = Served(stack, Engine(Bundle.load(reader_path)))
    refused = served.explain()
    assert refused.status_code == 422
    assert "question answering cannot be explained" in refused.json()["error"]
    assert served.client.get("/info").json()["explains"] is False
    assert "/explain" not in served.client.get("/openapi.json").json()["paths"]


def test_a_server_without_interventions_has_no_such_path(stack: ExitStack, topic_path: Path) -> None:
    served = Served(stack, engine_of(topic_path), explain=ExplainLimits(max_interventions=0))
    assert served.explain().status_code == 404
    assert served.client.get("/info").json()["explains"] is False


def test_an_explanation_uses_up_texts_of_its_key(stack: ExitStack, topic_path: Path, tmp_path: Path) -> None:
    keys = tmp_path / "keys"
    keys.write_text(f"anna: {KEY}\n")
    front = FrontConfig(auth=AuthConfig(keys_file=str(keys), texts_per_s=0.01, burst_texts=40))
    served = Served(stack, engine_of(topic_path), front=front)
    headers = {"authorization": f"Bearer {KEY}"}
    assert served.explain().status_code == 401
    first = served.explain("storm now", headers)
    assert first.status_code == 200, first.text
    assert first.json()["interventions"] == 3  # three of 40, and the text itself
    assert served.explain(headers=headers).json()["interventions"] > 40
    refused = served.explain(headers=headers)
    assert refused.status_code == 429
    assert "this key has used" in refused.json()["error"]
    assert served.client.post("/", json={"inputs": "a"}, headers=headers).status_code == 429
    assert served.counted("bert_agent_explanations_total{")["rate_limited"] == 1


def gated_topics(path: Path, free: int) -> Gated:
    engine = Gated(Bundle.load(path), EngineConfig(sessions=1, executor="threads"))
    engine.gate, engine.free = threading.Event(), free
    return engine


def test_only_so_many_are_explained_at_once_and_predictions_go_on(stack: ExitStack, topic_path: Path) -> None:
    engine = gated_topics(topic_path, 1_000)
    served = Served(stack, engine, explain=ExplainLimits(max_concurrent=1), max_queued_s=60)
    engine.free = 0
    with concurrent.futures.ThreadPoolExecutor(2) as callers:
        first = callers.submit(served.explain)
        assert until(lambda: engine.free < 0)
        refused = served.explain()
        assert (refused.status_code, "too many explanations" in refused.json()["error"]) == (429, True)
        assert refused.headers["retry-after"]
        prediction = callers.submit(served.client.post, "/", json={"inputs": TEXT})
        engine.gate.set()
        assert prediction.result().status_code == 200
        assert first.result().status_code == 200
    assert served.explain().status_code == 200


def test_an_explanation_has_few_texts_in_the_queue(stack: ExitStack, topic_path: Path) -> None:
    """So a prediction never stands behind all of its interventions."""
    engine = gated_topics(topic_path, 1_000)
    served = Served(stack, engine)
    engine.free = 1  # the text itself
    text, _ = topic_texts(1)[0]
    with concurrent.futures.ThreadPoolExecutor(1) as callers:
        explaining = callers.submit(served.explain, text)
        assert until(lambda: engine.free < 0)
        assert 0 < served.predictor.batcher.queued_windows <= 32
        engine.gate.set()
        assert explaining.result().json()["interventions"] > 100


def test_the_time_that_a_caller_allows_ends_it(stack: ExitStack, topic_path: Path) -> None:
    engine = gated_topics(topic_path, 1_000)
    served = Served(stack, engine)
    engine.free = 0
    late = served.explain(headers={"x-request-timeout-seconds": "0.3"})
    assert late.status_code == 408
    assert served.explain(5, {"x-request-timeout-seconds": "1e-9"}).status_code == 422  # what is wrong is said first
    engine.gate.set()
    assert until(lambda: served.predictor.batcher.queued_windows == 0)
    assert served.explain().status_code == 200
    assert served.counted("bert_agent_explanations_total{") == {"timeout": 1, "invalid": 1, "answered": 1}


def test_a_caller_who_hangs_up_costs_no_more(stack: ExitStack, topic_path: Path) -> None:
    engine = gated_topics(topic_path, 1_000)
    served = Served(stack, engine)
    engine.free = 2
    text = " ".join(FILLER)
    body = json.dumps({"inputs": text}).encode()
    place = httpx.URL(served.url)
    with socket.create_connection((place.host, place.port)) as client:
        head = f"POST /explain HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\ncontent-length: {len(body)}\r\n\r\n"
        client.sendall(head.encode() + body)
        assert until(lambda: engine.free < 0)
    engine.gate.set()
    assert until(lambda: served.counted("bert_agent_explanations_total{") == {"cancelled": 1})
    assert until(lambda: served.predictor.batcher.queued_windows == 0)
    line = next(
        line for line in served.metrics.render().decode().splitlines() if line.startswith("bert_agent_interventions")
    )
    assert float(line.rpartition(" ")[2]) < 100
    assert served.explain().status_code == 200


def test_an_explanation_stays_with_its_version(stack: ExitStack, topic_path: Path, tmp_path: Path) -> None:
    """A candidate that answers every prediction explains nothing, and the version that explains is not closed under it."""
    served = Served(stack, engine_of(topic_path))
    with served.predictor.live_version() as version:
        assert version.in_flight == 1
        assert version.engine is served.predictor.engine
    assert version.in_flight == 0


def test_a_fault_of_the_engine_has_no_internals(stack: ExitStack, topic_path: Path) -> None:
    class Broken(Engine):
        def forward_windows(self, windows: Any) -> Any:
            raise RuntimeError("secret")

    engine = Broken(Bundle.load(topic_path), EngineConfig(sessions=1, warmup=False), num_cpus=1)
    served = Served(stack, engine)
    failed = served.explain()
    assert failed.status_code == 500
    assert "secret" not in failed.text
    assert served.counted("bert_agent_explanations_total{") == {"failed": 1}
