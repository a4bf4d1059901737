"""The dashboard Serving: throughput, latency, batches, replicas and answers of agents."""

from __future__ import annotations

from agent import telemetry as t
from agent.telemetry import Metric
from cluster.monitoring.panels.dashboard import Dashboard, Row, Variable, panel
from cluster.monitoring.panels.gpu_panels import GPU_MEMORY, GPU_USE
from cluster.monitoring.promql import SERVED, exported, mean, now, quantile, rate

_INFO = exported(t.INFO)
_VERSION = f'{_INFO}{{{SERVED},bundle=~"$version"}} == 1'
_QUANTILES = (("p50", 0.5), ("p90", 0.9), ("p99", 0.99))


def _ray(series: str, labels: str = "") -> str:
    return f"{series}{{{SERVED}{labels}}}"


def _by_agent(expr: str) -> tuple[str, str]:
    return f"sum by (agent) {expr}", "{{agent}}"


def _of_processes(series: str) -> tuple[str, str]:
    return _by_agent(f"({_ray(series, ',Component=~`ray::ServeReplica.*`')})")


def _mean_and_p90(metric: Metric) -> tuple[tuple[str, str], tuple[str, str]]:
    return (mean(metric, "agent"), "{{agent}} mean"), (quantile(0.9, metric, "agent"), "{{agent}} p90")


# fmt: off
_THROUGHPUT = Row("Throughput", (
    panel("Texts per second", " texts/s", "Texts answered, whatever the requests held.", _by_agent(rate(t.TEXTS))),
    panel(
        "Tokens per second", " tokens/s", "Tokens run through the model, without padding: the work that is asked for.",
        _by_agent(rate(t.TOKENS)),
    ),
    panel(
        "Requests per second by status", " requests/s",
        "HTTP answers of the replicas, all routes. 429 is load that was shed, 408 the caller's own time limit.",
        (f"sum by (agent, status) {rate(t.REQUESTS)}", "{{agent}} {{status}}"), stacked=True,
    ),
    panel(
        "Requests at HAProxy by status", " requests/s",
        "What callers see, counted by HAProxy by class of status; 5xx here and not above are requests that no replica took.",
        (f"sum by (agent, code) (rate({_ray('haproxy_backend_http_responses_total')}[$__rate_interval]))",
         "{{agent}} {{code}}"), stacked=True,
    ),
    panel(
        "Throughput by version", " texts/s",
        "Texts per second by the bundle that answers: the first digits of its digest, as in /info.",
        (f"sum by (agent, bundle) (rate({_ray(exported(t.TEXTS))}[$__rate_interval]) * on (namespace, replica) "
         f"group_left (bundle) ({_VERSION}))", "{{agent}} {{bundle}}"), stacked=True,
    ),
    panel(
        "Busy share", "percentunit",
        "Part of the time in which a replica's sessions compute, weighted by how full batches are; autoscaling aims at 0.7.",
        (f"avg by (agent) {now(t.BUSY_RATIO)}", "{{agent}}"),
    ),
))

_WRITING = Row("Texts that are written", (
    panel(
        "Tokens written per second", " tokens/s", "Tokens that agents write, for all callers together.",
        _by_agent(rate(t.GENERATED_TOKENS)), needs="writing",
    ),
    panel(
        "Time to first token", "s", "From a text's arrival in the replica to its first token: what a reader of a stream waits for.",
        *((quantile(share, t.FIRST_TOKEN_SECONDS, "agent"), f"{{{{agent}}}} {name}") for name, share in _QUANTILES), needs="writing",
    ),
    panel(
        "Time between tokens", "s", "Of each text its mean, the turns included in which it made room for others.",
        *((quantile(share, t.TOKEN_SECONDS, "agent"), f"{{{{agent}}}} {name}") for name, share in _QUANTILES), needs="writing",
    ),
))

_LATENCY = Row("Latency", (
    panel(
        "Request latency", "s", "From a prediction request's arrival in the replica to its answer.",
        *((quantile(share, t.REQUEST_SECONDS, "agent"), f"{{{{agent}}}} {name}") for name, share in _QUANTILES),
    ),
    panel(
        "Stages, p50", "s", "The median of each stage: tokenize, queue, infer (of a batch), decode.",
        (quantile(0.5, t.STAGE_SECONDS, "agent", "stage"), "{{agent}} {{stage}}"),
    ),
    panel(
        "Stages, p99", "s",
        "The slowest hundredth of each stage. A long queue means too few replicas, a long infer too large batches.",
        (quantile(0.99, t.STAGE_SECONDS, "agent", "stage"), "{{agent}} {{stage}}"),
    ),
    panel(
        "Stages, mean", "s", "Where the time of a request goes on average. infer is that of a batch.",
        (mean(t.STAGE_SECONDS, "agent", "stage"), "{{agent}} {{stage}}"), stacked=True,
    ),
    panel(
        "Event loop lag, p99", "s",
        "How late the replica's event loop comes to a timer: what every request waits for besides the model.",
        (quantile(0.99, t.LOOP_LAG_SECONDS, "agent"), "{{agent}}"),
    ),
    panel(
        "Error budget burn", "short",
        "How many times faster than the objectives allow errors (99.9% answered) and slow answers (99% within 0.5 s) come, last hour.",
        (_ray("agent:bert_agent_errors:burn1h"), "{{agent}} errors"), (_ray("agent:bert_agent_slow:burn1h"), "{{agent}} slow"),
    ),
))

_BATCHES = Row("Batches and queue", (
    panel(
        "Windows in a batch", " windows", "Texts, or parts of long ones, that are computed at once.",
        *_mean_and_p90(t.BATCH_WINDOWS),
    ),
    panel(
        "Tokens in a batch", " tokens", "Padded tokens of a batch; engine.max_batch_tokens is the most.",
        *_mean_and_p90(t.BATCH_TOKENS),
    ),
    panel(
        "Padding share", "percentunit", "Part of the computed tokens that is padding.",
        (f"1 - sum by (agent) {rate(t.TOKENS)} / sum by (agent) {rate(t.PADDED_TOKENS)}", "{{agent}}"),
    ),
    panel("Tokens waiting", " tokens", "Tokens in the queues of all replicas.", _by_agent(now(t.QUEUED_TOKENS))),
    panel("Windows waiting", " windows", "Windows in the queues of all replicas.", _by_agent(now(t.QUEUED_WINDOWS))),
    panel(
        "Refused by reason", " requests/s",
        "Prediction requests without an answer: overload is load shed with 429, timeout the caller's limit (408), cancelled a caller who hung up.",
        (f"sum by (agent, reason) {rate(t.REJECTED)}", "{{agent}} {{reason}}"), stacked=True,
    ),
))

_REPLICAS = Row("Replicas", (
    panel(
        "Replicas wanted and running", "short", "What autoscaling asks for, and what passes its health checks.",
        (f"sum by (agent) ({_ray('ray_serve_autoscaling_target_replicas')})", "{{agent}} wanted"),
        (f"sum by (agent) ({_ray('ray_serve_deployment_replica_healthy')})", "{{agent}} running"),
    ),
    panel(
        "Replicas started", "short", "Replicas ever started. It rises with scaling, and when replicas die again and again.",
        _by_agent(f"({_ray('ray_serve_deployment_replica_starts_total')})"),
    ),
    panel(
        "CPU of replicas", "percent", "Cores that the replicas use, 100% each.", _of_processes("ray_component_cpu_percentage"),
    ),
    panel(
        "Memory of replicas", "bytes", "Resident memory of the replica processes.", _of_processes("ray_component_rss_bytes"),
    ),
    GPU_USE,
    GPU_MEMORY,
))

_ANSWERS = Row("Answers", (
    panel(
        "Entities per second by type", " entities/s", "Entities found, or classes answered, by label.",
        (f"sum by (agent, label) {rate(t.ENTITIES)}", "{{agent}} {{label}}"), stacked=True,
    ),
    panel(
        "Mean score by type", "percentunit", "How sure the agent is of what it finds, 0 to 1.",
        (mean(t.SCORES, "agent", "label"), "{{agent}} {{label}}"),
    ),
    panel(
        "Score drift", "percentunit",
        "Greatest distance between the distributions of scores of the last hour and of the day before (Kolmogorov-Smirnov, 0 to 1).",
        (_ray("agent:bert_agent_score:drift1h"), "{{agent}}"),
    ),
    panel(
        "Shift of types", "percentunit",
        "Part of the answers of the last hour that would need another label to have the day before's mix (total variation, 0 to 1).",
        (_ray("agent:bert_agent_labels:shift1h"), "{{agent}}"),
    ),
    panel(
        "Evidence for drift", "short",
        "How strongly the latest block of texts speaks against the texts that the agent was made with, by statistic; 1 alarms. Mean of the replicas.",
        (f"avg by (agent, statistic) ({now(t.DRIFT_EVIDENCE)} > 0)", "{{agent}} {{statistic}}"), needs="drift",
    ),
    panel(
        "Distance from the bundle's texts", "percentunit",
        "Part of the latest block that would have to be otherwise to be as the agent's own dev split (total variation). Blocks of calm texts lie above 0 by chance.",
        (f"avg by (agent, statistic) {now(t.DRIFT_DISTANCE)}", "{{agent}} {{statistic}}"), needs="drift",
    ),
    panel(
        "Texts looked at for drift", " texts/s", "Texts that are counted, evenly spread over the time of a block; the others are only answered.",
        _by_agent(rate(t.DRIFT_TEXTS)), needs="drift",
    ),
    panel(
        "Texts that take the second pass", "percentunit",
        "Part of the texts of which a cascade's first pass is not sure, so that the agent's own graph answers them. It rises with texts unlike those of its threshold.",
        (f"sum by (agent) {rate(t.SECOND_PASS_TEXTS)} / sum by (agent) {rate(t.TEXTS)}", "{{agent}}"), needs="cascade",
    ),
    panel(
        "Abstentions per second by label", " texts/s",
        "Texts whose best label scored below the threshold of the bundle's policy: what people have to decide.",
        (f"sum by (agent, label) {rate(t.ABSTENTIONS)}", "{{agent}} {{label}}"), stacked=True, needs="policy",
    ),
    panel(
        "New versions by outcome", "short",
        "Versions of the bundle tried so far, summed over replicas: promoted, refused, rolled_back.",
        (f"sum by (agent, outcome) ({_ray(exported(t.ROLLOUTS))})", "{{agent}} {{outcome}}"),
    ),
    panel(
        "Versions served", "short", "Replicas by the bundle that they serve.",
        (f"count by (agent, bundle, precision) ({_VERSION})", "{{agent}} {{bundle}} {{precision}}"), stacked=True,
    ),
))
_FEEDBACK = Row("Decisions, feedback and explanations", (
    panel(
        "Decisions by outcome", " decisions/s",
        "Answered texts for the store of decisions: written, repeated (their id was there), lost. delayed counts writes that the store did not take.",
        (f"sum by (agent, outcome) {rate(t.DECISIONS)}", "{{agent}} {{outcome}}"), stacked=True, needs="feedback",
    ),
    panel(
        "Decisions waiting", "bytes", "Memory of decisions that wait to be written; feedback.max_pending_mib is the most in a replica.",
        _by_agent(now(t.DECISIONS_PENDING_BYTES)),
    ),
    panel(
        "Feedback by outcome", " requests/s",
        "Rewards and corrections: recorded, repeated, or why they were refused (unknown, foreign, late, contradictory, invalid ...).",
        (f"sum by (agent, outcome) {rate(t.FEEDBACK)}", "{{agent}} {{outcome}}"), stacked=True, needs="feedback",
    ),
    panel(
        "Pairs of entities per second", " pairs/s",
        "Agents of relations beside a tagger: pairs that are asked about, and those too far apart for a window to hold both.",
        (f"sum by (agent, outcome) {rate(t.PAIRS)}", "{{agent}} {{outcome}}"), needs="entities",
    ),
    panel(
        "Explanations by outcome", " requests/s",
        "POST /explain: answered, or why it was refused (overload, rate_limited, timeout, cancelled, invalid ...).",
        (f"sum by (agent, outcome) {rate(t.EXPLANATIONS)}", "{{agent}} {{outcome}}"), stacked=True, needs="explanations",
    ),
    panel(
        "Interventions per second", " texts/s", "Texts with hidden words that explanations compute, beside the texts of predictions.",
        _by_agent(rate(t.INTERVENTIONS)), needs="explanations",
    ),
))
# fmt: on

SERVING = Dashboard(
    "bert-agent-serving",
    "bert-agent / Serving",
    "What agents are asked, how fast they answer, what they refuse, and what runs for it.",
    (_THROUGHPUT, _LATENCY, _WRITING, _BATCHES, _REPLICAS, _ANSWERS, _FEEDBACK),
    (
        Variable("namespace", _INFO, "namespace", "Namespace"),
        Variable("agent", f'{_INFO}{{namespace=~"$namespace"}}', "agent", "Agent"),
        Variable("version", f"{_INFO}{{{SERVED}}}", "bundle", "Version"),
    ),
)
