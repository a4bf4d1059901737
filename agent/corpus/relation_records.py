"""Sentences about who works, lives and is based where, with two of their entities marked and the relation between them."""

from __future__ import annotations

import random
import re
from collections.abc import Iterator, Sequence
from itertools import permutations

from agent.corpus import Sentence

OTHER = "Other"
_PLACE = re.compile(r"\{(\w)\}")
# What a pair of related entities makes, and of which kind the one is that a relation goes out from: founders found, employees are employed.
_RELATIONS = {
    ("PER", "ORG"): ("Employment", "PER"), ("PER", "LOC"): ("Residence", "PER"),
    ("ORG", "LOC"): ("Location", "ORG"), ("ORG", "PER"): ("Foundation", "PER"),
}  # fmt: skip
# p, q: persons; o, u: organisations; l, m: places. Behind each form the pairs that are related, all others are not.
_FORMS = (
    ("{p} works for {o} and rarely travels to {l}.", "po"),
    ("{o} hired {p} last spring, shortly before {q} called.", "po"),
    ("{p}, who joined {o} as an engineer, wrote to {u}.", "po"),
    ("After nine years at {o}, {p} knows everybody from {l}.", "po"),
    ("{p} lives in {l} and met {q} at the opera.", "pl"),
    ("{p} moved to {l} with a dog, although {o} had written.", "pl"),
    ("From her flat in {l}, {p} can see the sign of {o}.", "pl"),
    ("{p} has a house in {l}, not in {m}.", "pl"),
    ("{o} has its head office in {l}; {p} has never been there.", "ol"),
    ("The {l} company {o} wrote to {p}.", "ol"),
    ("{o}, based in {l}, buys everything from {u}.", "ol"),
    ("{u} visited the factory of {o} in {l}.", "ol"),
    ("{p} founded {o} in a garage, long before {u} came.", "op"),
    ("{o} was started by {p} and soon copied by {q}.", "op"),
    ("The founder of {o}, {p}, was seen in {l}.", "op"),
    ("{p} works for {o}, lives in {l} and has never heard of {u}.", "po pl"),
    ("{o}, which {p} founded, is based in {l}.", "op ol"),
    ("{p} and {q} spoke about {o} on the train to {l}.", ""),
    ("{o} sued {u}, and {p} read about it in {l}.", ""),
    ("{p} sent a parcel from {l} to {q} in {m}.", "qm"),
)
_LABELS = {"p": "PER", "q": "PER", "o": "ORG", "u": "ORG", "l": "LOC", "m": "LOC"}


def relation_records(sentences: Sequence[Sentence]) -> Iterator[dict[str, object]]:
    """As many records as sentences, with the names of these; a third of them are of pairs without a relation.

    Either entity may come first in the text, so a label's direction says which of `e1` and `e2` is which.
    """
    rng = random.Random(f"agent.corpus.relations:{len(sentences)}")
    names: dict[str, list[str]] = {label: [] for label in _LABELS.values()}
    for sentence in sentences:
        for start, end, label in sentence.spans:
            names[label].append(sentence.text[start:end])
    if not all(len(set(found)) > 1 for found in names.values()):
        return
    for _ in sentences:
        form, related = rng.choice(_FORMS)
        yield _record(form, related.split(), names, rng)


def _record(form: str, related: list[str], names: dict[str, list[str]], rng: random.Random) -> dict[str, object]:
    places = _PLACE.findall(form)
    unrelated = [pair for pair in map("".join, permutations(places, 2)) if not {pair, pair[::-1]} & set(related)]
    chosen = rng.choice(related) if related and rng.random() < 0.75 else rng.choice(unrelated)
    first, second = list(chosen) if rng.random() < 0.5 else list(chosen[::-1])
    words = dict(zip(places, _draw(places, names, rng), strict=True))
    words[first], words[second] = f"<e1>{words[first]}</e1>", f"<e2>{words[second]}</e2>"
    return {"text": _PLACE.sub(lambda place: words[place[1]], form), "label": _label(chosen, first, related)}


def _label(chosen: str, first: str, related: list[str]) -> str:
    if chosen not in related:
        return OTHER
    name, source = _RELATIONS[_LABELS[chosen[0]], _LABELS[chosen[1]]]
    return f"{name}(e1,e2)" if _LABELS[first] == source else f"{name}(e2,e1)"


def _draw(places: Sequence[str], names: dict[str, list[str]], rng: random.Random) -> list[str]:
    """A name for each place, none of them twice."""
    found: list[str] = []
    for place in places:
        name = rng.choice(names[_LABELS[place]])
        while name in found:
            name = rng.choice(names[_LABELS[place]])
        found.append(name)
    return found
