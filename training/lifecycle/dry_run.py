"""A dry run: all checks of a run, and one small step of everything that it does, in a place that is removed again."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np

from agent.encoding import Int64
from agent.errors import BundleError
from training.config import TrainingConfig, absolute, output_of
from training.data.batch_plan import plan_epoch
from training.data.ingest import TrainingData
from training.data.packing import JoinedWindows, PackedWindows, Windows
from training.lifecycle.job import TrainingResult, carry_out
from training.lifecycle.preparation import Ready, get_ready
from training.lifecycle.resume import begin, checkpoint_store, finished, unfinished
from training.tracking.trackers import TrackingConfig

_NUM_EXAMPLES = 2


def rehearse(config: TrainingConfig) -> None:
    """Does what a run does, up to one step on two examples of train and a bundle written and read back.

    All data is read and checked as in a run, and where tokenised data is kept, it is kept for the run. Trackers are told
    nothing; the output and an unfinished run stay as they are.

    Raises:
        AgentError: As a run would.
    """
    config, output = absolute(config), output_of(config)
    if done := finished(config, output):
        print(f"this run is finished: {done.path} holds its bundle. Set overwrite=true to train it anew")
        return
    ready = get_ready(config)
    run = unfinished(config, output, ready.data.digest, ready.other_digests)
    with _stage(config, output) as stage:
        store = begin(stage, output_of(stage), ready.data.digest, ready.other_digests).store
        result = carry_out(_shortened(ready, stage), store)
    print("\n".join(["", *_told(ready, result, resumes=bool(run and run.resumes)), "dry run passed"]), flush=True)


@contextmanager
def _stage(config: TrainingConfig, output: Path) -> Iterator[TrainingConfig]:
    """The configuration with an output in a new directory beside the real one, on the same storages.

    Raises:
        BundleError: Nothing can be written there.
    """
    beside = next(place for place in output.parents if place.exists())
    try:
        directory = Path(tempfile.mkdtemp(prefix=f".{output.name}.dry-run.", dir=beside))
    except OSError as error:
        raise BundleError(
            f"nothing can be written at output {output} ({error.strerror})", remedy="choose another output"
        ) from None
    stage = config.model_copy(update={"output": str(directory / directory.name.removeprefix("."))})
    try:
        yield stage
    finally:
        checkpoint_store(stage, output_of(stage)).clear()
        shutil.rmtree(directory)


def _shortened(ready: Ready, stage: TrainingConfig) -> Ready:
    """One epoch of one step, on the first examples of each split."""
    data = ready.data
    train = _first(data.train)
    tokens = max(16, int(train.lengths.max()) * len(train.lengths))
    config = stage.model_copy(
        update={
            "epochs": 1,
            "batch": stage.batch.model_copy(update={"tokens": tokens}),
            "tracking": TrackingConfig(),
        }
    )
    few = replace(
        data, train=train, dev=data.dev[:_NUM_EXAMPLES], test=data.test[:_NUM_EXAMPLES], num_train=_NUM_EXAMPLES
    )
    return replace(ready, config=config, data=few)


def _first(windows: Windows) -> Windows:
    """The windows of the first examples, of each source."""
    if isinstance(windows, JoinedWindows):
        return JoinedWindows(_first(windows.first), _first(windows.last))
    assert isinstance(windows, PackedWindows)
    num_windows = int(np.searchsorted(windows.owners, _NUM_EXAMPLES))
    bounds: Int64 = windows.bounds[: num_windows + 1]
    num_tokens = int(bounds[-1])
    return PackedWindows(
        input_ids=windows.input_ids[:num_tokens],
        targets=windows.targets[: num_tokens if windows.per_token else num_windows],
        bounds=bounds,
        labelled=windows.labelled[:num_windows],
        owners=windows.owners[:num_windows],
    )


def _told(ready: Ready, result: TrainingResult, *, resumes: bool) -> Iterator[str]:
    assert result.outcome
    config, data = ready.config, ready.data
    yield f"one step was made by {result.outcome.description.rsplit(',', 1)[0]}"
    yield (
        f"a run would train on {data.num_train:,} examples and evaluate on {len(data.dev):,} (dev) and {len(data.test):,} (test), "
        f"{config.epochs} epochs of about {_steps(config, data):,} steps, {config.batch.tokens:,} tokens each"
    )
    yield f"it would use {ready.plan}" + (" and go on with the unfinished run" if resumes else "")
    yield f"and write {output_of(config)}"


def _steps(config: TrainingConfig, data: TrainingData) -> int:
    return len(plan_epoch(data.train.lengths, config=config.batch, seed=config.seed, epoch=0))
