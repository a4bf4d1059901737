"""Refits an output projection, some of whose inputs were removed, by linear least squares."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor, nn

RIDGE = 1e-3  # regularisation towards the old weights, relative to the mean diagonal of the Gram matrix


def remove_inputs(linear: nn.Linear, keep: Tensor) -> None:
    """Zeroes the weights that read removed inputs.

    Args:
        linear: weight float32 [outputs, inputs].
        keep: bool [inputs].
    """
    linear.weight.data[:, ~keep] = 0


def refit(linear: nn.Linear, keep: Tensor, gram: Tensor) -> None:
    """Removes inputs and refits the remaining weights and the bias to the former outputs.

    Least squares over the calibration tokens: with activations a (a 1 appended for the bias), Gram matrix G = sum a a^T,
    weights W and kept inputs K, the minimum of sum |W' a_K - W a|^2 + r |W' - W_K|^2 is
    W' = (W G[:, K] + r W_K) (G[K, K] + r I)^-1. Layer-wise reconstruction as in Kwon et al., arXiv 2204.09656, section
    3.3, but for whole weights instead of a scale for each unit.

    Args:
        linear: weight float32 [outputs, inputs], bias float32 [outputs].
        keep: bool [inputs].
        gram: float64 [inputs + 1, inputs + 1].
    """
    import torch

    kept = torch.cat([torch.nonzero(keep).flatten(), torch.tensor([len(keep)])])
    old = torch.cat([linear.weight.data, linear.bias.data[:, None]], dim=1).double()
    ridge = RIDGE * float(gram.diagonal().mean())
    system = gram[kept][:, kept] + ridge * torch.eye(len(kept), dtype=torch.float64)
    target = old @ gram[:, kept] + ridge * old[:, kept]
    new = torch.linalg.solve(system, target, left=False).float()
    remove_inputs(linear, keep)
    linear.weight.data[:, keep] = new[:, :-1]
    linear.bias.data.copy_(new[:, -1])
