"""The steps of compression. Adding one is one file here and one line in the union below."""

from typing import Annotated

from pydantic import Field

from compression.steps.base import BaseStep
from compression.steps.export import ExportStep
from compression.steps.prune import PruneStep
from compression.steps.quantize import QuantizeStep
from compression.steps.verify import VerifyStep

Step = Annotated[
    PruneStep
    | ExportStep
    | QuantizeStep
    | VerifyStep,
    Field(discriminator="kind"),
]  # fmt: skip

__all__ = ["BaseStep", "ExportStep", "PruneStep", "QuantizeStep", "Step", "VerifyStep"]
