"""The demonstration corpus as records for each task: entities, genres, sets of what a sentence mentions."""

from collections.abc import Callable, Iterator, Mapping, Sequence

from agent.corpus import Sentence

Record = dict[str, object]

_MENTIONED = {"PER": "person", "ORG": "organisation", "LOC": "place"}


def spans_record(sentence: Sentence) -> Record:
    """The record of a sentence for entity tagging."""
    spans = [{"start": start, "end": end, "label": label} for start, end, label in sentence.spans]
    return {"text": sentence.text, "spans": spans}


def genre_record(sentence: Sentence) -> Record:
    """The record of a sentence for classification by genre."""
    return {"text": sentence.text, "label": sentence.genre}


def mentions_record(sentence: Sentence) -> Record:
    """The record of a sentence for sets of labels: what it mentions, and whether it asks; of many it is nothing."""
    labels = {_MENTIONED[label] for _, _, label in sentence.spans} | ({"question"} if "?" in sentence.text else set())
    return {"text": sentence.text, "labels": sorted(labels)}


def _each(record: Callable[[Sentence], Record]) -> Callable[[Sequence[Sentence]], Iterator[Record]]:
    return lambda sentences: map(record, sentences)


RECORDS: Mapping[str, Callable[[Sequence[Sentence]], Iterator[Record]]] = {
    "token_classification": _each(spans_record),
    "text_classification": _each(genre_record),
    "multi_label_classification": _each(mentions_record),
}
"""Records of the sentences of a split, for each kind of task."""
