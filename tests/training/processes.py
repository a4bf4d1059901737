"""A group of processes on this machine that talk over gloo, without Ray."""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Callable, Mapping
from functools import partial
from multiprocessing import get_context
from pathlib import Path

from tests.ports import free_port

# Forked from one process that has imported what all of them need, which takes each of them 8 s of a core otherwise.
_FORKS = get_context("forkserver")
_FORKS.set_forkserver_preload(["tests.training.preloaded"])
_PATIENCE_S = 240


def launch(num_workers: int, function: Callable[..., None], *arguments: object, **keywords: object) -> None:
    """Calls a function of a module as every rank; returns when all have ended well."""
    environment = os.environ | {
        "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port()), "WORLD_SIZE": str(num_workers), "LOCAL_WORLD_SIZE": str(num_workers),
        "DS_ACCELERATOR": "cpu",
    }  # fmt: skip
    call = partial(function, *arguments, **keywords)
    with tempfile.TemporaryDirectory() as directory:
        logs = [Path(directory) / f"rank-{rank}.log" for rank in range(num_workers)]
        workers = [
            _FORKS.Process(target=_run, args=(environment | {"RANK": str(rank), "LOCAL_RANK": str(rank)}, log, call))
            for rank, log in enumerate(logs)
        ]  # fmt: skip
        for worker in workers:
            worker.start()
        try:
            deadline = time.monotonic() + _PATIENCE_S
            while any(worker.exitcode is None for worker in workers) and time.monotonic() < deadline:
                if any(worker.exitcode for worker in workers):  # the others would wait for it
                    break
                workers[0].join(0.05)
        finally:
            for worker in workers:
                worker.kill()
                worker.join()
        assert [worker.exitcode for worker in workers] == [0] * num_workers, "\n".join(map(_said, logs))


def _run(environment: Mapping[str, str], log: Path, call: Callable[[], None]) -> None:
    os.environ.clear()
    os.environ.update(environment)
    with log.open("ab") as stream:
        os.dup2(stream.fileno(), 1)
        os.dup2(stream.fileno(), 2)
    call()


def _said(log: Path) -> str:
    return log.read_text(encoding="utf-8", errors="replace") if log.exists() else "it did not start"
