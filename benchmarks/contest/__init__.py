"""Who takes part in benchmarks/training_throughput.py. A contestant is one file here and one line in the union below."""

from typing import Annotated

from pydantic import Field

from benchmarks.contest.article import Article
from benchmarks.contest.base import Contestant
from benchmarks.contest.ceiling import Ceiling
from benchmarks.contest.ours import Ours
from benchmarks.contest.trainer import Trainer
from benchmarks.contest.twins import Twins

AnyContestant = Annotated[
    Ceiling
    | Article
    | Trainer
    | Ours
    | Twins,
    Field(discriminator="kind"),
]  # fmt: skip

__all__ = ["AnyContestant", "Article", "Ceiling", "Contestant", "Ours", "Trainer", "Twins"]
