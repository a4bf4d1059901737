"""Chooses the attention kernel of a model in training, and registers ours with transformers."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

from agent.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    import torch
    from transformers import PreTrainedModel

AttentionName = Literal["auto", "sdpa", "eager", "cpu", "varlen"]
_CPU, _VARLEN = "bert_agent_cpu", "bert_agent_varlen"
_OURS = {"cpu": _CPU, "varlen": _VARLEN}
_REASONS = {"cpu": "plain products and fast dropout", "varlen": "no padding; the kernel drops no attention weights"}


@dataclass(frozen=True)
class Attention:
    """The attention of a model.

    Attributes:
        name: As in `engine.attention`.
        reason: Why it was chosen.
        packed: Whether rows are laid end to end, without padding, and must go through `run_packed`.
    """

    name: str
    reason: str
    packed: bool = False


def choose_attention(
    model: PreTrainedModel, requested: AttentionName, *, device: torch.device, half: bool, per_token: bool
) -> Attention:
    """Sets a model's attention implementation.

    Args:
        model: Any encoder of transformers.
        requested: `auto` is varlen on a GPU where its kernel runs, cpu on a CPU if the model is known to work with it, else the model's own.
        device: Where it trains.
        half: Whether products are computed in bf16.
        per_token: Whether every token has an output (a packed batch has no first token of each row).

    Raises:
        ConfigError: The requested kernel cannot run here, or not for this model.
    """
    name = requested if requested != "auto" else "cpu" if device.type == "cpu" else "varlen"
    checks = {
        "cpu": lambda: _why_not_cpu(model, device),
        "varlen": lambda: _why_not_varlen(model, device, half, per_token),
    }
    obstacle = checks.get(name, str)() or _set_implementation(model, _OURS.get(name, name))
    if not obstacle:
        return Attention(name, _REASONS.get(name, "as configured"), packed=name == "varlen")
    own = str(model.config._attn_implementation)
    if requested != "auto":
        raise ConfigError(
            f"engine.attention={requested}, but {obstacle}", allowed=f"auto, {own}", remedy="set engine.attention=auto"
        )
    return Attention(own, f"this model's own, not {name}: {obstacle}")


def run_packed(model: Callable[..., Any], inputs: Mapping[str, torch.Tensor]) -> torch.Tensor:
    """Runs a padded batch without its padding.

    Args:
        model: Takes packed rows, [1, tokens], with `cu_seq_lens_q` and its kin.
        inputs: int64 [rows, tokens] each, `attention_mask` among them, padded on the right.

    Returns:
        Logits, float [rows, tokens, outputs], zero at padding; those of asked tokens, float [asked, outputs], where `inputs` names some.
    """
    import torch

    mask = inputs["attention_mask"].bool()
    lengths = mask.sum(1)
    bounds = torch.nn.functional.pad(lengths.cumsum(0), (1, 0)).to(torch.int32)
    longest = mask.shape[1]
    positions = torch.arange(longest, device=mask.device).expand(mask.shape)[mask][None]
    flat = {name: tensor[mask][None] for name, tensor in inputs.items() if name != "attention_mask"}
    logits = model(
        **flat, position_ids=positions, cu_seq_lens_q=bounds, cu_seq_lens_k=bounds, max_length_q=longest, max_length_k=longest
    )  # fmt: skip
    return logits if "asked" in flat else unpack(logits, mask)


def unpack(flat: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """Rows that lie end to end, [1, tokens of all rows, width], as padded ones, [rows, tokens, width]; zero at padding."""
    padded = flat.new_zeros((*mask.shape, flat.shape[-1]))
    padded[mask] = flat[0]
    return padded


def _why_not_cpu(model: PreTrainedModel, device: torch.device) -> str:
    """Why the cpu kernel does not fit: other models need a causal mask, a position bias, shared keys or a logit cap."""
    if device.type != "cpu":
        return "its dropout is for CPUs"
    if model.config.model_type not in _CPU_FAMILIES:
        return f"{model.config.model_type} models were not tried with it"
    return "a decoder sees only what came before" if getattr(model.config, "is_decoder", False) else ""


def _why_not_varlen(model: PreTrainedModel, device: torch.device, half: bool, per_token: bool) -> str:
    if device.type != "cuda":
        return "its kernel needs a GPU"
    if not half:
        return "its kernel needs bf16"
    if not per_token:
        return "this task has one output for a whole row"
    if model.config.model_type not in _POSITIONS_FROM_ZERO:
        return f"{model.config.model_type} models were not tried with it"
    try:
        from torch.nn.attention import varlen  # noqa: F401
    except ImportError:
        return "this torch has no variable-length kernel (2.10 has)"
    return ""


_POSITIONS_FROM_ZERO = frozenset({"bert", "distilbert", "electra"})
# Equal to sdpa to 1e-5: tests/training/model/test_attention.py.
_CPU_FAMILIES = frozenset(
    {
        "albert", "bert", "camembert", "data2vec-text", "distilbert", "electra", "ernie", "esm", "gte", "jina_embeddings_v3",
        "mobilebert", "modernbert", "nomic_bert", "roberta", "roberta-prelayernorm", "xlm-roberta", "xlm-roberta-xl",
    }
)  # fmt: skip


def _set_implementation(model: PreTrainedModel, name: str) -> str:
    """Sets the attention implementation; returns why it could not be set, or nothing."""
    _register()
    try:
        model.set_attn_implementation(name)
    except (ValueError, AttributeError, ImportError) as error:
        return " ".join(str(error).split())
    was_set = model.config._attn_implementation == name  # transformers only logs a warning where it was not
    return "" if was_set else f"{model.config.model_type} models take no other attention than their own"


def _register() -> None:
    from transformers import AttentionInterface
    from transformers.masking_utils import AttentionMaskInterface, sdpa_mask

    AttentionInterface.register(_CPU, _cpu_attention)
    AttentionMaskInterface.register(_CPU, sdpa_mask)
    AttentionInterface.register(_VARLEN, _varlen_attention)


def _cpu_attention(  # noqa: PLR0913  # the signature that transformers calls
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    *,
    scaling: float | None = None,
    dropout: float = 0.0,
    **_: Any,  # unused by the models of _CPU_FAMILIES
) -> tuple[torch.Tensor, None]:
    """Attention as plain matrix products: torch's fused CPU kernel has a slow backward pass and no dropout.

    `query`, `key`, `value`: [rows, heads, tokens, size]; `attention_mask`: bool, broadcast to [rows, heads, tokens, tokens].
    """
    import torch

    scores = torch.matmul(query * (scaling or query.shape[-1] ** -0.5), key.transpose(2, 3))
    if attention_mask is not None:
        scores = scores.masked_fill(~attention_mask, torch.finfo(scores.dtype).min)
    weights = torch.nn.functional.softmax(scores, dim=-1).to(value.dtype)
    if dropout and module.training:
        from training.model.cpu_dropout import dropout as cpu_dropout

        weights = cpu_dropout(weights, dropout)
    return torch.matmul(weights, value).transpose(1, 2).contiguous(), None


def _varlen_attention(  # noqa: PLR0913
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    *,
    cu_seq_lens_q: torch.Tensor,
    max_length_q: int,
    scaling: float | None = None,
    **_: Any,
) -> tuple[torch.Tensor, None]:
    """Attention within rows that lie end to end: `query` and its kin are [1, heads, tokens of all rows, size]."""
    flat = (_tokens_first(query), _tokens_first(key), _tokens_first(value))
    if query.device.type != "cuda":
        return _by_rows(flat, cu_seq_lens_q.tolist(), scaling)[None], None
    from torch.nn.attention.varlen import varlen_attn

    bounds, longest = cu_seq_lens_q, max_length_q
    attended = varlen_attn(*flat, bounds, bounds, longest, longest, scale=scaling)
    assert not isinstance(attended, tuple)
    return attended[None], None


_Triple: TypeAlias = "tuple[torch.Tensor, torch.Tensor, torch.Tensor]"


def _tokens_first(tensor: torch.Tensor) -> torch.Tensor:
    return tensor[0].transpose(0, 1).contiguous()


def _by_rows(flat: _Triple, bounds: Sequence[int], scale: float | None) -> torch.Tensor:
    """Computes each row by itself where there is no kernel; `flat` are [tokens, heads, size]."""
    import torch

    parts = []
    for first, last in itertools.pairwise(bounds):
        query, key, value = (tensor[first:last].transpose(0, 1) for tensor in flat)
        attended = torch.nn.functional.scaled_dot_product_attention(query, key, value, scale=scale)
        parts.append(attended.transpose(0, 1))
    return torch.cat(parts)
