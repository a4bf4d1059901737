"""An agent that writes, computed in this process by CTranslate2: texts in, texts out."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Literal

from agent.bundle import Bundle
from agent.encoding import Float32
from agent.errors import BundleError, ConfigError
from agent.generation.growing_text import GrowingText, Limits
from agent.tasks import Parameters
from agent.tasks.writing.teacher_forcing import WrittenDocument
from agent.tasks.writing.text_generation import TextGeneration
from agent.tasks.writing.written_text import WritingTask
from agent.windows.tokenizer_setup import end_id
from cluster.connection import usable_cores
from serving.inference.engine import EngineConfig
from serving.inference.many_texts import write_all
from serving.inference.seeded_writer import SeededWriter
from serving.inference.served_engine import CORPUS_WINDOW, AnsweredTexts, refusal_by
from serving.inference.session_plan import SessionPlan
from serving.inference.writer import ConvertedModel, Ended, Pause, Settings, Writer, WritingJob, never, nobody

_CONTEXT = 8  # sub-words before a text with which it is decoded: blanks between words are theirs
_TRIAL_TOKENS = 4


class WritingEngine:
    """An agent that writes with the threads that compute it.

    Args:
        bundle: The agent.
        config: How to compute; what is said of sessions holds for batches that are written at once.
        precision: Which of the bundle's converted models; `auto`: the last one for the hardware.
        num_cpus: Cores to use; default: those this process may use.
        plan: How many batches at once; default: one on each core.

    Raises:
        BundleError: The bundle has no such model, or one that CTranslate2 cannot read.
        ConfigError: CUDA was asked for and is absent, or TensorRT, which does not write.
    """

    def __init__(
        self,
        bundle: Bundle,
        config: EngineConfig | None = None,
        *,
        precision: str = "auto",
        num_cpus: int | None = None,
        plan: SessionPlan | None = None,
    ) -> None:
        self.bundle, self.config = bundle, config or EngineConfig()
        self.provider = _provider(self.config.provider)
        self.variant = bundle.converted_variant(precision, self.provider)
        self._end = end_id(bundle.encoder.tokenizer)
        self._model = ConvertedModel(
            bundle.path / self.variant.directory, self.variant.precision, bundle.encoder.tokenizer, self._end,
            decodes_alone=isinstance(self.task, TextGeneration),
        )  # fmt: skip
        self._writer = self._open(plan or self._everyday(num_cpus or usable_cores()))
        self._seeded = SeededWriter(self._model, device=self.provider)

    @property
    def task(self) -> WritingTask:
        """What it writes."""
        task = self.bundle.task
        assert isinstance(task, WritingTask)
        return task

    @property
    def plan(self) -> SessionPlan:
        """How it computes."""
        return self._plan

    def best_plan(self) -> SessionPlan:
        """The plan that it has: a batch on each core, which for models that fit into a replica's memory is what uses cores best."""
        return self._plan

    def use(self, plan: SessionPlan) -> None:
        """Computes under another plan from now on; not while a batch is computed."""
        if plan != self._plan:
            self._writer = self._open(plan)

    def encode(self, texts: Sequence[str], parameters: Parameters | None = None) -> list[WritingJob]:
        """What has to be written for each text.

        Raises:
            RequestError: A text is no Unicode text or too long, or a parameter does not fit.
        """
        task, encoder = self.task, self.bundle.encoder
        wanted = parameters or task.parameters()
        jobs = []
        for text, document in zip(texts, task.encode_request(encoder, texts, wanted), strict=True):
            assert isinstance(document, WrittenDocument)
            given = [int(number) for number in document.given]
            limits = Limits(self._end, task.new_tokens(encoder, document, wanted), tuple(task.asked(wanted).stop or ()))
            before = given[-_CONTEXT:] if task.goes_on(text) else []
            by_token = bool(getattr(wanted, "details", False))
            written = GrowingText(encoder.tokenizer, limits, before=before, by_token=by_token)
            scores_given = bool(getattr(wanted, "decoder_input_details", False))
            jobs.append(WritingJob(given, written, self._settings(wanted, limits), scores_given=scores_given))
        return jobs

    def write(self, jobs: Sequence[WritingJob], pause: Pause = never, ended: Ended = nobody) -> None:
        """Writes on at jobs of one group; arguments as those of `Writer.write`. Safe to call from several threads."""
        if jobs[0].settings.seed is None:
            self._writer.write(jobs, pause, ended)
        else:
            (job,) = jobs
            self._seeded.write(job, ended)

    def log_probabilities(self, documents: Sequence[WrittenDocument]) -> list[Float32]:
        """As `Writer.log_probabilities`."""
        return self._writer.log_probabilities(documents)

    def decode(self, text: str, job: WritingJob, parameters: Parameters) -> list[dict[str, Any]]:
        """The answer of a text whose job is over."""
        return self.task.answer_written(text, job.written, parameters)

    def predict(self, texts: Sequence[str], parameters: Parameters | None = None) -> list[list[dict[str, Any]]]:
        """Answers texts in this process.

        Raises:
            RequestError: As `encode`.
        """
        jobs = self._written(texts, parameters)
        wanted = parameters or self.task.parameters()
        return [self.decode(text, job, wanted) for text, job in zip(texts, jobs, strict=True)]

    def refusal_of(self, text: str, parameters: Any) -> str:
        """Why a text of a corpus cannot be answered, as one that is too long; empty where it can."""
        return refusal_by(lambda: self.encode([text], parameters))

    def annotate(self, texts: Sequence[str], parameters: Any) -> Iterator[AnsweredTexts]:
        """Writes for the texts of a corpus, in order, a window of them after the other."""
        for first in range(0, len(texts), CORPUS_WINDOW):
            window = texts[first : first + CORPUS_WINDOW]
            jobs = self._written(window, parameters)
            answers = [self.decode(text, job, parameters) for text, job in zip(window, jobs, strict=True)]
            read, written = sum(len(job.given) for job in jobs), sum(len(job.written.numbers) for job in jobs)
            yield AnsweredTexts(answers, read, written)

    def labels(self, texts: Sequence[str]) -> list[Any]:
        """What it writes for each text."""
        return [job.written.text for job in self._written(texts, None)]

    def prepare(self) -> None:
        """Makes the first request as fast as all others: reads the tokenizer and writes a few tokens."""
        task = self.task
        self.predict(
            [task.trial_input(self.bundle.encoder)], task.parameters.model_validate({"max_new_tokens": _TRIAL_TOKENS})
        )

    def _written(self, texts: Sequence[str], parameters: Parameters | None) -> list[WritingJob]:
        jobs = self.encode(texts, parameters)
        write_all(jobs, self.write, at_once=self.plan.sessions, max_batch_tokens=self.config.writing.max_batch_tokens)
        return jobs

    def _settings(self, parameters: Any, limits: Limits) -> Settings:
        asked = self.task.asked(parameters)
        beams = asked.beams(self.task.default_beams)
        penalty = asked.repetition_penalty or 1.0
        if beams > 1:
            length = 1.0 if asked.length_penalty is None else asked.length_penalty
            return Settings(
                beams, repetition_penalty=penalty, max_new_tokens=limits.max_new_tokens, length_penalty=length
            )
        if not asked.draws:
            return Settings(repetition_penalty=penalty)
        # CTranslate2 refuses to draw of more tokens than there are; 0 stands for all.
        top_k = asked.top_k if (asked.top_k or 0) < self.bundle.encoder.vocabulary.size else None
        return Settings(1, asked.temperature or 1.0, top_k or 0, asked.top_p or 1.0, penalty, seed=asked.drawn_seed)

    def _everyday(self, num_cpus: int) -> SessionPlan:
        gpu = self.provider == "cuda"
        sessions = self.config.sessions if self.config.sessions != "auto" else (1 if gpu else num_cpus)
        threads = self.config.threads_per_session if self.config.threads_per_session != "auto" else 1
        return SessionPlan(sessions, threads)

    def _open(self, plan: SessionPlan) -> Writer:
        self._plan = plan
        try:
            return Writer(self._model, device=self.provider, plan=plan, slice_steps=self.config.writing.slice_steps)
        except (RuntimeError, ValueError) as error:
            raise BundleError(
                f"CTranslate2 cannot read {self._model.directory}: {' '.join(str(error).split())[:240]}",
                remedy="make the bundle anew with the installed version",
            ) from None


def _provider(wanted: Literal["auto", "cpu", "cuda", "tensorrt"]) -> str:
    from ctranslate2 import get_cuda_device_count

    if wanted == "tensorrt":
        raise ConfigError(
            "engine.provider=tensorrt: agents that write are computed by CTranslate2, which has no TensorRT",
            allowed="auto, cpu, cuda",
            remedy="set engine.provider=cuda",
        )
    has_gpu = get_cuda_device_count() > 0
    if wanted == "cuda" and not has_gpu:
        raise ConfigError(
            "engine.provider=cuda, and CTranslate2 sees no GPU",
            allowed="auto, cpu",
            remedy="set engine.provider=cpu, or give the replica a GPU",
        )
    return "cuda" if has_gpu and wanted != "cpu" else "cpu"
