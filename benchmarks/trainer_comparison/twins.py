"""The contestant twins: independent processes of one thread each, the bound for scaling on this machine.

No Ray, no exchange, no waiting for each other. First matrix products, then our own training steps.
"""

from __future__ import annotations

import itertools
import multiprocessing
import os
import socket
import tempfile
import time
from threading import Barrier
from typing import TYPE_CHECKING, Any, Literal

from agent.data import DataConfig
from benchmarks.trainer_comparison.base import MODEL, Contestant

if TYPE_CHECKING:
    from training.loop.train_step import BatchPrefetcher, TrainStep

_PRODUCTS_S = 5.0
_WARM_UP_STEPS = 3


class Twins(Contestant):
    """Processes of one thread each, all of which start every measurement together."""

    kind: Literal["twins"] = "twins"
    waiting: Literal["as installed", "briefly"] = "briefly"
    threads: int = 1
    processes: int = 2
    tokens: int = 1024
    seconds: float = 25.0

    @property
    def name(self) -> str:
        """Names their number."""
        return f"{self.processes} process(es) of 1 thread, {self.tokens:,} tokens, no Ray, no exchange"

    def measure(self, data: DataConfig) -> dict[str, Any]:
        """GFLOP/s in bf16, and training sentences/s, of all processes together."""
        context = multiprocessing.get_context("spawn")
        with context.Manager() as manager, context.Pool(self.processes) as pool:
            shared = manager.Barrier(self.processes)
            each = pool.starmap(_measure_one, [(self, data, shared)] * self.processes, chunksize=1)
        return {name: sum(one[name] for one in each) for name in ("gflops", "sentences_per_s")}


def _measure_one(settings: Twins, data: DataConfig, together: Barrier) -> dict[str, float]:
    import torch

    torch.set_num_threads(1)
    left, right = (torch.randn(1024, 1024).to(torch.bfloat16) for _ in range(2))
    together.wait()
    products = _count(lambda: torch.mm(left, right), _PRODUCTS_S)
    train_step, prefetcher, plan = _trainer(settings.tokens, data)
    steps = enumerate(step for _ in itertools.count() for step, _ in prefetcher.steps(plan, 0))
    sentences = 0

    def step() -> None:
        nonlocal sentences
        number, prepared = next(steps)
        train_step.run(prepared, number)
        sentences += prepared.sentences

    for _ in range(_WARM_UP_STEPS):
        step()
    sentences = 0
    together.wait()
    started = time.perf_counter()
    _count(step, settings.seconds)
    return {
        "gflops": products * 2 * 1024**3 / 1e9,
        "sentences_per_s": sentences / (time.perf_counter() - started),
    }


def _count(call: Any, seconds: float) -> float:
    """Calls a second, over some seconds."""
    started, calls = time.perf_counter(), 0
    while time.perf_counter() - started < seconds:
        call()
        calls += 1
    return calls / (time.perf_counter() - started)


def _trainer(tokens: int, data: DataConfig) -> tuple[TrainStep, BatchPrefetcher, Any]:
    """Our step as a worker makes it, in a group of one."""
    import torch
    import torch.distributed as dist

    from training.config import TrainingConfig
    from training.data.batch_plan import BatchConfig, plan_epoch
    from training.data.ingest import open_data
    from training.loop.worker_io import EvaluationSet, WorkerInput
    from training.loop.worker_setup import WorkerRank, build_components
    from training.model.models import ModelConfig, load_tokenizer, make_encoder
    from training.state.directory_store import DirectoryStore

    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    group = {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "1", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    os.environ.update(group | {"DS_ACCELERATOR": "cpu"})
    dist.init_process_group("gloo")
    config = TrainingConfig(data=data, model=ModelConfig(name=MODEL), batch=BatchConfig(tokens=tokens), epochs=1)
    encoder = make_encoder(load_tokenizer(MODEL), config.model)
    found = open_data(data, config.task, ingest=config.ingest, seed=0, make_encoder=lambda: encoder)
    nothing = EvaluationSet([], [])
    worker_input = WorkerInput(
        config,
        found.task,
        found.train,
        nothing,
        nothing,
        DirectoryStore(tempfile.gettempdir()),
        encoder.pad_id,
        False,
        "twins",
    )
    plan = plan_epoch(found.train.lengths, config=config.batch, seed=0, epoch=0)
    worker = WorkerRank(0, 1, torch.device("cpu"))
    components = build_components(
        worker_input, worker, None, num_steps=len(plan), micro_tokens=config.batch.micro_tokens
    )
    components.engine.train(True)
    return components.train_step, components.prefetcher, plan
