"""What stands for the content of a data set: it does not depend on file names, formats or how the set was read."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping

from agent.tasks import Example


def example_digest(example: Example) -> bytes:
    """The sha256 of an example without its place: 32 bytes. Of labelled ones it is what it was before there were logged ones."""
    left_out = {"where"} if example.logged else {"where", "logged"}
    content = json.dumps(example.model_dump(mode="json", exclude=left_out), sort_keys=True)
    return hashlib.sha256(content.encode()).digest()


def split_digest(examples: Iterable[Example]) -> str:
    """The sha256 over the digests of a split's examples, in order."""
    digest = hashlib.sha256()
    for example in examples:
        digest.update(example_digest(example))
    return digest.hexdigest()


def data_digest(splits: Mapping[str, str]) -> str:
    """The sha256 over the digests of train, dev and test, given by name."""
    return hashlib.sha256(json.dumps(dict(splits), sort_keys=True).encode()).hexdigest()
