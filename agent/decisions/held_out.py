"""Chooses by its hash which texts of a log are kept from training, so that others can be judged on them."""

from __future__ import annotations

import hashlib

_BYTES = 8
_PLACES = float(1 << 8 * _BYTES)


def is_held_out(text: str, share: float) -> bool:
    """Whether a text belongs to the held-out part: the same answer for the same text, everywhere.

    Args:
        text: The text.
        share: Part of all texts that is held out, 0 to 1; a larger share holds out all that a smaller one does.
    """
    digest = hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest()
    return int.from_bytes(digest[:_BYTES], "big") < share * _PLACES
