from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from agent.errors import TrainingError
from training.engine.out_of_memory import is_out_of_memory, out_of_memory


def caught(action):
    with pytest.raises(Exception) as info:  # noqa: PT011  # whatever it raises
        action()
    return info.value


@pytest.mark.parametrize(
    "action",
    [
        lambda: torch.empty(2**60, dtype=torch.uint8),
        lambda: torch.zeros(2**40).add(1).add(1),
        lambda: np.ones(2**58),
        lambda: bytearray(2**60),
    ],
)
def test_allocations_that_really_fail_are_recognised(action):
    assert is_out_of_memory(caught(action))


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB."),
        RuntimeError("CUDA error: out of memory\nCUDA kernel errors might be asynchronously reported"),
        RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
    ],
)
def test_words_of_a_gpu_without_memory_are_recognised(error):
    assert is_out_of_memory(error)


@pytest.mark.parametrize(
    "action",
    [
        lambda: torch.ones(2, 3) @ torch.ones(2, 3),
        lambda: torch.ones(3).view(2),
        lambda: torch.ones(2)[5],
        lambda: torch.embedding(torch.ones(2, 2), torch.tensor([7])),
        lambda: torch.empty(-1),
        lambda: int("memory"),
        lambda: Path("/out of memory").read_text(),
    ],
)
def test_other_errors_are_not_taken_for_want_of_memory(action):
    assert not is_out_of_memory(caught(action))


def test_the_remedy_is_half_of_what_was_too_much():
    error = out_of_memory(caught(lambda: torch.empty(2**60, dtype=torch.uint8)), micro_tokens=4096)
    assert isinstance(error, TrainingError)
    assert "4096 tokens" in error.what
    assert "batch.micro_tokens=2048" in error.remedy
    assert "\n" not in str(error)


def test_the_remedy_never_goes_below_what_the_configuration_takes():
    assert "batch.micro_tokens=16 " in out_of_memory(MemoryError(), micro_tokens=16).remedy
