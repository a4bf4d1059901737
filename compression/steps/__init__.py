"""The steps of compression. Adding one is one file here and one line in the union below."""

from typing import Annotated, get_args

from pydantic import Field

from compression.steps.base import BaseStep
from compression.steps.cascade import CascadeStep
from compression.steps.convert import ConvertStep
from compression.steps.distill import DistillStep
from compression.steps.distill_texts import DistillTextsStep
from compression.steps.export import ExportStep
from compression.steps.low_rank import LowRankStep
from compression.steps.prune import PruneStep
from compression.steps.quantize import QuantizeStep
from compression.steps.shrink import ShrinkStep
from compression.steps.verify import VerifyStep
from compression.steps.vocabulary import VocabularyStep

Step = Annotated[
    ShrinkStep
    | DistillStep
    | DistillTextsStep
    | PruneStep
    | VocabularyStep
    | LowRankStep
    | ExportStep
    | QuantizeStep
    | CascadeStep
    | ConvertStep
    | VerifyStep,
    Field(discriminator="kind"),
]  # fmt: skip

ORDER = tuple(
    kind.model_fields["kind"].default for kind in sorted(get_args(get_args(Step)[0]), key=lambda kind: kind.position)
)
"""The kinds of all steps in the order in which they can be taken."""

__all__ = [
    "ORDER", "BaseStep", "CascadeStep", "ConvertStep", "DistillStep", "DistillTextsStep", "ExportStep", "LowRankStep", "PruneStep", "QuantizeStep", "ShrinkStep", "Step", "VerifyStep",
    "VocabularyStep",
]  # fmt: skip
