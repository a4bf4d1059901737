"""Makes natural text of words: data that came as words is trained on the text that a caller would send."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import Any, Literal

from agent.errors import DataError
from agent.tasks.base import Join

TextForm = Literal["natural", "joined"]


def joiner(form: TextForm, language: str) -> Join:
    """What makes a text of words.

    Args:
        form: `natural`: by the rules of Moses' detokenizer (sacremoses); `joined`: by single blanks.
        language: Of the words, as ISO 639-1 has it.

    Raises:
        DataError: sacremoses is not installed.
    """
    if form == "joined":
        return " ".join

    def join(words: Sequence[str]) -> str:
        return str(_detokenizer(language).detokenize(list(words), return_str=True, unescape=False))

    _detokenizer(language)
    return join


@cache
def _detokenizer(language: str) -> Any:
    try:
        from sacremoses import MosesDetokenizer
    except ImportError:
        raise DataError(
            "data.text=natural needs the package 'sacremoses'",
            allowed="natural, joined",
            remedy="pip install sacremoses, or set data.text=joined",
        ) from None
    return MosesDetokenizer(lang=language)
