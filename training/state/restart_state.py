"""What outlives a worker group: a tiny actor beside the driver that tells the next group why the last one ended."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from agent.errors import AgentError


@dataclass(frozen=True)
class Start:
    """What a starting worker finds.

    Attributes:
        failure: An error that another start would only meet again; all workers hand it back.
        micro_tokens: The budget of a micro-batch, halved whenever memory was short.
        starts: Worker groups before this one.
    """

    failure: AgentError | None
    micro_tokens: int
    starts: int


class Notes:
    """The actor's state."""

    def __init__(self, micro_tokens: int) -> None:
        self._failure: AgentError | None = None
        self._micro_tokens = micro_tokens
        self._starts = 0

    def begin(self, rank: int) -> Start:
        """Called once by every worker."""
        start = Start(self._failure, self._micro_tokens, self._starts)
        self._starts += rank == 0
        return start

    def fail(self, failure: AgentError) -> None:
        """Notes an error that ends the run; the first one is the cause of the others."""
        self._failure = self._failure or failure

    def halve(self, micro_tokens: int) -> None:
        """Halves the budget that was too much; several workers may say so of the same one."""
        self._micro_tokens = min(self._micro_tokens, micro_tokens // 2)


class RestartState:
    """A handle on the notes of a run."""

    def __init__(self, micro_tokens: int) -> None:
        import ray
        from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

        # On the driver's node: when that is lost so is the run, when another is lost the notes must not be.
        here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
        self._notes: Any = ray.remote(num_cpus=0, scheduling_strategy=here)(Notes).remote(micro_tokens)

    def begin(self, rank: int) -> Start:
        """See `Notes.begin`."""
        import ray

        start: Start = ray.get(self._notes.begin.remote(rank))
        return start

    def fail(self, failure: AgentError) -> None:
        """See `Notes.fail`."""
        import ray

        ray.get(self._notes.fail.remote(failure))

    def halve(self, micro_tokens: int) -> None:
        """See `Notes.halve`."""
        import ray

        ray.get(self._notes.halve.remote(micro_tokens))
