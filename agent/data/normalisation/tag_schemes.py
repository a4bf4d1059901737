"""Tags as people write them (IOB, IOBES, BILOU, BMES, BMEWO, lower case, bare labels, suffixes) made tags of IOBES or BILOU."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import Literal

from agent.spans import OUTSIDE

Scheme = Literal["prefix", "suffix", "bare"]
"""Where a tag says which word of an entity it is: `B-PER`, `PER-B`, or not at all (`PER`)."""

_PREFIX = re.compile(r"([BIESLUMW])[-_](.+)", re.IGNORECASE | re.DOTALL)
_SUFFIX = re.compile(r"(.+)[-_]([BIESLUMW])", re.IGNORECASE | re.DOTALL)
_SAME = {"M": "I", "W": "S"}  # BMES: the middle of an entity; BMEWO: a whole entity of one word


def is_tag(text: str) -> bool:
    """Whether a text is `O` or a prefix and a label."""
    return text in (OUTSIDE, OUTSIDE.lower()) or _PREFIX.fullmatch(text) is not None


def scheme_of(tags: Iterable[str]) -> Scheme:
    """The scheme that all distinct tags of a data set follow; `prefix` where they follow none, for its readers name what is wrong."""
    labelled = {tag for tag in tags if tag not in (OUTSIDE, OUTSIDE.lower())}
    if not labelled or any(map(_PREFIX.fullmatch, labelled)):
        return "prefix"
    if all(map(_SUFFIX.fullmatch, labelled)):
        return "suffix"
    return "bare" if len(set(tags)) > len(labelled) else "prefix"


def rewrite(tags: Sequence[str], scheme: Scheme) -> list[str]:
    """Tags with a prefix of IOBES or BILOU in upper case; one that does not follow the scheme is left as it is.

    Neighbours with the same bare label are one entity.
    """
    return [_rewrite(tag, scheme) for tag in tags]


def _rewrite(tag: str, scheme: Scheme) -> str:
    if tag in (OUTSIDE, OUTSIDE.lower()):
        return OUTSIDE
    if scheme == "bare":
        return f"I-{tag}"
    found = (_PREFIX if scheme == "prefix" else _SUFFIX).fullmatch(tag)
    if not found:
        return tag
    prefix, label = found.groups() if scheme == "prefix" else reversed(found.groups())
    prefix = prefix.upper()
    return f"{_SAME.get(prefix, prefix)}-{label}"
