"""Fills in settings that are `auto`: few examples get small batches and many epochs, wide encoders low learning rates."""

from __future__ import annotations

import math

from agent.encoding import Int64
from training.config import TrainingConfig
from training.data.batch_plan import plan_epoch
from training.model.models import ModelConfig

# Optimizer steps below which small data sets are not learned (benchmarks/training_quality/few_labels.py).
MIN_STEPS = 300
_MIN_EPOCHS, _MAX_EPOCHS = 3, 60
_MIN_TOKENS, _MAX_TOKENS = 256, 1024
_STEPS_PER_EPOCH = 32
_PATIENCE_SHARE = 3
# A rate that encoders of this width learn well at in steps of `_MAX_TOKENS` (benchmarks/training_quality/few_labels.py); adapters: docs/training.md.
_RATE, _WIDTH = 2e-4, 384
_ADAPTER_RATE = 1e-3
_LOWEST_RATE = 1e-5
# Of models that write and start from nothing: what small ones learned to translate with (docs/benchmarks.md); wider ones go by the root of the width.
STEPS_FROM_NOTHING = 3_000
_RATE_FROM_NOTHING, _WIDTH_FROM_NOTHING = 2e-3, 192


def fill_in_auto(config: TrainingConfig, lengths: Int64, width: int) -> tuple[TrainingConfig, str]:
    """Replaces `auto` in `batch.tokens`, `epochs`, `early_stopping.patience` and `optimizer.learning_rate`.

    Batches hold a 32nd of the training split, 256 to 1,024 tokens; epochs make 300 optimizer steps, 3 to 60 of them; patience is a third of more than
    five epochs. Data with 77,000 tokens or more gets 1,024 tokens and at most 4 epochs. The learning rate is 2e-4 and, for encoders wider than
    384, falls with the square of the width: 5e-5 at 768 and 2.8e-5 at 1,024, the rates that BERT (arXiv 1810.04805) and RoBERTa (1907.11692)
    are fine-tuned at. In smaller steps than 1,024 tokens it is lower by the root of their share, as Adam wants it (arXiv 2205.10287). Models that write and start from nothing (`model.init=random`) get 3,000 steps, and 2e-3 at a width of 192, less by the root of
    the width where they are wider.

    Args:
        config: As the user gave it.
        lengths: int64 [windows], tokens of each training window.
        width: Of the encoder's hidden states.

    Returns:
        The configuration without `auto`, and a line that says what was chosen and why; empty if nothing was `auto`.
    """
    chosen = []
    from_nothing = config.model.init == "random" and config.task.writes
    num_tokens, wanted = int(lengths.sum()), STEPS_FROM_NOTHING if from_nothing else MIN_STEPS
    batch = config.batch
    if batch.tokens == "auto":
        fitting = 2 ** int(math.log2(max(1, num_tokens / _STEPS_PER_EPOCH)))
        batch = batch.model_copy(update={"tokens": min(max(fitting, _MIN_TOKENS), _MAX_TOKENS)})
        chosen.append(f"batch.tokens={batch.tokens}")
    num_steps = max(1, len(plan_epoch(lengths, config=batch, seed=config.seed, epoch=0)))
    if config.epochs != "auto":
        epochs = config.epochs
    else:
        epochs = min(max(math.ceil(wanted / num_steps), _MIN_EPOCHS), _MAX_EPOCHS)
        chosen.append(f"epochs={epochs}")
    stopping = config.early_stopping
    if stopping.patience == "auto":
        patience = math.ceil(epochs / _PATIENCE_SHARE) if epochs > _MIN_EPOCHS + 2 else None
        stopping = stopping.model_copy(update={"patience": patience})
        if patience:
            chosen.append(f"early_stopping.patience={patience}")
    lines = (
        [
            f"{', '.join(chosen)} ({num_tokens:,} training tokens make {num_steps:,} steps an epoch, and {wanted:,} steps are wanted)"
        ]
        if chosen
        else []
    )
    optimizer = config.optimizer
    if optimizer.learning_rate == "auto":
        rate, reason = _from_nothing(width) if from_nothing else _learning_rate(config.model, width, batch.step_tokens)
        optimizer = optimizer.model_copy(update={"learning_rate": rate})
        lines.append(f"optimizer.learning_rate={rate:g} ({reason})")
    filled = config.model_copy(
        update={"batch": batch, "epochs": epochs, "early_stopping": stopping, "optimizer": optimizer}
    )
    return filled, f"auto: {'; '.join(lines)}" if lines else ""


def _learning_rate(model: ModelConfig, width: int, tokens: int) -> tuple[float, str]:
    """The rate, to two digits, and its reason."""
    if model.lora is not None:
        return _ADAPTER_RATE, "adapters alone"
    if model.trainable == "head_only":
        return _RATE, "the head alone"
    share = min(1.0, tokens / _MAX_TOKENS)
    rate = max(_LOWEST_RATE, _RATE * min(1.0, _WIDTH / width) ** 2 * math.sqrt(share))
    return float(f"{rate:.1e}"), f"an encoder of width {width}{f', steps of {tokens} tokens' if share < 1 else ''}"


def _from_nothing(width: int) -> tuple[float, str]:
    rate = _RATE_FROM_NOTHING * math.sqrt(min(1.0, _WIDTH_FROM_NOTHING / width))
    return float(f"{rate:.1e}"), f"a model that writes, of width {width}, from nothing"
