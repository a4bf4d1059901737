"""What is said of an agent that is no better than guessing, and what guessing scores for each kind of decision."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest

from agent.batching import Batch
from agent.bundle import Bundle
from agent.data import DataConfig, load_splits
from agent.tasks import TextClassification
from agent.tasks.output_decision import EACH_OUTPUT, OUT_OF_REACH, PER_TOKEN, PER_WINDOW, TOKENS
from tests.tiny import WRITERS
from tests.training.runs import settings, train_here
from training.loop.guessing import guessing_forward
from training.model.models import ModelConfig, load_model
from training.run import render

BATCH = Batch(np.ones((2, 3), np.int64), np.array([[1, 1, 1], [1, 1, 0]]), np.zeros((2, 3), np.int64))


def test_one_label_is_guessed_by_its_share() -> None:
    found = guessing_forward(PER_WINDOW, [5, 0, 2], 7)(BATCH)
    assert (found.shape, found.dtype) == ((2, 3), np.float32)
    assert PER_WINDOW.probabilities(found)[1] == pytest.approx(np.array([5.5, 0.5, 2.5]) / 8.5)
    tags = guessing_forward(PER_TOKEN, [5, 0, 2], 7)(BATCH)
    assert tags.shape == (2, 3, 3)
    assert (tags == found[0]).all()


def test_each_of_several_labels_is_guessed_by_its_own_share() -> None:
    found = guessing_forward(EACH_OUTPUT, [5, 0, 10], 10)(BATCH)
    assert EACH_OUTPUT.probabilities(found)[0] == pytest.approx(np.array([5.5, 0.5, 10.5]) / 11)


def test_places_of_a_text_are_guessed_alike_and_none_beyond_it() -> None:
    found = guessing_forward(TOKENS, [5, 3], 8)(BATCH)
    assert found.tolist() == [[[0, 0, 0]] * 2, [[0, 0, np.float32(OUT_OF_REACH)]] * 2]


@pytest.mark.system
def test_an_agent_that_was_good_before_is_ready_for_use_and_a_new_head_that_learned_nothing_is_not(
    places, reference
) -> None:
    nothing = {"epochs": 1, "optimizer": {"kind": "adamw", "learning_rate": 1e-9}}
    agent = str(reference.bundle.path)
    again = train_here(settings(places, "again", model={"name": agent}, **nothing))
    assert again.outcome.before.value == again.outcome.after.value > 0.5
    assert again.outcome.guess == 0
    assert "NOT READY FOR USE" not in render(again)
    fresh = train_here(settings(places, "fresh", **nothing))
    assert fresh.outcome.guess == fresh.outcome.before.value
    assert "NOT READY FOR USE" in render(fresh)
    task = Bundle.load(agent).task
    assert not load_model(ModelConfig(name=agent), task).is_new
    assert load_model(ModelConfig(name=agent), task.model_copy(update={"labels": ("LOC",)})).is_new
    assert load_model(ModelConfig(name=agent, init="random"), task).is_new


@pytest.mark.system
@pytest.mark.parametrize("kind", ["text_classification", "multi_label_classification", "question_answering"])
def test_a_head_that_is_not_new_is_compared_with_the_shares_of_labels(kind, places) -> None:
    """A finished agent that has learned nothing, trained on: what guessing comes to is found without its score before."""
    WRITERS[kind](places / kind, train=24)
    nothing = {"epochs": 1, "optimizer": {"kind": "adamw", "learning_rate": 1e-9}, "task": {"kind": kind}}
    data = {"path": str(places / kind)}
    first = train_here(settings(places, f"{kind}-first", data=data, **nothing))
    again = train_here(settings(places, f"{kind}-again", data=data, model={"name": str(first.bundle.path)}, **nothing))
    assert first.outcome.guess == first.outcome.before.value
    after, guess = again.outcome.after.value, again.outcome.guess
    assert ("NOT READY FOR USE" in render(again)) is (after <= guess + 0.02)
    if kind == "text_classification":
        splits = load_splits(DataConfig.model_validate(data), TextClassification())
        (often, _), *_ = Counter(example.label for example in splits.train).most_common()
        assert guess == splits.task.score(splits.test, [often] * len(splits.test)).value
    else:
        assert 0 <= guess < 1
