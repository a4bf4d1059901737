"""What the steps of compression work on: the original, the network as it is now, the graphs written so far.

All of it but the original survives an interruption (compression/pipeline/snapshots.py), and therefore has a form on disk: the network
is what `save_model` writes and `load_directory` reads, everything else is files in `directory` and plain values.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from agent.bundle import HARDWARE, Bundle, OnnxVariant, Precision
from agent.data import DataConfig, Splits
from agent.encoding import Encoder
from compression.reporting.compression_report import Measured, StepRow

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from compression.exporters import Exporter


@dataclass(frozen=True)
class Graph:
    """An ONNX file that a step wrote.

    Attributes:
        path: The file, in the draft of the new bundle.
        precision: Of its weights and products.
        inputs: Names of its inputs.
        exporter: What wrote it.
        published: Whether it goes into the bundle; if not it serves for comparison only.
    """

    path: Path
    precision: Precision
    inputs: tuple[str, ...]
    exporter: str
    published: bool = True

    @property
    def variant(self) -> OnnxVariant:
        """Its entry in the manifest."""
        return OnnxVariant(
            file=self.path.name, precision=self.precision, inputs=self.inputs, exporter=self.exporter,
            hardware=HARDWARE[self.precision],
        )  # fmt: skip


@dataclass
class State:
    """The state of a run.

    Attributes:
        bundle: The agent to compress.
        splits: Its data, read from `data`.
        directory: The draft of the new bundle, the tokenizer in it.
        workshop: Where a step may leave what an interrupted run goes on with; removed when the bundle is published.
        original: The network as it was trained; never changed.
        model: The network as it is now, with zeros where pruning removed structure; its stock architecture loads it.
        encoder: The tokenizer as it is now, read from `directory`; the original's is `bundle.encoder`.
        steps: All steps of the run, for a step that must know what follows.
        threads: For PyTorch and ONNX Runtime alike.
        seed: Of everything random.
        changed: Whether the network differs from the original.
        parameters: Of the slimmed network that the graphs hold.
        exporter: The one that wrote the graphs.
        graphs: What is there, the one to be served last.
        measured: The rows of the report, the original first.
        trail: What was measured after each step.
        remembered: Plain values (as JSON has them) that one step leaves for a later one, by the name of who left them.
        batch_size: With which throughput was measured.
        contention: Cores that it had to share with other processes meanwhile.
        notes: Lines for the report.
    """

    bundle: Bundle
    data: DataConfig
    splits: Splits
    directory: Path
    workshop: Path
    original: PreTrainedModel
    model: PreTrainedModel
    encoder: Encoder
    steps: tuple[Any, ...]
    threads: int
    seed: int
    changed: bool = False
    parameters: int = 0
    batch_size: int = 0
    contention: float | None = None
    exporter: Exporter | None = None
    graphs: list[Graph] = field(default_factory=list)
    measured: list[Measured] = field(default_factory=list)
    trail: list[StepRow] = field(default_factory=list)
    remembered: dict[str, Any] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    def reload_encoder(self) -> None:
        """Reads the tokenizer again: for a step that wrote another one into `directory`."""
        self.encoder = self.bundle.manifest.load_encoder(self.directory)

    def note(self, text: str) -> None:
        """Adds a line to the report and shows it."""
        self.notes.append(text)
        print(text, flush=True)
