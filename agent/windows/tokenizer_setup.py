"""What lies between a tokenizer of any family and texts: padding, the blank that it puts before a text, offsets, Unicode."""

from __future__ import annotations

import copy
import json

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer, pre_tokenizers

from agent.errors import ModelError, RequestError

_ENDS = ("</s>", "<|endoftext|>", "<|end_of_text|>", "<|im_end|>", "<eos>")  # as families of decoders write it


def pad_id(tokenizer: Tokenizer) -> int:
    """The id of the padding token; 0 where there is none."""
    for token in ("[PAD]", "<pad>", "<|padding|>"):
        if (found := tokenizer.token_to_id(token)) is not None:
            return int(found)
    return 0


def end_id(tokenizer: Tokenizer) -> int:
    """The id of the token that ends a text: the last that the tokenizer itself puts behind one, or else one of a known name.

    Raises:
        ModelError: There is none.
    """
    probe = tokenizer.encode("a", add_special_tokens=True)
    if len(probe) > 1 and probe.special_tokens_mask[-1]:
        return int(probe.ids[-1])
    for token in _ENDS:
        if (found := tokenizer.token_to_id(token)) is not None:
            return int(found)
    raise ModelError(
        "the model's tokenizer has no token that ends a text",
        allowed=f"one that puts a token behind texts, or knows {' or '.join(_ENDS)}",
        remedy="choose a model.name that was made to write, such as a T5, a BART or a GPT-2",
    )


def end_token(tokenizer: Tokenizer) -> str:
    """The token that ends a text, by name; raises as `end_id`."""
    return str(tokenizer.id_to_token(end_id(tokenizer)))


def unknown_id(tokenizer: Tokenizer) -> int | None:
    """The id of the sub-word that stands for what the vocabulary lacks; None where every text can be spelled."""
    model = json.loads(tokenizer.to_str())["model"]
    if isinstance(found := model.get("unk_id"), int):
        return found
    token = model.get("unk_token")
    return None if token is None else tokenizer.token_to_id(token)


def agree_on_blank(tokenizer: Tokenizer) -> None:
    """A byte-level post-processor that knows nothing of the blank put before a text takes the text's first character for it."""
    if not _puts_blank(tokenizer.pre_tokenizer) or tokenizer.post_processor is None:
        return
    state = json.loads(tokenizer.post_processor.__getstate__())
    for part in state.get("processors", [state]):
        if "add_prefix_space" in part:
            part["add_prefix_space"] = True
    agreed = copy.copy(tokenizer.post_processor)
    agreed.__setstate__(json.dumps(state).encode())
    tokenizer.post_processor = agreed


def _puts_blank(pre_tokenizer: pre_tokenizers.PreTokenizer | None) -> bool:
    if isinstance(pre_tokenizer, pre_tokenizers.Sequence):
        return any(map(_puts_blank, pre_tokenizer))  # type: ignore[call-overload]  # iterates by __getitem__
    return isinstance(pre_tokenizer, pre_tokenizers.ByteLevel) and bool(pre_tokenizer.add_prefix_space)


def ascending(offsets: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Starts and ends of sub-words, ascending: one that is only the blank put before a text may be said to lie behind its first character."""
    starts, ends = offsets[:, 0], offsets[:, 1]
    if (starts[1:] >= starts[:-1]).all():
        return starts, ends
    ordered = np.minimum.accumulate(starts[::-1])[::-1]
    return ordered, np.where(starts == ends, ordered, ends)


def check_unicode(text: str, index: int) -> None:
    """Refuses lone surrogates, which no encoding can write.

    Raises:
        RequestError: Names the text.
    """
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise RequestError(
            f"inputs[{index}] holds a lone surrogate at character {error.start}",
            allowed="Unicode text",
            remedy="replace the broken character",
            field=f"inputs[{index}]",
        ) from None
