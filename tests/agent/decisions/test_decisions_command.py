"""`python -m agent.decisions`: what a log holds, its export, and deletion."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest

from agent.config import cli
from agent.data import DataConfig, load_splits
from agent.decisions.__main__ import DecisionsConfig, run
from agent.decisions.decision import Feedback, LoggedDecision
from agent.decisions.store import DecisionStore
from agent.errors import DataError
from agent.tasks import TextClassification
from agent.windows.text_pairs import TextPair
from tests.agent.decisions.test_store import decision


@pytest.fixture
def url(tmp_path: Path) -> str:
    url = f"sqlite:///{tmp_path / 'decisions.db'}"
    store, now = DecisionStore(url), time.time()
    decisions = [decision(f"r{n}", time=now - n * 86_400, text=f"text {n}") for n in range(4)]
    store.write([*decisions, decision("other", agent="b", time=now)])
    store.give(decisions[0], Feedback(now, "anna", 1.0, None))
    store.give(decisions[1], Feedback(now, "", None, '{"label":"bad"}'))
    store.give(decisions[2], Feedback(now, "", None, '{"label":"good"}'))
    store.close()
    return url


def command(*arguments: str) -> int:
    return cli.run(DecisionsConfig, run, usage="", arguments=list(arguments))


def test_it_tells_what_there_is(url: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert command(f"store={url}") == 0
    assert capsys.readouterr().out.splitlines() == [
        "a dddddddddddd: 4 decisions, 4 of them drawn, 1 rewards, 2 corrections",
        "b dddddddddddd: 1 decisions, 1 of them drawn, 0 rewards, 0 corrections",
    ]
    assert command(f"store={url}", "agent=nobody") == 0
    assert capsys.readouterr().out == "the log holds no decisions\n"


def test_decisions_are_exported_with_their_feedback(url: str, tmp_path: Path) -> None:
    file = tmp_path / "out" / "log.jsonl"
    assert command(f"store={url}", f"output={file}", "agent=a", "since_days=2.5") == 0
    rows = [json.loads(line) for line in file.read_text().splitlines()]
    assert [(row["id"], row["reward"], row["correction"]) for row in rows] == [
        ("r2", None, {"label": "good"}), ("r1", None, {"label": "bad"}), ("r0", 1.0, None)
    ]  # fmt: skip
    assert rows[2]["answer"] == [{"label": "good"}]
    assert rows[2]["propensity"] == 0.25
    assert file.stat().st_mode & 0o077 == 0  # texts of callers


def test_corrections_are_training_data(url: str, tmp_path: Path) -> None:
    for name in ("train", "test"):
        assert command(f"store={url}", f"output={tmp_path / 'data' / name}.jsonl", "content=corrections") == 0
    splits = load_splits(DataConfig(path=str(tmp_path / "data"), dev_fraction=0.4), TextClassification())
    found = {(example.text, example.label) for example in [*splits.train, *splits.dev]}
    assert found == {("text 1", "bad"), ("text 2", "good")}


def test_answers_with_rewards_are_training_data_for_a_policy_gradient(url: str, tmp_path: Path) -> None:
    file = tmp_path / "train-log.jsonl"
    assert command(f"store={url}", f"output={file}", "content=rewards") == 0
    rows = [json.loads(line) for line in file.read_text().splitlines()]
    assert rows == [{"text": "text 0", "label": "good", "propensity": 0.25, "reward": 1.0}]  # corrections are labels
    assert TextClassification().read_record(rows[0], "x:1").logged == (0.25, 1.0)


@pytest.mark.parametrize(
    "answer", ['[{"entity_group":"PER","score":1}]', '[{"label":"x","score":1,"threshold":0.5}]', "[]", '[["nested"]]']
)
def test_answers_that_are_not_one_label_have_no_rewards_to_export(answer: str) -> None:
    logged = LoggedDecision(decision("r7")._replace(answer=answer), Feedback(1.0, "", 1.0, None))
    with pytest.raises(DataError, match=r"decision r7\[0\] of agent 'a' answers more or less than one label"):
        logged.as_rewarded_record()


def test_a_pair_is_exported_with_both_texts() -> None:
    pair = TextPair("a", "b")
    logged = LoggedDecision(decision("r", text=pair), Feedback(1.0, "", 0.0, None))
    assert logged.as_rewarded_record() == {
        "text": "a", "text_pair": "b", "label": "good", "propensity": 0.25, "reward": 0.0
    }  # fmt: skip


def test_by_id_and_by_age_it_deletes(url: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert command(f"store={url}", "delete=r0") == 0
    assert command(f"store={url}", "delete_older_than_days=1.5") == 0
    assert capsys.readouterr().out.splitlines() == [
        "1 decisions of request r0 deleted",
        "2 decisions older than 1.5 days deleted",
    ]
    store = DecisionStore(url)
    assert {logged.decision.id for logged in store.read()} == {"r1", "other"}
    store.close()


def test_an_output_that_cannot_be_written_is_named(url: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert command(f"store={url}", "output=/proc/nowhere/log.jsonl") == 2
    assert "/proc/nowhere/log.jsonl cannot be written" in capsys.readouterr().err
    assert command("store=sqlite:////proc/nowhere/x.db") == 1
    assert "decision store sqlite:////proc/nowhere/x.db cannot be used" in capsys.readouterr().err
