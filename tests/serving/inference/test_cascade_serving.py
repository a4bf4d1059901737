"""A cascade that is served: easy texts end with the first pass, the others are answered as the agent alone answers them."""

from __future__ import annotations

import asyncio
import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import httpx
import pytest

from agent import telemetry
from agent.batching import pad
from agent.bundle import Bundle
from agent.errors import BundleError
from agent.evaluation import lowest_probability
from serving.inference.engine import Engine, EngineConfig
from serving.scheduling.predictor import Predictor
from tests.serving.conftest import listening
from tests.serving.tiny import TEXTS, make_cascade

LONG = " ".join(TEXTS * 4)  # several windows
MIXED = [*TEXTS, LONG, "a", "Oslo", *(f"{text} {place}" for text in TEXTS for place in ("Lima", "Graz", "Pune"))]


def engine_of(path: Path, **config: Any) -> Engine:
    return Engine(Bundle.load(path), EngineConfig(warmup=False, **config), precision="fp32")


@pytest.fixture(scope="module")
def threshold(tagger_path: Path, tmp_path_factory: pytest.TempPathFactory) -> float:
    """One that parts the texts in half."""
    shallow = engine_of(make_cascade(tmp_path_factory.mktemp("all") / "bundle", tagger_path, 0.0))
    documents = shallow.encode(MIXED)
    sure = sorted(
        lowest_probability(shallow.bundle.task, *one) for one in zip(documents, shallow.run(documents), strict=True)
    )
    assert sure[0] < sure[len(sure) // 2] < sure[-1]
    return sure[len(sure) // 2]


@pytest.fixture(scope="module")
def cascade_path(tagger_path: Path, threshold: float, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_cascade(tmp_path_factory.mktemp("cascade") / "bundle", tagger_path, threshold)


def same(found: Sequence[Any], expected: Sequence[Any]) -> bool:
    """The same entities, and scores that differ by no more than float32 does in other batches."""
    bare = [[[{**item, "score": 0} for item in text] for text in answers] for answers in (found, expected)]
    scores = [[item["score"] for text in answers for item in text] for answers in (found, expected)]
    return bare[0] == bare[1] and scores[0] == pytest.approx(scores[1], abs=1e-5)


def expected(cascade: Path, whole: Path) -> tuple[list[Any], list[int]]:
    """What a cascade has to answer, by the two graphs alone; and which texts go on."""
    engine, alone = engine_of(cascade), engine_of(whole)
    first = engine.variant.first_pass
    assert first is not None
    assert engine._first is not None
    documents = engine.encode(MIXED)
    logits = [[engine._first.forward(_batch(engine, window))[0] for window in one.windows] for one in documents]
    sure = [
        lowest_probability(engine.bundle.task, *one) > first.threshold for one in zip(documents, logits, strict=True)
    ]
    answers = engine.answer(MIXED, documents, logits)
    left = [number for number, one in enumerate(sure) if not one]
    for number, answer in zip(left, alone.predict([MIXED[number] for number in left]), strict=True):
        answers[number] = answer
    return answers, left


def _batch(engine: Engine, window: Any) -> Any:
    return pad([window], engine.bundle.encoder.pad_id)


def test_sure_texts_are_answered_by_the_first_pass_and_all_others_as_by_the_agent_alone(
    cascade_path: Path, tagger_path: Path
) -> None:
    answers, left = expected(cascade_path, tagger_path)
    assert 0 < len(left) < len(MIXED)
    engine = engine_of(cascade_path)
    assert same(engine.predict(MIXED), answers)
    assert not same(
        engine.predict(MIXED), engine_of(tagger_path).predict(MIXED)
    )  # the first pass does answer some otherwise


def test_with_threshold_1_no_text_ends_early_and_logits_are_those_of_the_agent_alone(
    tagger_path: Path, tmp_path: Path
) -> None:
    never, alone = engine_of(make_cascade(tmp_path / "never", tagger_path, 1.0)), engine_of(tagger_path)
    documents = alone.encode(MIXED)
    for ours, theirs in zip(never.run(documents), alone.run(documents), strict=True):
        assert [one.tobytes() for one in ours] == [one.tobytes() for one in theirs]


def test_with_threshold_0_every_text_ends_early(tagger_path: Path, tmp_path: Path) -> None:
    always = engine_of(make_cascade(tmp_path / "always", tagger_path, 0.0))
    predictor = Predictor(always)
    try:
        asyncio.run(predictor.predict(MIXED, always.bundle.task.parameters()))
    finally:
        predictor.close()
    assert predictor.metrics.counter(telemetry.SECOND_PASS_TEXTS).read() == 0


@pytest.mark.parametrize("config", [{"sessions": 1}, {"sessions": 3, "executor": "threads", "max_batch_tokens": 64}])
def test_the_queue_answers_in_order_as_the_engine_does_and_counts_what_goes_on(
    cascade_path: Path, tagger_path: Path, config: dict[str, Any]
) -> None:
    answers, left = expected(cascade_path, tagger_path)
    engine = engine_of(cascade_path, **config)
    predictor = Predictor(engine)

    async def several() -> list[Any]:
        parameters = engine.bundle.task.parameters()
        return await asyncio.gather(predictor.predict(MIXED, parameters), predictor.predict(MIXED[::-1], parameters))

    try:
        forwards, backwards = asyncio.run(several())
    finally:
        predictor.close()
    assert same(forwards, answers)
    assert same(backwards, answers[::-1])
    assert predictor.metrics.counter(telemetry.SECOND_PASS_TEXTS).read() == 2 * len(left)


def test_over_http_it_answers_as_offline_and_says_what_it_is(cascade_path: Path, threshold: float) -> None:
    engine = engine_of(cascade_path)
    with listening(Predictor(engine)) as url:
        answers = httpx.post(url, json={"inputs": MIXED}).json()
        info = httpx.get(f"{url}/info").json()
        metrics = httpx.get(f"{url}/metrics").text
    assert same(answers, json.loads(json.dumps(engine_of(cascade_path).predict(MIXED))))
    assert info["first_pass"] == {
        "file": "first_pass.onnx", "layers": 2, "confidence": "lowest_probability", "threshold": threshold, "pairs_fit": False,
    }  # fmt: skip
    assert "bert_agent_second_pass_texts_total{" in metrics


def test_a_corpus_is_annotated_as_requests_are_answered(cascade_path: Path) -> None:
    engine = engine_of(cascade_path, sessions=2)
    found = [one for part in engine.annotate(MIXED, engine.bundle.task.parameters()) for one in part.answers]
    assert same(found, engine.predict(MIXED))


def test_an_explanation_through_the_queue_is_that_of_the_engine(cascade_path: Path) -> None:
    engine = engine_of(cascade_path)
    with listening(Predictor(engine)) as url:
        answers = httpx.post(url, json={"inputs": TEXTS[1]}).json()
        explained = httpx.post(f"{url}/explain", json={"inputs": TEXTS[1]})
    assert explained.status_code == 200
    claims = {(one["label"], one["start"], one["end"]) for one in explained.json()["decisions"]}
    assert claims == {(item["entity_group"], item["start"], item["end"]) for item in answers}


@pytest.mark.parametrize(
    "wrong", [{"threshold": 1.5}, {"threshold": -0.1}, {"layers": 0}, {"confidence": "entropy"}, {"file": "other.onnx"}]
)
def test_a_first_pass_that_cannot_be_is_refused_when_the_bundle_is_loaded(
    cascade_path: Path, tmp_path: Path, wrong: dict[str, Any]
) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(cascade_path, copy)
    tree = json.loads((copy / "bundle.json").read_text())
    tree["onnx"][0]["first_pass"].update(wrong)
    (copy / "bundle.json").write_text(json.dumps(tree))
    with pytest.raises(BundleError, match=r"other\.onnx" if "file" in wrong else "first_pass"):
        Bundle.load(copy)


def test_a_first_pass_that_was_altered_is_refused(cascade_path: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(cascade_path, copy)
    (copy / "first_pass.onnx").write_bytes(b"no graph")
    with pytest.raises(BundleError, match=r"first_pass\.onnx was altered"):
        Bundle.load(copy)
