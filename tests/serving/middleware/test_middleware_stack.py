"""What stands before the routes, on a real socket: keys, rates, ids, the access log, origins."""

from __future__ import annotations

import concurrent.futures
import json
import logging
import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import schemathesis
from hypothesis import given, settings
from schemathesis.specs.openapi.checks import ignored_auth
from starlette.testclient import TestClient

from agent.bundle import Bundle
from agent.errors import ConfigError
from serving.api.http_app import create_app
from serving.inference.engine import Engine
from serving.middleware.access_log import LogConfig
from serving.middleware.api_keys import AuthConfig
from serving.middleware.middleware_stack import CorsConfig, FrontConfig, MiddlewareStack
from serving.scheduling.predictor import Predictor
from tests.serving.conftest import listening
from tests.serving.gated import gated
from tests.serving.tiny import TEXTS
from tests.waiting import until

KEY, OTHER, NEW = "anna-0123456789abcdef", "0123456789abcdef-bruno", "chidi-0123456789abcdef"
BEARER = {"authorization": f"Bearer {KEY}"}
TEXT = {"inputs": TEXTS[0]}


@pytest.fixture(scope="module")
def keys_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("secret") / "keys"
    file.write_text(f"anna: {KEY}\n{OTHER}\n")
    return file


@pytest.fixture(scope="module")
def guarded(tagger_path: Path, keys_file: Path) -> Iterator[str]:
    front = FrontConfig(
        auth=AuthConfig(keys_file=str(keys_file)), cors=CorsConfig(allow_origins=("https://app.example.com",))
    )
    with listening(Predictor(Engine(Bundle.load(tagger_path))), front=front) as url:
        yield url


@pytest.mark.parametrize(
    "headers",
    [BEARER, {"authorization": f"bearer  {KEY}"}, {"x-api-key": KEY}, {"x-api-key": OTHER},
     {"authorization": "Basic YTpi", "x-api-key": KEY}],
)  # fmt: skip
def test_who_shows_a_key_is_answered(guarded: str, headers: dict[str, str]) -> None:
    assert httpx.post(guarded, json=TEXT, headers=headers).status_code == 200
    assert httpx.get(guarded + "/info", headers=headers).status_code == 200


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({}, 401),
        ({"authorization": "Basic YTpi"}, 401),
        ({"authorization": "Bearer"}, 401),
        ({"x-api-key": ""}, 401),
        ({"authorization": "Bearer nobody"}, 403),
        ({"authorization": f"Bearer {KEY}x"}, 403),
        ({"authorization": KEY}, 401),
        ({"x-api-key": "é"}, 403),
        ({"cookie": f"key={KEY}"}, 401),
    ],
)
def test_who_shows_none_or_a_wrong_one_is_refused(guarded: str, headers: dict[str, str], status: int) -> None:
    raw = {name: value.encode("latin-1") for name, value in headers.items()}
    answer = httpx.post(guarded, json=TEXT, headers=raw)
    assert answer.status_code == status
    assert answer.json()["remedy"]
    assert ("bearer" in answer.headers.get("www-authenticate", "").lower()) == (status == 401)
    assert KEY not in answer.text
    assert answer.headers["x-request-id"]


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("POST", "/"), ("PUT", "/"), ("OPTIONS", "/"), ("GET", "/info"), ("GET", "/metrics"), ("GET", "/docs"), ("GET", "/openapi.json"),
        ("GET", "/nowhere"), ("GET", "//health"), ("GET", "/health/../info"), ("GET", "/health/"), ("GET", "/v2/health/other"),
        ("GET", "/%2e%2e/metrics"), ("GET", "/HEALTH"), ("POST", "/?x=/health"), ("POST", "/static/a"), ("GET", "/static"), ("GET", "/%2fstatic/a"), ("GET", "/info;/health"),
    ],
)  # fmt: skip
def test_without_a_key_nothing_but_health_and_the_page_is_open(guarded: str, method: str, path: str) -> None:
    with httpx.Client(base_url=guarded) as client:
        assert client.request(method, httpx.URL(guarded).copy_with(raw_path=path.encode())).status_code == 401


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/health"),
        ("GET", "/ready"),
        ("GET", "/v2/health/live"),
        ("GET", "/"),
        ("HEAD", "/"),
        ("GET", "/static/page.js"),
    ],
)
def test_probes_and_the_page_need_no_key(guarded: str, method: str, path: str) -> None:
    assert httpx.request(method, guarded + path).status_code not in (401, 403)


def test_below_a_prefix_the_same_is_open_and_browsers_are_sent_to_the_page(keys_file: Path, tagger_path: Path) -> None:
    """`/models/NAME` as Ray Serve hands it to an application of that prefix: the page's own addresses need the slash."""
    predictor, prefix = Predictor(Engine(Bundle.load(tagger_path))), "/models/bundle"
    app = create_app(predictor, front=MiddlewareStack(FrontConfig(auth=AuthConfig(keys_file=str(keys_file)))))
    with TestClient(app, root_path=prefix, follow_redirects=False) as client:
        page = client.get(prefix, headers={"accept": "text/html"})
        assert (page.status_code, page.headers["location"]) == (
            307,
            "bundle/",
        )  # beside itself: whatever stands before may have another host
        statuses = {
            path: client.get(prefix + path).status_code for path in ("/", "/health", "/static/page.js", "/info")
        }
        assert statuses == {"/": 406, "/health": 200, "/static/page.js": 200, "/info": 401}
        for path in ("", "/"):
            assert client.post(prefix + path, json=TEXT).status_code == 401
            assert client.post(prefix + path, json=TEXT, headers=BEARER).status_code == 200
    predictor.close()


def test_the_openapi_document_says_where_a_key_is_asked_for(guarded: str, tagger_url: str) -> None:
    document = httpx.get(guarded + "/openapi.json", headers=BEARER).json()
    assert {item["type"] for item in document["components"]["securitySchemes"].values()} == {"http", "apiKey"}
    assert document["security"] == [{"bearer": []}, {"header": []}]
    assert {path for path, item in document["paths"].items() if item.get("get", {}).get("security") == []} == {
        "/health",
        "/ready",
        "/v2/health/live",
        "/v2/health/ready",
    }
    assert "security" not in httpx.get(tagger_url + "/openapi.json").json()


@pytest.mark.parametrize("method", ["POST /", "GET /info", "GET /metrics"])
def test_no_request_without_a_key_gets_through_however_it_is_made(guarded: str, method: str) -> None:
    document = schemathesis.openapi.from_url(guarded + "/openapi.json", headers=BEARER)
    operation = next(found.ok() for found in document.get_all_operations() if found.ok().label == method)

    @settings(max_examples=15, deadline=None)
    @given(case=operation.as_strategy())
    def ask(case: Any) -> None:
        case.call_and_validate(headers={"Authorization": f"Bearer {KEY}"}, checks=[ignored_auth])

    ask()


def test_refusals_are_counted_by_reason(serve_with: Callable[..., str], keys_file: Path) -> None:
    url = serve_with(front=FrontConfig(auth=AuthConfig(keys_file=str(keys_file), texts_per_s=0.01, burst_texts=1)))
    for headers in ({}, {"x-api-key": "nobody"}, {"x-api-key": "nobody"}, BEARER, BEARER):
        httpx.post(url, json=TEXT, headers=headers)
    metrics = httpx.get(url + "/metrics", headers=BEARER).text
    for reason, count in {"unauthorized": 1, "forbidden": 2, "rate_limited": 1}.items():
        assert f'reason="{reason}",replica="local"}} {count}.0' in metrics


def test_a_body_is_not_read_before_the_key_is_checked(guarded: str) -> None:
    with httpx.Client() as client:
        answer = client.post(guarded, content=b"{" * 5_000_000, headers={"content-type": "text/plain"})
    assert answer.status_code == 401  # neither 413 nor 415


def test_keys_are_rotated_without_a_restart(serve_with: Callable[..., str], tmp_path: Path) -> None:
    file = tmp_path / "keys"
    file.write_text(f"{KEY}\n")
    url = serve_with(front=FrontConfig(auth=AuthConfig(keys_file=str(file))))
    (tmp_path / "next").write_text(f"{NEW}\n")
    (tmp_path / "next").rename(file)
    assert until(lambda: httpx.get(url + "/info", headers={"x-api-key": NEW}).status_code == 200)
    assert httpx.get(url + "/info", headers=BEARER).status_code == 403


def test_a_key_that_used_its_texts_gets_429_and_others_are_served(
    serve_with: Callable[..., str], keys_file: Path
) -> None:
    front = FrontConfig(auth=AuthConfig(keys_file=str(keys_file), texts_per_s=0.01, burst_texts=10))
    url = serve_with(front=front)
    statuses = [httpx.post(url, json={"inputs": TEXTS}, headers=BEARER).status_code for _ in range(3)]
    refused = httpx.post(url, json=TEXT, headers=BEARER)
    assert statuses == [200, 200, 200]  # 12 texts: the last request overdraws
    assert refused.status_code == 429
    assert int(refused.headers["retry-after"]) > 100
    assert "0.01 texts/s" in refused.json()["allowed"]
    assert httpx.post(url, json=TEXT, headers={"x-api-key": OTHER}).status_code == 200
    assert httpx.post(url, json={"inputs": ["a"] * 1_001}, headers={"x-api-key": OTHER}).status_code == 413
    assert httpx.get(url + "/info", headers=BEARER).status_code == 200


def test_texts_refused_because_the_server_was_full_cost_the_key_nothing(
    serve_with: Callable[..., str], keys_file: Path, tagger_path: Path
) -> None:
    slow = gated(tagger_path)
    front = FrontConfig(auth=AuthConfig(keys_file=str(keys_file), texts_per_s=0.001, burst_texts=2))
    url = serve_with(warm=False, engine=slow, front=front, max_concurrent_requests=1)
    with concurrent.futures.ThreadPoolExecutor(1) as callers:
        first = callers.submit(httpx.post, url, json=TEXT, headers=BEARER, timeout=20)
        assert until(lambda: slow.free < 0)  # it is computed
        for _ in range(4):
            refused = httpx.post(url, json=TEXT, headers=BEARER)
            assert (refused.status_code, "busy" in refused.text) == (429, True)
        slow.gate.set()
        assert first.result().status_code == 200
    assert httpx.post(url, json=TEXT, headers=BEARER).status_code == 200


def test_a_request_keeps_its_id_and_gets_one_without(tagger_url: str) -> None:
    given = httpx.post(tagger_url, json=TEXT, headers={"x-request-id": "order-66:a/b=1"})
    assert given.headers.get_list("x-request-id") == ["order-66:a/b=1"]
    made = {httpx.get(tagger_url + path).headers["x-request-id"] for path in ("/health", "/nowhere", "/", "/health")}
    assert len(made) == 4


@pytest.mark.parametrize("given", ["a" * 129, "a b", 'a"b', "é", "-a", "a\tb", "${jndi:x}", "{}"])
def test_an_id_that_could_break_a_log_is_refused(tagger_url: str, given: str) -> None:
    answer = httpx.post(tagger_url, json=TEXT, headers={"x-request-id": given.encode("latin-1")})
    assert (answer.status_code, answer.json()["field"]) == (400, "x-request-id")
    assert answer.headers["x-request-id"] != given


def lines(directory: Path, count: int = 1) -> list[dict[str, Any]]:
    """What an access log holds as soon as that is enough."""
    file = directory / "access-local.log"
    assert until(lambda: len(file.read_text().splitlines()) >= count)
    return [json.loads(line) for line in file.read_text().splitlines()]


def test_the_access_log_tells_everything_but_the_text(
    serve_with: Callable[..., str], keys_file: Path, tmp_path: Path
) -> None:
    url = serve_with(front=FrontConfig(auth=AuthConfig(keys_file=str(keys_file)), log=LogConfig(access=str(tmp_path))))
    httpx.post(url, json={"inputs": TEXTS[:2]}, headers=BEARER | {"x-request-id": "one"})
    httpx.post(url, json={"inputs": TEXTS[0], "secret text": 1}, headers={"x-api-key": OTHER})
    httpx.post(url, json=TEXT)
    httpx.get(url + "/no/secret%0Apath?secret=text", headers=BEARER)
    first, invalid, stranger, nowhere = logged = lines(tmp_path, 4)
    assert first["seconds"] > 0
    assert first["time"].endswith("+00:00")
    told = {name: value for name, value in first.items() if name not in ("time", "seconds")}
    assert told == {
        "id": "one", "method": "POST", "route": "/", "status": 200, "texts": 2, "characters": len("".join(TEXTS[:2])),
        "key": "anna", "client": "127.0.0.1",
    }  # fmt: skip
    assert (invalid["status"], invalid["texts"], invalid["key"][:4]) == (422, 0, "key-")
    assert (stranger["status"], stranger["key"]) == (401, "")
    assert (nowhere["status"], nowhere["route"]) == (404, "other")
    everything = json.dumps(logged)
    assert not any(word in everything for word in (TEXTS[0], "secret", KEY, OTHER))


def test_texts_are_logged_only_when_asked_for(serve_with: Callable[..., str], tmp_path: Path) -> None:
    url = serve_with(front=FrontConfig(log=LogConfig(access=str(tmp_path), texts=True)))
    httpx.post(url, json={"inputs": TEXTS[:2]})
    assert lines(tmp_path)[0]["text"] == TEXTS[:2]


HEAD = b"POST / HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\ncontent-length: 10\r\n\r\n{"


def test_a_caller_who_hangs_up_within_the_body_is_no_failure_of_ours(
    serve_with: Callable[..., str], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    url = serve_with(front=FrontConfig(log=LogConfig(access=str(tmp_path))))
    with _connect(url) as client:
        client.sendall(HEAD)
    assert lines(tmp_path)[0]["status"] == 499
    assert [record for record in caplog.records if record.levelno >= logging.WARNING] == []
    assert 'rejected_requests_total{reason="cancelled",replica="local"} 1.0' in httpx.get(url + "/metrics").text


def test_a_body_that_does_not_come_is_given_up(serve_with: Callable[..., str]) -> None:
    url = serve_with(max_body_s=0.3)
    with _connect(url) as client:
        client.sendall(HEAD)
        answer = client.recv(65_536)
    assert answer.startswith(b"HTTP/1.1 408")
    assert b"within 0.3 s" in answer
    assert 'rejected_requests_total{reason="timeout",replica="local"} 1.0' in httpx.get(url + "/metrics").text


def test_the_access_log_is_for_its_owner_only(serve_with: Callable[..., str], tmp_path: Path) -> None:
    httpx.get(serve_with(front=FrontConfig(log=LogConfig(access=str(tmp_path / "new")))) + "/health")
    assert (tmp_path / "new" / "access-local.log").stat().st_mode & 0o777 == 0o600


def test_an_access_log_that_cannot_be_written_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(ConfigError, match="cannot be written"):
        MiddlewareStack(FrontConfig(log=LogConfig(access=str(tmp_path / "file"))))


def test_the_address_that_a_proxy_saw_is_logged(serve_with: Callable[..., str], tmp_path: Path) -> None:
    url = serve_with(front=FrontConfig(log=LogConfig(access=str(tmp_path))))
    httpx.get(url + "/health", headers=[("x-forwarded-for", "1.1.1.1, 2.2.2.2"), ("x-forwarded-for", "10.0.0.7")])
    assert lines(tmp_path)[0]["client"] == "10.0.0.7"


def test_no_page_of_another_origin_may_read_answers_unless_allowed(tagger_url: str) -> None:
    origin = {"origin": "https://app.example.com"}
    assert "access-control-allow-origin" not in httpx.post(tagger_url, json=TEXT, headers=origin).headers
    preflight = origin | {"access-control-request-method": "POST"}
    assert "access-control-allow-origin" not in httpx.options(tagger_url, headers=preflight).headers


def test_allowed_origins_may_ask_with_a_key_and_others_may_not(guarded: str) -> None:
    origin = {"origin": "https://app.example.com"}
    asked = {"access-control-request-method": "POST", "access-control-request-headers": "authorization,x-request-id"}
    preflight = httpx.options(guarded, headers=origin | asked)
    assert preflight.status_code == 200
    assert preflight.headers["access-control-allow-origin"] == origin["origin"]
    for headers, status in ((BEARER, 200), ({}, 401)):
        answer = httpx.post(guarded, json=TEXT, headers=origin | headers)
        assert (answer.status_code, answer.headers["access-control-allow-origin"]) == (status, origin["origin"])
        assert "access-control-allow-credentials" not in answer.headers
    other = httpx.post(guarded, json=TEXT, headers=BEARER | {"origin": "https://evil.example.com"})
    assert "access-control-allow-origin" not in other.headers
    assert httpx.options(guarded, headers={"origin": "https://evil.example.com"} | asked).status_code == 400


@pytest.mark.parametrize("origin", ["app.example.com", "https://app.example.com/", "https://*.example.com", ""])
def test_what_is_no_origin_is_refused(origin: str) -> None:
    with pytest.raises(ValueError, match="is no origin"):
        CorsConfig(allow_origins=(origin,))


def test_texts_cannot_be_logged_without_a_log() -> None:
    with pytest.raises(ValueError, match="set access as well"):
        LogConfig(texts=True)


def _connect(url: str) -> socket.socket:
    place = httpx.URL(url)
    return socket.create_connection((place.host, place.port), timeout=10)
