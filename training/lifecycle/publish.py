"""Publishes the bundle of a run's best model, with its report."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

from agent.bundle import Bundle, Evaluation, Manifest, lineage_now, write_bundle
from agent.tasks import BaseTask, SequenceToSequence
from agent.tasks.writing.conversation import CHAT_TEMPLATE
from agent.tasks.writing.text_generation import Dialogue
from training.config import output_of
from training.lifecycle.preparation import PreparedRun, count_examples
from training.loop.worker_io import TrainingOutcome
from training.model.writing_models import save_generation
from training.state.checkpoint import BEST
from training.state.directory_store import DirectoryStore

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast


def publish(prepared: PreparedRun, outcome: TrainingOutcome, store: DirectoryStore) -> Bundle:
    """Writes the bundle from the best model in the store.

    Raises:
        AgentError: It cannot be written; nothing stands at the output then.
    """
    output = output_of(prepared.config)
    with write_bundle(output, overwrite=prepared.config.overwrite) as draft:
        with store.fetch(store.names(BEST)[-1]) as weights:
            shutil.copytree(weights, draft.path, dirs_exist_ok=True, ignore=shutil.ignore_patterns("complete.json"))
        if any(isinstance(example, Dialogue) for example in prepared.data.dev):
            prepared.tokenizer.chat_template = CHAT_TEMPLATE
        _save_tokenizer(prepared.tokenizer, draft.path)
        if isinstance(task := _task(outcome), SequenceToSequence):
            save_generation(draft.path, task, prepared.encoder.max_tokens)
        _write_report(draft.path, prepared, outcome)
        draft.publish(_manifest(prepared, outcome))
    return Bundle.load(output)


def _save_tokenizer(tokenizer: PreTrainedTokenizerFast, directory: Path) -> None:
    """Writes its files, under a class name that transformers 4 knows as well."""
    tokenizer.save_pretrained(directory)
    file = directory / "tokenizer_config.json"
    config = json.loads(file.read_text(encoding="utf-8"))
    if config.get("tokenizer_class") == "TokenizersBackend":  # what transformers 5 calls PreTrainedTokenizerFast
        config["tokenizer_class"] = "PreTrainedTokenizerFast"
        file.write_text(json.dumps(config, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def _write_report(directory: Path, prepared: PreparedRun, outcome: TrainingOutcome) -> None:
    from training.report import write_report

    config = prepared.config
    write_report(
        directory,
        task=_task(outcome),
        outcome=outcome,
        test=prepared.data.test,
        model=config.model.name,
        data=f"{config.data.path} ({count_examples(prepared.data)})",
        seed=config.seed,
        settings={
            "epochs": str(config.num_epochs),
            "optimizer": f"{config.optimizer.kind}, learning rate {config.optimizer.peak_learning_rate:g}, {config.schedule.kind}",
            "batch": f"{config.batch.step_tokens:,} tokens",
            "objective": config.objective.kind + (f", taught by {config.teacher.bundle}" if config.teacher else ""),
            "data sha256": prepared.data.digest,
        },
    )


def _task(outcome: TrainingOutcome) -> BaseTask[Any]:
    assert outcome.task
    return outcome.task


def _manifest(prepared: PreparedRun, outcome: TrainingOutcome) -> Manifest:
    data, config = prepared.data, prepared.config
    reports = {"test": outcome.after, "dev": outcome.dev}
    return Manifest(
        task=_task(outcome),
        max_tokens=prepared.encoder.max_tokens,
        stride=prepared.encoder.stride,
        segmentation=prepared.encoder.segmentation,
        lineage=lineage_now(
            base_model=config.model.name,
            data_digest=data.digest,
            parent_digest=prepared.teacher_digest,
            config=config.model_dump(mode="json"),
        ),
        evaluations=tuple(
            Evaluation(split=name, data_digest=data.digest, model="model.safetensors", report=report)
            for name, report in reports.items()
        ),
    )
