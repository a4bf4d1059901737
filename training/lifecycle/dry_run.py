"""A dry run: all checks of a run, and one small step of everything that it does, in a temporary output."""

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
from training.lifecycle.job import TrainingResult, run_training
from training.lifecycle.preparation import PreparedRun, prepare_run
from training.lifecycle.resume import checkpoint_store, find_finished, find_unfinished, start_or_resume
from training.tracking.trackers import TrackingConfig

_NUM_EXAMPLES = 2


def dry_run(config: TrainingConfig) -> None:
    """Does what a run does, with a single step on two examples of train, and writes and reads back a bundle.

    All data is read and checked as in a run, and where tokenised data is cached, it stays cached for the run. Trackers get
    nothing; the output and an unfinished run stay as they are.

    Raises:
        AgentError: As a run would.
    """
    config, output = absolute(config), output_of(config)
    if done := find_finished(config, output):
        print(f"this run is finished: {done.path} holds its bundle. Set overwrite=true to train it anew")
        return
    prepared = prepare_run(config)
    run = find_unfinished(config, output, prepared.data.digest, prepared.other_digests)
    with _temporary_output(config, output) as temporary:
        store = start_or_resume(temporary, output_of(temporary), prepared.data.digest, prepared.other_digests).store
        result = run_training(_shorten(prepared, temporary), store)
    print("\n".join(["", *_summary(prepared, result, resumes=bool(run and run.resumes)), "dry run passed"]), flush=True)


@contextmanager
def _temporary_output(config: TrainingConfig, output: Path) -> Iterator[TrainingConfig]:
    """The configuration with an output in a new directory beside the real one, on the same storage.

    Raises:
        BundleError: Nothing can be written there.
    """
    existing = next(parent for parent in output.parents if parent.exists())
    try:
        directory = Path(tempfile.mkdtemp(prefix=f".{output.name}.dry-run.", dir=existing))
    except OSError as error:
        raise BundleError(
            f"nothing can be written at output {output} ({error.strerror})", remedy="choose another output"
        ) from None
    temporary = config.model_copy(update={"output": str(directory / directory.name.removeprefix("."))})
    try:
        yield temporary
    finally:
        checkpoint_store(temporary, output_of(temporary)).clear()
        shutil.rmtree(directory)


def _shorten(prepared: PreparedRun, temporary: TrainingConfig) -> PreparedRun:
    """One epoch of one step, on the first examples of each split."""
    data = prepared.data
    train = _first(data.train)
    tokens = max(16, int(train.lengths.max()) * len(train.lengths))
    config = prepared.config.model_copy(
        update={
            "output": temporary.output,
            "epochs": 1,
            "batch": prepared.config.batch.model_copy(update={"tokens": tokens}),
            "tracking": TrackingConfig(),
        }
    )
    few = replace(
        data, train=train, dev=data.dev[:_NUM_EXAMPLES], test=data.test[:_NUM_EXAMPLES], num_train=_NUM_EXAMPLES
    )
    return replace(prepared, config=config, data=few)


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
        seconds=windows.seconds[:num_windows],
        logged=windows.logged[:num_windows],
    )


def _summary(prepared: PreparedRun, result: TrainingResult, *, resumes: bool) -> Iterator[str]:
    assert result.outcome
    config, data = prepared.config, prepared.data
    yield f"one step was made by {result.outcome.description.rsplit(',', 1)[0]}"
    yield (
        f"a run would train on {data.num_train:,} examples and evaluate on {len(data.dev):,} (dev) and {len(data.test):,} (test), "
        f"{config.num_epochs} epochs of about {_steps(config, data):,} steps, {config.batch.step_tokens:,} tokens each"
    )
    yield f"it would use {prepared.plan}" + (" and go on with the unfinished run" if resumes else "")
    yield f"and write {output_of(config)}"


def _steps(config: TrainingConfig, data: TrainingData) -> int:
    return len(plan_epoch(data.train.lengths, config=config.batch, seed=config.seed, epoch=0))
