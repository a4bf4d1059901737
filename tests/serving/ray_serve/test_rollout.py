"""A new version takes over when it is good, and is sent away when it is not; nobody who asks meanwhile notices."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import Callable, Coroutine, Sequence
from pathlib import Path
from typing import Any

import pytest

from agent.bundle import MANIFEST, Bundle
from agent.encoding import Float32, Window
from serving.inference.engine import Engine
from serving.metrics import Metrics
from serving.ray_serve.rollout import Outcome, Rollout, RolloutConfig
from serving.scheduling.predictor import Predictor
from tests.serving.tiny import CLASSIFIER, TAGGER, TEXTS, make_bundle

QUICK = RolloutConfig(poll_s=0.05, canary_share=0.5, canary_s=0.2, min_agreement=0, samples=16)
PARAMETERS = TAGGER.parameters()


@pytest.fixture
def place(tagger_path: Path, tmp_path: Path) -> Path:
    """A bundle of the test's own to replace."""
    return shutil.copytree(tagger_path, tmp_path / "bundle")


@pytest.fixture(scope="session")
def other_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_bundle(tmp_path_factory.mktemp("other") / "bundle", TAGGER, seed=1)


def put(source: Path, place: Path) -> None:
    shutil.rmtree(place)
    shutil.copytree(source, place)


class Failing(Engine):
    """Loads and warms up, and then computes no batch for callers: what a broken driver does."""

    def forward_windows(self, windows: Sequence[Window]) -> list[Float32]:
        raise RuntimeError("no kernel for this device")


def drive(
    place: Path,
    scenario: Callable[[Predictor, Rollout], Coroutine[Any, Any, Any]],
    config: RolloutConfig = QUICK,
    open_engine: Callable[[Bundle], Engine] = Engine,
) -> tuple[Any, str]:
    """Runs a scenario beside callers who ask without a pause; each must get an answer. Gives the metrics too."""
    predictor = Predictor(Engine(Bundle.load(place)), metrics=Metrics("r"), num_samples=config.samples)
    predictor.warm_up()

    async def ask() -> None:
        while True:
            await predictor.predict([TEXTS[0]], PARAMETERS)
            await asyncio.sleep(0.001)

    async def guarded() -> Any:
        callers = [asyncio.create_task(ask()) for _ in range(4)]
        await asyncio.sleep(0.05)
        try:
            return await asyncio.wait_for(scenario(predictor, Rollout(predictor, open_engine, config)), 30)
        finally:
            assert [caller for caller in callers if caller.done()] == []
            for caller in callers:
                caller.cancel()
            await asyncio.gather(*callers, return_exceptions=True)

    try:
        return asyncio.run(guarded()), predictor.metrics.render().decode()
    finally:
        predictor.close()


async def look(_: Predictor, rollout: Rollout) -> Outcome | None:
    return await rollout.look()


def test_a_new_version_takes_over_while_callers_ask(place: Path, other_path: Path) -> None:
    async def scenario(predictor: Predictor, rollout: Rollout) -> tuple[Outcome | None, Any, Outcome | None]:
        assert await rollout.look() is None
        put(other_path, place)
        outcome = await rollout.look()
        expected = Engine(Bundle.load(other_path)).predict(TEXTS)
        # Callers ask all the time, and in their company the dynamic graph of this bundle may answer a little otherwise.
        for _ in range(200):
            if (answers := await predictor.predict(TEXTS, PARAMETERS)) == expected:
                break
        return outcome, answers == expected, await rollout.look()

    (outcome, as_in_process, again), metrics = drive(place, scenario)
    assert (outcome, as_in_process, again) == ("promoted", True, None)
    assert 'bert_agent_rollouts_total{outcome="promoted",replica="r"} 1.0' in metrics
    new, old = (Bundle.load(path).digest[:12] for path in (other_path, place))
    assert new == old
    assert f'bundle="{new}",precision="int8",replica="r",task="token_classification"}} 1.0' in metrics


def test_a_version_that_fails_requests_is_sent_away_and_they_are_answered(place: Path, other_path: Path) -> None:
    before = Bundle.load(place).digest

    async def scenario(predictor: Predictor, rollout: Rollout) -> tuple[Outcome | None, str]:
        put(other_path, place)
        return await rollout.look(), predictor.engine.bundle.digest

    (outcome, digest), metrics = drive(place, scenario, open_engine=Failing)
    assert (outcome, digest) == ("rolled_back", before)
    assert 'bert_agent_rollouts_total{outcome="rolled_back",replica="r"} 1.0' in metrics


def test_a_version_that_answers_otherwise_is_refused(place: Path, other_path: Path) -> None:
    async def scenario(predictor: Predictor, rollout: Rollout) -> tuple[Outcome | None, Any]:
        put(other_path, place)
        return await rollout.look(), rollout.last

    (outcome, last), _ = drive(place, scenario, QUICK.model_copy(update={"min_agreement": 1.0}))
    assert outcome == "refused"
    assert "it answers 0.0% of the" in last[1]


def test_a_half_copied_version_is_refused_until_it_is_whole(place: Path, other_path: Path) -> None:
    async def scenario(predictor: Predictor, rollout: Rollout) -> list[Any]:
        before = predictor.engine.bundle.digest
        shutil.copy(other_path / MANIFEST, place / MANIFEST)
        seen = [await rollout.look(), await rollout.look(), predictor.engine.bundle.digest == before]
        put(other_path, place)
        return [*seen, await rollout.look()]

    (seen, metrics) = drive(place, scenario)
    assert seen == ["refused", None, True, "promoted"]
    assert 'bert_agent_rollouts_total{outcome="refused",replica="r"} 1.0' in metrics


def test_another_task_is_refused(place: Path, classifier_path: Path) -> None:
    async def scenario(predictor: Predictor, rollout: Rollout) -> tuple[Outcome | None, Any]:
        put(classifier_path, place)
        return await rollout.look(), rollout.last

    (outcome, last), _ = drive(place, scenario)
    assert outcome == "refused"
    assert f"now holds an agent for {CLASSIFIER.kind}" in last[1]
    assert "another application" in last[1]


def test_an_empty_place_changes_nothing(place: Path) -> None:
    async def scenario(predictor: Predictor, rollout: Rollout) -> Outcome | None:
        shutil.rmtree(place)
        return await rollout.look()

    outcome, _ = drive(place, scenario)
    assert outcome is None


@pytest.mark.parametrize(("share", "of_ten"), [(0.0, 0), (0.1, 1), (0.5, 5), (1.0, 10)])
def test_a_candidate_answers_its_share(place: Path, other_path: Path, share: float, of_ten: int) -> None:
    predictor = Predictor(Engine(Bundle.load(place)))
    new = Engine(Bundle.load(other_path))

    async def scenario() -> int:
        async with predictor.candidate(new, share):
            answers = [await predictor.predict([TEXTS[0]], PARAMETERS) for _ in range(10)]
        return sum(answer == new.predict([TEXTS[0]]) for answer in answers)

    try:
        assert asyncio.run(scenario()) == of_ten
    finally:
        predictor.close()
