"""How many ONNX Runtime sessions of how many threads compute: measured on the machine, where the config says `auto`.

Which is faster depends on the cores, the graph and what else the machine does: several sessions of one thread have no
barriers, one session of all threads computes a lone batch faster, spinning threads save wake-ups and take cores from
tokenising, ONNX Runtime's arena saves allocations and keeps memory. So the few candidates run the batches of a busy
server for a moment, in turns, and the fastest is taken; an everyday choice stays unless another is clearly faster.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Literal, Self

from pydantic import Field, model_validator

from agent.batching import Batch
from agent.config.base import Config
from agent.encoding import Float32

Auto = Literal["auto"]
_log = logging.getLogger(__name__)
_CLEARLY = 1.05  # two runs of the same candidate differ by less on a quiet machine
_ROUNDS, _ROUND_S = 2, 0.2

Forward = Callable[[Batch], Float32]


class ComputeConfig(Config):
    """How an engine computes."""

    provider: Literal["auto", "cpu", "cuda", "tensorrt"] = Field(
        "auto",
        description="where ONNX Runtime computes: cpu, cuda, tensorrt, or auto for cuda where the process has a GPU",
    )
    sessions: int | Auto = Field(
        "auto",
        description="batches computed at once: a number, or auto for what is fastest when measured (one on a GPU)",
    )
    threads_per_session: int | Auto = Field(
        "auto", description="threads of one batch: a number, or auto for the cores divided by the sessions"
    )
    spinning: bool | Auto = Field(
        "auto", description="whether a batch's idle threads spin before they sleep: true, false, or auto as measured"
    )
    arena: bool | Auto = Field(
        "auto", description="whether memory of a batch is kept for the next: true, false, or auto as measured"
    )
    max_batch_tokens: int = Field(
        64,
        ge=16,
        description="padded tokens in a batch; 64 was fastest of 16 to 512 on CPU cores with short texts (docs/serving.md), "
        "a GPU wants thousands",
    )

    @model_validator(mode="after")
    def _positive(self) -> Self:
        for name in ("sessions", "threads_per_session"):
            value = getattr(self, name)
            if value != "auto" and value < 1:
                raise ValueError(f"{name} is {value}; allowed is 'auto' or a number from 1")
        return self


@dataclass(frozen=True, slots=True)
class SessionPlan:
    """How an engine computes.

    Attributes:
        sessions: Batches computed at once.
        threads: Threads of one batch.
        spinning: Whether idle threads of a batch spin for a while before they sleep.
        arena: Whether freed memory is kept for the next batch.
        on_event_loop: Whether a server computes on its event loop instead of in threads of their own.
    """

    sessions: int
    threads: int
    spinning: bool = False
    arena: bool = True
    on_event_loop: bool = False

    def __str__(self) -> str:
        sessions = (
            f"{self.sessions} session{'s' * (self.sessions > 1)} of {self.threads} thread{'s' * (self.threads > 1)}"
        )
        where = "on the event loop" if self.on_event_loop else "in threads"
        return f"{sessions} {where}, {'spinning' if self.spinning else 'no spinning'}, {'arena' if self.arena else 'no arena'}"


def everyday(config: ComputeConfig, *, num_cpus: int, gpu: bool) -> SessionPlan:
    """The plan where nothing is measured: one thread for each session, one session per core, or one for a GPU.

    One thread on one core needs no other thread to feed it: it computes on the event loop.
    """
    sessions = config.sessions if config.sessions != "auto" else (1 if gpu else num_cpus)
    threads = config.threads_per_session if config.threads_per_session != "auto" else max(1, num_cpus // sessions)
    spinning = config.spinning if config.spinning != "auto" else False
    arena = config.arena if config.arena != "auto" else True
    return SessionPlan(sessions, threads, spinning, arena, on_event_loop=sessions == threads == 1 and not gpu)


def candidates(config: ComputeConfig, *, num_cpus: int) -> list[SessionPlan]:
    """All plans for CPU cores that the config leaves open, the everyday one first."""
    first = everyday(config, num_cpus=num_cpus, gpu=False)
    shapes = [(first.sessions, first.threads)]
    if config.sessions == "auto" and config.threads_per_session == "auto":
        shapes += [(num_cpus // threads, threads) for threads in (2, num_cpus) if num_cpus % threads == 0]
    found = [
        first if shape == shapes[0] else replace(first, sessions=shape[0], threads=shape[1], on_event_loop=False)
        for shape in dict.fromkeys(shapes)
    ]
    if config.spinning == "auto":
        found += [replace(plan, spinning=True) for plan in found if plan.threads > 1]
    if config.arena == "auto":
        found.append(replace(first, arena=False))
    return found


def measured(
    plans: Sequence[SessionPlan], open_forward: Callable[[SessionPlan], Forward], batches: Sequence[Batch]
) -> SessionPlan:
    """The fastest of several plans.

    Args:
        plans: What to try; the first is kept unless another is clearly faster.
        open_forward: Opens what computes a batch under a plan, safe to call from as many threads as it has sessions.
        batches: What a busy server computes.
    """
    if len(plans) == 1:
        return plans[0]
    forwards = {plan: open_forward(plan) for plan in plans}
    rates = dict.fromkeys(plans, 0.0)
    for _ in range(_ROUNDS):
        for plan, forward in forwards.items():
            rates[plan] = max(rates[plan], _rate(plan.sessions, forward, batches))
    best = max(plans, key=rates.__getitem__)
    chosen = best if rates[best] > _CLEARLY * rates[plans[0]] else plans[0]
    told = "; ".join(f"{plan}: {rate:,.0f}" for plan, rate in sorted(rates.items(), key=lambda item: -item[1]))
    _log.info("computing with %s (tokens/s measured: %s)", chosen, told)
    return chosen


def _rate(sessions: int, forward: Forward, batches: Sequence[Batch]) -> float:
    """Padded tokens a second, all sessions busy."""
    end = time.monotonic() + _ROUND_S
    started = time.monotonic()
    with ThreadPoolExecutor(sessions) as pool:
        done = sum(pool.map(lambda _: sum(_until(end, forward, batches)), range(sessions)))
    return done / (time.monotonic() - started)


def _until(end: float, forward: Forward, batches: Sequence[Batch]) -> Iterator[int]:
    while True:
        for batch in batches:
            forward(batch)
            yield batch.input_ids.size
            if time.monotonic() > end:
                return
