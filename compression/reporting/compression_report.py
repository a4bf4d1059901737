"""What compression did, as data: rows of what was measured, the gate's verdict. Measures nothing and draws nothing itself."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import Field

from agent.config.base import Config
from agent.tasks import Report


class Latency(Config):
    """Milliseconds of one sentence: the median and the 10th and 90th percentile."""

    median_ms: float
    p10_ms: float
    p90_ms: float


class Agreement(Config):
    """Shares of what the original answers alike: whole texts, and single words (for tags; else the same as texts)."""

    texts: float
    words: float


class Measured(Config):
    """One model file, measured.

    Attributes:
        name: What it is.
        file: Its name in the bundle; the original's in its own.
        precision: Of its weights.
        size_bytes: Of the file.
        parameters: Weights that it computes with.
        flops_per_token: Of a sentence of 64 tokens (or as many as the model takes), products and attention.
        quality: Scores on the test split, or on the dev split after a step.
        calibration_error: Expected calibration error in 15 bins of equal width (Guo et al., arXiv 1706.04599), over words
            or texts: confidence is the probability of the answer.
        agreement: With the original.
        latency: By number of tokens, one sentence at a time. Weights with zeros are as fast as the original: not timed.
        sentences_per_s, tokens_per_s: Throughput in batches; tokens without padding.
        published: Whether it is in the new bundle.
    """

    name: str
    file: str
    precision: str
    size_bytes: int
    parameters: int
    flops_per_token: int | None = None
    quality: Report
    calibration_error: float | None = None
    agreement: Agreement | None = None
    latency: Mapping[int, Latency] = Field(default_factory=dict)
    sentences_per_s: float | None = None
    tokens_per_s: float | None = None
    published: bool

    @property
    def f1(self) -> float:
        """The task's primary metric."""
        return self.quality.value


class StepRow(Config):
    """What was measured after a step.

    Attributes:
        kind: Of the step; `original` before the first.
        seconds: That the step took, measuring not included.
        num_examples: Of the dev split, over which quality was measured.
        measured: None where nothing was measured.
        speed: Sentences a second over the original's, both measured in turns just then.
    """

    kind: str
    seconds: float
    num_examples: int = 0
    measured: Measured | None = None
    speed: float | None = None


class Verdict(Config):
    """The gate's comparison of a model with the original: of the worst that would be published, or of what a step left.

    Attributes:
        split: `test`, or what of the dev split.
    """

    model: str
    f1: float
    original: float
    kept: float
    needed: float
    split: str = "test"

    @property
    def passed(self) -> bool:
        """Whether it may be published."""
        return self.f1 >= self.needed


class CompressionReport(Config):
    """Everything that is known of a run.

    Attributes:
        trail: After each step, on the dev split; the original first where steps were measured.
        rows: Of what would be published, on the test split, the original first; empty if a step was refused.
    """

    bundle: str
    parent_digest: str
    data_digest: str
    config: Mapping[str, Any]
    machine: str
    threads: int
    batch_size: int
    contention: float | None
    versions: Mapping[str, str]
    notes: tuple[str, ...]
    trail: tuple[StepRow, ...]
    rows: tuple[Measured, ...]
    verdict: Verdict
