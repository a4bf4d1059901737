"""Scores relations as SemEval-2010 task 8 does officially: (9+1)-way, direction counts, the label of no relation is left out."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence

from agent.tasks.base import Report

_DIRECTION = re.compile(r"\((?:e1,e2|e2,e1)\)$")


def relation_of(label: str) -> str:
    """The relation that a label names, without its direction: `Cause-Effect` of `Cause-Effect(e2,e1)`."""
    return _DIRECTION.sub("", label)


def directed(label: str) -> bool:
    """Whether a label says the direction of its relation."""
    return _DIRECTION.search(label) is not None


def score_relations(gold: Sequence[str], predicted: Sequence[str], no_relation: str) -> Report:
    """Macro F1 over relations, micro F1 and accuracy.

    The rules are those of the task's scorer (semeval2010_task8_scorer, version 1.2, evaluation iii; Hendrickx et al. 2010, S10-1006):
    a relation is right if its direction is too; one in the wrong direction is both a wrong answer and a missed relation; the mean is over
    the relations that the gold labels hold, without `no_relation`; what was predicted of any other relation counts as none.

    Args:
        gold, predicted: A label for each text.
        no_relation: The label that says that there is none.
    """
    pairs = list(zip(gold, predicted, strict=True))
    right = Counter(relation_of(label) for label, said in pairs if label == said)
    wanted, given = (Counter(map(relation_of, labels)) for labels in (gold, predicted))
    relations = sorted(set(wanted) - {no_relation})
    f1 = {name: _f1(right[name], given[name], wanted[name]) for name in relations}
    totals = [sum(counts[name] for name in relations) for counts in (right, given, wanted)]
    metrics = {
        "macro_f1": sum(f1.values()) / len(f1) if f1 else 0.0,
        "micro_f1": _f1(*totals),
        "accuracy": sum(label == said for label, said in pairs) / len(pairs) if pairs else 0.0,
    }
    rows = [(name, right[name], given[name], wanted[name], f1[name]) for name in relations]
    return Report(
        metrics=metrics | {f"f1.{name}": value for name, value in f1.items()},
        primary="macro_f1",
        support=len(pairs),
        text=_table(rows, metrics, no_relation),
        mode=f"SemEval-2010 task 8, official: macro F1 over relations, direction counts, {no_relation} left out",
    )


def _f1(right: int, given: int, wanted: int) -> float:
    return 2 * right / (given + wanted) if right else 0.0


def _table(rows: Sequence[tuple[str, int, int, int, float]], metrics: dict[str, float], no_relation: str) -> str:
    width = max([len(name) for name, *_ in rows] + [len("macro F1")])
    lines = [f"{'relation':<{width}}   right   given    gold      F1"]
    lines += [
        f"{name:<{width}} {right:>7} {given:>7} {wanted:>7} {f1:>7.4f}" for name, right, given, wanted, f1 in rows
    ]
    names = {"macro F1": "macro_f1", "micro F1": "micro_f1", "accuracy": "accuracy"}
    lines += [f"{name:<{width}} {'':>23} {metrics[key]:>7.4f}" for name, key in names.items()]
    return "\n".join([*lines, f"F1 without {no_relation}; accuracy with it"]) + "\n"
