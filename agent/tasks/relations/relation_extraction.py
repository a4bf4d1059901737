"""How two marked entities of a text are related: one of several directed relations, or none."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Literal

from pydantic import Field

from agent.encoding import Document, Encoder
from agent.errors import DataError, RequestError
from agent.tasks.base import Join, Report
from agent.tasks.relations.entity_windows import encode_marked, is_cut
from agent.tasks.relations.marked_text import MarkerError, read_markers
from agent.tasks.relations.relation_scores import score_relations
from agent.tasks.requests.request_parameters import Parameters
from agent.tasks.text_classification import ClassificationParameters, LabelledText, TextClassification

_SHAPE = '{"text": "<e1>...</e1> ... <e2>...</e2> ...", "label": "..."}'


class RelationParameters(ClassificationParameters):
    """Parameters of a request about relations, named as in Hugging Face's API."""

    stride: None = Field(None, description="Has no meaning here: a text is one window around its entities.")


class RelationExtraction(TextClassification):
    """One of `labels` for the two marked entities of each text."""

    record_shape: ClassVar[str] = _SHAPE
    purpose: ClassVar[str] = "Says how two marked entities of a text are related: {or}."
    item_name: ClassVar[str] = "relation"
    encoding_refuses: ClassVar[bool] = True  # entities do not fit into a window
    explains: ClassVar[bool] = False  # hiding words would hide the marks of entities
    parameters: ClassVar[type[Parameters]] = RelationParameters

    kind: Literal["relation_extraction"] = "relation_extraction"  # type: ignore[assignment]
    no_relation: str = Field(
        "Other", min_length=1, description="the label of entities without a relation; F1 leaves it out"
    )

    def read_record(self, record: Mapping[str, Any], where: str, *, join: Join = " ".join) -> LabelledText:
        """Reads `{"text", "label"}`, two entities marked in the text."""
        example = super().read_record(record, where)
        if problem := _wrong_markers(example.text):
            raise DataError(f"{where}: {problem}", allowed=_SHAPE, remedy="mark both entities in the text")
        return example

    def refusal_of(self, text: str) -> str:
        """What is wrong with the markers of a text."""
        return _wrong_markers(text)

    def encode(self, encoder: Encoder, examples: Sequence[LabelledText]) -> list[Document]:
        """Encodes the texts, each as a window around its entities.

        Raises:
            DataError: Entities do not fit into a window; names their place.
        """
        try:
            return encode_marked(encoder, [example.text for example in examples])
        except RequestError:
            for example in examples:
                try:
                    encode_marked(encoder, [example.text])
                except RequestError as error:
                    what = error.what.removeprefix("inputs[0]: ")
                    raise DataError(f"{example.where}: {what}", allowed=error.allowed, remedy=error.remedy) from None
            raise

    def encode_request(self, encoder: Encoder, texts: Sequence[str], parameters: Any) -> list[Document]:
        """Encodes the texts.

        Raises:
            RequestError: Entities of a text are not marked as they have to be, or do not fit into a window.
        """
        return encode_marked(encoder, texts)

    def trial_input(self, encoder: Encoder) -> str:
        """Two marked words."""
        return "<e1>warm</e1> <e2>up</e2>"

    def remarks(self, encoder: Encoder, examples: Sequence[LabelledText]) -> list[str]:
        """How many texts are longer than a window."""
        num_cut = sum(map(is_cut, self.encode(encoder, examples)))
        return [f"{num_cut:,} of {len(examples):,} texts are seen in part, around their entities"] if num_cut else []

    def score(self, examples: Sequence[LabelledText], predictions: Sequence[str]) -> Report:
        """Macro F1, micro F1 and accuracy by the rules of SemEval-2010 task 8; the primary metric is its official macro F1."""
        return score_relations([example.label for example in examples], predictions, self.no_relation)


def _wrong_markers(text: str) -> str:
    try:
        read_markers(text)
    except MarkerError as error:
        return str(error)
    return ""
