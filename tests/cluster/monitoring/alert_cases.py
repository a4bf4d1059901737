"""For every alert: what fires it, with what words, and what leaves it silent. promtool plays the series."""

from __future__ import annotations

from dataclasses import dataclass, field

_SERVED = {"namespace": "n", "agent": "a"}
_RUN = {"namespace": "n", "run": "r"}


@dataclass(frozen=True)
class Case:
    """Series as promtool writes them (`0+10x60`), one value each `step`, and what is firing at `at`."""

    alert: str
    name: str
    series: dict[str, str]
    at: str
    fires: list[tuple[dict[str, str], str]] = field(default_factory=list)
    step: str = "1m"


def _of(name: str, labels: dict[str, str], **more: str) -> str:
    text = ",".join(f'{key}="{value}"' for key, value in (labels | more).items())
    return f"{name}{{{text}}}"


def served(name: str, **more: str) -> str:
    return _of(name, _SERVED, **more)


def run(name: str, **more: str) -> str:
    return _of(f"ray_bert_agent_training_{name}", _RUN, **more)


def _http(good: int, bad: int, steps: int) -> dict[str, str]:
    name = "haproxy_backend_http_responses_total"
    return {served(name, code="2xx"): f"0+{good}x{steps}", served(name, code="5xx"): f"0+{bad}x{steps}"}


def _answered(quick: int, count: int, steps: int) -> dict[str, str]:
    name = "ray_bert_agent_request_seconds"
    return {served(f"{name}_bucket", le="0.5"): f"0+{quick}x{steps}", served(f"{name}_count"): f"0+{count}x{steps}"}


def _burn(severity: str, window: str, says: str) -> tuple[dict[str, str], str]:
    return (_SERVED | {"severity": severity, "window": window}, f"a in n {says} as its objective allows ({window})")


def _refused(reason: str, refused: int, answered: int = 90) -> dict[str, str]:
    return {
        served("ray_bert_agent_rejected_requests_total", reason=reason): f"0+{refused}x60",
        served("ray_bert_agent_request_seconds_count"): f"0+{answered}x60",
    }


def _queued(values: str, tokens_per_minute: int = 60_000) -> dict[str, str]:
    return {
        served("ray_bert_agent_queued_tokens"): values,
        served("ray_bert_agent_tokens_total"): f"0+{tokens_per_minute}x60",
    }


def _replicas(wanted: str, *healthy: str) -> dict[str, str]:
    name = "ray_serve_deployment_replica_healthy"
    return {served("ray_serve_autoscaling_target_replicas"): wanted} | {
        served(name, replica=f"r{number}"): values for number, values in enumerate(healthy)
    }


def _lives(wanted: str, *minutes: tuple[int, int]) -> dict[str, str]:
    """Replicas that lived from one minute to another."""
    name = "ray_serve_deployment_replica_healthy"
    return {served("ray_serve_autoscaling_target_replicas"): wanted} | {
        served(name, replica=f"r{number}"): (f"_x{start} " if start else "") + f"1x{end - start} stale"
        for number, (start, end) in enumerate(minutes)
    }


def _scores(before: int, after: int, each: int = 100) -> dict[str, str]:
    """26 h in steps of 10 min; of `each` new scores a step, `before` and later `after` lie below 0.9."""
    name, day = "ray_bert_agent_score", 144
    return {
        served(f"{name}_bucket", le="0.9"): f"0+{before}x{day} {before * day}+{after}x12",
        served(f"{name}_bucket", le="+Inf"): f"0+{each}x156",
        served(f"{name}_count"): f"0+{each}x156",
        served("ray_bert_agent_answer_items_total", label="PER"): f"0+{each}x156",
    }


def _types(before: tuple[int, int], after: tuple[int, int]) -> dict[str, str]:
    name, day = "ray_bert_agent_answer_items_total", 144
    return {
        served(name, label=label): f"0+{old}x{day} {old * day}+{new}x12"
        for label, old, new in zip(("LOC", "PER"), before, after, strict=True)
    }


def _evidence(statistic: str, *replicas: str) -> dict[str, str]:
    name = "ray_bert_agent_drift_evidence"
    return {served(name, statistic=statistic, replica=f"r{number}"): values for number, values in enumerate(replicas)}


def _ticket(labels: dict[str, str], says: str) -> list[tuple[dict[str, str], str]]:
    return [(labels | {"severity": "ticket"}, says)]


def _page(labels: dict[str, str], says: str) -> list[tuple[dict[str, str], str]]:
    return [(labels | {"severity": "page"}, says)]


_FAILS, _SLOW = "fails requests {} times as often", "answers slower than 0.5 s {} times as often"
_UP = {"job": "ray", "namespace": "n", "instance": "10.0.0.1:8080"}
_JOBS = 'ray_running_jobs{namespace="n"}'

SERVING = [
    Case("BertAgentErrorBudgetBurn", "2% of the requests fail", _http(980, 20, 120), "70m", [
        _burn("page", "1h", _FAILS.format("20.0")), _burn("page", "6h", _FAILS.format("20.0")),
        _burn("ticket", "1d", _FAILS.format("20.0")),
    ]),
    Case("BertAgentErrorBudgetBurn", "0.15% fail for hours", _http(9985, 15, 30), "5h", [
        _burn("ticket", "3d", _FAILS.format("1.5")),
    ], step="10m"),
    Case("BertAgentErrorBudgetBurn", "0.05% fail", _http(9995, 5, 60), "10h", step="10m"),
    Case("BertAgentErrorBudgetBurn", "nobody asks", _http(0, 0, 60), "10h", step="10m"),
    Case("BertAgentLatencyBudgetBurn", "30% are slow", _answered(70, 100, 120), "30m", [
        _burn("page", "1h", _SLOW.format("30.0")), _burn("page", "6h", _SLOW.format("30.0")),
    ]),
    Case("BertAgentLatencyBudgetBurn", "0.5% are slow", _answered(995, 1000, 60), "10h", step="10m"),
    Case("BertAgentShedding", "one in ten is shed", _refused("overload", 10), "10m", _page(_SERVED, "a in n sheds load: 429 for 10% of the requests")),
    Case("BertAgentShedding", "one in fifty is shed", _refused("overload", 2, 98), "10m"),
    Case("BertAgentShedding", "callers hang up", _refused("cancelled", 10), "10m"),
    Case("BertAgentTimeouts", "one in ten is late", _refused("timeout", 10), "15m", _ticket(_SERVED, "a in n is too late for its callers: 408 for 10% of the requests")),
    Case("BertAgentTimeouts", "load is shed", _refused("overload", 10), "15m"),
    Case("BertAgentPredictionsFail", "one in ten fails", _refused("failed", 10), "10m", _page(_SERVED, "a in n fails in itself: 500 for 10% of the requests")),
    Case("BertAgentPredictionsFail", "bad requests", _refused("invalid", 10), "10m"),
    Case("BertAgentQueueGrowing", "it grows", _queued("100+100x60"), "40m", _ticket(_SERVED, "the queue of a in n never empties and grows: 3.6k tokens wait")),
    Case("BertAgentQueueGrowing", "it is long and stays", _queued("5000x60"), "40m"),
    Case("BertAgentQueueGrowing", "it grows, but holds little", _queued("100+100x60", 6_000_000), "40m"),
    Case("BertAgentQueueGrowing", "it grows and empties", _queued("0 100 200 0 300 0 500 900 0 1000 0 2000 0 100 3000 0 4000 0 5000 0 6000 0 7000 0 8000 0 9000 0"), "27m"),
    Case("BertAgentReplicasMissing", "one of three is unhealthy", _replicas("3x30", "1x30", "1x30", "0x30"), "10m", _page(_SERVED, "a in n lacks 1 of the replicas that it should have")),
    Case("BertAgentReplicasMissing", "none is there", _replicas("3x30"), "10m", _page(_SERVED, "a in n lacks 3 of the replicas that it should have")),
    Case("BertAgentReplicasMissing", "one is replaced within minutes", _replicas("2x30", "1x30", "1x5 0x2 1x23"), "9m"),
    Case("BertAgentReplicasMissing", "two of two", _replicas("2x30", "1x30", "1x30"), "20m"),
    Case("BertAgentReplicaFlapping", "two replicas, five deaths", _lives("2x90", (0, 40), (0, 42), (41, 44), (43, 46), (45, 48), (47, 90), (49, 90)), "54m", _ticket(_SERVED, "a in n replaced replicas 5 times in 30 min")),
    Case("BertAgentReplicaFlapping", "it grows", _lives("2x40 8x50", *[(0, 90)] * 2, *[(41, 90)] * 6), "54m"),
    Case("BertAgentReplicaFlapping", "it shrinks", _lives("8x40 2x50", *[(0, 90)] * 2, *[(0, 40)] * 6), "54m"),
    Case("BertAgentReplicaFlapping", "a rolling update replaces each once", _lives("4x90", *[(0, 43)] * 4, *[(41, 90)] * 4), "54m"),
    Case("BertAgentReplicaFlapping", "deaths of yesterday", _lives("2x90", (0, 4), (0, 6), (5, 9), (7, 10), (9, 12), (11, 90), (13, 90)), "54m"),
    Case("BertAgentNotRunning", "its start failed", {served("ray_serve_application_status"): "1x30"}, "10m", _page(_SERVED, "a in n is not deployed: its start failed")),
    Case("BertAgentNotRunning", "it is unhealthy", {served("ray_serve_application_status"): "2x30"}, "10m", _page(_SERVED, "a in n is unhealthy")),
    Case("BertAgentNotRunning", "it is deployed, then runs", {served("ray_serve_application_status"): "5x5 6x30"}, "10m"),
    Case("BertAgentVersionRefused", "the first ever", {served("ray_bert_agent_rollouts_total", outcome="refused", replica="r"): "_x10 1x30"}, "12m", _ticket(_SERVED | {"outcome": "refused"}, "a new version of a in n was refused by 1 replicas: the old one goes on")),
    Case("BertAgentVersionRefused", "half an hour ago", {served("ray_bert_agent_rollouts_total", outcome="refused", replica="r"): "_x10 1x60"}, "45m"),
    Case("BertAgentVersionRefused", "a good one", {served("ray_bert_agent_rollouts_total", outcome="promoted", replica="r"): "_x10 1x30"}, "12m"),
    Case("BertAgentScoreDrift", "three in five unsure, formerly one", _scores(20, 60), "26h", _ticket(_SERVED, "a in n is as sure of its answers as before no more: distance 0.39 between the last hour and the day before"), step="10m"),
    Case("BertAgentScoreDrift", "as before", _scores(20, 22), "26h", step="10m"),
    Case("BertAgentScoreDrift", "too few to tell", _scores(1, 5, each=5), "26h", step="10m"),
    Case("BertAgentLabelShift", "places instead of people", _types((50, 50), (90, 10)), "26h", _ticket(_SERVED, "a in n finds another mix of types than before: distance 0.39 between the last hour and the day before"), step="10m"),
    Case("BertAgentLabelShift", "a type that was never there", {served("ray_bert_agent_answer_items_total", label="LOC"): "0+100x144 14400x12", served("ray_bert_agent_answer_items_total", label="ORG"): "_x140 0x4 0+100x12"}, "26h", _ticket(_SERVED, "a in n finds another mix of types than before: distance 0.97 between the last hour and the day before"), step="10m"),
    Case("BertAgentDrift", "two replicas find other lengths", _evidence("length", "0x10 1.4x60", "0x10 2.2x60") | _evidence("score", "0x10 0.2x60"), "40m", _ticket(_SERVED | {"statistic": "length"}, "texts for a in n are not like those that it was made with: length, evidence 1.8 (1 alarms)")),
    Case("BertAgentDrift", "one of two replicas finds a little", _evidence("length", "0.1x60", "1.2x60"), "40m"),
    Case("BertAgentDrift", "only one has filled a block", _evidence("labels", "0x60", "3x60"), "40m", _ticket(_SERVED | {"statistic": "labels"}, "texts for a in n are not like those that it was made with: labels, evidence 3.0 (1 alarms)")),
    Case("BertAgentDrift", "calm", _evidence("length", "0.3x60", "0.1x60"), "40m"),
    Case("BertAgentDrift", "a new version began anew", _evidence("length", "2x20 0x40"), "40m"),
    Case("BertAgentDecisionsLost", "the first ones", {served("ray_bert_agent_decisions_total", outcome="lost", replica="r"): "0x10 7x30"}, "12m", _ticket(_SERVED, "a in n lost decisions: 1 replicas could not write them to the store")),
    Case("BertAgentDecisionsLost", "half an hour ago", {served("ray_bert_agent_decisions_total", outcome="lost", replica="r"): "0x10 7x60"}, "45m"),
    Case("BertAgentDecisionsLost", "all are written", {served("ray_bert_agent_decisions_total", outcome="written", replica="r"): "0+10x30"}, "12m"),
    Case("BertAgentDecisionStoreFails", "again and again", {served("ray_bert_agent_decisions_total", outcome="delayed", replica="r"): "0x10 1+2x30"}, "20m", _ticket(_SERVED, "a in n cannot write decisions: the store fails for 1 replicas")),
    Case("BertAgentDecisionStoreFails", "for a moment", {served("ray_bert_agent_decisions_total", outcome="delayed", replica="r"): "0x10 2x30"}, "20m"),
    Case("BertAgentLabelShift", "more of all", _types((50, 50), (500, 500)), "26h", step="10m"),
]  # fmt: skip

TRAINING = [
    Case("BertAgentTrainingStalled", "no step for long", {run("steps_total"): "0+10x10 100x60", run("workers"): "2x70"}, "40m", _ticket(_RUN, "r in n lives but has made no step for 20 minutes")),
    Case("BertAgentTrainingStalled", "a step a minute", {run("steps_total"): "0+1x60", run("workers"): "2x60"}, "40m"),
    Case("BertAgentTrainingStalled", "it has ended", {run("steps_total"): "0+10x10 100x60", run("workers"): "2x10 stale"}, "40m"),
    Case("BertAgentTrainingLossNotFinite", "a run given up for it", {run("failures_total", reason="loss"): "_x5 1x60"}, "10m", _ticket(_RUN, "the loss of r in n is not finite or ran away; the run was given up")),
    Case("BertAgentTrainingLossNotFinite", "a loss that is NaN", {run("loss"): "1 1 NaN NaN NaN"}, "4m", _ticket(_RUN, "the loss of r in n is not finite or ran away; the run was given up")),
    Case("BertAgentTrainingLossNotFinite", "a loss that falls", {run("loss"): "10-1x9"}, "8m"),
    Case("BertAgentTrainingLossNotFinite", "another reason", {run("failures_total", reason="error"): "_x5 1x60"}, "10m"),
    Case("BertAgentTrainingFailed", "given up", {run("failures_total", reason="error"): "_x5 1x60"}, "10m", _ticket(_RUN | {"reason": "error"}, "r in n was given up: error")),
    Case("BertAgentTrainingFailed", "long ago", {run("failures_total", reason="error"): "_x5 1x120"}, "90m"),
    Case("BertAgentTrainingRestarts", "five in an hour", {run("restarts"): "0x10 1x5 2x5 3x5 4x5 5x30"}, "50m", _ticket(_RUN, "r in n was taken up again more than three times in an hour")),
    Case("BertAgentTrainingRestarts", "one", {run("restarts"): "0x10 1x50"}, "50m"),
    Case("BertAgentTrainingWaits", "for its batches", {run("host_ratio"): "0.7x60"}, "30m", _ticket(_RUN, "the steps of r in n wait for their batches 70% of the time")),
    Case("BertAgentTrainingWaits", "hardly", {run("host_ratio"): "0.1x60"}, "30m"),
]  # fmt: skip

FLEET = [
    Case("BertAgentNodeDown", "an endpoint is silent", {_of("up", _UP): "1x5 0x30"}, "20m", _page(_UP, "10.0.0.1:8080 in n does not answer: its node or its Ray is down")),
    Case("BertAgentNodeDown", "one scrape failed", {_of("up", _UP): "1x5 0 1x30"}, "7m"),
    Case("BertAgentNodesFailed", "two", {'autoscaler_recently_failed_nodes{namespace="n",NodeType="worker"}': "2x30"}, "10m", _ticket({"namespace": "n"}, "2 nodes of n failed lately")),
    Case("BertAgentNodesFailed", "none", {'autoscaler_recently_failed_nodes{namespace="n",NodeType="worker"}': "0x30"}, "10m"),
    Case("BertAgentGcsDown", "nodes answer, the control store does not", {_of("up", _UP): "1x30", _JOBS: "1x5 stale"}, "15m", _page({"namespace": "n"}, "the cluster in n has lost its control store (GCS): nothing scales or heals")),
    Case("BertAgentGcsDown", "another cluster's is there", {_of("up", _UP, cluster="one"): "1x30", _of("up", _UP, cluster="two"): "1x30", 'ray_running_jobs{namespace="n",cluster="two"}': "1x30"}, "15m", _page({"namespace": "n", "cluster": "one"}, "the cluster one in n has lost its control store (GCS): nothing scales or heals")),
    Case("BertAgentGcsDown", "all is well", {_of("up", _UP): "1x30", _JOBS: "1x30"}, "15m"),
    Case("BertAgentNothingWatched", "no endpoint answers", {_of("up", _UP): "0x30"}, "15m", _page({}, "Prometheus reaches no Ray node at all: either all is down or nobody is watched")),
    Case("BertAgentNothingWatched", "one does", {_of("up", _UP): "1x30"}, "15m"),
    Case("BertAgentObjectStoreFull", "95%", {'ray_object_store_used_memory{namespace="n",NodeAddress="10.0.0.1"}': "95x30", 'ray_object_store_available_memory{namespace="n",NodeAddress="10.0.0.1"}': "5x30"}, "20m", _ticket({"namespace": "n", "NodeAddress": "10.0.0.1"}, "the object store of 10.0.0.1 in n is 95% full")),
    Case("BertAgentObjectStoreFull", "half", {'ray_object_store_used_memory{namespace="n",NodeAddress="10.0.0.1"}': "50x30", 'ray_object_store_available_memory{namespace="n",NodeAddress="10.0.0.1"}': "50x30"}, "20m"),
    Case("BertAgentDiskFull", "93%", {'ray_node_disk_utilization_percentage{namespace="n",ip="10.0.0.1"}': "93x30"}, "20m", _ticket({"namespace": "n", "ip": "10.0.0.1"}, "the disk of 10.0.0.1 in n is 93% full")),
    Case("BertAgentDiskFull", "half", {'ray_node_disk_utilization_percentage{namespace="n",ip="10.0.0.1"}': "50x30"}, "20m"),
]  # fmt: skip

CASES = [*SERVING, *TRAINING, *FLEET]
