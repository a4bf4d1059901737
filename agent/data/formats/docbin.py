"""spaCy's DocBin (.spacy): documents with entities or classes, read by spaCy itself, which is installed for it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from agent.data.formats.base import Findings, Record
from agent.data.lines import Part, open_file
from agent.data.normalisation.class_keys import with_classes
from agent.errors import DataError

SUFFIX = ".spacy"


def read_docbin(part: Part, findings: Findings) -> Iterator[Record]:
    """Yields the documents with their `ents` as spans, and the classes of those with `cats`.

    Raises:
        DataError: spaCy is not installed, or the file is no DocBin.
    """
    try:
        import spacy
        from spacy.tokens import DocBin
    except ImportError:
        raise DataError(
            f"{part.file} is a DocBin, which only spaCy can read, and the package 'spacy' is not installed",
            remedy="pip install spacy, or pip install 'bert-agent[formats]'",
        ) from None
    with open_file(part.file) as stream:
        content = stream.read()
    try:
        documents = list(DocBin().from_bytes(content).get_docs(spacy.blank("xx").vocab))
    except Exception as error:  # noqa: BLE001  # zlib, msgpack, numpy and spaCy raise kinds of their own
        raise DataError(
            f"{part.file} is no DocBin ({type(error).__name__}: {' '.join(str(error).split())[:100]})",
            allowed="what DocBin.to_disk writes",
            remedy="write the file again",
        ) from None
    for number, document in enumerate(documents):
        yield _record(document, findings), f"{part.file}[{number}]"


def _record(document: Any, findings: Findings) -> dict[str, Any]:
    if groups := {name for name, spans in document.spans.items() if spans}:
        findings.remarks[
            f"documents with groups of spans ({', '.join(sorted(groups))}), which are not read: only entities are"
        ] += 1
    if not document.has_annotation("ENT_IOB") and not document.cats:
        findings.remarks["documents do not say whether they have entities: they count as without"] += 1
    spans = [
        {"start": entity.start_char, "end": entity.end_char, "label": entity.label_, "text": entity.text}
        for entity in document.ents
    ]
    classes = [name for name, value in document.cats.items() if value >= 0.5]
    return {"text": document.text, "spans": spans} | (with_classes(classes) if document.cats else {})
