"""The batcher of texts to write: what shares a batch, who goes first, and what ends when nobody waits for it any more."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Coroutine, Sequence
from pathlib import Path
from typing import Any

import pytest

from agent.errors import RequestError
from serving.inference.writer import Pause, WritingJob, never
from serving.inference.writing_engine import WritingEngine
from serving.scheduling.limits import LimitsConfig
from serving.scheduling.predictor import Predictor
from serving.scheduling.refusals import DeadlineError, OverloadError
from serving.scheduling.request_context import RequestContext
from tests.serving.gated_writer import GatedWriter, Left, gated_writer
from tests.waiting import until

TEXTS = ["anna met bruno", "oslo to lima in pune", "chidi went to graz", "in oslo met dewi"]


def drive(engine: GatedWriter, scenario: Callable[[Predictor], Coroutine[Any, Any, Any]], **limits: Any) -> Any:
    async def guarded() -> Any:
        predictor = Predictor(engine, LimitsConfig(**{"max_queued_s": 1_000} | limits))
        try:
            return await asyncio.wait_for(scenario(predictor), 60)
        finally:
            engine.gate.set()
            predictor.close()

    return asyncio.run(guarded())


async def soon(condition: Callable[[], Any]) -> None:
    assert await asyncio.to_thread(until, condition, pause_s=0.01)


def asked(engine: WritingEngine, **how: Any) -> Any:
    return engine.task.parameters(**({"num_beams": 1} | how))


@pytest.fixture(params=["translator", "talker"])
def path(request: pytest.FixtureRequest) -> Path:
    found: Path = request.getfixturevalue(f"{request.param}_path")
    return found


@pytest.mark.parametrize("beams", [1, 4])
def test_what_is_served_is_what_the_engine_writes(path: Path, beams: int) -> None:
    engine = gated_writer(path, closed=False)
    parameters = asked(engine, num_beams=beams, max_new_tokens=9)

    async def scenario(predictor: Predictor) -> Any:
        together = await predictor.predict(TEXTS, parameters)
        apart = await asyncio.gather(*(predictor.predict([text], parameters) for text in TEXTS))
        return together, [answer for (answer,) in apart]

    wanted = [answer[0][engine.task.text_key] for answer in engine.predict(TEXTS, parameters)]
    for answers in drive(engine, scenario):
        assert [answer[0][engine.task.text_key] for answer in answers] == wanted


def test_requests_at_once_are_written_in_one_batch(translator_path: Path) -> None:
    engine = gated_writer(translator_path)

    async def scenario(predictor: Predictor) -> None:
        first = asyncio.create_task(predictor.predict(TEXTS[:1], asked(engine, max_new_tokens=4)))
        await soon(lambda: engine.batches)
        others = [asyncio.create_task(predictor.predict([text], asked(engine, max_new_tokens=4))) for text in TEXTS * 3]
        await asyncio.sleep(0)
        assert predictor.batcher.queued_windows == len(others)
        engine.gate.set()
        await asyncio.gather(first, *others)

    drive(engine, scenario)
    assert list(map(len, engine.batches)) == [1, 12]


def test_a_batch_shares_what_a_call_shares_and_keeps_its_budget(talker_path: Path) -> None:
    engine = gated_writer(talker_path, max_batch_tokens=64)
    ways = [{}, {"temperature": 2.0}, {"num_beams": 2}, {"repetition_penalty": 1.5}]

    async def scenario(predictor: Predictor) -> None:
        begun = asyncio.create_task(predictor.predict(["anna met"], asked(engine, max_new_tokens=1)))
        await soon(lambda: engine.batches)
        waiting = [
            predictor.predict([text], asked(engine, max_new_tokens=3, **how)) for text in TEXTS[:2] for how in ways
        ]
        alone = predictor.predict(["dewi"], asked(engine, max_new_tokens=3))  # a prompt of one token
        wide = [predictor.predict([text], asked(engine, max_new_tokens=12)) for text in TEXTS * 4]
        tasks = list(map(asyncio.ensure_future, [*waiting, alone, *wide]))
        await asyncio.sleep(0)
        engine.gate.set()
        await asyncio.gather(begun, *tasks)

    drive(engine, scenario)
    several = [batch for batch in engine.batches[1:] if len(batch) > 1]
    assert [1] in engine.batches
    assert several
    assert sum(map(len, engine.batches)) == 1 + 8 + 1 + 16
    assert all(len(batch) * (min(batch) + 1) <= 64 for batch in several)


def test_a_short_request_does_not_wait_for_the_end_of_a_long_one(path: Path) -> None:
    engine, over = gated_writer(path, slice_steps=4), list[str]()
    key = engine.task.text_key

    async def scenario(predictor: Predictor) -> None:
        async def ask(name: str, text: str, most: int) -> Any:
            ((answer,),) = await predictor.predict([text], asked(engine, max_new_tokens=most))
            over.append(name)
            return answer[key]

        long = asyncio.create_task(ask("long", TEXTS[1], 40))
        await soon(lambda: engine.batches)
        short = asyncio.create_task(ask("short", TEXTS[0], 3))
        await asyncio.sleep(0)
        engine.gate.set()
        for task, text, most in ((long, TEXTS[1], 40), (short, TEXTS[0], 3)):
            assert await task == engine.predict([text], asked(engine, max_new_tokens=most))[0][0][key]

    drive(engine, scenario)
    assert over == ["short", "long"]
    assert engine.batches[:2] in ([[6], [4, 6]], [[5], [3, 5]])


def test_a_batch_goes_on_to_its_end_while_nothing_waits(talker_path: Path) -> None:
    engine = gated_writer(talker_path, slice_steps=1, closed=False)
    drive(engine, lambda predictor: predictor.predict(TEXTS[:1], asked(engine, max_new_tokens=40)))
    assert len(engine.batches) == 1


def test_of_a_batch_each_answer_is_delivered_when_it_is_written(talker_path: Path) -> None:
    class Held(GatedWriter):
        """Stops within the batch until it is told to go on."""

        reached, on = threading.Event(), threading.Event()

        def at_step(self, jobs: Sequence[WritingJob]) -> None:
            if max(len(job.written.numbers) for job in jobs) >= 10:
                self.reached.set()
                assert self.on.wait(20)

    engine = gated_writer(talker_path, kind=Held, slice_steps=1)

    async def scenario(predictor: Predictor) -> None:
        begun = asyncio.create_task(predictor.predict(["anna met"], asked(engine, max_new_tokens=1)))
        await soon(lambda: engine.batches)
        long = asyncio.create_task(predictor.predict(TEXTS[1:2], asked(engine, max_new_tokens=40)))
        short = asyncio.create_task(predictor.predict(TEXTS[2:3], asked(engine, max_new_tokens=2)))
        await asyncio.sleep(0)
        engine.gate.set()
        await short
        assert not long.done()
        engine.on.set()
        await asyncio.gather(begun, long)

    drive(engine, scenario)
    assert list(map(len, engine.batches)) == [1, 2]


@pytest.mark.parametrize("how", ["hang up", "deadline"])
def test_what_nobody_waits_for_ends_with_its_next_token(translator_path: Path, how: str) -> None:
    engine, outcomes = gated_writer(translator_path, kind=Left, slice_steps=1), list[Any]()
    engine.written = []

    async def scenario(predictor: Predictor) -> None:
        loop, parameters = asyncio.get_running_loop(), asked(engine, max_new_tokens=40)
        prediction = predictor.submit(TEXTS[:1], parameters, outcomes.append, context=RequestContext("one"))
        assert prediction is not None
        gone = (predictor.cancel, prediction) if how == "hang up" else (prediction.end, DeadlineError(1.0))
        engine.leave = lambda: loop.call_soon_threadsafe(*gone)
        engine.gate.set()
        await soon(lambda: len(engine.written) == 3)
        await soon(lambda: predictor.batcher._free)

    drive(engine, scenario)
    assert engine.written == [1, 2, 3]
    assert [type(outcome) for outcome in outcomes] == ([] if how == "hang up" else [DeadlineError])


def test_a_full_queue_refuses_by_what_is_expected_to_be_written(talker_path: Path) -> None:
    engine = gated_writer(talker_path)

    async def scenario(predictor: Predictor) -> None:
        begun = asyncio.create_task(predictor.predict(TEXTS[:1], asked(engine)))
        await soon(lambda: engine.batches)
        waiting = asyncio.create_task(predictor.predict(TEXTS[:2], asked(engine)))
        await asyncio.sleep(0)
        assert predictor.batcher.queued_tokens == 2 * (3 + 5)  # as much is expected as is given
        with pytest.raises(OverloadError) as caught:
            await predictor.predict(TEXTS[:1], asked(engine))
        assert caught.value.status == 429
        few = asyncio.create_task(predictor.predict(["anna"], asked(engine, max_new_tokens=1)))
        await asyncio.sleep(0)
        assert not few.done()
        with pytest.raises(RequestError, match="holds 32 tokens") as caught:
            await predictor.predict(TEXTS[1:2], asked(engine, num_beams=4, max_new_tokens=3))
        assert caught.value.status == 413
        engine.gate.set()
        await asyncio.gather(begun, waiting, few)

    drive(engine, scenario, max_queued_tokens=20)


def test_a_failing_batch_fails_its_callers_only(talker_path: Path) -> None:
    engine = gated_writer(talker_path, closed=False)

    async def scenario(predictor: Predictor) -> None:
        engine.fails = True
        for failures in (1, 2):
            with pytest.raises(RuntimeError, match="planted"):
                await predictor.predict(TEXTS[:2], asked(engine))
            assert predictor.failures_in_a_row == failures
        engine.fails = False
        assert await predictor.predict(TEXTS[:1], asked(engine, max_new_tokens=2))
        await soon(lambda: not predictor.failures_in_a_row)

    drive(engine, scenario)


def test_a_new_version_that_fails_leaves_the_text_to_the_one_before(talker_path: Path) -> None:
    engine, candidate = gated_writer(talker_path, closed=False), gated_writer(talker_path, closed=False)
    candidate.fails = True

    async def scenario(predictor: Predictor) -> Any:
        async with predictor.candidate(candidate, 1.0):
            return await predictor.predict(TEXTS, asked(engine, max_new_tokens=5))

    assert drive(engine, scenario) == engine.predict(TEXTS, asked(engine, max_new_tokens=5))
    assert candidate.batches


def test_seeded_texts_are_written_one_at_a_time_while_others_go_on(talker_path: Path) -> None:
    class SeedsHeld(GatedWriter):
        """Holds back what is drawn by a seed."""

        def write(self, jobs: Sequence[WritingJob], pause: Pause = never, *further: Any) -> None:
            if jobs[0].settings.seed is None:
                WritingEngine.write(self, jobs, pause, *further)
            else:
                super().write(jobs, pause, *further)

    engine = gated_writer(talker_path, kind=SeedsHeld)
    seeded = asked(engine, temperature=5.0, seed=1, max_new_tokens=12)

    async def scenario(predictor: Predictor) -> Any:
        first = asyncio.create_task(predictor.predict(TEXTS[:2], seeded))
        await soon(lambda: engine.batches)
        second = asyncio.create_task(predictor.predict(TEXTS[2:3], seeded))
        assert await predictor.predict(TEXTS, asked(engine, max_new_tokens=3))
        assert list(map(len, engine.batches)) == [1]
        second.cancel()
        await asyncio.gather(second, return_exceptions=True)
        engine.gate.set()
        return await first

    answers = drive(engine, scenario)
    assert list(map(len, engine.batches)) == [1, 1]  # the one whose caller left was never begun
    assert answers == engine.predict(TEXTS[:2], seeded)


def test_too_many_seeded_texts_are_refused(talker_path: Path) -> None:
    engine = gated_writer(talker_path)
    seeded = asked(engine, temperature=5.0, seed=1, max_new_tokens=3)

    async def scenario(predictor: Predictor) -> None:
        begun = asyncio.create_task(predictor.predict(TEXTS[:1], seeded))
        await soon(lambda: engine.batches)
        waiting = asyncio.create_task(predictor.predict(TEXTS[:2], seeded))
        await asyncio.sleep(0)
        with pytest.raises(OverloadError) as caught:
            await predictor.predict(TEXTS[:2], seeded)
        assert caught.value.status == 429
        engine.gate.set()
        await asyncio.gather(begun, waiting)

    drive(engine, scenario, max_queued_tokens=20)


@pytest.mark.parametrize("how", ["hang up", "deadline"])
def test_a_seeded_text_ends_with_its_next_token_too(translator_path: Path, how: str) -> None:
    engine, outcomes = gated_writer(translator_path, closed=False), list[Any]()
    parameters = asked(engine, temperature=5.0, seed=3, max_new_tokens=60)
    (whole,) = engine.encode(TEXTS[:1], parameters)
    engine.write([whole])
    assert len(whole.written.numbers) > 5

    class Leaving(GatedWriter):
        """After three tokens its caller is gone."""

        def write(self, jobs: Sequence[WritingJob], pause: Pause = never, *further: Any) -> None:
            (job,) = jobs
            self.job = job

            def leave() -> None:
                if len(job.written.numbers) == 3:
                    self.leave()
                    assert until(lambda: job.abandoned, 20, pause_s=0.001)

            job.on_token = leave
            super().write(jobs, pause, *further)

    engine = gated_writer(translator_path, kind=Leaving, closed=False)

    async def scenario(predictor: Predictor) -> None:
        loop = asyncio.get_running_loop()
        prediction = predictor.submit(TEXTS[:1], parameters, outcomes.append, context=RequestContext("one"))
        assert prediction is not None
        gone = (predictor.cancel, prediction) if how == "hang up" else (prediction.end, DeadlineError(1.0))
        engine.leave = lambda: loop.call_soon_threadsafe(*gone)
        await soon(lambda: predictor._live.seeded._free)

    drive(engine, scenario)
    assert engine.job.written.numbers == whole.written.numbers[:3]
    assert [type(outcome) for outcome in outcomes] == ([] if how == "hang up" else [DeadlineError])
