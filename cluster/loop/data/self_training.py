"""Self-training: logged texts without feedback, labelled by the live agent where it is sure of its answer."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from cluster.loop.data.original_data import FIXED, OriginalData
from cluster.loop.data.round_data import TeachingRules, is_kept_from_training, is_self_taught, limit_callers
from cluster.loop.loop_config import SelfTrainingConfig
from cluster.loop.stations import run_station
from cluster.loop.workspace import Row, read_rows, text_key, write_rows

_PROGRAM = "serving/active_learning/self_labels.py"


class SelfTaught(NamedTuple):
    """What the live agent has labelled.

    Attributes:
        rows: Its labels with their provenance, each with the `confidence` of the answer.
        texts: How many texts there were.
        left_out: How many of them are not taught, by reason.
    """

    rows: list[Row]
    texts: int
    left_out: Mapping[str, int]


def unlabelled_rows(decisions: Iterable[Mapping[str, Any]], number: int) -> list[Row]:
    """Logged decisions without feedback as rows whose record is not known yet.

    Args:
        decisions: As a round has collected them.
        number: Of the round.
    """
    return [
        {
            "decision": {name: one[name] for name in ("agent", "id", "position", "bundle", "time")},
            "text": one["text"], "score": None, "caller": one["key_id"], "time": one["time"], "round": number,
        }
        for one in decisions
    ]  # fmt: skip


@dataclass(frozen=True)
class SelfTraining:
    """Labels the texts of a round.

    Attributes:
        original: The labelled data.
        rules: Which texts are kept for judging, and how much one caller may give.
        config: How many texts, and how sure an answer must be.
        live: The bundle that labels.
        directory: The round's; takes the texts, their labels and the command's log.
    """

    original: OriginalData
    rules: TeachingRules
    config: SelfTrainingConfig
    live: Path
    directory: Path

    def label(self, learned: Sequence[Row], told: Iterable[Row], logged: Sequence[Row]) -> SelfTaught:
        """Labels the newest of the texts that may be taught so, all of them anew: the live agent knows better than those before it.

        Args:
            learned: Texts that an earlier published round was taught so.
            told: Feedback, of this round and of those before, whose texts say more.
            logged: New texts, oldest first.

        Raises:
            LoopError: The labelling failed.
        """
        left_out: Counter[str] = Counter()
        found = {text_key(row["text"]): row for row in learned} | {text_key(row["text"]): row for row in logged}
        chosen = self._chosen(found, {text_key(row["text"]) for row in told}, left_out)
        sure = limit_callers(self._labelled(chosen), self.rules.max_caller_share, left_out)
        unsure = len(chosen) - len(sure) - left_out["beyond its caller's share"]
        left_out["refused by the agent or below self_training.threshold"] += unsure
        return SelfTaught(list(sure.values()), len(found), dict(+left_out))

    def _chosen(self, found: Mapping[str, Row], told: set[str], left_out: Counter[str]) -> dict[str, Row]:
        chosen: dict[str, Row] = {}
        for key, row in found.items():
            if any(key in self.original.texts[name] for name in FIXED):
                left_out["text is in dev or test"] += 1
            elif key in self.original.texts["train"]:
                left_out["text is labelled in train already"] += 1
            elif key in told:
                left_out["text has feedback"] += 1
            elif is_kept_from_training(self.original, row, self.rules):
                left_out["kept for judging by the log"] += 1
            else:
                chosen[key] = row
        newest = dict(list(chosen.items())[-self.config.texts :])
        left_out["older than the newest (self_training.texts)"] += len(chosen) - len(newest)
        return newest

    def _labelled(self, chosen: Mapping[str, Row]) -> dict[str, Row]:
        """The texts that the agent is sure of, with their labels."""
        if not chosen:
            return {}
        given, output = self.directory / "unlabelled_texts.jsonl", self.directory / "self_labels.jsonl"
        write_rows(given, [self.original.task.fields_of(row["text"]) for row in chosen.values()])
        settings = {
            "bundle": str(self.live), "input": str(given), "output": str(output), "threshold": self.config.threshold,
            "overwrite": True,
        }  # fmt: skip
        run_station(_PROGRAM, settings, self.directory)
        sure = {}
        for found in read_rows(output):
            record = {key: value for key, value in found.items() if key != "confidence"}
            key = self.original.key(self.original.read(record, str(output)))
            sure[key] = {"record": record, "confidence": found["confidence"]}
        return {key: {**row, **sure[key]} for key, row in chosen.items() if key in sure}


def split_learned(rows: Iterable[Row]) -> tuple[list[Row], list[Row]]:
    """Rows that a published round has learned: corrections and rewards, and what its agent labelled itself."""
    told, own = list[Row](), list[Row]()
    for row in rows:
        (own if is_self_taught(row) else told).append(row)
    return told, own
