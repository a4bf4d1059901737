"""Tiny random models and data: real code on small parts, without network."""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors, trainers

from agent.spans import Span, decode_tags
from agent.tasks.tagged_text import TaggedText
from agent.tasks.token_classification import Found

NAMES = {"PER": ["anna", "bruno", "chidi", "dewi"], "LOC": ["oslo", "lima", "pune", "graz"], "ORG": ["acme", "initech"]}
FORMS = [
    "{PER} went to {LOC} .",
    "in {LOC} , {ORG} hired {PER} .",
    "nothing happened today .",
    "{ORG} and {PER} met in {LOC}",
]


def sentences(count: int, seed: int = 0) -> list[tuple[list[str], list[str]]]:
    """Words and IOB2 tags of a toy language that a tiny model can learn."""
    rng = random.Random(seed)
    found = []
    for _ in range(count):
        pairs = [_word(piece, rng) for piece in rng.choice(FORMS).split()]
        found.append(([word for word, _ in pairs], [tag for _, tag in pairs]))
    return found


def _word(piece: str, rng: random.Random) -> tuple[str, str]:
    label = piece.strip("{}")
    return (rng.choice(NAMES[label]), f"B-{label}") if label in NAMES else (piece, "O")


def said(example: TaggedText, tags: Sequence[str]) -> Found:
    """A prediction that tags the words of an example so."""
    words = example.words or ()
    spans = tuple(Span(words[first][0], words[last - 1][1], label) for first, last, label in decode_tags(tags))
    return Found(spans, tuple(tags))


def write_conll(directory: Path, *, train: int = 120, dev: int = 24, test: int = 24) -> Path:
    """Writes train, dev and test in CoNLL columns."""
    directory.mkdir(parents=True, exist_ok=True)
    for seed, (name, count) in enumerate({"train": train, "dev": dev, "test": test}.items()):
        blocks = [
            "".join(f"{word} {tag}\n" for word, tag in zip(*pair, strict=True)) for pair in sentences(count, seed)
        ]
        (directory / f"{name}.conll").write_text("\n".join(blocks), encoding="utf-8")
    return directory


def write_classes(directory: Path, *, train: int = 120, dev: int = 24, test: int = 24) -> Path:
    """Writes train, dev and test of a two-class data set: is a known name in it? (Not told by the length.)"""
    directory.mkdir(parents=True, exist_ok=True)
    for seed, (name, count) in enumerate({"train": train, "dev": dev, "test": test}.items()):
        rows = [
            {"text": " ".join(words), "label": "known" if {"anna", "oslo", "acme"} & set(words) else "unknown"}
            for words, _ in sentences(count, seed)
        ]
        (directory / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return directory


def write_label_sets(directory: Path, *, train: int = 120, dev: int = 24, test: int = 24) -> Path:
    """Writes train, dev and test of texts with sets of labels: which kinds of names are in it? Some have none."""
    directory.mkdir(parents=True, exist_ok=True)
    for seed, (name, count) in enumerate({"train": train, "dev": dev, "test": test}.items()):
        rows = [
            {"text": " ".join(words), "labels": sorted({tag[2:] for tag in tags if tag != "O"})}
            for words, tags in sentences(count, seed)
        ]
        (directory / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return directory


def write_pairs(directory: Path, *, train: int = 480, dev: int = 48, test: int = 48) -> Path:
    """Writes train, dev and test of pairs: does the first text name a person (if the second is "went") or a firm ("hired")?"""
    directory.mkdir(parents=True, exist_ok=True)
    asked = {"went": "PER", "hired": "ORG"}
    for seed, (name, count) in enumerate({"train": train, "dev": dev, "test": test}.items()):
        rng, rows = random.Random(seed), []
        for words, tags in sentences(count, seed):
            second = rng.choice(sorted(asked))
            label = "entailment" if f"B-{asked[second]}" in tags else "contradiction"
            rows.append({"text": " ".join(words), "text_pair": second, "label": label})
        (directory / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return directory


def write_questions(directory: Path, *, train: int = 480, dev: int = 48, test: int = 48) -> Path:
    """Writes train, dev and test of questions: "went" asks for a person, "hired" for a firm; some contexts name none."""
    directory.mkdir(parents=True, exist_ok=True)
    asked = {"went": "PER", "hired": "ORG"}
    for seed, (name, count) in enumerate({"train": train, "dev": dev, "test": test}.items()):
        rng, rows = random.Random(seed), []
        for words, tags in sentences(count, seed):
            question, context = rng.choice(sorted(asked)), " ".join(words)
            found = [word for word, tag in zip(words, tags, strict=True) if tag == f"B-{asked[question]}"]
            starts = [context.index(word) for word in found]
            rows.append({"question": question, "context": context, "answers": {"text": found, "answer_start": starts}})
        (directory / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return directory


def write_texts(directory: Path, *, train: int = 480, dev: int = 48, test: int = 48) -> Path:
    """Writes train, dev and test of plain text, a sentence a line."""
    directory.mkdir(parents=True, exist_ok=True)
    for seed, (name, count) in enumerate({"train": train, "dev": dev, "test": test}.items()):
        lines = [" ".join(words) + "\n" for words, _ in sentences(count, seed)]
        (directory / f"{name}.txt").write_text("".join(lines), encoding="utf-8")
    return directory


def write_relations(directory: Path, *, train: int = 240, dev: int = 48, test: int = 48) -> Path:
    """Writes train, dev and test of texts with two marked names: who went or met where (the person may stand first or last), or none."""
    directory.mkdir(parents=True, exist_ok=True)
    for seed, (name, count) in enumerate({"train": train, "dev": dev, "test": test}.items()):
        rng, rows = random.Random(seed), []
        for words, tags in sentences(2 * count, seed):
            places = [place for place, tag in enumerate(tags) if tag != "O"]
            if len(places) < 2 or len(rows) == count:
                continue
            first, last = sorted(rng.sample(places, 2))
            kinds = tags[first][2:], tags[last][2:]
            label = {("PER", "LOC"): "Place(e1,e2)", ("LOC", "PER"): "Place(e2,e1)"}.get(kinds, "Other")
            marked = {first: f"<e1>{words[first]}</e1>", last: f"<e2>{words[last]}</e2>"}
            text = " ".join(marked.get(place, word) for place, word in enumerate(words))
            rows.append({"text": text, "label": label})
        (directory / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return directory


WRITERS = {
    "token_classification": write_conll,
    "text_classification": write_classes,
    "multi_label_classification": write_label_sets,
    "text_pair_classification": write_pairs,
    "question_answering": write_questions,
    "masked_language_modelling": write_texts,
    "relation_extraction": write_relations,
}


def train_wordpiece(texts: Sequence[str], vocab_size: int, special: Sequence[str], **options: Any) -> Tokenizer:
    """A WordPiece tokenizer in BERT's manner, the same in every process.

    The trainer numbers `##a` to `##z` in the order of a hash table, which is another in every process, and goes by these numbers where pieces
    are equally frequent. So they are given to it in order.
    """
    normalizer, pre_tokenizer = normalizers.BertNormalizer(lowercase=True), pre_tokenizers.BertPreTokenizer()

    def made(model: models.WordPiece) -> Tokenizer:
        tokenizer = Tokenizer(model)
        tokenizer.normalizer, tokenizer.pre_tokenizer = normalizer, pre_tokenizer
        return tokenizer

    cut = [pre_tokenizer.pre_tokenize_str(normalizer.normalize_str(text)) for text in texts]
    letters = sorted({letter for pieces in cut for word, _ in pieces for letter in word})
    inner = sorted({f"##{letter}" for pieces in cut for word, _ in pieces for letter in word[1:]})
    trained = made(models.WordPiece())
    known = [*special, *letters, *inner]
    trainer = trainers.WordPieceTrainer(vocab_size=vocab_size, special_tokens=known, show_progress=False)
    trained.train_from_iterator(texts, trainer)
    tokenizer = made(models.WordPiece(trained.get_vocab(), unk_token="[UNK]", **options))
    tokenizer.add_special_tokens(list(special))
    return tokenizer


def make_tokenizer(texts: list[str] | None = None) -> Tokenizer:
    """A WordPiece tokenizer in BERT's manner, with a vocabulary of a few hundred pieces (of the toy language)."""
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    if texts is None:
        texts = [" ".join(words) for words, _ in sentences(400, 9)]
        texts.append("abcdefghijklmnopqrstuvwxyz 0123456789 .,;:!?'-\"()")
    tokenizer = train_wordpiece(texts, 300, special)
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]",
        pair="[CLS] $A [SEP] $B:1 [SEP]:1",
        special_tokens=[(name, tokenizer.token_to_id(name)) for name in ("[CLS]", "[SEP]")],
    )
    return tokenizer


def make_model(directory: Path, *, hidden: int = 32, layers: int = 2, heads: int = 4, positions: int = 64) -> Path:
    """Writes a random BERT encoder with its tokenizer as a Hugging Face directory."""
    import torch
    from transformers import BertConfig, BertModel, PreTrainedTokenizerFast

    fast = PreTrainedTokenizerFast(
        tokenizer_object=make_tokenizer(),
        unk_token="[UNK]",
        pad_token="[PAD]",
        cls_token="[CLS]",
        sep_token="[SEP]",
        mask_token="[MASK]",
        model_max_length=positions,
    )
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=len(fast),
        hidden_size=hidden,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        intermediate_size=4 * hidden,
        max_position_embeddings=positions,
        pad_token_id=fast.pad_token_id,
    )
    BertModel(config).save_pretrained(directory)
    fast.save_pretrained(directory)
    return directory
