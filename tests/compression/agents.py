"""Tiny agents for compression: real encoders of a few thousand weights, taught a toy language for a second or two."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from tokenizers import Tokenizer
from transformers import AutoConfig

from agent.batching import cut_by_length, pad
from agent.bundle import Manifest, lineage_now, write_bundle
from agent.data import DataConfig, load_splits
from agent.encoder_layers import take_asked
from agent.encoding import IGNORED, Encoder
from agent.tasks import KINDS, BaseTask
from compression.pruning.calibration import LabelledBatch, total_loss
from tests.tiny import WRITERS, make_tokenizer

MAX_TOKENS = 48
SHAPES: dict[str, dict[str, Any]] = {
    "bert": {},
    "roberta": {"max_position_embeddings": MAX_TOKENS + 2, "type_vocab_size": 1, "pad_token_id": 0},
    "electra": {"embedding_size": 16},
    "distilbert": {"dim": 32, "n_heads": 4, "hidden_dim": 96, "n_layers": 2},
}


def tiny_model(family: str, task: BaseTask[Any], *, vocabulary: int = 300, heads: int = 4, units: int = 96) -> Any:
    """A random encoder of two layers with the task's head, ready for inference."""
    options = {
        "vocab_size": vocabulary, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": heads,
        "intermediate_size": units, "max_position_embeddings": MAX_TOKENS,
    }  # fmt: skip
    if family == "distilbert":
        options = {"vocab_size": vocabulary, "max_position_embeddings": MAX_TOKENS}
    names = dict(enumerate(task.outputs))
    labels = {"id2label": names, "label2id": {name: index for index, name in names.items()}} if names else {}
    config = AutoConfig.for_model(family, **(options | SHAPES[family]), **labels)
    torch.manual_seed(0)
    model = getattr(transformers, task.architecture).from_config(config, attn_implementation="eager")
    for parameter in model.parameters():  # the usual small initial weights would make every comparison easy
        if parameter.ndim > 1:
            torch.nn.init.normal_(parameter, std=0.2)
    if task.decision.of_vocabulary:
        take_asked(model)
    return model.float().eval()


def tiny_bundle(directory: Path, kind: str = "token_classification", *, family: str = "bert", steps: int = 60) -> Path:
    """Writes data and the bundle of an agent taught on it; returns the bundle."""
    data = WRITERS[kind](directory / "data")
    splits = load_splits(DataConfig(path=str(data)), KINDS[kind]())
    tokenizer = make_tokenizer()
    model = tiny_model(family, splits.task, vocabulary=tokenizer.get_vocab_size())
    _teach(model, splits, Encoder(tokenizer, max_tokens=MAX_TOKENS, stride=8), steps)
    lineage = lineage_now(
        base_model="random", data_digest=splits.digest, config={"data": {"path": str(data)}, "seed": 0}
    )
    with write_bundle(directory / "bundle") as draft:
        model.save_pretrained(draft.path)
        tokenizer.save(str(draft.path / "tokenizer.json"))
        draft.publish(Manifest(task=splits.task, max_tokens=MAX_TOKENS, stride=8, lineage=lineage))
    return directory / "bundle"


def _teach(model: Any, splits: Any, encoder: Encoder, steps: int) -> None:
    documents = splits.task.encode(encoder, splits.train)
    rows = [
        (document.windows[0], splits.task.targets(example, document)[0])
        for example, document in zip(splits.train, documents, strict=True)
    ]
    batches = list(cut_by_length([len(window.input_ids) for window, _ in rows], max_tokens=256))
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    for step in range(steps):
        _step(model, splits.task, [rows[index] for index in batches[step % len(batches)]], encoder.pad_id)
        optimizer.step()
        optimizer.zero_grad()


def _step(model: Any, task: BaseTask[Any], rows: list[Any], pad_id: int) -> None:
    batch, targets = pad([window for window, _ in rows], pad_id), [target for _, target in rows]
    stacked = np.stack([np.pad(one, (0, batch.input_ids.shape[1] - len(one)), constant_values=IGNORED) for one in targets]
                       if task.decision.per_token else targets)  # fmt: skip
    (
        total_loss(model, LabelledBatch(batch, stacked, task.decision.binary)) / int((stacked != IGNORED).sum())
    ).backward()


def tokenizer_of(bundle: Path) -> Tokenizer:
    """The bundle's tokenizer."""
    return Tokenizer.from_file(str(bundle / "tokenizer.json"))
