"""Runs the trials of a search with Ray Tune and keeps their record on disk, so that an interrupted search can go on."""

from __future__ import annotations

import logging
import os
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Self

from agent.config.base import Config
from agent.errors import AgentError, ConfigError
from agent.files import write_file

if TYPE_CHECKING:
    from ray import tune

NUMBER = "number"  # of the trial, in what Ray Tune passes to it
# Ray Tune's own tables, files and Ctrl-C handler: our lines, our record and an immediate end replace them.
_SETTINGS = {"RAY_AIR_NEW_OUTPUT": "0", "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1", "TUNE_DISABLE_SIGINT_HANDLER": "1"}
_RAY_TUNE = "ray-tune"  # directory with Ray Tune's own files
_NODE_SHARE = 0.001  # of a node's own resource: ties a process to the node


class BaseTrial(Config):
    """One trial of a search.

    Attributes:
        number: Counted from 1.
        settings: Key to value, where it differs from the others.
        state: `running` is what an interrupted search leaves; `stopped` trials were too far behind to go on.
        failure: Why it failed.
    """

    number: int
    settings: Mapping[str, Any]
    state: Literal["waiting", "running", "finished", "stopped", "failed"] = "waiting"
    failure: str = ""

    @property
    def is_over(self) -> bool:
        """Whether it has ended."""
        return self.state in ("finished", "stopped", "failed")

    def __str__(self) -> str:
        return format_settings(self.settings)


class BaseRecord(Config):
    """All trials of a search. Subclasses narrow the type of `trials`.

    Attributes:
        config: The search's resolved configuration.
        data_digest: Of the data that trials use.
        trials: In order of number.
    """

    config: Mapping[str, Any]
    data_digest: str
    trials: tuple[Any, ...]

    def write(self, file: Path) -> None:
        """Writes the record whole or not at all."""
        write_file(file, self.model_dump_json(indent=1) + "\n")

    @classmethod
    def read(cls, file: Path) -> Self:
        """Reads what `write` wrote."""
        return cls.model_validate_json(file.read_bytes())

    def with_trial(self, number: int, **changes: Any) -> Self:
        """The same with changes to one trial."""
        trials = [trial.model_copy(update=changes) if trial.number == number else trial for trial in self.trials]
        return self.model_copy(update={"trials": tuple(trials)})

    @property
    def failures(self) -> str:
        """Why trials failed, in one line."""
        return "; ".join(f"trial {trial.number}: {trial.failure}" for trial in self.trials if trial.failure)


class TrialListener:
    """Follows the trials of a search: keeps their record on disk and prints each change.

    Args:
        record: Of the search so far.
        file: Where it is kept.

    Attributes:
        fatal: An error that ends the search.
    """

    record: Any

    def __init__(self, record: BaseRecord, file: Path) -> None:
        self.record, self._file = record, file
        self.fatal: AgentError | None = None

    def started(self, number: int) -> None:
        """A trial starts or resumes."""
        self.update(number, f"starts with {self.record.trials[number - 1]}", state="running")

    def reported(self, number: int, result: Mapping[str, Any]) -> None:
        """A trial reported a result."""

    def completed(self, number: int) -> None:
        """A trial ended by itself or was stopped."""

    def crashed(self, number: int, error: Exception) -> None:
        """A trial ended with an error."""
        self.fail(number, (str(error).strip().splitlines() or [repr(error)])[-1])

    def fail(self, number: int, reason: str) -> None:
        """Records that a trial failed."""
        self.update(number, f"failed: {reason}", state="failed", failure=reason)

    def update(self, number: int, line: str, **changes: Any) -> None:
        """Changes a trial, writes the record and prints a line."""
        self.record = self.record.with_trial(number, **changes)
        self.record.write(self._file)
        print(f"trial {number}/{len(self.record.trials)} {line}", flush=True)


@dataclass(frozen=True)
class TrialRunner:
    """How trials run.

    Attributes:
        trainable: A function or class that Ray Tune takes; it gets `NUMBER` and the parameter `assignment`.
        assignment: Passed to every trial.
        directory: For Ray Tune's own files.
        max_concurrent: Trials at a time.
        scheduler: Of Ray Tune; None runs every trial to its end.
    """

    trainable: Any
    assignment: Any
    directory: Path
    max_concurrent: int
    scheduler: Any = None

    def run(self, numbers: Sequence[int], listener: TrialListener) -> None:
        """Runs the trials of the given numbers. This process is connected to Ray.

        Raises:
            AgentError: The listener's fatal error.
        """
        os.environ.update(_SETTINGS)
        shutil.rmtree(self.directory / _RAY_TUNE, ignore_errors=True)
        logging.getLogger("ray.tune").setLevel(logging.CRITICAL)
        self._tuner(numbers, listener).fit()
        if listener.fatal:
            raise listener.fatal

    def _tuner(self, numbers: Sequence[int], listener: TrialListener) -> tune.Tuner:
        import ray
        from ray import tune

        # On this node, which the directory of the search lies on; workers of a trial take resources of their own.
        here = {"cpu": 0, f"node:{ray.util.get_node_ip_address()}": _NODE_SHARE}
        return tune.Tuner(
            tune.with_resources(tune.with_parameters(self.trainable, assignment=self.assignment), here),
            param_space={NUMBER: tune.grid_search(list(numbers))},
            tune_config=tune.TuneConfig(scheduler=self.scheduler, max_concurrent_trials=self.max_concurrent),
            run_config=tune.RunConfig(
                name=_RAY_TUNE,
                storage_path=str(self.directory),
                verbose=0,
                callbacks=[_callback(listener)],
                stop=_stopper(listener),
                checkpoint_config=tune.CheckpointConfig(checkpoint_at_end=False),
            ),
        )


def format_settings(settings: Mapping[str, Any]) -> str:
    """Settings as they are given on the command line."""
    return " ".join(
        f"{key}={value:g}" if isinstance(value, float) else f"{key}={value}" for key, value in settings.items()
    )


def check_settings(configure: Callable[[Mapping[str, Any]], Config], settings: Mapping[str, Any]) -> None:
    """Checks that a trial can be configured with settings of the space.

    Raises:
        ConfigError: Names them, and what is wrong.
    """
    try:
        configure(settings)
    except ConfigError as error:
        raise ConfigError(
            f"space, where it gives {format_settings(settings)}: {error.what}",
            allowed=error.allowed,
            remedy=error.remedy,
        ) from None


def _callback(listener: TrialListener) -> tune.Callback:
    from ray import tune

    class ListenerCallback(tune.Callback):  # type: ignore[misc]
        def on_trial_start(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
            listener.started(trial.config[NUMBER])

        def on_trial_result(
            self, iteration: int, trials: list[Any], trial: Any, result: dict[str, Any], **info: Any
        ) -> None:
            listener.reported(trial.config[NUMBER], result)

        def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
            listener.completed(trial.config[NUMBER])

        def on_trial_error(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
            listener.crashed(trial.config[NUMBER], trial.get_error() or RuntimeError("its process died"))

    return ListenerCallback()


def _stopper(listener: TrialListener) -> tune.Stopper:
    from ray import tune

    class StopWhenFatal(tune.Stopper):  # type: ignore[misc]
        def __call__(self, trial_id: str, result: dict[str, Any]) -> bool:
            return False

        def stop_all(self) -> bool:
            return listener.fatal is not None

    return StopWhenFatal()
