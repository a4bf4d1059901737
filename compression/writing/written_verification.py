"""Measures what was converted of an agent that writes, beside the trained network."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from cluster.progress import timed_bar
from compression.encoder.structural_pruning import num_parameters
from compression.encoder.torch_model import WEIGHTS, quiet
from compression.measurement.speed import CpuContention, TimeBudget, evenly_spaced
from compression.reporting.compression_report import Measurement, WritingSpeed
from compression.state.pipeline_state import PipelineState
from compression.writing.converted_writers import open_converted
from compression.writing.measured_writer import MeasuredWriter, decodes, encode_written
from compression.writing.torch_writer import TorchWriter
from compression.writing.written_quality import WrittenSplit
from compression.writing.written_speed import timed_limit, writing_speeds

MAX_TEXTS = 32  # that are timed unless more are asked for: transformers writes a few a second
_ALONE = 8  # of them, one at a time


class WritingEffort(NamedTuple):
    """How much is timed.

    Attributes:
        batch_size: Texts in a batch, at most.
        num_texts: Of the test split.
        budget: For batches of one and of `batch_size` each.
    """

    batch_size: int
    num_texts: int
    budget: TimeBudget


def verify_written(state: PipelineState, original: str, effort: WritingEffort) -> None:
    """Fills the state's `model_rows`: the trained network, then what was converted of it.

    The network's scores are those of its float32 conversion, whose probabilities were compared with it: it would write a test split for hours.

    Args:
        state: Holds the converted models, one of them in float32.
        original: Name of the network in the report.
        effort: How much is timed.
    """
    task, test = state.bundle.task, state.splits.test
    writers = {
        model.name: open_converted(model.path, state.encoder, decodes=decodes(task), threads=state.threads)
        for model in state.converted
    }
    split = WrittenSplit(test, encode_written(task, state.encoder, test), state.bundle.manifest.max_tokens)
    answers = {name: split.answers(task, writer, name) for name, writer in writers.items()}
    exact = next(model.name for model in state.converted if model.precision == "fp32")
    answers[original] = answers[exact]
    speeds = _speeds({original: TorchWriter(state.model, state.encoder), **writers}, state, effort)
    size = (state.directory / WEIGHTS).stat().st_size
    rows = [(original, WEIGHTS, "fp32", size, True)]
    rows += [(one.name, one.path.name, one.precision, one.size_bytes, one.published) for one in state.converted]
    state.model_rows = [
        Measurement(
            name=name, file=file, precision=precision, size_bytes=size, published=published, parameters=num_parameters(state.model),
            quality=answers[name].report, agreement=answers[name].agreement(answers[exact]), writing=speeds[name],
            sentences_per_s=speeds[name][state.batch_size].texts_per_s, tokens_per_s=speeds[name][state.batch_size].tokens_per_s,
        )
        for name, file, precision, size, published in rows
    ]  # fmt: skip
    state.note(f"verify: the scores of {original} are those of {exact}, whose probabilities were compared with its own")
    state.note("drift: no distributions are recorded to recognise it by, since answers are texts and no choices")


def _speeds(
    writers: Mapping[str, MeasuredWriter], state: PipelineState, effort: WritingEffort
) -> dict[str, dict[int, WritingSpeed]]:
    """The speed of each model by the texts in a batch."""
    task = state.bundle.task
    documents = encode_written(task, state.encoder, evenly_spaced(state.splits.test, effort.num_texts))
    limit = timed_limit(task, documents, state.bundle.manifest.max_tokens)
    state.batch_size = min(effort.batch_size, len(documents))
    found: dict[str, dict[int, WritingSpeed]] = {name: {} for name in writers}
    cpu = CpuContention()
    with timed_bar("verify: speed of writing") as progress, quiet():
        for done, size in enumerate(sorted({1, state.batch_size}), 1):
            some = evenly_spaced(documents, _ALONE) if size == 1 else documents
            for name, speed in writing_speeds(writers, some, limit, batch_size=size, budget=effort.budget).items():
                found[name][size] = speed
            progress(done, 2)
    state.contention = cpu.contention(state.threads)
    return found
