"""The quality gate: how much of its score a compressed agent must keep to be published, and after each step."""

from __future__ import annotations

from collections.abc import Sequence

from pydantic import Field

from agent.config.base import Config
from agent.errors import GateError
from compression.reporting.compression_report import Measurement, StepRow, Verdict

_REMEDY = "remove less (shrink, prune), distill for more epochs, leave out int8 embeddings, or lower the gate"

_MAX_POINTS_LOST = 0.003  # of BLEU or ROUGE: a hundredth of a low score is less than int8 moves one by chance
_WRITERS_REMEDY = "leave int8 out (steps='[{kind: convert, precisions: [fp32]}, verify]'), distill_texts for more epochs, or lower the gate"


class Gate(Config):
    """The least quality that is published, by the task's primary metric on the test split."""

    min_score_kept: float = Field(0.99, ge=0, le=1, description="part of the original's score that must remain")
    max_score_lost: float | None = Field(
        None, ge=0, le=1,
        description="most of the original's score that may be lost, as a fraction: 0.003 is 0.3 points of BLEU, the default where texts are generated and min_score_kept is not given",
    )  # fmt: skip
    min_score: float | None = Field(None, ge=0, le=1, description="score that must be reached whatever the original's")
    after_each: bool | None = Field(
        None,
        description="stop after a step that no later step can make up for (distill can); default: where steps are measured",
    )
    margin: float = Field(
        0.02, ge=0, le=1,
        description="how much less than min_score_kept may be kept after a step, where the dev split tells it",
    )  # fmt: skip

    def for_generated_texts(self) -> Gate:
        """The gate of agents that are scored by texts that they generate: points of a score count, not parts of it, unless parts are given."""
        if "min_score_kept" in self.model_fields_set:
            return self
        lost = self.max_score_lost if "max_score_lost" in self.model_fields_set else _MAX_POINTS_LOST
        return self.model_copy(update={"min_score_kept": 0.0, "max_score_lost": lost})

    def judge(self, original: Measurement, published: Sequence[Measurement]) -> Verdict:
        """Judges the worst of the model files that would be published."""
        worst = min(published, key=lambda row: row.score)
        needed = max(self.min_score_kept * original.score, self.min_score or 0.0)
        if self.max_score_lost is not None:
            needed = max(needed, original.score - self.max_score_lost)
        return _verdict(worst.name, worst, original, needed)

    def judge_step(self, row: StepRow, original: StepRow) -> Verdict:
        """Judges the state after a step by the same part of the dev split as the original."""
        assert row.measurement
        assert original.measurement
        needed = max(0.0, self.min_score_kept - self.margin) * original.measurement.score
        split = f"{row.num_examples} examples of the dev split"
        return _verdict(f"what {row.kind} left", row.measurement, original.measurement, needed, split=split)

    def require(self, verdict: Verdict, report: str, *, writes: bool = False) -> None:
        """Refuses an agent that lost too much.

        Args:
            report: Path of the report, for the message.
            writes: Whether the agent writes texts, for the message.

        Raises:
            GateError: The verdict is a refusal.
        """
        if verdict.passed:
            return
        if verdict.split == "test":
            bounds = {name: getattr(self, name) for name in ("min_score_kept", "max_score_lost", "min_score")}
            allowed = " and ".join(
                f"gate.{name}={value:g}"
                for name, value in bounds.items()
                if value or (name == "max_score_lost" and value is not None)
            )
        else:
            allowed = f"gate.min_score_kept={self.min_score_kept:g} less gate.margin={self.margin:g} after a step"
        remedy = _WRITERS_REMEDY if writes else _REMEDY
        raise GateError(
            f"the gate refuses {verdict.model}: {verdict.score_name} {verdict.score:.4f} is {verdict.needed - verdict.score:.4f} below the "
            f"{verdict.needed:.4f} it needs ({verdict.kept:.2%} of the original's {verdict.original:.4f} kept, "
            f"{verdict.split}{'' if verdict.split != 'test' else ' split'}); nothing was published, the report is {report}",
            allowed=allowed,
            remedy=remedy if verdict.split == "test" else f"{remedy}, or set gate.after_each=false to see the end",
        )


def _verdict(model: str, row: Measurement, original: Measurement, needed: float, split: str = "test") -> Verdict:
    kept = row.score / original.score if original.score else 1.0
    return Verdict(
        model=model, score_name=row.quality.score_name, score=row.score, original=original.score, kept=kept,
        needed=needed, split=split,
    )  # fmt: skip
