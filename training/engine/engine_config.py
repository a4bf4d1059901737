"""Configuration of the DeepSpeed engine, and its `auto` values resolved for the hardware."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal, Self

from pydantic import Field, PositiveInt, model_validator

from agent.config.base import Config
from agent.errors import ConfigError
from training.model.attention import Attention, AttentionName

if TYPE_CHECKING:
    import torch

Precision = Literal["fp32", "bf16"]


class TrainingEngineConfig(Config):
    """How DeepSpeed runs the model."""

    zero_stage: Literal[0, 1, 2, 3] = Field(
        0, description="what ZeRO shards: 0 nothing (fastest where the model fits), 1 optimizer, 2 gradients too, 3 weights too"
    )  # fmt: skip
    offload_optimizer: bool = Field(False, description="keep optimizer states in host memory; needs zero_stage 1 to 3")
    precision: Literal["auto", "fp32", "bf16"] = Field(
        "auto", description="auto is bf16 where the hardware multiplies it, else fp32; masters stay fp32"
    )
    attention: AttentionName = Field(
        "auto", description="auto is varlen (no padding) where a GPU has the kernel, cpu on CPUs, else sdpa"
    )
    activation_checkpointing: bool = Field(
        False, description="compute activations again in the backward pass: less memory, a third more time"
    )
    thread_parallel: Literal["auto"] | PositiveInt = Field(
        "auto", description="on CPUs: into how many groups, computed side by side, a worker divides its threads and its part of a step"
    )  # fmt: skip
    compile: bool = Field(False, description="torch.compile: a minute or two at the start, then faster steps")

    @model_validator(mode="after")
    def _offload_needs_zero(self) -> Self:
        if self.offload_optimizer and not self.zero_stage:
            raise ValueError("offload_optimizer=true needs zero_stage=1, 2 or 3")
        return self


def choose_precision(requested: str, device: torch.device) -> Precision:
    """Resolves `engine.precision` for a device.

    Raises:
        ConfigError: bf16 was asked for on a GPU that lacks it.
    """
    import torch

    if device.type == "cuda":
        supported = torch.cuda.is_bf16_supported(including_emulation=False)
        if requested == "bf16" and not supported:
            raise ConfigError(
                f"engine.precision=bf16, but {torch.cuda.get_device_name(device)} lacks it",
                allowed="auto, fp32",
                remedy="set engine.precision=fp32",
            )
    else:
        supported = torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
    return "bf16" if requested == "bf16" or (requested == "auto" and supported) else "fp32"


def choose_thread_parallel(
    config: TrainingEngineConfig, attention: Attention, device: torch.device, tokens: int, family: str
) -> tuple[int | None, str]:
    """Resolves `engine.thread_parallel`: the number of thread groups, or None and the reason why DeepSpeed runs the passes.

    Args:
        config: The engine's configuration.
        attention: The model's attention.
        device: Where it computes.
        tokens: This worker's tokens in a step.
        family: The model's, as `model_type` says.

    Raises:
        ConfigError: The number asked for is not possible here.
    """
    import torch

    from training.engine.thread_parallel import WRITING, count_thread_groups

    obstacles = {
        "thread groups are for CPUs": device.type != "cpu",
        f"engine.zero_stage={config.zero_stage} shards what thread groups share": config.zero_stage,
        f"{family} models with {attention.name} attention were not tried in them": attention.name != "cpu"
        and family not in WRITING,
        "engine.compile=true compiles one pass": config.compile,
        "engine.activation_checkpointing=true repeats the random numbers of one thread": config.activation_checkpointing,
    }
    reason = next((why for why, applies in obstacles.items() if applies), "")
    threads = torch.get_num_threads()
    if config.thread_parallel == "auto":
        return (None, reason) if reason else (count_thread_groups(threads, tokens), "")
    if not reason and threads % config.thread_parallel:
        reason = f"a worker has {threads} thread(s), which it must divide"
    if config.thread_parallel > 1 and reason:
        raise ConfigError(
            f"engine.thread_parallel={config.thread_parallel}, but {reason}",
            allowed="auto, 1"
            + ("" if threads % config.thread_parallel == 0 else ", or a divisor of the worker's threads"),
            remedy="set engine.thread_parallel=auto",
        )
    return (None, reason) if reason else (config.thread_parallel, "")


def deepspeed_config(max_grad_norm: float, config: TrainingEngineConfig, precision: Precision) -> dict[str, Any]:
    """The configuration that `deepspeed.initialize` takes."""
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
