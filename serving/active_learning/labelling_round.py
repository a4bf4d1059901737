"""Names the texts to label next: reads, scores and chooses them, writes them with the agent's answers, and tells what was found."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple, Self

import numpy as np
from pydantic import Field, model_validator

from agent import markdown
from agent.config.base import Config
from agent.encoding import Float32
from agent.errors import DataError
from agent.tasks import BaseTask
from cluster import bundles
from cluster.progress import Progress, timed_bar
from serving.active_learning.candidate_texts import Candidates, Texts, candidates, read_files, read_labelled, read_log
from serving.active_learning.diverse_choice import Int64, Pool, distinct_pool, representatives
from serving.active_learning.labelling_files import Form, Suggestion, check_output, write_suggestions
from serving.active_learning.text_vectors import TextVectors
from serving.active_learning.uncertainty import Float64, Measure, Scored, score_texts
from serving.annotation.shards import FormatName
from serving.inference.engine import Engine
from serving.inference.session_plan import Auto

_DAY_S = 86_400.0
_SAMPLE = 20_000  # texts by which n-grams are known to be rare
_TEXTS_AT_ONCE = 1_000
_QUANTILES = {"least": 0.0, "quarter": 0.25, "median": 0.5, "three quarters": 0.75, "most": 1.0}


class LabelNextConfig(Config):
    """Which texts are to be named, by which agent, and where they go."""

    bundle: str = Field(description="the agent's bundle: a directory, or s3://bucket/prefix")
    input: str = Field(
        "", description="a file, a directory or an s3:// URL with .jsonl, .txt (a text a line) or .parquet files"
    )
    log: str = Field(
        "", description="instead of input: database of logged decisions, as serving's feedback.store; without feedback"
    )
    agent: str = Field("", description="name of the agent whose decisions count; needed where the log has several")
    since_days: float | None = Field(None, gt=0, description="age of the oldest decision that counts")
    labelled: str = Field(
        "",
        description="labelled data (a file, or what data.path may be), whose texts are left out with near duplicates",
    )
    number: int = Field(100, ge=1, le=2_000, description="texts that are named")
    output: str = Field(description="file for them; its directory is made where it is absent")
    format: Form = Field("jsonl", description="what is written: the normal form, or a file of a tool for annotation")
    uncertainty: Measure = Field("margin", description="how unsure an answer is (docs/feedback.md)")
    pool: int = Field(10, ge=1, le=1_000, description="times number: the most uncertain texts among which is chosen")
    duplicate_similarity: float = Field(
        0.95, gt=0, le=1, description="cosine of n-grams from which on two texts are nearly the same"
    )
    seed: int = Field(
        0,
        ge=0,
        description="orders texts that are equally uncertain, and draws the first centres and the texts by which n-grams are weighed",
    )
    text_field: str | None = Field(
        None,
        min_length=1,
        description="field of a record that holds its text; default: text, or question for questions",
    )
    input_format: FormatName | Auto = Field("auto", description="format of the input; auto goes by the files' suffix")
    precision: str = Field("auto", description="precision of the ONNX graph, as in serving")
    overwrite: bool = Field(False, description="replace a file that stands at output")

    @model_validator(mode="after")
    def _one_of_two(self) -> Self:
        if bool(self.input) == bool(self.log):
            raise ValueError("give input=FILE or log=STORE, one of the two")
        return self


class Found(NamedTuple):
    """What came of it.

    Attributes:
        read: The texts as they were read.
        new: Those that were scored.
        scored: How unsure the agent is of them.
        pool: The uncertain ones among which was chosen.
        chosen: Places of the chosen among the scored, most uncertain first.
    """

    read: Texts
    new: Candidates
    scored: Scored
    pool: Pool
    chosen: Int64


def label_next(config: LabelNextConfig) -> None:
    """Names the texts, and prints what was found.

    Raises:
        BundleError: The bundle cannot be served.
        ConfigError: The output is there already, or its format cannot hold the agent's inputs.
        DataError: There is no text to be labelled, or data cannot be read.
        StoreError: The log cannot be read.
    """
    output = Path(config.output).expanduser()
    engine = Engine(bundles.fetch(config.bundle), precision=config.precision)
    task = engine.bundle.task
    check_output(output, config.format, task, overwrite=config.overwrite)
    read = _read(config, task)
    labelled = [*(read_labelled(config.labelled, task) if config.labelled else ()), *read.labelled]
    found = choose(config, engine, read, labelled)
    texts = [found.new.texts[place] for place in found.chosen.tolist()]
    records = [task.record_of(*pair) for pair in zip(texts, engine.predict(texts), strict=True)]
    scores = found.scored.uncertainty[found.chosen].tolist()
    suggestions = [Suggestion(*pair) for pair in zip(records, scores, strict=True)]
    write_suggestions(output, config.format, suggestions, task, private=bool(config.log))
    print(summary(config, found))


def choose(config: LabelNextConfig, engine: Engine, read: Texts, labelled: Sequence[str]) -> Found:
    """Scores texts and chooses among them.

    Raises:
        BundleError: The agent's graph gives no numbers.
        DataError: No text is left.
    """
    new = candidates(read.unlabelled, labelled)
    with Progress("scoring", len(new.texts), unit="text", rate=lambda per_s: f"{per_s:,.0f} texts/s") as progress:
        averaged = engine.bundle.task.decision.per_token
        scored = score_texts(engine, new.texts, config.uncertainty, progress.advance, averaged=averaged)
    order = _most_uncertain(scored.uncertainty, config.seed)
    if not len(order):
        raise DataError(f"the agent refuses all {scored.refused} texts: {scored.reason}", remedy="give other texts")
    pool = _pool(config, engine.bundle.task, new.texts, labelled, order)
    weights = scored.uncertainty[pool.places]
    with timed_bar("clustering") as show:
        chosen = representatives(pool.vectors, weights, config.number, seed=config.seed, progress=show)
    return Found(read, new, scored, pool, pool.places[chosen])


def summary(config: LabelNextConfig, found: Found) -> str:
    """What was found, for people."""
    new, pool, values = found.new, found.pool, found.scored.uncertainty
    given = len(found.read.unlabelled) + len(found.read.labelled) + found.read.rejected
    lines = [
        f"{config.output}: {len(found.chosen):,} of {given:,} texts to label next ({config.format})",
        f"left out: {found.read.rejected:,} without text, {len(found.read.labelled):,} with feedback, {new.labelled:,} labelled, "
        f"{new.repeated:,} repeated, {found.scored.refused:,} refused by the agent",
        f"of the {pool.looked_at:,} most uncertain {pool.near_labelled:,} are nearly a labelled one and {pool.near_others:,} "
        f"nearly a more uncertain one; chosen among {len(pool.places):,}",
        *(f"without text is {reason}" for reason in [found.read.reason] if reason),
        *(f"refused is {reason}" for reason in [found.scored.reason] if reason),
    ]
    if len(found.chosen) < config.number:
        lines.append(f"fewer than number={config.number:,}: no other texts are left")
    rest = np.ones(len(values), bool)
    rest[found.chosen] = False
    groups = {"chosen": values[found.chosen], "the rest": values[rest & (values >= 0)]}
    rows = [[name, f"{len(one):,}", *_quantiles(one)] for name, one in groups.items()]
    return "\n".join([*lines, "", *markdown.table([[config.uncertainty, "texts", *_QUANTILES], *rows])])


def _read(config: LabelNextConfig, task: BaseTask[Any]) -> Texts:
    if config.input:
        return read_files(config.input, task, config.text_field, config.input_format)
    since = 0.0 if config.since_days is None else time.time() - config.since_days * _DAY_S
    return read_log(config.log, task, config.agent, since)


def _most_uncertain(values: Float64, seed: int) -> Int64:
    """Places of all texts that were scored, most uncertain first; equal ones in an order drawn by the seed."""
    drawn = np.random.default_rng(seed).permutation(len(values))
    order = np.lexsort((drawn, -values))
    return order[: int((values >= 0).sum())]


def _pool(
    config: LabelNextConfig, task: BaseTask[Any], texts: Sequence[str], labelled: Sequence[str], order: Int64
) -> Pool:
    def fields(inputs: Sequence[str]) -> list[tuple[str, ...]]:
        return [tuple(task.fields_of(text).values()) for text in inputs]

    rng = np.random.default_rng(config.seed)
    sample = rng.choice(len(texts), min(_SAMPLE, len(texts)), replace=False)
    vectors = TextVectors(fields([texts[place] for place in sample.tolist()]))

    def embed(places: Int64) -> Float32:
        return vectors(fields([texts[place] for place in places.tolist()]))

    blocks = [
        vectors(fields(labelled[first : first + _TEXTS_AT_ONCE])).astype(np.float16)  # half the memory
        for first in range(0, len(labelled), _TEXTS_AT_ONCE)
    ]
    size = config.pool * config.number
    return distinct_pool(order, embed, blocks, size=size, similarity=config.duplicate_similarity)


def _quantiles(values: Float64) -> list[str]:
    if not len(values):
        return ["-"] * len(_QUANTILES)
    return [f"{value:.4f}" for value in np.quantile(values, list(_QUANTILES.values())).tolist()]
