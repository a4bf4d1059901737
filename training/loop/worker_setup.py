"""Puts the parts of a worker together: model, engine, feed. Knows no epochs."""

from __future__ import annotations

import inspect
from dataclasses import dataclass
from typing import TYPE_CHECKING

from training.engine.deepspeed_engine import Engine, OptimizerPlan, Precision, choose_lanes, choose_precision
from training.loop.train_step import BatchPrefetcher, Inputs, TrainStep
from training.model.adapters import adapt, plain
from training.model.attention import Attention, choose_attention
from training.model.models import build_model
from training.state.checkpoint import Checkpoint
from training.state.worker_io import Payload

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class WorkerRank:
    """Which worker this is, and where it computes."""

    rank: int
    num_workers: int
    device: torch.device


@dataclass(frozen=True)
class WorkerComponents:
    """A worker's parts.

    Attributes:
        model: What the engine trains, possibly wrapped by adapters.
        description: How and where it computes, in one line.
    """

    model: torch.nn.Module
    engine: Engine
    feed: BatchPrefetcher
    stepper: TrainStep
    description: str


def assemble(
    payload: Payload, place: WorkerRank, checkpoint: Checkpoint | None, *, num_steps: int, micro_tokens: int
) -> WorkerComponents:
    """Builds model and optimizer, anew or from a checkpoint. All workers call it alike.

    Raises:
        ConfigError: This hardware cannot do what is configured.
        ModelError: The model cannot be loaded.
    """
    import torch

    config = payload.config
    torch.manual_seed(config.seed)  # the same on all workers: the new head must not differ
    precision = choose_precision(config.engine.precision, place.device)
    model, attention = _build(payload, place, precision)
    counts = payload.train.target_counts(len(payload.task.outputs)).tolist()
    teacher, taps = None, None
    if config.teacher:
        label_weight = int(payload.train.labelled.sum()) / max(1, sum(counts))
        teacher = config.teacher.load(payload.task, place.device, label_weight=label_weight)
        taps = teacher.tap(model)
    if checkpoint:
        model.load_state_dict(checkpoint.weights)
    done = checkpoint.state.step if checkpoint else 0
    lanes, why_none = choose_lanes(config.engine, attention, place.device, config.batch.tokens // place.num_workers)
    engine = Engine(
        model,
        OptimizerPlan(config.optimizer, config.schedule, num_steps, first_step=done),
        config.engine,
        precision=precision,
        lanes=lanes,
        taps=taps,
    )
    if checkpoint:
        engine.load_optimizer(checkpoint.optimizer)
    feed = BatchPrefetcher(
        payload.train,
        Inputs(_accepted_inputs(model), place.device, attention.packed),
        config.batch.model_copy(update={"micro_tokens": micro_tokens}),
        payload.pad_id,
        place.rank,
        place.num_workers,
        lanes=engine.lanes,
        finds_touched=engine.exchanges_rows,
    )
    loss = config.objective.bind(counts, place.device)
    stepper = TrainStep(engine, feed, loss, seed=config.seed, teacher=teacher)
    how = precision, attention, f"{lanes} lane(s)" if lanes else f"no lanes ({why_none})"
    return WorkerComponents(model, engine, feed, stepper, _describe(payload, place, model, how))


def _build(payload: Payload, place: WorkerRank, precision: Precision) -> tuple[torch.nn.Module, Attention]:
    config = payload.config
    model = build_model(config.model, payload.task)
    attention = choose_attention(
        model,
        config.engine.attention,
        device=place.device,
        half=precision == "bf16",
        per_token=payload.train.per_token,
    )
    adapted = adapt(model, config.model)
    if place.device.type == "cpu" and not config.engine.compile:
        from training.model.cpu_dropout import install

        install(adapted)
    placed = adapted.to(place.device)
    if config.model.keep_zeros:
        from training.model.sparsity_mask import hold_zeros

        hold_zeros(placed)
    return placed, attention


def _accepted_inputs(model: torch.nn.Module) -> frozenset[str]:
    return frozenset(inspect.signature(plain(model).forward).parameters)


def _describe(
    payload: Payload, place: WorkerRank, model: torch.nn.Module, how: tuple[Precision, Attention, str]
) -> str:
    import torch

    on_gpu = place.device.type == "cuda"
    precision, attention, lanes = how
    name = torch.cuda.get_device_name(place.device) if on_gpu else f"CPU, {torch.get_num_threads()} thread(s), {lanes}"
    trained = sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)
    return (
        f"{place.num_workers} worker(s) on {name}; {precision}, ZeRO {payload.config.engine.zero_stage}, "
        f"{attention.name} attention ({attention.why}), {trained / 1e6:.1f} M trained parameters"
    )
