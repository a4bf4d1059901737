"""An agent that computes in this process: texts in, answers out."""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from typing import Any, Literal

import numpy as np
from pydantic import Field

from agent.batching import Batch, pad
from agent.bundle import Bundle, OnnxVariant
from agent.encoding import Document, Float32
from agent.errors import ConfigError
from agent.evaluation import Cascade, Forward, lowest_probability, run_documents
from agent.tasks import Parameters
from cluster.connection import usable_cores
from serving.inference.passes import SecondPass, WindowWork
from serving.inference.served_engine import CORPUS_WINDOW, AnsweredTexts, refusal_by
from serving.inference.session_plan import ComputeConfig, SessionPlan, candidates, everyday, measured
from serving.inference.sessions import Sessions, choose_provider
from serving.inference.writer import WritingConfig

_log = logging.getLogger(__name__)
_WARMUP_LENGTHS = (8, 16, 32, 64, 128, 256)
_USUAL_LENGTHS = (8, 16, 24, 32, 48)  # of what a busy server computes: sentences
LONGEST_HOLD_S = 0.1  # for which a batch may hold an event loop


class EngineConfig(ComputeConfig):
    """How one replica computes."""

    executor: Literal["auto", "threads"] = Field(
        "auto",
        description="where batches are computed: threads, or auto for the event loop itself where one session has one thread "
        f"and the longest window takes less than {LONGEST_HOLD_S:g} s",
    )
    max_wait_s: float = Field(
        0.2,
        gt=0,
        description="seconds for which a text may be overtaken by shorter ones, however long it is (docs/serving.md)",
    )
    warmup: bool = Field(True, description="run batches of several lengths before the replica says that it is ready")
    writing: WritingConfig = Field(default_factory=WritingConfig)


class Engine:
    """An agent with the sessions that compute it.

    Args:
        bundle: The agent.
        config: How to compute.
        precision: Which of the bundle's graphs; `auto`: the one for the hardware that it computes on.
        num_cpus: Cores to use; default: those this process may use.
        plan: How many sessions of what kind, as `best_plan` found it; default: the everyday one.

    Raises:
        BundleError: The bundle has no graph of that precision, or one that ONNX Runtime cannot read.
        ConfigError: CUDA or TensorRT was asked for and is absent.
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
        self.provider = choose_provider(self.config.provider)
        self.variant = bundle.onnx_variant(precision, self.provider)
        if bundle.policy and bundle.policy.precision != self.variant.precision:
            _log.warning(
                "the policy of %s was chosen on scores of its %s graph, and %s is served: choose it anew with serving/decide.py",
                bundle.path, bundle.policy.precision, self.variant.precision,
            )  # fmt: skip
        self._num_cpus, self._plan = num_cpus or usable_cores(), plan
        try:
            self._sessions, self._first = self._open(), self._open_first()
        except ConfigError as error:
            if self.config.provider != "auto":
                raise
            _log.warning("computing on the CPU: %s", error.what)
            self.provider = "cpu"
            self.variant = bundle.onnx_variant(precision)
            self._sessions, self._first = self._open(), self._open_first()

    @property
    def plan(self) -> SessionPlan:
        """How it computes."""
        return self._sessions.plan

    def best_plan(self) -> SessionPlan:
        """The fastest of the plans that the config leaves open, measured now; takes seconds and all cores."""
        if self.provider != "cpu":
            return self.plan
        plans = candidates(self.config, num_cpus=self._num_cpus)
        batches = list(self._batches(_USUAL_LENGTHS))
        plan = measured(plans, lambda plan: self._open(plan).forward, batches)
        return replace(plan, on_event_loop=plan.on_event_loop and self._may_hold_the_loop(plan))

    def use(self, plan: SessionPlan) -> None:
        """Computes under another plan from now on; not while a batch is computed."""
        if plan != self.plan:
            self._sessions, self._first = self._open(plan), self._open_first(plan)

    def encode(self, texts: Sequence[str], parameters: Parameters | None = None) -> list[Document]:
        """Tokenises texts.

        Args:
            texts: The texts.
            parameters: How they are to be answered; by default as the task does.

        Raises:
            RequestError: A text is no Unicode text, or a parameter does not fit.
        """
        task = self.bundle.task
        return task.encode_request(self.bundle.encoder, texts, parameters or task.parameters())

    def forward(self, batch: Batch) -> Float32:
        """Computes one batch by the agent's own graph on a free session, whatever its first pass; safe to call from several threads.

        Returns:
            float32 [rows, tokens, outputs], [rows, outputs] for tasks with one answer per text, or [asked, outputs] where tokens are asked about.
        """
        return self._sessions.forward(batch)

    def decode(
        self, text: str, document: Document, outputs: Sequence[Float32], parameters: Parameters
    ) -> list[dict[str, Any]]:
        """Decodes the logits of one text's windows into its answer."""
        return self.bundle.task.answer(text, document, outputs, parameters)

    @property
    def model(self) -> Forward | Cascade:
        """What computes texts from beginning to end: the agent's graph, after its first pass if it has one."""
        first = self._first
        return self.forward if first is None else Cascade(first.forward, self.forward, self.is_sure)

    def is_sure(self, document: Document, outputs: Sequence[Float32]) -> bool:
        """Whether the first pass's logits of a text's windows are its answer; always where there is but one pass."""
        first = self.variant.first_pass
        return first is None or lowest_probability(self.bundle.task, document, outputs) > first.threshold

    def forward_windows(self, works: Sequence[WindowWork]) -> list[Float32]:
        """Pads windows, all of one pass, and computes them as one batch: the logits of each, with padded rows at the end."""
        first = None if isinstance(works[0], SecondPass) else self._first
        forward = self.forward if first is None else first.forward
        windows = [work.window if isinstance(work, SecondPass) else work for work in works]
        batch = pad(windows, self.bundle.encoder.pad_id)
        return batch.rows_of(forward(batch))

    def predict(self, texts: Sequence[str], parameters: Parameters | None = None) -> list[list[dict[str, Any]]]:
        """Answers texts in this process, in the batches that an idle server cuts for one request with them.

        Raises:
            RequestError: A text is no Unicode text, or a parameter does not fit.
        """
        documents = self.encode(texts, parameters)
        return self.answer(texts, documents, self.run(documents), parameters)

    def run(self, documents: Sequence[Document]) -> list[list[Float32]]:
        """Computes all windows of documents in batches of like length, one after the other: the logits of each."""
        encoder, budget = self.bundle.encoder, self.config.max_batch_tokens
        return run_documents(documents, self.model, pad_id=encoder.pad_id, max_tokens=budget)

    def refusal_of(self, text: str, parameters: Any) -> str:
        """Why a text of a corpus cannot be answered; empty where it can."""
        task = self.bundle.task
        reason = task.refusal_of(text)
        if reason or not task.encoding_refuses:
            return reason
        return refusal_by(lambda: self.encode([text], parameters))

    def annotate(self, texts: Sequence[str], parameters: Any) -> Iterator[AnsweredTexts]:
        """Answers the texts of a corpus in order; every session computes a window of them while this thread tokenises or decodes another."""
        running = deque[tuple[Sequence[str], list[Document], Future[list[list[Float32]]]]]()

        def next_answers() -> AnsweredTexts:
            window, documents, outputs = running.popleft()
            answers = self.answer(window, documents, outputs.result(), parameters)
            return AnsweredTexts(answers, sum(document.num_tokens for document in documents))

        with ThreadPoolExecutor(self.plan.sessions) as sessions:
            for first in range(0, len(texts), CORPUS_WINDOW):
                window = texts[first : first + CORPUS_WINDOW]
                documents = self.encode(window, parameters)
                running.append((window, documents, sessions.submit(self.run, documents)))
                if len(running) > self.plan.sessions:
                    yield next_answers()
            while running:
                yield next_answers()

    def labels(self, texts: Sequence[str]) -> list[Any]:
        """What the agent sees in each text, in the form that its task scores: without scores or positions."""
        documents = self.encode(texts)
        outputs = self.run(documents)
        return [self.bundle.task.predict(document, logits) for document, logits in zip(documents, outputs, strict=True)]

    def answer(
        self,
        texts: Sequence[str],
        documents: Sequence[Document],
        outputs: Sequence[Sequence[Float32]],
        parameters: Parameters | None = None,
    ) -> list[list[dict[str, Any]]]:
        """Decodes logits into answers, one list per text."""
        wanted = parameters or self.bundle.task.parameters()
        return [
            self.decode(text, document, logits, wanted)
            for text, document, logits in zip(texts, documents, outputs, strict=True)
        ]

    def prepare(self) -> None:
        """Makes the first request as fast as all others: reads the tokenizer, and warms up if so configured."""
        if self.config.warmup:
            self.warm_up()
        self.predict([self.bundle.task.trial_input(self.bundle.encoder)])

    def warm_up(self) -> None:
        """Runs every session over batches of short to longest windows, so that the first caller does not pay for it."""
        for batch in self._batches((*_WARMUP_LENGTHS, self.bundle.manifest.max_tokens)):
            for sessions in filter(None, (self._first, self._sessions)):
                sessions.warm(batch)

    def _batches(self, lengths: Sequence[int]) -> Iterator[Batch]:
        """Full batches of windows of these lengths, as far as the model takes them."""
        longest, budget = self.bundle.manifest.max_tokens, self.config.max_batch_tokens
        for length in sorted({min(length, longest) for length in lengths}):
            ids = np.full((max(1, budget // length), length), self.bundle.encoder.pad_id, np.int64)
            asked = np.zeros_like(ids)
            asked[:, 0] = 1
            yield Batch(ids, np.ones_like(ids), np.zeros_like(ids), asked if "asked" in self.variant.inputs else None)

    def _may_hold_the_loop(self, plan: SessionPlan) -> bool:
        if self.config.executor == "threads":
            return False
        sessions = self._sessions if plan == self.plan else self._open(plan)
        (longest,) = self._batches((self.bundle.manifest.max_tokens,))
        seconds = []
        for _ in range(2):  # the first allocates
            started = time.monotonic()
            sessions.forward(longest)
            seconds.append(time.monotonic() - started)
        return min(seconds) < LONGEST_HOLD_S

    def _open_first(self, plan: SessionPlan | None = None) -> Sessions | None:
        """The sessions of the first pass, as many as the agent's own."""
        shallow = self.variant.shallow
        return None if shallow is None else self._open(plan, shallow)

    def _open(self, plan: SessionPlan | None = None, variant: OnnxVariant | None = None) -> Sessions:
        usual = everyday(self.config, num_cpus=self._num_cpus, gpu=self.provider != "cpu")
        if self.config.executor == "threads":
            usual = replace(usual, on_event_loop=False)
        return Sessions(
            self.bundle,
            variant or self.variant,
            self.provider,
            plan or self._plan or usual,
            self.config.max_batch_tokens,
        )
