"""Trains a part of a model: frozen layers, or LoRA adapters through peft, merged into a plain model afterwards."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field

from agent.config.base import Config
from agent.errors import ModelError
from training.model.layer_depth import WRAPPED, depths, is_head

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel

_HEAD, _BASE = ".modules_to_save.default", ".base_layer"  # in peft's names, written for peft 0.18 to 0.21


class LoraConfig(Config):
    """Low-rank adapters (LoRA, arXiv 2106.09685) beside frozen matrices; the head is trained whole."""

    rank: int = Field(16, ge=1, description="rank of the update of each matrix")
    alpha: float = Field(32.0, gt=0, description="the update is scaled by alpha / rank")
    dropout: float = Field(0.0, ge=0, lt=1, description="dropout of what enters the adapters")
    target_modules: tuple[str, ...] = Field(
        (),
        description="last parts of the names of matrices that get adapters (query, value); empty: all in the encoder layers",
    )


def adapt(
    model: torch.nn.Module, *, trainable: Literal["all", "head_only"] | int, lora: LoraConfig | None
) -> torch.nn.Module:
    """Freezes layers or adds adapters. A model that is trained whole is returned as it is.

    Args:
        model: A model of transformers. Under LoRA it is changed in place, and the one returned wraps it.
        trainable: As `model.trainable`.
        lora: As `model.lora`.

    Raises:
        ModelError: The model has too few layers or lacks a target module, or peft is not installed.
    """
    if lora is not None:
        return _with_lora(model, lora)
    if trainable != "all":
        _freeze(model, 0 if trainable == "head_only" else trainable)
    return model


def unwrap(model: torch.nn.Module) -> PreTrainedModel:
    """The model of transformers inside adapters."""
    inner: PreTrainedModel = model.get_base_model() if _is_wrapped(model) else model  # type: ignore[operator]
    return inner


def merged_weights(model: torch.nn.Module, weights: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The state dict of the plain model from one of an adapted model: W + alpha / rank * B @ A (arXiv 2106.09685).

    Args:
        model: What `adapt` returned; read for its scaling only.
        weights: All of its weights, by its own names.
    """
    if not _is_wrapped(model):
        return weights
    lora: Any = model.peft_config
    scaling = lora["default"].lora_alpha / lora["default"].r
    merged = {}
    for name, tensor in weights.items():
        if ".lora_" in name or ".original_module." in name:
            continue
        stem, matrix, _ = name.partition(f"{_BASE}.weight")
        factors = [weights[f"{stem}.lora_{factor}.default.weight"] for factor in "BA"] if matrix else []
        plain_name = name.removeprefix(WRAPPED).replace(_HEAD, "").replace(_BASE, "")
        merged[plain_name] = tensor + scaling * (factors[0] @ factors[1]) if matrix else tensor
    return merged


def _is_wrapped(model: torch.nn.Module) -> bool:
    return hasattr(model, "get_base_model")  # only PeftModel has it; isinstance would import peft


def _freeze(model: torch.nn.Module, num_layers: int) -> None:
    depth_of = depths(model)
    head = max(depth_of.values())
    if num_layers > head - 1:
        raise ModelError(
            f"model.trainable={num_layers}, but {type(model).__name__} has {head - 1} encoder layers",
            allowed=f"all, head_only, 1 to {head - 1}" if head > 1 else "all, head_only",
            remedy="lower model.trainable",
        )
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(depth_of[name] >= head - num_layers)


def _with_lora(model: torch.nn.Module, config: LoraConfig) -> torch.nn.Module:
    try:
        import peft
    except ImportError:
        raise ModelError(
            "model.lora needs the package peft, which is not installed", remedy="pip install 'peft>=0.18'"
        ) from None
    settings = peft.LoraConfig(
        r=config.rank,
        lora_alpha=config.alpha,  # type: ignore[arg-type]  # annotated as int, only divided
        lora_dropout=config.dropout,
        target_modules=_target_matrices(model, config.target_modules),
        modules_to_save=_head_modules(model),
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # peft 0.21 asks transformers 5.23 by an old name
        wrapped: torch.nn.Module = peft.get_peft_model(model, settings)
    return wrapped


def _target_matrices(model: torch.nn.Module, requested: Sequence[str]) -> list[str]:
    """Full names of the matrices that get adapters. All of the layers by default: arXiv 2305.14314, section 4."""
    import torch

    depth_of = depths(model)
    linear = [
        name
        for name, module in model.named_modules()
        if isinstance(module, torch.nn.Linear) and not is_head(model, name) and depth_of[f"{name}.weight"] > 0
    ]
    ends = {name: name.rsplit(".", 1)[-1] for name in linear}
    if not linear:
        raise ModelError(
            f"model.lora: no parameter of {type(model).__name__} is named by its layer",
            allowed="names with layer.N, layers.N, h.N or block.N",
            remedy="train it without model.lora",
        )
    if unknown := sorted(set(requested) - set(ends.values())):
        raise ModelError(
            f"model.lora.target_modules: {type(model).__name__} has no matrix {unknown[0]!r} in its encoder layers",
            allowed=", ".join(sorted(set(ends.values()))),
            remedy="take names from these, or none for all of them",
        )
    return [name for name in linear if not requested or ends[name] in requested]


def _head_modules(model: torch.nn.Module) -> list[str]:
    """The shortest names of modules that hold all of the head and nothing else."""
    pooler = f"{model.base_model_prefix}.pooler"
    heads = {name for name, _ in model.named_parameters() if is_head(model, name)}
    return sorted({pooler if name.startswith(f"{pooler}.") else name.split(".")[0] for name in heads})
