"""The step convert: writes the model of an agent that writes for CTranslate2, and compares its probabilities with PyTorch's."""

from __future__ import annotations

import importlib.util
from typing import ClassVar, Literal

from pydantic import Field, field_validator

from agent.errors import ConfigError
from cluster.progress import timed_bar
from compression.encoder.torch_model import save_model
from compression.state.pipeline_state import ConvertedModel, PipelineState
from compression.steps.base import BaseStep

_PRECISIONS: tuple[Literal["fp32", "int8"], ...] = ("fp32", "int8")
_CHECKED = 8  # texts of dev whose probabilities are compared


class ConvertStep(BaseStep):
    """Writes `ctranslate2-fp32` and `ctranslate2-int8`, directories that CTranslate2 generates texts with; for agents that write."""

    position: ClassVar[int] = 35
    for_writers: ClassVar[bool | None] = True
    kind: Literal["convert"] = "convert"
    precisions: tuple[Literal["fp32", "int8"], ...] = Field(
        _PRECISIONS,
        description="what goes into the bundle: fp32, int8 (weights of a byte), or both; int8 is served then",
    )
    tolerance: float = Field(
        1e-3, gt=0, description="largest difference of any right sub-word's log-probability (fp32) from PyTorch's"
    )

    @field_validator("precisions")
    @classmethod
    def _some(cls, precisions: tuple[Literal["fp32", "int8"], ...]) -> tuple[Literal["fp32", "int8"], ...]:
        if not precisions or len(set(precisions)) < len(precisions):
            raise ValueError("give fp32, int8, or both, each once: [fp32, int8]")
        return tuple(precision for precision in _PRECISIONS if precision in precisions)

    def check(self) -> None:
        """Refuses, before work starts, where CTranslate2 is not installed.

        Raises:
            ConfigError: It is not.
        """
        if importlib.util.find_spec("ctranslate2") is None:
            raise ConfigError("step convert needs ctranslate2", remedy="pip install 'bert-agent[compression]'")

    def run(self, state: PipelineState) -> None:
        """Converts the network in each precision; float32, by which it is checked and int8 is judged, in any case.

        Raises:
            ExportError: The converted model gives right texts other probabilities than PyTorch.
            ModelError: CTranslate2 does not know the architecture, or the tokenizer does not fit it.
        """
        from compression.writing.conversion_check import require_same_scores
        from compression.writing.converted_writers import convert_model, open_converted
        from compression.writing.measured_writer import decodes, encode_written
        from compression.writing.torch_writer import TorchWriter

        task = state.bundle.task
        save_model(state.model, state.directory)
        for precision in [each for each in _PRECISIONS if each in (*self.precisions, "fp32")]:
            model = ConvertedModel(
                state.directory / f"ctranslate2-{precision}", precision, precision in self.precisions
            )
            with timed_bar(f"convert: {precision}"):
                convert_model(state.directory, model.path, state.encoder, precision)
            state.converted.append(model)
        documents = encode_written(task, state.encoder, state.splits.dev[:_CHECKED])
        exact = open_converted(state.converted[0].path, state.encoder, decodes=decodes(task), threads=state.threads)
        gap = require_same_scores(exact, TorchWriter(state.model, state.encoder), documents, self.tolerance)
        sizes = ", ".join(f"{model.precision} {model.size_bytes / 1e6:.1f} MB" for model in state.converted)
        state.note(f"convert: {sizes}; log-probabilities of {len(documents)} texts differ from PyTorch's by {gap:.1e}")
