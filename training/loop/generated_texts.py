"""Texts that the model in training generates, to be scored: it is saved, converted for CTranslate2, and writes on worker 0."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from agent.generation.ctranslate2_conversion import convert
from agent.generation.text_writer import TextWriter
from agent.tasks import BaseTask, Report, SequenceToSequence
from agent.windows.tokenizer_setup import end_token
from training.loop.checkpoint_manager import write_model

if TYPE_CHECKING:
    from agent.tasks.writing.teacher_forcing import WrittenDocument
    from training.loop.worker_io import EvaluationSet
    from training.loop.worker_setup import WorkerComponents

_ROOM = 1.5  # what an epoch's texts may be longer than the longest right one: a model that has not learned to end goes on and on


def generated_texts(
    task: BaseTask[Any], components: WorkerComponents, rank: int, max_tokens: int
) -> GeneratedTexts | None:
    """What generates texts of a task, if it wants some generated."""
    if not isinstance(task, SequenceToSequence) or not task.generated_texts:
        return None
    return GeneratedTexts(task, components, rank, max_tokens)


class GeneratedTexts:
    """Generates texts of a task that writes. All workers call it, and all get the texts.

    Args:
        task: Says by how many beams, and how many texts of dev.
        components: The worker's, whose model writes.
        rank: Of the worker.
        max_tokens: The model's length.
    """

    def __init__(self, task: SequenceToSequence, components: WorkerComponents, rank: int, max_tokens: int) -> None:
        self._task, self._components, self._rank = task, components, rank
        self._most = min(task.max_new_tokens or max_tokens, max_tokens)

    def score_sample(self, report: Report, split: EvaluationSet) -> Report:
        """A report with the scores of what the model as it is writes for the first texts of a split."""
        count = self._task.generated_texts
        documents: Sequence[Any] = split.documents[:count]
        longest = max(len(document.windows[0].input_ids) - len(document.given) for document in documents)
        weights = self._components.engine.gather_weights()

        def generate() -> list[str]:
            assert weights is not None
            with tempfile.TemporaryDirectory() as place:
                write_model(self._components.model, Path(place), weights)
                return self._written(Path(place), documents, round(_ROOM * longest))

        return self._task.score_generated(report, split.examples[:count], self._told(generate))

    def score_whole(self, report: Report, split: EvaluationSet, directory: Path) -> Report:
        """A report with the scores of what a saved model writes for all texts of a split."""
        documents: Sequence[Any] = split.documents
        texts = self._told(lambda: self._written(directory, documents, None))
        return self._task.score_generated(report, split.examples, texts)

    def _told(self, generate: Callable[[], list[str]]) -> list[str]:
        """What worker 0 generates, on all workers; its error too, so that none waits for a worker that is gone."""
        import torch.distributed as dist

        told: list[Any] = [None]
        if self._rank == 0:
            try:
                told = [generate()]
            except Exception as error:  # noqa: BLE001 - raised below, on every worker
                told = [error]
        dist.broadcast_object_list(told)
        if isinstance(told[0], Exception):
            raise told[0]
        found: list[str] = told[0]
        return found

    def _written(self, directory: Path, documents: Sequence[WrittenDocument], most: int | None) -> list[str]:
        import torch

        first = documents[0]
        assert first.vocabulary is not None
        tokenizer = first.vocabulary.tokenizer
        end = end_token(tokenizer)
        with tempfile.TemporaryDirectory() as place:
            converted = Path(place) / "converted"
            convert(directory, converted, tokenizer, end)
            device = self._components.prefetcher.inputs.device.type
            writer = TextWriter(converted, tokenizer, end, device=device, threads=torch.get_num_threads())
            return writer.write(
                [document.given for document in documents],
                num_beams=self._task.num_beams,
                max_new_tokens=min(self._most, most or self._most),
            )
