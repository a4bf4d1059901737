"""The contestants of benchmarks/training_throughput.py. Adding one is one file here and one line in the union below."""

from typing import Annotated

from pydantic import Field

from benchmarks.trainer_comparison.article import Article
from benchmarks.trainer_comparison.base import Contestant
from benchmarks.trainer_comparison.matmul_ceiling import Ceiling
from benchmarks.trainer_comparison.ours import Ours
from benchmarks.trainer_comparison.trainer import Trainer
from benchmarks.trainer_comparison.twins import Twins

AnyContestant = Annotated[
    Ceiling
    | Article
    | Trainer
    | Ours
    | Twins,
    Field(discriminator="kind"),
]  # fmt: skip

__all__ = ["AnyContestant", "Article", "Ceiling", "Contestant", "Ours", "Trainer", "Twins"]
