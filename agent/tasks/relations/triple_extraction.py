"""Relations between the entities that a tagger finds: text in, triples out. What an agent of relation_extraction is served as beside a tagger."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Literal

from pydantic import BaseModel

from agent.encoding import Encoder
from agent.errors import RequestError
from agent.tasks.base import Column, as_json
from agent.tasks.relations.entity_pairs import Answer, Questions, ask_about, asks_both_ways, ordered, triple
from agent.tasks.relations.marked_text import ALLOWED, holds_marker
from agent.tasks.relations.relation_extraction import RelationExtraction


class Mention(BaseModel):
    """An entity that the tagger found. `text[start:end]` is `word`, in characters of the text as it was sent."""

    entity_group: str
    score: float
    word: str
    start: int
    end: int


class Related(BaseModel):
    """Two entities and their relation, or, of a text in which two are marked, a label with its probability."""

    head: Mention | None = None
    relation: str | None = None
    tail: Mention | None = None
    label: str | None = None
    score: float


class TripleExtraction(RelationExtraction):
    """Triples of entities and their relation; of a text in which two entities are marked one of `labels`, as without a tagger."""

    purpose: ClassVar[str] = "Finds entities of a text and how they are related: {or}."
    item_name: ClassVar[str] = "triple"
    picture: ClassVar[Literal["marks", "ranking", "answers", "fillings", "triples"]] = "triples"  # type: ignore[assignment]
    encoding_refuses: ClassVar[bool] = False
    explores: ClassVar[bool] = False
    answer_item: ClassVar[type[BaseModel]] = Related
    answer_field: ClassVar[str] = "triples"
    columns: ClassVar[tuple[Column, ...]] = (
        Column("label", "BYTES", lambda answer: str(answer[0].get("label", "")) if answer else ""),
        Column("score", "FP32", lambda answer: float(answer[0]["score"]) if answer else 0.0),
        Column("labels", "BYTES", lambda answer: as_json([item for item in answer if "label" in item])),
        Column("triples", "BYTES", lambda answer: as_json([item for item in answer if "relation" in item])),
    )

    def refusal_of(self, text: str) -> str:
        """What is wrong with the markers of a text that holds some."""
        return super().refusal_of(text) if holds_marker(text) else ""

    def unmarked(self, texts: Sequence[str]) -> list[int]:
        """The texts whose entities a tagger has to find.

        Raises:
            RequestError: A text holds markers, but not two marked entities.
        """
        for index, text in enumerate(texts):
            if problem := self.refusal_of(text):
                place = f"inputs[{index}]"
                raise RequestError(
                    f"{place}: {problem}",
                    allowed=f"a text without markers, or {ALLOWED}",
                    remedy="mark both entities in the text, or none",
                    field=place,
                )
        return [index for index, text in enumerate(texts) if not holds_marker(text)]

    def questions(
        self, encoder: Encoder, texts: Sequence[str], entities: Mapping[int, Answer], most: int | None = None
    ) -> Questions:
        """What is asked about texts, as `ask_about` says.

        Raises:
            RequestError: A text that the caller marked does not fit into a window (422), or there are more than `most` pairs (413).
        """
        return ask_about(encoder, texts, entities, both_ways=asks_both_ways(self.labels), most=most)

    def answers(
        self, entities: Mapping[int, Answer], questions: Questions, ranked: Sequence[Answer], top_k: int | None
    ) -> list[list[dict[str, Any]]]:
        """The answer to each text of a request.

        Args:
            entities: By index of a text, what the tagger found.
            questions: What was asked.
            ranked: All labels of each question, best first.
            top_k: Of the triples or labels of a text those that are wanted, best first; None for all.
        """
        found: dict[int, list[dict[str, Any]]] = {index: [] for index in entities}
        for (index, pair), ranking in zip(questions.asked, ranked, strict=True):
            if pair is None:
                found[index] = [dict(item) for item in ranking[:top_k]]
            elif (best := ranking[0])["label"] != self.no_relation:
                found[index].append(triple(entities[index], pair, best["label"], best["score"]))
        return [ordered(found[n], top_k) if n in entities else found[n] for n in range(len(found))]

    def counted(self, answer: Sequence[Mapping[str, Any]]) -> list[tuple[str, float]]:
        """The relation of every triple; of a marked text the best label."""
        if answer and "relation" in answer[0]:
            return [(item["relation"], item["score"]) for item in answer]
        return super().counted(answer)


def with_entities(task: RelationExtraction) -> TripleExtraction:
    """The task of an agent beside a tagger."""
    return TripleExtraction.model_validate({name: getattr(task, name) for name in type(task).model_fields})
