"""A compression search on the driver: starts or resumes it, runs the trials, publishes the fastest agent within the loss."""

from __future__ import annotations

import importlib.util
import os
import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from agent.bundle import check_output
from agent.bundle.manifest import parse_manifest, read_manifest
from agent.config.resume_check import check_unchanged
from agent.errors import AgentError, ConfigError, GateError
from cluster import connect
from cluster.connection import usable_cores
from cluster.tuning import NUMBER, TrialListener, TrialRunner
from compression.pipeline.pipeline import OutputLocation, compress, run_steps, work_directory_of
from compression.pipeline.pipeline_inputs import CompressionConfig, prepare
from compression.pipeline.snapshots import Snapshots
from compression.reporting.compression_report import CompressionReport, StepRow
from compression.reporting.frontier_plot import draw_frontier
from compression.reporting.report_files import NAME
from compression.tuning.compression_search import CompressionSearchConfig
from compression.tuning.trial_record import CompressionSearchRecord, TrialOutcome, render

RECORD = "search.json"  # in the bundle, and while the search is under way
PICTURE = "search.svg"
_CHANGEABLE = ("max_concurrent", "max_score_loss", "gate", "overwrite", "resume", "cluster")  # when a search is resumed


@dataclass(frozen=True)
class CompressionAssignment:
    """What every trial is given: the compression of each by number, and the working directory of the search."""

    configs: Mapping[int, CompressionConfig]
    keep: frozenset[str]
    directory: str


def search(config: CompressionSearchConfig) -> tuple[CompressionSearchRecord, CompressionReport]:
    """Tries lists of steps and publishes the fastest agent within the loss. Resumes what an interrupted call has left.

    Trials are compared on the dev split; the test split is scored once, for the best, and the gate judges that.

    Raises:
        GateError: No trial kept enough, or the best did not on the test split.
        AgentError: Configuration, space or data are not in order.
    """
    if importlib.util.find_spec("ray") is None:
        raise ConfigError("a search needs ray[tune]", remedy="pip install 'bert-agent[training]'")
    check_output(config.output.expanduser().absolute(), overwrite=config.overwrite)
    _check_task(config.bundle)
    _check_cores(config)
    trials = config.trials()
    configs = {trial.number: config.compressed_with(trial.settings) for trial in trials}
    jobs = {number: prepare(trial_config) for number, trial_config in configs.items()}
    new = CompressionSearchRecord(
        config=config.model_dump(mode="json"), bundle_digest=jobs[1].bundle.digest,
        data_digest=jobs[1].splits.digest, trials=trials,
    )  # fmt: skip
    listener = CompressionTrials(
        _start_or_resume(config, new), config, {number: job.keys for number, job in jobs.items()}
    )
    del jobs
    if numbers := [trial.number for trial in listener.record.trials if not trial.is_over]:
        connect(config.cluster, worker_lines=False)
        assignment = CompressionAssignment(configs, frozenset(listener.needed_keys()), str(Path.cwd()))
        runner = TrialRunner(run_trial, assignment, work_directory_of(config.output), config.max_concurrent)
        runner.run(numbers, listener)
    return listener.record, _publish(config, listener.record, configs)


def _check_task(bundle: Path) -> None:
    task = parse_manifest(bundle, read_manifest(bundle)).task
    if task.writes:
        raise ConfigError(
            f"bundle {bundle} is an agent of {task.kind}, which writes texts, and their only step, convert, has nothing to search",
            allowed="agents of other tasks",
            remedy="compress it by python compression/run.py",
        )


def _check_cores(config: CompressionSearchConfig) -> None:
    needed, cores = config.max_concurrent * config.threads, usable_cores()
    if cores < needed:
        raise ConfigError(
            f"max_concurrent={config.max_concurrent} with threads={config.threads} needs {needed} cores, and there are {cores}",
            remedy="lower one of them: trials that share cores cannot be compared by speed",
        )


class CompressionTrials(TrialListener):
    """Keeps the record of the trials and the snapshots that are still needed.

    Args:
        record: Of the search so far.
        config: Of the search.
        keys: Of the snapshots of each trial.
    """

    record: CompressionSearchRecord

    def __init__(
        self, record: CompressionSearchRecord, config: CompressionSearchConfig, keys: Mapping[int, tuple[str, ...]]
    ) -> None:
        self._work_directory = work_directory_of(config.output)
        super().__init__(record, self._work_directory / RECORD)
        self._config, self._keys = config, keys

    def needed_keys(self) -> set[str]:
        """Keys of the snapshots that are needed by unfinished trials and by the best so far."""
        best = self.record.best(self._config.max_score_loss)
        needed = [trial.number for trial in self.record.trials if not trial.is_over or trial == best]
        return {key for number in needed for key in self._keys[number]}

    def reported(self, number: int, result: Mapping[str, Any]) -> None:
        """Records a trial's outcome or failure."""
        if failure := result.get("failure"):
            self.fail(number, failure)
        elif values := result.get("outcome"):
            outcome = TrialOutcome(**values)
            line = f"score {outcome.score:.4f} ({outcome.kept:.2%} kept), {outcome.speed:.2f}x, {outcome.size_bytes / 1e6:.1f} MB"
            self.update(number, line, state="finished", outcome=outcome)
            Snapshots(self._work_directory).keep_only(self.needed_keys())


def run_trial(parameters: Mapping[str, Any], assignment: CompressionAssignment) -> dict[str, Any]:
    """Runs one trial in a process of Ray's: all steps but verify."""
    os.chdir(assignment.directory)
    config = assignment.configs[parameters[NUMBER]]
    work_directory = work_directory_of(config.output)
    work_directory.mkdir(parents=True, exist_ok=True)
    try:
        with tempfile.TemporaryDirectory(dir=work_directory, prefix="draft-") as draft:
            location = OutputLocation(Path(draft) / "bundle", work_directory, assignment.keep)
            location.draft.mkdir()
            state = run_steps(prepare(config), location, num_steps=len(config.steps) - 1)
            return {"outcome": _outcome(state.step_rows[-1], state.step_rows[0]).model_dump()}
    except AgentError as error:
        return {"failure": str(error)}


def _outcome(last: StepRow, original: StepRow) -> TrialOutcome:
    found, first = last.measurement, original.measurement
    assert found
    assert first
    kept = found.score / first.score if first.score else 1.0
    return TrialOutcome(score=found.score, kept=kept, speed=last.speed or 1.0, size_bytes=found.size_bytes)


def _start_or_resume(config: CompressionSearchConfig, new: CompressionSearchRecord) -> CompressionSearchRecord:
    """The record of an unfinished search of the same output, or the new one.

    Raises:
        ConfigError: There is one, and it was started with other settings, another agent or other data.
    """
    work_directory = work_directory_of(config.output)
    file = work_directory / RECORD
    if not file.is_file() or not config.resume:
        shutil.rmtree(work_directory, ignore_errors=True)
        new.write(file)
        return new
    started = CompressionSearchRecord.read(file)
    content = ["the agent"] if started.bundle_digest != new.bundle_digest else []
    content += ["the content of the data"] if started.data_digest != new.data_digest else []
    what = f"an unfinished search in {work_directory}"
    check_unchanged(what, started.config, new.config, changeable=_CHANGEABLE, content=content)
    over = sum(trial.is_over for trial in started.trials)
    print(f"goes on with an unfinished search, {over} of {len(started.trials)} trials are over", flush=True)
    return started


def _publish(
    config: CompressionSearchConfig, record: CompressionSearchRecord, configs: Mapping[int, CompressionConfig]
) -> CompressionReport:
    """Verifies the best trial's agent and publishes it, with the record and the picture of all trials.

    Raises:
        GateError: None kept enough.
    """
    best = record.best(config.max_score_loss)
    if best is None:
        kept = max((trial.outcome.kept for trial in record.trials if trial.outcome), default=None)
        raise GateError(
            f"no trial of {len(record.trials)} kept {1 - config.max_score_loss:.2%} of the score on the dev split"
            + (f", the best kept {kept:.2%}" if kept is not None else f" ({record.failures})"),
            remedy="raise max_score_loss, or give a space that removes less (then set resume=false)",
        )

    def add(directory: Path) -> None:
        record.write(directory / RECORD)
        draw_frontier(directory / PICTURE, record.points)
        with (directory / f"{NAME}.md").open("a", encoding="utf-8") as page:
            trials = ["", "## Trials of the search (dev split)", "", *render(record, config.max_score_loss)]
            page.write("\n".join([*trials, "", f"![Score kept against speed, by trial]({PICTURE})", ""]))

    return compress(configs[best.number], add)
