"""Exact match and F1 of answers by SQuAD's official rules, and the threshold from which on an answer is given."""

from __future__ import annotations

import re
import string
from collections import Counter
from collections.abc import Sequence

import numpy as np

from agent.encoding import Float32
from agent.tasks.base import Report
from agent.tasks.multi_label_scores import CUTS, middle_of_best

NO_ANSWER = ""
_PUNCTUATION = str.maketrans("", "", string.punctuation)
_ARTICLES = re.compile(r"\b(a|an|the)\b")
Scores = tuple[float, float]
"""Exact match and F1, 0 to 1."""


def normalised(text: str) -> str:
    """Lower case without ASCII punctuation, English articles and superfluous white space (Rajpurkar et al., arXiv 1606.05250)."""
    return " ".join(_ARTICLES.sub(" ", text.lower().translate(_PUNCTUATION)).split())


def answer_scores(golds: Sequence[str], answer: str) -> Scores:
    """Exact match and F1 of an answer, the best over the gold answers.

    Args:
        golds: Of one question; none at all, or none that keeps a word (arXiv 1806.03822), stands for no answer.
        answer: Empty for no answer.
    """
    said = normalised(answer)
    wanted = [gold for gold in map(normalised, golds) if gold] or [NO_ANSWER]
    return float(said in wanted), max(_f1(gold.split(), said.split()) for gold in wanted)


def _f1(gold: Sequence[str], said: Sequence[str]) -> float:
    """F1 of words, each as often as it occurs; where one side has none, whether both have none."""
    if not gold or not said:
        return float(gold == said)
    same = (Counter(gold) & Counter(said)).total()
    return 2 * same / (len(gold) + len(said))


def choose_threshold(answerable: Sequence[bool], f1: Sequence[float], confidences: Float32) -> float:
    """Of the hundredths between 0 and 1 the confidence from which on giving the answer has the best F1 over all questions.

    Args:
        answerable: Whether a question has an answer.
        f1: Of the best answer to it, 0 where it has none.
        confidences: float32 [questions], of these answers.
    """
    kept = np.asarray(confidences)[:, None] >= CUTS
    gained = np.where(kept, np.asarray(f1, np.float64)[:, None], ~np.asarray(answerable, bool)[:, None])
    return middle_of_best(gained.mean(axis=0))


def score_answers(golds: Sequence[Sequence[str]], answers: Sequence[str]) -> Report:
    """Compares answers with the gold answers of each question.

    Args:
        golds: Of each question, none where it has no answer.
        answers: To each, empty for none.
    """
    scores = np.array([answer_scores(*pair) for pair in zip(golds, answers, strict=True)], np.float64).reshape(-1, 2)
    answerable = np.array([bool(gold) for gold in golds], bool)
    exact, f1 = scores.mean(axis=0).tolist()
    metrics = {"f1": f1, "exact_match": exact}
    text = f"{len(golds)} questions: exact match {exact:.4f}, F1 {f1:.4f}\n"
    if not answerable.all() and answerable.any():
        for name, chosen in (("has_answer", answerable), ("no_answer", ~answerable)):
            exact, f1 = scores[chosen].mean(axis=0).tolist()
            metrics |= {f"{name}_f1": f1, f"{name}_exact_match": exact}
            told = name.replace("_", " ")
            text += f"{told}: {int(chosen.sum())} questions, exact match {exact:.4f}, F1 {f1:.4f}\n"
    return Report(metrics=metrics, primary="f1", support=len(golds), text=text, mode="SQuAD's official rules")
