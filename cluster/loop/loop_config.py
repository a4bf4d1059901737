"""The configuration of the loop."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, Self

from pydantic import Field, model_validator

from agent.config.base import Config
from agent.data import DataConfig
from agent.decisions.judgement import EvidenceConfig

REWARDED = (
    "reward_likelihood",
    "policy_gradient",
)  # the objectives that learn from rewards; the first unless another one is given
_OWN = {
    "training": frozenset({"data", "output", "overwrite", "resume"}),
    "compression": frozenset({"bundle", "data", "output", "overwrite"}),
}


class GatesConfig(Config):
    """What a candidate must show to be published, beside the gate of its compression."""

    max_loss: float = Field(
        0.01, ge=0, le=1, description="how far its score on the test split may lie below the live agent's"
    )
    log_share: float = Field(
        0.2,
        ge=0,
        lt=1,
        description="part of the texts, by their hash, that classifiers are never trained on, so that the log can judge by them; "
        "0 trains on all and leaves the log out",
    )
    max_log_loss: float = Field(
        0.0,
        ge=0,
        le=1,
        description="where the log can tell: how far the lower end of the interval of its gain over the live agent may lie below 0",
    )
    log_required: bool = Field(
        False, description="refuse a candidate of which the log cannot tell, instead of leaving it to the other gates"
    )
    evidence: EvidenceConfig = Field(default_factory=EvidenceConfig, description="what the log has to hold")
    texts: int = Field(
        1_000, ge=0, description="latest texts of the log on which the agreement with the live agent is reported"
    )


class SelfTrainingConfig(Config):
    """Texts that nobody corrected or rewarded, taught by the live agent's own answers (pseudo-labels, Lee 2013)."""

    texts: int = Field(
        0,
        ge=0,
        description="logged texts without feedback, newest first, that the live agent labels for a round; 0: none",
    )
    threshold: float = Field(
        0.9,
        gt=0,
        lt=1,
        description="least probability of the likeliest option of every decision of an answer (of a tagger's, of every word) from which on it is taught",
    )


class LoopConfig(Config):
    """A round of the loop, or one after the other."""

    directory: str = Field(
        description="where rounds, their data and the ledger are kept; one loop at a time works there"
    )
    store: str = Field("", description="database with decisions and feedback, as serving's feedback.store")
    live: str = Field("", description="directory of the bundle that is served and watched; what passes is put there")
    agent: str = Field("", description="name of the agent in the store; may be empty where the store has one")
    trained: str = Field("", description="the bundle that the live one was compressed from; empty: where it lay then")
    data: DataConfig | None = Field(
        None, description="the original labelled data, whose dev and test stay; default: what `trained` was trained on"
    )
    rewards: Literal["judge", "teach"] = Field(
        "judge",
        description="what rewards are for: to judge a candidate by the log, or to teach it too, beside corrections (objective.kind=reward_likelihood)",
    )
    min_feedback: int = Field(
        50,
        ge=1,
        description="new corrections, with rewards=teach corrections and rewards, below which a round has nothing to learn",
    )
    max_caller_share: float = Field(
        1.0,
        gt=0,
        le=1,
        description="largest part of what a round is taught (corrections and rewards) that one caller (name of a key) may give",
    )
    check_callers: bool = Field(
        True,
        description="leave out callers (names of keys) whose feedback contradicts labelled texts, or falls as the scores of answers rise where that of others rises",
    )
    start: Literal["auto", "base", "live"] = Field(
        "auto",
        description="weights that training starts from: the base model's, those of `trained` (live), or the latter only where rewards teach (auto)",
    )
    training: Mapping[str, Any] = Field(
        default_factory=dict, description="keys of training/run.py that replace those that `trained` was trained with"
    )
    compression: Mapping[str, Any] = Field(
        default_factory=dict, description="keys of compression/run.py that replace those of the live bundle"
    )
    self_training: SelfTrainingConfig = Field(default_factory=SelfTrainingConfig)
    gates: GatesConfig = Field(default_factory=GatesConfig)
    every_s: float | None = Field(None, gt=0, description="seconds between two rounds; default: one round and no more")
    abandon: bool = Field(False, description="give up an unfinished round first; its feedback counts as new again")
    show: bool = Field(False, description="print the ledger as a table and stop")

    @model_validator(mode="after")
    def _places_given(self) -> Self:
        if not self.show and not (self.store and self.live):
            raise ValueError("store and live are needed, unless show=true")
        return self

    @model_validator(mode="after")
    def _stations_keep_their_places(self) -> Self:
        for name, own in _OWN.items():
            if taken := sorted(own & set(getattr(self, name))):
                raise ValueError(
                    f"{name}.{taken[0]} is set by the loop itself, as are {', '.join(sorted(own))}: leave it out"
                )
        return self

    @model_validator(mode="after")
    def _rewards_choose_the_objective(self) -> Self:
        objective = self.training.get("objective", {})
        kind = objective.get("kind", REWARDED[0]) if isinstance(objective, Mapping) else REWARDED[0]
        if self.rewards == "teach" and kind not in REWARDED:
            raise ValueError(
                f"training.objective.kind={kind} does not learn from rewards; {' and '.join(REWARDED)} do, and rewards=teach chooses the first: leave it out"
            )
        return self

    def recorded(self) -> dict[str, Any]:
        """What is kept of it: all but the store, whose address may hold a password."""
        return self.model_dump(mode="json", exclude={"store"})

    @property
    def live_path(self) -> Path:
        """Where the live bundle lies."""
        return Path(self.live).expanduser().absolute()
