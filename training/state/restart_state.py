"""State that outlives a worker group: an actor on the driver's node that tells the next group why the last one ended."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from agent.errors import AgentError, TrainingError

_CRASH_REMEDY = "see the traces above; max_failures is how often a run goes on from its last checkpoint"


@dataclass(frozen=True)
class WorkerStart:
    """What a starting worker receives.

    Attributes:
        failure: An error that a restart would only repeat; all workers return it.
        micro_tokens: The budget of a micro-batch, halved whenever memory ran out.
        starts: Worker groups before this one.
    """

    failure: AgentError | None
    micro_tokens: int
    starts: int


class RestartState:
    """The state; an actor, see `start_restart_actor`."""

    def __init__(self, micro_tokens: int, max_failures: int) -> None:
        self._failure: AgentError | None = None
        self._micro_tokens = micro_tokens
        self._failures_left = max_failures
        self._starts = 0

    def register(self, rank: int) -> WorkerStart:
        """Registers a starting worker; called once by every worker."""
        start = WorkerStart(self._failure, self._micro_tokens, self._starts)
        self._starts += rank == 0
        return start

    def fail(self, failure: AgentError) -> None:
        """Records an error that ends the run; the first one is the cause of the others."""
        self._failure = self._failure or failure

    def crash(self, error: str) -> None:
        """Records an unexpected exception of worker 0. One more than the run may go on from ends it.

        Ray Train's own limit leaves room for halved micro-batches, which these do not take.
        """
        self._failures_left -= 1
        if self._failures_left < 0:
            self.fail(TrainingError(f"the workers failed again and again, last with {error}", remedy=_CRASH_REMEDY))

    def halve(self, micro_tokens: int) -> None:
        """Halves the micro-batch budget that was too large; several workers may report the same one."""
        self._micro_tokens = min(self._micro_tokens, micro_tokens // 2)


def start_restart_actor(micro_tokens: int, max_failures: int) -> Any:
    """Starts the actor on the driver's node: when that node is lost so is the run; losing another must not lose this state."""
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    return ray.remote(num_cpus=0, scheduling_strategy=here)(RestartState).remote(micro_tokens, max_failures)
