"""Tiny random models that write, with a tokenizer of a few words, and data that they can learn by heart."""

from __future__ import annotations

import json
import random
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer, models, pre_tokenizers, processors

from agent.bundle import ConvertedVariant, Manifest, lineage_now, write_bundle
from agent.generation.ctranslate2_conversion import convert
from agent.tasks import KINDS

WORDS = ("anna", "bruno", "chidi", "dewi", "oslo", "lima", "pune", "graz", "went", "to", "met", "in")
END, PAD, UNKNOWN = "</s>", "<pad>", "<unk>"
MARKS = ("<|system|>", "<|user|>", "<|assistant|>")


def make_word_tokenizer(*, ends: bool) -> Tokenizer:
    """A sub-word for each word; behind texts the token that ends one, if `ends`."""
    known = [PAD, END, UNKNOWN, *MARKS, *WORDS]
    vocabulary = {word: number for number, word in enumerate(known)}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token=UNKNOWN))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer.add_special_tokens([PAD, END, UNKNOWN])
    if ends:
        tokenizer.post_processor = processors.TemplateProcessing(single=f"$A {END}", special_tokens=[(END, 1)])
    return tokenizer


def writer_config(family: str, **changes: Any) -> Any:
    """A configuration of a family of transformers, so small that it computes in milliseconds."""
    import transformers

    size = {"vocab_size": 3 + len(MARKS) + len(WORDS), "pad_token_id": 0, "eos_token_id": 1, "bos_token_id": 1}
    width, heads, layers = 32, 2, 1
    bart = {
        "d_model": width, "encoder_layers": layers, "decoder_layers": layers, "encoder_attention_heads": heads, "decoder_attention_heads": heads,
        "encoder_ffn_dim": 64, "decoder_ffn_dim": 64, "max_position_embeddings": 64, "decoder_start_token_id": 0, "forced_eos_token_id": None,
        "init_std": 0.1,
    }  # fmt: skip
    t5 = {
        "d_model": width,
        "d_kv": 16,
        "d_ff": 64,
        "num_layers": layers,
        "num_heads": heads,
        "decoder_start_token_id": 0,
    }
    llama = {"hidden_size": width, "intermediate_size": 64, "num_hidden_layers": layers, "num_attention_heads": heads}
    kinds = {
        "t5": (transformers.T5Config, t5), "bart": (transformers.BartConfig, bart), "pegasus": (transformers.PegasusConfig, bart),
        "gpt2": (transformers.GPT2Config, {"n_embd": width, "n_layer": layers, "n_head": heads, "n_positions": 64}),
        "llama": (transformers.LlamaConfig, llama),
    }  # fmt: skip
    kind, shape = kinds[family]
    return kind(**{**size, **shape, **changes})


def make_writer(directory: Path, family: str, **changes: Any) -> Path:
    """Writes a random model of a family with its tokenizer as a Hugging Face directory; the same each time."""
    import torch
    import transformers

    config = writer_config(family, **changes)
    tokenizer = transformers.PreTrainedTokenizerFast(
        tokenizer_object=make_word_tokenizer(ends=config.is_encoder_decoder), unk_token=UNKNOWN, pad_token=PAD, eos_token=END,
        model_max_length=64,
    )  # fmt: skip
    torch.manual_seed(0)
    kind = transformers.AutoModelForSeq2SeqLM if config.is_encoder_decoder else transformers.AutoModelForCausalLM
    kind.from_config(config).save_pretrained(directory)
    tokenizer.save_pretrained(directory)
    return directory


def written_records(count: int, seed: int = 0, *, lengths: tuple[int, int] = (2, 4)) -> list[dict[str, str]]:
    """Texts of so many words, and what to write of each: its words in alphabetical order (one layer may not tell their own), then "met"."""
    rng, found = random.Random(seed), []
    for _ in range(count):
        words = rng.choices(WORDS[:8], k=rng.randint(*lengths))
        found.append({"text": " ".join(words), "target": " ".join([*sorted(set(words)), "met"])})
    return found


def write_pairs_to_write(directory: Path, *, texts: int = 12, times: int = 12) -> Path:
    """Writes train, which has a few texts several times, and dev and test of the same texts: they are to be learned by heart.

    They are of one length, so that no step has a single one of them many times: steps are of texts of like length.
    """
    directory.mkdir(parents=True, exist_ok=True)
    rows = written_records(texts, lengths=(3, 3))
    for name, part in {"train": rows * times, "dev": rows[: texts // 2], "test": rows[texts // 2 :]}.items():
        (directory / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in part), encoding="utf-8")
    return directory


def publish_writer(directory: Path, kind: str) -> Path:
    """Writes a bundle of an agent that writes, without weights: what stations see that have no engine for it."""
    with write_bundle(directory) as draft:
        make_word_tokenizer(ends=True).save(str(draft.path / "tokenizer.json"))
        task = KINDS[kind].model_validate({"kind": kind, "labels": ("text",)})
        lineage = lineage_now(base_model="tiny", data_digest="abc", config={})
        draft.publish(Manifest(task=task, max_tokens=64, stride=8, lineage=lineage))
    return directory


def publish_converted(
    directory: Path, kind: str, family: str = "pegasus", *, task: Mapping[str, Any] | None = None, **changes: Any
) -> Path:
    """Writes a bundle of an agent that writes with random weights, in both forms of CTranslate2; `changes` are those of its shape."""
    tokenizer = make_word_tokenizer(ends=kind == "sequence_to_sequence")
    with write_bundle(directory) as draft:
        make_writer(draft.path, family, **changes)
        variants = tuple(ConvertedVariant(directory=f"ctranslate2-{each}", precision=each) for each in ("fp32", "int8"))
        for variant in variants:
            convert(draft.path, draft.path / variant.directory, tokenizer, END, variant.precision)
        made = KINDS[kind].model_validate({"kind": kind, "labels": ("text",), **(task or {})})
        lineage = lineage_now(base_model="tiny", data_digest="abc", config={})
        draft.publish(Manifest(task=made, max_tokens=64, stride=8, lineage=lineage, converted=variants))
    return directory
