"""The forms of an agent's model that serving computes: graphs for ONNX Runtime, directories for CTranslate2."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal, TypeVar

from pydantic import Field

from agent.config.base import Config
from agent.errors import BundleError

Precision = Literal["fp32", "fp16", "bf16", "int8", "int4"]
Hardware = Literal["cpu", "cuda", "tensorrt"]
HARDWARE: dict[Precision, tuple[Hardware, ...]] = {
    "fp32": ("cpu", "cuda", "tensorrt"),
    "fp16": ("cuda", "tensorrt"),  # ONNX Runtime has no half-precision kernels for the CPU and casts around every node
    "bf16": ("cuda", "tensorrt"),
    "int8": ("cpu",),  # nor integer ones for CUDA
    "int4": ("cpu",),
}
"""The hardware that a graph of each precision is for."""


class FirstPass(Config):
    """A shallower graph that answers the texts of which it is sure; the variant that has it computes the others.

    Attributes:
        file: Name of the file in the bundle; inputs and hardware are those of the variant.
        layers: How many it has.
        confidence: How sure it is of a text: the lowest probability among its choices (`agent.evaluation.lowest_probability`).
        threshold: It answers the texts of which it is surer than this; none with 1.
        pairs_fit: As of the variant.
    """

    file: str
    layers: int = Field(ge=1)
    confidence: Literal["lowest_probability"] = "lowest_probability"
    threshold: float = Field(ge=0, le=1)
    pairs_fit: bool = False


class OnnxVariant(Config):
    """An ONNX graph of the agent.

    Attributes:
        file: Name of the file in the bundle.
        precision: Precision of weights and matrix products.
        inputs: Names of its inputs, each int64 [rows, tokens].
        exporter: Kind of the exporter that wrote it.
        hardware: Hardware that it is for; all if a manifest does not say.
        pairs_fit: No pair of its 8-bit products exceeds 16 bits, in which CPUs without VNNI add them; false if a manifest does not say.
        first_pass: What answers the easy texts before it; None: it answers all.
    """

    file: str
    precision: Precision
    inputs: tuple[str, ...]
    exporter: str
    hardware: tuple[Hardware, ...] = HARDWARE["fp32"]
    pairs_fit: bool = False
    first_pass: FirstPass | None = None

    @property
    def shallow(self) -> OnnxVariant | None:
        """The graph of the first pass as a variant of its own."""
        first = self.first_pass
        if first is None:
            return None
        return self.model_copy(update={"file": first.file, "pairs_fit": first.pairs_fit, "first_pass": None})

    @property
    def session_entries(self) -> Mapping[str, str]:
        """What a session of ONNX Runtime is configured with, so that the graph answers alike on every CPU.

        The entry takes slower kernels on CPUs without VNNI, which cannot overflow. Source: onnxruntime_session_options_config_keys.h,
        kOrtSessionOptionsAvx2PrecisionMode.
        """
        return {} if self.pairs_fit else {"session.x64quantprecision": "1"}


class ConvertedVariant(Config):
    """The model as CTranslate2 reads it, in a directory of the bundle.

    Attributes:
        directory: Its name in the bundle.
        precision: Of weights and matrix products.
        hardware: Hardware that it is for.
    """

    directory: str
    precision: Literal["fp32", "int8"]
    hardware: tuple[Hardware, ...] = ("cpu", "cuda")


V = TypeVar("V", OnnxVariant, ConvertedVariant)
_NAMES = {OnnxVariant: "ONNX graph", ConvertedVariant: "converted model"}


def variant_for(kind: type[V], variants: Sequence[V], precision: str, hardware: str, bundle: Path) -> V:
    """The variant of a precision; `auto` takes the last one listed for the hardware, or else the last one at all.

    Args:
        kind: Of the variants, for messages.
        variants: Those of a bundle.
        precision: One of theirs, or `auto`.
        hardware: That it will be computed on.
        bundle: Where the bundle lies, for messages.

    Raises:
        BundleError: There is no such variant.
    """
    found = [variant for variant in variants if precision in ("auto", variant.precision)]
    fitting = [variant for variant in found if precision != "auto" or hardware in variant.hardware]
    if found:
        return (fitting or found)[-1]
    raise BundleError(
        f"bundle {bundle} has no {_NAMES[kind]} of precision {precision!r}",
        allowed=", ".join(["auto", *(each.precision for each in variants)]) if variants else "",
        remedy=f"run python compression/run.py bundle={bundle} output=...",
    )
