"""Ray's metrics agent exports what a replica counted, exactly, under the names of prometheus-client."""

from __future__ import annotations

import asyncio
import contextlib
import time
import urllib.request
from collections.abc import Iterator

import pytest
from prometheus_client.parser import text_string_to_metric_families

from agent import telemetry
from serving.metrics import Metrics
from serving.ray_serve.metrics_copy import MetricsCopy

Samples = dict[tuple[str, frozenset[tuple[str, str]]], float]


@pytest.fixture
def metrics_url(no_ray: None) -> Iterator[str]:
    import ray

    ray.init(address="local", num_cpus=1, include_dashboard=False, _system_config={"metrics_report_interval_ms": 1000})
    (node,) = ray.nodes()
    yield f"http://{node['NodeManagerAddress']}:{node['MetricsExportPort']}/metrics"
    ray.shutdown()


def samples(text: str, prefix: str) -> Samples:
    """Samples of ours by name and by those labels that we gave."""
    ours = {"le", *(name for metric in telemetry.SERVING for name in metric.labels)}
    return {
        (sample.name.removeprefix(prefix), frozenset((k, v) for k, v in sample.labels.items() if k in ours)): (
            sample.value
        )
        for family in text_string_to_metric_families(text)
        for sample in family.samples
        if sample.name.startswith(prefix)
    }


def exported(url: str) -> Samples:
    with urllib.request.urlopen(url, timeout=10) as answer:
        return samples(answer.read().decode(), "ray_bert_agent_")


@pytest.mark.system
def test_rays_own_exporter_says_the_same_as_the_registry(metrics_url: str) -> None:
    metrics = Metrics("one")
    copy = MetricsCopy(metrics)
    metrics.count(telemetry.TEXTS, 3)
    copy.copy()
    metrics.count(telemetry.TEXTS, 4)
    metrics.count(telemetry.REQUESTS, route="/", status="200")
    metrics.count(telemetry.ENTITIES, label="größe")  # a label that Ray's exporter takes only when it is escaped
    metrics.set(telemetry.QUEUED_TOKENS, 17)
    for seconds in (0.004, 0.004, 0.3):
        metrics.observe(telemetry.STAGE_SECONDS, seconds, stage="queue")
    copy.copy()
    wanted = samples(metrics.render().decode(), "bert_agent_")
    wanted = {key: value for key, value in wanted.items() if value}
    del wanted["answer_items_total", frozenset({("label", "größe")})]
    wanted["answer_items_total", frozenset({("label", "gr\\xf6\\xdfe")})] = 1
    limit, found = time.monotonic() + 60, {}
    while not wanted.items() <= found.items() and time.monotonic() < limit:
        time.sleep(1)
        found = exported(metrics_url)
    assert {key: found.get(key) for key in wanted} == wanted
    assert wanted["texts_total", frozenset()] == 7
    assert wanted["stage_seconds_bucket", frozenset({("stage", "queue"), ("le", "0.005")})] == 2


def test_what_was_counted_at_the_very_end_is_copied(monkeypatch: pytest.MonkeyPatch) -> None:
    copied = []
    copy = MetricsCopy(Metrics())
    monkeypatch.setattr(copy, "copy", lambda: copied.append(1))

    async def scenario() -> None:
        task = asyncio.create_task(copy.keep())
        await asyncio.sleep(0)
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task

    asyncio.run(scenario())
    assert copied == [1]
