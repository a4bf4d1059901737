"""The contestant ceiling: the rate of matrix products on this machine, which FLOP utilisation is relative to."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Literal

from agent.data import DataConfig
from benchmarks.trainer_comparison.base import Contestant, load_material

if TYPE_CHECKING:
    import torch

SIZE = 1024  # of the square product that is the ceiling; also the tokens of a batch in the model's own shapes
CALLS, WARM_UP = 60, 10


class Ceiling(Contestant):
    """Matrix products in fp32 and bf16."""

    kind: Literal["ceiling"] = "ceiling"

    @property
    def name(self) -> str:
        """By threads."""
        return f"matrix product, {self.threads} thread(s)"

    def measure(self, data: DataConfig) -> dict[str, Any]:
        """GFLOP/s of each shape and type, and the parameters of the model that take part in products."""
        import torch

        torch.set_num_threads(self.threads)
        model = load_material(data.model_copy(update={"max_examples": 100})).model
        types = {"fp32": torch.float32, "bf16": torch.bfloat16}
        shapes = {"square": (SIZE, SIZE, SIZE)} | model_shapes(model.config)
        return {
            "gflops": {
                dtype: {name: product_rate(shape, kind) for name, shape in shapes.items()}
                for dtype, kind in types.items()
            },
            "parameters": sum(tensor.numel() for name, tensor in model.named_parameters() if "embeddings." not in name),
        }


def model_shapes(config: Any) -> dict[str, tuple[int, int, int]]:
    """Products of an encoder's layer at 1,024 tokens: [rows, inner] x [inner, columns]."""
    hidden, wide = config.hidden_size, config.intermediate_size
    return {
        "attention": (SIZE, hidden, hidden),
        "up": (SIZE, hidden, wide),
        "down": (SIZE, wide, hidden),
        "gradient of up": (hidden, SIZE, wide),
    }


def product_rate(shape: tuple[int, int, int], kind: torch.dtype) -> float:
    """GFLOP/s, by the median of many calls."""
    import torch

    rows, inner, columns = shape
    left, right = torch.randn(rows, inner).to(kind), torch.randn(inner, columns).to(kind)
    return 2 * rows * inner * columns / median_seconds(lambda: torch.mm(left, right)) / 1e9


def median_seconds(call: Callable[[], object]) -> float:
    """Of one call."""
    found = []
    for _ in range(WARM_UP + CALLS):
        started = time.perf_counter()
        call()
        found.append(time.perf_counter() - started)
    return statistics.median(found[WARM_UP:])
