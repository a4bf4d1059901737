"""A teacher in the loss: what a model in training owes to a finished agent. Reads no files."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from torch.nn.functional import kl_div, log_softmax

from agent.encoding import IGNORED
from agent.errors import ConfigError
from training.data.packing import UNLABELLED
from training.engine.activation_hooks import SILENT, ActivationHook, ActivationRecorder, Said
from training.model.adapters import plain

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from training.distillation.teacher import TeacherConfig
    from training.objectives import Loss

PROJECTIONS = "teacher_projections"  # of a student that is narrower or wider than its teacher; not handed over
_RELATED = (("query", "q_lin", "query_proj"), ("key", "k_lin", "key_proj"), ("value", "v_lin", "value_proj"))


class Teacher:
    """A finished agent that is asked about every batch.

    Args:
        model: On the device of the student; its weights stay as they are.
        config: How it is listened to.
        label_weight: How much the loss of a labelled target counts: as much as there are targets, labelled or not, for each
            labelled one, so that the labels keep their part of the loss however much unlabelled text there is.
    """

    def __init__(self, model: nn.Module, config: TeacherConfig, label_weight: float = 1.0) -> None:
        self._model, self._config = model.eval().requires_grad_(requires_grad=False), config
        self._label_weight = label_weight
        self._taps, self._heads = SILENT, 1

    def tap(self, student: nn.Module) -> ActivationRecorder:
        """Where to listen to a student for `blend`. One of another width gets projections of its hidden states, to be trained.

        Raises:
            ConfigError: Its layers or its teacher's are kept in a way that we do not know.
        """
        inner: Any = plain(student)
        own, other = list[ActivationHook](), list[ActivationHook]()
        if self._config.hidden.weight:
            matched = [(layers_of(self._model)[there - 1], here) for here, there in self._matches(inner)]
            projections = _projections(student, inner.config.hidden_size, self._width, len(matched))
            other += [ActivationHook(there) for there, _ in matched]
            own += [ActivationHook(here, then) for (_, here), then in zip(matched, projections, strict=True)]
        if self._config.relations.weight:
            self._heads = self._config.relations.heads or inner.config.num_attention_heads
            there = layers_of(self._model)[(self._config.relations.layer or 0) - 1]
            other += map(ActivationHook, _related(there))
            own += map(ActivationHook, _related(layers_of(inner)[-1]))
        self._taps = ActivationRecorder(other)
        return ActivationRecorder(own)

    def blend(
        self, labels: Loss, said: Said, targets: torch.Tensor, inputs: Mapping[str, torch.Tensor]
    ) -> torch.Tensor:
        """The loss of the labels with the teacher's parts, all of them sums over targets.

        Soft targets: T^2 times the divergence of the student's probabilities from the teacher's, at temperature T (Hinton et
        al., arXiv 1503.02531, section 2). Hidden states and relations: a mean over the tokens of each row, which counts as
        often as the row has targets.

        Args:
            labels: The loss of what is labelled.
            said: By the student, float: logits [..., outputs], then as `tap` listens [rows, tokens, width] each.
            targets: int64 [...]; where they are -100 nobody is asked, where they are `UNLABELLED` only the teacher.
            inputs: The padded batch on the device, [rows, tokens] each.
        """
        asked = targets != IGNORED
        loss = labels(said[0], targets.masked_fill(targets == UNLABELLED, IGNORED))
        logits, *noted = said
        wanted, *shown = self._ask(inputs, like=logits)
        weight = self._config.weight
        total = (1 - weight) * self._label_weight * loss + weight * self._soft(logits[asked], wanted[asked])
        if not noted:
            return total
        mask = inputs["attention_mask"].bool()
        counts = asked.reshape(len(asked), -1).sum(1)
        return total + (counts * self._inner(noted, shown, mask)).sum()

    def _inner(self, noted: Sequence[torch.Tensor], shown: Sequence[torch.Tensor], mask: torch.Tensor) -> torch.Tensor:
        """What hidden states and relations cost, for each row: float32 [rows]."""
        pairs = list(zip(noted, shown, strict=True))
        related = 3 if self._config.relations.weight else 0
        hidden, relations = pairs[: len(pairs) - related], pairs[len(pairs) - related :]
        cost = torch.zeros(len(mask), device=mask.device)
        if hidden:
            distances = [hidden_distance(own, other, mask) for own, other in hidden]
            cost = cost + self._config.hidden.weight * torch.stack(distances).mean(0)
        for own, other in relations:
            cost = cost + self._config.relations.weight * relation_divergence(own, other, mask, heads=self._heads)
        return cost

    def _soft(self, given: torch.Tensor, wanted: torch.Tensor) -> torch.Tensor:
        temperature = self._config.temperature
        ours, theirs = (log_softmax(logits.float() / temperature, -1) for logits in (given, wanted))
        return temperature**2 * kl_div(ours, theirs, reduction="sum", log_target=True)

    def _ask(self, inputs: Mapping[str, torch.Tensor], *, like: torch.Tensor) -> Said:
        """Computed in the student's precision."""
        half = like.dtype == torch.bfloat16
        with torch.no_grad(), torch.autocast(like.device.type, torch.bfloat16, enabled=half):
            return self._taps.listen(lambda: self._model(**inputs).logits)

    @property
    def _width(self) -> int:
        model: Any = self._model
        return int(model.config.hidden_size)

    def _matches(self, student: PreTrainedModel) -> list[tuple[nn.Module, int]]:
        """The student's layers, each with the number of the teacher's."""
        mine = layers_of(student)
        numbers = self._config.hidden.match(len(mine), len(layers_of(self._model)))
        return list(zip(mine, numbers, strict=True))


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
    inner: Any = model
    depth = inner.config.num_hidden_layers
    found = (part for part in inner.base_model.modules() if isinstance(part, nn.ModuleList) and len(part) == depth)
    if layers := next(found, None):
        return list(layers)
    raise ConfigError(
        f"teacher.hidden and teacher.relations: the layers of a {type(model).__name__} are kept in a way that we do not know",
        allowed="encoders with one list of layers (BERT, RoBERTa, ELECTRA, DistilBERT and their kin)",
        remedy="set both weights to 0",
    )


def _related(layer: nn.Module) -> list[nn.Module]:
    """The projections to queries, keys and values of a layer.

    Raises:
        ConfigError: It has no such three.
    """
    by_end = {name.rpartition(".")[2]: module for name, module in layer.named_modules()}
    found = [by_end[name] for names in _RELATED for name in names if name in by_end]
    if len(found) == len(_RELATED):
        return found
    raise ConfigError(
        f"teacher.relations: a {type(layer).__name__} has no projections to queries, keys and values of their own",
        allowed="layers built like BERT's or DistilBERT's, of student and teacher",
        remedy="set teacher.relations.weight=0",
    )


def _projections(student: nn.Module, width: int, wanted: int, count: int) -> Sequence[nn.Module | None]:
    if width == wanted:
        return [None] * count
    device = next(student.parameters()).device
    projections = nn.ModuleList(nn.Linear(width, wanted) for _ in range(count)).to(device)
    student.add_module(PROJECTIONS, projections)
    return list(projections)


def without_projections(weights: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The weights that the agent has without its teacher."""
    return {name: tensor for name, tensor in weights.items() if not name.startswith(f"{PROJECTIONS}.")}
