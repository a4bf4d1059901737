"""Many texts at once: batches of like length within the budget, the longest first, as many together as there are threads."""

from __future__ import annotations

import random
import threading
from collections.abc import Sequence
from pathlib import Path

import pytest

from agent.bundle import Bundle
from serving.inference.engine_choice import open_engine
from serving.inference.many_texts import write_all
from serving.inference.writer import WritingJob
from serving.inference.writing_engine import WritingEngine
from tests.tiny_writers import WORDS

TEXTS = [" ".join(random.Random(number).choices(WORDS, k=1 + number % 12)) for number in range(60)]


@pytest.fixture(scope="module")
def talker(talker_path: Path) -> WritingEngine:
    return open_engine(Bundle.load(talker_path), precision="fp32", num_cpus=2)


def test_batches_keep_the_budget_and_begin_with_the_longest(talker: WritingEngine) -> None:
    jobs, batches = talker.encode(TEXTS, talker.task.parameters(max_new_tokens=4)), list[list[int]]()

    def write(batch: Sequence[WritingJob]) -> None:
        batches.append([len(job.given) for job in batch])
        talker.write(batch)

    write_all(jobs, write, at_once=1, max_batch_tokens=64)
    assert sorted(length for batch in batches for length in batch) == sorted(len(job.given) for job in jobs)
    assert all(len(batch) * (max(batch) + 1) <= 64 for batch in batches)
    assert min(map(len, batches[:-1])) > 1
    several = [max(batch) for batch in batches if max(batch) > 1]
    assert several == sorted(several, reverse=True)
    assert [batch for batch in batches if 1 in batch] == [[1] * 5]  # prompts of one token are apart
    wanted = [talker.predict([text], talker.task.parameters(max_new_tokens=4)) for text in TEXTS]
    assert [job.written.text for job in jobs] == [answer["generated_text"] for ((answer,),) in wanted]


def test_what_is_expected_follows_what_was_written(talker: WritingEngine) -> None:
    jobs, sizes = talker.encode(["anna met"] * 60, talker.task.parameters(max_new_tokens=40)), list[int]()

    def write(batch: Sequence[WritingJob]) -> None:
        sizes.append(len(batch))
        talker.write(batch)

    write_all(jobs, write, at_once=1, max_batch_tokens=60)
    written = max(len(job.written.numbers) for job in jobs)
    assert sizes[0] == 60 // (2 + 2)
    assert sizes[-2] < sizes[0]
    assert sizes[-2] >= 60 // (2 + written)


def test_as_many_are_written_at_once_as_there_are_threads(talker: WritingEngine) -> None:
    together = threading.Barrier(2, timeout=20)  # broken where they come one after the other

    def write(batch: Sequence[WritingJob]) -> None:
        together.wait()
        talker.write(batch)

    jobs = talker.encode(["anna met"] * 4, talker.task.parameters(max_new_tokens=2))
    write_all(jobs, write, at_once=2, max_batch_tokens=1)
    assert all(job.over for job in jobs)


def test_a_batch_that_fails_ends_all(talker: WritingEngine) -> None:
    def write(batch: Sequence[WritingJob]) -> None:
        raise RuntimeError("planted")

    with pytest.raises(RuntimeError, match="planted"):
        write_all(talker.encode(TEXTS), write, at_once=2, max_batch_tokens=64)
