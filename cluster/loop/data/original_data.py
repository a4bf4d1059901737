"""The original labelled data of a loop, read as training reads it, whose dev and test stay the same for all rounds."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from agent.data.digests import split_digest
from agent.data.formats.base import Record
from agent.data.split_files import SPLITS
from agent.data.splits import check_split, hold_out, open_sources
from agent.errors import LoopError
from cluster.loop.workspace import Origin, text_key

FIXED = ("dev", "test")


class OriginalData:
    """The original labelled data, read as training reads it.

    Args:
        origin: Which data.

    Raises:
        DataError: It cannot be read.

    Attributes:
        task: As configured: without labels, where training takes them from the data.
        labels: All that training finds, before it holds out dev.
        only_held_out: Those of them that a dev split cut from train has alone, so that a round's train would lack them.
    """

    def __init__(self, origin: Origin) -> None:
        self.origin, self.task = origin, origin.template
        data = origin.data
        found = {
            name: source.read_all(data.max_examples)[0] for name, source in open_sources(data, self.task.kind).items()
        }
        is_cut = "dev" not in found and "train" in found
        if is_cut:
            found |= hold_out(found["train"], data.dev_fraction, origin.seed)
        for name in SPLITS:
            check_split(data, name, found.get(name))
        self.records: Mapping[str, list[Record]] = found
        examples = {name: [self.read(*record) for record in found[name]] for name in SPLITS}
        self.texts = {name: {self.key(one) for one in examples[name] if not one.logged} for name in SPLITS}
        self.known = {
            self.key(one): self.task.labels_of(one) for name in SPLITS for one in examples[name] if not one.logged
        }
        trained, held = (frozenset[str]().union(*map(self.task.labels_of, examples[name])) for name in ("train", "dev"))
        self.only_held_out = held - trained if is_cut and not self.task.labels else frozenset[str]()
        self.labels = trained | self.only_held_out
        self.digests = {name: split_digest(examples[name]) for name in FIXED}

    def read(self, record: Mapping[str, Any], where: str) -> Any:
        """The record as an example of the task.

        Raises:
            DataError: It is none.
        """
        return self.task.read_record(record, where, join=self.origin.data.join)

    def key(self, example: Any) -> str:
        """What `text_key` makes of its text."""
        return text_key(self.task.text_of(example))


def pinned(origin: Origin, original: OriginalData) -> Origin:
    """The origin with the digests of its dev and test, which no later round may change.

    Raises:
        LoopError: They have changed since the first round.
    """
    for name in FIXED:
        before = getattr(origin, name)
        if before and before != original.digests[name]:
            raise LoopError(
                f"the {name} split of {origin.data.path} is not that of the first round",
                allowed="the same dev and test in all rounds, or scores could not be compared",
                remedy="restore the data, or begin anew with another directory",
            )
    return origin.model_copy(update=original.digests)
