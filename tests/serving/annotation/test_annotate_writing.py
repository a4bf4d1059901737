"""A corpus annotated by agents that write: each record's text once and in order, as a server writes it, whatever interrupts the job."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from agent.bundle import Bundle
from agent.config.base import load
from agent.errors import AgentError, BundleError
from agent.tasks import SequenceToSequence
from serving.annotation.annotation_job import AnnotateConfig, _start, annotate, dry_run, prepare
from serving.annotation.annotator import Annotator, AnnotatorTask, ShardResult
from serving.inference.engine import EngineConfig
from serving.inference.engine_choice import open_engine
from tests.tiny_writers import publish_writer, written_records

LONG = "anna " * 70


def config(bundle: Path, source: Path, output: Path, *more: str) -> AnnotateConfig:
    return load(AnnotateConfig, [f"bundle={bundle}", f"input={source}", f"output={output}", *more])


def write_corpus(file: Path, count: int) -> list[dict[str, Any]]:
    rows = [{"id": number, "text": row["text"]} for number, row in enumerate(written_records(count, lengths=(1, 9)))]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return rows


def annotated(output: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for file in sorted(output.glob("part-*.jsonl")) for line in file.read_text().splitlines()]


def counts_of(output: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((output / "manifest.json").read_text())["result"]["counts"]
    return found


@pytest.mark.system
def test_a_corpus_is_translated_as_a_server_would_and_what_cannot_be_is_set_aside(
    local_ray: None, translator_path: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = write_corpus(tmp_path / "a.jsonl", 120)
    with (tmp_path / "a.jsonl").open("a") as stream:
        for text in (LONG, " "):
            stream.write(json.dumps({"text": text}) + "\n")
    output = tmp_path / "out"
    options = ("parameters.num_beams=2", "parameters.max_new_tokens=7", "shard_mb=0.002", "precision=fp32")
    annotate(config(translator_path, tmp_path / "a.jsonl", output, *options, "engine.writing.max_batch_tokens=96"))

    engine = open_engine(Bundle.load(translator_path), precision="fp32")
    parameters = engine.task.parameters(num_beams=2, max_new_tokens=7)
    alone = [engine.predict([row["text"]], parameters)[0][0]["translation_text"] for row in rows]
    assert annotated(output) == [row | {"translation_text": text} for row, text in zip(rows, alone, strict=True)]
    assert len(set(alone)) > 10

    reasons = [json.loads(line)["reason"] for file in sorted((output / "rejected").iterdir()) for line in file.open()]
    assert reasons == [
        "the text has 71 tokens, and nothing is cut off; allowed: at most 64",
        "the text is empty",
    ]
    counts, jobs = counts_of(output), engine.encode([row["text"] for row in rows], parameters)
    assert (counts["records"], counts["rejected"]) == (120, 2)
    assert counts["tokens"] == sum(len(job.given) for job in jobs)
    assert 120 < counts["written"] <= 7 * 120
    said = capsys.readouterr().out
    assert (
        f"annotated 120 records, 2 set aside (why: rejected/ of {output}); {counts['written']:,} tokens written; "
        in said
    )
    assert "records/s, " in said
    assert "written tokens/s" in said


@pytest.mark.system
def test_an_interrupted_translation_goes_on_where_it_was(
    local_ray: None, talker_path: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows, output = write_corpus(tmp_path / "a.jsonl", 100), tmp_path / "out"
    given = config(talker_path, tmp_path / "a.jsonl", output, "shard_mb=0.001", "parameters.max_new_tokens=5")
    job = prepare(given)
    manifest = _start(given, job)
    task = AnnotatorTask(
        manifest=manifest, bundle=str(talker_path), entities="", output=job.ledger.place.url, fields=job.fields,
        parameters=job.parameters, engine=EngineConfig(warmup=False), num_cpus=1,
    )  # fmt: skip
    worker = Annotator(task)  # what a worker runs, which is gone after two shards
    for number in (0, 2):
        assert isinstance(worker._attempt(number), ShardResult)
    done = {file: file.stat().st_mtime_ns for file in output.glob("part-*.jsonl")}
    assert len(done) == 2 < len(manifest.shards)
    with pytest.raises(AgentError, match=r"parameters\.max_new_tokens=6 \(was 5\)"):
        annotate(config(talker_path, tmp_path / "a.jsonl", output, "shard_mb=0.001", "parameters.max_new_tokens=6"))

    annotate(given)
    assert f"resuming: 2 of {len(manifest.shards)} shards are done" in capsys.readouterr().out
    assert [record["id"] for record in annotated(output)] == list(range(100))
    assert {file: file.stat().st_mtime_ns for file in done} == done
    engine = open_engine(Bundle.load(talker_path))
    wanted = engine.predict([row["text"] for row in rows], engine.task.parameters(max_new_tokens=5))
    assert [record["generated_text"] for record in annotated(output)] == [
        answer[0]["generated_text"] for answer in wanted
    ]
    annotate(given)
    assert f"is complete: 100 records; {counts_of(output)['written']:,} tokens written." in capsys.readouterr().out


@pytest.mark.system
def test_parquet_has_the_texts_as_a_column_and_is_training_data(
    local_ray: None, translator_path: Path, tmp_path: Path
) -> None:
    texts = [row["text"] for row in written_records(60)]
    source = pa.table({"id": range(60), "text": texts})
    pq.write_table(source, tmp_path / "a.parquet", row_group_size=20)
    annotate(config(translator_path, tmp_path / "a.parquet", tmp_path / "out", "field=target", "shard_mb=0.0004"))
    files = sorted((tmp_path / "out").glob("part-*.parquet"))
    assert len(files) > 2
    found = pa.concat_tables([pq.read_table(file) for file in files])
    assert found.schema.field("target").type == pa.string()
    assert found.drop_columns(["target"]).equals(source)
    engine = open_engine(Bundle.load(translator_path))
    targets = found.column("target").to_pylist()
    assert targets == engine.labels(texts)
    learned = [SequenceToSequence().read_record(row, "here") for row in found.to_pylist() if row["target"].strip()]
    assert [(one.text, one.target) for one in learned] == [
        pair for pair in zip(texts, targets, strict=True) if pair[1].strip()
    ]


@pytest.mark.parametrize(
    ("agent", "option", "message"),
    [
        ("translator", "parameters.max_new_tokens=65", r"max_new_tokens is 65, more than .*Allowed: at most 64"),
        ("translator", "parameters.generate_parameters.max_new_tokens=65", r"max_new_tokens is 65, more than"),
        ("talker", "parameters.max_new_tokens=64", r"max_new_tokens is 64, more than .*Allowed: at most 63"),
        (
            "talker",
            "parameters.details=true",
            r"parameters\.details is true, and an annotated record holds the text alone",
        ),
        ("talker", "parameters.num_beams=17", r"parameters\.num_beams=17"),
        ("talker", "parameters.length_penalty=2.0", r"length_penalty has a meaning only with beams.*num_beams 2 to 16"),
        ("talker", "parameters.grammar=x", r"parameters\.grammar"),
        ("talker", "precision=fp16", r"no converted model of precision 'fp16'"),
        ("talker", "engine.writing.slice_steps=3", r"unknown key 'engine\.writing\.slice_steps'"),
    ],
)
def test_what_cannot_be_written_is_refused_before_anything_starts(
    request: pytest.FixtureRequest, tmp_path: Path, agent: str, option: str, message: str
) -> None:
    write_corpus(tmp_path / "a.jsonl", 1)
    with pytest.raises(AgentError, match=message):
        annotate(config(request.getfixturevalue(f"{agent}_path"), tmp_path / "a.jsonl", tmp_path / "out", option))
    assert not (tmp_path / "out").exists()


def test_a_text_that_leaves_no_room_is_set_aside_and_others_are_written(talker_path: Path) -> None:
    engine = open_engine(Bundle.load(talker_path), num_cpus=1)
    parameters = engine.task.parameters(max_new_tokens=60)
    assert [engine.refusal_of(text, parameters) for text in ("anna", "anna met", "anna met in oslo to")] == [
        "", "", "parameters.max_new_tokens is 60, more than the model has room for; allowed: at most 59 for this text"
    ]  # fmt: skip


def test_an_agent_without_converted_models_is_refused_and_a_dry_run_counts(
    translator_path: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_corpus(tmp_path / "a.jsonl", 40)
    bare = publish_writer(tmp_path / "bare", "text_generation")
    with pytest.raises(BundleError, match=r"has no converted model of precision 'auto'.*Remedy: "):
        annotate(config(bare, tmp_path / "a.jsonl", tmp_path / "out"))
    dry_run(config(translator_path, tmp_path / "a.jsonl", tmp_path / "out", "shard_mb=0.001"))
    said = capsys.readouterr().out
    assert "with 40 lines would be annotated in " in said
    assert "the answers in the field 'translation_text'" in said
    assert prepare(config(translator_path, tmp_path / "a.jsonl", tmp_path / "x")).spec.precision == "int8"
