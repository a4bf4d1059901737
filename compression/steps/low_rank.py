"""The step low_rank: truncates weight matrices to low rank by their outputs on training sentences."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Self

from pydantic import Field, model_validator

from agent.errors import ConfigError
from agent.tasks import BaseTask
from cluster.progress import timed_bar
from compression.state.pipeline_state import PipelineState
from compression.steps.base import BaseStep

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedModel

    from agent.batching import Batch
    from compression.encoder.factorise import Spectrum

Matrix = Literal["query", "key", "value", "attention_output", "ffn_input", "ffn_output", "embeddings"]
_ENERGY = 0.9  # measurements in docs/benchmarks.md


class LowRankStep(BaseStep):
    """Truncates the rank of weights. They keep their shape; graphs compute them as two smaller matrix products.

    A matrix whose rank would not make it cheaper (rank * (rows + columns) < rows * columns) stays whole. A layer whose query,
    key or value is truncated is not fused into ONNX Runtime's Attention.
    """

    position: ClassVar[int] = 16
    kind: Literal["low_rank"] = "low_rank"
    matrices: tuple[Matrix, ...] = Field(("embeddings",), min_length=1, description="which to cut")
    ratio: float | None = Field(
        None, gt=0, lt=1, description="part of the chosen matrices' weights that stays, taken together"
    )
    energy: float | None = Field(
        None, gt=0, lt=1,
        description=f"part of the variance of what each matrix says that stays; default: {_ENERGY}, if ratio is not given",
    )  # fmt: skip
    num_calibration: int = Field(512, ge=1, description="training examples on which the matrices are watched")

    @model_validator(mode="after")
    def _one_measure(self) -> Self:
        if self.ratio is not None and self.energy is not None:
            raise ValueError("give ratio or energy, not both: {kind: low_rank, energy: 0.95}")
        return self

    def check_task(self, task: BaseTask[Any]) -> None:
        """Refuses to truncate a vocabulary that is the model's outputs too.

        Raises:
            ConfigError: The task is such a one.
        """
        super().check_task(task)
        if task.decision.of_vocabulary and "embeddings" in self.matrices:
            raise ConfigError(
                f"low_rank.matrices={list(self.matrices)}: the embeddings of {task.kind} are its outputs too",
                allowed="query, key, value, attention_output, ffn_input, ffn_output",
                remedy="leave embeddings out",
            )

    def run(self, state: PipelineState) -> None:
        """Collects statistics, chooses ranks and truncates.

        Raises:
            ConfigError: The architecture is not supported.
        """
        from compression.encoder.factorise import ranks_within

        chosen = self._chosen(state.model)
        with timed_bar("low_rank: what matrices say") as progress:
            seen = _spectra(state, [module for _, module in chosen], self.num_calibration, progress)
        spectra = [spectrum for spectrum, _ in seen]
        if self.ratio is not None:
            ranks = ranks_within(spectra, self.ratio)
        else:
            ranks = [spectrum.rank_for(self.energy or _ENERGY) for spectrum in spectra]
        ranks_by_name: dict[str, list[str]] = {}
        for (name, module), (spectrum, mean), rank in zip(chosen, seen, ranks, strict=True):
            ranks_by_name.setdefault(name, []).append(_truncate(module, spectrum, rank, mean))
        state.weights_changed = True
        state.note("low_rank: " + "; ".join(f"{name} {', '.join(ranks)}" for name, ranks in ranks_by_name.items()))

    def _chosen(self, model: PreTrainedModel) -> list[tuple[str, Any]]:
        """The linear layers and the embedding table to truncate, each with its kind."""
        from compression.encoder.encoder_structure import find_blocks, is_prunable

        if not is_prunable(model):
            raise ConfigError(
                f"step low_rank does not know the matrices of a {type(model).__name__}",
                allowed="encoders built like BERT, and DistilBERT",
                remedy="leave the step out",
            )
        found: list[tuple[str, Any]] = []
        for block in find_blocks(model):
            query, key, value = block.projections
            slots = {
                "query": query, "key": key, "value": value, "attention_output": block.attention_output,
                "ffn_input": block.ffn_input, "ffn_output": block.ffn_output,
            }  # fmt: skip
            found += [(name, slots[name].linear) for name in self.matrices if name != "embeddings"]
        if "embeddings" in self.matrices:
            found.append(("embeddings", model.get_input_embeddings()))
        return found


def _spectra(
    state: PipelineState, modules: Sequence[Any], num_examples: int, progress: Callable[[int, int], None]
) -> list[tuple[Spectrum, Tensor | None]]:
    """For each module its spectrum on training sentences, and the mean of its inputs (None for the embedding table)."""
    from torch import nn

    from compression.encoder.factorise import Spectrum
    from compression.encoder.input_statistics import batches_of, collect_statistics

    batches = batches_of(state.windows(state.sample_train(num_examples)), state.encoder.pad_id)
    linears = [module for module in modules if isinstance(module, nn.Linear)]
    moments = iter(collect_statistics(state.model, linears, batches, progress))
    found: list[tuple[Spectrum, Tensor | None]] = []
    for module in modules:
        weight = module.weight.detach()
        if isinstance(module, nn.Linear):
            seen = next(moments)
            outputs = weight.double() @ seen.covariance @ weight.double().T
            found.append((Spectrum.of(weight, outputs), seen.mean))
        else:
            found.append((Spectrum.of(weight.T, _second_moment(weight, batches)), None))
    return found


def _second_moment(table: Tensor, batches: Sequence[Batch]) -> Tensor:
    """Second moment of the rows of a table, weighted by 1 + how often they are looked up: float64 [columns, columns]."""
    import numpy as np
    import torch

    counts = np.ones(len(table))
    for batch in batches:
        counts += np.bincount(batch.input_ids[batch.attention_mask.astype(bool)], minlength=len(table))
    return (table.double().T * torch.from_numpy(counts)) @ table.double()


def _truncate(module: Any, spectrum: Spectrum, rank: int, mean: Tensor | None) -> str:
    """Truncates one matrix where that makes it cheaper; returns a summary for the report."""
    from compression.encoder.factorise import truncate

    if rank >= spectrum.full:
        return "whole"
    weight = module.weight.data
    if mean is None:
        module.weight.data = truncate(weight.T, spectrum, rank).T.contiguous()
    else:
        module.weight.data = truncate(weight, spectrum, rank)
        if module.bias is not None:  # adds the mean of the outputs that were truncated
            module.bias.data += ((weight - module.weight.data).double() @ mean).float()
    return f"{rank} of {min(spectrum.shape)} ({spectrum.kept(rank):.1%})"
