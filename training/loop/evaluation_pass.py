"""Evaluation over all workers: each document is predicted once, and every worker scores them all."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from agent.batching import Batch
from agent.encoder_layers import take_asked
from agent.encoding import Float32
from agent.evaluation import Forward, run_each
from training.model.adapters import unwrap
from training.model.models import logits_of

if TYPE_CHECKING:
    from pathlib import Path

    from agent.tasks import BaseTask
    from training.loop.worker_io import EvaluationSet
    from training.loop.worker_setup import WorkerComponents

_BATCH_TOKENS = 4096  # padded tokens of an evaluation batch
_WRITTEN_TOKENS = 1024  # the same where each may have logits of a whole vocabulary


def predict_split(task: BaseTask[Any], split: EvaluationSet, forward: Forward, *, pad_id: int, rank: int) -> list[Any]:
    """Predicts a split together with the other workers: every example in order, the same on each worker."""
    import torch.distributed as dist

    num_workers = dist.get_world_size()
    mine = list(range(rank, len(split.documents), num_workers))
    documents = [split.documents[index] for index in mine]

    def predicted_of(number: int, logits: list[Float32]) -> tuple[int, Any]:
        return mine[number], task.predict(documents[number], logits)

    max_tokens = _WRITTEN_TOKENS if task.writes else _BATCH_TOKENS
    predicted = run_each(documents, forward, predicted_of, pad_id=pad_id, max_tokens=max_tokens)
    parts: list[list[tuple[int, Any]]] = [[] for _ in range(num_workers)]
    dist.all_gather_object(parts, predicted)
    found = dict(item for part in parts for item in part)
    return [found[index] for index in range(len(split.examples))]


def engine_forward(components: WorkerComponents) -> Forward:
    """The forward pass of the model in training, for evaluation."""
    import torch

    inputs, engine = components.prefetcher.inputs, components.engine

    def forward(batch: Batch) -> Float32:
        engine.train(False)
        with torch.inference_mode():
            logits = inputs.run(engine.forward, inputs.to_device(inputs.to_host(batch)))
        return np.asarray(logits.float().cpu().numpy())

    return forward


def directory_forward(components: WorkerComponents, directory: Path) -> Forward:
    """The forward pass of a saved model, loaded by transformers in fp32: what is scored is what is published."""
    import torch

    inputs = components.prefetcher.inputs
    kind = type(unwrap(components.model))
    model = kind.from_pretrained(directory, dtype="float32").to(inputs.device).eval()
    if "asked" in inputs.names:
        take_asked(model)

    def forward(batch: Batch) -> Float32:
        with torch.inference_mode():
            tensors = {name: tensor.to(inputs.device) for name, tensor in inputs.to_host(batch).items()}
            return np.asarray(logits_of(model(**tensors), tensors).cpu().numpy())

    return forward
