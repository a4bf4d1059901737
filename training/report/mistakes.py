"""The part of the page that shows mistakes: the confusion of labels and the worst examples."""

from __future__ import annotations

from collections.abc import Sequence

from agent.markdown import clip, escape, table
from agent.tasks.pairs import Pair
from training.report.findings import Case, Findings

_NOTHING = "(nothing)"
_MAX_LABELS = 15  # a wider table does not fit on a page: the most frequent mistakes are listed instead
_MAX_MISTAKES = 20
_MAX_TEXT, _MAX_ITEM, _MAX_ITEMS = 500, 80, 15  # characters of an example and of an item, items of each side
_WORDS = {
    "confused": "with another label",
    "boundary": "with other boundaries",
    "missed": "missed",
    "invented": "invented",
}


def confusion(findings: Findings) -> list[str]:
    """Gold labels by predicted ones."""
    counts = findings.outcomes
    num_gold = sum(count for name, count in counts.items() if name != "invented")
    summary = (
        f"Of {num_gold:,} gold items {counts.get('right', 0):,} are right, {counts.get('confused', 0):,} have another label, "
        f"{counts.get('boundary', 0):,} the label with other boundaries, {counts.get('missed', 0):,} are missed; "
        f"{counts.get('invented', 0):,} are invented."
    )
    labels = sorted(
        {label for cell in findings.confusion for label in (cell.gold, cell.predicted) if label is not None}
    )
    if not labels:
        return [summary]
    return [summary, "", *(_matrix(findings, labels) if len(labels) <= _MAX_LABELS else _mistakes(findings))]


def _matrix(findings: Findings, labels: Sequence[str]) -> list[str]:
    cells = {
        (cell.gold, cell.predicted): str(cell.count) + (f" ({cell.shifted})" if cell.shifted else "")
        for cell in findings.confusion
    }
    has_nothing = any(None in cell for cell in cells)
    names: list[str | None] = [*labels, *([None] if has_nothing else [])]
    head = ("gold \\ predicted", *[_name(name) for name in names])
    rows = [(_name(gold), *[cells.get((gold, predicted), "") for predicted in names]) for gold in names]
    shifted = any(cell.shifted for cell in findings.confusion)
    note = ["", "In brackets: how many of them have other boundaries."] if shifted else []
    return [*table([head, *rows]), *note]


def _mistakes(findings: Findings) -> list[str]:
    wrong = sorted((cell for cell in findings.confusion if cell.gold != cell.predicted), key=lambda cell: -cell.count)
    rows = [(_name(cell.gold), _name(cell.predicted), str(cell.count)) for cell in wrong[:_MAX_MISTAKES]]
    return ["The most frequent mistakes (report.json has all):", "", *table([("gold", "predicted", "times"), *rows])]


def worst(findings: Findings, num_examples: int) -> list[str]:
    """The worst examples with what was gold and what was predicted."""
    if not findings.worst:
        return ["None: every prediction is right."]
    lines = [f"{findings.num_erroneous:,} of {num_examples:,} examples have an error.", ""]
    for number, case in enumerate(findings.worst, start=1):
        lines += [*_case(number, case), ""]
    return lines


def _case(number: int, case: Case) -> list[str]:
    gold = [(pair.gold_text, pair.gold, pair.outcome) for pair in case.pairs if pair.gold is not None]
    predicted = [
        (pair.predicted_text, pair.predicted, pair.outcome) for pair in case.pairs if pair.predicted is not None
    ]
    return [
        f"**{number}.** {escape(clip(case.text, _MAX_TEXT)) or '(empty)'}  ",
        f"gold: {_items(gold)}  ",
        f"predicted: {_items(predicted)}  ",
        f"{_summary(case.pairs)}; {escape(case.where)}",
    ]


def _items(items: Sequence[tuple[str, str | None, str]]) -> str:
    """Items of one side; wrong ones are bold."""
    shown = [
        f"**{_item(text, label)}**" if outcome != "right" else _item(text, label)
        for text, label, outcome in items[:_MAX_ITEMS]
    ]
    more = [f"and {len(items) - _MAX_ITEMS} more"] if len(items) > _MAX_ITEMS else []
    return ", ".join([*shown, *more]) or _NOTHING


def _item(text: str, label: str | None) -> str:
    return f"{escape(clip(text, _MAX_ITEM))} ({_name(label)})" if text else _name(label)


def _summary(pairs: Sequence[Pair]) -> str:
    counts = {words: sum(pair.outcome == name for pair in pairs) for name, words in _WORDS.items()}
    return ", ".join(f"{count} {words}" for words, count in counts.items() if count)


def _name(label: str | None) -> str:
    return _NOTHING if label is None else escape(label)
