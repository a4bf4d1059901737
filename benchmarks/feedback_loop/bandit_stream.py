"""A stream of texts that a classifier answers with exploration, and callers who say of each answer whether it is right."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from agent.bundle import Bundle
from agent.data.formats.json_records import read_jsonl
from agent.data.lines import Part
from agent.decisions.decision import Decision, Feedback
from agent.decisions.exploration import ExploreConfig, sample
from agent.decisions.store import DecisionStore
from serving.inference.engine import Engine

AGENT = "intents"
START_S = 1_700_000_000.0  # a clock of its own, so that repetitions write the same log
_SHOWN = 3  # labels of an answer
_LEAST = 5  # labelled texts of an intent, so that none of them all is held out for dev
_TEXTS_AT_ONCE = 500

Row = Mapping[str, Any]


class Stream(NamedTuple):
    """Classification data cut for the loop.

    Attributes:
        labelled: What the first agent learns from; it has texts of every intent.
        early: Other texts of the intents that are asked about from the beginning on, in the order in which they come.
        late: All texts that are left when the other intents arrive, in the order in which they come then.
        test: The test split.
    """

    labelled: list[Row]
    early: list[Row]
    late: list[Row]
    test: list[Row]

    def batch(self, number: int, rounds: int, size: int) -> list[Row]:
        """The texts of a round, from 1; the second half of all rounds is asked about all intents."""
        first = rounds - rounds // 2
        rows, place = (self.early, number - 1) if number <= first else (self.late, number - 1 - first)
        return rows[place * size : (place + 1) * size]


class Callers(NamedTuple):
    """Who asks, and who lies: `lying` callers say wrong of right answers, and the other way round."""

    number: int
    lying: int = 0

    def name(self, place: int) -> str:
        """Callers take turns."""
        return f"caller-{place % self.number:02}"

    def tells(self, place: int, right: bool) -> bool:
        """What the caller of a text says of its answer."""
        return right != (place % self.number < self.lying)


def cut(directory: Path, *, share: float, rounds: int, size: int, seed: int) -> Stream:
    """Cuts train.jsonl and test.jsonl of {text, label}.

    Args:
        directory: Where they lie.
        share: Part of train whose labels are known, at least five of each intent.
        rounds, size: Of the stream: texts of early rounds are drawn before those of late ones.
        seed: Of what is drawn.
    """
    train, test = (
        [record for record, _ in read_jsonl(Part(directory / f"{name}.jsonl"))] for name in ("train", "test")
    )
    rng = np.random.default_rng(seed)
    rows = [train[place] for place in rng.permutation(len(train))]
    seen: dict[str, int] = {}
    first: list[Row] = []
    others: list[Row] = []
    for row in rows:
        seen[row["label"]] = seen.get(row["label"], 0) + 1
        (first if seen[row["label"]] <= _LEAST else others).append(row)
    more = max(0, round(share * len(train)) - len(first))
    labelled, rest = first + others[:more], others[more:]
    intents = sorted(seen)
    asked = set(rng.permutation(intents)[: (len(intents) + 1) // 2].tolist())
    early = [row for row in rest if row["label"] in asked][: (rounds - rounds // 2) * size]
    taken = {id(row) for row in early}
    left = [row for row in rest if id(row) not in taken]  # begins with late intents alone
    return Stream(labelled, early, [left[place] for place in rng.permutation(len(left))], test)


def label_scores(engine: Engine, texts: Sequence[str]) -> list[list[dict[str, Any]]]:
    """All labels with their probabilities, best first, for each text."""
    found: list[list[dict[str, Any]]] = []
    for first in range(0, len(texts), _TEXTS_AT_ONCE):
        found += engine.predict(texts[first : first + _TEXTS_AT_ONCE])
    return found


def accuracy(bundle: Path, rows: Sequence[Row]) -> float:
    """Part of the texts that a bundle's best label is right for."""
    found = label_scores(Engine(Bundle.load(bundle)), [row["text"] for row in rows])
    return float(np.mean([answer[0]["label"] == row["label"] for answer, row in zip(found, rows, strict=True)]))


class Log(NamedTuple):
    """Where decisions go.

    Attributes:
        url: Of the store.
        explore: How answers are drawn.
        callers: Who asks.
        seed: Of what is drawn.
    """

    url: str
    explore: ExploreConfig
    callers: Callers
    seed: int

    def answer(self, bundle: Path, rows: Sequence[Row], number: int) -> float:
        """Answers the texts of a round as serving would, and lets callers judge; the part of right answers.

        What stands in the log already stays as it is.
        """
        engine, rng = Engine(Bundle.load(bundle)), np.random.default_rng((self.seed, number))
        digest, store, right = engine.bundle.digest, DecisionStore(self.url), 0
        decisions: list[Decision] = []
        given: list[Feedback] = []
        for place, (row, scores) in enumerate(
            zip(rows, label_scores(engine, [row["text"] for row in rows]), strict=True)
        ):
            drawn = sample(scores, self.explore, float(rng.random()), top_k=_SHOWN)
            time, caller = START_S + 86_400.0 * number + place, self.callers.name(place)
            decisions.append(Decision(
                AGENT, f"round-{number:03}-{place:05}", 0, time, digest, caller, row["text"], json.dumps(drawn.answer),
                drawn.propensity, drawn.chosen,
            ))  # fmt: skip
            is_right = drawn.answer[0]["label"] == row["label"]
            right += is_right
            given.append(Feedback(time + 1, caller, float(self.callers.tells(place, is_right)), None))
        try:
            store.write(decisions)
            for decision, feedback in zip(decisions, given, strict=True):
                store.give(decision, feedback)
        finally:
            store.close()
        return right / len(rows)
