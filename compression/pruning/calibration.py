"""Importance of heads and feed-forward units for the loss, and second moments of their activations, on labelled sentences."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from agent.batching import Batch, cut_by_length, pad
from agent.encoding import IGNORED, Encoder, Int64, Window
from agent.errors import ModelError
from agent.tasks import BaseTask
from compression.encoder.encoder_structure import Slot, find_blocks
from compression.encoder.torch_model import logits, to_tensors

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedModel

Importance = Literal["first_order", "fisher"]
"""How the effects on the loss, one for each window, become one score: the sum of absolute values, or of squares."""

_MAX_TOKENS = 2048  # padded tokens of a batch; bounds memory without changing results


@dataclass(eq=False)
class ProjectionStatistics:
    """Statistics of the inputs of an output projection (of attention or of the feed-forward part).

    Attributes:
        slot: The projection.
        group: Number of neighbouring inputs with one score (the columns of a head).
        importance: How a score is computed from effects. The effect of a group on the loss of a window is the sum over tokens and
            group of a * dL/da.
        scores: float32 [inputs / group]. `first_order`: sum over windows of |effect|, the first-order estimate of how the loss
            changes when the group is removed (Molchanov et al., arXiv 1906.10771; for heads Michel et al., arXiv 1905.10650).
            `fisher`: sum of effect^2, the diagonal of the empirical Fisher information of a gate on the group, which is its
            second-order estimate (Kwon et al., arXiv 2204.09656, section 3.2).
        gram: float64 [inputs + 1, inputs + 1]: sum over tokens of a a^T, with a 1 appended to a for the bias.
    """

    slot: Slot
    group: int
    importance: Importance
    scores: Tensor
    gram: Tensor

    @classmethod
    def of(cls, slot: Slot, group: int, importance: Importance) -> ProjectionStatistics:
        """Statistics of no tokens yet."""
        import torch

        inputs = slot.linear.in_features
        gram = torch.zeros(inputs + 1, inputs + 1, dtype=torch.float64)
        return cls(slot, group, importance, torch.zeros(inputs // group), gram)

    def observe(self, inputs: Tensor, mask: Tensor) -> None:
        """Adds one batch: inputs float32 [rows, tokens, inputs], mask bool [rows, tokens]."""
        import torch

        seen = inputs.detach()
        flat = seen[mask]
        flat = torch.cat([flat, flat.new_ones(len(flat), 1)], dim=1)
        self.gram += flat.T @ flat
        inputs.register_hook(lambda gradient: self._add_effects((seen * gradient).sum(dim=1)))  # type: ignore[no-untyped-call]

    def _add_effects(self, effects: Tensor) -> None:
        """effects: float32 [rows, inputs], the derivative of the loss with respect to a gate on each input."""
        grouped = effects.reshape(len(effects), -1, self.group).sum(-1)
        self.scores += (grouped.square() if self.importance == "fisher" else grouped.abs()).sum(0)


@dataclass(frozen=True)
class Calibration:
    """Statistics of the heads and of the feed-forward units of every layer, first to last."""

    heads: list[ProjectionStatistics]
    units: list[ProjectionStatistics]


def calibrate(
    model: PreTrainedModel,
    batches: Sequence[LabelledBatch],
    importance: Importance = "first_order",
    progress: Callable[[int, int], None] | None = None,
) -> Calibration:
    """Collects statistics by forward and backward passes; the model does not change.

    Raises:
        ModelError: Activations or the loss are not finite; names the module.
    """
    blocks = find_blocks(model)
    seen = Calibration(
        [ProjectionStatistics.of(block.attention_output, block.head_size, importance) for block in blocks],
        [ProjectionStatistics.of(block.ffn_output, 1, importance) for block in blocks],
    )
    for done, labelled in enumerate(batches, 1):
        _observe(model, seen, labelled)
        if progress:
            progress(done, len(batches))
    return seen


@dataclass(frozen=True)
class LabelledBatch:
    """A padded batch with its targets: int64 [rows, tokens], [rows] for one per window, or [rows, outputs] (1 or 0, or places of tokens); -100 does not count.

    Attributes:
        binary: Whether each output is decided by itself.
    """

    batch: Batch
    targets: Int64
    binary: bool


def labelled_batches(task: BaseTask[Any], encoder: Encoder, examples: Sequence[Any]) -> list[LabelledBatch]:
    """Examples in batches of similar length."""
    items = _windows(task, encoder, examples)
    cuts = cut_by_length([len(window.input_ids) for window, _ in items], max_tokens=_MAX_TOKENS)
    return [_labelled(task, [items[index] for index in cut], encoder.pad_id) for cut in cuts]


def total_loss(model: PreTrainedModel, labelled: LabelledBatch) -> Tensor:
    """Summed cross-entropy of the targets: float32 []."""
    import torch

    found, targets = logits(model, to_tensors(model, labelled.batch)), torch.from_numpy(labelled.targets)
    if labelled.binary:
        return torch.nn.functional.binary_cross_entropy_with_logits(found, targets.to(found.dtype), reduction="sum")
    if found.ndim < targets.ndim + 1:  # of asked tokens only
        targets = targets[targets != IGNORED]
    return torch.nn.functional.cross_entropy(
        found.reshape(-1, found.shape[-1]), targets.reshape(-1), ignore_index=IGNORED, reduction="sum"
    )


def _windows(task: BaseTask[Any], encoder: Encoder, examples: Sequence[Any]) -> list[tuple[Window, Int64]]:
    return [
        pair
        for example, document in zip(examples, task.encode(encoder, examples), strict=True)
        for pair in zip(document.windows, task.targets(example, document), strict=True)
    ]


def _labelled(task: BaseTask[Any], items: Sequence[tuple[Window, Int64]], pad_id: int) -> LabelledBatch:
    batch, targets = pad([window for window, _ in items], pad_id), [target for _, target in items]
    padded = _pad_targets(targets, batch.input_ids.shape) if task.decision.per_token else np.stack(targets)
    return LabelledBatch(batch, padded, task.decision.binary)


def _observe(model: PreTrainedModel, seen: Calibration, labelled: LabelledBatch) -> None:
    import torch

    mask = torch.from_numpy(labelled.batch.attention_mask.astype(bool))
    with _observing(model, seen, mask), torch.enable_grad():
        loss = total_loss(model, labelled)
        _require_finite("the loss", loss)
        loss.backward()  # type: ignore[no-untyped-call]
    model.zero_grad(set_to_none=True)


def _pad_targets(targets: Sequence[Int64], shape: tuple[int, ...]) -> Int64:
    """Stacks targets, one per token: int64 [rows, tokens]."""
    padded = np.full(shape, IGNORED, dtype=np.int64)
    for row, target in enumerate(targets):
        padded[row, : len(target)] = target
    return padded


def _require_finite(name: str, values: Tensor) -> None:
    if bool(values.isfinite().all()):
        return
    raise ModelError(
        f"calibration: {name} is not finite on training sentences",
        remedy="the agent itself is damaged: look at its training, or train it again in float32 (engine.precision=fp32)",
    )


@contextmanager
def _observing(model: PreTrainedModel, seen: Calibration, mask: Tensor) -> Iterator[None]:
    names = {module: name for name, module in model.named_modules()}

    def hook_for(projection: ProjectionStatistics) -> Callable[[Any, tuple[Tensor, ...]], None]:
        def observe(module: Any, inputs: tuple[Tensor, ...]) -> None:
            _require_finite(f"the input of {names[module]}", inputs[0])
            projection.observe(inputs[0], mask)

        return observe

    hooks = [
        projection.slot.linear.register_forward_pre_hook(hook_for(projection))
        for projection in [*seen.heads, *seen.units]
    ]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()
