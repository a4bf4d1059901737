"""DeepSpeed behind a narrow door: the only file that imports it."""

from __future__ import annotations

import logging
import os
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field

from agent.config import Config
from agent.errors import ConfigError

if TYPE_CHECKING:
    import torch

    from training.optimizers import AdamW

Precision = Literal["fp32", "bf16"]


class EngineConfig(Config):
    """How DeepSpeed runs the model."""

    zero_stage: Literal[0, 1, 2, 3] = Field(
        1, description="what ZeRO shards: 0 nothing, 1 optimizer, 2 gradients too, 3 weights too"
    )
    precision: Literal["auto", "fp32", "bf16"] = Field(
        "auto", description="auto is bf16 where the hardware multiplies it, else fp32; masters stay fp32"
    )


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


class Engine:
    """A model under DeepSpeed: `backward` as often as a step has micro-batches, then `step`.

    Args:
        model: fp32, on the device.
        optimizer: Its hyper-parameters.
        config: ZeRO stage.
        precision: What products are computed in; weights and optimizer states stay fp32.
        num_steps: Optimizer steps in all, for the schedule.
    """

    def __init__(
        self, model: torch.nn.Module, optimizer: AdamW, config: EngineConfig, *, precision: Precision, num_steps: int
    ) -> None:
        import deepspeed
        from torch.optim.lr_scheduler import LambdaLR

        logging.getLogger("DeepSpeed").setLevel(logging.WARNING)
        _skip_compilers(deepspeed)
        self.num_workers = int(os.environ["WORLD_SIZE"])
        self._engine, *_ = deepspeed.initialize(
            model=model,
            optimizer=optimizer.build(model),
            lr_scheduler=lambda inner: LambdaLR(inner, lambda step: optimizer.rate_at(step, num_steps)),
            config=_deepspeed_config(optimizer, config, precision),
            dist_init_required=False,
        )
        self.zero_stage = config.zero_stage

    @property
    def device(self) -> torch.device:
        """Where batches must be."""
        device: torch.device = self._engine.device
        return device

    @property
    def learning_rate(self) -> float:
        """Of the last step."""
        return float(self._engine.get_lr()[0])

    def train(self, training: bool) -> None:
        """Switches dropout on or off."""
        self._engine.train(training)

    def forward(self, **inputs: torch.Tensor) -> torch.Tensor:
        """Runs the model; returns its logits."""
        logits: torch.Tensor = self._engine(**inputs).logits
        return logits

    def backward(self, loss: torch.Tensor) -> None:
        """Adds gradients. `loss` is this worker's part of the step's mean; DeepSpeed averages over workers, which is undone."""
        self._engine.backward(loss * self.num_workers, scale_wrt_gas=False)

    def step(self) -> None:
        """Clips, updates the weights and moves the schedule on."""
        self._engine.step()

    def gather_weights(self) -> dict[str, torch.Tensor] | None:
        """The whole model's weights in fp32 on the CPU: on worker 0, None elsewhere. All workers must call it."""
        import deepspeed

        module = self._engine.module
        gathered = list(module.parameters()) if self.zero_stage == 3 else []
        with deepspeed.zero.GatheredParameters(gathered, enabled=bool(gathered)):
            if self._engine.global_rank:
                return None
            return {name: tensor.detach().float().cpu().clone() for name, tensor in module.state_dict().items()}


def _deepspeed_config(optimizer: AdamW, config: EngineConfig, precision: Precision) -> dict[str, Any]:
    return {
        "train_micro_batch_size_per_gpu": 1,  # unused: batches are cut by tokens
        "managed_gradient_accumulation": False,  # a step has as many micro-batches as its plan says
        "gradient_clipping": optimizer.max_grad_norm,
        "zero_optimization": {"stage": config.zero_stage, "overlap_comm": False},
        "torch_autocast": {"enabled": precision == "bf16", "dtype": "bfloat16"},
        "zero_allow_untested_optimizer": True,
        "steps_per_print": None,
    }


def _skip_compilers(deepspeed: Any) -> None:
    """Without this the first CPU run compiles a C++ all-reduce for 90 s; gloo costs next to nothing here (facts-training.md)."""
    if os.environ.get("DS_ACCELERATOR") == "cpu":
        deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
