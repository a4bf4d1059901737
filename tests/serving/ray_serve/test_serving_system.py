"""`python serving/run.py` and `serve run` as real processes: Ray, HAProxy, HTTP, and nothing left behind."""

from __future__ import annotations

import concurrent.futures
import json
import os
import re
import select
import shutil
import signal
import socket
import subprocess
import sys
import threading
import uuid
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc
import httpx
import pytest
import tritonclient.http as triton
from huggingface_hub import InferenceClient
from prometheus_client.parser import text_string_to_metric_families

from agent.bundle import Bundle, write_bundle
from serving.api.open_inference.inference_pb2_grpc import GRPCInferenceServiceStub
from serving.inference.engine import Engine
from serving.inference.writing_engine import WritingEngine
from tests.ports import free_port
from tests.serving.api.test_open_inference import texts_tensor
from tests.serving.api.test_open_inference_grpc import inference, refused
from tests.serving.chromium import chromium, visiting
from tests.serving.tiny import TAGGER, TEXTS, make_bundle
from tests.waiting import until

pytestmark = pytest.mark.system
ROOT = Path(__file__).parents[3]
START_S = 150  # a busy machine takes its time


@dataclass
class Server:
    """A server of ours. Every process that descends from it carries `mark` in its environment."""

    process: subprocess.Popen[bytes]
    url: str
    mark: str
    log: Path
    bundle: Path
    grpc_place: str
    readiness: list[tuple[int, int]] = field(default_factory=list)

    def seen(self) -> str:
        """The log, after a look at whether the server says that it is ready, and whether its last agent does."""
        statuses = []
        for path in ("/ready", "/models/talker/ready"):
            try:
                statuses.append(httpx.get(self.url + path, timeout=5).status_code)
            except httpx.TransportError:
                return self.log.read_text()  # HAProxy is not there yet, or waits for a replica
        self.readiness.append((statuses[0], statuses[1]))
        return self.log.read_text()

    def processes(self) -> dict[int, list[str]]:
        """Arguments of every living process of this server."""
        found = {}
        for entry in Path("/proc").glob("[0-9]*"):
            try:
                if self.mark.encode() in (entry / "environ").read_bytes():
                    found[int(entry.name)] = (entry / "cmdline").read_bytes().decode().split("\0")
            except OSError:
                continue
        return found

    def names(self) -> set[str]:
        return {Path(arguments[0]).name for arguments in self.processes().values()}


@pytest.fixture(scope="module")
def server(
    tagger_path: Path, classifier_path: Path, talker_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Server]:
    bundle = shutil.copytree(tagger_path, tmp_path_factory.mktemp("served") / "bundle")
    port, grpc_port = free_port(), free_port()
    mark, log = f"bert-agent-{uuid.uuid4()}", tmp_path_factory.mktemp("run") / "log"
    environment = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"}
    with log.open("wb") as stream:
        process = subprocess.Popen(
            [
                sys.executable, "serving/run.py", f"bundle={bundle}", f"agents={{classes: {classifier_path}, talker: {talker_path}}}", f"port={port}", f"grpc_port={grpc_port}",
                "replicas.num_cpus=1", "cluster.num_cpus=4", "rollout.poll_s=0.2", "rollout.canary_s=1", "rollout.min_agreement=0",
                f"feedback.store=sqlite:///{log.parent / 'decisions.db'}",
            ],
            cwd=ROOT, env=environment | {"BERT_AGENT_TEST": mark}, stdout=stream, stderr=stream, start_new_session=True,
        )  # fmt: skip
    server = Server(process, f"http://127.0.0.1:{port}", mark, log, bundle, f"127.0.0.1:{grpc_port}")
    try:
        assert until(lambda: "serving at" in server.seen() or process.poll() is not None, START_S)
        assert process.poll() is None, log.read_text()
        yield server
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGTERM)
            try:
                process.wait(60)
            except subprocess.TimeoutExpired:
                process.kill()
        for pid in server.processes():
            os.kill(pid, signal.SIGKILL)


def test_served_predictions_equal_those_in_process_to_the_last_bit(server: Server, engine: Engine) -> None:
    requests = [*TEXTS, TEXTS, [" ".join(TEXTS * 5), "Oslo", *TEXTS * 6]]
    for inputs in requests:
        answer = httpx.post(server.url, json={"inputs": inputs}, timeout=20)
        texts = [inputs] if isinstance(inputs, str) else inputs
        expected = engine.predict(texts)
        assert answer.json() == (expected[0] if isinstance(inputs, str) else expected)


def test_an_agent_that_writes_answers_whole_and_token_by_token(
    server: Server, talker_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    client, text = InferenceClient(model=f"{server.url}/models/talker"), "oslo to lima in pune"
    engine = WritingEngine(Bundle.load(talker_path))
    ((wanted,),) = engine.predict([text], engine.task.parameters(max_new_tokens=12))
    assert client.text_generation(text, max_new_tokens=12) == wanted["generated_text"]
    pieces = list(client.text_generation(text, max_new_tokens=12, stream=True))
    assert (len(pieces), "".join(pieces)) == (12, wanted["generated_text"])
    turns = [{"role": "user", "content": "anna went to"}]
    whole = client.chat_completion(turns, max_tokens=6).choices[0].message.content
    parts = client.chat_completion(turns, max_tokens=6, stream=True)
    assert "".join(part.choices[0].delta.content or "" for part in parts) == whole


def test_haproxy_stands_before_it(server: Server) -> None:
    assert {"haproxy", "raylet", "gcs_server"} <= server.names()
    assert httpx.get(server.url + "/-/healthz").text == "success"


def test_bad_requests_keep_their_answers_behind_haproxy(server: Server) -> None:
    headers = {"content-type": "application/json"}
    statuses = [
        httpx.post(server.url, content=body, headers=headers, timeout=20).status_code
        for body in (b"{", b'{"inputs": 1}', b'{"inputs": ""}', b"\xff\xfe", b'{"inputs": "' + b"a" * 5_000_000 + b'"}')
    ]
    assert statuses == [400, 422, 422, 400, 413]
    assert httpx.get(server.url).status_code == 406
    assert "/ready" in httpx.get(server.url + "/nowhere").json()["allowed"]


def test_many_callers_at_once_are_all_answered(server: Server) -> None:
    with concurrent.futures.ThreadPoolExecutor(16) as callers, httpx.Client(timeout=60) as client:
        texts = [f"{TEXTS[n % 4]} {n}" for n in range(200)]
        answers = list(callers.map(lambda text: client.post(server.url, json={"inputs": text}), texts))
    assert {answer.status_code for answer in answers} == {200}
    for text, answer in zip(texts, answers, strict=True):
        assert all(text[item["start"] : item["end"]] == item["word"] for item in answer.json())


def test_explanations_and_predictions_go_through_haproxy_together(server: Server, classifier_path: Path) -> None:
    """Under load of predictions every explanation is answered, by its agent and about its text, and no prediction is lost."""
    over, answers = threading.Event(), list[tuple[str, int, list[dict[str, Any]]]]()

    def ask() -> None:
        with httpx.Client(timeout=60) as client:
            while not over.is_set():
                for text in TEXTS:
                    answer = client.post(server.url, json={"inputs": text})
                    answers.append((text, answer.status_code, answer.json()))

    def explain(place: str, text: str) -> httpx.Response:
        return httpx.post(f"{server.url}{place}/explain", json={"inputs": text}, timeout=60)

    callers = [threading.Thread(target=ask) for _ in range(8)]
    for caller in callers:
        caller.start()
    try:
        assert until(lambda: len(answers) >= 8)
        with concurrent.futures.ThreadPoolExecutor(2) as explaining:  # as many as a replica explains at once
            asked = [(place, text) for text in TEXTS[:3] for place in ("", "/models/classes")]
            found = list(explaining.map(lambda one: explain(*one), asked))
    finally:
        over.set()
        for caller in callers:
            caller.join()
    digests = {"": Bundle.load(server.bundle).digest, "/models/classes": Bundle.load(classifier_path).digest}
    for (place, text), answer in zip(asked, found, strict=True):
        assert answer.status_code == 200, answer.text
        told = answer.json()
        assert (told["bundle"], told["interventions"] > 0) == (digests[place], True)
        assert all(0 <= decision["probability"] <= 1 for decision in told["decisions"])
        causes = [cause for decision in told["decisions"] for cause in decision["causes"]]
        assert causes
        assert all(text[cause["start"] : cause["end"]] == cause["word"] for cause in causes)
    assert {status for _, status, _ in answers} == {200}
    assert all(text[item["start"] : item["end"]] == item["word"] for text, _, answer in answers for item in answer)
    own = sum(not place for place, _ in asked)  # /metrics tells of the first agent
    assert _sample(server, "bert_agent_explanations_total", outcome="answered") == own


def test_the_work_of_a_caller_who_hangs_up_is_dropped(server: Server) -> None:
    before = _sample(server, "bert_agent_rejected_requests_total", reason="cancelled")
    body = json.dumps({"inputs": [TEXTS[3] * 3] * 500}).encode()
    head = f"POST / HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\ncontent-length: {len(body)}\r\n\r\n"
    answered = True
    while answered:  # a fast server, before the caller saw that it computes; the test's own limit ends this
        with socket.create_connection(("127.0.0.1", int(server.url.rpartition(":")[2]))) as client:
            client.sendall(head.encode() + body)
            assert until(lambda: _is_readable(client) or _sample(server, "bert_agent_queued_tokens"), pause_s=0.005)
            answered = _is_readable(client)
    assert until(lambda: _sample(server, "bert_agent_rejected_requests_total", reason="cancelled") == before + 1)
    assert _sample(server, "bert_agent_queued_tokens") == 0


def test_a_server_is_not_ready_before_its_last_agent_is(server: Server) -> None:
    assert (503, 404) in server.readiness, "the first agent was asked while it was alone"
    assert all(last == 200 for first, last in server.readiness if first == 200)
    assert until(lambda: httpx.get(server.url + "/ready").status_code == 200)


def test_further_agents_stand_beside_the_first(server: Server, classifier_path: Path) -> None:
    answer = httpx.post(f"{server.url}/models/classes", json={"inputs": TEXTS[0]}, timeout=20)
    assert answer.json() == Engine(Bundle.load(classifier_path)).predict(TEXTS[:1])
    info = httpx.get(f"{server.url}/models/classes/info").json()
    assert (info["agent"], info["task"]) == ("classes", "text_classification")
    assert httpx.post(f"{server.url}/models/bundle", json={"inputs": "Anna"}, timeout=20).status_code == 200
    unknown = httpx.post(f"{server.url}/models/classics", json={"inputs": "Anna"}, timeout=20)
    assert (unknown.status_code, unknown.json()["allowed"]) == (404, "bundle")


def test_the_client_of_hugging_face_reaches_every_agent(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)  # it would refuse even this machine
    for url in (server.url, f"{server.url}/models/bundle"):
        found = InferenceClient(model=url).token_classification(
            TEXTS[0], aggregation_strategy="simple", ignore_labels=["PER"], stride=4
        )
        assert all(TEXTS[0][item.start : item.end] == item.word and item.entity_group != "PER" for item in found)
    labels = InferenceClient(model=f"{server.url}/models/classes").text_classification(TEXTS[0], top_k=2)
    assert len(labels) == 2


def test_tritonclient_reaches_every_agent_over_http(server: Server, engine: Engine, classifier_path: Path) -> None:
    place = server.url.removeprefix("http://")
    tensor = texts_tensor(TEXTS[:1], binary=True)
    with triton.InferenceServerClient(place) as client:
        assert client.is_model_ready("bundle")
        found = client.infer("bundle", [tensor]).as_numpy("entities")
    with triton.InferenceServerClient(f"{place}/models/classes") as client:
        assert client.is_server_ready()
        label = client.infer("classes", [tensor]).as_numpy("label")
    assert json.loads(found[0]) == engine.predict(TEXTS[:1])[0]
    assert label[0].decode() == Engine(Bundle.load(classifier_path)).predict(TEXTS[:1])[0][0]["label"]


@pytest.mark.parametrize("name", ["bundle", "classes"])
def test_tritonclient_reaches_every_agent_over_grpc(
    server: Server, tagger_path: Path, classifier_path: Path, name: str
) -> None:
    command = [
        sys.executable,
        str(Path(__file__).with_name("triton_caller.py")),
        server.grpc_place,
        name,
        name,
        TEXTS[0],
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert (told["live"], told["ready"], told["id"], told["metadata"]["name"]) == (True, True, "seven", name)
    expected = Engine(Bundle.load(tagger_path if name == "bundle" else classifier_path)).predict(TEXTS[:1])[0]
    outputs = told["outputs"]
    assert json.loads(outputs["entities" if name == "bundle" else "labels"][0]) == expected
    assert name == "bundle" or outputs["score"] == pytest.approx([expected[0]["score"]])
    assert told["refused"] == [
        "StatusCode.NOT_FOUND",
        f"there is no agent 'other' here. Allowed: {name}. Remedy: see /info.",
    ]


def test_a_generated_stub_is_refused_as_over_http_and_its_hang_ups_drop_the_work(server: Server) -> None:
    here = [("application", "bundle")]
    with grpc.insecure_channel(server.grpc_place) as channel:
        stub = GRPCInferenceServiceStub(channel)
        refused(stub.ModelInfer, inference(["Anna"]), grpc.StatusCode.NOT_FOUND)  # of two applications neither is named
        refused(stub.ModelInfer, inference(["a"] * 1_001), grpc.StatusCode.INVALID_ARGUMENT, metadata=here)
        refused(stub.ModelInfer, inference(["a" * 5_000_000]), grpc.StatusCode.INVALID_ARGUMENT, metadata=here)
        refused(stub.ModelInfer, inference(["a" * 40_000_000]), grpc.StatusCode.RESOURCE_EXHAUSTED, metadata=here)
        late = [*here, ("x-request-timeout-seconds", "0.02")]
        refused(stub.ModelInfer, inference([TEXTS[3] * 3] * 500), grpc.StatusCode.DEADLINE_EXCEEDED, metadata=late)
        before = _sample(server, "bert_agent_rejected_requests_total", reason="cancelled")
        cancelled = False
        while not cancelled:  # a fast server may have answered before it is told; the test's own limit ends this
            abandoned = stub.ModelInfer.future(inference([TEXTS[3] * 3] * 500), metadata=here)
            assert until(lambda: abandoned.done() or _sample(server, "bert_agent_queued_tokens"), pause_s=0.005)  # noqa: B023
            abandoned.cancel()
            assert until(lambda: _sample(server, "bert_agent_queued_tokens") == 0)
            cancelled = _sample(server, "bert_agent_rejected_requests_total", reason="cancelled") > before
        assert _sample(server, "bert_agent_rejected_requests_total", reason="cancelled") == before + 1
        assert _sample(server, "bert_agent_queued_tokens") == 0
        assert stub.ModelInfer(inference(["Anna"]), metadata=here, timeout=20).model_name == "bundle"


def test_lines_stream_through_haproxy_as_they_are_computed(server: Server) -> None:
    """While the caller reads no further, what HAProxy and the sockets take is all that is computed."""
    asked = {"inputs": TEXTS[3] * 6, "parameters": {"aggregation_strategy": "none", "ignore_labels": []}}
    body = (json.dumps(asked) + "\n") * 4_000
    headers = {"content-type": "application/x-ndjson"}
    before = _sample(server, "bert_agent_texts_total")
    with httpx.stream("POST", server.url, content=body, headers=headers, timeout=60) as answer:
        arriving = answer.iter_lines()
        first = next(arriving)
        assert 0 < _sample(server, "bert_agent_texts_total") - before < 4_000
        rest = list(arriving)
    assert len(rest) == 3_999
    assert all(isinstance(json.loads(line), list) for line in (first, *rest))


def test_feedback_finds_the_decisions_of_every_agent_whatever_replica_answered(server: Server) -> None:
    stream = {"content-type": "application/x-ndjson"}
    answers = [
        (place, httpx.post(place, timeout=20, **asked))
        for place in (server.url, f"{server.url}/models/classes")
        for asked in ({"json": {"inputs": TEXTS[0]}}, {"content": json.dumps(TEXTS[0]), "headers": stream})
        for _ in range(2)
    ]
    for place, answer in answers:
        given = {"id": answer.headers["x-request-id"], "reward": 0.5}
        assert httpx.post(f"{place}/feedback", json=given, timeout=20).json()["outcome"] == "recorded"
        assert httpx.post(f"{place}/feedback", json=given, timeout=20).json()["outcome"] == "repeated"
    foreign = {"id": answers[0][1].headers["x-request-id"], "reward": 1}
    assert httpx.post(f"{server.url}/models/classes/feedback", json=foreign, timeout=20).status_code == 404


def test_a_shell_with_curl_is_all_that_is_needed(server: Server, tmp_path: Path) -> None:
    def curl(*arguments: str) -> str:
        command = ["curl", "--silent", "--show-error", "--fail-with-body", *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=30).stdout

    sending = ["-H", "content-type: application/json", "-d"]
    assert json.loads(curl(server.url, *sending, '{"inputs": "Anna"}')) == json.loads(
        curl(f"{server.url}/models/bundle", *sending, '{"inputs": "Anna"}')
    )
    tensor = '{"inputs": [{"name": "text", "datatype": "BYTES", "shape": [1], "data": ["Anna"]}]}'
    told = json.loads(curl(f"{server.url}/v2/models/bundle/infer", *sending, tensor))
    assert told["outputs"][0]["name"] == "entities"
    (tmp_path / "texts").write_text('"Anna"\n{"inputs": "Oslo"}\n')
    streamed = curl(server.url, "-N", "-H", "content-type: application/x-ndjson", "--data-binary", f"@{tmp_path}/texts")
    assert len(streamed.splitlines()) == 2


@pytest.mark.browser
def test_the_page_works_for_each_agent(server: Server) -> None:
    with chromium() as browser:
        for path, shown in (("", ".marked"), ("/models/classes", ".ranked")):
            with visiting(browser, server.url + path) as page:
                assert page.url == f"{server.url}{path}/"
                page.get_by_label("Text", exact=True).fill(TEXTS[0])
                page.keyboard.press("Control+Enter")
                page.locator(shown).wait_for()


def test_a_new_version_takes_over_under_load_without_a_lost_request(
    server: Server, tmp_path_factory: pytest.TempPathFactory
) -> None:
    new = make_bundle(tmp_path_factory.mktemp("new") / "bundle", TAGGER, seed=1)
    before, digest = httpx.get(server.url + "/info").json()["bundle"], Bundle.load(new).digest
    assert before != digest
    over, statuses = threading.Event(), []

    def ask() -> None:
        with httpx.Client(timeout=60) as client:
            while not over.is_set():
                statuses.append(client.post(server.url, json={"inputs": TEXTS[0]}).status_code)

    callers = [threading.Thread(target=ask) for _ in range(8)]
    for caller in callers:
        caller.start()
    try:
        with write_bundle(server.bundle, overwrite=True) as draft:
            shutil.copytree(new, draft.path, dirs_exist_ok=True)
        assert until(lambda: httpx.get(server.url + "/info").json()["bundle"] == digest)
    finally:
        over.set()
        for caller in callers:
            caller.join()
    assert set(statuses) == {200}
    answer = httpx.post(server.url, json={"inputs": TEXTS}, timeout=20).json()
    assert answer == Engine(Bundle.load(new)).predict(TEXTS)
    assert _sample(server, "bert_agent_rollouts_total", outcome="promoted") == 1


def test_metrics_come_with_the_replica_that_counted(server: Server) -> None:
    families = {
        family.name: family for family in text_string_to_metric_families(httpx.get(server.url + "/metrics").text)
    }
    assert families["bert_agent_texts"].samples[0].value >= 200
    assert {"bert_agent_batch_tokens", "bert_agent_stage_seconds", "bert_agent_info"} <= set(families)
    assert all(sample.labels["replica"] for sample in families["bert_agent_requests"].samples)


def test_serve_run_takes_the_same_application(server: Server, classifier_path: Path) -> None:
    gcs = next(
        found for text in server.processes().values() if (found := re.search(r"--gcs-address=(\S+)", " ".join(text)))
    )
    command = [
        Path(sys.executable).with_name("serve"), "run", "serving.app:build", f"bundle={classifier_path}", "replicas.max_replicas=1",
        "--name", "second", "--route-prefix", "/second", "--non-blocking",
    ]  # fmt: skip
    switches = {"RAY_SERVE_ENABLE_HA_PROXY": "1", "RAY_SERVE_THROUGHPUT_OPTIMIZED": "1"}
    environment = (
        os.environ | switches | {"RAY_ADDRESS": gcs[1], "RAY_AUTH_MODE": "token", "BERT_AGENT_TEST": server.mark}
    )
    done = subprocess.run(
        command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=START_S, check=False
    )
    assert done.returncode == 0, done.stderr
    assert until(lambda: httpx.get(server.url + "/second/ready").status_code == 200)
    assert len(httpx.post(server.url + "/second", json={"inputs": "fine"}, follow_redirects=True).json()[0]) == 3


def test_ctrl_c_stops_everything_that_was_started(server: Server) -> None:
    os.killpg(server.process.pid, signal.SIGINT)  # as a terminal does: to the whole group
    assert server.process.wait(90) == 0, server.log.read_text()
    assert until(lambda: not server.processes())
    assert "stopped" in server.log.read_text()


def _is_readable(client: socket.socket) -> bool:
    return bool(select.select([client], [], [], 0)[0])


def _sample(server: Server, name: str, **labels: str) -> float:
    families = text_string_to_metric_families(httpx.get(server.url + "/metrics").text)
    found = [
        s.value for family in families for s in family.samples if s.name == name and labels.items() <= s.labels.items()
    ]
    return sum(found)
