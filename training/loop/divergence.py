"""Detects a loss that is not finite or diverges; a function of the loss alone, so that all workers agree."""

from __future__ import annotations

import math

import numpy as np

from agent.encoding import Int64
from agent.errors import LossError

_FIRST = 20  # steps whose mean loss is what later ones are measured by
_FACTOR = 5.0  # an untrained head loses ln(outputs); five times the start is no fluctuation
_DECAY = 0.9  # of the running mean: one odd batch does not end a run
_SHOWN = 12


class DivergenceMonitor:
    """Checks the loss of each step."""

    def __init__(self) -> None:
        self._start: list[float] = []
        self._running = 0.0

    def check(self, loss: float, *, step: int, learning_rate: float, sentences: Int64) -> None:
        """Checks the loss of a step.

        Args:
            loss: Mean over the step's targets, of all workers.
            step: Counted from 1.
            learning_rate: That of the step.
            sentences: int64, numbers of the step's examples, from 0.

        Raises:
            LossError: It is not finite, or far above where it began.
        """
        if len(self._start) < _FIRST:
            ceiling = _FACTOR * max(self._start[0], 1.0) if self._start else loss
            self._start.append(min(loss, ceiling))  # a loss that runs away at once must not raise its own limit
            self._running = float(np.mean(self._start))
        self._running = _DECAY * self._running + (1 - _DECAY) * loss
        limit = _FACTOR * max(float(np.mean(self._start)), 1.0)
        if math.isfinite(loss) and self._running <= limit:
            return
        what = f"is {loss}" if not math.isfinite(loss) else f"rose to {self._running:.3g}, from {self._start[0]:.3g}"
        raise LossError(
            f"the loss {what} at step {step}, learning rate {learning_rate:.3g}, {_sentences(sentences)}",
            remedy="lower optimizer.learning_rate or optimizer.max_grad_norm, lengthen schedule.warmup_fraction, look at these "
            "sentences, or set engine.precision=fp32; then give the command again with resume=false",
        )


def _sentences(numbers: Int64) -> str:
    shown = ", ".join(map(str, numbers[:_SHOWN].tolist()))
    more = f" and {len(numbers) - _SHOWN} more" if len(numbers) > _SHOWN else ""
    return f"training sentences {shown}{more} (counted from 0)"
