"""DeepSpeed behind a narrow door: the only file that imports it."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, Literal, Self

from pydantic import Field, PositiveInt, model_validator

from agent.config.base import Config
from agent.errors import ConfigError
from training.engine.gradient_allreduce import GradientAllreduce
from training.model.attention import Attention, Wanted

if TYPE_CHECKING:
    from collections.abc import Callable

    import torch

    from training.engine.activation_hooks import ActivationRecorder, Said
    from training.engine.lr_schedule import Schedule
    from training.engine.thread_parallel import ThreadParallel
    from training.optimizers import Optimizer

Precision = Literal["fp32", "bf16"]


class EngineConfig(Config):
    """How DeepSpeed runs the model."""

    zero_stage: Literal[0, 1, 2, 3] = Field(
        0, description="what ZeRO shards: 0 nothing (fastest where the model fits), 1 optimizer, 2 gradients too, 3 weights too"
    )  # fmt: skip
    offload_optimizer: bool = Field(False, description="keep optimizer states in host memory; needs zero_stage 1 to 3")
    precision: Literal["auto", "fp32", "bf16"] = Field(
        "auto", description="auto is bf16 where the hardware multiplies it, else fp32; masters stay fp32"
    )
    attention: Wanted = Field(
        "auto", description="auto is varlen (no padding) where a GPU has the kernel, cpu on CPUs, else sdpa"
    )
    activation_checkpointing: bool = Field(
        False, description="compute activations again in the backward pass: less memory, a third more time"
    )
    lanes: Literal["auto"] | PositiveInt = Field(
        "auto", description="on CPUs: into how many parts, computed side by side, a worker divides its threads and its part of a step"
    )  # fmt: skip
    compile: bool = Field(False, description="torch.compile: a minute or two at the start, then faster steps")

    @model_validator(mode="after")
    def _offload_needs_zero(self) -> Self:
        if self.offload_optimizer and not self.zero_stage:
            raise ValueError("offload_optimizer=true needs zero_stage=1, 2 or 3")
        return self


@dataclass(frozen=True)
class OptimizerState:
    """What an optimizer remembers, the same whatever the ZeRO stage and the number of workers.

    Attributes:
        moments: float32 tensors of each parameter, by `parameter/key`.
        counters: Scalars all parameters share, by key.
    """

    moments: dict[str, torch.Tensor]
    counters: dict[str, float]


def choose_precision(wanted: str, device: torch.device) -> Precision:
    """Resolves `auto` for a device.

    Raises:
        ConfigError: bf16 was asked for on a GPU that lacks it.
    """
    import torch

    if device.type == "cuda":
        able = torch.cuda.is_bf16_supported(including_emulation=False)
        if wanted == "bf16" and not able:
            raise ConfigError(
                f"engine.precision=bf16, but {torch.cuda.get_device_name(device)} lacks it",
                allowed="auto, fp32",
                remedy="set engine.precision=fp32",
            )
    else:
        able = torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
    return "bf16" if wanted == "bf16" or (wanted == "auto" and able) else "fp32"


def choose_lanes(
    config: EngineConfig, attention: Attention, device: torch.device, tokens: int
) -> tuple[int | None, str]:
    """Into how many lanes a worker divides its threads, and why none where DeepSpeed does all.

    Args:
        config: What is wanted.
        attention: What was chosen for the model.
        device: Where it computes.
        tokens: Of this worker in a step.

    Raises:
        ConfigError: That many lanes cannot be had here.
    """
    import torch

    from training.engine.thread_parallel import count_lanes

    hindrances = {
        "lanes are for CPUs": device.type != "cpu",
        f"engine.zero_stage={config.zero_stage} shards what lanes share": config.zero_stage,
        f"with {attention.name} attention dropout is torch's, which all threads draw from": attention.name != "cpu",
        "engine.compile=true compiles one pass": config.compile,
        "engine.activation_checkpointing=true repeats the random numbers of one thread": config.activation_checkpointing,
    }
    hindrance = next((why for why, hinders in hindrances.items() if hinders), "")
    threads = torch.get_num_threads()
    if config.lanes == "auto":
        return (None, hindrance) if hindrance else (count_lanes(threads, tokens), "")
    if not hindrance and threads % config.lanes:
        hindrance = f"a worker has {threads} thread(s), which they must divide"
    if config.lanes > 1 and hindrance:
        raise ConfigError(
            f"engine.lanes={config.lanes}, but {hindrance}",
            allowed="auto, 1" + ("" if threads % config.lanes == 0 else ", or a divisor of the worker's threads"),
            remedy="set engine.lanes=auto",
        )
    return (None, hindrance) if hindrance else (config.lanes, "")


@dataclass(frozen=True)
class OptimizerPlan:
    """How weights move.

    Attributes:
        num_steps: Optimizer steps in all, for the schedule.
        first_step: Steps that were done before.
    """

    optimizer: Optimizer
    schedule: Schedule
    num_steps: int
    first_step: int = 0

    def rate_at(self, done: int) -> float:
        """The learning rate after so many steps of this process, as a part of the peak."""
        return self.schedule.rate_at(self.first_step + done, self.num_steps)


class Engine:
    """A model under DeepSpeed: `backward` as often as a step has micro-batches, then `step`.

    Args:
        model: fp32, on the device.
        recipe: Optimizer and schedule.
        config: ZeRO stage and its kin.
        precision: What products are computed in; weights and optimizer states stay fp32.
        lanes: How many batches are computed at once, see `choose_lanes`; None leaves all to DeepSpeed.
        taps: What `forward_all` notes of the model beside its logits; None notes nothing.
    """

    def __init__(  # noqa: PLR0913
        self,
        model: torch.nn.Module,
        recipe: OptimizerPlan,
        config: EngineConfig,
        *,
        precision: Precision,
        lanes: int | None = None,
        taps: ActivationRecorder | None = None,
    ) -> None:
        import deepspeed
        from torch.optim.lr_scheduler import LambdaLR

        from training.engine.activation_hooks import SILENT

        logging.getLogger("DeepSpeed").setLevel(logging.WARNING)
        _skip_compilers(deepspeed)
        _check_shardable(recipe.optimizer, config)
        self.num_workers = int(os.environ["WORLD_SIZE"])
        self.zero_stage = config.zero_stage
        if config.activation_checkpointing:
            model.gradient_checkpointing_enable({"use_reentrant": False})  # type: ignore[operator]
        table = _lookup_table(model)
        self._exchange = _exchange(model, table) if not self.zero_stage and self.num_workers > 1 else None
        self._engine, *_ = deepspeed.initialize(
            model=model,
            optimizer=recipe.optimizer.build(model),
            lr_scheduler=lambda inner: LambdaLR(inner, recipe.rate_at),
            config=_deepspeed_config(recipe.optimizer.max_grad_norm, config, precision),
            dist_init_required=False,
        )
        if not self.zero_stage:
            self._engine.enable_backward_allreduce = False  # GradientExchange does it, with fewer bytes
        if config.compile:
            model.compile(dynamic=True)
        self._taps = taps or SILENT
        self._lanes = _lanes(model, table, precision, lanes, self._taps) if lanes else None

    @property
    def learning_rate(self) -> float:
        """Of the next step, of the group that learns fastest."""
        return max(map(float, self._engine.get_lr()))

    @property
    def exchanges_rows(self) -> bool:
        """Whether `step` can use the rows of the embedding that were touched."""
        return self._exchange is not None and self._exchange.by_rows

    def train(self, training: bool) -> None:
        """Switches dropout on or off."""
        self._engine.train(training)

    @property
    def lanes(self) -> int:
        """How many batches `forward_all` takes."""
        return self._lanes.count if self._lanes else 1

    def seed(self, seed: int) -> None:
        """Seeds dropout."""
        import torch

        (self._lanes.seed if self._lanes else torch.manual_seed)(seed)

    def forward(self, **inputs: Any) -> torch.Tensor:
        """Runs the model; returns its logits."""
        logits: torch.Tensor = self._engine(**inputs).logits
        return logits

    def forward_all(self, batches: Sequence[Mapping[str, torch.Tensor]]) -> list[Said]:
        """Runs the model on as many batches as there are lanes; returns the logits of each, and what the taps noted."""
        if self._lanes:
            return self._lanes.forward(batches)
        return [self.listen(partial(self.forward, **inputs)) for inputs in batches]

    def listen(self, run: Callable[[], torch.Tensor]) -> Said:
        """What a call of `forward` returns, and what the taps noted meanwhile."""
        return self._taps.listen(run)

    def backward(self, loss: torch.Tensor) -> None:
        """Adds gradients. `loss` is this worker's part of the step's mean; where DeepSpeed averages over workers, it is undone."""
        self._engine.backward(loss * (self.num_workers if self.zero_stage else 1), scale_wrt_gas=False)

    def step(self, touched: torch.Tensor | None = None) -> None:
        """Exchanges gradients, clips, updates the weights and moves the schedule on.

        Args:
            touched: int64, rows of the input embedding that the step used on any worker, if that is known.
        """
        if self._exchange:
            self._exchange.run(touched)
        self._engine.step()
        if self._lanes:
            self._lanes.forget(touched)

    def gather_weights(self) -> dict[str, torch.Tensor] | None:
        """The whole model's weights in fp32 on the CPU: on worker 0, None elsewhere. All workers must call it."""
        import deepspeed

        module = self._engine.module
        gathered = list(module.parameters()) if self.zero_stage == 3 else []
        with deepspeed.zero.GatheredParameters(gathered, enabled=bool(gathered)):
            if self._engine.global_rank:
                return None
            return {name: tensor.detach().float().cpu().clone() for name, tensor in module.state_dict().items()}

    def gather_optimizer(self) -> OptimizerState | None:
        """What the optimizer remembers, whole: on worker 0, None elsewhere. All workers must call it, after a step."""
        from deepspeed.utils import safe_get_full_optimizer_state

        self._link()
        states = self._base.state
        keys, counters = _split_keys(next(iter(states.values()))) if states else ([], {})
        keep = self._engine.global_rank == 0
        moments: dict[str, torch.Tensor] = {}
        for name, parameter in self._trained():
            held = states[parameter] if not self.zero_stage else {}
            for key in _split_keys(held)[0] if held else keys:
                whole = held[key] if held else safe_get_full_optimizer_state(parameter, key)
                if keep:
                    moments[f"{name}/{key}"] = whole.detach().float().cpu().clone()
        return OptimizerState(moments, counters) if keep else None

    def load_optimizer(self, state: OptimizerState) -> None:
        """Takes up what `gather_optimizer` gave, on every worker, before the first step."""
        if not self.zero_stage:
            self._load_plain(state)
        elif state.moments:
            self._load_sharded(state)

    def _load_plain(self, state: OptimizerState) -> None:
        for name, parameter in self._trained():
            own = {key: tensor.to(parameter.device) for key, tensor in _of(name, state.moments)}
            self._base.state[parameter] = own | _counters(state, parameter)

    def _load_sharded(self, state: OptimizerState) -> None:
        import torch
        from deepspeed.utils import safe_set_full_optimizer_state

        keys = sorted({name.rpartition("/")[2] for name in state.moments})
        for group in self._flat_groups():
            self._base.state[group] = {key: torch.zeros_like(group) for key in keys} | _counters(state, group)
        self._link()
        for name, parameter in self._trained():
            for key, tensor in _of(name, state.moments):
                if self.zero_stage == 3:
                    _set_partition(parameter, tensor, key)
                else:
                    safe_set_full_optimizer_state(parameter, tensor.to(parameter.device), key)

    def _link(self) -> None:
        """Stages 1 and 2 look states up through links, made when the first group has stepped and the others have no state yet
        (DeepSpeed 0.19.8): they are made again.
        """
        if self.zero_stage in (1, 2):
            self._engine.optimizer._hp_optimizer_states_linked = False
            self._engine.optimizer._lazy_init_hp_params_optimizer_state()

    def _flat_groups(self) -> list[torch.Tensor]:
        optimizer = self._engine.optimizer
        found = "fp32_partitioned_groups_flat" if self.zero_stage == 3 else "single_partition_of_fp32_groups"
        groups: list[torch.Tensor] = getattr(optimizer, found)
        return groups

    @property
    def _base(self) -> torch.optim.Optimizer:
        """Torch's optimizer, under ZeRO's if there is one."""
        base: torch.optim.Optimizer = self._engine.optimizer.optimizer if self.zero_stage else self._engine.optimizer
        return base

    def _trained(self) -> Iterator[tuple[str, torch.nn.Parameter]]:
        return (
            (name, parameter) for name, parameter in self._engine.module.named_parameters() if parameter.requires_grad
        )


def _check_shardable(optimizer: Optimizer, config: EngineConfig) -> None:
    if config.zero_stage and not optimizer.shardable:
        raise ConfigError(
            f"optimizer.kind={optimizer.kind} with engine.zero_stage={config.zero_stage}: ZeRO flattens the matrices whose shape it needs",
            allowed="engine.zero_stage=0, or optimizer.kind=adamw or sgd",
            remedy="set engine.zero_stage=0",
        )


def _lookup_table(model: torch.nn.Module) -> torch.nn.Embedding | None:
    """The input embedding, if it is trained and used for nothing else."""
    import torch

    table = model.get_input_embeddings() if hasattr(model, "get_input_embeddings") else None  # type: ignore[operator]
    shared = getattr(getattr(model, "config", None), "tie_word_embeddings", False) and hasattr(model, "lm_head")
    return table if isinstance(table, torch.nn.Embedding) and table.weight.requires_grad and not shared else None


def _exchange(model: torch.nn.Module, table: torch.nn.Embedding | None) -> GradientAllreduce:
    weight: torch.nn.Parameter | None = getattr(table, "weight", None)
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    return GradientAllreduce(trained, weight)


def _lanes(
    model: torch.nn.Module, table: torch.nn.Embedding | None, precision: Precision, count: int, taps: ActivationRecorder
) -> ThreadParallel:
    import torch

    from training.engine.thread_parallel import ThreadParallel

    return ThreadParallel(
        model,
        table,
        count=count,
        context=lambda: torch.autocast("cpu", dtype=torch.bfloat16, enabled=precision == "bf16"),
        taps=taps,
    )


def _split_keys(state: Mapping[str, Any]) -> tuple[list[str], dict[str, float]]:
    """Tensors of a parameter's state by key, and its scalars."""
    moments = sorted(key for key, value in state.items() if hasattr(value, "ndim") and value.ndim)
    counters = {key: float(value) for key, value in state.items() if value is not None and key not in moments}
    return moments, counters


def _counters(state: OptimizerState, parameter: torch.Tensor) -> dict[str, torch.Tensor]:
    import torch

    return {
        key: torch.tensor(value, dtype=torch.float32, device=parameter.device) for key, value in state.counters.items()
    }


def _of(name: str, moments: Mapping[str, torch.Tensor]) -> Iterator[tuple[str, torch.Tensor]]:
    prefix = f"{name}/"
    return ((key.removeprefix(prefix), tensor) for key, tensor in moments.items() if key.startswith(prefix))


def _set_partition(parameter: torch.nn.Parameter, whole: torch.Tensor, key: str) -> None:
    """Stage 3 keeps an equal part of each parameter on every worker, the last one padded.

    DeepSpeed's `safe_set_full_optimizer_state` does not pad and fails for parameters that the workers do not divide (0.19.8).
    """
    import torch
    import torch.distributed as dist
    from deepspeed.utils import safe_get_local_optimizer_state, safe_set_local_optimizer_state

    part = safe_get_local_optimizer_state(parameter, key).numel()
    first = part * dist.get_rank()
    mine = whole.flatten()[first : first + part]
    padded = torch.nn.functional.pad(mine, (0, part - len(mine)))
    safe_set_local_optimizer_state(parameter, padded.to(parameter.device), key)


def _deepspeed_config(max_grad_norm: float, config: EngineConfig, precision: Precision) -> dict[str, Any]:
    zero: dict[str, Any] = {"stage": config.zero_stage, "overlap_comm": False}
    if config.offload_optimizer:
        zero["offload_optimizer"] = {"device": "cpu"}
    return {
        "train_micro_batch_size_per_gpu": 1,  # unused: batches are cut by tokens
        "managed_gradient_accumulation": False,  # a step has as many micro-batches as its plan says
        "gradient_clipping": max_grad_norm,
        "zero_optimization": zero,
        "zero_force_ds_cpu_optimizer": False,  # torch's fused AdamW: DeepSpeed's own would be compiled first
        "torch_autocast": {"enabled": precision == "bf16", "dtype": "bfloat16"},
        "zero_allow_untested_optimizer": True,
        "steps_per_print": None,
    }


def _skip_compilers(deepspeed: Any) -> None:
    """Without this the first CPU run compiles a C++ all-reduce for 90 s; gloo costs next to nothing here (facts-training.md)."""
    if os.environ.get("DS_ACCELERATOR") == "cpu":
        deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
