"""Agents that write are converted, measured, judged and published, and write afterwards what transformers writes."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest
import transformers

from agent.bundle import Bundle
from agent.config.base import from_mapping
from agent.data import DataConfig, load_splits
from agent.errors import GateError
from agent.generation.text_writer import TextWriter
from agent.tasks import Report
from compression.encoder.torch_model import load_model
from compression.pipeline.gate import Gate
from compression.pipeline.pipeline import compress
from compression.pipeline.pipeline_inputs import CompressionConfig, prepare
from compression.reporting.compression_report import CompressionReport, Measurement
from compression.reporting.report_files import terminal_table
from compression.writing.converted_writers import open_converted
from compression.writing.measured_writer import WritingLimit, decodes, encode_written
from compression.writing.torch_writer import TorchWriter
from tests.tiny_writers import END

QUICK: dict[str, Any] = {"kind": "verify", "rounds": 1}


def run(bundle: Path, output: Path, steps: list[Any] | None = None, **keys: Any) -> CompressionReport:
    tree = {"bundle": str(bundle), "output": str(output), "threads": 1}
    tree |= {"steps": [*steps, QUICK]} if steps is not None else {}
    return compress(from_mapping(CompressionConfig, tree | keys))


def examples_of(bundle: Bundle, split: str = "test") -> Any:
    return getattr(load_splits(DataConfig(**bundle.manifest.lineage.config["data"]), bundle.task), split)


def digests(directory: Path) -> dict[str, str]:
    files = [file for file in sorted(directory.rglob("*")) if file.is_file()]
    return {str(file.relative_to(directory)): hashlib.sha256(file.read_bytes()).hexdigest() for file in files}


@pytest.mark.parametrize("agent", ["translator", "talker"])
def test_both_tasks_come_out_in_both_precisions_measured_and_judged(
    agent: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    parent = request.getfixturevalue(agent)
    before = digests(parent)
    report = run(parent, tmp_path / "out")
    bundle, original = Bundle.load(tmp_path / "out"), Bundle.load(parent)
    assert digests(parent) == before
    assert [variant.directory for variant in bundle.manifest.converted] == ["ctranslate2-fp32", "ctranslate2-int8"]
    assert bundle.variant() == bundle.converted_variant("int8")
    assert (bundle.task, bundle.manifest.max_tokens) == (original.task, original.manifest.max_tokens)
    assert bundle.manifest.lineage.parent_digest == original.digest
    torch, fp32, int8 = report.model_rows
    assert [row.name for row in report.model_rows] == ["original, PyTorch", "CTranslate2 fp32", "CTranslate2 int8"]
    assert int8.size_bytes < 0.36 * fp32.size_bytes  # a quarter, and scales, biases and positions in float32
    assert torch.quality == fp32.quality
    assert torch.score > 0.95
    assert report.verdict.passed
    for row in report.model_rows:
        assert [speed.num_texts for speed in row.writing.values()] == [6, 6]
        assert all(
            0 < speed.slowest_tokens_per_s <= speed.tokens_per_s <= speed.fastest_tokens_per_s
            for speed in row.writing.values()
        )
    measured = {one.model: one.report.value for one in bundle.manifest.evaluations}
    assert measured == {"model.safetensors": fp32.score, "ctranslate2-fp32": fp32.score, "ctranslate2-int8": int8.score}
    assert transformers.AutoTokenizer.from_pretrained(bundle.path).chat_template == (
        transformers.AutoTokenizer.from_pretrained(parent).chat_template
    )
    page, tree = (tmp_path / "out/report.md").read_text(), json.loads((tmp_path / "out/report.json").read_text())
    assert tree["passed"]
    assert list(tree["model_rows"][2]["writing"]) == ["1", "6"]
    table = terminal_table(report)
    for text in (table, page):
        assert "CTranslate2 int8" in text
        assert "tokens/s, 1 text" in text
        assert report.verdict.score_name in text
    assert "1.00x" in table
    assert [note.partition(":")[0] for note in report.notes] == ["convert", "verify", "drift"]


def test_what_was_compressed_writes_what_transformers_writes_with_it(translator: Path, tmp_path: Path) -> None:
    run(translator, tmp_path / "out", ["convert"])
    bundle = Bundle.load(tmp_path / "out")
    tokenizer = transformers.AutoTokenizer.from_pretrained(bundle.path)
    model = transformers.AutoModelForSeq2SeqLM.from_pretrained(bundle.path)
    documents = encode_written(bundle.task, bundle.encoder, examples_of(Bundle.load(translator)))
    theirs = [
        tokenizer.decode(model.generate(**tokenizer(one.text, return_tensors="pt"))[0], skip_special_tokens=True)
        for one in documents
    ]
    assert len(set(theirs)) == len(theirs)
    for precision in ("fp32", "int8"):
        directory = bundle.path / bundle.converted_variant(precision).directory
        writer = TextWriter(directory, bundle.encoder.tokenizer, END)
        assert writer.write([one.given for one in documents], num_beams=4, max_new_tokens=64) == theirs


@pytest.mark.parametrize("agent", ["translator", "talker"])
@pytest.mark.parametrize("exact", [True, False])
def test_transformers_and_ctranslate2_write_the_same_sub_words_where_they_are_timed(
    agent: str, exact: bool, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    parent = Bundle.load(request.getfixturevalue(agent))
    decoded = decodes(parent.task)
    if exact and decoded:
        pytest.skip("an encoder's decoder ends its texts")
    run(parent.path, tmp_path / "out", ["convert"])
    documents = encode_written(parent.task, parent.encoder, examples_of(parent))
    converted = open_converted(tmp_path / "out/ctranslate2-fp32", parent.encoder, decodes=decoded, threads=1)
    limit = WritingLimit(4 if decoded else 1, 12, exact=exact)
    rows = converted.write(documents, limit)
    assert rows == TorchWriter(load_model(parent), parent.encoder).write(documents, limit)
    if exact:
        assert {len(row) for row in rows} == {12}
    elif not decoded:
        said = [parent.encoder.tokenizer.decode(row) for row in rows]
        assert said == [example.target for example in examples_of(parent)]


@pytest.mark.parametrize("precision", ["fp32", "int8"])
def test_one_precision_alone_is_published_beside_the_measurements_of_float32(
    translator: Path, tmp_path: Path, precision: str
) -> None:
    report = run(translator, tmp_path / "out", [{"kind": "convert", "precisions": [precision]}])
    bundle = Bundle.load(tmp_path / "out")
    assert [variant.precision for variant in bundle.manifest.converted] == [precision]
    assert [path.name for path in bundle.path.iterdir() if path.is_dir()] == [f"ctranslate2-{precision}"]
    rows = {row.precision: row for row in report.model_rows[1:]}
    assert set(rows) == {"fp32", precision}
    assert [row.precision for row in rows.values() if row.published] == [precision]


def test_the_gate_refuses_int8_by_its_score_and_the_same_command_goes_on_with_a_lower_one(
    talker: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(
        GateError,
        match=r"refuses CTranslate2 int8: inverse perplexity 0\.\d+ is .* gate\.max_score_lost=0.* precisions: \[fp32\]",
    ):
        run(talker, tmp_path / "out", ["convert"], gate={"max_score_lost": 0.0})
    assert not (tmp_path / "out").exists()
    assert "NOT passed, nothing published: CTranslate2 int8" in (tmp_path / "out.report.md").read_text()
    run(talker, tmp_path / "other", [{"kind": "convert", "precisions": ["fp32"]}], gate={"max_score_lost": 0.0})
    capfd.readouterr()
    run(talker, tmp_path / "out", ["convert"])
    assert "finished steps: convert, verify" in capfd.readouterr().out
    bundle = Bundle.load(tmp_path / "out")
    assert [variant.precision for variant in bundle.manifest.converted] == ["fp32", "int8"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["other", "out"]


def test_the_same_command_writes_the_same_files(translator: Path, tmp_path: Path) -> None:
    for name in ("one", "two"):
        run(translator, tmp_path / name, ["convert"])
    one, two = digests(tmp_path / "one"), digests(tmp_path / "two")
    varying = {"bundle.json", "report.json", "report.md", "report.svg"}  # speeds
    assert {name: one[name] for name in one.keys() - varying} == {name: two[name] for name in two.keys() - varying}
    assert "ctranslate2-int8/model.bin" in one


@pytest.mark.parametrize(
    ("given", "bounds"),
    [
        ({}, (0.0, 0.003)),
        ({"margin": 0.1}, (0.0, 0.003)),
        ({"max_score_lost": 0.01}, (0.0, 0.01)),
        ({"min_score_kept": 0.9}, (0.9, None)),
        ({"min_score_kept": 0.9, "max_score_lost": 0.01}, (0.9, 0.01)),
    ],
)
def test_points_of_generated_texts_may_be_lost_and_parts_of_other_scores(
    given: dict[str, float], bounds: tuple[float, float | None], translator: Path, talker: Path
) -> None:
    tree = {"output": "nowhere", "gate": given}
    gates = [
        prepare(from_mapping(CompressionConfig, {**tree, "bundle": str(one)})).config.gate
        for one in (translator, talker)
    ]
    assert (gates[0].min_score_kept, gates[0].max_score_lost) == bounds
    assert (gates[1].min_score_kept, gates[1].max_score_lost) == (
        given.get("min_score_kept", 0.99),
        given.get("max_score_lost"),
    )


@pytest.mark.parametrize(("int8", "passed"), [(0.0420, True), (0.0410, False)])
def test_three_tenths_of_a_point_are_the_same_whatever_the_score(int8: float, passed: bool) -> None:
    def row(name: str, score: float) -> Measurement:
        quality = Report(metrics={"bleu": score}, primary="bleu", support=1, text="", mode="")
        return Measurement(
            name=name, file=name, precision="fp32", size_bytes=1, parameters=1, quality=quality, published=True
        )

    gate = Gate().for_generated_texts()
    verdict = gate.judge(row("original", 0.0446), [row("fp32", 0.0446), row("int8", int8)])
    assert (verdict.model, verdict.passed) == ("int8", passed)
    if not passed:
        with pytest.raises(GateError, match=r"Allowed: gate\.max_score_lost=0\.003\. Remedy: leave int8 out"):
            gate.require(verdict, "report.md", writes=True)
