"""Names, units, buckets and help texts of every metric of ours, in one place. Registers nothing itself."""

from __future__ import annotations

from typing import Literal, NamedTuple

PREFIX = "bert_agent_"
LATENCY_BUCKETS_S = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0)
SIZE_BUCKETS = (1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0)
TOKEN_BUCKETS = (16.0, 32.0, 64.0, 128.0, 256.0, 512.0, 1024.0, 2048.0, 4096.0)


class Metric(NamedTuple):
    """One metric. Counters get `_total` from the exporter."""

    kind: Literal["counter", "gauge", "histogram"]
    name: str
    help: str
    labels: tuple[str, ...] = ()
    buckets: tuple[float, ...] = ()


REQUESTS = Metric("counter", PREFIX + "requests", "HTTP requests answered.", ("route", "status"))
REJECTED = Metric("counter", PREFIX + "rejected_requests", "Prediction requests not served, by reason.", ("reason",))
TEXTS = Metric("counter", PREFIX + "texts", "Texts predicted.")
TOKENS = Metric("counter", PREFIX + "tokens", "Tokens run through the model, without padding.")
PADDED_TOKENS = Metric("counter", PREFIX + "padded_tokens", "Tokens run through the model, padding included.")
ENTITIES = Metric("counter", PREFIX + "answer_items", "Entities found or classes answered, by label.", ("label",))
REQUEST_SECONDS = Metric(
    "histogram",
    PREFIX + "request_seconds",
    "Seconds from a prediction request's arrival to its answer.",
    (),
    LATENCY_BUCKETS_S,
)
STAGE_SECONDS = Metric(
    "histogram",
    PREFIX + "stage_seconds",
    "Seconds spent in a stage: tokenize, queue, infer, decode.",
    ("stage",),
    LATENCY_BUCKETS_S,
)
BATCH_WINDOWS = Metric("histogram", PREFIX + "batch_windows", "Windows in a batch.", (), SIZE_BUCKETS)
BATCH_TOKENS = Metric("histogram", PREFIX + "batch_tokens", "Padded tokens in a batch.", (), TOKEN_BUCKETS)
QUEUED_WINDOWS = Metric("gauge", PREFIX + "queued_windows", "Windows waiting for the model.")
QUEUED_TOKENS = Metric("gauge", PREFIX + "queued_tokens", "Tokens waiting for the model.")
WARMUP_SECONDS = Metric("gauge", PREFIX + "warmup_seconds", "Seconds the last warm-up took.")
INFO = Metric(
    "gauge", PREFIX + "info", "Always 1; its labels say which agent is served.", ("bundle", "task", "precision")
)

SERVING = (
    REQUESTS, REJECTED, TEXTS, TOKENS, PADDED_TOKENS, ENTITIES, REQUEST_SECONDS, STAGE_SECONDS,
    BATCH_WINDOWS, BATCH_TOKENS, QUEUED_WINDOWS, QUEUED_TOKENS, WARMUP_SECONDS, INFO,
)  # fmt: skip
