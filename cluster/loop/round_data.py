"""The training data of a round: the original labelled data and what was corrected; dev and test stay as they are."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from agent.data import DataConfig, load_splits
from agent.data.digests import split_digest
from agent.data.exports import write_split
from agent.data.formats.base import Record
from agent.data.split_files import SPLITS
from agent.data.splits import check_split, hold_out, open_sources
from agent.decisions.held_out import is_held_out
from agent.errors import DataError, LoopError
from agent.files import draft_directory, replace_directory
from agent.tasks import BaseTask
from cluster.loop.workspace import Origin, Row

_FIXED = ("dev", "test")


@dataclass(frozen=True)
class CorrectionRules:
    """Which corrections are taught.

    Attributes:
        held_share: Part of the texts that is kept from training, for the log to judge by.
        max_caller_share: Largest part of the corrections that one named caller may give.
    """

    held_share: float = 0
    max_caller_share: float = 1


@dataclass(frozen=True)
class RoundData:
    """What a round trains on.

    Attributes:
        config: How training reads it.
        digest: Of all splits.
        rows: All corrections that are taught, with their provenance.
        num_new: How many of them are this round's.
        left_out: How many of this round's were left out, by reason.
    """

    config: DataConfig
    digest: str
    rows: Sequence[Row]
    num_new: int
    left_out: Mapping[str, int]


class OriginalData:
    """The original labelled data, read as training reads it.

    Args:
        origin: Which data.

    Raises:
        DataError: It cannot be read.
    """

    def __init__(self, origin: Origin) -> None:
        self.origin, self.task = origin, origin.template
        data = origin.data
        found = {
            name: source.read_all(data.max_examples)[0] for name, source in open_sources(data, self.task.kind).items()
        }
        if "dev" not in found and "train" in found:
            found |= hold_out(found["train"], data.dev_fraction, origin.seed)
        for name in SPLITS:
            check_split(data, name, found.get(name))
        self.records: Mapping[str, list[Record]] = found
        examples = {name: [self.read(*record) for record in found[name]] for name in SPLITS}
        self.texts = {name: {self.key(example) for example in examples[name]} for name in SPLITS}
        self.digests = {name: split_digest(examples[name]) for name in _FIXED}

    def read(self, record: Mapping[str, Any], where: str) -> Any:
        """The record as an example of the task.

        Raises:
            DataError: It is none.
        """
        return self.task.read_record(record, where, join=self.origin.data.join)

    def key(self, example: Any) -> str:
        """The text of an example, without differences of case and white space: two examples with one key are one text."""
        return " ".join(self.task.text_of(example).split()).casefold()


def pinned(origin: Origin, original: OriginalData) -> Origin:
    """The origin with the digests of its dev and test, which no later round may change.

    Raises:
        LoopError: They have changed since the first round.
    """
    for name in _FIXED:
        before = getattr(origin, name)
        if before and before != original.digests[name]:
            raise LoopError(
                f"the {name} split of {origin.data.path} is not that of the first round",
                allowed="the same dev and test in all rounds, or scores could not be compared",
                remedy="restore the data, or begin anew with another directory",
            )
    return origin.model_copy(update=original.digests)


def correction_rows(task: BaseTask[Any], feedback: Sequence[Mapping[str, Any]], number: int) -> list[Row]:
    """The corrections of a collected slice as labelled records with their provenance.

    Of what callers sent only the keys of the task's records stay, and of spans edges and label: words with tags, or spans of several parts,
    would change how the whole split is read.
    """
    shapes = [keys for keys in task.record_keys if "tokens" not in keys]
    wanted = frozenset(task.input_fields).union(*shapes)
    return [
        {
            "record": {
                key: _plain(value) if key == "spans" else value
                for key, value in {"text": one["text"], **one["correction"]}.items()
                if key in wanted
            },
            "decision": {name: one[name] for name in ("agent", "id", "position", "bundle", "time")},
            "text": one["text"],
            "caller": one["feedback_key_id"],
            "time": one["feedback_time"],
            "round": number,
        }
        for one in feedback
        if one.get("correction") is not None
    ]


def _plain(spans: Any) -> Any:
    if not isinstance(spans, list):
        return spans
    return [
        {key: span[key] for key in ("start", "end", "label") if key in span} if isinstance(span, Mapping) else span
        for span in spans
    ]


def build(
    place: Path, original: OriginalData, learned: Sequence[Row], fresh: Sequence[Row], rules: CorrectionRules
) -> RoundData:
    """Writes the data directory of a round.

    Args:
        place: The directory.
        original: What is replayed.
        learned: Corrections that the live agent was trained on.
        fresh: This round's, in the order in which they came.
        rules: Which of them are taught.

    Raises:
        DataError: A split cannot be written.
        LoopError: dev or test would not be what they were.
    """
    left_out: Counter[str] = Counter()
    chosen = _limited(_chosen(original, fresh, rules, left_out), rules.max_caller_share, left_out)
    rows = {
        original.key(_example(original, row)): row for row in learned if not _kept_from_training(original, row, rules)
    }
    rows |= chosen
    records: dict[str, list[Record]] = {name: list(original.records[name]) for name in SPLITS}
    records["train"] += [(dict(row["record"]), _where(row)) for row in rows.values()]
    with draft_directory(place) as draft:
        for name in SPLITS:
            write_split(draft, name, records[name], "jsonl", original.origin.data.join)
        replace_directory(draft, place)
    config = _reading(original.origin.data, place)
    return RoundData(config, _verified(config, original), list(rows.values()), len(chosen), dict(+left_out))


def _chosen(
    original: OriginalData, fresh: Sequence[Row], rules: CorrectionRules, left_out: Counter[str]
) -> dict[str, Row]:
    """The last correction of each text that may be taught."""
    chosen: dict[str, Row] = {}
    for row in fresh:
        try:
            example = _example(original, row)
        except DataError:
            left_out["unreadable or with a label that task.labels lacks"] += 1
            continue
        key = original.key(example)
        if any(key in original.texts[name] for name in _FIXED):
            left_out["text is in dev or test"] += 1
        elif key in original.texts["train"]:
            left_out["text is labelled in train already"] += 1
        elif _kept_from_training(original, row, rules):
            left_out["kept for judging by the log"] += 1
        else:
            left_out["corrected again later"] += key in chosen
            chosen.pop(key, None)
            chosen[key] = row
    return chosen


def _kept_from_training(original: OriginalData, row: Row, rules: CorrectionRules) -> bool:
    return original.task.explores and is_held_out(row["text"], rules.held_share)


def _example(original: OriginalData, row: Row) -> Any:
    example = original.read(row["record"], _where(row))
    if original.task.labels:
        original.task.check_labels([example])
    return example


def _where(row: Row) -> str:
    return f"decision {row['decision']['id']}[{row['decision']['position']}]"


def _limited(chosen: Mapping[str, Row], share: float, left_out: Counter[str]) -> dict[str, Row]:
    """Without what goes beyond a caller's share, the latest first. Callers without a name are not told apart, and not limited."""
    counts = Counter(row["caller"] for row in chosen.values())
    limit = next(
        (most for most in range(max(counts.values(), default=0), 0, -1) if most <= share * _kept(counts, most)), 0
    )
    given: Counter[str] = Counter()
    kept = {}
    for key, row in chosen.items():
        given[row["caller"]] += 1
        if row["caller"] and given[row["caller"]] > limit:
            left_out["beyond its caller's share"] += 1
        else:
            kept[key] = row
    return kept


def _kept(counts: Mapping[str, int], limit: int) -> int:
    return sum(min(number, limit) if caller else number for caller, number in counts.items())


def _reading(data: DataConfig, place: Path) -> DataConfig:
    """How the normal form is read: what only the original's files needed is left out."""
    return data.model_copy(
        update={
            "path": str(place), "subset": None, "max_examples": None, "tag_column": None, "label_names": (),
            "spans": data.spans.model_copy(update={"offsets": "characters"}),
        }
    )  # fmt: skip


def _verified(config: DataConfig, original: OriginalData) -> str:
    """Reads what was written as training will; returns its digest."""
    task: BaseTask[Any] = original.task
    splits = load_splits(config, task, seed=original.origin.seed)
    for name in _FIXED:
        if split_digest(getattr(splits, name)) != original.digests[name]:
            raise LoopError(
                f"the {name} split in {config.path} is not what it was in {original.origin.data.path}",
                remedy="report this as a fault of bert-agent",
            )
    return splits.digest
