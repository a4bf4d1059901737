"""The kinds of task that benchmarks/tasks.py compares. Adding one is one entry here."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from benchmarks.task_comparison.slices import (
    Records,
    Sizes,
    as_they_are,
    intent_pairs,
    joined_texts,
    paragraphs,
    squad_questions,
    tagged_sentences,
)


@dataclass(frozen=True)
class Kind:
    """One kind of task.

    Attributes:
        source: Directory of the shared data.
        records: Makes records of it.
        sizes: Of the slices.
        pipeline: What transformers answers with, in the words of `transformers.pipeline`; empty where it has none, and the rival is its model with a
            plain loop.
        epochs: Of both.
        learning_rate: Of both.
        batch_texts: In a request of several.
    """

    source: str
    records: Callable[[Path], Records]
    sizes: Sizes
    pipeline: str
    epochs: int = 2
    learning_rate: float = 2e-4
    batch_texts: int = 32


KINDS: Mapping[str, Kind] = {
    "text_classification": Kind("cls_sst2", as_they_are, Sizes(1_500, 300, 800), "text-classification"),
    "text_pair_classification": Kind("cls_banking77", intent_pairs, Sizes(1_500, 300, 800), "text-classification"),
    "multi_label_classification": Kind(
        "cls_banking77", joined_texts, Sizes(400, 100, 150), "text-classification", epochs=4
    ),
    "question_answering": Kind("qa_squad_v1", squad_questions, Sizes(500, 100, 200), "", epochs=1, batch_texts=8),
    "relation_extraction": Kind(
        "rel_semeval2010_task8", as_they_are, Sizes(4_000, 500, 2_717), "text-classification", epochs=3
    ),
    "masked_language_modelling": Kind(
        "mlm_craft_biomed", paragraphs, Sizes(1_500, 100, 150), "fill-mask", learning_rate=1e-4
    ),
    "token_classification": Kind("ner_conll2003", tagged_sentences, Sizes(1_500, 300, 800), "token-classification"),
}
