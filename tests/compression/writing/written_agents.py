"""Tiny agents that write, which have learned a few texts by heart in a few seconds."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
import transformers

from agent.bundle import Manifest, lineage_now, write_bundle
from agent.data import DataConfig, load_splits
from agent.encoding import Encoder
from agent.tasks import KINDS, SequenceToSequence
from agent.tasks.writing.conversation import CHAT_TEMPLATE
from agent.tasks.writing.teacher_forcing import WrittenDocument, right_tokens
from compression.writing.measured_writer import decodes, encode_written
from tests.tiny_writers import make_word_tokenizer, make_writer, write_pairs_to_write
from training.model.writing_models import save_generation

FAMILY = {"sequence_to_sequence": "pegasus", "text_generation": "gpt2"}
WIDE = {  # int8 has a scale for each row of a matrix, which counts in narrow ones
    "pegasus": {"d_model": 64, "encoder_ffn_dim": 256, "decoder_ffn_dim": 256, "decoder_layers": 2, "dropout": 0.0},
    "gpt2": {"n_embd": 64, "resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0},
}
MAX_TOKENS = 64


def writer_bundle(directory: Path, kind: str, *, steps: int = 100) -> Path:
    """Writes data and the bundle of an agent taught on it; returns the bundle."""
    data = write_pairs_to_write(directory / "data")
    splits = load_splits(DataConfig(path=str(data)), KINDS[kind]())
    encoder = Encoder(make_word_tokenizer(ends=decodes(splits.task)), max_tokens=MAX_TOKENS, stride=8)
    make_writer(directory / "model", FAMILY[kind], **WIDE[FAMILY[kind]])
    model = getattr(transformers, splits.task.architecture).from_pretrained(directory / "model")
    _teach(model, encode_written(splits.task, encoder, splits.train[:12]), steps)
    lineage = lineage_now(base_model="tiny", data_digest=splits.digest, config={"data": {"path": str(data)}, "seed": 0})
    with write_bundle(directory / "bundle") as draft:
        model.save_pretrained(draft.path)
        tokenizer = transformers.AutoTokenizer.from_pretrained(directory / "model")
        if isinstance(splits.task, SequenceToSequence):
            save_generation(draft.path, splits.task, MAX_TOKENS)
        else:
            tokenizer.chat_template = CHAT_TEMPLATE
        tokenizer.save_pretrained(draft.path)
        draft.publish(Manifest(task=splits.task, max_tokens=MAX_TOKENS, stride=8, lineage=lineage))
    return directory / "bundle"


def _teach(model: Any, documents: list[WrittenDocument], steps: int) -> None:
    """Each step is all texts, with Hugging Face's own loss or, where a decoder goes on with a text, that of what it has to say."""
    padded = torch.nn.utils.rnn.pad_sequence
    ids, said, gold = (
        padded([torch.from_numpy(part(document)) for document in documents], batch_first=True, padding_value=fill)
        for part, fill in (
            (lambda one: one.given if one.windows[0].decodes else one.windows[0].input_ids, 0),
            (lambda one: one.targets(0), -100),
            (right_tokens, -100),
        )
    )
    optimizer = torch.optim.AdamW(model.parameters(), lr=5e-3)
    model.train()
    for _ in range(steps):
        if model.config.is_encoder_decoder:
            loss = model(input_ids=ids, labels=gold).loss
        else:
            loss = torch.nn.functional.cross_entropy(model(input_ids=ids).logits.flatten(0, 1), said.flatten())
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    model.eval()
