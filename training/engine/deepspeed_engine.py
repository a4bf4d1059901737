"""Runs a model under DeepSpeed: forward and backward passes, gradient exchange, optimizer steps."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

from agent.errors import ConfigError
from training.engine.deepspeed_internals import disable_allreduce, skip_compilers
from training.engine.engine_config import Precision, TrainingEngineConfig, deepspeed_config
from training.engine.gradient_allreduce import GradientAllreduce
from training.engine.optimizer_state import OptimizerState, gather_optimizer_state, load_optimizer_state
from training.model.models import logits_of

if TYPE_CHECKING:
    from collections.abc import Callable

    import torch

    from training.engine.activation_hooks import ActivationRecorder, ModelOutputs
    from training.engine.lr_schedule import Schedule
    from training.engine.thread_parallel import ThreadParallel
    from training.optimizers import Optimizer


@dataclass(frozen=True)
class OptimizerPlan:
    """The optimizer with its learning-rate schedule.

    Attributes:
        num_steps: Optimizer steps of the whole run.
        first_step: Steps that an interrupted run did before.
    """

    optimizer: Optimizer
    schedule: Schedule
    num_steps: int
    first_step: int = 0

    def rate_at(self, steps: int) -> float:
        """The learning rate after so many steps of this process, as a fraction of the peak."""
        return self.schedule.rate_at(self.first_step + steps, self.num_steps)


class TrainingEngine:
    """A model under DeepSpeed: `backward` once per micro-batch, then `step`.

    Args:
        model: fp32, on the device.
        plan: Optimizer and schedule.
        config: ZeRO stage and other options.
        precision: Of matrix products; weights and optimizer states stay fp32.
        thread_groups: See `choose_thread_parallel`; None leaves the passes to DeepSpeed.
        recorder: Activations that `forward_all` returns beside the logits.
    """

    def __init__(  # noqa: PLR0913
        self,
        model: torch.nn.Module,
        plan: OptimizerPlan,
        config: TrainingEngineConfig,
        *,
        precision: Precision,
        thread_groups: int | None = None,
        recorder: ActivationRecorder | None = None,
    ) -> None:
        import deepspeed
        from torch.optim.lr_scheduler import LambdaLR

        from training.engine.activation_hooks import NO_ACTIVATIONS

        logging.getLogger("DeepSpeed").setLevel(logging.WARNING)
        skip_compilers()
        _check_shardable(plan.optimizer, config)
        self.num_workers = int(os.environ["WORLD_SIZE"])
        self.zero_stage = config.zero_stage
        if config.activation_checkpointing:
            model.gradient_checkpointing_enable({"use_reentrant": False})  # type: ignore[operator]
        embedding = _lookup_embedding(model)
        self._allreduce = _allreduce(model, embedding) if not self.zero_stage and self.num_workers > 1 else None
        self._engine, *_ = deepspeed.initialize(
            model=model,
            optimizer=plan.optimizer.build(model),
            lr_scheduler=lambda inner: LambdaLR(inner, plan.rate_at),
            config=deepspeed_config(plan.optimizer.max_grad_norm, config, precision),
            dist_init_required=False,
        )
        if not self.zero_stage:
            disable_allreduce(self._engine)
        if config.compile:
            model.compile(dynamic=True)
        self._recorder = recorder or NO_ACTIVATIONS
        self._threads: ThreadParallel | None = None
        if thread_groups:
            self._threads = _thread_parallel(model, embedding, precision, thread_groups, self._recorder)

    @property
    def learning_rate(self) -> float:
        """The highest learning rate of the next step, over parameter groups."""
        return max(map(float, self._engine.get_lr()))

    @property
    def uses_touched_rows(self) -> bool:
        """Whether `step` exchanges only the rows of the embedding that were touched."""
        return self._allreduce is not None and self._allreduce.by_rows

    @property
    def num_parallel(self) -> int:
        """How many batches `forward_all` takes at once."""
        return self._threads.num_groups if self._threads else 1

    def train(self, training: bool) -> None:
        """Switches dropout on or off."""
        self._engine.train(training)

    def seed(self, seed: int) -> None:
        """Seeds dropout."""
        import torch

        (self._threads.seed if self._threads else torch.manual_seed)(seed)

    def forward(self, **inputs: Any) -> torch.Tensor:
        """Runs the model; returns its logits."""
        return logits_of(self._engine(**inputs), inputs)

    def forward_all(self, batches: Sequence[Mapping[str, torch.Tensor]]) -> list[ModelOutputs]:
        """Runs the model on at most `num_parallel` batches; returns logits and recorded activations of each."""
        if self._threads:
            return self._threads.forward(batches)
        return [self.record(partial(self.forward, **inputs)) for inputs in batches]

    def record(self, forward: Callable[[], torch.Tensor]) -> ModelOutputs:
        """The logits that a call of `forward` returns, with the activations recorded meanwhile."""
        return self._recorder.record(forward)

    def backward(self, loss: torch.Tensor) -> None:
        """Adds gradients. `loss` is this worker's part of the step's mean; DeepSpeed's averaging over workers is undone."""
        self._engine.backward(loss * (self.num_workers if self.zero_stage else 1), scale_wrt_gas=False)

    def step(self, touched_rows: torch.Tensor | None = None) -> None:
        """Exchanges and clips gradients, updates the weights and advances the schedule.

        Args:
            touched_rows: int64, rows of the input embedding that the step used on any worker, if that is known.
        """
        if self._allreduce:
            self._allreduce.run(touched_rows)
        self._engine.step()
        if self._threads:
            self._threads.clear_gradients(touched_rows)

    def gather_weights(self) -> dict[str, torch.Tensor] | None:
        """The whole model's weights in fp32 on the CPU: on worker 0, None elsewhere. All workers must call it."""
        import deepspeed

        module = self._engine.module
        gathered = list(module.parameters()) if self.zero_stage == 3 else []
        with deepspeed.zero.GatheredParameters(gathered, enabled=bool(gathered)):
            if self._engine.global_rank:
                return None
            return copy_weights(module)

    def gather_optimizer(self) -> OptimizerState | None:
        """The whole optimizer state: on worker 0, None elsewhere. All workers must call it, after a step."""
        return gather_optimizer_state(self._engine)

    def load_optimizer(self, state: OptimizerState) -> None:
        """Loads what `gather_optimizer` returned. Every worker calls it, before the first step."""
        load_optimizer_state(self._engine, state)


def copy_weights(module: torch.nn.Module) -> dict[str, torch.Tensor]:
    """Copies of all weights by name, in fp32 on the CPU; layers that share a matrix share its copy."""
    weights = module.state_dict(keep_vars=True)
    copies = {id(tensor): tensor.detach().float().cpu().clone() for tensor in weights.values()}
    return {name: copies[id(tensor)] for name, tensor in weights.items()}


def _check_shardable(optimizer: Optimizer, config: TrainingEngineConfig) -> None:
    if config.zero_stage and not optimizer.shardable:
        raise ConfigError(
            f"optimizer.kind={optimizer.kind} with engine.zero_stage={config.zero_stage}: ZeRO flattens the matrices whose shape it needs",
            allowed="engine.zero_stage=0, or optimizer.kind=adamw or sgd",
            remedy="set engine.zero_stage=0",
        )


def _lookup_embedding(model: torch.nn.Module) -> torch.nn.Embedding | None:
    """The input embedding, if it is trained and not shared with an output layer."""
    import torch

    embedding = model.get_input_embeddings() if hasattr(model, "get_input_embeddings") else None  # type: ignore[operator]
    decoder = model.get_output_embeddings() if hasattr(model, "get_output_embeddings") else None  # type: ignore[operator]
    shared = decoder is not None and decoder.weight is getattr(embedding, "weight", None)
    trained = isinstance(embedding, torch.nn.Embedding) and embedding.weight.requires_grad and not shared
    return embedding if trained else None


def _allreduce(model: torch.nn.Module, embedding: torch.nn.Embedding | None) -> GradientAllreduce:
    weight: torch.nn.Parameter | None = getattr(embedding, "weight", None)
    return GradientAllreduce([parameter for parameter in model.parameters() if parameter.requires_grad], weight)


def _thread_parallel(
    model: torch.nn.Module,
    embedding: torch.nn.Embedding | None,
    precision: Precision,
    num_groups: int,
    recorder: ActivationRecorder,
) -> ThreadParallel:
    from training.engine.thread_parallel import ThreadParallel

    return ThreadParallel(
        model,
        embedding,
        num_groups=num_groups,
        context=lambda: _in_thread(precision),
        recorder=recorder,
    )


@contextmanager
def _in_thread(precision: Precision) -> Iterator[None]:
    """What a thread group's passes run in."""
    import torch

    from training.model.cpu_dropout import ThreadRandomness

    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=precision == "bf16"), ThreadRandomness():
        yield
