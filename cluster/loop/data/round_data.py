"""The training data of a round: the original labelled data, what was corrected or rewarded; dev and test stay as they are."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from agent.data import DataConfig, load_splits
from agent.data.digests import split_digest
from agent.data.exports import write_split
from agent.data.formats.base import Record
from agent.data.split_files import SPLITS
from agent.decisions.decision import LoggedDecision
from agent.decisions.held_out import is_held_out
from agent.errors import DataError, LoopError
from agent.files import draft_directory, replace_directory
from agent.tasks import BaseTask
from cluster.loop.data.caller_check import untrusted_callers
from cluster.loop.data.original_data import FIXED, OriginalData
from cluster.loop.workspace import Row, key_of

KeyT = TypeVar("KeyT")
Place = tuple[str, str]
"""What a row is about: the key of its text, and the key of its decision where it is a reward."""


@dataclass(frozen=True)
class TeachingRules:
    """Which feedback is taught.

    Attributes:
        held_share: Part of the texts that is kept from training, for the log to judge by.
        max_caller_share: Largest part of it that one named caller may give.
        rewards: Whether rewards are, beside corrections.
        check_callers: Whether callers are left out whose feedback cannot be true.
    """

    held_share: float = 0
    max_caller_share: float = 1
    rewards: bool = False
    check_callers: bool = False

    def may_teach(self, row: Row) -> bool:
        """Whether rows of its kind are taught."""
        return self.rewards or not is_reward(row)


@dataclass(frozen=True)
class RoundData:
    """What a round trains on.

    Attributes:
        config: How training reads it.
        digest: Of all splits.
        rows: All that is taught beside the original data, with its provenance.
        new: Those of them that are this round's.
        labels: Of the task, where they cannot be taken from train, since a dev split that was cut from it has some alone; else empty.
        num_logged: Answers with rewards in train, those of the original data too.
        left_out: How many of this round's were left out, by reason.
    """

    config: DataConfig
    digest: str
    rows: Sequence[Row]
    new: Sequence[Row]
    labels: Sequence[str]
    num_logged: int
    left_out: Mapping[str, int]


def feedback_rows(task: BaseTask[Any], feedback: Sequence[Mapping[str, Any]], number: int) -> list[Row]:
    """A collected slice as records with their provenance: labelled ones of corrections, answers with propensity and reward of the others."""
    return [
        {
            "record": _rewarded(one) if one.get("correction") is None else _corrected(task, one),
            "decision": {name: one[name] for name in ("agent", "id", "position", "bundle", "time")},
            "text": one["text"],
            "score": _score(one) if one.get("correction") is None else None,
            "caller": one["feedback_key_id"],
            "time": one["feedback_time"],
            "round": number,
        }
        for one in feedback
    ]


def _corrected(task: BaseTask[Any], one: Mapping[str, Any]) -> dict[str, Any]:
    """The labelled record that a correction makes.

    Of what callers sent only the keys of the task's records stay, and of spans edges and label: words with tags, or spans of several parts,
    would change how the whole split is read.
    """
    shapes = [keys for keys in task.record_keys if "tokens" not in keys]
    wanted = frozenset(task.input_fields).union(*shapes)
    return {
        key: _plain(value) if key == "spans" else value
        for key, value in {"text": one["text"], **one["correction"]}.items()
        if key in wanted
    }


def _score(one: Mapping[str, Any]) -> float | None:
    """Of the answer that was given, where it has one."""
    first = one["answer"][0] if isinstance(one["answer"], list) and one["answer"] else None
    score = first.get("score") if isinstance(first, Mapping) else None
    return float(score) if isinstance(score, int | float) else None


def _rewarded(one: Mapping[str, Any]) -> dict[str, Any]:
    """The record that a reward makes; an empty one, which cannot be read, of an answer that is not one label."""
    try:
        return LoggedDecision.from_object(one).as_rewarded_record() or {}
    except DataError:
        return {}


def _plain(spans: Any) -> Any:
    if not isinstance(spans, list):
        return spans
    return [
        {key: span[key] for key in ("start", "end", "label") if key in span} if isinstance(span, Mapping) else span
        for span in spans
    ]


def build(
    place: Path, original: OriginalData, learned: Sequence[Row], fresh: Sequence[Row], rules: TeachingRules
) -> RoundData:
    """Writes the data directory of a round.

    Args:
        place: The directory.
        original: What is replayed.
        learned: What is replayed: corrections and rewards that the live agent was trained on, and texts that it labelled itself.
        fresh: This round's, in the order in which they came.
        rules: Which of them are taught.

    Raises:
        DataError: A split cannot be written.
        LoopError: dev or test would not be what they were.
    """
    left_out: Counter[str] = Counter()
    before = {
        _place(original, _example(original, row), row): row
        for row in learned
        if rules.may_teach(row) and not is_kept_from_training(original, row, rules)
    }
    trusted = _trusted(original, fresh, left_out) if rules.check_callers else fresh
    found = _drop_useless_rewards(original, before, _chosen(original, trusted, rules, left_out), left_out)
    chosen = limit_callers(found, rules.max_caller_share, left_out)
    corrected = {text for text, decision in chosen if not decision}
    rows = {key: row for key, row in before.items() if not (key[1] and key[0] in corrected)} | chosen
    records: dict[str, list[Record]] = {name: list(original.records[name]) for name in SPLITS}
    records["train"] += [(dict(row["record"]), _where(row)) for row in rows.values()]
    with draft_directory(place) as draft:
        for name in SPLITS:
            write_split(draft, name, records[name], "jsonl", original.origin.data.join)
        replace_directory(draft, place)
    config = _reading(original.origin.data, place)
    labels = _labels(original, list(rows.values()))
    digest, num_logged = _verified(config, original, labels)
    return RoundData(config, digest, list(rows.values()), list(chosen.values()), labels, num_logged, dict(+left_out))


def _trusted(original: OriginalData, fresh: Sequence[Row], left_out: Counter[str]) -> list[Row]:
    """Without the feedback of callers that cannot be true."""
    named = untrusted_callers(original, fresh)
    left_out.update(f"of caller {row['caller']}: {named[row['caller']]}" for row in fresh if row["caller"] in named)
    return [row for row in fresh if row["caller"] not in named]


def is_self_taught(row: Row) -> bool:
    """Whether a row is a text that an agent labelled itself, and no feedback."""
    return "confidence" in row


def is_reward(row: Row) -> bool:
    """Whether a row is an answer with its reward, and no correction."""
    return "reward" in row["record"]


def _chosen(
    original: OriginalData, fresh: Sequence[Row], rules: TeachingRules, left_out: Counter[str]
) -> dict[Place, Row]:
    """The last correction of each text that may be taught, and all rewards of such texts."""
    chosen: dict[Place, Row] = {}
    for row in fresh:
        try:
            example = _example(original, row)
        except DataError:
            left_out["unreadable or with a label that task.labels lacks"] += 1
            continue
        place = _place(original, example, row)
        if any(place[0] in original.texts[name] for name in FIXED):
            left_out["text is in dev or test"] += 1
        elif place[0] in original.texts["train"]:
            left_out["text is labelled in train already"] += 1
        elif is_kept_from_training(original, row, rules):
            left_out["kept for judging by the log"] += 1
        else:
            left_out["corrected again later"] += place in chosen
            chosen.pop(place, None)
            chosen[place] = row
    return chosen


def _drop_useless_rewards(
    original: OriginalData, before: Mapping[Place, Row], chosen: Mapping[Place, Row], left_out: Counter[str]
) -> dict[Place, Row]:
    """Without rewards that tell less than what is known: of texts with a correction, and of answers that are no label of the agent."""
    corrections = {place: row for place, row in {**before, **chosen}.items() if not place[1]}
    corrected = {text for text, _ in corrections}
    labels = original.labels.union(str(row["record"].get("label")) for row in corrections.values())
    kept = {}
    for place, row in chosen.items():
        if place[1] and place[0] in corrected:
            left_out["rewarded, and its text is corrected"] += 1
        elif place[1] and row["record"]["label"] not in labels:
            left_out["rewarded, and its answer is no label of the agent"] += 1
        else:
            kept[place] = row
    return kept


def _place(original: OriginalData, example: Any, row: Row) -> Place:
    """A text has one correction, and as many rewards as decisions."""
    decision = row["decision"]
    key = key_of(decision["agent"], decision["id"], decision["position"]) if is_reward(row) else ""
    return original.key(example), key


def is_kept_from_training(original: OriginalData, row: Row, rules: TeachingRules) -> bool:
    """Whether the log judges by its text."""
    return original.task.explores and is_held_out(row["text"], rules.held_share)


def _example(original: OriginalData, row: Row) -> Any:
    example = original.read(row["record"], _where(row))
    if original.task.labels:
        original.task.check_labels([example])
    return example


def _where(row: Row) -> str:
    return f"decision {row['decision']['id']}[{row['decision']['position']}]"


def limit_callers(chosen: Mapping[KeyT, Row], share: float, left_out: Counter[str]) -> dict[KeyT, Row]:
    """Rows without what goes beyond a caller's share, the latest first. Callers without a name are not told apart, and not limited."""
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


def _labels(original: OriginalData, rows: Sequence[Row]) -> list[str]:
    if not original.only_held_out:
        return []
    return sorted(original.labels.union(*(original.task.labels_of(_example(original, row)) for row in rows)))


def _verified(config: DataConfig, original: OriginalData, labels: Sequence[str]) -> tuple[str, int]:
    """Reads what was written as training will; returns its digest, and how many answers with rewards train has."""
    task: BaseTask[Any] = original.task.model_copy(update={"labels": tuple(labels)}) if labels else original.task
    splits = load_splits(config, task, seed=original.origin.seed)
    for name in FIXED:
        if split_digest(getattr(splits, name)) != original.digests[name]:
            raise LoopError(
                f"the {name} split in {config.path} is not what it was in {original.origin.data.path}",
                remedy="report this as a fault of bert-agent",
            )
    return splits.digest, sum(one.logged is not None for one in splits.train)
