"""Seeds: the same text whenever it is asked for, whatever else is written, by whichever replica; and nobody else's draws."""

from __future__ import annotations

import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from agent.bundle import Bundle
from serving.inference.engine import EngineConfig
from serving.inference.engine_choice import open_engine
from serving.inference.writer import Settings, WritingConfig
from serving.inference.writing_engine import WritingEngine
from tests.tiny_writers import publish_converted

TEXTS = ["anna met bruno", "oslo to lima in pune", "chidi went to graz"]


@pytest.fixture(scope="module", params=["translator", "talker"])
def path(request: pytest.FixtureRequest) -> Path:
    found: Path = request.getfixturevalue(f"{request.param}_path")
    return found


@pytest.fixture(scope="module")
def engine(path: Path) -> WritingEngine:
    return open_engine(Bundle.load(path), num_cpus=2)


def drawn(engine: WritingEngine, texts: list[str], **how: Any) -> list[str]:
    parameters = engine.task.parameters(**({"temperature": 5.0, "max_new_tokens": 16} | how))
    return [answer[0][engine.task.text_key] for answer in engine.predict(texts, parameters)]


def test_a_seed_draws_the_same_text_again_whatever_else_is_drawn_and_another_one_another(
    engine: WritingEngine, path: Path
) -> None:
    first = [drawn(engine, [text], seed=7)[0] for text in TEXTS]
    with ThreadPoolExecutor(4) as pool:
        others = [pool.submit(drawn, engine, TEXTS) for _ in range(8)]
        again = [pool.submit(drawn, engine, TEXTS, seed=7) for _ in range(3)]
        assert [call.result() for call in again] == [first] * 3
        assert len({tuple(call.result()) for call in others}) == 8
    assert drawn(open_engine(Bundle.load(path), num_cpus=1), TEXTS, seed=7) == first
    assert len({tuple(drawn(engine, TEXTS, seed=seed)) for seed in (7, 8, -7, 2**40 + 7, 2**63 - 1)}) == 5


def test_who_draws_without_a_seed_does_not_draw_by_the_last_one(engine: WritingEngine, path: Path) -> None:
    seen = list[str]()
    for _ in range(3):
        drawn(engine, TEXTS[:1], seed=7)
        fresh = open_engine(Bundle.load(path), EngineConfig(writing=WritingConfig(max_batch_tokens=16)), num_cpus=2)
        seen += drawn(fresh, TEXTS[:1] * 8, max_new_tokens=30)  # by two threads, which both begin to draw
    assert len(set(seen)) > 16


def test_where_nothing_is_drawn_a_seed_costs_nothing(engine: WritingEngine) -> None:
    for how in ({}, {"num_beams": 3}, {"top_k": 1}, {"do_sample": False}):
        plain = engine.task.parameters(**{"num_beams": 1} | how)
        (job,) = engine.encode(TEXTS[:1], engine.task.parameters(**{"num_beams": 1, "seed": 7} | how))
        assert job.settings == engine.encode(TEXTS[:1], plain)[0].settings
        assert job.settings.seed is None
    (job,) = engine.encode(TEXTS[:1], engine.task.parameters(top_k=3, seed=7))
    assert job.settings == Settings(top_k=3, seed=7)


def test_a_seed_draws_by_the_model_that_was_opened_though_another_stands_there(
    talker_path: Path, tmp_path: Path
) -> None:
    place = tmp_path / "live"
    shutil.copytree(talker_path, place)
    engine = open_engine(Bundle.load(place), num_cpus=1)
    parameters = engine.task.parameters(temperature=5.0, seed=3, max_new_tokens=16)
    wanted = engine.predict(TEXTS, parameters)
    place.rename(tmp_path / "before")
    publish_converted(place, "text_generation", "llama", hidden_size=48)
    shutil.rmtree(tmp_path / "before")
    assert engine.predict(TEXTS, parameters) == wanted
    assert open_engine(Bundle.load(place), num_cpus=1).predict(TEXTS, parameters) != wanted


def test_what_was_abandoned_while_it_waited_is_not_written(talker_path: Path) -> None:
    engine = open_engine(Bundle.load(talker_path), num_cpus=1)
    (job,) = engine.encode(TEXTS[:1], engine.task.parameters(temperature=5.0, seed=1))
    job.abandoned, ended = True, list[int]()
    engine.write([job], ended=ended.append)
    assert (job.written.numbers, job.over, ended) == ([], False, [])
    job.abandoned = False
    engine.write([job], ended=ended.append)
    assert (job.over, ended) == (True, [0])
