"""The data of a compression report: measurements of model files and steps, and the gate's verdict."""

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
    """Shares of texts and of words with the same answer as the original's; both are equal for tasks without tags."""

    texts: float
    words: float


class WritingSpeed(Config):
    """How fast texts are written.

    Attributes:
        num_texts: That were written in a turn.
        num_turns: Of this model, in turns with others.
        texts_per_s, tokens_per_s: Of the median turn; the token that ends a text does not count.
        slowest_tokens_per_s, fastest_tokens_per_s: Of the slowest and the fastest turn.
    """

    num_texts: int
    num_turns: int
    texts_per_s: float
    tokens_per_s: float
    slowest_tokens_per_s: float
    fastest_tokens_per_s: float


class Measurement(Config):
    """Measurements of one model file.

    Attributes:
        name: Name in the report.
        file: Name of the file, or of the directory of a converted model, in its bundle.
        precision: Precision of the weights.
        parameters: Number of weights that it computes with.
        flops_per_token: In a sentence of 64 tokens, or of as many as the model takes.
        quality: Scores on the test split, or on the dev split after a step.
        calibration_error: Expected calibration error in 15 bins of equal width (Guo et al., arXiv 1706.04599), over words
            or texts: confidence is the probability of the answer.
        agreement: Agreement with the original.
        latency: By number of tokens, one sentence at a time. Weights with zeros are as fast as the original and not timed.
        sentences_per_s, tokens_per_s: Throughput in batches, without padding; of texts and sub-words that are written, if it writes.
        writing: Of a model that writes, its speed by the number of texts in a batch.
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
    writing: Mapping[int, WritingSpeed] = Field(default_factory=dict)
    published: bool

    @property
    def score(self) -> float:
        """The task's primary metric."""
        return self.quality.value


class StepRow(Config):
    """Measurements after a step.

    Attributes:
        kind: Kind of the step; `original` before the first.
        seconds: Time of the step without measuring.
        num_examples: Examples of the dev split that quality was measured on.
        speed: Throughput relative to the original's, both timed in turns after the step.
    """

    kind: str
    seconds: float
    num_examples: int = 0
    measurement: Measurement | None = None
    speed: float | None = None


class Verdict(Config):
    """The gate's comparison of a model with the original: the worst to be published, or the state after a step.

    Attributes:
        score_name: Of the task's primary metric.
        score, original: Those of the model and of the original.
        kept: Their ratio.
        needed: Score that the model must reach.
        split: `test`, or a description of the part of the dev split.
    """

    model: str
    score_name: str
    score: float
    original: float
    kept: float
    needed: float
    split: str = "test"

    @property
    def passed(self) -> bool:
        """Whether it may be published."""
        return self.score >= self.needed


class CompressionReport(Config):
    """The report of a compression run.

    Attributes:
        step_rows: After each step, on the dev split; the original first where steps were measured.
        model_rows: Model files on the test split, the original first; empty if the gate refused a step.
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
    step_rows: tuple[StepRow, ...]
    model_rows: tuple[Measurement, ...]
    verdict: Verdict
