"""The step cascade: a shallow student that answers the texts of which it is sure, before the agent answers the others."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Self

from pydantic import Field, model_validator

from agent.bundle import FirstPass
from agent.errors import ConfigError, ExportError
from agent.evaluation import predict
from agent.tasks import BaseTask
from cluster.progress import timed_bar
from compression.encoder.torch_model import quiet, torch_forward
from compression.graphs.onnx_graph import check_graph, graph_forward, open_session, probes, require_parity
from compression.state.pipeline_state import Graph, PipelineState
from compression.steps.base import BaseStep

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from compression.measurement.cascade_threshold import Threshold

_TASKS = (
    "token_classification", "text_classification", "text_pair_classification", "multi_label_classification",
)  # fmt: skip


class CascadeStep(BaseStep):
    """Teaches a student of a few layers, writes its graph as that of the agent, and chooses on the dev split of which texts it is sure.

    The agent's own graph does not change: it answers all other texts.
    """

    position: ClassVar[int] = 32
    kind: Literal["cascade"] = "cascade"
    layers: int = Field(2, ge=1, description="of the student, which begins as the agent's first ones")
    trained_layers: int = Field(
        1, ge=1, description="of the student, its last ones; those below stay the agent's, and so do the embeddings"
    )
    epochs: int = Field(2, ge=1, description="passes over the training split, with the agent as teacher")
    learning_rate: float = Field(5e-4, gt=0, description="peak learning rate (AdamW)")
    batch_tokens: int = Field(1024, ge=16, description="padded tokens of an optimizer step")
    teacher_weight: float = Field(
        0.7, gt=0, le=1, description="part of the loss that the teacher has; labels have the rest"
    )
    dev_score_kept: float = Field(
        0.997, ge=0, le=1, description="part of the agent's dev score that student and agent keep together"
    )

    @model_validator(mode="after")
    def _trains_its_own(self) -> Self:
        if self.trained_layers > self.layers:
            raise ValueError(f"trained_layers={self.trained_layers}; allowed: 1 to layers={self.layers}")
        return self

    def check_task(self, task: BaseTask[Any]) -> None:
        """Refuses tasks whose answers are no choices among labels.

        Raises:
            ConfigError: Names the task.
        """
        super().check_task(task)
        if task.kind not in _TASKS:
            raise ConfigError(
                f"step cascade is not for agents of {task.kind}",
                allowed=f"agents of {', '.join(_TASKS)}",
                remedy="leave the step out",
            )

    def run(self, state: PipelineState) -> None:
        """Teaches the student, writes its graph beside the one that is served on CPUs and chooses the threshold.

        Raises:
            ConfigError: The agent has no more layers than the student, or an architecture whose layers are not known.
            ExportError: The student's graph is not valid or differs from the network, or the two together would compute more
                than the agent alone.
        """
        from compression.encoder.encoder_structure import find_blocks

        num_layers = len(find_blocks(state.model))
        if self.layers >= num_layers:
            raise ConfigError(
                f"cascade.layers={self.layers}, but the agent has {num_layers}",
                allowed=f"1 to {num_layers - 1}" if num_layers > 1 else "agents with more layers",
                remedy="lower layers" if num_layers > 1 else "leave the step out",
            )
        place, whole = [pair for pair in enumerate(state.graphs) if "cpu" in pair[1].variant.hardware][-1]
        student, loss = self._taught(state)
        shallow = self._write(state, student, whole)
        chosen = self._threshold(state, whole, shallow)
        cost = self.layers / num_layers + chosen.tokens_on
        shares = f"{chosen.texts_on:.1%} of the dev texts ({chosen.tokens_on:.1%} of the tokens) go on to the agent"
        if cost >= 1:
            raise ExportError(
                f"cascade: {shares} to keep {self.dev_score_kept:g} of its dev score; with the student's {self.layers} of {num_layers} layers for all that is {cost:.2f} of the agent's work",
                remedy="give more epochs, other layers, a lower dev_score_kept, or leave the step out",
            )
        first = FirstPass(
            file=shallow.path.name, layers=self.layers, threshold=chosen.value, pairs_fit=shallow.pairs_fit
        )
        state.graphs[place] = dataclasses.replace(whole, first_pass=first)
        state.note(
            f"cascade: {self.layers} of {num_layers} layers, taught for {self.epochs} epochs (loss {loss:.3f}), answer texts of which they are surer than {chosen.value:.3f}; "
            f"{shares}, {chosen.score_kept:.2%} of its dev score are kept, {cost:.2f} of its layers computed"
        )

    def _taught(self, state: PipelineState) -> tuple[PreTrainedModel, float]:
        """The student and its last loss. Logged decisions, whose answers may be wrong, are not learned where there are labels."""
        from compression.distillation.shallow_student import Teaching, lessons_of, shallow_copy, teach
        from compression.encoder.structural_pruning import slim

        task, encoder = state.bundle.task, state.encoder
        student = shallow_copy(state.model, self.layers)
        examples = state.sample_train(len(state.splits.train))
        with timed_bar("cascade: what the agent answers") as progress:
            lessons = lessons_of(state.model, task, encoder, examples, progress)
        teaching = Teaching(
            self.epochs, self.trained_layers, self.learning_rate, self.batch_tokens, self.teacher_weight, state.seed,
            pad_id=encoder.pad_id, binary=task.decision.binary,
        )  # fmt: skip
        with timed_bar("cascade: teaching the student") as progress:
            loss = teach(student, lessons, teaching, progress)
        return slim(student), loss

    def _write(self, state: PipelineState, student: PreTrainedModel, whole: Graph) -> Graph:
        """The student's graph, in the precision of the agent's and by the same options."""
        exporter = state.exporter
        assert exporter is not None
        export = next(step for step in state.steps if step.kind == "export")
        target = state.directory / "first_pass.onnx"
        with timed_bar("cascade: export"), quiet():
            exporter.write(student, target, fuse=export.fuse, opset=export.opset)
            inputs = check_graph(target)
            batches = probes(student.config.vocab_size, state.bundle.manifest.max_tokens, state.seed)
            require_parity(torch_forward(student), target, batches=batches, tolerance=export.tolerance)
        if whole.precision == "fp32":
            return Graph(target, "fp32", inputs, exporter.kind)
        small = state.directory / f"first_pass.{whole.precision}.onnx"
        next(step for step in state.steps if step.kind == "quantize").write_like(state, target, small)
        target.unlink()
        return Graph(small, whole.precision, check_graph(small), exporter.kind, pairs_fit=True)

    def _threshold(self, state: PipelineState, whole: Graph, shallow: Graph) -> Threshold:
        from compression.measurement.cascade_threshold import choose_threshold, first_answers

        task, dev = state.bundle.task, state.splits.dev
        with timed_bar("cascade: dev split, student") as progress:
            first = first_answers(state, dev, _forward(state, shallow.path), progress)
        with timed_bar("cascade: dev split, agent") as progress:
            second = predict(task, state.encoder, dev, _forward(state, whole.path), progress=progress)
        return choose_threshold(
            lambda found: task.score(dev, found).value, first, second, score_kept=self.dev_score_kept
        )


def _forward(state: PipelineState, path: Path) -> Any:
    return graph_forward(open_session(path, state.threads))
