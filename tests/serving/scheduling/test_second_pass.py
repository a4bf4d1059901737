"""Work that goes on to a second pass: it waits as if it had come with its request, in batches of its own, and leaves with its caller."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from agent.encoding import Float32, Window
from serving.inference.passes import SecondPass, WindowWork
from serving.scheduling.batch_scheduler import Bounds, Submission
from serving.scheduling.batcher import TokenBatcher
from serving.scheduling.executors import LoopExecutor
from serving.scheduling.predictor import Predictor
from serving.scheduling.refusals import DeadlineError
from tests.serving.gated import gated
from tests.serving.tiny import TEXTS, make_cascade


def window(length: int, mark: int = 0) -> Window:
    return Window(np.full(length, mark, np.int64), np.zeros(length, np.int64), 0, length, 0)


class Passes:
    """Says of each window which pass computed it, and notes the batches."""

    def __init__(self) -> None:
        self.batches: list[list[tuple[int, int]]] = []

    def __call__(self, works: Sequence[WindowWork]) -> list[Float32]:
        said = [(1 + isinstance(work, SecondPass), int(work.input_ids[0])) for work in works]
        self.batches.append(said)
        return [np.array(one, np.float32) for one in said]


class Twice:
    """A caller whose windows all take both passes."""

    def __init__(self, batcher: TokenBatcher, windows: Sequence[Window]) -> None:
        self.windows, self.found = windows, list[tuple[int, ...]]()
        self.over: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._batcher = batcher
        self.submission: Submission = batcher.submit(windows, self)

    def deliver(self, place: int, output: Float32) -> None:
        self.found.append((place, *map(int, output)))
        if output[0] == 1:
            self._batcher.go_on(self.submission, [(place, SecondPass(self.windows[place]))])
        elif len(self.found) == 2 * len(self.windows):
            self.over.set_result(None)

    def fail(self, error: Exception) -> None:
        self.over.set_exception(error)


def drive(model: Passes, scenario: Any, *, max_queued_tokens: int = 40) -> Any:
    batcher = TokenBatcher(LoopExecutor(model), Bounds(max_batch_tokens=64, max_queued_tokens=max_queued_tokens))

    async def guarded() -> Any:
        waiting: Coroutine[Any, Any, Any] = scenario(batcher)
        return await asyncio.wait_for(waiting, 20)

    return asyncio.run(guarded())


def test_every_window_takes_both_passes_in_batches_of_one_pass_also_where_the_queue_is_full() -> None:
    model = Passes()

    async def scenario(batcher: TokenBatcher) -> list[Twice]:
        callers = [Twice(batcher, [window(5, 10 * number + at) for at in range(2)]) for number in range(4)]
        await asyncio.gather(*(one.over for one in callers))
        assert batcher.queued_windows == batcher.queued_tokens == 0
        return callers

    for number, caller in enumerate(drive(model, scenario)):
        marks = [10 * number, 10 * number + 1]
        assert sorted(caller.found) == [(at, turn, mark) for at, mark in enumerate(marks) for turn in (1, 2)]
    assert all(len({turn for turn, _ in batch}) == 1 for batch in model.batches)


def test_what_goes_on_is_due_before_what_came_later() -> None:
    model = Passes()

    async def scenario(batcher: TokenBatcher) -> None:
        old = Twice(batcher, [window(30, 1)])
        while not old.found:
            await asyncio.sleep(0)
        young = Twice(batcher, [window(30, 2)])
        await asyncio.gather(old.over, young.over)

    drive(model, scenario, max_queued_tokens=60)
    assert model.batches == [[(1, 1)], [(2, 1)], [(1, 2)], [(2, 2)]]


def test_who_leaves_takes_the_second_pass_along() -> None:
    model = Passes()

    async def scenario(batcher: TokenBatcher) -> None:
        caller = Twice(batcher, [window(5, 1)])
        while not caller.found:
            await asyncio.sleep(0)
        assert batcher.queued_windows == 1
        batcher.withdraw(caller.submission)
        assert batcher.queued_windows == 0
        await asyncio.sleep(0.01)

    drive(model, scenario)
    assert model.batches == [[(1, 1)]]


def test_a_deadline_ends_a_request_whose_second_pass_is_not_done(tagger_path: Path, tmp_path: Path) -> None:
    engine = gated(make_cascade(tmp_path / "cascade", tagger_path, 1.0))  # the gate stands before the second pass
    predictor = Predictor(engine)
    try:
        with pytest.raises(DeadlineError):
            asyncio.run(predictor.predict(TEXTS[:1], engine.bundle.task.parameters(), timeout_s=0.2))
    finally:
        engine.gate.set()
        predictor.close()
