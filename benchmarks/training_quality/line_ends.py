"""What a single line end should do to an entity: exact F1 by `segmentation.line_end`, on real documents laid out in lines.

    python benchmarks/training_quality/line_ends.py bundle=DIR data=DIR/ner_conll2003 [split=dev]

Documents are the sentences of a CoNLL file between the starts that its `.docstarts.txt` names, as natural text. Each is laid out four ways: wrapped at
72 characters, as e-mails and plain text are; a sentence a line; its entities alone, one a line, as lists and tables are; and not at all. The model is asked
once for each layout, and its answer decoded with each setting. Writes benchmarks/results/line_ends.json.
"""

from __future__ import annotations

import json
import sys
import textwrap
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parents[2]
sys.path[0] = str(ROOT)

from pydantic import Field  # noqa: E402

from agent import markdown  # noqa: E402
from agent.batching import Batch  # noqa: E402
from agent.bundle import Bundle  # noqa: E402
from agent.config import cli  # noqa: E402
from agent.config.base import Config  # noqa: E402
from agent.data.natural_text import joiner  # noqa: E402
from agent.encoding import Float32  # noqa: E402
from agent.evaluation import Forward, run_documents  # noqa: E402
from agent.files import write_file  # noqa: E402
from agent.segmentation import LineEnd, word_edges  # noqa: E402
from agent.spans import Span, decode_tags  # noqa: E402
from agent.tasks.tagged_text import place_words  # noqa: E402
from benchmarks.common.machine import machine  # noqa: E402

RESULT = ROOT / "benchmarks/results/line_ends.json"
COLUMNS = 72
Text = tuple[str, frozenset[Span]]
SETTINGS: tuple[LineEnd, ...] = ("joins", "ends", "wrapped")


class LineEndsConfig(Config):
    """What is measured."""

    bundle: str = Field(description="tagger with an ONNX graph, trained on the data's train split")
    data: str = Field(description="directory with SPLIT.conll and SPLIT.docstarts.txt")
    split: str = Field("dev", description="the split; dev, since a default is chosen by it")
    output: str = Field(str(RESULT), description="file for the result")


def main(config: LineEndsConfig) -> None:
    """Measures every layout, writes the result and prints a table."""
    documents = read_documents(Path(config.data), config.split)
    bundle = Bundle.load(config.bundle)
    rows: dict[str, dict[str, float]] = {}
    for name, layout in LAYOUTS.items():
        rows[name] = score(bundle, [text for document in documents for text in layout(document)])
    result = {"machine": machine(), "documents": len(documents), "split": config.split, "layouts": rows}
    write_file(Path(config.output), json.dumps(result, indent=1) + "\n")
    table = [("layout", *SETTINGS), *((name, *(f"{row[way]:.4f}" for way in SETTINGS)) for name, row in rows.items())]
    print("\n".join(markdown.table(table)))


def read_documents(directory: Path, split: str) -> list[list[Text]]:
    """The sentences of each document as natural text with its entities."""
    blocks = (directory / f"{split}.conll").read_text(encoding="utf-8").strip().split("\n\n")
    starts = [int(line) for line in (directory / f"{split}.docstarts.txt").read_text().split()]
    join = joiner("natural", "en")
    return [
        [_sentence(block, join) for block in blocks[first:last]] for first, last in pairwise([*starts, len(blocks)])
    ]


def _sentence(block: str, join: Callable[[Sequence[str]], str]) -> Text:
    lines = [line.split() for line in block.splitlines()]
    words = [line[0] for line in lines]
    text = join(words)
    edges = place_words(words, text)
    if edges is None:  # the detokenizer has changed a character
        text, edges = " ".join(words), word_edges(words)
    spans = decode_tags([line[-1] for line in lines])
    return text, frozenset(Span(edges[first][0], edges[last - 1][1], label) for first, last, label in spans)


def joined(sentences: Iterable[Text], by: str) -> Text:
    """One text of several, with their entities where they then stand."""
    text, spans = "", set()
    for sentence, entities in sentences:
        text += by if text else ""
        spans |= {Span(len(text) + span.start, len(text) + span.end, span.label) for span in entities}
        text += sentence
    return text, frozenset(spans)


def wrapped(sentences: Iterable[Text]) -> Text:
    """Blanks become line ends where a line would be longer than 72 characters; no other character changes."""
    text, spans = joined(sentences, " ")
    lines = textwrap.wrap(text, COLUMNS, break_long_words=False, break_on_hyphens=False)
    assert len("\n".join(lines)) == len(text)
    return "\n".join(lines), spans


def listed(sentences: Iterable[Text]) -> Text:
    """The entities alone, one a line."""
    names = [(text[span.start : span.end], span.label) for text, spans in sentences for span in sorted(spans)]
    return joined([(name, frozenset({Span(0, len(name), label)})) for name, label in names], "\n")


LAYOUTS: dict[str, Callable[[list[Text]], list[Text]]] = {
    "one line": lambda document: [joined(document, " ")],
    f"wrapped at {COLUMNS} characters": lambda document: [wrapped(document)],
    "a sentence a line": lambda document: [joined(document, "\n")],
    "an entity a line": lambda document: [listed(document)],
}


def score(bundle: Bundle, texts: Sequence[Text]) -> dict[str, float]:
    """Exact micro F1 by setting."""
    encoder = bundle.encoder
    documents = encoder.encode_texts([text for text, _ in texts])
    outputs = run_documents(documents, forward_of(bundle), pad_id=encoder.pad_id)
    found: dict[str, float] = {}
    for setting in SETTINGS:
        right = said = 0
        for document, logits, (_, gold) in zip(documents, outputs, texts, strict=True):
            segmentation = document.segmentation.model_copy(update={"line_end": setting})
            answer = bundle.task.predict(replace(document, segmentation=segmentation), logits)
            right += len(gold & set(answer.spans))
            said += len(answer.spans)
        found[setting] = 2 * right / (said + sum(len(gold) for _, gold in texts))
    return found


def forward_of(bundle: Bundle) -> Forward:
    """The bundle's graph in ONNX Runtime."""
    import onnxruntime

    variant = bundle.onnx_variant()
    session = onnxruntime.InferenceSession(bundle.path / variant.file, providers=["CPUExecutionProvider"])

    def forward(batch: Batch) -> Float32:
        return np.asarray(session.run(None, {name: getattr(batch, name) for name in variant.inputs})[0])

    return forward


if __name__ == "__main__":
    sys.exit(cli.run(LineEndsConfig, main, usage=__doc__ or ""))
