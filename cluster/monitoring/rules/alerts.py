"""The alerts for Prometheus. Each has a section in docs/runbooks.md."""

from __future__ import annotations

from collections.abc import Iterator

from agent import telemetry as t
from cluster.monitoring.promql import Clock, exported, risen
from cluster.monitoring.rules.recordings import recordings
from cluster.monitoring.rules.rule_file import Alert, Group, Recording, Severity

_SERVING, _TRAINING, _FLEET = "bert-agent-serving", "bert-agent-training", "bert-agent-fleet"
_BY = "sum by (namespace, agent)"
_AGENT = "{{ $labels.agent }} in {{ $labels.namespace }}"
_RUN = "{{ $labels.run }} in {{ $labels.namespace }}"

# Burn rate, long and short window, hold, severity: 2% of a month's budget in an hour, 5% in six, 10% in three days
# (sre.google/workbook/alerting-on-slos, table 5-8). The short window ends the alert soon after the fault ends.
_BURNS: tuple[tuple[float, str, str, str, Severity], ...] = (
    (14.4, "1h", "5m", "2m", "page"),
    (6, "6h", "30m", "15m", "page"),
    (3, "1d", "2h", "1h", "ticket"),
    (1, "3d", "6h", "3h", "ticket"),
)
_REFUSED_SHARE = 0.05
_QUEUED_S = 0.1  # seconds of work below which nothing counts as queued
_DRIFT, _SHIFT = 0.15, 0.2
_ENOUGH_ANSWERS = 500  # below it, distributions differ by chance: a KS distance of 0.06 at the 5% level


def groups(clock: Clock | None = None) -> list[Group]:
    """All recording rules and alerts.

    Args:
        clock: Shortens windows and waits, for tests and demonstrations.
    """
    clock = clock or Clock()
    return [
        recordings(clock),
        Group(
            "bert-agent-serving",
            [*_burns(clock), *_refusals(clock), *_replicas(clock), *_answers(clock), *_decisions(clock)],
        ),
        Group("bert-agent-training", list(_training(clock))),
        Group("bert-agent-fleet", list(_fleet(clock))),
    ]


def _burns(clock: Clock) -> Iterator[Alert]:
    kinds = (
        ("errors", "BertAgentErrorBudgetBurn", "fails requests"),
        ("slow", "BertAgentLatencyBudgetBurn", "answers slower than 0.5 s"),
    )
    for series, name, does in kinds:
        for factor, long, short, hold, severity in _BURNS:
            recorded = f"agent:bert_agent_{series}:burn"
            yield Alert(
                name, clock.hold(hold), severity, _SERVING,
                f"{recorded}{long} > {factor:g} and {recorded}{short} > {factor:g}",
                f"{_AGENT} {does} {{{{ $value | printf `%.1f` }}}} times as often as its objective allows ({long})", {"window": long},
            )  # fmt: skip


def _refusals(clock: Clock) -> Iterator[Alert | Recording]:
    window = clock.window("5m")
    asked = f"{_BY} (rate({exported(t.REQUEST_SECONDS, 'count')}[{window}]))"
    refused = f"{_BY} (rate({exported(t.REJECTED)}[{window}]))"
    for name, reason, hold, says in (
        ("BertAgentShedding", "overload", "2m", "sheds load: 429 for"),
        ("BertAgentTimeouts", "timeout", "5m", "is too late for its callers: 408 for"),
        ("BertAgentPredictionsFail", "failed", "2m", "fails in itself: 500 for"),
    ):
        these = f'{_BY} (rate({exported(t.REJECTED)}{{reason="{reason}"}}[{window}]))'
        yield Alert(
            name, clock.hold(hold), "ticket" if reason == "timeout" else "page", _SERVING,
            f"{these} / ({asked} + {refused}) > {_REFUSED_SHARE:g}",
            f"{_AGENT} {says} {{{{ $value | humanizePercentage }}}} of the requests",
        )  # fmt: skip
    queue, before = "agent:bert_agent_queued_tokens:sum", clock.window("10m")
    yield Recording(queue, f"{_BY} ({exported(t.QUEUED_TOKENS)})")
    yield Alert(
        "BertAgentQueueGrowing", clock.hold("5m"), "ticket", _SERVING,
        f"avg_over_time({queue}[{before}]) > 1.2 * avg_over_time({queue}[{before}] offset {before}) "
        f"and min_over_time({queue}[{before}]) > 0 and {queue} / agent:bert_agent_tokens:rate5m > {_QUEUED_S:g}",
        f"the queue of {_AGENT} never empties and grows: {{{{ $value | humanize }}}} tokens wait",
    )  # fmt: skip


def _replicas(clock: Clock) -> Iterator[Alert]:
    target, window = "ray_serve_autoscaling_target_replicas", clock.window("30m")
    healthy = f"{_BY} (ray_serve_deployment_replica_healthy)"
    # All replicas that the controller reported in the window; one that dies at once exports nothing itself.
    known = f"count by (namespace, agent) (count by (namespace, agent, replica) (count_over_time(ray_serve_deployment_replica_healthy[{window}])))"
    most = f"max by (namespace, agent) (max_over_time({target}[{window}]))"
    yield Alert(
        "BertAgentReplicasMissing", clock.hold("5m"), "page", _SERVING,
        f"({_BY} ({target}) - ({healthy} or 0 * {_BY} ({target}))) > 0",
        f"{_AGENT} lacks {{{{ $value }}}} of the replicas that it should have",
    )  # fmt: skip
    # Replicas beyond the number wanted; a rolling update, which replaces each replica once, does not count.
    yield Alert(
        "BertAgentReplicaFlapping", clock.hold("1m"), "ticket", _SERVING,
        f"{known} - {most} > clamp_min(2 * {_BY} ({target}), 2)",
        f"{_AGENT} replaced replicas {{{{ $value }}}} times in 30 min",
    )  # fmt: skip
    yield Alert(
        "BertAgentNotRunning", clock.hold("2m"), "page", _SERVING,
        "min by (namespace, agent) (ray_serve_application_status) < 3",
        f"{_AGENT} is {{{{ if eq $value 1.0 }}}}not deployed: its start failed{{{{ else }}}}unhealthy{{{{ end }}}}",
    )  # fmt: skip
    yield Alert(
        "BertAgentVersionRefused", "0s", "ticket", _SERVING,
        f"count by (namespace, agent, outcome) ({risen(exported(t.ROLLOUTS) + '{outcome!=`promoted`}', clock.window('15m'))})",
        f"a new version of {_AGENT} was {{{{ $labels.outcome }}}} by {{{{ $value }}}} replicas: the old one goes on",
    )  # fmt: skip


def _answers(clock: Clock) -> Iterator[Alert]:
    enough = f"agent:bert_agent_answer_items:increase1h > {_ENOUGH_ANSWERS}"
    for name, series, bound, what in (
        (
            "BertAgentScoreDrift",
            "agent:bert_agent_score:drift1h",
            _DRIFT,
            "is as sure of its answers as before no more",
        ),
        ("BertAgentLabelShift", "agent:bert_agent_labels:shift1h", _SHIFT, "finds another mix of types than before"),
    ):
        yield Alert(
            name, clock.hold("30m"), "ticket", _SERVING,
            f"{series} > {bound:g} and {enough}",
            f"{_AGENT} {what}: distance {{{{ $value | printf `%.2f` }}}} between the last hour and the day before",
        )  # fmt: skip
    # The mean over replicas, each of which has texts of its own: what only one of them finds is hardly drift. 0 is no finding yet.
    evidence = f"avg by (namespace, agent, statistic) ({exported(t.DRIFT_EVIDENCE)} > 0)"
    yield Alert(
        "BertAgentDrift", clock.hold("5m"), "ticket", _SERVING,
        f"{evidence} >= 1",
        f"texts for {_AGENT} are not like those that it was made with: {{{{ $labels.statistic }}}}, evidence {{{{ $value | printf `%.1f` }}}} (1 alarms)",
    )  # fmt: skip


def _decisions(clock: Clock) -> Iterator[Alert]:
    decisions, window = exported(t.DECISIONS), clock.window("15m")
    yield Alert(
        "BertAgentDecisionsLost", "0s", "ticket", _SERVING,
        f"count by (namespace, agent) ({risen(decisions + '{outcome=`lost`}', window)})",
        f"{_AGENT} lost decisions: {{{{ $value }}}} replicas could not write them to the store",
    )  # fmt: skip
    yield Alert(
        "BertAgentDecisionStoreFails", clock.hold("5m"), "ticket", _SERVING,
        f"count by (namespace, agent) ({risen(decisions + '{outcome=`delayed`}', clock.window('5m'))})",
        f"{_AGENT} cannot write decisions: the store fails for {{{{ $value }}}} replicas",
    )  # fmt: skip


def _training(clock: Clock) -> Iterator[Alert]:
    steps, alive = exported(t.TRAINING_STEPS), exported(t.TRAINING_WORKERS)
    failures = exported(t.TRAINING_FAILURES)
    yield Alert(
        "BertAgentTrainingStalled", clock.hold("5m"), "ticket", _TRAINING,
        f"sum by (namespace, run) (rate({steps}[{clock.window('15m')}])) == 0 and on (namespace, run) sum by (namespace, run) ({alive}) > 0",
        f"{_RUN} lives but has made no step for 20 minutes",
    )  # fmt: skip
    yield Alert(
        "BertAgentTrainingLossNotFinite", "0s", "ticket", _TRAINING,
        f"count by (namespace, run) ({risen(failures + '{reason=`loss`}', clock.window('1h'))}) "
        f"or count by (namespace, run) ({exported(t.TRAINING_LOSS)} != {exported(t.TRAINING_LOSS)})",
        f"the loss of {_RUN} is not finite or ran away; the run was given up",
    )  # fmt: skip
    yield Alert(
        "BertAgentTrainingFailed", "0s", "ticket", _TRAINING,
        f"count by (namespace, run, reason) ({risen(failures + '{reason!=`loss`}', clock.window('1h'))})",
        f"{_RUN} was given up: {{{{ $labels.reason }}}}",
    )  # fmt: skip
    yield Alert(
        "BertAgentTrainingRestarts", "0s", "ticket", _TRAINING,
        f"sum by (namespace, run) (changes({exported(t.TRAINING_RESTARTS)}[{clock.window('1h')}])) > 3 "
        f"or max by (namespace, run) ({exported(t.TRAINING_RESTARTS)}) - min by (namespace, run) (min_over_time({exported(t.TRAINING_RESTARTS)}[{clock.window('1h')}])) > 3",
        f"{_RUN} was taken up again more than three times in an hour",
    )  # fmt: skip
    yield Alert(
        "BertAgentTrainingWaits", clock.hold("15m"), "ticket", _TRAINING,
        f"max by (namespace, run) ({exported(t.TRAINING_HOST_RATIO)}) > 0.5",
        f"the steps of {_RUN} wait for their batches {{{{ $value | humanizePercentage }}}} of the time",
    )  # fmt: skip


def _fleet(clock: Clock) -> Iterator[Alert]:
    up = 'up{job="ray"}'
    yield Alert(
        "BertAgentNodeDown", clock.hold("2m"), "page", _FLEET,
        f"{up} == 0",
        "{{ $labels.instance }} in {{ $labels.namespace }} does not answer: its node or its Ray is down",
    )  # fmt: skip
    yield Alert(
        "BertAgentNodesFailed", clock.hold("1m"), "ticket", _FLEET,
        "sum by (namespace) (autoscaler_recently_failed_nodes) > 0",
        "{{ $value }} nodes of {{ $labels.namespace }} failed lately",
    )  # fmt: skip
    yield Alert(
        "BertAgentGcsDown", clock.hold("1m"), "page", _FLEET,
        f"count by (namespace, cluster) ({up} == 1) unless count by (namespace, cluster) (ray_running_jobs)",
        "the cluster {{ with $labels.cluster }}{{ . }} {{ end }}in {{ $labels.namespace }} has lost its control store (GCS): nothing scales or heals",
    )  # fmt: skip
    yield Alert(
        "BertAgentNothingWatched", clock.hold("5m"), "page", _FLEET,
        f"absent({up} == 1)",
        "Prometheus reaches no Ray node at all: either all is down or nobody is watched",
    )  # fmt: skip
    yield Alert(
        "BertAgentObjectStoreFull", clock.hold("10m"), "ticket", _FLEET,
        "sum by (namespace, ip, NodeAddress) (ray_object_store_used_memory) / sum by (namespace, ip, NodeAddress) "
        "(ray_object_store_used_memory + ray_object_store_available_memory) > 0.9",
        "the object store of {{ $labels.NodeAddress }} in {{ $labels.namespace }} is {{ $value | humanizePercentage }} full",
    )  # fmt: skip
    yield Alert(
        "BertAgentDiskFull", clock.hold("10m"), "ticket", _FLEET,
        "max by (namespace, ip) (ray_node_disk_utilization_percentage) > 90",
        "the disk of {{ $labels.ip }} in {{ $labels.namespace }} is {{ $value | printf `%.0f` }}% full",
    )  # fmt: skip
