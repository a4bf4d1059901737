"""A teacher: its part of the loss is the divergence at its temperature; whoever does not fit is refused; students learn from it."""

from __future__ import annotations

import json
import shutil
from types import SimpleNamespace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file
from transformers import BertConfig, BertModel

from agent.config.base import from_mapping
from agent.errors import BundleError, ConfigError, DataError
from tests.tiny import make_model
from tests.training.runs import in_this_process, settings, train_here
from training.config import TrainingConfig, output_of
from training.distillation.distillation_loss import Teacher
from training.distillation.teacher import TeacherConfig
from training.lifecycle.dry_run import dry_run
from training.lifecycle.job import _fit, train
from training.lifecycle.preparation import prepare_run
from training.lifecycle.publish import publish
from training.lifecycle.resume import start_or_resume

OUTPUTS = 5


class Fixed(torch.nn.Module):
    """Says the same whatever it is asked."""

    def __init__(self, logits):
        super().__init__()
        self.logits = torch.nn.Parameter(logits)

    def forward(self, **_):
        return SimpleNamespace(logits=self.logits)


def draw(seed, *shape):
    return torch.randn(*shape, OUTPUTS, generator=torch.Generator().manual_seed(seed)) * 3


def saying(loss):
    """A loss of labels, whatever they are."""
    return lambda *_: torch.tensor(loss)


@given(seed=st.integers(0, 99), temperature=st.floats(0.5, 8), weight=st.floats(0.05, 1))
def test_the_blend_is_that_of_the_paper(seed, temperature, weight):
    said, logits = draw(seed, 4, 6), draw(seed + 100, 4, 6)
    targets = torch.randint(0, OUTPUTS, (4, 6), generator=torch.Generator().manual_seed(seed))
    targets[:, ::3] = -100
    teacher = Teacher(Fixed(said), TeacherConfig(bundle="x", temperature=temperature, weight=weight))
    blended = teacher.loss(saying(7.0), (logits,), targets, {})
    p, q = (torch.softmax(values.double() / temperature, -1) for values in (said, logits))
    divergence = (p * (p / q).log()).sum(-1)[targets != -100].sum()
    expected = (1 - weight) * 7.0 + weight * temperature**2 * divergence
    torch.testing.assert_close(blended.double(), expected, rtol=1e-4, atol=1e-4)


def test_a_student_that_agrees_has_nothing_to_learn_and_the_teacher_never_learns():
    said = draw(0, 2, 3)
    network = Fixed(said.clone())
    teacher = Teacher(network, TeacherConfig(bundle="x", weight=1.0))
    logits = said.clone().requires_grad_()
    loss = teacher.loss(saying(9.0), (logits,), torch.zeros(2, 3, dtype=torch.int64), {})
    loss.backward()
    assert abs(loss.item()) < 1e-5
    assert float(logits.grad.abs().max()) < 1e-5
    assert network.logits.grad is None


def test_one_output_for_a_window_is_taught_too():
    said, logits = draw(1, 4), draw(2, 4)
    teacher = Teacher(Fixed(said), TeacherConfig(bundle="x"))
    assert float(teacher.loss(saying(0.0), (logits,), torch.tensor([0, 1, -100, 2]), {})) > 0


@pytest.mark.system
@pytest.mark.usefixtures("local_ray")
class TestRuns:
    """Real training with a real teacher."""

    @pytest.fixture(scope="class")
    def taught(self, reference):
        return reference.bundle

    def test_a_student_learns_what_its_labels_do_not_say(self, places, taught, tmp_path):
        """All labels of its data are O: what it finds it has from the teacher."""
        (tmp_path / "ner").mkdir()
        for name in ("train", "dev", "test"):
            text = (places / "ner" / f"{name}.conll").read_text(encoding="utf-8")
            if name == "train":
                text = "\n".join(f"{line.split()[0]} O" if line else "" for line in text.splitlines()) + "\n"
            (tmp_path / "ner" / f"{name}.conll").write_text(text, encoding="utf-8")
        labels = list(taught.task.labels)
        result = train_here(
            settings(
                places,
                "student",
                epochs=6,
                data={"path": str(tmp_path / "ner")},
                task={"kind": "token_classification", "labels": labels},
                teacher={"bundle": str(taught.path), "weight": 1.0},
            )
        )
        assert result.outcome.after.value > 0.9
        assert result.bundle.manifest.lineage.parent_digest == taught.digest

    @pytest.mark.parametrize(
        "setup",
        [(1, "cpu", 0), pytest.param((2, "eager", 3), marks=pytest.mark.long)],
        ids=str,
    )
    def test_a_student_learns_from_text_without_labels_and_from_inside_of_its_teacher(
        self, places, taught, tmp_path, setup
    ):
        """Two sentences have labels; a narrower student needs projections, which do not leave training."""
        workers, attention, stage = setup
        narrow = BertConfig.from_pretrained(places / "model", hidden_size=16, intermediate_size=64)
        BertModel(narrow).save_pretrained(tmp_path / "narrow")
        for file in (places / "model").glob("tokenizer*"):
            shutil.copy(file, tmp_path / "narrow")
        shutil.copytree(places / "ner", tmp_path / "ner")
        text = (places / "ner" / "train.conll").read_text(encoding="utf-8")
        (tmp_path / "ner" / "train.conll").write_text("\n\n".join(text.split("\n\n")[:2]) + "\n", encoding="utf-8")
        words = [" ".join(line.split()[0] for line in block.splitlines()) for block in text.split("\n\n")]
        (tmp_path / "text.txt").write_text("\n".join(words), encoding="utf-8")
        inside = {"hidden": {"weight": 0.1}, "relations": {"weight": 0.1, "heads": 4}}
        run = train_here if workers == 1 else train
        result = run(
            settings(
                places,
                f"student-{workers}-{stage}",
                epochs=8,
                num_workers=workers,
                data={"path": str(tmp_path / "ner")},
                task={"kind": "token_classification", "labels": list(taught.task.labels)},
                model={"name": str(tmp_path / "narrow")},
                engine={"attention": attention, "zero_stage": stage},
                checkpoint={"every_steps": 5},
                teacher={"bundle": str(taught.path), "unlabelled": str(tmp_path / "text.txt"), **inside},
            )
        )
        assert result.outcome.after.value > 0.8
        epochs = result.outcome.history
        assert epochs[-1]["loss"] < 0.5 * epochs[0]["loss"]
        weights = load_file(result.bundle.path / "model.safetensors")
        assert not [name for name in weights if "projection" in name]

    def test_a_dry_run_asks_about_text_without_labels_too(self, places, taught, tmp_path, capfd):
        (tmp_path / "text.txt").write_text("anna went to oslo .\nacme hired anna .\nnobody came\n", encoding="utf-8")
        teacher = {"bundle": str(taught.path), "unlabelled": str(tmp_path / "text.txt"), "hidden": {"weight": 1.0}}
        with in_this_process():
            dry_run(settings(places, "rehearsed", teacher=teacher))
        told = capfd.readouterr().out
        assert "text.txt (3 texts," in told
        assert "dry run passed" in told

    def test_a_teacher_that_is_gone_when_training_ends_is_named_by_its_digest(self, places, taught):
        own = places / "passing"
        shutil.copytree(taught.path, own)
        with in_this_process():
            ready = prepare_run(settings(places, "orphan", epochs=1, teacher={"bundle": str(own)}))
            store = start_or_resume(ready.config, output_of(ready.config), ready.data.digest, ready.other_digests).store
            outcome = _fit(ready, store)
        shutil.rmtree(own)
        assert publish(ready, outcome, store).manifest.lineage.parent_digest == taught.digest

    def test_a_run_does_not_go_on_with_another_teacher_in_the_place_of_the_first(self, places, taught):
        other = train_here(settings(places, "other", epochs=1)).bundle
        own = places / "replaced"
        shutil.copytree(taught.path, own)
        wanted = settings(places, "changed", teacher={"bundle": str(own)})
        ready = prepare_run(wanted)
        start_or_resume(ready.config, output_of(ready.config), ready.data.digest, ready.other_digests)
        shutil.rmtree(own)
        shutil.copytree(other.path, own)
        with pytest.raises(ConfigError, match=r"the content of teacher\.bundle"):
            train(wanted)

    def test_a_teacher_of_other_labels_is_refused_before_training(self, places, taught):
        labels = ["LOC", "MISC", "ORG", "PER"]
        with pytest.raises(ConfigError, match="has the outputs O, B-LOC"):
            prepare_run(
                settings(
                    places,
                    "x",
                    task={"kind": "token_classification", "labels": labels},
                    teacher={"bundle": str(taught.path)},
                )
            )

    @pytest.mark.parametrize(
        ("inside", "told"),
        [
            ({"hidden": {"weight": 1, "layers": [1]}}, r"teacher\.hidden\.layers=\[1\]"),
            ({"relations": {"weight": 1, "layer": 3}}, r"teacher\.relations\.layer=3"),
            ({"relations": {"weight": 1, "heads": 5}}, r"teacher\.relations\.heads=5 does not divide"),
            ({"unlabelled": "nowhere.txt"}, "is no file of text"),
        ],
    )
    def test_what_a_teacher_cannot_show_is_refused_before_training(self, places, taught, inside, told):
        with pytest.raises((ConfigError, DataError), match=told):
            prepare_run(settings(places, "x", teacher={"bundle": str(taught.path), **inside}))

    def test_a_teacher_that_reads_less_is_refused_before_training(self, places):
        short = train_here(settings(places, "short", epochs=1, model={"max_tokens": 32})).bundle
        with pytest.raises(ConfigError, match="reads 32 tokens, the model in training 64"):
            prepare_run(settings(places, "x", teacher={"bundle": str(short.path)}))

    def test_a_teacher_that_is_none_is_refused_before_training(self, places, taught):
        with pytest.raises(BundleError, match="nowhere"):
            prepare_run(settings(places, "x", teacher={"bundle": "nowhere"}))

    def test_a_teacher_with_another_tokenizer_is_refused(self, places, taught, tmp_path):
        other = make_model(tmp_path / "model")
        tree = json.loads((other / "tokenizer.json").read_text())
        vocabulary = tree["model"]["vocab"]
        vocabulary["zzz"] = vocabulary.pop("oslo", None) or vocabulary.pop("acme")
        (other / "tokenizer.json").write_text(json.dumps(tree))
        with pytest.raises(ConfigError, match="other sub-words"):
            prepare_run(settings(places, "x", model={"name": str(other)}, teacher={"bundle": str(taught.path)}))


def test_a_weight_of_nothing_is_refused():
    with pytest.raises(ConfigError, match=r"teacher\.weight"):
        from_mapping(TrainingConfig, {"teacher": {"bundle": "x", "weight": 0.0}})
