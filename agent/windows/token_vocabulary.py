"""The vocabulary of a tokenizer: the sub-words that stand for text, how they are written, and its mask token if it has one."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer

from agent.errors import ModelError

_MASKS = ("[MASK]", "<mask>", "<|mask|>", "<MASK>")  # as families of encoders write it
_UNKNOWN = ("[UNK]", "<unk>", "<|unk|>")
_CONTINUED = "##"  # WordPiece's mark of a sub-word that goes on with the word before


@dataclass(frozen=True)
class Vocabulary:
    """What a tokenizer can say.

    Attributes:
        tokenizer: Whose.
        size: Of its sub-words, special ones included.
        ordinary: int64, ids of the sub-words that stand for text, ascending.
    """

    tokenizer: Tokenizer
    size: int
    ordinary: NDArray[np.int64]
    _mask: tuple[str, int] | None
    _stands_for_text: NDArray[np.bool_]

    @classmethod
    def of(cls, tokenizer: Tokenizer) -> Vocabulary:
        """Reads the vocabulary of a tokenizer."""
        known = tokenizer.get_vocab()
        mask, size = next(((token, known[token]) for token in _MASKS if token in known), None), 1 + max(known.values())
        special = {number for number, token in tokenizer.get_added_tokens_decoder().items() if token.special}
        special |= {known[token] for token in (*_UNKNOWN, *(mask or ())[:1]) if token in known}
        ordinary = np.setdiff1d(np.arange(size, dtype=np.int64), np.array(sorted(special), np.int64))
        stands_for_text = np.zeros(size, bool)
        stands_for_text[ordinary] = True
        return cls(tokenizer, size, ordinary, mask, stands_for_text)

    @property
    def mask_token(self) -> str:
        """What stands for a hidden sub-word.

        Raises:
            ModelError: The tokenizer has no such token.
        """
        return self._known_mask[0]

    @property
    def mask_id(self) -> int:
        """The id of `mask_token`; raises as it does."""
        return self._known_mask[1]

    @property
    def _known_mask(self) -> tuple[str, int]:
        if self._mask is None:
            raise ModelError(
                "the model's tokenizer has no mask token",
                allowed=f"one that knows {' or '.join(_MASKS)}",
                remedy="choose a model.name that was trained to fill masks, such as a BERT or a RoBERTa",
            )
        return self._mask

    def is_ordinary(self, token_ids: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Which sub-words stand for text."""
        return self._stands_for_text[token_ids]

    def written(self, token_id: int) -> str:
        """A sub-word as text, as `decode` of transformers writes it."""
        return str(self.tokenizer.decode([token_id], skip_special_tokens=False))

    def find(self, text: str) -> int | None:
        """The one sub-word that a text is; None if it takes none or several."""
        if (known := self.tokenizer.token_to_id(text)) is not None:
            return int(known)
        ids = self.tokenizer.encode(text, add_special_tokens=False).ids
        return int(ids[0]) if len(ids) == 1 and bool(self.is_ordinary(np.array(ids, np.int64))[0]) else None

    def put(self, text: str, start: int, end: int, token_id: int) -> str:
        """A text with a sub-word in the place of its characters `start` to `end`, the rest as it was."""
        word = self.written(token_id)
        if word.startswith(_CONTINUED):
            return text[:start].rstrip() + word.removeprefix(_CONTINUED) + text[end:]
        held = text[start:end]  # RoBERTa's mask takes the blank before it
        blank = held[: len(held) - len(held.lstrip())]
        return (
            text[:start]
            + (word if word[:1].isspace() else blank + word).removeprefix("" if start else " ")
            + text[end:]
        )
