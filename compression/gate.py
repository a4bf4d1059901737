"""What a compressed agent must have kept before it may be published."""

from __future__ import annotations

from collections.abc import Sequence

from pydantic import Field

from agent.config import Config
from agent.errors import GateError
from compression.report import Measured, Verdict


class Gate(Config):
    """The least quality, by the task's primary metric on the test split."""

    min_f1_kept: float = Field(0.99, ge=0, le=1, description="part of the original's F1 that must remain")
    min_f1: float | None = Field(None, ge=0, le=1, description="F1 that must be reached whatever the original's")

    def judge(self, original: Measured, published: Sequence[Measured]) -> Verdict:
        """Compares the worst model file that would be published with the original."""
        worst = min(published, key=lambda row: row.f1)
        needed = max(self.min_f1_kept * original.f1, self.min_f1 or 0.0)
        kept = worst.f1 / original.f1 if original.f1 else 1.0
        return Verdict(model=worst.name, f1=worst.f1, original=original.f1, kept=kept, needed=needed)

    def require(self, verdict: Verdict, report: str) -> None:
        """Refuses an agent that lost too much.

        Raises:
            GateError: Says by how much, and where the report lies.
        """
        if verdict.passed:
            return
        raise GateError(
            f"the gate refuses {verdict.model}: F1 {verdict.f1:.4f} is {verdict.needed - verdict.f1:.4f} below the "
            f"{verdict.needed:.4f} it needs ({verdict.kept:.2%} of the original's {verdict.original:.4f} kept); "
            f"nothing was published, the report is {report}",
            allowed=f"gate.min_f1_kept={self.min_f1_kept:g}"
            + ("" if self.min_f1 is None else f" and gate.min_f1={self.min_f1:g}"),
            remedy="remove less (shrink, prune), distill for more epochs, leave out int8 embeddings, or lower the gate",
        )
