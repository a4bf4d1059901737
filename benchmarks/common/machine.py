"""The machine that a benchmark runs on: its description, its busy CPU time, and the processes of a measured program."""

from __future__ import annotations

import os
import platform
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from cluster.process_cleanup import find_marked

if TYPE_CHECKING:
    import psutil


def machine() -> str:
    """Processor, usable cores, architecture and Python."""
    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").is_file() else []
    model = next((text.split(":")[1].strip() for text in lines if text.startswith("model name")), platform.processor())
    return f"{model}, {len(os.sched_getaffinity(0))} cores, {platform.machine()}, Python {platform.python_version()}"


def integer_instructions() -> dict[str, bool]:
    """Which instructions that speed integer products the processor has; empty where the system does not say."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.is_file() else []
    flags = next((set(text.split(":")[1].split()) for text in lines if text.startswith("flags")), None)
    names = {"avx2": {"avx2"}, "vnni": {"avx512_vnni", "avx_vnni"}, "amx": {"amx_int8"}}
    return {} if flags is None else {name: bool(wanted & flags) for name, wanted in names.items()}


def busy_seconds() -> float:
    """CPU seconds that all cores were busy, or stolen by another guest of the host."""
    import psutil

    times = psutil.cpu_times()
    return float(times.user + times.nice + times.system + times.irq + times.softirq + times.steal)


def marked_processes(mark: str) -> Iterator[psutil.Process]:
    """Processes with a mark in their environment: those that were started with it, and all that these started."""
    import psutil

    for pid in find_marked(mark):
        with suppress(psutil.Error):
            yield psutil.Process(pid)


def memory_bytes(process: psutil.Process) -> int:
    """Proportional set size of a process: pages that several share are divided among them. 0 if it has ended."""
    import psutil

    with suppress(psutil.Error):
        return int(process.memory_full_info().pss)
    return 0
