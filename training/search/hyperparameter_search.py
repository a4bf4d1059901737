"""A hyper-parameter search as a whole: what is left to try, the trials, the bundle of the best. Runs on the driver."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from agent.bundle import MANIFEST, Bundle, Manifest, check_output, write_bundle
from agent.errors import CheckpointError, ClusterError, ConfigError, TrainingError
from cluster import WorkerPlan, node_resources, plan_workers
from training.config import TrainingConfig, output_of
from training.lifecycle.output_lock import claim
from training.lifecycle.preparation import get_ready
from training.lifecycle.resume import checkpoint_store, differences
from training.search.search_config import TuneConfig
from training.search.search_record import SearchRecord, render_table
from training.search.trial_run import TrialAssignment
from training.search.tuner import AshaConfig, TrialCallback, run_trials

RECORD = "trials.json"  # in the bundle, and while the search is under way


@dataclass(frozen=True)
class SearchResult:
    """A finished search.

    Attributes:
        bundle: Of the best trial.
        anew: False if an earlier command had finished it.
    """

    bundle: Bundle
    record: SearchRecord
    anew: bool


def search(config: TuneConfig) -> SearchResult:
    """Tries settings and writes the bundle of the best. Goes on with what an interrupted call has left at the same output.

    Trials are compared by their dev split alone. Each is a whole run and so has the test split scored too; that is read by
    nobody before the bundle of the best is.

    Raises:
        AgentError: Configuration, space, data or cluster are not in order, or no trial could be finished.
    """
    output = output_of(config)
    with claim(output):
        return _finished(config, output) or _search(config, output)


def _search(config: TuneConfig, output: Path) -> SearchResult:
    trials = config.trials()
    os.environ.setdefault("RAY_LOG_TO_DRIVER", "0")  # lines of several runs at once tell nobody anything
    ready = get_ready(config.trained_with({}))
    plan, num_concurrent = plan_trials(config, node_resources())
    wanted = SearchRecord(config=config.model_dump(mode="json"), data_digest=ready.data.digest, trials=trials)
    del ready  # each trial reads its data itself: it may have another model, and so other windows
    workplace = _workplace(output)
    record = _open(config, workplace, wanted)
    _say_plan(config, record, plan, num_concurrent)
    configs = {trial.number: _config_of(config, trial.number, trial.settings) for trial in record.trials}
    watch = TrialCallback(record, workplace / RECORD, configs)
    halving = AshaConfig(config.grace_epochs, config.reduction_factor, config.epochs, num_concurrent)
    run_trials(watch, TrialAssignment(configs, plan, str(Path.cwd())), halving, workplace)
    bundle = _publish(config, watch.record, configs, output)
    _clear(configs.values(), workplace)
    return SearchResult(bundle, watch.record, anew=True)


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


def _workplace(output: Path) -> Path:
    return output.parent / f".{output.name}.search"


def _config_of(config: TuneConfig, number: int, settings: Mapping[str, object]) -> TrainingConfig:
    output = output_of(config)
    place = _workplace(output) / f"{output.name}.trial-{number}"
    return config.trained_with({**settings, "output": str(place), "overwrite": False, "resume": True})


def _finished(config: TuneConfig, output: Path) -> SearchResult | None:
    """What an earlier command has finished.

    Raises:
        BundleError: Something else is there that may not be replaced.
    """
    file = output / RECORD
    if config.overwrite or not config.resume or not (output / MANIFEST).is_file() or not file.is_file():
        check_output(output, overwrite=config.overwrite)
        return None
    record = SearchRecord.read(file)
    if _differences(record.config, config):
        check_output(output, overwrite=False)
    return SearchResult(Bundle.load(output), record, anew=False)


def _open(config: TuneConfig, workplace: Path, wanted: SearchRecord) -> SearchRecord:
    """The record of an unfinished search of the same output, or a new one.

    Raises:
        ConfigError: There is one, and it was begun with other settings or other data.
        CheckpointError: The directory cannot be used.
    """
    file = workplace / RECORD
    try:
        if file.is_file() and config.resume:
            return _compared(SearchRecord.read(file), config, wanted, workplace)
        if file.is_file():
            print(f"resume=false: starting afresh, the unfinished search in {workplace} is removed", flush=True)
            earlier = SearchRecord.read(file).trials
            _clear([_config_of(config, trial.number, {}) for trial in earlier], workplace)
        workplace.mkdir(parents=True, exist_ok=True)
        wanted.write(file)
    except OSError as error:
        raise CheckpointError(
            f"the search cannot be kept in {workplace} ({error.strerror})", remedy="choose another output"
        ) from None
    return wanted


def _compared(begun: SearchRecord, config: TuneConfig, wanted: SearchRecord, workplace: Path) -> SearchRecord:
    changed = _differences(begun.config, config)
    if begun.data_digest != wanted.data_digest:
        changed.append("the content of the data")
    if changed:
        raise ConfigError(
            f"an unfinished search in {workplace} was begun otherwise: {'; '.join(changed)}",
            allowed="the same settings and data, or a new start",
            remedy="give the settings it was begun with, or set resume=false to start afresh, or choose another output",
        )
    return begun


def _differences(begun: Mapping[str, object], config: TuneConfig) -> list[str]:
    now = config.model_dump(mode="json")
    return differences({**begun, "max_concurrent": None}, {**now, "max_concurrent": None})


def _say_plan(config: TuneConfig, record: SearchRecord, plan: WorkerPlan, num_concurrent: int) -> None:
    for key, written in config.space.items():
        print(f"searching {key} in {written}")
    over = sum(trial.over for trial in record.trials)
    earlier = (
        f"; goes on with an unfinished search, {over} of them over"
        if any(t.state != "waiting" for t in record.trials)
        else ""
    )
    print(f"plan: {len(record.trials)} trials, {num_concurrent} at a time, {plan}{earlier}", flush=True)


def _publish(config: TuneConfig, record: SearchRecord, configs: Mapping[int, TrainingConfig], output: Path) -> Bundle:
    """Writes the best trial's bundle to the output, with the record and a table of all trials.

    Raises:
        TrainingError: No trial was finished.
    """
    if record.best is None:
        failures = "; ".join(f"trial {trial.number}: {trial.failure}" for trial in record.trials if trial.failure)
        raise TrainingError(
            f"no trial of {len(record.trials)} could be finished ({failures})",
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
    """The trial's, as of a run that had written to the output itself."""
    lineage = manifest.lineage.model_copy(update={"config": {**manifest.lineage.config, "output": str(output)}})
    return manifest.model_copy(update={"lineage": lineage})


def _clear(configs: Iterable[TrainingConfig], workplace: Path) -> None:
    """Removes all that a search keeps while it is under way."""
    for config in configs:
        checkpoint_store(config, output_of(config)).clear()
    shutil.rmtree(workplace)
