"""Explanations of real engines: planted causes are found, flips flip, figures are those that predictions give."""

from __future__ import annotations

import math
import random
from pathlib import Path
from typing import Any

import pytest

from agent.bundle import Bundle
from agent.errors import ConfigError, RequestError
from agent.segmentation import GivenWords
from agent.tasks import MultiLabelClassification, TextPairClassification, TokenClassification
from agent.windows.text_pairs import TextPair
from serving.explanation.explainer import check_explainable, explain_text
from serving.explanation.explanation_models import Explanation, explain_parameters
from serving.explanation.hidden_words import HiddenWords
from serving.explanation.interventions import BINS
from serving.inference.engine import Engine, EngineConfig
from serving.scheduling.limits import ExplainLimits
from tests.serving.explanation.planted import FILLER, engine_of, planted_bundle, topic_bundle, topic_texts
from tests.serving.tiny import CLASSIFIER, TEXTS

LIMITS = ExplainLimits()


@pytest.fixture(scope="module")
def topics(tmp_path_factory: pytest.TempPathFactory) -> Engine:
    return engine_of(topic_bundle(tmp_path_factory.mktemp("topics") / "bundle"))


@pytest.fixture(scope="module")
def travellers(tmp_path_factory: pytest.TempPathFactory) -> Engine:
    """Names are people where somebody flew, else places."""
    task = TokenClassification(labels=("LOC", "PER"))
    own = {name: {"B-LOC": 10.0, "B-PER": 8.0} for name in ("anna", "bruno")}
    context = {"flew": {"B-PER": 4.0}}
    path = planted_bundle(tmp_path_factory.mktemp("tagger") / "bundle", task, context, own, bias={"O": 6.0})
    return engine_of(path)


def explained(engine: Engine, text: str, limits: ExplainLimits = LIMITS, **parameters: Any) -> Explanation:
    model = explain_parameters(engine.bundle.task, limits)
    return explain_text(engine, text, model(**parameters), limits)


@pytest.mark.parametrize("replacement", ["mask", "remove"])
def test_the_planted_word_is_the_cause(topics: Engine, replacement: str) -> None:
    """benchmarks/feedback_loop/explanations.py does this with a trained agent and 500 texts."""
    hits = 0
    for text, decisive in topic_texts(60):
        (decision,) = explained(topics, text, replacement=replacement, interventions=300).decisions
        hits += decision.causes[0].word == decisive
        assert decision.holds
        assert decision.flip is not None
        assert [place.word for place in decision.flip.words] == [decisive]
    assert hits == 60


@pytest.mark.parametrize("replacement", ["mask", "remove"])
def test_a_flip_sent_as_a_prediction_is_answered_otherwise(tmp_path: Path, replacement: str) -> None:
    """By an agent in which every word counts."""
    draw = random.Random(0)
    weights = {word: {label: draw.gauss(0, 1) for label in CLASSIFIER.labels} for word in FILLER}
    engine, found = engine_of(planted_bundle(tmp_path / "bundle", CLASSIFIER, weights)), 0
    for _ in range(20):
        text = " ".join(draw.choices(FILLER, k=draw.randint(2, 14)))
        (decision,) = explained(engine, text, replacement=replacement).decisions
        (before,) = engine.predict([text])
        assert (decision.label, decision.holds) == (before[0]["label"], True)
        assert decision.probability == pytest.approx(before[0]["score"], abs=1e-6)
        if decision.flip is not None:
            (after,) = engine.predict([decision.flip.inputs])
            assert after[0]["label"] != decision.label
            scores = {item["label"]: item["score"] for item in after}
            assert scores[decision.label] == pytest.approx(decision.flip.probability, abs=1e-6)
            found += 1
    assert found > 15


def test_faithfulness_is_what_predictions_without_the_words_give(classifier_path: Path) -> None:
    engine = Engine(Bundle.load(classifier_path), EngineConfig(sessions=1), precision="fp32", num_cpus=1)
    text = TEXTS[1]
    (decision,) = explained(engine, text).decisions
    words = HiddenWords(engine.bundle.task, engine.bundle.encoder, text, most=50, replacement="mask")
    best = sorted(decision.causes, key=lambda cause: -cause.effect)
    places = [(word.start, word.end) for word in words.words]
    everything = 2 ** len(places) - 1

    def probability(hidden: int) -> float:
        (answer,) = engine.predict([words.without(hidden)])
        return float({item["label"]: item["score"] for item in answer}[decision.label])

    falls: dict[str, list[float]] = {"comprehensiveness": [], "sufficiency": []}
    for part in (0.0, *BINS):
        top = sum(1 << places.index((cause.start, cause.end)) for cause in best[: math.ceil(part * len(best))])
        falls["comprehensiveness"].append(probability(0) - probability(top))
        falls["sufficiency"].append(probability(0) - probability(everything ^ top))
    assert decision.comprehensiveness == pytest.approx(sum(falls["comprehensiveness"]) / 6, abs=1e-6)
    assert decision.sufficiency == pytest.approx(sum(falls["sufficiency"]) / 6, abs=1e-6)


def test_an_entity_is_explained_by_its_own_word_and_its_context(travellers: Engine) -> None:
    text = "everyone waited while anna flew to town and bruno waited ."
    first, second = explained(travellers, text).decisions
    assert [(one.label, one.word, one.start) for one in (first, second)] == [("PER", "anna", 22), ("PER", "bruno", 44)]
    for decision in (first, second):
        assert {cause.word for cause in decision.causes[:2]} == {decision.word, "flew"}
        assert all(abs(cause.effect) < 1e-6 for cause in decision.causes[2:])
        assert decision.flip is not None
        assert len(decision.flip.words) == 1
        (after,) = travellers.predict([decision.flip.inputs])
        places = {(item["entity_group"], item["word"]) for item in after}
        assert ("PER", decision.word) not in places


def test_decisions_are_chosen_by_label_and_by_place(travellers: Engine) -> None:
    text = "everyone waited while anna flew to town and bruno waited ."
    assert [one.word for one in explained(travellers, text, start=44).decisions] == ["bruno"]
    assert explained(travellers, text, labels=["LOC"]).decisions == []
    assert [one.label for one in explained(travellers, "anna waited").decisions] == ["LOC"]


def test_words_of_a_caller_stay_words(travellers: Engine) -> None:
    (decision,) = explained(travellers, GivenWords(["anna", "flew", "."])).decisions
    assert {cause.word for cause in decision.causes[:2]} == {"anna", "flew"}
    assert decision.flip is not None
    assert set(decision.flip.inputs) == {"words"}


def test_a_label_that_was_not_given_is_explained_when_asked(topics: Engine) -> None:
    text, decisive = next((text, word) for text, word in topic_texts(20) if word != "storm")
    (decision,) = explained(topics, text, labels=["weather"]).decisions
    assert not decision.holds
    assert decision.causes[0].word == decisive
    assert decision.causes[0].effect < 0


def test_every_label_of_a_multi_label_agent_has_causes_of_its_own(tmp_path: Path) -> None:
    task = MultiLabelClassification(labels=("boats", "letters", "music"), thresholds=(0.5, 0.7, 0.5))
    weights = {"boats": {"boats": 6.0}, "letter": {"letters": 6.0}}
    engine = engine_of(planted_bundle(tmp_path / "bundle", task, weights, bias=dict.fromkeys(task.labels, -3.0)))
    found = explained(engine, "a letter from the river about new boats").decisions
    assert {one.label: one.causes[0].word for one in found} == {"boats": "boats", "letters": "letter"}
    assert len(explained(engine, "nothing happened", interventions=20).decisions) == 1  # the most that 20 explain
    with pytest.raises(RequestError, match="3 decisions"):
        explained(engine, "nothing happened", interventions=20, top_k=3)
    neither = explained(engine, "nothing happened that day").decisions
    assert [(one.label, one.holds) for one in neither] == [(label, False) for label in task.labels]


def test_a_pair_is_explained_by_words_of_both_texts(tmp_path: Path) -> None:
    task = TextPairClassification(labels=("contradiction", "entailment"))
    weights = {"boats": {"entailment": 3.0}, "river": {"entailment": 3.0}}
    engine = engine_of(planted_bundle(tmp_path / "bundle", task, weights, bias={"contradiction": 4.0}))
    (decision,) = explained(engine, TextPair("new boats waited", "the river and boats")).decisions
    assert decision.label == "entailment"
    assert {(cause.word, cause.field) for cause in decision.causes[:3]} == {
        ("boats", "text"), ("boats", "text_pair"), ("river", "text_pair"),
    }  # fmt: skip
    assert decision.flip is not None
    assert len(decision.flip.words) == 2
    (after,) = engine.predict([TextPair(*decision.flip.inputs.values())])
    assert after[0]["label"] == "contradiction"
    (candidate,) = explained(engine, "new boats waited", candidate_labels=["river", "garden"]).decisions
    assert candidate.label == "river"


def test_a_long_text_is_explained_in_runs_of_words_within_its_interventions(topics: Engine) -> None:
    """Windows of 32 tokens; the mean over windows decides."""
    text = " ".join([*FILLER * 3, "storm", *FILLER * 3])
    found = explained(topics, text, interventions=100, labels=["weather"])
    assert found.words_at_once > 1
    assert found.words == 6 * len(FILLER) + 1
    assert found.interventions <= 100
    assert "storm" in found.decisions[0].causes[0].word.split()
    poor = ExplainLimits(max_tokens=3_000)
    assert explained(topics, " ".join(FILLER * 3), poor).interventions <= 3_000 // len(FILLER * 3)


def test_the_same_seed_gives_the_same_answer(topics: Engine) -> None:
    text = " ".join([*FILLER[:12], "storm", "ballot", "penalty", "dividend"])
    same = [explained(topics, text, seed=7).model_dump() for _ in range(2)]
    assert same[0] == same[1]
    other = explained(topics, text, seed=8).model_dump()
    assert other["decisions"][0]["causes"] != same[0]["decisions"][0]["causes"]
    assert not explained(topics, text, seed=8).exact


def test_a_short_text_is_explained_exactly(topics: Engine) -> None:
    found = explained(topics, "storm ballot ballot")
    assert found.exact
    assert all(cause.low == cause.effect == cause.high for cause in found.decisions[0].causes)


def test_a_text_without_words_has_no_causes(topics: Engine, travellers: Engine) -> None:
    assert explained(topics, "  ").decisions == []
    assert explained(travellers, "  ").decisions == []


@pytest.mark.parametrize(
    ("parameters", "field"),
    [
        ({"labels": ["PER", "WEATHER"]}, "parameters.labels[1]"),
        ({"start": 3}, "parameters.start"),
    ],
)
def test_what_does_not_exist_is_refused_by_name(travellers: Engine, parameters: dict[str, Any], field: str) -> None:
    with pytest.raises(RequestError) as refused:
        explained(travellers, "anna flew", **parameters)
    assert (refused.value.field, refused.value.status) == (field, 422)
    assert refused.value.allowed


def test_a_text_that_is_too_long_or_decides_too_much_is_refused(travellers: Engine) -> None:
    with pytest.raises(RequestError) as refused:
        explained(travellers, "anna flew " * 50, ExplainLimits(max_tokens=1_000))
    assert (refused.value.status, refused.value.field) == (413, "inputs")
    with pytest.raises(RequestError) as refused:
        explained(travellers, "anna flew " * 8, interventions=50)
    assert (refused.value.status, refused.value.field) == (422, "parameters.labels")


def test_a_task_that_is_not_explained_is_refused_by_name(topics: Engine) -> None:
    class Riddles(TextPairClassification):
        explains = False

    with pytest.raises(ConfigError, match="text pair classification cannot be explained"):
        check_explainable(Riddles(labels=("a", "b")))
    check_explainable(topics.bundle.task)
