"""What models that were converted for CTranslate2 say of right texts: how likely each sub-word is after the right ones before it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from tokenizers import Tokenizer

from agent.encoding import Float32, Int64

_BATCH = {
    "max_batch_size": 1_024,
    "batch_type": "tokens",
    "max_input_length": 0,
}  # each token with probabilities of a whole vocabulary


def of_translator(
    translator: Any, tokenizer: Tokenizer, given: Sequence[Int64], said: Sequence[Int64]
) -> list[Float32]:
    """Natural logarithms of the probabilities of what an encoder with a decoder has to say: float32 [tokens] of each text.

    Args:
        translator: Of ctranslate2.
        tokenizer: The model's.
        given: What the encoder reads, of each text int64 [tokens].
        said: What is to be said, the token that ends a text last: int64 [tokens].
    """
    # CTranslate2 puts the token that ends a text behind each by itself.
    sources, targets = ([_pieces(tokenizer, row) for row in rows] for rows in (given, [row[:-1] for row in said]))
    results = translator.score_batch(sources, targets, **_BATCH)
    return [np.array(result.log_probs, np.float32) for result in results]


def of_generator(generator: Any, tokenizer: Tokenizer, rows: Sequence[Int64], said: Sequence[Any]) -> list[Float32]:
    """Natural logarithms of the probabilities of what a decoder alone has to say: float32 [tokens said] of each row.

    Args:
        generator: Of ctranslate2.
        tokenizer: The model's.
        rows: What is given and what is to be said, of each int64 [tokens].
        said: Whether the token behind each one is to be said: bool [tokens].
    """
    results = generator.score_batch([_pieces(tokenizer, row) for row in rows], **_BATCH)
    return [np.array(result.log_probs, np.float32)[asked[:-1]] for result, asked in zip(results, said, strict=True)]


def _pieces(tokenizer: Tokenizer, ids: Int64) -> list[str]:
    return [str(tokenizer.id_to_token(number)) for number in ids.tolist()]
