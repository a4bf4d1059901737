"""Gathers and loads optimizer state in a form that is independent of the ZeRO stage and the number of workers."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from training.engine.deepspeed_internals import (
    flat_groups,
    full_state,
    relink_optimizer_states,
    set_full_state,
    torch_optimizer,
)

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class OptimizerState:
    """The state of an optimizer.

    Attributes:
        moments: float32 tensors of each parameter, by `parameter/key`.
        counters: Scalars that all parameters share, by key.
    """

    moments: dict[str, torch.Tensor]
    counters: dict[str, float]


def gather_optimizer_state(engine: Any) -> OptimizerState | None:
    """The whole state on worker 0, None elsewhere. All workers must call it, after a step.

    Args:
        engine: DeepSpeed's.
    """
    relink_optimizer_states(engine)
    states = torch_optimizer(engine).state
    keys, counters = _split_state(next(iter(states.values()))) if states else ([], {})
    moments: dict[str, torch.Tensor] = {}
    for name, parameter in _trainable_parameters(engine):
        local = {} if engine.zero_optimization_stage() else states[parameter]
        for key in _split_state(local)[0] if local else keys:
            whole = local[key] if local else full_state(parameter, key)
            if engine.global_rank == 0:
                moments[f"{name}/{key}"] = whole.detach().float().cpu().clone()
    return OptimizerState(moments, counters) if engine.global_rank == 0 else None


def load_optimizer_state(engine: Any, state: OptimizerState) -> None:
    """Loads what `gather_optimizer_state` returned. Every worker calls it, before the first step.

    Args:
        engine: DeepSpeed's.
        state: The whole state, on the CPU.
    """
    import torch

    optimizer = torch_optimizer(engine)
    if not engine.zero_optimization_stage():
        for name, parameter in _trainable_parameters(engine):
            moments = {key: tensor.to(parameter.device) for key, tensor in _moments_of(name, state)}
            optimizer.state[parameter] = moments | _counter_tensors(state, parameter)
    elif state.moments:
        keys = sorted({name.rpartition("/")[2] for name in state.moments})
        for group in flat_groups(engine):
            optimizer.state[group] = {key: torch.zeros_like(group) for key in keys} | _counter_tensors(state, group)
        relink_optimizer_states(engine)
        for name, parameter in _trainable_parameters(engine):
            for key, tensor in _moments_of(name, state):
                set_full_state(engine, parameter, tensor, key)


def _trainable_parameters(engine: Any) -> Iterator[tuple[str, torch.nn.Parameter]]:
    return ((name, parameter) for name, parameter in engine.module.named_parameters() if parameter.requires_grad)


def _split_state(state: Mapping[str, Any]) -> tuple[list[str], dict[str, float]]:
    """The keys of a parameter's tensors, and its scalars."""
    moments = sorted(key for key, value in state.items() if hasattr(value, "ndim") and value.ndim)
    counters = {key: float(value) for key, value in state.items() if value is not None and key not in moments}
    return moments, counters


def _counter_tensors(state: OptimizerState, like: torch.Tensor) -> dict[str, torch.Tensor]:
    import torch

    return {key: torch.tensor(value, dtype=torch.float32, device=like.device) for key, value in state.counters.items()}


def _moments_of(parameter: str, state: OptimizerState) -> Iterator[tuple[str, torch.Tensor]]:
    prefix = f"{parameter}/"
    return ((key.removeprefix(prefix), tensor) for key, tensor in state.moments.items() if key.startswith(prefix))
