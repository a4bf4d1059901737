"""A teacher: its part of the loss is the divergence at its temperature; whoever does not fit is refused; students learn from it."""

from __future__ import annotations

import json
from types import SimpleNamespace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from agent.config import from_mapping
from agent.errors import BundleError, ConfigError
from tests.tiny import make_model
from training.config import TrainingConfig
from training.job import train
from training.preparation import get_ready
from training.teacher import Teacher, TeacherConfig

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


@given(seed=st.integers(0, 99), temperature=st.floats(0.5, 8), weight=st.floats(0.05, 1))
def test_the_blend_is_that_of_the_paper(seed, temperature, weight):
    said, logits = draw(seed, 4, 6), draw(seed + 100, 4, 6)
    targets = torch.randint(0, OUTPUTS, (4, 6), generator=torch.Generator().manual_seed(seed))
    targets[:, ::3] = -100
    teacher = Teacher(Fixed(said), TeacherConfig(bundle="x", temperature=temperature, weight=weight))
    blended = teacher.blend(torch.tensor(7.0), logits, targets, {})
    p, q = (torch.softmax(values.double() / temperature, -1) for values in (said, logits))
    divergence = (p * (p / q).log()).sum(-1)[targets != -100].sum()
    expected = (1 - weight) * 7.0 + weight * temperature**2 * divergence
    torch.testing.assert_close(blended.double(), expected, rtol=1e-4, atol=1e-4)


def test_a_student_that_agrees_has_nothing_to_learn_and_the_teacher_never_learns():
    said = draw(0, 2, 3)
    network = Fixed(said.clone())
    teacher = Teacher(network, TeacherConfig(bundle="x", weight=1.0))
    logits = said.clone().requires_grad_()
    loss = teacher.blend(torch.tensor(9.0), logits, torch.zeros(2, 3, dtype=torch.int64), {})
    loss.backward()
    assert abs(loss.item()) < 1e-5
    assert float(logits.grad.abs().max()) < 1e-5
    assert network.logits.grad is None


def test_one_output_for_a_window_is_taught_too():
    said, logits = draw(1, 4), draw(2, 4)
    teacher = Teacher(Fixed(said), TeacherConfig(bundle="x"))
    assert float(teacher.blend(torch.tensor(0.0), logits, torch.tensor([0, 1, -100, 2]), {})) > 0


@pytest.mark.system
@pytest.mark.usefixtures("local_ray")
class TestRuns:
    """Real training with a real teacher."""

    @pytest.fixture(scope="class")
    def taught(self, places, local_ray):
        return train(settings(places, "teacher", epochs=6)).bundle

    def test_a_student_learns_what_its_labels_do_not_say(self, places, taught, tmp_path):
        """All labels of its data are O: what it finds it has from the teacher."""
        (tmp_path / "ner").mkdir()
        for name in ("train", "dev", "test"):
            text = (places / "ner" / f"{name}.conll").read_text(encoding="utf-8")
            if name == "train":
                text = "\n".join(f"{line.split()[0]} O" if line else "" for line in text.splitlines()) + "\n"
            (tmp_path / "ner" / f"{name}.conll").write_text(text, encoding="utf-8")
        labels = list(taught.task.labels)
        result = train(
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

    def test_a_teacher_of_other_labels_is_refused_before_training(self, places, taught):
        labels = ["LOC", "MISC", "ORG", "PER"]
        with pytest.raises(ConfigError, match="has the outputs O, B-LOC"):
            get_ready(
                settings(
                    places,
                    "x",
                    task={"kind": "token_classification", "labels": labels},
                    teacher={"bundle": str(taught.path)},
                )
            )

    def test_a_teacher_that_reads_less_is_refused_before_training(self, places):
        short = train(settings(places, "short", epochs=1, model={"max_tokens": 32})).bundle
        with pytest.raises(ConfigError, match="reads 32 tokens, the model in training 64"):
            get_ready(settings(places, "x", teacher={"bundle": str(short.path)}))

    def test_a_teacher_that_is_none_is_refused_before_training(self, places, taught):
        with pytest.raises(BundleError, match="nowhere"):
            get_ready(settings(places, "x", teacher={"bundle": "nowhere"}))

    def test_a_teacher_with_another_tokenizer_is_refused(self, places, taught, tmp_path):
        other = make_model(tmp_path / "model")
        tree = json.loads((other / "tokenizer.json").read_text())
        vocabulary = tree["model"]["vocab"]
        vocabulary["zzz"] = vocabulary.pop("oslo", None) or vocabulary.pop("acme")
        (other / "tokenizer.json").write_text(json.dumps(tree))
        with pytest.raises(ConfigError, match="other sub-words"):
            get_ready(settings(places, "x", model={"name": str(other)}, teacher={"bundle": str(taught.path)}))


def test_a_weight_of_nothing_is_refused():
    with pytest.raises(ConfigError, match=r"teacher\.weight"):
        from_mapping(TrainingConfig, {"teacher": {"bundle": "x", "weight": 0.0}})


def settings(places, name, **changes):
    tree = {
        "output": str(places / name), "epochs": 2, "data": {"path": str(places / "ner")},
        "batch": {"tokens": 128}, "optimizer": {"kind": "adamw", "learning_rate": 0.005}, "engine": {"precision": "fp32"},
    }  # fmt: skip
    model = {"name": str(places / "model"), "dropout": 0.0, "stride": 8} | changes.pop("model", {})
    return from_mapping(TrainingConfig, tree | {"model": model} | changes)
