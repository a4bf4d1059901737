"""Finds the layers of transformers' encoders, and has their heads answer for asked tokens only, without importing PyTorch."""

from __future__ import annotations

from contextvars import ContextVar
from typing import Any

MASKED_LM = "AutoModelForMaskedLM"
_ASKED: ContextVar[Any] = ContextVar("asked", default=None)  # of the pass that this thread computes


def find_layers(model: Any) -> tuple[str, Any] | None:
    """The list of an encoder's layers, lowest first, and its dotted name in the base model; None if there is no such list.

    Args:
        model: A model of transformers whose layers are in one `ModuleList` (BERT, RoBERTa, ELECTRA, DistilBERT and similar).
    """
    depth = getattr(model.config, "num_hidden_layers", None)
    for name, module in model.base_model.named_modules():
        if type(module).__name__ == "ModuleList" and len(module) == depth:
            return name, module
    return None


def take_asked(model: Any) -> None:
    """Gives a masked language model an input `asked`, int64 [rows, tokens]: logits are of the tokens where it is 1, float [asked, sub-words].

    The product with a vocabulary of 30,000 sub-words takes longer than a small encoder; without `asked` all tokens have theirs.
    """
    model.register_forward_pre_hook(_remember, with_kwargs=True)
    model.get_output_embeddings().register_forward_pre_hook(_select)


def takes_asked(model: Any) -> bool:
    """Whether a model has the input `asked`."""
    return _remember in model._forward_pre_hooks.values()


def asked_rows(logits: Any, asked: Any) -> Any:
    """The logits of asked tokens, of a head that has computed all of them (it multiplies without a module)."""
    return logits if asked is None or logits.ndim == 2 else logits[asked.bool()]


def _remember(module: Any, args: Any, kwargs: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
    _ASKED.set(kwargs.get("asked"))
    return args, {name: value for name, value in kwargs.items() if name != "asked"}


def _select(module: Any, args: Any) -> Any:
    asked = _ASKED.get()
    return args if asked is None else (args[0][asked.bool()], *args[1:])
