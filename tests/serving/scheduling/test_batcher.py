"""The batcher: every window once, within the budget, nobody starves, nobody who left is computed for."""

from __future__ import annotations

import asyncio
import itertools
import math
import pickle
import re
import threading
import time
from collections.abc import Callable, Coroutine, Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agent.batching import cut_by_length
from agent.encoding import Float32, Window
from agent.errors import RequestError
from serving.scheduling.batch_scheduler import Bounds
from serving.scheduling.batcher import TokenBatcher
from serving.scheduling.executors import LoopExecutor, ThreadExecutor
from serving.scheduling.refusals import OverloadError, RateLimitError

BUDGET = 64
LENGTHS = st.lists(st.integers(1, 90), min_size=1, max_size=30)


def window(length: int, mark: int = 0) -> Window:
    return Window(np.full(length, mark, np.int64), np.zeros(length, np.int64), 0, length, 0)


class Model:
    """Echoes each window's mark and length; records its batches; takes as long as it is told, or until it is let go."""

    def __init__(self, seconds: float = 0) -> None:
        self.seconds, self.batches, self.gate = seconds, [], threading.Event()
        self.gate.set()

    def __call__(self, windows: Sequence[Window]) -> list[Float32]:
        self.batches.append([(int(item.input_ids[0]), len(item.input_ids)) for item in windows])
        time.sleep(self.seconds)
        assert self.gate.wait(10)
        return [np.array([item.input_ids[0], len(item.input_ids)], np.float32) for item in windows]

    def lengths(self) -> list[list[int]]:
        return [[length for _, length in batch] for batch in self.batches]


class Clocked(Model):
    """Computes at once, on a clock that the batcher goes by: what is due when does not hang on the machine's neighbours."""

    def __init__(self, seconds: float, monkeypatch: pytest.MonkeyPatch) -> None:
        super().__init__()
        self.took, self.now = seconds, 0.0
        for module in ("batch_scheduler", "executors"):
            monkeypatch.setattr(f"serving.scheduling.{module}.time", self)

    def __call__(self, windows: Sequence[Window]) -> list[Float32]:
        self.now += self.took
        return super().__call__(windows)

    def monotonic(self) -> float:
        return self.now


class Collector:
    """A caller who waits for all of its windows."""

    def __init__(self, count: int) -> None:
        self.outputs: list[Any] = [None] * count
        self.missing, self.over = count, asyncio.get_running_loop().create_future()

    def deliver(self, place: int, output: Float32) -> None:
        self.outputs[place] = output
        self.missing -= 1
        if not self.missing and not self.over.done():
            self.over.set_result(self.outputs)

    def fail(self, error: Exception) -> None:
        if not self.over.done():
            self.over.set_exception(error)


async def run(batcher: TokenBatcher, windows: Sequence[Window]) -> list[Float32]:
    """Submits windows and waits for them; whoever is cancelled withdraws."""
    collector = Collector(len(windows))
    submission = batcher.submit(windows, collector)
    try:
        return await collector.over
    finally:
        batcher.withdraw(submission)


def drive(
    model: Callable[..., Any],
    scenario: Callable[[TokenBatcher], Coroutine[Any, Any, Any]],
    *,
    workers: int = 1,
    **bounds: Any,
) -> Any:
    """Runs a scenario; without workers the event loop itself computes."""
    executor = ThreadExecutor(model, workers) if workers else LoopExecutor(model)
    batcher = TokenBatcher(executor, Bounds(**{"max_batch_tokens": BUDGET} | bounds))

    async def guarded() -> Any:
        return await asyncio.wait_for(scenario(batcher), 20)

    try:
        return asyncio.run(guarded())
    finally:
        batcher.close()


@settings(max_examples=60, deadline=None)
@given(requests=st.lists(LENGTHS, min_size=1, max_size=8), workers=st.integers(0, 3))
def test_every_window_is_computed_once_and_answers_keep_their_order(requests: list[list[int]], workers: int) -> None:
    model = Model()

    async def scenario(batcher: TokenBatcher) -> list[list[Float32]]:
        return await asyncio.gather(
            *(run(batcher, [window(length, mark) for length in lengths]) for mark, lengths in enumerate(requests))
        )

    answers = drive(model, scenario, workers=workers)
    for mark, (lengths, outputs) in enumerate(zip(requests, answers, strict=True)):
        assert [tuple(output) for output in outputs] == [(mark, length) for length in lengths]
    computed = sorted(item for batch in model.batches for item in batch)
    assert computed == sorted((mark, length) for mark, lengths in enumerate(requests) for length in lengths)


@settings(max_examples=60, deadline=None)
@given(requests=st.lists(LENGTHS, min_size=1, max_size=8), max_wait_s=st.sampled_from([1e-9, 10]))
def test_the_budget_of_padded_tokens_is_kept(requests: list[list[int]], max_wait_s: float) -> None:
    model = Model()

    async def scenario(batcher: TokenBatcher) -> None:
        await asyncio.gather(*(run(batcher, [window(length) for length in lengths]) for lengths in requests))

    drive(model, scenario, max_wait_s=max_wait_s)
    for batch in model.lengths():
        assert len(batch) == 1 or max(batch) * len(batch) <= BUDGET


@settings(max_examples=40, deadline=None)
@given(lengths=LENGTHS, workers=st.integers(0, 3), max_wait_s=st.sampled_from([1e-9, 10]))
def test_a_request_alone_gets_the_batches_of_cut_by_length(lengths: list[int], workers: int, max_wait_s: float) -> None:
    model = Model()
    drive(
        model,
        lambda batcher: run(batcher, [window(n, i) for i, n in enumerate(lengths)]),
        workers=workers,
        max_wait_s=max_wait_s,
    )
    expected = [[(i, lengths[i]) for i in batch] for batch in cut_by_length(lengths, max_tokens=BUDGET)]
    assert sorted(model.batches) == sorted(expected)
    if workers < 2:
        assert model.batches == expected


def test_on_the_event_loop_the_network_is_served_between_two_batches() -> None:
    seen: list[int] = []

    def forward(windows: Sequence[Window]) -> list[Float32]:
        seen.append(len(seen))
        return [np.zeros((1, 1), np.float32) for _ in windows]

    async def scenario(batcher: TokenBatcher) -> list[int]:
        waiting = asyncio.ensure_future(run(batcher, [window(BUDGET)] * 5))
        turns = []
        while not waiting.done():
            await asyncio.sleep(0)
            turns.append(len(seen))
        return turns

    turns = drive(forward, scenario, workers=0)
    assert max(after - before for before, after in itertools.pairwise(turns)) == 1, turns


def test_a_lone_window_starts_at_once() -> None:
    model = Model()

    async def scenario(batcher: TokenBatcher) -> None:
        for count in range(20):
            task = asyncio.create_task(run(batcher, [window(5)]))
            for _ in range(2):  # its own turn, then that of the batcher: no timer passes
                await asyncio.sleep(0)
            assert len(model.batches) == count + 1
            await task

    drive(model, scenario, workers=0, max_wait_s=5)


def test_short_texts_overtake_long_ones_that_have_not_waited_long() -> None:
    model = Model(0.02)

    async def scenario(batcher: TokenBatcher) -> None:
        first = asyncio.create_task(run(batcher, [window(60, 0)]))
        await asyncio.sleep(0.005)
        await asyncio.gather(first, run(batcher, [window(60, 1)]), run(batcher, [window(5, 2)]))

    drive(model, scenario, max_wait_s=5)
    assert [mark for batch in model.batches for mark, _ in batch] == [0, 2, 1]


def waited_beside_a_stream(model: Clocked, **bounds: float) -> float:
    """Seconds from a long text's coming to its answer, while a full batch of short ones waits at all times."""

    async def scenario(batcher: TokenBatcher) -> float:
        async def stream() -> None:
            while not stop.is_set():
                await run(batcher, [window(5)])

        stop = asyncio.Event()
        streams = [asyncio.create_task(stream()) for _ in range(60)]
        while len(model.batches) < 10:
            await asyncio.sleep(0)
        began = model.now
        await run(batcher, [window(60, 1)])
        waited = model.now - began
        stop.set()
        await asyncio.gather(*streams)
        return waited

    return drive(model, scenario, workers=0, **bounds)


def test_a_long_text_is_not_starved_by_a_stream_of_short_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    model, bound = Clocked(0.005, monkeypatch), 0.1
    waited = waited_beside_a_stream(model, max_wait_s=bound)
    # five full batches, 25 ms, may have come before it
    assert bound <= waited <= bound + 5 * model.took + 2 * model.took


def test_a_text_is_not_overtaken_for_longer_than_a_multiple_of_its_own_work(monkeypatch: pytest.MonkeyPatch) -> None:
    model = Clocked(0.005, monkeypatch)  # 12 windows of 5 in 5 ms: 12,000 tokens a second
    waited = waited_beside_a_stream(model, overtaking=10, max_wait_s=60)  # by 600 tokens: 50 ms
    assert 0.05 <= waited <= 0.05 + 5 * model.took + 2 * model.took


def test_a_large_request_leaves_room_to_others_and_is_not_starved_by_them(monkeypatch: pytest.MonkeyPatch) -> None:
    model = Clocked(0.004, monkeypatch)

    async def scenario(batcher: TokenBatcher) -> None:
        async def stream() -> None:
            while not large.done():
                await run(batcher, [window(50, 2)])

        await run(batcher, [window(60, 9)])  # the rate is known
        large = asyncio.create_task(run(batcher, [window(60, 1)] * 60))
        while len(model.batches) < 8:
            await asyncio.sleep(0)
        await asyncio.gather(*(stream() for _ in range(4)))

    drive(model, scenario, workers=0, max_wait_s=0.01)
    marks = [mark for batch in model.batches for mark, _ in batch]
    begin, end = marks.index(2), len(marks) - marks[::-1].index(1)
    large, others = marks[begin:end].count(1), marks[begin:end].count(2)
    assert large > 10
    assert 0.4 * large < others < 2.5 * large


def test_a_batch_is_what_is_due_and_shorter_neighbours_then_longer_ones() -> None:
    def cut(old: int, *young: int) -> list[int]:
        model = Model()

        async def scenario(batcher: TokenBatcher) -> None:
            model.gate.clear()
            blocker = asyncio.create_task(run(batcher, [window(1, 9)]))
            await asyncio.sleep(0.01)
            tasks = [asyncio.create_task(run(batcher, [window(old, 1)]))]
            await asyncio.sleep(0.05)
            tasks += [asyncio.create_task(run(batcher, [window(n, 2)])) for n in young]
            await asyncio.sleep(0.01)
            model.gate.set()
            await asyncio.gather(blocker, *tasks)

        drive(model, scenario, max_wait_s=0.02)
        return model.lengths()[1]

    assert cut(20, 5, 10, 19, 25) == [10, 19, 20]
    assert cut(20, 19, 21, 25) == [19, 20, 21]
    assert cut(40, 5, 41) == [40]
    assert cut(BUDGET + 9, 5, 41) == [BUDGET + 9]


def test_windows_of_callers_who_left_are_not_computed() -> None:
    model = Model()

    async def scenario(batcher: TokenBatcher) -> int:
        model.gate.clear()
        first = asyncio.create_task(run(batcher, [window(5, 0)]))
        await asyncio.sleep(0.01)
        left = asyncio.create_task(run(batcher, [window(5, 1)] * 10))
        stays = asyncio.create_task(run(batcher, [window(5, 2)]))
        await asyncio.sleep(0.01)
        left.cancel()
        await asyncio.sleep(0.01)
        model.gate.set()
        await asyncio.gather(first, stays)
        with pytest.raises(asyncio.CancelledError):
            await left
        return batcher.queued_tokens

    assert drive(model, scenario) == 0
    assert {mark for batch in model.batches for mark, _ in batch} == {0, 2}


def test_a_full_queue_refuses_with_a_time_to_come_back_and_recovers() -> None:
    model = Model()

    async def scenario(batcher: TokenBatcher) -> OverloadError:
        model.gate.clear()
        tasks = [asyncio.create_task(run(batcher, [window(50)]))]
        while not model.batches:
            await asyncio.sleep(0.001)
        tasks += [asyncio.create_task(run(batcher, [window(50)])) for _ in range(3)]  # one runs, two wait
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)  # the one that is refused
        model.gate.set()
        results = await asyncio.gather(*tasks, return_exceptions=True)
        await run(batcher, [window(50)])
        refused = [result for result in results if isinstance(result, OverloadError)]
        assert len(refused) == 1
        return refused[0]

    error = drive(model, scenario, max_queued_tokens=100)
    assert error.status == 429
    assert error.retry_after_s >= 1
    for refusal in (error, RateLimitError("used up", allowed="1 text/s", retry_after_s=7)):
        copy = pickle.loads(pickle.dumps(refusal))
        assert (type(copy), copy.status, copy.retry_after_s, str(copy)) == (
            type(refusal),
            429,
            refusal.retry_after_s,
            str(refusal),
        )


def test_the_time_to_come_back_follows_the_measured_rate() -> None:
    model = Model(0.05)

    async def scenario(batcher: TokenBatcher) -> tuple[int, float]:
        started = time.perf_counter()
        await run(batcher, [window(10)])  # 200 tokens a second; a busy machine computes more slowly
        took = time.perf_counter() - started
        waiting = [asyncio.create_task(run(batcher, [window(50)])) for _ in range(17)]
        await asyncio.sleep(0)
        seconds = batcher.retry_after_s()
        for task in waiting:
            task.cancel()
        await asyncio.gather(*waiting, return_exceptions=True)
        return seconds, took

    seconds, took = drive(model, scenario)
    assert 3 <= seconds <= math.ceil(850 / 10 * took)  # 4.25 s of work at least


def test_a_request_larger_than_the_queue_is_refused_as_too_large() -> None:
    with pytest.raises(RequestError, match="holds 200 tokens") as caught:
        drive(Model(), lambda batcher: run(batcher, [window(50)] * 4), max_queued_tokens=100)
    assert caught.value.status == 413


def test_a_failing_batch_fails_its_callers_only_and_the_batcher_lives_on() -> None:
    model = Model()

    def forward(windows: Sequence[Window]) -> list[Float32]:
        if any(item.input_ids[0] == 13 for item in windows):
            raise MemoryError("no room")
        return model(windows)

    async def scenario(batcher: TokenBatcher) -> int:
        bad = asyncio.create_task(run(batcher, [window(60, 13), window(61, 13)]))
        good = asyncio.create_task(run(batcher, [window(62, 1)]))
        with pytest.raises(MemoryError):
            await bad
        await good
        await run(batcher, [window(5)])
        assert batcher.failures_in_a_row == 0
        return batcher.queued_tokens

    assert drive(forward, scenario) == 0


def test_a_request_that_would_wait_too_long_is_refused_and_a_shorter_one_is_not(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    model = Clocked(0.1, monkeypatch)

    async def scenario(batcher: TokenBatcher) -> tuple[int, float]:
        await run(batcher, [window(BUDGET)])  # measured: 10 x BUDGET tokens a second
        long = [asyncio.create_task(run(batcher, [window(BUDGET)])) for _ in range(11)]
        await asyncio.sleep(0)
        assert batcher.queued_s == pytest.approx(1.1)
        with pytest.raises(OverloadError, match=r"the request would wait for 1\.1 s") as refused:
            await run(batcher, [window(BUDGET)])
        began = model.now
        await run(batcher, [window(4)])
        seconds = model.now - began
        for task in long:
            task.cancel()
        await asyncio.gather(*long, return_exceptions=True)
        return refused.value.retry_after_s, seconds

    retry_after_s, seconds = drive(model, scenario, workers=0, max_queued_s=1)
    assert retry_after_s == 2
    assert seconds == pytest.approx(2 * model.took)  # the batch that ran when it came, and its own


def test_nobody_is_refused_while_no_more_than_a_batch_waits_though_the_first_was_slow() -> None:
    """As on a busy machine, where the first batch of a new replica takes a second for a few tokens."""
    model = Model(seconds=0.3)

    async def scenario(batcher: TokenBatcher) -> int:
        await run(batcher, [window(4)])
        model.seconds = 0
        assert 4 / batcher._rate > 0.1
        return len(await asyncio.gather(*(run(batcher, [window(4)]) for _ in range(BUDGET // 4))))

    assert drive(model, scenario, max_queued_s=0.05) == BUDGET // 4


def test_while_a_request_waits_too_long_for_those_that_overtake_it_no_more_are_let_in() -> None:
    async def scenario(batcher: TokenBatcher) -> str:
        full = BUDGET // 4  # some of them wait all the time, so the long one does not get its turn
        running = [asyncio.create_task(run(batcher, [window(full)] * 4)) for _ in range(5)]
        long = asyncio.create_task(run(batcher, [window(BUDGET)]))
        try:
            while True:
                await asyncio.wait(running, return_when=asyncio.FIRST_COMPLETED)
                running = [task for task in running if not task.done()]
                running += [asyncio.create_task(run(batcher, [window(full)] * 4)) for _ in range(5 - len(running))]
                if long.done():  # on a busy machine all of them may have been served at once
                    long = asyncio.create_task(run(batcher, [window(BUDGET)]))
                await asyncio.sleep(0)
                if running[-1].done():
                    running.pop().result()
        except OverloadError as refused:
            await long
            others = await asyncio.gather(*running, return_exceptions=True)  # several came while it waited
            assert all(isinstance(other, OverloadError) for other in others if isinstance(other, BaseException))
            await run(batcher, [window(full)])
            return refused.what

    waited = drive(Model(seconds=0.02), scenario, overtaking=1000, max_wait_s=60, max_queued_s=0.3)
    assert re.search(r"a request has waited for \d+\.\d s", waited)
