"""Ray's metrics agent exports what a run shows, under our names."""

from __future__ import annotations

import time
import urllib.request

import pytest
from prometheus_client.parser import text_string_to_metric_families

from agent import telemetry
from agent.errors import LossError
from tests.training.rows import epoch_row, step_row

pytestmark = pytest.mark.system


@pytest.fixture
def metrics_url(monkeypatch, no_ray):
    import ray

    monkeypatch.setenv("RAY_metrics_report_interval_ms", "1000")  # the environment, so that the agent knows it too
    ray.init(address="local", num_cpus=1, include_dashboard=False)
    (node,) = ray.nodes()
    yield f"http://{node['NodeManagerAddress']}:{node['MetricsExportPort']}/metrics"
    ray.shutdown()


def exported(url, run):
    """Samples with the label `run`, by name."""
    with urllib.request.urlopen(url, timeout=10) as answer:
        families = text_string_to_metric_families(answer.read().decode())
        return {
            sample.name: sample.value
            for family in families
            for sample in family.samples
            if sample.labels.get("run") == run
        }


def test_rays_own_exporter_has_every_metric_of_a_run(metrics_url):
    from training.tracking.ray_metrics import RayMetrics, count_failure

    gauges = RayMetrics(run="runs/ner", restarts=2)
    rows = [step_row(step) for step in range(1, 2001)]
    begun = time.process_time()
    for row in rows:
        gauges.step(row)
    assert (time.process_time() - begun) / len(rows) < 500e-6
    gauges.epoch(epoch_row(1))
    count_failure("runs/ner", LossError("the loss is nan"))
    names = {f"ray_{metric.name}{'_total' * (metric.kind == 'counter')}" for metric in telemetry.TRAINING}
    limit, found = time.monotonic() + 60, {}
    while not names <= found.keys() and time.monotonic() < limit:
        time.sleep(1)
        found = exported(metrics_url, "runs/ner")
    assert found.keys() == names
    ours = {name.removeprefix("ray_bert_agent_training_"): value for name, value in found.items()}
    assert ours["steps_total"] == 2000
    assert ours["tokens_total"] == 200_000
    assert (ours["tokens_per_second"], ours["step_seconds"], ours["epoch"], ours["workers"]) == (800, 0.125, 200, 2)
    assert (ours["dev_score"], ours["restarts"]) == (0.5, 2)
    assert ours["failures_total"] == 1
    assert ours["padding_ratio"] == pytest.approx(0.2)
    # Ray forgets a gauge two exports after it was last set; a run that stalls must not look like one that ended.
    time.sleep(4)
    limit = time.monotonic() + 60
    while "ray_bert_agent_training_dev_score" not in exported(metrics_url, "runs/ner"):
        assert time.monotonic() < limit
        time.sleep(0.5)
    gauges.close()
    limit = time.monotonic() + 60
    while "ray_bert_agent_training_workers" in exported(metrics_url, "runs/ner"):
        assert time.monotonic() < limit
        time.sleep(0.5)


def test_a_run_may_have_a_name_that_is_not_ascii():
    """Which Ray's metrics refuse in a label."""
    from training.tracking.ray_metrics import RayMetrics, _ray_metric, count_failure

    with pytest.raises(UnicodeEncodeError):
        _ray_metric(telemetry.TRAINING_DEV_SCORE).set(1.0, tags={"run": "größe"})
    metrics = RayMetrics(run="runs/größe 人名", restarts=1)
    metrics.step(step_row(1))
    metrics.epoch(epoch_row(1))
    metrics.close()
    count_failure("runs/größe", LossError("the loss is nan"))
