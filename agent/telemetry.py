"""The metrics of serving and training: names, help texts, labels and buckets."""

from __future__ import annotations

from typing import Literal, NamedTuple

PREFIX = "bert_agent_"
LATENCY_BUCKETS_S = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0)
SCORE_BUCKETS = (0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.99, 1.0)
SIZE_BUCKETS = (1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0)
TOKEN_BUCKETS = (16.0, 32.0, 64.0, 128.0, 256.0, 512.0, 1024.0, 2048.0, 4096.0)


class Metric(NamedTuple):
    """A metric. Exporters append `_total` to the names of counters."""

    kind: Literal["counter", "gauge", "histogram"]
    name: str
    help: str
    labels: tuple[str, ...] = ()
    buckets: tuple[float, ...] = ()


def ascii_label(value: str) -> str:
    """A label's value for Ray's metrics, which take ASCII only: other characters are escaped as Python does."""
    return value.encode("ascii", "backslashreplace").decode()


def _counter(name: str, text: str, *labels: str) -> Metric:
    return Metric("counter", PREFIX + name, text, labels)


def _gauge(name: str, text: str, *labels: str) -> Metric:
    return Metric("gauge", PREFIX + name, text, labels)


def _histogram(name: str, text: str, buckets: tuple[float, ...], *labels: str) -> Metric:
    return Metric("histogram", PREFIX + name, text, labels, buckets)


REQUESTS = _counter(
    "requests", "Requests answered, over HTTP by route and status, over gRPC by call and code.", "route", "status"
)
REJECTED = _counter("rejected_requests", "Prediction requests not served, by reason.", "reason")
TEXTS = _counter("texts", "Texts predicted.")
SECOND_PASS_TEXTS = _counter(
    "second_pass_texts",
    "Texts of which the first pass of a cascade was not sure, so that the agent's own graph answered.",
)
TOKENS = _counter("tokens", "Tokens run through the model, without padding.")
PADDED_TOKENS = _counter("padded_tokens", "Tokens run through the model, padding included.")
ENTITIES = _counter("answer_items", "Entities found or classes answered, by label.", "label")
SCORES = _histogram("score", "Scores of entities found and of classes answered, 0 to 1.", SCORE_BUCKETS, "label")
GENERATED_TOKENS = _counter(
    "generated_tokens", "Tokens written by agents that write, also those that nobody waited for in the end."
)
FIRST_TOKEN_SECONDS = _histogram(
    "first_token_seconds",
    "Seconds from a text's arrival to its first token, where tokens are taken one by one.",
    LATENCY_BUCKETS_S,
)
TOKEN_SECONDS = _histogram(
    "token_seconds",
    "Seconds between two tokens of a text, its mean, where tokens are taken one by one.",
    LATENCY_BUCKETS_S,
)
PAIRS = _counter(
    "entity_pairs",
    "Pairs of entities found in texts, by outcome: asked about, or too_far apart for a window to hold both.",
    "outcome",
)
ABSTENTIONS = _counter(
    "abstentions", "Texts whose best label scored below the threshold of the bundle's policy, by that label.", "label"
)
REQUEST_SECONDS = _histogram(
    "request_seconds", "Seconds from a prediction request's arrival to its answer.", LATENCY_BUCKETS_S
)
STAGE_SECONDS = _histogram(
    "stage_seconds", "Seconds spent in a stage: tokenize, queue, infer, decode.", LATENCY_BUCKETS_S, "stage"
)
BATCH_WINDOWS = _histogram("batch_windows", "Windows in a batch.", SIZE_BUCKETS)
BATCH_TOKENS = _histogram("batch_tokens", "Padded tokens in a batch.", TOKEN_BUCKETS)
QUEUED_WINDOWS = _gauge("queued_windows", "Windows waiting for the model.")
QUEUED_TOKENS = _gauge("queued_tokens", "Tokens waiting for the model.")
LOOP_LAG_SECONDS = _histogram(
    "loop_lag_seconds",
    "Seconds by which the replica's event loop comes late to a timer: what every request waits for besides the model.",
    LATENCY_BUCKETS_S,
)
BUSY_RATIO = _gauge(
    "busy_ratio", "Part of the last seconds in which sessions computed, weighted by batch fill, 0 to 1."
)
ROLLOUTS = _counter("rollouts", "New versions of the bundle tried, by outcome.", "outcome")
WARMUP_SECONDS = _gauge("warmup_seconds", "Seconds the last warm-up took.")
DECISIONS = _counter(
    "decisions",
    "Decisions for the store: written, repeated (their id was there), lost; delayed counts the writes that the store did not take.",
    "outcome",
)
DECISIONS_PENDING_BYTES = _gauge("decisions_pending_bytes", "Memory held by decisions that wait to be written.")
FEEDBACK = _counter(
    "feedback", "Feedback on decisions, by outcome: recorded, repeated, or why it was refused.", "outcome"
)
EXPLANATIONS = _counter(
    "explanations", "Requests to explain decisions, by outcome: answered, or why they were refused.", "outcome"
)
INTERVENTIONS = _counter("interventions", "Texts with hidden words that were computed to explain decisions.")
DRIFT_DISTANCE = _gauge(
    "drift_distance",
    "Distance of the latest block of texts from those that the bundle was made with, by statistic: total variation, 0 to 1.",
    "statistic",
)
DRIFT_EVIDENCE = _gauge(
    "drift_evidence",
    "Evidence for drift in the latest block of texts, by statistic: 1 is an alarm; 0 before the first block.",
    "statistic",
)
DRIFT_TEXTS = _counter("drift_texts", "Texts that were counted to find drift.")
INFO = _gauge("info", "Always 1; its labels say which agent is served.", "bundle", "task", "precision")

SERVING = (
    REQUESTS, REJECTED, TEXTS, SECOND_PASS_TEXTS, TOKENS, PADDED_TOKENS, ENTITIES, SCORES, ABSTENTIONS, REQUEST_SECONDS, STAGE_SECONDS,
    BATCH_WINDOWS, BATCH_TOKENS, QUEUED_WINDOWS, QUEUED_TOKENS, LOOP_LAG_SECONDS, BUSY_RATIO, ROLLOUTS, WARMUP_SECONDS,
    DECISIONS, DECISIONS_PENDING_BYTES, FEEDBACK, EXPLANATIONS, INTERVENTIONS, PAIRS, GENERATED_TOKENS, FIRST_TOKEN_SECONDS, TOKEN_SECONDS,
    DRIFT_DISTANCE, DRIFT_EVIDENCE, DRIFT_TEXTS, INFO,
)  # fmt: skip

# Metrics of a training run; the label `run` is the name of its output.
TRAINING_STEPS = _counter("training_steps", "Optimizer steps done.", "run")
TRAINING_TOKENS = _counter("training_tokens", "Tokens trained on, without padding.", "run")
TRAINING_PADDED_TOKENS = _counter("training_padded_tokens", "Tokens trained on, padding included.", "run")
TRAINING_TOKENS_PER_SECOND = _gauge(
    "training_tokens_per_second", "Tokens a second of all workers, without padding.", "run"
)
TRAINING_LOSS = _gauge("training_loss", "Training loss, the mean over the last steps.", "run")
TRAINING_LEARNING_RATE = _gauge("training_learning_rate", "Learning rate.", "run")
TRAINING_PADDING_RATIO = _gauge("training_padding_ratio", "Part of the tokens that is padding, 0 to 1.", "run")
TRAINING_STEP_SECONDS = _gauge("training_step_seconds", "Seconds that a step takes.", "run")
TRAINING_HOST_RATIO = _gauge(
    "training_host_ratio", "Part of the time that steps wait for their batches, 0 to 1.", "run"
)
TRAINING_EPOCH = _gauge("training_epoch", "Passes over the training split done, with parts.", "run")
TRAINING_DEV_SCORE = _gauge(
    "training_dev_score", "The task's primary metric on the dev split after the last epoch.", "run"
)
TRAINING_WORKERS = _gauge("training_workers", "Data-parallel workers of the run.", "run")
TRAINING_RESTARTS = _gauge("training_restarts", "Times the run was taken up again.", "run")
TRAINING_FAILURES = _counter(
    "training_failures", "Runs given up, by reason: loss (not finite, or running away) or error.", "run", "reason"
)

TRAINING_PROGRESS = (
    TRAINING_STEPS, TRAINING_TOKENS, TRAINING_PADDED_TOKENS, TRAINING_TOKENS_PER_SECOND, TRAINING_LOSS,
    TRAINING_LEARNING_RATE, TRAINING_PADDING_RATIO, TRAINING_STEP_SECONDS, TRAINING_HOST_RATIO, TRAINING_EPOCH,
    TRAINING_DEV_SCORE, TRAINING_WORKERS, TRAINING_RESTARTS,
)  # fmt: skip
TRAINING = (*TRAINING_PROGRESS, TRAINING_FAILURES)
