"""A student with fewer decoder layers is taught the texts that its teacher writes."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers

from agent.bundle import Bundle
from agent.data import DataConfig, load_splits
from agent.errors import ConfigError
from compression.distillation.sequence_level import decoder_depth, with_fewer_layers, write_teachers_texts
from compression.encoder.torch_model import load_directory, load_model
from compression.state.pipeline_state import PipelineState
from compression.steps.distill_texts import DistillTextsStep
from tests.commands import commands_run_here
from tests.compression.writing.test_writing_compression import run
from tests.compression.writing.written_agents import writer_bundle
from tests.tiny_writers import make_writer, publish_writer

DEPTHS = {"pegasus": "decoder_layers", "bart": "decoder_layers", "t5": "num_decoder_layers"}


@pytest.fixture(scope="module")
def teacher(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return writer_bundle(tmp_path_factory.mktemp("teacher"), "sequence_to_sequence")


def state_of(bundle: Path, work_directory: Path) -> PipelineState:
    """A run at its beginning."""
    loaded, model = Bundle.load(bundle), load_model(Bundle.load(bundle))
    data = DataConfig(path=str(bundle.parent / "data"))
    return PipelineState(
        bundle=loaded, data=data, splits=load_splits(data, loaded.task), directory=bundle, work_directory=work_directory,
        original=model, model=copy.deepcopy(model), encoder=loaded.encoder, steps=(), threads=1, seed=0,
    )  # fmt: skip


@pytest.mark.parametrize("family", DEPTHS)
@pytest.mark.parametrize(("stay", "kept"), [(1, [0]), (2, [0, 3]), (3, [0, 2, 3]), (4, [0, 1, 2, 3])])
def test_the_layers_that_stay_are_the_teachers_evenly_spaced(
    family: str, stay: int, kept: list[int], tmp_path: Path
) -> None:
    place = make_writer(tmp_path / "model", family, **{DEPTHS[family]: 4})
    model: Any = load_directory(place, "AutoModelForSeq2SeqLM")
    student: Any = with_fewer_layers(model, stay)
    assert (decoder_depth(model), decoder_depth(student)) == (4, stay)
    theirs, ours = (getattr(one.get_decoder(), "layers" if family != "t5" else "block") for one in (model, student))
    assert len(ours) == stay
    for layer, number in zip(ours, kept, strict=True):
        for mine, original in zip(layer.parameters(), theirs[number].parameters(), strict=True):
            assert torch.equal(mine, original)
    ids = torch.arange(4)[None]
    with torch.inference_mode():
        logits = [one(input_ids=ids, decoder_input_ids=ids).logits for one in (model, student)]
    assert torch.equal(*logits) == (stay == 4)
    student.save_pretrained(tmp_path / "student")
    again = load_directory(tmp_path / "student", "AutoModelForSeq2SeqLM")
    with torch.inference_mode():
        assert torch.equal(again(input_ids=ids, decoder_input_ids=ids).logits, logits[1])


def test_the_teachers_texts_take_the_place_of_the_targets_of_train_alone_and_are_written_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    teacher = writer_bundle(
        tmp_path / "early", "sequence_to_sequence", steps=25
    )  # which does not write all targets yet
    state = state_of(teacher, tmp_path / "work")
    write_teachers_texts(state, tmp_path / "data", 2)
    tokenizer, model = (transformers.AutoTokenizer.from_pretrained(teacher), state.original)
    rows = [json.loads(line) for line in (tmp_path / "data/train.jsonl").read_text().splitlines()]
    assert [row["text"] for row in rows] == [example.text for example in state.splits.train]
    for row, example in list(zip(rows, state.splits.train, strict=True))[:12]:
        ids = model.generate(**tokenizer(row["text"], return_tensors="pt"), num_beams=2)  # type: ignore[operator]
        assert row["target"] == (tokenizer.decode(ids[0], skip_special_tokens=True).strip() or example.target)
    assert any(row["target"] != one.target for row, one in zip(rows, state.splits.train, strict=True))
    splits = load_splits(DataConfig(path=str(tmp_path / "data")), state.bundle.task)
    assert [one.target for one in splits.test] == [one.target for one in state.splits.test]
    before = (tmp_path / "data/train.jsonl").stat().st_mtime_ns
    write_teachers_texts(state, tmp_path / "data", 2)
    assert (tmp_path / "data/train.jsonl").stat().st_mtime_ns == before


def test_more_layers_than_there_are_and_decoders_alone_are_refused(teacher: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"distill_texts\.decoder_layers=3, but the agent has 2"):
        DistillTextsStep(decoder_layers=3).run(state_of(teacher, tmp_path))
    place = publish_writer(tmp_path / "agent", "text_generation")
    with pytest.raises(ConfigError, match=r"for agents of sequence_to_sequence, and this is one of text_generation"):
        run(place, tmp_path / "out", ["distill_texts", "convert"])


@pytest.mark.system
def test_a_student_of_half_the_decoder_layers_is_published_in_the_agents_place(teacher: Path, tmp_path: Path) -> None:
    pytest.importorskip("deepspeed")
    steps = [{"kind": "distill_texts", "epochs": 8, "batch_tokens": 128, "learning_rate": 0.005}, "convert"]
    with commands_run_here():
        report = run(teacher, tmp_path / "out", steps, gate={"min_score_kept": 0.8})
    bundle = Bundle.load(tmp_path / "out")
    student = load_model(bundle)
    assert (decoder_depth(load_model(Bundle.load(teacher))), decoder_depth(student)) == (2, 1)
    original, network, fp32, int8 = report.model_rows
    assert network.parameters == fp32.parameters < original.parameters
    assert fp32.size_bytes < original.size_bytes
    assert [row.published for row in report.model_rows] == [False, True, True, True]
    assert original.score > 0.95
    assert network.quality == fp32.quality
    assert int8.agreement is not None
    assert "distill_texts: 1 of 2 decoder layers" in report.notes[0]
    assert [row.kind for row in report.step_rows] == ["distill_texts", "convert", "verify"]
    assert [variant.precision for variant in bundle.manifest.converted] == ["fp32", "int8"]
