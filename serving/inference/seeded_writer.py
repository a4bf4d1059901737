"""Writes texts that are drawn by a seed: each alone, with a copy of the model that is made for it.

A thread of CTranslate2 takes the seed at its first draw and never again (findings/ctranslate2_seed_after_first_sample.sh), and what is drawn depends on
the batch. So a seeded text has a thread of its own, and with it a copy of the model: a model of 48 MB takes 0.1 to 0.25 s to be read.
"""

from __future__ import annotations

import threading
from hashlib import blake2b

from agent.generation.growing_text import GrowingText, Limits
from serving.inference.session_plan import SessionPlan
from serving.inference.writer import ConvertedModel, Ended, Writer, WritingJob, never

_UNSEEDED = 2**32 - 1  # with which each thread begins to draw by a seed of its own (src/random.cc of CTranslate2 4.8)
_ONE_AT_A_TIME = threading.Lock()  # it is one of the whole process


class SeededWriter:
    """Writes one seeded text at a time in this process; further ones wait. Its methods may be called from several threads.

    Args:
        model: The model. Its files stay open, so that it is read even where another one has taken its place since.
        device: cpu or cuda.
    """

    def __init__(self, model: ConvertedModel, *, device: str) -> None:
        self._model, self._device = model, device
        self._files = {file.name: file.open("rb") for file in model.directory.iterdir() if file.is_file()}

    def write(self, job: WritingJob, ended: Ended) -> None:
        """Writes a text until it is over or abandoned; it makes no room for others."""
        with _ONE_AT_A_TIME:
            if not job.abandoned:
                self._seeded(job).write([job], never, ended)

    def _seeded(self, job: WritingJob) -> Writer:
        """A copy of the model whose thread has begun to draw by the seed of a job."""
        from ctranslate2 import set_random_seed

        for file in self._files.values():
            file.seek(0)
        set_random_seed(_seed_of(job))
        try:
            plan = SessionPlan(1, 1)
            writer = Writer(self._model, device=self._device, plan=plan, files=self._files)
            first = GrowingText(self._model.tokenizer, Limits(self._model.end, 1))
            writer.write([WritingJob(job.given, first, job.settings)])
        finally:
            set_random_seed(_UNSEEDED)  # threads of others may begin to draw now
        return writer


def _seed_of(job: WritingJob) -> int:
    """The seed of a job as CTranslate2 takes it, of 32 bits."""
    return int.from_bytes(blake2b(str(job.settings.seed).encode()).digest()) % _UNSEEDED
