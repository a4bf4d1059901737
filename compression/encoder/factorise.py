"""Low-rank weights: choosing ranks, truncating matrices, and layers that compute them as two smaller matrix products.

A truncated weight keeps its shape, so that a stock model holds it; `low_rank_factors` finds matrices of low rank again.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import nn

from compression.encoder.encoder_structure import find_blocks

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedModel

_NOISE = 1e-5  # singular values below this share of the weight's norm are float32 rounding errors


@dataclass(frozen=True, eq=False)
class Spectrum:
    """Variance of a matrix's outputs on calibration data, by principal direction.

    Attributes:
        shape: Numbers of outputs and inputs that are not all zero.
        directions: float64 [outputs, outputs], orthonormal columns, by decreasing energy.
        energies: float64 [outputs], the share of the outputs' variance in each direction; sums to 1.
    """

    shape: tuple[int, int]
    directions: Tensor
    energies: Tensor

    @classmethod
    def of(cls, weight: Tensor, moment: Tensor) -> Spectrum:
        """The principal directions of the outputs: keeping the first r is the best approximation of rank r for inputs with this
        distribution (DRONE, Chen et al., NeurIPS 2021).

        Args:
            weight: float32 [outputs, inputs].
            moment: float64 [outputs, outputs], covariance or second moment of the outputs.
        """
        values, vectors = torch.linalg.eigh(moment)
        falling = values.flip(0).clamp_min(0)
        live = weight != 0
        shape = int(live.any(dim=1).sum()), int(live.any(dim=0).sum())
        return cls(shape, vectors.flip(1), falling / falling.sum().clamp_min(1e-300))

    @property
    def full(self) -> int:
        """The rank at which two products cost as much as one: rank * (rows + columns) = rows * columns."""
        rows, columns = self.shape
        return -(-rows * columns // max(rows + columns, 1))

    def rank_for(self, energy: float) -> int:
        """The smallest rank that keeps this share of the energy."""
        kept = self.energies.cumsum(0)
        return min(int((kept < energy).sum()) + 1, len(kept))

    def kept(self, rank: int) -> float:
        """The share of the energy that a rank keeps."""
        return float(self.energies[:rank].sum())


def ranks_within(spectra: Sequence[Spectrum], ratio: float) -> list[int]:
    """Ranks with which all matrices together keep `ratio` of their weights: directions with most energy per weight first.

    A rank of at least `Spectrum.full` means that the matrix stays whole.
    """
    sizes = [rows * columns for rows, columns in (one.shape for one in spectra)]
    budget = ratio * sum(sizes)
    ranks = [1] * len(spectra)
    costs = [sum(one.shape) for one in spectra]
    budget -= sum(costs)
    gains = sorted(
        ((float(energy) / costs[matrix], matrix, rank) for matrix, one in enumerate(spectra) for rank, energy in enumerate(one.energies[: one.full].tolist()) if rank),
        key=lambda gain: (-gain[0], gain[1:]),
    )  # fmt: skip
    for _, matrix, _ in gains:
        if budget < costs[matrix]:
            break
        ranks[matrix] += 1
        budget -= costs[matrix]
    return ranks


def truncate(weight: Tensor, spectrum: Spectrum, rank: int) -> Tensor:
    """The weight with its outputs projected on the first directions: float32 [outputs, inputs] of this rank.

    Rows and columns of zeros stay zero.
    """
    kept = spectrum.directions[:, :rank]
    low = (kept @ (kept.T @ weight.double())).float()
    low[weight.abs().sum(dim=1) == 0] = 0
    return low


class FactorisedLinear(nn.Module):
    """A linear layer as two matrix products: float32 [rank, inputs], then float32 [outputs, rank]."""

    def __init__(self, inner: Tensor, outer: Tensor, bias: Tensor | None) -> None:
        super().__init__()
        self.inner = nn.Parameter(inner.contiguous(), requires_grad=False)
        self.outer = nn.Parameter(outer.contiguous(), requires_grad=False)
        self.bias = None if bias is None else nn.Parameter(bias.detach().clone(), requires_grad=False)
        self.in_features, self.out_features = inner.shape[1], outer.shape[0]

    @property
    def weight(self) -> Tensor:
        """The product: float32 [outputs, inputs]."""
        return self.outer @ self.inner

    def forward(self, inputs: Tensor) -> Tensor:
        """float32 [..., inputs] to [..., outputs]."""
        return nn.functional.linear(nn.functional.linear(inputs, self.inner), self.outer, self.bias)


class FactorisedEmbedding(nn.Module):
    """An embedding table as two matrices: float32 [rows, rank] and float32 [rank, columns]."""

    def __init__(self, table: Tensor, outer: Tensor) -> None:
        super().__init__()
        self.table = nn.Parameter(table.contiguous(), requires_grad=False)
        self.outer = nn.Parameter(outer.contiguous(), requires_grad=False)

    @property
    def weight(self) -> Tensor:
        """The product: float32 [rows, columns]."""
        return self.table @ self.outer

    def forward(self, ids: Tensor) -> Tensor:
        """int64 [...] to float32 [..., columns]."""
        return nn.functional.embedding(ids, self.table) @ self.outer


def low_rank_factors(weight: Tensor) -> tuple[Tensor, Tensor] | None:
    """Two matrices whose product is the weight, if they have fewer weights: float32 [rows, rank] and [rank, columns]."""
    rows, columns = weight.shape
    gram = _gram(weight)
    noise = (_NOISE**2) * float(gram.trace())
    if not torch.linalg.cholesky_ex(gram - noise * torch.eye(len(gram), dtype=gram.dtype)).info:
        return None  # full rank; a Cholesky decomposition tells ten times as fast as an eigendecomposition
    values, vectors = torch.linalg.eigh(gram)
    rank = max(1, int((values > noise).sum()))
    if rank * (rows + columns) >= rows * columns:
        return None
    kept, exact = vectors.flip(1)[:, :rank], weight.detach().double()
    if rows < columns:
        return kept.float(), (kept.T @ exact).float()
    return (exact @ kept).float(), kept.T.float()


def factorise(model: PreTrainedModel) -> None:
    """Replaces every weight of low rank in the encoder's layers and embeddings by two smaller ones."""
    for block in find_blocks(model):
        for slot in (*block.projections, block.attention_output, block.ffn_input, block.ffn_output):
            if isinstance(slot.linear, nn.Linear) and (parts := low_rank_factors(slot.linear.weight)):
                outer, inner = parts
                slot.replace(FactorisedLinear(inner, outer, slot.linear.bias))
    embeddings = model.get_input_embeddings()
    if isinstance(embeddings, nn.Embedding) and (parts := low_rank_factors(embeddings.weight)):
        model.set_input_embeddings(FactorisedEmbedding(*parts))


def _gram(weight: Tensor) -> Tensor:
    exact = weight.detach().double()
    return exact @ exact.T if exact.shape[0] < exact.shape[1] else exact.T @ exact
