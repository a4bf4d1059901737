"""Keeps what Ray prints apart from what our programs print: ours goes to the terminal, Ray's into a log file.

Ray copies the standard streams of all workers to the driver, each line behind a prefix with a process id, among warnings of its own. Workers of ours
write what a user should read to their standard output; so that is shown as it is, and everything else is kept in the file.

Leans on private parts of Ray 2.60 (`ray._private.worker.print_worker_logs`, the handlers of its loggers); tests/cluster/test_ray_output.py fails
when they change.
"""

from __future__ import annotations

import logging
import os
import sys
from pathlib import Path
from typing import Any

_RAY_LOGGERS = ("ray", "ray.data", "ray.serve", "ray.train", "ray.tune")
_OUR_LOGGERS = ("agent", "cluster", "compression", "serving", "training")
_NOT_OURS = ("raylet", "gcs_server")


def divert() -> Path:
    """Sends what Ray prints in this driver to a file from now on. Called again, it reaches loggers and sessions that came later.

    Returns:
        The file, in the directory of logs of this Ray session.
    """
    import ray._private.worker as ray_worker

    file = Path(ray_worker.global_worker.node.get_logs_dir_path()) / f"driver-{os.getpid()}.log"
    router = ray_worker.print_worker_logs
    if not isinstance(router, _Router) or router.file != file:
        router = _Router(file, getattr(router, "original", router))
        ray_worker.print_worker_logs = router
    logging.getLogger("ray").setLevel(logging.WARNING)
    for name in _RAY_LOGGERS:
        for handler in logging.getLogger(name).handlers:
            if isinstance(handler, logging.StreamHandler) and _is_rays(handler):
                handler.stream = router.stream  # setStream flushes the one before, which may be closed by now
    return file


def _is_rays(handler: logging.Handler) -> bool:
    """Not one that something else, such as pytest, has put there to read what it gets."""
    return type(handler) is logging.StreamHandler or type(handler).__module__.startswith("ray.")


def show_own_logs() -> None:
    """In a worker: warnings of our own modules go to standard output, which is what the driver shows."""
    for name in _OUR_LOGGERS:
        logger = logging.getLogger(name)
        if not logger.handlers:
            handler = logging.StreamHandler(sys.stdout)
            handler.setFormatter(logging.Formatter("%(levelname)s: %(message)s"))
            handler.setLevel(logging.WARNING)
            logger.addHandler(handler)


class _Router:
    """Stands in for Ray's function that prints a batch of lines of one process.

    Args:
        file: Where lines that are not ours go.
        original: Ray's function, which prints ours without a prefix and draws progress bars.
    """

    def __init__(self, file: Path, original: Any) -> None:
        self.file, self.original = file, original
        self.stream = file.open("a", encoding="utf-8", buffering=1)

    def __call__(self, data: dict[str, Any], print_file: Any, ignore_prefix: bool = False) -> None:
        if print_file is not sys.stderr and data.get("pid") not in _NOT_OURS:
            self.original(data, print_file, ignore_prefix=data.get("pid") != "autoscaler")
            return
        prefix = f"({data.get('actor_name') or data.get('task_name') or ''} pid={data.get('pid')}, ip={data.get('ip')})"
        self.stream.writelines(f"{prefix} {line}\n" for line in data.get("lines", ()))
