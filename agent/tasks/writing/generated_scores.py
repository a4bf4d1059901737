"""How near generated texts come to the right ones: BLEU and chrF of sacrebleu, ROUGE of rouge_score; all as fractions."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from typing import Literal

from agent.tasks.base import Report

Metric = Literal["bleu", "rouge"]
PRIMARY: dict[Metric, str] = {"bleu": "bleu", "rouge": "rougeL"}
_ROUGES = ("rouge1", "rouge2", "rougeL")


def add_generated(report: Report, gold: Sequence[str], generated: Sequence[str], metric: Metric) -> Report:
    """A report on right prefixes together with what generated texts score, by which agents are then compared.

    Args:
        report: On right prefixes.
        gold: Texts.
        generated: What was written for each.
        metric: bleu, with chrF, for translations; rouge, whose stemmer and letters are English, for summaries.
    """
    metrics, how = _bleu(gold, generated) if metric == "bleu" else _rouge(gold, generated)
    metrics["exact"] = statistics.fmean(
        one.strip() == other.strip() for one, other in zip(gold, generated, strict=True)
    )
    rows = "".join(f"{name:<22}{value:>12.4f}\n" for name, value in metrics.items())
    return report.model_copy(
        update={
            "metrics": {**report.metrics, **metrics},
            "primary": PRIMARY[metric],
            "text": f"{report.text}\n{'generated texts':<22}{len(gold):>12,}\n{rows}",
            "mode": f"generated texts by {how}; sub-words after the right ones before them",
        }
    )


def _bleu(gold: Sequence[str], generated: Sequence[str]) -> tuple[dict[str, float], str]:
    from sacrebleu.metrics import BLEU, CHRF

    found, signatures = {}, []
    for name, metric in {"bleu": BLEU(), "chrf": CHRF()}.items():
        found[name] = metric.corpus_score(list(generated), [list(gold)]).score / 100
        signatures.append(f"{name}|{metric.get_signature()}")
    return found, f"sacrebleu {', '.join(signatures)}"


def _rouge(gold: Sequence[str], generated: Sequence[str]) -> tuple[dict[str, float], str]:
    from rouge_score.rouge_scorer import RougeScorer

    scorer = RougeScorer(list(_ROUGES), use_stemmer=True)
    each = [scorer.score(one, other) for one, other in zip(gold, generated, strict=True)]
    found = {name: statistics.fmean(scores[name].fmeasure for scores in each) for name in _ROUGES}
    return found, "rouge_score, mean F-measure, stemmed"
