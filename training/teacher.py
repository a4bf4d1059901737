"""Distillation: a model in training learns from what a finished agent thinks beside what the labels say."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import Field

from agent.bundle import Bundle
from agent.config import Config
from agent.encoding import IGNORED, Encoder
from agent.errors import ConfigError
from agent.tasks import BaseTask

if TYPE_CHECKING:
    import torch


class TeacherConfig(Config):
    """Whom to learn from, and how much."""

    bundle: str = Field(description="bundle of the agent whose probabilities are learned; same labels, same tokenizer")
    temperature: float = Field(2.0, gt=0, description="divides logits of both: above 1 what is improbable counts more")
    weight: float = Field(
        0.8, gt=0, le=1, description="part of the loss that the teacher has; the labels have the rest"
    )

    def absolute(self) -> TeacherConfig:
        """With a path that workers find from any directory."""
        return self.model_copy(update={"bundle": str(Path(self.bundle).expanduser().resolve())})

    def check(self, task: BaseTask[Any], encoder: Encoder) -> None:
        """Refuses, before a worker starts, a teacher of other outputs, other sub-words or shorter windows.

        Args:
            task: What is trained.
            encoder: Of the student.

        Raises:
            BundleError: It is no bundle.
            ConfigError: It does not fit.
        """
        bundle = Bundle.load(self.bundle)
        if bundle.task.outputs != task.outputs:
            raise ConfigError(
                f"teacher.bundle={self.bundle} has the outputs {', '.join(bundle.task.outputs)}",
                allowed=f"an agent with {', '.join(task.outputs)}",
                remedy="choose another teacher, or give its labels in task.labels",
            )
        if bundle.encoder.tokenizer.get_vocab() != encoder.tokenizer.get_vocab():
            raise ConfigError(
                f"teacher.bundle={self.bundle} cuts texts into other sub-words than the model in training",
                allowed="a teacher with the same tokenizer",
                remedy="choose a model.name that shares the teacher's tokenizer",
            )
        if bundle.manifest.max_tokens < encoder.max_tokens:
            raise ConfigError(
                f"teacher.bundle={self.bundle} reads {bundle.manifest.max_tokens} tokens, the model in training {encoder.max_tokens}",
                allowed="windows that the teacher can read",
                remedy=f"set model.max_tokens={bundle.manifest.max_tokens}",
            )

    def load(self, task: BaseTask[Any], device: torch.device) -> Teacher:
        """The teacher, ready to be asked.

        Raises:
            ModelError: transformers cannot load it.
        """
        from training.models import ModelConfig, build_model

        return Teacher(build_model(ModelConfig(name=self.bundle), task).to(device), self)


class Teacher:
    """A finished agent that is asked about every batch.

    Args:
        model: On the device of the student; its weights stay as they are.
        config: How it is listened to.
    """

    def __init__(self, model: torch.nn.Module, config: TeacherConfig) -> None:
        self._model, self._config = model.eval().requires_grad_(requires_grad=False), config

    def blend(
        self, loss: torch.Tensor, logits: torch.Tensor, targets: torch.Tensor, inputs: Mapping[str, torch.Tensor]
    ) -> torch.Tensor:
        """Adds the teacher's part: T^2 times the divergence of the student's probabilities from its own, at temperature T
        (Hinton et al., arXiv 1503.02531, section 2), summed over labelled targets.

        Args:
            loss: [], that of the labels, a sum over the same targets.
            logits: float [..., outputs], the student's.
            targets: int64 [...]; where they are -100 nobody is asked.
            inputs: The padded batch on the device, [rows, tokens] each.
        """
        from torch.nn.functional import kl_div, log_softmax

        asked = targets != IGNORED
        temperature, weight = self._config.temperature, self._config.weight
        wanted = self._logits(inputs, like=logits)[asked].float() / temperature
        given = logits[asked].float() / temperature
        divergence = kl_div(log_softmax(given, -1), log_softmax(wanted, -1), reduction="sum", log_target=True)
        return (1 - weight) * loss + weight * temperature**2 * divergence

    def _logits(self, inputs: Mapping[str, torch.Tensor], *, like: torch.Tensor) -> torch.Tensor:
        """Computed in the student's precision."""
        import torch

        half = like.dtype == torch.bfloat16
        with torch.no_grad(), torch.autocast(like.device.type, torch.bfloat16, enabled=half):
            logits: torch.Tensor = self._model(**inputs).logits
        return logits
