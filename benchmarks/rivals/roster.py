"""Who competes, with which settings, packages and protocol. One entry for each server; nothing here imports its library."""

from __future__ import annotations

import functools
import importlib.metadata
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from benchmarks.common.load_generator import Inputs, plain_body

Answers = list[list[dict[str, Any]]]


@dataclass(frozen=True)
class Protocol:
    """How a server is asked, and how its answer is read.

    Attributes:
        path: Where requests go.
        body: What is sent for a text, or for several.
        answers: The entities of each text, from the JSON that came back and what was sent.
    """

    path: str
    body: Callable[[Inputs], bytes]
    answers: Callable[[Any, Inputs], Answers]


def _plain_answers(content: Any, inputs: Inputs) -> Answers:
    return content if isinstance(inputs, list) else [content]


def _mlserver_body(inputs: Inputs) -> bytes:
    """In the Open Inference Protocol: the pipeline's arguments, a list of texts as `array_inputs`."""
    name, texts = ("args", [inputs]) if isinstance(inputs, str) else ("array_inputs", inputs)
    tensors = [_strings(name, texts, "str"), _strings("aggregation_strategy", ["first"], "raw")]
    return json.dumps({"inputs": tensors}).encode()


def _strings(name: str, data: list[str], content_type: str) -> dict[str, Any]:
    parameters = {"content_type": content_type}
    return {"name": name, "shape": [len(data)], "datatype": "BYTES", "data": data, "parameters": parameters}


def _mlserver_answers(content: Any, inputs: Inputs) -> Answers:
    """Each item is an entity of the one text, or the entities of one text of several."""
    found = [json.loads(item) for item in content["outputs"][0]["data"]]
    return [found] if isinstance(inputs, str) else found


PLAIN = Protocol("/", plain_body, _plain_answers)
MOSEC = Protocol("/inference", plain_body, _plain_answers)
MLSERVER = Protocol("/v2/models/agent/infer", _mlserver_body, _mlserver_answers)


@dataclass(frozen=True)
class Entrant:
    """A server.

    Attributes:
        name: In the command line and in files.
        label: In the table.
        command: What Python runs; `{bundle}`, `{port}` and `{place}`, a directory for its files, are filled in.
        settings: All that was chosen for it; it reads them from there.
        packages: What its own environment needs; empty: it runs in ours.
        first: What has to be installed before, lest pip takes another build.
        same_graph: Whether it computes with our ONNX file; else the torch weights.
        same_code: Whether it tokenises and decodes with our code, so that every answer has to be ours.
        ours: Whether it is what this project serves with.
        environment: Variables of its processes.
    """

    name: str
    label: str
    command: tuple[str, ...]
    settings: Mapping[str, Any] = field(default_factory=dict)
    packages: tuple[str, ...] = ()
    first: tuple[str, ...] = ()
    protocol: Protocol = PLAIN
    same_graph: bool = True
    same_code: bool = True
    ours: bool = False
    environment: Mapping[str, str] = field(default_factory=dict)


def _run(module: str) -> tuple[str, ...]:
    return "-m", f"benchmarks.rivals.{module}"


@functools.cache
def _our_code() -> tuple[str, ...]:
    """What agent/ and the engine need, the tokenizer and ONNX Runtime in the versions that we run with."""
    runtime = importlib.metadata.packages_distributions()["onnxruntime"][0]
    pins = {"onnxruntime": runtime, "tokenizers": "tokenizers", "numpy": "numpy"}
    return "pydantic>=2.10", "pyyaml", *(f"{name}=={importlib.metadata.version(ours)}" for name, ours in pins.items())


_TWO = {"workers": 2, "onnx_threads_of_each": 1, "texts_of_a_request": "one by one"}
_OURS = ("serving/run.py", "bundle={bundle}", "port={port}")
OURS = Entrant("ours", "bert-agent", _OURS, ours=True, settings={"note": "defaults: a replica per core"})


def roster() -> tuple[Entrant, ...]:
    """All of them; the settings of rivals are the best found on two cores."""
    return (
        OURS,
        Entrant(
            "ours-one-replica",
            "bert-agent, one replica on one core",
            (*_OURS, "replicas.min_replicas=1", "replicas.max_replicas=1"),
            ours=True,
            settings={"replicas.min_replicas": 1, "replicas.max_replicas": 1},
        ),
        _mosec("mosec", "Mosec, batches of 4", max_batch_size=4, max_wait_time_ms=2),
        _mosec("mosec-unbatched", "Mosec, unbatched", max_batch_size=1, max_wait_time_ms=0),
        Entrant("fastapi-onnx", "FastAPI + ONNX Runtime, unbatched", _run("fastapi_onnx"), settings=_TWO),
        Entrant(
            "granian-onnx",
            "Granian (RSGI) + ONNX Runtime, unbatched",
            _run("granian_onnx"),
            settings=_TWO,
            packages=("granian==2.8.7", "uvloop", *_our_code()),
        ),
        pipeline_server("token-classification", "token_classification", batch_size=1),
        Entrant(
            "ray-serve",
            "Ray Serve, default proxy, @serve.batch of 4",
            _run("ray_serve"),
            settings={
                "replicas": 2,
                "onnx_threads_of_each": 1,
                "texts_of_a_request": "one by one",
                "max_batch_size": 4,
                "batch_wait_timeout_s": 0.002,
                "max_ongoing_requests": 64,
            },
        ),
        Entrant(
            "litserve",
            "LitServe, batches of 4",
            _run("litserve_server"),
            settings={**_TWO, "max_batch_size": 4, "batch_timeout_s": 0.002, "fast_queue": True},
            packages=("litserve==0.2.19", *_our_code()),
        ),
        Entrant(
            "bentoml",
            "BentoML, unbatched",
            _run("bentoml_server"),
            settings=_TWO,
            packages=("bentoml==1.4.40", "uvloop", "httptools", *_our_code()),
        ),
        Entrant(
            "mlserver",
            "MLServer, Hugging Face runtime",
            _run("mlserver_server"),
            settings={"parallel_workers": 2, "optimum_model": True, "onnx_threads_of_each": 1},
            packages=("mlserver==1.7.1", "mlserver-huggingface==1.7.1", "transformers==4.41.2", "uvloop==0.21.0"),
            first=("torch==2.13.0",),
            protocol=MLSERVER,
            same_code=False,
        ),
    )


def pipeline_server(pipeline: str, kind: str, *, batch_size: int) -> Entrant:
    """A worker for each of two cores, for any kind of task.

    Args:
        pipeline: As transformers names it, see `benchmarks.task_comparison.plain_pipeline`.
        kind: Of the agent's task.
        batch_size: For the inputs of one request.
    """
    return Entrant(
        "fastapi-pipeline",
        "FastAPI + Hugging Face pipeline, PyTorch fp32",
        _run("fastapi_pipeline"),
        settings={
            "workers": 2, "torch_threads_of_each": 1, "batch_size": batch_size, "pipeline": pipeline, "kind": kind,
        },
        same_graph=False,
        same_code=False,
    )  # fmt: skip


def _mosec(name: str, title: str, **batching: int) -> Entrant:
    return Entrant(
        name,
        title,
        _run("mosec_server"),
        settings={**_TWO, **batching},
        packages=("mosec==0.9.8", *_our_code()),
        protocol=MOSEC,
    )
