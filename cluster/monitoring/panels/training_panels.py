"""The dashboard Training: loss, dev score, throughput and workers of training runs."""

from __future__ import annotations

from agent import telemetry as t
from agent.telemetry import Metric
from cluster.monitoring.panels.dashboard import Dashboard, Panel, Row, Variable, panel
from cluster.monitoring.panels.gpu_panels import GPU_MEMORY, GPU_MEMORY_LEFT, GPU_USE
from cluster.monitoring.promql import TRAINED, exported

_STEPS = exported(t.TRAINING_STEPS)
_WORKERS = "Component=~`ray::.*Train.*`"


def _now(metric: Metric) -> str:
    return f"max by (run) ({exported(metric)}{{{TRAINED}}})"


def _gauge(title: str, unit: str, description: str, metric: Metric) -> Panel:
    return panel(title, unit, description, (_now(metric), "{{run}}"))


def _rate(series: str) -> tuple[str, str]:
    return f"sum by (run) (rate({series}{{{TRAINED}}}[$__rate_interval]))", "{{run}}"


def _of_processes(series: str) -> tuple[str, str]:
    return f'sum by (ip) ({series}{{namespace=~"$namespace",{_WORKERS}}})', "{{ip}}"


# fmt: off
_LEARNING = Row("Learning", (
    _gauge("Loss", "none", "Training loss, the mean over the last steps.", t.TRAINING_LOSS),
    _gauge("Dev score by epoch", "percentunit", "The task's primary metric on the dev split after each epoch: a stair, one step an epoch.", t.TRAINING_DEV_SCORE),
    _gauge("Epochs", "none", "Passes over the training split done, with parts.", t.TRAINING_EPOCH),
    _gauge("Learning rate", "none", "What the schedule gives now.", t.TRAINING_LEARNING_RATE),
    panel(
        "Runs given up", "short", "Runs that ended by themselves: loss (not finite, or running away), memory, or another reason.",
        (f"sum by (run, reason) ({exported(t.TRAINING_FAILURES)}{{{TRAINED}}})", "{{run}} {{reason}}"),
    ),
    _gauge("Restarts", "short", "Times a run was taken up again after a lost worker or node.", t.TRAINING_RESTARTS),
))

_SPEED = Row("Speed", (
    _gauge("Tokens per second", " tokens/s", "Of all workers, without padding, while steps run.", t.TRAINING_TOKENS_PER_SECOND),
    panel(
        "Tokens per second, pauses included", " tokens/s",
        "The same over the clock: evaluation and checkpoints pull it below the other.", _rate(exported(t.TRAINING_TOKENS)),
    ),
    panel(
        "Step time split", "s", "Seconds of a step: waiting for its batch, and computing (forward, backward, optimizer, exchange).",
        (f"{_now(t.TRAINING_STEP_SECONDS)} * {_now(t.TRAINING_HOST_RATIO)}", "{{run}} waiting"),
        (f"{_now(t.TRAINING_STEP_SECONDS)} * (1 - {_now(t.TRAINING_HOST_RATIO)})", "{{run}} computing"), stacked=True,
    ),
    _gauge("Wait share", "percentunit", "Part of the time that steps wait for their batches.", t.TRAINING_HOST_RATIO),
    _gauge("Padding share", "percentunit", "Part of the tokens that is padding.", t.TRAINING_PADDING_RATIO),
    panel("Steps per second", " steps/s", "Optimizer steps over the clock; 0 while a run evaluates or saves.", _rate(_STEPS)),
))

_MACHINES = Row("Workers", (
    _gauge("Workers", "short", "Data-parallel workers of the run.", t.TRAINING_WORKERS),
    panel(
        "CPU of workers", "percent", "Cores that training workers use, 100% each.",
        _of_processes("ray_component_cpu_percentage"),
    ),
    panel("Memory of workers", "bytes", "Resident memory of training workers.", _of_processes("ray_component_rss_bytes")),
    GPU_USE,
    GPU_MEMORY,
    GPU_MEMORY_LEFT,
))
# fmt: on

TRAINING = Dashboard(
    "bert-agent-training",
    "bert-agent / Training",
    "How fast runs learn, what they learn, and where their time goes.",
    (_LEARNING, _SPEED, _MACHINES),
    (
        Variable("namespace", _STEPS, "namespace", "Namespace"),
        Variable("run", f'{_STEPS}{{namespace=~"$namespace"}}', "run", "Agent (run)"),
    ),
)
