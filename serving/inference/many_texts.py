"""Writes many texts that are all there from the start: in batches of like length, the longest first, several at once."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from typing import Any

from serving.inference.writer import WritingJob

_GUESSED = 64  # tokens that are taken to have been written of as many, before any are


def write_all(
    jobs: Sequence[WritingJob], write: Callable[[Sequence[WritingJob]], None], *, at_once: int, max_batch_tokens: int
) -> None:
    """Writes jobs to their ends.

    Args:
        jobs: Of any groups.
        write: Writes jobs of one group; called in several threads.
        at_once: In how many.
        max_batch_tokens: Budget of a batch: what is given and what is expected to be written of its longest text, for each text and beam.
    """
    groups = _groups(jobs)
    given = written = _GUESSED
    running = dict[Future[None], list[WritingJob]]()
    with ThreadPoolExecutor(at_once, "writer") as threads:
        while groups or running:
            while groups and len(running) < at_once:
                batch = _cut(groups[-1], written / given, max_batch_tokens)
                running[threads.submit(write, batch)] = batch
                if not groups[-1]:
                    groups.pop()
            for future in wait(running, return_when=FIRST_COMPLETED).done:
                batch = running.pop(future)
                future.result()
                given += sum(len(job.given) for job in batch)
                written += sum(len(job.written.numbers) for job in batch)


def _groups(jobs: Sequence[WritingJob]) -> list[list[WritingJob]]:
    """The jobs of each group, the longest last."""
    groups = defaultdict[Any, list[WritingJob]](list)
    for job in sorted(jobs, key=lambda job: len(job.given)):
        groups[job.group].append(job)
    return list(groups.values())


def _cut(group: list[WritingJob], ratio: float, max_batch_tokens: int) -> list[WritingJob]:
    """Takes the longest jobs out of a group, as many as the budget has room for and one at least.

    Args:
        group: The longest last.
        ratio: Tokens that are expected to be written of each that is given.
        max_batch_tokens: The budget.
    """
    longest = group[-1]
    expected = min(longest.written.left, math.ceil(ratio * len(longest.given)))
    rows = max(1, max_batch_tokens // ((len(longest.given) + expected) * longest.settings.num_beams))
    batch = group[-rows:]
    del group[-rows:]
    return batch
