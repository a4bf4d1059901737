"""Records intermediate activations of a model with forward hooks."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import torch
from torch import nn

ModelOutputs: TypeAlias = tuple[torch.Tensor, ...]
"""Logits, then the recorded activations in the order of the hooks."""


@dataclass(frozen=True)
class ActivationHook:
    """A module whose output is recorded.

    Attributes:
        module: Its output is float [rows, tokens, width]; of a tuple the first element is recorded.
        transform: Applied to the output before it is recorded.
    """

    module: nn.Module
    transform: nn.Module | None = None


class ActivationRecorder:
    """Records activations of forward passes, in whichever thread they run.

    Args:
        hooks: What to record. A pass outside `record` (an evaluation) records nothing.
    """

    def __init__(self, hooks: Sequence[ActivationHook] = ()) -> None:
        self._num_hooks = len(hooks)
        self._thread = threading.local()
        for index, hook in enumerate(hooks):
            hook.module.register_forward_hook(self._forward_hook(index, hook.transform))

    def record(self, forward: Callable[[], torch.Tensor]) -> ModelOutputs:
        """Runs a forward pass that returns logits; returns them with the activations of that pass."""
        activations: dict[int, torch.Tensor] = {}
        self._thread.activations = activations
        try:
            logits = forward()
        finally:
            self._thread.activations = None
        return (logits, *(activations[index] for index in range(self._num_hooks)))

    def _forward_hook(self, index: int, transform: nn.Module | None) -> Callable[[nn.Module, Any, Any], None]:
        def store(_: nn.Module, __: Any, output: Any) -> None:
            activations: dict[int, torch.Tensor] | None = getattr(self._thread, "activations", None)
            if activations is not None:  # None while activation checkpointing computes a layer again
                tensor = output[0] if isinstance(output, tuple) else output
                activations[index] = transform(tensor) if transform else tensor

        return store


NO_ACTIVATIONS = ActivationRecorder()
