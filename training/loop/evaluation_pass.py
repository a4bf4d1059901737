"""Evaluation over all workers: every document predicted once, all of them scored everywhere."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from agent.encoding import Batch, Float32
from agent.evaluation import Forward, run_documents
from training.model.adapters import plain

if TYPE_CHECKING:
    from pathlib import Path

    from agent.tasks import Report
    from training.loop.worker_setup import WorkerComponents
    from training.state.worker_io import EvaluationSet, Payload

_BATCH_TOKENS = 4096  # padded tokens of an evaluation batch


def score(payload: Payload, split: EvaluationSet, forward: Forward, *, rank: int) -> tuple[Report, list[Any]]:
    """Predicts a split together with the other workers.

    Returns:
        The report and the prediction of every example in order, the same on each worker.
    """
    import torch.distributed as dist

    num_workers = dist.get_world_size()
    mine = list(range(rank, len(split.documents), num_workers))
    documents = [split.documents[index] for index in mine]
    outputs = run_documents(documents, forward, pad_id=payload.pad_id, max_tokens=_BATCH_TOKENS)
    predicted = [
        (index, payload.task.predict(split.documents[index], logits))
        for index, logits in zip(mine, outputs, strict=True)
    ]
    parts: list[list[tuple[int, Any]]] = [[] for _ in range(num_workers)]
    dist.all_gather_object(parts, predicted)
    found = dict(item for part in parts for item in part)
    predictions = [found[index] for index in range(len(split.examples))]
    return payload.task.score(split.examples, predictions), predictions


def engine_forward(assembly: WorkerComponents) -> Forward:
    """The model in training, as evaluation wants it."""
    import torch

    inputs, engine = assembly.feed.inputs, assembly.engine

    def forward(batch: Batch) -> Float32:
        engine.train(False)
        with torch.inference_mode():
            logits = inputs.run(engine.forward, inputs.place(inputs.host(batch)))
        return np.asarray(logits.float().cpu().numpy())

    return forward


def directory_forward(assembly: WorkerComponents, directory: Path) -> Forward:
    """A model on disk, in fp32 and as transformers loads it, so that what is scored is what is handed over."""
    import torch

    inputs = assembly.feed.inputs
    kind = type(plain(assembly.model))
    model = kind.from_pretrained(directory, dtype="float32").to(inputs.device).eval()

    def forward(batch: Batch) -> Float32:
        with torch.inference_mode():
            tensors = {name: tensor.to(inputs.device) for name, tensor in inputs.host(batch).items()}
            return np.asarray(model(**tensors).logits.cpu().numpy())

    return forward
