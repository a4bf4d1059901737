"""Compares two bundles on one test split and on texts, with the graphs and the decoding that serving uses."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from agent import markdown
from agent.bundle import Bundle
from agent.config.base import Config
from agent.data import DataConfig
from agent.data.formats.json_records import read_jsonl
from agent.data.lines import Part
from agent.data.splits import check_split, open_sources, read_examples
from agent.errors import BundleError
from agent.evaluation import evaluate
from agent.tasks import Report
from agent.tasks.base import require_text
from cluster import bundles
from serving.inference.engine import Engine


class ScoredBundle(Config):
    """A bundle with its scores on the test split."""

    bundle: str
    digest: str
    precision: str
    report: Report


class Comparison(Config):
    """Two bundles beside each other.

    Attributes:
        bundle, other: With their scores.
        num_examples: Of the test split.
        num_texts: That both answered.
        agreement: Part of these that both answer alike; None without texts.
    """

    bundle: ScoredBundle
    other: ScoredBundle
    num_examples: int
    num_texts: int
    agreement: float | None


def compare(bundle: str, other: str, data: DataConfig, texts: Sequence[str], *, precision: str = "auto") -> Comparison:
    """Scores and compares two bundles.

    Args:
        bundle, other: Where they lie.
        data: Whose test split counts.
        texts: Which both answer; of inputs of several texts as the log of decisions keeps them.
        precision: Of the ONNX graphs.

    Raises:
        BundleError: A bundle cannot be served, or the two are for different tasks.
        DataError: There is no test split, or it is for another task.
    """
    first, second = bundles.fetch(bundle), bundles.fetch(other)
    if first.task.kind != second.task.kind:
        raise BundleError(
            f"{bundle} is an agent for {first.task.kind} and {other} for {second.task.kind}",
            allowed="two agents for the same task",
            remedy="give another bundle",
        )
    engines = [Engine(one, precision=precision) for one in (first, second)]
    examples = _test_split(data, first)
    scored = [_score(engine, place, examples) for engine, place in zip(engines, (bundle, other), strict=True)]
    inputs = [first.task.as_input(list(first.task.fields_of(text).values())) for text in texts]
    one, two = (engine.labels(inputs) for engine in engines)
    same = sum(a == b for a, b in zip(one, two, strict=True))
    return Comparison(
        bundle=scored[0],
        other=scored[1],
        num_examples=len(examples),
        num_texts=len(texts),
        agreement=same / len(texts) if texts else None,
    )


def read_texts(file: Path) -> list[str]:
    """The texts of a file of JSON lines.

    Raises:
        DataError: It cannot be read, or a line holds no text.
    """
    return [require_text(record, "text", where, '{"text": "..."}') for record, where in read_jsonl(Part(file))]


def table(found: Comparison) -> str:
    """The comparison for people."""
    rows = [
        [each.bundle, each.digest[:12], each.precision, f"{each.report.value:.4f}"]
        for each in (found.bundle, found.other)
    ]
    head = f"test split, {found.num_examples:,} examples, {found.bundle.report.primary}"
    alike = (
        [] if found.agreement is None else ["", f"{found.agreement:.1%} of {found.num_texts:,} texts answered alike"]
    )
    return "\n".join([head, "", *markdown.table([["bundle", "sha256", "precision", "score"], *rows]), *alike])


def _test_split(data: DataConfig, bundle: Bundle) -> list[Any]:
    sources = open_sources(data, bundle.task.kind)
    examples = read_examples(data, bundle.task, sources["test"])[0] if "test" in sources else None
    check_split(data, "test", examples)
    assert examples
    return examples


def _score(engine: Engine, place: str, examples: Sequence[Any]) -> ScoredBundle:
    bundle = engine.bundle
    report = evaluate(bundle.task, bundle.encoder, examples, engine.forward)
    return ScoredBundle(bundle=place, digest=bundle.digest, precision=engine.variant.precision, report=report)
