"""Explains offline: one text as a table in the terminal, a file of records as a file of explanations."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from pydantic_core import to_json

from agent import markdown
from agent.config.base import check_parameters
from agent.data.formats.json_records import read_jsonl
from agent.data.lines import Part
from agent.errors import DataError, RequestError
from agent.files import draft_file
from agent.tasks import BaseTask
from agent.tasks.record_fields import require_text
from cluster import bundles
from serving.explanation.explainer import check_explainable, explain_text
from serving.explanation.explanation_models import Cause, ExplainedDecision, Explanation, explain_parameters
from serving.inference.engine import Engine
from serving.scheduling.limits import ExplainLimits

_MOST_ROWS = 12


class Explainer:
    """An agent whose decisions are explained in this process.

    Args:
        bundle: Where it lies.
        parameters: Of every explanation, as in a request.
        limits: What one may cost.
        precision: Of its ONNX graph.

    Raises:
        BundleError: The bundle cannot be served.
        ConfigError: Its task is not explained, or a parameter is wrong.
    """

    def __init__(
        self,
        bundle: str,
        parameters: Mapping[str, Any],
        *,
        limits: ExplainLimits | None = None,
        precision: str = "auto",
    ) -> None:
        self.engine, self._limits = Engine(bundles.fetch(bundle), precision=precision), limits or ExplainLimits()
        check_explainable(self.task)
        model = explain_parameters(self.task, self._limits)
        self._parameters: Any = check_parameters(model, parameters, of="an explanation")

    @property
    def task(self) -> BaseTask[Any]:
        """The agent's."""
        return self.engine.bundle.task

    def read(self, record: Mapping[str, Any], where: str) -> str:
        """The input that a record holds.

        Raises:
            DataError: It holds none.
        """
        fields = ("text",) if self.task.asks_single(self._parameters) else self.task.input_fields
        shape = "{" + ", ".join(f'"{field}": "..."' for field in fields) + "}"
        texts = [require_text(record, field, where, shape) for field in fields]
        if "" in texts:
            raise DataError(f"{where}: a text is empty", allowed=shape, remedy="mend the record, or leave it out")
        return self.task.as_input(texts)

    def explain(self, text: str) -> Explanation:
        """Explains one input.

        Raises:
            RequestError: It is too long, or there is no such decision.
        """
        return explain_text(self.engine, text, self._parameters, self._limits)


def explain_file(explainer: Explainer, source: Path, target: Path) -> str:
    """Explains every record of a file, a line each; tells what came of it.

    Raises:
        DataError: A record cannot be read; nothing is written.
    """
    records = [(record, explainer.read(record, where)) for record, where in read_jsonl(Part(source))]
    refused = 0
    with draft_file(target) as draft, draft.open("wb") as stream:
        for record, text in records:
            try:
                told: dict[str, Any] = {"explanation": explainer.explain(text)}
            except RequestError as error:
                refused += 1
                told = {"explanation": None, "error": str(error)}
            stream.write(to_json(record | told) + b"\n")
    return f"{target}: {len(records) - refused} explanations" + (f", {refused} refused (see error)" if refused else "")


def table(found: Explanation) -> str:
    """An explanation for people."""
    hidden = f"replaced by {found.replacement}" if found.replacement else "removed"
    how = "all sets of words" if found.exact else f"orders of words drawn with seed {found.seed}, 95% intervals"
    runs = f", runs of {found.words_at_once} words" if found.words_at_once > 1 else ""
    head = f"{found.interventions} interventions (words {hidden}; {how}{runs})"
    if not found.decisions:
        return f"{head}\n\nThe agent decides nothing about this text that could be explained."
    return "\n".join([head, *(line for decision in found.decisions for line in _decision_lines(decision))])


def _decision_lines(decision: ExplainedDecision) -> Iterator[str]:
    about = "" if decision.word is None else f" {decision.word!r} ({decision.start} to {decision.end})"
    yield ""
    yield (
        f"{decision.label}{about}: probability {decision.probability:.4f}, {decision.baseline:.4f} without words"
        + ("" if decision.holds else "; the agent does not say so")
    )
    rows = [["word", "effect", "interval", "alone"], *map(_row, decision.causes[:_MOST_ROWS])]
    yield from markdown.table(rows)
    if len(decision.causes) > _MOST_ROWS:
        yield f"and {len(decision.causes) - _MOST_ROWS} words with smaller effects"
    yield f"comprehensiveness {decision.comprehensiveness:.4f}, sufficiency {decision.sufficiency:.4f}"
    if decision.flip is None:
        yield "no set of words was found without which the agent decides otherwise"
    else:
        words = ", ".join(repr(place.word) for place in decision.flip.words)
        yield f"decided otherwise without {words} (the smallest set found; probability {decision.flip.probability:.4f})"


def _row(cause: Cause) -> list[str]:
    word = markdown.escape(markdown.clip(cause.word, 40)) + (f" ({cause.field})" if cause.field else "")
    return [word, f"{cause.effect:+.4f}", f"{cause.low:+.4f} to {cause.high:+.4f}", f"{cause.alone:+.4f}"]
