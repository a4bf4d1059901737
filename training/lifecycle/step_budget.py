"""Fills in settings that are `auto` by the size of the training data: few examples get small batches and many epochs."""

from __future__ import annotations

import math

from agent.encoding import Int64
from training.config import TrainingConfig
from training.data.batch_plan import plan_epoch

MIN_STEPS = 300  # optimizer steps below which small data sets are not learned (benchmarks/few_labels.py)
_MIN_EPOCHS, _MAX_EPOCHS = 3, 60
_MIN_TOKENS, _MAX_TOKENS = 256, 1024
_STEPS_PER_EPOCH = 32
_PATIENCE_SHARE = 3


def fill_in_auto(config: TrainingConfig, lengths: Int64) -> tuple[TrainingConfig, str]:
    """Replaces `auto` in `batch.tokens`, `epochs` and `early_stopping.patience`.

    Batches hold a 32nd of the training split, 256 to 1,024 tokens; epochs make 300 optimizer steps, 3 to 60 of them; patience is a third of more than
    five epochs. Data with 77,000 tokens or more gets 1,024 tokens and at most 4 epochs.

    Args:
        config: As the user gave it.
        lengths: int64 [windows], tokens of each training window.

    Returns:
        The configuration without `auto`, and a line that says what was chosen and why; empty if nothing was `auto`.
    """
    chosen = []
    num_tokens = int(lengths.sum())
    batch = config.batch
    if batch.tokens == "auto":
        fitting = 2 ** int(math.log2(max(1, num_tokens / _STEPS_PER_EPOCH)))
        batch = batch.model_copy(update={"tokens": min(max(fitting, _MIN_TOKENS), _MAX_TOKENS)})
        chosen.append(f"batch.tokens={batch.tokens}")
    num_steps = max(1, len(plan_epoch(lengths, config=batch, seed=config.seed, epoch=0)))
    if config.epochs != "auto":
        epochs = config.epochs
    else:
        epochs = min(max(math.ceil(MIN_STEPS / num_steps), _MIN_EPOCHS), _MAX_EPOCHS)
        chosen.append(f"epochs={epochs}")
    stopping = config.early_stopping
    if stopping.patience == "auto":
        patience = math.ceil(epochs / _PATIENCE_SHARE) if epochs > _MIN_EPOCHS + 2 else None
        stopping = stopping.model_copy(update={"patience": patience})
        if patience:
            chosen.append(f"early_stopping.patience={patience}")
    filled = config.model_copy(update={"batch": batch, "epochs": epochs, "early_stopping": stopping})
    reason = f"{num_tokens:,} training tokens make {num_steps:,} steps an epoch, and {MIN_STEPS} steps are wanted"
    return filled, f"auto: {', '.join(chosen)} ({reason})" if chosen else ""
