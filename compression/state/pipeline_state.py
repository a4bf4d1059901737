"""The state that steps change: the network, its tokenizer, the graphs written so far and what was measured.

All but the original network is saved after each step (compression/pipeline/snapshots.py) and therefore has a form on disk: the
network is what `save_model` writes and `load_directory` reads, everything else is files in `directory` and plain values.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from agent.bundle import HARDWARE, Bundle, ConvertedVariant, FirstPass, OnnxVariant, Precision
from agent.data import DataConfig, Splits
from agent.encoding import Encoder, Window
from compression.reporting.compression_report import Measurement, StepRow

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from compression.exporters import Exporter


@dataclass(frozen=True)
class Graph:
    """An ONNX file that a step wrote.

    Attributes:
        path: The file, in the draft of the new bundle.
        precision: Precision of weights and matrix products.
        exporter: Kind of the exporter that wrote it.
        published: Whether it goes into the bundle; otherwise it is only measured for comparison.
        pairs_fit: Whether no pair of its 8-bit products exceeds 16 bits.
        first_pass: The graph beside it that answers the easy texts.
    """

    path: Path
    precision: Precision
    inputs: tuple[str, ...]
    exporter: str
    published: bool = True
    pairs_fit: bool = False
    first_pass: FirstPass | None = None

    @property
    def size_bytes(self) -> int:
        """Of all its files."""
        first = [self.path.with_name(self.first_pass.file)] if self.first_pass else []
        return sum(file.stat().st_size for file in [self.path, *first])

    @property
    def variant(self) -> OnnxVariant:
        """The graph's entry in the manifest."""
        return OnnxVariant(
            file=self.path.name, precision=self.precision, inputs=self.inputs, exporter=self.exporter,
            hardware=HARDWARE[self.precision], pairs_fit=self.pairs_fit, first_pass=self.first_pass,
        )  # fmt: skip


@dataclass(frozen=True)
class ConvertedModel:
    """A model for CTranslate2 that a step wrote.

    Attributes:
        path: Its directory, in the draft of the new bundle.
        precision: Precision of weights and matrix products.
        published: Whether it goes into the bundle; otherwise it is only measured for comparison.
    """

    path: Path
    precision: Literal["fp32", "int8"]
    published: bool = True

    @property
    def name(self) -> str:
        """What reports call it."""
        return f"CTranslate2 {self.precision}"

    @property
    def size_bytes(self) -> int:
        """Of its weights."""
        return (self.path / "model.bin").stat().st_size

    @property
    def variant(self) -> ConvertedVariant:
        """The model's entry in the manifest."""
        return ConvertedVariant(directory=self.path.name, precision=self.precision)


@dataclass
class PipelineState:
    """The state of a compression run.

    Attributes:
        bundle: The agent to compress.
        splits: Its data, read from `data`.
        directory: Draft of the new bundle, with the tokenizer in it.
        work_directory: Where steps keep what an interrupted run resumes from; removed when the bundle is published.
        original: The trained network; never changed.
        model: The current network, with zeros where pruning removed structure, so that its stock architecture loads it.
        encoder: The current tokenizer, read from `directory`; the original's is `bundle.encoder`.
        steps: All steps of the run, for a step that depends on later ones.
        threads: Threads of PyTorch and of ONNX Runtime.
        weights_changed: Whether the network differs from the original.
        parameters: Number of weights of the slimmed network that the graphs hold.
        exporter: The exporter that wrote the graphs.
        graphs: Graphs written so far, the one to be served last.
        converted: Models for CTranslate2 written so far, the one to be served last.
        model_rows: Measurements of all model files, the original first; written by verify.
        step_rows: Measurements after each step.
        step_outputs: Plain values (as in JSON) that one step passes to a later one, by key.
        batch_size: Sentences in a batch when throughput was measured.
        contention: Cores shared with other processes during that measurement.
        notes: Lines for the report.
    """

    bundle: Bundle
    data: DataConfig
    splits: Splits
    directory: Path
    work_directory: Path
    original: PreTrainedModel
    model: PreTrainedModel
    encoder: Encoder
    steps: tuple[Any, ...]
    threads: int
    seed: int
    weights_changed: bool = False
    parameters: int = 0
    batch_size: int = 0
    contention: float | None = None
    exporter: Exporter | None = None
    graphs: list[Graph] = field(default_factory=list)
    converted: list[ConvertedModel] = field(default_factory=list)
    model_rows: list[Measurement] = field(default_factory=list)
    step_rows: list[StepRow] = field(default_factory=list)
    step_outputs: dict[str, Any] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    def sample_train(self, num_examples: int) -> list[Any]:
        """Draws examples of the training split by the seed; logged decisions, whose answers may be wrong, only where nothing else is there."""
        train = [example for example in self.splits.train if not example.logged] or self.splits.train
        return random.Random(self.seed).sample(train, min(num_examples, len(train)))

    def windows(self, examples: Sequence[Any]) -> list[Window]:
        """The windows of examples, by the current tokenizer."""
        documents = self.bundle.task.encode(self.encoder, examples)
        return [window for document in documents for window in document.windows]

    def reload_encoder(self) -> None:
        """Reads the tokenizer again, after a step wrote another one into `directory`."""
        self.encoder = self.bundle.manifest.load_encoder(self.directory)

    def note(self, text: str) -> None:
        """Adds a line to the report and prints it."""
        self.notes.append(text)
        print(text, flush=True)
