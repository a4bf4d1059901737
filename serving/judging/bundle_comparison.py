"""Scores one bundle or compares two on one test split and on texts, with the models and the decoding that serving uses."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import takewhile
from pathlib import Path
from typing import Any, NamedTuple

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
from serving.inference.engine_choice import open_engine
from serving.inference.triple_engine import TripleEngine
from serving.inference.writing_engine import WritingEngine
from serving.judging.written_scores import score_writer

_SHOWN = 5  # texts that were answered differently
_SHOWN_CHARACTERS = 160


class ScoredBundle(Config):
    """A bundle with its scores on the test split."""

    bundle: str
    digest: str
    precision: str
    report: Report


class Difference(Config):
    """A text of which two bundles write different ones."""

    text: str
    bundle: str
    other: str


class Comparison(Config):
    """Two bundles beside each other.

    Attributes:
        bundle, other: With their scores; None where one was scored alone.
        entities: Digest of the tagger beside both, whose triples were scored; None without one.
        num_examples: Of the test split.
        num_texts: That both answered: those that were given, or else the test split's where texts were written for its scores.
        agreement: Part of these that both answer alike; None without texts, or where one was scored alone.
        differences: The first of these that they do not, where answers are texts.
    """

    bundle: ScoredBundle
    other: ScoredBundle | None
    entities: str | None
    num_examples: int
    num_texts: int
    agreement: float | None
    differences: tuple[Difference, ...] = ()


class Served(NamedTuple):
    """A bundle, where it lies, and the precision of the model that computes."""

    place: str
    bundle: Bundle
    precision: str


def compare(served: Sequence[Served], data: DataConfig, texts: Sequence[str]) -> Comparison:
    """Scores a bundle, or two and compares them.

    Args:
        served: One or two bundles, both beside the same tagger or none.
        data: Whose test split counts.
        texts: Which both answer; of inputs of several texts as the log of decisions keeps them.

    Raises:
        BundleError: A bundle cannot be served, or the two are for different tasks.
        DataError: There is no test split, or it is for another task.
    """
    first, last = served[0].bundle, served[-1].bundle
    if first.task.kind != last.task.kind:
        raise BundleError(
            f"{served[0].place} is an agent for {first.task.kind} and {served[-1].place} for {last.task.kind}",
            allowed="two agents for the same task",
            remedy="give another bundle",
        )
    engines = [open_engine(one.bundle, precision=one.precision) for one in served]
    examples = _test_split(data, first)
    scored = [_score(engine, one.place, examples) for engine, one in zip(engines, served, strict=True)]
    inputs = [first.task.as_input(list(first.task.fields_of(text).values())) for text in texts]
    answers = [engine.labels(inputs) for engine in engines]
    if not texts and scored[0].written:
        inputs, answers = [first.task.text_of(example) for example in examples], [each.written for each in scored]
    different = [row for row in zip(inputs, answers[0], answers[-1], strict=True) if row[1] != row[2]]
    shown = different[:_SHOWN] if first.task.writes else []
    return Comparison(
        bundle=scored[0].bundle,
        other=scored[1].bundle if len(scored) > 1 else None,
        entities=first.tagger.digest if first.tagger else None,
        num_examples=len(examples),
        num_texts=len(inputs),
        agreement=(len(inputs) - len(different)) / len(inputs) if inputs and len(scored) > 1 else None,
        differences=tuple(Difference(text=text, bundle=one, other=two) for text, one, two in shown),
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
    return "\n".join([head, "", *markdown.table([["bundle", "sha256", "precision", "score"], *rows]), *_alike(found)])


def _alike(found: Comparison) -> list[str]:
    """How many texts were answered alike, and some that were not."""
    if found.agreement is None or found.other is None:
        return []
    lines = ["", f"{found.agreement:.1%} of {found.num_texts:,} texts answered alike"]
    for each in found.differences:
        same = sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(each.bundle, each.other, strict=False)))
        lines += ["", f"    text: {_excerpt(each.text, 0)}"]
        for scored, written in ((found.bundle, each.bundle), (found.other, each.other)):
            lines.append(f"    {scored.bundle} ({scored.precision}): {_excerpt(written, same)}")
    return lines


def _excerpt(text: str, place: int) -> str:
    """A text on one line, or where it is long what stands around a place."""
    first = max(0, place - _SHOWN_CHARACTERS // 4) if len(text) > _SHOWN_CHARACTERS else 0
    line = " ".join(text[first:].split())
    return f"{'…' if first else ''}{markdown.clip(line, _SHOWN_CHARACTERS)}"


def _test_split(data: DataConfig, bundle: Bundle) -> list[Any]:
    sources = open_sources(data, bundle.task.kind)
    examples = read_examples(data, bundle.task, sources["test"])[0] if "test" in sources else None
    check_split(data, "test", examples)
    assert examples
    return examples


class _Scored(NamedTuple):
    """A scored bundle, and what it wrote for each example if it did."""

    bundle: ScoredBundle
    written: list[str]


def _score(engine: Engine | WritingEngine, place: str, examples: Sequence[Any]) -> _Scored:
    bundle, written = engine.bundle, list[str]()
    if isinstance(engine, WritingEngine):
        report, written = score_writer(engine, examples, place)
    elif isinstance(engine, TripleEngine):
        gold = gold_texts(engine.task, examples)
        report = score_triples(gold, [triples_of(answer) for answer in engine.predict([one.text for one in gold])])
    else:
        report = evaluate(bundle.task, bundle.encoder, examples, engine.model)
    scored = ScoredBundle(bundle=place, digest=bundle.digest, precision=engine.variant.precision, report=report)
    return _Scored(scored, written)
