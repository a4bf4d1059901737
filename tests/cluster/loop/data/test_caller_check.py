"""Callers whose feedback cannot be true are named, and callers of difficult texts are not."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy.stats import binom, mannwhitneyu

from cluster.loop.data.caller_check import Told, _rank_z, _tail, untrusted
from cluster.loop.data.round_data import TeachingRules, build
from cluster.loop.workspace import Row
from tests.cluster.loop.data.test_round_data import IN_DEV, IN_TEST, IN_TRAIN, classes, corrections, rewards

SCORES = [(number + 0.5) / 60 for number in range(60)]


def scored(*, liked: Sequence[bool]) -> list[Told]:
    return [Told(None, score, good) for score, good in zip(SCORES, liked, strict=True)]


HONEST = scored(liked=[number >= 20 or number % 4 == 0 for number in range(60)])
DIFFICULT = scored(liked=[number >= 45 or number % 6 == 0 for number in range(60)])
LIAR = [one._replace(liked=not one.liked) for one in HONEST]
NOISY = scored(liked=[number % 2 == 0 for number in range(60)])


def test_a_caller_whose_rewards_fall_where_those_of_others_rise_is_named() -> None:
    told = {"anna": HONEST, "bo": HONEST, "dewi": DIFFICULT, "mallory": LIAR, "noor": NOISY, "": LIAR[:30]}
    assert untrusted(told) == {
        "mallory": "its rewards fall as the scores of the answers rise, and those of all others rise"
    }


def test_who_is_alone_or_says_little_is_not_named() -> None:
    assert untrusted({"mallory": LIAR}) == {}
    assert untrusted({"mallory": LIAR[20:40], "anna": HONEST}) == {}
    assert untrusted({"mallory": LIAR, "anna": NOISY}) == {}
    assert untrusted({"": LIAR, "anna": HONEST}) == {}


def test_a_caller_who_contradicts_labels_is_named_and_one_who_errs_is_not() -> None:
    def told(wrong: int, right: int) -> list[Told]:
        return [Told(True, None, False)] * wrong + [Told(False, None, False)] * right + [Told(None, None, False)] * 50

    assert untrusted({"mallory": told(10, 2), "anna": told(4, 8)}) == {"mallory": "10 of 12 contradict labelled texts"}
    assert untrusted({"mallory": told(3, 0)}) == {}


def test_statistics_are_those_of_scipy() -> None:
    rng = np.random.default_rng(0)
    told = [
        Told(None, float(score), bool(liked)) for score, liked in zip(rng.random(50), rng.random(50) < 0.6, strict=True)
    ]
    liked, other = ([one.score for one in told if one.liked is wanted] for wanted in (True, False))
    tested = mannwhitneyu(liked, other, method="asymptotic", use_continuity=False, alternative="greater")
    from scipy.stats import norm

    assert norm.sf(_rank_z(told)) == pytest.approx(tested.pvalue, rel=1e-9)
    assert _tail(7, 20, 0.2) == pytest.approx(binom.sf(6, 20, 0.2), rel=1e-9)
    assert _tail(0, 0, 0.2) == 1


def test_what_untrusted_callers_say_is_left_out_by_their_name(tmp_path: Path) -> None:
    known = {IN_TRAIN: "good", IN_DEV: "good", IN_TEST: "bad"}
    train = [(IN_TRAIN, "good"), ("another", "bad")]
    original = classes(tmp_path / "original", train=train, dev=[(IN_DEV, "good")], test=[(IN_TEST, "bad")])
    wrong = {"good": "bad", "bad": "good"}

    def row(text: str, label: str, caller: str) -> Row:
        return corrections((text, {"label": label}, caller))[0]

    lies = [row(text.upper(), wrong[label], "mallory") for text, label in known.items()] * 3
    lies += rewards(*((text, label, 0.5, 0.0) for text, label in known.items()), caller="mallory")
    honest = [row(text, label, "anna") for text, label in known.items()] * 4
    honest += rewards(*((text, wrong[label], 0.5, 0.0) for text, label in known.items()), caller="anna")
    fresh: list[Any] = [*lies, *honest, row("new", "bad", "mallory"), row("newer", "good", "anna")]
    checked = build(tmp_path / "one", original, [], fresh, TeachingRules(rewards=True, check_callers=True))
    assert [new["text"] for new in checked.new] == ["newer"]
    assert checked.left_out["of caller mallory: 12 of 12 contradict labelled texts"] == len(lies) + 1
    assert [name for name in checked.left_out if name.startswith("of caller")] == [
        "of caller mallory: 12 of 12 contradict labelled texts"
    ]
    unchecked = build(tmp_path / "two", original, [], fresh, TeachingRules(rewards=True))
    assert [new["text"] for new in unchecked.new] == ["new", "newer"]


def test_callers_without_a_name_are_taught_whatever_they_contradict(tmp_path: Path) -> None:
    train = [(IN_TRAIN, "good"), ("another", "bad")]
    original = classes(tmp_path / "original", train=train, dev=[(IN_DEV, "good")], test=[(IN_TEST, "bad")])
    wrong = corrections(*[(IN_TRAIN, {"label": "bad"}, "")] * 9, *[(IN_TEST, {"label": "good"}, "")] * 9)
    fresh = [*wrong, *corrections(("new", {"label": "bad"}, ""))]
    checked = build(tmp_path / "one", original, [], fresh, TeachingRules(check_callers=True))
    unchecked = build(tmp_path / "two", original, [], fresh, TeachingRules())
    assert [new["text"] for new in checked.new] == ["new"]
    assert (checked.rows, checked.left_out, checked.digest) == (unchecked.rows, unchecked.left_out, unchecked.digest)
