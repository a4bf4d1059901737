"""Names callers whose feedback cannot be true: it contradicts labelled texts, or falls with the scores of answers where that of others rises."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from statistics import NormalDist
from typing import NamedTuple

from agent.errors import DataError
from cluster.loop.data.original_data import OriginalData
from cluster.loop.workspace import Row

_CHANCE = 1e-3  # that any honest caller of a round is named, by each of the two checks
_MISTAKES = 0.2  # part of a caller's feedback that may contradict labels: people err, and so do labels
_LEAST = 10  # rewards of either kind by which scores are compared


class Told(NamedTuple):
    """One piece of feedback as the checks see it.

    Attributes:
        contradicts: Whether it contradicts a label; None where the text has none.
        score: Of the answer that it is about; None for corrections.
        liked: Whether the reward is above one half.
    """

    contradicts: bool | None
    score: float | None
    liked: bool


def untrusted_callers(original: OriginalData, rows: Sequence[Row]) -> dict[str, str]:
    """Names of callers whose feedback is not taught, each with the reason. Callers without a name are not told apart.

    Args:
        original: Whose labelled texts, of all splits, are taken for true.
        rows: The feedback of a round, as `feedback_rows` makes it.
    """
    told: dict[str, list[Told]] = defaultdict(list)
    for row in rows:
        told[row["caller"]].append(_told(original, row))
    return untrusted(told)


def untrusted(told: Mapping[str, Sequence[Told]]) -> dict[str, str]:
    """The same by what each caller told."""
    level = _CHANCE / max(1, len(told))
    found = {}
    for caller, given in told.items():
        others = (one for name, theirs in told.items() if name != caller for one in theirs)
        why = _contradicts_labels(given, level) or _contradicts_others(given, others, level)
        if caller and why:
            found[caller] = why
    return found


def _told(original: OriginalData, row: Row) -> Told:
    record, score = row["record"], row["score"]
    reward = record.get("reward")
    liked = reward is not None and reward > 0.5
    try:
        example = original.read(record, "feedback")
    except DataError:
        return Told(None, score, liked)
    labels = original.known.get(original.key(example))
    if labels is None:
        return Told(None, score, liked)
    same = original.task.labels_of(example) == labels
    return Told(not same if reward is None else same != liked, score, liked)


def _contradicts_labels(given: Iterable[Told], level: float) -> str:
    checked = [one.contradicts for one in given if one.contradicts is not None]
    wrong = sum(checked)
    if _tail(wrong, len(checked), _MISTAKES) >= level:
        return ""
    return f"{wrong} of {len(checked)} contradict labelled texts"


def _contradicts_others(given: Iterable[Told], others: Iterable[Told], level: float) -> str:
    """By the sum of ranks (Mann and Whitney 1947): a caller of difficult texts is right less often, but not the less the surer the agent is."""
    surest = NormalDist().inv_cdf(1 - level)
    if _rank_z(given) > -surest or _rank_z(others) < surest:
        return ""
    return "its rewards fall as the scores of the answers rise, and those of all others rise"


def _rank_z(told: Iterable[Told]) -> float:
    """Standard errors by which scores of liked answers are above those of others; 0 where there are few."""
    import numpy as np

    scored = [(one.score, one.liked) for one in told if one.score is not None]
    liked, other = (np.sort([score for score, was_liked in scored if was_liked is wanted]) for wanted in (True, False))
    if min(len(liked), len(other)) < _LEAST:
        return 0.0
    below = np.searchsorted(other, liked, "left") + np.searchsorted(other, liked, "right")
    part = float(below.sum()) / (2 * len(liked) * len(other))
    return (part - 0.5) / math.sqrt((len(liked) + len(other) + 1) / (12 * len(liked) * len(other)))


def _tail(least: int, number: int, share: float) -> float:
    """The probability of so many or more of a number, each with probability `share`."""
    logs = (
        math.lgamma(number + 1) - math.lgamma(count + 1) - math.lgamma(number - count + 1)
        + count * math.log(share) + (number - count) * math.log(1 - share)
        for count in range(least, number + 1)
    )  # fmt: skip
    return math.fsum(map(math.exp, logs))
