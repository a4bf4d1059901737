"""Scores of generated texts are those of sacrebleu and rouge_score, beside what was scored on right prefixes."""

from __future__ import annotations

import pytest
import sacrebleu
from rouge_score.rouge_scorer import RougeScorer

from agent.tasks import Report
from agent.tasks.writing.generated_scores import add_generated

PREFIXES = Report(
    metrics={"accuracy": 0.5}, primary="accuracy", support=9, text="accuracy 0.5\n", mode="right prefixes"
)
GOLD = ["Anna went to Oslo by train .", "The market opens at nine , says Bruno .", "Nobody came ."]
SAID = ["Anna went to Oslo by bus .", "The market opens at nine , says Bruno .", "Somebody came ."]


def test_translations_are_scored_as_sacrebleu_scores_them() -> None:
    report = add_generated(PREFIXES, GOLD, SAID, "bleu")
    assert (report.primary, report.score_name, report.support) == ("bleu", "BLEU", 9)
    assert report.value == pytest.approx(sacrebleu.corpus_bleu(SAID, [GOLD]).score / 100, abs=1e-12)
    assert report.metrics["chrf"] == pytest.approx(sacrebleu.corpus_chrf(SAID, [GOLD]).score / 100, abs=1e-12)
    assert report.metrics["accuracy"] == 0.5
    assert report.metrics["exact"] == pytest.approx(1 / 3)
    for part in ("bleu|nrefs:1|case:mixed", "tok:13a|smooth:exp", "chrf|nrefs:1", "version:", "after the right ones"):
        assert part in report.mode
    assert "generated texts                  3\nbleu " in report.text


def test_summaries_are_scored_as_rouge_score_scores_them() -> None:
    report = add_generated(PREFIXES, GOLD, SAID, "rouge")
    scorer = RougeScorer(["rougeL"], use_stemmer=True)
    each = [scorer.score(gold, said)["rougeL"].fmeasure for gold, said in zip(GOLD, SAID, strict=True)]
    assert (report.primary, report.score_name) == ("rougeL", "ROUGE-L")
    assert report.value == pytest.approx(sum(each) / 3, abs=1e-12)
    assert set(report.metrics) == {"accuracy", "rouge1", "rouge2", "rougeL", "exact"}


def test_right_texts_score_all_and_silence_scores_nothing() -> None:
    for metric in ("bleu", "rouge"):
        assert add_generated(PREFIXES, GOLD, GOLD, metric).value == pytest.approx(1)
        assert add_generated(PREFIXES, GOLD, ["", "", ""], metric).value == 0
