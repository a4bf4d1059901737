"""`python serving/annotate.py` on a real local Ray: every record once, also after a kill; what is refused before work starts."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
import uuid
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from agent.bundle import Bundle, write_bundle
from agent.config.base import load
from agent.errors import AgentError, ClusterError, ConfigError, DataError
from cluster import ClusterConfig, connect
from serving.annotation.annotation_job import AnnotateConfig, WorkersConfig, _num_workers, annotate, dry_run, prepare
from serving.inference.engine import Engine
from tests.serving.tiny import TEXTS

ROOT = Path(__file__).parents[3]
START_S = 150


@pytest.fixture(scope="module")
def ray_of_two_cores(no_ray: None) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:  # workers of Ray have the environment in which it was started
        for name, value in {"ACCESS_KEY_ID": "any", "SECRET_ACCESS_KEY": "any", "DEFAULT_REGION": "us-east-1"}.items():
            patch.setenv(f"AWS_{name}", value)
        connect(ClusterConfig(num_cpus=2, dashboard=False))
        yield


def config(bundle: Path, source: Path | str, output: Path | str, *more: str) -> AnnotateConfig:
    return load(AnnotateConfig, [f"bundle={bundle}", f"input={source}", f"output={output}", *more])


def write_jsonl(file: Path, count: int, first: int = 0) -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    lines = [json.dumps({"id": n, "text": f"{TEXTS[n % 4]} {n}"}) for n in range(first, first + count)]
    file.write_text("\n".join(lines) + "\n")
    return file


def annotated(output: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for file in sorted(output.glob("part-*.jsonl")) for line in file.read_text().splitlines()]


def manifest(output: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((output / "manifest.json").read_text())
    return found


def spans(answer: list[dict[str, Any]]) -> list[tuple[Any, ...]]:
    return [(item["entity_group"], item["start"], item["end"], item["word"]) for item in answer]


@pytest.mark.system
def test_a_directory_of_json_lines_is_annotated_in_order(
    ray_of_two_cores: None, tagger_path: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_jsonl(tmp_path / "in/a.jsonl", 300)
    write_jsonl(tmp_path / "in/below/b.jsonl", 200, first=300)
    (tmp_path / "in/_SUCCESS").touch()
    with (tmp_path / "in/below/b.jsonl").open("ab") as stream:
        stream.write(b'{"id": 500}\n{"id": 501, "text": "Malm\xf6"}\n')
    output = tmp_path / "out"
    annotate(config(tagger_path, tmp_path / "in", output, "shard_mb=0.005", "precision=fp32"))

    found = annotated(output)
    assert [record["id"] for record in found] == list(range(500))
    engine = Engine(Bundle.load(tagger_path), precision="fp32")
    expected = engine.predict([record["text"] for record in found])
    assert [spans(record["entities"]) for record in found] == [spans(answer) for answer in expected]
    assert any(record["entities"] for record in found)

    (aside,) = list((output / "rejected").iterdir())
    first, second = map(json.loads, aside.read_text().splitlines())
    assert (first["line"], first["reason"]) == (201, "field 'text' is missing")
    assert (second["line"], second["file"]) == (202, str(tmp_path / "in/below/b.jsonl"))

    finish, shards = manifest(output)["result"], manifest(output)["shards"]
    assert len(shards) > 5
    assert sorted(path.name for path in output.iterdir()) == sorted(
        ["manifest.json", "rejected", *(f"{shard['name']}.jsonl" for shard in shards)]
    )
    assert (finish["counts"]["records"], finish["counts"]["rejected"]) == (500, 2)
    labels = Counter(item["entity_group"] for record in found for item in record["entities"])
    assert finish["counts"]["answers"] == dict(labels)
    said = capsys.readouterr().out
    assert f"annotated 500 records, 2 set aside (why: rejected/ of {output})" in said
    assert "records/s" in said


@pytest.mark.system
def test_texts_become_json_lines_and_parameters_are_those_of_a_request(
    ray_of_two_cores: None, tagger_path: Path, tmp_path: Path
) -> None:
    (tmp_path / "a.txt").write_text("\n".join(TEXTS))
    annotate(
        config(tagger_path, tmp_path / "a.txt", tmp_path / "out", "parameters.aggregation_strategy=none", "field=found")
    )
    found = annotated(tmp_path / "out")
    assert [record["text"] for record in found] == TEXTS
    assert {"entity", "index", "score", "word", "start", "end"} == set(found[0]["found"][0])


@pytest.mark.system
def test_parquet_becomes_parquet_and_classes_are_labels(
    ray_of_two_cores: None, classifier_path: Path, tmp_path: Path
) -> None:
    source = pa.table({"id": range(400), "body": [f"{TEXTS[n % 4]} {n}" for n in range(400)]})
    pq.write_table(source, tmp_path / "a.parquet", row_group_size=150)
    options = ("text_field=body", "parameters.top_k=1", "shard_mb=0.003", "engine.sessions=2")
    annotate(config(classifier_path, tmp_path / "a.parquet", tmp_path / "out", *options))
    files = sorted((tmp_path / "out").glob("part-*.parquet"))
    assert len(files) > 2
    found = pa.concat_tables([pq.read_table(file) for file in files])
    assert found.drop_columns(["labels"]).equals(source)
    expected = Engine(Bundle.load(classifier_path)).predict(source.column("body").to_pylist()[:4])
    assert [row[0]["label"] for row in found.column("labels").to_pylist()[:4]] == [
        best[0]["label"] for best in expected
    ]


@pytest.mark.system
def test_a_finished_annotation_says_so_and_another_is_refused(
    ray_of_two_cores: None, tagger_path: Path, classifier_path: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source, output = write_jsonl(tmp_path / "a.jsonl", 20), tmp_path / "out"
    annotate(config(tagger_path, source, output))
    before = {file: file.stat().st_mtime_ns for file in output.iterdir()}
    capsys.readouterr()
    annotate(config(tagger_path, source, output, "workers.num=1", "engine.max_batch_tokens=64"))
    assert "is complete: 20 records" in capsys.readouterr().out
    assert {file: file.stat().st_mtime_ns for file in output.iterdir()} == before

    with pytest.raises(ConfigError, match=r"started with other settings: bundle=.*overwrite=true"):
        annotate(config(classifier_path, source, output, "field=entities"))
    with pytest.raises(ConfigError, match=r"parameters\.aggregation_strategy='simple' \(was 'first'\)"):
        annotate(config(tagger_path, source, output, "parameters.aggregation_strategy=simple"))
    write_jsonl(source, 30)
    with pytest.raises(ConfigError, match=r"input file .*a\.jsonl is changed"):
        annotate(config(tagger_path, source, output))
    annotate(config(tagger_path, source, output, "overwrite=true"))
    assert len(annotated(output)) == 30


@pytest.mark.faults
@pytest.mark.system
@pytest.mark.parametrize(
    ("agent", "count", "more"),
    [("tagger", 15_000, []), ("translator", 5_000, ["parameters.num_beams=1", "parameters.max_new_tokens=6"])],
)
def test_killed_in_the_middle_and_given_again_every_record_is_there_once(
    request: pytest.FixtureRequest, tmp_path: Path, agent: str, count: int, more: list[str]
) -> None:
    source, output = write_jsonl(tmp_path / "a.jsonl", count), tmp_path / "out"
    bundle: Path = request.getfixturevalue(f"{agent}_path")
    mark = f"bert-agent-{uuid.uuid4()}"
    command = [
        sys.executable, "serving/annotate.py", f"bundle={bundle}", f"input={source}", f"output={output}",
        "shard_mb=0.03", "cluster.num_cpus=2", "cluster.dashboard=false", *more,
    ]  # fmt: skip
    environment = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"}
    with (tmp_path / "log").open("wb") as log:
        process = subprocess.Popen(
            command, cwd=ROOT, env=environment | {"BERT_AGENT_TEST": mark}, stdout=log, stderr=log
        )
        try:
            deadline = time.monotonic() + START_S
            while len(list(output.glob("progress/part-*.json"))) < 3:
                assert process.poll() is None, (tmp_path / "log").read_text()
                assert time.monotonic() < deadline
                time.sleep(0.01)
        finally:
            kill_all(mark)
            process.wait(30)
    kill_all(mark)
    assert manifest(output)["result"] is None
    done = {
        file.stem: (output / f"{file.stem}.jsonl").stat().st_mtime_ns for file in output.glob("progress/part-*.json")
    }
    assert 3 <= len(done) < len(manifest(output)["shards"])

    (output / ".part-000099.jsonl.0123abc").write_text("what a killed writer leaves")

    again = subprocess.run(
        command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=START_S, check=False
    )
    assert again.returncode == 0, again.stderr
    assert f"resuming: {len(done)} of {len(manifest(output)['shards'])} shards are done" in again.stdout
    assert [record["id"] for record in annotated(output)] == list(range(count))
    assert manifest(output)["result"]["counts"]["records"] == count
    assert {name: (output / f"{name}.jsonl").stat().st_mtime_ns for name in done} == done
    assert not [file for file in output.rglob("*") if file.name.startswith(".")]


def kill_all(mark: str) -> None:
    """SIGKILL to everything that carries a mark in its environment: the driver, Ray and all workers."""
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            if mark.encode() in (entry / "environ").read_bytes():
                os.kill(int(entry.name), signal.SIGKILL)
        except OSError:
            continue


@pytest.mark.system
def test_the_same_from_s3_to_s3(ray_of_two_cores: None, tagger_path: Path, tmp_path: Path, s3: str) -> None:
    from pyarrow.fs import FileSelector, FileSystem, FileType

    filesystem, root = FileSystem.from_uri(f"s3://bucket/{uuid.uuid4()}{s3}")
    local = write_jsonl(tmp_path / "a.jsonl", 200)
    with filesystem.open_output_stream(f"{root}/in/a.jsonl") as stream:
        stream.write(local.read_bytes() + b"{\n")
    given = config(tagger_path, f"s3://{root}/in{s3}", f"s3://{root}/out{s3}", "shard_mb=0.005")
    annotate(given)
    annotate(given)  # finished: says so
    paths = sorted(
        info.path.removeprefix(f"{root}/out/")
        for info in filesystem.get_file_info(FileSelector(f"{root}/out", recursive=True))
        if info.type == FileType.File
    )
    parts = [path for path in paths if path.startswith("part-")]
    assert paths == ["manifest.json", *parts, f"rejected/{parts[-1]}"]
    found = []
    for path in parts:
        with filesystem.open_input_stream(f"{root}/out/{path}") as stream:
            found += [json.loads(line)["id"] for line in stream.read().splitlines()]
    assert found == list(range(200))


@pytest.mark.system
def test_an_error_on_a_worker_is_told_as_any_other_and_what_is_done_stands(
    ray_of_two_cores: None, tagger_path: Path, tmp_path: Path
) -> None:
    source = tmp_path / "a.parquet"
    pq.write_table(pa.table({"text": TEXTS * 50}), source, compression="none", use_dictionary=False)
    raw = bytearray(source.read_bytes())
    raw[4:40] = b"\0" * 36  # the header of the first page
    source.write_bytes(raw)
    with pytest.raises(DataError, match=r"a\.parquet cannot be read as Parquet.*take it away"):
        annotate(config(tagger_path, source, tmp_path / "out"))
    assert manifest(tmp_path / "out")["result"] is None


def test_an_annotation_of_nothing_is_no_success(tagger_path: Path, tmp_path: Path) -> None:
    (tmp_path / "empty.jsonl").write_text("\n")
    for _ in range(2):  # finished, and asked again
        with pytest.raises(DataError, match=r"nothing was annotated: .*empty\.jsonl holds no records"):
            annotate(config(tagger_path, tmp_path / "empty.jsonl", tmp_path / "out"))


@pytest.mark.system
def test_an_annotation_of_which_all_was_set_aside_is_no_success(
    ray_of_two_cores: None, tagger_path: Path, tmp_path: Path
) -> None:
    (tmp_path / "a.jsonl").write_text('{"body": "Anna"}\n' * 3)
    with pytest.raises(DataError, match=r"all 3 records of .*a\.jsonl were set aside.*text_field="):
        annotate(config(tagger_path, tmp_path / "a.jsonl", tmp_path / "out"))
    assert manifest(tmp_path / "out")["result"]["counts"]["rejected"] == 3


def test_a_dry_run_counts_and_leaves_nothing(
    tagger_path: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = write_jsonl(tmp_path / "a.jsonl", 100)
    dry_run(config(tagger_path, source, tmp_path / "out", "shard_mb=0.001"))
    assert "1 jsonl file(s) with 100 lines would be annotated in" in capsys.readouterr().out
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("files", "options", "message"),
    [
        ([], [], "does not exist"),
        (["in/.hidden"], [], "holds no files"),
        (["in/a.csv"], [], r"a\.csv is of no known format.*\.jsonl, \.txt, \.parquet.*format=jsonl"),
        (["in/a.jsonl", "in/b.txt"], [], r"several formats \(jsonl, text\)"),
        (["in/a.txt"], ["output={root}/in/out"], "lies in the input"),
        (["in/a.txt", "out/x"], [], r"exists and holds other things \(x\)"),
        (["in/a.txt", "out/x"], ["overwrite=true"], r"exists and holds other things \(x\)"),
        (["in/a.txt", "out"], [], "output .*out cannot be used"),
        (["in/a.txt", "out/manifest.json"], [], r"manifest\.json of output .* is damaged"),
        (["in/a.txt"], ["parameters.aggregation_strategy=best"], r"parameters\.aggregation_strategy='best'"),
        (["in/a.txt"], ["parameters.top_k=1"], r"parameters\.top_k=1.*aggregation_strategy, ignore_labels"),
        (["in/a.txt"], ["text_field=entities"], "is where the answer goes"),
        (["in/a.txt"], ["field=text"], "is where the answer goes"),
        (["in/a.txt"], ["bundle=/nowhere"], "/nowhere is no bundle"),
        (["in/a.txt"], ["precision=fp16"], "no ONNX graph of precision 'fp16'"),
        (["in/a.txt"], ["input=nope://x"], "nope://x cannot be read"),
    ],
)
def test_what_cannot_be_done_is_refused_before_anything_starts(
    tagger_path: Path, tmp_path: Path, files: list[str], options: list[str], message: str
) -> None:
    import ray

    for name in files:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("text")
    running = ray.is_initialized()
    given = [option.format(root=tmp_path) for option in options]
    with pytest.raises(AgentError, match=message):
        annotate(config(tagger_path, tmp_path / "in", tmp_path / "out", *given))
    assert ray.is_initialized() == running


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["input=a", "output=b"], "'bundle' is required"),
        (["bundle=x", "input=a", "output=b", "shard_mb=0"], "shard_mb is 0"),
        (["bundle=x", "input=a", "output=b", "text_field=body", "field=body"], "the answer needs a field of its own"),
        (["bundle=x", "input=a", "output=b", "workers.num=0"], "num is 0"),
        (["bundle=x", "input=a", "output=b", "engine.max_wait_s=1"], "unknown key 'engine.max_wait_s'"),
    ],
)
def test_a_mistaken_key_is_named(arguments: list[str], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        load(AnnotateConfig, arguments)


def test_a_format_that_is_given_holds_for_all_files(tagger_path: Path, tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in/a.log").write_text("text")
    (tmp_path / "in/b.txt").write_text("text")
    spec = prepare(config(tagger_path, tmp_path / "in", tmp_path / "out", "format=text")).spec
    assert (spec.format, len(spec.files), spec.field) == ("text", 2, "entities")


@pytest.mark.parametrize(
    ("option", "precision"),
    [("workers.num_gpus=0", "int8"), ("workers.num_gpus=1", "fp32"), ("engine.provider=cuda", "fp32"), ("precision=int8", "int8")],
)  # fmt: skip
def test_the_graph_is_the_one_for_the_hardware_of_the_workers(
    tagger_path: Path, tmp_path: Path, option: str, precision: str
) -> None:
    with write_bundle(tmp_path / "bundle") as draft:
        shutil.copytree(tagger_path, draft.path, dirs_exist_ok=True)
        (draft.path / "bundle.json").unlink()
        manifest = Bundle.load(tagger_path).manifest
        where = {"fp32": ("cuda", "tensorrt"), "int8": ("cpu",)}
        graphs = [graph.model_copy(update={"hardware": where[graph.precision]}) for graph in manifest.onnx]
        draft.publish(manifest.model_copy(update={"onnx": tuple(graphs)}))
    source = write_jsonl(tmp_path / "in.jsonl", 1)
    assert prepare(config(tmp_path / "bundle", source, tmp_path / "out", option)).spec.precision == precision


def test_workers_are_as_many_as_nodes_have_room_for() -> None:
    nodes = [{"CPU": 4.0, "GPU": 1.0}, {"CPU": 3.0}]
    assert _num_workers(WorkersConfig(), nodes, 100) == 7
    assert _num_workers(WorkersConfig(num_cpus=2), nodes, 100) == 3
    assert _num_workers(WorkersConfig(num_cpus=2, num_gpus=0.5), nodes, 100) == 2
    assert _num_workers(WorkersConfig(), nodes, 2) == 2
    for impossible in (WorkersConfig(num=8), WorkersConfig(num_cpus=5)):
        with pytest.raises(ClusterError, match=r"worker\(s\) of . core\(s\).*room for"):
            _num_workers(impossible, nodes, 100)
