"""The distillation loss: soft targets, hidden states and attention relations of a teacher."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from torch.nn.functional import kl_div, log_softmax, logsigmoid

from agent.encoder_layers import find_layers
from agent.encoding import IGNORED
from agent.errors import ConfigError
from agent.tasks import BaseTask
from training.data.packing import UNLABELLED
from training.distillation.teacher import TeacherConfig
from training.engine.activation_hooks import NO_ACTIVATIONS, ActivationHook, ActivationRecorder, ModelOutputs
from training.model.adapters import unwrap
from training.model.models import ModelConfig, build_model, logits_of

if TYPE_CHECKING:
    from transformers import PreTrainedModel

PROJECTIONS = (
    "teacher_projections"  # of a student whose width differs from its teacher's; not part of the published model
)
_PROJECTION_NAMES = (("query", "q_lin", "query_proj"), ("key", "k_lin", "key_proj"), ("value", "v_lin", "value_proj"))


def load_teacher(config: TeacherConfig, task: BaseTask[Any], device: torch.device, *, label_weight: float) -> Teacher:
    """Loads the teacher's model.

    Raises:
        ModelError: transformers cannot load it.
    """
    model = build_model(ModelConfig(name=config.bundle), task).to(device)
    return Teacher(model, config, label_weight, binary=task.decision.binary)


class Teacher:
    """A finished agent whose outputs are part of the loss of every batch.

    Args:
        model: On the device of the student; its weights are frozen.
        config: What is learned from it.
        label_weight: Weight of the loss of a labelled target: all targets over the labelled ones, so that the labels keep their
            part of the loss however much unlabelled text there is.
        binary: Whether each output is decided by itself.
    """

    def __init__(
        self, model: nn.Module, config: TeacherConfig, label_weight: float = 1.0, *, binary: bool = False
    ) -> None:
        self._model, self._config = model.eval().requires_grad_(requires_grad=False), config
        self._label_weight, self._binary = label_weight, binary
        self._recorder, self._heads = NO_ACTIVATIONS, 1

    def attach(self, student: nn.Module) -> ActivationRecorder:
        """Registers the hooks that `loss` needs in both models; returns the student's recorder.

        A student of another width gets trainable projections of its hidden states.

        Raises:
            ConfigError: The layers of one of them are laid out in a way that is not supported.
        """
        inner: Any = unwrap(student)
        student_hooks, teacher_hooks = list[ActivationHook](), list[ActivationHook]()
        if self._config.hidden.weight:
            matched = [(layers_of(self._model)[number - 1], layer) for layer, number in self._matched_layers(inner)]
            projections = _projections(student, inner.config.hidden_size, self._width, len(matched))
            teacher_hooks += [ActivationHook(layer) for layer, _ in matched]
            student_hooks += [
                ActivationHook(layer, projection) for (_, layer), projection in zip(matched, projections, strict=True)
            ]
        if self._config.relations.weight:
            self._heads = self._config.relations.heads or inner.config.num_attention_heads
            teacher_layer = layers_of(self._model)[(self._config.relations.layer or 0) - 1]
            teacher_hooks += map(ActivationHook, _attention_projections(teacher_layer))
            student_hooks += map(ActivationHook, _attention_projections(layers_of(inner)[-1]))
        self._recorder = ActivationRecorder(teacher_hooks)
        return ActivationRecorder(student_hooks)

    def loss(
        self,
        label_loss: Callable[[torch.Tensor, torch.Tensor], torch.Tensor],
        outputs: ModelOutputs,
        targets: torch.Tensor,
        inputs: Mapping[str, torch.Tensor],
    ) -> torch.Tensor:
        """The loss of the labels and of the teacher, summed over targets.

        Soft targets: T^2 times the divergence of the student's probabilities from the teacher's, at temperature T (Hinton et
        al., arXiv 1503.02531, section 2). Hidden states and relations: a mean over the tokens of each row, which counts as
        often as the row has targets.

        Args:
            label_loss: Of logits and targets (-100 is left out), summed.
            outputs: Of the student, float: logits [..., outputs], then activations [rows, tokens, width] each.
            targets: int64 [...]; -100 is left out, `UNLABELLED` has the teacher's loss only.
            inputs: The padded batch on the device, [rows, tokens] each.
        """
        has_target = targets != IGNORED
        labelled = label_loss(outputs[0], targets.masked_fill(targets == UNLABELLED, IGNORED))
        logits, *activations = outputs
        teacher_logits, *teacher_activations = self._forward(inputs, like=logits)
        weight = self._config.weight
        soft = self._soft_target_loss(logits[has_target], teacher_logits[has_target])
        total = (1 - weight) * self._label_weight * labelled + weight * soft
        if not activations:
            return total
        mask = inputs["attention_mask"].bool()
        counts = has_target.reshape(len(has_target), -1).sum(1)
        return total + (counts * self._activation_loss(activations, teacher_activations, mask)).sum()

    def _activation_loss(
        self, student: Sequence[torch.Tensor], teacher: Sequence[torch.Tensor], mask: torch.Tensor
    ) -> torch.Tensor:
        """The loss of hidden states and relations of each row: float32 [rows]."""
        pairs = list(zip(student, teacher, strict=True))
        num_hidden = len(pairs) - (3 if self._config.relations.weight else 0)
        total = torch.zeros(len(mask), device=mask.device)
        if num_hidden:
            distances = [hidden_distance(own, other, mask) for own, other in pairs[:num_hidden]]
            total = total + self._config.hidden.weight * torch.stack(distances).mean(0)
        for own, other in pairs[num_hidden:]:
            total = total + self._config.relations.weight * relation_divergence(own, other, mask, heads=self._heads)
        return total

    def _soft_target_loss(self, student: torch.Tensor, teacher: torch.Tensor) -> torch.Tensor:
        temperature = self._config.temperature
        ours, theirs = (self._log_probabilities(logits.float() / temperature) for logits in (student, teacher))
        return temperature**2 * kl_div(ours, theirs, reduction="sum", log_target=True)

    def _log_probabilities(self, logits: torch.Tensor) -> torch.Tensor:
        """Of the outputs, [targets, outputs], or of the tokens, [targets, tokens]; of yes and no where each output is decided by itself, [targets, 2]."""
        return torch.stack([logsigmoid(logits), logsigmoid(-logits)], -1) if self._binary else log_softmax(logits, -1)

    def _forward(self, inputs: Mapping[str, torch.Tensor], *, like: torch.Tensor) -> ModelOutputs:
        """The teacher's outputs, in the student's precision."""
        half = like.dtype == torch.bfloat16
        with torch.no_grad(), torch.autocast(like.device.type, torch.bfloat16, enabled=half):
            return self._recorder.record(lambda: logits_of(self._model(**inputs), inputs))

    @property
    def _width(self) -> int:
        model: Any = self._model
        return int(model.config.hidden_size)

    def _matched_layers(self, student: PreTrainedModel) -> list[tuple[nn.Module, int]]:
        """The student's layers, each with the number of the teacher's."""
        layers = layers_of(student)
        numbers = self._config.hidden.match(len(layers), len(layers_of(self._model)))
        return list(zip(layers, numbers, strict=True))


def hidden_distance(student: torch.Tensor, teacher: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """Mean squared difference of hidden states over the tokens of each row: float32 [rows].

    Args:
        student, teacher: float [rows, tokens, width].
        mask: bool [rows, tokens], false at padding.
    """
    squares = (student.float() - teacher.float()).square().mean(-1)
    return (squares * mask).sum(1) / mask.sum(1)


def relation_divergence(
    student: torch.Tensor, teacher: torch.Tensor, mask: torch.Tensor, *, heads: int
) -> torch.Tensor:
    """Divergence of the student's relations from the teacher's, mean over heads and tokens of each row: float32 [rows].

    A relation is how vectors of one kind (queries, keys or values) attend to each other: softmax(X X^T / sqrt(d)) in each of
    `heads` equal parts of d columns (MiniLMv2, arXiv 2012.15828, section 3.1).

    Args:
        student, teacher: float [rows, tokens, width], each of its own width.
        mask: bool [rows, tokens], false at padding.
        heads: Parts that the widths are cut into.
    """
    ours, theirs = (_relations(vectors, mask, heads) for vectors in (student, teacher))
    divergence = kl_div(ours, theirs, reduction="none", log_target=True).sum(-1).mean(1)  # [rows, tokens]
    return (divergence * mask).sum(1) / mask.sum(1)


def _relations(vectors: torch.Tensor, mask: torch.Tensor, heads: int) -> torch.Tensor:
    """Logarithms of relations: float32 [rows, heads, tokens, tokens]."""
    parts = vectors.float().reshape(*vectors.shape[:2], heads, -1).transpose(1, 2)
    scores = parts @ parts.transpose(2, 3) * parts.shape[-1] ** -0.5
    return log_softmax(scores.masked_fill(~mask[:, None, None], torch.finfo(scores.dtype).min), -1)


def layers_of(model: nn.Module) -> list[nn.Module]:
    """The layers of an encoder, lowest first.

    Raises:
        ConfigError: It has no list of them.
    """
    if found := find_layers(model):
        return list(found[1])
    raise ConfigError(
        f"teacher.hidden and teacher.relations: the layers of a {type(model).__name__} are laid out in a way that is not supported",
        allowed="encoders with one list of layers (BERT, RoBERTa, ELECTRA, DistilBERT and their kin)",
        remedy="set both weights to 0",
    )


def _attention_projections(layer: nn.Module) -> list[nn.Module]:
    """The projections to queries, keys and values of a layer.

    Raises:
        ConfigError: It lacks one of them.
    """
    by_end = {name.rpartition(".")[2]: module for name, module in layer.named_modules()}
    found = [by_end[name] for names in _PROJECTION_NAMES for name in names if name in by_end]
    if len(found) == len(_PROJECTION_NAMES):
        return found
    raise ConfigError(
        f"teacher.relations: a {type(layer).__name__} has no projections to queries, keys and values of their own",
        allowed="layers built like BERT's or DistilBERT's, of student and teacher",
        remedy="set teacher.relations.weight=0",
    )


def _projections(student: nn.Module, width: int, teacher_width: int, count: int) -> Sequence[nn.Module | None]:
    if width == teacher_width:
        return [None] * count
    device = next(student.parameters()).device
    projections = nn.ModuleList(nn.Linear(width, teacher_width) for _ in range(count)).to(device)
    student.add_module(PROJECTIONS, projections)
    return list(projections)


def without_projections(weights: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The weights without the projections to the teacher's width."""
    return {name: tensor for name, tensor in weights.items() if not name.startswith(f"{PROJECTIONS}.")}
