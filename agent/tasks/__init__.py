"""The tasks an agent can have. Adding one is one file here and one line in the union below."""

from collections.abc import Mapping
from typing import Annotated, Any, get_args

from pydantic import Field

from agent.tasks.base import BaseTask, Example, Report
from agent.tasks.masked_language.masked_language_modelling import MaskedLanguageModelling
from agent.tasks.multi_label_classification import MultiLabelClassification
from agent.tasks.question_answering.extractive import QuestionAnswering
from agent.tasks.relations.relation_extraction import RelationExtraction
from agent.tasks.requests.request_parameters import Parameters
from agent.tasks.text_classification import TextClassification
from agent.tasks.text_pair_classification import TextPairClassification
from agent.tasks.token_classification import TokenClassification
from agent.tasks.writing.sequence_to_sequence import SequenceToSequence
from agent.tasks.writing.text_generation import TextGeneration

Task = Annotated[
    TokenClassification
    | TextClassification
    | MultiLabelClassification
    | TextPairClassification
    | QuestionAnswering
    | RelationExtraction
    | MaskedLanguageModelling
    | SequenceToSequence
    | TextGeneration,
    Field(discriminator="kind"),
]  # fmt: skip

KINDS: Mapping[str, type[BaseTask[Any]]] = {
    task.model_fields["kind"].default: task for task in get_args(get_args(Task)[0])
}

__all__ = [
    "KINDS", "BaseTask", "Example", "MaskedLanguageModelling", "MultiLabelClassification", "Parameters", "QuestionAnswering",
    "RelationExtraction", "Report", "SequenceToSequence", "Task", "TextClassification", "TextGeneration", "TextPairClassification", "TokenClassification",
]  # fmt: skip
