"""The contract of a step: a configuration with a `run` that changes the state."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, ClassVar

from agent.config.base import Config
from agent.errors import ConfigError
from agent.tasks import BaseTask
from compression.state.pipeline_state import PipelineState


class BaseStep(Config, ABC):
    """A step of compression.

    Attributes:
        position: Orders the steps of a run, which ascend by it.
        recovers_quality: Whether it recovers the score: the gate does not judge the steps before it.
        for_writers: Whether it is for agents that write, or for all others; None: for both.
    """

    position: ClassVar[int]
    recovers_quality: ClassVar[bool] = False
    for_writers: ClassVar[bool | None] = False
    kind: str

    def check(self) -> None:
        """Refuses, before work starts, what this installation cannot do.

        Raises:
            ConfigError: Names what must be installed.
        """

    def check_task(self, task: BaseTask[Any]) -> None:
        """Refuses, before work starts, a task that the step is not for.

        Raises:
            ConfigError: Names it.
        """
        if self.for_writers is None or self.for_writers == task.writes:
            return
        if task.writes:
            raise ConfigError(
                f"step {self.kind} is not for agents of {task.kind}, which write texts: no ONNX graph is made of them",
                allowed="distill_texts (of sequence_to_sequence), convert, verify",
                remedy="give steps=[convert,verify], or no steps at all",
            )
        raise ConfigError(
            f"step {self.kind} is for agents that write texts, and this is one of {task.kind}",
            allowed="all other steps",
            remedy="give steps=[export,quantize,verify], a preset, or no steps at all",
        )

    def extra_cache_inputs(self, following: Sequence[Any]) -> Any:
        """Extra inputs to this step's cache key, as a plain value: what it reads of later steps, or digests of files.

        A finished step is not run again while its configuration, everything before it and this value are the same.
        """
        return None

    @abstractmethod
    def run(self, state: PipelineState) -> None:
        """Changes the state and notes what it did.

        A step that changes weights sets `state.weights_changed`; one that rewrites the tokenizer in `state.directory` calls
        `state.reload_encoder()`.

        Raises:
            AgentError: It cannot be done; nothing will be published.
        """
