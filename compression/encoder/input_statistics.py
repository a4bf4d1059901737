"""Means and second moments of the inputs of linear layers, collected with forward hooks."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from agent.batching import Batch, cut_by_length, pad
from agent.encoding import Window
from compression.encoder.torch_model import to_tensors

if TYPE_CHECKING:
    from torch import Tensor, nn
    from transformers import PreTrainedModel

_MAX_TOKENS = 2048  # padded tokens of a batch; bounds memory without changing results


@dataclass(eq=False)
class InputStatistics:
    """Sums over the inputs of a layer: number of tokens, sum float64 [inputs], second moment float64 [inputs, inputs]."""

    count: int
    total: Tensor
    second: Tensor

    @classmethod
    def empty(cls, inputs: int) -> InputStatistics:
        """Statistics of no tokens yet."""
        import torch

        return cls(0, torch.zeros(inputs, dtype=torch.float64), torch.zeros(inputs, inputs, dtype=torch.float64))

    def add(self, inputs: Tensor) -> None:
        """Adds inputs, float32 [tokens, inputs]."""
        self.count += len(inputs)
        self.total += inputs.sum(dim=0, dtype=self.total.dtype)
        self.second += inputs.T @ inputs

    @property
    def mean(self) -> Tensor:
        """float64 [inputs]."""
        return self.total / max(self.count, 1)

    @property
    def covariance(self) -> Tensor:
        """float64 [inputs, inputs]."""
        mean = self.mean
        return self.second / max(self.count, 1) - mean[:, None] * mean


def batches_of(windows: Sequence[Window], pad_id: int) -> list[Batch]:
    """Windows in padded batches of similar length."""
    cuts = cut_by_length([len(window.input_ids) for window in windows], max_tokens=_MAX_TOKENS)
    return [pad([windows[index] for index in cut], pad_id) for cut in cuts]


def collect_statistics(
    model: PreTrainedModel, layers: Sequence[nn.Linear], batches: Sequence[Batch], progress: Callable[[int, int], None]
) -> list[InputStatistics]:
    """Statistics of the inputs of each layer over batches, without padding."""
    import torch

    seen = [InputStatistics.empty(layer.in_features) for layer in layers]
    mask = torch.empty(0)

    def hook_for(statistics: InputStatistics) -> Callable[[Any, tuple[Tensor, ...]], None]:
        return lambda _, inputs: statistics.add(inputs[0][mask])

    hooks = [
        layer.register_forward_pre_hook(hook_for(statistics)) for layer, statistics in zip(layers, seen, strict=True)
    ]
    try:
        for done, batch in enumerate(batches, 1):
            mask = torch.from_numpy(batch.attention_mask.astype(bool))
            with torch.inference_mode():
                model(**to_tensors(model, batch))
            progress(done, len(batches))
    finally:
        for hook in hooks:
            hook.remove()
    return seen
