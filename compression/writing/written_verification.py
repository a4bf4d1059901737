"""Measures what was converted of an agent that writes, beside the trained network."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from cluster.progress import timed_bar
from compression.encoder.structural_pruning import num_parameters
from compression.encoder.torch_model import WEIGHTS, quiet
from compression.measurement.speed import CpuContention, TimeBudget, evenly_spaced
from compression.reporting.compression_report import Measurement, WritingSpeed
from compression.state.pipeline_state import PipelineState
from compression.writing.converted_writers import convert_model, open_converted
from compression.writing.measured_writer import MeasuredWriter, decodes, encode_written
from compression.writing.torch_writer import TorchWriter
from compression.writing.written_quality import WrittenSplit
from compression.writing.written_speed import timed_limit, writing_speeds

if TYPE_CHECKING:
    from transformers import PreTrainedModel

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


class _Candidate(NamedTuple):
    """A model to measure; `scored_by` names the converted model whose scores are its own."""

    name: str
    file: str
    precision: str
    size_bytes: int
    network: PreTrainedModel
    writer: MeasuredWriter
    scored_by: str
    published: bool = True


def verify_written(state: PipelineState, original: str, effort: WritingEffort) -> None:
    """Fills the state's `model_rows`: the trained network, the student where there is one, then what was converted.

    The scores of a network are those of its float32 conversion, whose probabilities were compared with it: it would write a test split for hours.

    Args:
        state: Holds the converted models, one of them in float32.
        original: Name of the trained network in the report.
        effort: How much is timed.
    """
    task, test = state.bundle.task, state.splits.test
    with tempfile.TemporaryDirectory() as place:
        converted = {model.name: _open(state, model.path) for model in state.converted}
        scorers = dict(converted)
        exact = next(model.name for model in state.converted if model.precision == "fp32")
        if state.weights_changed:
            convert_model(state.bundle.path, Path(place) / "original", state.encoder)
            scorers[original] = _open(state, Path(place) / "original")
        split = WrittenSplit(test, encode_written(task, state.encoder, test), state.bundle.manifest.max_tokens)
        answers = {name: split.answers(task, scorer, name) for name, scorer in scorers.items()}
        candidates = _networks(state, original, exact)
        candidates += [
            _Candidate(one.name, one.path.name, one.precision, one.size_bytes, state.model, converted[one.name], one.name, one.published)
            for one in state.converted
        ]  # fmt: skip
        speeds = _speeds({one.name: one.writer for one in candidates}, state, effort)
    reference = answers[candidates[0].scored_by]
    state.model_rows = [
        Measurement(
            name=one.name, file=one.file, precision=one.precision, size_bytes=one.size_bytes, published=one.published,
            parameters=num_parameters(one.network), quality=answers[one.scored_by].report,
            agreement=answers[one.scored_by].agreement(reference), writing=speeds[one.name],
            sentences_per_s=speeds[one.name][state.batch_size].texts_per_s, tokens_per_s=speeds[one.name][state.batch_size].tokens_per_s,
        )
        for one in candidates
    ]  # fmt: skip
    state.note("verify: the scores of a network of PyTorch are those of its float32 conversion")
    state.note("drift: no distributions are recorded to recognise it by, since answers are texts and no choices")


def _networks(state: PipelineState, original: str, exact: str) -> list[_Candidate]:
    """The trained network, and the student where there is one."""
    size = (state.bundle.path / WEIGHTS).stat().st_size
    writer = TorchWriter(state.original, state.encoder)
    if not state.weights_changed:
        return [_Candidate(original, WEIGHTS, "fp32", size, state.original, writer, exact)]
    student, small = TorchWriter(state.model, state.encoder), (state.directory / WEIGHTS).stat().st_size
    return [
        _Candidate(original, WEIGHTS, "fp32", size, state.original, writer, original, published=False),
        _Candidate("compressed, PyTorch", WEIGHTS, "fp32", small, state.model, student, exact),
    ]


def _open(state: PipelineState, directory: Path) -> MeasuredWriter:
    return open_converted(directory, state.encoder, decodes=decodes(state.bundle.task), threads=state.threads)


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
