"""Configuration of the teacher in distillation, and the check that it fits the student."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pydantic import Field, PositiveInt

from agent.bundle import Bundle
from agent.config.base import Config
from agent.encoding import Encoder
from agent.errors import ConfigError
from agent.tasks import BaseTask


class HiddenConfig(Config):
    """Loss on the difference of hidden states."""

    weight: float = Field(
        0.0, ge=0, description="what the mean squared difference of hidden states counts, beside teacher.weight"
    )
    layers: tuple[PositiveInt, ...] = Field(
        (), description="the teacher's layer for each of the student's, lowest first, from 1; empty: evenly spread"
    )

    def match(self, own: int, others: int) -> tuple[int, ...]:
        """The teacher's layer for each of the student's `own` layers, evenly spread unless `layers` says otherwise.

        Raises:
            ConfigError: Not as many were given as the student has layers, or one that the teacher lacks.
        """
        if not self.layers:
            return tuple(max(1, round(number * others / own)) for number in range(1, own + 1))
        if len(self.layers) != own or max(self.layers) > others:
            raise ConfigError(
                f"teacher.hidden.layers={list(self.layers)}",
                allowed=f"{own} numbers, one for each layer of the student, each from 1 to {others}",
                remedy="mend it, or leave it out",
            )
        return self.layers


class RelationsConfig(Config):
    """Loss on the relations of queries, keys and values among themselves (MiniLMv2, arXiv 2012.15828)."""

    weight: float = Field(
        0.0, ge=0, description="what the divergence of attention relations counts, beside teacher.weight"
    )
    layer: PositiveInt | None = Field(
        None, description="the teacher's layer that the student's last one learns from, from 1; default: its last"
    )
    heads: PositiveInt | None = Field(
        None, description="parts that queries, keys and values are cut into; default: the student's attention heads"
    )


class TeacherConfig(Config):
    """The teacher, and how much its outputs count."""

    bundle: str = Field(description="bundle of the agent whose probabilities are learned; same labels, same tokenizer")
    temperature: float = Field(2.0, gt=0, description="divides logits of both: above 1 what is improbable counts more")
    weight: float = Field(
        0.8, gt=0, le=1, description="part of the loss that the teacher has; the labels have the rest"
    )
    hidden: HiddenConfig = HiddenConfig()
    relations: RelationsConfig = RelationsConfig()
    unlabelled: str | None = Field(
        None,
        description='text without labels that the teacher is asked about too: a .txt (a text a line) or .jsonl ({"text": ...}) file, or a directory of them',
    )

    @property
    def uses_activations(self) -> bool:
        """Whether hidden states or relations count beside the teacher's probabilities."""
        return bool(self.hidden.weight or self.relations.weight)

    def absolute(self) -> TeacherConfig:
        """The same with absolute paths, since workers have another working directory."""
        named = {"bundle": self.bundle} | ({"unlabelled": self.unlabelled} if self.unlabelled else {})
        return self.model_copy(update={name: str(Path(path).expanduser().resolve()) for name, path in named.items()})

    def check(self, task: BaseTask[Any], encoder: Encoder, student: str) -> str:
        """Checks that the teacher fits the student, before a worker starts; returns the digest of its bundle.

        Args:
            task: The student's.
            encoder: Of the student.
            student: The name of its model.

        Raises:
            BundleError: It is no bundle.
            ConfigError: Its outputs or sub-words are others, its windows shorter, or its layers not those that are asked for.
        """
        bundle = Bundle.load(self.bundle)
        _check_outputs(bundle, task, encoder)
        if self.uses_activations:
            self._check_layers(student)
        return bundle.digest

    def _check_layers(self, student: str) -> None:
        from training.model.models import load_config

        own, other = load_config(student), load_config(self.bundle)
        if self.hidden.weight:
            self.hidden.match(own.num_hidden_layers, other.num_hidden_layers)
        if self.relations.layer and self.relations.layer > other.num_hidden_layers:
            raise ConfigError(
                f"teacher.relations.layer={self.relations.layer}",
                allowed=f"1 to {other.num_hidden_layers}, the layers of {self.bundle}",
                remedy="lower it or leave it out",
            )
        heads = self.relations.heads or own.num_attention_heads
        widths = {"the student": own.hidden_size, "the teacher": other.hidden_size}
        if self.relations.weight and (odd := [name for name, width in widths.items() if width % heads]):
            raise ConfigError(
                f"teacher.relations.heads={heads} does not divide the width of {odd[0]}, {widths[odd[0]]}",
                allowed=f"a divisor of {' and '.join(str(width) for width in sorted(set(widths.values())))}",
                remedy="set teacher.relations.heads",
            )


def _check_outputs(bundle: Bundle, task: BaseTask[Any], encoder: Encoder) -> None:
    if task.decision.of_vocabulary:
        raise ConfigError(
            f"teacher.bundle={bundle.path}: {task.kind} learns from text, without a teacher",
            allowed="no teacher",
            remedy="leave teacher out",
        )
    if bundle.task.outputs != task.outputs:
        raise ConfigError(
            f"teacher.bundle={bundle.path} has the outputs {', '.join(bundle.task.outputs)}",
            allowed=f"an agent with {', '.join(task.outputs)}",
            remedy="choose another teacher, or give its labels in task.labels",
        )
    if bundle.encoder.tokenizer.get_vocab() != encoder.tokenizer.get_vocab():
        raise ConfigError(
            f"teacher.bundle={bundle.path} cuts texts into other sub-words than the model in training",
            allowed="a teacher with the same tokenizer",
            remedy="choose a model.name that shares the teacher's tokenizer",
        )
    if bundle.encoder.segmentation != encoder.segmentation:
        raise ConfigError(
            f"teacher.bundle={bundle.path} cuts texts into other pieces than the model in training ({encoder.segmentation.told})",
            allowed=f"the teacher's: {bundle.encoder.segmentation.told}",
            remedy="set segmentation to the teacher's",
        )
    if bundle.manifest.max_tokens < encoder.max_tokens:
        raise ConfigError(
            f"teacher.bundle={bundle.path} reads {bundle.manifest.max_tokens} tokens, the model in training {encoder.max_tokens}",
            allowed="windows that the teacher can read",
            remedy=f"set model.max_tokens={bundle.manifest.max_tokens}",
        )
