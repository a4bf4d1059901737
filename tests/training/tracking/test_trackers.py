"""Trackers get what happened, in real TensorBoard and MLflow stores, and never stand in the way."""

import sys
import time

import pytest

from agent.config.base import from_mapping
from agent.errors import ConfigError
from tests.training.rows import epoch_row, step_row
from training.tracking.trackers import Trackers, TrackingConfig, check_trackers

PARAMETERS = {"epochs": 3, "batch": {"tokens": 1024}}


@pytest.fixture(autouse=True)
def own_environment(monkeypatch):
    """What MLflow is told stays in the test."""
    for name, value in (("MLFLOW_ALLOW_FILE_STORE", "true"), ("MLFLOW_DISABLE_TELEMETRY", "true")):
        monkeypatch.setenv(name, value)


def mlflow_client(uri):
    return pytest.importorskip("mlflow").MlflowClient(tracking_uri=uri)


def tensorboard_scalars(directory):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(directory))
    events.Reload()
    return {
        tag: [(event.step, round(event.value, 5)) for event in events.Scalars(tag)] for tag in events.Tags()["scalars"]
    }


def follow(config, steps, **options):
    with Trackers(config, run_name="agent", parameters=PARAMETERS, **options) as trackers:
        for step in steps:
            trackers.step(step_row(step))
        trackers.epoch(epoch_row(1, step=steps[-1]))
        trackers.finish({"test/f1": 0.75})
    return trackers


def test_tensorboard_reads_points_of_a_second_each_the_epoch_and_the_end(tmp_path):
    follow(TrackingConfig(tensorboard=str(tmp_path)), range(1, 21))
    scalars = tensorboard_scalars(tmp_path / "agent")
    means = [sum(2 / step for step in steps) / len(steps) for steps in (range(1, 9), range(9, 17), range(17, 21))]
    assert scalars["train/loss"] == [(8, round(means[0], 5)), (16, round(means[1], 5)), (20, round(means[2], 5))]
    assert scalars["train/tokens_per_s"] == [(8, 800.0), (16, 800.0), (20, 800.0)]
    assert scalars["dev/score"] == [(20, 0.5)]
    assert scalars["test/f1"] == [(20, 0.75)]


def test_tensorboard_drops_what_a_resumed_run_does_again(tmp_path):
    config = TrackingConfig(tensorboard=str(tmp_path))
    follow(config, range(1, 25))
    time.sleep(1.1)  # event files are ordered by the second in their names
    follow(config, range(9, 33), done=8)
    assert [step for step, _ in tensorboard_scalars(tmp_path / "agent")["train/loss"]] == [8, 16, 24, 32]
    time.sleep(1.1)
    follow(config, range(1, 9))  # a new run of the same name
    assert [step for step, _ in tensorboard_scalars(tmp_path / "agent")["train/loss"]] == [8]


def test_mlflow_holds_parameters_metrics_and_the_end_of_the_run(tmp_path):
    config = TrackingConfig(mlflow=f"file:{tmp_path}/mlruns", experiment="mine").absolute()
    client = mlflow_client(config.mlflow)
    state = follow(config, range(1, 21)).state
    run = client.get_run(state["mlflow_run_id"])
    assert (run.info.status, run.info.run_name) == ("FINISHED", "agent")
    assert client.get_experiment(run.info.experiment_id).name == "mine"
    assert run.data.params == {"epochs": "3", "batch.tokens": "1024"}
    assert run.data.metrics["dev/score"] == 0.5
    assert run.data.metrics["test/f1"] == 0.75
    assert [point.step for point in client.get_metric_history(run.info.run_id, "train/loss")] == [8, 16, 20]


def interrupted(trackers):
    with trackers:
        trackers.step(step_row(1, seconds=2.0))
        raise KeyboardInterrupt


def test_a_resumed_run_goes_on_in_the_same_run_of_mlflow(tmp_path):
    config = TrackingConfig(mlflow=f"{tmp_path}/mlruns").absolute()
    client = mlflow_client(config.mlflow)
    first = Trackers(config, run_name="agent", parameters=PARAMETERS)
    with pytest.raises(KeyboardInterrupt):
        interrupted(first)
    state = first.state
    assert client.get_run(state["mlflow_run_id"]).info.status == "FAILED"
    second = follow(config, range(2, 10), state=state, done=1)
    assert second.state == state
    run = client.get_run(state["mlflow_run_id"])
    assert run.info.status == "FINISHED"
    assert [point.step for point in client.get_metric_history(run.info.run_id, "train/loss")] == [1, 9]
    assert len(client.search_runs([run.info.experiment_id])) == 1


def test_names_and_values_that_mlflow_refuses_are_mended(tmp_path):
    config = TrackingConfig(mlflow=f"{tmp_path}/mlruns").absolute()
    client = mlflow_client(config.mlflow)
    parameters = {f"key{number}": "x" for number in range(150)} | {"labels(&)": "y" * 9000}
    with Trackers(config, run_name="agent", parameters=parameters) as trackers:
        trackers.finish({"f1.R&D": 0.5})
    run = client.get_run(trackers.state["mlflow_run_id"])
    assert run.data.metrics == {"f1.R_D": 0.5}
    assert len(run.data.params) == 151
    assert run.data.params["labels___"] == "y" * 6000


def test_a_server_that_is_away_is_named_once_and_training_goes_on(tmp_path, capsys, monkeypatch):
    pytest.importorskip("mlflow")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    config = TrackingConfig(mlflow="http://127.0.0.1:9", tensorboard=str(tmp_path))
    check_trackers(config)
    trackers = follow(config, range(1, 21))
    assert trackers.state == {}
    warnings = [line for line in capsys.readouterr().err.splitlines() if line.startswith("warning")]
    assert len(warnings) == 1
    assert warnings[0].startswith(
        "warning: MLflow at http://127.0.0.1:9 cannot be written to; training goes on without it"
    )
    assert len(tensorboard_scalars(tmp_path / "agent")["train/loss"]) == 3  # the other one has all


def test_without_trackers_nothing_is_started_or_loaded():
    before = set(sys.modules)
    trackers = follow(TrackingConfig(), range(1, 21))
    assert trackers.state == {}
    assert not any(name.startswith(("mlflow", "tensorboard")) for name in set(sys.modules) - before)


def test_a_step_pays_next_to_nothing(tmp_path):
    rows = [step_row(step) for step in range(1, 10_001)]
    with Trackers(TrackingConfig(tensorboard=str(tmp_path)), run_name="agent", parameters={}) as trackers:
        begun = time.process_time()
        for row in rows:
            trackers.step(row)
        assert (time.process_time() - begun) / len(rows) < 500e-6  # 3 us on a quiet machine
    assert len(tensorboard_scalars(tmp_path / "agent")["train/loss"]) == 1250


def test_a_package_that_is_missing_is_refused_before_training(monkeypatch):
    monkeypatch.setitem(sys.modules, "mlflow", None)
    with pytest.raises(ConfigError, match=r"tracking\.mlflow='http://x' needs .*pip install 'bert-agent\[tracking\]'"):
        check_trackers(TrackingConfig(mlflow="http://x"))


def test_a_store_that_mlflow_cannot_use_is_refused_before_training():
    pytest.importorskip("mlflow")
    with pytest.raises(ConfigError, match=r"tracking\.mlflow='telegraph://x' is no store .* Allowed: http"):
        check_trackers(TrackingConfig(mlflow="telegraph://x"))


def test_passwords_do_not_get_into_the_configuration():
    with pytest.raises(ConfigError, match="MLFLOW_TRACKING_PASSWORD"):
        from_mapping(TrackingConfig, {"mlflow": "https://me:secret@host"})


def test_places_are_absolute_before_they_travel_to_a_worker(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for uri in ("file:./my runs", "my runs", "file:my%20runs"):
        config = TrackingConfig(tensorboard="tb", mlflow=uri).absolute()
        assert config.tensorboard == str(tmp_path / "tb")
        assert config.mlflow == (tmp_path / "my runs").as_uri()
    assert TrackingConfig(mlflow="http://host:5000/base").absolute().mlflow == "http://host:5000/base"
    assert TrackingConfig().absolute() == TrackingConfig()
