"""Recognises out-of-memory errors and says which settings lower the need."""

from __future__ import annotations

from agent.errors import TrainingError

_SIGNS = (
    "DefaultCPUAllocator", "can't allocate memory", "CUDA out of memory", "CUDA error: out of memory",
    "CUBLAS_STATUS_ALLOC_FAILED", "CUDNN_STATUS_ALLOC_FAILED",
)  # fmt: skip


def is_out_of_memory(error: BaseException) -> bool:
    """Whether torch or Python ran out of memory."""
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
        return True
    return isinstance(error, RuntimeError) and any(sign in str(error) for sign in _SIGNS)


def out_of_memory(error: BaseException, *, micro_tokens: int) -> TrainingError:
    """The error that users see."""
    return TrainingError(
        f"memory of a worker ran out with micro-batches of {micro_tokens} tokens ({' '.join(str(error).split())[:200]})",
        remedy=f"set batch.micro_tokens={max(16, micro_tokens // 2)} (the result stays the same), "
        "engine.activation_checkpointing=true, engine.zero_stage=1 to 3 over more workers, or a shorter model.max_tokens",
    )
