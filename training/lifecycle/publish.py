"""What a run leaves: the bundle of its best model, with its report."""

from __future__ import annotations

import shutil
from pathlib import Path

from agent.bundle import Bundle, Evaluation, Manifest, lineage_now, write_bundle
from training.config import output_of
from training.lifecycle.preparation import Ready, count_examples
from training.state.checkpoint import BEST
from training.state.directory_store import DirectoryStore
from training.state.worker_io import Outcome


def publish(ready: Ready, outcome: Outcome, store: DirectoryStore) -> Bundle:
    """Writes the bundle from the best model in the store.

    Raises:
        AgentError: It cannot be written; nothing stands at the output then.
    """
    output = output_of(ready.config)
    with write_bundle(output, overwrite=ready.config.overwrite) as draft:
        with store.fetch(store.names(BEST)[-1]) as weights:
            shutil.copytree(weights, draft.path, dirs_exist_ok=True, ignore=shutil.ignore_patterns("complete.json"))
        ready.tokenizer.save_pretrained(draft.path)
        _write_report(draft.path, ready, outcome)
        draft.publish(_manifest(ready, outcome))
    return Bundle.load(output)


def _write_report(directory: Path, ready: Ready, outcome: Outcome) -> None:
    from training.report import write_report

    config = ready.config
    write_report(
        directory,
        task=ready.data.task,
        outcome=outcome,
        test=ready.data.test,
        model=config.model.name,
        data=f"{config.data.path} ({count_examples(ready.data)})",
        seed=config.seed,
        settings={
            "epochs": str(config.epochs),
            "optimizer": f"{config.optimizer.kind}, learning rate {config.optimizer.learning_rate:g}, {config.schedule.kind}",
            "batch": f"{config.batch.tokens:,} tokens",
            "objective": config.objective.kind + (f", taught by {config.teacher.bundle}" if config.teacher else ""),
            "data sha256": ready.data.digest,
        },
    )


def _manifest(ready: Ready, outcome: Outcome) -> Manifest:
    data, config = ready.data, ready.config
    reports = {"test": outcome.after, "dev": outcome.dev}
    return Manifest(
        task=data.task,
        max_tokens=ready.encoder.max_tokens,
        stride=ready.encoder.stride,
        segmentation=ready.encoder.segmentation,
        lineage=lineage_now(
            base_model=config.model.name,
            data_digest=data.digest,
            parent_digest=ready.teacher_digest,
            config=config.model_dump(mode="json"),
        ),
        evaluations=tuple(
            Evaluation(split=name, data_digest=data.digest, model="model.safetensors", report=report)
            for name, report in reports.items()
        ),
    )
