"""What every step is: a configuration with a `run` that changes the state."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import ClassVar

from agent.config import Config
from compression.state import State


class BaseStep(Config, ABC):
    """A step of compression.

    Attributes:
        place: Where in a run it belongs; steps are taken by ascending place.
    """

    place: ClassVar[int]
    kind: str

    def check(self) -> None:
        """Refuses, before work starts, what this installation cannot do.

        Raises:
            ConfigError: Names what must be installed.
        """

    @abstractmethod
    def run(self, state: State) -> None:
        """Does its work on the state and leaves a note of what it did.

        Raises:
            AgentError: It cannot be done; nothing will be published.
        """
