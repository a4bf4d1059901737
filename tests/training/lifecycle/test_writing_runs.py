"""Whole runs of agents that write: learned by heart, the same by two workers and after a break, read by transformers."""

from __future__ import annotations

import json

import pytest

from agent.config.base import from_mapping
from agent.data import DataConfig, load_splits
from agent.tasks import SequenceToSequence
from tests.tiny_writers import make_writer, write_pairs_to_write, written_records
from tests.training.runs import train_by_ranks, train_here
from training.config import TrainingConfig
from training.loop.worker import Worker
from training.model.model_from_nothing import NewModelConfig, make_model

pytestmark = [pytest.mark.system, pytest.mark.usefixtures("local_ray")]
KINDS = {"t5": "sequence_to_sequence", "bart": "sequence_to_sequence", "gpt2": "text_generation"}


@pytest.fixture(scope="module")
def words(tmp_path_factory):
    """A directory with data and a model of each family, that no test writes to."""
    root = tmp_path_factory.mktemp("words")
    write_pairs_to_write(root / "data", times=30)
    write_pairs_to_write(root / "less", times=4)
    for family in KINDS:
        make_writer(root / family, family)
    return root


def config_of(words, output, family, **changes):
    return from_mapping(TrainingConfig, {
        "output": str(output), "epochs": 5, "task": {"kind": KINDS[family]}, "data": {"path": str(words / "data")},
        "model": {"name": str(words / family), "dropout": 0.0, "stride": 8}, "batch": {"tokens": 128},
        "optimizer": {"kind": "adamw", "learning_rate": 0.008}, "engine": {"precision": "fp32"}, **changes,
    })  # fmt: skip


@pytest.mark.parametrize("family", KINDS)
def test_a_run_learns_texts_by_heart_and_transformers_writes_them(words, tmp_path, family):
    import torch
    import transformers

    result = train_here(config_of(words, tmp_path / "agent", family))
    outcome, bundle = result.outcome, result.bundle
    assert outcome.before.metrics["accuracy"] < 0.3
    assert outcome.after.metrics["text_accuracy"] == 1.0
    assert outcome.after.metrics["inverse_perplexity"] > 0.9
    if family != "gpt2":
        assert (outcome.after.primary, outcome.after.metrics["exact"]) == ("bleu", 1.0)
        assert outcome.before.metrics["exact"] == 0.0
        assert "generated texts" in (bundle.path / "report.md").read_text()
    tokenizer = transformers.AutoTokenizer.from_pretrained(bundle.path)
    model = getattr(transformers, bundle.task.architecture).from_pretrained(bundle.path)
    for example in load_splits(DataConfig(path=str(words / "data")), bundle.task).test:
        asked = tokenizer(example.text, return_tensors="pt")
        with torch.inference_mode():
            limit = {"max_new_tokens": 8} if family == "gpt2" else {}  # the others' bundles say how they generate
            ids = model.generate(input_ids=asked["input_ids"], attention_mask=asked["attention_mask"], **limit)[0]
        new = ids[asked["input_ids"].shape[1] :] if family == "gpt2" else ids
        assert tokenizer.decode(new, skip_special_tokens=True) == example.target


def test_texts_that_were_scored_are_those_that_transformers_writes_with_the_bundle(words, tmp_path, monkeypatch):
    """Of a model that has not learned enough to be right."""
    import torch
    import transformers

    scored, score = {}, SequenceToSequence.score_generated

    def remembers(task, report, examples, texts):
        scored.update(zip((example.text for example in examples), texts, strict=True))
        return score(task, report, examples, texts)

    monkeypatch.setattr(SequenceToSequence, "score_generated", remembers)
    result = train_here(config_of(words, tmp_path / "agent", "bart", epochs=1, data={"path": str(words / "less")}))
    tokenizer = transformers.AutoTokenizer.from_pretrained(result.bundle.path)
    model = transformers.AutoModelForSeq2SeqLM.from_pretrained(result.bundle.path)
    assert 0 < result.outcome.after.metrics["bleu"] < 1
    for example in load_splits(DataConfig(path=str(words / "data")), result.bundle.task).test:
        with torch.inference_mode():
            (ids,) = model.generate(**tokenizer(example.text, return_tensors="pt", return_token_type_ids=False))
        assert tokenizer.decode(ids, skip_special_tokens=True) == scored[example.text]


@pytest.mark.parametrize("metric", ["bleu", "rouge"])
def test_agents_are_compared_by_generated_texts_where_some_are_wanted(words, tmp_path, metric):
    task = {"kind": "sequence_to_sequence", "metric": metric, "num_beams": 1, "generated_texts": 3}
    changes = {"epochs": 1, "data": {"path": str(words / "less")}, "task": task}
    outcome = train_here(config_of(words, tmp_path / metric, "t5", **changes)).outcome
    assert outcome.dev.primary == outcome.after.primary == {"bleu": "bleu", "rouge": "rougeL"}[metric]
    assert "generated texts                  3" in outcome.dev.text
    changes["task"] = task | {"generated_texts": 0}
    assert train_here(config_of(words, tmp_path / "none", "t5", **changes)).outcome.after.primary == "accuracy"


@pytest.mark.long
def test_two_workers_and_smaller_parts_of_steps_train_what_one_worker_trains(words, tmp_path):
    """Of an encoder-decoder whose embedding is not shared with the output, so that rows of it are exchanged by what the step touched."""
    make_writer(tmp_path / "untied", "t5", tie_word_embeddings=False)
    model = {"name": str(tmp_path / "untied"), "dropout": 0.0, "stride": 8}
    changes = {"epochs": 2, "model": model, "data": {"path": str(words / "less")}}
    one = train_here(config_of(words, tmp_path / "one", "t5", **changes)).outcome
    changes |= {"num_workers": 2, "batch": {"tokens": 128, "micro_tokens": 32}}
    two = train_by_ranks(config_of(words, tmp_path / "two", "t5", **changes))
    assert [row["loss"] for row in two.history] == pytest.approx([row["loss"] for row in one.history], rel=2e-4)
    assert two.after.metrics == pytest.approx(one.after.metrics, rel=1e-3)


def test_a_run_goes_on_where_it_broke_off(words, tmp_path, monkeypatch):
    changes = {"epochs": 3, "data": {"path": str(words / "less")}}
    whole = train_here(config_of(words, tmp_path / "whole", "gpt2", **changes)).outcome
    close, broken = Worker._close_epoch, config_of(words, tmp_path / "broken", "gpt2", **changes)

    def breaks_off(worker, observers):
        close(worker, observers)
        worker.checkpoints.wait()
        if worker.state.epoch == 2:
            raise KeyboardInterrupt

    monkeypatch.setattr(Worker, "_close_epoch", breaks_off)
    with pytest.raises(KeyboardInterrupt):
        train_here(broken)
    monkeypatch.undo()
    again = train_here(broken).outcome
    assert len(again.history) == 3
    assert again.history[-1]["loss"] == pytest.approx(whole.history[-1]["loss"], rel=1e-4)
    assert again.after.metrics == pytest.approx(whole.after.metrics, rel=1e-4)


def test_an_agent_of_dialogues_from_nothing_brings_the_template_of_its_dialogues(words, tmp_path):
    """Made by training/new_model.py, whose tokenizer knows the markers of turns."""
    import transformers

    (tmp_path / "data").mkdir()
    talks = [
        [{"role": "user", "content": row["text"]}, {"role": "assistant", "content": row["target"]}]
        for row in written_records(12)
    ]
    for name in ("train", "dev", "test"):
        (tmp_path / "data" / f"{name}.jsonl").write_text(
            "".join(json.dumps({"messages": talk}) + "\n" for talk in talks)
        )
    shape = {"family": "gpt2", "width": 32, "layers": 1, "heads": 2, "vocabulary": 300, "max_tokens": 64}
    task, data = {"kind": "text_generation"}, {"path": str(tmp_path / "data")}
    make_model(from_mapping(NewModelConfig, {"output": str(tmp_path / "model"), "task": task, "data": data, **shape}))
    model = {"name": str(tmp_path / "model"), "init": "random", "stride": 8}
    result = train_here(config_of(words, tmp_path / "agent", "gpt2", epochs=3, data=data, model=model))
    assert result.outcome.history[-1]["loss"] < result.outcome.history[0]["loss"]
    tokenizer, bundle = transformers.AutoTokenizer.from_pretrained(result.bundle.path), result.bundle
    for example, talk in zip(load_splits(DataConfig(**data), bundle.task).test, talks, strict=True):
        (document,) = bundle.task.encode(bundle.encoder, [example])
        whole = tokenizer.apply_chat_template(talk, tokenize=False)
        assert tokenizer(whole)["input_ids"] == document.windows[0].input_ids.tolist()
