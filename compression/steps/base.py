"""What every step is: a configuration with a `run` that changes the state."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, ClassVar

from agent.config.base import Config
from compression.pipeline.pipeline_state import State


class BaseStep(Config, ABC):
    """A step of compression.

    Attributes:
        place: Where in a run it belongs; steps are taken by ascending place.
        restores: Whether it wins quality back: the gate does not judge what lies before such a step.
    """

    place: ClassVar[int]
    restores: ClassVar[bool] = False
    kind: str

    def check(self) -> None:
        """Refuses, before work starts, what this installation cannot do.

        Raises:
            ConfigError: Names what must be installed.
        """

    def heeds(self, following: Sequence[Any]) -> Any:
        """What beside the agent, the data and the steps before it changes what it does, as a plain value.

        That is what it reads of the steps after it, or of files (their digest). A finished step is not taken again while its
        own configuration, everything before it and this are the same.
        """
        return None

    @abstractmethod
    def run(self, state: State) -> None:
        """Does its work on the state and leaves a note of what it did.

        What it changes survives an interruption if it lies in the state as compression/pipeline/pipeline_state.py says. Weights that changed
        are told by `state.changed`; a tokenizer that was rewritten in `state.directory` by `state.reload_encoder()`.

        Raises:
            AgentError: It cannot be done; nothing will be published.
        """
