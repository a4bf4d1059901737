"""A group of processes on this machine that talk over gloo, without Ray."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from tests.ports import free_port

ROOT = Path(__file__).resolve().parents[2]


def launch(num_workers: int, module: str, *arguments: object) -> None:
    """Runs `python -m module arguments` as every rank; returns when all have ended well."""
    base = os.environ | {
        "PYTHONPATH": str(ROOT), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port()), "WORLD_SIZE": str(num_workers)
    }  # fmt: skip
    command = [sys.executable, "-m", module, *map(str, arguments)]
    workers = [
        subprocess.Popen(command, cwd=ROOT, env=base | {"RANK": str(rank), "LOCAL_RANK": str(rank)},
                         stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        for rank in range(num_workers)
    ]  # fmt: skip
    try:
        outputs = [worker.communicate(timeout=240)[0] for worker in workers]
    finally:
        for worker in workers:
            worker.kill()
    assert [worker.returncode for worker in workers] == [0] * num_workers, "\n".join(outputs)
