"""The dashboard Training: how fast runs learn, what they learn, and where their time goes."""

from __future__ import annotations

from agent import telemetry as t
from agent.telemetry import Metric
from cluster.monitoring.panels.dashboard import Dashboard, Panel, Query, Row, Variable
from cluster.monitoring.panels.gpu_panels import GPU_MEMORY, GPU_MEMORY_LEFT, GPU_USE
from cluster.monitoring.promql import TRAINED, exported

_STEPS = exported(t.TRAINING_STEPS)
_WORKERS = "Component=~`ray::.*Train.*`"


def _now(metric: Metric) -> str:
    return f"max by (run) ({exported(metric)}{{{TRAINED}}})"


def _panel(title: str, description: str, unit: str, metric: Metric) -> Panel:
    return Panel(title, description, unit, (Query(_now(metric), "{{run}}"),))


def _rate(series: str) -> tuple[Query, ...]:
    return (Query(f"sum by (run) (rate({series}{{{TRAINED}}}[$__rate_interval]))", "{{run}}"),)


def _of_processes(series: str) -> tuple[Query, ...]:
    return (Query(f'sum by (ip) ({series}{{namespace=~"$namespace",{_WORKERS}}})', "{{ip}}"),)


_LEARNING = Row(
    "Learning",
    (
        _panel("Loss", "Training loss, the mean over the last steps.", "none", t.TRAINING_LOSS),
        _panel(
            "Dev F1 by epoch",
            "F1 on the dev split after each epoch: a stair, one step an epoch.",
            "percentunit",
            t.TRAINING_DEV_F1,
        ),
        _panel("Epochs", "Passes over the training split done, with parts.", "none", t.TRAINING_EPOCH),
        _panel("Learning rate", "What the schedule gives now.", "none", t.TRAINING_LEARNING_RATE),
        Panel(
            "Runs given up",
            "Runs that ended by themselves: loss (not finite, or running away), memory, or another reason.",
            "short",
            (Query(f"sum by (run, reason) ({exported(t.TRAINING_FAILURES)}{{{TRAINED}}})", "{{run}} {{reason}}"),),
        ),
        _panel("Restarts", "Times a run was taken up again after a lost worker or node.", "short", t.TRAINING_RESTARTS),
    ),
)

_SPEED = Row(
    "Speed",
    (
        _panel(
            "Tokens per second",
            "Of all workers, without padding, while steps run.",
            " tokens/s",
            t.TRAINING_TOKENS_PER_SECOND,
        ),
        Panel(
            "Tokens per second, pauses included",
            "The same over the clock: evaluation and checkpoints pull it below the other.",
            " tokens/s",
            _rate(exported(t.TRAINING_TOKENS)),
        ),
        Panel(
            "Step time split",
            "Seconds of a step: waiting for its batch, and computing (forward, backward, optimizer, exchange).",
            "s",
            (
                Query(f"{_now(t.TRAINING_STEP_SECONDS)} * {_now(t.TRAINING_HOST_RATIO)}", "{{run}} waiting"),
                Query(f"{_now(t.TRAINING_STEP_SECONDS)} * (1 - {_now(t.TRAINING_HOST_RATIO)})", "{{run}} computing"),
            ),
            stacked=True,
        ),
        _panel(
            "Wait share", "Part of the time that steps wait for their batches.", "percentunit", t.TRAINING_HOST_RATIO
        ),
        _panel("Padding share", "Part of the tokens that is padding.", "percentunit", t.TRAINING_PADDING_RATIO),
        Panel(
            "Steps per second",
            "Optimizer steps over the clock; 0 while a run evaluates or saves.",
            " steps/s",
            _rate(_STEPS),
        ),
    ),
)

_MACHINES = Row(
    "Workers",
    (
        _panel("Workers", "Data-parallel workers of the run.", "short", t.TRAINING_WORKERS),
        Panel(
            "CPU of workers",
            "Cores that training workers use, 100% each.",
            "percent",
            _of_processes("ray_component_cpu_percentage"),
        ),
        Panel(
            "Memory of workers",
            "Resident memory of training workers.",
            "bytes",
            _of_processes("ray_component_rss_bytes"),
        ),
        GPU_USE,
        GPU_MEMORY,
        GPU_MEMORY_LEFT,
    ),
)

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
