"""Every access to private parts of DeepSpeed, written for DeepSpeed 0.19 (tests/training/engine/test_private_interfaces.py)."""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

FLAT_GROUPS = {
    1: "single_partition_of_fp32_groups", 2: "single_partition_of_fp32_groups", 3: "fp32_partitioned_groups_flat",
}  # fmt: skip


def import_without_mlflow() -> None:
    """Imports DeepSpeed without MLflow, which its autotuner would import where it is installed (findings/deepspeed_imports_mlflow.sh)."""
    if "mlflow" in sys.modules:
        return
    sys.modules["mlflow"] = None  # type: ignore[assignment]
    try:
        import deepspeed  # noqa: F401
    finally:
        del sys.modules["mlflow"]


def skip_compilers() -> None:
    """Leaves out what DeepSpeed would compile at its first use though no run here needs it.

    The C++ all-reduce of CPU runs takes 90 s (gloo costs next to nothing here), torch's compiler 2 s of each worker's start:
    every ZeRO stage imports Muon, whose functions are decorated with it.
    """
    import deepspeed
    from deepspeed.runtime import compiler

    if os.environ.get("DS_ACCELERATOR") == "cpu":
        deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
    compiled = compiler.compile
    compiler.compile = lambda: compiler.dummy_decorator
    try:
        import deepspeed.runtime.zero.muon.original_muon
    finally:
        compiler.compile = compiled


def disable_allreduce(engine: Any) -> None:
    """Stops DeepSpeed from exchanging gradients at stage 0; `GradientAllreduce` does it with fewer bytes."""
    engine.enable_backward_allreduce = False


def torch_optimizer(engine: Any) -> torch.optim.Optimizer:
    """Torch's optimizer, inside ZeRO's where there is one."""
    optimizer = engine.optimizer
    inner: torch.optim.Optimizer = optimizer.optimizer if engine.zero_optimization_stage() else optimizer
    return inner


def flat_groups(engine: Any) -> list[torch.Tensor]:
    """The worker's flat fp32 slices of the weights under ZeRO, by which the optimizer keeps its state."""
    groups: list[torch.Tensor] = getattr(engine.optimizer, FLAT_GROUPS[engine.zero_optimization_stage()])
    return groups


def relink_optimizer_states(engine: Any) -> None:
    """Makes the links from parameters to optimizer states again, through which stages 1 and 2 look them up.

    DeepSpeed 0.19.8 makes them when the first parameter group has stepped and the others have no state yet.
    """
    if engine.zero_optimization_stage() in (1, 2):
        engine.optimizer._hp_optimizer_states_linked = False
        engine.optimizer._lazy_init_hp_params_optimizer_state()


def full_state(parameter: torch.nn.Parameter, key: str) -> torch.Tensor:
    """A parameter's whole optimizer state under ZeRO; all workers must call it."""
    from deepspeed.utils import safe_get_full_optimizer_state

    whole: torch.Tensor = safe_get_full_optimizer_state(parameter, key)
    return whole


def set_full_state(engine: Any, parameter: torch.nn.Parameter, whole: torch.Tensor, key: str) -> None:
    """Sets this worker's part of a parameter's optimizer state from the whole.

    Stage 3 keeps an equal part of each parameter on every worker, the last one padded. DeepSpeed's own
    `safe_set_full_optimizer_state` does not pad and fails for parameters that the workers do not divide (0.19.8).
    """
    import torch
    import torch.distributed as dist
    from deepspeed.utils import (
        safe_get_local_optimizer_state,
        safe_set_full_optimizer_state,
        safe_set_local_optimizer_state,
    )

    if engine.zero_optimization_stage() != 3:
        safe_set_full_optimizer_state(parameter, whole.to(parameter.device), key)
        return
    size = safe_get_local_optimizer_state(parameter, key).numel()
    first = size * dist.get_rank()
    part = whole.flatten()[first : first + size]
    padded = torch.nn.functional.pad(part, (0, size - len(part)))
    safe_set_local_optimizer_state(parameter, padded.to(parameter.device), key)
