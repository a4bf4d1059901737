"""A request for triples on its way through two agents: a tagger finds entities, then every pair of them waits for the relation agent like any other work."""

from __future__ import annotations

import asyncio
import time

from agent import telemetry
from agent.errors import RequestError
from agent.tasks.relations.entity_pairs import Questions
from serving.inference.triple_engine import TripleEngine
from serving.scheduling.model_version import ModelVersion
from serving.scheduling.prediction import INLINE_CHARACTERS, Outcome, Prediction, Shared, Wanted
from serving.scheduling.refusals import OverloadError


class TriplePrediction(Prediction):
    """The texts of one request on their way through a tagger and an agent of relations.

    Args:
        wanted: What is to be predicted.
        version: What predicts, with its tagger.
        shared: What all predictions share.
    """

    __slots__ = ("_charged", "_engine", "_entities", "_questions", "_tagged", "_unmarked")

    def __init__(self, wanted: Wanted, version: ModelVersion, shared: Shared) -> None:
        super().__init__(wanted, version, shared)
        assert isinstance(version.engine, TripleEngine)
        self._engine = version.engine
        self._tagged: Prediction | None = None
        self._charged = 0

    def start(self) -> None:
        """Has the tagger answer the texts without marks."""
        self._enter()
        try:
            self._unmarked = self._engine.task.unmarked(self.wanted.texts)
        except RequestError as error:
            self.end(error)
            return
        if not self._unmarked:
            self._found([])
            return
        assert self.version.tagger is not None
        texts = [self.wanted.texts[index] for index in self._unmarked]
        asked = self.wanted._replace(
            texts=texts,
            num_characters=sum(map(len, texts)),
            parameters=self._engine.tagger.bundle.task.parameters(),
            timeout_s=None,  # this prediction's own timer ends both
        )
        shared = self._shared._replace(ended=lambda _, outcome: self._found(outcome), explorer=None)
        self._tagged = Prediction(asked, self.version.tagger, shared)
        self._tagged.start()

    def end(self, outcome: Outcome) -> None:
        """Ends it; what the relation agent said becomes the answers of the texts."""
        if self.over:
            return
        if not isinstance(outcome, Exception):
            top_k = getattr(self.wanted.parameters, "top_k", None)
            outcome = self._engine.task.answers(self._entities, self._questions, outcome, top_k)
        elif isinstance(outcome, OverloadError) and self._charged:
            self.wanted.context.give_back(self._charged)
        super().end(outcome)

    def _leave(self) -> None:
        super()._leave()
        if self._tagged is not None:
            self._tagged.cancel()

    def _found(self, outcome: Outcome) -> None:
        """Told the entities of the texts without marks, or why there are none."""
        if self.over:
            return
        if isinstance(outcome, Exception):
            self.end(outcome)
            return
        self._entities = dict(zip(self._unmarked, outcome, strict=True))
        if self._num_characters() <= INLINE_CHARACTERS:
            self._asked(self._ask())
        else:
            future = asyncio.get_running_loop().run_in_executor(self._shared.threads, self._ask)
            future.add_done_callback(lambda done: self._asked(done.result()))

    def _num_characters(self) -> int:
        """At most those that are tokenised: a text once for each of its pairs."""
        texts = self.wanted.texts
        return sum(len(text) * (1 + _num_pairs(len(self._entities.get(index, ())))) for index, text in enumerate(texts))

    def _ask(self) -> tuple[Questions | Exception, float, float]:
        started, most = time.monotonic(), self.version.limits.max_pairs
        questions: Questions | Exception
        try:
            questions = self._engine.task.questions(
                self._engine.bundle.encoder, self.wanted.texts, self._entities, most
            )
        except Exception as error:  # noqa: BLE001 - told to the caller
            questions = error
        return questions, started, time.monotonic()

    def _asked(self, result: tuple[Questions | Exception, float, float]) -> None:
        questions, started, ended = result
        if self.over:
            return
        if isinstance(questions, Exception):
            self.end(questions)
            return
        self._charge(questions.num_pairs)
        count = self._shared.metrics.count
        count(telemetry.PAIRS, questions.num_pairs, outcome="asked")
        count(telemetry.PAIRS, questions.num_too_far, outcome="too_far")
        self._questions = questions
        if not questions.texts:
            self.end([])
            return
        self._expect(questions.texts, self._engine.task.parameters())
        self._encoded((questions.documents, started, ended))

    def _charge(self, num_pairs: int) -> None:
        """Each pair counts against the key's limit as a text does."""
        if (limit := self.wanted.context.rate_limit) is not None:
            limit.overdraw(num_pairs)
            self._charged = num_pairs


def _num_pairs(num_entities: int) -> int:
    return num_entities * (num_entities - 1) // 2
