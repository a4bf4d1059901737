"""What is new in a store is told by what was used, whatever the clocks say."""

from __future__ import annotations

from pathlib import Path

import pytest

from agent.decisions.decision import Feedback
from agent.decisions.store import DecisionStore
from agent.errors import ConfigError, StoreError
from cluster.loop.collection import Wanted, collect
from cluster.loop.workspace import Workspace, key_of
from tests.agent.decisions.test_store import decision


def keys(found):
    return [key_of(one.decision.agent, one.decision.id, one.decision.position) for one in found.feedback]


def test_feedback_is_new_once_also_when_a_clock_jumps_back(tmp_path: Path) -> None:
    url, workspace = f"sqlite:///{tmp_path / 'd.db'}", Workspace(str(tmp_path / "loop"))
    workspace.make()
    store = DecisionStore(url)
    decisions = [decision(f"r{number}", time=100.0 + number, text=f"text {number}") for number in range(5)]
    store.write(decisions)
    store.give(decisions[0], Feedback(200.0, "anna", None, '{"label":"bad"}'))
    store.give(decisions[1], Feedback(201.0, "", 0.5, None))
    first = collect(url, "", workspace.read_taken(), Wanted(2))
    assert first.agent == "a"
    assert first.counts() == {"corrections": 1, "rewards": 1, "callers": {"anna": 1}}
    assert first.texts == ["text 3", "text 4"]
    workspace.add_taken(keys(first))
    workspace.add_taken(keys(first))
    assert collect(url, "", workspace.read_taken(), Wanted()).feedback == []
    store.give(decisions[3], Feedback(50.0, "bo", None, '{"label":"bad"}'))  # a clock that jumped back
    store.give(decisions[2], Feedback(49.0, "bo", None, '{"label":"good"}'))
    store.close()
    taught = collect(url, "", set(), Wanted(rewards_teach=True))
    assert [one.decision.id for one in first.teaching()] == ["r0"]  # a reward waits until rewards teach
    assert [one.decision.id for one in taught.teaching()] == ["r2", "r3", "r0", "r1"]
    assert taught.counts() == {"corrections": 3, "rewards": 1, "callers": {"anna": 1, "bo": 2, "": 1}}
    late = collect(url, "a", workspace.read_taken(), Wanted())
    assert [one.decision.id for one in late.feedback] == ["r2", "r3"]
    assert late.counts() == {"corrections": 2, "rewards": 0, "callers": {"bo": 2}}


def test_a_store_of_several_agents_asks_for_the_name(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'd.db'}"
    store = DecisionStore(url)
    store.write([decision("r", agent="a"), decision("r", agent="b")])
    store.close()
    with pytest.raises(ConfigError, match=r"2 agents.*Allowed: a, b.*agent="):
        collect(url, "", set(), Wanted())
    assert collect(url, "b", set(), Wanted()).agent == "b"


def test_a_store_that_is_gone_is_named() -> None:
    with pytest.raises(StoreError, match=r"sqlite:////proc/nowhere/d\.db cannot be used.*see that the database runs"):
        collect("sqlite:////proc/nowhere/d.db", "", set(), Wanted())


def test_the_latest_texts_without_feedback_are_found_once_each(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'd.db'}"
    store = DecisionStore(url)
    texts = ["first", "told", "second", "Second  ", "TOLD", "third", "rewarded"]
    decisions = [decision(f"r{number}", time=100.0 + number, text=text) for number, text in enumerate(texts)]
    store.write(decisions)
    store.give(decisions[4], Feedback(200.0, "", None, '{"label":"bad"}'))
    store.give(decisions[6], Feedback(201.0, "", 1.0, None))
    store.close()
    found = [collect(url, "", set(), Wanted(unlabelled=number)).unlabelled for number in (0, 2, 9)]
    assert [[one.decision.id for one in each] for each in found] == [[], ["r3", "r5"], ["r0", "r3", "r5"]]
    assert all(one.feedback is None for each in found for one in each)
