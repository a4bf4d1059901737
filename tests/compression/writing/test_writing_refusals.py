"""What is refused of agents that write, and of steps for them: by name, before work starts, with what to give instead."""

from __future__ import annotations

from pathlib import Path
from typing import Any, get_args

import pytest
import torch

from agent.bundle import Bundle
from agent.config import cli
from agent.config.base import from_mapping
from agent.encoding import Encoder
from agent.errors import BundleError, ConfigError, ExportError
from agent.generation.ctranslate2_conversion import convert
from agent.tasks import SequenceToSequence
from compression.encoder.torch_model import load_directory, load_model
from compression.pipeline.pipeline_inputs import CompressionConfig
from compression.run import USAGE, main
from compression.steps import Step
from compression.tuning.compression_search import CompressionSearchConfig
from compression.tuning.search_runner import search
from compression.writing.conversion_check import require_same_scores
from compression.writing.converted_writers import open_converted
from compression.writing.measured_writer import decodes, encode_written
from compression.writing.torch_writer import TorchWriter
from tests.compression.writing.test_writing_compression import examples_of, run
from tests.tiny_writers import END, make_word_tokenizer, make_writer, publish_writer, written_records

OTHERS = [kind.model_fields["kind"].default for kind in get_args(get_args(Step)[0]) if kind.for_writers is False]
OPTIONS: dict[str, dict[str, Any]] = {"shrink": {"layers": 1}}


@pytest.mark.parametrize("kind", ["sequence_to_sequence", "text_generation"])
@pytest.mark.parametrize("step", OTHERS)
def test_steps_for_graphs_refuse_agents_that_write(step: str, kind: str, tmp_path: Path) -> None:
    place = publish_writer(tmp_path / "agent", kind)
    after_export = step in ("quantize", "cascade")
    steps = [*(["export"] if after_export else []), {"kind": step, **OPTIONS.get(step, {})}]
    named = "export" if after_export else step
    with pytest.raises(ConfigError, match=rf"step {named} is not for agents of {kind}.*steps=\[convert,verify\]"):
        run(place, tmp_path / "out", steps)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["agent"]


def test_conversion_refuses_agents_that_do_not_write(tagger: Path, tmp_path: Path) -> None:
    with pytest.raises(
        ConfigError, match=r"step convert is for agents that write .* one of token_classification.*export"
    ):
        run(tagger, tmp_path / "out", ["convert"])


@pytest.mark.parametrize(
    ("keys", "told"),
    [
        ({"preset": "fast"}, r"preset=fast: .* of text_generation, which writes.*no preset: steps=\[convert,verify\]"),
        ({"preset": "small"}, r"preset=small: .*steps=\[convert,verify\]"),
        ({"steps": []}, r"without convert nothing could be served"),
        ({"steps": ["distill_texts"]}, r"distill_texts.*without convert nothing could be served"),
        ({"measure": "full"}, r"measure=full .*Allowed: measure=none"),
        ({"gate": {"after_each": True}}, r"gate.after_each=True"),
    ],
)
def test_what_makes_no_sense_of_them_is_refused(keys: dict[str, Any], told: str, tmp_path: Path) -> None:
    place = publish_writer(tmp_path / "agent", "text_generation")
    with pytest.raises(ConfigError, match=told):
        run(place, tmp_path / "out", **keys)


@pytest.mark.parametrize("precisions", [[], ["int8", "int8"], ["int4"]])
def test_precisions_are_known_ones_each_once(precisions: list[str]) -> None:
    steps = [{"kind": "convert", "precisions": precisions}, "verify"]
    with pytest.raises(ConfigError, match="precisions"):
        from_mapping(CompressionConfig, {"bundle": "a", "output": "b", "steps": steps})


def test_a_search_refuses_them(tmp_path: Path) -> None:
    place = publish_writer(tmp_path / "agent", "text_generation")
    config = from_mapping(CompressionSearchConfig, {"bundle": str(place), "output": str(tmp_path / "out")})
    with pytest.raises(ConfigError, match=r"of text_generation, which writes texts.*compression/run\.py"):
        search(config)


def test_what_was_converted_is_not_converted_again(talker: Path, tmp_path: Path) -> None:
    run(talker, tmp_path / "out", ["convert"])
    with pytest.raises(BundleError, match=r"out is compressed already \(it holds ctranslate2-int8\)"):
        run(tmp_path / "out", tmp_path / "again", ["convert"])


@pytest.mark.parametrize("agent", ["translator", "talker"])
def test_a_conversion_of_other_weights_is_refused_with_the_largest_difference(
    agent: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    bundle = Bundle.load(request.getfixturevalue(agent))
    encoder, network = bundle.encoder, load_model(bundle)
    convert(bundle.path, tmp_path / "converted", encoder.tokenizer, END)
    converted = open_converted(tmp_path / "converted", encoder, decodes=decodes(bundle.task), threads=1)
    documents = encode_written(bundle.task, encoder, examples_of(bundle, "dev"))
    assert require_same_scores(converted, TorchWriter(network, encoder), documents, 1e-3) < 1e-4
    with torch.no_grad():
        network.get_input_embeddings().weight.mul_(0.7)
    with pytest.raises(ExportError, match=r"differs from PyTorch by \d.*log-probability of '.*sub-word \d.*1\.0e-03"):
        require_same_scores(converted, TorchWriter(network, encoder), documents, 1e-3)
    with torch.no_grad():
        network.get_input_embeddings().weight.fill_(torch.nan)
    with pytest.raises(ExportError, match="differs from PyTorch by inf"):
        require_same_scores(converted, TorchWriter(network, encoder), documents, 1e-3)


def test_what_the_converter_itself_makes_of_a_newer_t5_is_refused(tmp_path: Path) -> None:
    """It divides the logits, which greedy texts do not show (findings/ctranslate2_t5_output_scale.sh)."""
    from ctranslate2.converters import TransformersConverter

    place = make_writer(tmp_path / "model", "t5", feed_forward_proj="gated-gelu", tie_word_embeddings=False)
    TransformersConverter(str(place)).convert(str(tmp_path / "stock"))
    task, encoder = SequenceToSequence(), Encoder(make_word_tokenizer(ends=True), max_tokens=64, stride=8)
    convert(place, tmp_path / "ours", encoder.tokenizer, END)
    documents = encode_written(task, encoder, [task.read_record(record, "f:1") for record in written_records(8)])
    original = TorchWriter(load_directory(place, task.architecture), encoder)
    stock, ours = (open_converted(tmp_path / name, encoder, decodes=True, threads=1) for name in ("stock", "ours"))
    assert require_same_scores(ours, original, documents, 1e-3) < 1e-4
    with pytest.raises(ExportError, match="differs from PyTorch"):
        require_same_scores(stock, original, documents, 1e-3)


def test_a_difference_beyond_the_tolerance_publishes_nothing(talker: Path, tmp_path: Path) -> None:
    with pytest.raises(ExportError, match=r"at most 1\.0e-12 \(convert\.tolerance\)"):
        run(talker, tmp_path / "out", [{"kind": "convert", "tolerance": 1e-12}])
    assert list(tmp_path.iterdir()) == []


def test_help_tells_of_conversion(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run(CompressionConfig, main, usage=USAGE, arguments=["--help"]) == 0
    told = capsys.readouterr().out
    assert "steps=[convert,verify]" in told
    assert "steps[].precisions=[fp32, int8]" in told
