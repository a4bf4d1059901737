"""`python serving/judge.py`: a bundle is judged on what another one answered."""

from __future__ import annotations

import asyncio
import json
import random
import time
from pathlib import Path
from typing import Any

import pytest

from agent.bundle import Bundle
from agent.config import cli
from agent.decisions.decision import Feedback
from agent.decisions.exploration import ExploreConfig
from agent.decisions.held_out import is_held_out
from agent.decisions.store import DecisionStore
from serving.feedback.decision_log import DecisionLog, FeedbackConfig
from serving.inference.engine import Engine
from serving.judge import JudgeConfig, main
from serving.metrics import Metrics
from serving.scheduling.predictor import Predictor
from serving.scheduling.request_context import RequestContext
from tests.serving.tiny import CLASSIFIER, TEXTS, make_bundle

NUMBER = 900
# What is drawn hangs on the scores, and they on how the CPU rounds int8: of 95% intervals one in twenty misses, somewhere.
SURE = "evidence.confidence=0.999"


@pytest.fixture(scope="module")
def judged(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_bundle(tmp_path_factory.mktemp("judged") / "bundle", CLASSIFIER, seed=7)


def texts() -> list[str]:
    words = " ".join(TEXTS[:3]).split()
    rng = random.Random(0)
    return [" ".join(rng.choices(words, k=rng.randint(3, 12))) for _ in range(NUMBER)]


def logged(
    url: str, bundle: Path, explore: ExploreConfig, right: list[str], agent: str = "a", *, only_right: bool = False
) -> None:
    """Asks a bundle, logs its answers, and rewards those that are right; every third reward is a correction.

    With `only_right` nobody says anything of wrong answers.
    """
    log = DecisionLog(FeedbackConfig(store=url), Metrics(), agent, explore=explore)
    predictor = Predictor(Engine(Bundle.load(bundle)), decisions=log)

    async def ask() -> None:
        context = RequestContext("request")
        await predictor.predict(texts(), predictor.engine.bundle.task.parameters(), context=context)
        assert await log.flush()

    asyncio.run(ask())
    predictor.close()
    for one in list(log.store.read(agent)):
        decision, gold = one.decision, right[one.decision.position]
        if only_right and json.loads(decision.answer)[0]["label"] != gold:
            continue
        if decision.position % 3:
            reward = float(json.loads(decision.answer)[0]["label"] == gold)
            log.store.give(decision, Feedback(time.time(), "", reward, None))
        elif decision.position < NUMBER - 90:  # the others get no feedback
            log.store.give(decision, Feedback(time.time(), "", None, json.dumps({"label": gold})))
    log.store.close()


def command(*arguments: str) -> int:
    return cli.run(JudgeConfig, main, usage="", arguments=list(arguments))


@pytest.fixture(scope="module")
def right(judged: Path) -> list[str]:
    """What the judged bundle answers is right three times out of four."""
    labels = Engine(Bundle.load(judged)).labels(texts())
    rng = random.Random(1)
    return [label if rng.random() < 0.75 else rng.choice(CLASSIFIER.labels) for label in labels]


def test_a_better_bundle_is_seen_to_be_better(
    classifier_path: Path, judged: Path, right: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    url, output = f"sqlite:///{tmp_path / 'd.db'}", tmp_path / "out" / "judgement.json"
    logged(url, classifier_path, ExploreConfig(epsilon=0.6), right)
    assert command(f"bundle={judged}", f"log={url}", f"output={output}", SURE) == 0
    found: dict[str, Any] = json.loads(output.read_text())
    assert (found["agent"], found["decisions"], found["rewards"], found["corrections"]) == ("a", 900, 870, 270)
    truth = sum(a == b for a, b in zip(Engine(Bundle.load(judged)).labels(texts()), right, strict=True)) / NUMBER
    for name in ("ips", "snips", "doubly_robust"):
        assert found["estimates"][name]["low"] < truth < found["estimates"][name]["high"]
    assert found["estimates"]["gain"]["low"] > 0
    shown = capsys.readouterr().out
    assert "a: 900 decisions, 870 of them (96.7%) with a reward" in shown
    assert "judged bundle, doubly robust" in shown


def test_two_bundles_are_judged_side_by_side(
    classifier_path: Path, judged: Path, right: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    url, output = f"sqlite:///{tmp_path / 'd.db'}", tmp_path / "judgement.json"
    logged(url, classifier_path, ExploreConfig(epsilon=0.6), right)
    assert command(f"bundle={judged}", f"other={classifier_path}", f"log={url}", f"output={output}", SURE) == 0
    found: dict[str, Any] = json.loads(output.read_text())
    answers, others = (Engine(Bundle.load(path)).labels(texts()) for path in (judged, classifier_path))
    truth = sum((a == gold) - (b == gold) for a, b, gold in zip(answers, others, right, strict=True)) / NUMBER
    assert found["difference"]["low"] < truth < found["difference"]["high"]
    rewarded = [place for place in range(NUMBER) if place % 3 or place < NUMBER - 90]
    assert found["difference"]["share"] == pytest.approx(
        sum(answers[place] != others[place] for place in rewarded) / len(rewarded)
    )
    assert found["other"]["estimates"]["gain"]["value"] < found["estimates"]["gain"]["value"]
    assert "judged bundle less the other, doubly robust" in capsys.readouterr().out
    arguments = f"bundle={judged}", f"other={judged}", f"log={url}", f"output={output}"
    assert command(*arguments) == 0
    alike = json.loads(output.read_text())["difference"]
    assert alike == {"value": 0, "low": 0, "high": 0, "share": 0, "untold": 0}


def test_decisions_without_feedback_may_count_as_a_reward(
    classifier_path: Path, judged: Path, right: list[str], tmp_path: Path
) -> None:
    url, output = f"sqlite:///{tmp_path / 'd.db'}", tmp_path / "judgement.json"
    logged(url, classifier_path, ExploreConfig(epsilon=0.9), right)
    assert command(f"bundle={judged}", f"log={url}", f"output={output}", "missing_reward=0") == 0
    assert json.loads(output.read_text())["rewards"] == 900


def test_a_part_of_the_texts_is_judged_by_their_hash(
    classifier_path: Path, judged: Path, right: list[str], tmp_path: Path
) -> None:
    url, output = f"sqlite:///{tmp_path / 'd.db'}", tmp_path / "judgement.json"
    logged(url, classifier_path, ExploreConfig(epsilon=0.9), right)
    arguments = ["text_share=0.3", "missing_reward=0", "evidence.min_decisions=50", "evidence.min_effective=10"]
    assert command(f"bundle={judged}", f"log={url}", f"output={output}", *arguments) == 0
    found = json.loads(output.read_text())
    assert found["decisions"] == found["rewards"] == sum(is_held_out(text, 0.3) for text in texts())


def test_a_log_without_exploration_is_refused(
    classifier_path: Path, judged: Path, right: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    url = f"sqlite:///{tmp_path / 'd.db'}"
    logged(url, classifier_path, ExploreConfig(), right)
    output = tmp_path / "judgement.json"
    assert command(f"bundle={judged}", f"log={url}", f"output={output}") == 1
    error = capsys.readouterr().err
    told = json.loads(output.read_text())
    assert error == f"error: {told['refused']}\n"
    assert (told["decisions"], told["rewards"], told["corrections"]) == (900, 870, 270)
    assert "cannot tell" in error
    assert "explore.epsilon" in error
    assert command(f"bundle={classifier_path}", f"log={url}") == 0  # its own answers are known


def test_what_cannot_be_judged_is_named(
    classifier_path: Path, tagger_path: Path, right: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    url = f"sqlite:///{tmp_path / 'd.db'}"
    for agent in ("a", "b"):
        logged(url, classifier_path, ExploreConfig(temperature=1), right, agent)
    assert command(f"bundle={classifier_path}", f"log={url}") == 2
    assert "2 agents. Allowed: a, b" in capsys.readouterr().err
    assert command(f"bundle={tagger_path}", f"log={url}", "agent=a") == 2
    assert "is an agent for token classification" in capsys.readouterr().err
    assert command(f"bundle={classifier_path}", f"log={url}", "agent=nobody") == 1
    assert "0 decisions with a reward" in capsys.readouterr().err
    store = DecisionStore(url)
    tagged = next(iter(store.read("a"))).decision._replace(agent="t", answer='[{"entity_group":"PER"}]')
    store.write([tagged])
    store.close()
    assert command(f"bundle={classifier_path}", f"log={url}", "agent=t") == 2
    assert "are no classes" in capsys.readouterr().err


def test_a_log_in_which_feedback_hangs_on_the_answer_is_refused(
    classifier_path: Path, judged: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    url, output = f"sqlite:///{tmp_path / 'd.db'}", tmp_path / "judgement.json"
    right = Engine(Bundle.load(classifier_path)).labels(texts())
    logged(url, classifier_path, ExploreConfig(epsilon=0.6), right, only_right=True)
    asked = [f"bundle={judged}", f"log={url}", f"output={output}", SURE]
    known = f'answered_by=["{classifier_path}"]'
    assert command(*asked, known) == 1
    error = capsys.readouterr().err
    assert "which decisions it holds hangs on what was answered" in error
    assert "missing_reward" in error
    assert "which decisions it holds hangs on what was answered" in json.loads(output.read_text())["refused"]
    assert command(*asked, f"other={classifier_path}") == 1
    assert command(*asked, known, "missing_reward=0") == 0  # silence means wrong: nothing is missing


def test_answers_that_are_no_labels_of_the_bundle_tell_nothing_of_its_draws(
    classifier_path: Path, judged: Path, right: list[str], tmp_path: Path
) -> None:
    """As those that a request brought as candidates."""
    url = f"sqlite:///{tmp_path / 'd.db'}"
    logged(url, classifier_path, ExploreConfig(epsilon=0.6), right)
    store = DecisionStore(url)
    first = next(iter(store.read("a"))).decision
    other = first._replace(id="other", answer='[{"label": "candidate", "score": 0.5}]', propensity=0.5)
    store.write([other])
    assert store.give(other, Feedback(time.time(), "", 1.0, None)) is None
    store.close()
    assert command(f"bundle={judged}", f"log={url}", f'answered_by=["{classifier_path}"]', SURE) == 0
