"""The report doubts its own clocks when neighbours were busy."""

from __future__ import annotations

import multiprocessing
import os
import time
from pathlib import Path

import pytest

from compression.measurement.speed import CpuContention
from compression.reporting.compression_report import CompressionReport
from compression.reporting.report_files import markdown, terminal_table
from tests.compression.pipeline.test_pipeline import run


@pytest.mark.parametrize(("cores", "doubted"), [(None, False), (0.0, False), (1.5, True)])
def test_speeds_measured_beside_busy_neighbours_are_doubted(
    tagger: Path, tmp_path: Path, cores: float | None, doubted: bool
) -> None:
    report: CompressionReport = run(tagger, tmp_path / "out", []).model_copy(update={"contention": cores})
    assert ("not to be trusted" in terminal_table(report)) == doubted
    assert ("not to be trusted" in markdown(report)) == doubted


@pytest.mark.skipif(not Path("/proc/stat").exists(), reason="the system does not say how busy it is")
def test_neighbours_are_seen() -> None:
    other = multiprocessing.get_context("spawn").Process(target=_compute, args=(2.0,))
    other.start()
    time.sleep(1.0)  # its interpreter starts
    neighbours = CpuContention()
    time.sleep(1.0)
    shared = neighbours.contention(threads=os.cpu_count() or 1)
    other.join()
    assert shared is not None
    assert shared > 0.3


def _compute(seconds: float) -> None:
    started = time.perf_counter()
    while time.perf_counter() - started < seconds:
        pass
