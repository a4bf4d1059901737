"""Scores one bundle or compares two on one test split and on texts, with the graphs and the decoding that serving uses."""

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
from agent.tasks.record_fields import require_text
from agent.tasks.relations.triple_scores import gold_texts, score_triples, triples_of
from serving.inference.engine import Engine
from serving.inference.triple_engine import TripleEngine, open_graph_engine


class ScoredBundle(Config):
    """A bundle with its scores on the test split."""

    bundle: str
    digest: str
    precision: str
    report: Report


class Comparison(Config):
    """Two bundles beside each other.

    Attributes:
        bundle, other: With their scores; None where one was scored alone.
        entities: Digest of the tagger beside both, whose triples were scored; None without one.
        num_examples: Of the test split.
        num_texts: That both answered.
        agreement: Part of these that both answer alike; None without texts, or where one was scored alone.
    """

    bundle: ScoredBundle
    other: ScoredBundle | None
    entities: str | None
    num_examples: int
    num_texts: int
    agreement: float | None


def compare(
    served: Sequence[tuple[str, Bundle]], data: DataConfig, texts: Sequence[str], *, precision: str = "auto"
) -> Comparison:
    """Scores a bundle, or two and compares them.

    Args:
        served: One or two bundles and where they lie, both beside the same tagger or none.
        data: Whose test split counts.
        texts: Which both answer; of inputs of several texts as the log of decisions keeps them.
        precision: Of the ONNX graphs.

    Raises:
        BundleError: A bundle cannot be served, or the two are for different tasks.
        DataError: There is no test split, or it is for another task.
    """
    (place, first), (other, last) = served[0], served[-1]
    if first.task.kind != last.task.kind:
        raise BundleError(
            f"{place} is an agent for {first.task.kind} and {other} for {last.task.kind}",
            allowed="two agents for the same task",
            remedy="give another bundle",
        )
    engines = [open_graph_engine(one, precision=precision) for _, one in served]
    examples = _test_split(data, first)
    scored = [_score(engine, where, examples) for engine, (where, _) in zip(engines, served, strict=True)]
    inputs = [first.task.as_input(list(first.task.fields_of(text).values())) for text in texts]
    answers = [engine.labels(inputs) for engine in engines]
    same = sum(a == b for a, b in zip(answers[0], answers[-1], strict=True))
    return Comparison(
        bundle=scored[0],
        other=scored[1] if len(scored) > 1 else None,
        entities=first.tagger.digest if first.tagger else None,
        num_examples=len(examples),
        num_texts=len(texts),
        agreement=same / len(texts) if texts and len(scored) > 1 else None,
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
        for each in filter(None, (found.bundle, found.other))
    ]
    what = " of triples, end to end" if found.entities else ""
    head = f"test split, {found.num_examples:,} examples, {found.bundle.report.primary}{what}"
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
    if isinstance(engine, TripleEngine):
        gold = gold_texts(engine.task, examples)
        report = score_triples(gold, [triples_of(answer) for answer in engine.predict([one.text for one in gold])])
    else:
        report = evaluate(bundle.task, bundle.encoder, examples, engine.forward)
    return ScoredBundle(bundle=place, digest=bundle.digest, precision=engine.variant.precision, report=report)
