"""What an agent with a cascade computes of a window: the first pass, or the second where the first was not sure of the text."""

from __future__ import annotations

from dataclasses import dataclass

from agent.encoding import Int64, Window


@dataclass(frozen=True, slots=True)
class SecondPass:
    """A window of a text that goes on to the agent's own graph."""

    window: Window

    @property
    def input_ids(self) -> Int64:
        """int64 [tokens]."""
        return self.window.input_ids


WindowWork = Window | SecondPass
"""A window is computed by the first pass, where there is one."""
