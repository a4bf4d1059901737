"""Cross-validation: cuts train and dev into k folds and trains k times, each time with another fold as dev."""

from __future__ import annotations

import random
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

from pydantic import Field

from agent.bundle import Bundle
from agent.config.base import Config, from_mapping
from agent.config.resume_check import check_unchanged
from agent.data import Splits, load_splits
from agent.data.digests import data_digest, split_digest
from agent.errors import BundleError, CheckpointError, ConfigError, DataError
from agent.files import write_file
from agent.markdown import escape, table
from cluster.output_lock import lock_output
from training.config import TrainingConfig, output_of
from training.lifecycle.job import train
from training.lifecycle.preparation import RunOverrides
from training.lifecycle.resume import CHANGEABLE
from training.report.content import RunReport

RECORD = "cross_validation.json"


class CrossValidationConfig(TrainingConfig):
    """A fine-tuning run, made once for every fold."""

    output: str = Field("runs/cross_validation", description="directory of the results")
    overwrite: bool = Field(False, description="replace a cross-validation that stands at output")
    folds: int = Field(5, ge=2, description="parts that train and dev together are cut into")
    keep: bool = Field(False, description="keep the bundle of every fold, in output")


class Fold(Config):
    """The result of a fold.

    Attributes:
        number: Counted from 1.
        num_train, num_dev: Examples trained on, and left out.
        best_epoch: By the score on the fold.
        score, metrics: Of that epoch on the fold.
        last_score: Of the last epoch on the fold, by which nothing was chosen.
    """

    number: int
    num_train: int
    num_dev: int
    best_epoch: int
    score: float
    last_score: float
    metrics: Mapping[str, float]


class Spread(Config):
    """Mean and standard deviation of a figure over folds.

    Attributes:
        deviation: The standard deviation of a sample (n - 1); None for a single value.
        num_folds: Folds that have the figure: a fold without a gold or predicted item of a label has none for it.
    """

    mean: float
    deviation: float | None
    num_folds: int


class CrossValidation(Config):
    """The record of a cross-validation: its folds so far.

    Attributes:
        config: The resolved configuration.
        data_digest: Of the data that was cut.
        summary: By figure: `score`, `last_score`, and every metric of the task.
    """

    config: Mapping[str, Any]
    data_digest: str
    folds: tuple[Fold, ...] = ()
    summary: Mapping[str, Spread] = Field(default_factory=dict)


@dataclass(frozen=True)
class CrossValidationResult:
    """A finished cross-validation, of this command if `is_new`, of an earlier one otherwise."""

    directory: Path
    validation: CrossValidation
    is_new: bool


def cross_validate(config: CrossValidationConfig) -> CrossValidationResult:
    """Trains once for each fold, one after the other. Resumes what an interrupted call has left at the same output.

    Raises:
        AgentError: As a training run, or the data has fewer examples than there are folds.
    """
    output = output_of(config)
    with lock_output(output):
        return _cross_validate(config, output)


def _cross_validate(config: CrossValidationConfig, output: Path) -> CrossValidationResult:
    started = _read_record(config, output)
    if started and len(started.folds) == config.folds:
        return CrossValidationResult(output, started, is_new=False)
    splits = _load(config)
    if started:
        changed = started.data_digest != splits.digest
        _check_unchanged(started, config, output, content=["the content of the data"] if changed else [])
    validation = started or CrossValidation(config=config.model_dump(mode="json"), data_digest=splits.digest)
    _write(output, validation)
    for number in range(len(validation.folds) + 1, config.folds + 1):
        print(f"fold {number} of {config.folds}", flush=True)
        fold = _run(config, cut(splits, config.folds, number, seed=config.seed), number)
        validation = _add_fold(validation, fold)
        _write(output, validation)
    return CrossValidationResult(output, validation, is_new=True)


def cut(splits: Splits, num_folds: int, number: int, *, seed: int) -> Splits:
    """The splits of a fold: every `num_folds`-th example of train and dev, in an order by seed, becomes dev, the others train.

    Examples are taken one by one: neither labels nor documents are spread evenly. Each is in dev exactly once.
    """
    pool = [*splits.train, *splits.dev]
    order = random.Random(seed).sample(range(len(pool)), len(pool))
    left_out = frozenset(order[number - 1 :: num_folds])
    train = [example for index, example in enumerate(pool) if index not in left_out]
    dev = [example for index, example in enumerate(pool) if index in left_out]
    digests = {"train": split_digest(train), "dev": split_digest(dev), "test": split_digest(splits.test)}
    return Splits(splits.task, train, dev, splits.test, digest=data_digest(digests))


def render_table(validation: CrossValidation) -> list[str]:
    """Markdown: a line for each fold, then the mean and the deviation."""
    metrics = [name for name in validation.summary if name not in ("score", "last_score")]
    head = ["fold", "trained on", "left out", "best epoch", "score", "score, last epoch", *map(escape, metrics)]
    rows = [
        [
            *map(str, (fold.number, fold.num_train, fold.num_dev, fold.best_epoch)),
            *(_figure(value) for value in (fold.score, fold.last_score, *map(fold.metrics.get, metrics))),
        ]
        for fold in validation.folds
    ]
    spreads = [validation.summary[name] for name in ("score", "last_score", *metrics)]
    means = ["mean", "", "", "", *(_figure(spread.mean) for spread in spreads)]
    deviations = ["standard deviation", "", "", "", *(_figure(spread.deviation) for spread in spreads)]
    return table([head, *rows, means, deviations])


def _figure(value: float | None) -> str:
    return "" if value is None else f"{value:.4f}"


def _load(config: CrossValidationConfig) -> Splits:
    if config.ingest.mode == "stream":
        raise ConfigError(
            "ingest.mode=stream: cross-validation cuts the data anew, and has to have it in memory",
            allowed="auto, memory",
            remedy="leave ingest.mode out",
        )
    splits = load_splits(config.data, config.task, seed=config.seed)
    num_examples = len(splits.train) + len(splits.dev)
    if num_examples < config.folds:
        raise DataError(
            f"folds={config.folds}, but {config.data.path} has {num_examples} examples in train and dev",
            remedy="lower folds",
        )
    return splits


def _run(config: CrossValidationConfig, splits: Splits, number: int) -> Fold:
    output = output_of(config)
    fold_output = output / f"{output.name}.fold-{number}"
    given = config.model_dump(mode="json", exclude_unset=True, include=set(TrainingConfig.model_fields))
    changes = {"output": str(fold_output), "overwrite": False, "resume": True}
    bundle = train(from_mapping(TrainingConfig, given | changes), RunOverrides(splits=splits)).bundle
    fold = _fold_of(bundle, splits, number)
    if not config.keep:
        shutil.rmtree(fold_output)
    return fold


def _fold_of(bundle: Bundle, splits: Splits, number: int) -> Fold:
    report = RunReport.model_validate_json((bundle.path / "report.json").read_bytes())
    return Fold(
        number=number,
        num_train=len(splits.train),
        num_dev=len(splits.dev),
        best_epoch=report.best_epoch,
        score=report.dev.value,
        last_score=report.epochs[-1]["dev_score"],
        metrics=report.dev.metrics,
    )


def _add_fold(validation: CrossValidation, fold: Fold) -> CrossValidation:
    folds = (*validation.folds, fold)
    names = dict.fromkeys(name for found in folds for name in found.metrics)
    figures = {"score": [found.score for found in folds], "last_score": [found.last_score for found in folds]}
    figures |= {name: [found.metrics[name] for found in folds if name in found.metrics] for name in names}
    summary = {name: _spread(values) for name, values in figures.items()}
    return validation.model_copy(update={"folds": folds, "summary": summary})


def _spread(values: Sequence[float]) -> Spread:
    return Spread(mean=fmean(values), deviation=stdev(values) if len(values) > 1 else None, num_folds=len(values))


def _read_record(config: CrossValidationConfig, output: Path) -> CrossValidation | None:
    """The record that an earlier command has left, if this one is to resume it.

    Raises:
        BundleError: Something is there that may not be replaced.
        ConfigError: It was started with other settings.
    """
    file = output / RECORD
    if not file.is_file():
        if output.exists() and (not output.is_dir() or any(output.iterdir())):
            raise BundleError(
                f"output {output} exists and is no cross-validation",
                allowed="a new or an empty directory",
                remedy="choose another output",
            )
        return None
    found = CrossValidation.model_validate_json(file.read_bytes())
    complete = len(found.folds) == found.config["folds"]
    if config.overwrite if complete else not config.resume:
        shutil.rmtree(output)
        return None
    _check_unchanged(found, config, output)
    return found


def _check_unchanged(
    started: CrossValidation, config: CrossValidationConfig, output: Path, content: Sequence[str] = ()
) -> None:
    check_unchanged(
        f"the cross-validation in {output}",
        started.config,
        config.model_dump(mode="json"),
        changeable=CHANGEABLE,
        content=content,
        remedy="give the settings it was started with, or choose another output, or set overwrite=true if it is finished, resume=false if not",
    )


def _write(output: Path, validation: CrossValidation) -> None:
    try:
        write_file(output / RECORD, validation.model_dump_json(indent=1) + "\n")
        if validation.folds:
            (output / "report.md").write_text("\n".join(_page(validation)) + "\n", encoding="utf-8")
    except OSError as error:
        raise CheckpointError(
            f"results cannot be written to {output} ({error.strerror})", remedy="free space or choose another output"
        ) from None


def _page(validation: CrossValidation) -> list[str]:
    return [
        "# Cross-validation",
        "",
        f"{len(validation.folds)} of {validation.config['folds']} folds of {escape(str(validation.config['data']['path']))} "
        "(train and dev together, shuffled by seed, example by example).",
        "The score is that of the epoch that does best on the part left out, and so a little too good; that of the last epoch "
        "chooses nothing.",
        "",
        *render_table(validation),
    ]
