"""The dashboard Training: how fast runs learn, what they learn, and where their time goes."""

from __future__ import annotations

from agent import telemetry as t
from agent.telemetry import Metric
from cluster.monitoring.panels import Dashboard, Panel, Query, Row, Variable
from cluster.monitoring.promql import TRAINED, exported

_STEPS = exported(t.TRAINING_STEPS)
_WORKERS = "Component=~`ray::.*Train.*`"


def _now(metric: Metric) -> str:
    return f"max by (run) ({exported(metric)}{{{TRAINED}}})"


def _panel(title: str, description: str, unit: str, metric: Metric) -> Panel:
    return Panel(title, description, unit, (Query(_now(metric), "{{run}}"),))


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
            (Query(f"sum by (run) (rate({exported(t.TRAINING_TOKENS)}{{{TRAINED}}}[$__rate_interval]))", "{{run}}"),),
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
            (Query(f"sum by (run) (rate({_STEPS}{{{TRAINED}}}[$__rate_interval]))", "{{run}}"),),
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
            (Query(f'sum by (ip) (ray_component_cpu_percentage{{namespace=~"$namespace",{_WORKERS}}})', "{{ip}}"),),
        ),
        Panel(
            "Memory of workers",
            "Resident memory of training workers.",
            "bytes",
            (Query(f'sum by (ip) (ray_component_rss_bytes{{namespace=~"$namespace",{_WORKERS}}})', "{{ip}}"),),
        ),
        Panel(
            "GPU use",
            "How busy each GPU is.",
            "percent",
            (Query('ray_node_gpus_utilization{namespace=~"$namespace"}', "{{ip}} GPU {{GpuIndex}}", needs="gpu"),),
        ),
        Panel(
            "GPU memory",
            "Memory taken on each GPU.",
            "decmbytes",
            (Query('ray_node_gram_used{namespace=~"$namespace"}', "{{ip}} GPU {{GpuIndex}}", needs="gpu"),),
        ),
        Panel(
            "GPU memory left",
            "Memory free on each GPU; a micro-batch that does not fit is halved.",
            "decmbytes",
            (Query('ray_node_gram_available{namespace=~"$namespace"}', "{{ip}} GPU {{GpuIndex}}", needs="gpu"),),
        ),
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
