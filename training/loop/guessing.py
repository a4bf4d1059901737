"""The outputs of an agent that does not look at texts, by which an evaluation tells what guessing scores."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from agent.batching import Batch
from agent.encoding import Float32
from agent.evaluation import Forward
from agent.tasks.output_decision import OUT_OF_REACH, Decision


def guessing_forward(decision: Decision, counts: Sequence[int], num_windows: int) -> Forward:
    """A forward pass that says the same of every text: how often each output is right; of places in a text that all are alike.

    Args:
        decision: Of the task, not one of a vocabulary.
        counts: How often each output is a target in training.
        num_windows: Training windows with labels.
    """
    often = np.asarray(counts, np.float64) + 0.5
    shares = often / (num_windows + 1 if decision.binary else often.sum())
    logits = (np.log(shares / (1 - shares)) if decision.binary else np.log(shares)).astype(np.float32)

    def forward(batch: Batch) -> Float32:
        rows, tokens = batch.input_ids.shape
        if decision.of_tokens:
            unreached = np.where(batch.attention_mask == 0, OUT_OF_REACH, 0.0).astype(np.float32)
            return np.repeat(unreached[:, None], len(logits), axis=1)
        shape = (rows, tokens, len(logits)) if decision.per_token else (rows, len(logits))
        return np.broadcast_to(logits, shape).copy()

    return forward
