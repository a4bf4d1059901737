"""Tokenizers trained on the texts of a task that writes: byte-level BPE, which can say every text."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

PAD, END, UNKNOWN = "<pad>", "</s>", "<unk>"
PAD_ID, END_ID = 0, 1


def train_tokenizer(texts: Iterable[str], size: int, *, decodes: bool, markers: Sequence[str] = ()) -> Tokenizer:
    """Trains a tokenizer; the same for the same texts.

    Args:
        texts: What is read and what is written.
        size: Of the vocabulary at most; 256 of it are bytes.
        decodes: Whether for an encoder with a decoder: then texts end with `</s>` and a word is the same at the beginning of a text
            as behind a blank. A decoder alone goes on with a text where it stops.
        markers: Tokens of their own beside the usual ones.
    """
    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=decodes)
    trainer = trainers.BpeTrainer(
        vocab_size=size, special_tokens=[PAD, END, UNKNOWN, *markers], show_progress=False,
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
    )  # fmt: skip
    tokenizer.train_from_iterator(texts, trainer)
    bytes_to_text = decoders.ByteLevel()
    tokenizer.decoder = decoders.Sequence([bytes_to_text, decoders.Strip(" ", 1, 0)]) if decodes else bytes_to_text
    if decodes:
        tokenizer.post_processor = processors.TemplateProcessing(single=f"$A {END}", special_tokens=[(END, END_ID)])
    return tokenizer


def save_tokenizer(tokenizer: Tokenizer, directory: Path, *, max_tokens: int) -> None:
    """Writes it as transformers reads it."""
    from transformers import PreTrainedTokenizerFast

    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token=PAD,
        eos_token=END,
        bos_token=END,
        unk_token=UNKNOWN,
        model_max_length=max_tokens,
    ).save_pretrained(directory)
