"""A search as a whole: what is left to try, trials by Ray Tune, the bundle of the best. Runs on the driver."""

from __future__ import annotations

import importlib.util
import logging
import os
import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from agent.bundle import check_output
from agent.errors import AgentError, ConfigError, GateError
from cluster import connect
from cluster.connection import usable_cores
from compression.pipeline.pipeline import OutputLocation, compress, run_steps, work_directory_of
from compression.pipeline.pipeline_inputs import CompressionConfig, prepare
from compression.pipeline.snapshots import Snapshots
from compression.reporting.compression_report import CompressionReport, StepRow
from compression.reporting.frontier_plot import draw_frontier
from compression.reporting.report_files import NAME
from compression.tuning.compression_search import SearchConfig
from compression.tuning.trial_record import SearchRecord, TrialOutcome, render

RECORD = "search.json"  # in the bundle, and while the search is under way
PICTURE = "search.svg"
# Ray Tune's own tables, files and Ctrl-C: ours say it in a line, know where to go on, and end at once.
_QUIET = {
    "RAY_AIR_NEW_OUTPUT": "0", "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1", "TUNE_DISABLE_SIGINT_HANDLER": "1",
    "RAY_LOG_TO_DRIVER": "0",
}  # fmt: skip
_FOREIGN = "ray-tune"  # directory with Ray Tune's own files
_SLIVER = 0.001  # of this node's own resource: ties trials to the node that the work_directory lies on
_FREE = ("max_concurrent", "max_f1_loss", "gate", "overwrite", "resume", "cluster")  # may change when a search goes on


@dataclass(frozen=True)
class TrialAssignment:
    """What trials are to do: the compression of each by number, and where the search was started."""

    configs: Mapping[int, CompressionConfig]
    keep: frozenset[str]
    directory: str


def search(config: SearchConfig) -> tuple[SearchRecord, CompressionReport]:
    """Tries lists of steps and publishes the fastest agent within the loss. Goes on with what an interrupted call has left.

    Trials are compared on the dev split; the test split is scored once, for the best, and the gate judges that.

    Raises:
        GateError: No trial kept enough, or the best did not on the test split.
        AgentError: Configuration, space or data are not in order.
    """
    if importlib.util.find_spec("ray") is None:
        raise ConfigError("a search needs ray[tune]", remedy="pip install 'bert-agent[training]'")
    output = config.output.expanduser().absolute()
    check_output(output, overwrite=config.overwrite)
    if (cores := usable_cores()) < config.max_concurrent * config.threads:
        raise ConfigError(
            f"max_concurrent={config.max_concurrent} with threads={config.threads} needs {config.max_concurrent * config.threads} cores, "
            f"and there are {cores}",
            remedy="lower one of them: trials that share cores cannot be compared by speed",
        )
    trials = config.trials()
    configs = {trial.number: config.compressed_with(trial.settings) for trial in trials}
    jobs = {number: prepare(one) for number, one in configs.items()}
    first = jobs[1]
    wanted = SearchRecord(
        config=config.model_dump(mode="json"), bundle_digest=first.bundle.digest, data_digest=first.splits.digest,
        trials=trials,
    )  # fmt: skip
    watch = TrialCallback(_open(config, wanted), config, {number: job.keys for number, job in jobs.items()})
    del jobs, first
    if any(not trial.over for trial in watch.record.trials):
        assignment = TrialAssignment(configs, frozenset(watch.keys()), str(Path.cwd()))
        _run_trials(config, watch, assignment)
    return watch.record, _publish(config, watch.record, configs)


class TrialCallback:
    """Takes what Ray Tune tells of trials: keeps the record on disk, says it in lines, removes snapshots that nobody needs.

    Args:
        record: Of the search so far.
        config: Of the search.
        keys: Of the snapshots of each trial.
    """

    def __init__(self, record: SearchRecord, config: SearchConfig, keys: Mapping[int, tuple[str, ...]]) -> None:
        self.record = record
        self._config, self._keys = config, keys
        self._workshop = work_directory_of(config.output)

    def keys(self) -> set[str]:
        """Of the snapshots that are needed: by trials that are not over and by the best so far."""
        best = self.record.best(self._config.max_f1_loss)
        needed = [trial.number for trial in self.record.trials if not trial.over or trial == best]
        return {key for number in needed for key in self._keys[number]}

    def started(self, number: int) -> None:
        """A trial begins, or goes on."""
        self._note(number, f"starts with {self.record.trials[number - 1]}", state="running")

    def finished(self, number: int, outcome: TrialOutcome) -> None:
        """A trial was measured."""
        told = f"F1 {outcome.f1:.4f} ({outcome.kept:.2%} kept), {outcome.speed:.2f}x, {outcome.size_bytes / 1e6:.1f} MB"
        self._note(number, told, state="finished", outcome=outcome)
        Snapshots(self._workshop).keep_only(self.keys())

    def failed(self, number: int, failure: str) -> None:
        """A trial cannot go on; others may."""
        self._note(number, f"failed: {failure}", state="failed", failure=failure)

    def _note(self, number: int, line: str, **changes: Any) -> None:
        self.record = self.record.changed(number, **changes)
        self.record.write(self._workshop / RECORD)
        print(f"trial {number}/{len(self.record.trials)} {line}", flush=True)


def attempt(parameters: Mapping[str, Any], assignment: TrialAssignment) -> dict[str, Any]:
    """One trial, in a process of Ray's: all steps but verify."""
    os.chdir(assignment.directory)
    config = assignment.configs[parameters["number"]]
    work_directory = work_directory_of(config.output)
    work_directory.mkdir(parents=True, exist_ok=True)
    try:
        with tempfile.TemporaryDirectory(dir=work_directory, prefix="draft-") as draft:
            place = OutputLocation(Path(draft) / "bundle", work_directory, assignment.keep)
            place.draft.mkdir()
            state = run_steps(prepare(config), place, num_steps=len(config.steps) - 1)
            return {"outcome": _outcome(state.step_rows[-1], state.step_rows[0]).model_dump()}
    except AgentError as error:
        return {"failure": str(error)}


def _outcome(last: StepRow, original: StepRow) -> TrialOutcome:
    found, first = last.measurement, original.measurement
    assert found
    assert first
    kept = found.f1 / first.f1 if first.f1 else 1.0
    return TrialOutcome(f1=found.f1, kept=kept, speed=last.speed or 1.0, size_bytes=found.size_bytes)


def _open(config: SearchConfig, wanted: SearchRecord) -> SearchRecord:
    """The record of an unfinished search of the same output, or a new one.

    Raises:
        ConfigError: There is one, and it was begun with other settings, another agent or other data.
    """
    work_directory = work_directory_of(config.output)
    file = work_directory / RECORD
    if not file.is_file() or not config.resume:
        shutil.rmtree(work_directory, ignore_errors=True)
        wanted.write(file)
        return wanted
    begun = SearchRecord.model_validate_json(file.read_bytes())
    changed = [key for key, value in wanted.config.items() if key not in _FREE and begun.config.get(key) != value]
    changed += ["the agent"] if begun.bundle_digest != wanted.bundle_digest else []
    changed += ["the content of the data"] if begun.data_digest != wanted.data_digest else []
    if changed:
        raise ConfigError(
            f"an unfinished search in {work_directory} was begun with another value of {', '.join(changed)}",
            remedy="give what it was begun with, set resume=false to start afresh, or choose another output",
        )
    over = sum(trial.over for trial in begun.trials)
    print(f"goes on with an unfinished search, {over} of {len(begun.trials)} trials are over", flush=True)
    return begun


def _run_trials(config: SearchConfig, watch: TrialCallback, assignment: TrialAssignment) -> None:
    os.environ.update(_QUIET)
    connect(config.cluster)
    import ray
    from ray import tune

    logging.getLogger("ray.tune").setLevel(logging.CRITICAL)
    work_directory = work_directory_of(config.output)
    shutil.rmtree(work_directory / _FOREIGN, ignore_errors=True)
    # No CPUs of Ray's: a step that trains asks for its own.
    here = {"cpu": 0, f"node:{ray.util.get_node_ip_address()}": _SLIVER}
    numbers = [trial.number for trial in watch.record.trials if not trial.over]
    tune.Tuner(
        tune.with_resources(tune.with_parameters(attempt, assignment=assignment), here),
        param_space={"number": tune.grid_search(numbers)},
        tune_config=tune.TuneConfig(max_concurrent_trials=config.max_concurrent),
        run_config=tune.RunConfig(
            name=_FOREIGN, storage_path=str(work_directory), verbose=0, callbacks=[_callback(watch)],
            checkpoint_config=tune.CheckpointConfig(checkpoint_at_end=False),
        ),
    ).fit()  # fmt: skip


def _callback(watch: TrialCallback) -> Any:
    from ray import tune

    class Tell(tune.Callback):  # type: ignore[misc]
        def on_trial_start(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
            watch.started(trial.config["number"])

        def on_trial_result(
            self, iteration: int, trials: list[Any], trial: Any, result: dict[str, Any], **info: Any
        ) -> None:
            if failure := result.get("failure"):
                watch.failed(trial.config["number"], failure)
            elif outcome := result.get("outcome"):
                watch.finished(trial.config["number"], TrialOutcome(**outcome))

        def on_trial_error(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
            lines = str(trial.get_error() or "its process died").strip().splitlines()
            watch.failed(trial.config["number"], lines[-1])

    return Tell()


def _publish(config: SearchConfig, record: SearchRecord, configs: Mapping[int, CompressionConfig]) -> CompressionReport:
    """Verifies the best trial's agent and publishes it, with the record and the picture of all trials.

    Raises:
        GateError: None kept enough.
    """
    best = record.best(config.max_f1_loss)
    if best is None:
        kept = max((trial.outcome.kept for trial in record.trials if trial.outcome), default=None)
        failures = "; ".join(f"trial {trial.number}: {trial.failure}" for trial in record.trials if trial.failure)
        raise GateError(
            f"no trial of {len(record.trials)} kept {1 - config.max_f1_loss:.2%} of F1 on the dev split"
            + (f", the best kept {kept:.2%}" if kept is not None else f" ({failures})"),
            remedy="raise max_f1_loss, or give a space that removes less (then set resume=false)",
        )

    def add(directory: Path) -> None:
        record.write(directory / RECORD)
        draw_frontier(directory / PICTURE, record.points)
        with (directory / f"{NAME}.md").open("a", encoding="utf-8") as page:
            trials = ["", "## Trials of the search (dev split)", "", *render(record, config.max_f1_loss)]
            page.write("\n".join([*trials, "", f"![F1 kept against speed, by trial]({PICTURE})", ""]))

    return compress(configs[best.number], add)
