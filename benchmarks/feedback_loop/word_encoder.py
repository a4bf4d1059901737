"""Builds a small encoder for rounds that must be cheap: vectors of words out of minilm, and one layer that averages them to begin with."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from training.model.models import resolve

if TYPE_CHECKING:
    import torch

_SUBWORDS_AT_ONCE = 512
_MIXED = 3.0  # how much the average of all words counts beside the vector of the first token


def build_encoder(directory: Path, texts: Sequence[str], *, width: int = 256) -> None:
    """Writes a BERT of one layer with minilm's tokenizer, unless it stands there.

    A sub-word's vector is what minilm makes of it alone, in its first `width` principal components over the sub-words of `texts`; others
    have none. Attention starts nearly even, and its values are passed on as they are, so that the first token's state is an average of
    the text.

    Args:
        directory: For the model and the tokenizer.
        texts: Whose sub-words it knows.
        width: Of its states.
    """
    import torch
    from transformers import AutoModel, AutoTokenizer, BertConfig, BertModel

    if (directory / "config.json").exists():
        return
    name = resolve("minilm")
    tokenizer, large = AutoTokenizer.from_pretrained(name), AutoModel.from_pretrained(name).eval()
    known = torch.tensor(sorted({number for row in tokenizer(list(texts))["input_ids"] for number in row}))
    torch.manual_seed(0)
    model = BertModel(
        BertConfig(
            vocab_size=len(tokenizer), hidden_size=width, num_hidden_layers=1, num_attention_heads=4,
            intermediate_size=width, max_position_embeddings=128,
        )
    )  # fmt: skip
    with torch.no_grad():
        _fill(model, known, _vectors(tokenizer, large, known, width))
    model.save_pretrained(directory)
    tokenizer.save_pretrained(directory)


def _vectors(tokenizer: Any, large: Any, known: torch.Tensor, width: int) -> torch.Tensor:
    """float32 [sub-words, width]."""
    import torch

    ends = [torch.full_like(known, number) for number in (tokenizer.cls_token_id, tokenizer.sep_token_id)]
    rows = torch.stack([ends[0], known, ends[1]], 1)
    states = torch.cat([large(input_ids=part).last_hidden_state[:, 1] for part in rows.split(_SUBWORDS_AT_ONCE)])
    centred = states - states.mean(0)
    found = centred @ torch.linalg.svd(centred, full_matrices=False)[2][:width].T
    return found / found.std()


def _fill(model: Any, known: torch.Tensor, vectors: torch.Tensor) -> None:
    import torch

    embeddings, layer = model.embeddings, model.encoder.layer[0]
    for table in (embeddings.word_embeddings, embeddings.position_embeddings, embeddings.token_type_embeddings):
        table.weight.zero_()
    embeddings.word_embeddings.weight[known] = vectors
    same = torch.eye(vectors.shape[1])
    layer.attention.self.value.weight.copy_(same)
    layer.attention.output.dense.weight.copy_(_MIXED * same)
    model.pooler.dense.weight.copy_(same)
