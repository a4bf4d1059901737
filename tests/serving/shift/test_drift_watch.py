"""A served agent counts its texts, and shows drift where there is some: planted shifts, calm, a new version, texts that do not count."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import httpx
import pytest

from agent import telemetry
from agent.bundle import Bundle
from agent.config.base import load
from agent.drift.drift_reference import FILE, STATISTICS, DriftReference
from agent.drift.observer import Observation, Observer
from agent.errors import BundleError, ConfigError
from agent.tasks import BaseTask
from serving.inference.engine import Engine
from serving.metrics import Metrics
from serving.ray_serve.app_config import AppConfig
from serving.scheduling.predictor import Predictor
from serving.shift.drift_watch import DriftConfig, DriftWatch, find, open_watch
from tests.serving.conftest import listening
from tests.serving.shift.recorded import calm_texts, observed, record
from tests.serving.tiny import CLASSIFIER, JUDGE, LABELLER, READER, TAGGER, TEXTS, make_bundle

# Every text counts: ten microseconds between two of them.
QUICK = DriftConfig(block_texts=100, block_s=1e-3, false_alarms_per_year=1e5)


@pytest.fixture(scope="module")
def recorded(tagger_path: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return record(tagger_path, tmp_path_factory.mktemp("recorded") / "bundle", calm_texts(400, seed=1))


def shown(metrics: Metrics, metric: telemetry.Metric = telemetry.DRIFT_EVIDENCE) -> dict[str, float]:
    lines = [line for line in metrics.render().decode().splitlines() if line.startswith(f"{metric.name}{{")]
    return {line.split('statistic="')[1].split('"')[0]: float(line.rpartition(" ")[2]) for line in lines}


def counted(metrics: Metrics) -> float:
    return metrics.counter(telemetry.DRIFT_TEXTS).read()


def ask(predictor: Predictor, texts: Sequence[str], **parameters: Any) -> None:
    async def one_by_one() -> None:
        for text in texts:
            await predictor.predict([text], predictor.engine.bundle.task.parameters(**parameters))

    asyncio.run(one_by_one())


def serving(path: Path, config: DriftConfig = QUICK) -> Predictor:
    predictor = Predictor(Engine(Bundle.load(path)))
    predictor.watch_drift(config)
    return predictor


@pytest.mark.parametrize(
    ("shift", "seen"),
    [
        (lambda text: text, set()),
        (lambda text: f"{text} {text}", {"length"}),
        (lambda text: text.replace("oslo", "漢字").replace("anna", "字"), {"unknown"}),
    ],
    ids=["calm", "longer", "another script"],
)
def test_a_planted_shift_raises_the_metric_and_calm_does_not(recorded: Path, shift: Any, seen: set[str]) -> None:
    predictor = serving(recorded)
    ask(predictor, [shift(text) for text in calm_texts(99, seed=2)])
    assert (counted(predictor.metrics), shown(predictor.metrics)) == (99, {})
    ask(predictor, [shift(text) for text in calm_texts(1, seed=3)])
    predictor.close()
    evidence, distances = shown(predictor.metrics), shown(predictor.metrics, telemetry.DRIFT_DISTANCE)
    assert set(evidence) == set(distances) == set(STATISTICS)
    alarms = {name for name, value in evidence.items() if value >= 1}
    assert seen <= alarms
    assert bool(alarms) == bool(seen)
    assert all(distances[name] > 0.2 for name in seen)


def test_who_scrapes_a_server_sees_the_shift_of_what_its_callers_send(recorded: Path) -> None:
    predictor, texts = serving(recorded), [f"{text} {text}" for text in calm_texts(100, seed=2)]
    with listening(predictor) as url:
        for first in range(0, 100, 10):
            httpx.post(url, json={"inputs": texts[first : first + 10]}).raise_for_status()
        page = httpx.get(f"{url}/metrics").text
    (line,) = [one for one in page.splitlines() if one.startswith("bert_agent_drift_evidence{") and '"length"' in one]
    assert float(line.rpartition(" ")[2]) >= 1
    assert 'bert_agent_drift_texts_total{replica="local"} 100.0' in page


def test_what_is_shown_is_the_test_of_the_block_by_hand(recorded: Path) -> None:
    predictor, texts = serving(recorded), calm_texts(100, seed=5)
    ask(predictor, texts)
    predictor.close()
    bundle = Bundle.load(recorded)
    assert bundle.drift_reference
    # Answers alone and in a batch differ a little with a dynamic graph, those of texts do not.
    expected = find(bundle.drift_reference, bundle.drift_reference.count(observed(bundle, texts)), QUICK.alpha)
    for finding in expected[:2]:
        assert shown(predictor.metrics)[finding.statistic] == pytest.approx(finding.evidence)
        assert shown(predictor.metrics, telemetry.DRIFT_DISTANCE)[finding.statistic] == pytest.approx(finding.distance)


def test_a_new_version_begins_anew_with_its_own_reference(recorded: Path, tmp_path: Path) -> None:
    longer = [f"{text} {text}" for text in calm_texts(400, seed=1)]
    predictor, other = serving(recorded), record(recorded, tmp_path / "other", longer)
    asked = [f"{text} {text}" for text in calm_texts(150, seed=2)]
    ask(predictor, asked)
    assert shown(predictor.metrics)["length"] >= 1

    async def roll_out() -> None:
        async with predictor.candidate(Engine(Bundle.load(other)), 1.0) as promote:
            before = counted(predictor.metrics)
            await predictor.predict([asked[0]], TAGGER.parameters())
            assert counted(predictor.metrics) == before  # a candidate's texts say nothing of either version
            promote()

    asyncio.run(roll_out())
    assert shown(predictor.metrics) == dict.fromkeys(STATISTICS, 0)
    ask(predictor, asked[:99])
    assert shown(predictor.metrics) == dict.fromkeys(STATISTICS, 0)
    ask(predictor, asked[99:100])
    predictor.close()
    assert 0 < shown(predictor.metrics)["length"] < 1


def test_texts_are_taken_evenly_over_the_time_of_a_block(recorded: Path) -> None:
    bundle, now, metrics = Bundle.load(recorded), [0.0], Metrics()
    assert bundle.drift_reference
    config = DriftConfig(block_texts=100, block_s=1_000)
    observer = Observer(bundle.task, bundle.encoder)
    watch = DriftWatch(bundle.drift_reference, observer, config, metrics, clock=lambda: now[0])
    engine, times = Engine(bundle), list[float]()
    (document,) = engine.encode(TEXTS[:1])
    (outputs,) = engine.run([document])
    for tenth in range(1_000):
        now[0] = tenth / 10
        if watch.is_due():
            times.append(now[0])
            watch.observe(f"{TEXTS[0]} {tenth}", document, outputs)
    assert times == [10.0 * number for number in range(10)]
    assert counted(metrics) == 10


def test_parameters_of_a_request_do_not_matter(recorded: Path) -> None:
    predictor = serving(recorded)
    texts = calm_texts(100, seed=2)
    ask(predictor, texts[:50], aggregation_strategy="none")
    ask(predictor, texts[50:], aggregation_strategy="first", ignore_labels=["PER", "ORG", "LOC"])
    predictor.close()
    assert counted(predictor.metrics) == 100
    assert max(shown(predictor.metrics).values()) < 1


def test_a_text_that_comes_again_and_again_counts_once_in_a_block(recorded: Path) -> None:
    predictor, texts = serving(recorded), calm_texts(100, seed=2)
    ask(predictor, [one for text in texts[:98] for one in (text, TEXTS[0], TEXTS[0])])
    assert (counted(predictor.metrics), shown(predictor.metrics)) == (99, {})
    ask(predictor, texts[98:99])
    predictor.close()
    assert counted(predictor.metrics) == 100
    assert max(shown(predictor.metrics).values()) < 1


def test_a_text_that_cannot_be_observed_is_answered(recorded: Path, caplog: pytest.LogCaptureFixture) -> None:
    class Broken(Observer):
        def observe(self, *_: Any) -> Any:
            raise ZeroDivisionError

    bundle = Bundle.load(recorded)
    predictor = serving(recorded)
    assert bundle.drift_reference
    predictor._live.drift = DriftWatch(
        bundle.drift_reference, Broken(bundle.task, bundle.encoder), QUICK, predictor.metrics
    )
    ask(predictor, TEXTS)
    predictor.close()
    assert [record.message for record in caplog.records if "drift" in record.message] == [
        "drift is not watched any more: a text could not be observed"
    ]


@pytest.mark.parametrize("task", [TAGGER, CLASSIFIER, LABELLER, JUDGE, READER], ids=lambda task: task.kind)
def test_agents_of_every_task_are_watched(task: BaseTask[Any], tmp_path: Path) -> None:
    source = make_bundle(tmp_path / "plain", task)
    first = ["Who flew?"] * (len(task.input_fields) - 1)  # a question stands whole in every window
    texts = [task.as_input([*first, text]) for text in calm_texts(60, seed=1)]
    predictor = serving(record(source, tmp_path / "recorded", texts), QUICK.model_copy(update={"block_texts": 60}))
    ask(predictor, texts)
    predictor.close()
    assert set(shown(predictor.metrics)) == set(STATISTICS)
    assert max(shown(predictor.metrics).values()) < 1
    assert shown(predictor.metrics, telemetry.DRIFT_DISTANCE)["length"] == 0


def test_a_bundle_without_distributions_says_so_once_and_may_be_left_alone(
    tagger_path: Path, recorded: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    predictor = serving(tagger_path)
    ask(predictor, TEXTS)
    predictor.close()
    assert len([one for one in caplog.records if "has no distributions" in one.message]) == 1
    assert shown(predictor.metrics) == {}
    assert open_watch(Bundle.load(recorded), DriftConfig(watch=False), Metrics()) is None


def test_a_bundle_whose_distributions_cannot_be_read_is_refused(recorded: Path, tmp_path: Path) -> None:
    place = shutil.copytree(recorded, tmp_path / "damaged")
    (place / FILE).write_text((place / FILE).read_text().replace('"dev"', '"new"'))
    with pytest.raises(BundleError, match=f"{FILE} was altered"):
        Bundle.load(place)


def test_the_rate_of_false_alarms_is_that_of_a_year() -> None:
    config = DriftConfig(block_s=3_600, false_alarms_per_year=8.76)
    assert config.alpha * 8_760 * len(STATISTICS) == pytest.approx(8.76)
    reference = DriftReference.of(observations(), "dev")
    (length, *_) = find(reference, reference.count(observations()), config.alpha)
    assert (length.distance, length.p_value, length.evidence) == (0, 1, 0)


def observations() -> list[Any]:
    return [Observation(number % 7, 0.0, (), -1.0, 0.0) for number in range(70)]


@pytest.mark.parametrize("given", ["drift.block_texts=10", "drift.block_s=0", "drift.false_alarms_per_year=0"])
def test_settings_out_of_range_are_named(given: str) -> None:
    with pytest.raises(ConfigError, match=given.partition("=")[0]):
        load(AppConfig, ["bundle=x", given])
