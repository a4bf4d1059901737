"""Builds the model, engine, batches and loss of a worker."""

from __future__ import annotations

import inspect
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from agent.tasks import BaseTask
from training.engine.deepspeed_engine import OptimizerPlan, TrainingEngine
from training.engine.engine_config import Precision, choose_precision, choose_thread_parallel
from training.loop.train_step import BatchPrefetcher, ModelInputs, TrainStep
from training.loop.worker_io import WorkerInput
from training.model.adapters import adapt, unwrap
from training.model.attention import Attention, choose_attention
from training.model.label_prior import start_at_shares
from training.model.models import load_model
from training.model.writing_models import start_id
from training.state.checkpoint import Checkpoint

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class WorkerRank:
    """Which worker this is, and its device."""

    rank: int
    num_workers: int
    device: torch.device


@dataclass(frozen=True)
class WorkerComponents:
    """The parts of a worker.

    Attributes:
        model: What the engine trains, possibly wrapped by adapters.
        is_new: Whether its head was, or other weights that were not in the file it was loaded from.
        description: Hardware, precision and attention, in one line.
    """

    model: torch.nn.Module
    is_new: bool
    engine: TrainingEngine
    prefetcher: BatchPrefetcher
    train_step: TrainStep
    description: str


def build_components(
    worker_input: WorkerInput, worker: WorkerRank, checkpoint: Checkpoint | None, *, num_steps: int, micro_tokens: int
) -> WorkerComponents:
    """Builds model and optimizer, anew or from a checkpoint. All workers call it alike.

    Raises:
        ConfigError: This hardware cannot do what is configured.
        ModelError: The model cannot be loaded.
    """
    import torch

    config = worker_input.config
    torch.manual_seed(config.seed)  # the same on all workers: the new head must not differ
    precision = choose_precision(config.engine.precision, worker.device)
    counts = worker_input.train.target_counts(len(worker_input.task.outputs)).tolist()
    model, is_new, attention = _build_model(worker_input, worker, precision, counts)
    teacher, recorder = None, None
    if config.teacher:
        from training.distillation.distillation_loss import load_teacher

        label_weight = int(worker_input.train.labelled.sum()) / max(1, worker_input.train.num_labelled)
        teacher = load_teacher(config.teacher, worker_input.task, worker.device, label_weight=label_weight)
        recorder = teacher.attach(model)
    if checkpoint:
        model.load_state_dict(checkpoint.weights)
    first_step = checkpoint.state.step if checkpoint else 0
    tokens, shape = config.batch.step_tokens // worker.num_workers, unwrap(model).config
    thread_groups, reason = choose_thread_parallel(config.engine, attention, worker.device, tokens, shape.model_type)
    engine = TrainingEngine(
        model,
        OptimizerPlan(config.optimizer, config.schedule, num_steps, first_step=first_step),
        config.engine,
        precision=precision,
        thread_groups=thread_groups,
        recorder=recorder,
    )
    if checkpoint:
        engine.load_optimizer(checkpoint.optimizer)
    prefetcher = BatchPrefetcher(
        worker_input.train,
        ModelInputs(_accepted_inputs(model, worker_input.task), worker.device, attention.packed, start_id(shape)),
        config.batch.model_copy(update={"micro_tokens": micro_tokens}),
        worker_input.pad_id,
        worker.rank,
        worker.num_workers,
        num_parallel=engine.num_parallel,
        finds_touched_rows=engine.uses_touched_rows,
        seed=config.seed,
    )
    rewarded = worker_input.train.reward_sums(len(counts)).tolist()
    loss = config.objective.bind(counts, worker.device, worker_input.task.decision, worker_input.task, rewarded)
    train_step = TrainStep(engine, prefetcher, loss, seed=config.seed, teacher=teacher)
    threads = f"{thread_groups} thread group(s)" if thread_groups else f"no thread groups ({reason})"
    description = _describe(worker_input, worker, model, (precision, attention, threads))
    return WorkerComponents(model, is_new, engine, prefetcher, train_step, description)


def _build_model(
    worker_input: WorkerInput, worker: WorkerRank, precision: Precision, counts: list[int]
) -> tuple[torch.nn.Module, bool, Attention]:
    config = worker_input.config
    model, is_new = load_model(config.model, worker_input.task)
    if worker_input.task.decision.binary:
        start_at_shares(model, counts, worker_input.train.num_labelled // len(counts))
    attention = choose_attention(
        model,
        config.engine.attention,
        device=worker.device,
        half=precision == "bf16",
        per_token=worker_input.train.per_token,
    )
    adapted = adapt(model, trainable=config.model.trainable, lora=config.model.lora)
    if worker.device.type == "cpu" and not config.engine.compile:
        from training.model.cpu_dropout import replace_dropout

        replace_dropout(adapted)
    on_device = adapted.to(worker.device)
    if config.model.keep_zeros:
        from training.model.sparsity_mask import keep_zeros

        keep_zeros(on_device)
    return on_device, is_new, attention


def _accepted_inputs(model: torch.nn.Module, task: BaseTask[Any]) -> frozenset[str]:
    accepted = frozenset(inspect.signature(unwrap(model).forward).parameters)
    if task.writes:  # GPT-2 has token types, and adds the embedding of a sub-word for each
        accepted -= {"token_type_ids"}
    return accepted | {"asked"} if task.decision.of_vocabulary else accepted


def _describe(
    worker_input: WorkerInput, worker: WorkerRank, model: torch.nn.Module, how: tuple[Precision, Attention, str]
) -> str:
    import torch

    on_gpu = worker.device.type == "cuda"
    precision, attention, threads = how
    name = (
        torch.cuda.get_device_name(worker.device) if on_gpu else f"CPU, {torch.get_num_threads()} thread(s), {threads}"
    )
    trained = sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)
    return (
        f"{worker.num_workers} worker(s) on {name}; {precision}, ZeRO {worker_input.config.engine.zero_stage}, "
        f"{attention.name} attention ({attention.reason}), {trained / 1e6:.1f} M trained parameters"
    )
