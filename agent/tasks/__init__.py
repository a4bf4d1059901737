"""The tasks an agent can have. Adding one is one file here and one line in the union below."""

from typing import Annotated

from pydantic import Field

from agent.tasks.base import BaseTask, Example, Parameters, Report
from agent.tasks.text_classification import TextClassification
from agent.tasks.token_classification import TokenClassification

Task = Annotated[
    TokenClassification
    | TextClassification,
    Field(discriminator="kind"),
]  # fmt: skip

__all__ = ["BaseTask", "Example", "Parameters", "Report", "Task", "TextClassification", "TokenClassification"]
