"""An agent of relations beside a tagger, in one process: texts in, triples out. The tagger computes first, then the relations of what it found."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from agent.bundle import Bundle
from agent.tasks import Parameters
from agent.tasks.relations.entity_pairs import Answer
from agent.tasks.relations.triple_extraction import TripleExtraction
from agent.tasks.relations.triple_scores import triples_of
from serving.inference.engine import Engine, EngineConfig
from serving.inference.served_engine import CORPUS_WINDOW, AnsweredTexts
from serving.inference.session_plan import SessionPlan


class TripleEngine(Engine):
    """Both agents with the sessions that compute them.

    Args:
        bundle: The agent of relations, `beside` its tagger.
        config: How each of them computes.
        precision: Which of the graphs of each.
        num_cpus: Cores to use.
        plan: How many sessions of what kind each has.

    Raises:
        BundleError: One of them has no graph of that precision, or one that ONNX Runtime cannot read.
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
        super().__init__(bundle, config, precision=precision, num_cpus=num_cpus, plan=plan)
        assert bundle.tagger is not None
        self.tagger = Engine(bundle.tagger, config, precision=precision, num_cpus=num_cpus, plan=plan)

    @property
    def task(self) -> TripleExtraction:
        """What both answer together."""
        task = self.bundle.task
        assert isinstance(task, TripleExtraction)
        return task

    def best_plan(self) -> SessionPlan:
        """The fastest plan for relations, which most of the work is; on the event loop only if the tagger may compute there as well."""
        plan = super().best_plan()
        return replace(plan, on_event_loop=plan.on_event_loop and self.tagger.best_plan().on_event_loop)

    def use(self, plan: SessionPlan) -> None:
        """Computes both under another plan from now on."""
        super().use(plan)
        self.tagger.use(plan)

    def prepare(self) -> None:
        """Makes the first request as fast as all others."""
        self.tagger.prepare()
        super().prepare()

    def predict(self, texts: Sequence[str], parameters: Parameters | None = None) -> list[list[dict[str, Any]]]:
        """Answers texts: triples, or of texts with two marked entities the ranked labels.

        Raises:
            RequestError: A text is no Unicode text, its markers are wrong, or a parameter does not fit.
        """
        return self.predict_counted(texts, parameters)[0]

    def annotate(self, texts: Sequence[str], parameters: Any) -> Iterator[AnsweredTexts]:
        """Answers the texts of a corpus in order, one window after the other."""
        for first in range(0, len(texts), CORPUS_WINDOW):
            yield AnsweredTexts(*self.predict_counted(texts[first : first + CORPUS_WINDOW], parameters))

    def predict_counted(
        self, texts: Sequence[str], parameters: Parameters | None = None
    ) -> tuple[list[list[dict[str, Any]]], int]:
        """Answers texts, and tells how many tokens both agents computed for them.

        Raises:
            RequestError: As `predict`.
        """
        task, tagger = self.task, self.tagger
        unmarked = task.unmarked(texts)
        first = tagger.encode([texts[index] for index in unmarked])
        tagged = tagger.answer([texts[index] for index in unmarked], first, tagger.run(first))
        entities: Mapping[int, Answer] = dict(zip(unmarked, tagged, strict=True))
        questions = task.questions(self.bundle.encoder, texts, entities)
        ranked = self.answer(questions.texts, questions.documents, self.run(questions.documents))
        answers = task.answers(entities, questions, ranked, getattr(parameters, "top_k", None))
        return answers, sum(document.num_tokens for document in (*first, *questions.documents))

    def labels(self, texts: Sequence[str]) -> list[Any]:
        """The triples of each text without scores; of a marked text its label."""
        return [
            answer[0]["label"] if answer and "label" in answer[0] else triples_of(answer)
            for answer in self.predict(texts)
        ]


def open_graph_engine(
    bundle: Bundle,
    config: EngineConfig | None = None,
    *,
    precision: str = "auto",
    num_cpus: int | None = None,
    plan: SessionPlan | None = None,
) -> Engine:
    """An engine for a bundle with graphs, with its tagger where it stands beside one; arguments and errors as those of `Engine`."""
    kind = TripleEngine if bundle.tagger else Engine
    return kind(bundle, config, precision=precision, num_cpus=num_cpus, plan=plan)
