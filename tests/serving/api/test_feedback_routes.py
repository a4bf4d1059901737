"""`POST /feedback` on a real socket: what is recorded, and how everything else is answered."""

from __future__ import annotations

import asyncio
import concurrent.futures
import json
import sqlite3
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import grpc
import httpx
import pytest
import schemathesis
from hypothesis import given, settings

from agent.bundle import Bundle
from agent.decisions.decision import LoggedDecision
from agent.decisions.exploration import ExploreConfig
from agent.decisions.store import DecisionStore
from agent.errors import ConfigError
from agent.tasks import TextClassification, TextPairClassification, TokenClassification
from serving.api.open_inference import inference_pb2 as pb
from serving.api.open_inference.inference_pb2_grpc import GRPCInferenceServiceStub
from serving.feedback.decision_log import DecisionLog, FeedbackConfig
from serving.feedback.explorer import check_explorable
from serving.inference.engine import Engine
from serving.metrics import Metrics
from serving.middleware.api_keys import AuthConfig
from serving.middleware.middleware_stack import FrontConfig
from serving.scheduling.predictor import Predictor
from tests.serving.conftest import calling, listening
from tests.serving.tiny import TEXTS
from tests.waiting import until

ANNA, BRUNO = "anna-0123456789abcdef", "bruno-0123456789abcdef"


class Served:
    """A server with a store of decisions."""

    def __init__(self, stack: ExitStack, bundle: Path, place: Path, **options: Any) -> None:
        self.url = f"sqlite:///{place / 'decisions.db'}"
        explore, front = options.pop("explore", None), options.pop("front", None)
        direct = options.pop("direct", True)
        self.metrics = Metrics()
        log = DecisionLog(
            FeedbackConfig(store=self.url, flush_s=0.02, **options), self.metrics, "agent", explore=explore
        )
        self.predictor = Predictor(Engine(Bundle.load(bundle)), metrics=self.metrics, decisions=log)
        address = stack.enter_context(listening(self.predictor, front=front, direct=direct))
        self.client = stack.enter_context(httpx.Client(base_url=address, timeout=20))
        self.store = DecisionStore(self.url)
        stack.callback(self.store.close)

    def ask(self, inputs: Any = TEXTS[0], headers: dict[str, str] | None = None, **parameters: Any) -> httpx.Response:
        answer = self.client.post("/", json={"inputs": inputs, "parameters": parameters}, headers=headers)
        assert answer.status_code == 200, answer.text
        return answer

    def give(self, body: Any, **headers: str) -> httpx.Response:
        return self.client.post("/feedback", json=body, headers=headers)

    def logged(self, number: int) -> list[LoggedDecision]:
        """What is in the log once so many decisions are there."""
        until(lambda: len(list(self.store.read())) >= number)
        found = list(self.store.read())
        assert len(found) == number
        return found

    def outcomes(self) -> dict[str, float]:
        lines = [
            line
            for line in self.metrics.render().decode().splitlines()
            if line.startswith("bert_agent_feedback_total{")
        ]
        return {line.split('outcome="')[1].split('"')[0]: float(line.rpartition(" ")[2]) for line in lines}


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    with ExitStack() as stack:
        yield stack


@pytest.fixture
def served(stack: ExitStack, classifier_path: Path, tmp_path: Path) -> Served:
    return Served(stack, classifier_path, tmp_path)


def test_a_reward_and_a_correction_join_their_decisions(served: Served) -> None:
    ids = [served.ask(text).headers["x-request-id"] for text in TEXTS[:2]]
    assert served.client.get("/info").json()["correction"] == "label"
    first = served.give({"id": ids[0], "reward": 1})
    assert (first.status_code, first.json()) == (200, {"id": ids[0], "index": 0, "outcome": "recorded"})
    assert served.give({"id": ids[1], "correction": {"label": "a new one"}}).status_code == 200
    found = {one.decision.id: one for one in served.logged(2)}
    given = [found[request_id].feedback for request_id in ids]
    assert [(one.reward, one.correction) for one in given if one] == [(1.0, None), (None, '{"label":"a new one"}')]
    assert found[ids[0]].decision.text == TEXTS[0]
    assert served.outcomes() == {"recorded": 2}


def test_feedback_that_comes_at_once_finds_its_decision(
    stack: ExitStack, classifier_path: Path, tmp_path: Path
) -> None:
    """Before the log is written by itself."""
    served = Served(stack, classifier_path, tmp_path)
    served.predictor.decisions.config = FeedbackConfig(store=served.url, flush_s=5)  # type: ignore[union-attr]
    for _ in range(5):
        answer = served.ask()
        assert served.give({"id": answer.headers["x-request-id"], "reward": 0.5}).status_code == 200


@pytest.mark.parametrize("direct", [True, False])
def test_every_text_of_a_request_is_a_decision(
    stack: ExitStack, tagger_path: Path, tmp_path: Path, direct: bool
) -> None:
    served = Served(stack, tagger_path, tmp_path, direct=direct)
    answer = served.ask(TEXTS, {"x-request-id": "mine"})
    assert served.give({"id": "mine", "index": 2, "reward": 0}).status_code == 200
    assert served.give({"id": "mine", "index": 9, "reward": 0}).status_code == 404
    logged = served.logged(len(TEXTS))
    assert [(one.decision.position, one.decision.text) for one in logged] == list(enumerate(TEXTS))
    assert [json.loads(one.decision.answer) for one in logged] == answer.json()
    assert [one.feedback is not None for one in logged] == [False, False, True, False]


def test_lines_of_a_stream_are_counted_through(stack: ExitStack, tagger_path: Path, tmp_path: Path) -> None:
    served = Served(stack, tagger_path, tmp_path)
    texts = [f"{TEXTS[number % 3]} {number}" for number in range(150)]
    headers = {"content-type": "application/x-ndjson", "x-request-id": "stream"}
    body = "".join(json.dumps(text) + "\n" for text in texts)
    answer = served.client.post("/", content=body, headers=headers)
    assert len(answer.text.splitlines()) == 150
    assert answer.headers["x-request-id"] == "stream"
    logged = sorted(served.logged(150), key=lambda one: one.decision.position)
    assert [one.decision.text for one in logged] == texts


def test_calls_of_grpc_are_decisions(stack: ExitStack, classifier_path: Path, tmp_path: Path) -> None:
    log = DecisionLog(FeedbackConfig(store=f"sqlite:///{tmp_path / 'd.db'}"), Metrics(), "agent")
    predictor = Predictor(Engine(Bundle.load(classifier_path)), decisions=log)
    place = stack.enter_context(calling(predictor))
    tensor = pb.ModelInferRequest.InferInputTensor(name="text", datatype="BYTES", shape=[1])
    tensor.contents.bytes_contents.append(b"fine")
    with grpc.insecure_channel(place) as channel:
        request = pb.ModelInferRequest(model_name="bundle", inputs=[tensor])
        GRPCInferenceServiceStub(channel).ModelInfer(request, metadata=[("x-request-id", "call")], timeout=10)
    assert asyncio.run(log.flush())
    assert [(one.decision.id, one.decision.text) for one in log.store.read()] == [("call", "fine")]
    log.store.close()


def test_the_first_feedback_counts(served: Served) -> None:
    request_id = served.ask().headers["x-request-id"]
    assert served.give({"id": request_id, "reward": 1}).json()["outcome"] == "recorded"
    again = served.give({"id": request_id, "reward": 1.0})
    assert (again.status_code, again.json()["outcome"]) == (200, "repeated")
    other = served.give({"id": request_id, "reward": 0})
    assert other.status_code == 409
    assert "other feedback already" in other.json()["error"]
    assert served.give({"id": request_id, "correction": {"label": "good"}}).status_code == 409
    assert served.outcomes() == {"recorded": 1, "repeated": 1, "contradictory": 2}


def test_unknown_ids_are_named(served: Served) -> None:
    answer = served.give({"id": "nobody", "reward": 1})
    assert answer.status_code == 404
    assert answer.json()["field"] == "id"
    assert "'nobody'" in answer.json()["error"]
    assert served.outcomes() == {"unknown": 1}


def test_feedback_comes_too_late_after_the_days_that_are_allowed(served: Served, tmp_path: Path) -> None:
    ids = [served.ask().headers["x-request-id"] for _ in range(2)]
    served.logged(2)
    with sqlite3.connect(tmp_path / "decisions.db") as connection:
        connection.execute("UPDATE bert_agent_decisions SET time = time - 7 * 86400 - 60 WHERE id = ?", (ids[0],))
        connection.execute("UPDATE bert_agent_decisions SET time = time - 7 * 86400 + 60 WHERE id = ?", (ids[1],))
    late = served.give({"id": ids[0], "reward": 1})
    assert late.status_code == 410
    assert "last 7 days" in late.json()["allowed"]
    assert served.give({"id": ids[1], "reward": 1}).status_code == 200


@pytest.fixture
def guarded(stack: ExitStack, classifier_path: Path, tmp_path: Path) -> Served:
    keys = tmp_path / "keys"
    keys.write_text(f"anna: {ANNA}\nbruno: {BRUNO}\n")
    front = FrontConfig(auth=AuthConfig(keys_file=str(keys), texts_per_s=0.01, burst_texts=4))
    return Served(stack, classifier_path, tmp_path, front=front)


def test_the_keys_of_predictions_are_those_of_feedback(guarded: Served) -> None:
    request_id = guarded.ask(headers={"x-api-key": ANNA}).headers["x-request-id"]
    body = {"id": request_id, "reward": 1}
    assert guarded.give(body).status_code == 401
    assert guarded.give(body, **{"x-api-key": "none-of-these-0123456789"}).status_code == 403
    foreign = guarded.give(body, **{"x-api-key": BRUNO})
    assert foreign.status_code == 403
    assert "another key" in foreign.json()["error"]
    assert guarded.give(body, **{"x-api-key": ANNA}).status_code == 200
    assert guarded.outcomes() == {"foreign": 1, "recorded": 1}


def test_a_flood_of_feedback_is_charged_to_its_key(guarded: Served) -> None:
    """A text each, of the four that a key has at once."""
    request_id = guarded.ask(headers={"x-api-key": ANNA}).headers["x-request-id"]
    answers = [guarded.give({"id": request_id, "reward": 1}, **{"x-api-key": ANNA}) for _ in range(6)]
    assert [answer.status_code for answer in answers] == [200] * 3 + [429] * 3
    assert int(answers[-1].headers["retry-after"]) > 0
    assert guarded.ask(headers={"x-api-key": BRUNO}).status_code == 200


@pytest.mark.parametrize(
    ("body", "field", "says"),
    [
        ({"reward": 1}, "id", "missing"),
        ({"id": 5, "reward": 1}, "id", "a number"),
        ({"id": "", "reward": 1}, "id", "''"),
        ({"id": "x" * 129, "reward": 1}, "id", "xxx"),
        ({"id": "x"}, None, "no reward and no correction"),
        ({"id": "x", "reward": 1, "correction": {"label": "good"}}, None, "a reward and a correction"),
        ({"id": "x", "reward": 1.01}, "reward", "a number"),
        ({"id": "x", "reward": -0.01}, "reward", "a number"),
        ({"id": "x", "reward": True}, "reward", "a boolean"),
        ({"id": "x", "reward": "1"}, "reward", "'1'"),
        ({"id": "x", "reward": 1, "index": -1}, "index", "a number"),
        ({"id": "x", "correction": "good"}, "correction", "'good'"),
        ({"id": "x", "reward": 1, "rewards": 1}, "rewards", "unknown key"),
        ([], None, "a list"),
    ],
)
def test_a_body_of_another_shape_is_named(served: Served, body: Any, field: str | None, says: str) -> None:
    answer = served.give(body)
    assert answer.status_code == 422
    assert answer.json()["field"] == field
    assert says in answer.json()["error"]
    assert served.outcomes() == {"invalid": 1}


def test_a_body_that_is_no_json_or_says_a_thing_twice_is_refused(served: Served) -> None:
    headers = {"content-type": "application/json"}
    assert served.client.post("/feedback", content=b"{", headers=headers).status_code == 400
    twice = served.client.post("/feedback", content=b'{"id":"x","reward":1,"reward":0}', headers=headers)
    assert (twice.status_code, twice.json()["field"]) == (422, "reward")
    assert served.client.post("/feedback", content=b"{}", headers={"content-type": "text/plain"}).status_code == 415
    assert served.client.get("/feedback").status_code == 405


@pytest.mark.parametrize(
    ("correction", "says"),
    [({}, "absent"), ({"label": 5}, "5"), ({"label": ""}, "empty"), ({"label": "good", "text": "another"}, "text")],
)
def test_a_correction_is_what_a_labelled_record_holds(served: Served, correction: dict[str, Any], says: str) -> None:
    request_id = served.ask().headers["x-request-id"]
    answer = served.give({"id": request_id, "correction": correction})
    assert answer.status_code == 422
    assert says in answer.json()["error"]
    assert served.give({"id": request_id, "reward": 1}).status_code == 200


def test_spans_are_corrected_within_the_text(stack: ExitStack, tagger_path: Path, tmp_path: Path) -> None:
    served = Served(stack, tagger_path, tmp_path)
    request_id = served.ask(TEXTS[0]).headers["x-request-id"]
    beyond = {"spans": [{"start": 0, "end": 4_000, "label": "PER"}]}
    assert served.give({"id": request_id, "correction": beyond}).status_code == 422
    right = {"spans": [{"start": 0, "end": 4, "label": "PER"}]}
    assert served.give({"id": request_id, "correction": right}).status_code == 200
    record = served.logged(1)[0].as_record()
    assert record == {"text": TEXTS[0], **right}


def test_a_corrected_pair_is_data_with_both_texts(stack: ExitStack, judge_path: Path, tmp_path: Path) -> None:
    served = Served(stack, judge_path, tmp_path)
    pair = {"text": TEXTS[0], "text_pair": TEXTS[1]}
    request_id = served.ask(pair).headers["x-request-id"]
    body = {"id": request_id, "correction": {"label": "neutral"}}
    assert [served.give(body).json()["outcome"] for _ in range(2)] == ["recorded", "repeated"]
    record = served.logged(1)[0].as_record()
    assert record == {**pair, "label": "neutral"}
    read = served.predictor.engine.bundle.task.read_record(record, "log")
    assert (read.text, read.text_pair, read.label) == (*pair.values(), "neutral")


def test_a_corrected_answer_is_data_with_question_and_context(
    stack: ExitStack, reader_path: Path, tmp_path: Path
) -> None:
    served = Served(stack, reader_path, tmp_path)
    asked = {"question": "Who flew?", "context": TEXTS[0]}
    request_id = served.ask(asked).headers["x-request-id"]
    wrong = {"answers": {"text": ["Anna"], "answer_start": [5]}}
    refused = served.give({"id": request_id, "correction": wrong})
    assert (refused.status_code, refused.json()["field"]) == (422, "correction")
    assert "'Anna' stands at 0" in refused.json()["error"]
    right = {"answers": {"text": ["Anna"], "answer_start": [0]}}
    assert served.give({"id": request_id, "correction": right}).json()["outcome"] == "recorded"
    record = served.logged(1)[0].as_record()
    assert record == {**asked, **right}
    assert served.predictor.engine.bundle.task.read_record(record, "log").texts == ["Anna"]


def test_a_store_that_is_gone_costs_no_prediction(served: Served, tmp_path: Path) -> None:
    request_id = served.ask().headers["x-request-id"]
    served.logged(1)
    served.store.close()
    for file in tmp_path.glob("decisions.db*"):
        file.unlink()
    (tmp_path / "decisions.db").mkdir()
    served.predictor.decisions.store.close()  # type: ignore[union-attr]
    with concurrent.futures.ThreadPoolExecutor(8) as threads:
        answers = list(threads.map(lambda _: served.ask(), range(40)))
    assert len(answers) == 40
    gone = served.give({"id": request_id, "reward": 1})
    assert gone.status_code == 503
    assert "does not answer" in gone.json()["error"]
    assert "decisions.db" not in gone.text
    (tmp_path / "decisions.db").rmdir()
    served.store = DecisionStore(served.url)  # a new database: the tables are made again
    assert len(served.logged(40)) == 40


def test_without_a_store_there_is_no_feedback(serve_with: Any) -> None:
    url = serve_with()
    assert httpx.post(url + "/feedback", json={"id": "x", "reward": 1}).status_code == 404
    assert "/feedback" not in httpx.get(url + "/openapi.json").json()["paths"]
    assert httpx.get(url + "/info").json()["correction"] is None


def test_answers_are_drawn_with_the_probability_that_is_logged(
    stack: ExitStack, classifier_path: Path, tmp_path: Path
) -> None:
    served = Served(stack, classifier_path, tmp_path, explore=ExploreConfig(epsilon=0.6))
    best = served.ask(explore=False).json()[0]
    answers = [answer for _ in range(2) for answer in served.ask([TEXTS[0]] * 300).json()]
    drawn = Counter(answer[0]["label"] for answer in answers)
    assert set(drawn) == {"bad", "fair", "good"}
    assert 0.5 < drawn[best[0]["label"]] / 600 < 0.7  # 0.6; standard error 0.02
    assert all(sorted(map(str, answer)) == sorted(map(str, answers[0])) for answer in answers[:300])
    logged = [one.decision for one in served.logged(601)]
    for decision in logged[1:]:
        expected = 0.6 if json.loads(decision.answer)[0]["label"] == best[0]["label"] else 0.2
        assert decision.propensity == pytest.approx(expected)
        assert decision.chosen == "epsilon"
    assert (logged[0].propensity, logged[0].chosen) == (1.0, "greedy")


def test_whoever_asks_not_to_explore_gets_the_best_answer(
    stack: ExitStack, classifier_path: Path, tmp_path: Path
) -> None:
    served = Served(stack, classifier_path, tmp_path, explore=ExploreConfig(temperature=100))
    answers = served.ask([TEXTS[0]] * 200, explore=False, top_k=1).json()
    assert len({answer[0]["label"] for answer in answers}) == 1
    assert len({answer[0]["label"] for answer in served.ask([TEXTS[0]] * 200, top_k=1).json()}) == 3
    assert all((one.decision.propensity, one.decision.chosen) == (1.0, "greedy") for one in served.logged(400)[:200])


def test_only_classifiers_explore() -> None:
    check_explorable(TextClassification(), ExploreConfig(epsilon=0.1))
    check_explorable(TokenClassification(), ExploreConfig())
    with pytest.raises(ConfigError, match="token classification"):
        check_explorable(TokenClassification(), ExploreConfig(temperature=1))
    with pytest.raises(ConfigError, match="text pair classification"):  # whose callers may bring their own classes
        check_explorable(TextPairClassification(), ExploreConfig(temperature=1))


def test_every_answer_matches_the_openapi_document(served: Served) -> None:
    document = schemathesis.openapi.from_url(f"{served.client.base_url}/openapi.json")
    document.config.checks.positive_data_acceptance.expected_statuses += ["404", "422"]
    (operation,) = [found.ok() for found in document.get_all_operations() if found.ok().label == "POST /feedback"]
    served.predictor.decisions.config = FeedbackConfig(store=served.url, flush_s=0.001)  # type: ignore[union-attr]

    @given(case=operation.as_strategy())
    @settings(max_examples=60, deadline=None)
    def check(case: schemathesis.Case) -> None:
        case.call_and_validate()

    check()
