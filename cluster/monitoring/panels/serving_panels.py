"""The dashboard Serving: what agents are asked, how fast they answer, what they refuse, and what runs for it."""

from __future__ import annotations

from agent import telemetry as t
from agent.telemetry import Metric
from cluster.monitoring.panels.dashboard import Dashboard, Panel, Query, Row, Variable
from cluster.monitoring.panels.gpu_panels import GPU_MEMORY, GPU_USE
from cluster.monitoring.promql import SERVED, exported, mean, now, quantile, rate

_INFO = exported(t.INFO)
_QUANTILES = (("p50", 0.5), ("p90", 0.9), ("p99", 0.99))


def _by_agent(expr: str, legend: str = "{{agent}}") -> tuple[Query, ...]:
    return (Query(f"sum by (agent) {expr}", legend),)


def _ray(series: str, labels: str = "") -> str:
    return f"{series}{{{SERVED}{labels}}}"


def _of_processes(series: str) -> tuple[Query, ...]:
    return _by_agent(f"({_ray(series, ',Component=~`ray::ServeReplica.*`')})")


def _mean_and_p90(metric: Metric) -> tuple[Query, ...]:
    return (
        Query(mean(metric, "agent"), "{{agent}} mean"),
        Query(quantile(0.9, metric, "agent"), "{{agent}} p90"),
    )


_THROUGHPUT = Row(
    "Throughput",
    (
        Panel(
            "Texts per second",
            "Texts answered, whatever the requests held.",
            " texts/s",
            _by_agent(rate(t.TEXTS)),
        ),
        Panel(
            "Tokens per second",
            "Tokens run through the model, without padding: the work that is asked for.",
            " tokens/s",
            _by_agent(rate(t.TOKENS)),
        ),
        Panel(
            "Requests per second by status",
            "HTTP answers of the replicas, all routes. 429 is load that was shed, 408 the caller's own time limit.",
            " requests/s",
            (Query(f"sum by (agent, status) {rate(t.REQUESTS)}", "{{agent}} {{status}}"),),
            stacked=True,
        ),
        Panel(
            "Requests at HAProxy by status",
            "What callers see, counted by HAProxy by class of status; 5xx here and not above are requests that no replica took.",
            " requests/s",
            (
                Query(
                    f"sum by (agent, code) (rate({_ray('haproxy_backend_http_responses_total')}[$__rate_interval]))",
                    "{{agent}} {{code}}",
                ),
            ),
            stacked=True,
        ),
        Panel(
            "Throughput by version",
            "Texts per second by the bundle that answers: the first digits of its digest, as in /info.",
            " texts/s",
            (
                Query(
                    f"sum by (agent, bundle) (rate({_ray(exported(t.TEXTS))}[$__rate_interval]) * on (namespace, replica) "
                    f'group_left (bundle) ({_INFO}{{{SERVED},bundle=~"$version"}} == 1))',
                    "{{agent}} {{bundle}}",
                ),
            ),
            stacked=True,
        ),
        Panel(
            "Busy share",
            "Part of the time in which a replica's sessions compute, weighted by how full batches are; autoscaling aims at 0.7.",
            "percentunit",
            (Query(f"avg by (agent) {now(t.BUSY_RATIO)}", "{{agent}}"),),
        ),
    ),
)

_LATENCY = Row(
    "Latency",
    (
        Panel(
            "Request latency",
            "From a prediction request's arrival in the replica to its answer.",
            "s",
            tuple(
                Query(quantile(share, t.REQUEST_SECONDS, "agent"), f"{{{{agent}}}} {name}")
                for name, share in _QUANTILES
            ),
        ),
        Panel(
            "Stages, p50",
            "The median of each stage: tokenize, queue, infer (of a batch), decode.",
            "s",
            (Query(quantile(0.5, t.STAGE_SECONDS, "agent", "stage"), "{{agent}} {{stage}}"),),
        ),
        Panel(
            "Stages, p99",
            "The slowest hundredth of each stage. A long queue means too few replicas, a long infer too large batches.",
            "s",
            (Query(quantile(0.99, t.STAGE_SECONDS, "agent", "stage"), "{{agent}} {{stage}}"),),
        ),
        Panel(
            "Stages, mean",
            "Where the time of a request goes on average. infer is that of a batch.",
            "s",
            (Query(mean(t.STAGE_SECONDS, "agent", "stage"), "{{agent}} {{stage}}"),),
            stacked=True,
        ),
        Panel(
            "Event loop lag, p99",
            "How late the replica's event loop comes to a timer: what every request waits for besides the model.",
            "s",
            (Query(quantile(0.99, t.LOOP_LAG_SECONDS, "agent"), "{{agent}}"),),
        ),
        Panel(
            "Error budget burn",
            "How many times faster than the objectives allow errors (99.9% answered) and slow answers (99% within 0.5 s) come, last hour.",
            "short",
            (
                Query(f"{_ray('agent:bert_agent_errors:burn1h')}", "{{agent}} errors"),
                Query(f"{_ray('agent:bert_agent_slow:burn1h')}", "{{agent}} slow"),
            ),
        ),
    ),
)

_BATCHES = Row(
    "Batches and queue",
    (
        Panel(
            "Windows in a batch",
            "Texts, or parts of long ones, that are computed at once.",
            " windows",
            _mean_and_p90(t.BATCH_WINDOWS),
        ),
        Panel(
            "Tokens in a batch",
            "Padded tokens of a batch; engine.max_batch_tokens is the most.",
            " tokens",
            _mean_and_p90(t.BATCH_TOKENS),
        ),
        Panel(
            "Padding share",
            "Part of the computed tokens that is padding.",
            "percentunit",
            (Query(f"1 - sum by (agent) {rate(t.TOKENS)} / sum by (agent) {rate(t.PADDED_TOKENS)}", "{{agent}}"),),
        ),
        Panel("Tokens waiting", "Tokens in the queues of all replicas.", " tokens", _by_agent(now(t.QUEUED_TOKENS))),
        Panel(
            "Windows waiting", "Windows in the queues of all replicas.", " windows", _by_agent(now(t.QUEUED_WINDOWS))
        ),
        Panel(
            "Refused by reason",
            "Prediction requests without an answer: overload is load shed with 429, timeout the caller's limit (408), cancelled a caller who hung up.",
            " requests/s",
            (Query(f"sum by (agent, reason) {rate(t.REJECTED)}", "{{agent}} {{reason}}"),),
            stacked=True,
        ),
    ),
)

_REPLICAS = Row(
    "Replicas",
    (
        Panel(
            "Replicas wanted and running",
            "What autoscaling asks for, and what passes its health checks.",
            "short",
            (
                Query(f"sum by (agent) ({_ray('ray_serve_autoscaling_target_replicas')})", "{{agent}} wanted"),
                Query(f"sum by (agent) ({_ray('ray_serve_deployment_replica_healthy')})", "{{agent}} running"),
            ),
        ),
        Panel(
            "Replicas started",
            "Replicas ever started. It rises with scaling, and when replicas die again and again.",
            "short",
            (Query(f"sum by (agent) ({_ray('ray_serve_deployment_replica_starts_total')})", "{{agent}}"),),
        ),
        Panel(
            "CPU of replicas",
            "Cores that the replicas use, 100% each.",
            "percent",
            _of_processes("ray_component_cpu_percentage"),
        ),
        Panel(
            "Memory of replicas",
            "Resident memory of the replica processes.",
            "bytes",
            _of_processes("ray_component_rss_bytes"),
        ),
        GPU_USE,
        GPU_MEMORY,
    ),
)

_ANSWERS = Row(
    "Answers",
    (
        Panel(
            "Entities per second by type",
            "Entities found, or classes answered, by label.",
            " entities/s",
            (Query(f"sum by (agent, label) {rate(t.ENTITIES)}", "{{agent}} {{label}}"),),
            stacked=True,
        ),
        Panel(
            "Mean score by type",
            "How sure the agent is of what it finds, 0 to 1.",
            "percentunit",
            (Query(mean(t.SCORES, "agent", "label"), "{{agent}} {{label}}"),),
        ),
        Panel(
            "Score drift",
            "Greatest distance between the distributions of scores of the last hour and of the day before (Kolmogorov-Smirnov, 0 to 1).",
            "percentunit",
            (Query(_ray("agent:bert_agent_score:drift1h"), "{{agent}}"),),
        ),
        Panel(
            "Shift of types",
            "Part of the answers of the last hour that would need another label to have the day before's mix (total variation, 0 to 1).",
            "percentunit",
            (Query(_ray("agent:bert_agent_labels:shift1h"), "{{agent}}"),),
        ),
        Panel(
            "New versions by outcome",
            "Versions of the bundle tried so far, summed over replicas: promoted, refused, rolled_back.",
            "short",
            (Query(f"sum by (agent, outcome) ({_ray(exported(t.ROLLOUTS))})", "{{agent}} {{outcome}}"),),
        ),
        Panel(
            "Versions served",
            "Replicas by the bundle that they serve.",
            "short",
            (
                Query(
                    f'count by (agent, bundle, precision) ({_INFO}{{{SERVED},bundle=~"$version"}} == 1)',
                    "{{agent}} {{bundle}} {{precision}}",
                ),
            ),
            stacked=True,
        ),
    ),
)

SERVING = Dashboard(
    "bert-agent-serving",
    "bert-agent / Serving",
    "What agents are asked, how fast they answer, what they refuse, and what runs for it.",
    (_THROUGHPUT, _LATENCY, _BATCHES, _REPLICAS, _ANSWERS),
    (
        Variable("namespace", _INFO, "namespace", "Namespace"),
        Variable("agent", f'{_INFO}{{namespace=~"$namespace"}}', "agent", "Agent"),
        Variable("version", f"{_INFO}{{{SERVED}}}", "bundle", "Version"),
    ),
)
