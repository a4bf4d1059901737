"""The recording rules that alerts and slow panels use. Names hold the window that a rule has in production."""

from __future__ import annotations

from collections.abc import Iterator

from agent import telemetry as t
from cluster.monitoring.promql import Clock, exported
from cluster.monitoring.rules.rule_file import Group, Recording

ERROR_BUDGET = 0.001  # of the requests may fail: 99.9% are answered
SLOW_BUDGET = 0.01  # of the requests may take longer than SLOW_S
SLOW_S = 0.5
BURN_WINDOWS = ("5m", "30m", "1h", "2h", "6h", "1d", "3d")

assert SLOW_S in t.LATENCY_BUCKETS_S  # the share below it can be read only at the edge of a bucket

_BY = "sum by (namespace, agent)"
_HTTP = "haproxy_backend_http_responses_total"  # by class of status; HAProxy's own answers count as well


def recordings(clock: Clock) -> Group:
    """All recording rules."""
    return Group("bert-agent-recordings", [*_throughput(clock), *_burns(clock), *_drift(clock)])


def _throughput(clock: Clock) -> Iterator[Recording]:
    window = clock.window("5m")
    for metric, name in ((t.TEXTS, "texts"), (t.TOKENS, "tokens")):
        yield Recording(f"agent:bert_agent_{name}:rate5m", f"{_BY} (rate({exported(metric)}[{window}]))")
    yield Recording(
        "agent:bert_agent_request_seconds:p99_5m",
        f"histogram_quantile(0.99, sum by (namespace, agent, le) (rate({exported(t.REQUEST_SECONDS, 'bucket')}[{window}])))",
    )


def _burns(clock: Clock) -> Iterator[Recording]:
    """Shares of errors and of slow answers, as multiples of what the objectives allow (sre.google/workbook/alerting-on-slos)."""
    bucket, count = exported(t.REQUEST_SECONDS, "bucket"), exported(t.REQUEST_SECONDS, "count")
    for name in BURN_WINDOWS:
        window = clock.window(name)
        everything = f'{_BY} (rate({_HTTP}{{agent!=""}}[{window}]))'
        errors = f'{_BY} (rate({_HTTP}{{agent!="",code="5xx"}}[{window}]))'
        yield Recording(
            f"agent:bert_agent_errors:burn{name}", f"({errors} or 0 * {everything}) / {everything} / {ERROR_BUDGET:g}"
        )
        yield Recording(
            f"agent:bert_agent_slow:burn{name}",
            f'(1 - {_BY} (rate({bucket}{{le="{SLOW_S}"}}[{window}])) / {_BY} (rate({count}[{window}]))) / {SLOW_BUDGET:g}',
        )


def _drift(clock: Clock) -> Iterator[Recording]:
    """Distance of the last hour's scores and labels from those of the day before."""
    hour, day = clock.window("1h"), clock.window("1d")
    bucket, count, items = exported(t.SCORES, "bucket"), exported(t.SCORES, "count"), exported(t.ENTITIES)

    def scores(window: str) -> str:
        return f"sum by (namespace, agent, le) (rate({bucket}[{window})) / ignoring (le) group_left {_BY} (rate({count}[{window}))"

    def labels(window: str) -> str:
        return f"sum by (namespace, agent, label) (rate({items}[{window})) / ignoring (label) group_left {_BY} (rate({items}[{window}))"

    new, old = f"{hour}]", f"{day}] offset {hour}"
    # Sums of windows that may be empty, NaN among them, stay out: nothing was answered then.
    enough = f"{_BY} (rate({items}[{old})) > 0"
    yield Recording(
        "agent:bert_agent_score:drift1h", f"max by (namespace, agent) (abs({scores(new)} - {scores(old)})) and {enough}"
    )
    yield Recording(
        "agent:bert_agent_labels:shift1h",
        f"0.5 * sum by (namespace, agent) (abs(({labels(new)}) - ({labels(old)})) or ({labels(new)}) or ({labels(old)})) and {enough}",
    )
    yield Recording("agent:bert_agent_answer_items:increase1h", f"{_BY} (increase({items}[{hour}]))")
