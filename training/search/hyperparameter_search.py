"""A hyper-parameter search on the driver: starts or resumes it, runs the trials, publishes the best one's bundle."""

from __future__ import annotations

import shutil
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from agent.bundle import MANIFEST, Bundle, Manifest, check_output, write_bundle
from agent.config.nested import differences
from agent.config.resume_check import check_unchanged
from agent.errors import CheckpointError, ClusterError, TrainingError
from cluster import WorkerPlan, node_resources, plan_workers
from cluster.output_lock import lock_output
from cluster.tuning import TrialRunner
from training.config import TrainingConfig, output_of
from training.lifecycle.preparation import RunOverrides, prepare_run
from training.lifecycle.resume import CHANGEABLE, checkpoint_store
from training.search.search_config import TuneConfig
from training.search.search_record import SearchRecord, render_table
from training.search.trial_run import TrialAssignment, trainable_class
from training.search.tuner import AshaConfig, TrainingTrials

RECORD = "trials.json"  # in the bundle, and while the search is under way
_CHANGEABLE = (*CHANGEABLE, "max_concurrent")


@dataclass(frozen=True)
class SearchResult:
    """A finished search.

    Attributes:
        bundle: Of the best trial.
        is_new: False if an earlier command had finished it.
    """

    bundle: Bundle
    record: SearchRecord
    is_new: bool


def search(config: TuneConfig) -> SearchResult:
    """Tries settings and writes the bundle of the best. Resumes what an interrupted call has left at the same output.

    Trials are compared by their dev split alone. Each is a whole run and so has the test split scored too; those scores are not
    used before the best trial is chosen.

    Raises:
        AgentError: Configuration, space, data or cluster are not in order, or no trial could be finished.
    """
    output = output_of(config)
    with lock_output(output):
        return _find_finished(config, output) or _search(config, output)


def _search(config: TuneConfig, output: Path) -> SearchResult:
    trials = config.trials()
    prepared = prepare_run(config.trained_with({}), RunOverrides(worker_lines=False))
    plan, max_concurrent = plan_trials(config, node_resources())
    new = SearchRecord(config=config.model_dump(mode="json"), data_digest=prepared.data.digest, trials=trials)
    epochs = prepared.config.num_epochs  # of every trial, so that they can be compared
    del prepared  # each trial reads its data itself: another model has other windows
    directory = _work_directory(output)
    record = _start_or_resume(config, directory, new)
    _print_plan(config, record, plan, max_concurrent)
    configs = {
        trial.number: _config_of(config, trial.number, {**trial.settings, "epochs": epochs}) for trial in record.trials
    }
    listener = TrainingTrials(record, directory / RECORD, configs)
    if numbers := [trial.number for trial in record.trials if not trial.is_over]:
        assignment = TrialAssignment(configs, plan, str(Path.cwd()))
        asha = AshaConfig(config.grace_epochs, config.reduction_factor, epochs)
        runner = TrialRunner(trainable_class(), assignment, directory, max_concurrent, asha.scheduler(record))
        runner.run(numbers, listener)
    bundle = _publish(config, listener.record, configs, output)
    _clear(configs.values(), directory)
    return SearchResult(bundle, listener.record, is_new=True)


def plan_trials(config: TuneConfig, nodes: Sequence[Mapping[str, float]]) -> tuple[WorkerPlan, int]:
    """The workers of each trial, and how many trials run at a time.

    Raises:
        ClusterError: So many do not fit.
    """
    gpus = int(sum(node.get("GPU", 0) for node in nodes))
    at_once = min(config.num_trials, config.max_concurrent or max(1, gpus // (config.num_workers or 1)))
    each = config.num_workers or max(1, gpus // at_once)
    try:
        whole = plan_workers(at_once * each, nodes)
    except ClusterError as error:
        raise ClusterError(
            f"{at_once} trial(s) at a time with {each} worker(s) each do not fit ({error.what})",
            remedy="lower max_concurrent or num_workers, or add nodes",
        ) from None
    return WorkerPlan(each, whole.use_gpu, whole.cpus_per_worker), at_once


def _work_directory(output: Path) -> Path:
    return output.parent / f".{output.name}.search"


def _config_of(config: TuneConfig, number: int, settings: Mapping[str, object]) -> TrainingConfig:
    output = output_of(config)
    trial_output = _work_directory(output) / f"{output.name}.trial-{number}"
    return config.trained_with({**settings, "output": str(trial_output), "overwrite": False, "resume": True})


def _find_finished(config: TuneConfig, output: Path) -> SearchResult | None:
    """What an earlier command has finished.

    Raises:
        BundleError: Something else is there that may not be replaced.
    """
    file = output / RECORD
    if config.overwrite or not config.resume or not (output / MANIFEST).is_file() or not file.is_file():
        check_output(output, overwrite=config.overwrite)
        return None
    record = SearchRecord.read(file)
    if differences(record.config, config.model_dump(mode="json"), without=_CHANGEABLE):
        check_output(output, overwrite=False)
    return SearchResult(Bundle.load(output), record, is_new=False)


def _start_or_resume(config: TuneConfig, directory: Path, new: SearchRecord) -> SearchRecord:
    """The record of an unfinished search of the same output, or the new one.

    Raises:
        ConfigError: There is one, and it was started with other settings or other data.
        CheckpointError: The directory cannot be used.
    """
    file = directory / RECORD
    try:
        if file.is_file() and config.resume:
            started = SearchRecord.read(file)
            content = ["the content of the data"] if started.data_digest != new.data_digest else []
            what = f"an unfinished search in {directory}"
            check_unchanged(what, started.config, new.config, changeable=_CHANGEABLE, content=content)
            return started
        if file.is_file():
            print(f"resume=false: starting afresh, the unfinished search in {directory} is removed", flush=True)
            earlier = SearchRecord.read(file).trials
            _clear([_config_of(config, trial.number, {}) for trial in earlier], directory)
        new.write(file)
    except OSError as error:
        raise CheckpointError(
            f"the search cannot be kept in {directory} ({error.strerror})", remedy="choose another output"
        ) from None
    return new


def _print_plan(config: TuneConfig, record: SearchRecord, plan: WorkerPlan, max_concurrent: int) -> None:
    for key, written in config.space.items():
        print(f"searching {key} in {written}")
    over = sum(trial.is_over for trial in record.trials)
    resumes = any(trial.state != "waiting" for trial in record.trials)
    earlier = f"; goes on with an unfinished search, {over} of them over" if resumes else ""
    print(f"plan: {len(record.trials)} trials, {max_concurrent} at a time, {plan}{earlier}", flush=True)


def _publish(config: TuneConfig, record: SearchRecord, configs: Mapping[int, TrainingConfig], output: Path) -> Bundle:
    """Writes the best trial's bundle to the output, with the record and a table of all trials.

    Raises:
        TrainingError: No trial was finished.
    """
    if record.best is None:
        raise TrainingError(
            f"no trial of {len(record.trials)} could be finished ({record.failures})",
            remedy="choose another space, and set resume=false",
        )
    best = Bundle.load(output_of(configs[record.best.number]))
    with write_bundle(output, overwrite=config.overwrite) as draft:
        shutil.copytree(best.path, draft.path, dirs_exist_ok=True)
        record.write(draft.path / RECORD)
        with (draft.path / "report.md").open("a", encoding="utf-8") as page:
            page.write("\n".join(["", "## Trials of the search", "", *render_table(record), ""]))
        draft.publish(_manifest(best.manifest, output))
    return Bundle.load(output)


def _manifest(manifest: Manifest, output: Path) -> Manifest:
    """The trial's manifest with the search's output in its lineage."""
    lineage = manifest.lineage.model_copy(update={"config": {**manifest.lineage.config, "output": str(output)}})
    return manifest.model_copy(update={"lineage": lineage})


def _clear(configs: Iterable[TrainingConfig], directory: Path) -> None:
    """Removes the working directory of a search and the checkpoints of its trials."""
    for config in configs:
        checkpoint_store(config, output_of(config)).clear()
    shutil.rmtree(directory)
