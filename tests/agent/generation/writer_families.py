"""A tiny model of every family that writes, of random weights so wide that their texts differ."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any, NamedTuple

import torch
import transformers
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedModel

_WORDS = [f"w{number}" for number in range(58)]
PIECES = ["</s>", "<s>", "<unk>", *_WORDS, "<x>", "<pad>"]  # 63; Marian's <pad> is the last one, OPT has one more
_IDS = {"pad_token_id": PIECES.index("<pad>"), "eos_token_id": 0, "bos_token_id": 1}
_SOURCE = {**_IDS, "decoder_start_token_id": 1, "vocab_size": len(PIECES)}
_T5 = {**_SOURCE, "d_model": 32, "d_kv": 16, "d_ff": 64, "num_layers": 2, "num_heads": 2}
_NEWER_T5 = {**_T5, "feed_forward_proj": "gated-gelu", "tie_word_embeddings": False}
_BART = {
    **_SOURCE, "d_model": 32, "encoder_layers": 2, "decoder_layers": 2, "encoder_attention_heads": 2, "decoder_attention_heads": 2,
    "encoder_ffn_dim": 64, "decoder_ffn_dim": 64, "max_position_embeddings": 64, "forced_eos_token_id": None,
}  # fmt: skip
_MARIAN = {**_BART, "decoder_start_token_id": _IDS["pad_token_id"]}
_LLAMA = {
    **_IDS, "vocab_size": len(PIECES), "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "head_dim": 8, "max_position_embeddings": 64,
}  # fmt: skip
_GPT2 = {**_IDS, "vocab_size": len(PIECES), "n_embd": 32, "n_layer": 2, "n_head": 2, "n_positions": 64}
_NEOX = {
    **_IDS, "vocab_size": len(PIECES), "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2,
    "max_position_embeddings": 64,
}  # fmt: skip


class Family(NamedTuple):
    """A kind of model."""

    config: Any
    shape: dict[str, Any]
    pieces: tuple[str, ...] = tuple(PIECES)
    spread: float = 0.3


FAMILIES: dict[str, Family] = {
    "t5": Family(transformers.T5Config, _T5),
    "t5 1.1": Family(transformers.T5Config, _NEWER_T5),
    "mt5": Family(transformers.MT5Config, _NEWER_T5),
    "umt5": Family(transformers.UMT5Config, _NEWER_T5),
    "bart": Family(transformers.BartConfig, {**_BART, "bos_token_id": None}),
    "mbart": Family(transformers.MBartConfig, _BART),
    "pegasus": Family(transformers.PegasusConfig, _BART, spread=0.5),
    "marian": Family(transformers.MarianConfig, _MARIAN, spread=0.6),
    "m2m_100": Family(
        transformers.M2M100Config,
        {**_BART, "pad_token_id": 1, "bos_token_id": 62, "decoder_start_token_id": 62},
        (*PIECES[:1], "<pad>", *PIECES[2:-1], "<s>"),
        spread=0.6,
    ),
    "gpt2": Family(transformers.GPT2Config, _GPT2),
    "llama": Family(transformers.LlamaConfig, {**_LLAMA, "bos_token_id": None}),
    "mistral": Family(transformers.MistralConfig, _LLAMA),
    "qwen2": Family(transformers.Qwen2Config, _LLAMA),
    "qwen3": Family(transformers.Qwen3Config, _LLAMA),
    "gemma": Family(transformers.GemmaConfig, _LLAMA),
    "bloom": Family(transformers.BloomConfig, {**_IDS, "vocab_size": len(PIECES), "hidden_size": 32, "n_layer": 2, "n_head": 2}),
    "gptj": Family(transformers.GPTJConfig, {**_GPT2, "rotary_dim": 8}),
    "opt": Family(
        transformers.OPTConfig,
        {**_NEOX, "vocab_size": 64, "ffn_dim": 64, "word_embed_proj_dim": 32},
        (*PIECES, "<y>"),
    ),
    "gpt_neox": Family(transformers.GPTNeoXConfig, _NEOX),
}  # fmt: skip


def make_family(directory: Path, name: str, **changes: Any) -> PreTrainedModel:
    """Writes a model of a family, and returns it."""
    family = FAMILIES[name]
    config = family.config(**family.shape | changes)
    kind = transformers.AutoModelForSeq2SeqLM if config.is_encoder_decoder else transformers.AutoModelForCausalLM
    torch.manual_seed(0)
    model: PreTrainedModel = kind.from_config(config).eval()
    with torch.no_grad():
        for weights in model.parameters():
            if weights.ndim == 2 and weights.requires_grad:  # sinusoids are not learned
                weights.normal_(0, family.spread)
        if name in ("marian", "m2m_100"):  # as in their models: hardly ever written, and Marian's start
            model.get_input_embeddings().weight[config.pad_token_id] = 0
    model.save_pretrained(directory)
    return model


def tokenizer_of(name: str) -> Tokenizer:
    """The tokenizer of a family: a piece a word."""
    vocabulary = {piece: number for number, piece in enumerate(FAMILIES[name].pieces)}
    spells_all = name in (
        "pegasus",
        "t5 1.1",
        "gpt2",
    )  # and has no sub-word for what is unknown, as byte-level vocabularies
    words = Tokenizer(models.WordLevel(vocabulary, **({} if spells_all else {"unk_token": "<unk>"})))
    words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return words


def texts(count: int, *, shortest: int = 2) -> list[list[str]]:
    """Pieces of texts of unequal lengths."""
    rng = random.Random(0)
    return [rng.choices(_WORDS, k=rng.randint(shortest, 12)) for _ in range(count)]
