"""Presets: named lists of steps, chosen by what docs/compression.md measures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal, NamedTuple

import yaml

from compression.steps import (
    BaseStep,
    ConvertStep,
    DistillStep,
    ExportStep,
    PruneStep,
    QuantizeStep,
    ShrinkStep,
    Step,
    VerifyStep,
)

PresetName = Literal["fast", "exact", "balanced", "small"]


class Preset(NamedTuple):
    """A list of steps, and what it costs and gives, in one line."""

    steps: tuple[Step, ...]
    about: str


_STUDENT = (ShrinkStep(layers=5, ffn_units=768), DistillStep(epochs=3))

PRESETS: Mapping[PresetName, Preset] = {
    "fast": Preset(
        (PruneStep(dev_score_kept=0.995), ExportStep(), QuantizeStep(), VerifyStep()),
        "minutes, no training: prunes as far as the score allows, then int8; what is taken without a preset",
    ),
    "exact": Preset(
        (ExportStep(), QuantizeStep(), VerifyStep()),
        "minutes, no training: int8 alone, the scores nearest to the original's",
    ),
    "balanced": Preset(
        (*_STUDENT, ExportStep(), QuantizeStep(), VerifyStep()),
        "a training run: a student of 5 layers of 768 units, taught by the agent for 3 epochs, then int8",
    ),
    "small": Preset(
        (*_STUDENT, ExportStep(), QuantizeStep(embedding_bits=4), VerifyStep()),
        "a training run: the student of balanced with word embeddings of 4 bits, the smallest file",
    ),
}

WRITERS_STEPS: tuple[Step, ...] = (ConvertStep(), VerifyStep())
"""What is done with an agent that writes, if nothing is given."""


def describe_presets() -> str:
    """A line for each preset, for --help."""
    return "\n".join(f"  preset={name:<10} {preset.about}" for name, preset in PRESETS.items())


def written_steps(steps: Sequence[BaseStep]) -> str:
    """Steps as an argument of a command line, with the options that are not the defaults."""
    plain = [{"kind": step.kind, **step.model_dump(mode="json", exclude_defaults=True)} for step in steps]
    short = [step["kind"] if len(step) == 1 else step for step in plain]
    text: str = yaml.safe_dump(short, default_flow_style=True, sort_keys=False, width=10_000)
    return f"steps='{text.strip()}'"
