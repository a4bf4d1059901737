"""What stands around triples: annotated corpora, limits of keys, callers who leave, new versions, further agents of a server."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from agent.bundle import Bundle
from agent.config import cli
from agent.decisions.exploration import ExploreConfig
from agent.errors import BundleError, ConfigError
from serving.annotation.annotation_job import AnnotateConfig, prepare
from serving.annotation.annotator import Annotator, AnnotatorTask, ShardResult
from serving.annotation.formats import FORMATS
from serving.annotation.shards import cut_files
from serving.annotation.storage import File, StorageLocation
from serving.feedback.explorer import check_explorable
from serving.inference.engine import EngineConfig
from serving.inference.engine_choice import open_engine
from serving.run import ServingConfig
from serving.scheduling.predictor import Predictor
from serving.scheduling.rate_limit import RateLimit
from serving.scheduling.refusals import DeadlineError, RateLimitError
from serving.scheduling.request_context import RequestContext
from tests.serving.triples.gold import TOLD
from tests.serving.triples.test_triples_over_http import MARKED, TEXTS, spans_of


def annotated(config: AnnotateConfig) -> tuple[ShardResult, Path]:
    """The one shard of a small corpus, annotated in this process by what a worker of Ray Data runs."""
    job = prepare(config)
    format_, files = FORMATS[job.spec.format], [File(*file) for file in job.spec.files]
    shards = cut_files(StorageLocation(job.spec.input), files, format_, job.fields, 10_000_000)
    manifest = job.ledger.start(job.spec, shards)
    assert job.bundle.tagger is not None
    task = AnnotatorTask(
        manifest=manifest, bundle=str(job.bundle.path), entities=str(job.bundle.tagger.path), output=job.ledger.place.url,
        fields=job.fields, parameters=job.parameters, engine=EngineConfig(warmup=False), num_cpus=1,
    )  # fmt: skip
    result = Annotator(task)._attempt(0)
    assert isinstance(result, ShardResult), result
    return result, Path(config.output) / (result.name + format_.output_suffix)


@pytest.mark.parametrize("form", ["jsonl", "parquet"])
def test_a_corpus_is_annotated_with_triples(form: str, relater: Path, tagger: Path, tmp_path: Path) -> None:
    texts = [*TEXTS, MARKED, "<e1>half"]
    corpus = tmp_path / f"corpus.{form}"
    if form == "jsonl":
        corpus.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts), encoding="utf-8")
    else:
        pq.write_table(pa.table({"text": texts}), corpus)
    config = AnnotateConfig(bundle=str(relater), entities=str(tagger), input=str(corpus), output=str(tmp_path / "out"))
    result, file = annotated(config)
    assert (result.counts.records, result.counts.rejected) == (len(texts) - 1, 1)
    assert result.counts.answers == {"Employment": 3, "Employment(e1,e2)": 1, "Location": 1, "Siblings": 1}
    rows: list[dict[str, Any]]
    if form == "jsonl":
        rows = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]
    else:
        rows = pq.read_table(file).to_pylist()
    assert [row["text"] for row in rows] == texts[:-1]
    assert [spans_of(row["triples"]) for row in rows[:-1]] == [told.triples for told in TOLD]
    assert rows[-1]["triples"][0]["label"] == "Employment(e1,e2)"


def test_an_annotation_goes_on_with_the_same_tagger_only(relater: Path, tagger: Path, tmp_path: Path) -> None:
    (tmp_path / "c.txt").write_text("a\n")
    spec = prepare(
        AnnotateConfig(
            bundle=str(relater), entities=str(tagger), input=str(tmp_path / "c.txt"), output=str(tmp_path / "o")
        )
    ).spec
    assert spec.entities == Bundle.load(tagger).digest
    assert spec.field == "triples"


def test_each_pair_counts_against_the_limit_of_a_key(pair: Bundle) -> None:
    context = RequestContext("one")
    context.rate_limit = RateLimit(1, 4, clock=lambda: 0.0)
    predictor = Predictor(open_engine(pair))
    try:
        answers = asyncio.run(_predicted(predictor, TEXTS[:2], context))
        assert list(map(spans_of, answers)) == [told.triples for told in TOLD[:2]]
        context.rate_limit.give_back(2 + 3 + 6 - 4)  # two texts and nine pairs, of which the bucket held four
        with pytest.raises(RateLimitError):
            context.rate_limit.take(1)
        context.rate_limit.give_back(1)
        context.rate_limit.take(1)
    finally:
        predictor.close()


def test_who_has_no_time_is_told_so_and_nothing_goes_on(pair: Bundle) -> None:
    predictor = Predictor(open_engine(pair))

    async def ask() -> None:
        with pytest.raises(DeadlineError):
            await predictor.predict(TEXTS, pair.task.parameters(), timeout_s=1e-9)
        with predictor.live_version() as version:
            assert version.in_flight == 1  # this one
            assert version.tagger is not None
            assert version.tagger.in_flight == 0

    try:
        asyncio.run(ask())
    finally:
        predictor.close()


def test_callers_who_leave_take_their_work_along_at_either_agent(pair: Bundle) -> None:
    predictor = Predictor(open_engine(pair))

    async def leave(turns: int) -> bool:
        asked = asyncio.create_task(predictor.predict(TEXTS, pair.task.parameters()))
        for _ in range(turns):
            await asyncio.sleep(0)
        asked.cancel()
        done = await asyncio.gather(asked, return_exceptions=True)
        with predictor.live_version() as version:
            assert version.tagger is not None
            assert (version.in_flight, version.tagger.in_flight) == (1, 0)
        assert predictor.load()["queued_s"] == 0
        return isinstance(done[0], asyncio.CancelledError)

    try:
        assert asyncio.run(leave(1))
        for turns in range(2, 9):
            asyncio.run(leave(turns))
    finally:
        predictor.close()


def test_another_version_is_compared_on_the_texts_that_callers_sent(pair: Bundle) -> None:
    predictor = Predictor(open_engine(pair), num_samples=8)
    try:
        asyncio.run(_predicted(predictor, [*TEXTS[:2], MARKED], RequestContext("one")))
        assert list(predictor.samples) == [*TEXTS[:2], MARKED]
        assert predictor.engine.labels(list(predictor.samples))[2] == "Employment(e1,e2)"
    finally:
        predictor.close()


def test_triples_are_not_drawn_to_learn_from(pair: Bundle) -> None:
    with pytest.raises(ConfigError, match="is set for an agent for relation extraction"):
        check_explorable(pair.task, ExploreConfig(epsilon=0.1))


def test_each_agent_of_a_server_has_a_tagger_of_its_own(relater: Path, tagger: Path) -> None:
    config = ServingConfig.model_validate(
        {
            "bundle": str(relater), "entities": str(tagger),
            "agents": {"plain": str(relater), "both": {"bundle": str(relater), "entities": str(tagger)}},
        }
    )  # fmt: skip
    found = {prefix: (app.bundle, app.entities) for prefix, app in config.apps.items()}
    both = str(relater), str(tagger)
    assert found == {"/": both, "/models/plain": (str(relater), ""), "/models/both": both}


def test_a_server_refuses_taggers_that_are_none_before_it_starts(relater: Path, tagger: Path) -> None:
    from serving.app import application
    from serving.ray_serve.app_config import AppConfig

    with pytest.raises(BundleError, match="is an agent of token_classification"):
        application(AppConfig(bundle=str(tagger), entities=str(tagger)))
    with pytest.raises(BundleError, match="has no ONNX graph of precision 'int8'"):
        application(AppConfig(bundle=str(relater), entities=str(tagger), precision="int8"))


def test_a_wrong_key_of_a_further_agent_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["bundle=x", "agents={both: {bundle: a, entitis: b}}"]
    assert cli.run(ServingConfig, lambda _: None, usage="", arguments=arguments) == 2
    assert "unknown key 'agents.both.entitis'" in capsys.readouterr().err


async def _predicted(predictor: Predictor, texts: list[str], context: RequestContext) -> Any:
    return await predictor.predict(texts, predictor.engine.bundle.task.parameters(), context=context)
