"""Texts without feedback that the live agent labels itself: which are taught, with what provenance, and why others are not."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import pytest

from agent.decisions.held_out import is_held_out
from agent.tasks import TokenClassification
from cluster.loop.data.original_data import OriginalData
from cluster.loop.data.round_data import TeachingRules, build
from cluster.loop.data.self_training import SelfTaught, SelfTraining, split_learned, unlabelled_rows
from cluster.loop.loop_config import SelfTrainingConfig
from cluster.loop.workspace import Row
from tests.cluster.loop.data.test_round_data import classes, corrections, origin, rewards, taught
from tests.serving.explanation.planted import planted_bundle, topic_bundle, topic_texts

TRAIN, DEV, TEST = "the storm of train", "the ballot of dev", "the penalty of test"


@pytest.fixture(scope="module")
def live(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return topic_bundle(tmp_path_factory.mktemp("topics") / "bundle")


@pytest.fixture
def original(tmp_path: Path) -> OriginalData:
    return classes(
        tmp_path / "original",
        train=[(TRAIN, "weather"), ("a dividend", "trade"), ("a letter", "other")],
        dev=[(DEV, "politics")],
        test=[(TEST, "sport")],
    )


def logged(texts: Sequence[str], caller: str = "", number: int = 1) -> list[Row]:
    found = [
        {
            "agent": "a", "id": f"u{number}-{place}", "position": 0, "time": float(place), "bundle": "d" * 64, "key_id": caller, "text": text,
            "answer": [], "propensity": 1.0, "chosen": "greedy",
        }
        for place, text in enumerate(texts)
    ]  # fmt: skip
    return unlabelled_rows(found, number)


def labels(found: SelfTaught) -> dict[str, str]:
    return {row["text"]: row["record"]["label"] for row in found.rows}


def test_texts_without_feedback_are_taught_as_the_live_agent_answers_them(
    original: OriginalData, live: Path, tmp_path: Path
) -> None:
    sure = dict(topic_texts(12, seed=5))
    texts = [TRAIN.upper(), DEV, f" {TEST}", "told before", "told now", "rewarded", "storm ballot", *sure]
    told = [*corrections(("Told  now", {"label": "sport"}, "")), *rewards(("rewarded", "sport", 0.5, 0.0))]
    told += corrections(("told before", {"label": "sport"}, ""))
    training = SelfTraining(original, TeachingRules(), SelfTrainingConfig(texts=100), live, tmp_path)
    found = training.label([], told, logged(texts, "anna"))
    words = {"storm": "weather", "ballot": "politics", "penalty": "sport", "dividend": "trade"}
    assert labels(found) == {text: words[word] for text, word in sure.items()}
    assert all(0.9 <= row["confidence"] < 1 for row in found.rows)
    assert found.rows[0]["decision"]["id"] == "u1-7"
    assert (found.rows[0]["caller"], found.rows[0]["round"]) == ("anna", 1)
    assert found.texts == len(texts) == len(found.rows) + sum(found.left_out.values())
    assert found.left_out == {
        "text is labelled in train already": 1,
        "text is in dev or test": 2,
        "text has feedback": 3,
        "refused by the agent or below self_training.threshold": 1,
    }
    built = build(
        tmp_path / "round", original, found.rows, corrections(("new", {"label": "sport"}, "")), TeachingRules()
    )
    assert taught(built) == {
        TRAIN: "weather",
        "a dividend": "trade",
        "a letter": "other",
        "new": "sport",
        **labels(found),
    }
    assert (len(built.new), len(built.rows)) == (1, 1 + len(sure))
    lines = [json.loads(line) for line in (tmp_path / "round" / "train.jsonl").read_text().splitlines()]
    assert {frozenset(line) for line in lines} == {frozenset({"text", "label"})}


def test_the_newest_texts_are_labelled_anew_each_round(original: OriginalData, live: Path, tmp_path: Path) -> None:
    first, second, third, fourth = (text for text, _ in topic_texts(4, seed=6))
    training = SelfTraining(original, TeachingRules(), SelfTrainingConfig(texts=3), live, tmp_path)
    before = training.label([], [], logged([first, second, "storm ballot"]))
    assert list(labels(before)) == [first, second]
    wrong = [{**row, "record": {"text": row["text"], "label": "other"}} for row in before.rows]
    after = training.label(wrong, [], logged([third, fourth], number=2))
    assert list(labels(after)) == [second, third, fourth]
    assert labels(after)[second] == labels(before)[second] != "other"
    assert [row["round"] for row in after.rows] == [1, 2, 2]
    assert after.left_out == {"older than the newest (self_training.texts)": 1}
    corrected = training.label(before.rows, corrections((second.upper(), {"label": "trade"}, "")), [])
    assert list(labels(corrected)) == [first]


def test_texts_for_judging_and_beyond_a_caller_s_share_are_not_taught(
    original: OriginalData, live: Path, tmp_path: Path
) -> None:
    texts = [text for text, _ in topic_texts(60, seed=7)]
    rules = TeachingRules(held_share=0.3, max_caller_share=0.5)
    held = {text for text in texts[:50] if is_held_out(text, 0.3)}
    rows = logged(texts[:50], "mallory") + logged(texts[50:], "", number=2)
    found = SelfTraining(original, rules, SelfTrainingConfig(texts=100), live, tmp_path).label([], [], rows)
    others = [text for text in texts[50:] if not is_held_out(text, 0.3)]
    given = [row["text"] for row in found.rows if row["caller"] == "mallory"]
    assert given == [text for text in texts[:50] if text not in held][: len(others)]
    assert found.left_out["kept for judging by the log"] == len(held) + 10 - len(others)
    assert found.left_out["beyond its caller's share"] == 50 - len(held) - len(given)
    assert found.texts == len(found.rows) + sum(found.left_out.values())


def test_a_tagger_is_as_sure_as_of_its_least_sure_word(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    for name in ("train", "dev", "test"):
        record = {"text": f"anna of {name}", "spans": [{"start": 0, "end": 4, "label": "PER"}]}
        (tmp_path / "data" / f"{name}.jsonl").write_text(json.dumps(record) + "\n")
    original = OriginalData(origin("token_classification", tmp_path / "data"))
    own = {"anna": {"B-PER": 6.0}, "boats": {"B-PER": 2.0}}
    live = planted_bundle(tmp_path / "live", TokenClassification(labels=("PER",)), {}, own, bias={"O": 3.0})
    texts = ["the letter for anna", "anna and the boats", "nothing happened"]
    training = SelfTraining(original, TeachingRules(), SelfTrainingConfig(texts=9), live, tmp_path)
    found = training.label([], [], logged(texts))
    assert [row["record"] for row in found.rows] == [
        {"text": texts[0], "spans": [{"start": 15, "end": 19, "label": "PER"}]},
        {"text": texts[2], "spans": []},
    ]
    built = build(tmp_path / "round", original, found.rows, [], TeachingRules())
    assert len(built.rows) == 2


def test_what_was_self_taught_is_told_from_feedback() -> None:
    told, own = corrections(("one", {"label": "sport"}, "")), [{**logged(["two"])[0], "record": {}, "confidence": 0.95}]
    assert split_learned([*own, *told]) == (told, own)
