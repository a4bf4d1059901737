"""What modules inside of a model say in a pass, beside its logits. Knows no loss, and no teacher."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import torch
from torch import nn

Said: TypeAlias = tuple[torch.Tensor, ...]
"""Logits, and what each tap noted, in the order of the taps."""


@dataclass(frozen=True)
class ActivationHook:
    """A module that is listened to.

    Attributes:
        module: Whose output is noted, float [rows, tokens, width]; the first part of one that is a tuple.
        then: What the output goes through before.
    """

    module: nn.Module
    then: nn.Module | None = None


class ActivationRecorder:
    """Listens to modules of a model, in whichever thread a pass runs.

    Args:
        taps: Where to listen. A pass that nobody listens to (an evaluation) leaves nothing.
    """

    def __init__(self, taps: Sequence[ActivationHook] = ()) -> None:
        self._count = len(taps)
        self._own = threading.local()
        for number, tap in enumerate(taps):
            tap.module.register_forward_hook(self._hook(number, tap.then))

    def listen(self, run: Callable[[], torch.Tensor]) -> Said:
        """Runs a pass that returns its logits."""
        notes: dict[int, torch.Tensor] = {}
        self._own.notes = notes
        try:
            logits = run()
        finally:
            self._own.notes = None
        return (logits, *(notes[number] for number in range(self._count)))

    def _hook(self, number: int, then: nn.Module | None) -> Callable[[nn.Module, Any, Any], None]:
        def note(_: nn.Module, __: Any, output: Any) -> None:
            notes: dict[int, torch.Tensor] | None = getattr(self._own, "notes", None)
            if notes is not None:  # a layer that is computed again in the backward pass says nothing new
                said = output[0] if isinstance(output, tuple) else output
                notes[number] = then(said) if then else said

        return note


SILENT = ActivationRecorder()
