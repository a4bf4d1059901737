"""Writes batches of texts with CTranslate2, which can be ended text by text where the likeliest or a drawn token is taken at each step."""

from __future__ import annotations

import time
from collections.abc import Callable, Hashable, Mapping, Sequence
from pathlib import Path
from typing import IO, Any, NamedTuple

import numpy as np
from pydantic import Field
from tokenizers import Tokenizer

from agent.config.base import Config
from agent.encoding import Float32
from agent.generation.growing_text import GivenToken, GrowingText
from agent.generation.right_probabilities import of_generator, of_translator
from agent.tasks.writing.teacher_forcing import WrittenDocument, places_said, right_tokens
from serving.inference.session_plan import SessionPlan

_COMPUTE_TYPES = {"fp32": "float32", "int8": "int8"}
Pause = Callable[[], bool]
"""Whether the texts of a batch that are not over should make room; asked in the thread that computes."""

Ended = Callable[[int], None]
"""Told the place of a text in its batch as soon as that is over, in the thread that computes."""


class WritingBatchConfig(Config):
    """The batches of agents that write."""

    max_batch_tokens: int = Field(
        2048,
        ge=16,
        description="tokens in a batch of texts that are written together: the longest, as far as can be foreseen, times their number and their beams",
    )


class WritingConfig(WritingBatchConfig):
    """How texts are written for callers (agents that write)."""

    slice_steps: int = Field(
        32,
        ge=1,
        description="tokens of each text after which a batch makes room, if others wait; it goes on in its turn",
    )


class Settings(NamedTuple):
    """What the texts of one batch share, since CTranslate2 takes it for all.

    Attributes:
        num_beams: Texts that are followed at once; 1 takes one token at each step.
        temperature, top_k, top_p: Of which tokens one is drawn; `top_k` 1 takes the likeliest, 0 draws of all.
        repetition_penalty: 1 has none.
        max_new_tokens: With beams, which cannot be ended one by one; else 0.
        length_penalty: With beams, the power of a text's length by which its log probability is divided.
        seed: Of what is drawn; None draws anew each time.
    """

    num_beams: int = 1
    temperature: float = 1.0
    top_k: int = 1
    top_p: float = 1.0
    repetition_penalty: float = 1.0
    max_new_tokens: int = 0
    length_penalty: float = 1.0
    seed: int | None = None


class WritingJob:
    """One text on its way.

    Args:
        given: Sub-words that the encoder reads, or that the decoder goes on with.
        written: What is written of it so far.
        settings: How.
        on_token: Told of each token that is written, in the thread that computes.
        scores_given: Whether somebody asks how likely what is given was, of a decoder alone.

    Attributes:
        first_at, last_at: When its first and its latest token were there, on the monotonic clock; 0 before, and with beams.
        abandoned: Set when nobody waits for it any more; it then ends at the next step.
    """

    __slots__ = ("abandoned", "first_at", "given", "last_at", "on_token", "scores_given", "settings", "written")

    def __init__(
        self,
        given: Sequence[int],
        written: GrowingText,
        settings: Settings,
        on_token: Callable[[], None] | None = None,
        *,
        scores_given: bool = False,
    ) -> None:
        self.given, self.written, self.settings, self.on_token = given, written, settings, on_token
        self.scores_given = scores_given
        self.abandoned = False
        self.first_at = self.last_at = 0.0

    @property
    def over(self) -> bool:
        """Whether all of it is written."""
        return self.written.finish is not None

    @property
    def group(self) -> Hashable:
        """Jobs of one group may share a batch; those that begin with a single token share none with others (findings/ctranslate2_prompt_of_one_token.sh).

        What is drawn by a seed has a batch of its own: draws depend on what else is in it.
        """
        alone = id(self) if self.settings.seed is not None else None
        return self.settings, len(self.given) + len(self.written.numbers) == 1, alone


def never() -> bool:
    """No text makes room for others."""
    return False


def nobody(_: int) -> None:
    """Nobody is told."""


class ConvertedModel(NamedTuple):
    """A model that `ctranslate2_conversion.convert` wrote.

    Attributes:
        directory: Where.
        precision: Of its weights.
        tokenizer: The model's.
        end: The id of the token that ends a text.
        decodes_alone: Whether it is a decoder without an encoder.
    """

    directory: Path
    precision: str
    tokenizer: Tokenizer
    end: int
    decodes_alone: bool


class Writer:
    """A converted model with the threads that compute it. Its methods may be called from several threads.

    Args:
        model: The model.
        device: cpu or cuda.
        plan: How many batches it computes at once, each with how many threads.
        slice_steps: Tokens of each text after which a batch may make room.
        files: The model's, by name, each at its beginning; default: those in its directory.
    """

    def __init__(
        self,
        model: ConvertedModel,
        *,
        device: str,
        plan: SessionPlan,
        slice_steps: int = 1,
        files: Mapping[str, IO[bytes]] | None = None,
    ) -> None:
        from ctranslate2 import Generator, Translator

        self._tokenizer, self._end = model.tokenizer, model.tokenizer.id_to_token(model.end)
        self._decodes_alone, self._slice_steps = model.decodes_alone, slice_steps
        kind = Generator if model.decodes_alone else Translator
        self._model = kind(
            str(model.directory), device=device, compute_type=_COMPUTE_TYPES[model.precision],
            inter_threads=plan.sessions, intra_threads=plan.threads, files=files,
        )  # fmt: skip

    def write(self, jobs: Sequence[WritingJob], pause: Pause = never, ended: Ended = nobody) -> None:
        """Writes on at jobs of one group until each is over, abandoned, or has made room for others."""
        self._score_given([job for job in jobs if job.scores_given and not job.written.given])
        if jobs[0].settings.num_beams > 1:
            self._write_beams(jobs, ended)
        else:
            self._write_steps(jobs, pause, ended)

    def log_probabilities(self, documents: Sequence[WrittenDocument]) -> list[Float32]:
        """Natural logarithms of the probabilities of the right sub-words after the right ones: float32 [written tokens] of each document."""
        if self._decodes_alone:
            rows, said = [document.windows[0].input_ids for document in documents], list(map(places_said, documents))
            return of_generator(self._model, self._tokenizer, rows, said)
        given, right = [document.given for document in documents], list(map(right_tokens, documents))
        return of_translator(self._model, self._tokenizer, given, right)

    def _score_given(self, jobs: Sequence[WritingJob]) -> None:
        rows = [np.array(job.given, np.int64) for job in jobs]
        likely = (
            of_generator(self._model, self._tokenizer, rows, [np.ones(len(row), bool) for row in rows]) if jobs else []
        )
        for job, found in zip(jobs, likely, strict=True):
            job.written.given = list(map(GivenToken, job.given, [None, *found.tolist()]))

    def _write_steps(self, jobs: Sequence[WritingJob], pause: Pause, ended: Ended) -> None:
        # A Translator calls back for each token of what was written before, too; a Generator takes that for the prompt.
        again = [0 if self._decodes_alone else len(job.written.numbers) for job in jobs]
        fresh = [0] * len(jobs)

        def on_step(step: Any) -> bool:
            """Whether the text ends here."""
            index = step.batch_id
            job = jobs[index]
            if job.abandoned:
                return True
            if again[index]:
                again[index] -= 1
                return False
            fresh[index] += 1
            over = job.written.add(step.token_id, step.log_prob)
            job.last_at = time.monotonic()
            job.first_at = job.first_at or job.last_at
            if job.on_token is not None:
                job.on_token()
            if over:
                ended(index)
            return over or (fresh[index] >= self._slice_steps and pause())

        longest = max(job.written.left + left for job, left in zip(jobs, again, strict=True))
        callback = _Callback(on_step)
        try:
            self._call(jobs, longest, callback=callback)
        finally:
            callback.forget()

    def _write_beams(self, jobs: Sequence[WritingJob], ended: Ended) -> None:
        settings = jobs[0].settings
        results = self._call(
            jobs, settings.max_new_tokens, return_end_token=True, length_penalty=settings.length_penalty
        )
        for index, (job, result) in enumerate(zip(jobs, results, strict=True)):
            tokens = result.sequences[0] if self._decodes_alone else result.hypotheses[0]
            numbers = [number for token in tokens if (number := self._tokenizer.token_to_id(token)) is not None]
            job.written.take(numbers, result.scores[0] * max(len(tokens), 1) ** settings.length_penalty)
            ended(index)

    def _call(self, jobs: Sequence[WritingJob], longest: int, **further: Any) -> Any:
        settings = jobs[0].settings
        shared: dict[str, Any] = {
            "beam_size": settings.num_beams, "sampling_temperature": settings.temperature, "sampling_topk": settings.top_k,
            "sampling_topp": settings.top_p, "repetition_penalty": settings.repetition_penalty, "end_token": self._end,
            "return_scores": True, **further,
        }  # fmt: skip
        given = [self._names(job.given) for job in jobs]
        written = [self._names(job.written.numbers) for job in jobs]
        if self._decodes_alone:
            prompts = [before + after for before, after in zip(given, written, strict=True)]
            return self._model.generate_batch(prompts, max_length=longest, include_prompt_in_result=False, **shared)
        prefixes = written if any(written) else None
        return self._model.translate_batch(
            given,
            target_prefix=prefixes,
            max_decoding_length=longest,
            min_decoding_length=0,
            max_input_length=0,
            **shared,
        )

    def _names(self, numbers: Sequence[int]) -> list[str]:
        return [self._tokenizer.id_to_token(number) or "" for number in numbers]


class _Callback:
    """What CTranslate2 calls with each token. The model's own thread drops it after the call has returned, so it must not hold the model.

    Args:
        call: Tells whether a text ends here.
    """

    def __init__(self, call: Callable[[Any], bool]) -> None:
        self._call: Callable[[Any], bool] | None = call

    def __call__(self, step: Any) -> bool:
        """Whether the text ends here."""
        assert self._call is not None, "called after the end"
        return self._call(step)

    def forget(self) -> None:
        """Drops what it calls, and all that hangs on it."""
        self._call = None
