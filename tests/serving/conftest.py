"""Bundles and servers that the tests of serving share."""

from __future__ import annotations

import asyncio
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import grpc
import pytest
import uvicorn

from agent.bundle import Bundle
from serving.api.http_app import create_app
from serving.api.open_inference.grpc_service import InferenceService
from serving.api.open_inference.inference_pb2_grpc import add_GRPCInferenceServiceServicer_to_server
from serving.api.open_inference.protocol import OpenInference
from serving.inference.engine import Engine, EngineConfig
from serving.inference.engine_choice import open_engine
from serving.middleware.middleware_stack import FrontConfig, MiddlewareStack
from serving.ray_serve.http_protocol import protocol_for
from serving.scheduling.limits import LimitsConfig
from serving.scheduling.predictor import Predictor
from tests.serving.tiny import CLASSIFIER, FILLER, JUDGE, LABELLER, READER, RELATER, TAGGER, make_bundle
from tests.tiny_writers import publish_converted


@pytest.fixture(scope="session")
def tagger_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_bundle(tmp_path_factory.mktemp("tagger") / "bundle", TAGGER)


@pytest.fixture(scope="session")
def classifier_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_bundle(tmp_path_factory.mktemp("classifier") / "bundle", CLASSIFIER)


@pytest.fixture(scope="session")
def labeller_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_bundle(tmp_path_factory.mktemp("labeller") / "bundle", LABELLER)


@pytest.fixture(scope="session")
def judge_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_bundle(tmp_path_factory.mktemp("judge") / "bundle", JUDGE)


@pytest.fixture(scope="session")
def reader_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_bundle(tmp_path_factory.mktemp("reader") / "bundle", READER)


@pytest.fixture(scope="session")
def filler_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_bundle(tmp_path_factory.mktemp("filler") / "bundle", FILLER)


@pytest.fixture(scope="session")
def relater_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_bundle(tmp_path_factory.mktemp("relater") / "bundle", RELATER)


@pytest.fixture(scope="session")
def translator_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return publish_converted(
        tmp_path_factory.mktemp("translator") / "bundle", "sequence_to_sequence", "bart", init_std=0.5
    )


@pytest.fixture(scope="session")
def talker_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return publish_converted(tmp_path_factory.mktemp("talker") / "bundle", "text_generation", "llama")


@pytest.fixture(scope="session")
def engine(tagger_path: Path) -> Engine:
    return Engine(Bundle.load(tagger_path), EngineConfig(sessions=2))


@contextmanager
def listening(
    predictor: Predictor, *, warm: bool = True, front: FrontConfig | None = None, direct: bool = True
) -> Iterator[str]:
    """The HTTP surface on a real socket, in a thread; predictions go past the application as in a replica, or through it."""
    if warm:
        predictor.warm_up()
    listener = socket.create_server(("127.0.0.1", 0))
    app = create_app(predictor, front=MiddlewareStack(front))
    app.state.predictions.mount("")
    protocol = protocol_for(lambda: app.state.predictions) if direct else "httptools"
    server = uvicorn.Server(uvicorn.Config(app, http=protocol, log_config=None))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
    thread.start()
    try:
        while not server.started:
            time.sleep(0.01)
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join()
        predictor.close()


@pytest.fixture(scope="module", params=["direct", "asgi"])
def way(request: pytest.FixtureRequest) -> str:
    """How predictions reach the predictor: straight from the HTTP protocol, or through the application."""
    return str(request.param)


@pytest.fixture(scope="module")
def tagger_url(tagger_path: Path, way: str) -> Iterator[str]:
    limits = LimitsConfig(max_texts=20, max_characters=4_000, max_body_bytes=20_000)
    engine = Engine(Bundle.load(tagger_path), num_cpus=1 if way == "direct" else 2)  # on the event loop, and in threads
    with listening(Predictor(engine, limits), direct=way == "direct") as url:
        yield url


def _served(agent: str) -> Any:
    """The address of a server of an agent that is a fixture, `AGENT_path`."""

    @pytest.fixture(scope="module", name=f"{agent}_url")
    def url(request: pytest.FixtureRequest, way: str) -> Iterator[str]:
        bundle = Bundle.load(request.getfixturevalue(f"{agent}_path"))
        with listening(Predictor(open_engine(bundle)), direct=way == "direct") as address:
            yield address

    return url


classifier_url = _served("classifier")
labeller_url = _served("labeller")
judge_url = _served("judge")
reader_url = _served("reader")
filler_url = _served("filler")
relater_url = _served("relater")
translator_url = _served("translator")
talker_url = _served("talker")


@pytest.fixture
def serve_with(tagger_path: Path) -> Iterator[Callable[..., str]]:
    """Starts servers with limits of the test's own."""
    with_exit = []

    def start(
        *, warm: bool = True, engine: Engine | None = None, front: FrontConfig | None = None, **limits: float
    ) -> str:
        predictor = Predictor(engine or Engine(Bundle.load(tagger_path)), LimitsConfig(**limits))
        server = listening(predictor, warm=warm, front=front)
        with_exit.append(server)
        return server.__enter__()

    yield start
    for server in with_exit:
        server.__exit__(None, None, None)


@contextmanager
def calling(predictor: Predictor, front: FrontConfig | None = None) -> Iterator[str]:
    """The gRPC service on a real socket, in a thread."""
    predictor.warm_up()
    service = InferenceService(OpenInference(predictor, "bundle"), MiddlewareStack(front))
    started, stop, place = threading.Event(), [], []

    async def serve() -> None:
        server, over = grpc.aio.server(), asyncio.Event()
        add_GRPCInferenceServiceServicer_to_server(service, server)
        place.append(f"127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}")
        loop = asyncio.get_running_loop()
        stop.append(lambda: loop.call_soon_threadsafe(over.set))
        await server.start()
        started.set()
        await over.wait()
        await server.stop(0)

    thread = threading.Thread(target=lambda: asyncio.run(serve()))
    thread.start()
    try:
        assert started.wait(10)
        yield place[0]
    finally:
        stop[0]()
        thread.join()
        predictor.close()
